package ledgertest

import (
	"bytes"
	"reflect"
	"time"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

func policyMidQueue(w *world) {
	w.init()
	l, f, release := w.held()
	before := w.wabbit.Claim(w, Image(1), SBOM, []byte("before"))
	behind := w.wabbit.Claim(w, Image(1), SBOM, []byte("behind"))
	welcome := NewPublisher(w, "https://new.example")
	invited := welcome.Claim(w, Image(1), SBOM, []byte("invited"))
	next := w.operator.Policy(w, l.Policy().Entry, w.operator.Document(w.acme, welcome))
	rival := w.operator.Policy(w, l.Policy().Entry, w.operator.Document(w.acme))

	submission := func(s *statement.Statement) ledger.Submission {
		sub := Submission(l, s)
		sub.Decision.Policy = l.Policy().Entry
		return sub
	}
	waits := map[string]func() (ledger.Registered, error){}
	for _, sub := range []struct {
		name string
		s    *statement.Statement
	}{{"before", before}, {"next", next}, {"next again", next}, {"behind", behind}, {"invited", invited}, {"rival", rival}} {
		waits[sub.name] = w.async(l, submission(sub.s))
	}
	commits := f.Commits()
	release()
	for _, name := range []string{"before", "next", "next again", "invited"} {
		if _, err := waits[name](); err != nil {
			w.Errorf("%s: %v", name, err)
		}
	}
	if _, err := waits["behind"](); refusal(w.T, err).Policy != next.ID() {
		w.Errorf("behind the policy: refused under %s, want %s", refusal(w.T, err).Policy, next.ID())
	}
	_, err := waits["rival"]()
	refusal(w.T, err)
	if n := f.Commits() - commits; n != 2 {
		w.Errorf("%d commits, want two: the policy closes its batch", n)
	}
	if l.Policy().Entry != next.ID() {
		w.Errorf("in force is %s, want %s", l.Policy().Entry, next.ID())
	}
	w.check()
	w.close(l)
	w.reopen()
	l = w.ledger(w.store, w.options())
	if l.Policy().Entry != next.ID() {
		w.Errorf("in force after reopening is %s, want %s", l.Policy().Entry, next.ID())
	}
}

func laterPolicy(w *world) {
	w.init()
	l := w.ledger(w.store, w.options())
	s := w.wabbit.Claim(w, Image(1), SBOM, []byte("x"))
	first := Append(w, l, s)
	old := l.Policy()
	Append(w, l, w.operator.Policy(w, old.Entry, w.operator.Document(w.acme)))
	if d := l.Policy().Evaluate(s, time.Now()); d.Refusal == nil {
		w.Fatal("the later policy still admits it")
	}
	for name, d := range map[string]policy.Decision{"old": old.Evaluate(s, time.Now()), "new": l.Policy().Evaluate(s, time.Now()), "no": {}} {
		r, err := l.Append(w.ctx, ledger.Submission{Statement: s, Decision: d})
		if err != nil || !bytes.Equal(r.Receipt, first.Receipt) || r.New {
			w.Errorf("resubmitted with %s decision: %v", name, err)
		}
	}
	_, err := l.Append(w.ctx, Submission(l, w.wabbit.Claim(w, Image(2), SBOM, []byte("y"))))
	refusal(w.T, err)
	w.check()
}

func staleDecision(w *world) {
	w.init()
	l := w.ledger(w.store, w.options())
	at := time.Now()
	s := w.wabbit.Sign(w, statement.Template{
		Subject: "pkg:oci/net-monitor@" + string(Image(1)), ContentType: SBOM, Payload: []byte("x"), Expires: at.Add(-time.Minute),
	})
	d := l.Policy().Evaluate(s, at.Add(-time.Hour)) // it was admissible an hour ago
	if d.Refusal != nil || d.NotAfter.IsZero() {
		w.Fatalf("decision %+v", d)
	}
	_, err := l.Append(w.ctx, ledger.Submission{Statement: s, Decision: d})
	if r := refusal(w.T, err); r.Rule != "exp" {
		w.Errorf("refused by %q, want exp", r.Rule)
	}
	w.check()
}

func rotatedKey(w *world) {
	w.init()
	l := w.ledger(w.store, w.options())
	old := w.wabbit.Claim(w, Image(1), SBOM, []byte("old"))
	first := Append(w, l, old)
	next := *w.operator
	next.Receipt = NewKey(w)
	if _, err := ledger.Open(w.ctx, w.store, ledger.Options{Issuer: next.Issuer(w)}); err == nil {
		w.Fatal("a key was taken that is not announced")
	}
	Append(w, l, w.operator.Announcement(w, next.Receipt.Public()))
	if keys := l.Keys(); len(keys) != 2 || !equal(keys[0].Public, next.Receipt.Public()) || !equal(keys[1].Public, w.operator.Receipt.Public()) {
		w.Errorf("%d keys, want the new one first", len(keys))
	}
	Append(w, l, w.wabbit.Claim(w, Image(2), SBOM, []byte("still the old key")))
	w.close(l)
	l = w.ledger(w.store, ledger.Options{Issuer: next.Issuer(w), Registry: registry})
	if keys := l.Keys(); len(keys) != 2 || !equal(keys[0].Public, next.Receipt.Public()) {
		w.Errorf("%d keys after reopening, want the new one first", len(keys))
	}
	s := w.wabbit.Claim(w, Image(3), SBOM, []byte("new"))
	r := Append(w, l, s)
	if again := Append(w, l, old); !bytes.Equal(again.Receipt, first.Receipt) {
		w.Error("old receipt changed with the key")
	}
	w.verify(old, first)
	w.operator = &next
	w.verify(s, r)
	w.check()
	if err := CheckLog(w.ctx, w.store, next.Receipt.Public()); err == nil {
		w.Error("heads signed by a key that the auditor does not trust passed")
	}
}

func foreignService(w *world) {
	w.init()
	l := w.ledger(w.store, w.options())
	sound := l.Service()
	for name, spoil := range map[string]func(*ledger.Service){
		"origin":    func(s *ledger.Service) { s.Origin = "other.example/log" },
		"leaf rule": func(s *ledger.Service) { s.LeafRule = "hearsay" },
		"no key":    func(s *ledger.Service) { s.ReceiptKeys = nil },
		"bad key":   func(s *ledger.Service) { s.ReceiptKeys = [][]byte{{0xa0}} },
		"version":   func(s *ledger.Service) { s.Version = 2 },
	} {
		svc := sound
		spoil(&svc)
		_, err := l.Append(w.ctx, Submission(l, w.operator.Service(w, svc)))
		if err == nil {
			w.Errorf("%s: accepted", name)
			continue
		}
		refusal(w.T, err)
	}
	if !reflect.DeepEqual(l.Service(), sound) {
		w.Errorf("service is %+v", l.Service())
	}
	if size := w.size(); size != 2 {
		w.Errorf("size %d, want 2", size)
	}
	w.check()
}
