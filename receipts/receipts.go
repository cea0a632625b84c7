// Package receipts issues, reads and verifies COSE Receipts: the answer of a
// transparency service that a Signed Statement stands in its log, or that the
// log has only grown since an older tree head (RFC 9942, RFC 9943 §7).
//
// A service makes an Issuer, has it Sign each new tree head, and mints from a
// stored SignedHead and an inclusion path the receipt of any entry, without the
// key and for ever. Who holds a receipt calls Parse, finds the key by KeyID in
// the service's KeySet, and calls Verify with the entry: 32 bytes, the SHA-256
// of the canonical statement, when the log is ours.
//
//	r, err := receipts.Parse(b)
//	err = keys.Verify(r, entry, receipts.Strict)
//
// Who holds older roots instead of an entry asks for consistency, and learns
// the newer root:
//
//	root, err := keys.VerifyConsistency(r, receipts.Roots{3: old}, receipts.Strict)
//
// What it promises: nil from Verify means that the path leads from this entry
// to a root and that the signature over this root holds, nil from
// VerifyConsistency the same with older roots in place of the entry. Nothing
// less returns nil. What it cannot promise is more than RFC 9162 binds: sizes
// and index steer the path but are not signed, and some others steer it the
// same way.
//
// All tree arithmetic is transparency-dev/merkle; the tests have a second
// opinion from golang.org/x/mod/sumdb/tlog, for every index and size to 130.
//
// The package needs no database and no network, and does not know whom to
// trust: the key is the caller's choice.
package receipts

import "errors"

// What can be wrong. An error of Parse wraps ErrMalformed or ErrUnsupported; one
// of Verify wraps ErrClaims, ErrPath or ErrNotVerified, the last together with
// the error of internal/cose that says why.
var (
	// ErrMalformed: not a COSE Receipt.
	ErrMalformed = errors.New("malformed receipt")
	// ErrUnsupported: a receipt, but not one of an RFC 9162 log (vds 1): CCF
	// (vds 2), another structure, another kind of proof, an unknown critical
	// header.
	ErrUnsupported = errors.New("unsupported receipt")
	// ErrPath: index, sizes and path do not fit together, or there is no proof of
	// the kind that is asked for.
	ErrPath = errors.New("path does not fit")
	// ErrNotVerified: wrong entry, key, path or root. The root is detached, so
	// these look alike.
	ErrNotVerified = errors.New("receipt does not verify")
	// ErrClaims: valid in RFC 9942, but not in RFC 9943.
	ErrClaims = errors.New("receipt lacks a header or claim that RFC 9943 requires")
	// ErrUnknownKey: the key set has no key of the receipt's kid.
	ErrUnknownKey = errors.New("no such receipt key")
	// ErrTransparent: not a statement with receipts, or not parts to make one of.
	ErrTransparent = errors.New("malformed transparent statement")
)

// Header labels, claims and values (IANA "COSE Header Parameters", "CWT Claims",
// "COSE Verifiable Data Structure Algorithms" and "... Proofs").
const (
	labelAlg        = 1
	labelCrit       = 2
	labelKeyID      = 4
	labelClaims     = 15
	labelChain      = 33
	labelThumbprint = 34
	labelReceipts   = 394
	labelVDS        = 395
	labelVDP        = 396

	claimIssuer   = 1
	claimSubject  = 2
	claimIssuedAt = 6

	vdsRFC9162 = 1
	vdsCCF     = 2
	vdsMMR     = 3

	proofInclusion   = -1
	proofConsistency = -2
)
