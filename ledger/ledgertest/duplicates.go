package ledgertest

import (
	"bytes"
	"errors"
	"reflect"
	"sync"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

func duplicates(w *world) {
	w.init()
	l := w.ledger(w.store, w.options())
	const callers, each = 64, 20
	all := append(w.wabbit.Claims(w, 0, each/2), w.acme.Claims(w, 0, each/2)...)
	var mu sync.Mutex
	first := map[statement.ID]ledger.Registered{}
	fresh := map[statement.ID]int{}
	var done sync.WaitGroup
	for caller := range callers {
		done.Go(func() {
			for i := range all {
				s := all[(i+caller)%len(all)]
				r, err := l.Append(w.ctx, Submission(l, s))
				if err != nil {
					w.Error(err)
					return
				}
				mu.Lock()
				if r.New {
					fresh[s.ID()]++
				}
				if have, ok := first[s.ID()]; !ok {
					first[s.ID()] = r
				} else if !bytes.Equal(have.Receipt, r.Receipt) || !reflect.DeepEqual(have.Entry, r.Entry) {
					w.Errorf("entry %d answers two receipts", r.Entry.Index)
				}
				mu.Unlock()
			}
		})
	}
	done.Wait()
	for _, s := range all {
		w.verify(s, first[s.ID()])
		if fresh[s.ID()] != 1 {
			w.Errorf("%d callers were told that entry %d is new", fresh[s.ID()], first[s.ID()].Entry.Index)
		}
	}
	if size := w.size(); size != 2+each {
		w.Errorf("size %d, want %d", size, 2+each)
	}
	w.check()
}

func refusedDuplicate(w *world) {
	w.init()
	l, f, release := w.held()
	good := w.acme.Claim(w, Image(1), SBOM, []byte("x"))
	bad, err := good.WithChain([][]byte{good.Chain[0]})
	if err != nil {
		w.Fatal(err)
	}
	neighbour := w.wabbit.Claim(w, Image(2), SBOM, []byte("y"))
	stranger := NewPublisher(w, "https://stranger.example").Claim(w, Image(3), SBOM, []byte("z"))
	var waits []func() (ledger.Registered, error)
	for _, s := range []*statement.Statement{stranger, neighbour, good, neighbour, good, bad, stranger} {
		// Undecided: the sequencer judges each.
		waits = append(waits, w.async(l, ledger.Submission{Statement: s}))
	}
	before := f.Commits()
	release()
	var got []ledger.Registered
	for i, wait := range waits {
		r, err := wait()
		if i == 0 || i == 6 {
			refusal(w.T, err)
			continue
		}
		if err != nil {
			w.Fatalf("submission %d: %v", i, err)
		}
		got = append(got, r)
	}
	if n := f.Commits() - before; n != 1 {
		w.Errorf("%d commits, want one batch", n)
	}
	for _, pair := range [][2]int{{0, 2}, {1, 3}, {1, 4}} {
		if a, b := got[pair[0]], got[pair[1]]; !bytes.Equal(a.Receipt, b.Receipt) || !a.New || b.New {
			w.Errorf("twins %v: new %v and %v, same receipt %v", pair, a.New, b.New, bytes.Equal(a.Receipt, b.Receipt))
		}
	}
	if size := w.size(); size != 5 {
		w.Errorf("size %d, want 5", size)
	}
	w.check()
}

func privateResubmitted(w *world) {
	w.init()
	l := w.ledger(w.store, w.options())
	s := w.secret.Claim(w, Image(1), SBOM, []byte("x"))
	first := Append(w, l, s)
	if d, err := l.Deliveries(w.ctx, s.ID(), ledger.All); err != nil || len(d) > 0 {
		w.Errorf("private claim is to be placed: %v, %v", d, err)
	}
	for name, read := range map[string]func() error{
		"entry":       func() error { _, err := l.Entry(w.ctx, s.ID(), ledger.Public); return err },
		"record":      func() error { _, err := l.Record(w.ctx, s.ID(), ledger.Public); return err },
		"receipt":     func() error { _, err := l.Receipt(w.ctx, s.ID(), ledger.Public); return err },
		"receipt at":  func() error { _, err := l.ReceiptAt(w.ctx, s.ID(), 3, ledger.Public); return err },
		"transparent": func() error { _, err := l.Transparent(w.ctx, s.ID(), ledger.Public); return err },
		"deliveries":  func() error { _, err := l.Deliveries(w.ctx, s.ID(), ledger.Public); return err },
	} {
		if err := read(); !errors.Is(err, ledger.ErrNotFound) {
			w.Errorf("%s in public: %v, want ErrNotFound", name, err)
		}
	}
	if r := Append(w, l, s); !bytes.Equal(r.Receipt, first.Receipt) {
		w.Error("resubmission got another receipt")
	}
	Append(w, l, w.operator.Policy(w, l.Policy().Entry, w.operator.Document(w.wabbit)))
	fresh := w.secret.Claim(w, Image(2), SBOM, []byte("y"))
	_, known := l.Append(w.ctx, Submission(l, s))
	_, unknown := l.Append(w.ctx, Submission(l, fresh))
	if a, b := refusal(w.T, known), refusal(w.T, unknown); *a != *b {
		w.Errorf("private bytes are refused with %+v, fresh ones with %+v", a, b)
	}
	w.check()
}
