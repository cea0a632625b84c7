package registrar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/scittd/scittd/internal/placement"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
	"github.com/scittd/scittd/storage"
)

// Courier places what the ledger promised to place: it takes due deliveries,
// hangs evidence and transparency artifact on the image, reads the referrers
// list back and settles. Every step may be repeated: the same claim makes the
// same manifest, so a crash costs work and nothing else. Start it with Run.
//
// Each registry has a route of its own, with its own workers and its own
// breaker: one in trouble delays no other. On a route one worker at a time is at
// one image in one repository, in this process and, while leases hold, in all of
// them: so writers of a referrers tag do not race. Placing survives the race that
// is left.
type Courier struct {
	ledger     *ledger.Ledger
	staging    ledger.Staging
	registries func(host string) (storage.Registry, error)
	o          CourierOptions
	wake       chan struct{}

	mu     sync.Mutex
	routes map[string]*route // by registry, for good: deliveries name few
}

// CourierOptions are settings of NewCourier; zero values take the default.
type CourierOptions struct {
	Owner    string           // names this process in leases: no other may ever have the same
	Workers  int              // images of one registry worked on at once; 16
	PerImage int              // artifacts placed under one image at once; 8
	Lease    time.Duration    // how long others keep off what this process died with; 1 min
	Poll     time.Duration    // how often to look for what has become due; 1 s
	Timeout  time.Duration    // for one delivery, a large evidence included; 10 min
	Clock    func() time.Time // the ledger's, for what is due is decided by both; time.Now
	Log      *slog.Logger

	// Gone tells whether an image that is absent was deleted on purpose, so that
	// nobody need wait for it; nil: nobody knows.
	Gone func(ctx context.Context, at ledger.Place) (bool, error)

	// Custodian is asked whether evidence was purged, and is shown the images that
	// things are hung on; nil: nothing is ever purged.
	Custodian *Custodian
}

// NewCourier returns a Courier that finds a registry by the host a delivery
// names. It asks once for each delivery, and should get the same value each time:
// what is added to one list by one value is added together.
func NewCourier(l *ledger.Ledger, s ledger.Staging, registries func(host string) (storage.Registry, error), o CourierOptions) *Courier {
	if o.Workers == 0 {
		o.Workers = 16
	}
	if o.PerImage == 0 {
		o.PerImage = 8
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
		wake: make(chan struct{}, 1), routes: map[string]*route{}}
}

// Wake tells a running Courier that something may be due now. It never blocks.
func (c *Courier) Wake() { poke(c.wake) }

func poke(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

// Run works until ctx ends, then waits for the deliveries in hand.
func (c *Courier) Run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	for ctx.Err() == nil {
		hosts, err := c.ledger.Waiting(ctx)
		if err != nil && ctx.Err() == nil {
			c.o.Log.WarnContext(ctx, "deliveries unavailable", "err", err)
		}
		for _, host := range hosts {
			r, known := c.route(host)
			if !known {
				running.Go(func() { r.run(ctx) })
			}
			poke(r.wake)
		}
		select {
		case <-ctx.Done():
		case <-c.wake:
		case <-time.After(c.o.Poll):
		}
	}
}

// route to a registry.
func (c *Courier) route(host string) (_ *route, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, known := c.routes[host]
	if !known {
		r = &route{Courier: c, host: host, wake: make(chan struct{}, 1)}
		c.routes[host] = r
	}
	return r, known
}

// Figures of every route that was used, by registry.
func (c *Courier) Figures() []RouteFigures {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []RouteFigures
	for _, r := range c.routes {
		all = append(all, r.figures())
	}
	slices.SortFunc(all, func(a, b RouteFigures) int { return strings.Compare(a.Registry, b.Registry) })
	return all
}

// errNoRegistry: what this process was configured with does not lead to the
// registry that a delivery names.
var errNoRegistry = errors.New("no way to the registry")

// prepare reads what d is to place, and returns how: all that put does is to ask
// the registry.
func (c *Courier) prepare(ctx context.Context, d *ledger.Delivery) (put func(context.Context) (manifest string, err error), err error) {
	registry, err := c.registries(d.Registry)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoRegistry, err)
	}
	repo, err := registry.Repository(d.Repository)
	if err != nil {
		return nil, err
	}
	placer := storage.Placer{
		SawImage:    func(manifest []byte) { c.o.Custodian.sawImage(ctx, d.Subject, manifest) },
		SawEvidence: func(size int64) { d.Size = size },
	}
	if d.Artifact == ledger.EvidenceArtifact {
		if err := c.o.Custodian.mayPlace(ctx, *d); err != nil {
			return nil, err
		}
		evidence, err := c.evidence(ctx, *d)
		return func(ctx context.Context) (string, error) {
			manifest, err := placer.Evidence(ctx, repo, string(d.Subject), evidence)
			// Asked also when time is up: what of it arrived must not stay, if it was purged.
			asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTime)
			defer cancel()
			if gone := c.o.Custodian.placed(asking, *d, statement.Digest(evidence.Digest), err == nil); gone != nil {
				return "", gone
			}
			return manifest, err
		}, err
	}
	transparency, err := c.transparency(ctx, d.EntryID)
	return func(ctx context.Context) (string, error) {
		if d.Artifact == ledger.ArchiveArtifact {
			return storage.PlaceArchive(ctx, repo, d.EntryID.String(), transparency)
		}
		return placer.Transparency(ctx, repo, string(d.Subject), transparency)
	}, err
}

// evidence finds the bytes to place: the attached payload, else what was staged
// here, else a blob that the publisher pushed to the repository, or that was
// placed in another one (Open nil: it was not).
func (c *Courier) evidence(ctx context.Context, d ledger.Delivery) (storage.Evidence, error) {
	id := d.EntryID
	record, err := c.ledger.Record(ctx, id, ledger.All)
	if err != nil {
		return storage.Evidence{}, err
	}
	s, err := statement.Parse(record.Canonical)
	if err != nil {
		return storage.Evidence{}, fmt.Errorf("read entry %s back: %w", id, err)
	}
	if s.Detached() {
		if s, err = s.WithEvidence(record.Evidence); err != nil {
			return storage.Evidence{}, fmt.Errorf("read entry %s back: %w", id, err)
		}
	}
	e := placement.Evidence(s)
	if e.Open != nil {
		return e, nil
	}
	staged, _, err := c.staging.Staged(ctx, record.Evidence)
	if errors.Is(err, ledger.ErrNotFound) {
		e.Open, err = c.placedElsewhere(ctx, d, record.Evidence)
		return e, err
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
