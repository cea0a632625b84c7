package cose

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"
)

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func certificate(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Unix(4e9, 0)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return block("CERTIFICATE", der)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestKeysSurvivePEM(t *testing.T) {
	for kind, key := range keys() {
		private, err := MarshalPrivatePEM(key)
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParsePrivatePEM(private)
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		if !equal(back.Public(), key.Public()) {
			t.Errorf("%s: another private key came back", kind)
		}
		public, err := MarshalPublicPEM(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		binary, err := Key{ID: []byte("kid"), Public: key.Public()}.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		for form, b := range map[string][]byte{
			"PKIX":        public,
			"text around": []byte("publisher's key\n" + string(public) + "\nthe end\n"),
			"certificate": certificate(t, key),
			"chain":       append(certificate(t, key), certificate(t, keys()["P-256"])...),
			"COSE_Key":    binary,
		} {
			k, err := ParsePublic(b)
			if err != nil {
				t.Errorf("%s from %s: %v", kind, form, err)
			} else if !equal(k.Public, key.Public()) || (string(k.ID) == "kid") != (form == "COSE_Key") {
				t.Errorf("%s from %s: %v", kind, form, k)
			}
		}
	}
}

func TestOldFormsOfPrivateKeysAreRead(t *testing.T) {
	ec := keys()["P-256"].(*ecdsa.PrivateKey)
	sec1 := block("EC PRIVATE KEY", must(x509.MarshalECPrivateKey(ec)))
	parameters := block("EC PARAMETERS", []byte{6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7})
	for name, c := range map[string]struct {
		b   []byte
		key crypto.Signer
	}{
		"SEC 1":            {sec1, ec},
		"openssl ecparam":  {append(parameters, sec1...), ec},
		"PKCS #1":          {block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(keys()["RSA"].(*rsa.PrivateKey))), keys()["RSA"]},
		"PKCS #8 with CRs": {bytes.ReplaceAll(must(MarshalPrivatePEM(ec)), []byte("\n"), []byte("\r\n")), ec},
	} {
		k, err := ParsePrivatePEM(c.b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !equal(k.Public(), c.key.Public()) {
			t.Errorf("%s: another key came back", name)
		}
	}
}

func TestPrivateKeyFilesThatCannotServeAreRefused(t *testing.T) {
	good := must(MarshalPrivatePEM(keys()["P-256"]))
	p224 := must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	t.Setenv("GODEBUG", "rsa1024min=0")
	small := must(rsa.GenerateKey(rand.Reader, 1024))
	encrypted := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"DEK-Info": "AES-128-CBC,00"}, Bytes: []byte{1}})
	for name, c := range map[string]struct {
		b    []byte
		says string
	}{
		"nothing":       {nil, "not a PEM private key"},
		"DER":           {must(x509.MarshalPKCS8PrivateKey(keys()["P-256"])), "not a PEM private key"},
		"public key":    {must(MarshalPublicPEM(keys()["P-256"].Public())), "not a private key"},
		"two keys":      {append(bytes.Clone(good), good...), "second block"},
		"rubbish":       {block("PRIVATE KEY", []byte("rubbish")), "unacceptable key"},
		"P-224":         {must(MarshalPrivatePEM(p224)), "P-256"},
		"RSA 1024":      {must(MarshalPrivatePEM(small)), "1024 bits"},
		"X25519":        {block("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(must(ecdh.X25519().GenerateKey(rand.Reader))))), "cannot sign"},
		"encrypted":     {block("ENCRYPTED PRIVATE KEY", []byte{1}), "decrypt it first"},
		"old encrypted": {encrypted, "decrypt it first"},
	} {
		if _, err := ParsePrivatePEM(c.b); !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want ErrKey that says %q", name, err, c.says)
		}
	}
}

func TestPublicKeyFilesThatCannotServeAreRefused(t *testing.T) {
	good := must(MarshalPublicPEM(keys()["P-256"].Public()))
	p224 := must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	for name, c := range map[string]struct {
		b    []byte
		says string
	}{
		"nothing":                {nil, "COSE_Key"},
		"text":                   {[]byte("ssh-ed25519 AAAA"), "COSE_Key"},
		"broken PEM":             {good[:40], "broken PEM"},
		"two keys":               {append(bytes.Clone(good), good...), "second block"},
		"key, then certificate":  {append(bytes.Clone(good), certificate(t, keys()["P-256"])...), "second block"},
		"private key":            {must(MarshalPrivatePEM(keys()["P-256"])), "private key"},
		"certificate request":    {block("CERTIFICATE REQUEST", []byte{1}), "neither"},
		"rubbish":                {block("PUBLIC KEY", []byte("rubbish")), "unacceptable key"},
		"rubbish in certificate": {block("CERTIFICATE", []byte("rubbish")), "unacceptable key"},
		"P-224":                  {certificate(t, p224), "P-256"},
	} {
		if _, err := ParsePublic(c.b); !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want ErrKey that says %q", name, err, c.says)
		}
	}
	if _, err := MarshalPublicPEM(p224.Public()); !errors.Is(err, ErrKey) {
		t.Errorf("write P-224: %v, want ErrKey", err)
	}
	if _, err := MarshalPrivatePEM(hardware{t: t, key: keys()["P-256"]}); !errors.Is(err, ErrKey) {
		t.Errorf("write a hardware key: %v, want ErrKey", err)
	}
}
