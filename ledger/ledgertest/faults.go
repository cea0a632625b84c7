package ledgertest

import (
	"bytes"
	"errors"

	"github.com/scittd/scittd/ledger"
)

var faultTests = []test{
	{"any single and any two consecutive faults of a commit are survived", commitFaults},
	{"a fault of the recovery is survived too", recoveryFaults},
	{"when the store stays broken nothing is promised, and the log goes on after", brokenStore},
	{"a doubtful commit of many entries answers each by its ID", doubtfulBatch},
	{"a statement that the store cannot hold harms no other", unfitStatement},
	{"what joins a batch that is taken apart displaces nobody", unfitJoined},
	{"a doubtful policy is in force once it is known", doubtfulPolicy},
}

func commitFaults(w *world) {
	w.init()
	f := NewFaulty(w, w.store)
	l := w.ledger(f, w.options())
	n := 0
	for _, first := range []Fault{None, NotApplied, Applied} {
		for _, second := range []Fault{None, NotApplied, Applied} {
			f.FailCommits(first, second)
			for range 2 {
				n++
				s := w.wabbit.Claim(w, Image(n), SBOM, []byte("x"))
				r := Append(w, l, s)
				w.verify(s, r)
				if !r.New {
					w.Errorf("%v, %v: entry %d is not called new", first, second, r.Entry.Index)
				}
				if again := Append(w, l, s); again.New || !bytes.Equal(again.Receipt, r.Receipt) {
					w.Errorf("%v, %v: entry %d has two receipts", first, second, r.Entry.Index)
				}
				w.check()
			}
		}
	}
	if size := w.size(); size != uint64(2+n) {
		w.Errorf("size %d, want %d", size, 2+n)
	}
}

func recoveryFaults(w *world) {
	w.init()
	f := NewFaulty(w, w.store)
	l := w.ledger(f, w.options())
	for n, fault := range []Fault{NotApplied, Applied} {
		f.FailCommits(fault)
		f.FailHeads(NotApplied)
		s := w.wabbit.Claim(w, Image(n), SBOM, []byte("x"))
		w.verify(s, Append(w, l, s))
		w.check()
	}
}

func brokenStore(w *world) {
	w.init()
	f := NewFaulty(w, w.store)
	l := w.ledger(f, w.options())
	all := w.wabbit.Claims(w, 0, 3)

	f.FailCommits(NotApplied, NotApplied, NotApplied)
	if r, err := l.Append(w.ctx, Submission(l, all[0])); !errors.Is(err, ledger.ErrUnavailable) || r.Receipt != nil {
		w.Errorf("broken commit: %v, want ErrUnavailable and no receipt", err)
	}
	w.check()
	f.FailCommits(Applied)
	f.FailHeads(NotApplied, NotApplied)
	if r, err := l.Append(w.ctx, Submission(l, all[1])); !errors.Is(err, ledger.ErrUnavailable) || r.Receipt != nil {
		w.Errorf("no way to read back: %v, want ErrUnavailable and no receipt", err)
	}
	w.check()
	for i, s := range all {
		r := Append(w, l, s)
		w.verify(s, r)
		if r.New != (i != 1) {
			w.Errorf("statement %d: new %v", i, r.New)
		}
	}
	w.check()
}

func doubtfulBatch(w *world) {
	w.init()
	for _, fault := range []Fault{NotApplied, Applied} {
		l, f, release := w.held()
		all := w.acme.Claims(w, int(w.size()), 20)
		var waits []func() (ledger.Registered, error)
		for _, s := range all {
			waits = append(waits, w.async(l, Submission(l, s)), w.async(l, Submission(l, s)))
		}
		f.FailCommits(fault)
		release()
		for i, s := range all {
			one, err := waits[2*i]()
			two, err2 := waits[2*i+1]()
			if err := errors.Join(err, err2); err != nil {
				w.Fatal(err)
			}
			w.verify(s, one)
			if !bytes.Equal(one.Receipt, two.Receipt) || one.New == two.New {
				w.Errorf("%v: twins of entry %d: same receipt %v, new %v and %v", fault, one.Entry.Index,
					bytes.Equal(one.Receipt, two.Receipt), one.New, two.New)
			}
		}
		w.check()
		w.close(l)
	}
}

func unfitStatement(w *world) {
	w.init()
	l, f, release := w.held()
	all := w.acme.Claims(w, 0, 40)
	f.Poison(all[17].ID())
	var waits []func() (ledger.Registered, error)
	for _, s := range all {
		waits = append(waits, w.async(l, Submission(l, s)))
	}
	release()
	for i, s := range all {
		r, err := waits[i]()
		switch {
		case i != 17 && err != nil:
			w.Errorf("statement %d beside it: %v", i, err)
		case i != 17:
			w.verify(s, r)
		case !errors.Is(err, ledger.ErrUnfit):
			w.Errorf("the one that does not fit: %v, want ErrUnfit", err)
		}
	}
	w.check()
	w.close(l)
}

func unfitJoined(w *world) {
	w.init()
	f := NewFaulty(w, w.store)
	l := w.ledger(f, w.options())
	claims := w.acme.Claims(w, 0, 8)
	Append(w, l, claims[0])
	w.commit(claims[1])
	Append(w, l, claims[2]) // beaten once, from here on in turn
	f.Poison(claims[4].ID())

	waits := map[int]func() (ledger.Registered, error){}
	queue := func(all ...int) {
		for _, i := range all {
			waits[i] = w.async(l, Submission(l, claims[i]))
		}
	}
	reached, release := f.Hold()
	defer release()
	queue(3)
	<-reached
	reachedNext, releaseNext := f.Hold()
	defer releaseNext()
	queue(4, 5) // one batch, which has to be taken apart
	release()
	<-reachedNext
	queue(6, 7) // they join its first half
	releaseNext()
	for i, wait := range waits {
		r, err := wait()
		switch {
		case i != 4 && err != nil:
			w.Errorf("statement %d: %v", i, err)
		case i != 4:
			w.verify(claims[i], r)
		case !errors.Is(err, ledger.ErrUnfit):
			w.Errorf("the one that does not fit: %v, want ErrUnfit", err)
		}
	}
	w.check()
	w.close(l)
}

func doubtfulPolicy(w *world) {
	w.init()
	f := NewFaulty(w, w.store)
	l := w.ledger(f, w.options())
	for _, fault := range []Fault{NotApplied, Applied} {
		next := w.operator.Policy(w, l.Policy().Entry, w.operator.Document(w.wabbit, NewPublisher(w, "https://"+fault.String()[:3]+".example")))
		f.FailCommits(fault)
		Append(w, l, next)
		if l.Policy().Entry != next.ID() {
			w.Errorf("%v: in force is %s, want %s", fault, l.Policy().Entry, next.ID())
		}
		w.check()
	}
}
