package receipts

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/scittd/scittd/internal/detcbor"
)

// BuildTransparent makes a Transparent Statement of a canonical statement: its
// receipts (394) and, when given, the certificate chain (33), leaf first, as
// unprotected header. Deterministic; protected header, payload and signature
// stay as they are. ErrTransparent: canonical is not in canonical form, or the
// result would have a label in both headers.
func BuildTransparent(canonical []byte, chain [][]byte, receipts ...[]byte) ([]byte, error) {
	e, err := open(canonical, maxTransparent)
	if err != nil {
		return nil, fmt.Errorf("%w: statement: %w", ErrTransparent, err)
	}
	if !bytes.Equal(e.canonical(), canonical) {
		return nil, fmt.Errorf("%w: the statement is not in canonical form", ErrTransparent)
	}
	// SPEC RFC 9943 §7: one receipt or more.
	if len(receipts) == 0 {
		return nil, fmt.Errorf("%w: no receipt", ErrTransparent)
	}
	for i, r := range receipts {
		if _, err := open(r, maxReceipt); err != nil {
			return nil, fmt.Errorf("%w: receipt %d: %w", ErrTransparent, i, err)
		}
	}
	unprotected := map[int64]any{labelReceipts: receipts}
	for i, c := range chain {
		if len(c) == 0 {
			return nil, fmt.Errorf("%w: certificate %d is empty", ErrTransparent, i)
		}
	}
	// SPEC RFC 9360 §2: one certificate is a byte string, more are an array.
	switch len(chain) {
	case 0:
	case 1:
		unprotected[labelChain] = chain[0]
	default:
		unprotected[labelChain] = chain
	}
	// SPEC RFC 9052 §3: labels in the two buckets together MUST be unique.
	for label := range unprotected {
		if _, twice := e.inside.get(label); twice {
			return nil, fmt.Errorf("%w: label %d is already in the protected header", ErrTransparent, label)
		}
	}
	b, err := detcbor.Marshal(unprotected)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTransparent, err)
	}
	if len(b) > maxUnprotected {
		return nil, fmt.Errorf("%w: unprotected header of %d bytes, the limit is %d", ErrTransparent, len(b), maxUnprotected)
	}
	return e.with(b), nil
}

// SplitTransparent is the way back: the statement in canonical form (unprotected
// header empty, protected header, payload and signature as they are) and its
// receipts in their order. What else is unprotected is dropped. The receipts
// are not parsed, so that a strange one does not hide a good one. A statement
// without receipts is not transparent: ErrTransparent.
func SplitTransparent(b []byte) (canonical []byte, receipts [][]byte, err error) {
	e, err := open(b, maxTransparent)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrTransparent, err)
	}
	raw, ok := e.outside.get(labelReceipts)
	if !ok {
		err = errors.New("no receipts (394) in the unprotected header")
	} else if receipts, err = byteStrings(raw); err != nil {
		err = fmt.Errorf("receipts: %w", err)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrTransparent, err)
	}
	return e.canonical(), receipts, nil
}
