package ledgertest

import (
	"context"
	"errors"
	"sync"

	"github.com/scittd/scittd/ledger"
)

var haltTests = []test{
	{"a halted ledger signs nothing and still answers", halted},
	{"a halt reaches what is queued", haltedQueue},
	{"nothing is answered before it is remembered", remembers},
}

func halted(w *world) {
	w.init()
	o := w.options()
	o.Checkpoint = w.operator.Checkpoint
	l := w.ledger(w.store, o)
	claims := w.wabbit.Claims(w, 0, 2)
	first := Append(w, l, claims[0])
	shown, err := l.Checkpoint(w.ctx)
	if err != nil {
		w.Fatal(err)
	}
	why, size := errors.New("tile 0/0 is missing"), w.size()
	l.Halt(why)
	l.Halt(errors.New("another reason"))

	for name, err := range map[string]error{
		"append":          func() error { _, err := l.Append(w.ctx, Submission(l, claims[1])); return err }(),
		"append, known":   func() error { _, err := l.Append(w.ctx, Submission(l, claims[0])); return err }(),
		"ready":           l.Ready(w.ctx),
		"halted and said": l.Halted(),
	} {
		if !errors.Is(err, ledger.ErrHalted) || !errors.Is(err, why) {
			w.Errorf("%s: %v, want ErrHalted for the first reason", name, err)
		}
	}
	if got := w.size(); got != size {
		w.Errorf("the log grew from size %d to %d", size, got)
	}
	if again, err := l.Checkpoint(w.ctx); err != nil || string(again) != string(shown) {
		w.Errorf("checkpoint: %v; want the one that was published", err)
	}
	if b, err := l.Receipt(w.ctx, first.Entry.ID, ledger.Public); err != nil || string(b) != string(first.Receipt) {
		w.Errorf("receipt: %v; want the one that was given", err)
	}
	w.close(l)
	w.verify(claims[1], Append(w, w.ledger(w.store, o), claims[1])) // a new process looks for itself
}

func haltedQueue(w *world) {
	w.init()
	f := NewFaulty(w, w.store)
	l := w.ledger(f, w.options())
	claims := w.wabbit.Claims(w, 0, 2)
	reached, release := f.Hold()
	answers := make([]error, 2)
	var waiting sync.WaitGroup
	waiting.Go(func() { _, answers[0] = l.Append(w.ctx, Submission(l, claims[0])) })
	<-reached
	waiting.Go(func() { _, answers[1] = l.Append(w.ctx, Submission(l, claims[1])) })
	for !l.Pending(claims[1].ID()) {
		if err := w.ctx.Err(); err != nil {
			w.Fatal(err)
		}
	}
	l.Halt(errors.New("damaged"))
	release()
	waiting.Wait()
	if answers[0] != nil {
		w.Errorf("what was being committed: %v, want its receipt", answers[0])
	}
	if !errors.Is(answers[1], ledger.ErrHalted) {
		w.Errorf("what was queued: %v, want ErrHalted", answers[1])
	}
	w.check()
}

func remembers(w *world) {
	w.init()
	var fails error
	var told []uint64
	o := w.options()
	o.Checkpoint = w.operator.Checkpoint
	o.Remember = func(_ context.Context, h ledger.Head) error { // never by two at once, here
		if len(told) > 0 && h.Size <= told[len(told)-1] {
			return nil
		}
		if fails != nil {
			return fails
		}
		told = append(told, h.Size)
		return nil
	}
	l := w.ledger(w.store, o)
	claims := w.wabbit.Claims(w, 0, 2)
	Append(w, l, claims[0])
	fails = errors.Join(ledger.ErrUnavailable, errors.New("the volume is full"))
	for _, name := range []string{"new", "known since, and still not remembered"} {
		if _, err := l.Append(w.ctx, Submission(l, claims[1])); !errors.Is(err, ledger.ErrUnavailable) {
			w.Errorf("%s: %v, want ErrUnavailable", name, err)
		}
	}
	if got := w.size(); got != 4 {
		w.Errorf("size %d, want 4: the entry is there, and not acknowledged", got)
	}
	if b, err := l.Checkpoint(w.ctx); !errors.Is(err, ledger.ErrUnavailable) {
		w.Errorf("a checkpoint of what is not remembered: %q, %v", b, err)
	}
	fails = nil
	if _, err := l.Checkpoint(w.ctx); err != nil {
		w.Error(err)
	}
	r := Append(w, l, claims[1])
	w.verify(claims[1], r)
	if r.Entry.Index != 3 || told[len(told)-1] != 4 {
		w.Errorf("entry %d is answered and %v remembered; want entry 3 after size 4", r.Entry.Index, told)
	}
	w.check()
}
