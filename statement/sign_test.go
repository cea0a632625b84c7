package statement

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/scittd/scittd/internal/cose"
)

func template() Template {
	return Template{
		Issuer: vectorIssuer, Subject: vectorSubject,
		ContentType: "application/json", Payload: goodPayload,
	}
}

func mustSign(t rapid.TB, tm Template, key crypto.Signer) *Statement {
	t.Helper()
	b, err := Sign(tm, key)
	if err != nil {
		t.Fatalf("%+v: %v", tm, err)
	}
	s, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if !tm.Detached {
		err = s.Verify(key.Public())
	} else {
		err = s.VerifyDetached(key.Public(), tm.Payload)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSignWithEveryAlgorithm(t *testing.T) {
	ec := func(c elliptic.Curve) crypto.Signer {
		key, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	p256, p384, p521 := ec(elliptic.P256()), ec(elliptic.P384()), ec(elliptic.P521())
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		alg, want cose.Algorithm
		key       crypto.Signer
		again     bool // same bytes each time
	}{
		{0, cose.ES256, p256, true}, {cose.ESP256, cose.ESP256, p256, true},
		{0, cose.ES384, p384, true}, {cose.ESP384, cose.ESP384, p384, true},
		{0, cose.ES512, p521, true}, {cose.ESP512, cose.ESP512, p521, true},
		{0, cose.EdDSA, ed, true}, {cose.Ed25519, cose.Ed25519, ed, true},
		{0, cose.PS256, rsaKey, false}, {cose.PS384, cose.PS384, rsaKey, false}, {cose.PS512, cose.PS512, rsaKey, false},
	} {
		tm := template()
		tm.Alg = c.alg
		s := mustSign(t, tm, c.key)
		if s.Alg != c.want {
			t.Errorf("alg is %s, want %s", s.Alg, c.want)
		}
		kid, err := cose.Thumbprint(c.key.Public())
		if err != nil || !bytes.Equal(s.KeyID, kid[:]) {
			t.Errorf("%s: kid is %x, want the thumbprint %x", s.Alg, s.KeyID, kid)
		}
		if s2 := mustSign(t, tm, c.key); c.again && s2.ID() != s.ID() {
			t.Errorf("%s: signing twice makes two statements", s.Alg)
		}
	}
	if _, err := Sign(Template{Issuer: "i", Subject: "s", Payload: goodPayload, Alg: cose.ES384}, p256); !errors.Is(err, ErrAlgorithm) {
		t.Errorf("ES384 with P-256: %v", err)
	}
}

func TestSignLooksNeitherAtTheClockNorAtMapOrder(t *testing.T) {
	tm := template()
	tm.Claims = map[any]any{"svn": 7, int64(7): []byte("cti"), -70001: "x", "a": 1, "b": 2, "c": 3}
	first, err := Sign(tm, vectorKey)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if again, err := Sign(tm, vectorKey); err != nil || !bytes.Equal(again, first) {
			t.Fatalf("%x, %v; want %x", again, err, first)
		}
	}
	if s := mustSign(t, tm, vectorKey); !s.IssuedAt.IsZero() || !bytes.Equal(s.Canonical(), first) {
		t.Errorf("iat %v", s.IssuedAt)
	}
}

func TestSignCarriesCertificatesBothWays(t *testing.T) {
	for _, chain := range [][][]byte{{leaf}, {leaf, []byte("ca")}} {
		tm := template()
		tm.Chain = chain
		s := mustSign(t, tm, vectorKey)
		if !s.ChainProtected || s.Thumbprint != nil || s.KeyID != nil || len(s.Chain) != len(chain) {
			t.Errorf("protected: %+v", s)
		}
		tm.ChainUnprotected = true
		s = mustSign(t, tm, vectorKey)
		if s.ChainProtected || s.Thumbprint == nil || len(s.Chain) != len(chain) || !bytes.Equal(s.Thumbprint.Hash, leafHash()) {
			t.Errorf("unprotected: %+v", s)
		}
		tm.KeyID = []byte("kid")
		if s = mustSign(t, tm, vectorKey); string(s.KeyID) != "kid" {
			t.Errorf("kid is %q", s.KeyID)
		}
	}
}

func TestSignRefuses(t *testing.T) {
	digest := sha256.Sum256(goodPayload)
	for name, c := range map[string]struct {
		change func(*Template)
		says   string
	}{
		"no issuer":                      {func(t *Template) { t.Issuer = "" }, "iss (claim 1) is empty"},
		"no subject":                     {func(t *Template) { t.Subject = "" }, "sub (claim 2) is empty"},
		"no payload":                     {func(t *Template) { t.Payload = nil }, "no payload"},
		"nothing detached":               {func(t *Template) { t.Payload, t.Detached = nil, true }, "no payload"},
		"a payload that is no digest":    {func(t *Template) { t.HashAlg = -16 }, "no digest"},
		"an unknown hash":                {func(t *Template) { t.HashAlg = -14 }, "accepted are"},
		"a detached hash envelope":       {func(t *Template) { t.HashAlg, t.Payload, t.Detached = -16, digest[:], true }, "detached"},
		"a location of a payload":        {func(t *Template) { t.Location = "https://a" }, "needs a hash envelope"},
		"a broken media type":            {func(t *Template) { t.ContentType = "json" }, "no media type"},
		"a claim with a field":           {func(t *Template) { t.Claims = map[any]any{6: 1} }, "field of its own"},
		"a claim with another int's key": {func(t *Template) { t.Claims = map[any]any{uint8(1): "x"} }, "uint8"},
		"exp before nbf":                 {func(t *Template) { t.Expires, t.NotBefore = time.Unix(1, 0), time.Unix(2, 0) }, "before nbf"},
		"a date before 1970":             {func(t *Template) { t.IssuedAt = time.Unix(-1, 0) }, "1970"},
		"nine certificates":              {func(t *Template) { t.Chain = slices.Repeat([][]byte{leaf}, 9) }, "9 certificates"},
		"an empty certificate":           {func(t *Template) { t.Chain = [][]byte{{}} }, "is empty"},
		"a claim CBOR cannot hold":       {func(t *Template) { t.Claims = map[any]any{"f": func() {}} }, "unsupported type"},
		"an unknown algorithm":           {func(t *Template) { t.Alg = -47 }, "-47"},
	} {
		tm := template()
		c.change(&tm)
		if b, err := Sign(tm, vectorKey); err == nil || !strings.Contains(err.Error(), c.says) || b != nil {
			t.Errorf("%s: %v, want an error that says %q", name, err, c.says)
		}
	}
}

func TestWhatSignWritesParseReads(t *testing.T) {
	text := rapid.StringMatching(`[a-z0-9:/._äß語-]{1,60}`)
	when := rapid.Custom(func(t *rapid.T) time.Time {
		if rapid.Bool().Draw(t, "absent") {
			return time.Time{}
		}
		return time.Unix(rapid.Int64Range(0, maxTime).Draw(t, "seconds"), 0).UTC()
	})
	key := fixedKey("property")
	rapid.Check(t, func(t *rapid.T) {
		tm := Template{
			Issuer:      text.Draw(t, "iss"),
			Subject:     text.Draw(t, "sub"),
			ContentType: rapid.SampledFrom([]string{"", "application/json", "Text/Plain; charset=utf-8"}).Draw(t, "type"),
			Payload:     rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "payload"),
			IssuedAt:    when.Draw(t, "iat"), NotBefore: when.Draw(t, "nbf"), Expires: when.Draw(t, "exp"),
			Claims: map[any]any{},
		}
		if tm.Expires.Before(tm.NotBefore) {
			tm.Expires, tm.NotBefore = tm.NotBefore, tm.Expires
		}
		if tm.Expires.IsZero() {
			tm.NotBefore = time.Time{}
		}
		for _, name := range rapid.SliceOfDistinct(rapid.Int64Range(9, 1000), rapid.ID[int64]).Draw(t, "claims") {
			if len(tm.Claims) < MaxLabels-5 {
				tm.Claims[name] = text.Draw(t, "claim")
			}
		}
		if rapid.Bool().Draw(t, "named key") {
			tm.KeyID = rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(t, "kid")
		}
		if rapid.Bool().Draw(t, "certificates") {
			tm.Chain = rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 1, 200), 1, MaxChain).Draw(t, "chain")
			tm.ChainUnprotected = rapid.Bool().Draw(t, "unprotected")
		}
		switch rapid.IntRange(0, 2).Draw(t, "form") {
		case 1:
			tm.HashAlg = rapid.SampledFrom([]int64{-16, -43, -44}).Draw(t, "hash")
			tm.Payload = certHash(tm.HashAlg, tm.Payload)
			tm.Location = text.Draw(t, "location")
		case 2:
			tm.Detached = true
		}

		s := mustSign(t, tm, key)
		contentType, location := s.ContentType, ""
		if tm.HashAlg != 0 {
			contentType, location = s.Envelope.ContentType, s.Envelope.Location
			if s.Envelope.Alg != tm.HashAlg {
				t.Errorf("hash algorithm %d", s.Envelope.Alg)
			}
		} else if s.Envelope != nil {
			t.Error("an envelope nobody asked for")
		}
		for _, c := range []struct {
			name      string
			got, want any
		}{
			{"iss", s.Issuer, tm.Issuer}, {"sub", s.Subject, tm.Subject}, {"type", contentType, tm.ContentType}, {"location", location, tm.Location},
			{"iat", s.IssuedAt, tm.IssuedAt}, {"nbf", s.NotBefore, tm.NotBefore}, {"exp", s.Expires, tm.Expires},
			{"detached", s.Detached(), tm.Detached}, {"protected chain", s.ChainProtected, tm.Chain != nil && !tm.ChainUnprotected},
			{"x5t", s.Thumbprint != nil, tm.Chain != nil && tm.ChainUnprotected},
		} {
			if c.got != c.want {
				t.Errorf("%s: got %v, want %v", c.name, c.got, c.want)
			}
		}
		if !tm.Detached && !bytes.Equal(s.Payload, tm.Payload) {
			t.Errorf("payload %x, want %x", s.Payload, tm.Payload)
		}
		if tm.KeyID != nil && !bytes.Equal(s.KeyID, tm.KeyID) {
			t.Errorf("kid %x, want %x", s.KeyID, tm.KeyID)
		}
		if !slices.EqualFunc(s.Chain, tm.Chain, bytes.Equal) {
			t.Errorf("chain %x, want %x", s.Chain, tm.Chain)
		}

		canonical := s.Canonical()
		if len(tm.Chain) == 0 || !tm.ChainUnprotected {
			if again, err := Sign(tm, key); err != nil || !bytes.Equal(again, canonical) {
				t.Errorf("what Sign writes is not canonical: %x, %x", again, canonical)
			}
		}
		again, err := Parse(canonical)
		if err != nil || !bytes.Equal(again.Canonical(), canonical) || again.ID() != s.ID() {
			t.Errorf("canonical form is no fixed point: %v", err)
		}
		u := pairs{{99, text.Draw(t, "noise")}, {394, []any{[]byte("receipt")}}}
		noisy, err := Parse(withUnprotected(canonical, s, u))
		if err != nil || noisy.ID() != s.ID() || !bytes.Equal(noisy.Canonical(), canonical) {
			t.Errorf("unprotected content changed the id: %v", err)
		}
	})
}

// withUnprotected writes u between the protected header and the payload of a
// canonical message.
func withUnprotected(canonical []byte, s *Statement, u pairs) []byte {
	start := bytes.Index(canonical, s.Protected()) + len(s.Protected())
	return slices.Concat(canonical[:start], u.encode(), canonical[start+1:])
}

func TestTheClaimsOfATemplateAreLeftAlone(t *testing.T) {
	tm := template()
	tm.Claims = map[any]any{"a": 1}
	mustSign(t, tm, vectorKey)
	if !maps.Equal(tm.Claims, map[any]any{"a": 1}) {
		t.Errorf("claims became %v", tm.Claims)
	}
}
