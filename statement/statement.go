// Package statement reads, checks and makes Signed Statements (RFC 9943 §6):
// what an issuer says about an artifact, in a tagged COSE_Sign1.
//
// Read a statement from anybody with [Parse]; it is strict, and what it returns
// is safe to hash, index and show. Then check the signature with
// [Statement.Verify]. Make one with [Sign]. [ParseCOSE] reads other people's
// messages, which need not be statements at all.
//
// # Promises
//
// Bad input is an error that says which rule was broken, never a panic, and it
// costs no more memory than a small multiple of its own length. Two readers
// cannot see two messages: repeated labels, unknown critical headers and every
// encoding that hides them are refused. A Statement shares no memory with the
// bytes it was read from. Its canonical bytes, and so its ID, depend on what was
// signed and on the signature, never on the unprotected header.
//
// # Not known here
//
// Who may say what: that is policy. Certificates are hashed for x5t and handed
// on, never parsed. There is no clock, network or database.
package statement

import (
	"crypto"
	"errors"
	"fmt"
	"time"

	"github.com/scittd/scittd/internal/cose"
)

// Errors of Parse, ParseCOSE, WithChain, Verify and VerifyDetached; each that
// they return wraps exactly one. The text after the sentinel says which rule was
// broken and, where it helps, by what.
var (
	ErrMalformed      = errors.New("malformed statement")
	ErrMissingHeader  = errors.New("missing header")
	ErrDuplicateLabel = errors.New("duplicate label")
	ErrUnknownCrit    = errors.New("critical header not understood")
	ErrAlgorithm      = cose.ErrAlgorithm
	ErrKey            = cose.ErrKey
	ErrPayloadMissing = errors.New("payload missing")
	ErrSignature      = cose.ErrSignature
)

// ErrTooManyArtifacts is returned by Artifacts beyond MaxArtifacts.
var ErrTooManyArtifacts = errors.New("too many artifact digests")

// Limits of a statement. Sizes are bytes unless the comment says else.
const (
	MaxSize          = 1 << 20   // whole message
	MaxProtected     = 128 << 10 // content of the protected header
	MaxUnprotected   = 256 << 10 // unprotected header
	MaxLabels        = 64        // labels per bucket, and claims
	MaxIssuer        = 8192      // iss, in characters (RFC 9943 §6)
	MaxSubject       = 2048      // sub
	MaxMediaType     = 255       // label 3 and 259
	MaxLocation      = 2048      // label 260
	MaxPredicateType = 2048      // predicateType of an in-toto payload
	MaxChain         = 8         // certificates in x5chain
	MaxChainBytes    = 64 << 10  // all of them together
	MaxTimestamp     = 64 << 10  // each time-stamp token
	MaxArtifacts     = 256       // artifact digests of one statement
)

// CertHash is x5t (RFC 9360): the hash of the leaf certificate.
type CertHash struct {
	Alg  int64 // -16, -43 or -44
	Hash []byte
}

// HashEnvelope is RFC 9995: the payload is a digest of what the statement is about.
type HashEnvelope struct {
	Alg         int64  // label 258: -16, -43 or -44
	ContentType string // label 259, the preimage's; "" when absent or an unknown content-format
	Location    string // label 260; "" when absent
}

// Statement is one Signed Statement, immutable after Parse. Callers do not
// modify its slices.
type Statement struct {
	Alg            cose.Algorithm
	KeyID          []byte        // kid; nil when absent
	Issuer         string        // CWT claim 1
	Subject        string        // CWT claim 2: SCITT's Subject, not OCI's
	Expires        time.Time     // CWT claim 4, UTC; zero when absent
	NotBefore      time.Time     // CWT claim 5
	IssuedAt       time.Time     // CWT claim 6
	ContentType    string        // label 3; a content-format as its media type; "" when absent or unknown
	Envelope       *HashEnvelope // nil unless a hash envelope
	Payload        []byte        // nil when detached
	Thumbprint     *CertHash     // x5t, protected; nil when absent
	Chain          [][]byte      // x5chain, DER, leaf first; from protected, else from unprotected
	ChainProtected bool
	Receipts       [][]byte // label 394 of the unprotected header, each an encoded Receipt

	// RFC 3161 time-stamp tokens (RFC 9921), DER, not verified; nil when absent.
	Timestamp        []byte // 3161-ctt, label 270, unprotected: of the signature
	PayloadTimestamp []byte // 3161-ttc, label 269, protected: of the payload, before it was signed

	protected []byte
	signature []byte
	canonical []byte
	id        ID
	supplied  *supplied // the payload of a detached message, which came by another way; nil: it did not

	readInToto func() inToto // reads the payload once; nil means read it now
}

// ID is the entry ID: SHA-256 of Canonical.
func (s *Statement) ID() ID { return s.id }

// Canonical is what is registered: tag 18 around the protected header verbatim,
// an empty unprotected header, the payload (nil when detached) and the
// signature, with shortest heads.
func (s *Statement) Canonical() []byte { return s.canonical }

// Protected is the content of the protected header, verbatim.
func (s *Statement) Protected() []byte { return s.protected }

// Detached says whether the payload was left out of the message.
func (s *Statement) Detached() bool { return s.Payload == nil }

// Attached says that the payload is the evidence itself, and inside the statement:
// neither a hash of it nor left out.
func (s *Statement) Attached() bool { return s.Envelope == nil && !s.Detached() }

// Verifiable says whether the payload is at hand: attached, or given by
// WithPayload.
func (s *Statement) Verifiable() bool {
	return !s.Detached() || s.supplied != nil && s.supplied.payload != nil
}

// Whole is the evidence itself, where it is at hand: the payload, attached or
// given by WithPayload. nil of a hash envelope, which has a digest for its payload.
func (s *Statement) Whole() []byte {
	switch {
	case s.Envelope != nil:
		return nil
	case s.Detached() && s.supplied != nil:
		return s.supplied.payload
	}
	return s.Payload
}

// supplied is a payload that a detached message was signed over, or only its
// digest, when that is all that is left.
type supplied struct {
	digest  Digest
	payload []byte
}

// WithPayload returns a copy of s, which is detached, that is verified over
// payload and has its digest as Evidence. The message stays what it is, and so
// do its canonical bytes and ID; of the payload nothing else is read, so that
// what the index says of s can be derived when the payload is gone. ErrMalformed
// when s has a payload, payload is empty, or has another digest. The caller does
// not change payload any more.
func (s *Statement) WithPayload(digest Digest, payload []byte) (*Statement, error) {
	switch {
	case !s.Detached():
		return nil, malformed("it has a payload already")
	case len(payload) == 0:
		return nil, malformed("its payload is empty")
	case digest == "" || digest.of(payload) != digest:
		return nil, malformed("its payload has not the digest %s", quote(string(digest)))
	}
	c := *s
	c.supplied = &supplied{digest, payload}
	return &c, nil
}

// WithEvidence returns a copy of s, which is detached, of whose payload only the
// digest is known: its Evidence. Its signature cannot be verified.
func (s *Statement) WithEvidence(digest Digest) (*Statement, error) {
	if !s.Detached() {
		return nil, malformed("it has a payload already")
	}
	if _, err := ParseDigest(string(digest)); err != nil {
		return nil, malformed("%v", err)
	}
	c := *s
	c.supplied = &supplied{digest: digest}
	return &c, nil
}

// WithChain returns a copy of s that carries chain (DER, leaf first) as its
// unprotected x5chain: an auditor replays a decision from kept collateral this
// way. ErrMalformed when the chain is over the caps or not the one x5t names;
// ErrDuplicateLabel when the protected header has a chain of its own.
func (s *Statement) WithChain(chain [][]byte) (*Statement, error) {
	if s.ChainProtected {
		return nil, fmt.Errorf("%w: x5chain is in the protected header already", ErrDuplicateLabel)
	}
	if err := checkChain(chain); err != nil {
		return nil, err
	}
	c := *s
	c.Chain = make([][]byte, len(chain))
	for i, der := range chain {
		c.Chain[i] = append([]byte(nil), der...)
	}
	if err := c.checkThumbprint(); err != nil {
		return nil, err
	}
	return &c, nil
}

// Verify checks the signature over the payload (RFC 9052 §4.4), attached or
// given by WithPayload. ErrAlgorithm: the algorithm is unknown or does not fit
// the key. ErrSignature: it does not verify. ErrPayloadMissing: the payload is
// detached. ErrKey: nobody should use such a key.
func (s *Statement) Verify(key crypto.PublicKey) error {
	if !s.Verifiable() {
		return fmt.Errorf("%w: it is detached", ErrPayloadMissing)
	}
	if s.Detached() {
		return s.VerifyDetached(key, s.supplied.payload)
	}
	return s.VerifyDetached(key, s.Payload)
}

// VerifyDetached is Verify over a payload that came by another way. For a
// message with an attached payload, payload takes its place.
func (s *Statement) VerifyDetached(key crypto.PublicKey, payload []byte) error {
	return cose.Verify(s.Alg, key, s.protected, payload, s.signature)
}
