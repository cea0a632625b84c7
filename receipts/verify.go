package receipts

import (
	"bytes"
	"crypto"
	"fmt"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/scittd/scittd/internal/cose"
)

// Mode chooses the rules that a receipt must follow.
type Mode int

const (
	// Strict is RFC 9943: iss and sub in the protected CWT claims, and kid,
	// x5chain or x5t in the protected header.
	Strict Mode = iota
	// COSEOnly is RFC 9942, which leaves all of these open.
	COSEOnly
)

// Verify checks r for one log entry (ours: 32 bytes, SHA-256 of the canonical
// statement). nil means that proof and signature both hold. ErrClaims: r is not
// what mode asks for. ErrPath: an index, tree size or path does not fit.
// ErrNotVerified: wrong entry, key, path or root; the root is detached, so these
// look alike. Source: RFC 9942 §5.2, RFC 9162 §2.1.3.2.
func (r *Receipt) Verify(entry []byte, key crypto.PublicKey, mode Mode) error {
	if mode != COSEOnly {
		if err := r.checkClaims(); err != nil {
			return err
		}
	}
	root, err := r.Root(entry)
	if err != nil {
		return err
	}
	return r.checkSignature(root, key)
}

// checkSignature checks that root is what was signed.
func (r *Receipt) checkSignature(root [32]byte, key crypto.PublicKey) error {
	// SPEC RFC 9942 §5.2, §5.3: an attached payload MUST be the computed root.
	if r.payload != nil && !bytes.Equal(r.payload, root[:]) {
		return fmt.Errorf("%w: the attached root is not the one that follows from the path", ErrNotVerified)
	}
	if err := cose.Verify(r.Alg, key, r.protected, root[:], r.signature); err != nil {
		return fmt.Errorf("%w: %w", ErrNotVerified, err)
	}
	return nil
}

// SPEC RFC 9943 §6.1: iss and sub MUST be in the protected CWT claims, of
// receipts as of statements; kid MUST be protected when x5chain and x5t are not.
func (r *Receipt) checkClaims() error {
	switch {
	case r.Issuer == "":
		return fmt.Errorf("%w: iss", ErrClaims)
	case r.Subject == "":
		return fmt.Errorf("%w: sub", ErrClaims)
	case !r.identified:
		return fmt.Errorf("%w: kid", ErrClaims)
	}
	return nil
}

// Root computes the tree root that follows from entry. All inclusion proofs must
// give the same one, for there is one signature; otherwise, when there is none,
// and when one does not fit its own tree size, ErrPath.
func (r *Receipt) Root(entry []byte) ([32]byte, error) {
	var root [32]byte
	if len(r.Proofs) == 0 {
		return root, fmt.Errorf("%w: no inclusion proof", ErrPath)
	}
	if err := r.oneTree(); err != nil {
		return root, err
	}
	leaf := rfc6962.DefaultHasher.HashLeaf(entry)
	for i, p := range r.Proofs {
		b, err := proof.RootFromInclusionProof(rfc6962.DefaultHasher, p.LeafIndex, p.TreeSize, leaf, p.Path)
		if err != nil {
			return root, fmt.Errorf("%w: %w", ErrPath, err)
		}
		if i > 0 && !bytes.Equal(b, root[:]) {
			return root, fmt.Errorf("%w: proofs 0 and %d lead to different roots", ErrPath, i)
		}
		copy(root[:], b)
	}
	return root, nil
}

// oneTree: proofs under one signature speak of one tree, whatever their kind.
func (r *Receipt) oneTree() error {
	var sizes []uint64
	for _, p := range r.Proofs {
		sizes = append(sizes, p.TreeSize)
	}
	for _, p := range r.Consistency {
		sizes = append(sizes, p.To)
	}
	for _, size := range sizes {
		if size != sizes[0] {
			return fmt.Errorf("%w: proofs for trees of size %d and %d under one signature", ErrPath, sizes[0], size)
		}
	}
	return nil
}
