package embedded

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/scittd/scittd/storage"
)

// content is what the registry reads in a manifest.
type content struct {
	schemaVersion int64
	mediaType     string
	artifactType  string
	annotations   []byte // an object of strings, "null" without
	subject       digest // "" without
	config        *descriptor
	layers        []descriptor // nil without
	manifests     []digest     // that an index lists; nil without

	blobs []string // that must be there; not nil, which json_each would take for one
}

type descriptor struct {
	mediaType string
	digest    digest
	elsewhere bool // it names URLs, where layers live that may not be distributed
}

// maxBlobs bounds the config and layers of a manifest: each is looked up and
// becomes a row while every other push waits.
const maxBlobs = 8192

// read fills in a valid JSON object.
func (c *content) read(object []byte) error {
	seen := map[string]bool{}
	return storage.Members(object, func(name, value []byte) (err error) {
		field := string(name)
		switch field {
		case "schemaVersion", "mediaType", "artifactType", "config", "layers", "manifests", "subject", "annotations":
		default:
			return nil
		}
		// Of a name that stands there twice, one client reads the first and
		// another the last.
		if seen[field] {
			return fmt.Errorf("%s stands there twice", field)
		}
		seen[field] = true
		if string(value) == "null" {
			return nil
		}
		switch field {
		case "schemaVersion":
			c.schemaVersion, err = integer(value)
		case "mediaType":
			c.mediaType, err = text(value)
		case "artifactType":
			c.artifactType, err = text(value)
		case "annotations":
			c.annotations, err = annotations(value)
		case "config":
			c.config = &descriptor{}
			err = c.config.read(value)
		case "layers":
			c.layers = []descriptor{}
			err = storage.Elements(value, func(element []byte) error {
				var d descriptor
				if err := d.read(element); err != nil {
					return fmt.Errorf("%d: %w", len(c.layers), err)
				}
				if c.layers = append(c.layers, d); len(c.layers) >= maxBlobs {
					return fmt.Errorf("a manifest has less than %d layers", maxBlobs)
				}
				return nil
			})
		case "manifests":
			c.manifests, err = listed(value)
		case "subject":
			var d descriptor
			err = d.read(value)
			c.subject = d.digest
		}
		if err != nil {
			return fmt.Errorf("%s: %w", field, err)
		}
		return nil
	})
}

// listed are the digests of an index's manifests.
func listed(array []byte) ([]digest, error) {
	digests := []digest{}
	err := storage.Elements(array, func(element []byte) error {
		var d descriptor
		if err := d.read(element); err != nil {
			return fmt.Errorf("%d: %w", len(digests), err)
		}
		digests = append(digests, d.digest)
		return nil
	})
	return digests, err
}

func annotations(object []byte) ([]byte, error) {
	err := storage.Members(object, func(name, value []byte) error {
		if value[0] != '"' {
			return fmt.Errorf("%s is not a string", start(value))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var compact bytes.Buffer
	err = json.Compact(&compact, object)
	return compact.Bytes(), err
}

// read fills in a valid JSON object. Its digest is checked.
func (d *descriptor) read(object []byte) error {
	found := false
	err := storage.Members(object, func(name, value []byte) (err error) {
		switch string(name) {
		case "mediaType":
			if string(value) != "null" {
				d.mediaType, err = text(value)
			}
		case "digest":
			if found {
				return errors.New("two digests")
			}
			found = true
			var s string
			if s, err = text(value); err == nil {
				d.digest, err = parseDigest(s)
			}
		case "size":
			var size int64
			if size, err = integer(value); err == nil && size < 0 {
				err = fmt.Errorf("size %d", size)
			}
		case "urls":
			_ = storage.Elements(value, func([]byte) error {
				d.elsewhere = true
				return nil
			})
		}
		return err
	})
	if err == nil && !found {
		err = errors.New("a descriptor without digest")
	}
	return err
}

// parseManifest reads a manifest that was announced as mediaType.
func parseManifest(mediaType string, body []byte) (*content, error) {
	if len(body) > MaxManifest {
		return nil, manifestTooLarge()
	}
	if !json.Valid(body) {
		err := json.Unmarshal(body, new(json.RawMessage)) // says what is wrong
		return nil, manifestInvalid("the manifest is not JSON: %v", err)
	}
	// SPEC RFC 8259 §8.1: JSON text exchanged between systems MUST be UTF-8.
	if !utf8.Valid(body) {
		return nil, manifestInvalid("the manifest is not UTF-8")
	}
	c := content{annotations: []byte("null"), blobs: []string{}}
	if err := c.read(body); err != nil {
		return nil, manifestInvalid("%v", err)
	}
	if c.schemaVersion != 2 {
		return nil, manifestInvalid("schemaVersion is %d, only 2 is known", c.schemaVersion)
	}
	// SPEC distribution-spec 1.1, "Pushing Manifests": Content-Type SHOULD be,
	// and if the manifest has a mediaType MUST equal, that mediaType.
	if c.mediaType != "" && c.mediaType != mediaType {
		return nil, manifestInvalid("Content-Type is %q, the manifest's mediaType %q", clip(mediaType), clip(c.mediaType))
	}
	switch mediaType {
	case ociManifest, dockerManifest:
		return &c, c.checkImage()
	case ociIndex, dockerList:
		return &c, c.checkIndex()
	default:
		return nil, manifestInvalid("Content-Type is %q; this registry stores %s, %s, %s and %s",
			clip(mediaType), ociManifest, ociIndex, dockerManifest, dockerList)
	}
}

func (c *content) checkImage() error {
	if c.config == nil {
		return manifestInvalid("the manifest has no config")
	}
	if c.manifests != nil {
		return manifestInvalid("the manifest is image and index at once")
	}
	// SPEC distribution-spec 1.1, "Listing Referrers": an absent artifactType
	// MUST be set to the config descriptor's mediaType.
	if c.artifactType == "" {
		c.artifactType = c.config.mediaType
	}
	for _, d := range append([]descriptor{*c.config}, c.layers...) {
		if !d.elsewhere {
			c.blobs = append(c.blobs, string(d.digest))
		}
	}
	slices.Sort(c.blobs)
	c.blobs = slices.Compact(c.blobs)
	return nil
}

// checkIndex does not ask for the listed manifests: a promoted subset of an
// image's platforms is an index with holes.
func (c *content) checkIndex() error {
	if c.config != nil || c.layers != nil {
		return manifestInvalid("the manifest is image and index at once")
	}
	return nil
}
