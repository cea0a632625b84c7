package api_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/scittd/scittd/api"
	"github.com/scittd/scittd/ledger"
)

// tokenStore is tokens in memory that counts how often it is asked.
type tokenStore struct {
	ledger.Tokens
	mu     sync.Mutex
	tokens map[[32]byte]ledger.Token
	asked  int
	err    error
}

func (s *tokenStore) FindToken(_ context.Context, hash [32]byte) (ledger.Token, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	if s.err != nil {
		return ledger.Token{}, s.err
	}
	t, ok := s.tokens[hash]
	if !ok {
		return t, ledger.ErrNotFound
	}
	return t, nil
}

// add keeps a token that expires after an hour of w and returns its text.
func (s *tokenStore) add(w *watch, id string, scopes ...string) string {
	text := "secret-of-" + id
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tokens == nil {
		s.tokens = map[[32]byte]ledger.Token{}
	}
	hash := sha256.Sum256([]byte(text))
	s.tokens[hash] = ledger.Token{ID: id, Name: "ci", Hash: hash, Scopes: scopes, Created: w.now(), Expires: w.now().Add(time.Hour)}
	return text
}

func (s *tokenStore) change(text string, f func(*ledger.Token)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	hash := sha256.Sum256([]byte(text))
	t := s.tokens[hash]
	f(&t)
	s.tokens[hash] = t
}

func bearer(token string) string { return "Authorization: Bearer " + token }

func basic(token string) string {
	return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("anyone:"+token))
}

func TestWritesNeedATokenThatMayPublish(t *testing.T) {
	w, store := newWatch(), &tokenStore{}
	publisher, reader := store.add(w, "p", "publish"), store.add(w, "r", "read")
	both, other := store.add(w, "b", "read", "publish"), store.add(w, "o", "admin")
	var caller string
	var scope ledger.Scope
	s := serve(t, api.Config{
		Ledger: &fixedLedger{}, Tokens: store, Clock: w.now,
		Registrar: registering(func(_ context.Context, _ []byte, with ledger.Circumstances) (ledger.Registered, error) {
			c, s := with.Caller, with.Scope
			caller, scope = c, s
			return ledger.Registered{}, nil
		}),
	})
	for _, c := range []struct {
		header string
		status int
		code   string
	}{
		{"X: nothing", 401, "unauthenticated"},
		{bearer("unknown"), 401, "unauthenticated"},
		{bearer(reader), 403, "forbidden"},
		{bearer(other), 403, "forbidden"},
		{bearer(publisher), 201, ""},
		{basic(publisher), 201, ""},
		{bearer(both), 201, ""},
		{"Authorization: bEARER   " + publisher, 201, ""},
	} {
		a := s.register([]byte("x"), c.header)
		if a.status != c.status {
			t.Errorf("%s: %d, want %d", c.header, a.status, c.status)
		}
		if c.code != "" {
			a.refused(t, c.status, c.code)
		}
	}
	s.register([]byte("x"), bearer(publisher))
	if caller != "ci (p)" || scope != ledger.Public {
		t.Errorf("publisher reached the registrar as %q with scope %v", caller, scope)
	}
	if s.register([]byte("x"), bearer(both)); scope != ledger.All {
		t.Errorf("a caller who may read reached the registrar with scope %v", scope)
	}
}

func TestGarbledCredentialsAreRefusedAtOnce(t *testing.T) {
	store := &tokenStore{}
	callers := api.NewCallers(store, nil)
	dots := strings.Repeat(".", 1<<20)
	for _, value := range []string{
		"", " ", "Bearer", "Bearer ", "Bearer\t", "Basic", "Basic !!!", "Basic " + base64.StdEncoding.EncodeToString([]byte("nocolon")),
		"Basic " + base64.StdEncoding.EncodeToString([]byte("user:")), "Digest username=x", "token", dots, "Bearer " + dots, "Basic " + strings.Repeat("A", 1<<20),
		"eyJhbGciOiJub25lIn0.e30.",
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header["Authorization"] = []string{value}
		start := time.Now()
		_, err := callers.Identify(r)
		if took := time.Since(start); took > 5*time.Millisecond {
			t.Errorf("%.20q took %v", value, took)
		}
		if !errors.Is(err, api.ErrUnauthenticated) || errors.Is(err, api.ErrForbidden) {
			t.Errorf("%.20q: %v", value, err)
		}
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.Header["Authorization"] = []string{"Bearer a", "Bearer b"}
	if _, err := callers.Identify(r); !errors.Is(err, api.ErrUnauthenticated) {
		t.Errorf("two credentials: %v", err)
	}
	if store.asked != 0 {
		t.Errorf("the store was asked %d times", store.asked)
	}
	// A signed token of somebody else's is just another unknown one.
	r.Header["Authorization"] = []string{"Bearer eyJhbGciOiJub25lIn0.e30."}
	if _, err := callers.Identify(r); !errors.Is(err, api.ErrUnauthenticated) {
		t.Errorf("alg none: %v", err)
	}
}

func TestBadCredentialsAreRefusedOnReadsToo(t *testing.T) {
	s := serve(t, api.Config{Ledger: &fixedLedger{receipt: []byte("receipt")}, Registrar: accepting(), Tokens: &tokenStore{}})
	path := "/entries/" + strings.Repeat("0", 64)
	if a := s.get(path); a.status != 200 {
		t.Fatalf("anonymous: %d", a.status)
	}
	a := s.get(path, bearer("unknown"))
	a.refused(t, 401, "unauthenticated")
	if got := a.header.Get("WWW-Authenticate"); got != `Bearer realm="scittd"` {
		t.Errorf("WWW-Authenticate %q", got)
	}
}

func TestTokensEndWhenTheyExpireOrAreRevoked(t *testing.T) {
	w, store := newWatch(), &tokenStore{}
	token := store.add(w, "p", "publish")
	callers := api.NewCallers(store, w.now)
	identify := func() error {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		_, err := callers.Identify(r)
		return err
	}
	if err := identify(); err != nil {
		t.Fatal(err)
	}
	w.pass(time.Hour - time.Nanosecond)
	if err := identify(); err != nil {
		t.Errorf("just before it expires: %v", err)
	}
	w.pass(time.Nanosecond)
	if err := identify(); !errors.Is(err, api.ErrUnauthenticated) || !strings.Contains(err.Error(), "expired") {
		t.Errorf("when it expires: %v", err)
	}

	token = store.add(w, "q", "publish")
	if err := identify(); err != nil {
		t.Fatal(err)
	}
	store.change(token, func(t *ledger.Token) { t.Revoked = w.now() })
	w.pass(time.Second)
	if err := identify(); !errors.Is(err, api.ErrUnauthenticated) || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("a second after it was revoked: %v", err)
	}
}

func TestStoreIsAskedOnceASecondPerToken(t *testing.T) {
	w, store := newWatch(), &tokenStore{}
	token := store.add(w, "p", "publish")
	s := serve(t, api.Config{Ledger: &fixedLedger{}, Registrar: accepting(), Tokens: store, Clock: w.now})
	for range 20 {
		s.register([]byte("x"), bearer(token))
	}
	if store.asked != 1 {
		t.Errorf("20 requests in one instant asked the store %d times", store.asked)
	}
	w.pass(time.Second)
	s.register([]byte("x"), bearer(token))
	if store.asked != 2 {
		t.Errorf("a second later the store was asked %d times in all", store.asked)
	}
}

func TestTokenStoreThatIsAwayIsOurFault(t *testing.T) {
	store := &tokenStore{err: fmt.Errorf("query: %w", ledger.ErrUnavailable)}
	s := serve(t, api.Config{Ledger: &fixedLedger{}, Registrar: accepting(), Tokens: store})
	s.register([]byte("x"), bearer("anything")).refused(t, 503, "store-unavailable")
}

func TestAuthorizeServesHandlersBesideTheAPI(t *testing.T) {
	w, store := newWatch(), &tokenStore{}
	publisher, reader := store.add(w, "p", "publish"), store.add(w, "r", "read")
	a := api.New(api.Config{
		Ledger: &fixedLedger{}, Registrar: accepting(), Tokens: store, Clock: w.now,
		Limits: api.Limits{CallerRate: 1, CallerBurst: 1, AddressRate: 1, AddressBurst: 5, PushRate: 1, PushBurst: 2, PullRate: 1, PullBurst: 2},
	})
	ask := func(header string, write bool) error {
		r := httptest.NewRequest("PUT", "/v2/a/manifests/b", nil)
		if name, value, ok := strings.Cut(header, ": "); ok {
			r.Header.Set(name, value)
		}
		return a.Authorize(r, write)
	}
	for _, c := range []struct {
		header string
		write  bool
		want   error
	}{
		{"", false, nil}, {"", true, api.ErrUnauthenticated},
		{basic(publisher), true, nil}, {basic(publisher), false, nil},
		{basic(reader), true, api.ErrForbidden}, {basic(reader), false, nil},
		{basic("wrong"), true, api.ErrUnauthenticated}, {basic("wrong"), false, api.ErrUnauthenticated},
	} {
		if err := ask(c.header, c.write); !errors.Is(err, c.want) {
			t.Errorf("%s, write %v: %v, want %v", c.header, c.write, err, c.want)
		}
	}
	ask(basic(publisher), true)
	if err := ask(basic(publisher), true); !errors.As(err, new(*api.RateLimited)) {
		t.Errorf("third write in one instant, burst 2: %v", err)
	}
	for range 20 { // what clients send first, to see whether they must say who they are
		if err := ask("", true); !errors.Is(err, api.ErrUnauthenticated) {
			t.Fatalf("an anonymous write: %v", err)
		}
	}
	pull := httptest.NewRequest("GET", "/v2/a/manifests/b", nil)
	for n := range 3 {
		if err := a.AdmitPull(pull); errors.As(err, new(*api.RateLimited)) != (n == 2) {
			t.Errorf("pull %d in one instant, burst 2: %v", n, err)
		}
	}
	for header, want := range map[string]string{"": "", basic(publisher): "ci (p)"} {
		r := httptest.NewRequest("GET", "/v2/a/blobs/uploads/b", nil)
		if name, value, ok := strings.Cut(header, ": "); ok {
			r.Header.Set(name, value)
		}
		if got, err := a.CallerName(r); err != nil || got != want {
			t.Errorf("%s is called %q, %v, want %q", header, got, err, want)
		}
	}
	store.err = ledger.ErrUnavailable
	if err := ask(basic("new"), false); err != nil {
		t.Errorf("a read while the store is away: %v", err)
	}
	if err := ask(basic("new"), true); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("a write while the store is away: %v", err)
	}
}

func TestOpenWritesLetAnybodyWriteButNotSeePrivateEntries(t *testing.T) {
	s := open(t, func(_ context.Context, _ []byte, with ledger.Circumstances) (ledger.Registered, error) {
		caller, scope := with.Caller, with.Scope
		if caller != "anonymous" || scope != ledger.Public {
			t.Errorf("caller %q, scope %v", caller, scope)
		}
		return ledger.Registered{}, nil
	})
	if a := s.register([]byte("x")); a.status != http.StatusCreated {
		t.Errorf("%d", a.status)
	}
}
