// Package cose holds what Signed Statements and Receipts share: the signature
// algorithms, the Sig_structure of RFC 9052, COSE_Key with its thumbprint, and
// the key files people keep.
//
// It promises that no signature is accepted under an algorithm that does not
// belong to the key, that no weak or malformed key comes out of a parser, and
// that the bytes that are signed are the bytes the caller holds: a protected
// header is never decoded and encoded again.
//
// Primitives come from go-cose, which this package alone imports. It knows
// neither SCITT's headers nor any policy: which key to trust is not its
// question.
package cose

import "errors"

// Every refusal wraps exactly one of these; what else fails is a private key
// that could not sign.
var (
	// ErrAlgorithm: the algorithm is not one of the list, or does not fit the key.
	ErrAlgorithm = errors.New("unsupported or mismatched algorithm")
	// ErrKey: the key is malformed, off its curve, of small order, or too weak or too large.
	ErrKey = errors.New("unacceptable key")
	// ErrSignature: the signature does not verify.
	ErrSignature = errors.New("signature does not verify")
)
