// Package memory remembers, outside the database, the newest head that a
// service has released, and stops a log that does not continue it.
//
// A log cannot tell by itself that its end is missing: an old backup is a sound
// log. So the newest signed head is also kept elsewhere, in a File, in a
// registry (Shelf), or by whoever else saw the log grow (a Memory that cannot be
// written, such as a witness). Check asks all of them before anything is signed,
// and any of them vetoes. A Guard tells them of every head that is committed.
//
// What it promises: nil from Check means that the database holds everything that
// was remembered, under the root that was remembered, and that somebody who
// keeps such a memory apart from this machine's disk was heard, or there is
// nobody, or this disk remembers. A memory lags behind the log by what was
// committed since it was last written, except a File in sync mode, which is
// written before anything is acknowledged.
//
// It knows signed heads. It does not know databases, registries or witnesses.
package memory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/receipts"
)

var (
	// ErrNothing: this memory was asked and has never been told anything.
	ErrNothing = errors.New("remembers nothing")
	// ErrRollback: the database does not hold what was remembered. Nothing may
	// be signed on top of it.
	ErrRollback = errors.New("the log was rolled back or rewritten")
	// ErrUnheard: nobody could be asked who knows whether this is all of the log.
	ErrUnheard = errors.New("no external memory of the log could be asked")
)

// Memory is something outside the database that saw the log grow.
type Memory interface {
	// Name says which, for operators: "file keys/head.json".
	Name() string
	// Last returns the newest head it was told of. ErrNothing: it answers, and
	// knows none. ErrRollback: it knows by itself that the log is not what it
	// was. Any other error is no answer.
	Last(ctx context.Context) (Remembered, error)
}

// Keeper is a Memory of ours.
type Keeper interface {
	Memory
	// Keep makes h the newest head remembered; durable on nil. Keeping again
	// what is kept is fine.
	Keep(ctx context.Context, h receipts.SignedHead) error
}

// Remembered is a head of the log. Of somebody else's memory only the size may
// be known.
type Remembered struct {
	Size   uint64
	Root   []byte               // nil: not known
	Signed *receipts.SignedHead // nil: not ours to verify
}

// Log is what is held against the memories.
type Log interface {
	// Newest returns the newest head.
	Newest(ctx context.Context) (receipts.Head, error)
	// At returns the stored head of exactly this size, if there is one.
	At(ctx context.Context, size uint64) (h receipts.Head, ok bool, err error)
	// Grew proves from what is stored that the tree of size to continues that
	// of size from; both are sizes of stored heads and from is the smaller.
	Grew(ctx context.Context, from, to uint64) error
	// Keys are those that heads may be signed with.
	Keys() receipts.KeySet
}

// askTime is how long one memory may take to answer.
const askTime = 10 * time.Second

// Check holds the log against what local, nil when there is none, and the
// others remember, in this order, and returns the first veto: an error that
// wraps ErrRollback. It is one read or a few of each, whatever the size of the
// log; the others are asked at once, so that many silent ones take no longer
// than one.
//
// Others that do not answer are told to silent. They may be silent as long as
// local remembers, or one of the others was heard: else ErrUnheard.
func Check(ctx context.Context, l Log, local *File, others []Memory, silent func(Memory, error)) error {
	known := false
	if local != nil {
		switch err := ask(ctx, l, local); {
		case err == nil:
			known = true
		case !errors.Is(err, ErrNothing):
			return err
		}
	}
	answers := make([]error, len(others))
	var all sync.WaitGroup
	for i, m := range others {
		all.Go(func() { answers[i] = ask(ctx, l, m) })
	}
	all.Wait()
	heard := 0
	var missing []string
	for i, m := range others {
		err := answers[i]
		switch {
		case err == nil || errors.Is(err, ErrNothing):
			heard++
		case errors.Is(err, ErrRollback), ctx.Err() != nil:
			return err
		default:
			missing = append(missing, m.Name())
			silent(m, err)
		}
	}
	if !known && heard == 0 && len(missing) > 0 {
		return fmt.Errorf("%w: this disk remembers nothing, and of %s none answers; without one of them an old copy of the log cannot be told from the log", ErrUnheard, strings.Join(missing, ", "))
	}
	return nil
}

// ask holds the log against one memory.
func ask(ctx context.Context, l Log, m Memory) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	r, err := m.Last(ctx)
	if err != nil {
		return fmt.Errorf("ask %s: %w", m.Name(), err)
	}
	return agree(ctx, l, m.Name(), r)
}

// agree says whether the log still holds what is remembered.
func agree(ctx context.Context, l Log, who string, r Remembered) error {
	if s := r.Signed; s != nil && !slices.ContainsFunc(l.Keys(), func(k cose.Key) bool { return receipts.VerifyHead(*s, k.Public) == nil }) {
		return fmt.Errorf("%w, or %s is another log's: the head of size %d that it remembers is signed by no key of this log", ErrRollback, who, r.Size)
	}
	newest, err := l.Newest(ctx)
	if err != nil {
		return err
	}
	if newest.Size < r.Size {
		return fmt.Errorf("%w: %s remembers size %d%s, the database ends at size %d (root %x): %d entries are missing",
			ErrRollback, who, r.Size, root(r.Root), newest.Size, newest.Root, r.Size-newest.Size)
	}
	if r.Root == nil {
		return nil
	}
	stored, ok, err := l.At(ctx, r.Size)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%w: %s remembers a head of size %d%s, the database, of size %d, has none of that size", ErrRollback, who, r.Size, root(r.Root), newest.Size)
	}
	if string(stored.Root[:]) != string(r.Root) {
		return fmt.Errorf("%w: %s remembers size %d%s, the database has root %x there", ErrRollback, who, r.Size, root(r.Root), stored.Root)
	}
	if r.Size == newest.Size {
		return nil
	}
	if err := l.Grew(ctx, r.Size, newest.Size); err != nil {
		return fmt.Errorf("%w: %s remembers size %d%s, and the database, of size %d, cannot prove that it continues it: %w", ErrRollback, who, r.Size, root(r.Root), newest.Size, err)
	}
	return nil
}

func root(r []byte) string {
	if r == nil {
		return ""
	}
	return fmt.Sprintf(" (root %x)", r)
}

// document is how a head is written, in a file and in a registry.
type document struct {
	Size      uint64    `json:"size"`
	Root      []byte    `json:"root"`
	Time      time.Time `json:"time"`
	Protected []byte    `json:"protected"` // with Root, what Signature is over
	Signature []byte    `json:"signature"`
}

// maxDocument is more than a protected header with the longest names takes.
const maxDocument = 256 << 10

func encode(h receipts.SignedHead) []byte {
	b, err := json.MarshalIndent(document{h.Size, h.Root[:], h.Time.UTC(), h.Protected, h.Signature}, "", "  ")
	if err != nil {
		panic(err) // numbers, bytes and a time that was signed
	}
	return append(b, '\n')
}

func decode(b []byte) (Remembered, error) {
	var d document
	if err := json.Unmarshal(b, &d); err != nil {
		return Remembered{}, fmt.Errorf("it holds no head: %w", err)
	}
	if d.Size == 0 || len(d.Root) != 32 {
		return Remembered{}, fmt.Errorf("it holds no head: size %d, root of %d bytes", d.Size, len(d.Root))
	}
	h := receipts.SignedHead{Head: receipts.Head{Size: d.Size, Root: [32]byte(d.Root), Time: d.Time}, Protected: d.Protected, Signature: d.Signature}
	return Remembered{Size: d.Size, Root: d.Root, Signed: &h}, nil
}
