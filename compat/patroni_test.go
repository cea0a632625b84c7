//go:build patroni

package compat

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/scittd/scittd/internal/testenv"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/statement"
)

// cluster is the server of a run under this build tag.
var cluster *testenv.Patroni

func launch() (dsn string, stop func() error, err error) {
	if cluster, err = testenv.LaunchPatroni(); err != nil {
		return "", nil, err
	}
	return cluster.DSN(), cluster.Close, nil
}

// load registers from two replicas until it is told to stop, and remembers what
// was acknowledged.
type load struct {
	*site
	clients sync.WaitGroup
	over    atomic.Bool
	acks    atomic.Int64

	mu           sync.Mutex
	acknowledged map[statement.ID]ledger.Registered
	watch        time.Time // when set: the first answer to what was submitted later ends the wait
	resumed      chan time.Time
}

func (s *site) load(t *testing.T) *load {
	l := &load{site: s, acknowledged: map[statement.ID]ledger.Registered{}, resumed: make(chan time.Time, 1)}
	for replica := range 2 {
		replica, first := s.replica(t, s.dsn), replica<<24
		for client := range 8 {
			l.clients.Go(func() {
				for n := 0; !l.over.Load(); n++ {
					claim := s.publisher.Claims(t, first+client<<16+n, 1)[0]
					// A submission that failed is begun again, as clients do, so
					// that what follows a kill also has a beginning after it.
					for {
						begin := time.Now()
						r, err := replica.Append(context.Background(), ledgertest.Submission(replica, claim))
						if err == nil {
							l.answered(claim.ID(), r, begin)
							break
						}
						time.Sleep(20 * time.Millisecond) // a client's Retry-After
					}
					time.Sleep(20 * time.Millisecond) // what is registered is also recomputed at the end
				}
			})
		}
	}
	return l
}

func (l *load) answered(id statement.ID, r ledger.Registered, begin time.Time) {
	l.acks.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acknowledged[id] = r
	if !l.watch.IsZero() && begin.After(l.watch) {
		l.watch = time.Time{}
		l.resumed <- time.Now()
	}
}

// strike does it to the leader, and returns how long after it a statement that
// was submitted later was acknowledged.
func (l *load) strike(do func(leader string) error) (leader string, resumed time.Duration, err error) {
	if err := cluster.Whole(3 * time.Minute); err != nil {
		return "", 0, err
	}
	for since := l.acks.Load(); l.acks.Load() < since+50; {
		time.Sleep(10 * time.Millisecond)
	}
	if leader, err = cluster.Leader(); err != nil {
		return "", 0, err
	}
	began := time.Now()
	if err := do(leader); err != nil {
		return leader, 0, err
	}
	l.mu.Lock()
	l.watch = time.Now()
	l.mu.Unlock()
	select {
	case at := <-l.resumed:
		return leader, at.Sub(began), nil
	case <-time.After(3 * time.Minute):
		return leader, 0, fmt.Errorf("no registration for three minutes")
	}
}

// missing counts acknowledged entries that are not there as they were promised.
func (l *load) missing(t *testing.T) (lost int) {
	t.Helper()
	reader := l.replica(t, l.dsn)
	for id, r := range l.acknowledged {
		receipt, err := reader.Receipt(t.Context(), id, ledger.All)
		if err != nil || !bytes.Equal(receipt, r.Receipt) {
			t.Errorf("acknowledged at index %d: %v", r.Entry.Index, err)
			lost++
		}
	}
	return lost
}

func TestALeaderThatIsKilledUnderLoadTakesNothingAlong(t *testing.T) {
	table.about(table.engine+", three nodes under Debian's patroni and etcd",
		fmt.Sprintf("synchronous_mode strict; ttl %d, loop_wait %d, retry_timeout %d s",
			testenv.PatroniTTL, testenv.PatroniLoopWait, testenv.PatroniRetryTimeout))
	const limit = 15 * time.Second
	kills := either(20, 2)
	var found string
	table.add(t, "leader killed under load (kill -9; every second time only its PostgreSQL), two replicas writing", func() string { return found })
	l := newSite(t).load(t)

	times := map[bool][]time.Duration{}
	for n := range kills {
		machine := n%2 == 0
		leader, resumed, err := l.strike(func(leader string) error { return cluster.Kill(leader, machine) })
		if err != nil {
			t.Fatal(err)
		}
		what := "PostgreSQL"
		if machine {
			what = "PostgreSQL and patroni"
			if err := cluster.Start(leader); err != nil {
				t.Fatal(err)
			}
		}
		times[machine] = append(times[machine], resumed)
		fmt.Fprintf(os.Stderr, "kill %d: %s of %s, writes resumed after %v\n", n+1, what, leader, resumed.Round(time.Millisecond))
		if resumed > limit {
			t.Errorf("kill %d: writes resumed after %v, want %v", n+1, resumed, limit)
		}
	}
	l.over.Store(true)
	l.clients.Wait()

	size := l.sound(t)
	lost := l.missing(t)
	doubled := int(size) - 2 - len(l.acknowledged) + lost
	if doubled != 0 {
		t.Errorf("%d entries, %d acknowledged, %d of them lost", size-2, len(l.acknowledged), lost)
	}
	found = fmt.Sprintf("%d kills; writes resumed after %s (node), %s (PostgreSQL alone); %d acknowledged, %d lost, %d doubled",
		kills, spread(times[true]), spread(times[false]), len(l.acknowledged), lost, doubled)
}

// spread is median and maximum.
func spread(times []time.Duration) string {
	slices.Sort(times)
	return fmt.Sprintf("median %.1f s, at most %.1f s", times[len(times)/2].Seconds(), times[len(times)-1].Seconds())
}
