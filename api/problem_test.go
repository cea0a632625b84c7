package api_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/api"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

func TestEveryProblemRendersBothWaysAndHasAPage(t *testing.T) {
	s := open(t, accepting())
	seen := map[string]bool{}
	for _, p := range api.Problems() {
		if seen[p.Code] {
			t.Errorf("%s is in the table twice", p.Code)
		}
		seen[p.Code] = true
		for _, path := range []string{"/entries", "/v1/entries", "/v2/a/b/_scitt/entries/register", "/v2/a/b/_scitt/entries/list"} {
			rec := httptest.NewRecorder()
			api.Fail(s.api, rec, httptest.NewRequest("GET", path, nil), p.Code)
			a := answer{rec.Code, rec.Header(), rec.Body.Bytes()}
			got := a.refused(t, p.Status, p.Code)
			if got.Title != p.Title {
				t.Errorf("%s on %s: title %q, want %q", p.Code, path, got.Title, p.Title)
			}
			json := strings.HasPrefix(path, "/v1/") || strings.HasSuffix(path, "/list")
			if isJSON := a.header.Get("Content-Type") == "application/problem+json"; isJSON != json {
				t.Errorf("%s on %s: Content-Type %q", p.Code, path, a.header.Get("Content-Type"))
			}
			if strings.HasSuffix(path, "/list") && (len(got.Errors) != 1 || got.Errors[0].Code == "" || got.Errors[0].Message == "") {
				t.Errorf("%s on %s: no errors for registry clients: %s", p.Code, path, a.body)
			}
			if retry := a.header.Get("Retry-After"); (retry != "") != (p.Status == 429 || p.Status == 503) {
				t.Errorf("%s has Retry-After %q", p.Code, retry)
			}
			if (got.TraceID != "") != (p.Status >= 500 && p.Code != "overloaded") { // that is no failure
				t.Errorf("%s has trace id %q", p.Code, got.TraceID)
			}
			if p.Status == 401 && !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Bearer ") {
				t.Errorf("401 without a challenge: %v", a.header)
			}
		}
		page := s.get("/problems/" + p.Code)
		if page.status != 200 || !strings.Contains(string(page.body), p.Title) || !strings.Contains(string(page.body), p.About) {
			t.Errorf("page of %s: %d\n%s", p.Code, page.status, page.body)
		}
	}
	s.get("/problems/nothing-of-the-kind").refused(t, 404, "not-found")
}

func TestErrorsBecomeTheirDocumentedProblems(t *testing.T) {
	refusal := func(code string) error { return &policy.Refusal{Code: code, Reason: "found this", Hint: "do that"} }
	for _, c := range []struct {
		err    error
		status int
		code   string
		title  string
	}{
		{statement.ErrMalformed, 400, "malformed-request", "Malformed request"},
		{statement.ErrMissingHeader, 400, "missing-header", "Malformed request"},
		{statement.ErrDuplicateLabel, 400, "duplicate-label", "Malformed request"},
		{statement.ErrUnknownCrit, 400, "unknown-crit", "Malformed request"},
		{statement.ErrAlgorithm, 400, "bad-algorithm", "Bad Signature Algorithm"},
		{statement.ErrPayloadMissing, 400, "payload-missing", "Payload Missing"},
		{statement.ErrSignature, 400, "bad-signature", "Bad Signature"},
		{statement.ErrTooManyArtifacts, 400, "rejected", "Rejected"},
		{refusal("rejected"), 400, "rejected", "Rejected"},
		{refusal("unknown-issuer-key"), 400, "unknown-issuer-key", "Rejected"},
		{refusal("certificate-invalid"), 400, "certificate-invalid", "Rejected"},
		{refusal("bad-signature"), 400, "bad-signature", "Bad Signature"},
		{refusal("bad-algorithm"), 400, "bad-algorithm", "Bad Signature Algorithm"},
		{refusal("payload-missing"), 400, "payload-missing", "Payload Missing"},
		{refusal("lookup-failed"), 400, "lookup-failed", "Rejected"},
		{fmt.Errorf("%w: https://wabbit.example/did.json does not answer within 5s", policy.ErrLookup), 503, "lookup-unavailable", "Lookup Unavailable"},
		{refusal("repository-mismatch"), 400, "repository-mismatch", "Repository Mismatch"},
		{refusal("a-code-of-tomorrow"), 400, "rejected", "Rejected"},
		{refusal("internal"), 400, "rejected", "Rejected"},
		{ledger.ErrOverloaded, 503, "overloaded", "Overloaded"},
		{ledger.ErrUnavailable, 503, "store-unavailable", "Store Unavailable"},
		{ledger.ErrClosed, 503, "store-unavailable", "Store Unavailable"},
		{ledger.ErrEmpty, 503, "store-unavailable", "Store Unavailable"},
		{ledger.ErrClock, 503, "clock-untrusted", "Clock Untrusted"},
		{fmt.Errorf("%w: %w", ledger.ErrHalted, ledger.ErrNotFound), 503, "log-damaged", "Log Damaged"},
		{fmt.Errorf("%w: %w", ledger.ErrCorrupt, ledger.ErrNotFound), 503, "log-damaged", "Log Damaged"},
		{ledger.ErrReadOnly, 503, "read-only", "Read Only"},
		{ledger.ErrQuota, 429, "quota", "Too Many Requests"},
		{errors.New("disk on fire"), 500, "internal", "Internal Error"},
	} {
		t.Run(c.code, func(t *testing.T) {
			s := open(t, failing(fmt.Errorf("register entry: %w", c.err)))
			p := s.register([]byte("x")).refused(t, c.status, c.code)
			if p.Title != c.title {
				t.Errorf("%v: title %q, want %q", c.err, p.Title, c.title)
			}
		})
	}
}

func TestRefusalByPolicySaysWhichRuleAndWhatWouldSatisfyIt(t *testing.T) {
	entry := idOf([]byte("policy"))
	s := open(t, failing(&policy.Refusal{
		Code: "unknown-issuer-key", Rule: "issuers[1].key", Reason: "no key 7b1e of https://a.example",
		Hint: "sign with a pinned key", Policy: entry,
	}))
	p := s.register([]byte("x")).refused(t, 400, "unknown-issuer-key")
	if p.Rule != "issuers[1].key" || p.PolicyEntry != entry.String() || p.Hint != "sign with a pinned key" || p.Detail != "no key 7b1e of https://a.example" {
		t.Errorf("refusal lost something: %+v", p)
	}
}

func TestFailuresOfOursStayInside(t *testing.T) {
	var log lines
	s := serve(t, api.Config{
		Ledger: &fixedLedger{}, OpenWrites: true, Log: log.logger(),
		Registrar: failing(errors.New(`pq: relation "entries" at /var/lib/secret`)),
	})
	a := s.register([]byte("x"))
	p := a.refused(t, 500, "internal")
	if strings.Contains(string(a.body), "secret") || strings.Contains(string(a.body), "pq:") {
		t.Errorf("an internal error shows: %s", a.body)
	}
	if p.TraceID == "" || !strings.Contains(log.String(), "trace="+p.TraceID) || !strings.Contains(log.String(), "relation") {
		t.Errorf("trace %q does not lead to the reason in the log:\n%s", p.TraceID, log.String())
	}
}

func TestClientWhoLeavesIsNoFailureOfOurs(t *testing.T) {
	var log lines
	a := api.New(api.Config{
		Ledger:    &fixedLedger{err: fmt.Errorf("query: %w: %w", ledger.ErrUnavailable, context.Canceled)},
		Registrar: accepting(), Log: log.logger(), PublicURL: publicURL,
	})
	gone, leave := context.WithCancel(context.Background())
	leave()
	rec := httptest.NewRecorder()
	a.ServeHTTP(rec, httptest.NewRequest("GET", somePath, nil).WithContext(gone))
	answer{rec.Code, rec.Header(), rec.Body.Bytes()}.refused(t, 408, "request-timeout")
	if log.String() != "" {
		t.Errorf("logged: %s", log.String())
	}
}

func TestPanicIsA500WithATraceIDAlone(t *testing.T) {
	var log lines
	s := serve(t, api.Config{
		Ledger: &fixedLedger{}, OpenWrites: true, Log: log.logger(),
		Registrar: registering(func(context.Context, []byte, ledger.Circumstances) (ledger.Registered, error) {
			panic("the wrong lever")
		}),
	})
	for range 2 { // the server survives
		a := s.register([]byte("x"))
		p := a.refused(t, 500, "internal")
		if strings.Contains(string(a.body), "lever") || !strings.Contains(log.String(), p.TraceID) {
			t.Errorf("panic answered %s", a.body)
		}
	}
	if !strings.Contains(log.String(), "lever") {
		t.Errorf("the log does not say what happened: %s", log.String())
	}
	// fixedLedger has no Entry: a nil method is called.
	a := s.get("/v1/entries/" + strings.Repeat("0", 64))
	a.refused(t, 500, "internal")
	if a.header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("panic below /v1 answered %s", a.header.Get("Content-Type"))
	}
}

func TestUnroutedPathsAndMethodsGetProblems(t *testing.T) {
	s := open(t, accepting())
	id := strings.Repeat("a", 64)
	for _, c := range []struct {
		method, path string
		status       int
		code         string
		allow        string
		kind         string
	}{
		{"GET", "/", 404, "not-found", "", cborProblem},
		{"GET", "/nothing", 404, "not-found", "", cborProblem},
		{"GET", "//entries", 404, "not-found", "", cborProblem},
		{"GET", "//entries/" + id, 404, "not-found", "", cborProblem},
		{"GET", "/entries/", 404, "not-found", "", cborProblem},
		{"GET", "/entries/../v1/service", 404, "not-found", "", cborProblem},
		{"GET", "/entries/..", 400, "invalid-locator", "", cborProblem},
		{"GET", "/entries/%2e%2e", 400, "invalid-locator", "", cborProblem},
		{"GET", "/entries/%2f" + id, 400, "invalid-locator", "", cborProblem},
		{"GET", "/entries%2f" + id, 404, "not-found", "", cborProblem},
		{"GET", "/entries/" + id[:63], 400, "invalid-locator", "", cborProblem},
		{"GET", "/entries/" + id + "a", 400, "invalid-locator", "", cborProblem},
		{"GET", "/entries/" + strings.ToUpper(id), 400, "invalid-locator", "", cborProblem},
		{"GET", "/entries/" + strings.Repeat("a", 10_000), 400, "invalid-locator", "", cborProblem},
		{"GET", "/entries/%00", 400, "invalid-locator", "", cborProblem},
		{"GET", "/entries/" + id, 404, "not-found", "", cborProblem},
		{"GET", "/entries/" + id + "/receipt", 404, "not-found", "", cborProblem},
		{"GET", "/entries", 405, "method-not-allowed", "POST", cborProblem},
		{"DELETE", "/entries", 405, "method-not-allowed", "POST", cborProblem},
		{"DELETE", "/entries/" + id, 405, "method-not-allowed", "GET, HEAD", cborProblem},
		{"PROPFIND", "/entries", 405, "method-not-allowed", "POST", cborProblem},
		{"PROPFIND", "/nothing", 404, "not-found", "", cborProblem},
		{"OPTIONS", "/entries", 405, "method-not-allowed", "POST", cborProblem},
		{"POST", "/.well-known/scitt-keys", 405, "method-not-allowed", "GET, HEAD", cborProblem},
		{"GET", "/.well-known/scitt-keys/x", 404, "no-such-key", "", cborProblem},
		{"GET", "/.well-known/scitt-configuration", 404, "not-found", "", cborProblem},
		{"GET", "/v1", 404, "not-found", "", jsonProblem},
		{"GET", "/v1/", 404, "not-found", "", jsonProblem},
		{"GET", "/v1/nothing", 404, "not-found", "", jsonProblem},
		{"GET", "/v1x", 404, "not-found", "", cborProblem},
		{"GET", "/v1%2fentries", 404, "not-found", "", cborProblem},
		{"GET", "/v1/entries/zz", 400, "invalid-locator", "", jsonProblem},
		{"POST", "/v1/entries", 405, "method-not-allowed", "GET, HEAD", jsonProblem},
		{"POST", "/v1/entries:search", 404, "not-found", "", jsonProblem},
		{"GET", "/log", 404, "not-found", "", cborProblem},
		{"GET", "/log/", 404, "not-found", "", cborProblem},
		{"GET", "/log/checkpoint/", 404, "not-found", "", cborProblem},
		{"POST", "/log/checkpoint", 405, "method-not-allowed", "GET, HEAD", cborProblem},
		{"GET", "/log/tile", 404, "not-found", "", cborProblem},
		{"PUT", "/log/tile/0/000", 405, "method-not-allowed", "GET, HEAD", cborProblem},
		{"POST", "/healthz", 405, "method-not-allowed", "GET, HEAD", cborProblem},
	} {
		t.Run(c.method+" "+c.path[:min(len(c.path), 40)], func(t *testing.T) {
			a := s.send(request{method: c.method, path: c.path, header: []string{"Accept: text/html", "X-HTTP-Method-Override: POST"}})
			a.refused(t, c.status, c.code)
			if got := a.header.Get("Content-Type"); got != c.kind {
				t.Errorf("Content-Type %q, want %q", got, c.kind)
			}
			if got := a.header.Get("Allow"); got != c.allow {
				t.Errorf("Allow %q, want %q", got, c.allow)
			}
		})
	}
}

const (
	cborProblem = "application/concise-problem-details+cbor"
	jsonProblem = "application/problem+json"
)

func TestOtherOriginsGetNoHelp(t *testing.T) {
	s := open(t, accepting())
	for _, q := range []request{
		{method: "OPTIONS", path: "/entries", header: []string{"Origin: https://evil.example", "Access-Control-Request-Method: POST"}},
		{method: "GET", path: "/healthz", header: []string{"Origin: https://evil.example"}},
	} {
		a := s.send(q)
		for name := range a.header {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("%s %s answered %s: %s", q.method, q.path, name, a.header.Get(name))
			}
		}
	}
}

func TestRetryAfterIsWholeSecondsAndNeverOverFiveMinutes(t *testing.T) {
	now := newWatch()
	s := serve(t, api.Config{
		Ledger: &fixedLedger{}, Registrar: accepting(), Clock: now.now,
		Limits: api.Limits{AddressRate: 0.001, AddressBurst: 1}, // one request in 1,000 s
	})
	s.get("/entries/"+strings.Repeat("0", 64)).refused(t, 404, "not-found")
	a := s.get("/entries/" + strings.Repeat("0", 64))
	a.refused(t, 429, "rate-limited")
	if got := a.header.Get("Retry-After"); got != "300" {
		t.Errorf("Retry-After %q, want 300", got)
	}
	now.pass(999*time.Second + 500*time.Millisecond)
	a = s.get("/entries/" + strings.Repeat("0", 64))
	if got := a.header.Get("Retry-After"); a.status != 429 || got != "1" {
		t.Errorf("half a second early: %d, Retry-After %q, want 429 and 1", a.status, got)
	}
	now.pass(time.Second)
	s.get("/entries/"+strings.Repeat("0", 64)).refused(t, 404, "not-found")
}

func TestHeadAnswersLikeGetWithoutABody(t *testing.T) {
	s := serve(t, api.Config{Ledger: &fixedLedger{receipt: []byte("receipt")}, Registrar: accepting()})
	for _, path := range []string{"/entries/" + strings.Repeat("0", 64), "/healthz", "/problems/rejected", "/nothing", "/v1/entries?limit=0"} {
		get, head := s.get(path), s.send(request{method: "HEAD", path: path})
		if head.status != get.status || len(head.body) != 0 {
			t.Errorf("HEAD %s: %d with %d bytes, GET: %d", path, head.status, len(head.body), get.status)
		}
		for _, name := range []string{"Content-Type", "Content-Length", "Cache-Control", "Etag"} {
			if head.header.Get(name) != get.header.Get(name) {
				t.Errorf("HEAD %s: %s %q, GET: %q", path, name, head.header.Get(name), get.header.Get(name))
			}
		}
	}
}

func TestHealthNeverAsksTheLedger(t *testing.T) {
	s := serve(t, api.Config{
		Ledger: &fixedLedger{err: ledger.ErrUnavailable}, Registrar: accepting(),
		Ready: func(context.Context) error { return fmt.Errorf("ready: %w", ledger.ErrUnavailable) },
	})
	for _, path := range []string{"/healthz", "/readyz"} {
		if a := s.get(path); a.status != http.StatusOK {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	a := s.get("/readyz/write")
	a.refused(t, 503, "store-unavailable")
	s.get("/entries/"+strings.Repeat("0", 64)).refused(t, 503, "store-unavailable")
	s = open(t, accepting())
	if a := s.get("/readyz/write"); a.status != http.StatusOK {
		t.Errorf("/readyz/write: %d %s", a.status, a.body)
	}
}

func TestManyMayAskForReadinessAndTheServiceLooksOnce(t *testing.T) {
	asked := 0
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	s := serve(t, api.Config{
		Ledger: &fixedLedger{}, Registrar: accepting(), Clock: func() time.Time { return now },
		Ready: func(context.Context) error { asked++; return nil },
	})
	for range 5 {
		s.get("/readyz/write")
	}
	if asked != 1 {
		t.Errorf("looked %d times within a second", asked)
	}
	now = now.Add(time.Second)
	if s.get("/readyz/write"); asked != 2 {
		t.Errorf("looked %d times in two seconds", asked)
	}
}
