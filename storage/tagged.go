package storage

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A tagged document is an artifact of its own with one small layer: what a
// repository says under a tag, and not about an image. It may be put again and
// again; the last one counts.

// maxTagged bounds a document.
const maxTagged = 1 << 20

// PutTagged makes content what tag says, as an artifact of the media type.
func PutTagged(ctx context.Context, repo Repository, tag, mediaType string, content []byte) error {
	if len(content) > maxTagged {
		return fmt.Errorf("tag %s: %d bytes, at most %d", tag, len(content), maxTagged)
	}
	blob := layer(mediaType, content)
	for _, part := range [][]byte{ocispec.DescriptorEmptyJSON.Data, content} {
		if err := pushBytes(ctx, repo, part); err != nil {
			return fmt.Errorf("tag %s: %w", tag, err)
		}
	}
	body, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: mediaType,
		Config: ocispec.DescriptorEmptyJSON, Layers: []ocispec.Descriptor{blob},
	})
	if err != nil {
		return fmt.Errorf("tag %s: %w", tag, err)
	}
	if _, err := repo.PushManifest(ctx, ocispec.MediaTypeImageManifest, body, tag); err != nil {
		return fmt.Errorf("tag %s: %w", tag, err)
	}
	return nil
}

// GetTagged returns what PutTagged put there last. ErrNotFound: there is no such
// tag. Something else under the tag is an error.
func GetTagged(ctx context.Context, repo Repository, tag, mediaType string) ([]byte, error) {
	_, body, err := repo.Manifest(ctx, tag)
	if err != nil {
		return nil, err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, fmt.Errorf("tag %s: %w", tag, err)
	}
	if m.ArtifactType != mediaType || len(m.Layers) != 1 || m.Layers[0].MediaType != mediaType {
		return nil, fmt.Errorf("tag %s: an artifact of type %.100q, want %s with one layer", tag, m.ArtifactType, mediaType)
	}
	if size := m.Layers[0].Size; size < 0 || size > maxTagged {
		return nil, fmt.Errorf("tag %s: a layer of %d bytes, at most %d", tag, size, maxTagged)
	}
	blob, _, err := repo.Blob(ctx, m.Layers[0].Digest.String())
	if err != nil {
		// A tag without its content is not a tag that is not there.
		return nil, fmt.Errorf("tag %s: its layer: %v", tag, err)
	}
	defer blob.Close()
	content, err := io.ReadAll(io.LimitReader(blob, maxTagged+1))
	if err != nil {
		return nil, fmt.Errorf("tag %s: %w", tag, err)
	}
	if int64(len(content)) != m.Layers[0].Size {
		return nil, fmt.Errorf("tag %s: %w: %d bytes of %d", tag, ErrOtherBytes, len(content), m.Layers[0].Size)
	}
	return content, nil
}
