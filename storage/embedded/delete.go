package embedded

import (
	"context"
	"errors"

	"github.com/scittd/scittd/storage"
)

var _ storage.Deleter = repository{}

// DeleteManifest implements storage.Deleter.
func (r repository) DeleteManifest(ctx context.Context, s string) error {
	d, err := parseDigest(s)
	if err != nil {
		return inStorage(err)
	}
	return unlessGone(r.registry.deleteManifest(ctx, r.name, reference{digest: d}))
}

// DeleteBlob implements storage.Deleter.
func (r repository) DeleteBlob(ctx context.Context, s string) error {
	d, err := parseDigest(s)
	if err != nil {
		return inStorage(err)
	}
	return unlessGone(r.registry.deleteBlob(ctx, r.name, d))
}

// unlessGone: what is not there needs no deleting.
func unlessGone(err error) error {
	if err = inStorage(err); errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	return err
}
