package registrar

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
	"github.com/scittd/scittd/storage"
)

// Wake tells a running Custodian that something was purged. It never blocks.
func (c *Custodian) Wake() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// How long to wait after a round in which something could not be removed:
// doubling from the first to the second.
const (
	removeAgain   = 5 * time.Second
	removeSeldom  = 10 * time.Minute
	removalsAPage = 100
)

// clocksApart is more than clocks may be apart that say when something was
// purged, and when registered.
const clocksApart = time.Minute

// Run removes what was purged until ctx ends.
func (c *Custodian) Run(ctx context.Context) {
	var keeping sync.WaitGroup
	defer keeping.Wait()
	keeping.Go(func() { c.keepIndexes(ctx) })
	wait := c.o.Poll
	for failures := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		case <-time.After(wait):
		}
		wait = c.o.Poll
		if c.round(ctx) {
			failures = 0
			continue
		}
		wait = min(removeAgain<<min(failures, 10), removeSeldom)
		failures++
	}
}

// round goes through all that is to be removed, and reports whether it was. A
// registry in trouble is left alone until the next round; what one does not do for
// us keeps nothing else waiting.
func (c *Custodian) round(ctx context.Context) bool {
	const work = "purge"
	mine, err := c.evidences.Lease(ctx, work, c.o.Owner, c.o.Timeout)
	if err != nil || !mine {
		return err == nil || ctx.Err() != nil
	}
	troubled, failed := map[string]bool{}, false
	for above := int64(-1); ctx.Err() == nil; {
		page, err := c.evidences.Removals(ctx, above, removalsAPage)
		if err != nil {
			c.o.Log.WarnContext(ctx, "purges unavailable", "err", err)
			return false
		}
		if len(page) == 0 {
			break
		}
		for _, r := range page {
			above = int64(r.Entry)
			if troubled[r.Registry] || ctx.Err() != nil || c.tooEarly(r) {
				continue
			}
			if err := c.remove(ctx, r); err != nil {
				failed = true
				troubled[r.Registry] = errors.Is(err, storage.ErrTrouble) || errors.Is(err, context.DeadlineExceeded)
				c.o.Log.WarnContext(ctx, "purged evidence not removed yet", "registry", r.Registry, "repository", r.Repository,
					"subject", r.Subject, "evidence", r.Evidence, "err", err)
			}
		}
		if mine, err := c.evidences.Lease(ctx, work, c.o.Owner, c.o.Timeout); err != nil || !mine {
			break
		}
	}
	return !failed
}

// tooEarly: whoever deleted it may not be done yet.
func (c *Custodian) tooEarly(r ledger.Removal) bool {
	return (r.Why == imageDeleted || r.Why == evidenceDeleted) && c.o.Clock().Sub(r.At) < c.o.Grace
}

// remove removes one piece of evidence from one place. What other claims need
// stays, by a look right before, for the page that r is of may be old; what came in
// the way is seen by a second look, and by the next round.
func (c *Custodian) remove(ctx context.Context, r ledger.Removal) error {
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	r, open, err := c.look(ctx, r)
	if err != nil || !open {
		return err
	}
	repo, err := c.repository(r.Registry, r.Repository)
	if err != nil {
		return err
	}
	if r.BlobNeeded || r.ManifestNeeded {
		if settled, err := c.restore(ctx, repo, r); err != nil || !settled {
			return err
		}
	}
	if !r.ManifestNeeded {
		if err := storage.RemoveEvidence(ctx, repo, string(r.Subject), string(r.Evidence), r.Placed()...); err != nil {
			return err
		}
	}
	if !r.BlobNeeded {
		if err := c.removeBlob(ctx, repo, r); err != nil {
			return err
		}
	}
	now, open, err := c.look(ctx, r)
	if err != nil || !open {
		return err
	}
	if now != r { // somebody has come to need it, or has put it back
		c.Wake()
		return nil
	}
	if err := c.evidences.Removed(ctx, r); err != nil {
		return err
	}
	c.o.Log.InfoContext(ctx, "purged evidence removed", "registry", r.Registry, "repository", r.Repository,
		"subject", r.Subject, "evidence", r.Evidence)
	return nil
}

// look reads r again; open is whether it is still to be removed.
func (c *Custodian) look(ctx context.Context, r ledger.Removal) (now ledger.Removal, open bool, err error) {
	page, err := c.evidences.Removals(ctx, int64(r.Entry)-1, 1)
	for _, now := range page {
		if now.Entry == r.Entry && now.Place == r.Place {
			return now, true, err
		}
	}
	return r, false, err
}

// removeBlob removes the bytes themselves. Many registries delete no blobs and
// collect those that nothing names: then that is as good.
func (c *Custodian) removeBlob(ctx context.Context, repo storage.Repository, r ledger.Removal) error {
	blobs, ok := repo.(storage.Deleter)
	if !ok {
		return nil
	}
	err := blobs.DeleteBlob(ctx, string(r.Evidence))
	if errors.Is(err, storage.ErrRefused) {
		c.o.Log.InfoContext(ctx, "blob left to the registry's garbage collection", "registry", r.Registry, "evidence", r.Evidence, "err", err)
		return nil
	}
	return err
}

// restore looks after the claims that came for the evidence of r since it was
// purged. What was removed under one of them, when it came between two looks, is
// queued again. It reports false while one is still to be placed: then r waits.
func (c *Custodian) restore(ctx context.Context, repo storage.Repository, r ledger.Removal) (settled bool, err error) {
	q := ledger.Query{Scope: ledger.All, Evidence: []statement.Digest{r.Evidence}, Since: r.At.Add(-clocksApart), Limit: ledger.MaxPage}
	for {
		page, err := c.ledger.Find(ctx, q)
		if err != nil {
			return false, err
		}
		for _, e := range page {
			q.Before = e.Index
			deliveries, err := c.ledger.Deliveries(ctx, e.ID, ledger.All)
			if err != nil {
				return false, err
			}
			for _, d := range deliveries {
				if d.Artifact != ledger.EvidenceArtifact || d.Registry != r.Registry || d.Repository != r.Repository {
					continue
				}
				if mark, err := c.markOf(ctx, d); err != nil || mark != nil {
					if err != nil {
						return false, err
					}
					continue
				}
				if d.State == ledger.Queued {
					return false, nil
				}
				if err := c.queueIfGone(ctx, repo, d, r.Evidence); err != nil {
					return false, err
				}
			}
		}
		if len(page) < q.Limit {
			return true, nil
		}
	}
}

func (c *Custodian) queueIfGone(ctx context.Context, repo storage.Repository, d ledger.Delivery, evidence statement.Digest) error {
	if d.State != ledger.Done {
		return nil
	}
	switch _, _, err := repo.Manifest(ctx, string(d.Manifest)); {
	case err == nil:
		if _, there, err := repo.HasBlob(ctx, string(evidence)); err != nil || there {
			return err
		}
	case !errors.Is(err, storage.ErrNotFound):
		return err
	}
	return c.evidences.Intervene(ctx, d, ledger.Intervention{
		Action: ledger.Retry, Who: c.o.Owner, Why: "removed together with what was purged", At: c.o.Clock(),
	})
}
