package api_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/api"
	"github.com/scittd/scittd/ledger"
)

func TestTokensSeenLatelyAreGoodWhileTheirStoreIsAway(t *testing.T) {
	w, store := newWatch(), &tokenStore{}
	publisher, stranger := store.add(w, "p", "publish"), store.add(w, "q", "publish")
	a := api.New(api.Config{Ledger: &fixedLedger{}, Registrar: accepting(), Tokens: store, Clock: w.now})
	push := func(token string) error {
		r := httptest.NewRequest("PUT", "/v2/a/manifests/b", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		return a.Authorize(r, true)
	}
	if err := push(publisher); err != nil {
		t.Fatal(err)
	}
	store.err = ledger.ErrUnavailable
	w.pass(10 * time.Minute)
	if err := push(publisher); err != nil {
		t.Errorf("a push in the tenth minute: %v", err)
	}
	if err := push(stranger); err == nil {
		t.Error("a token that was never looked up is taken")
	}
	w.pass(6 * time.Minute)
	if err := push(publisher); err == nil {
		t.Error("a push in the sixteenth minute: nobody has looked at the token for too long")
	}
	store.err = nil
	if err := push(publisher); err != nil {
		t.Errorf("once the store is back: %v", err)
	}
}

func TestACallerForWhomARegistryVouchesIsTakenAtItsWord(t *testing.T) {
	var caller string
	registrar := registering(func(ctx context.Context, body []byte, with ledger.Circumstances) (ledger.Registered, error) {
		caller = with.Caller
		return accepting()(ctx, body, with)
	})
	var header string
	var push bool
	a := api.New(api.Config{Ledger: &fixedLedger{}, Registrar: registrar, Clock: newWatch().now, Limits: api.Limits{CallerRate: 1, CallerBurst: 2, AddressRate: 1, AddressBurst: 100}})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.Extension(w, api.Vouched(r, "registry.example", push), "team/app", "entries/register")
	}))
	defer s.Close()
	register := func() int {
		t.Helper()
		req, err := http.NewRequest("POST", s.URL, strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/cose")
		if header != "" {
			req.Header.Set("Authorization", header)
		}
		resp, err := s.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	for _, c := range []struct {
		header string
		push   bool
		status int
		caller string
	}{
		{"Basic " + base64.StdEncoding.EncodeToString([]byte("wabbit:secret")), true, 201, `"wabbit"@registry.example`},
		{"Bearer opaque", true, 201, "token "},
		{"", true, 201, "anonymous@registry.example"},
		{"Bearer opaque", false, 403, ""},
	} {
		header, push = c.header, c.push
		caller = ""
		if status := register(); status != c.status || !strings.HasPrefix(caller, c.caller) || !strings.HasSuffix(c.caller+caller, "@registry.example") && c.status == 201 {
			t.Errorf("%q, push %v: %d by %s, want %d by %s", c.header, c.push, status, caller, c.status, c.caller)
		}
		if strings.Contains(caller, "opaque") || strings.Contains(caller, "secret") {
			t.Errorf("the credential is in the caller's name: %s", caller)
		}
	}
	header, push = "Bearer busy", true
	for n := range 3 {
		if status := register(); (status == 429) != (n == 2) {
			t.Errorf("request %d of one caller in one instant, burst 2: %d", n, status)
		}
	}
	refused := 0
	for n := range 100 { // and a new caller each
		if header = fmt.Sprint("Bearer made up ", n); register() == 429 {
			refused++
		}
	}
	if refused != 4 { // the address has spent four of its hundred: a caller each, and one without a name
		t.Errorf("of 100 callers that one address makes up, %d are refused, want 4", refused)
	}
}
