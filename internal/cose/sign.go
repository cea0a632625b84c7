package cose

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	_ "crypto/sha256" // go-cose asks the registry of hashes
	_ "crypto/sha512"
	"errors"
	"fmt"
	"io"

	gocose "github.com/veraison/go-cose"

	"github.com/scittd/scittd/internal/detcbor"
)

// SigStructure is what a COSE_Sign1 signature covers, with empty external_aad:
// [ "Signature1", protected, h”, payload ]. Both arguments are the content of
// their byte strings, verbatim. Source: RFC 9052 §4.4.
//
// SPEC RFC 9052 §9: it is encoded with definite and shortest lengths.
func SigStructure(protected, payload []byte) []byte {
	return append(beforePayload(protected, payload, len(payload)), payload...)
}

// beforePayload is SigStructure without the payload, and room for so much more.
func beforePayload(protected, payload []byte, room int) []byte {
	const context = "Signature1"
	const heads = 1 + 1 + 9 + 1 + 9
	b := make([]byte, 0, heads+len(context)+len(protected)+room)
	b = detcbor.AppendHead(b, detcbor.KindArray, 4)
	b = detcbor.AppendHead(b, detcbor.KindText, uint64(len(context)))
	b = append(b, context...)
	b = detcbor.AppendBytes(b, protected)
	b = detcbor.AppendBytes(b, nil)
	return detcbor.AppendHead(b, detcbor.KindBytes, uint64(len(payload)))
}

// Verify checks sig over SigStructure(protected, payload). ErrAlgorithm and
// ErrKey mean that no signature of that algorithm by that key is ever accepted;
// ErrSignature, that this one is not.
func Verify(a Algorithm, pub crypto.PublicKey, protected, payload, sig []byte) error {
	if err := a.Check(pub); err != nil {
		return err
	}
	v, err := gocose.NewVerifier(suites[a].engine, pub)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrKey, err)
	}
	if d, ok := v.(gocose.DigestVerifier); ok && suites[a].hash != 0 { // payloads are long: hash them where they are
		h := suites[a].hash.New()
		h.Write(beforePayload(protected, payload, 0))
		h.Write(payload)
		err = d.VerifyDigest(h.Sum(nil), sig)
	} else {
		err = v.Verify(SigStructure(protected, payload), sig)
	}
	if err != nil {
		return fmt.Errorf("%w: %s, %s key, %d bytes", ErrSignature, a, kind(pub), len(sig))
	}
	return nil
}

// Sign signs SigStructure(protected, payload). ECDSA signatures are r ‖ s at
// fixed width. An *ecdsa.PrivateKey signs by RFC 6979: same input, same bytes;
// so does Ed25519. Other signers (PKCS #11, KMS) bring their own randomness.
func Sign(a Algorithm, key crypto.Signer, protected, payload []byte) ([]byte, error) {
	if key == nil {
		return nil, fmt.Errorf("%w: no key to sign with", ErrKey)
	}
	if err := a.Check(key.Public()); err != nil {
		return nil, err
	}
	s := suites[a]
	random := io.Reader(rand.Reader)
	if s.curve != nil {
		if _, ok := key.(*ecdsa.PrivateKey); ok {
			random = nil
		}
		key = digestSigner{key, s.hash}
	}
	engine, err := gocose.NewSigner(s.engine, key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	sig, err := engine.Sign(random, SigStructure(protected, payload))
	if err != nil {
		return nil, fmt.Errorf("sign with %s: %w", a, err)
	}
	return sig, nil
}

// digestSigner names the hash to the key, which RFC 6979 and hardware keys need
// and go-cose leaves out for ECDSA. It also hides the key's concrete type, so
// that go-cose asks it rather than computing with fresh randomness.
type digestSigner struct {
	crypto.Signer
	hash crypto.Hash
}

func (s digestSigner) Sign(random io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	if len(digest) != s.hash.Size() {
		return nil, errors.New("digest of another length than the hash")
	}
	return s.Signer.Sign(random, digest, s.hash)
}
