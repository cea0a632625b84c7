package envelope_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/internal/envelope"
	. "github.com/scittd/scittd/internal/envelope/envelopetest"
	"github.com/scittd/scittd/internal/timestamp/timestamptest"
	"github.com/scittd/scittd/statement"
)

var (
	at    = time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	image = statement.SHA256([]byte("an image"))
	other = statement.SHA256([]byte("another image"))
	chain = [][]byte{[]byte("leaf"), []byte("intermediate")}
)

func digestOf(content string) statement.Digest { return statement.SHA256([]byte(content)) }

func newKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// hashed makes a header that of a hash envelope.
func hashed(header []Pair, alg int) []Pair {
	header[2] = Label(258, alg)
	return header
}

func parse(t testing.TB, name string, b []byte) *envelope.Envelope {
	t.Helper()
	e, err := envelope.Parse(b)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return e
}

func TestEveryKindSaysWhoSignedWhat(t *testing.T) {
	key := newKey(t, elliptic.P256())
	tsa := timestamptest.New(t, at, nil)
	seen := func(sig []byte) []byte { return tsa.Response(t, sig, at, nil) }
	bare, certified := Signer{Key: key, KeyID: "k"}, Signer{Key: key, Chain: chain}
	lone := Signer{Key: key, Chain: chain[:1]}
	for _, c := range []struct {
		name   string
		b      []byte
		kind   envelope.Kind
		keyID  string
		chain  [][]byte
		tokens int
		about  []statement.Digest
	}{
		{"DSSE by key", DSSE(t, InToto(t, image), bare), envelope.DSSE, "k", nil, 0, []statement.Digest{image}},
		{"DSSE by certificate", DSSE(t, InToto(t, image), certified), envelope.DSSE, "", chain, 0, []statement.Digest{image}},
		{"DSSE about nothing", DSSE(t, InToto(t), bare), envelope.DSSE, "k", nil, 0, nil},
		{"DSSE with space around", append([]byte(" \n"), append(DSSE(t, InToto(t, image), bare), '\n')...), envelope.DSSE, "k", nil, 0, []statement.Digest{image}},
		{"bundle by key", Bundle(t, InToto(t, image), bare, nil), envelope.Sigstore, "k", nil, 0, []statement.Digest{image}},
		{"bundle by certificate", Bundle(t, InToto(t, image), lone, seen), envelope.Sigstore, "", chain[:1], 1, []statement.Digest{image}},
		{"bundle by chain", Bundle(t, InToto(t, image), certified, seen), envelope.Sigstore, "", chain, 1, []statement.Digest{image}},
		{"bundle of a message", MessageBundle(t, []byte("an image"), lone, nil), envelope.Sigstore, "", chain[:1], 0, []statement.Digest{image}},
		{"Notary", Notary(t, NotaryPayload(t, image), certified, NotaryHeader(at, time.Time{})), envelope.Notary, "", chain, 0, []statement.Digest{image}},
		{"Notary by digest", Notary(t, image.Bytes(), certified, hashed(NotaryHeader(at, time.Time{}), -16)), envelope.Notary, "", chain, 0, []statement.Digest{image}},
		{"Notary with a time stamp", Notary(t, NotaryPayload(t, image), certified, NotaryHeader(at, at.Add(time.Hour)),
			Label("io.cncf.notary.timestampSignature", []byte("token")), Label("io.cncf.notary.signingAgent", "notation/1.0.0")),
			envelope.Notary, "", chain, 1, []statement.Digest{image}},
	} {
		e := parse(t, c.name, c.b)
		s := e.Signatures[0]
		if e.Kind != c.kind || s.KeyID != c.keyID || !slices.EqualFunc(s.Chain, c.chain, bytes.Equal) || len(s.Timestamps) != c.tokens || !slices.Equal(e.Artifacts, c.about) {
			t.Errorf("%s: %s, key ID %q, chain %q, %d time stamps, about %v", c.name, e.Kind, s.KeyID, s.Chain, len(s.Timestamps), e.Artifacts)
		}
		if err := s.Verify(key.Public()); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if err := s.Verify(newKey(t, elliptic.P256()).Public()); !errors.Is(err, cose.ErrSignature) {
			t.Errorf("%s, another key: %v", c.name, err)
		}
		if err := s.Verify(newKey(t, elliptic.P224()).Public()); !errors.Is(err, cose.ErrKey) {
			t.Errorf("%s, a key nobody should use: %v", c.name, err)
		}
	}
}

func TestEveryKindOfKeySignsAnAttestation(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]crypto.Signer{
		"P-256": newKey(t, elliptic.P256()), "P-384": newKey(t, elliptic.P384()), "P-521": newKey(t, elliptic.P521()), "Ed25519": ed, "RSA": rsaKey,
	}
	for name, key := range keys {
		e := parse(t, name, DSSE(t, InToto(t, image), Signer{Key: key}))
		for by, pub := range keys {
			if err := e.Signatures[0].Verify(pub.Public()); (err == nil) != (by == name) {
				t.Errorf("signed by %s, verified by %s: %v", name, by, err)
			}
		}
	}
	// A PSS signature is as good as one by PKCS #1 v1.5.
	pss := signerFunc{rsaKey, func(digest []byte) ([]byte, error) {
		return rsa.SignPSS(rand.Reader, rsaKey, crypto.SHA256, digest, nil)
	}}
	if err := parse(t, "PSS", DSSE(t, InToto(t, image), Signer{Key: pss})).Signatures[0].Verify(rsaKey.Public()); err != nil {
		t.Errorf("PSS: %v", err)
	}
}

func TestADigestIsVerifiedOnlyWhereItIsWhatWasSigned(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"Ed25519": ed, "P-384": newKey(t, elliptic.P384())} {
		e := parse(t, name, MessageBundle(t, []byte("artifact"), Signer{Key: key}, nil))
		if err := e.Signatures[0].Verify(key.Public()); !errors.Is(err, cose.ErrAlgorithm) {
			t.Errorf("%s with SHA-256: %v", name, err)
		}
	}
}

type signerFunc struct {
	crypto.Signer
	sign func([]byte) ([]byte, error)
}

func (s signerFunc) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	return s.sign(digest)
}

func TestEverySignatureOfAnAttestationCanBeVerified(t *testing.T) {
	a, b := newKey(t, elliptic.P256()), newKey(t, elliptic.P384())
	e := parse(t, "two", DSSE(t, InToto(t, image, other), Signer{Key: a, KeyID: "a"}, Signer{Key: b, KeyID: "b"}))
	if len(e.Signatures) != 2 || e.Signatures[1].KeyID != "b" || len(e.Artifacts) != 2 {
		t.Fatalf("%+v", e)
	}
	if err := errors.Join(e.Signatures[0].Verify(a.Public()), e.Signatures[1].Verify(b.Public())); err != nil {
		t.Error(err)
	}
}

func TestAnExpiryIsRead(t *testing.T) {
	s := Signer{Key: newKey(t, elliptic.P256()), Chain: chain}
	for _, expires := range []time.Time{{}, at.Add(time.Hour)} {
		e := parse(t, "expiry", Notary(t, NotaryPayload(t, image), s, NotaryHeader(at, expires)))
		if !e.Expires.Equal(expires) {
			t.Errorf("%v, want %v", e.Expires, expires)
		}
	}
	authority := NotaryHeader(at, time.Time{})
	authority[1].Value = []string{"io.cncf.notary.signingScheme", "io.cncf.notary.authenticSigningTime"}
	authority[3].Label, authority[4].Value = "io.cncf.notary.authenticSigningTime", "notary.x509.signingAuthority"
	e := parse(t, "signing authority", Notary(t, NotaryPayload(t, image), s, authority, Label("io.cncf.notary.timestampSignature", []byte("token"))))
	if len(e.Signatures[0].Timestamps) != 0 {
		t.Error("a time stamp counts under the scheme of signing authorities")
	}
}

func TestWhatSigstoreSignedIsVerified(t *testing.T) {
	vectors := filepath.Join("..", "..", "testdata", "sigstore")
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(vectors, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, c := range []struct {
		name      string
		artifacts int
		chain     int
	}{{"othername", 1, 1}, {"dsse", 1, 3}, {"provenance", 1, 1}, {"public-key-validity", 1, 0}} {
		e := parse(t, c.name, read(c.name+".sigstore.json"))
		s := e.Signatures[0]
		if e.Kind != envelope.Sigstore || len(e.Artifacts) != c.artifacts || len(s.Chain) != c.chain {
			t.Errorf("%s: %s, %v, %d certificates", c.name, e.Kind, e.Artifacts, len(s.Chain))
		}
		var pub crypto.PublicKey
		if c.chain > 0 {
			leaf, err := x509.ParseCertificate(s.Chain[0])
			if err != nil {
				t.Fatal(err)
			}
			pub = leaf.PublicKey
		} else {
			k, err := cose.ParsePublic(read(c.name + ".pem"))
			if err != nil {
				t.Fatal(err)
			}
			pub = k.Public
		}
		if err := s.Verify(pub); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := envelope.Parse(read("dsse-2sigs.sigstore.json")); err == nil || !strings.Contains(err.Error(), "2 signatures; a bundle has one") {
		t.Errorf("a bundle with two signatures: %v", err)
	}
}

func TestTheKindIsInTheMediaType(t *testing.T) {
	for mediaType, want := range map[string]envelope.Kind{
		"application/vnd.dsse.envelope.v1+json":         envelope.DSSE,
		"application/vnd.in-toto+json":                  envelope.DSSE,
		"application/vnd.in-toto.provenance+dsse":       envelope.DSSE,
		"application/vnd.dev.sigstore.bundle.v0.3+json": envelope.Sigstore,
		"application/vnd.dev.sigstore.bundle+json":      envelope.Sigstore,
		"application/cose":                              envelope.Notary,
		"application/spdx+json":                         "",
		"application/vnd.in-toto.bundle":                "",
	} {
		if got := envelope.KindOf(mediaType); got != want {
			t.Errorf("%s: %q, want %q", mediaType, got, want)
		}
	}
}
