package compat

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/ledger/postgres"
	"github.com/scittd/scittd/statement"
)

// either is how much of a thing is done: in full, or in short.
func either(full, short int) int {
	if *fullFlag {
		return full
	}
	return short
}

// suite runs every promise of a store, each in a schema of its own that made
// makes, and counts them.
func suite(t *testing.T, promises *int, made func(testing.TB) (dsn string)) {
	ledgertest.Run(t, func(t testing.TB) ledgertest.Opener {
		*promises++
		dsn := made(t)
		return func(t testing.TB) ledgertest.Store {
			t.Helper()
			s, err := postgres.Open(t.Context(), dsn, postgres.Options{})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
	})
}

func TestEveryPromiseOfAStoreIsKept(t *testing.T) {
	if !*fullFlag && *dsnFlag == "" {
		// On PostgreSQL itself ledger/postgres runs it; here one log is enough.
		newSite(t).sound(t)
		return
	}
	promises := 0
	table.add(t, "every promise of a store (`ledgertest`)", func() string { return fmt.Sprintf("%d promises", promises) })
	suite(t, &promises, func(t testing.TB) string {
		dsn := theEngine.direct(theEngine.schema(t))
		if err := postgres.Migrate(t.Context(), dsn); err != nil {
			t.Fatal(err)
		}
		return dsn
	})
}

func TestThePortableProfileKeepsThePromisesWhenTransactionsAreRefused(t *testing.T) {
	r := newRefuser(0.05)
	watcher := newRefuser(0) // of the migrations: a long transaction yields nearly always
	refusing, watching := listen(t, r.carry), listen(t, watcher.carry)
	made := func(t testing.TB) string {
		schema := theEngine.schema(t)
		if err := postgres.Migrate(t.Context(), theEngine.through(watching, schema, "profile=portable")); err != nil {
			t.Fatal(err)
		}
		return theEngine.through(refusing, schema, "profile=portable")
	}
	promises, registered := 0, 0
	table.add(t, "portable profile: SERIALIZABLE, no TOAST settings, no advisory locks, no PL/pgSQL; 5 % of exchanges refused with 40001", func() string {
		return fmt.Sprintf("%d promises and %d registrations, %d statements and %d commits refused",
			promises, registered, r.statements.Load(), r.commits.Load())
	})
	if *fullFlag {
		suite(t, &promises, made)
	}

	s := &site{dsn: made(t), operator: ledgertest.NewOperator(t), publisher: ledgertest.NewPublisher(t, "https://wabbit.example")}
	s.operator.Init(t, open(t, s.dsn), s.publisher)
	replicas := []*ledger.Ledger{s.replica(t, s.dsn), s.replica(t, s.dsn)}
	claims := s.publisher.Claims(t, 0, either(500, 60))
	for i, claim := range claims {
		ledgertest.Append(t, replicas[i%2], claim) // each from where the other has left it
	}
	registered = len(claims)
	if size := s.sound(t); size != uint64(2+len(claims)) {
		t.Errorf("%d entries for %d statements", size-2, len(claims))
	}
	if r.statements.Load() == 0 || r.commits.Load() == 0 {
		t.Error("nothing was refused: this shows nothing")
	}
	for _, r := range []*refuser{r, watcher} {
		r.mu.Lock()
		defer r.mu.Unlock()
		for word, times := range r.forbidden {
			t.Errorf("%q was sent %d times", word, times)
		}
	}
}

func TestAStormOfOneStatementIsOneEntry(t *testing.T) {
	s := newSite(t)
	replicas := []*ledger.Ledger{s.replica(t, s.dsn), s.replica(t, s.dsn)}
	claim := s.publisher.Claims(t, 0, 1)[0]
	times := either(1000, 200)
	var fresh, answered atomic.Int64
	table.add(t, "duplicate storm: one statement over two replicas at once", func() string {
		return fmt.Sprintf("%d submissions, %d called new, %d identical receipts", times, fresh.Load(), answered.Load())
	})
	receipts := make([][]byte, times)
	var done sync.WaitGroup
	for i := range times {
		done.Go(func() {
			r, err := register(t.Context(), replicas[i%2], claim)
			if err != nil {
				t.Error(err)
				return
			}
			if receipts[i] = r.Receipt; r.New {
				fresh.Add(1)
			}
		})
	}
	done.Wait()
	for i, receipt := range receipts {
		if !bytes.Equal(receipt, receipts[0]) {
			t.Errorf("submission %d got another receipt", i)
			continue
		}
		answered.Add(1)
	}
	if size := s.sound(t); size != 3 || fresh.Load() != 1 {
		t.Errorf("%d entries, %d called new; want one", size-2, fresh.Load())
	}
}

// register submits until there is an answer that is not "try later".
func register(ctx context.Context, l *ledger.Ledger, s *statement.Statement) (ledger.Registered, error) {
	for {
		r, err := l.Append(ctx, ledgertest.Submission(l, s))
		if err == nil || !errors.Is(err, ledger.ErrUnavailable) && !errors.Is(err, ledger.ErrOverloaded) {
			return r, err
		}
		select {
		case <-ctx.Done():
			return r, err
		case <-time.After(20 * time.Millisecond): // a client's Retry-After
		}
	}
}

// kept checks that every acknowledged entry is in the log once, with the
// receipt that was given out.
func (s *site) kept(t *testing.T, acknowledged map[statement.ID]ledger.Registered) {
	t.Helper()
	if size := s.sound(t); size != uint64(2+len(acknowledged)) {
		t.Errorf("%d entries for %d acknowledged statements", size-2, len(acknowledged))
	}
	l := s.replica(t, s.dsn)
	for id, r := range acknowledged {
		receipt, err := l.Receipt(t.Context(), id, ledger.All)
		if err != nil {
			t.Fatalf("acknowledged at index %d: %v", r.Entry.Index, err)
		}
		if !bytes.Equal(receipt, r.Receipt) {
			t.Fatalf("index %d has another receipt than was given out", r.Entry.Index)
		}
	}
}

func TestAnAmbiguousCommitIsAnsweredNormally(t *testing.T) {
	s := newSite(t)
	cuts := either(300, 20)
	c := &cutter{chance: rand.New(rand.NewPCG(3, 4)), left: cuts}
	var mu sync.Mutex
	acknowledged := map[statement.ID]ledger.Registered{}
	table.add(t, "ambiguous commits: cut off inside, answer lost, or answered \"result unknown\" (40003)", func() string {
		return fmt.Sprintf("%d cut off, %d answers lost, %d unknown; %d acknowledged", c.broken.Load(), c.lost.Load(), c.unknown.Load(), len(acknowledged))
	})
	l := s.replica(t, theEngine.through(listen(t, c.carry), s.schema))
	more := func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.left > 0
	}
	var clients sync.WaitGroup
	for client := range 4 {
		clients.Go(func() {
			for n := 0; more() && !t.Failed(); n++ {
				if n > 100*cuts {
					t.Errorf("%d registrations by one client, and still commits to cut: they are not noticed", n)
					return
				}
				claim := s.publisher.Claims(t, client<<20+n, 1)[0]
				r, err := register(t.Context(), l, claim)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				acknowledged[claim.ID()] = r
				mu.Unlock()
			}
		})
	}
	clients.Wait()
	s.kept(t, acknowledged)
}

func TestReplicasThatWriteAtOnceMakeOneLog(t *testing.T) {
	s := newSite(t)
	const replicas, clients = 3, 8
	each := either(100, 10)
	var mu sync.Mutex
	acknowledged := map[statement.ID]ledger.Registered{}
	table.add(t, fmt.Sprintf("%d replicas write at once", replicas), func() string {
		return fmt.Sprintf("%d acknowledged by %d clients at each", len(acknowledged), clients)
	})
	var all sync.WaitGroup
	for replica := range replicas {
		l := s.replica(t, s.dsn)
		for client := range clients {
			claims := s.publisher.Claims(t, replica<<24+client<<16, each)
			all.Go(func() {
				for _, claim := range claims {
					r, err := register(t.Context(), l, claim)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					acknowledged[claim.ID()] = r
					mu.Unlock()
				}
			})
		}
	}
	all.Wait()
	if len(acknowledged) != replicas*clients*each {
		t.Errorf("%d of %d acknowledged", len(acknowledged), replicas*clients*each)
	}
	s.kept(t, acknowledged)
}

// The rate at 1,024 callers, without added latency and with.
func TestLatencyCostsLittleOfTheRate(t *testing.T) {
	const clients, floor = 1024, 0.7
	added := []time.Duration{0, 5 * time.Millisecond, 20 * time.Millisecond}
	rounds, window := either(5, 1), time.Duration(either(3000, 300))*time.Millisecond
	rates := make([][]float64, len(added))
	var found []string
	table.add(t, fmt.Sprintf("rate at c=%d with 5 and 20 ms added to every round trip, at least %.1f× of direct", clients, floor),
		func() string { return strings.Join(found, "; ") })

	s := newSite(t)
	replicas := make([]*ledger.Ledger, len(added))
	for i, d := range added {
		// Direct is through a proxy too: what is compared is the latency.
		replicas[i] = s.replica(t, theEngine.through(distant(t, d), s.schema))
	}
	for round := range rounds {
		for i, l := range replicas {
			// Signed before, so that the clients do nothing but wait.
			claims := s.publisher.Claims(t, (round*len(replicas)+i)<<16, either(24_000, 2*clients))
			rates[i] = append(rates[i], rate(t, l, clients, window, claims))
		}
	}
	median := func(rates []float64) float64 {
		slices.Sort(rates)
		return rates[len(rates)/2]
	}
	direct := median(rates[0])
	found = append(found, fmt.Sprintf("direct %.0f/s", direct))
	for i, d := range added[1:] {
		ratio := median(rates[i+1]) / direct
		found = append(found, fmt.Sprintf("+%v %.2f×", d, ratio))
		if *fullFlag && ratio < floor { // a short window is no measurement
			t.Errorf("with %v added the rate is %.2f× of direct", d, ratio)
		}
	}
}

// rate is registrations per second of a closed loop of clients: those begun in a
// window, or all claims when they do not last that long.
func rate(t *testing.T, l *ledger.Ledger, clients int, window time.Duration, claims []*statement.Statement) float64 {
	t.Helper()
	var next, counted atomic.Int64
	var all sync.WaitGroup
	begin := time.Now()
	for range clients {
		all.Go(func() {
			for time.Since(begin) < window {
				n := int(next.Add(1)) - 1
				if n >= len(claims) {
					return
				}
				if _, err := register(t.Context(), l, claims[n]); err != nil {
					t.Error(err)
					return
				}
				counted.Add(1)
			}
		})
	}
	all.Wait()
	return float64(counted.Load()) / time.Since(begin).Seconds()
}
