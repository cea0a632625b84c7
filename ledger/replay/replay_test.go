package replay_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/ledger/replay"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// story is a log in which something of every kind happened. Entries: 0 policy,
// 1 service, 2 wabbit, 3 acme, 4 secret, 5 detached, 6 policy, 7 wabbit's second
// key, 8 service, 9 wabbit.
func story(t testing.TB) (*world, *held) {
	w := newWorld(t)
	w.append(w.wabbit.Claim(t, ledgertest.Image(1), ledgertest.SBOM, []byte("an sbom")))
	w.append(w.acme.Provenance(t, "https://slsa.dev/provenance/v1", ledgertest.Image(1), ledgertest.Image(2)))
	w.append(w.secret.Claim(t, ledgertest.Image(3), ledgertest.Report, []byte("a report")))
	payload := []byte("a large payload")
	loose := w.wabbit.Sign(t, statement.Template{Subject: "pkg:oci/net-monitor@" + string(ledgertest.Image(4)), ContentType: ledgertest.SBOM, Payload: payload, Detached: true})
	loose, err := loose.WithPayload(statement.SHA256(payload), payload)
	if err != nil {
		t.Fatal(err)
	}
	w.append(loose)
	second := ledgertest.NewPublisher(t, w.wabbit.Name)
	second.Rule.Visibility = policy.Private
	w.append(w.operator.Policy(t, w.ledger.Policy().Entry, w.operator.Document(w.wabbit, w.acme, second)))
	w.append(second.Claim(t, ledgertest.Image(5), ledgertest.SBOM, []byte("another sbom")))
	w.append(w.operator.Announcement(t, ledgertest.NewKey(t).Public(), w.operator.Receipt.Public()))
	w.append(w.wabbit.Claim(t, ledgertest.Image(6), ledgertest.SBOM, []byte("the last sbom")))
	h := readAll(t, w.db, w.ledger, ledger.All)
	h.evidence[statement.SHA256(payload)] = payload
	return w, h
}

func TestALogIsAsRecorded(t *testing.T) {
	w, h := story(t)
	for _, workers := range []int{1, 8} {
		report, found := run(t, h, replay.Options{Workers: workers})
		if len(found) > 0 || report.Replayed != 10 || report.Policies != 2 || report.Heads != 9 || len(report.Gaps) > 0 || report.Receipts != 2 {
			t.Errorf("%d workers: %+v\n%v", workers, report, found)
		}
		if first := w.ledger.Policy().Operators[0].Key; report.Operator == "" || report.Service != w.operator.URL || first.Public == nil {
			t.Errorf("operator %q of service %q", report.Operator, report.Service)
		}
	}
}

func TestAFolderHoldsAllThatReplayNeeds(t *testing.T) {
	_, h := story(t)
	for _, n := range []int{1, 3, 100} {
		dir := filepath.Join(t.TempDir(), "log")
		h.save(t, dir, n)
		f, err := replay.OpenFolder(dir)
		if err != nil {
			t.Fatal(err)
		}
		report, found := run(t, f, replay.Options{})
		if len(found) > 0 || report.Replayed != 10 || len(report.Gaps) > 0 || report.Receipts != 2 {
			t.Errorf("pages of %d: %+v\n%v", n, report, found)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestWhatCannotBeJudgedAgainIsNamed(t *testing.T) {
	w, h := story(t)
	h.evidence = nil
	report, found := run(t, h, replay.Options{})
	want := []replay.Gap{{Why: replay.GapPayload, Count: 1, Entries: []uint64{5}}}
	if len(found) > 0 || !equalGaps(report.Gaps, want) || report.Replayed != 9 {
		t.Errorf("payload gone: gaps %+v, %d replayed, %v", report.Gaps, report.Replayed, found)
	}
	// Its record must still be one of a decision.
	h.entries[5].Rule = "issuers[2].key"
	if _, found := run(t, h, replay.Options{}); len(found) != 1 || !strings.Contains(found[0].What, "cannot be that of a decision") {
		t.Errorf("payload gone, and another rule: %v", found)
	}

	public := readAll(t, w.db, w.ledger, ledger.Public)
	report, found = run(t, public, replay.Options{})
	want = []replay.Gap{{Why: replay.GapHidden, Count: 2, Entries: []uint64{4, 7}}, {Why: replay.GapPayload, Count: 1, Entries: []uint64{5}}}
	if len(found) > 0 || !equalGaps(report.Gaps, want) || report.Replayed != 7 {
		t.Errorf("without a token: gaps %+v, %d replayed, %v", report.Gaps, report.Replayed, found)
	}
}

func equalGaps(a, b []replay.Gap) bool {
	return slices.EqualFunc(a, b, func(a, b replay.Gap) bool {
		return a.Why == b.Why && a.Count == b.Count && slices.Equal(a.Entries, b.Entries)
	})
}

// Each is what a service could have done that controls its database and keys;
// the tree is made to fit.
func TestATamperedDecisionIsNamed(t *testing.T) {
	w, sound := story(t)
	stranger := ledgertest.NewPublisher(t, "https://stranger.example")
	forged := ledgertest.NewPublisher(t, w.wabbit.Name).Claim(t, ledgertest.Image(7), ledgertest.SBOM, []byte("forged"))
	other := ledgertest.NewOperator(t)
	for _, test := range []struct {
		name   string
		tamper func(h *held)
		object string
		what   string
		more   int // deviations that follow from the first
	}{
		{"another rule", func(h *held) { h.entries[2].Rule = "issuers[1].key" }, "entry 2", "the rule that admitted it is recorded otherwise", 0},
		{"another identity", func(h *held) { h.entries[2].Identity.Thumbprint = strings.Repeat("0", 64) }, "entry 2", "the identity of its signer", 0},
		{"another kind of identity", func(h *held) { h.entries[3].Identity.Kind = policy.PinnedKey }, "entry 3", "the identity of its signer", 0},
		{"an artifact less", func(h *held) { h.entries[3].Artifacts = h.entries[3].Artifacts[:1] }, "entry 3", "the list of its artifacts", 0},
		{"a private entry shown", func(h *held) { h.entries[4].Private = false }, "entry 4", "its visibility", 0},
		{"registered at another time", func(h *held) { h.entries[2].RegisteredAt = h.entries[2].RegisteredAt.Add(-time.Hour) }, "entry 2", "the time of its registration", 0},
		{"another policy", func(h *held) { h.entries[7].Policy = h.entries[0].ID }, "entry 7", "the policy that it was judged by", 0},
		{"collateral dropped", func(h *held) { h.entries[3].Collateral = nil }, "entry 3", "the policy in force refuses it", 0},
		{"collateral of another", func(h *held) { h.entries[2].Collateral = h.entries[3].Collateral }, "entry 2", "what was kept beside it", -1},
		{"damaged collateral", func(h *held) { h.entries[3].Collateral = []ledger.Collateral{{Kind: "x5chain", Data: []byte{1}}} }, "entry 3", "is damaged", 1},
		{"an unknown issuer's statement", func(h *held) {
			h.put(2, stranger.Claim(t, ledgertest.Image(1), ledgertest.SBOM, []byte("an sbom")))
		}, "entry 2", "the policy in force refuses it: issuer \"https://stranger.example\" is not in the policy", 0},
		{"a statement with a foreign signature", func(h *held) { h.put(2, forged) }, "entry 2", "the policy in force refuses it", 0},
		{"a statement from before its key's policy", func(h *held) { h.entries[6], h.entries[7] = moved(h, 7, 6), moved(h, 6, 7) }, "entry 6", "the policy in force refuses it", -1},
		{"a policy swapped for another", func(h *held) {
			h.put(6, w.operator.Policy(t, h.entries[0].ID, w.operator.Document(stranger)))
		}, "entry 7", "the policy in force refuses it", -1},
		{"a policy by a stranger", func(h *held) {
			doc := other.Document(w.wabbit)
			other.URL = w.operator.URL
			h.put(6, other.Policy(t, h.entries[0].ID, doc))
		}, "entry 6", "the policy in force refuses it", -1},
		{"a statement nobody may see, with its decision", func(h *held) { h.entries[2].Canonical = nil }, "entry 2", "its decision is shown, but not its statement", 0},
		{"a decision that is not shown", func(h *held) { h.entries[2].Hidden = true }, "entry 2", "no decision is recorded", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := sound.clone()
			test.tamper(h)
			h.sign(t, w.operator)
			report, found := run(t, h, replay.Options{})
			if len(found) == 0 {
				t.Fatal("nothing deviates")
			}
			if first := found[0]; first.Object != test.object || !strings.Contains(first.What, test.what) || test.more >= 0 && len(found) != 1+test.more {
				t.Errorf("found %v", found)
			}
			if report.Deviating() != uint64(len(found)) {
				t.Errorf("%d were counted, %d told", report.Deviating(), len(found))
			}
		})
	}
}

// What the log itself has a say in is asked again, too, with the entries before.
func TestAnEntryThatTheLogItselfRefusesIsNamed(t *testing.T) {
	w := newWorld(t)
	doc := w.operator.Document(w.wabbit, w.acme)
	doc.Issuers[0].Rules = []policy.Rule{{Name: "in-order", Sequence: &policy.Sequence{Claim: "n"}}}
	w.append(w.operator.Policy(t, w.ledger.Policy().Entry, doc))
	build := func(n int64) *statement.Statement {
		return w.wabbit.Sign(t, statement.Template{Subject: "builds", ContentType: "application/json", Payload: []byte("{}"), Claims: map[any]any{"n": n}})
	}
	for n := range int64(5) {
		w.append(build(n))
		w.append(w.acme.Claim(t, ledgertest.Image(int(n)), ledgertest.SBOM, []byte("an sbom")))
	}
	sound := readAll(t, w.db, w.ledger, ledger.All)
	if report, found := run(t, sound, replay.Options{}); len(found) > 0 || report.Replayed != 13 {
		t.Fatalf("%+v, %v", report, found)
	}
	// 0 is entry 3, 1 is entry 5, and so on.
	for name, c := range map[string]struct {
		tamper func(h *held)
		named  []string
	}{
		"a number left out": {func(h *held) { h.put(7, build(7)) }, []string{"entry 7", "entry 9"}},
		"a number twice": {func(h *held) {
			h.put(11, w.wabbit.Sign(t, statement.Template{Subject: "builds", ContentType: "application/json", Payload: []byte("[]"), Claims: map[any]any{"n": 3}}))
		}, []string{"entry 11"}},
	} {
		h := sound.clone()
		c.tamper(h)
		h.sign(t, w.operator)
		var named []string
		_, found := run(t, h, replay.Options{})
		for _, d := range found {
			named = append(named, d.Object)
			if !strings.Contains(d.Rule, "in-order") {
				t.Errorf("%s: %v", name, d)
			}
		}
		if !slices.Equal(named, c.named) {
			t.Errorf("%s: %v, want %v", name, found, c.named)
		}
	}
}

// What is called private is judged by nobody who may not see it: that is for the
// policy to have said.
func TestAnEntryIsHiddenOnlyWhereThePolicyMakesSomePrivate(t *testing.T) {
	w := newWorld(t)
	w.append(w.wabbit.Claim(t, ledgertest.Image(1), ledgertest.SBOM, []byte("an sbom")))
	w.append(w.operator.Policy(t, w.ledger.Policy().Entry, w.operator.Document(w.wabbit)))
	w.append(w.wabbit.Claim(t, ledgertest.Image(2), ledgertest.SBOM, []byte("another sbom")))
	h := readAll(t, w.db, w.ledger, ledger.All)
	for _, i := range []int{2, 4} {
		h.entries[i] = replay.Entry{Decided: ledger.Decided{Entry: ledger.Entry{Index: uint64(i), ID: h.entries[i].ID}, Hidden: true}}
	}
	h.receipts = nil
	report, found := run(t, h, replay.Options{})
	if len(found) != 1 || found[0].Object != "entry 4" || !strings.Contains(found[0].What, "makes no entry private") || report.Missing() != 2 {
		t.Errorf("%+v\n%v", report, found)
	}
}

// What an entry needs may be there for those alone who may see it.
func TestAnEntryThatNeedsAHiddenOneIsNamedAndNotAccused(t *testing.T) {
	w := newWorld(t)
	doc := w.operator.Document(w.wabbit, w.secret)
	doc.Issuers[0].Rules = []policy.Rule{{Name: "report-first", Needs: []policy.Need{{MediaTypes: []string{ledgertest.Report}}}}}
	w.append(w.operator.Policy(t, w.ledger.Policy().Entry, doc))
	w.append(w.secret.Claim(t, ledgertest.Image(1), ledgertest.Report, []byte("a report")))
	w.append(w.wabbit.Claim(t, ledgertest.Image(1), ledgertest.SBOM, []byte("an sbom")))
	if report, found := run(t, readAll(t, w.db, w.ledger, ledger.All), replay.Options{}); len(found) > 0 || report.Replayed != 5 {
		t.Errorf("with a token: %+v\n%v", report, found)
	}
	report, found := run(t, readAll(t, w.db, w.ledger, ledger.Public), replay.Options{})
	want := []replay.Gap{{Why: replay.GapHidden, Count: 1, Entries: []uint64{3}}, {Why: replay.GapBefore, Count: 1, Entries: []uint64{4}}}
	if len(found) > 0 || !equalGaps(report.Gaps, want) || report.Replayed != 3 {
		t.Errorf("without one: %+v\n%v", report, found)
	}
}

// What should have refused an entry may be hidden, too.
func TestAnEntryThatAHiddenOneMayForbidIsNotCalledReplayed(t *testing.T) {
	for name, rule := range map[string]policy.Rule{
		"unique": {Unique: policy.UniqueContent}, "newest": {Newest: policy.NewestSubject}, "sequence": {Sequence: &policy.Sequence{Claim: "build"}},
	} {
		w := newWorld(t)
		doc := w.operator.Document(w.wabbit, w.secret)
		doc.Issuers[0].Rules = []policy.Rule{rule}
		w.append(w.operator.Policy(t, w.ledger.Policy().Entry, doc))
		w.append(w.secret.Claim(t, ledgertest.Image(1), ledgertest.Report, []byte("a report")))
		w.append(w.wabbit.Sign(t, statement.Template{
			Subject: "app", ContentType: ledgertest.SBOM, Payload: []byte("an sbom"), IssuedAt: time.Now().Truncate(time.Second), Claims: map[any]any{"build": 1},
		}))
		report, found := run(t, readAll(t, w.db, w.ledger, ledger.Public), replay.Options{})
		if len(found) > 0 || report.Replayed != 3 || len(report.Gaps) != 2 || report.Gaps[1].Why != replay.GapBefore {
			t.Errorf("%s: %+v\n%v", name, report, found)
		}
	}
}

// moved is entry i as it would stand at another index.
func moved(h *held, i, to int) replay.Entry {
	e := h.entries[i]
	e.Index = uint64(to)
	return e
}

func TestALogThatWasNotSignedSoIsNamed(t *testing.T) {
	w, sound := story(t)
	for _, test := range []struct {
		name   string
		tamper func(h *held)
		object string
		what   string
	}{
		{"another root", func(h *held) { h.heads[1].Root[0] ^= 1 }, "head of size 3", "its root is not what the leaves give"},
		{"another leaf", func(h *held) { h.entries[2].ID[0] ^= 1 }, "entry 2", "its bytes are those of"},
		{"other bytes", func(h *held) { h.entries[2].Canonical = h.entries[3].Canonical }, "entry 2", "its bytes are those of"},
		{"a signature broken", func(h *held) { h.heads[2].Signature = slices.Concat([]byte{0}, h.heads[2].Signature[1:]) }, "head of size 4", "is signed by no key that the log announced before"},
		{"signed by a key that is announced later", func(h *held) {
			late := *w.operator
			late.Receipt = ledgertest.NewKey(t)
			h.put(8, w.operator.Announcement(t, late.Receipt.Public()))
			h.sign(t, &late)
		}, "head of size 2", "is signed by no key that the log announced before"},
		{"another time", func(h *held) { h.heads[3].Time = h.heads[3].Time.Add(time.Second) }, "head of size 5", "is signed by no key"},
		{"back in time", func(h *held) {
			h.heads[3].Time = h.heads[3].Time.Add(-time.Hour)
			h.entries[4].RegisteredAt = h.heads[3].Time
			h.sign(t, w.operator)
		}, "head of size 5", "is older than the head before it"},
		{"an entry twice", func(h *held) {
			h.entries[9] = moved(h, 5, 9)
			h.sign(t, w.operator)
		}, "entry 9", "is in the log twice: it is entry 5, too"},
		{"signed in the name of another log", func(h *held) {
			other := *w.operator
			other.Origin = "other.example/log"
			h.sign(t, &other)
		}, "head of size 2", "is signed in the name of another log"},
		{"signed in the name of another service", func(h *held) {
			other := *w.operator
			other.URL = "https://other.example"
			h.sign(t, &other)
		}, "head of size 10", "is signed in the name of another log"},
		{"another policy named", func(h *held) { h.heads[8].Policy = 0 }, "head of size 10", "names another policy as in force"},
		{"a head left out", func(h *held) { h.heads = slices.Delete(h.heads, 3, 4) }, "head of size 6", "does not follow the head before it"},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := sound.clone()
			test.tamper(h)
			report, found := run(t, h, replay.Options{})
			if report.Deviations[replay.Log] == 0 {
				t.Fatalf("found %v", found)
			}
			if !slices.ContainsFunc(found, func(d replay.Deviation) bool {
				return d.Object == test.object && strings.Contains(d.What, test.what)
			}) {
				t.Errorf("found %v", found)
			}
		})
	}
}

func TestAReceiptOfAnotherTreeIsNamed(t *testing.T) {
	w, h := story(t)
	other := newWorld(t)
	s := other.append(other.wabbit.Claim(t, ledgertest.Image(1), ledgertest.SBOM, []byte("an sbom")))
	foreign, err := other.ledger.Receipt(t.Context(), s.ID(), ledger.Public)
	if err != nil {
		t.Fatal(err)
	}
	later, err := w.ledger.ReceiptAt(t.Context(), h.entries[2].ID, 6, ledger.Public)
	if err != nil {
		t.Fatal(err)
	}
	for name, receipt := range map[string][]byte{
		"of another log": foreign, "of another entry": h.receipts[0], "under another head": later, "no receipt": []byte("receipt"),
	} {
		c := h.clone()
		c.receipts = map[uint64][]byte{2: receipt}
		report, found := run(t, c, replay.Options{})
		if len(found) != 1 || found[0].Kind != replay.Receipt || found[0].Object != "receipt of entry 2" || report.Deviations[replay.Receipt] != 1 {
			t.Errorf("%s: %v", name, found)
		}
	}
}

func TestEntriesBelowFromAreOnlyInTheTree(t *testing.T) {
	_, h := story(t)
	h.entries[2].Rule, h.entries[9].Rule = "issuers[9].key", "issuers[9].key"
	report, found := run(t, h, replay.Options{From: 8})
	if len(found) != 1 || found[0].Object != "entry 9" || report.Replayed != 5 || report.Heads != 9 {
		t.Errorf("%+v\n%v", report, found)
	}
}

// Who could slip a policy in there would decide about all that is judged.
func TestPoliciesBelowFromAreJudgedAllTheSame(t *testing.T) {
	w, h := story(t)
	impostor := ledgertest.NewOperator(t)
	b, err := statement.Sign(statement.Template{
		Issuer: w.operator.URL, Subject: w.operator.URL + policy.StatementSubject, ContentType: policy.MediaType,
		Payload: parsed(t, h.entries[6]).Payload, KeyID: parsed(t, h.entries[6]).KeyID,
	}, impostor.Key)
	if err != nil {
		t.Fatal(err)
	}
	forged, err := statement.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	h.put(6, forged)
	for _, i := range []int{7, 8, 9} {
		h.entries[i].Policy = forged.ID()
	}
	h.sign(t, w.operator)
	report, found := run(t, h, replay.Options{From: 8})
	if len(found) != 1 || found[0].Object != "entry 6" || !strings.Contains(found[0].What, "signature") || report.Deviations[replay.Decision] != 1 {
		t.Errorf("%v", found)
	}
}

func parsed(t testing.TB, e replay.Entry) *statement.Statement {
	s, err := statement.Parse(e.Canonical)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestALogWithoutAFirstPolicyCannotBeReplayed(t *testing.T) {
	w, h := story(t)
	for name, tamper := range map[string]func(h *held){
		"a claim":     func(h *held) { h.put(0, w.wabbit.Claim(t, ledgertest.Image(9), ledgertest.SBOM, []byte("x"))) },
		"a successor": func(h *held) { h.put(0, w.operator.Policy(t, h.entries[2].ID, w.operator.Document(w.wabbit))) },
		"not shown":   func(h *held) { h.entries[0].Canonical, h.entries[0].Hidden = nil, true },
	} {
		c := h.clone()
		tamper(c)
		c.sign(t, w.operator)
		if _, err := replay.Run(t.Context(), c, replay.Options{}); !errors.Is(err, replay.ErrNoPolicy) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAReplayEndsWithItsContext(t *testing.T) {
	_, h := story(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := replay.Run(ctx, h, replay.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
