package api_test

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

// operators makes the log's next policy one of two operators, who both have to
// sign the one after. It returns the other one.
func (w *world) operators() (d policy.Document, other *ledgertest.Operator) {
	w.t.Helper()
	second := *w.operator
	second.Key = ledgertest.NewKey(w.t)
	d = w.operator.Document(w.wabbit, w.vault, w.certified)
	d.Operators = append(d.Operators, policy.Operator{Key: policy.Key{Public: second.Key.Public()}})
	d.Threshold = 2
	w.publish(w.operator, d)
	return d, &second
}

// publish registers a policy that replaces the one in force, by way of HTTP.
func (w *world) publish(o *ledgertest.Operator, d policy.Document) *statement.Statement {
	w.t.Helper()
	s := o.Policy(w.t, w.ledger.Policy().Entry, d)
	w.admitted(w.register(s.Canonical(), w.publisher), s)
	return s
}

func TestPoliciesAreShownWithTheirPlaceInTheLog(t *testing.T) {
	w := newWorld(t)
	first := w.ledger.Policy().Entry
	w.claim(w.wabbit, 1)
	d, other := w.operators()
	shared := w.ledger.Policy().Entry
	d.Deny = []string{"https://mallory.example"}
	one := w.publish(w.operator, d)

	now := read[apitype.Policy](w, "/v1/policy")
	if now.Entry != shared.String() || now.State != "in-force" || now.Index != 3 || now.From == nil || now.Until != nil || now.Threshold != 1 ||
		len(now.Signers) != 1 || now.Signers[0].Rule != "operators[0]" || len(now.Signers[0].Thumbprint) != 64 {
		t.Errorf("in force: %+v", now)
	}
	if len(now.Proposed) != 1 || now.Proposed[0].Entry != one.ID().String() || now.Proposed[0].State != "proposed" ||
		now.Proposed[0].From != nil || now.Proposed[0].Threshold != 2 || len(now.Proposed[0].Signers) != 1 {
		t.Errorf("proposed: %+v", now.Proposed)
	}
	two := w.publish(other, d)
	now = read[apitype.Policy](w, "/v1/policy")
	if now.Entry != two.ID().String() || len(now.Signers) != 2 || now.Signers[0].Entry != one.ID().String() || now.Signers[1].Rule != "operators[1]" || len(now.Proposed) != 0 {
		t.Errorf("in force: %+v", now)
	}
	raw := w.get(now.Links.Statement)
	if s, err := statement.Parse(raw.body); err != nil || s.ID() != two.ID() || !bytes.Equal(s.Payload, now.Policy) {
		t.Errorf("the statement of %s: %v", now.Links.Statement, err)
	}
	old := read[apitype.Policy](w, "/v1/policy?entry="+first.String())
	if old.State != "replaced" || old.Next != shared.String() || old.Until == nil || old.From == nil || old.Until.Before(*old.From) {
		t.Errorf("the first: %+v", old)
	}
	if got := read[apitype.Policy](w, now.Links.Previous); got.Entry != shared.String() {
		t.Errorf("the one before: %+v", got)
	}
	for at, want := range []statement.ID{first, first, first, first, shared, shared, two.ID()} {
		if got := read[apitype.Policy](w, fmt.Sprintf("/v1/policy?at=%d", at)); got.Entry != want.String() {
			t.Errorf("at %d: %s, want %s", at, got.Entry, want)
		}
	}
	claim, _ := w.claim(w.wabbit, 2)
	w.get("/v1/policy?at=8").refused(t, 404, "not-found")
	w.get("/v1/policy?entry="+claim.ID().String()).refused(t, 404, "not-found")
	w.get("/v1/policy?entry="+strings.Repeat("0", 64)).refused(t, 404, "not-found")
	w.get("/v1/policy?entry=x").refused(t, 400, "invalid-locator")
	for _, query := range []string{"at=-1", "at=x", "at=1&at=2", "at=1&entry=" + first.String(), "x=1", "at=18446744073709551616"} {
		w.get("/v1/policy?"+query).refused(t, 400, "bad-filter")
	}
}

func TestAPolicyOfAStrangerIsRefused(t *testing.T) {
	w := newWorld(t)
	mallory := *w.operator
	mallory.Key = ledgertest.NewKey(t)
	d := w.operator.Document(w.wabbit)
	d.Operators = []policy.Operator{{Key: policy.Key{Public: mallory.Key.Public()}}}
	inForce := w.ledger.Policy().Entry
	p := w.register(mallory.Policy(t, inForce, d).Canonical(), w.publisher).refused(t, 400, "unknown-issuer-key")
	if p.Rule != "operators" || p.PolicyEntry != inForce.String() || p.Hint == "" {
		t.Errorf("problem %+v", p)
	}
	stale := w.operator.Policy(t, statement.ID{1}, d)
	if p := w.register(stale.Canonical(), w.publisher).refused(t, 400, "rejected"); p.Rule != "previous" || !strings.Contains(p.Hint, inForce.String()) {
		t.Errorf("problem %+v", p)
	}
	if w.size() != 2 || w.ledger.Policy().Entry != inForce {
		t.Errorf("size %d, policy %s", w.size(), w.ledger.Policy().Entry)
	}
}

// The caller's token says who sends, the statement who signed: a refusal is about
// the one and never names the other.
func TestARefusalNamesRuleFindingWayOutAndPolicy(t *testing.T) {
	w := newWorld(t)
	stranger := ledgertest.NewPublisher(t, "https://stranger.example")
	s := stranger.Claim(t, ledgertest.Image(1), ledgertest.SBOM, []byte("x"))
	inForce := w.ledger.Policy().Entry.String()
	for name, a := range map[string]answer{
		"CBOR":    w.register(s.Canonical(), w.publisher),
		"JSON":    w.batch([][]byte{s.Canonical()}, w.publisher, "Accept: application/json"),
		"dry run": w.send(request{"POST", "/v1/entries:validate", []string{"Content-Type: application/cose"}, bytes.NewReader(s.Canonical())}),
	} {
		text := string(a.body)
		for _, want := range []string{"issuers", "https://stranger.example", inForce, "ask the operator to list this one"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s does not say %q: %d %q", name, want, a.status, text)
			}
		}
		if strings.Contains(text, "publisher") {
			t.Errorf("%s names the caller: %q", name, text)
		}
	}
	p := w.register(s.Canonical(), w.publisher).refused(t, 400, "unknown-issuer-key")
	if p.Rule != "issuers" || p.PolicyEntry != inForce || p.Hint == "" || !strings.Contains(p.Detail, "https://stranger.example") {
		t.Errorf("problem %+v", p)
	}
}

func TestRefusalsAreCountedForOperators(t *testing.T) {
	w := newWorld(t)
	at := time.Date(2026, 11, 3, 9, 12, 44, 0, time.UTC)
	counts := []ledger.RefusalCount{
		{Code: "rejected", Rule: "exp", Policy: statement.ID{1}, Issuer: "https://wabbit.example", Count: 3, First: at, Last: at, Reason: "too late", Hint: "sign it again"},
		{Code: "malformed-request", Count: 1, First: at, Last: at.Add(time.Hour), Reason: "no COSE"},
	}
	if err := w.store.CountRefusals(t.Context(), counts); err != nil {
		t.Fatal(err)
	}
	got := read[apitype.RefusalCounts](w, "/v1/policy/refusals", w.reader)
	want := apitype.RefusalCount{
		Code: "rejected", Rule: "exp", PolicyEntry: statement.ID{1}.String(), Issuer: "https://wabbit.example", Count: 3, First: at, Last: at, Reason: "too late", Hint: "sign it again",
	}
	if len(got.Refusals) != 2 || got.Refusals[0] != want || got.Refusals[1].PolicyEntry != "" {
		t.Errorf("counted %+v", got)
	}
	if got := read[apitype.RefusalCounts](w, "/v1/policy/refusals?since=2026-11-03T09:30:00Z&limit=5", w.reader); len(got.Refusals) != 1 || got.Refusals[0].Count != 1 {
		t.Errorf("since: %+v", got)
	}
	for _, query := range []string{"since=yesterday", "limit=0", "limit=501", "limit=1&limit=2", "x=y", "%zz"} {
		if a := w.get("/v1/policy/refusals?"+query, w.reader); a.status != 400 {
			t.Errorf("%s: %d", query, a.status)
		}
	}
	w.get("/v1/policy/refusals").refused(t, http.StatusUnauthorized, "unauthenticated")
	w.get("/v1/policy/refusals", w.publisher).refused(t, http.StatusForbidden, "forbidden")
}
