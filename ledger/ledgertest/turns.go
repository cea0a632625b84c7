package ledgertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

var turnTests = []test{
	{"an empty store gives no turn", noTurn},
	{"a commit in turn is not beaten, however many try", turnUnbeaten},
	{"a turn that ended commits nothing", turnOver},
	{"a turn that is released lets the next one in", turnReleased},
	{"a commit in turn that fails leaves nothing behind", turnFails},
	{"after one lost batch two ledgers lose no more", turnsAlternate},
	{"a ledger that is alone stops asking for turns", turnsEnd},
	{"what queues during the wait for a turn comes along", turnJoined},
	{"a turn refused or lost costs a retry and nothing else", turnFaults},
	{"another ledger's policy and keys are seen by one that has nothing to do", refreshed},
	{"a fresh receipt stands under the newest head, across a change of keys", freshReceipts},
	{"a log that goes back under a running ledger halts it", goesBack},
	{"a log that went back and grew in another way halts a ledger", goesAnotherWay},
}

func noTurn(w *world) {
	if _, err := w.store.Turn(w.ctx); !errors.Is(err, ledger.ErrEmpty) {
		w.Errorf("turn on an empty store: %v, want ErrEmpty", err)
	}
	w.init() // nothing is held
}

func turnUnbeaten(w *world) {
	w.init()
	claims := w.wabbit.Claims(w, 0, 5)
	turn, err := w.store.Turn(w.ctx)
	if err != nil {
		w.Fatal(err)
	}
	defer turn.Release()
	if h := turn.Head(); h.Size != 2 {
		w.Fatalf("the newest head is of size %d, want 2", h.Size)
	}
	held := w.keepsOthersAway()
	rivals := make(chan error, 4)
	for _, s := range claims[1:] {
		b := w.batch(s)
		go func() { rivals <- w.store.Commit(context.Background(), b) }()
	}
	won := 0
	if err := turn.Commit(w.ctx, w.batch(claims[0])); err == nil {
		won++
	} else if held || !errors.Is(err, ledger.ErrConflict) {
		w.Errorf("commit in turn: %v", err)
	}
	for range 4 {
		if err := <-rivals; err == nil {
			won++
		} else if !errors.Is(err, ledger.ErrConflict) {
			w.Errorf("commit without a turn: %v, want ErrConflict", err)
		}
	}
	if won != 1 {
		w.Errorf("%d of five commits on one size won", won)
	}
	if size := w.size(); size != 3 {
		w.Errorf("size %d, want 3", size)
	}
	w.check()
}

// keepsOthersAway says whether a turn that somebody has can be had by others: an
// engine without such a lock gives a look at the newest head and no more.
func (w *world) keepsOthersAway() bool {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, 100*time.Millisecond)
	defer cancel()
	second, err := w.store.Turn(ctx)
	if err == nil {
		second.Release()
	}
	return err != nil
}

func turnOver(w *world) {
	w.init()
	claims := w.wabbit.Claims(w, 0, 3)
	for i, end := range []func(ledger.Turn){
		func(t ledger.Turn) { t.Release() },
		func(t ledger.Turn) {
			if err := t.Commit(w.ctx, w.batch(claims[1])); err != nil {
				w.Error(err)
			}
		},
	} {
		turn, err := w.store.Turn(w.ctx)
		if err != nil {
			w.Fatal(err)
		}
		b := w.batch(claims[2*i])
		end(turn)
		if err := turn.Commit(w.ctx, b); err == nil {
			w.Errorf("%d: a commit after the turn's end", i)
		}
		turn.Release() // as often as one likes
	}
	w.check()
}

func turnReleased(w *world) {
	w.init()
	for range 3 {
		turn, err := w.store.Turn(w.ctx)
		if err != nil {
			w.Fatal(err)
		}
		turn.Release()
	}
	w.commit(w.wabbit.Claims(w, 0, 1)...)
	w.check()
}

func turnFails(w *world) {
	w.init()
	claims := w.wabbit.Claims(w, 0, 2)
	stale := w.batch(claims[0])
	w.commit(claims[1])
	turn, err := w.store.Turn(w.ctx)
	if err != nil {
		w.Fatal(err)
	}
	if err := turn.Commit(w.ctx, stale); !errors.Is(err, ledger.ErrConflict) {
		w.Errorf("a batch on an old size: %v, want ErrConflict", err)
	}
	turn.Release()
	w.check()
	w.commit(claims[0])
	w.check()
}

func turnsAlternate(w *world) {
	w.init()
	a, b := w.ledger(w.store, w.options()), w.ledger(w.store, w.options())
	for i, s := range w.wabbit.Claims(w, 0, 30) {
		w.verify(s, Append(w, []*ledger.Ledger{a, b}[i%2], s))
	}
	for name, l := range map[string]*ledger.Ledger{"a": a, "b": b} {
		if got := l.Stats(); got.Committed != 15 || got.Discarded > 1 || got.Turns < 13 {
			w.Errorf("%s: %+v, want 15 batches committed, at most one discarded, nearly all in turn", name, got)
		}
	}
	w.check()
}

func turnsEnd(w *world) {
	w.init()
	f := NewFaulty(w, w.store)
	l := w.ledger(f, w.options())
	claims := w.wabbit.Claims(w, 0, 203)
	Append(w, l, claims[0])
	Append(w, l, claims[2])
	if n := f.Turns(); n != 1 {
		w.Errorf("%d turns before anybody else came, want one: to see whether somebody did", n)
	}
	w.commit(claims[1])
	for _, s := range claims[3:] {
		Append(w, l, s)
	}
	asked := f.Turns()
	if asked == 0 || asked > 150 {
		w.Errorf("%d turns for 200 batches after another's, want some, and not to the end", asked)
	}
	if got := l.Stats(); got.Discarded != 1 || got.Committed != 202 {
		w.Errorf("%+v, want one batch discarded and 202 committed", got)
	}
}

func turnJoined(w *world) {
	w.init()
	f := NewFaulty(w, w.store)
	l := w.ledger(f, w.options())
	claims := w.wabbit.Claims(w, 0, 22)
	Append(w, l, claims[0])
	w.commit(claims[1])
	Append(w, l, claims[1]) // known; but l has not seen it yet
	Append(w, l, claims[2]) // beaten once, from here on in turn

	turn, err := w.store.Turn(w.ctx)
	if err != nil {
		w.Fatal(err)
	}
	held := w.keepsOthersAway()
	before := f.Turns()
	first := w.async(l, Submission(l, claims[3]))
	for f.Turns() == before { // until its batch waits for the turn
		runtime.Gosched()
	}
	waits := []func() (ledger.Registered, error){first}
	for _, s := range claims[4:] {
		waits = append(waits, w.async(l, Submission(l, s)))
	}
	turn.Release()
	sizes := map[uint64]int{}
	for i, wait := range waits {
		r, err := wait()
		if err != nil {
			w.Fatal(err)
		}
		w.verify(claims[3+i], r)
		h, err := w.store.HeadFor(w.ctx, r.Entry.Index)
		if err != nil {
			w.Fatal(err)
		}
		sizes[h.Size]++
	}
	if held && len(sizes) != 1 {
		w.Errorf("what queued meanwhile took %d batches, want one: %v", len(sizes), sizes)
	}
	w.check()
}

func turnFaults(w *world) {
	w.init()
	f := NewFaulty(w, w.store)
	l := w.ledger(f, w.options())
	claims := w.wabbit.Claims(w, 0, 64)
	next := func() *statement.Statement {
		s := claims[0]
		claims = claims[1:]
		return s
	}
	Append(w, l, next())
	w.commit(next())
	n := uint64(4)
	for _, turn := range []Fault{None, NotApplied, Applied} {
		for _, commit := range []Fault{None, NotApplied, Applied} {
			for _, head := range []Fault{None, NotApplied} {
				if turn == NotApplied && commit != None && head != None {
					continue // a third fault in a row is answered 503
				}
				f.FailTurns(turn)
				f.FailCommits(commit)
				f.FailHeads(head)
				s := next()
				r := Append(w, l, s)
				f.FailTurns()
				f.FailCommits()
				f.FailHeads()
				w.verify(s, r)
				if again := Append(w, l, s); again.New || !bytes.Equal(again.Receipt, r.Receipt) {
					w.Errorf("turn %v, commit %v, head %v: two receipts", turn, commit, head)
				}
				n++
			}
		}
	}

	// Another commits in the middle of a turn that was lost.
	f.FailTurns(Applied)
	reached, release := f.Hold()
	mine, others := next(), next()
	wait := w.async(l, Submission(l, mine))
	<-reached
	w.commit(others)
	release()
	r, err := wait()
	if err != nil {
		w.Fatal(err)
	}
	w.verify(mine, r)
	if size := w.size(); size != n+2 {
		w.Errorf("size %d, want %d", size, n+2)
	}
	w.check()
}

func refreshed(w *world) {
	w.init()
	writer := w.ledger(w.store, w.options())
	idle, reader := w.ledger(w.store, w.options()), w.ledger(w.store, ledger.Options{})
	next := w.operator.Policy(w, writer.Policy().Entry, w.operator.Document(w.acme))
	Append(w, writer, next)
	for name, l := range map[string]*ledger.Ledger{"an idle writer": idle, "a reader": reader} {
		if _, err := l.Head(w.ctx); err != nil { // any read that looks at the newest head
			w.Fatal(err)
		}
		if l.Policy().Entry != next.ID() {
			w.Errorf("%s: the policy in force is %s, want %s", name, l.Policy().Entry, next.ID())
		}
	}
	second := NewKey(w)
	Append(w, writer, w.operator.Announcement(w, second.Public(), w.operator.Receipt.Public()))
	for name, l := range map[string]*ledger.Ledger{"an idle writer": idle, "a reader": reader} {
		if err := l.Refresh(w.ctx); err != nil {
			w.Fatal(err)
		}
		if keys := l.Keys(); len(keys) != 2 || !equal(keys[0].Public, second.Public()) {
			w.Errorf("%s: %d keys, want the new one first", name, len(keys))
		}
	}
	// Who knows that others commit asks for a turn at once.
	s := w.acme.Claim(w, Image(1), SBOM, []byte("x"))
	w.verify(s, Append(w, idle, s))
	if got := idle.Stats(); got.Discarded != 0 || got.Turns != 1 {
		w.Errorf("%+v, want one turn and nothing discarded", got)
	}
	w.check()
}

func freshReceipts(w *world) {
	w.init()
	l, reader := w.ledger(w.store, w.options()), w.ledger(w.store, ledger.Options{})
	old := w.wabbit.Claim(w, Image(1), SBOM, []byte("old"))
	first := Append(w, l, old)
	before := *w.operator
	next := *w.operator
	next.Receipt = NewKey(w)
	Append(w, l, w.operator.Announcement(w, next.Receipt.Public(), before.Receipt.Public()))
	w.close(l)
	l = w.ledger(w.store, ledger.Options{Issuer: next.Issuer(w), Registry: registry})
	last := Append(w, l, w.wabbit.Claim(w, Image(2), SBOM, []byte("new")))
	for name, l := range map[string]*ledger.Ledger{"who signs": l, "who only reads": reader} {
		batch, err := l.Receipt(w.ctx, old.ID(), ledger.Public)
		if err != nil || !bytes.Equal(batch, first.Receipt) {
			w.Errorf("%s: the batch's receipt differs: %v", name, err)
		}
		fresh, err := l.Fresh(w.ctx, old.ID(), ledger.Public)
		if err != nil {
			w.Fatalf("%s: %v", name, err)
		}
		w.operator = &before
		w.verify(old, first)
		w.operator = &next
		w.verify(old, ledger.Registered{Entry: ledger.Entry{ID: old.ID(), RegisteredAt: last.Entry.RegisteredAt}, Receipt: fresh})
		if keys := l.Keys(); len(keys) != 2 {
			w.Errorf("%s: %d keys, want both", name, len(keys))
		}
		if _, err := l.Fresh(w.ctx, statement.ID{1}, ledger.All); !errors.Is(err, ledger.ErrNotFound) {
			w.Errorf("%s: a fresh receipt of nothing: %v, want ErrNotFound", name, err)
		}
	}
	private := w.secret.Claim(w, Image(3), SBOM, []byte("x"))
	Append(w, l, private)
	if _, err := l.Fresh(w.ctx, private.ID(), ledger.Public); !errors.Is(err, ledger.ErrNotFound) {
		w.Errorf("a private entry's fresh receipt in public: %v, want ErrNotFound", err)
	}
	w.check()
}

// restored is a store that can be exchanged for an older copy of itself.
type restored struct {
	ledger.Store
	hidden uint64 // heads of this size and above are gone; 0: none
}

func (r *restored) Head(ctx context.Context) (ledger.Head, error) {
	if r.hidden == 0 {
		return r.Store.Head(ctx)
	}
	return r.Store.HeadFor(ctx, r.hidden-2)
}

func (r *restored) HeadFor(ctx context.Context, index uint64) (ledger.Head, error) {
	if r.hidden > 0 && index+1 >= r.hidden {
		return ledger.Head{}, ledger.ErrNotFound
	}
	return r.Store.HeadFor(ctx, index)
}

func (r *restored) Turn(ctx context.Context) (ledger.Turn, error) {
	t, err := r.Store.Turn(ctx)
	if err != nil || r.hidden == 0 {
		return t, err
	}
	h, err := r.Head(ctx)
	return restoredTurn{t, h}, err
}

type restoredTurn struct {
	ledger.Turn
	head ledger.Head
}

func (t restoredTurn) Head() ledger.Head { return t.head }

func (r *restored) Commit(ctx context.Context, b *ledger.Batch) error {
	if r.hidden > 0 {
		return fmt.Errorf("%w: PrevSize %d is not there any more", ledger.ErrConflict, b.Head.PrevSize)
	}
	return r.Store.Commit(ctx, b)
}

func goesBack(w *world) {
	w.init()
	claims := w.wabbit.Claims(w, 0, 8)
	for name, notice := range map[string]func(*ledger.Ledger, *Faulty) error{
		"by one that has nothing to do": func(l *ledger.Ledger, _ *Faulty) error { return l.Refresh(w.ctx) },
		"by losing the swap": func(l *ledger.Ledger, _ *Faulty) error {
			_, err := l.Append(w.ctx, Submission(l, claims[4]))
			return err
		},
		"after an error": func(l *ledger.Ledger, f *Faulty) error {
			f.FailCommits(NotApplied)
			_, err := l.Append(w.ctx, Submission(l, claims[4]))
			return err
		},
	} {
		r := &restored{Store: w.store}
		f := NewFaulty(w, r)
		l, reader := w.ledger(f, w.options()), w.ledger(r, ledger.Options{})
		first := Append(w, l, claims[0])
		claims = claims[1:]
		if err := reader.Refresh(w.ctx); err != nil {
			w.Fatal(err)
		}
		size := w.size()
		r.hidden = size // the last commit is lost, as by a failover to a standby that lagged
		if err := notice(l, f); !errors.Is(err, ledger.ErrHalted) || !errors.Is(err, ledger.ErrCorrupt) {
			w.Errorf("noticed %s: %v, want ErrHalted", name, err)
		}
		if err := reader.Refresh(w.ctx); !errors.Is(err, ledger.ErrCorrupt) {
			w.Errorf("noticed by a reader: %v, want ErrCorrupt", err)
		}
		r.hidden = 0 // and comes back: too late, for who knows what was promised meanwhile
		if _, err := l.Append(w.ctx, Submission(l, claims[4])); !errors.Is(err, ledger.ErrHalted) {
			w.Errorf("noticed %s, and asked again: %v, want ErrHalted", name, err)
		}
		if err := l.Ready(w.ctx); !errors.Is(err, ledger.ErrHalted) {
			w.Errorf("noticed %s: ready: %v, want ErrHalted", name, err)
		}
		for who, l := range map[string]*ledger.Ledger{"who signed": l, "a reader": reader} {
			if b, err := l.Receipt(w.ctx, first.Entry.ID, ledger.Public); err != nil || !bytes.Equal(b, first.Receipt) {
				w.Errorf("noticed %s, read by %s: %v, want the receipt that was given", name, who, err)
			}
		}
		if got := w.size(); got != size {
			w.Errorf("noticed %s: the log grew from %d to %d", name, size, got)
		}
		w.close(l)
		w.close(reader)
	}
	w.verify(claims[0], Append(w, w.ledger(w.store, w.options()), claims[0])) // a new process looks for itself
	w.check()
}

// Who has nothing to do while the log goes back and grows past what it knows sees
// a log that is longer, and another.
func goesAnotherWay(w *world) {
	w.init()
	r := &replaced{Store: w.store}
	l := w.ledger(r, w.options())
	claims := w.wabbit.Claims(w, 0, 3)
	Append(w, l, claims[0])
	w.commit(claims[1])
	r.at = 3
	if err := l.Refresh(w.ctx); !errors.Is(err, ledger.ErrHalted) || !errors.Is(err, ledger.ErrCorrupt) {
		w.Errorf("a log that is longer, and another: %v, want ErrHalted", err)
	}
	if _, err := l.Append(w.ctx, Submission(l, claims[2])); !errors.Is(err, ledger.ErrHalted) {
		w.Errorf("appended to it: %v, want ErrHalted", err)
	}
}

// replaced is a store in which the head of one size has another root.
type replaced struct {
	ledger.Store
	at uint64
}

func (r *replaced) HeadFor(ctx context.Context, index uint64) (ledger.Head, error) {
	h, err := r.Store.HeadFor(ctx, index)
	if h.Size == r.at {
		h.Root[0] ^= 1
	}
	return h, err
}
