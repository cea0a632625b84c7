package timestamp_test

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/digitorus/pkcs7"
	tsp "github.com/digitorus/timestamp"

	"github.com/scittd/scittd/internal/timestamp"
	"github.com/scittd/scittd/internal/timestamp/timestamptest"
)

var (
	seen    = time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	message = []byte("a signature")
)

func TestATokenSaysWhenTheMessageWasSeen(t *testing.T) {
	a := timestamptest.New(t, seen, nil)
	other := timestamptest.New(t, seen, nil).Trusted()
	pinned := timestamp.Authority{Chain: []*x509.Certificate{a.Leaf, a.Root}}
	for _, c := range []struct {
		name        string
		change      func(*tsp.Timestamp)
		authorities []timestamp.Authority
	}{
		{"certificate in the token", nil, []timestamp.Authority{a.Trusted()}},
		{"SHA-384", func(r *tsp.Timestamp) { r.HashAlgorithm = crypto.SHA384 }, []timestamp.Authority{a.Trusted()}},
		{"SHA-512", func(r *tsp.Timestamp) { r.HashAlgorithm = crypto.SHA512 }, []timestamp.Authority{a.Trusted()}},
		{"certificate of the authority alone", func(r *tsp.Timestamp) { r.AddTSACertificate = false }, []timestamp.Authority{pinned}},
		{"with neither accuracy nor nonce", func(r *tsp.Timestamp) { r.Accuracy, r.Nonce = 0, nil }, []timestamp.Authority{pinned}},
		{"ordered, qualified", func(r *tsp.Timestamp) { r.Ordering, r.Qualified = true, true }, []timestamp.Authority{pinned}},
		{"the second authority's", nil, []timestamp.Authority{other, a.Trusted()}},
		{"from the first moment on", nil, []timestamp.Authority{{Chain: []*x509.Certificate{a.Root}, From: seen}}},
		{"to the last moment", nil, []timestamp.Authority{{Chain: []*x509.Certificate{a.Root}, To: seen}}},
		{"trust in the leaf alone", nil, []timestamp.Authority{{Chain: []*x509.Certificate{a.Leaf}}}},
	} {
		token, err := timestamp.Token(a.Response(t, message, seen, c.change))
		if err != nil {
			t.Fatal(err)
		}
		if at, err := timestamp.Verify(token, message, c.authorities); err != nil || !at.Equal(seen) {
			t.Errorf("%s: %v, %v; want %v", c.name, at, err, seen)
		}
		if second, err := tsp.Parse(token); err != nil || !second.Time.Equal(seen) {
			t.Errorf("%s: to another reader %+v, %v", c.name, second, err)
		}
	}
}

func TestATokenThatProvesNothingIsRefused(t *testing.T) {
	a := timestamptest.New(t, seen, nil)
	trusted := []timestamp.Authority{a.Trusted()}
	token := a.Token(t, message, seen)
	response := a.Response(t, message, seen, nil)
	worse := func(change func(*x509.Certificate)) (*timestamptest.Authority, []timestamp.Authority) {
		a := timestamptest.New(t, seen, change)
		return a, []timestamp.Authority{a.Trusted()}
	}
	expired, trustExpired := worse(func(c *x509.Certificate) { c.NotAfter = seen.Add(-time.Second) })
	early, trustEarly := worse(func(c *x509.Certificate) { c.NotBefore = seen.Add(time.Second) })
	lax, trustLax := worse(func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{timestamptest.Usage(t, false, x509.ExtKeyUsageTimeStamping)}
	})
	both, trustBoth := worse(func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{timestamptest.Usage(t, true, x509.ExtKeyUsageTimeStamping, x509.ExtKeyUsageCodeSigning)}
	})
	coder, trustCoder := worse(func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{timestamptest.Usage(t, true, x509.ExtKeyUsageCodeSigning)}
	})
	unusable, trustUnusable := worse(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement })
	sibling := timestamptest.New(t, seen, nil)
	badSignature := bytes.Clone(token)
	badSignature[len(badSignature)-1] ^= 1

	for _, c := range []struct {
		name        string
		token       []byte
		authorities []timestamp.Authority
		want        string
	}{
		{"empty", nil, trusted, "not DER"},
		{"too large", make([]byte, timestamp.MaxSize+1), trusted, "more than 65536"},
		{"trailing bytes", append(bytes.Clone(token), 0), trusted, "trailing bytes"},
		{"cut", token[:len(token)-1], trusted, "not DER"},
		{"indefinite length", append([]byte{0x30, 0x80}, token[4:]...), trusted, "not DER"},
		{"a response", response, trusted, "not DER"},
		{"signature changed", badSignature, trusted, "signature does not verify"},
		{"no authority", token, nil, "no authority is listed"},
		{"authority without certificates", token, []timestamp.Authority{{}}, "has no certificate"},
		{"another authority", token, []timestamp.Authority{timestamptest.New(t, seen, nil).Trusted()}, "does not lead to the authority"},
		{"another leaf of it", token, []timestamp.Authority{{Chain: []*x509.Certificate{sibling.Leaf, a.Root}}}, "not signed with the certificate of the authority"},
		{"another authority under its root", token, []timestamp.Authority{{Chain: []*x509.Certificate{sibling.Root, a.Root}}}, "not by way of the authority"},
		{"before it was trusted", token, []timestamp.Authority{{Chain: trusted[0].Chain, From: seen.Add(1)}}, "not trusted at 2026-05-04T03:02:01Z"},
		{"after it was trusted", token, []timestamp.Authority{{Chain: trusted[0].Chain, To: seen.Add(-1)}}, "not trusted at"},
		{"certificate expired", expired.Token(t, message, seen), trustExpired, "was valid from"},
		{"certificate not yet valid", early.Token(t, message, seen), trustEarly, "was valid from"},
		{"usage not critical", lax.Token(t, message, seen), trustLax, "not critical"},
		{"another usage beside it", both.Token(t, message, seen), trustBoth, "not for time stamping alone"},
		{"another usage", coder.Token(t, message, seen), trustCoder, "not for time stamping alone"},
		{"key usage", unusable.Token(t, message, seen), trustUnusable, "does not allow signatures"},
		{"no certificate anywhere", sign(t, a, info(message), signing{bare: true}), trusted, "neither in it nor the authority's"},
		{"no signed name of the certificate", sign(t, a, info(message), signing{unnamed: true}), trusted, "does not name the certificate"},
		{"name of another certificate", sign(t, a, info(message), signing{named: sibling.Leaf}), trusted, "neither in it nor the authority's"},
		{"key of another certificate", sign(t, a, info(message), signing{key: sibling.Key}), trusted, "signature does not verify"},
		{"two signatures", sign(t, a, info(message), signing{twice: true}), trusted, "2 signatures"},
		{"no signature", sign(t, a, info(message), signing{none: true}), trusted, "0 signatures"},
		{"no TSTInfo", sign(t, a, info(message), signing{kind: pkcs7.OIDData}), trusted, "is no TSTInfo"},
		{"SHA-1 digest", sign(t, a, info(message), signing{digest: pkcs7.OIDDigestAlgorithmSHA1}), trusted, "want SHA-256"},
		{"SHA-1 imprint", sign(t, a, info(message, func(i *tstInfo) {
			i.Imprint.Algorithm.Algorithm, i.Imprint.Sum = pkcs7.OIDDigestAlgorithmSHA1, make([]byte, 20)
		}), signing{}), trusted, "want SHA-256"},
		{"version 2", sign(t, a, info(message, func(i *tstInfo) { i.Version = 2 }), signing{}), trusted, "version 2"},
		{"the zero time, which means now to some", sign(t, a, info(message, func(i *tstInfo) { i.Time = time.Time{} }), signing{}), trusted, "no time"},
		{"critical extension", sign(t, a, info(message, func(i *tstInfo) {
			i.Extensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
		}), signing{}), trusted, "critical extension 1.2.3"},
		{"cut imprint", sign(t, a, info(message, func(i *tstInfo) { i.Imprint.Sum = i.Imprint.Sum[:31] }), signing{}), trusted, "for other bytes"},
		{"not a TSTInfo inside", sign(t, a, []byte{0x30, 0}, signing{}), trusted, "TSTInfo: "},
		{"many certificates", sign(t, a, info(message), signing{more: 16}), trusted, "more than 16 certificates"},
	} {
		at, err := timestamp.Verify(c.token, message, c.authorities)
		if err == nil || !strings.HasPrefix(err.Error(), "time-stamp token: ") || !strings.Contains(err.Error(), c.want) || !at.IsZero() {
			t.Errorf("%s: %v, %v; want %q", c.name, at, err, c.want)
		}
	}
	if _, err := timestamp.Verify(token, []byte("another signature"), trusted); err == nil || !strings.Contains(err.Error(), "for other bytes") {
		t.Errorf("another message: %v", err)
	}
	if _, err := timestamp.Verify(sign(t, a, info(message), signing{more: 15}), message, trusted); err != nil {
		t.Errorf("sixteen certificates: %v", err)
	}
}

func TestATokenIsTakenOutOfAGrantedResponseOnly(t *testing.T) {
	a := timestamptest.New(t, seen, nil)
	response := a.Response(t, message, seen, nil)
	rejected, err := tsp.CreateErrorResponse(tsp.Rejection, tsp.BadRequest)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name     string
		response []byte
		want     string
	}{
		{"granted", response, ""},
		{"rejected", rejected, "status 2"},
		{"without a token", []byte{0x30, 5, 0x30, 3, 2, 1, 0}, "no token"},
		{"trailing bytes", append(bytes.Clone(response), 0), "trailing bytes"},
		{"empty", nil, "not DER"},
		{"a token", a.Token(t, message, seen), "not DER"},
		{"too large", make([]byte, timestamp.MaxSize+1), "more than 65536"},
	} {
		token, err := timestamp.Token(c.response)
		if c.want == "" && (err != nil || len(token) == 0) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %d bytes, %v; want %q", c.name, len(token), err, c.want)
		}
	}
}

// Sigstore's own example of a signature by a bare key that a token gives a time:
// the token carries no certificate, and the authority is listed with its leaf.
func TestATokenOfASigstoreBundleIsVerified(t *testing.T) {
	var bundle struct {
		VerificationMaterial struct {
			TimestampVerificationData struct {
				RFC3161Timestamps []struct {
					SignedTimestamp []byte `json:"signedTimestamp"`
				} `json:"rfc3161Timestamps"`
			} `json:"timestampVerificationData"`
		} `json:"verificationMaterial"`
		MessageSignature struct {
			Signature []byte `json:"signature"`
		} `json:"messageSignature"`
	}
	var root struct {
		TimestampAuthorities []struct {
			CertChain struct {
				Certificates []struct {
					RawBytes []byte `json:"rawBytes"`
				} `json:"certificates"`
			} `json:"certChain"`
			ValidFor struct{ Start, End time.Time } `json:"validFor"`
		} `json:"timestampAuthorities"`
	}
	vectors := filepath.Join("..", "..", "testdata", "sigstore")
	readJSON(t, filepath.Join(vectors, "public-key-validity.sigstore.json"), &bundle)
	readJSON(t, filepath.Join(vectors, "public-key-validity.trusted_root.json"), &root)
	listed := root.TimestampAuthorities[0]
	a := timestamp.Authority{From: listed.ValidFor.Start, To: listed.ValidFor.End}
	for _, c := range listed.CertChain.Certificates {
		parsed, err := x509.ParseCertificate(c.RawBytes)
		if err != nil {
			t.Fatal(err)
		}
		a.Chain = append(a.Chain, parsed)
	}
	token, err := timestamp.Token(bundle.VerificationMaterial.TimestampVerificationData.RFC3161Timestamps[0].SignedTimestamp)
	if err != nil {
		t.Fatal(err)
	}
	want := time.Date(2026, 6, 4, 17, 43, 29, 0, time.UTC)
	if at, err := timestamp.Verify(token, bundle.MessageSignature.Signature, []timestamp.Authority{a}); err != nil || !at.Equal(want) {
		t.Errorf("%v, %v; want %v", at, err, want)
	}
	a.To = want.Add(-time.Second)
	if _, err := timestamp.Verify(token, bundle.MessageSignature.Signature, []timestamp.Authority{a}); err == nil {
		t.Error("accepted after the authority's time")
	}
}

// A certificate that was slipped into a token, where anybody can, once passed
// for its signer's (GHSA-xm5m-wgh2-rrg3).
func TestACertificateSlippedIntoATokenSignsNothing(t *testing.T) {
	response, err := os.ReadFile(filepath.Join("testdata", "response-injected-certs.tsr"))
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := tsp.ParseResponse(response)
	if err != nil {
		t.Fatal(err)
	}
	token, err := timestamp.Token(response)
	if err != nil {
		t.Fatal(err)
	}
	verdicts := map[string]string{}
	for _, c := range parsed.Certificates {
		_, err := timestamp.Verify(token, []byte("hello"), []timestamp.Authority{{Chain: []*x509.Certificate{c}}})
		verdicts[c.Subject.CommonName] = "accepted"
		if err != nil {
			verdicts[c.Subject.CommonName] = err.Error()
		}
	}
	if verdicts["Spoofed TSA"] == "accepted" || verdicts["Test TSA Timestamping"] != "accepted" {
		t.Errorf("%q", verdicts)
	}
}

func FuzzVerify(f *testing.F) {
	a := timestamptest.New(f, seen, nil)
	token := a.Token(f, message, seen)
	f.Add(token)
	for i := 0; i < len(token); i += 13 {
		broken := bytes.Clone(token)
		broken[i] ^= 0x41
		f.Add(broken)
		f.Add(token[:i])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if inner, err := timestamp.Token(b); err == nil {
			b = inner
		}
		at, err := timestamp.Verify(b, message, []timestamp.Authority{a.Trusted()})
		if err != nil {
			return
		}
		// Much of a token is nobody's word, so it may change; the time may not.
		if !at.Equal(seen) {
			t.Errorf("accepted at %v, signed at %v", at, seen)
		}
	})
}

func readJSON(t *testing.T, name string, into any) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(b, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}
