package policy

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/statement"
)

// noon is when everything in these tests happens.
var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

const (
	service = "https://scitt.example"
	wabbit  = "https://wabbit.example"
	acme    = "https://acme.example"
	sbom    = "application/vnd.cyclonedx+json"
	image   = "pkg:oci/net-monitor@sha256:b6c7e21200000000000000000000000000000000000000000000000000000001"
)

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func pub(key crypto.Signer) Key { return Key(cose.Key{Public: key.Public()}) }

func thumbprint(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	sum, err := cose.Thumbprint(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return sum[:]
}

// ca can certify; its chain leads from itself up to, but without, the root.
type ca struct {
	t     testing.TB
	cert  *x509.Certificate
	key   crypto.Signer
	chain [][]byte
}

var serial int64

func template(cn string) *x509.Certificate {
	serial++
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		Subject:      pkix.Name{CommonName: cn},
		NotBefore:    noon.Add(-24 * time.Hour),
		NotAfter:     noon.Add(24 * time.Hour),
	}
}

func create(t testing.TB, tmpl, parent *x509.Certificate, public any, signer crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, public, signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func caTemplate(cn string, edit []func(*x509.Certificate)) *x509.Certificate {
	tmpl := template(cn)
	tmpl.IsCA, tmpl.BasicConstraintsValid, tmpl.KeyUsage = true, true, x509.KeyUsageCertSign
	for _, f := range edit {
		f(tmpl)
	}
	return tmpl
}

func newCA(t testing.TB, cn string, edit ...func(*x509.Certificate)) *ca {
	t.Helper()
	return newCAWith(t, cn, newKey(t), edit...)
}

func newCAWith(t testing.TB, cn string, key crypto.Signer, edit ...func(*x509.Certificate)) *ca {
	t.Helper()
	tmpl := caTemplate(cn, edit)
	return &ca{t: t, key: key, cert: create(t, tmpl, tmpl, key.Public(), key)}
}

// intermediate makes a CA under c.
func (c *ca) intermediate(cn string, edit ...func(*x509.Certificate)) *ca {
	c.t.Helper()
	return c.intermediateWith(cn, newKey(c.t), edit...)
}

func (c *ca) intermediateWith(cn string, key crypto.Signer, edit ...func(*x509.Certificate)) *ca {
	c.t.Helper()
	cert := create(c.t, caTemplate(cn, edit), c.cert, key.Public(), c.key)
	return &ca{t: c.t, cert: cert, key: key, chain: append([][]byte{cert.Raw}, c.chain...)}
}

// signer is a key with the chain that certifies it.
type signer struct {
	crypto.Signer
	chain [][]byte
}

func leafTemplate(san string, edit []func(*x509.Certificate)) *x509.Certificate {
	tmpl := template("release signer")
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	if san != "" {
		u, err := url.Parse(san)
		if err != nil {
			panic(err)
		}
		tmpl.URIs = []*url.URL{u}
	}
	for _, f := range edit {
		f(tmpl)
	}
	return tmpl
}

// leaf makes an end-entity certificate whose SAN URI is san.
func (c *ca) leaf(san string, edit ...func(*x509.Certificate)) signer {
	c.t.Helper()
	return c.leafFor(newKey(c.t), san, edit...)
}

func (c *ca) leafFor(key crypto.Signer, san string, edit ...func(*x509.Certificate)) signer {
	c.t.Helper()
	cert := create(c.t, leafTemplate(san, edit), c.cert, key.Public(), c.key)
	return signer{key, append([][]byte{cert.Raw}, c.chain...)}
}

// certify makes a chain for a public key that nobody here has the private key of.
func (c *ca) certify(public any, san string, edit ...func(*x509.Certificate)) [][]byte {
	c.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, leafTemplate(san, edit), c.cert, public, c.key)
	if err != nil {
		c.t.Fatal(err)
	}
	return append([][]byte{der}, c.chain...)
}

// tbsCertificate is RFC 5280 §4.1, to make certificates that crypto/x509 will not.
type tbsCertificate struct {
	Raw          asn1.RawContent
	Version      int `asn1:"optional,explicit,default:0,tag:0"`
	SerialNumber *big.Int
	Algorithm    pkix.AlgorithmIdentifier
	Issuer       asn1.RawValue
	Validity     asn1.RawValue
	Subject      asn1.RawValue
	PublicKey    asn1.RawValue
	Extensions   []pkix.Extension `asn1:"omitempty,optional,explicit,tag:3"`
}

type certificate struct {
	TBS       tbsCertificate
	Algorithm pkix.AlgorithmIdentifier
	Signature asn1.BitString
}

// resign edits a certificate made by c and signs it again.
func (c *ca) resign(der []byte, edit func(*tbsCertificate)) []byte {
	c.t.Helper()
	var cert certificate
	if _, err := asn1.Unmarshal(der, &cert); err != nil {
		c.t.Fatal(err)
	}
	edit(&cert.TBS)
	cert.TBS.Raw = nil
	tbs, err := asn1.Marshal(cert.TBS)
	if err != nil {
		c.t.Fatal(err)
	}
	h := crypto.SHA256.New()
	h.Write(tbs)
	sig, err := c.key.Sign(rand.Reader, h.Sum(nil), crypto.SHA256)
	if err != nil {
		c.t.Fatal(err)
	}
	cert.Signature = asn1.BitString{Bytes: sig, BitLength: 8 * len(sig)}
	out, err := asn1.Marshal(struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{asn1.RawValue{FullBytes: tbs}, cert.Algorithm, cert.Signature})
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// sign makes a statement about image; edit changes what is signed.
func sign(t testing.TB, iss string, key crypto.Signer, edit ...func(*statement.Template)) *statement.Statement {
	t.Helper()
	tmpl := statement.Template{Issuer: iss, Subject: image, ContentType: sbom, Payload: []byte(`{"bomFormat":"CycloneDX"}`)}
	if s, ok := key.(signer); ok {
		key, tmpl.Chain = s.Signer, s.chain
	}
	for _, f := range edit {
		f(&tmpl)
	}
	b, err := statement.Sign(tmpl, key)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, b)
}

func parse(t testing.TB, b []byte) *statement.Statement {
	t.Helper()
	s, err := statement.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func withChain(t testing.TB, s *statement.Statement, chain [][]byte) *statement.Statement {
	t.Helper()
	s, err := s.WithChain(chain)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func unprotected(tmpl *statement.Template) { tmpl.ChainUnprotected = true }

func subject(sub string) func(*statement.Template) {
	return func(tmpl *statement.Template) { tmpl.Subject = sub }
}

func mediaType(t string) func(*statement.Template) {
	return func(tmpl *statement.Template) { tmpl.ContentType = t }
}

// operator signs the policies of these tests.
type operator struct {
	t   testing.TB
	key *ecdsa.PrivateKey
}

func newOperator(t testing.TB) operator { return operator{t, newKey(t)} }

// document is one that o may publish.
func (o operator) document(issuers ...Issuer) Document {
	d := Defaults()
	d.Operators = []Operator{{Key: pub(o.key)}}
	d.Issuers = append(d.Issuers, issuers...)
	return d
}

// publish makes the statement that carries d.
func (o operator) publish(d Document, edit ...func(*statement.Template)) *statement.Statement {
	o.t.Helper()
	p, err := New(d)
	if err != nil {
		o.t.Fatal(err)
	}
	b, err := p.JSON()
	if err != nil {
		o.t.Fatal(err)
	}
	return sign(o.t, service, o.key, append([]func(*statement.Template){func(tmpl *statement.Template) {
		tmpl.Subject, tmpl.ContentType, tmpl.Payload = service+"/policy", MediaType, b
	}}, edit...)...)
}

// policy is one with these issuers, in force.
func inForce(t testing.TB, issuers ...Issuer) *Policy {
	t.Helper()
	o := newOperator(t)
	return bootstrap(t, o.publish(o.document(issuers...)))
}

func bootstrap(t testing.TB, s *statement.Statement) *Policy {
	t.Helper()
	p, err := Bootstrap(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func keyIssuer(iss string, key crypto.Signer) Issuer {
	k := pub(key)
	return Issuer{Iss: iss, Key: &k}
}

func caIssuer(iss string, roots ...*ca) Issuer {
	i := Issuer{Iss: iss, X509: &X509{}}
	for _, c := range roots {
		i.X509.Roots = append(i.X509.Roots, Root{c.cert})
	}
	return i
}

func admitted(t testing.TB, d Decision) {
	t.Helper()
	if d.Refusal != nil {
		t.Errorf("refused by %s: %s (%s); want admitted", d.Refusal.Rule, d.Refusal.Reason, d.Refusal.Code)
	}
}

// refused checks code and rule, and that the refusal is one a stranger can act on.
func refused(t testing.TB, d Decision, code, rule string) {
	t.Helper()
	r := d.Refusal
	if r == nil {
		t.Errorf("admitted by %s; want %s by %s", d.Rule, code, rule)
		return
	}
	if r.Code != code || r.Rule != rule {
		t.Errorf("refused with %s by %s: %s; want %s by %s", r.Code, r.Rule, r.Reason, code, rule)
	}
	if r.Reason == "" || r.Hint == "" || r.Policy != d.Policy || d.Rule != r.Rule {
		t.Errorf("incomplete refusal %+v", r)
	}
	if !printable(r.Reason) || !printable(r.Hint) || len(r.Reason) > 2000 {
		t.Errorf("refusal is not fit to show: %q, %q", r.Reason, r.Hint)
	}
	if d.Identity.Kind != "" || d.Chain != nil || d.Artifacts != nil || !d.NotAfter.IsZero() {
		t.Errorf("refusal says more than it knows: %+v", d)
	}
}

// write puts files into a folder and returns the path of policy.yaml there.
func write(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "policy.yaml")
}

func keyPEM(t testing.TB, key crypto.Signer) string {
	t.Helper()
	b, err := cose.MarshalPublicPEM(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func certPEM(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

func indent(s string) string {
	return "      " + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n      ")
}
