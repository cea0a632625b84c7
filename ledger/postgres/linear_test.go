package postgres_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/statement"
)

var histories = flag.Int("histories", 6, "histories that are checked for linearizability")

// A log, to its callers, is one register that grows: registering a statement
// gives its place, the next one unless it has one, and reading gives the place or
// none. What two replicas answer has to be explained by one order of all calls,
// in which each takes effect at one moment between its begin and its end. A
// registration that ended in an error may do so at any time after its begin, or
// never.

// call is a call of one client, about the n-th statement of a history.
type call struct {
	register bool
	n        byte
}

// place is what a call answered: relative to where the history began.
type place struct {
	unknown bool // of a registration: an error; index is where it is in the end
	none    bool // of a reading: it is not registered
	index   int
}

// register is that log: the n of each entry, in order.
var register = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		log, c, p := state.(string), input.(call), output.(place)
		at := strings.IndexByte(log, c.n)
		switch {
		case !c.register:
			return p.none == (at < 0) && (p.none || p.index == at), log
		case at >= 0:
			return p.unknown || p.index == at, log
		}
		return p.index == len(log), log + string([]byte{c.n})
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
}

// history lets clients make so many calls each, to register and read statements
// that are new, some of them the same, through one ledger or the other, and
// writes down what they see. truth reads the store directly.
func history(t *testing.T, clients, calls int, publisher *ledgertest.Publisher, round int, truth *ledger.Ledger, ledgers ...*ledger.Ledger) (all []porcupine.Operation, failed error) {
	t.Helper()
	statements := clients * calls / 2
	claims := publisher.Claims(t, round*(statements+1), statements+1)
	// An entry of our own ends whatever an earlier history has under way.
	base := ledgertest.Append(t, truth, claims[statements]).Entry.Index + 1
	begin := time.Now()
	var mu sync.Mutex
	var running sync.WaitGroup
	for client := range clients {
		running.Go(func() {
			for range calls {
				c := call{register: rand.N(5) < 3, n: byte(rand.N(statements))}
				op := porcupine.Operation{ClientId: client, Input: c, Call: int64(time.Since(begin))}
				p, err := c.make(t.Context(), ledgers[rand.N(len(ledgers))], claims[c.n], base)
				op.Output, op.Return = p, int64(time.Since(begin))
				mu.Lock()
				if err != nil && !errors.Is(err, ledger.ErrUnavailable) {
					failed = errors.Join(failed, fmt.Errorf("%+v: %w", c, err))
				}
				if err == nil || c.register { // a reading that failed tells nothing
					all = append(all, op)
				}
				mu.Unlock()
			}
		})
	}
	running.Wait()
	for i, op := range all {
		if !op.Output.(place).unknown {
			continue
		}
		found, err := call{n: op.Input.(call).n}.make(t.Context(), truth, claims[op.Input.(call).n], base)
		if err != nil {
			t.Fatal(err)
		}
		all[i].Output, all[i].Return = place{unknown: true, none: found.none, index: found.index}, math.MaxInt64
	}
	// What was never registered took no effect.
	return slices.DeleteFunc(all, func(op porcupine.Operation) bool {
		return op.Output.(place).unknown && op.Output.(place).none
	}), failed
}

func (c call) make(ctx context.Context, l *ledger.Ledger, s *statement.Statement, base uint64) (place, error) {
	if c.register {
		r, err := l.Append(ctx, ledgertest.Submission(l, s))
		return place{unknown: err != nil, index: int(r.Entry.Index) - int(base)}, err
	}
	e, err := l.Entry(ctx, s.ID(), ledger.All)
	if errors.Is(err, ledger.ErrNotFound) {
		return place{none: true}, nil
	}
	return place{index: int(e.Index) - int(base)}, err
}

// opened is a ledger over a store, for the length of the test.
func opened(t *testing.T, s ledger.Store, operator *ledgertest.Operator) *ledger.Ledger {
	t.Helper()
	l, err := ledger.Open(t.Context(), s, ledger.Options{Issuer: operator.Issuer(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return l
}

// Half of the histories have their commits cut off.
func TestRegistrationsAndReadsAreLinearizable(t *testing.T) {
	direct := migrated(t)
	address := strings.SplitAfter(strings.SplitN(direct, "/test", 2)[0], "@")[1]
	operator, publisher := ledgertest.NewOperator(t), ledgertest.NewPublisher(t, "https://wabbit.example")
	store := open(t, direct)
	operator.Init(t, store, publisher)
	truth := opened(t, store, operator)
	var wires [2]*wire
	var ledgers []*ledger.Ledger
	for i := range wires {
		wires[i] = newWire(t, address)
		ledgers = append(ledgers, opened(t, open(t, strings.Replace(direct, address, wires[i].listener.Addr().String(), 1)), operator))
	}
	operations, unknown := 0, 0
	for round := range *histories {
		for _, w := range wires {
			w.cut.Store(nil)
			if next := sweep(); round%2 == 1 {
				w.cut.Store(&next)
			}
		}
		h, err := history(t, 8, 20, publisher, round, truth, ledgers...)
		if err != nil {
			t.Errorf("errors other than ErrUnavailable: %v", err)
		}
		for _, op := range h {
			operations++
			if op.Output.(place).unknown {
				unknown++
			}
		}
		if result := porcupine.CheckOperationsTimeout(register, h, time.Minute); result != porcupine.Ok {
			t.Fatalf("history %d is not linearizable: %s\n%v", round, result, h)
		}
	}
	t.Logf("%d histories, %d operations, %d of unknown outcome: linearizable", *histories, operations, unknown)
	if err := ledgertest.CheckLog(t.Context(), store, operator.Receipt.Public()); err != nil {
		t.Error(err)
	}
}

// hasty answers now and then before it has written, and then does not.
type hasty struct{ ledger.Store }

func (s hasty) Commit(ctx context.Context, b *ledger.Batch) error {
	return hastily(ctx, b, s.Store.Commit)
}

func (s hasty) Turn(ctx context.Context) (ledger.Turn, error) {
	t, err := s.Store.Turn(ctx)
	if err != nil {
		return nil, err
	}
	return hastyTurn{t}, nil
}

type hastyTurn struct{ ledger.Turn }

func (t hastyTurn) Commit(ctx context.Context, b *ledger.Batch) error {
	return hastily(ctx, b, t.Turn.Commit)
}

func hastily(ctx context.Context, b *ledger.Batch, commit func(context.Context, *ledger.Batch) error) error {
	if rand.N(8) == 0 {
		return nil
	}
	return commit(ctx, b)
}

// stale answers readers from a copy that lags behind by some entries.
type stale struct{ ledger.Store }

func (s stale) Find(ctx context.Context, q ledger.Query) ([]ledger.Entry, error) {
	head, err := s.Head(ctx)
	if err != nil {
		return nil, err
	}
	if q.Before == 0 {
		q.Before = head.Size - min(3, head.Size-2)
	}
	return s.Store.Find(ctx, q)
}

func TestHistoriesOfBadStoresAreNotLinearizable(t *testing.T) {
	for _, tc := range []struct {
		name string
		bad  func(ledger.Store) ledger.Store
	}{
		{"one that answers before it has written", func(s ledger.Store) ledger.Store { return hasty{s} }},
		{"one that reads from a copy that lags", func(s ledger.Store) ledger.Store { return stale{s} }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			operator, publisher := ledgertest.NewOperator(t), ledgertest.NewPublisher(t, "https://wabbit.example")
			store := open(t, migrated(t))
			operator.Init(t, store, publisher)
			const most = 20 // short ones: that there is no order at all takes long to find out
			for round := range most {
				truth, l := opened(t, store, operator), opened(t, tc.bad(store), operator) // new ones: they may have noticed
				h, _ := history(t, 3, 12, publisher, round, truth, l)
				if porcupine.CheckOperationsTimeout(register, h, time.Minute) == porcupine.Illegal {
					return
				}
			}
			t.Errorf("%d histories were found to be linearizable", most)
		})
	}
}
