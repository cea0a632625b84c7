// Package checkpoint reads checkpoints of C2SP tlog-checkpoint: the signed note in
// which a log says how large it is and what its root is. Everybody who reads one
// reads it here, so that none takes for a checkpoint what another does not.
//
// It verifies no signature, and it knows no log.
package checkpoint

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/transparency-dev/formats/log"
)

// Checkpoint is what a note says.
type Checkpoint struct {
	Text   string // that is signed, with its last line end
	Origin string
	Size   uint64
	Root   [32]byte
	// Signatures is how many lines claim to be one.
	Signatures int
}

// Parse reads a signed note.
//
// SPEC C2SP tlog-checkpoint: origin, decimal size without leading zeros and base64
// root, each on a line of its own, before any others; signed-note: the text ends
// with the last empty line.
func Parse(signed []byte) (Checkpoint, error) {
	end := bytes.LastIndex(signed, []byte("\n\n"))
	if end < 0 {
		return Checkpoint{}, errors.New("checkpoint: not a signed note")
	}
	var tree log.Checkpoint
	if _, err := tree.Unmarshal(signed[:end+1]); err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint: %w", err)
	}
	c := Checkpoint{Text: string(signed[:end+1]), Origin: tree.Origin, Size: tree.Size}
	if len(tree.Hash) != len(c.Root) {
		return Checkpoint{}, fmt.Errorf("checkpoint: a root of %d bytes", len(tree.Hash))
	}
	if !strings.HasPrefix(c.Text, string(tree.Marshal())) {
		return Checkpoint{}, fmt.Errorf("checkpoint: size or root of %.80q is not written as it has to be", c.Text)
	}
	c.Root = [32]byte(tree.Hash)
	c.Signatures = bytes.Count(signed[end+1:], []byte("\n— "))
	return c, nil
}
