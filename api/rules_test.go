package api_test

import (
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

// What a rule says of the log, a dry run says too, at the place that the entry
// would get now; an expression that costs too much is a refusal like any other.
func TestValidateAsksTheLogAndChangesNothing(t *testing.T) {
	once := ledgertest.NewPublisher(t, "https://once.example")
	once.Rule.Rules = []policy.Rule{
		{Name: "once", Unique: policy.UniqueContent},
		{Name: "pairs", CEL: `payload == null || payload.all(a, payload.all(b, payload.all(c, a != "y")))`},
	}
	w := newWorld(t, once)
	say := func(payload string, at time.Time) *statement.Statement {
		return once.Sign(t, statement.Template{Subject: "net-monitor", ContentType: "application/json", Payload: []byte(payload), IssuedAt: at})
	}
	now := time.Now().Truncate(time.Second)
	first, again := say(`["x"]`, now), say(`["x"]`, now.Add(-time.Minute))
	validate := func(s *statement.Statement) apitype.Judged {
		return post[apitype.Judged](w.server, "/v1/entries:validate", s.Canonical())
	}
	if got := validate(again); got.Decision != "allow" {
		t.Errorf("before: %+v", got)
	}
	w.admitted(w.register(first.Canonical(), w.publisher), first)
	before := w.size()
	if got := validate(again); got.Decision != "deny" || got.Rule != "once.unique" || got.Code != "rejected" || !strings.Contains(got.Reason, first.ID().String()) {
		t.Errorf("signed again: %+v", got)
	}
	if got := validate(first); got.Decision != "allow" {
		t.Errorf("what is registered: %+v", got)
	}
	if got := validate(say(`["x"`+strings.Repeat(`,"x"`, 200)+`]`, now)); got.Decision != "deny" || got.Rule != "pairs.cel" || got.Code != "rejected" {
		t.Errorf("too much: %+v", got)
	}
	if w.size() != before {
		t.Error("a dry run made an entry")
	}
	w.register(again.Canonical(), w.publisher).refused(t, 400, "rejected")
}
