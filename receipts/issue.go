package receipts

import (
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/internal/detcbor"
)

// Head is a tree head to be signed.
type Head struct {
	Size uint64
	Root [32]byte
	Time time.Time // whole seconds
}

// SignedHead is what is stored for ever and what receipts are minted from. The
// signature covers Protected, which holds Time, and Root; not Size.
type SignedHead struct {
	Head
	Protected []byte // content of the protected byte string
	Signature []byte
}

// Issuer signs heads: one ES256 signature per batch. Safe for concurrent use if
// its key is.
type Issuer struct {
	key     crypto.Signer
	kid     [32]byte
	service string
	origin  string
}

// NewIssuer makes an issuer of key, a P-256 key in memory or behind any
// crypto.Signer. Its receipts name service, the URL, as iss and origin, the
// log's name, as sub.
func NewIssuer(key crypto.Signer, service, origin string) (*Issuer, error) {
	if key == nil {
		return nil, fmt.Errorf("receipt key: %w: none", cose.ErrKey)
	}
	if err := cose.ES256.Check(key.Public()); err != nil {
		return nil, fmt.Errorf("receipt key: %w", err)
	}
	kid, err := cose.Thumbprint(key.Public())
	if err != nil {
		return nil, fmt.Errorf("receipt key: %w", err)
	}
	if err := cleanText(service); err != nil {
		return nil, fmt.Errorf("service URL: %w", err)
	}
	if err := cleanText(origin); err != nil {
		return nil, fmt.Errorf("log origin: %w", err)
	}
	return &Issuer{key: key, kid: kid, service: service, origin: origin}, nil
}

// SPEC RFC 9943 §6.1: an issuer has 1 to 8192 characters. What every receipt
// repeats must also be printable.
func cleanText(s string) error {
	switch {
	case s == "":
		return errors.New("empty")
	case utf8.RuneCountInString(s) > 8192:
		return errors.New("longer than 8192 characters")
	case !utf8.ValidString(s), strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == ' ' }):
		return fmt.Errorf("%q has spaces or characters that do not print", s)
	}
	return nil
}

// KeyID is the RFC 9679 thumbprint of the key, 32 bytes: the kid of its receipts.
func (i *Issuer) KeyID() []byte { return i.kid[:] }

// Public is the key that its receipts verify with.
func (i *Issuer) Public() crypto.PublicKey { return i.key.Public() }

// Service is iss, and Origin sub, of its receipts.
func (i *Issuer) Service() string { return i.service }
func (i *Issuer) Origin() string  { return i.origin }

// Sign signs h and verifies its own signature before returning it: a key in
// hardware, or memory, may fail without saying so. What it returns must not
// leave before it is stored, for there is one root per size.
func (i *Issuer) Sign(h Head) (SignedHead, error) {
	iat := h.Time.Unix()
	switch {
	case h.Size == 0:
		return SignedHead{}, errors.New("sign head: an empty tree has no receipts")
	case h.Time.Nanosecond() != 0:
		return SignedHead{}, fmt.Errorf("sign head of size %d: time %s is not of whole seconds", h.Size, h.Time)
	case iat < 0 || iat > maxDate:
		return SignedHead{}, fmt.Errorf("sign head of size %d: time %s is out of range", h.Size, h.Time)
	}
	protected, err := detcbor.Marshal(map[int64]any{
		labelAlg:    int64(cose.ES256),
		labelKeyID:  i.kid[:],
		labelClaims: map[int64]any{claimIssuer: i.service, claimSubject: i.origin, claimIssuedAt: iat},
		labelVDS:    vdsRFC9162,
	})
	if err != nil {
		return SignedHead{}, fmt.Errorf("sign head of size %d: %w", h.Size, err)
	}
	s := SignedHead{Head: h, Protected: protected}
	if s.Signature, err = cose.Sign(cose.ES256, i.key, protected, h.Root[:]); err != nil {
		return SignedHead{}, fmt.Errorf("sign head of size %d: %w", h.Size, err)
	}
	if err := cose.Verify(cose.ES256, i.key.Public(), protected, h.Root[:], s.Signature); err != nil {
		return SignedHead{}, fmt.Errorf("sign head of size %d: own signature: %w: %w", h.Size, ErrNotVerified, err)
	}
	return s, nil
}

// VerifyHead checks a stored head: its signature over its root, and that its
// protected header is one of an RFC 9943 receipt with iat equal to Time. Size
// is not signed; that a tree of this size has this root shows in the tree.
func VerifyHead(h SignedHead, key crypto.PublicKey) error {
	inside, err := readHeader(h.Protected)
	if err != nil {
		return fmt.Errorf("%w: protected header: %w", ErrMalformed, err)
	}
	r, err := readProtected(inside)
	if err != nil {
		return err
	}
	if err := r.checkClaims(); err != nil {
		return err
	}
	if r.IssuedAt.IsZero() || !r.IssuedAt.Equal(h.Time) {
		return fmt.Errorf("%w: signed at %s, stored as %s", ErrNotVerified, r.IssuedAt, h.Time)
	}
	if err := cose.Verify(r.Alg, key, h.Protected, h.Root[:], h.Signature); err != nil {
		return fmt.Errorf("%w: %w", ErrNotVerified, err)
	}
	return nil
}

// Names says whose head h calls itself: the URL of a service and the origin of a
// log, "" where its protected header cannot be read. VerifyHead tells whether they
// are signed.
func (h SignedHead) Names() (service, origin string) {
	inside, err := readHeader(h.Protected)
	if err != nil {
		return "", ""
	}
	r, err := readProtected(inside)
	if err != nil {
		return "", ""
	}
	return r.Issuer, r.Subject
}

// Mint makes the receipt of the entry at index: a pure function of a signed head
// and a path, deterministic, without any key. That the path leads from the
// entry to h.Root is for the caller to know, who has the entry.
func Mint(h SignedHead, index uint64, path [][]byte) ([]byte, error) {
	if index >= h.Size {
		return nil, fmt.Errorf("%w: index %d in a tree of size %d", ErrPath, index, h.Size)
	}
	return mint(h, proofInclusion, h.Size, index, path)
}

// MintConsistency makes the receipt that the tree of h begins with the tree of
// size from: like Mint, a pure function, without any key. That the path leads
// from the older root to h.Root is for the caller to know, who has both.
//
// SPEC RFC 9942 §5.3: a path has at least one element, so that equal sizes have
// no receipt; and nothing follows from the empty tree.
func MintConsistency(h SignedHead, from uint64, path [][]byte) ([]byte, error) {
	if from == 0 || from >= h.Size || len(path) == 0 {
		return nil, fmt.Errorf("%w: from size %d to size %d with %d elements", ErrPath, from, h.Size, len(path))
	}
	return mint(h, proofConsistency, from, h.Size, path)
}

func mint(h SignedHead, kind int64, first, second uint64, path [][]byte) ([]byte, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("%w: %d elements", ErrPath, len(path))
	}
	for i, p := range path {
		if len(p) != sha256.Size {
			return nil, fmt.Errorf("%w: element %d has %d bytes", ErrPath, i, len(p))
		}
	}
	// [first, second, [path]] in a byte string, and around it {396: {kind: [proof]}}:
	// every receipt passes here, so it is written down rather than marshalled.
	proof := make([]byte, 0, 2*9+2+len(path)*(2+sha256.Size))
	proof = detcbor.AppendHead(proof, detcbor.KindArray, 3)
	proof = detcbor.AppendHead(proof, detcbor.KindUint, first)
	proof = detcbor.AppendHead(proof, detcbor.KindUint, second)
	proof = detcbor.AppendHead(proof, detcbor.KindArray, uint64(len(path)))
	for _, p := range path {
		proof = detcbor.AppendBytes(proof, p)
	}
	proofs := make([]byte, 0, 10+len(proof))
	proofs = detcbor.AppendHead(proofs, detcbor.KindMap, 1)
	proofs = detcbor.AppendHead(proofs, detcbor.KindUint, labelVDP)
	proofs = detcbor.AppendHead(proofs, detcbor.KindMap, 1)
	proofs = detcbor.AppendHead(proofs, detcbor.KindNegative, uint64(-1-kind))
	proofs = detcbor.AppendHead(proofs, detcbor.KindArray, 1)
	proofs = detcbor.AppendBytes(proofs, proof)
	return envelope{protected: h.Protected, signature: h.Signature}.with(proofs), nil
}
