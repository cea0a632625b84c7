package ledgertest

import (
	"context"
	"errors"

	"github.com/scittd/scittd/ledger"
)

func fullQueue(w *world) {
	w.init()
	f := NewFaulty(w, w.store)
	o := w.options()
	o.Queue = 3
	l := w.ledger(f, o)
	reached, release := f.Hold()
	all := w.wabbit.Claims(w, 0, 6)
	waits := []func() (ledger.Registered, error){w.async(l, Submission(l, all[0]))}
	<-reached
	for _, s := range all[1:4] {
		waits = append(waits, w.async(l, Submission(l, s)))
	}
	if _, err := l.Append(w.ctx, Submission(l, all[4])); !errors.Is(err, ledger.ErrOverloaded) {
		w.Errorf("fourth in a queue of three: %v, want ErrOverloaded", err)
	}
	if err := l.Ready(w.ctx); !errors.Is(err, ledger.ErrOverloaded) {
		w.Errorf("ready: %v, want ErrOverloaded", err)
	}
	release()
	for i, wait := range waits {
		if r, err := wait(); err != nil {
			w.Errorf("submission %d: %v", i, err)
		} else {
			w.verify(all[i], r)
		}
	}
	Append(w, l, all[4])
	w.check()
}

func closing(w *world) {
	w.init()
	f := NewFaulty(w, w.store)
	l := w.ledger(f, w.options())
	reached, release := f.Hold()
	all := w.wabbit.Claims(w, 0, 3)
	inHand := w.async(l, Submission(l, all[0]))
	<-reached
	queued := w.async(l, Submission(l, all[1]))
	closed := make(chan error, 1)
	go func() { closed <- l.Close(context.Background()) }()
	if _, err := queued(); !errors.Is(err, ledger.ErrClosed) {
		w.Errorf("queued: %v, want ErrClosed", err)
	}
	if _, err := l.Append(w.ctx, Submission(l, all[2])); !errors.Is(err, ledger.ErrClosed) {
		w.Errorf("late: %v, want ErrClosed", err)
	}
	gone, cancel := context.WithCancel(w.ctx)
	cancel()
	if err := l.Close(gone); !errors.Is(err, context.Canceled) {
		w.Errorf("close with no time: %v", err)
	}
	release()
	if r, err := inHand(); err != nil {
		w.Errorf("in hand: %v", err)
	} else {
		w.verify(all[0], r)
	}
	if err := <-closed; err != nil {
		w.Error(err)
	}
	if size := w.size(); size != 3 {
		w.Errorf("size %d, want 3", size)
	}
	w.check()
}

func impatient(w *world) {
	w.init()
	f := NewFaulty(w, w.store)
	l := w.ledger(f, w.options())
	reached, release := f.Hold()
	s := w.wabbit.Claim(w, Image(1), SBOM, []byte("x"))
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan error, 1)
	go func() {
		_, err := l.Append(ctx, Submission(l, s))
		done <- err
	}()
	<-reached
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		w.Errorf("impatient caller: %v", err)
	}
	if !l.Pending(s.ID()) {
		w.Error("not pending while its commit is under way")
	}
	release()
	r := Append(w, l, s)
	w.verify(s, r)
	if r.New {
		w.Error("the commit did not outlive its caller")
	}
	w.check()
}
