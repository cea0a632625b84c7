package statement

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/internal/detcbor"
)

// Parse reads a Signed Statement and refuses whatever RFC 9943, RFC 9052 and
// the limits of this package do not allow. The signature is not checked, and a
// detached payload is fine. The critical headers it understands are 1 (alg),
// 3 (content type), 4 (kid), 15 (CWT Claims), 33 (x5chain), 34 (x5t) and
// 258–260 (hash envelope).
func Parse(b []byte) (*Statement, error) {
	if len(b) > MaxSize {
		return nil, malformed("%d bytes; a statement has at most %d", len(b), MaxSize)
	}
	return parse(b, true)
}

// ParseCOSE reads any tagged COSE_Sign1, for verifying other people's messages.
// It is as strict as Parse about encoding, repeated labels and critical headers
// (the rules of COSE), and knows none of the rules of RFC 9943: headers and
// claims may be missing, tags may appear anywhere, kid may be unprotected, and
// the message may have any size. An algorithm that is not on the list fails in
// Verify.
func ParseCOSE(b []byte) (*Statement, error) { return parse(b, false) }

func parse(b []byte, strict bool) (*Statement, error) {
	m, err := split(b, strict)
	if err != nil {
		return nil, err
	}
	unprotected := append([]byte(nil), m.unprotected...)
	canonical := m.rewrite()
	s := &Statement{
		Payload:   m.payload,
		protected: m.protected,
		signature: m.signature,
		canonical: canonical,
	}
	h, err := readHeaders(m.protected, unprotected, strict)
	if err != nil {
		return nil, err
	}
	if err := s.take(h); err != nil {
		return nil, err
	}
	if strict {
		if err := s.checkBody(); err != nil {
			return nil, err
		}
	}
	s.id = sha256.Sum256(canonical)
	s.readInToto = sync.OnceValue(func() inToto { return parseInToto(s.Payload) })
	return s, nil
}

// The two heads every message begins with: tag 18, then an array of four.
const (
	tagHead   = 0xd2
	arrayHead = 0x84
)

// message is a COSE_Sign1 taken apart.
type message struct {
	protected   []byte // content of the byte string
	unprotected []byte // the map, encoded
	payload     []byte // nil when detached
	signature   []byte
}

// split takes a message apart and checks every byte but the content of its
// three byte strings.
func split(b []byte, strict bool) (m message, err error) {
	// SPEC RFC 9943 §6: a Signed Statement is a tagged COSE_Sign1. One spelling
	// of the two heads is accepted, so that nothing can hide in front of it.
	switch {
	case len(b) == 0:
		return m, malformed("it is empty")
	case b[0] != tagHead:
		return m, malformed("it begins with %#02x, not with 0xd2: COSE_Sign1 in tag 18, and no other tag", b[0])
	case len(b) < 2 || b[1] != arrayHead:
		return m, malformed("tag 18 does not hold an array of 4 with the head 0x84")
	}
	r := detcbor.NewReader(b[1:])
	r.Tag = tagsIn(strict)
	if _, err := r.Array(); err != nil {
		return m, encoding("message", err)
	}
	if m.protected, err = r.LongBytes(); err != nil {
		return m, encoding("protected header", err)
	}
	if kind, err := r.Kind(); err == nil && kind != detcbor.KindMap {
		return m, malformed("unprotected header is %s, not a map", kind)
	}
	if m.unprotected, err = r.Raw(); err != nil {
		return m, encoding("unprotected header", err)
	}
	if !r.Null() {
		if m.payload, err = r.LongBytes(); err != nil {
			return m, encoding("payload", err)
		}
	}
	if m.signature, err = r.LongBytes(); err != nil {
		return m, encoding("signature", err)
	}
	if err := r.End(); err != nil {
		return m, encoding("message", err)
	}
	if n := len(m.protected); n > MaxProtected {
		return m, malformed("protected header has %d bytes; at most %d are read", n, MaxProtected)
	}
	if n := len(m.unprotected); n > MaxUnprotected {
		return m, malformed("unprotected header has %d bytes; at most %d are read", n, MaxUnprotected)
	}
	return m, nil
}

// checkBody checks the payload and the signature of a statement.
func (s *Statement) checkBody() error {
	if s.Payload != nil && len(s.Payload) == 0 {
		return malformed("payload is empty; leave it out (null) to sign a detached one")
	}
	if e := s.Envelope; e != nil && s.Payload != nil && len(s.Payload) != hashSize(e.Alg) {
		// SPEC RFC 9995 §3: the payload is the digest that label 258 speaks of.
		return malformed("payload of %d bytes is no digest of algorithm %d (label 258), which has %d",
			len(s.Payload), e.Alg, hashSize(e.Alg))
	}
	if len(s.signature) == 0 {
		return malformed("signature is empty")
	}
	if want := signatureSize(s.Alg); want != 0 && len(s.signature) != want {
		return malformed("signature of %d bytes; %s makes %d", len(s.signature), s.Alg, want)
	}
	return nil
}

// signatureSize is the one length a signature of this algorithm has; 0 when it
// depends on the key.
func signatureSize(a cose.Algorithm) int {
	switch a {
	case cose.ES256, cose.ESP256, cose.EdDSA, cose.Ed25519:
		return 64
	case cose.ES384, cose.ESP384:
		return 96
	case cose.ES512, cose.ESP512:
		return 132
	}
	return 0
}

// Hash algorithms of COSE (RFC 9054).
const (
	hashSHA256 = -16
	hashSHA384 = -43
	hashSHA512 = -44
)

// hashSize is the length of a digest, 0 for an algorithm that is not accepted.
func hashSize(alg int64) int {
	switch alg {
	case hashSHA256:
		return 32
	case hashSHA384:
		return 48
	case hashSHA512:
		return 64
	}
	return 0
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

func missing(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMissingHeader, fmt.Sprintf(format, args...))
}

// encoding turns an error of detcbor about a part of the message into ours.
func encoding(part string, err error) error {
	sentinel := ErrMalformed
	if errors.Is(err, detcbor.ErrDuplicateKey) {
		sentinel = ErrDuplicateLabel
	}
	return fmt.Errorf("%w: %s: %v", sentinel, part, err)
}
