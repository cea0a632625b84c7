package interop

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The evidence that clients attach.
const (
	sbomType = "application/spdx+json"
	sbom     = `{"spdxVersion": "SPDX-2.3"}`
)

// cargo is what one client pushes: an image of three layers and an index of two
// images, each in an OCI layout where it is called v1, as every client can read
// them.
type cargo struct {
	image, index             string // folders
	imageDigest, indexDigest string
	config                   string // digest
	layers                   []string
}

func newCargo(dir string) (*cargo, error) {
	image, err := ociImage(3, "amd64")
	if err != nil {
		return nil, err
	}
	var instances v1.ImageIndex = empty.Index
	for _, architecture := range []string{"amd64", "arm64"} {
		instance, err := ociImage(1, architecture)
		if err != nil {
			return nil, err
		}
		instances = mutate.AppendManifests(instances, mutate.IndexAddendum{
			Add: instance, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: architecture}},
		})
	}
	c := &cargo{image: filepath.Join(dir, "image"), index: filepath.Join(dir, "index")}
	called := layout.WithAnnotations(map[string]string{ocispec.AnnotationRefName: "v1"})
	at, err := layout.Write(c.image, empty.Index)
	if err != nil {
		return nil, err
	}
	if err := at.AppendImage(image, called); err != nil {
		return nil, err
	}
	if at, err = layout.Write(c.index, empty.Index); err != nil {
		return nil, err
	}
	if err := at.AppendIndex(instances, called); err != nil {
		return nil, err
	}
	manifest, err := image.Manifest()
	if err != nil {
		return nil, err
	}
	c.config = manifest.Config.Digest.String()
	for _, l := range manifest.Layers {
		c.layers = append(c.layers, l.Digest.String())
	}
	if c.imageDigest, err = held(c.image); err != nil {
		return nil, err
	}
	if c.indexDigest, err = held(c.index); err != nil {
		return nil, err
	}
	return c, os.WriteFile(filepath.Join(dir, "sbom.json"), []byte(sbom), 0o600)
}

func ociImage(layers int, architecture string) (v1.Image, error) {
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	var err error
	for range layers {
		layer, layerErr := random.Layer(64<<10, types.OCILayer)
		if layerErr != nil {
			return nil, layerErr
		}
		if image, err = mutate.AppendLayers(image, layer); err != nil {
			return nil, err
		}
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", architecture
	return mutate.ConfigFile(image, file)
}

// held is the digest of the one manifest that an OCI layout is about.
func held(dir string) (string, error) {
	text, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		return "", err
	}
	var index ocispec.Index
	if err := json.Unmarshal(text, &index); err != nil {
		return "", err
	}
	if len(index.Manifests) != 1 {
		return "", fmt.Errorf("%s holds %d manifests", dir, len(index.Manifests))
	}
	return index.Manifests[0].Digest.String(), nil
}

// blob is a file of an OCI layout.
func blob(dir, digest string) ([]byte, error) {
	return os.ReadFile(filepath.Join(dir, "blobs", digest[:6], digest[7:]))
}
