package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
)

var doubtful = flag.Int("doubtful", 300, "commits of two replicas whose connection is cut")

// doubted is a store that remembers the commits which ended in an error that
// does not tell their outcome.
type doubted struct {
	ledger.Store
	mu    sync.Mutex
	heads []ledger.Head
}

func (d *doubted) note(b *ledger.Batch, err error) error {
	if err != nil && !errors.Is(err, ledger.ErrConflict) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.heads = append(d.heads, b.Head)
	}
	return err
}

func (d *doubted) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.heads)
}

func (d *doubted) Commit(ctx context.Context, b *ledger.Batch) error {
	return d.note(b, d.Store.Commit(ctx, b))
}

func (d *doubted) Turn(ctx context.Context) (ledger.Turn, error) {
	t, err := d.Store.Turn(ctx)
	if err != nil {
		return nil, err
	}
	return doubtedTurn{t, d}, nil
}

type doubtedTurn struct {
	ledger.Turn
	d *doubted
}

func (t doubtedTurn) Commit(ctx context.Context, b *ledger.Batch) error {
	return t.d.note(b, t.Turn.Commit(ctx, b))
}

// sweep cuts every other message, by lot, now of the client and now of the
// server, each time at another byte: those near the end, where COMMIT and Sync
// are, one by one, and those before them spread evenly.
func sweep() func() *cut {
	var cuts atomic.Int64
	return func() *cut {
		if rand.N(2) == 0 {
			return nil
		}
		n := int(cuts.Add(1))
		part := func(m []byte) []byte {
			if n/2%2 == 0 {
				return m[:max(0, len(m)-n/4%80)]
			}
			return m[:n/4*7919%(len(m)+1)]
		}
		if n%2 == 0 {
			return &cut{answered: part}
		}
		return &cut{sent: part}
	}
}

// TestDoubtIsTheNormalCase cuts the connections of two replicas under load, in
// and after the messages of their commits.
func TestDoubtIsTheNormalCase(t *testing.T) {
	const clients = 16
	direct := migrated(t)
	address := strings.SplitAfter(strings.SplitN(direct, "/test", 2)[0], "@")[1]
	operator, publisher := ledgertest.NewOperator(t), ledgertest.NewPublisher(t, "https://wabbit.example")
	store := open(t, direct)
	operator.Init(t, store, publisher)

	var stores [2]*doubted
	var ledgers [2]*ledger.Ledger
	for i := range stores {
		w := newWire(t, address)
		next := sweep()
		w.cut.Store(&next)
		stores[i] = &doubted{Store: open(t, strings.Replace(direct, address, w.listener.Addr().String(), 1))}
		l, err := ledger.Open(t.Context(), stores[i], ledger.Options{Issuer: operator.Issuer(t)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := l.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
		ledgers[i] = l
	}

	var mu sync.Mutex
	acknowledged := map[uint64]ledger.Registered{}
	fails := 0
	var load sync.WaitGroup
	for client := range clients {
		load.Go(func() {
			for n := 0; stores[0].count()+stores[1].count() < *doubtful; n++ {
				stmt := publisher.Claim(t, ledgertest.Image(client<<20+n), ledgertest.SBOM, fmt.Append(nil, client, n))
				for try := client; ; try++ { // at the other replica, each time
					l := ledgers[try%2]
					r, err := l.Append(t.Context(), ledgertest.Submission(l, stmt))
					mu.Lock()
					if err == nil {
						if other, taken := acknowledged[r.Entry.Index]; taken {
							t.Errorf("entries %s and %s are both at index %d", other.Entry.ID, r.Entry.ID, r.Entry.Index)
						}
						acknowledged[r.Entry.Index] = r
						mu.Unlock()
						break
					}
					fails++
					mu.Unlock()
					if !errors.Is(err, ledger.ErrUnavailable) {
						t.Errorf("append while connections are cut: %v, want ErrUnavailable", err)
						return
					}
				}
			}
		})
	}
	load.Wait()

	if err := ledgertest.CheckLog(t.Context(), store, operator.Receipt.Public()); err != nil {
		t.Fatalf("CheckLog: %v", err)
	}
	if got, want := size(t, store), uint64(len(acknowledged))+2; got != want {
		t.Errorf("the log has size %d, want %d: each statement once", got, want)
	}
	reader, err := ledger.Open(t.Context(), store, ledger.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for index, r := range acknowledged {
		receipt, err := reader.Receipt(t.Context(), r.Entry.ID, ledger.All)
		if err != nil {
			t.Fatalf("acknowledged at index %d: %v", index, err)
		}
		if !bytes.Equal(receipt, r.Receipt) {
			t.Fatalf("index %d has another receipt than was given out", index)
		}
	}
	doubts, there := 0, 0
	for _, d := range stores {
		for _, h := range d.heads {
			doubts++
			kept, err := store.HeadFor(t.Context(), h.Size-1)
			if err != nil && !errors.Is(err, ledger.ErrNotFound) {
				t.Fatal(err)
			}
			if err == nil && kept.Size == h.Size && bytes.Equal(kept.Signature, h.Signature) {
				there++
			}
		}
	}
	t.Logf("%d commits ended in doubt, %d of them had committed; %d entries, %d refusals on the way", doubts, there, len(acknowledged), fails)
	if there == 0 || there == doubts {
		t.Error("doubt was certainty: nothing was tested")
	}
}
