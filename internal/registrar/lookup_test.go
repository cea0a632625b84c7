package registrar_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	lookup "github.com/scittd/scittd/internal/fetch"
	"github.com/scittd/scittd/internal/registrar"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

// here resolves every name to this machine.
type here struct{}

func (here) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
}

// issuers is a world whose policy names what a server of ours publishes: a key set
// and a DID document, which are for whoever has the key that is current.
type issuers struct {
	*world
	server   *httptest.Server
	byKeys   *ledgertest.Publisher
	byDID    *ledgertest.Publisher
	hits     atomic.Int64
	advanced atomic.Int64 // nanoseconds that the fetcher's clock is ahead

	mu     sync.Mutex
	paths  map[string]int
	serve  http.HandlerFunc // nil: what there should be
	signer crypto.Signer
}

func newIssuers(t *testing.T) *issuers {
	n := &issuers{world: newWorld(t), paths: map[string]int{}}
	n.server = httptest.NewTLSServer(http.HandlerFunc(n.answer))
	t.Cleanup(n.server.Close)
	_, port, err := net.SplitHostPort(n.server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	origin := "keys.example.com:" + port
	n.byKeys = ledgertest.NewPublisher(t, "https://keys.example.com")
	n.byKeys.Rule = policy.Issuer{Iss: n.byKeys.Name, Keys: &policy.KeySet{URL: "https://" + origin + "/jwks.json"}}
	n.byDID = ledgertest.NewPublisher(t, "did:web:keys.example.com%3A"+port+":release")
	n.byDID.Rule = policy.Issuer{Iss: n.byDID.Name, DID: &policy.DID{}}
	n.byDID.Key = n.byKeys.Key
	n.signer = n.byKeys.Key

	roots := x509.NewCertPool()
	roots.AddCert(n.server.Certificate())
	f, err := lookup.New(lookup.Options{
		Private: []string{origin}, Roots: roots, Resolver: here{},
		Clock: func() time.Time { return time.Now().Add(time.Duration(n.advanced.Load())) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	n.registrar = registrar.New(n.ledger, registrar.Options{Registry: host, Further: n.store, Lookup: f})
	n.publish(n.byKeys, n.byDID)
	return n
}

// publish puts a policy in force that admits publishers, too.
func (n *issuers) publish(publishers ...*ledgertest.Publisher) {
	n.Helper()
	d := n.operator.Document(append([]*ledgertest.Publisher{n.publisher, n.private}, publishers...)...)
	n.mustRegister(n.operator.Policy(n, n.ledger.Policy().Entry, d))
}

func (n *issuers) answer(w http.ResponseWriter, r *http.Request) {
	n.hits.Add(1)
	n.mu.Lock()
	n.paths[r.URL.Path]++
	serve, signer := n.serve, n.signer
	n.mu.Unlock()
	if serve != nil {
		serve(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	var err error
	switch jwk := publicJWK(signer.Public()); r.URL.Path {
	case "/jwks.json":
		err = json.NewEncoder(w).Encode(map[string]any{"keys": []any{jwk}})
	case "/release/did.json":
		err = json.NewEncoder(w).Encode(map[string]any{
			"id": n.byDID.Name, "assertionMethod": []any{"#key-1"},
			"verificationMethod": []any{map[string]any{"id": "#key-1", "controller": n.byDID.Name, "type": "JsonWebKey", "publicKeyJwk": jwk}},
		})
	default:
		w.WriteHeader(http.StatusNotFound)
	}
	if err != nil {
		n.Error(err)
	}
}

// from now on the server answers like that, or, with nil, as it should.
func (n *issuers) answering(serve http.HandlerFunc) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.serve = serve
}

// rotate makes another key the current one.
func (n *issuers) rotate(to *ecdsa.PrivateKey) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.signer, n.byKeys.Key, n.byDID.Key = to, to, to
}

func publicJWK(pub crypto.PublicKey) map[string]string {
	b, err := pub.(*ecdsa.PublicKey).Bytes()
	if err != nil {
		panic(err)
	}
	return map[string]string{"kty": "EC", "crv": "P-256", "alg": "ES256",
		"x": base64.RawURLEncoding.EncodeToString(b[1:33]), "y": base64.RawURLEncoding.EncodeToString(b[33:])}
}

// claims makes a claim by each issuer about the n-th image.
func (n *issuers) claims(i int) []*statement.Statement {
	n.Helper()
	return []*statement.Statement{
		n.byKeys.Claim(n, ledgertest.Image(i), ledgertest.SBOM, fmt.Appendf(nil, "keys %d", i)),
		n.byDID.Claim(n, ledgertest.Image(i), ledgertest.SBOM, fmt.Appendf(nil, "did %d", i)),
	}
}

func TestIssuersWhoPublishTheirKeysAreAdmittedByThem(t *testing.T) {
	n := newIssuers(t)
	for i := range 3 {
		for _, s := range n.claims(i) {
			_, d, err := n.registrar.Judge(t.Context(), s.Canonical(), ledger.Circumstances{})
			if err != nil || d.Refusal != nil {
				t.Fatalf("judged %+v, %v", d, err)
			}
			reg := n.mustRegister(s)
			if reg.Entry.Identity.Kind == policy.PinnedKey || reg.Entry.Identity.Thumbprint == "" {
				t.Errorf("identity %+v", reg.Entry.Identity)
			}
		}
	}
	// One request for each document serves them all. The log has what was decided by.
	if n.paths["/jwks.json"] != 1 || n.paths["/release/did.json"] != 1 || n.hits.Load() != 2 {
		t.Errorf("asked for %v", n.paths)
	}
}

func TestNothingIsAskedForThatThePolicyDoesNotName(t *testing.T) {
	n := newIssuers(t)
	_, port, _ := strings.Cut(n.byDID.Name, "%3A")
	stranger := *n.byDID
	for _, iss := range []string{
		"did:web:keys.example.com%3A" + strings.TrimSuffix(port, ":release"), "did:web:keys.example.com%3A" + port + ":other", "did:web:evil.example.com",
		"https://keys.example.com/", "https://KEYS.example.com", "did:web:127.0.0.1%3A" + port,
	} {
		stranger.Name = iss
		s := stranger.Claim(t, ledgertest.Image(1), ledgertest.SBOM, []byte("x"))
		if _, err := n.register(s, ledger.Public); !errors.As(err, new(*policy.Refusal)) {
			t.Errorf("%s: %v, want a refusal", iss, err)
		}
		if _, d, err := n.registrar.Judge(t.Context(), s.Canonical(), ledger.Circumstances{}); err != nil || d.Refusal == nil {
			t.Errorf("%s: judged %+v, %v; want a refusal", iss, d, err)
		}
	}
	n.mustRegister(n.publisher.Claim(t, ledgertest.Image(2), ledgertest.SBOM, []byte("x"))) // by a pinned key
	if n.hits.Load() != 0 {
		t.Errorf("asked for %v", n.paths)
	}
}

func TestAKeyThatWasRotatedIsFoundAtOnceAndAStrangersCostsOneRequest(t *testing.T) {
	n := newIssuers(t)
	old := n.claims(0)
	for _, s := range old {
		n.mustRegister(s)
	}
	n.rotate(ledgertest.NewKey(t))
	for _, s := range n.claims(1) {
		n.mustRegister(s)
	}
	if n.hits.Load() != 4 {
		t.Errorf("asked for %v, want each document twice", n.paths)
	}
	// Whoever makes up keys makes no more of it, and is refused.
	for i := range 50 {
		stranger := *n.byKeys
		stranger.Key = ledgertest.NewKey(t)
		_, err := n.register(stranger.Claim(t, ledgertest.Image(i), ledgertest.SBOM, []byte("x")), ledger.Public)
		if refusal := (*policy.Refusal)(nil); !errors.As(err, &refusal) || refusal.Code != policy.CodeUnknownIssuerKey {
			t.Fatalf("%v, want %s", err, policy.CodeUnknownIssuerKey)
		}
	}
	if n.hits.Load() != 4 {
		t.Errorf("asked for %v, want no more", n.paths)
	}
	// What was admitted by the old key stays as it is.
	for _, s := range old {
		if reg := n.mustRegister(s); reg.New {
			t.Error("registered anew")
		}
	}
}

func TestAnAnswerThatIsOfNoUseIsARefusalThatSaysWhatWasFound(t *testing.T) {
	with := func(contentType string, code int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			w.WriteHeader(code)
			fmt.Fprint(w, body)
		}
	}
	n := newIssuers(t)
	i := 0
	for name, c := range map[string]struct {
		serve http.HandlerFunc
		found string
	}{
		"a redirect":       {http.RedirectHandler("https://evil.example/", http.StatusFound).ServeHTTP, "redirects are not followed"},
		"nothing":          {http.NotFound, "answers 404"},
		"huge":             {with("application/json", 200, strings.Repeat(" ", 1<<20)), "262144"},
		"a page":           {with("text/html", 200, "<html>"), "content type text/html"},
		"no key":           {with("application/json", 200, `{"id":"x","keys":[]}`), "cannot be used"},
		"10,000 keys":      {with("application/json", 200, `{"keys":[`+strings.Repeat("{},", 9999)+`{}]}`), "cannot be used"},
		"not what it says": {with("application/json", 200, "<html>"), "cannot be used"},
	} {
		i++
		n.advanced.Add(int64(time.Hour))
		n.answering(c.serve)
		for _, s := range n.claims(i) {
			_, err := n.register(s, ledger.Public)
			refusal := (*policy.Refusal)(nil)
			if !errors.As(err, &refusal) || refusal.Code != policy.CodeLookupFailed || !strings.HasPrefix(refusal.Rule, "issuers[") {
				t.Errorf("%s: %v, want %s", name, err, policy.CodeLookupFailed)
				continue
			}
			if !strings.Contains(refusal.Reason, c.found) || !strings.Contains(refusal.Reason, "https://keys.example.com:") || refusal.Hint == "" {
				t.Errorf("%s: %q (%q); want the URL and %q", name, refusal.Reason, refusal.Hint, c.found)
			}
			if _, d, err := n.registrar.Judge(t.Context(), s.Canonical(), ledger.Circumstances{}); err != nil || d.Refusal == nil || d.Refusal.Reason != refusal.Reason {
				t.Errorf("%s: judged %+v, %v", name, d, err)
			}
		}
	}
	// Once it is put right, it is good; what did not come of it is remembered for a while.
	n.answering(nil)
	n.advanced.Add(int64(time.Minute))
	for _, s := range n.claims(i) {
		n.mustRegister(s)
	}
}

func TestAnIssuerWhoDoesNotAnswerIsNoReasonToRefuseNorToAdmit(t *testing.T) {
	n := newIssuers(t)
	known := n.claims(0)
	for _, s := range known {
		n.mustRegister(s)
	}
	before := n.claims(1) // made while it answers, registered when it does not
	for name, serve := range map[string]http.HandlerFunc{
		"overloaded": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) },
		"cut off":    func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		n.advanced.Add(int64(time.Hour))
		n.answering(serve)
		for _, s := range before {
			if _, err := n.register(s, ledger.Public); !errors.Is(err, policy.ErrLookup) || errors.As(err, new(*policy.Refusal)) {
				t.Errorf("%s: %v, want policy.ErrLookup", name, err)
			}
			if _, _, err := n.registrar.Judge(t.Context(), s.Canonical(), ledger.Circumstances{}); !errors.Is(err, policy.ErrLookup) {
				t.Errorf("%s: judged with %v, want policy.ErrLookup", name, err)
			}
		}
		// What is registered keeps its receipt, whatever becomes of its issuer.
		for _, s := range known {
			if reg, err := n.register(s, ledger.Public); err != nil || reg.New || len(reg.Receipt) == 0 {
				t.Errorf("%s: registered before: %+v, %v", name, reg, err)
			}
			if _, d, err := n.registrar.Judge(t.Context(), s.Canonical(), ledger.Circumstances{}); err != nil || d.Refusal != nil {
				t.Errorf("%s: registered before, judged %+v, %v", name, d, err)
			}
		}
	}
	n.answering(nil)
	n.advanced.Add(int64(time.Hour))
	for _, s := range before {
		n.mustRegister(s)
	}
}

func TestADocumentThatChangesWithEveryLookIsKeptAsItWasJudged(t *testing.T) {
	n := newIssuers(t)
	for i := range 5 { // CheckLog judges each again by what was kept
		n.advanced.Add(int64(time.Hour))
		n.rotate(ledgertest.NewKey(t))
		for _, s := range n.claims(i) {
			n.mustRegister(s)
		}
	}
}

func TestAServiceThatMayAskNobodySaysSo(t *testing.T) {
	n := newIssuers(t)
	n.registrar = registrar.New(n.ledger, registrar.Options{Registry: host})
	for _, s := range n.claims(0) {
		_, err := n.register(s, ledger.Public)
		if refusal := (*policy.Refusal)(nil); !errors.As(err, &refusal) || refusal.Code != policy.CodeLookupFailed || !strings.Contains(refusal.Hint, "operator") {
			t.Errorf("%v, want %s", err, policy.CodeLookupFailed)
		}
	}
}
