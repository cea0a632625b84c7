// Package timestamptest is a time-stamping authority for tests. It makes tokens
// with a library that shares no code with what verifies them.
package timestamptest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"
	"time"

	tsp "github.com/digitorus/timestamp"

	"github.com/scittd/scittd/internal/timestamp"
)

// Authority signs with a leaf under a root of its own. Both are valid from From
// to To.
type Authority struct {
	Root, Leaf *x509.Certificate
	From, To   time.Time

	Key crypto.Signer // of Leaf
}

// New makes an authority whose certificates hold around at, a year each way.
// change alters the leaf's template first, to make a worse one; it may be nil.
func New(t testing.TB, at time.Time, change func(*x509.Certificate)) *Authority {
	t.Helper()
	a := &Authority{From: at.AddDate(-1, 0, 0).UTC().Truncate(time.Second), To: at.AddDate(1, 0, 0).UTC().Truncate(time.Second)}
	rootKey := newKey(t)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test time-stamping root"},
		NotBefore: a.From, NotAfter: a.To, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.Root = certify(t, root, root, rootKey.Public(), rootKey)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test time-stamping authority"},
		NotBefore: a.From, NotAfter: a.To, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtraExtensions: []pkix.Extension{Usage(t, true, x509.ExtKeyUsageTimeStamping)},
	}
	if change != nil {
		change(leaf)
	}
	key := newKey(t)
	a.Key, a.Leaf = key, certify(t, leaf, a.Root, key.Public(), rootKey)
	return a
}

// Usage is the extended key usage extension, which crypto/x509 writes as not
// critical. It knows codeSigning and timeStamping.
func Usage(t testing.TB, critical bool, usages ...x509.ExtKeyUsage) pkix.Extension {
	t.Helper()
	var oids []asn1.ObjectIdentifier
	for _, u := range usages {
		switch u {
		case x509.ExtKeyUsageCodeSigning:
			oids = append(oids, asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 3})
		case x509.ExtKeyUsageTimeStamping:
			oids = append(oids, asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 8})
		default:
			t.Fatalf("usage %d", u)
		}
	}
	der, err := asn1.Marshal(oids)
	if err != nil {
		t.Fatal(err)
	}
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: critical, Value: der}
}

// Trusted is a as those list it who trust its root while it holds.
func (a *Authority) Trusted() timestamp.Authority {
	return timestamp.Authority{Chain: []*x509.Certificate{a.Root}, From: a.From, To: a.To}
}

// Response is the TimeStampResp for message, seen at that time. change alters
// the request of the library first; it may be nil.
func (a *Authority) Response(t testing.TB, message []byte, at time.Time, change func(*tsp.Timestamp)) []byte {
	t.Helper()
	request := tsp.Timestamp{
		HashAlgorithm: crypto.SHA256, Time: at.UTC(), Policy: asn1.ObjectIdentifier{1, 2, 3, 4},
		Nonce: big.NewInt(7), Accuracy: time.Second, AddTSACertificate: true,
	}
	if change != nil {
		change(&request)
	}
	if request.HashedMessage == nil {
		h := request.HashAlgorithm.New()
		h.Write(message)
		request.HashedMessage = h.Sum(nil)
	}
	response, err := request.CreateResponseWithOpts(a.Leaf, a.Key, request.HashAlgorithm)
	if err != nil {
		t.Fatal(err)
	}
	return response
}

// Token is the token of that Response.
func (a *Authority) Token(t testing.TB, message []byte, at time.Time) []byte {
	t.Helper()
	token, err := timestamp.Token(a.Response(t, message, at, nil))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func certify(t testing.TB, template, parent *x509.Certificate, pub crypto.PublicKey, signer crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
