package timestamp_test

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"
	"time"

	"github.com/digitorus/pkcs7"

	"github.com/scittd/scittd/internal/timestamp/timestamptest"
)

type tstInfo struct {
	Version int
	Policy  asn1.ObjectIdentifier
	Imprint struct {
		Algorithm pkix.AlgorithmIdentifier
		Sum       []byte
	}
	Serial     *big.Int
	Time       time.Time        `asn1:"generalized"`
	Extensions []pkix.Extension `asn1:"optional,tag:1,omitempty"`
}

// info is a TSTInfo as it should be, changed.
func info(message []byte, change ...func(*tstInfo)) []byte {
	i := tstInfo{Version: 1, Policy: asn1.ObjectIdentifier{1, 2, 3}, Serial: big.NewInt(1), Time: seen}
	sum := sha256.Sum256(message)
	i.Imprint.Algorithm.Algorithm, i.Imprint.Sum = pkcs7.OIDDigestAlgorithmSHA256, sum[:]
	for _, c := range change {
		c(&i)
	}
	der, err := asn1.Marshal(i)
	if err != nil {
		panic(err) // every field is written above
	}
	return der
}

// signing is how a token differs from what an authority makes.
type signing struct {
	kind    asn1.ObjectIdentifier // of what is signed
	digest  asn1.ObjectIdentifier
	key     crypto.Signer
	named   *x509.Certificate // by the signed attribute
	unnamed bool              // without that attribute
	bare    bool              // without certificates
	twice   bool              // signed
	none    bool              // not signed
	more    int               // certificates that have nothing to do with it
}

// sign makes a token that a's library would not make.
func sign(t *testing.T, a *timestamptest.Authority, content []byte, how signing) []byte {
	t.Helper()
	data, err := pkcs7.NewSignedData(content)
	if err != nil {
		t.Fatal(err)
	}
	if how.kind == nil {
		how.kind = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 1, 4}
	}
	if how.digest == nil {
		how.digest = pkcs7.OIDDigestAlgorithmSHA256
	}
	if how.key == nil {
		how.key = a.Key
	}
	if how.named == nil {
		how.named = a.Leaf
	}
	data.SetContentType(how.kind)
	data.SetDigestAlgorithm(how.digest)
	config := pkcs7.SignerInfoConfig{SkipCertificates: how.bare}
	if !how.unnamed {
		sum := sha256.Sum256(how.named.Raw)
		var name struct{ Certs []struct{ Hash []byte } }
		name.Certs = []struct{ Hash []byte }{{sum[:]}}
		config.ExtraSignedAttributes = []pkcs7.Attribute{{Type: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 47}, Value: name}}
	}
	times := 1
	if how.twice {
		times = 2
	}
	if how.none {
		times = 0
	}
	for range times {
		if err := data.AddSigner(a.Leaf, how.key, config); err != nil {
			t.Fatal(err)
		}
	}
	for range how.more {
		data.AddCertificate(a.Root)
	}
	token, err := data.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return token
}
