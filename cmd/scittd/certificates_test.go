package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/internal/timestamp/timestamptest"
	"github.com/scittd/scittd/statement"
)

// certificatesPolicy knows issuers by certificates of every kind.
const certificatesPolicy = `
version: 1
operators:
  - key: service/keys/operator.pub
issuers:
  - name: vendor
    iss: https://wabbit.example
    x509:
      roots: [root.pem]
      intermediates: [issuing.pem]
      crls: [issuing.crl]
      subject: {O: Wabbit}
      deny:
        - {serial: "77", issuer: "CN=issuing"}
  - name: builds
    iss: https://ci.wabbit.example
    x509: {roots: [root.pem], san: "https://ci.wabbit.example/*/release"}
  - name: workloads
    pattern: ^spiffe://wabbit\.example/.+$
    x509: {roots: [root.pem], eku: none}
  - name: releases
    iss: https://github.com/wabbit
    oidc:
      trustedRoot: {certificateAuthorities: [{chain: [fulcio.pem]}], timestampAuthorities: [{chain: [tsa.pem, tsaroot.pem]}]}
      issuer: https://token.actions.githubusercontent.com
      identity: https://github.com/wabbit/*/.github/workflows/release.yml@refs/tags/*
subjects: [sub]
visibility: public
`

// authority certifies, for the tests of a running server.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string, parent *authority) *authority {
	t.Helper()
	a := &authority{t: t}
	if parent == nil {
		parent = a
	}
	tmpl := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	a.cert, a.key = parent.certify(tmpl)
	return a
}

// certify signs tmpl for a new key, for an hour either way where it says no times.
func (a *authority) certify(tmpl *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	if tmpl.SerialNumber == nil {
		if tmpl.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62)); err != nil {
			a.t.Fatal(err)
		}
	}
	if tmpl.NotBefore.IsZero() {
		tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

// leaf certifies somebody to sign under a name.
func (a *authority) leaf(name string, edit ...func(*x509.Certificate)) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	u, err := url.Parse(name)
	if err != nil {
		a.t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		Subject: pkix.Name{Organization: []string{"Wabbit"}}, URIs: []*url.URL{u},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}
	for _, f := range edit {
		f(tmpl)
	}
	return a.certify(tmpl)
}

// revoke writes the list of what a has taken back.
func (a *authority) revoke(certs ...*x509.Certificate) []byte {
	a.t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(time.Hour)}
	for _, c := range certs {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{
			SerialNumber: c.SerialNumber, RevocationTime: time.Now().Add(-time.Minute), ReasonCode: 1,
		})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, a.cert, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return der
}

func (s *site) writePEM(name string, c *x509.Certificate) {
	s.write(name, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})))
}

// loggedIn is what Fulcio certifies of a GitHub workflow.
func loggedIn(c *x509.Certificate) {
	login, err := asn1.MarshalWithParams("https://token.actions.githubusercontent.com", "utf8")
	if err != nil {
		panic(err) // a constant
	}
	c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}, Value: login}}
}

func TestCertificatesOfEveryKindAreJudgedAtTheDoorAndAgainLater(t *testing.T) {
	t.Parallel()
	s := newSite(t, sqliteAlone)
	root := newAuthority(t, "root", nil)
	issuing, fulcio := newAuthority(t, "issuing", root), newAuthority(t, "fulcio", nil)
	clock := timestamptest.New(t, time.Now(), nil)
	vendor, vendorKey := issuing.leaf("https://wabbit.example")
	gone, goneKey := issuing.leaf("https://wabbit.example")
	denied, deniedKey := issuing.leaf("https://wabbit.example", func(c *x509.Certificate) { c.SerialNumber = big.NewInt(0x77) })
	build, buildKey := root.leaf("https://ci.wabbit.example/7/release")
	workload, workloadKey := root.leaf("spiffe://wabbit.example/release", func(c *x509.Certificate) {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	})
	// It expired half an hour ago; what it signed is time-stamped before that.
	const run = "https://github.com/wabbit/net-monitor/.github/workflows/release.yml@refs/tags/v1"
	signedAt := time.Now().Add(-35 * time.Minute)
	release, releaseKey := fulcio.leaf(run, loggedIn, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = signedAt.Add(-5*time.Minute), signedAt.Add(5*time.Minute)
	})
	for name, c := range map[string]*x509.Certificate{
		"root.pem": root.cert, "issuing.pem": issuing.cert, "fulcio.pem": fulcio.cert, "tsa.pem": clock.Leaf, "tsaroot.pem": clock.Root,
	} {
		s.writePEM(name, c)
	}
	s.write("issuing.crl", string(issuing.revoke(gone)))
	s.init(certificatesPolicy)
	running := s.serve()
	publish := s.token("publish", "publish")

	sign := func(key *ecdsa.PrivateKey, iss string, edit func(*statement.Template), chain ...*x509.Certificate) []byte {
		tmpl := statement.Template{Issuer: iss, Subject: "release", ContentType: "application/json", Payload: []byte(`{"ok":true}`)}
		for _, c := range chain {
			tmpl.Chain = append(tmpl.Chain, c.Raw)
		}
		edit(&tmpl)
		b, err := statement.Sign(tmpl, key)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	protected := func(*statement.Template) {}
	byThumbprint := func(tmpl *statement.Template) { tmpl.ChainUnprotected = true }
	byKid := func(tmpl *statement.Template) {
		sum := sha256.Sum256(tmpl.Chain[0])
		tmpl.KeyID, tmpl.ChainUnprotected = sum[:], true
	}
	stamped := func(tmpl *statement.Template) {
		byThumbprint(tmpl)
		tmpl.Timestamp = func(signature []byte) ([]byte, error) { return clock.Token(t, signature, signedAt), nil }
	}
	for name, c := range map[string]struct {
		body       []byte
		rule, says string // of an identity, its name
		refused    bool
	}{
		"x5chain":                       {sign(vendorKey, "https://wabbit.example", protected, vendor, issuing.cert), "vendor.x509", "https://wabbit.example", false},
		"x5t, without the intermediate": {sign(vendorKey, "https://wabbit.example", byThumbprint, vendor), "vendor.x509", "https://wabbit.example", false},
		"kid":                           {sign(vendorKey, "https://wabbit.example", byKid, vendor, issuing.cert), "vendor.x509", "https://wabbit.example", false},
		"a name that fits":              {sign(buildKey, "https://ci.wabbit.example", protected, build), "builds.x509", "https://ci.wabbit.example/7/release", false},
		"SPIFFE":                        {sign(workloadKey, "spiffe://wabbit.example/release", protected, workload), "workloads.x509", "spiffe://wabbit.example/release", false},
		"a login, time-stamped":         {sign(releaseKey, "https://github.com/wabbit", stamped, release), "releases.oidc", run, false},
		"a login that is over":          {sign(releaseKey, "https://github.com/wabbit", protected, release), "releases.oidc", "valid from", true},
		"revoked":                       {sign(goneKey, "https://wabbit.example", protected, gone), "vendor.x509.crls[0]", "keyCompromise", true},
		"denied":                        {sign(deniedKey, "https://wabbit.example", protected, denied), "vendor.x509.deny[0]", "deny list", true},
		"another's certificate":         {sign(buildKey, "https://wabbit.example", protected, build), "vendor.x509.san", "does not speak for", true},
	} {
		var judged apitype.Judged
		a := s.ask(http.MethodPost, "/v1/entries:validate", publish, c.body)
		if err := json.Unmarshal(a.body, &judged); err != nil || a.status != http.StatusOK {
			t.Fatalf("%s: %d %s", name, a.status, a.body)
		}
		if c.refused {
			if judged.Rule != c.rule || !strings.Contains(judged.Reason, c.says) {
				t.Errorf("%s: %s", name, a.body)
			}
			if a := s.ask(http.MethodPost, "/entries", publish, c.body); a.status != http.StatusBadRequest {
				t.Errorf("%s: %d", name, a.status)
			}
			continue
		}
		s.register(publish, c.body)
		parsed, err := statement.Parse(c.body)
		if err != nil {
			t.Fatal(err)
		}
		var entry apitype.Entry
		s.getJSON("/v1/entries/"+parsed.ID().String(), "", &entry)
		if judged.Rule != c.rule || entry.Policy.Rule != c.rule || entry.Identity.Name != c.says {
			t.Errorf("%s: %+v, validated as %s", name, entry, a.body)
		}
	}
	s.audit(0, []string{"OK             size 8", "8 decisions"}, "--replay", s.url, "--key", "service/keys/operator.pub")
	running.stop()
	s.run("scittd", "log", "fsck", "--dir", "service")
}
