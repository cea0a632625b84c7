package ledgertest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"math/big"
	"net/url"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/internal/detcbor"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// Media types that the statements of these builders carry.
const (
	SBOM   = "application/vnd.cyclonedx+json"
	Report = "application/sarif+json"
	InToto = "application/vnd.in-toto+json"
)

// NewKey makes a P-256 key.
func NewKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Image is the digest of the n-th of many imaginary images.
func Image(n int) statement.Digest { return statement.SHA256(fmt.Appendf(nil, "image %d", n)) }

// Operator runs the service under test: its names and its keys.
type Operator struct {
	URL, Origin string
	Key         *ecdsa.PrivateKey // signs policies and service statements
	Receipt     *ecdsa.PrivateKey
	Checkpoint  ed25519.PrivateKey
}

// NewOperator makes an operator of https://scitt.example with new keys.
func NewOperator(t testing.TB) *Operator {
	t.Helper()
	_, checkpoint, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &Operator{
		URL: "https://scitt.example", Origin: "scitt.example/log",
		Key: NewKey(t), Receipt: NewKey(t), Checkpoint: checkpoint,
	}
}

// Issuer signs heads with the operator's receipt key.
func (o *Operator) Issuer(t testing.TB) *receipts.Issuer {
	t.Helper()
	i, err := receipts.NewIssuer(o.Receipt, o.URL, o.Origin)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// Document is a policy document that names the operator and admits publishers.
func (o *Operator) Document(publishers ...*Publisher) policy.Document {
	d := policy.Defaults()
	d.Operators = []policy.Operator{{Key: policy.Key{Public: o.Key.Public()}}}
	for _, p := range publishers {
		d.Issuers = append(d.Issuers, p.Rule)
	}
	d.Repositories = []policy.Mapping{{Match: "net-monitor", To: "wabbit/net-monitor"}}
	return d
}

// Policy signs d as the policy that replaces previous; zero: the first one.
func (o *Operator) Policy(t testing.TB, previous statement.ID, d policy.Document) *statement.Statement {
	t.Helper()
	if previous != (statement.ID{}) {
		d.Previous = &previous
	}
	p, err := policy.New(d)
	if err != nil {
		t.Fatal(err)
	}
	b, err := p.JSON()
	if err != nil {
		t.Fatal(err)
	}
	return sign(t, o.Key, statement.Template{
		Issuer: o.URL, Subject: o.URL + policy.StatementSubject, ContentType: policy.MediaType, Payload: b,
	})
}

// Announcement is a service statement that names receipt keys, current first.
func (o *Operator) Announcement(t testing.TB, keys ...crypto.PublicKey) *statement.Statement {
	t.Helper()
	vkey, err := note.NewEd25519VerifierKey(o.Origin, o.Checkpoint.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	svc := ledger.Service{
		Version: 1, URL: o.URL, Origin: o.Origin, LeafRule: ledger.LeafRule, CheckpointKeys: []string{vkey},
	}
	for _, pub := range keys {
		b, err := cose.Key{Public: pub}.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		svc.ReceiptKeys = append(svc.ReceiptKeys, b)
	}
	return o.Service(t, svc)
}

// Service signs a service statement.
func (o *Operator) Service(t testing.TB, svc ledger.Service) *statement.Statement {
	t.Helper()
	b, err := json.Marshal(svc)
	if err != nil {
		t.Fatal(err)
	}
	return sign(t, o.Key, statement.Template{
		Issuer: o.URL, Subject: o.URL + policy.ServiceSubject, ContentType: policy.ServiceMediaType, Payload: b,
	})
}

// Genesis makes leaves 0 and 1 of a log that admits publishers.
func (o *Operator) Genesis(t testing.TB, publishers ...*Publisher) ledger.Genesis {
	t.Helper()
	return ledger.Genesis{
		Policy:  o.Policy(t, statement.ID{}, o.Document(publishers...)),
		Service: o.Announcement(t, o.Receipt.Public()),
	}
}

// Init makes the operator's log in s.
func (o *Operator) Init(t testing.TB, s ledger.Store, publishers ...*Publisher) {
	t.Helper()
	if err := ledger.Init(context.Background(), s, o.Issuer(t), o.Genesis(t, publishers...), nil); err != nil {
		t.Fatal(err)
	}
}

// Publisher signs statements, and brings the policy rule that admits them.
type Publisher struct {
	Name        string // iss
	Key         *ecdsa.PrivateKey
	Rule        policy.Issuer
	Chain       [][]byte // with certificates: leaf and root
	Unprotected bool     // send the chain unprotected
}

// NewPublisher makes a publisher with a pinned key.
func NewPublisher(t testing.TB, iss string) *Publisher {
	t.Helper()
	p := &Publisher{Name: iss, Key: NewKey(t)}
	p.Rule = policy.Issuer{Iss: iss, Key: &policy.Key{Public: p.Key.Public()}, Repositories: []string{"*", "*/*"}}
	return p
}

// NewCertifiedPublisher makes a publisher with a certificate of its own root,
// valid for a day, whose chain comes unprotected: collateral.
func NewCertifiedPublisher(t testing.TB, iss string) *Publisher {
	t.Helper()
	name, err := url.Parse(iss)
	if err != nil {
		t.Fatal(err)
	}
	from, to := time.Now().Add(-time.Hour).Truncate(time.Second), time.Now().Add(24*time.Hour).Truncate(time.Second)
	rootKey := NewKey(t)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root of " + iss}, NotBefore: from, NotAfter: to,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, rootKey.Public(), rootKey)
	if err != nil {
		t.Fatal(err)
	}
	if root, err = x509.ParseCertificate(rootDER); err != nil {
		t.Fatal(err)
	}
	p := &Publisher{Name: iss, Key: NewKey(t), Unprotected: true}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: iss}, NotBefore: from, NotAfter: to,
		URIs: []*url.URL{name}, KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, p.Key.Public(), rootKey)
	if err != nil {
		t.Fatal(err)
	}
	p.Chain = [][]byte{leafDER, rootDER}
	p.Rule = policy.Issuer{Iss: iss, X509: &policy.X509{Roots: []policy.Root{{Certificate: root}}}}
	return p
}

// Sign signs what tmpl says as this publisher.
func (p *Publisher) Sign(t testing.TB, tmpl statement.Template) *statement.Statement {
	t.Helper()
	tmpl.Issuer, tmpl.Chain, tmpl.ChainUnprotected = p.Name, p.Chain, p.Unprotected
	return sign(t, p.Key, tmpl)
}

// Claim signs a hash envelope over evidence about an image.
func (p *Publisher) Claim(t testing.TB, image statement.Digest, mediaType string, evidence []byte) *statement.Statement {
	t.Helper()
	sum := sha256.Sum256(evidence)
	return p.Sign(t, statement.Template{
		Subject: "pkg:oci/net-monitor@" + string(image), ContentType: mediaType, HashAlg: -16, Payload: sum[:],
	})
}

// Provenance signs an attached in-toto statement about images.
func (p *Publisher) Provenance(t testing.TB, predicateType string, images ...statement.Digest) *statement.Statement {
	t.Helper()
	type subject struct {
		Name   string            `json:"name"`
		Digest map[string]string `json:"digest"`
	}
	payload := struct {
		Type          string    `json:"_type"`
		Subject       []subject `json:"subject"`
		PredicateType string    `json:"predicateType"`
		Predicate     struct{}  `json:"predicate"`
	}{Type: "https://in-toto.io/Statement/v1", PredicateType: predicateType}
	for _, image := range images {
		payload.Subject = append(payload.Subject, subject{"net-monitor", map[string]string{"sha256": fmt.Sprintf("%x", image.Bytes())}})
	}
	b, err := json.Marshal(payload)
	if err != nil {
		t.Fatal(err)
	}
	return p.Sign(t, statement.Template{Subject: "pkg:oci/net-monitor", ContentType: InToto, Payload: b})
}

// Claims signs n claims about images from..from+n-1.
func (p *Publisher) Claims(t testing.TB, from, n int) []*statement.Statement {
	t.Helper()
	all := make([]*statement.Statement, n)
	for i := range all {
		all[i] = p.Claim(t, Image(from+i), SBOM, fmt.Appendf(nil, "sbom %d", from+i))
	}
	return all
}

func sign(t testing.TB, key crypto.Signer, tmpl statement.Template) *statement.Statement {
	t.Helper()
	b, err := statement.Sign(tmpl, key)
	if err != nil {
		t.Fatal(err)
	}
	s, err := statement.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// collateralOf is how the chain of a decision is kept.
func collateralOf(t testing.TB, chain [][]byte) []ledger.Collateral {
	t.Helper()
	if chain == nil {
		return nil
	}
	b, err := detcbor.Marshal(chain)
	if err != nil {
		t.Fatal(err)
	}
	return []ledger.Collateral{{Kind: ledger.ChainCollateral, Data: b}}
}

// Submission judges s as a caller of Append does.
func Submission(l *ledger.Ledger, s *statement.Statement) ledger.Submission {
	return ledger.Submission{Statement: s, Decision: l.Policy().Evaluate(s, time.Now()), Caller: "ledgertest"}
}

// Append registers s or fails the test.
func Append(t testing.TB, l *ledger.Ledger, s *statement.Statement) ledger.Registered {
	t.Helper()
	r, err := l.Append(context.Background(), Submission(l, s))
	if err != nil {
		t.Fatalf("append %s: %v", s.ID(), err)
	}
	return r
}

// Clocked is s with a clock of the test's.
func Clocked(s Store, now func() time.Time) Store { return clocked{s, now} }

type clocked struct {
	Store
	now func() time.Time
}

func (c clocked) Now(context.Context) (time.Time, error) { return c.now(), nil }
