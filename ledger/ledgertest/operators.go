package ledgertest

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/fsck"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

var operatorTests = []test{
	{"a policy of two operators takes effect when both have signed the same document", twoOperators},
	{"a policy is read once until operators sign another", policyReadOnce},
	{"what operators have signed adds up for a ledger that follows", proposalsFollowed},
	{"what one operator signed is void once another policy is in force", staleSignature},
	{"an operator's second signature under a document is refused, and names the first", signedTwice},
	{"of two replicas that complete a policy one wins, and the other's is refused", twoCompletions},
	{"both signatures in one queue put the policy in force for what stands behind them", bothInOneQueue},
	{"a policy by a key that the policy in force does not name is refused", foreignOperator},
	{"a checkpoint key is announced before it signs", rotatedCheckpoint},
	{"a head by a key that was not announced before it is not continued", unannouncedHead},
	{"a head is not signed by a key that its own batch announces", selfAnnouncedHead},
}

// second is another operator of the same service.
func (w *world) second() *Operator {
	other := *w.operator
	other.Key = NewKey(w)
	return &other
}

// shared makes a log of two operators, who both have to sign the next policy.
func (w *world) shared(other *Operator) policy.Document {
	w.Helper()
	d := w.operator.Document(w.publishers()...)
	d.Operators = append(d.Operators, policy.Operator{Key: policy.Key{Public: other.Key.Public()}})
	d.Threshold = 2
	g := ledger.Genesis{
		Policy:  w.operator.Policy(w, statement.ID{}, d),
		Service: w.operator.Announcement(w, w.operator.Receipt.Public()),
	}
	if err := ledger.Init(w.ctx, w.store, w.operator.Issuer(w), g, nil); err != nil {
		w.Fatal(err)
	}
	w.check()
	return d
}

func twoOperators(w *world) {
	other := w.second()
	d := w.shared(other)
	l, reader := w.ledger(w.store, w.options()), w.ledger(w.store, ledger.Options{})
	old := l.Policy()
	d.Deny = []string{"https://mallory.example"}
	first, second := w.operator.Policy(w, old.Entry, d), other.Policy(w, old.Entry, d)
	stricter := d
	stricter.Threshold = 1
	unlike := other.Policy(w, old.Entry, stricter)
	for _, s := range []*statement.Statement{first, unlike} {
		if r := Append(w, l, s); r.Entry.Policy != old.Entry {
			w.Errorf("judged under %s", r.Entry.Policy)
		}
		if l.Policy().Entry != old.Entry {
			w.Fatal("in force with one signature")
		}
		w.check()
	}
	proposals, err := reader.Proposals(w.ctx)
	if err != nil || len(proposals) != 2 || proposals[0].InForce || proposals[0].Needed != 2 || len(proposals[0].Signed) != 1 || proposals[0].Policy.Entry != first.ID() {
		w.Errorf("proposed: %+v, %v", proposals, err)
	}
	w.close(l)
	w.reopen()
	l = w.ledger(w.store, w.options())
	Append(w, l, w.wabbit.Claim(w, Image(1), SBOM, []byte("in between")))
	done := Append(w, l, second)
	if l.Policy().Entry != second.ID() || len(l.Policy().Deny) != 1 {
		w.Errorf("in force is %s, want %s", l.Policy().Entry, second.ID())
	}
	w.check()
	reign, err := l.PolicyOf(w.ctx, second.ID())
	if err != nil || !reign.InForce || reign.Next != (statement.ID{}) || reign.Index != done.Entry.Index || len(reign.Signed) != 2 || reign.Needed != 2 {
		w.Errorf("reign %+v, %v", reign, err)
	}
	for index, want := range map[uint64]statement.ID{0: old.Entry, 1: old.Entry, done.Entry.Index: old.Entry, done.Entry.Index + 1: second.ID()} {
		if got, err := l.PolicyAt(w.ctx, index); err != nil || got.Policy.Entry != want {
			w.Errorf("policy at %d: %+v, %v, want %s", index, got, err, want)
		}
	}
	if _, err := l.PolicyAt(w.ctx, done.Entry.Index+2); !errors.Is(err, ledger.ErrNotFound) {
		w.Errorf("policy behind the end: %v", err)
	}
	lapsed, err := l.PolicyOf(w.ctx, unlike.ID())
	if err != nil || lapsed.InForce || lapsed.Next != second.ID() {
		w.Errorf("what lapsed: %+v, %v", lapsed, err)
	}
	if before, err := l.PolicyOf(w.ctx, old.Entry); err != nil || before.Next != second.ID() || before.Until.IsZero() {
		w.Errorf("the one before: %+v, %v", before, err)
	}
	Append(w, l, w.wabbit.Claim(w, Image(2), SBOM, []byte("behind")))
	w.check()
	w.close(l)
	w.reopen()
	if l = w.ledger(w.store, w.options()); l.Policy().Entry != second.ID() {
		w.Errorf("in force after reopening is %s", l.Policy().Entry)
	}
}

// recording is a store that counts what is read of entries.
type recording struct {
	ledger.Store
	records atomic.Int64
}

func (r *recording) Record(ctx context.Context, id statement.ID, scope ledger.Scope) (ledger.Record, error) {
	r.records.Add(1)
	return r.Store.Record(ctx, id, scope)
}

func policyReadOnce(w *world) {
	other := w.second()
	d := w.shared(other)
	f := &recording{Store: w.store}
	l := w.ledger(f, w.options())
	old := l.Policy().Entry
	read := func(name string, fresh bool, next statement.ID, needed int) {
		w.Helper()
		before := f.records.Load()
		r, err := l.PolicyOf(w.ctx, old)
		if err != nil || r.Policy.Entry != old || r.Next != next || r.Needed != needed || len(r.Signed) != 1 {
			w.Errorf("%s: %+v, %v", name, r, err)
		}
		if asked := f.records.Load() > before; asked != fresh {
			w.Errorf("%s: the database was asked: %t", name, asked)
		}
	}
	read("at first", true, statement.ID{}, 1)
	read("again", false, statement.ID{}, 1)
	Append(w, l, w.wabbit.Claim(w, Image(1), SBOM, []byte("x")))
	read("once the log has grown", false, statement.ID{}, 1)
	d.Deny = []string{"https://mallory.example"}
	Append(w, l, w.operator.Policy(w, old, d))
	read("once one operator has signed another", true, statement.ID{}, 1)
	next := other.Policy(w, old, d)
	Append(w, l, next)
	read("once that is in force", true, next.ID(), 1)
	if _, err := l.PolicyOf(w.ctx, statement.ID{1}); !errors.Is(err, ledger.ErrNotFound) {
		w.Errorf("of no entry: %v", err)
	}
}

func proposalsFollowed(w *world) {
	other := w.second()
	d := w.shared(other)
	l, reader := w.ledger(w.store, w.options()), w.ledger(w.store, ledger.Options{})
	old := l.Policy().Entry
	for i, name := range []string{"https://one.example", "https://two.example", "https://three.example"} {
		d.Deny = []string{name}
		Append(w, l, w.operator.Policy(w, old, d))
		Append(w, l, w.wabbit.Claim(w, Image(i), SBOM, []byte(name)))
		if all, err := reader.Proposals(w.ctx); err != nil || len(all) != i+1 || all[i].Policy.Deny[0] != name {
			w.Errorf("after %d proposals: %+v, %v", i+1, all, err)
		}
	}
	Append(w, l, other.Policy(w, old, d))
	if all, err := reader.Proposals(w.ctx); err != nil || len(all) != 0 || reader.Policy().Entry != l.Policy().Entry {
		w.Errorf("once one is in force: %+v, %v", all, err)
	}
}

func staleSignature(w *world) {
	other := w.second()
	d := w.shared(other)
	l := w.ledger(w.store, w.options())
	old := l.Policy().Entry
	slow := d
	slow.Deny = []string{"https://slow.example"}
	Append(w, l, w.operator.Policy(w, old, slow))
	d.Threshold = 1
	Append(w, l, other.Policy(w, old, d))
	Append(w, l, w.operator.Policy(w, old, d))
	_, err := l.Append(w.ctx, Submission(l, other.Policy(w, old, slow)))
	if r := refusal(w.T, err); r.Rule != "previous" || r.Policy != l.Policy().Entry {
		w.Errorf("signed for the policy before: %+v", r)
	}
	if l.Policy().Threshold != 1 {
		w.Errorf("threshold %d", l.Policy().Threshold)
	}
	alone := other.Policy(w, l.Policy().Entry, d)
	Append(w, l, alone)
	if l.Policy().Entry != alone.ID() {
		w.Error("one signature is not enough, where the policy in force asks for one")
	}
	w.check()
}

func signedTwice(w *world) {
	d := w.shared(w.second())
	l := w.ledger(w.store, w.options())
	d.Deny = []string{"https://mallory.example"}
	first := w.operator.Policy(w, l.Policy().Entry, d)
	Append(w, l, first)
	again := sign(w, w.operator.Key, statement.Template{ // another signature over the same document
		Issuer: first.Issuer, Subject: first.Subject, ContentType: policy.MediaType, Payload: first.Payload, IssuedAt: time.Now(),
	})
	_, err := l.Append(w.ctx, Submission(l, again))
	if r := refusal(w.T, err); r.Rule != "threshold" || !strings.Contains(r.Reason, first.ID().String()) {
		w.Errorf("signed twice: %+v", r)
	}
	if r := Append(w, l, first); r.New {
		w.Error("the same bytes are new")
	}
	w.check()
}

func twoCompletions(w *world) {
	other := w.second()
	d := w.shared(other)
	a, b := w.ledger(w.store, w.options()), w.ledger(w.store, w.options())
	old := a.Policy().Entry
	left, right := d, d
	left.Deny, right.Deny = []string{"https://left.example"}, []string{"https://right.example"}
	Append(w, a, w.operator.Policy(w, old, left))
	Append(w, a, w.operator.Policy(w, old, right))
	wins, loses := other.Policy(w, old, left), other.Policy(w, old, right)
	waitA, waitB := w.async(a, Submission(a, wins)), w.async(b, Submission(b, loses))
	_, errA := waitA()
	_, errB := waitB()
	if (errA == nil) == (errB == nil) {
		w.Fatalf("of two policies: %v, %v", errA, errB)
	}
	if errA != nil {
		refusal(w.T, errA)
		wins = loses
	} else {
		refusal(w.T, errB)
	}
	for _, l := range []*ledger.Ledger{a, b} {
		if err := l.Refresh(w.ctx); err != nil || l.Policy().Entry != wins.ID() {
			w.Errorf("in force is %s, want %s; %v", l.Policy().Entry, wins.ID(), err)
		}
	}
	w.check()
}

func bothInOneQueue(w *world) {
	other := w.second()
	d := w.shared(other)
	l, f, release := w.held()
	d.Issuers = d.Issuers[1:] // without wabbit
	old := l.Policy().Entry
	claim := w.wabbit.Claim(w, Image(1), SBOM, []byte("too late"))
	var waits []func() (ledger.Registered, error)
	for _, s := range []*statement.Statement{w.operator.Policy(w, old, d), other.Policy(w, old, d), claim} {
		waits = append(waits, w.async(l, Submission(l, s)))
	}
	commits := f.Commits()
	release()
	for i, wait := range waits[:2] {
		if _, err := wait(); err != nil {
			w.Errorf("signature %d: %v", i, err)
		}
	}
	_, err := waits[2]()
	refusal(w.T, err)
	if n := f.Commits() - commits; n != 2 {
		w.Errorf("%d commits, want two: each policy statement closes its batch", n)
	}
	w.check()
}

func foreignOperator(w *world) {
	w.init()
	l := w.ledger(w.store, w.options())
	mallory := w.second()
	d := w.operator.Document(w.publishers()...)
	d.Operators = append(d.Operators, policy.Operator{Key: policy.Key{Public: mallory.Key.Public()}})
	for name, s := range map[string]*statement.Statement{
		"a policy that names its own key": mallory.Policy(w, l.Policy().Entry, d),
		"an announcement":                 mallory.Announcement(w, mallory.Receipt.Public()),
	} {
		_, err := l.Append(w.ctx, Submission(l, s))
		if r := refusal(w.T, err); r.Rule != "operators" || r.Policy != l.Policy().Entry {
			w.Errorf("%s: %+v", name, r)
		}
	}
	if size := w.size(); size != 2 {
		w.Errorf("size %d", size)
	}
}

func rotatedCheckpoint(w *world) {
	w.init()
	o := w.options()
	o.Checkpoint = w.operator.Checkpoint
	l := w.ledger(w.store, o)
	old := l.CheckpointKeys()
	if _, err := l.Checkpoint(w.ctx); err != nil {
		w.Fatal(err)
	}
	next := *w.operator
	next.Checkpoint = NewOperator(w).Checkpoint
	fresh := w.options()
	fresh.Checkpoint = next.Checkpoint
	if _, err := ledger.Open(w.ctx, w.store, fresh); err == nil || !strings.Contains(err.Error(), "not announced") {
		w.Fatalf("a checkpoint key that is not announced: %v", err)
	}
	Append(w, l, next.Announcement(w, w.operator.Receipt.Public()))
	if keys := l.CheckpointKeys(); len(keys) != 2 || keys[1] != old[0] {
		w.Errorf("keys %v", keys)
	}
	if _, err := l.Checkpoint(w.ctx); err != nil { // the old one goes on
		w.Error(err)
	}
	w.close(l)
	l = w.ledger(w.store, fresh)
	signed, err := l.Checkpoint(w.ctx)
	if err != nil || !signedBy(signed, l.CheckpointKeys()[0]) || signedBy(signed, old[0]) {
		w.Errorf("checkpoint under the new key: %q, %v", signed, err)
	}
	if keys := l.Keys(); len(keys) != 1 {
		w.Errorf("%d receipt keys", len(keys))
	}
	w.check()
}

func unannouncedHead(w *world) {
	w.init()
	w.commit(w.wabbit.Claims(w, 0, 3)...)
	w.operator.Receipt = NewKey(w)
	w.commit(w.wabbit.Claims(w, 3, 1)...)
	w.unannounced()
}

// Who could announce a key in the batch that it signs would need no announcement.
func selfAnnouncedHead(w *world) {
	w.init()
	w.operator.Receipt = NewKey(w)
	w.commit(w.operator.Announcement(w, w.operator.Receipt.Public()))
	w.unannounced()
}

func (w *world) unannounced() {
	w.Helper()
	if _, err := ledger.Open(w.ctx, w.store, ledger.Options{}); !errors.Is(err, ledger.ErrCorrupt) || !strings.Contains(err.Error(), "announced") {
		w.Errorf("start: %v, want ErrCorrupt", err)
	}
	if err := CheckLog(w.ctx, w.store); err == nil || !strings.Contains(err.Error(), "none of 1 announced keys") {
		w.Errorf("CheckLog: %v", err)
	}
	s, ok := w.store.(fsck.Store)
	if !ok {
		w.Fatal("the store has no Audit")
	}
	told := false
	if _, err := fsck.Check(w.ctx, s, func(f fsck.Finding) {
		told = told || f.Kind == fsck.Head && strings.Contains(f.What, "signed by no key that the log announced before")
	}); err != nil || !told {
		w.Errorf("fsck says nothing of it; %v", err)
	}
}

// signedBy says whether a checkpoint verifies under a key.
func signedBy(checkpoint []byte, vkey string) bool {
	v, err := note.NewVerifier(vkey)
	if err != nil {
		return false
	}
	_, err = note.Open(checkpoint, note.VerifierList(v))
	return err == nil
}
