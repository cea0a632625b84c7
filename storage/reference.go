package storage

import (
	"context"
	"fmt"
	"strings"

	"oras.land/oras-go/v2/registry"
)

// Reference names an image: host/repository:tag or host/repository@digest.
type Reference struct {
	Host       string // localhost:8080
	Repository string // wabbit/net-monitor
	Tag        string // "" if there is a digest: only digests count
	Digest     string
}

// ParseReference reads what people type. The host is never guessed; of
// host/repository:tag@digest the tag is dropped.
func ParseReference(s string) (Reference, error) {
	ref, err := registry.ParseReference(s)
	if err != nil {
		// oras-go says "invalid reference: " first, and then what is wrong.
		return Reference{}, fmt.Errorf("image %q: %w: want host/repository:tag or host/repository@sha256:…", s, err)
	}
	r := Reference{Host: ref.Registry, Repository: ref.Repository}
	if strings.Contains(ref.Reference, ":") {
		r.Digest = ref.Reference
	} else {
		r.Tag = ref.Reference
	}
	return r, nil
}

// String is the reference as ParseReference reads it.
func (r Reference) String() string {
	s := r.Host + "/" + r.Repository
	if r.Digest != "" {
		return s + "@" + r.Digest
	}
	if r.Tag != "" {
		return s + ":" + r.Tag
	}
	return s
}

// At is the same repository at a digest.
func (r Reference) At(digest string) Reference {
	return Reference{Host: r.Host, Repository: r.Repository, Digest: digest}
}

// Resolve opens the repository that ref names and reads the image's manifest,
// so that the digest is that of bytes seen. ErrNotFound.
func Resolve(ctx context.Context, reg Registry, ref Reference) (Repository, Descriptor, error) {
	name := ref.Digest
	if name == "" {
		name = ref.Tag
	}
	if name == "" {
		return nil, Descriptor{}, fmt.Errorf("%s names no image: add a :tag or a @digest", ref)
	}
	repo, err := reg.Repository(ref.Repository)
	if err != nil {
		return nil, Descriptor{}, err
	}
	d, _, err := repo.Manifest(ctx, name)
	return repo, d, err
}

// SplitRepository reads host/repository, which may be followed by a tag or a
// digest.
func SplitRepository(s string) (host, repository string, err error) {
	ref, err := registry.ParseReference(s)
	if err != nil {
		return "", "", fmt.Errorf("repository %q: %w: want host/repository", s, err)
	}
	return ref.Registry, ref.Repository, nil
}
