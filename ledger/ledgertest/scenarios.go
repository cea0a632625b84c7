package ledgertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

var ledgerTests = []test{
	{"init makes leaves 0 and 1 in one batch, once", initOnce},
	{"init refuses what contradicts itself", initRefuses},
	{"open refuses an issuer that the log did not announce", openRefuses},
	{"one statement becomes an entry with a receipt", appendOne},
	{"the same bytes get the same receipt, also after reopening", sameBytes},
	{"three hundred entries cross the tile border", acrossTiles},
	{"every path at every stored size is x/mod tlog's", secondOpinion},
	{"64 callers with the same statements make one leaf each", duplicates},
	{"a refused duplicate does not harm its neighbours", refusedDuplicate},
	{"a policy takes effect for what is queued behind it", policyMidQueue},
	{"bytes that are committed keep their receipt under a later policy", laterPolicy},
	{"a private entry shows to nobody whom the policy refuses", privateResubmitted},
	{"a decision outside its window is judged again", staleDecision},
	{"an announced key is current, the old one stays", rotatedKey},
	{"a service statement of another log is refused", foreignService},
	{"256 artifacts are found by each, 257 are refused", artifactLimit},
	{"deliveries follow from statement, policy and path", deliveriesFixed},
	{"a transparent statement verifies and carries the validated chain", transparent},
	{"a full queue refuses at once", fullQueue},
	{"closing finishes the batch in hand and answers the rest", closing},
	{"an impatient caller leaves a commit to its end", impatient},
	{"a ledger without a key reads and does not sign", readOnly},
	{"nothing is signed while the clocks disagree", clocksDisagree},
	{"head times never decrease", timesNeverDecrease},
	{"two ledgers on one store make one log", replicas},
}

// verify checks that r is the receipt of s under the operator's key.
func (w *world) verify(s *statement.Statement, r ledger.Registered) {
	w.Helper()
	id := s.ID()
	if r.Entry.ID != id {
		w.Fatalf("entry %s answers statement %s", r.Entry.ID, id)
	}
	parsed, err := receipts.Parse(r.Receipt)
	if err != nil {
		w.Fatal(err)
	}
	if err := parsed.Verify(id[:], w.operator.Receipt.Public(), receipts.Strict); err != nil {
		w.Fatalf("receipt of %s: %v", id, err)
	}
	if parsed.Issuer != w.operator.URL || parsed.Subject != w.operator.Origin || !parsed.IssuedAt.Equal(r.Entry.RegisteredAt) {
		w.Fatalf("receipt by %s of %s at %v, entry at %v", parsed.Issuer, parsed.Subject, parsed.IssuedAt, r.Entry.RegisteredAt)
	}
}

// async appends in the background and returns how to wait for it, once the
// submission is queued.
func (w *world) async(l *ledger.Ledger, sub ledger.Submission) (wait func() (ledger.Registered, error)) {
	type answer struct {
		r   ledger.Registered
		err error
	}
	done := make(chan answer, 1)
	go func() {
		r, err := l.Append(context.Background(), sub)
		done <- answer{r, err}
	}()
	for !l.Pending(sub.Statement.ID()) && len(done) == 0 {
		runtime.Gosched()
	}
	return func() (ledger.Registered, error) {
		a := <-done
		return a.r, a.err
	}
}

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

func appendOne(w *world) {
	w.init()
	l := w.ledger(w.store, w.options())
	s := w.wabbit.Claim(w, Image(1), SBOM, []byte("sbom"))
	r := Append(w, l, s)
	w.verify(s, r)
	if !r.New || r.Entry.Index != 2 {
		w.Errorf("new %v, index %d", r.New, r.Entry.Index)
	}
	w.check()
	got, err := l.Receipt(w.ctx, s.ID(), ledger.Public)
	if err != nil || !bytes.Equal(got, r.Receipt) {
		w.Errorf("receipt read later differs: %v", err)
	}
	e, err := l.Entry(w.ctx, s.ID(), ledger.Public)
	if err != nil || !reflect.DeepEqual(e, r.Entry) {
		w.Errorf("entry read later\n%+v, %v; answered\n%+v", e, err, r.Entry)
	}
	if l.Pending(s.ID()) {
		w.Error("pending after its answer")
	}
	if _, err := l.Receipt(w.ctx, statement.ID{1}, ledger.All); !errors.Is(err, ledger.ErrNotFound) {
		w.Errorf("receipt of nothing: %v", err)
	}
}

func sameBytes(w *world) {
	w.init()
	s := w.acme.Claim(w, Image(1), SBOM, []byte("sbom"))
	l := w.ledger(w.store, w.options())
	first := Append(w, l, s)
	Append(w, l, w.wabbit.Claim(w, Image(2), SBOM, []byte("another")))
	for i := range 3 {
		r := Append(w, l, s)
		if r.New || !bytes.Equal(r.Receipt, first.Receipt) || !reflect.DeepEqual(r.Entry, first.Entry) {
			w.Errorf("time %d: new %v, entry %d, same receipt %v", i, r.New, r.Entry.Index, bytes.Equal(r.Receipt, first.Receipt))
		}
		w.check()
		w.close(l)
		w.reopen()
		l = w.ledger(w.store, w.options())
	}
	if size := w.size(); size != 4 {
		w.Errorf("size %d, want 4", size)
	}
}

func acrossTiles(w *world) {
	w.init()
	l := w.ledger(w.store, w.options())
	all := w.wabbit.Claims(w, 0, 300)
	// One by one up to and over the border of the first tile, where a batch
	// of one completes it, then the rest at once.
	for n := 0; n < 251; n += 50 {
		w.appendAll(l, all[n:min(n+50, 251)])
	}
	for _, s := range all[251:258] {
		w.verify(s, Append(w, l, s))
		w.check()
	}
	w.appendAll(l, all[258:])
	w.check()
	w.close(l)
	w.reopen()
	l = w.ledger(w.store, w.options())
	w.verify(all[0], Append(w, l, all[0]))
	s := w.wabbit.Claim(w, Image(1), SBOM, []byte("one more"))
	w.verify(s, Append(w, l, s))
	w.check()
}

// appendAll appends concurrently; every answer must verify.
func (w *world) appendAll(l *ledger.Ledger, all []*statement.Statement) {
	w.Helper()
	answers := make([]ledger.Registered, len(all))
	var done sync.WaitGroup
	for i, s := range all {
		done.Go(func() {
			r, err := l.Append(w.ctx, Submission(l, s))
			if err != nil {
				w.Errorf("append %d: %v", i, err)
			}
			answers[i] = r
		})
	}
	done.Wait()
	if w.Failed() {
		w.FailNow()
	}
	for i, s := range all {
		w.verify(s, answers[i])
	}
}

func secondOpinion(w *world) {
	w.init()
	all := w.wabbit.Claims(w, 0, 520)
	for at, sizes := 0, []int{3, 4, 7, 8, 100, 255, 256, 257, 300, 511, 512, 513, 520}; len(sizes) > 0; sizes = sizes[1:] {
		w.commit(all[at : sizes[0]-2]...)
		at = sizes[0] - 2
	}
	l := w.ledger(w.store, w.options())
	leaves, err := w.store.Leaves(w.ctx, 0, 520)
	if err != nil {
		w.Fatal(err)
	}
	var stored []tlog.Hash
	read := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		var got []tlog.Hash
		for _, i := range indexes {
			got = append(got, stored[i])
		}
		return got, nil
	})
	for i, id := range leaves {
		more, err := tlog.StoredHashes(int64(i), id[:], read)
		if err != nil {
			w.Fatal(err)
		}
		stored = append(stored, more...)
	}
	for at := uint64(0); at < 520; {
		h, err := w.store.HeadFor(w.ctx, at)
		if err != nil {
			w.Fatal(err)
		}
		at = h.Size
		root, err := tlog.TreeHash(int64(h.Size), read)
		if err != nil || root != tlog.Hash(h.Root) {
			w.Fatalf("size %d: root %x, tlog has %v, %v", h.Size, h.Root, root, err)
		}
		for i := range h.Size {
			if h.Size > 300 && i%17 != 0 && i%256 > 2 && h.Size-i > 2 {
				continue // the borders of tiles and tree, and some between
			}
			w.compareProof(l, h, i, leaves[i])
		}
	}
	if _, err := l.ReceiptAt(w.ctx, leaves[0], 9, ledger.All); !errors.Is(err, ledger.ErrNotFound) {
		w.Errorf("receipt at a size without head: %v", err)
	}
	if _, err := l.ReceiptAt(w.ctx, leaves[7], 7, ledger.All); !errors.Is(err, ledger.ErrNotFound) {
		w.Errorf("receipt in a tree without the entry: %v", err)
	}
}

// compareProof has tlog check the path in a receipt.
func (w *world) compareProof(l *ledger.Ledger, h ledger.Head, index uint64, id statement.ID) {
	w.Helper()
	b, err := l.ReceiptAt(w.ctx, id, h.Size, ledger.All)
	if err != nil {
		w.Fatalf("receipt of %d in %d: %v", index, h.Size, err)
	}
	r, err := receipts.Parse(b)
	if err != nil || len(r.Proofs) != 1 || r.Proofs[0].TreeSize != h.Size || r.Proofs[0].LeafIndex != index {
		w.Fatalf("receipt of %d in %d: %+v, %v", index, h.Size, r, err)
	}
	var path tlog.RecordProof
	for _, hash := range r.Proofs[0].Path {
		path = append(path, tlog.Hash(hash))
	}
	if err := tlog.CheckRecord(path, int64(h.Size), tlog.Hash(h.Root), int64(index), tlog.RecordHash(id[:])); err != nil {
		w.Fatalf("path of %d in %d: %v", index, h.Size, err)
	}
}

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

// held opens a ledger whose next commit waits: what is appended while it waits
// is one batch, in order.
func (w *world) held() (l *ledger.Ledger, f *Faulty, release func()) {
	w.Helper()
	f = NewFaulty(w, w.store)
	l = w.ledger(f, w.options())
	reached, open := f.Hold()
	wait := w.async(l, Submission(l, w.wabbit.Claim(w, Image(19), SBOM, fmt.Appendf(nil, "opens the gate at %d", w.size()))))
	<-reached
	return l, f, func() {
		w.Helper()
		open()
		if _, err := wait(); err != nil {
			w.Fatal(err)
		}
	}
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

func artifactLimit(w *world) {
	w.init()
	l := w.ledger(w.store, w.options())
	var images []statement.Digest
	for i := range 300 {
		images = append(images, Image(i))
	}
	Append(w, l, w.wabbit.Provenance(w, "https://slsa.dev/provenance/v1", images[:256]...))
	for _, n := range []int{257, 300} {
		_, err := l.Append(w.ctx, Submission(l, w.wabbit.Provenance(w, "https://slsa.dev/provenance/v1", images[:n]...)))
		refusal(w.T, err)
	}
	for i, image := range images {
		found, err := l.Find(w.ctx, ledger.Query{Artifacts: []statement.Digest{image}, Limit: 5})
		if err != nil || (len(found) == 1) != (i < 256) {
			w.Fatalf("artifact %d finds %v, %v", i, indexes(found), err)
		}
	}
	w.check()
}

func deliveriesFixed(w *world) {
	w.init()
	l := w.ledger(w.store, w.options())
	labelled := func(s *statement.Statement) []string {
		w.Helper()
		d, err := l.Deliveries(w.ctx, s.ID(), ledger.All)
		if err != nil {
			w.Fatal(err)
		}
		got := []string{}
		for _, d := range d {
			got = append(got, d.Registry+"/"+d.Repository+" "+d.Artifact)
		}
		return got
	}
	at := func(sub string) *statement.Statement {
		return w.wabbit.Sign(w, statement.Template{Subject: sub, ContentType: SBOM, Payload: []byte(sub)})
	}
	both := func(repository string) []string {
		return []string{registry + "/" + repository + " evidence", registry + "/" + repository + " transparency"}
	}
	for _, c := range []struct {
		sub, named string
		want       []string
	}{
		{"pkg:oci/net-monitor@" + string(Image(1)), "", both("wabbit/net-monitor")},
		{"pkg:oci/net-monitor@" + string(Image(1)), "team/x", both("team/x")},
		{registry + "/wabbit/here@" + string(Image(1)), "", both("wabbit/here")},
		{"elsewhere.example/wabbit/here@" + string(Image(1)), "", []string{}},
		{"no image at all", "team/x", []string{}},
	} {
		s := at(c.sub)
		sub := Submission(l, s)
		sub.Repository = c.named
		_, err := l.Append(w.ctx, sub)
		if err != nil {
			w.Fatalf("%s into %q: %v", c.sub, c.named, err)
		}
		if c.named == "team/x" && strings.HasPrefix(c.sub, "pkg:oci") {
			// The same bytes again: a resubmission adds no delivery.
			c.want = both("wabbit/net-monitor")
		}
		if got := labelled(s); !slices.Equal(got, c.want) {
			w.Errorf("%s into %q: %v, want %v", c.sub, c.named, got, c.want)
		}
	}
	named := at("pkg:oci/net-monitor@" + string(Image(2)))
	sub := Submission(l, named)
	sub.Repository = "team/x"
	if _, err := l.Append(w.ctx, sub); err != nil {
		w.Fatal(err)
	}
	if got := labelled(named); !slices.Equal(got, both("team/x")) {
		w.Errorf("named by the path: %v", got)
	}
	mismatch := Submission(l, at(registry+"/wabbit/here@"+string(Image(3))))
	mismatch.Repository = "wabbit/there"
	_, err := l.Append(w.ctx, mismatch)
	if r := refusal(w.T, err); r.Code != policy.CodeRepositoryMismatch {
		w.Errorf("mismatch is refused as %s", r.Code)
	}
	w.check()

	w.close(l)
	l = w.ledger(w.store, ledger.Options{Issuer: w.operator.Issuer(w)})
	nowhere := at("pkg:oci/net-monitor@" + string(Image(4)))
	Append(w, l, nowhere)
	if got := labelled(nowhere); len(got) > 0 {
		w.Errorf("without a registry: %v", got)
	}
	w.check()
}

func transparent(w *world) {
	w.init()
	l := w.ledger(w.store, w.options())
	for _, s := range []*statement.Statement{
		w.wabbit.Claim(w, Image(1), SBOM, []byte("x")), w.acme.Claim(w, Image(1), SBOM, []byte("y")),
	} {
		r := Append(w, l, s)
		b, err := l.Transparent(w.ctx, s.ID(), ledger.Public)
		if err != nil {
			w.Fatal(err)
		}
		canonical, found, err := receipts.SplitTransparent(b)
		if err != nil || !bytes.Equal(canonical, s.Canonical()) || len(found) != 1 || !bytes.Equal(found[0], r.Receipt) {
			w.Errorf("transparent statement of %s: %d receipts, %v", s.Issuer, len(found), err)
		}
		parsed, err := statement.Parse(b)
		if err != nil || parsed.ID() != s.ID() {
			w.Fatalf("transparent statement of %s: %v", s.Issuer, err)
		}
		if d := l.Policy().Evaluate(parsed, time.Now()); d.Refusal != nil {
			w.Errorf("transparent statement of %s does not stand alone: %v", s.Issuer, d.Refusal)
		}
		if again, err := l.Transparent(w.ctx, s.ID(), ledger.Public); err != nil || !bytes.Equal(again, b) {
			w.Errorf("transparent statement of %s differs the second time: %v", s.Issuer, err)
		}
	}
}

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

func clocksDisagree(w *world) {
	w.init()
	for _, c := range []struct {
		name                string
		wall, steady, store time.Duration // after the start
		signs               bool
	}{
		{"all go", time.Minute, time.Minute, time.Minute, true},
		{"the wall clock is 9 s off", 69 * time.Second, time.Minute, 69 * time.Second, true},
		{"the wall clock jumps 11 s ahead", 71 * time.Second, time.Minute, 71 * time.Second, false},
		{"the wall clock is frozen", 0, time.Minute, 0, false},
		{"the wall clock jumps back an hour", -time.Hour, time.Second, -time.Hour, false},
		{"the wall clock jumps ten years", 87600 * time.Hour, time.Second, 87600 * time.Hour, false},
		{"the store's clock is 9 s behind", time.Minute, time.Minute, 51 * time.Second, true},
		{"the store's clock is 11 s behind", time.Minute, time.Minute, 49 * time.Second, false},
		{"the store's clock is 11 s ahead", time.Minute, time.Minute, 71 * time.Second, false},
		{"the store's clock is a year ahead", time.Minute, time.Minute, 8760 * time.Hour, false},
	} {
		start := time.Now().Round(0)
		var passed, steady, store time.Duration
		var mu sync.Mutex
		read := func(d *time.Duration) time.Duration {
			mu.Lock()
			defer mu.Unlock()
			return *d
		}
		o := w.options()
		o.Clock = func() time.Time { return start.Add(read(&passed)) }
		o.Steady = func() time.Duration { return time.Hour + read(&steady) }
		l := w.ledger(Clocked(w.store, func() time.Time { return start.Add(read(&store)) }), o)
		mu.Lock()
		passed, steady, store = c.wall, c.steady, c.store
		mu.Unlock()
		s := w.wabbit.Claim(w, Image(1), SBOM, []byte(c.name))
		before := w.size()
		_, err := l.Append(w.ctx, Submission(l, s))
		if c.signs && err != nil || !c.signs && !errors.Is(err, ledger.ErrClock) {
			w.Errorf("%s: %v", c.name, err)
		}
		if ready := l.Ready(w.ctx); c.signs != (ready == nil) {
			w.Errorf("%s: ready %v", c.name, ready)
		}
		if size := w.size(); c.signs != (size == before+1) {
			w.Errorf("%s: size went from %d to %d", c.name, before, size)
		}
		if known := w.commitEarlier(l); known != nil {
			w.Errorf("%s: what is registered is not answered: %v", c.name, known)
		}
		w.close(l)
	}
	w.check()
}

// commitEarlier submits leaf 0 again: no clock is needed to answer it.
func (w *world) commitEarlier(l *ledger.Ledger) error {
	w.Helper()
	leaf0, err := w.store.Leaves(w.ctx, 0, 1)
	if err != nil {
		w.Fatal(err)
	}
	r, err := w.store.Record(w.ctx, leaf0[0], ledger.All)
	if err != nil {
		w.Fatal(err)
	}
	s, err := statement.Parse(r.Canonical)
	if err != nil {
		w.Fatal(err)
	}
	_, err = l.Append(w.ctx, ledger.Submission{Statement: s})
	return err
}

func timesNeverDecrease(w *world) {
	w.init()
	start := time.Now().UTC().Truncate(time.Second)
	var last time.Time
	// Each restart finds the clock somewhere else; up to 10 s back is tolerated.
	for i, at := range []time.Duration{time.Second, 8 * time.Second, 2 * time.Second, 9 * time.Second, 0} {
		clock := func() time.Time { return start.Add(at + 300*time.Millisecond) }
		o := w.options()
		o.Clock = clock
		l := w.ledger(Clocked(w.store, clock), o)
		r := Append(w, l, w.wabbit.Claim(w, Image(1), SBOM, fmt.Append(nil, i)))
		if r.Entry.RegisteredAt.Before(last) || r.Entry.RegisteredAt.Nanosecond() != 0 {
			w.Errorf("entry %d at %v, after one at %v", r.Entry.Index, r.Entry.RegisteredAt, last)
		}
		last = r.Entry.RegisteredAt
		w.close(l)
	}
	if want := start.Add(9 * time.Second); !last.Equal(want) {
		w.Errorf("last time %v, want %v", last, want)
	}
	clock := func() time.Time { return start.Add(-2 * time.Second) }
	o := w.options()
	o.Clock = clock
	l := w.ledger(Clocked(w.store, clock), o)
	if _, err := l.Append(w.ctx, Submission(l, w.wabbit.Claim(w, Image(1), SBOM, []byte("late")))); !errors.Is(err, ledger.ErrClock) {
		w.Errorf("11 s behind the last head: %v, want ErrClock", err)
	}
	w.check()
}

func replicas(w *world) {
	w.init()
	a, b := w.ledger(w.store, w.options()), w.ledger(w.store, w.options())
	s := w.wabbit.Claim(w, Image(1), SBOM, []byte("x"))
	first := Append(w, a, s)
	if r := Append(w, b, s); r.New || !bytes.Equal(r.Receipt, first.Receipt) {
		w.Error("the other replica answers another receipt")
	}
	all := w.wabbit.Claims(w, 0, 200)
	var done sync.WaitGroup
	for i, s := range all {
		for k, l := range []*ledger.Ledger{a, b} {
			if i%3 == 0 || i%2 == k { // a third goes to both
				done.Go(func() {
					if _, err := l.Append(w.ctx, Submission(l, s)); err != nil {
						w.Errorf("statement %d at replica %d: %v", i, k, err)
					}
				})
			}
		}
	}
	done.Wait()
	if size := w.size(); size != 203 {
		w.Errorf("size %d, want 203", size)
	}
	w.check()

	// One replica learns of the other's policy by losing the swap.
	Append(w, a, w.operator.Policy(w, a.Policy().Entry, w.operator.Document(w.acme)))
	late := w.wabbit.Claim(w, Image(2), SBOM, []byte("late"))
	_, err := b.Append(w.ctx, Submission(b, late))
	refusal(w.T, err)
	if b.Policy().Entry != a.Policy().Entry {
		w.Error("the replicas differ about the policy in force")
	}
	w.check()
}
