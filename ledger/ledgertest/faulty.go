package ledgertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

// Fault is how a call to a Faulty store ends.
type Fault int

const (
	None       Fault = iota
	NotApplied       // an error, and nothing happened
	Applied          // an error, although it happened
)

func (f Fault) String() string { return [...]string{"ok", "not applied", "applied"}[f] }

// ErrFault is what a Faulty store answers: an error that promises nothing.
var ErrFault = errors.New("connection reset by test")

// Faulty is a store that fails on command. It checks its caller: after a commit
// whose outcome it did not tell, the head must be read anew, and then the
// entries looked up by ID, before the next commit; after a lost swap the head alone.
type Faulty struct {
	ledger.Store
	t testing.TB

	mu      sync.Mutex
	commits []Fault
	heads   []Fault
	turns   []Fault
	poison  statement.ID // no batch with this entry can be stored
	behind  bool         // the head is to be read before the next commit
	doubt   bool         // and the entries looked up after it
	gate    chan struct{}
	reached chan struct{}
	tried   int
	asked   int // for a turn
}

// NewFaulty wraps s; it does nothing until told.
func NewFaulty(t testing.TB, s ledger.Store) *Faulty { return &Faulty{Store: s, t: t} }

// FailCommits says how the next commits end.
func (f *Faulty) FailCommits(faults ...Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.commits = faults
}

// FailHeads says how the next calls of Head end.
func (f *Faulty) FailHeads(faults ...Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.heads = faults
}

// FailTurns says how the next calls of Turn end. Applied is a turn that is given
// and lost at once: its holder is not told, and others may commit.
func (f *Faulty) FailTurns(faults ...Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.turns = faults
}

// Turns is how many were asked for.
func (f *Faulty) Turns() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

// Poison makes every commit that holds the entry id fail with ErrUnfit.
func (f *Faulty) Poison(id statement.ID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.poison = id
}

// Commits is how many were tried.
func (f *Faulty) Commits() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tried
}

// Hold makes the next commit wait until release is called; reached is closed
// when it has come.
func (f *Faulty) Hold() (reached <-chan struct{}, release func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	gate := make(chan struct{})
	f.gate, f.reached = gate, make(chan struct{})
	return f.reached, sync.OnceFunc(func() { close(gate) })
}

func next(list *[]Fault) Fault {
	if len(*list) == 0 {
		return None
	}
	fault := (*list)[0]
	*list = (*list)[1:]
	return fault
}

// Commit fails as told.
func (f *Faulty) Commit(ctx context.Context, b *ledger.Batch) error {
	return f.commit(ctx, b, f.Store.Commit)
}

// Turn fails as told, and so does a commit in it.
func (f *Faulty) Turn(ctx context.Context) (ledger.Turn, error) {
	f.mu.Lock()
	f.asked++
	fault := next(&f.turns)
	f.mu.Unlock()
	if fault == NotApplied {
		return nil, ErrFault
	}
	t, err := f.Store.Turn(ctx)
	if err != nil {
		return nil, err
	}
	f.readHead()
	faulty := faultyTurn{t, f, t.Commit}
	if fault == Applied {
		t.Release()
		faulty.commit = f.Store.Commit
	}
	return faulty, nil
}

type faultyTurn struct {
	ledger.Turn
	f      *Faulty
	commit func(context.Context, *ledger.Batch) error
}

func (t faultyTurn) Commit(ctx context.Context, b *ledger.Batch) error {
	return t.f.commit(ctx, b, t.commit)
}

func (f *Faulty) commit(ctx context.Context, b *ledger.Batch, commit func(context.Context, *ledger.Batch) error) error {
	if _, ok := ctx.Deadline(); !ok {
		f.t.Error("commit without a deadline of its own")
	}
	f.mu.Lock()
	if f.behind || f.doubt {
		f.t.Error("commit in doubt about the one before: nothing was read back")
	}
	f.tried++
	fault, poison := next(&f.commits), f.poison
	gate, reached := f.gate, f.reached
	f.gate, f.reached = nil, nil
	f.mu.Unlock()
	if gate != nil {
		close(reached)
		<-gate
	}
	if fault == NotApplied {
		f.distrust(true)
		return ErrFault
	}
	if slices.ContainsFunc(b.Entries, func(e ledger.NewEntry) bool { return e.ID == poison }) {
		return fmt.Errorf("%w: entry %s", ledger.ErrUnfit, poison)
	}
	err := commit(ctx, b)
	if fault == Applied {
		f.distrust(true)
		return errors.Join(ErrFault, unless(err, ledger.ErrConflict, ledger.ErrUnfit))
	}
	if unless(err, ledger.ErrUnfit) != nil {
		f.distrust(unless(err, ledger.ErrConflict) != nil)
	}
	return err
}

// unless hides an error that would tell the outcome.
func unless(err error, known ...error) error {
	for _, k := range known {
		if errors.Is(err, k) {
			return nil
		}
	}
	return err
}

// distrust asks for the head, and where the outcome is not known for the entries.
func (f *Faulty) distrust(doubt bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.behind, f.doubt = true, f.doubt || doubt
}

// Head fails as told.
func (f *Faulty) Head(ctx context.Context) (ledger.Head, error) {
	f.mu.Lock()
	fault := next(&f.heads)
	f.mu.Unlock()
	if fault != None {
		return ledger.Head{}, ErrFault
	}
	f.readHead()
	return f.Store.Head(ctx)
}

// readHead is the first half of a read back.
func (f *Faulty) readHead() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.behind = false
}

// Indexes is the read back that ends the doubt.
func (f *Faulty) Indexes(ctx context.Context, ids []statement.ID, scope ledger.Scope) (map[statement.ID]uint64, error) {
	f.mu.Lock()
	f.doubt = f.doubt && (f.behind || scope != ledger.All)
	f.mu.Unlock()
	return f.Store.Indexes(ctx, ids, scope)
}
