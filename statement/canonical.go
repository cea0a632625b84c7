package statement

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/scittd/scittd/internal/detcbor"
)

// ID is the entry ID of a statement: SHA-256 of its canonical bytes. It is known
// before registration and is the same in every log.
type ID [sha256.Size]byte

// ParseID reads 64 lower-case hex digits.
func ParseID(s string) (ID, error) {
	var id ID
	return id, id.UnmarshalText([]byte(s))
}

// String is 64 lower-case hex digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText implements encoding.TextMarshaler.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler. It leaves id alone unless b is an ID.
func (id *ID) UnmarshalText(b []byte) error {
	if !isHex(string(b), 2*sha256.Size) {
		return fmt.Errorf("entry id %s is not 64 lower-case hex digits", quote(string(b)))
	}
	_, err := hex.Decode(id[:], b)
	return err
}

// The parts of the canonical form that never change.
const (
	emptyMap = 0xa0
	null     = 0xf6
)

// rewrite returns the canonical form of m and makes m point into it, so that
// nothing of a statement hangs on the bytes it was read from.
func (m *message) rewrite() []byte {
	const heads = 2 + 3*9 + 1
	b := make([]byte, 0, heads+len(m.protected)+len(m.payload)+len(m.signature))
	b = append(b, tagHead, arrayHead)
	b = own(b, &m.protected)
	b = append(b, emptyMap)
	if m.payload == nil {
		b = append(b, null)
	} else {
		b = own(b, &m.payload)
	}
	return own(b, &m.signature)
}

// own appends *part as a byte string and makes *part point at its content there.
// b has room enough.
func own(b []byte, part *[]byte) []byte {
	n := len(*part)
	b = detcbor.AppendBytes(b, *part)
	*part = b[len(b)-n : len(b) : len(b)]
	return b
}
