package publish

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/transparency-dev/formats/log"
)

// maxCheckpoint is more than a checkpoint with many cosignatures has.
const maxCheckpoint = 64 << 10

// checkpoint is what a signed note says. The zero value is of no note: nothing
// was published.
type checkpoint struct {
	signed     []byte // nil: none
	origin     string
	size       uint64
	root       []byte
	signatures int
}

// parseCheckpoint reads a note without verifying it: the log's own are verified
// when they are made, and those of the bucket are held against the log.
func parseCheckpoint(signed []byte) (checkpoint, error) {
	text, signatures, ok := bytes.Cut(signed, []byte("\n\n"))
	if !ok || len(signed) > maxCheckpoint {
		return checkpoint{}, errors.New("checkpoint: not a signed note")
	}
	var c log.Checkpoint
	if _, err := c.Unmarshal(append(bytes.Clone(text), '\n')); err != nil {
		return checkpoint{}, fmt.Errorf("checkpoint: %w", err)
	}
	if len(c.Hash) != 32 {
		return checkpoint{}, fmt.Errorf("checkpoint: root of %d bytes", len(c.Hash))
	}
	return checkpoint{
		signed: signed, origin: c.Origin, size: c.Size, root: c.Hash,
		signatures: bytes.Count(append([]byte("\n"), signatures...), []byte("\n— ")),
	}, nil
}

// covers says that next would add nothing.
func (c checkpoint) covers(next checkpoint) bool {
	if c.signed == nil {
		return false
	}
	return c.size > next.size || c.size == next.size && c.signatures >= next.signatures
}
