package replay_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/policy"
)

// keyFor makes a key for an algorithm.
func keyFor(t testing.TB, alg cose.Algorithm) crypto.Signer {
	t.Helper()
	var key crypto.Signer
	var err error
	switch alg {
	case cose.ES256, cose.ESP256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case cose.ES384, cose.ESP384:
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case cose.ES512, cose.ESP512:
		key, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case cose.EdDSA, cose.Ed25519:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// authority is a CA.
type authority struct {
	testing.TB
	*x509.Certificate
	key    crypto.Signer
	parent *authority
}

var serials int64

// newAuthority makes a CA below parent; nil: a root.
func newAuthority(t testing.TB, name string, parent *authority) *authority {
	t.Helper()
	a := &authority{TB: t, key: keyFor(t, cose.ES256), parent: parent}
	serials++
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(serials), Subject: pkix.Name{CommonName: name, Organization: []string{"Wabbit"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	signer := a
	by := tmpl
	if parent != nil {
		signer, by = parent, parent.Certificate
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, by, a.key.Public(), signer.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.Certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *authority) root() *authority {
	if a.parent == nil {
		return a
	}
	return a.parent.root()
}

func (a *authority) anchor() []policy.Root { return []policy.Root{{Certificate: a.root().Certificate}} }

// leaf makes an end-entity certificate for code signing, and the chain from it up
// to the root.
func (a *authority) leaf(key crypto.Signer, change func(*x509.Certificate)) [][]byte {
	a.Helper()
	serials++
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(serials), Subject: pkix.Name{CommonName: "signer", Organization: []string{"Wabbit"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(12 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}
	change(tmpl)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.Certificate, key.Public(), a.key)
	if err != nil {
		a.Fatal(err)
	}
	chain := [][]byte{der}
	for ca := a; ca != nil; ca = ca.parent {
		chain = append(chain, ca.Raw)
	}
	return chain
}

// revoke is a's list of what it has taken back.
func (a *authority) revoke(serial int64) policy.CRL {
	a.Helper()
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(24 * time.Hour),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: big.NewInt(serial), RevocationTime: time.Now().Add(-time.Hour)}},
	}, a.Certificate, a.key)
	if err != nil {
		a.Fatal(err)
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		a.Fatal(err)
	}
	return policy.CRL{RevocationList: list}
}

// uri names a leaf.
func uri(t testing.TB, text string) func(*x509.Certificate) {
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return func(c *x509.Certificate) { c.URIs = []*url.URL{u} }
}

// loggedIn makes a leaf one of Fulcio's: who logged in where.
func loggedIn(t testing.TB, issuer, identity string) func(*x509.Certificate) {
	value, err := asn1.MarshalWithParams(issuer, "utf8")
	if err != nil {
		t.Fatal(err)
	}
	return func(c *x509.Certificate) {
		uri(t, identity)(c)
		c.Subject = pkix.Name{}
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}, Value: value}}
	}
}

// jwk is a public P-256 key as a JWK.
func jwk(t testing.TB, key crypto.Signer, kid string) map[string]any {
	t.Helper()
	point, err := key.Public().(*ecdsa.PublicKey).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]any{"kty": "EC", "crv": "P-256", "x": base64.RawURLEncoding.EncodeToString(point[1:33]), "y": base64.RawURLEncoding.EncodeToString(point[33:])}
	if kid != "" {
		m["kid"] = kid
	}
	return m
}

func asJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// didKey is the did:key of an Ed25519 key, and the name of the key in it.
func didKey(key crypto.Signer) (did, name string) {
	const alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
	n := new(big.Int).SetBytes(append([]byte{0xed, 0x01}, key.Public().(ed25519.PublicKey)...))
	var text strings.Builder
	for digits, rest := []byte{}, new(big.Int); ; {
		if n.Sign() == 0 {
			for i := len(digits) - 1; i >= 0; i-- {
				text.WriteByte(digits[i])
			}
			break
		}
		n.DivMod(n, big.NewInt(58), rest)
		digits = append(digits, alphabet[rest.Int64()])
	}
	did = "did:key:z" + text.String()
	return did, did + "#z" + text.String()
}

// didX509 is the did:x509 of whoever that CA certifies for Wabbit.
func didX509(ca *authority) string {
	sum := sha256.Sum256(ca.root().Raw)
	return "did:x509:0:sha256:" + base64.RawURLEncoding.EncodeToString(sum[:]) + "::subject:O:Wabbit::eku:1.3.6.1.5.5.7.3.3"
}
