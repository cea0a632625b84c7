package receipts

import (
	"bytes"
	"fmt"

	"github.com/scittd/scittd/internal/cose"
)

// KeySet is a service's receipt keys: the current one first, then the retired
// ones, which stay for as long as their receipts may be checked.
type KeySet []cose.Key

// ParseKeySet reads a COSE Key Set (application/cbor of scitt-keys). Keys that
// cannot be used here are left out; a set without any other is an error.
func ParseKeySet(b []byte) (KeySet, error) { return cose.ParseKeySet(b) }

// Marshal writes the set in its order, deterministically.
func (s KeySet) Marshal() ([]byte, error) { return cose.MarshalKeySet(s) }

// Find returns the first key of that id. A key without kid is found by its
// RFC 9679 thumbprint; no kid finds no key.
func (s KeySet) Find(kid []byte) (cose.Key, bool) {
	for _, k := range s {
		id := k.ID
		if len(id) == 0 {
			t, err := cose.Thumbprint(k.Public)
			if err != nil {
				continue
			}
			id = t[:]
		}
		if bytes.Equal(id, kid) {
			return k, true
		}
	}
	return cose.Key{}, false
}

// Verify checks r, as Receipt.Verify does, with the key that r names. It also
// keeps a key to the algorithm that the set says it is for. ErrUnknownKey: the
// set does not have it.
func (s KeySet) Verify(r *Receipt, entry []byte, mode Mode) error {
	k, err := s.keyOf(r)
	if err != nil {
		return err
	}
	return r.Verify(entry, k.Public, mode)
}

// VerifyConsistency checks r, as Receipt.VerifyConsistency does, with the key
// that r names, under the conditions of Verify.
func (s KeySet) VerifyConsistency(r *Receipt, older Roots, mode Mode) ([32]byte, error) {
	k, err := s.keyOf(r)
	if err != nil {
		return [32]byte{}, err
	}
	return r.VerifyConsistency(older, k.Public, mode)
}

func (s KeySet) keyOf(r *Receipt) (cose.Key, error) {
	k, ok := s.Find(r.KeyID)
	if !ok {
		return k, fmt.Errorf("%w: kid %x", ErrUnknownKey, r.KeyID)
	}
	if err := k.Permits(r.Alg); err != nil {
		return k, fmt.Errorf("%w: %w", ErrNotVerified, err)
	}
	return k, nil
}
