//go:build spin

package model

import (
	"context"
	"crypto"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/scittd/scittd/internal/testenv"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/ledger/postgres"
	"github.com/scittd/scittd/ledger/sqlite"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

var runs = flag.Int("runs", 25, "histories that are recorded on each store")

// The statements of the model, and what its log begins with less than a new one:
// that has a service statement, too.
const (
	a = 1 + iota
	b
	p

	genesis = 1
)

// run is two replicas of one log, and the record of what is seen of them.
type run struct {
	*testing.T
	store    ledger.Store
	operator *ledgertest.Operator
	claims   [4]*statement.Statement

	mu       sync.Mutex
	record   []*event
	troubled bool // a read failed, which nobody had told it to
	replicas [2]service
	happens  map[int]func() // what does when the record is so long: commits that were given up on arrive, a replica dies
	under    sync.WaitGroup // and is under way
}

// newRun makes a log with a policy that admits A and B, and P, which ends that for
// B.
func newRun(t *testing.T, store ledger.Store) *run {
	w := &run{T: t, store: store, operator: ledgertest.NewOperator(t), happens: map[int]func(){}}
	wabbit, acme := ledgertest.NewPublisher(t, "https://wabbit.example"), ledgertest.NewPublisher(t, "https://acme.example")
	w.operator.Init(t, store, wabbit, acme)
	ids, err := store.Leaves(t.Context(), 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	w.claims[a] = wabbit.Claim(t, ledgertest.Image(1), ledgertest.SBOM, []byte("a"))
	w.claims[b] = acme.Claim(t, ledgertest.Image(1), ledgertest.SBOM, []byte("b"))
	w.claims[p] = w.operator.Policy(t, ids[0], w.operator.Document(wabbit))
	return w
}

// note writes e down. Of a process that died nothing is seen any more: nil.
func (w *run) note(r *replica, e event) *event {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.dead {
		return nil
	}
	r.dead = e.what == dies
	w.record = append(w.record, &e)
	if f := w.happens[len(w.record)]; f != nil {
		w.under.Go(f)
	}
	return &e
}

// replica is what a Ledger takes for its store, and for its key.
type replica struct {
	ledger.Store
	crypto.Signer
	run  *run
	n    int
	dead bool // of run's mu

	// Owned by the ledger's sequencer.
	faults []fault  // how its next commits end
	last   []*event // its last call
	inTurn []*event // that, when it was for the turn which it is in
}

// fault is how a commit ends.
type fault int

const (
	none    fault = iota
	failed        // known to have failed
	lost          // unknown: it has
	applied       // unknown: it has not
	delayed       // unknown: it arrives some time
)

var errFault = errors.New("connection reset by test")

// call records a call that the model has a step for; f returns no step when a read
// failed. Of a process that died
// nothing reaches the store, and to one that dies meanwhile nothing gets back.
func (r *replica) call(f func() (step int, err error)) error {
	r.inTurn = nil
	begin := r.run.note(r, event{calls, r.n, 0})
	if begin == nil {
		return ledger.ErrUnavailable
	}
	step, err := f()
	if step == 0 {
		r.run.mu.Lock()
		r.run.troubled = true
		r.run.mu.Unlock()
	}
	end := r.run.note(r, event{returns, r.n, step})
	if end == nil {
		return errors.Join(err, ledger.ErrUnavailable)
	}
	r.last = []*event{begin, end}
	return err
}

// Head is read by who is not sure of the log. In a turn it is the head to go by,
// and that with which the turn began does not count.
func (r *replica) Head(ctx context.Context) (h ledger.Head, err error) {
	r.run.mu.Lock()
	for _, e := range r.inTurn {
		*e = event{}
	}
	r.run.mu.Unlock()
	err = r.call(func() (int, error) {
		if h, err = r.Store.Head(ctx); err != nil {
			return 0, err
		}
		return step(loads, int(h.Size)-genesis), nil
	})
	return h, err
}

// Turn is lost at once now and then, which its holder does not know.
func (r *replica) Turn(ctx context.Context) (ledger.Turn, error) {
	var given ledger.Turn
	err := r.call(func() (_ int, err error) {
		if given, err = r.Store.Turn(ctx); err != nil {
			return 0, err
		}
		return step(turns, int(given.Head().Size)-genesis), nil
	})
	if given == nil {
		return nil, err
	}
	if err != nil {
		given.Release()
		return nil, err
	}
	r.inTurn = r.last
	t := turn{given, r, given.Commit}
	if rand.N(8) == 0 {
		given.Release()
		t.commit = r.Store.Commit
	}
	return t, nil
}

type turn struct {
	ledger.Turn
	r      *replica
	commit func(context.Context, *ledger.Batch) error
}

func (t turn) Commit(ctx context.Context, batch *ledger.Batch) error {
	return t.r.commits(ctx, batch, t.commit)
}

// Commit is one outside of a turn.
func (r *replica) Commit(ctx context.Context, batch *ledger.Batch) error {
	return r.commits(ctx, batch, r.Store.Commit)
}

func (r *replica) commits(ctx context.Context, batch *ledger.Batch, commit func(context.Context, *ledger.Batch) error) error {
	what := int(batch.Head.PrevSize-genesis) * 512
	for i, e := range batch.Entries {
		row := r.run.which(e.ID)
		if e.Policy == r.run.claims[p].ID() {
			row += 4
		}
		what |= row << (3 * i)
	}
	return r.call(func() (int, error) {
		how := none
		if len(r.faults) > 0 {
			how, r.faults = r.faults[0], r.faults[1:]
		}
		switch how {
		case failed:
			return step(fails, what), ledger.ErrUnavailable
		case applied:
			_ = commit(ctx, batch) // as somebody may have been quicker
			return step(doubts, what), errFault
		case delayed:
			r.run.arrives(func() { _ = r.Store.Commit(context.WithoutCancel(ctx), batch) })
			return step(doubts, what), errFault
		case lost:
			return step(doubts, what), errFault
		}
		switch err := commit(ctx, batch); {
		case err == nil:
			return step(commits, what), nil
		case errors.Is(err, ledger.ErrConflict):
			return step(conflicts, what), err
		case errors.Is(err, ledger.ErrUnfit):
			return step(finds, what), err
		default:
			return step(doubts, what), err
		}
	})
}

// arrives lets a commit do so when some more has been seen.
func (w *run) arrives(commit func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.happens[len(w.record)+2+rand.N(12)] = commit
}

// Sign is the other thing that a replica does and others may see.
func (r *replica) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	r.inTurn = nil
	r.run.note(r, event{signs, r.n, 0})
	return r.Signer.Sign(random, digest, opts)
}

// which is a statement's number.
func (w *run) which(id statement.ID) int {
	return slices.IndexFunc(w.claims[:], func(s *statement.Statement) bool { return s != nil && s.ID() == id })
}

// service is a replica at work.
type service struct {
	*replica
	*ledger.Ledger
}

func (w *run) open(n int, faults ...fault) service {
	r := &replica{Store: w.store, Signer: w.operator.Receipt, run: w, n: n, faults: faults}
	issuer, err := receipts.NewIssuer(r, w.operator.URL, w.operator.Origin)
	if err != nil {
		w.Fatal(err)
	}
	l, err := ledger.Open(context.Background(), r, ledger.Options{Issuer: issuer, Registry: "registry.example"})
	if err != nil {
		w.Fatal(err)
	}
	return service{r, l}
}

func (s service) close(t *testing.T) {
	t.Helper()
	if err := s.Ledger.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

// dies ends a replica, whatever it is doing, and begins a new one in its place.
func (w *run) dies(n int) {
	w.mu.Lock()
	old := w.replicas[n]
	w.mu.Unlock()
	w.note(old.replica, event{dies, n, 0})
	s := w.open(n)
	w.mu.Lock()
	w.replicas[n] = s
	w.mu.Unlock()
	old.close(w.T)
}

// submit registers a statement as the registrar does, and writes down what the
// client gets to see.
func (w *run) submit(which, n int) {
	w.mu.Lock()
	s := w.replicas[n]
	w.mu.Unlock()
	sub := ledgertest.Submission(s.Ledger, w.claims[which])
	if sub.Decision.Refusal != nil || w.note(s.replica, event{asks, s.n, which}) == nil {
		return
	}
	got, err := s.Append(context.Background(), sub)
	var refusal *policy.Refusal
	switch {
	case err == nil:
		r, err := receipts.Parse(got.Receipt)
		if err != nil {
			w.Error(err)
			return
		}
		at := r.Proofs[0]
		w.note(s.replica, event{registered, which, int(at.LeafIndex-genesis)*8 + int(at.TreeSize-genesis)})
	case errors.As(err, &refusal):
		w.note(s.replica, event{refused, which, 0})
	}
}

// history lets clients register A, B and P at both replicas, of which one may die
// meanwhile and come back, and returns what was seen.
func (w *run) history() []event {
	faults := func() (all []fault) {
		for range 2 {
			all = append(all, fault(max(0, rand.IntN(8)-3)))
		}
		return all
	}
	w.replicas = [2]service{w.open(0, faults()...), w.open(1, faults()...)}
	if n := rand.N(4); n < 2 {
		w.happens[5+rand.N(20)] = func() { w.dies(n) }
	}
	var clients sync.WaitGroup
	for _, which := range []int{a, b, p, a, b, a} {
		n := rand.N(2)
		clients.Go(func() {
			for range rand.N(200) {
				runtime.Gosched()
			}
			w.submit(which, n)
		})
	}
	clients.Wait()
	w.under.Wait()
	for _, s := range w.replicas {
		s.close(w.T)
	}
	w.under.Wait()
	var record []event
	for _, e := range w.record {
		if e.what != 0 {
			record = append(record, *e)
		}
	}
	if err := ledgertest.CheckLog(context.Background(), w.store); err != nil {
		w.Errorf("log is not sound: %v", err)
	}
	return record
}

func told(record []event) string {
	var all []string
	for _, e := range record {
		all = append(all, e.String())
	}
	return strings.Join(all, " · ")
}

func TestWhatReplicasDoIsAHistoryOfTheModel(t *testing.T) {
	model, seen := newJudge(t, ""), map[string]int{}
	for name, fresh := range map[string]func(*testing.T) ledger.Store{
		"sqlite": func(t *testing.T) ledger.Store {
			s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "ledger.db"))
			if err != nil {
				t.Fatal(err)
			}
			return s
		},
		"postgres": func(t *testing.T) ledger.Store {
			dsn := testenv.Database(t)
			if err := postgres.Migrate(t.Context(), dsn); err != nil {
				t.Fatal(err)
			}
			s, err := postgres.Open(t.Context(), dsn, postgres.Options{})
			if err != nil {
				t.Fatal(err)
			}
			return s
		},
	} {
		t.Run(name, func(t *testing.T) {
			for range *runs {
				store := fresh(t)
				w := newRun(t, store)
				record := w.history()
				if err := store.Close(); err != nil {
					t.Error(err)
				}
				if w.troubled {
					continue // the model knows of no such trouble
				}
				if !model.accepts(t, record) {
					t.Fatalf("the model has no such history:\n%s", told(record))
				}
				for _, e := range record {
					seen[strings.Fields(e.String())[1]]++
				}
			}
		})
	}
	t.Log(seen)
	for _, word := range []string{"loads", "turns", "signs", "commits", "conflicts", "finds", "fails", "doubts", "dies", "is"} {
		if seen[word] == 0 {
			t.Errorf("in %d histories on either store nobody %s", *runs, word)
		}
	}
}
