package receipts

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"math/bits"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

// Roots are tree roots that a verifier trusts from elsewhere, by tree size.
type Roots map[uint64][32]byte

// VerifyConsistency checks that the log of r has only grown, and returns the
// signed root of the tree that it has become, whose size is To of any proof.
// nil means that every consistency proof leads from the root in older of its
// size to this one root, and that the signature over it holds; the payload may
// be attached or detached. Inclusion proofs beside them are not looked at, but
// must be for the same tree. ErrClaims: r is not what mode asks for. ErrPath: a
// size or path does not fit, or older has no root of a proof's size.
// ErrNotVerified: wrong key, path or root. Source: RFC 9942 §5.3, RFC 9162
// §2.1.4.2.
func (r *Receipt) VerifyConsistency(older Roots, key crypto.PublicKey, mode Mode) ([32]byte, error) {
	if mode != COSEOnly {
		if err := r.checkClaims(); err != nil {
			return [32]byte{}, err
		}
	}
	root, err := r.grown(older)
	if err != nil {
		return [32]byte{}, err
	}
	if err := r.checkSignature([32]byte(root), key); err != nil {
		return [32]byte{}, err
	}
	return [32]byte(root), nil
}

// grown is the one root that every consistency proof leads to.
func (r *Receipt) grown(older Roots) (root []byte, err error) {
	if len(r.Consistency) == 0 {
		return nil, fmt.Errorf("%w: no consistency proof", ErrPath)
	}
	if err := r.oneTree(); err != nil {
		return nil, err
	}
	for i, p := range r.Consistency {
		old, ok := older[p.From]
		if !ok {
			return nil, fmt.Errorf("%w: proof %d starts at size %d, of which no root is known", ErrPath, i, p.From)
		}
		b, err := p.root(old[:])
		if err != nil {
			return nil, err
		}
		if i > 0 && !bytes.Equal(b, root) {
			return nil, fmt.Errorf("%w: proofs 0 and %d lead to different roots", ErrPath, i)
		}
		root = b
	}
	return root, nil
}

// root is the newer root that follows from the older one. A path is the older
// tree's last perfect subtree, unless that is the whole tree, and the path of
// this subtree in the newer tree: with subtrees of its size for leaves, that is
// an inclusion path.
func (p Consistency) root(old []byte) ([]byte, error) {
	if p.From == 0 || p.From > p.To {
		return nil, fmt.Errorf("%w: from size %d to size %d", ErrPath, p.From, p.To)
	}
	root := old
	if p.From < p.To {
		height := bits.TrailingZeros64(p.From)
		subtree, path := old, p.Path
		if p.From != 1<<height {
			if len(path) == 0 {
				return nil, fmt.Errorf("%w: from size %d to size %d without a path", ErrPath, p.From, p.To)
			}
			subtree, path = path[0], path[1:]
		}
		var err error
		root, err = proof.RootFromInclusionProof(rfc6962.DefaultHasher, (p.From-1)>>height, (p.To-1)>>height+1, subtree, path)
		if err != nil {
			return nil, fmt.Errorf("%w: from size %d to size %d: %w", ErrPath, p.From, p.To, err)
		}
	}
	// This checks the older root; the newer one it computes once more.
	err := proof.VerifyConsistency(rfc6962.DefaultHasher, p.From, p.To, p.Path, old, root)
	if errors.As(err, new(proof.RootMismatchError)) {
		return nil, fmt.Errorf("%w: the path does not begin at the known root of size %d", ErrNotVerified, p.From)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: from size %d to size %d: %w", ErrPath, p.From, p.To, err)
	}
	return root, nil
}
