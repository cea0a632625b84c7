package interop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/errdef"
	orasremote "oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
)

var ctx = context.Background()

// The programs of both libraries do little more than call them like this. The
// oras program cannot be installed with Go.

var orasGo = client{"oras (oras-go 2.6.4)", "", []step{
	{"push", pushImage},
	{"pull", func(v *visit) error {
		repo, err := v.oras("")
		if err != nil {
			return err
		}
		back := memory.New()
		d, err := oras.Copy(ctx, repo, "v1", back, "v1", oras.DefaultCopyOptions)
		if err != nil {
			return err
		}
		if d.Digest.String() != v.imageDigest {
			return fmt.Errorf("pulled %s, pushed %s", d.Digest, v.imageDigest)
		}
		for _, digest := range v.layers {
			want, err := blob(v.image, digest)
			if err != nil {
				return err
			}
			below, err := content.Successors(ctx, back, d)
			if err != nil {
				return err
			}
			i := slices.IndexFunc(below, func(d ocispec.Descriptor) bool { return d.Digest.String() == digest })
			if i < 0 {
				return fmt.Errorf("layer %s was not pulled", digest)
			}
			if got, err := content.FetchAll(ctx, back, below[i]); err != nil || string(got) != string(want) {
				return fmt.Errorf("layer %s was pulled with other bytes: %w", digest, err)
			}
		}
		return nil
	}},
	{"attach", func(v *visit) error {
		if err := v.after("push"); err != nil {
			return err
		}
		repo, err := v.oras("")
		if err != nil {
			return err
		}
		for _, artifactType := range []string{sbomType, "text/plain"} {
			if err := attach(repo, artifactType, []byte(sbom)); err != nil {
				return err
			}
		}
		return nil
	}},
	{"discover", func(v *visit) error {
		if err := v.after("attach"); err != nil {
			return err
		}
		repo, err := v.oras("")
		if err != nil {
			return err
		}
		return errors.Join(refer(repo, "v1", "", sbomType, "text/plain"), refer(repo, "v1", sbomType, sbomType))
	}},
	{"copy with referrers", func(v *visit) error {
		if err := v.after("attach"); err != nil {
			return err
		}
		if err := v.copied("-copy"); err != nil {
			return err
		}
		to, err := v.oras("-copy")
		if err != nil {
			return err
		}
		return refer(to, "v1", "", sbomType, "text/plain")
	}},
	{"delete", func(v *visit) error {
		if err := v.after("attach"); err != nil {
			return err
		}
		repo, err := v.oras("")
		if err != nil {
			return err
		}
		image, err := repo.Resolve(ctx, "v1")
		if err != nil {
			return err
		}
		var referrers []ocispec.Descriptor
		if err := repo.Referrers(ctx, image, "text/plain", func(page []ocispec.Descriptor) error {
			referrers = append(referrers, page...)
			return nil
		}); err != nil {
			return err
		}
		for _, d := range referrers {
			if err := repo.Delete(ctx, d); err != nil {
				return err
			}
		}
		if err := refer(repo, "v1", "", sbomType); err != nil {
			return fmt.Errorf("after one of two referrers was deleted: %w", err)
		}
		if err := repo.Delete(ctx, image); err != nil {
			return err
		}
		if _, err := repo.Resolve(ctx, v.imageDigest); !errors.Is(err, errdef.ErrNotFound) {
			return fmt.Errorf("the deleted image is answered with %v", err)
		}
		return nil
	}},
}}

// oras opens the visit's repository, or another whose name begins like it.
func (v *visit) oras(suffix string) (*orasremote.Repository, error) {
	repo, err := orasremote.NewRepository(v.repo + suffix)
	if err != nil {
		return nil, err
	}
	client := &auth.Client{Client: &http.Client{Transport: unpooled}, Cache: auth.NewCache()}
	if v.site.user != "" {
		client.Credential = auth.StaticCredential(v.site.host, auth.Credential{Username: v.site.user, Password: v.site.password})
	}
	repo.PlainHTTP, repo.Client = true, client
	return repo, nil
}

// unpooled leaves no connection behind.
var unpooled = &http.Transport{DisableKeepAlives: true}

// pushImage pushes the image as v1.
func pushImage(v *visit) error { return v.push("") }

func (v *visit) push(suffix string) error {
	from, err := oci.New(v.image)
	if err != nil {
		return err
	}
	repo, err := v.oras(suffix)
	if err != nil {
		return err
	}
	_, err = oras.Copy(ctx, from, "v1", repo, "v1", oras.DefaultCopyOptions)
	return err
}

// copied does what `oras copy -r` does.
func (v *visit) copied(suffix string) error {
	from, err := v.oras("")
	if err != nil {
		return err
	}
	to, err := v.oras(suffix)
	if err != nil {
		return err
	}
	_, err = oras.ExtendedCopy(ctx, from, "v1", to, "v1", oras.DefaultExtendedCopyOptions)
	return err
}

// attach does what `oras attach` does.
func attach(repo *orasremote.Repository, artifactType string, content []byte) error {
	image, err := repo.Resolve(ctx, "v1")
	if err != nil {
		return err
	}
	evidence, err := oras.PushBytes(ctx, repo, artifactType, content)
	if err != nil {
		return err
	}
	_, err = oras.PackManifest(ctx, repo, oras.PackManifestVersion1_1, artifactType, oras.PackManifestOptions{
		Subject: &image, Layers: []ocispec.Descriptor{evidence},
	})
	return err
}

// referrers are the types of what refers to a tag, sorted; filtered by
// artifactType unless that is "".
func referrers(repo *orasremote.Repository, tag, artifactType string) (types []string, err error) {
	image, err := repo.Resolve(ctx, tag)
	if err != nil {
		return nil, err
	}
	err = repo.Referrers(ctx, image, artifactType, func(page []ocispec.Descriptor) error {
		for _, d := range page {
			types = append(types, d.ArtifactType)
		}
		return nil
	})
	slices.Sort(types)
	return types, err
}

// refer is an error unless the referrers have exactly these types, in any order.
func refer(repo *orasremote.Repository, tag, artifactType string, want ...string) error {
	got, err := referrers(repo, tag, artifactType)
	slices.Sort(want)
	if err == nil && !slices.Equal(got, want) {
		return fmt.Errorf("referrers of type %q are %q, want %q", artifactType, got, want)
	}
	return err
}

var ggcr = client{"go-containerregistry 0.22.1", "", []step{
	{"push", func(v *visit) error {
		image, index, err := v.read()
		if err != nil {
			return err
		}
		if err := remote.Write(v.tag("v1"), image, v.ggcr()...); err != nil {
			return err
		}
		return remote.WriteIndex(v.tag("multi"), index, v.ggcr()...)
	}},
	{"pull", func(v *visit) error {
		image, err := remote.Image(v.tag("v1"), v.ggcr()...)
		if err != nil {
			return err
		}
		index, err := remote.Index(v.tag("multi"), v.ggcr()...)
		if err != nil {
			return err
		}
		list, err := index.IndexManifest()
		if err != nil {
			return err
		}
		images := []v1.Image{image}
		for _, d := range list.Manifests {
			instance, err := index.Image(d.Digest)
			if err != nil {
				return err
			}
			images = append(images, instance)
		}
		for _, image := range images {
			layers, err := image.Layers()
			if err != nil {
				return err
			}
			for _, layer := range layers {
				r, err := layer.Compressed() // compares the digest while it is read
				if err != nil {
					return err
				}
				_, err = io.Copy(io.Discard, r)
				if err := errors.Join(err, r.Close()); err != nil {
					return err
				}
			}
		}
		return nil
	}},
	{"attach", func(v *visit) error {
		image, _, err := v.read()
		if err != nil {
			return err
		}
		subject, err := partial.Descriptor(image)
		if err != nil {
			return err
		}
		evidence, err := mutate.AppendLayers(
			mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), sbomType), static.NewLayer([]byte(sbom), sbomType))
		if err != nil {
			return err
		}
		referrer := mutate.Subject(evidence, *subject).(v1.Image)
		digest, err := referrer.Digest()
		if err != nil {
			return err
		}
		return remote.Write(v.tag("v1").Context().Digest(digest.String()), referrer, v.ggcr()...)
	}},
	{"discover", func(v *visit) error {
		if err := v.after("attach"); err != nil {
			return err
		}
		for filter, want := range map[string]int{"": 1, sbomType: 1, "text/plain": 0} {
			options := v.ggcr()
			if filter != "" {
				options = append(options, remote.WithFilter("artifactType", filter))
			}
			index, err := remote.Referrers(v.tag("v1").Context().Digest(v.imageDigest), options...)
			if err != nil {
				return err
			}
			list, err := index.IndexManifest()
			if err != nil {
				return err
			}
			if len(list.Manifests) != want {
				return fmt.Errorf("%d referrers of type %q, want %d", len(list.Manifests), filter, want)
			}
		}
		return nil
	}},
	{"delete", func(v *visit) error {
		image := v.tag("v1").Context().Digest(v.imageDigest)
		if err := remote.Delete(image, v.ggcr()...); err != nil {
			return err
		}
		if _, err := remote.Head(image, v.ggcr()...); err == nil {
			return errors.New("the deleted image is still there")
		}
		return nil
	}},
}}

// read opens what the visit has to push.
func (v *visit) read() (v1.Image, v1.ImageIndex, error) {
	images, err := layout.ImageIndexFromPath(v.image)
	if err != nil {
		return nil, nil, err
	}
	indexes, err := layout.ImageIndexFromPath(v.index)
	if err != nil {
		return nil, nil, err
	}
	digest := func(s string) v1.Hash {
		algorithm, hex, _ := strings.Cut(s, ":")
		return v1.Hash{Algorithm: algorithm, Hex: hex}
	}
	image, err := images.Image(digest(v.imageDigest))
	if err != nil {
		return nil, nil, err
	}
	index, err := indexes.ImageIndex(digest(v.indexDigest))
	return image, index, err
}

func (v *visit) tag(tag string) name.Tag {
	t, err := name.NewTag(v.repo + ":" + tag)
	if err != nil {
		panic(err) // the name is made here
	}
	return t
}

func (v *visit) ggcr() []remote.Option {
	login := authn.Anonymous
	if v.site.user != "" {
		login = &authn.Basic{Username: v.site.user, Password: v.site.password}
	}
	return []remote.Option{remote.WithAuth(login), remote.WithTransport(unpooled)}
}
