package embedded_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/errdef"
	orasremote "oras.land/oras-go/v2/registry/remote"
)

func (s *server) host() string { return strings.TrimPrefix(s.url, "http://") }

func TestCraneLibraryPushesPullsListsAndDeletes(t *testing.T) {
	s := serve(t, t.TempDir())
	ref, err := name.ParseReference(s.host() + "/wabbit/net-monitor:v1")
	if err != nil {
		t.Fatal(err)
	}
	img, err := random.Image(1<<20, 3)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	got, err := remote.Image(ref)
	if err != nil {
		t.Fatal(err)
	}
	digest := must(t, img.Digest)
	if d := must(t, got.Digest); d != digest {
		t.Errorf("pulled %s, pushed %s", d, digest)
	}
	for _, layer := range must(t, got.Layers) {
		r, err := layer.Compressed() // checks the digest while reading
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			t.Error(err)
		}
		r.Close()
	}

	// Another repository of the registry: the layers are mounted.
	copied := ref.Context().Registry.Repo("acme", "net-monitor").Tag("v1")
	if err := remote.Write(copied, got); err != nil {
		t.Fatal(err)
	}
	index, err := random.Index(1024, 1, 3)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref.Context().Tag("multi"), index); err != nil {
		t.Fatal(err)
	}

	subject, err := partial.Descriptor(img)
	if err != nil {
		t.Fatal(err)
	}
	sbom := mutate.Subject(mutate.ConfigMediaType(mutate.MediaType(must1(t, random.Image, 256, 1), types.OCIManifestSchema1), "application/spdx+json"), *subject).(v1.Image)
	sbomDigest := must(t, sbom.Digest)
	if err := remote.Write(ref.Context().Digest(sbomDigest.String()), sbom); err != nil {
		t.Fatal(err)
	}
	listed, err := remote.Referrers(ref.Context().Digest(digest.String()), remote.WithFilter("artifactType", "application/spdx+json"))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := listed.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != 1 || manifest.Manifests[0].Digest != sbomDigest {
		t.Errorf("referrers are %v, want %s", manifest.Manifests, sbomDigest)
	}

	tags, err := remote.List(ref.Context(), remote.WithPageSize(1))
	if err != nil || !slices.Equal(tags, []string{"multi", "v1"}) {
		t.Errorf("tags are %v, %v: no tag of the tag schema, and both of ours", tags, err)
	}
	if err := remote.Delete(ref); err != nil {
		t.Error(err)
	}
	if err := remote.Delete(ref.Context().Digest(digest.String())); err != nil {
		t.Error(err)
	}
	if _, err := remote.Head(ref); err == nil {
		t.Error("a deleted image is still there")
	}
	if _, err := remote.Head(copied); err != nil {
		t.Errorf("its copy in another repository went, too: %v", err)
	}
}

func must[T any](t *testing.T, f func() (T, error)) T {
	t.Helper()
	v, err := f()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func must1(t *testing.T, f func(int64, int64, ...random.Option) (v1.Image, error), size, layers int64) v1.Image {
	t.Helper()
	return must(t, func() (v1.Image, error) { return f(size, layers) })
}

func TestOrasLibraryPushesAttachesDiscoversAndDeletes(t *testing.T) {
	s := serve(t, t.TempDir())
	ctx := context.Background()
	repo, err := orasremote.NewRepository(s.host() + "/wabbit/net-monitor")
	if err != nil {
		t.Fatal(err)
	}
	repo.PlainHTTP = true
	repo.TagListPageSize = 1
	repo.ReferrerListPageSize = 1

	store := memory.New()
	layer := must(t, func() (ocispec.Descriptor, error) {
		return oras.PushBytes(ctx, store, "application/octet-stream", bytes.Repeat([]byte("binary"), 10_000))
	})
	img := must(t, func() (ocispec.Descriptor, error) {
		return oras.PackManifest(ctx, store, oras.PackManifestVersion1_1, "application/x-net-monitor", oras.PackManifestOptions{Layers: []ocispec.Descriptor{layer}})
	})
	if err := oras.CopyGraph(ctx, store, repo, img, oras.DefaultCopyGraphOptions); err != nil {
		t.Fatal(err)
	}
	for _, tag := range []string{"v1", "v1.0"} {
		if err := repo.Tag(ctx, img, tag); err != nil {
			t.Fatal(err)
		}
	}
	attached := map[string]string{}
	for _, artifactType := range []string{"application/spdx+json", "application/vnd.cyclonedx+json"} {
		blob := must(t, func() (ocispec.Descriptor, error) {
			return oras.PushBytes(ctx, repo, artifactType, []byte("{\""+artifactType+"\":1}"))
		})
		d := must(t, func() (ocispec.Descriptor, error) {
			return oras.PackManifest(ctx, repo, oras.PackManifestVersion1_1, artifactType, oras.PackManifestOptions{
				Subject: &img, Layers: []ocispec.Descriptor{blob}, ManifestAnnotations: map[string]string{"io.github.scittd.entry": artifactType},
			})
		})
		attached[artifactType] = d.Digest.String()
	}
	found := map[string]string{}
	err = repo.Referrers(ctx, img, "", func(list []ocispec.Descriptor) error {
		for _, d := range list {
			found[d.ArtifactType] = d.Digest.String()
			if d.Annotations["io.github.scittd.entry"] != d.ArtifactType {
				t.Errorf("annotations of %s are %v", d.ArtifactType, d.Annotations)
			}
		}
		return nil
	})
	if err != nil || !maps.Equal(found, attached) {
		t.Errorf("discovered %v, attached %v: %v", found, attached, err)
	}
	var tags []string
	err = repo.Tags(ctx, "", func(page []string) error { tags = append(tags, page...); return nil })
	if err != nil || !slices.Equal(tags, []string{"v1", "v1.0"}) {
		t.Errorf("tags are %v, %v; want only ours", tags, err)
	}

	back := memory.New()
	if _, err := oras.ExtendedCopy(ctx, repo, "v1", back, "v1", oras.DefaultExtendedCopyOptions); err != nil {
		t.Fatal(err)
	}
	got, err := content.FetchAll(ctx, back, layer)
	if err != nil || len(got) != 60_000 {
		t.Errorf("layer came back with %d bytes, %v", len(got), err)
	}

	// Seeking, as for a resumed pull, is by ranges.
	r, err := repo.Fetch(ctx, layer)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.(io.Seeker).Seek(59_994, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if tail, err := io.ReadAll(r); err != nil || string(tail) != "binary" {
		t.Errorf("the last bytes are %q, %v", tail, err)
	}

	if err := repo.Delete(ctx, img); err != nil {
		t.Error(err)
	}
	if _, err := repo.Resolve(ctx, "v1"); !errors.Is(err, errdef.ErrNotFound) {
		t.Errorf("a deleted image resolves: %v", err)
	}
	left := 0
	err = repo.Referrers(ctx, img, "", func(list []ocispec.Descriptor) error { left += len(list); return nil })
	if err != nil || left != 2 {
		t.Errorf("after the image's deletion %d of 2 referrers are listed, %v", left, err)
	}
}
