package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

// image pushes an OCI image of one layer that holds the binary, and prints the
// image's digest. Same binary, same image.
func image(ctx context.Context, binary, ref string) error {
	repo, err := open(ref)
	if err != nil {
		return err
	}
	layer, err := layerOf(binary)
	if err != nil {
		return err
	}
	config, err := json.Marshal(ocispec.Image{
		Platform: ocispec.Platform{Architecture: "amd64", OS: "linux"},
		Config:   ocispec.ImageConfig{Entrypoint: []string{"/" + filepath.Base(binary)}},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer)}},
	})
	if err != nil {
		return err
	}
	manifest := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    content.NewDescriptorFromBytes(ocispec.MediaTypeImageConfig, config),
		Layers:    []ocispec.Descriptor{content.NewDescriptorFromBytes(ocispec.MediaTypeImageLayer, layer)},
	}
	body, err := json.Marshal(manifest)
	if err != nil {
		return err
	}
	for _, blob := range []struct {
		desc ocispec.Descriptor
		data []byte
	}{{manifest.Layers[0], layer}, {manifest.Config, config}} {
		err := repo.Blobs().Push(ctx, blob.desc, bytes.NewReader(blob.data))
		if err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
			return err
		}
	}
	desc := content.NewDescriptorFromBytes(ocispec.MediaTypeImageManifest, body)
	if err := repo.PushReference(ctx, desc, bytes.NewReader(body), repo.Reference.Reference); err != nil {
		return err
	}
	fmt.Println(desc.Digest)
	return nil
}

func layerOf(binary string) ([]byte, error) {
	data, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := w.WriteHeader(&tar.Header{Name: filepath.Base(binary), Mode: 0o755, Size: int64(len(data)), Format: tar.FormatUSTAR}); err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	return layer.Bytes(), w.Close()
}

// open opens the repository of ref with the credentials of the docker config.
func open(ref string) (*remote.Repository, error) {
	repo, err := remote.NewRepository(ref)
	if err != nil {
		return nil, err
	}
	host := repo.Reference.Registry
	repo.PlainHTTP = strings.HasPrefix(host, "localhost:") || strings.HasPrefix(host, "127.0.0.1:")
	store, err := credentials.NewStoreFromDocker(credentials.StoreOptions{})
	if err != nil {
		return nil, err
	}
	repo.Client = &auth.Client{Credential: credentials.Credential(store)}
	return repo, nil
}

// resolve opens the repository of ref and finds the image in it.
func resolve(ctx context.Context, ref string) (*remote.Repository, ocispec.Descriptor, error) {
	repo, err := open(ref)
	if err != nil {
		return nil, ocispec.Descriptor{}, err
	}
	image, err := repo.Resolve(ctx, repo.Reference.Reference)
	return repo, image, err
}

// referrers prints the image and what refers to it.
func referrers(ctx context.Context, ref string) error {
	repo, subject, err := resolve(ctx, ref)
	if err != nil {
		return err
	}
	fmt.Printf("%s/%s@%s\n", repo.Reference.Registry, repo.Reference.Repository, subject.Digest)
	return repo.Referrers(ctx, subject, "", func(page []ocispec.Descriptor) error {
		for _, d := range page {
			fmt.Printf("|-- %-46s %s", d.ArtifactType, d.Digest.Encoded()[:12])
			if issuer := d.Annotations["io.github.scittd.issuer"]; issuer != "" {
				fmt.Printf("  %s claims %s", issuer, claimed(d.Annotations))
			}
			fmt.Println()
		}
		return nil
	})
}

func claimed(annotations map[string]string) string {
	if p := annotations["io.github.scittd.predicate-type"]; p != "" {
		return p
	}
	return annotations["io.github.scittd.media-type"]
}

// purge deletes the image, and the SBOMs that refer to it with their content,
// as a retention rule would.
func purge(ctx context.Context, ref string) error {
	repo, subject, err := resolve(ctx, ref)
	if err != nil {
		return err
	}
	doomed := []ocispec.Descriptor{subject}
	err = repo.Referrers(ctx, subject, "application/vnd.cyclonedx+json", func(page []ocispec.Descriptor) error {
		doomed = append(doomed, page...)
		return nil
	})
	if err != nil {
		return err
	}
	for _, d := range doomed {
		layers, err := layersOf(ctx, repo, d)
		if err != nil {
			return err
		}
		if err := repo.Delete(ctx, d); err != nil {
			return err
		}
		fmt.Printf("deleted manifest %s  %s\n", d.Digest.Encoded()[:12], d.MediaType)
		for _, layer := range layers {
			if err := repo.Blobs().Delete(ctx, layer); err != nil && !errors.Is(err, errdef.ErrNotFound) {
				return err
			}
			fmt.Printf("deleted blob     %s  %s\n", layer.Digest.Encoded()[:12], layer.MediaType)
		}
	}
	return nil
}

func layersOf(ctx context.Context, repo *remote.Repository, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	body, err := content.FetchAll(ctx, repo, d)
	if err != nil {
		return nil, err
	}
	var manifest ocispec.Manifest
	err = json.Unmarshal(body, &manifest)
	return manifest.Layers, err
}
