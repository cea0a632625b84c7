package registrar

import (
	"sync"
	"time"

	"github.com/scittd/scittd/ledger"
)

// RouteFigures say how one registry fares, since this process began.
type RouteFigures struct {
	Registry string
	Busy     int  // images that are being worked on
	Open     bool // the breaker lets probes through only
	Placed   uint64
	Refused  uint64
	Failed   uint64 // tries after which another follows
	Lag      Lag
}

// LagBounds are the upper bounds of Lag's buckets. Registration times are kept to
// the second, so that there is no use in finer ones.
var LagBounds = []time.Duration{
	time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute,
	5 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour, 6 * time.Hour, 24 * time.Hour,
}

// Lag counts what was placed by how long after its registration: in each bucket
// what took at most its bound, without the buckets before.
type Lag struct {
	Buckets [13]uint64 // one for each of LagBounds, and one for what took longer
	Sum     time.Duration
}

// tally is what a route has counted.
type tally struct {
	mu sync.Mutex
	RouteFigures
}

// count adds the outcome d of one try.
func (t *tally) count(d ledger.Delivery, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch d.State {
	case ledger.Queued:
		t.Failed++
	case ledger.Refused:
		t.Refused++
	case ledger.Done:
		t.Placed++
		lag, bucket := max(0, now.Sub(d.Since)), 0
		for bucket < len(LagBounds) && lag > LagBounds[bucket] {
			bucket++
		}
		t.Lag.Buckets[bucket]++
		t.Lag.Sum += lag
	}
}

// figures of the route by now.
func (r *route) figures() RouteFigures {
	r.placed.mu.Lock()
	defer r.placed.mu.Unlock()
	f := r.placed.RouteFigures
	f.Registry, f.Busy, f.Open = r.host, int(r.busy.Load()), r.breaker.open()
	return f
}
