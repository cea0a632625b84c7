package ledgertest

import (
	"crypto/sha256"
	"errors"
	"reflect"
	"time"

	"github.com/scittd/scittd/ledger"
)

var tokenTests = []test{
	{"tokens come back, also after reopening", tokensComeBack},
	{"a token is revoked once", revokedOnce},
	{"tokens that miss something, say what no store keeps, or are there, are refused", badTokens},
}

func token(name string, created time.Time) ledger.Token {
	return ledger.Token{
		ID: "id-" + name, Name: name, Hash: sha256.Sum256([]byte(name)), Scopes: []string{ledger.ScopePublish, ledger.ScopeRead},
		Created: created, Expires: created.Add(time.Hour),
	}
}

func tokensComeBack(w *world) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	b, a := token("b", at), token("a", at.Add(time.Minute))
	a.Scopes = []string{ledger.ScopeRead}
	for _, t := range []ledger.Token{a, b} {
		if err := w.store.AddToken(w.ctx, t); err != nil {
			w.Fatal(err)
		}
	}
	w.reopen()
	if got, err := w.store.ListTokens(w.ctx); err != nil || !reflect.DeepEqual(got, []ledger.Token{b, a}) {
		w.Errorf("tokens %+v, %v; want\n%+v", got, err, []ledger.Token{b, a})
	}
	if got, err := w.store.FindToken(w.ctx, a.Hash); err != nil || !reflect.DeepEqual(got, a) {
		w.Errorf("found %+v, %v; want %+v", got, err, a)
	}
	if got, err := w.store.FindToken(w.ctx, [32]byte{}); !errors.Is(err, ledger.ErrNotFound) {
		w.Errorf("found %+v, %v; want ErrNotFound", got, err)
	}
}

func revokedOnce(w *world) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	t := token("x", at)
	if err := w.store.AddToken(w.ctx, t); err != nil {
		w.Fatal(err)
	}
	for i := range 2 {
		if err := w.store.RevokeToken(w.ctx, t.ID, at.Add(time.Duration(i+1)*time.Minute)); err != nil {
			w.Fatal(err)
		}
	}
	t.Revoked = at.Add(time.Minute)
	if got, err := w.store.FindToken(w.ctx, t.Hash); err != nil || !reflect.DeepEqual(got, t) {
		w.Errorf("found %+v, %v; want %+v", got, err, t)
	}
	if err := w.store.RevokeToken(w.ctx, "nobody", at); !errors.Is(err, ledger.ErrNotFound) {
		w.Errorf("revoke nobody: %v, want ErrNotFound", err)
	}
}

func badTokens(w *world) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	if err := w.store.AddToken(w.ctx, token("x", at)); err != nil {
		w.Fatal(err)
	}
	for name, spoil := range map[string]func(*ledger.Token){
		"no ID":              func(t *ledger.Token) { t.ID = "" },
		"an ID not UTF-8":    func(t *ledger.Token) { t.ID = "id-\xff" },
		"a name with a NUL":  func(t *ledger.Token) { t.Name = "a\x00b" },
		"no scope":           func(t *ledger.Token) { t.Scopes = nil },
		"a scope of its own": func(t *ledger.Token) { t.Scopes = []string{ledger.ScopeRead, "admin"} },
		"no expiry":          func(t *ledger.Token) { t.Expires = time.Time{} },
		"same ID":            func(t *ledger.Token) { t.ID = "id-x" },
		"same hash":          func(t *ledger.Token) { t.Hash = sha256.Sum256([]byte("x")) },
	} {
		t := token("y", at)
		spoil(&t)
		if err := w.store.AddToken(w.ctx, t); err == nil {
			w.Errorf("%s: accepted", name)
		}
	}
	if got, err := w.store.ListTokens(w.ctx); err != nil || len(got) != 1 {
		w.Errorf("%d tokens, %v; want 1", len(got), err)
	}
}
