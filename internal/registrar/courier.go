package registrar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/scittd/scittd/internal/failpoint"
	"github.com/scittd/scittd/internal/placement"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
	"github.com/scittd/scittd/storage"
)

// Backoff of a delivery: firstDelay doubling to maxDelay, with full jitter.
const (
	firstDelay = time.Second
	maxDelay   = 5 * time.Minute
)

// settleTime is how long writing an outcome may take, at shutdown too.
const settleTime = 5 * time.Second

// perSubject is how many artifacts are placed under one image at a time.
const perSubject = 8

// Courier places what the ledger promised to place: it takes due deliveries,
// hangs evidence and transparency artifact on the image, reads the referrers
// list back and settles. Every step may be repeated: the same claim makes the
// same manifest, so a crash costs work and nothing else. Start it with Run.
type Courier struct {
	ledger     *ledger.Ledger
	staging    ledger.Staging
	registries func(host string) (storage.Registry, error)
	o          CourierOptions
	wake       chan struct{}

	mu       sync.Mutex
	inFlight map[group]bool // what this process works on now, lease or no lease
}

// CourierOptions are settings of NewCourier; zero values take the default.
type CourierOptions struct {
	Owner   string           // names this process in leases
	Workers int              // subjects worked on at once; 16
	Lease   time.Duration    // how long another process keeps off what this one took; 1 min
	Poll    time.Duration    // how often to look for what has become due; 1 s
	Timeout time.Duration    // for one delivery, a large evidence included; 10 min
	Clock   func() time.Time // the ledger's, for what is due is decided by both; time.Now
	Log     *slog.Logger
}

// NewCourier returns a Courier that finds a registry by the host a delivery names.
func NewCourier(l *ledger.Ledger, s ledger.Staging, registries func(host string) (storage.Registry, error), o CourierOptions) *Courier {
	if o.Workers == 0 {
		o.Workers = 16
	}
	if o.Lease == 0 {
		o.Lease = time.Minute
	}
	if o.Poll == 0 {
		o.Poll = time.Second
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Minute
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Courier{ledger: l, staging: s, registries: registries, o: o,
		wake: make(chan struct{}, 1), inFlight: map[group]bool{}}
}

// Wake tells a running Courier that something may be due now. It never blocks.
func (c *Courier) Wake() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// group is what one worker handles at a time: all due deliveries of one image
// in one repository, so that writers of a referrers tag do not race inside a
// process. Between processes a lease keeps them apart while it runs; placing
// survives the race that is left.
type group struct {
	registry, repository string
	subject              statement.Digest
}

// Run works until ctx ends, then waits for the deliveries in hand.
func (c *Courier) Run(ctx context.Context) {
	var workers sync.WaitGroup
	defer workers.Wait()
	slots := make(chan struct{}, c.o.Workers)
	for ctx.Err() == nil {
		found := c.take(ctx, func(g group, due []ledger.Delivery) {
			slots <- struct{}{}
			workers.Go(func() {
				defer func() { <-slots }()
				defer c.release(g)
				c.work(ctx, due)
			})
		})
		if found {
			continue
		}
		select {
		case <-ctx.Done():
		case <-c.wake:
		case <-time.After(c.o.Poll):
		}
	}
}

// take leases what is due and hands each group to start, unless this process
// works on it already. It reports whether anything was started.
func (c *Courier) take(ctx context.Context, start func(group, []ledger.Delivery)) bool {
	due, err := c.ledger.Due(ctx, c.o.Owner, c.o.Lease, 8*c.o.Workers)
	if err != nil {
		if ctx.Err() == nil {
			c.o.Log.WarnContext(ctx, "deliveries unavailable", "err", err)
		}
		return false
	}
	var order []group
	groups := map[group][]ledger.Delivery{}
	for _, d := range due {
		g := group{d.Registry, d.Repository, d.Subject}
		if groups[g] == nil {
			order = append(order, g)
		}
		groups[g] = append(groups[g], d)
	}
	found := false
	for _, g := range order {
		if c.claim(g) {
			found = true
			failpoint.Hit(failpoint.Claimed)
			start(g, groups[g])
		}
	}
	return found
}

func (c *Courier) claim(g group) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inFlight[g] {
		return false
	}
	c.inFlight[g] = true
	return true
}

func (c *Courier) release(g group) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.inFlight, g)
}

// work places one group's deliveries and settles each: all evidence, then all
// transparency artifacts, several at a time, for a registry without the
// referrers API then rewrites its list once for many.
func (c *Courier) work(ctx context.Context, due []ledger.Delivery) {
	for _, kind := range []string{ledger.EvidenceArtifact, ledger.TransparencyArtifact} {
		var placing errgroup.Group
		placing.SetLimit(perSubject)
		for _, d := range due {
			if d.Artifact == kind {
				placing.Go(func() error { c.deliver(ctx, d); return nil })
			}
		}
		_ = placing.Wait() // deliver keeps its errors in the delivery
	}
}

// deliver places and settles one delivery. What a shutdown interrupts goes back
// as it was, so that the next process need not wait for its lease to run out.
func (c *Courier) deliver(ctx context.Context, d ledger.Delivery) {
	manifest, err := c.place(ctx, d)
	settled := outcome(d, manifest, err, c.o.Clock())
	if err != nil && ctx.Err() != nil {
		settled = d
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTime)
	defer cancel()
	if err := c.ledger.Settle(ctx, settled); err != nil {
		c.o.Log.WarnContext(ctx, "delivery not settled", "entry", d.EntryID, "artifact", d.Artifact, "err", err)
		return
	}
	failpoint.Hit(failpoint.Settled)
	level := slog.LevelInfo
	if settled.LastError != "" {
		level = slog.LevelWarn
	}
	c.o.Log.Log(ctx, level, "delivery", "entry", d.EntryID, "artifact", d.Artifact, "state", settled.State,
		"repository", d.Repository, "subject", d.Subject, "tries", settled.Tries, "manifest", settled.Manifest, "err", settled.LastError)
}

// place does one delivery and returns the manifest that now refers to the image.
func (c *Courier) place(ctx context.Context, d ledger.Delivery) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	registry, err := c.registries(d.Registry)
	if err != nil {
		return "", err
	}
	repo, err := registry.Repository(d.Repository)
	if err != nil {
		return "", err
	}
	if d.Artifact == ledger.EvidenceArtifact {
		evidence, err := c.evidence(ctx, d.EntryID)
		if err != nil {
			return "", err
		}
		return storage.PlaceEvidence(ctx, repo, string(d.Subject), evidence)
	}
	transparency, err := c.transparency(ctx, d.EntryID)
	if err != nil {
		return "", err
	}
	return storage.PlaceTransparency(ctx, repo, string(d.Subject), transparency)
}

// evidence finds the bytes to place: the attached payload, else what was staged
// here, else (Open nil) a blob that the publisher pushed to the repository.
func (c *Courier) evidence(ctx context.Context, id statement.ID) (storage.Evidence, error) {
	record, err := c.ledger.Record(ctx, id, ledger.All)
	if err != nil {
		return storage.Evidence{}, err
	}
	s, err := statement.Parse(record.Canonical)
	if err != nil {
		return storage.Evidence{}, fmt.Errorf("read entry %s back: %w", id, err)
	}
	e := placement.Evidence(s)
	if e.Open != nil {
		return e, nil
	}
	staged, _, err := c.staging.Staged(ctx, record.Evidence)
	if errors.Is(err, ledger.ErrNotFound) {
		return e, nil
	}
	if err != nil {
		return e, err
	}
	if err := staged.Close(); err != nil {
		return e, err
	}
	e.Open = func() (io.ReadCloser, int64, error) { return c.staging.Staged(ctx, record.Evidence) }
	return e, nil
}

// transparency assembles the artifact from bytes that never change, so that a
// repeated delivery makes the same manifest.
func (c *Courier) transparency(ctx context.Context, id statement.ID) (storage.Transparency, error) {
	receipt, err := c.ledger.Receipt(ctx, id, ledger.All)
	if err != nil {
		return storage.Transparency{}, err
	}
	transparent, err := c.ledger.Transparent(ctx, id, ledger.All)
	if err != nil {
		return storage.Transparency{}, err
	}
	t, err := placement.Transparency(transparent, receipt)
	if err != nil {
		return t, fmt.Errorf("read entry %s back: %w", id, err)
	}
	return t, nil
}

// outcome is the delivery's next state: done, refused for good, or queued for
// a later try. Only what the registry refuses for good parks a delivery.
func outcome(d ledger.Delivery, manifest string, err error, now time.Time) ledger.Delivery {
	d.Tries++
	if err == nil {
		d.State, d.Manifest, d.LastError = ledger.Done, statement.Digest(manifest), ""
		return d
	}
	d.LastError = err.Error()
	if errors.Is(err, storage.ErrRefused) {
		d.State = ledger.Refused
		return d
	}
	d.NextAt = now.Add(delay(d.Tries, err))
	return d
}

// delay is how long to wait before the next try: what the registry asked for
// when it did, else exponential backoff with full jitter; at most maxDelay.
func delay(tries int, err error) time.Duration {
	if retry := (*storage.RetryError)(nil); errors.As(err, &retry) && retry.After > 0 {
		return min(retry.After, maxDelay)
	}
	limit := maxDelay
	if tries < 10 { // beyond, the shift exceeds maxDelay anyway
		limit = min(maxDelay, firstDelay<<(tries-1))
	}
	return time.Duration(rand.Int64N(int64(limit)) + 1)
}
