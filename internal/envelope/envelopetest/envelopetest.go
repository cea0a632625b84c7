// Package envelopetest makes signed envelopes for tests, as the tools do that
// people sign with.
package envelopetest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"testing"
	"time"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/internal/detcbor"
	"github.com/scittd/scittd/statement"
)

// Signer is who signs an envelope.
type Signer struct {
	Key   crypto.Signer
	KeyID string   // hint; may be ""
	Chain [][]byte // DER, leaf first; nil: a bare key
}

// InToto is an in-toto Statement about images, given as sha256 digests.
func InToto(t testing.TB, images ...statement.Digest) []byte {
	t.Helper()
	subjects := []any{}
	for i, d := range images {
		subjects = append(subjects, map[string]any{"name": fmt.Sprint("image ", i), "digest": map[string]string{d.Algorithm(): hex.EncodeToString(d.Bytes())}})
	}
	return marshal(t, map[string]any{
		"_type": "https://in-toto.io/Statement/v1", "subject": subjects,
		"predicateType": "https://slsa.dev/provenance/v1", "predicate": map[string]any{"buildType": "test"},
	})
}

// Sum is the signature of key over message, as DSSE and Sigstore make it.
func (s Signer) Sum(t testing.TB, message []byte) []byte {
	t.Helper()
	h := crypto.SHA256
	switch pub := s.Key.Public().(type) {
	case ed25519.PublicKey:
		h = 0
	case *ecdsa.PublicKey:
		switch bits := pub.Curve.Params().BitSize; {
		case bits > 384:
			h = crypto.SHA512
		case bits > 256:
			h = crypto.SHA384
		}
	case *rsa.PublicKey:
	default:
		t.Fatalf("key %T", pub)
	}
	if h != 0 {
		d := h.New()
		d.Write(message)
		message = d.Sum(nil)
	}
	sig, err := s.Key.Sign(rand.Reader, message, h)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

// DSSE is payload in a DSSE envelope, signed by all signers.
func DSSE(t testing.TB, payload []byte, signers ...Signer) []byte {
	t.Helper()
	e, _ := dsse(t, payload, signers...)
	return marshal(t, e)
}

func dsse(t testing.TB, payload []byte, signers ...Signer) (envelope map[string]any, first []byte) {
	t.Helper()
	const kind = "application/vnd.in-toto+json"
	signatures := []any{}
	for _, s := range signers {
		sig := s.Sum(t, fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(kind), kind, len(payload), payload))
		if first == nil {
			first = sig
		}
		one := map[string]any{"keyid": s.KeyID, "sig": sig}
		var chain []byte
		for _, der := range s.Chain {
			chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		}
		if chain != nil {
			one["cert"] = string(chain)
		}
		signatures = append(signatures, one)
	}
	return map[string]any{"payloadType": kind, "payload": payload, "signatures": signatures}, first
}

// Bundle is a Sigstore bundle, v0.3, around a DSSE envelope. seen, which may be
// nil, answers with the TimeStampResp for the signature.
func Bundle(t testing.TB, payload []byte, s Signer, seen func(signature []byte) []byte) []byte {
	t.Helper()
	bare := s
	bare.Chain = nil
	e, sig := dsse(t, payload, bare)
	return marshal(t, map[string]any{
		"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json", "dsseEnvelope": e,
		"verificationMaterial": material(s, sig, seen),
	})
}

// MessageBundle is a Sigstore bundle, v0.3, around the signature of artifact.
func MessageBundle(t testing.TB, artifact []byte, s Signer, seen func(signature []byte) []byte) []byte {
	t.Helper()
	sig := s.Sum(t, artifact)
	return marshal(t, map[string]any{
		"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json", "verificationMaterial": material(s, sig, seen),
		"messageSignature": map[string]any{
			"messageDigest": map[string]any{"algorithm": "SHA2_256", "digest": statement.SHA256(artifact).Bytes()}, "signature": sig,
		},
	})
}

func material(s Signer, sig []byte, seen func([]byte) []byte) map[string]any {
	m := map[string]any{"tlogEntries": []any{}}
	switch {
	case s.Chain == nil:
		m["publicKey"] = map[string]any{"hint": s.KeyID}
	case len(s.Chain) == 1:
		m["certificate"] = map[string]any{"rawBytes": s.Chain[0]}
	default:
		var all []any
		for _, der := range s.Chain {
			all = append(all, map[string]any{"rawBytes": der})
		}
		m["x509CertificateChain"] = map[string]any{"certificates": all}
	}
	if seen != nil {
		m["timestampVerificationData"] = map[string]any{"rfc3161Timestamps": []any{map[string]any{"signedTimestamp": seen(sig)}}}
	}
	return m
}

// Pair is one label of a COSE header and its value: an int, a string, bytes, a
// time, or a list of strings or bytes.
type Pair struct{ Label, Value any }

// Label is a Pair.
func Label(label, value any) Pair { return Pair{label, value} }

// NotaryHeader is the protected header that notation writes for ES256.
func NotaryHeader(at, expires time.Time) []Pair {
	h := []Pair{
		{1, int(cose.ES256)}, {2, []string{"io.cncf.notary.signingScheme"}}, {3, "application/vnd.cncf.notary.payload.v1+json"},
		{"io.cncf.notary.signingTime", at}, {"io.cncf.notary.signingScheme", "notary.x509"},
	}
	if !expires.IsZero() {
		h[1].Value = []string{"io.cncf.notary.signingScheme", "io.cncf.notary.expiry"}
		h = append(h, Pair{"io.cncf.notary.expiry", expires})
	}
	return h
}

// NotaryPayload describes the artifact that a Notary Project signature is about.
func NotaryPayload(t testing.TB, artifact statement.Digest) []byte {
	t.Helper()
	return marshal(t, map[string]any{"targetArtifact": map[string]any{
		"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": artifact, "size": 16724,
	}})
}

// Notary is a Notary Project signature by s, whose key is on P-256.
func Notary(t testing.TB, payload []byte, s Signer, protected []Pair, unprotected ...Pair) []byte {
	t.Helper()
	header := Map(t, protected)
	sig, err := cose.Sign(cose.ES256, s.Key, header, payload)
	if err != nil {
		t.Fatal(err)
	}
	if s.Chain != nil {
		unprotected = append([]Pair{{33, s.Chain}}, unprotected...)
	}
	b := []byte{0xd2, 0x84}
	b = detcbor.AppendBytes(b, header)
	b = append(b, Map(t, unprotected)...)
	b = detcbor.AppendBytes(b, payload)
	return detcbor.AppendBytes(b, sig)
}

// Map writes pairs in the order given.
func Map(t testing.TB, pairs []Pair) []byte {
	t.Helper()
	b := detcbor.AppendHead(nil, detcbor.KindMap, uint64(len(pairs)))
	for _, p := range pairs {
		b = append(b, item(t, p.Label)...)
		b = append(b, item(t, p.Value)...)
	}
	return b
}

func item(t testing.TB, v any) []byte {
	t.Helper()
	if at, ok := v.(time.Time); ok {
		return append([]byte{0xc1}, item(t, at.Unix())...)
	}
	b, err := detcbor.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
