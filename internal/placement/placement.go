// Package placement says what hangs on an image once a claim about it is
// registered: its evidence, and the transparency artifact. Both are functions of
// the statement and its receipt alone, so whoever places them, the service's
// Courier or a client with its own credentials, makes the same manifests.
//
// It does not know who places, where, or whether that is allowed.
package placement

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
	"github.com/scittd/scittd/storage"
)

// Evidence is what s speaks for. It opens an attached payload; of a hash
// envelope or a detached payload somebody else has the bytes, and Open is nil.
// The digest of a detached one has to be known to s.
func Evidence(s *statement.Statement) storage.Evidence {
	e := storage.Evidence{Digest: string(s.Evidence()), MediaType: s.MediaType()}
	if s.Attached() {
		e.Open = func() (io.ReadCloser, int64, error) {
			return io.NopCloser(bytes.NewReader(s.Payload)), int64(len(s.Payload)), nil
		}
	}
	return e
}

// Transparency is the artifact of a Transparent Statement and the receipt in
// it. Neither signature is verified. The evidence of a detached statement is not
// in there, and so not in the artifact either, which thus has the same bytes
// whoever makes it.
func Transparency(transparent, receipt []byte) (storage.Transparency, error) {
	s, err := statement.Parse(transparent)
	if err != nil {
		return storage.Transparency{}, fmt.Errorf("transparent statement: %w", err)
	}
	if !slices.ContainsFunc(s.Receipts, func(r []byte) bool { return bytes.Equal(r, receipt) }) {
		return storage.Transparency{}, errors.New("the transparent statement carries another receipt")
	}
	r, err := receipts.Parse(receipt)
	if err != nil {
		return storage.Transparency{}, fmt.Errorf("receipt: %w", err)
	}
	return storage.Transparency{
		Transparent: transparent, Receipt: receipt,
		Entry: s.ID().String(), Issuer: s.Issuer,
		MediaType: s.MediaType(), PredicateType: s.PredicateType(),
		Evidence: string(s.Evidence()), Log: r.Subject,
		Created: r.IssuedAt.UTC().Format(time.RFC3339),
	}, nil
}
