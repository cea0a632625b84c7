package publish

import (
	"errors"

	format "github.com/scittd/scittd/internal/checkpoint"
)

// maxCheckpoint is more than a checkpoint with many cosignatures has.
const maxCheckpoint = 64 << 10

// checkpoint is what a signed note says. The zero value is of no note: nothing
// was published.
type checkpoint struct {
	signed     []byte // nil: none
	damaged    bool   // there was something that cannot be read
	origin     string
	size       uint64
	root       [32]byte
	signatures int
}

// parseCheckpoint reads a note without verifying it: the log's own are verified
// when they are made, and those of the bucket are held against the log.
func parseCheckpoint(signed []byte) (checkpoint, error) {
	if len(signed) > maxCheckpoint {
		return checkpoint{}, errors.New("checkpoint: too long")
	}
	c, err := format.Parse(signed)
	if err != nil {
		return checkpoint{}, err
	}
	return checkpoint{signed: signed, origin: c.Origin, size: c.Size, root: c.Root, signatures: c.Signatures}, nil
}

// covers says that next would add nothing.
func (c checkpoint) covers(next checkpoint) bool {
	if c.signed == nil {
		return false
	}
	return c.size > next.size || c.size == next.size && c.signatures >= next.signatures
}
