package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// Deleter is a Repository that content can be removed from. Placing never does.
type Deleter interface {
	// DeleteManifest removes a manifest by its digest, with whatever tags lead to
	// it, and takes it off the list that is kept for its subject. nil: it is not
	// there any more, or never was. ErrDenied, ErrRefused (the registry does not
	// delete), *RetryError.
	DeleteManifest(ctx context.Context, digest string) error
	// DeleteBlob removes a blob from this repository; else as DeleteManifest.
	DeleteBlob(ctx context.Context, digest string) error
}

var _ Deleter = (*repository)(nil)

// DeleteManifest implements Deleter.
func (r *repository) DeleteManifest(ctx context.Context, dig string) error {
	if err := validDigest(dig); err != nil {
		return fmt.Errorf("delete manifest from %s: %w", r.name(), err)
	}
	desc, body, err := r.Manifest(ctx, dig)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	// Off the list first, so that it never leads to what is gone.
	var m referrer
	if json.Unmarshal(body, &m) == nil && m.Subject != nil && m.Subject.Digest.Validate() == nil {
		if err := r.remote.Unlist(ctx, r.name(), m.Subject.Digest.String(), dig); err != nil {
			return err
		}
	}
	attempt := fmt.Sprintf("delete manifest %s from %s", dig, r.name())
	return r.delete(ctx, attempt, r.api.Manifests(), ocispec.Descriptor{MediaType: desc.MediaType, Digest: digest.Digest(dig)})
}

// DeleteBlob implements Deleter.
func (r *repository) DeleteBlob(ctx context.Context, dig string) error {
	if err := validDigest(dig); err != nil {
		return fmt.Errorf("delete blob from %s: %w", r.name(), err)
	}
	if dig == emptyConfig {
		return fmt.Errorf("delete blob %s from %s: %w: it is part of every artifact", dig, r.name(), ErrRefused)
	}
	attempt := fmt.Sprintf("delete blob %s from %s", dig, r.name())
	return r.delete(ctx, attempt, r.api.Blobs(), ocispec.Descriptor{Digest: digest.Digest(dig)})
}

// objects are the manifests, or the blobs, of a repository.
type objects interface {
	Delete(ctx context.Context, target ocispec.Descriptor) error
	Resolve(ctx context.Context, reference string) (ocispec.Descriptor, error)
}

var _ objects = (*remote.Repository)(nil)

// delete removes one. After a failure it looks whether that was done all the
// same: Zot answers 500 for it.
func (r *repository) delete(ctx context.Context, attempt string, from objects, target ocispec.Descriptor) error {
	scope := r.profile().DeleteScope
	if scope == "" {
		scope = auth.ActionDelete
	}
	err := from.Delete(auth.AppendRepositoryScope(ctx, r.ref, scope), target)
	if err == nil {
		return nil
	}
	err = r.failure("delete from", attempt, err)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if _, gone := from.Resolve(ctx, target.Digest.String()); errors.Is(r.failure("pull from", attempt, gone), ErrNotFound) {
		return nil
	}
	return err
}
