package registrar

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
	"github.com/scittd/scittd/storage"
)

// maxDeliveries bounds those of an entry that is given further ones: its bytes are
// public, and what names no artifact can be hung on as many images as somebody
// makes up digests.
const maxDeliveries = 1024

// placeAlso gives the entry e of s, which was there already, the deliveries that
// it would have had, too, had it first come with those circumstances: pushed
// beside a second image or into a second repository, a user looks for the receipt
// there. It stands beside the log, in a transaction of its own, and repeating it
// adds nothing.
func (r *Registrar) placeAlso(ctx context.Context, p *policy.Policy, s *statement.Statement, e ledger.Entry, with ledger.Circumstances) error {
	if r.further == nil {
		return nil
	}
	now := r.clock()
	wanted, err := ledger.Elsewhere(e, s, p, r.registry, r.archive, with, now)
	if err != nil || len(wanted) == 0 {
		return err
	}
	there, err := r.ledger.Deliveries(ctx, e.ID, ledger.All)
	if err != nil {
		return err
	}
	wanted = slices.DeleteFunc(wanted, func(d ledger.Delivery) bool {
		return slices.ContainsFunc(there, func(had ledger.Delivery) bool {
			return d.Artifact == had.Artifact && (d.Artifact == ledger.ArchiveArtifact || d.Place() == had.Place())
		})
	})
	if len(wanted) == 0 {
		return nil
	}
	if len(there)+len(wanted) > maxDeliveries {
		return &policy.Refusal{
			Code: policy.CodeRejected, Rule: "placement", Policy: p.Entry,
			Reason: fmt.Sprintf("entry %s is registered, and has %d deliveries; it is given no more than %d", e.ID, len(there), maxDeliveries),
			Hint:   "sign a statement of its own for this image",
		}
	}
	n, err := r.further.Enqueue(ctx, wanted, cmp.Or(with.Caller, "anonymous"), "registered before, and named for "+with.Repository, now)
	if err != nil {
		return fmt.Errorf("registered before, but not placed in %s: %w", with.Repository, err)
	}
	if n > 0 {
		r.log.InfoContext(ctx, "placed also", "entry", e.ID, "repository", with.Repository, "image", with.Image, "deliveries", n, "caller", with.Caller)
		r.wake()
	}
	return nil
}

// placedElsewhere opens the evidence of an entry where it was placed before, in
// another repository; nil where it was not.
func (c *Courier) placedElsewhere(ctx context.Context, d ledger.Delivery, evidence statement.Digest) (func() (io.ReadCloser, int64, error), error) {
	if c.o.Custodian == nil {
		return nil, nil
	}
	all, err := c.ledger.Deliveries(ctx, d.EntryID, ledger.All)
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(all, func(had ledger.Delivery) bool {
		return had.Artifact == ledger.EvidenceArtifact && had.State == ledger.Done && had.Repository != d.Repository
	})
	if at < 0 {
		return nil, nil
	}
	return func() (io.ReadCloser, int64, error) {
		content, size, err := c.o.Custodian.Open(ctx, all[at], evidence)
		if errors.Is(err, ledger.ErrNotFound) {
			err = fmt.Errorf("%w, and neither in %s", storage.ErrEvidenceAbsent, all[at].Repository)
		}
		return content, size, err
	}, nil
}
