package storage

import (
	"encoding/json"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// indexTypes are the media types of manifests that list others.
var indexTypes = []string{ocispec.MediaTypeImageIndex, "application/vnd.docker.distribution.manifest.list.v2+json"}

// IsIndexType says whether a Content-Type is that of an image index.
func IsIndexType(mediaType string) bool { return slices.Contains(indexTypes, mediaType) }

// Listed are the digests of the manifests that an image index lists, without
// repeats and in its order; none when body is no image index. Entries with an
// artifactType are about an image and no instances of it, so that a list of
// referrers lists nothing. A nested index counts as one manifest: what it lists
// is its own, and is read when somebody reads it, so that nothing here can go
// round in circles.
func Listed(body []byte) []string {
	var index struct {
		MediaType string          `json:"mediaType"`
		Config    json.RawMessage `json:"config"`
		Layers    json.RawMessage `json:"layers"`
		Manifests []struct {
			Digest       digest.Digest `json:"digest"`
			ArtifactType string        `json:"artifactType"`
		} `json:"manifests"`
	}
	if json.Unmarshal(body, &index) != nil || index.Config != nil || index.Layers != nil ||
		index.MediaType != "" && !IsIndexType(index.MediaType) {
		return nil
	}
	var all []string
	seen := map[digest.Digest]bool{}
	for _, m := range index.Manifests {
		if m.ArtifactType != "" || seen[m.Digest] || m.Digest.Validate() != nil {
			continue
		}
		seen[m.Digest] = true
		all = append(all, m.Digest.String())
	}
	return all
}
