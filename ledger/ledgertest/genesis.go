package ledgertest

import (
	"bytes"
	"errors"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

func initOnce(w *world) {
	g := w.operator.Genesis(w, w.wabbit)
	issuer := w.operator.Issuer(w)
	if err := ledger.Init(w.ctx, w.store, issuer, g, nil); err != nil {
		w.Fatal(err)
	}
	w.check()
	h, err := w.store.Head(w.ctx)
	if err != nil || h.Size != 2 || h.PrevSize != 0 || h.Policy != 0 {
		w.Errorf("first head %+v, %v", h, err)
	}
	if err := ledger.Init(w.ctx, w.store, issuer, g, nil); !errors.Is(err, ledger.ErrConflict) {
		w.Errorf("init again: %v, want ErrConflict", err)
	}
	l := w.ledger(w.store, w.options())
	if l.Policy().Entry != g.Policy.ID() || l.Service().Origin != w.operator.Origin || len(l.Keys()) != 1 {
		w.Errorf("policy %s, service %+v, %d keys", l.Policy().Entry, l.Service(), len(l.Keys()))
	}
	if err := l.Ready(w.ctx); err != nil {
		w.Errorf("not ready: %v", err)
	}
	w.check()
}

func initRefuses(w *world) {
	good := w.operator.Genesis(w, w.wabbit)
	stranger := NewOperator(w)
	elsewhere := NewOperator(w)
	elsewhere.URL = "https://other.example"
	byStranger := *w.operator
	byStranger.Key = stranger.Key
	issuer := w.operator.Issuer(w)
	for name, g := range map[string]ledger.Genesis{
		"a policy signed by a key it does not name": {
			Policy: byStranger.Policy(w, statement.ID{}, w.operator.Document()), Service: good.Service},
		"a service statement of a stranger":         {Policy: good.Policy, Service: stranger.Genesis(w).Service},
		"a service statement for another URL":       {Policy: good.Policy, Service: elsewhere.Genesis(w).Service},
		"a service statement without the key":       {Policy: good.Policy, Service: w.operator.Announcement(w, NewKey(w).Public())},
		"a policy in place of the service":          {Policy: good.Policy, Service: good.Policy},
		"a claim in place of the service statement": {Policy: good.Policy, Service: w.wabbit.Claim(w, Image(1), SBOM, []byte("x"))},
		"a policy that replaces another": {
			Policy: w.operator.Policy(w, statement.ID{1}, w.operator.Document(w.wabbit)), Service: good.Service},
	} {
		if err := ledger.Init(w.ctx, w.store, issuer, g, nil); err == nil {
			w.Errorf("%s: accepted", name)
		}
		if size := w.size(); size != 0 {
			w.Fatalf("%s: left a log of size %d", name, size)
		}
	}
	w.check()
}

func openRefuses(w *world) {
	w.init()
	for name, spoil := range map[string]func(*Operator){
		"another key":    func(o *Operator) { o.Receipt = NewKey(w) },
		"another URL":    func(o *Operator) { o.URL = "https://other.example" },
		"another origin": func(o *Operator) { o.Origin = "other.example/log" },
	} {
		o := *w.operator
		spoil(&o)
		if l, err := ledger.Open(w.ctx, w.store, ledger.Options{Issuer: o.Issuer(w)}); err == nil {
			w.close(l)
			w.Errorf("%s: accepted", name)
		}
	}
}

func readOnly(w *world) {
	w.init()
	s := w.wabbit.Claim(w, Image(1), SBOM, []byte("x"))
	r := Append(w, w.ledger(w.store, w.options()), s)
	l := w.ledger(w.store, ledger.Options{})
	if _, err := l.Append(w.ctx, Submission(l, s)); !errors.Is(err, ledger.ErrReadOnly) {
		w.Errorf("append: %v, want ErrReadOnly", err)
	}
	if err := l.Ready(w.ctx); !errors.Is(err, ledger.ErrReadOnly) {
		w.Errorf("ready: %v, want ErrReadOnly", err)
	}
	if got, err := l.Receipt(w.ctx, s.ID(), ledger.Public); err != nil || !bytes.Equal(got, r.Receipt) {
		w.Errorf("a receipt without the key differs: %v", err)
	}
}
