package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/scittd/scittd/statement"
)

// Backlog is the outbox as its operator sees it: what waits, what was refused,
// and what can be done about it. The Courier needs none of it.
type Backlog interface {
	// Tallies counts what is open, by registry, in order.
	Tallies(ctx context.Context, now time.Time) ([]Tally, error)

	// FindDeliveries returns a page of deliveries, by registry, repository,
	// subject, entry and artifact. Of private entries there are none.
	FindDeliveries(ctx context.Context, q DeliveryQuery) ([]Delivery, error)

	// Intervene does i to the delivery that d names, and records it, in one
	// transaction. ErrNotFound: there is no such delivery. ErrOtherState: it is not
	// in a state for that.
	Intervene(ctx context.Context, d Delivery, i Intervention) error
}

// Tally is what is open at one registry.
type Tally struct {
	Registry string
	Queued   int64
	Refused  int64
	Due      time.Time // since when the one waits that has been due longest; zero: none is due
	Oldest   time.Time // registration time of the oldest entry that is queued; zero: none is
}

// DeliveryQuery chooses deliveries. Zero fields choose all; but deliveries that
// are done are many, and only found by their entry.
type DeliveryQuery struct {
	State      string
	EntryID    statement.ID
	Registry   string
	Repository string
	Subject    statement.Digest
	Artifact   string
	After      *Delivery // the last one of the page before
	Limit      int       // 1..MaxPage; a store refuses others
}

// Check refuses a query that no store answers.
func (q DeliveryQuery) Check() error {
	if q.Limit < 1 || q.Limit > MaxPage {
		return fmt.Errorf("page of %d is not within 1..%d", q.Limit, MaxPage)
	}
	switch q.State {
	case Queued, Refused, Dropped:
		return nil
	case Done:
		if q.EntryID != (statement.ID{}) {
			return nil
		}
		return fmt.Errorf("deliveries that are %s are only found by their entry", Done)
	}
	return fmt.Errorf("deliveries are in no state %q", q.State)
}

// What an operator can do to a delivery.
const (
	Retry = "retry" // try again now, whatever its state: also what is done and was deleted since
	Park  = "park"  // stop trying: what is queued becomes refused
	Drop  = "drop"  // never place it: what is queued or refused becomes dropped
)

// Intervention is an operator's order about a delivery.
type Intervention struct {
	Action   string
	Who, Why string // Who is never empty
	At       time.Time
}

// ErrOtherState: the delivery is not in a state for what was ordered.
var ErrOtherState = errors.New("the delivery is in another state")

// Apply returns d as i leaves it.
func (i Intervention) Apply(d Delivery) (Delivery, error) {
	reason := func(done string) string {
		text := done + " by " + i.Who
		if i.Why != "" {
			text += ": " + i.Why
		}
		return text
	}
	switch {
	case i.Action == Retry:
		d.State, d.Tries, d.NextAt, d.Manifest = Queued, 0, i.At, ""
	case i.Action == Park && d.State == Queued:
		d.State, d.LastError = Refused, reason("parked")
	case i.Action == Drop && (d.State == Queued || d.State == Refused):
		d.State, d.LastError = Dropped, reason("dropped")
	case i.Action == Park || i.Action == Drop:
		return d, fmt.Errorf("%w: it is %s", ErrOtherState, d.State)
	default:
		return d, fmt.Errorf("%q is nothing that can be done to a delivery", i.Action)
	}
	return d, nil
}
