package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
	"github.com/scittd/scittd/storage"
	"github.com/scittd/scittd/storage/front"
)

// known is what the ledger knows of the registry, for those who go on without
// it: while the database is away, nothing is known.
type known struct {
	db    atomic.Pointer[projection]
	hosts []string // that deliveries to the registry name, now and before
}

var (
	_ storage.Memo     = (*known)(nil)
	_ front.Placements = (*known)(nil)
)

// projection is what known needs of a store.
type projection interface {
	ledger.Projection
	Absences(ctx context.Context, entries []uint64) ([]ledger.Absence, error)
}

func (k *known) open(db projection) { k.db.Store(&db) }
func (k *known) close()             { k.db.Store(nil) }

func (k *known) ledger() (projection, error) {
	if db := k.db.Load(); db != nil {
		return *db, nil
	}
	return nil, ledger.ErrUnavailable
}

// Capability implements storage.Memo.
func (k *known) Capability(ctx context.Context, registry, repository string) (string, time.Time, error) {
	db, err := k.ledger()
	if err != nil {
		return "", time.Time{}, err
	}
	return db.Capability(ctx, registry, repository)
}

// SetCapability implements storage.Memo.
func (k *known) SetCapability(ctx context.Context, registry, repository, capability string, at time.Time) error {
	db, err := k.ledger()
	if err != nil {
		return err
	}
	return db.SetCapability(ctx, registry, repository, capability, at)
}

// Placements implements front.Placements. A page has the same entries whatever
// the registry was called, so that those of several names fit together.
func (k *known) Placements(ctx context.Context, repository, subject string, from uint64, n int) ([]front.Placement, uint64, error) {
	db, err := k.ledger()
	if err != nil {
		return nil, 0, err
	}
	image, err := statement.ParseDigest(subject)
	if err != nil {
		return nil, 0, nil // no claim is about one like that
	}
	var placed []front.Placement
	var next uint64
	for _, host := range k.hosts {
		deliveries, behind, err := db.PlacedAt(ctx, ledger.Place{Registry: host, Repository: repository, Subject: image}, from, n)
		if err != nil {
			return nil, 0, err
		}
		purged, err := purgedAt(ctx, db, deliveries)
		if err != nil {
			return nil, 0, err
		}
		for _, d := range deliveries {
			if d.Artifact != ledger.ArchiveArtifact && !(d.Artifact == ledger.EvidenceArtifact && purged[d.Entry]) {
				placed = append(placed, front.Placement{Entry: d.Entry, Manifest: string(d.Manifest)})
			}
		}
		next = behind
	}
	slices.SortStableFunc(placed, func(a, b front.Placement) int { return cmp.Compare(a.Entry, b.Entry) })
	return placed, next, nil
}

// purgedAt are the entries of deliveries to one place whose evidence was purged
// there. Nobody is told of it from here any more, whichever process removed it,
// and whoever still remembers the manifest.
func purgedAt(ctx context.Context, db projection, deliveries []ledger.Delivery) (map[uint64]bool, error) {
	var entries []uint64
	for _, d := range deliveries {
		if d.Artifact == ledger.EvidenceArtifact {
			entries = append(entries, d.Entry)
		}
	}
	purged := map[uint64]bool{}
	if len(entries) == 0 {
		return purged, nil
	}
	absences, err := db.Absences(ctx, entries)
	for _, a := range absences {
		if a.State == ledger.EvidencePurged && (a.Place == deliveries[0].Place() || a.Place == ledger.Place{}) {
			purged[a.Entry] = true
		}
	}
	return purged, err
}

// openRemote prepares to talk to the external registry: one value for all of
// this process, so that those who keep its lists never overwrite each other's.
func (s *service) openRemote(c Config) (err error) {
	s.known.hosts = []string{c.registryHost()}
	if c.Registry.Host != c.registryHost() {
		s.known.hosts = append(s.known.hosts, c.Registry.Host)
	}
	s.remote, err = remoteRegistry(c, &s.known)
	return err
}

// synthesis answers the referrers API in the registry's place. nil: this is not
// in front of one.
func (s *service) synthesis(c Config) *front.Synthesis {
	if s.remote == nil || c.Registry.Front != inFront {
		return nil
	}
	return front.NewSynthesis(s.remote, &s.known, s.log)
}

// findRegistry is the registry of a host that a delivery names.
func findRegistry(c Config, target storage.Registry) func(host string) (storage.Registry, error) {
	host := c.registryHost()
	return func(h string) (storage.Registry, error) {
		if h != host && h != c.Registry.Host { // which it was called before something stood in front of it
			return nil, fmt.Errorf("registry %s is not configured here (only %s is)", h, host)
		}
		return target, nil
	}
}
