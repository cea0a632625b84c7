package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/scittd/scittd/api"
	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/internal/detcbor"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const publicURL = "https://scitt.example"

// server is an API behind a real listener.
type server struct {
	t      *testing.T
	api    *api.API
	url    string
	client *http.Client
}

// serve starts the API of c, as scittd does.
func serve(t *testing.T, c api.Config) *server {
	t.Helper()
	if c.PublicURL == "" {
		c.PublicURL = publicURL
	}
	if c.Limits == (api.Limits{}) {
		c.Limits = api.DefaultLimits()
		c.Limits.AddressRate, c.Limits.CallerRate = 0, 0 // tests hurry; those of the rates set them
	}
	a := api.New(c)
	h := httptest.NewUnstartedServer(a)
	h.Config = api.NewServer(a)
	h.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	h.Start()
	t.Cleanup(h.Close)
	client := &http.Client{
		Transport:     &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 100},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       time.Minute,
	}
	t.Cleanup(client.CloseIdleConnections)
	return &server{t: t, api: a, url: h.URL, client: client}
}

// request is one request; header is "Name: value" lines.
type request struct {
	method, path string
	header       []string
	body         io.Reader
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

func (s *server) send(q request) answer {
	s.t.Helper()
	r, err := http.NewRequest(q.method, s.url+q.path, q.body)
	if err != nil {
		s.t.Fatalf("%s %s: %v", q.method, q.path, err)
	}
	for _, line := range q.header {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	resp, err := s.client.Do(r)
	if err != nil {
		s.t.Fatalf("%s %s: %v", q.method, q.path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatalf("%s %s: read answer: %v", q.method, q.path, err)
	}
	return answer{resp.StatusCode, resp.Header, body}
}

func (s *server) get(path string, header ...string) answer {
	s.t.Helper()
	return s.send(request{method: "GET", path: path, header: header})
}

func (s *server) register(body []byte, header ...string) answer {
	s.t.Helper()
	return s.send(request{"POST", "/entries", append(header, "Content-Type: application/cose"), bytes.NewReader(body)})
}

// problem reads a's body as a problem document of either kind, and checks what
// holds for all of them.
func (a answer) problem(t *testing.T) apitype.Problem {
	t.Helper()
	var p apitype.Problem
	switch kind := a.header.Get("Content-Type"); kind {
	case "application/problem+json":
		if err := json.Unmarshal(a.body, &p); err != nil {
			t.Fatalf("problem is no JSON: %v\n%s", err, a.body)
		}
		if p.Status != a.status {
			t.Errorf("problem has status %d, answer has %d", p.Status, a.status)
		}
	case "application/concise-problem-details+cbor":
		p = concise(t, a.body)
		p.Status = a.status
	default:
		t.Fatalf("status %d with Content-Type %q, want a problem: %s", a.status, kind, a.body)
	}
	if p.Title == "" || p.Detail == "" || p.Code == "" {
		t.Errorf("problem lacks title, detail or code: %+v", p)
	}
	if want := publicURL + "/problems/" + p.Code; p.Type != want {
		t.Errorf("problem type %q, want %q", p.Type, want)
	}
	if got := a.header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("%s: Cache-Control %q, want no-store", p.Code, got)
	}
	return p
}

// concise reads concise problem details (RFC 9290).
func concise(t *testing.T, b []byte) apitype.Problem {
	t.Helper()
	var m map[any]any
	if err := detcbor.Unmarshal(b, &m); err != nil {
		t.Fatalf("problem is no CBOR: %v\n%x", err, b)
	}
	if _, ok := m[int64(-4)]; ok {
		t.Error("problem has a response-code (-4), which is a CoAP code")
	}
	text := func(key any) string { s, _ := m[key].(string); return s }
	ours, _ := m["https://github.com/scittd/scittd"].(map[any]any)
	own := func(key string) string { s, _ := ours[key].(string); return s }
	return apitype.Problem{
		Title: text(int64(-1)), Detail: text(int64(-2)), Type: text(int64(-3)), Code: own("code"), Hint: own("hint"),
		TraceID: own("traceId"), EntryID: own("entryId"), Rule: own("rule"), PolicyEntry: own("policyEntry"),
	}
}

// refused checks that a is the problem code with status.
func (a answer) refused(t *testing.T, status int, code string) apitype.Problem {
	t.Helper()
	p := a.problem(t)
	if a.status != status || p.Code != code {
		t.Errorf("answered %d %s (%s), want %d %s", a.status, p.Code, p.Detail, status, code)
	}
	return p
}

// fixedLedger answers what it was given. What a test does not set, it must not
// ask for: the embedded interface is nil.
type fixedLedger struct {
	api.Ledger
	receipt  []byte // of every entry, nil: there is none
	err      error  // of every lookup
	pending  bool
	entries  []ledger.Entry // newest first
	received []ledger.Query // by Find
}

// Head is of a tree that holds the entries.
func (l *fixedLedger) Head(context.Context) (ledger.Head, error) { return l.Seen(), l.err }

func (l *fixedLedger) Seen() (h ledger.Head) {
	if len(l.entries) > 0 {
		h.Size = l.entries[0].Index + 1
	}
	return h
}

func (l *fixedLedger) Pending(statement.ID) bool { return l.pending }

func (l *fixedLedger) Receipt(context.Context, statement.ID, ledger.Scope) ([]byte, error) {
	if l.err != nil {
		return nil, l.err
	}
	if l.receipt == nil {
		return nil, ledger.ErrNotFound
	}
	return l.receipt, nil
}

func (l *fixedLedger) Find(_ context.Context, q ledger.Query) ([]ledger.Entry, error) {
	l.received = append(l.received, q)
	if l.err != nil {
		return nil, l.err
	}
	var found []ledger.Entry
	for _, e := range l.entries {
		if (q.Before == 0 || e.Index < q.Before) && len(found) < q.Limit {
			found = append(found, e)
		}
	}
	return found, nil
}

func (l *fixedLedger) Keys() receipts.KeySet { return nil }

// registering is a function that registers.
type registering func(ctx context.Context, body []byte, with ledger.Circumstances) (ledger.Registered, error)

func (f registering) Register(ctx context.Context, body []byte, with ledger.Circumstances) (ledger.Registered, error) {
	return f(ctx, body, with)
}

// failing always fails with err.
func failing(err error) registering {
	return func(context.Context, []byte, ledger.Circumstances) (ledger.Registered, error) {
		return ledger.Registered{}, err
	}
}

// accepting registers whatever it gets, unread.
func accepting() registering {
	return func(_ context.Context, body []byte, _ ledger.Circumstances) (ledger.Registered, error) {
		return ledger.Registered{Entry: ledger.Entry{ID: idOf(body)}, Receipt: []byte("receipt"), New: true}, nil
	}
}

func idOf(body []byte) statement.ID {
	var id statement.ID
	copy(id[:], statement.SHA256(body).Bytes())
	return id
}

// open is an API that anybody may write to, over r.
func open(t *testing.T, r registering) *server {
	return serve(t, api.Config{Ledger: &fixedLedger{}, Registrar: r, OpenWrites: true})
}

// watch is a clock that tests set.
type watch struct {
	mu sync.Mutex
	at time.Time
}

func newWatch() *watch { return &watch{at: time.Date(2026, 11, 3, 9, 0, 0, 0, time.UTC)} }

func (w *watch) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.at
}

func (w *watch) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at = w.at.Add(d)
}

// lines is a log that tests read.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lines) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
