package ledgertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

var conditionTests = []test{
	{"two numbers of one sequence stand behind each other in one batch, and a third that is taken does not", sequenceInOneBatch},
	{"a condition sees what was there before its policy, and what other ledgers wrote", conditionLooksBack},
	{"a registered statement keeps its receipt, whatever its conditions say by now", conditionOnce},
	{"a batch with many conditions is several, and all are answered", manyConditions},
	{"a batch with conditions that ask much is several", askingConditions},
	{"entries are found by issuer and sub, with an index of the issuer's own and without", findSeries},
	{"an issuer's index is made longer only when it has fallen behind", followNow},
	{"an issuer's index is made longer step by step", followSteps},
	{"an issuer is followed before a submission waits, and once for a batch that has to", followAhead},
	{"what the key was found under is kept with the identity", identityName},
	{"a policy that came in between and wants a lookup is no refusal", lookupMeanwhile},
}

// numbered signs number n of a sequence about sub.
func (p *Publisher) numbered(w *world, sub string, n int) *statement.Statement {
	w.Helper()
	return p.Sign(w, statement.Template{
		Subject: sub, ContentType: Report, Payload: fmt.Appendf(nil, "%d", n), Claims: map[any]any{"build": n},
	})
}

// sequenced is a policy by which reports are numbered.
func (w *world) sequenced(l *ledger.Ledger) *policy.Policy {
	w.Helper()
	d := w.operator.Document(w.publishers()...)
	d.Rules = []policy.Rule{{
		Name: "numbers", When: &policy.When{MediaTypes: []string{Report}}, Sequence: &policy.Sequence{Claim: "build"},
	}}
	Append(w, l, w.operator.Policy(w, l.Policy().Entry, d))
	return l.Policy()
}

func sequenceInOneBatch(w *world) {
	w.init()
	first := w.ledger(w.store, w.options())
	w.sequenced(first)
	w.close(first)
	l, f, release := w.held()
	var waits []func() (ledger.Registered, error)
	for _, s := range []*statement.Statement{
		w.wabbit.numbered(w, "a", 1), w.wabbit.numbered(w, "a", 2), w.wabbit.numbered(w, "b", 7), w.wabbit.numbered(w, "a", 4),
		w.acme.numbered(w, "a", 1), w.wabbit.numbered(w, "a", 3),
	} {
		waits = append(waits, w.async(l, Submission(l, s)))
	}
	commits := f.Commits()
	release()
	for i, wait := range waits {
		_, err := wait()
		if i == 3 {
			if r := refusal(w.T, err); r.Rule != "numbers" && r.Rule != "numbers.sequence" || r.Policy != l.Policy().Entry {
				w.Errorf("number 4 after 2: %+v", r)
			}
		} else if err != nil {
			w.Errorf("statement %d: %v", i, err)
		}
	}
	if n := f.Commits() - commits; n != 1 {
		w.Errorf("%d commits, want one", n)
	}
	w.check()
	if r, err := l.Standing(w.ctx, w.wabbit.numbered(w, "a", 3), l.Policy().Evaluate(w.wabbit.numbered(w, "a", 3), time.Now())); err != nil || r == nil {
		w.Errorf("a dry run of number 3, again: %v, %v", r, err)
	}
	if r, err := l.Standing(w.ctx, w.wabbit.numbered(w, "a", 4), l.Policy().Evaluate(w.wabbit.numbered(w, "a", 4), time.Now())); err != nil || r != nil {
		w.Errorf("a dry run of number 4: %v, %v", r, err)
	}
}

func conditionLooksBack(w *world) {
	w.init()
	l, other := w.ledger(w.store, w.options()), w.ledger(w.store, w.options())
	Append(w, l, w.wabbit.numbered(w, "a", 41))
	w.sequenced(l)
	_, err := other.Append(w.ctx, Submission(other, w.wabbit.numbered(w, "a", 1)))
	refusal(w.T, err)
	Append(w, other, w.wabbit.numbered(w, "a", 42))
	_, err = l.Append(w.ctx, Submission(l, w.wabbit.Sign(w, statement.Template{
		Subject: "a", ContentType: Report, Payload: []byte("another 42"), Claims: map[any]any{"build": 42},
	})))
	refusal(w.T, err)
	Append(w, l, w.wabbit.numbered(w, "a", 43))
	w.check()
	w.close(l)
	w.close(other)
	w.reopen()
	w.check()
}

func conditionOnce(w *world) {
	w.init()
	l := w.ledger(w.store, w.options())
	w.sequenced(l)
	s := w.wabbit.numbered(w, "a", 1)
	first := Append(w, l, s)
	Append(w, l, w.wabbit.numbered(w, "a", 2))
	if again := Append(w, l, s); again.New || again.Entry.Index != first.Entry.Index {
		w.Errorf("submitted again: %+v", again)
	}
	w.check()
}

func manyConditions(w *world) {
	w.init()
	first := w.ledger(w.store, w.options())
	w.sequenced(first)
	w.close(first)
	l, f, release := w.held()
	var waits []func() (ledger.Registered, error)
	for i := range 300 {
		waits = append(waits, w.async(l, Submission(l, w.wabbit.numbered(w, fmt.Sprintf("sub %d", i%100), 1+i/100))))
	}
	w.inTwoBatches(f, release, waits)
}

// inTwoBatches lets go of what is held, which is too much for one batch.
func (w *world) inTwoBatches(f *Faulty, release func(), waits []func() (ledger.Registered, error)) {
	w.Helper()
	commits := f.Commits()
	release()
	for i, wait := range waits {
		if _, err := wait(); err != nil {
			w.Fatalf("statement %d: %v", i, err)
		}
	}
	if n := f.Commits() - commits; n != 2 {
		w.Errorf("%d commits of %d entries, want 2", n, len(waits))
	}
	w.check()
}

func askingConditions(w *world) {
	w.init()
	first := w.ledger(w.store, w.options())
	Append(w, first, w.acme.Claim(w, Image(1), SBOM, []byte("an sbom")))
	d := w.operator.Document(w.publishers()...)
	need := policy.Need{MediaTypes: []string{SBOM}}
	for i := range 15 {
		need.Issuers = append(need.Issuers, fmt.Sprintf("https://nobody-%d.example", i))
	}
	need.Issuers = append(need.Issuers, w.acme.Name)
	d.Rules = []policy.Rule{{Name: "sbom-first", When: &policy.When{MediaTypes: []string{Report}}, Needs: []policy.Need{need}}}
	Append(w, first, w.operator.Policy(w, first.Policy().Entry, d))
	w.close(first)
	l, f, release := w.held()
	var waits []func() (ledger.Registered, error)
	for i := range 100 {
		waits = append(waits, w.async(l, Submission(l, w.wabbit.Claim(w, Image(1), Report, fmt.Appendf(nil, "report %d", i)))))
	}
	// Each asks for 16 issuers, and reads what the last one has.
	w.inTwoBatches(f, release, waits)
}

// subs is how many subs the claims of these tests are about.
const subs = 7

// reports are claims of two issuers about few subs.
func (w *world) reports(from, n int) []*statement.Statement {
	all := make([]*statement.Statement, n)
	for i := range all {
		by := w.wabbit
		if (from+i)%5 == 0 {
			by = w.secret
		}
		all[i] = by.Sign(w, statement.Template{
			Subject: fmt.Sprintf("sub %d", (from+i)%subs), ContentType: []string{Report, SBOM}[(from+i)%2], Payload: fmt.Appendf(nil, "report %d", from+i),
		})
	}
	return all
}

// checkSeries asks for every sub of an issuer in every way.
func (w *world) checkSeries() {
	w.Helper()
	c := readLog(w.T, w.store)
	for _, issuer := range []string{w.wabbit.Name, w.secret.Name, "https://nobody.example"} {
		for _, sub := range []int{0, 3, subs} {
			for _, mediaType := range []string{"", Report} {
				for _, limit := range []int{2, ledger.MaxPage} {
					for _, last := range []uint64{0, uint64(len(c.leaves)) / 2} {
						for _, scope := range []ledger.Scope{ledger.Public, ledger.All} {
							q := ledger.Query{Scope: scope, Issuers: []string{issuer}, Subject: fmt.Sprintf("sub %d", sub), Before: last, Limit: limit}
							if mediaType != "" {
								q.MediaTypes = []string{mediaType}
							}
							want := []uint64{}
							for i := len(c.records) - 1; i >= 0; i-- {
								e := c.records[i].Entry
								if e.Issuer == issuer && e.Subject == q.Subject && (mediaType == "" || e.MediaType == mediaType) &&
									(last == 0 || e.Index < last) && (scope == ledger.All || !e.Private) && len(want) < limit {
									want = append(want, e.Index)
								}
							}
							found, err := w.store.Find(w.ctx, q)
							if got := indexes(found); err != nil || !slices.Equal(got, want) {
								w.Fatalf("%+v: %v, %v, want %v", q, got, err, want)
							}
						}
					}
				}
			}
		}
	}
}

func findSeries(w *world) {
	w.init()
	w.commit(w.reports(0, 20)...)
	w.checkSeries()
	w.commit(w.reports(20, ledger.SeriesGap*3/2)...)
	w.checkSeries()
	for range 2 {
		if more, err := w.store.Follow(w.ctx, w.wabbit.Name, w.size(), ledger.SeriesStep); more || err != nil {
			w.Fatal(err)
		}
		w.checkSeries()
	}
	w.commit(w.reports(800, 20)...)
	w.checkSeries()
	for _, artifact := range []bool{false, true} {
		s := w.reports(3, 1)[0]
		q := ledger.Query{Scope: ledger.All, Subject: s.Subject, Evidence: []statement.Digest{s.Evidence()}, Limit: 5}
		if artifact {
			s = w.wabbit.Claim(w, Image(4), SBOM, []byte("x"))
			w.commit(s)
			q.Evidence, q.Artifacts, q.Subject = nil, []statement.Digest{Image(4)}, s.Subject
		}
		if found, err := w.store.Find(w.ctx, q); err != nil || len(found) != 1 || found[0].ID != s.ID() {
			w.Errorf("%+v: %v, %v", q, found, err)
		}
		q.Subject = "another"
		if found, err := w.store.Find(w.ctx, q); err != nil || len(found) != 0 {
			w.Errorf("%+v: %v, %v", q, found, err)
		}
	}
	w.reopen()
	w.checkSeries()
	w.check()
}

func followNow(w *world) {
	w.init()
	if more, err := w.store.Follow(w.ctx, "https://nobody.example", w.size(), ledger.SeriesStep); more || err != nil {
		w.Error(err)
	}
	w.commit(w.wabbit.Claims(w, 0, ledger.SeriesGap)...)
	if more, err := w.store.Follow(w.ctx, w.wabbit.Name, w.size(), ledger.SeriesStep); more || err != nil {
		w.Error(err)
	}
	if n := w.rows("series"); n != 0 {
		w.Errorf("%d rows for %d entries, which are few", n, ledger.SeriesGap)
	}
	w.commit(w.wabbit.Claims(w, ledger.SeriesGap, 1)...)
	if more, err := w.store.Follow(w.ctx, w.wabbit.Name, w.size(), ledger.SeriesStep); more || err != nil {
		w.Error(err)
	}
	w.checkSeries()
}

func followSteps(w *world) {
	w.init()
	w.commit(w.reports(0, 3*ledger.SeriesGap)...)
	for _, want := range []bool{true, true, false} {
		if more, err := w.store.Follow(w.ctx, w.wabbit.Name, w.size(), 50); more != want || err != nil {
			w.Errorf("50 more: %t, %v, want %t", more, err, want)
		}
	}
	w.checkSeries()
}

// following is a store that notes how it is asked to follow.
type following struct {
	Store
	more bool // what it answers

	mu   sync.Mutex
	most []int
}

func (f *following) Follow(_ context.Context, _ string, _ uint64, most int) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.most = append(f.most, most)
	return f.more && most == ledger.SeriesSlice, nil
}

func followAhead(w *world) {
	w.init()
	first := w.ledger(w.store, w.options())
	w.sequenced(first)
	w.close(first)
	store := w.store
	defer func() { w.store = store }()
	f := &following{Store: store}
	w.store = f
	l, _, release := w.held()
	var waits []func() (ledger.Registered, error)
	for n := range 10 {
		waits = append(waits, w.async(l, Submission(l, w.wabbit.numbered(w, "a", 1+n))))
	}
	// The sequencer is held: this is what was done beside it.
	if !slices.Equal(f.most, []int{ledger.SeriesStep}) {
		w.Errorf("before the sequencer: %v", f.most)
	}
	f.more = true
	release()
	for i, wait := range waits {
		if _, err := wait(); !errors.Is(err, ledger.ErrUnavailable) {
			w.Errorf("statement %d of an issuer who cannot be followed: %v, want ErrUnavailable", i, err)
		}
	}
	if !slices.Equal(f.most, []int{ledger.SeriesStep, ledger.SeriesSlice}) {
		w.Errorf("for a batch of %d: %v", len(waits), f.most)
	}
}

// rows is how many a table has, where the store can say exactly; 0 else.
func (w *world) rows(table string) int64 {
	w.Helper()
	s, ok := w.store.(ledger.Audit)
	if !ok {
		w.Fatal("the store has no Audit")
	}
	tables, err := s.Tables(w.ctx)
	if err != nil {
		w.Fatal(err)
	}
	for _, t := range tables {
		if t.Name == table {
			return max(0, t.Rows)
		}
	}
	return 0
}

func identityName(w *world) {
	w.init()
	b := w.batch(w.wabbit.Claims(w, 0, 3)...)
	b.Entries[1].Identity.Name = "spiffe://wabbit.example/release"
	if err := w.store.Commit(w.ctx, b); err != nil {
		w.Fatal(err)
	}
	found, err := w.store.Find(w.ctx, ledger.Query{Scope: ledger.All, Limit: 3})
	if err != nil || len(found) != 3 || found[1].Identity != b.Entries[1].Identity || found[0].Identity.Name != "" {
		w.Errorf("found %+v, %v", found, err)
	}
	r, err := w.store.Record(w.ctx, b.Entries[1].ID, ledger.All)
	if err != nil || r.Identity != b.Entries[1].Identity {
		w.Errorf("record %+v, %v", r.Identity, err)
	}
}

func lookupMeanwhile(w *world) {
	w.init()
	l := w.ledger(w.store, w.options())
	s := w.wabbit.Claim(w, Image(1), SBOM, []byte("x"))
	sub := Submission(l, s)
	d := w.operator.Document(w.acme)
	d.Issuers = append(d.Issuers, policy.Issuer{Iss: w.wabbit.Name, Keys: &policy.KeySet{URL: "https://wabbit.example/keys"}})
	Append(w, l, w.operator.Policy(w, l.Policy().Entry, d))
	if _, err := l.Append(w.ctx, sub); !errors.Is(err, ledger.ErrMeanwhile) {
		w.Errorf("judged under a policy that wants a lookup: %v, want ErrMeanwhile", err)
	}
	w.check()
}
