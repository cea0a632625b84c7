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
	// Proofs and Consistency are what the unprotected header says, of either kind
	// or both. Verify and VerifyConsistency find out whether one signed root
	// follows from all of a kind, and no more: see the package comment.
	Proofs      []Inclusion
	Consistency []Consistency

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

// Consistency is one RFC 9162 consistency proof: the tree of size To begins with
// the tree of size From.
type Consistency struct {
	From, To uint64
	Path     [][]byte // 32 bytes each, as RFC 9162 §2.1.4.1 orders them
}

// maxPath is the longest path there is in trees of up to 2^63 leaves: a subtree
// to start from, in a consistency proof, and 63 siblings.
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
	if err := r.readProofs(vdp); err != nil {
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
func (r *Receipt) readProofs(raw detcbor.RawMessage) error {
	kinds, err := readHeader(raw)
	if err != nil {
		return fmt.Errorf("%w: proofs: %w", ErrMalformed, err)
	}
	// RFC 9942's CDDL wants one kind in a receipt; both are one claim more about
	// the same root.
	for kind, encoded := range kinds {
		switch kind {
		case int64(proofInclusion):
			err = eachProof(encoded, "inclusion", func(size, index uint64, path [][]byte) {
				r.Proofs = append(r.Proofs, Inclusion{TreeSize: size, LeafIndex: index, Path: path})
			})
		case int64(proofConsistency):
			err = eachProof(encoded, "consistency", func(from, to uint64, path [][]byte) {
				r.Consistency = append(r.Consistency, Consistency{From: from, To: to, Path: path})
			})
		default:
			// SPEC RFC 9942 §4.3: proof labels MUST be registered for the vds.
			return fmt.Errorf("%w: proof type %v", ErrUnsupported, kind)
		}
		if err != nil {
			return err
		}
	}
	if len(kinds) == 0 {
		return fmt.Errorf("%w: neither inclusion nor consistency proof", ErrMalformed)
	}
	return nil
}

// eachProof reads an array of at least one encoded proof.
func eachProof(raw detcbor.RawMessage, kind string, add func(first, second uint64, path [][]byte)) error {
	encoded, err := byteStrings(raw)
	if err != nil {
		return fmt.Errorf("%w: %s proofs: %w", ErrMalformed, kind, err)
	}
	for i, b := range encoded {
		first, second, path, err := readProof(b)
		if err != nil {
			return fmt.Errorf("%w: %s proof %d: %w", ErrMalformed, kind, i, err)
		}
		add(first, second, path)
	}
	return nil
}

// readProof reads [ tree_size, leaf_index, [ path ] ] or [ size_1, size_2,
// [ path ] ]. Source: RFC 9942 §5.2, §5.3.
func readProof(b []byte) (first, second uint64, path [][]byte, err error) {
	if len(b) == 0 {
		return 0, 0, nil, errors.New("empty")
	}
	parts, err := array(b)
	if err != nil {
		return 0, 0, nil, err
	}
	if len(parts) != 3 {
		return 0, 0, nil, fmt.Errorf("an array of %d, want two numbers and a path", len(parts))
	}
	for i, to := range []*uint64{&first, &second} {
		if parts[i][0]>>5 != 0 || detcbor.Unmarshal(parts[i], to) != nil {
			return 0, 0, nil, errors.New("a size or index is not an unsigned integer")
		}
	}
	// RFC 9942's CDDL wants one path element or more. The only leaf of a tree
	// has an empty path all the same, and so have equal sizes; where it does not
	// fit, no root follows.
	elements, err := array(parts[2])
	if err != nil {
		return 0, 0, nil, fmt.Errorf("path: %w", err)
	}
	if len(elements) > maxPath {
		return 0, 0, nil, fmt.Errorf("path of %d elements, the limit is %d", len(elements), maxPath)
	}
	path = make([][]byte, len(elements))
	for i := range elements {
		if path[i], err = byteString(elements[i]); err != nil || len(path[i]) != sha256.Size {
			return 0, 0, nil, fmt.Errorf("path element %d is not %d bytes", i, sha256.Size)
		}
	}
	return first, second, path, nil
}
