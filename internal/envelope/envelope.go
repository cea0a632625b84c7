// Package envelope reads the signed envelopes that other tools make, so that
// whoever signed one can be told from whoever says to have signed it:
//
//	DSSE      an in-toto attestation in a DSSE envelope
//	Sigstore  a Sigstore bundle, v0.1 to v0.3, around such an envelope or around
//	          the signature of one artifact
//	Notary    a Notary Project signature (COSE_Sign1) of one artifact
//
// Parse says of each what was signed, what is claimed about the signer (a chain,
// a key hint, RFC 3161 tokens over the signature), and which artifacts the signed
// content names. Nothing is believed yet: find a key by the claims, call Verify
// with it, and the Artifacts are that key's word.
//
// Bad input is an error, never a panic, and costs little more memory than its own
// length. Two readers cannot see two envelopes: JSON members that are repeated, or
// differ in case alone, are refused on the whole way to what is signed.
//
// It does not know who may sign: certificates are handed on unparsed, and so are
// tokens. Transparency log entries of a bundle are not looked at: they prove to
// their own log's clients what this service's receipts prove to its own. There
// is no clock and no network.
package envelope

import (
	"bytes"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/statement"
)

// Kind is a kind of envelope, in words for people.
type Kind string

const (
	DSSE     Kind = "DSSE envelope"
	Sigstore Kind = "Sigstore bundle"
	Notary   Kind = "Notary Project signature"
)

// Limits of an envelope. Sizes are bytes.
const (
	MaxSize       = 32 << 20
	MaxSignatures = 8
	MaxTimestamps = 8
	MaxKeyID      = 1024
)

// Envelope is one signed envelope. It shares memory with the bytes it was read
// from, and is for one goroutine.
type Envelope struct {
	Kind       Kind
	Signatures []Signature        // at least one
	Artifacts  []statement.Digest // that the signed content names; nil when it names none
	Expires    time.Time          // when its signer takes it back; zero: never
}

// Signature is one signature over the content, and what is claimed about it.
type Signature struct {
	Bytes      []byte
	Algorithm  cose.Algorithm // 0: the envelope names none, the key decides
	KeyID      string         // a hint, "" where there is none
	Chain      [][]byte       // DER, leaf first; nil without one
	Timestamps [][]byte       // RFC 3161 tokens over Bytes

	content content
}

// content is what was signed. Errors of verify are those of Verify.
type content interface {
	verify(pub crypto.PublicKey, s Signature) error
}

// Verify checks the signature. cose.ErrKey: nobody should use such a key.
// cose.ErrAlgorithm: it does not fit the key. cose.ErrSignature: it does not
// verify.
func (s Signature) Verify(pub crypto.PublicKey) error {
	if err := cose.CheckKey(pub); err != nil {
		return err
	}
	return s.content.verify(pub, s)
}

// ErrUnknown: it is no envelope of a kind that is read here.
var ErrUnknown = errors.New("neither a DSSE envelope, nor a Sigstore bundle, nor a Notary Project signature")

// Parse reads an envelope of any kind; which one, its content says.
func Parse(b []byte) (*Envelope, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("envelope of %d bytes; at most %d are read", len(b), MaxSize)
	}
	var e *Envelope
	var err error
	switch first(b) {
	case tagSign1:
		e, err = parseNotary(b)
	case '{':
		e, err = parseJSON(b)
	default:
		return nil, ErrUnknown
	}
	if err != nil {
		return nil, err
	}
	for i, s := range e.Signatures {
		if err := s.check(); err != nil {
			return nil, fmt.Errorf("%s: signature %d: %w", e.Kind, i, err)
		}
	}
	return e, nil
}

// Like says whether somebody might read b as an envelope: more than Parse does, for
// other readers take names in any case, and the last of those that are repeated.
func Like(b []byte) bool {
	switch first(b) {
	case tagSign1:
		return bytes.Contains(b, []byte(labelScheme))
	case '{':
		var o struct{ Payload, PayloadType, Signatures, VerificationMaterial, DSSEEnvelope, MessageSignature json.RawMessage }
		return json.Unmarshal(b, &o) == nil && (o.PayloadType != nil && (o.Payload != nil || o.Signatures != nil) ||
			o.VerificationMaterial != nil || o.DSSEEnvelope != nil || o.MessageSignature != nil)
	}
	return false
}

// first is the first byte that is no white space of JSON.
func first(b []byte) byte {
	for _, c := range b {
		if c != ' ' && c != '\t' && c != '\r' && c != '\n' {
			return c
		}
	}
	return 0
}

func parseJSON(b []byte) (*Envelope, error) {
	o, err := document(b)
	if err != nil {
		return nil, err
	}
	var e *Envelope
	switch {
	case o.has("verificationMaterial"):
		e = &Envelope{Kind: Sigstore}
		err = e.readBundle(o)
	case o.has("payloadType") && o.has("signatures"):
		e = &Envelope{Kind: DSSE}
		err = e.readDSSE(o)
	default:
		return nil, ErrUnknown
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", e.Kind, err)
	}
	return e, nil
}

// check holds the bounds that all kinds have. Those of a chain are a statement's.
func (s Signature) check() error {
	total := 0
	for _, der := range s.Chain {
		total += len(der)
	}
	switch {
	case len(s.Bytes) == 0:
		return errors.New("empty")
	case len(s.KeyID) > MaxKeyID:
		return fmt.Errorf("key ID of %d bytes; at most %d are read", len(s.KeyID), MaxKeyID)
	case len(s.Chain) > statement.MaxChain || total > statement.MaxChainBytes:
		return fmt.Errorf("%d certificates of %d bytes; at most %d of %d are read", len(s.Chain), total, statement.MaxChain, statement.MaxChainBytes)
	case len(s.Timestamps) > MaxTimestamps:
		return fmt.Errorf("%d time stamps; at most %d are read", len(s.Timestamps), MaxTimestamps)
	}
	return nil
}

// KindOf says which kind of envelope has that media type, lower-case and without
// parameters; "" when that can be told from the content alone.
func KindOf(mediaType string) Kind {
	switch mediaType {
	case "application/vnd.dsse.envelope.v1+json", "application/vnd.in-toto+json":
		return DSSE
	case "application/vnd.dev.sigstore.bundle.v0.3+json", "application/vnd.dev.sigstore.bundle+json":
		return Sigstore
	case "application/cose", "application/vnd.cncf.notary.signature":
		return Notary
	}
	if strings.HasPrefix(mediaType, "application/vnd.in-toto.") && strings.HasSuffix(mediaType, "+dsse") {
		return DSSE
	}
	return ""
}
