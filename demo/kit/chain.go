package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// chain makes a root, an intermediate and a code signing leaf whose SAN URI is
// iss: the leaf may speak as that issuer and as no other.
func chain(dir, iss string) error {
	identity, err := url.Parse(iss)
	if err != nil {
		return err
	}
	root, err := newCA("Demo Root", nil)
	if err != nil {
		return err
	}
	intermediate, err := newCA("Demo Issuing CA", root)
	if err != nil {
		return err
	}
	leaf, err := issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: "Demo Release Signing"},
		URIs:        []*url.URL{identity},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}, intermediate)
	if err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(leaf.key)
	if err != nil {
		return err
	}
	for name, block := range map[string][]*pem.Block{
		"root.pem":  {leaf.block(root.cert)},
		"chain.pem": {leaf.block(leaf.cert), leaf.block(intermediate.cert)},
		"leaf.pem":  {{Type: "PRIVATE KEY", Bytes: key}},
	} {
		var text []byte
		for _, b := range block {
			text = append(text, pem.EncodeToMemory(b)...)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

type identity struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func (identity) block(c *x509.Certificate) *pem.Block {
	return &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}
}

func newCA(name string, parent *identity) (*identity, error) {
	return issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}, parent)
}

// issue completes and signs a certificate; without a parent it signs itself.
func issue(c *x509.Certificate, parent *identity) (*identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if c.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		return nil, err
	}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	signer := &identity{c, key}
	if parent != nil {
		signer = parent
	}
	der, err := x509.CreateCertificate(rand.Reader, c, signer.cert, key.Public(), signer.key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &identity{cert, key}, err
}
