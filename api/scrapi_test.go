package api_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/scittd/scittd/api"
	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

func TestRegistrationAnswers201WithReceiptAndLocation(t *testing.T) {
	s := open(t, accepting())
	body := []byte("statement")
	a := s.register(body)
	if a.status != 201 || string(a.body) != "receipt" {
		t.Fatalf("%d %q", a.status, a.body)
	}
	if got, want := a.header.Get("Location"), "/entries/"+idOf(body).String(); got != want {
		t.Errorf("Location %q, want %q", got, want)
	}
	if got := a.header.Get("Content-Type"); got != "application/cose" {
		t.Errorf("Content-Type %q", got)
	}
	if again := s.register(body); again.status != 201 || !bytes.Equal(again.body, a.body) || again.header.Get("Location") != a.header.Get("Location") {
		t.Errorf("the same bytes again: %d %q", again.status, again.body)
	}
}

func TestRegistrarGetsTheBytesAndTheCaller(t *testing.T) {
	var got []string
	s := open(t, func(_ context.Context, body []byte, with ledger.Circumstances) (ledger.Registered, error) {
		got = append(got, fmt.Sprint(string(body), with.Repository, with.Caller, with.Scope))
		return ledger.Registered{}, nil
	})
	s.register([]byte("bytes as sent"))
	if want := fmt.Sprint("bytes as sent", "", "anonymous", ledger.Public); len(got) != 1 || got[0] != want {
		t.Errorf("registrar got %q, want %q", got, want)
	}
}

func TestBodiesMustBeAnnouncedAsStatements(t *testing.T) {
	s := open(t, accepting())
	for _, c := range []struct {
		status int
		header []string
	}{
		{201, []string{"Content-Type: application/cose"}},
		{201, []string{`Content-Type: application/cose; cose-type="cose-sign1"`}},
		{201, []string{`Content-Type: application/cose;cose-type=cose-sign1`}},
		{201, []string{`Content-Type: Application/COSE ;  Cose-Type = "COSE-Sign1"`}},
		{201, []string{"Content-Type:  application/cose "}},
		{201, []string{"Content-Type: application/scitt-statement+cose"}},
		{201, []string{"Content-Type: APPLICATION/scitt-statement+COSE"}},
		{415, nil},
		{415, []string{"Content-Type: "}},
		{415, []string{"Content-Type: application/cbor"}},
		{415, []string{"Content-Type: application/json"}},
		{415, []string{"Content-Type: application/scitt-receipt+cose"}},
		{415, []string{"Content-Type: application/cose-key"}},
		{415, []string{`Content-Type: application/cose; cose-type="cose-sign"`}},
		{415, []string{`Content-Type: application/cose; cose-type="cose-sign1`}},
		{415, []string{"Content-Type: application/cose, application/cose"}},
		{415, []string{"Content-Type: application/cose", "Content-Type: application/cose"}},
		{415, []string{"Content-Type: application/cose", "Content-Encoding: gzip"}},
		{415, []string{"Content-Type: application/cose", "Content-Encoding: identity"}},
		{415, []string{"Content-Type: application/cose", "Content-Encoding: "}},
	} {
		t.Run(fmt.Sprint(c.header), func(t *testing.T) {
			a := s.send(request{"POST", "/entries", c.header, strings.NewReader("x")})
			if a.status != c.status {
				t.Fatalf("%q: %d, want %d: %s", c.header, a.status, c.status, a.body)
			}
			if c.status == 415 {
				a.refused(t, 415, "unsupported-media-type")
			}
		})
	}
	a := s.send(request{"POST", "/entries", nil, strings.NewReader("x")})
	if got := a.header.Get("Accept"); got != "application/cose, application/scitt-statement+cose" {
		t.Errorf("415 lists %q", got)
	}
}

func TestReceiptsAreLabelledAsTheClientAsks(t *testing.T) {
	s := serve(t, api.Config{Ledger: &fixedLedger{receipt: []byte("receipt")}, Registrar: accepting(), OpenWrites: true})
	for _, c := range []struct {
		accept []string
		want   string
	}{
		{nil, "application/cose"},
		{[]string{"*/*"}, "application/cose"},
		{[]string{"application/cbor, application/cose"}, "application/cose"},
		{[]string{"application/scitt-receipt+cose"}, "application/scitt-receipt+cose"},
		{[]string{"application/cose", "application/scitt-receipt+cose"}, "application/scitt-receipt+cose"},
		{[]string{"text/html", "application/cbor;q=0.1, Application/Scitt-Receipt+COSE;q=0.2"}, "application/scitt-receipt+cose"},
		{[]string{"application/scitt-receipt+cose;q=0.4, application/cose;q=0.5"}, "application/cose"},
		{[]string{"application/scitt-receipt+cose;q=0"}, "application/cose"},
		{[]string{"application/scitt-receipt+cose;q=much"}, "application/cose"},
		{[]string{"application/json"}, "application/cose"},
	} {
		var header []string
		for _, a := range c.accept {
			header = append(header, "Accept: "+a)
		}
		if a := s.register([]byte("x"), header...); a.status != 201 || a.header.Get("Content-Type") != c.want {
			t.Errorf("POST with Accept %q: %d %q, want %q", c.accept, a.status, a.header.Get("Content-Type"), c.want)
		}
		if a := s.get("/entries/"+strings.Repeat("0", 64), header...); a.status != 200 || a.header.Get("Content-Type") != c.want {
			t.Errorf("GET with Accept %q: %d %q, want %q", c.accept, a.status, a.header.Get("Content-Type"), c.want)
		}
	}
}

func TestBodyLimitHoldsAtItsEdge(t *testing.T) {
	var got atomic.Int64
	s := open(t, func(_ context.Context, body []byte, _ ledger.Circumstances) (ledger.Registered, error) {
		got.Store(int64(len(body)))
		return ledger.Registered{}, nil
	})
	for _, c := range []struct {
		size   int
		status int
	}{{statement.MaxSize - 1, 201}, {statement.MaxSize, 201}, {statement.MaxSize + 1, 413}, {8 * statement.MaxSize, 413}} {
		// Announced, and chunked.
		for name, body := range map[string]io.Reader{
			"announced": bytes.NewReader(make([]byte, c.size)),
			"chunked":   io.LimitReader(zeros{}, int64(c.size)),
		} {
			got.Store(0)
			a := s.send(request{"POST", "/entries", []string{"Content-Type: application/cose"}, body})
			if a.status != c.status {
				t.Errorf("%d bytes, %s: %d, want %d", c.size, name, a.status, c.status)
				continue
			}
			if c.status == 201 && got.Load() != int64(c.size) {
				t.Errorf("%d bytes, %s: registrar got %d", c.size, name, got.Load())
			}
			if c.status == 413 {
				p := a.refused(t, 413, "too-large")
				if !strings.Contains(p.Detail, strconv.Itoa(statement.MaxSize)) || p.Hint == "" || got.Load() != 0 {
					t.Errorf("%d bytes, %s: %q, hint %q, registrar got %d", c.size, name, p.Detail, p.Hint, got.Load())
				}
			}
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// unread fails the test that reads it.
type unread struct{ t *testing.T }

func (b unread) Read([]byte) (int, error) {
	b.t.Error("a body that is announced too large was read")
	return 0, io.EOF
}

func TestBodyThatIsAnnouncedTooLargeIsNotRead(t *testing.T) {
	s := open(t, accepting())
	r, rec := httptest.NewRequest("POST", "/entries", unread{t}), httptest.NewRecorder()
	r.Header.Set("Content-Type", "application/cose")
	r.ContentLength = statement.MaxSize + 1
	s.api.ServeHTTP(rec, r)
	answer{rec.Code, rec.Header(), rec.Body.Bytes()}.refused(t, 413, "too-large")
}

func TestEndlessBodyIsCutOff(t *testing.T) {
	s := open(t, accepting())
	body := io.LimitReader(zeros{}, 1<<40)
	a := s.send(request{"POST", "/entries", []string{"Content-Type: application/cose"}, body})
	a.refused(t, 413, "too-large")
}

func TestRegistrationThatTakesTooLongAnswers202(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	body, err := statement.Sign(statement.Template{Issuer: "https://a.example", Subject: "x", ContentType: "text/plain", Payload: []byte("x")}, key)
	if err != nil {
		t.Fatal(err)
	}
	stmt, err := statement.Parse(body)
	if err != nil {
		t.Fatal(err)
	}
	var log lines
	l := &fixedLedger{pending: true}
	s := serve(t, api.Config{
		Ledger: l, OpenWrites: true, RegisterWait: time.Millisecond, Log: log.logger(),
		Registrar: registering(func(ctx context.Context, _ []byte, _ ledger.Circumstances) (ledger.Registered, error) {
			<-ctx.Done()
			return ledger.Registered{}, fmt.Errorf("append: %w", ctx.Err())
		}),
	})
	a := s.register(body)
	location := "/entries/" + stmt.ID().String()
	if a.status != 202 || len(a.body) != 0 || a.header.Get("Location") != location || a.header.Get("Retry-After") == "" || a.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %q %v", a.status, a.body, a.header)
	}
	if !strings.Contains(log.String(), stmt.ID().String()) {
		t.Errorf("no line in the log: %s", log.String())
	}

	a = s.get(location)
	if a.status != 204 || len(a.body) != 0 || a.header.Get("Retry-After") == "" || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("while pending: %d %q %v", a.status, a.body, a.header)
	}
	l.receipt = []byte("receipt")
	if a := s.get(location); a.status != 200 || string(a.body) != "receipt" {
		t.Errorf("committed, still in the queue's memory: %d %q", a.status, a.body)
	}
	l.receipt, l.pending = nil, false
	s.get(location).refused(t, 404, "not-found")
}

func TestReceiptsAndStatementsAreImmutable(t *testing.T) {
	s := serve(t, api.Config{Ledger: &fixedLedger{receipt: []byte("receipt")}, Registrar: accepting()})
	path := "/entries/" + strings.Repeat("0", 64)
	a := s.get(path)
	if got := a.header.Get("Cache-Control"); got != "public, max-age=31536000, immutable" {
		t.Errorf("Cache-Control %q", got)
	}
	tag := a.header.Get("ETag")
	for _, match := range []string{tag, "W/" + tag, `"other", ` + tag, "*"} {
		if a := s.get(path, "If-None-Match: "+match); a.status != 304 || len(a.body) != 0 {
			t.Errorf("If-None-Match %s: %d %q", match, a.status, a.body)
		}
	}
	if a := s.get(path, `If-None-Match: "other"`); a.status != 200 {
		t.Errorf("another tag: %d", a.status)
	}
}

// keyed has two keys whose kids are of both kinds: bytes, and path-safe text.
type keyed struct {
	fixedLedger
	keys receipts.KeySet
}

func (k *keyed) Keys() receipts.KeySet { return k.keys }

func TestKeysAreFoundByEveryFormOfTheirKid(t *testing.T) {
	l := &keyed{}
	for _, kid := range []string{"\x00\xff binary / kid", "kid-1"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		l.keys = append(l.keys, cose.Key{ID: []byte(kid), Alg: cose.ES256, Public: &key.PublicKey})
	}
	s := serve(t, api.Config{Ledger: l, Registrar: accepting()})

	a := s.get("/.well-known/scitt-keys", "Accept: application/cbor")
	set, err := receipts.ParseKeySet(a.body)
	if a.status != 200 || a.header.Get("Content-Type") != "application/cbor" || err != nil || len(set) != 2 {
		t.Fatalf("key set: %d %s %v %d keys", a.status, a.header.Get("Content-Type"), err, len(set))
	}
	encoded := base64.RawURLEncoding.EncodeToString
	for _, c := range []struct {
		path string
		want int
	}{
		{encoded(l.keys[0].ID), 0}, {encoded(l.keys[1].ID), 1}, {"kid-1", 1}, {"kid%2D1", 1},
	} {
		a := s.get("/.well-known/scitt-keys/" + c.path)
		key, err := cose.ParseKey(a.body)
		if a.status != 200 || a.header.Get("Content-Type") != "application/cbor" || err != nil || !bytes.Equal(key.ID, l.keys[c.want].ID) {
			t.Errorf("%s: %d %s %v kid %q", c.path, a.status, a.header.Get("Content-Type"), err, key.ID)
		}
	}
	for _, unknown := range []string{"kid-2", encoded([]byte("kid-2")), encoded(l.keys[1].ID) + "=", "%ff", strings.Repeat("A", 5000)} {
		p := s.get("/.well-known/scitt-keys/"+unknown).refused(t, 404, "no-such-key")
		if p.Title != "No such key" || p.Detail != "No key could be found for this kid value." {
			t.Errorf("%s: %q %q", unknown, p.Title, p.Detail)
		}
	}
}

func TestExtensionRegistersForItsRepositoryAlone(t *testing.T) {
	var named []string
	s := open(t, func(_ context.Context, body []byte, with ledger.Circumstances) (ledger.Registered, error) {
		repository := with.Repository
		named = append(named, repository)
		if string(body) == "elsewhere" {
			return ledger.Registered{}, &policy.Refusal{Code: "repository-mismatch", Reason: "sub names b/c"}
		}
		return ledger.Registered{Entry: ledger.Entry{ID: idOf(body)}, Receipt: []byte("receipt"), New: true}, nil
	})
	mount := serveExtension(t, s.api)
	post := func(path, body string) answer {
		return mount.send(request{"POST", path, []string{"Content-Type: application/cose"}, strings.NewReader(body)})
	}
	const register = "/v2/wabbit/net-monitor/_scitt/entries/register"
	a := post(register, "statement")
	if a.status != 201 || a.header.Get("Location") != "/entries/"+idOf([]byte("statement")).String() || len(named) != 1 || named[0] != "wabbit/net-monitor" {
		t.Errorf("%d %v, registrar got %q", a.status, a.header, named)
	}
	a = post(register, "elsewhere")
	a.refused(t, 400, "repository-mismatch")
	if got := a.header.Get("Content-Type"); got != cborProblem {
		t.Errorf("register keeps CBOR, got %s", got)
	}
	// No such name can ever be a repository: nothing is appended for it.
	for _, name := range []string{"NET-monitor", "..", "a/../b", "a%00b", "a%0d%0aX", strings.Repeat("a", 256)} {
		post("/v2/"+name+"/_scitt/entries/register", "statement").refused(t, 400, "malformed-request")
	}
	if len(named) != 2 {
		t.Errorf("the registrar got %q", named)
	}
	a = mount.get(register)
	a.refused(t, 405, "method-not-allowed")
	if a.header.Get("Allow") != "POST" {
		t.Errorf("Allow %q", a.header.Get("Allow"))
	}
	for _, absent := range []string{
		"wabbit/net-monitor/_scitt/entries/lists", "wabbit/net-monitor/_scitt/keys/set", "wabbit/net-monitor/_scitt/",
		"wabbit/net-monitor/_scitt/entries/register/x", "_scitt/keys",
	} {
		a := mount.get("/v2/" + absent)
		p := a.refused(t, 404, "not-found")
		if len(p.Errors) != 1 || p.Errors[0].Code != "EXTENSION_UNKNOWN" {
			t.Errorf("%s: registry clients read %s", absent, a.body)
		}
	}
	// Without a repository there is nothing to register for.
	rec, r := httptest.NewRecorder(), httptest.NewRequest("POST", "/v2/_scitt/entries/register", strings.NewReader("statement"))
	r.Header.Set("Content-Type", "application/cose")
	s.api.Extension(rec, r, "", "entries/register")
	if rec.Code != 404 {
		t.Errorf("no repository: %d", rec.Code)
	}
}

// serveExtension mounts a's extension as a registry does.
func serveExtension(t *testing.T, a *api.API) *server {
	s := serve(t, api.Config{Ledger: &fixedLedger{}, Registrar: failing(errors.New("not this one"))})
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		repository, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2"), "/_scitt/")
		a.Extension(w, r, strings.TrimPrefix(repository, "/"), path)
	})
	s.url = listen(t, h)
	return s
}
