package storage

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// PlaceArchive puts a transparency artifact into a repository under a tag: the
// one that PlaceTransparency makes, but for the subject. It refers to nothing,
// so no registry deletes it together with an image. It returns the digest of the
// manifest, which the tag leads to. Errors are those of PlaceTransparency but
// ErrSubjectAbsent; after any of them the call may be repeated.
func PlaceArchive(ctx context.Context, repo Repository, tag string, t Transparency) (manifest string, err error) {
	manifest, err = Placer{}.archive(ctx, repo, tag, t)
	if err != nil {
		return "", fmt.Errorf("archive transparency artifact of entry %s: %w", t.Entry, err)
	}
	return manifest, nil
}

func (p Placer) archive(ctx context.Context, repo Repository, tag string, t Transparency) (string, error) {
	if len(t.Transparent) == 0 || len(t.Receipt) == 0 {
		return "", errors.New("it lacks the statement or the receipt")
	}
	body, err := t.manifest(profileOf(repo), ocispec.Descriptor{})
	if err != nil {
		return "", err
	}
	want := digest.FromBytes(body).String()
	found, _, err := repo.Manifest(ctx, tag)
	if err == nil && found.Digest == want {
		return want, nil
	}
	if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrOtherBytes) {
		return "", err
	}
	if _, err := p.push(ctx, repo, body, tag, [][]byte{t.Transparent, t.Receipt, ocispec.DescriptorEmptyJSON.Data}); err != nil {
		return "", err
	}
	if found, _, err = repo.Manifest(ctx, tag); err != nil {
		return "", fmt.Errorf("read it back: %w", err)
	}
	if found.Digest != want {
		return "", fmt.Errorf("%w: tag %s leads to %s, not to %s that was pushed", ErrOtherBytes, tag, found.Digest, want)
	}
	return want, nil
}
