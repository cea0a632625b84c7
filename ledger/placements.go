package ledger

import (
	"context"
	"time"

	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

// PlaceAlso is the action of the record that a delivery was added after the
// registration of its entry; no operator orders it.
const PlaceAlso = "place"

// Placements give claims that are registered already another place. They stand
// beside the log: what an entry asks for itself was fixed when it was committed.
type Placements interface {
	// Enqueue queues those of ds, all of one entry, that are not there, each with a
	// record of who asked for it, and claims the staged evidence that they need; one
	// transaction. It says how many those were: none of an entry that is private or
	// unknown, and no second archive.
	Enqueue(ctx context.Context, ds []Delivery, who, why string, at time.Time) (int, error)
}

// Elsewhere is what s, which is registered as e, would be delivered to if it came
// to the registry at host only now, with those circumstances. Nothing, unless a
// repository is named: a plain resubmission asks for no place.
func Elsewhere(e Entry, s *statement.Statement, p *policy.Policy, host, archive string, with Circumstances, now time.Time) ([]Delivery, error) {
	if with.Repository == "" {
		return nil, nil
	}
	n := NewEntry{Entry: e, Registry: host, Repository: with.Repository, Image: with.Image}
	if err := n.deliver(s, p, archive); err != nil {
		return nil, err
	}
	for i := range n.Deliveries {
		n.Deliveries[i].NextAt = now
	}
	return n.Deliveries, nil
}
