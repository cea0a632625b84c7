package main

import (
	"context"
	"errors"
	"io"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/client"
	"github.com/scittd/scittd/internal/placement"
	"github.com/scittd/scittd/storage"
)

// writeBack places evidence and transparency artifact under the image with the
// user's own credentials: the same manifests that the service would make, so
// that it does not matter whether the service places them, too. A claim that the
// policy keeps private is left where it is: nil, nil.
func (a *app) writeBack(ctx context.Context, service *client.Client, about subject, made signed, receipt []byte) ([]apitype.Delivery, error) {
	id := made.statement.ID()
	entry, err := service.Entry(ctx, id)
	if client.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if entry.Visibility != "public" {
		a.warn("the policy keeps the claim %s: it is not placed", entry.Visibility)
		return nil, nil
	}
	// The service's bytes, not ours: which certificates stay is its choice.
	transparent, err := service.Transparent(ctx, id)
	if err != nil {
		return nil, err
	}
	artifact, err := placement.Transparency(transparent, receipt)
	if err != nil {
		return nil, fail(exitInvalid, "entry %s as the service has it: %w", id, err)
	}
	evidence := placement.Evidence(made.statement)
	if evidence.Open == nil && made.evidence.file != "" {
		evidence.Open = func() (io.ReadCloser, int64, error) {
			content, err := made.evidence.open()
			return content, made.evidence.size, err
		}
	}
	written := make([]apitype.Delivery, 0, 2)
	for _, place := range []struct {
		what string
		it   func() (string, error)
	}{
		{"evidence", func() (string, error) {
			return storage.PlaceEvidence(ctx, about.repo, string(about.digest), evidence)
		}},
		{"transparency", func() (string, error) {
			return storage.PlaceTransparency(ctx, about.repo, string(about.digest), artifact)
		}},
	} {
		manifest, err := place.it()
		if err != nil {
			return written, notWritten(err)
		}
		written = append(written, apitype.Delivery{
			Registry: about.image.Host, Repository: about.image.Repository, Subject: string(about.digest),
			Artifact: place.what, State: "done", Tries: 1, Manifest: manifest,
		})
	}
	return written, nil
}

func notWritten(err error) error {
	f := fail(exitFailed, "registered, but not placed: %w", err)
	if errors.Is(err, storage.ErrEvidenceAbsent) {
		return f.try("add --evidence FILE, for the repository does not have it")
	}
	return f.try("the same command again, logged in to the registry: it finds the same entry")
}
