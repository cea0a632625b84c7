package envelope

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/internal/timestamp"
	"github.com/scittd/scittd/statement"
)

// readBundle reads a Sigstore bundle (protobuf-specs, sigstore_bundle.proto) in
// its JSON form.
func (e *Envelope) readBundle(o object) error {
	kind, err := o.text("mediaType")
	if err != nil {
		return err
	}
	if !isBundle(kind) {
		return fmt.Errorf("mediaType %.100q; want application/vnd.dev.sigstore.bundle.v0.3+json", kind)
	}
	var s Signature
	material, err := o.object("verificationMaterial")
	if err != nil {
		return err
	}
	if err := s.readMaterial(material); err != nil {
		return fmt.Errorf("verificationMaterial: %w", err)
	}
	switch {
	case o.has("dsseEnvelope") == o.has("messageSignature"):
		return errors.New("want one of dsseEnvelope and messageSignature")
	case o.has("dsseEnvelope"):
		inner, err := o.object("dsseEnvelope")
		if err == nil {
			err = e.readDSSE(inner)
		}
		// SPEC sigstore_bundle.proto: there MUST be exactly one signature.
		if err == nil && len(e.Signatures) != 1 {
			err = fmt.Errorf("%d signatures; a bundle has one", len(e.Signatures))
		}
		if err != nil {
			return fmt.Errorf("dsseEnvelope: %w", err)
		}
		s.Bytes, s.content = e.Signatures[0].Bytes, e.Signatures[0].content
		if s.KeyID == "" {
			s.KeyID = e.Signatures[0].KeyID
		}
	default:
		inner, err := o.object("messageSignature")
		if err == nil {
			err = e.readMessage(inner, &s)
		}
		if err != nil {
			return fmt.Errorf("messageSignature: %w", err)
		}
	}
	e.Signatures = []Signature{s}
	return nil
}

// isBundle knows the two ways in which the version is written.
func isBundle(t string) bool {
	t = strings.ToLower(t)
	if v, ok := strings.CutPrefix(t, "application/vnd.dev.sigstore.bundle+json;version="); ok {
		return v == "0.1" || v == "0.2" || v == "0.3"
	}
	return t == "application/vnd.dev.sigstore.bundle.v0.3+json"
}

// readMaterial reads how the signer is to be found, and when they signed.
func (s *Signature) readMaterial(o object) error {
	given := 0
	for _, name := range []string{"certificate", "x509CertificateChain", "publicKey"} {
		if !o.has(name) {
			continue
		}
		given++
		inner, err := o.object(name)
		if err != nil {
			return err
		}
		switch name {
		case "certificate":
			der, err := inner.bytes("rawBytes")
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			s.Chain = [][]byte{der}
		case "x509CertificateChain":
			if s.Chain, err = inner.each("certificates", "rawBytes", statement.MaxChain); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if len(s.Chain) == 0 {
				return fmt.Errorf("%s: empty", name)
			}
		case "publicKey":
			if s.KeyID, err = inner.text("hint"); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	if given != 1 {
		return errors.New("want one of certificate, x509CertificateChain and publicKey")
	}
	if !o.has("timestampVerificationData") {
		return nil
	}
	inner, err := o.object("timestampVerificationData")
	if err != nil {
		return err
	}
	responses, err := inner.each("rfc3161Timestamps", "signedTimestamp", MaxTimestamps)
	for _, r := range responses {
		token, err := timestamp.Token(r)
		if err != nil {
			return err
		}
		s.Timestamps = append(s.Timestamps, token)
	}
	return err
}

// each reads one member, which is base64, of every object of a list.
func (o object) each(list, member string, most int) (all [][]byte, err error) {
	elements, err := o.list(list, most)
	if err != nil {
		return nil, err
	}
	for i, raw := range elements {
		element, err := split(raw)
		if err != nil {
			return nil, fmt.Errorf("%s[%d]: %w", list, i, err)
		}
		b, err := element.bytes(member)
		if err != nil {
			return nil, fmt.Errorf("%s[%d]: %w", list, i, err)
		}
		all = append(all, b)
	}
	return all, nil
}

var messageHashes = map[string]crypto.Hash{
	"SHA2_256": crypto.SHA256, "SHA2_384": crypto.SHA384, "SHA2_512": crypto.SHA512,
}

// readMessage reads the signature of one artifact, which is known by its digest.
func (e *Envelope) readMessage(o object, s *Signature) (err error) {
	if s.Bytes, err = o.bytes("signature"); err != nil {
		return err
	}
	digest, err := o.object("messageDigest")
	if err != nil {
		return err
	}
	name, err := digest.text("algorithm")
	if err != nil {
		return err
	}
	m := message{hash: messageHashes[name]}
	if m.hash == 0 {
		return fmt.Errorf("messageDigest: algorithm %.40q; want SHA2_256, SHA2_384 or SHA2_512", name)
	}
	if m.sum, err = digest.bytes("digest"); err != nil {
		return fmt.Errorf("messageDigest: %w", err)
	}
	if len(m.sum) != m.hash.Size() {
		return fmt.Errorf("messageDigest: %d bytes of %s", len(m.sum), name)
	}
	s.content = m
	d, err := statement.ParseDigest(strings.Replace(name, "SHA2_", "sha", 1) + ":" + hex.EncodeToString(m.sum))
	e.Artifacts = []statement.Digest{d}
	return err
}

// message is an artifact of which only the digest is here.
type message struct {
	hash crypto.Hash
	sum  []byte
}

// verify: the digest takes the artifact's place where the algorithm hashes first.
func (m message) verify(pub crypto.PublicKey, s Signature) error {
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		if hashOf(pub) != m.hash {
			return fmt.Errorf("%w: a digest by %s under a key on %s", cose.ErrAlgorithm, m.hash, pub.Curve.Params().Name)
		}
		return held(ecdsa.VerifyASN1(pub, m.sum, s.Bytes))
	case *rsa.PublicKey:
		return verifyRSA(pub, m.hash, m.sum, s.Bytes)
	case ed25519.PublicKey:
		if m.hash != crypto.SHA512 {
			return fmt.Errorf("%w: Ed25519 signs the artifact itself, which is not here; Ed25519ph signs its SHA-512", cose.ErrAlgorithm)
		}
		return held(ed25519.VerifyWithOptions(pub, m.sum, s.Bytes, &ed25519.Options{Hash: crypto.SHA512}) == nil)
	}
	return cose.ErrAlgorithm
}
