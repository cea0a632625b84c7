package registrar

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/scittd/scittd/internal/failpoint"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/storage"
)

const (
	// perTurn is how many of one image's deliveries are placed before others have
	// their turn.
	perTurn = 64
	// settleTime is how long writing an outcome may take, at shutdown too.
	settleTime = 5 * time.Second
)

// route is the way to one registry.
type route struct {
	*Courier
	host    string
	wake    chan struct{}
	breaker breaker
	placed  tally
	busy    atomic.Int32 // workers, each at one image; raised by run alone
}

// run takes what is due and has it worked on until ctx ends, then waits for the
// deliveries in hand.
func (r *route) run(ctx context.Context) {
	var workers sync.WaitGroup
	defer workers.Wait()
	for ctx.Err() == nil {
		groups := r.take(ctx)
		for _, due := range groups {
			failpoint.Hit(failpoint.Claimed)
			r.busy.Add(1)
			workers.Go(func() {
				r.work(ctx, due)
				r.busy.Add(-1)
				poke(r.wake)
			})
		}
		if len(groups) > 0 {
			continue
		}
		select {
		case <-ctx.Done():
		case <-r.wake: // something is due, or a worker is free
		}
	}
}

// take leases what is due, for as many images as can be worked on at once.
func (r *route) take(ctx context.Context) [][]ledger.Delivery {
	places, each := r.breaker.admits(r.o.Clock(), r.o.Workers, int(r.busy.Load()))
	if places < 1 {
		return nil
	}
	due, err := r.ledger.Due(ctx, ledger.Pickup{Owner: r.o.Owner, Registry: r.host, Lease: r.o.Lease, Places: places, Each: each})
	if err != nil {
		if ctx.Err() == nil {
			r.o.Log.WarnContext(ctx, "deliveries unavailable", "registry", r.host, "err", err)
		}
		return nil
	}
	var groups [][]ledger.Delivery
	for begin, end := 0, 0; begin < len(due); begin = end {
		for end = begin; end < len(due) && due[end].Place() == due[begin].Place(); end++ {
		}
		groups = append(groups, due[begin:end])
	}
	return groups
}

// work places one image's deliveries and settles each: all evidence, then all
// transparency artifacts, several at a time, for a registry without the
// referrers API then rewrites its list once for many. What it does not come to
// goes back as it was, so that nobody need wait for the lease to run out.
func (r *route) work(ctx context.Context, due []ledger.Delivery) {
	at := due[0].Place()
	held, lose := context.WithCancel(ctx)
	defer lose()
	var renewing sync.WaitGroup
	renewing.Go(func() { r.renew(held, at, lose) })
	var left atomic.Bool
	for _, kind := range []string{ledger.EvidenceArtifact, ledger.TransparencyArtifact, ledger.ArchiveArtifact} {
		var placing errgroup.Group
		placing.SetLimit(r.o.PerImage)
		for _, d := range due {
			if d.Artifact != kind {
				continue
			}
			placing.Go(func() error {
				if !r.deliver(held, d) {
					left.Store(true)
				}
				return nil
			})
		}
		_ = placing.Wait() // deliver keeps its errors in the delivery
	}
	lose()
	renewing.Wait()
	if !left.Load() {
		return
	}
	settling, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTime)
	defer cancel()
	if _, err := r.ledger.Renew(settling, r.o.Owner, at, 0); err != nil {
		r.o.Log.WarnContext(ctx, "lease not given back", "repository", at.Repository, "subject", at.Subject, "err", err)
	}
}

// renew keeps the lease while the work takes longer than that, and ends the work
// once another has taken over: it stood still, or an operator stepped in.
func (r *route) renew(ctx context.Context, at ledger.Place, lose func()) {
	tick := time.NewTicker(r.o.Lease / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// An error tells nothing; the work goes on, for it does no harm.
		if held, err := r.ledger.Renew(ctx, r.o.Owner, at, r.o.Lease); err == nil && !held {
			lose()
		}
	}
}

// deliver places and settles one delivery. It reports false when it did not come
// to that: the registry is not to be asked now, or ctx ended.
func (r *route) deliver(ctx context.Context, d ledger.Delivery) bool {
	begun := r.o.Clock()
	if ctx.Err() != nil || !r.breaker.passes(begun) {
		return false
	}
	manifest, err := r.place(ctx, &d, begun)
	if err != nil && ctx.Err() != nil {
		return false
	}
	now := r.o.Clock()
	settled := outcome(d, manifest, err, now)
	settling, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTime)
	defer cancel()
	if err := r.ledger.Settle(settling, r.o.Owner, settled); err != nil {
		r.o.Log.WarnContext(ctx, "delivery not settled", "entry", d.EntryID, "artifact", d.Artifact, "err", err)
		return false
	}
	failpoint.Hit(failpoint.Settled)
	r.placed.count(settled, now)
	level := slog.LevelInfo
	if settled.LastError != "" {
		level = slog.LevelWarn
	}
	r.o.Log.Log(ctx, level, "delivery", "entry", d.EntryID, "artifact", d.Artifact, "state", settled.State,
		"repository", d.Repository, "subject", d.Subject, "tries", settled.Tries, "manifest", settled.Manifest, "err", settled.LastError)
	return true
}

// place does one delivery and returns the manifest that is in the registry now.
func (r *route) place(ctx context.Context, d *ledger.Delivery, begun time.Time) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, r.o.Timeout)
	defer cancel()
	put, err := r.prepare(ctx, d)
	switch {
	case errors.Is(err, errNoRegistry):
		r.breaker.trouble(begun, r.o.Clock(), 0)
		return "", err
	case err != nil: // our own side: it says nothing of the registry
		return "", err
	}
	manifest, err := put(ctx)
	retry := (*storage.RetryError)(nil)
	switch {
	case errors.As(err, &retry):
		r.breaker.trouble(begun, r.o.Clock(), retry.After)
	case errors.Is(err, storage.ErrTrouble), errors.Is(err, context.DeadlineExceeded):
		r.breaker.trouble(begun, r.o.Clock(), 0)
	default:
		r.breaker.answered()
	}
	if errors.Is(err, storage.ErrSubjectAbsent) && r.o.Gone != nil {
		gone, asked := r.o.Gone(ctx, d.Place())
		if asked != nil {
			return "", asked
		}
		if gone {
			err = errGone
		}
	}
	return manifest, err
}
