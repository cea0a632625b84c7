package api_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/scittd/scittd/api"
	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/internal/detcbor"
	"github.com/scittd/scittd/internal/registrar"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/ledger/sqlite"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
	"github.com/scittd/scittd/storage/embedded"
)

// world is a whole service on a SQLite file, without a registry: what wabbit
// registers is public, what vault registers is private.
type world struct {
	*server
	store  *sqlite.Store
	ledger *ledger.Ledger

	operator                 *ledgertest.Operator
	wabbit, vault, certified *ledgertest.Publisher

	custodian *registrar.Custodian
	registry  func() *embedded.Registry // which custodian finds things in

	// Tokens, as header lines.
	reader, publisher, both string
}

const registryHost = "registry.example"

func newWorld(t *testing.T, more ...*ledgertest.Publisher) *world {
	t.Helper()
	ctx := context.Background()
	store, err := sqlite.Open(ctx, filepath.Join(t.TempDir(), "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	operator := ledgertest.NewOperator(t)
	w := &world{
		store:     store,
		operator:  operator,
		wabbit:    ledgertest.NewPublisher(t, "https://wabbit.example"),
		vault:     ledgertest.NewPublisher(t, "https://vault.example"),
		certified: ledgertest.NewCertifiedPublisher(t, "https://certified.example"),
	}
	w.vault.Rule.Visibility = policy.Private
	operator.Init(t, store, append(more, w.wabbit, w.vault, w.certified)...)
	w.ledger, err = ledger.Open(ctx, store, ledger.Options{
		Issuer: operator.Issuer(t), Checkpoint: operator.Checkpoint, Cadence: time.Nanosecond, Registry: registryHost,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ledgertest.CheckLog(ctx, store, operator.Receipt.Public()); err != nil {
			t.Errorf("the log is not sound: %v", err)
		}
		if err := w.ledger.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	w.reader = w.token(t, "reader", "read")
	w.publisher = w.token(t, "publisher", "publish")
	w.both = w.token(t, "both", "read", "publish")

	r := registrar.New(w.ledger, registrar.Options{Registry: registryHost, Staging: store})
	w.server = serve(t, api.Config{
		Ledger: w.ledger, Registrar: r, Judge: r, Refusals: store, Decisions: ledger.Decisions{Store: store},
		Staging: store, Tokens: store, Custodian: w.keeper(t), PublicURL: publicURL, Registry: registryHost, Ready: w.ledger.Ready,
	})
	return w
}

// token makes a token and returns it as a header line.
func (w *world) token(t *testing.T, name string, scopes ...string) string {
	t.Helper()
	text := "token of " + name
	err := w.store.AddToken(context.Background(), ledger.Token{
		ID: name[:4], Name: name, Hash: sha256.Sum256([]byte(text)), Scopes: scopes,
		Created: time.Now(), Expires: time.Now().Add(time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	return bearer(text)
}

// claim registers a claim of p about image n and returns it with its receipt.
func (w *world) claim(p *ledgertest.Publisher, n int) (*statement.Statement, []byte) {
	w.t.Helper()
	s := p.Claim(w.t, ledgertest.Image(n), ledgertest.SBOM, fmt.Appendf(nil, "sbom %d of %s", n, p.Name))
	return s, w.admitted(w.register(encode(w.t, p, s), w.publisher), s)
}

// encode is s as a publisher sends it: with the chain that is no part of its
// canonical bytes.
func encode(t *testing.T, p *ledgertest.Publisher, s *statement.Statement) []byte {
	t.Helper()
	if !p.Unprotected {
		return s.Canonical()
	}
	unprotected, err := detcbor.Marshal(map[int]any{33: p.Chain})
	if err != nil {
		t.Fatal(err)
	}
	canonical := s.Canonical()
	at := 2 + len(detcbor.AppendBytes(nil, s.Protected())) // after tag, array head and protected
	return slices.Concat(canonical[:at], unprotected, canonical[at+1:])
}

// admitted checks that a is the registration of s, and returns the receipt,
// verified with the key that the service publishes.
func (w *world) admitted(a answer, s *statement.Statement) []byte {
	w.t.Helper()
	if a.status != 201 {
		w.t.Fatalf("registration: %d %+v", a.status, a.problem(w.t))
	}
	if got, want := a.header.Get("Location"), "/entries/"+s.ID().String(); got != want {
		w.t.Errorf("Location %q, want %q", got, want)
	}
	w.verify(a.body, s.ID())
	return a.body
}

func (w *world) verify(receipt []byte, id statement.ID) {
	w.t.Helper()
	r, err := receipts.Parse(receipt)
	if err != nil {
		w.t.Fatal(err)
	}
	keys, err := receipts.ParseKeySet(w.get("/.well-known/scitt-keys").body)
	if err != nil {
		w.t.Fatal(err)
	}
	key, ok := keys.Find(r.KeyID)
	if !ok {
		w.t.Fatalf("kid %x is not published", r.KeyID)
	}
	if err := r.Verify(id[:], key.Public, receipts.Strict); err != nil {
		w.t.Errorf("receipt of %s: %v", id, err)
	}
}

// read decodes the JSON at path.
func read[T any](w *world, path string, header ...string) T {
	w.t.Helper()
	var v T
	a := w.get(path, header...)
	if a.status != 200 || a.header.Get("Content-Type") != "application/json" {
		w.t.Fatalf("%s: %d %s\n%s", path, a.status, a.header.Get("Content-Type"), a.body)
	}
	if err := json.Unmarshal(a.body, &v); err != nil {
		w.t.Fatalf("%s: %v\n%s", path, err, a.body)
	}
	return v
}

func (w *world) size() uint64 {
	w.t.Helper()
	head, err := w.ledger.Head(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	return head.Size
}

// pinned is a publisher whose key is known but not ours to sign with.
func pinned(t *testing.T, iss string, pem []byte) *ledgertest.Publisher {
	t.Helper()
	key, err := cose.ParsePublic(pem)
	if err != nil {
		t.Fatal(err)
	}
	return &ledgertest.Publisher{Name: iss, Rule: policy.Issuer{Iss: iss, Key: (*policy.Key)(&key)}}
}

// with is the same service under other limits.
func (w *world) with(limits api.Limits) *server {
	c := w.api.Config
	c.Limits = limits
	return serve(w.t, c)
}
