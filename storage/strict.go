package storage

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// CheckManifest refuses a manifest or index that can be read in two ways, or that
// some registries fail at instead of refusing it. encoding/json takes SUBJECT for
// subject, and of two the last; others do not: what is judged by one reading must
// not be stored, listed and copied by another. What passes reads the same
// everywhere, and decodes.
//
// Media types are not looked at, nor whether what is named exists.
func CheckManifest(body []byte) error {
	if !json.Valid(body) {
		err := json.Unmarshal(body, new(json.RawMessage)) // says what is wrong
		return fmt.Errorf("the manifest is not JSON: %w", err)
	}
	// SPEC RFC 8259 §8.1: JSON text exchanged between systems MUST be UTF-8.
	if !utf8.Valid(body) {
		return errors.New("the manifest is not UTF-8")
	}
	if err := manifestForm.check(body); err != nil {
		return err
	}
	// No digest is missing by now, so that there is not much more to this than
	// there was to body.
	var m struct {
		SchemaVersion int                  `json:"schemaVersion"`
		MediaType     string               `json:"mediaType"`
		ArtifactType  string               `json:"artifactType"`
		Config        *ocispec.Descriptor  `json:"config"`
		Layers        []ocispec.Descriptor `json:"layers"`
		Manifests     []ocispec.Descriptor `json:"manifests"`
		Subject       *ocispec.Descriptor  `json:"subject"`
		Annotations   map[string]string    `json:"annotations"`
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return fmt.Errorf("the manifest does not decode: %w", err)
	}
	// SPEC OCI image 1.1, "Image Manifest Property Descriptions": schemaVersion
	// MUST be 2.
	if m.SchemaVersion != 2 {
		return fmt.Errorf("schemaVersion is %d, only 2 is known", m.SchemaVersion)
	}
	return nil
}

// form of an object: the members that somebody looks at.
type form []member

type member struct {
	name  string
	must  bool                     // an object without it is refused
	check func(value []byte) error // nil: any value will do
}

var (
	manifestForm = form{
		{"schemaVersion", true, nil}, {"mediaType", false, nil}, {"artifactType", false, nil},
		{"config", false, orNull(descriptorForm.check)}, {"subject", false, orNull(descriptorForm.check)},
		{"layers", false, orNull(checkDescriptors)}, {"manifests", false, orNull(checkDescriptors)},
		{"annotations", false, orNull(annotationsForm.check)},
	}
	annotationsForm = form{{EvidenceAnnotation, false, nil}}
	descriptorForm  = form{
		{"mediaType", false, nil}, {"digest", true, checkDigest}, {"size", false, checkSize}, {"urls", false, nil},
		{"annotations", false, nil}, {"data", false, nil}, {"platform", false, nil}, {"artifactType", false, nil},
	}
)

// check refuses members that are there twice or in other letters, and those that
// are missing or not as they should be.
func (f form) check(object []byte) error {
	seen := 0 // a bit for each
	err := Members(object, func(name, value []byte) error {
		for i, m := range f {
			switch {
			case !strings.EqualFold(m.name, string(name)):
				continue
			case m.name != string(name):
				return fmt.Errorf("%.100q is there, which some take for %q", name, m.name)
			case seen&(1<<i) != 0:
				return fmt.Errorf("%q is there twice", m.name)
			}
			seen |= 1 << i
			if m.check == nil {
				return nil
			}
			if err := m.check(value); err != nil {
				return fmt.Errorf("%s: %w", m.name, err)
			}
			return nil
		}
		return nil
	})
	for i, m := range f {
		if err == nil && m.must && seen&(1<<i) == 0 {
			err = fmt.Errorf("there is no %s", m.name)
		}
	}
	return err
}

func orNull(check func([]byte) error) func([]byte) error {
	return func(value []byte) error {
		if string(value) == "null" {
			return nil
		}
		return check(value)
	}
}

func checkDescriptors(array []byte) error {
	n := 0
	return Elements(array, func(value []byte) error {
		if err := descriptorForm.check(value); err != nil {
			return fmt.Errorf("%d: %w", n, err)
		}
		n++
		return nil
	})
}

func checkDigest(value []byte) error {
	text, ok := Text(value)
	if !ok {
		return fmt.Errorf("%.100s is not a string", value)
	}
	if _, err := digest.Parse(text); err != nil {
		return fmt.Errorf("%.100q: %w", text, err)
	}
	return nil
}

func checkSize(value []byte) error {
	n, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil || n < 0 {
		return fmt.Errorf("%.100s is no size", value)
	}
	return nil
}
