package receipts

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/internal/detcbor"
)

// Receipt is one COSE Receipt, immutable after Parse. Issuer, Subject, IssuedAt
// and KeyID may be empty in a receipt that follows RFC 9942 alone.
type Receipt struct {
	Alg      cose.Algorithm
	KeyID    []byte // kid; a hint which key to try
	VDS      int64
	Issuer   string    // CWT iss: the transparency service
	Subject  string    // CWT sub: ours is the log origin
	IssuedAt time.Time // CWT iat; ours is the registration time
	// Proofs are what the unprotected header says. Verify finds out whether one
	// signed root follows from all of them, and no more: see the package comment.
	Proofs []Inclusion

	identified bool   // kid, x5chain or x5t is protected
	protected  []byte // content of the byte string
	payload    []byte // attached root; nil when detached
	signature  []byte
	raw        []byte
}

// Inclusion is one RFC 9162 inclusion proof.
type Inclusion struct {
	TreeSize, LeafIndex uint64
	Path                [][]byte // 32 bytes each, from the leaf's sibling upwards
}

// maxPath is the longest path there is: a tree has at most 2^64 leaves.
const maxPath = 64

// Parse reads a receipt as RFC 9942 defines it: tag 18, definite lengths, no
// label twice, nothing after it. It need not be deterministically encoded.
// ErrUnsupported: a receipt whose proofs cannot be checked here. Whether it
// also satisfies RFC 9943 is for Verify to say.
func Parse(b []byte) (*Receipt, error) {
	e, err := open(b, maxReceipt)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	r, err := readProtected(e.inside)
	if err != nil {
		return nil, err
	}
	// SPEC RFC 9052 §3.1: crit counts in the protected header alone.
	if _, ok := e.outside.get(labelCrit); ok {
		return nil, fmt.Errorf("%w: crit is not protected", ErrMalformed)
	}
	if raw, ok := e.outside.get(labelKeyID); ok {
		if r.KeyID, err = byteString(raw); err != nil {
			return nil, fmt.Errorf("%w: kid: %w", ErrMalformed, err)
		}
	}
	if e.payload != nil && len(e.payload) != sha256.Size {
		return nil, fmt.Errorf("%w: attached root of %d bytes, want %d", ErrMalformed, len(e.payload), sha256.Size)
	}
	vdp, ok := e.outside.get(labelVDP)
	if !ok {
		return nil, fmt.Errorf("%w: no proofs (396) in the unprotected header", ErrMalformed)
	}
	if r.Proofs, err = readProofs(vdp); err != nil {
		return nil, err
	}
	r.protected, r.payload, r.signature = e.protected, e.payload, e.signature
	r.raw = bytes.Clone(b)
	return r, nil
}

// Bytes is the receipt as it was parsed.
func (r *Receipt) Bytes() []byte { return r.raw }

// readProtected reads what is signed beside the root.
func readProtected(h header) (*Receipt, error) {
	r := new(Receipt)
	raw, ok := h.get(labelAlg)
	if !ok {
		return nil, fmt.Errorf("%w: no alg in the protected header", ErrMalformed)
	}
	alg, err := integer(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: alg: %w", ErrMalformed, err)
	}
	r.Alg = cose.Algorithm(alg)
	if err := checkCrit(h); err != nil {
		return nil, err
	}
	// SPEC RFC 9942 §4.3: vds is REQUIRED in the protected header, and MUST be
	// registered; what the unprotected header says does not count.
	if raw, ok = h.get(labelVDS); !ok {
		return nil, fmt.Errorf("%w: no verifiable data structure (395) in the protected header", ErrMalformed)
	}
	if r.VDS, err = integer(raw); err != nil {
		return nil, fmt.Errorf("%w: verifiable data structure: %w", ErrMalformed, err)
	}
	switch r.VDS {
	case vdsRFC9162:
	case vdsCCF:
		return nil, fmt.Errorf("%w: verifiable data structure 2 (CCF)", ErrUnsupported)
	case vdsMMR:
		return nil, fmt.Errorf("%w: verifiable data structure 3 (MMR)", ErrUnsupported)
	default:
		return nil, fmt.Errorf("%w: verifiable data structure %d", ErrUnsupported, r.VDS)
	}
	if raw, ok := h.get(labelKeyID); ok {
		if r.KeyID, err = byteString(raw); err != nil {
			return nil, fmt.Errorf("%w: kid: %w", ErrMalformed, err)
		}
		r.identified = len(r.KeyID) > 0
	}
	for _, label := range []int64{labelChain, labelThumbprint} {
		if _, ok := h.get(label); ok {
			r.identified = true
		}
	}
	if raw, ok := h.get(labelClaims); ok {
		if err := r.readClaims(raw); err != nil {
			return nil, fmt.Errorf("%w: CWT claims: %w", ErrMalformed, err)
		}
	}
	return r, nil
}

// understood are the labels that crit may name: what they say is acted upon.
var understood = map[any]bool{
	int64(labelAlg): true, int64(labelKeyID): true, int64(labelClaims): true, int64(labelVDS): true,
}

// SPEC RFC 9052 §3.1: crit names at least one label; each is in the protected
// header and understood, or the message is refused.
func checkCrit(h header) error {
	raw, ok := h.get(labelCrit)
	if !ok {
		return nil
	}
	var labels []any
	if detcbor.Unmarshal(raw, &labels) != nil || len(labels) == 0 {
		return fmt.Errorf("%w: crit is not an array of labels", ErrMalformed)
	}
	for _, label := range labels {
		switch label.(type) {
		case int64, string:
		default:
			return fmt.Errorf("%w: crit names %v, which is no label", ErrMalformed, label)
		}
		if _, ok := h[label]; !ok {
			return fmt.Errorf("%w: crit names %v, which is absent", ErrMalformed, label)
		}
		if !understood[label] {
			return fmt.Errorf("%w: critical header %v is not understood", ErrUnsupported, label)
		}
	}
	return nil
}

func (r *Receipt) readClaims(raw detcbor.RawMessage) error {
	claims, err := readHeader(raw)
	if err != nil {
		return err
	}
	if v, ok := claims.get(claimIssuer); ok {
		if r.Issuer, err = text(v); err != nil {
			return fmt.Errorf("iss: %w", err)
		}
	}
	if v, ok := claims.get(claimSubject); ok {
		if r.Subject, err = text(v); err != nil {
			return fmt.Errorf("sub: %w", err)
		}
	}
	if v, ok := claims.get(claimIssuedAt); ok {
		if r.IssuedAt, err = numericDate(v); err != nil {
			return fmt.Errorf("iat: %w", err)
		}
	}
	return nil
}

const maxDate = 253402300799 // the last second of the year 9999

// numericDate reads seconds since 1970. CWT writes them without tag 1; some
// services write it.
func numericDate(raw detcbor.RawMessage) (time.Time, error) {
	const tag1 = 0xc1
	if raw[0] == tag1 {
		raw = raw[1:]
	}
	if n, err := integer(raw); err == nil {
		if n < 0 || n > maxDate {
			return time.Time{}, fmt.Errorf("%d is out of range", n)
		}
		return time.Unix(n, 0).UTC(), nil
	}
	const half, double = 0xf9, 0xfb // the heads of floats
	var f float64
	if raw[0] < half || raw[0] > double || detcbor.Unmarshal(raw, &f) != nil || math.IsNaN(f) || f < 0 || f > maxDate {
		return time.Time{}, errors.New("not a number of seconds")
	}
	whole, part := math.Modf(f)
	return time.Unix(int64(whole), int64(part*1e9)).UTC(), nil
}

// readProofs reads the proofs map of an RFC 9162 receipt.
func readProofs(raw detcbor.RawMessage) ([]Inclusion, error) {
	kinds, err := readHeader(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: proofs: %w", ErrMalformed, err)
	}
	// SPEC RFC 9942 §4.3: proof labels MUST be registered for the vds.
	for kind := range kinds {
		switch kind {
		case int64(proofInclusion):
		case int64(proofConsistency):
			return nil, fmt.Errorf("%w: consistency proofs are not checked", ErrUnsupported)
		default:
			return nil, fmt.Errorf("%w: proof type %v", ErrUnsupported, kind)
		}
	}
	inclusion, ok := kinds.get(proofInclusion)
	if !ok {
		return nil, fmt.Errorf("%w: no inclusion proof", ErrMalformed)
	}
	encoded, err := byteStrings(inclusion)
	if err != nil {
		return nil, fmt.Errorf("%w: inclusion proofs: %w", ErrMalformed, err)
	}
	proofs := make([]Inclusion, len(encoded))
	for i, b := range encoded {
		if proofs[i], err = readInclusion(b); err != nil {
			return nil, fmt.Errorf("%w: inclusion proof %d: %w", ErrMalformed, i, err)
		}
	}
	return proofs, nil
}

// readInclusion reads [ tree_size, leaf_index, [ path ] ]. Source: RFC 9942 §5.2.
func readInclusion(b []byte) (Inclusion, error) {
	var p Inclusion
	if len(b) == 0 {
		return p, errors.New("empty")
	}
	parts, err := array(b)
	if err != nil {
		return p, err
	}
	if len(parts) != 3 {
		return p, fmt.Errorf("an array of %d, want tree_size, leaf_index and path", len(parts))
	}
	for i, to := range []*uint64{&p.TreeSize, &p.LeafIndex} {
		if parts[i][0]>>5 != 0 || detcbor.Unmarshal(parts[i], to) != nil {
			return p, errors.New("tree_size or leaf_index is not an unsigned integer")
		}
	}
	// RFC 9942's CDDL wants one path element or more. The only leaf of a tree
	// has an empty path all the same, and Root accepts it there alone.
	elements, err := array(parts[2])
	if err != nil {
		return p, fmt.Errorf("path: %w", err)
	}
	if len(elements) > maxPath {
		return p, fmt.Errorf("path of %d elements, the limit is %d", len(elements), maxPath)
	}
	p.Path = make([][]byte, len(elements))
	for i := range elements {
		if p.Path[i], err = byteString(elements[i]); err != nil || len(p.Path[i]) != sha256.Size {
			return p, fmt.Errorf("path element %d is not %d bytes", i, sha256.Size)
		}
	}
	return p, nil
}
