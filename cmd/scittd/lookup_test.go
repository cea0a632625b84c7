package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/statement"
)

// publisher is a server that issuers publish their keys at: https://localhost, at
// a port of its own.
type publisher struct {
	port  string
	ca    []byte // PEM
	mu    sync.Mutex
	pages map[string]func(http.ResponseWriter)
	asked map[string]int
}

func publishedKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// certify makes a certificate, by itself when there is no parent.
func certify(t *testing.T, tmpl, parent *x509.Certificate, key, by crypto.Signer) *x509.Certificate {
	t.Helper()
	tmpl.SerialNumber, tmpl.NotBefore, tmpl.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	if parent == nil {
		parent, by = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func rootTemplate() *x509.Certificate {
	return &x509.Certificate{Subject: pkix.Name{CommonName: "root"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
}

func leafTemplate() *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: "wabbit"}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}
}

func newPublisher(t *testing.T) *publisher {
	t.Helper()
	key := publishedKey(t)
	cert := certify(t, &x509.Certificate{DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true}, nil, key, nil)
	p := &publisher{
		ca:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}),
		pages: map[string]func(http.ResponseWriter){}, asked: map[string]int{},
	}
	server := httptest.NewUnstartedServer(p)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	p.port = server.URL[strings.LastIndexByte(server.URL, ':')+1:]
	return p
}

func (p *publisher) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked[r.URL.Path]++
	if page := p.pages[r.URL.Path]; page != nil {
		page(w)
		return
	}
	w.WriteHeader(http.StatusNotFound)
}

// put publishes a document.
func (p *publisher) put(path, contentType string, body []byte) {
	p.answer(path, func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", contentType)
		w.Write(body)
	})
}

func (p *publisher) answer(path string, page func(http.ResponseWriter)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pages[path] = page
}

func (p *publisher) times(path string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked[path]
}

func toJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func jwkOf(t *testing.T, key *ecdsa.PrivateKey, kid string) map[string]string {
	t.Helper()
	b, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{"kty": "EC", "crv": "P-256",
		"x": base64.RawURLEncoding.EncodeToString(b[1:33]), "y": base64.RawURLEncoding.EncodeToString(b[33:])}
	if kid != "" {
		m["kid"] = kid
	}
	return m
}

func didDocument(t *testing.T, did string, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	return toJSON(t, map[string]any{
		"id": did, "assertionMethod": []string{did + "#release"},
		"verificationMethod": []any{map[string]any{"id": did + "#release", "type": "JsonWebKey", "controller": did, "publicKeyJwk": jwkOf(t, key, "")}},
	})
}

// issuer is somebody who signs.
type issuer struct {
	iss   string
	key   crypto.Signer
	kid   string
	chain [][]byte
}

// sign makes a statement, always the same one.
func (i issuer) sign(t *testing.T) []byte {
	t.Helper()
	tmpl := statement.Template{Issuer: i.iss, Subject: "pkg:oci/net-monitor", ContentType: sbomType, Payload: []byte(`{"bomFormat":"CycloneDX"}`), Chain: i.chain}
	if i.kid != "" {
		tmpl.KeyID = []byte(i.kid)
	}
	b, err := statement.Sign(tmpl, i.key)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// judged is what a dry run says of a statement.
func (s *site) judged(token string, body []byte) apitype.Judged {
	s.t.Helper()
	a := s.ask(http.MethodPost, "/v1/entries:validate", token, body)
	var j apitype.Judged
	if err := json.Unmarshal(a.body, &j); err != nil || a.status != http.StatusOK {
		s.t.Fatalf("validate: %d %v\n%s", a.status, err, a.body)
	}
	return j
}

// TestEveryKindOfPublishedIdentity runs the binaries against a server that issuers
// publish at: whom the policy names is admitted by what is there, and nobody else.
func TestEveryKindOfPublishedIdentity(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	s := newSite(t, sqliteEmbedded)
	s.write("lookup.pem", string(p.ca))
	s.settings = []string{"--lookup-private-hosts", "localhost:" + p.port, "--lookup-ca-file", "lookup.pem"}

	// Who there is.
	zero := ed25519.NewKeyFromSeed(make([]byte, 32))
	web, jwks, set, self, rogue := publishedKey(t), publishedKey(t), publishedKey(t), publishedKey(t), publishedKey(t)
	rootKey, leafKey := publishedKey(t), publishedKey(t)
	root := certify(t, rootTemplate(), nil, rootKey, nil)
	leaf := certify(t, leafTemplate(), root, leafKey, rootKey)
	twin := certify(t, rootTemplate(), nil, rogue, nil) // who says to be the same
	twinLeaf := certify(t, leafTemplate(), twin, rogue, rogue)
	fingerprint := sha256.Sum256(root.Raw)
	didX509 := "did:x509:0:sha256:" + base64.RawURLEncoding.EncodeToString(fingerprint[:]) + "::subject:CN:wabbit::eku:1.3.6.1.5.5.7.3.3"
	didWeb, base := "did:web:localhost%3A"+p.port+":wabbit", "https://localhost:"+p.port
	good := map[string]issuer{
		"did:key":      {"did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp", zero, "", nil},
		"did:jwk":      {"did:jwk:" + base64.RawURLEncoding.EncodeToString(toJSON(t, jwkOf(t, self, ""))), self, "#0", nil},
		"did:web":      {didWeb, web, didWeb + "#release", nil},
		"did:x509":     {didX509, leafKey, "", [][]byte{leaf.Raw, root.Raw}},
		"JWKS":         {"https://jwks.example", jwks, "2026", nil},
		"COSE Key Set": {"https://set.example", set, "", nil},
	}
	binary, err := cose.MarshalKeySet([]cose.Key{{Public: set.Public()}})
	if err != nil {
		t.Fatal(err)
	}
	p.put("/wabbit/did.json", "application/did+json", didDocument(t, didWeb, web))
	p.put("/jwks.json", "application/jwk-set+json", toJSON(t, map[string]any{"keys": []any{jwkOf(t, jwks, "2026"), jwkOf(t, rogue, "other")}}))
	p.put("/keys.cbor", "application/cose-key-set", binary)
	p.put("/evil/did.json", "application/did+json", didDocument(t, strings.Replace(didWeb, "wabbit", "evil", 1), rogue))

	// A service that admits them all.
	policy := "version: 1\noperators: [{key: service/keys/operator.pub}]\nissuers:\n"
	for _, i := range good {
		if strings.HasPrefix(i.iss, "did:") {
			policy += fmt.Sprintf("  - {iss: %q, did: {}}\n", i.iss)
		}
	}
	for iss, url := range map[string]string{
		"https://jwks.example": base + "/jwks.json", "https://set.example": base + "/keys.cbor", "https://later.example": base + "/later.json",
		"https://broken.example": base + "/broken.json", "https://elsewhere.example": "https://localhost:1/jwks.json",
	} {
		policy += fmt.Sprintf("  - {iss: %q, keys: {url: %q}}\n", iss, url)
	}
	s.init(policy)
	running := s.serve()
	token := s.token("publish", "publish")
	s.login(token)

	receipts := map[string][]byte{}
	for name, i := range good {
		body := i.sign(t)
		if j := s.judged(token, body); j.Decision != "allow" {
			t.Errorf("%s: judged %+v", name, j)
		}
		a := s.ask(http.MethodPost, "/entries", token, body)
		if a.status != http.StatusCreated {
			t.Errorf("%s: %d\n%q", name, a.status, a.body)
		}
		receipts[string(body)] = a.body
	}
	for _, path := range []string{"/wabbit/did.json", "/jwks.json", "/keys.cbor"} {
		if n := p.times(path); n != 1 {
			t.Errorf("%s was asked for %d times, want once", path, n)
		}
	}

	// By push, and in a batch.
	digest := s.image("wabbit/net-monitor:v1")
	pushed := issuer{didWeb, web, "release", nil}.sign(t)
	if _, err := s.orasAttach(s.registry, "wabbit/net-monitor", digest, "application/scitt-statement+cose", [2]string{"application/scitt-statement+cose", string(pushed)}); err != nil {
		t.Errorf("pushed: %v", err)
	}
	if j := s.judged(token, pushed); j.Decision != "allow" {
		t.Errorf("pushed: judged %+v", j)
	}
	strangers := issuer{didWeb, rogue, "release", nil}.sign(t)
	batch, err := http.NewRequest(http.MethodPost, s.url+"/v1/entries:batch", bytes.NewReader(append(good["JWKS"].sign(t), strangers...)))
	if err != nil {
		t.Fatal(err)
	}
	batch.Header = http.Header{"Authorization": {"Bearer " + token}, "Content-Type": {"application/cbor-seq"}, "Accept": {"application/json"}}
	resp, err := s.http.Do(batch)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var items struct{ Items []struct{ Status int } }
	if err := json.NewDecoder(resp.Body).Decode(&items); err != nil || len(items.Items) != 2 || items.Items[0].Status != 201 || items.Items[1].Status != 400 {
		t.Errorf("batch: %+v, %v", items, err)
	}

	// Nobody else, and nobody's URL is asked for them.
	evil := strings.Replace(didWeb, "wabbit", "evil", 1)
	asked := p.times("/wabbit/did.json") + p.times("/jwks.json")
	for name, c := range map[string]struct {
		by   issuer
		code string
	}{
		"did:key, another kid":          {issuer{good["did:key"].iss, zero, "other", nil}, "unknown-issuer-key"},
		"did:jwk, another key":          {issuer{good["did:jwk"].iss, rogue, "#0", nil}, "bad-signature"},
		"did:web, another kid":          {issuer{didWeb, web, "#other", nil}, "unknown-issuer-key"},
		"did:web, not in the policy":    {issuer{evil, rogue, "#release", nil}, "unknown-issuer-key"},
		"did:x509, another chain":       {issuer{didX509, rogue, "", [][]byte{twinLeaf.Raw, twin.Raw}}, "certificate-invalid"},
		"did:x509, another name":        {issuer{strings.Replace(didX509, "wabbit", "evil", 1), leafKey, "", good["did:x509"].chain}, "unknown-issuer-key"},
		"JWKS, another kid":             {issuer{"https://jwks.example", jwks, "2027", nil}, "unknown-issuer-key"},
		"JWKS, kid of another":          {issuer{"https://jwks.example", jwks, "other", nil}, "bad-signature"},
		"COSE Key Set, another key":     {issuer{"https://set.example", rogue, "", nil}, "unknown-issuer-key"},
		"a key of another issuer's set": {issuer{"https://set.example", jwks, "2026", nil}, "unknown-issuer-key"},
		"nothing is published":          {issuer{"https://later.example", rogue, "", nil}, "lookup-failed"},
		"a host that is not configured": {issuer{"https://elsewhere.example", rogue, "", nil}, "lookup-failed"},
	} {
		body := c.by.sign(t)
		if j := s.judged(token, body); j.Decision != "deny" || j.Code != c.code || j.Reason == "" || j.Hint == "" {
			t.Errorf("%s: judged %+v, want %s", name, j, c.code)
		}
		if a := s.ask(http.MethodPost, "/entries", token, body); a.status != http.StatusBadRequest || !bytes.Contains(a.body, []byte(c.code)) {
			t.Errorf("%s: %d %q, want %s", name, a.status, a.body, c.code)
		}
	}
	if n := p.times("/evil/did.json"); n != 0 {
		t.Errorf("a DID that the policy does not name was asked for %d times", n)
	}
	// What they made up cost one more look at each document, and no more.
	if n := p.times("/wabbit/did.json") + p.times("/jwks.json"); n > asked+2 {
		t.Errorf("asked for %d times, before the strangers came %d", n, asked)
	}

	// An issuer that does not answer is no reason to refuse.
	p.answer("/broken.json", func(w http.ResponseWriter) { w.WriteHeader(http.StatusBadGateway) })
	a := s.ask(http.MethodPost, "/entries", token, issuer{"https://broken.example", rogue, "", nil}.sign(t))
	if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" || !bytes.Contains(a.body, []byte("lookup-unavailable")) || !bytes.Contains(a.body, []byte("502")) {
		t.Errorf("an issuer that fails: %d %v %q", a.status, a.header, a.body)
	}

	// All of it goes, and the service is started again: what is registered stays so,
	// and the log is whole without a look at anybody.
	p.mu.Lock()
	clear(p.pages)
	p.mu.Unlock()
	running.stop()
	s.serve()
	for body, receipt := range receipts {
		if a := s.ask(http.MethodPost, "/entries", token, []byte(body)); a.status != http.StatusCreated || !bytes.Equal(a.body, receipt) {
			t.Errorf("registered before: %d, and another receipt than then", a.status)
		}
	}
	s.run("scittd", "log", "fsck", "--dir", "service")
	s.audit(0, []string{"OK             size 9", "9 decisions"}, "--replay", s.url, "--key", "service/keys/operator.pub")
	if out := s.run("scittd", "check", "--dir", "service"); !strings.Contains(out, "localhost:"+p.port+" at private addresses") {
		t.Errorf("check says nothing of lookups:\n%s", out)
	}
}
