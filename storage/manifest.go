package storage

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// annotationPrefix of the facts for filtering; their order in a manifest is
// JSON's, by name.
const annotationPrefix = "io.github.scittd."

// maxAnnotation keeps a listing of a thousand referrers within one page, and a
// value within what registries put into headers and indexes.
const maxAnnotation = 256

// unknownType stands for evidence whose type is missing, malformed, or would
// make its manifest something else.
const unknownType = "application/octet-stream"

// SPEC RFC 6838 §4.2: restricted names, at most 127 characters each.
var mediaTypeForm = regexp.MustCompile(`^[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}$`)

// artifactType is the evidence's media type in lower case, without parameters
// (some registries refuse those). Two kinds of type are replaced, since the
// publisher chooses it: ours, because a manifest of that type would be a
// submission or pass for a transparency artifact; and those of manifests,
// because tools that copy images would look for a manifest behind the blob.
func artifactType(mediaType string) string {
	bare, _, err := mime.ParseMediaType(mediaType)
	switch {
	case errors.Is(err, mime.ErrInvalidMediaParameter): // the type before it is sound
	case err != nil:
		return unknownType
	}
	if !mediaTypeForm.MatchString(bare) {
		return unknownType
	}
	switch bare {
	case StatementType, TransparencyType:
		return "application/cose"
	case ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, ocispec.MediaTypeEmptyJSON,
		"application/vnd.oci.artifact.manifest.v1+json",
		"application/vnd.docker.distribution.manifest.v1+json", "application/vnd.docker.distribution.manifest.v1+prettyjws",
		"application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json":
		return unknownType
	}
	return bare
}

// evidenceManifest is derived from digest (and so size), type and subject alone:
// two claims about the same evidence share it.
func evidenceManifest(p Profile, subject, evidence ocispec.Descriptor) []byte {
	return artifact(p, subject, evidence.MediaType, map[string]string{
		ocispec.AnnotationCreated:     time.Unix(0, 0).UTC().Format(time.RFC3339),
		annotationPrefix + "evidence": evidence.Digest.String(),
	}, evidence)
}

// manifest of the transparency artifact.
func (t Transparency) manifest(p Profile, subject ocispec.Descriptor) ([]byte, error) {
	created, err := time.Parse(time.RFC3339, t.Created)
	if err != nil {
		return nil, fmt.Errorf("registration time %q: want RFC 3339", t.Created)
	}
	annotations := map[string]string{ocispec.AnnotationCreated: created.UTC().Format(time.RFC3339)}
	for name, value := range map[string]string{
		"entry": t.Entry, "issuer": t.Issuer, "media-type": t.MediaType,
		"predicate-type": t.PredicateType, "evidence": t.Evidence, "log": t.Log,
	} {
		if clean(value) {
			annotations[annotationPrefix+name] = value
		}
	}
	return artifact(p, subject, TransparencyType, annotations,
		layer(StatementType, t.Transparent), layer(TransparencyType, t.Receipt)), nil
}

// clean values become annotations. Others are left out, not cut: a cut issuer
// could be another's name.
func clean(value string) bool {
	return value != "" && len(value) <= maxAnnotation && utf8.ValidString(value) && !strings.ContainsFunc(value, unicode.IsControl)
}

// artifact writes an artifact manifest: the same for everybody who writes it for
// a registry of that profile. A subject without digest is none.
//
// SPEC OCI image 1.1, guidelines for artifact usage: empty config, artifactType,
// at least one layer.
func artifact(p Profile, subject ocispec.Descriptor, artifactType string, annotations map[string]string, layers ...ocispec.Descriptor) []byte {
	p.bound(annotations)
	m := ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: artifactType,
		Config:       p.config(),
		Layers:       layers,
		Annotations:  annotations,
	}
	if subject.Digest != "" {
		m.Subject = &subject
	}
	body, err := json.Marshal(m)
	if err != nil {
		panic(err) // strings and numbers only: cannot fail
	}
	return body
}

func layer(mediaType string, content []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
}

// subjectDescriptor describes the image whose manifest is body. The manifest's
// own media type wins over the header's, which proxies rewrite.
func subjectDescriptor(d Descriptor, body []byte) (ocispec.Descriptor, error) {
	dig, err := digest.Parse(d.Digest)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if got := dig.Algorithm().FromBytes(body); got != dig {
		return ocispec.Descriptor{}, fmt.Errorf("%w: %s as %s", ErrOtherBytes, got, dig)
	}
	var m struct {
		MediaType string `json:"mediaType"`
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("the image's manifest: %w", err)
	}
	if m.MediaType == "" {
		m.MediaType = d.MediaType
	}
	return ocispec.Descriptor{MediaType: m.MediaType, Digest: dig, Size: int64(len(body))}, nil
}
