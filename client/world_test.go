package client_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func publicPEM(t *testing.T, key crypto.Signer) string {
	t.Helper()
	text, err := cose.MarshalPublicPEM(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var image = statement.SHA256([]byte("an image"))

// claim signs a statement about image with evidence inside.
func claim(t *testing.T, key crypto.Signer, issuer string, evidence []byte, more ...func(*statement.Template)) ([]byte, statement.ID) {
	t.Helper()
	template := statement.Template{Issuer: issuer, Subject: "pkg:oci/app@" + string(image), ContentType: "application/spdx+json", Payload: evidence}
	for _, m := range more {
		m(&template)
	}
	signed, err := statement.Sign(template, key)
	if err != nil {
		t.Fatal(err)
	}
	s, err := statement.Parse(signed)
	if err != nil {
		t.Fatal(err)
	}
	return signed, s.ID()
}

// service is a log of two entries that registers any statement as the second.
type service struct {
	*receipts.Issuer
	key *ecdsa.PrivateKey
}

func newService(t *testing.T, url string) service {
	t.Helper()
	key := newKey(t)
	issuer, err := receipts.NewIssuer(key, url, strings.TrimPrefix(url, "https://")+"/log")
	if err != nil {
		t.Fatal(err)
	}
	return service{issuer, key}
}

func (s service) keySet() receipts.KeySet {
	return receipts.KeySet{{ID: s.KeyID(), Alg: cose.ES256, Public: s.Public()}}
}

// receipt registers entry at that time.
func (s service) receipt(t *testing.T, entry statement.ID, at time.Time) []byte {
	t.Helper()
	first, second := rfc6962.DefaultHasher.HashLeaf([]byte("the first")), rfc6962.DefaultHasher.HashLeaf(entry[:])
	head, err := s.Sign(receipts.Head{Size: 2, Root: [32]byte(rfc6962.DefaultHasher.HashChildren(first, second)), Time: at.Truncate(time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	receipt, err := receipts.Mint(head, 1, [][]byte{first})
	if err != nil {
		t.Fatal(err)
	}
	return receipt
}

// transparent puts receipts, and the statement's own unprotected chain, into it.
func transparent(t *testing.T, signed []byte, all ...[]byte) []byte {
	t.Helper()
	s, err := statement.Parse(signed)
	if err != nil {
		t.Fatal(err)
	}
	chain := s.Chain
	if s.ChainProtected {
		chain = nil
	}
	b, err := receipts.BuildTransparent(s.Canonical(), chain, all...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// tampered flips one bit of the signature at the end of a COSE_Sign1.
func tampered(message []byte) []byte {
	message = bytes.Clone(message)
	message[len(message)-1] ^= 1
	return message
}

// certificate is a node of a small PKI.
type certificate struct {
	*x509.Certificate
	key *ecdsa.PrivateKey
}

func (c certificate) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

// issue signs a certificate; without a parent, by itself.
func issue(t *testing.T, parent *certificate, c x509.Certificate) certificate {
	t.Helper()
	key := newKey(t)
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	issuer, signer := &c, key
	if parent != nil {
		issuer, signer = parent.Certificate, parent.key
	}
	der, err := x509.CreateCertificate(rand.Reader, &c, issuer, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate{made, key}
}

func authority(t *testing.T, name string, parent *certificate) certificate {
	return issue(t, parent, x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: now.Add(-10 * 365 * 24 * time.Hour), NotAfter: now.Add(10 * 365 * 24 * time.Hour),
	})
}

// leaf is a code signing certificate of the issuer, valid for 30 days about now.
func leaf(t *testing.T, parent certificate, issuer string, more ...func(*x509.Certificate)) certificate {
	t.Helper()
	name, err := url.Parse(issuer)
	if err != nil {
		t.Fatal(err)
	}
	c := x509.Certificate{
		Subject: pkix.Name{CommonName: "a leaf"}, URIs: []*url.URL{name},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		NotBefore: now.Add(-15 * 24 * time.Hour), NotAfter: now.Add(15 * 24 * time.Hour),
	}
	for _, m := range more {
		m(&c)
	}
	return issue(t, &parent, c)
}
