package ledger

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// defaultCadence is how often a checkpoint is published at most.
const defaultCadence = time.Second

// checkpoints turns signed heads into C2SP checkpoints: signed notes.
//
// Nothing is stored. An Ed25519 signature is a function of key and text, and
// the text one of a stored head, so that every process with the key publishes
// the same bytes for a size, also after a restart. A process without the key
// has none to show. Which of the heads become checkpoints is each process's
// own cadence; they are all heads of one log, and this one's never go back.
type checkpoints struct {
	origin   string
	verifier note.Verifier // of key, as the log announced it
	key      crypto.Signer
	every    time.Duration
	steady   func() time.Duration

	turn chan struct{} // holds one element while somebody looks for growth
	last atomic.Pointer[checkpoint]
}

type checkpoint struct {
	head   Head
	note   []byte
	looked time.Duration // steady time at which it was of the newest head
}

// newCheckpoints refuses a key that the log did not announce.
func newCheckpoints(o Options, st *state, steady func() time.Duration) (*checkpoints, error) {
	public, ok := o.Checkpoint.Public().(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("checkpoint key: %T is not an Ed25519 key", o.Checkpoint.Public())
	}
	origin := st.service().Origin
	vkey, err := note.NewEd25519VerifierKey(origin, public)
	if err != nil {
		return nil, fmt.Errorf("checkpoint key: %w", err)
	}
	if !slices.ContainsFunc(st.announced, func(s Service) bool { return slices.Contains(s.CheckpointKeys, vkey) }) {
		return nil, fmt.Errorf("checkpoint key %s is not announced in the log: publish a service statement that names it first", vkey)
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return nil, fmt.Errorf("checkpoint key %s: %w", vkey, err)
	}
	every := o.Cadence
	if every <= 0 {
		every = defaultCadence
	}
	return &checkpoints{
		origin: origin, verifier: verifier, key: o.Checkpoint, every: every, steady: steady, turn: make(chan struct{}, 1),
	}, nil
}

// Checkpoint returns the published checkpoint: a note of the newest head that
// was there when it was last looked for, which is done once per Options.Cadence
// and when somebody asks. While the store is away it stays the last one.
// ErrReadOnly: this process has no checkpoint key.
//
// SPEC C2SP tlog-checkpoint: a log MUST NOT sign checkpoints that are
// inconsistent. Each is proven to continue the one before.
func (l *Ledger) Checkpoint(ctx context.Context) ([]byte, error) {
	c := l.checkpoints
	if c == nil {
		return nil, fmt.Errorf("%w for checkpoints", ErrReadOnly)
	}
	last := c.last.Load()
	if last != nil {
		if c.steady()-last.looked < c.every {
			return last.note, nil
		}
		select {
		case c.turn <- struct{}{}:
		default:
			return last.note, nil // somebody is looking
		}
	} else {
		select {
		case c.turn <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	defer func() { <-c.turn }()
	if last = c.last.Load(); last != nil && c.steady()-last.looked < c.every {
		return last.note, nil
	}
	next, err := l.nextCheckpoint(ctx, last)
	if err != nil {
		if last != nil && !errors.Is(err, ErrCorrupt) {
			return last.note, nil
		}
		return nil, err
	}
	c.last.Store(next)
	return next.note, nil
}

// nextCheckpoint follows last, which is nil for the first one of this process.
func (l *Ledger) nextCheckpoint(ctx context.Context, last *checkpoint) (*checkpoint, error) {
	looked := l.checkpoints.steady()
	if err := l.halt.err(); err != nil {
		return nil, err
	}
	h, err := l.store.Head(ctx)
	if err != nil {
		return nil, err
	}
	switch {
	case last == nil:
		err = l.trust(ctx, h)
	case h.Size == last.head.Size && h.Root == last.head.Root:
		return &checkpoint{head: last.head, note: last.note, looked: looked}, nil
	case h.Size <= last.head.Size:
		err = fmt.Errorf("%w: the newest head, of size %d and root %x, does not continue the published one of size %d", ErrCorrupt, h.Size, h.Root, last.head.Size)
	default:
		_, err = l.growth(ctx, last.head, h)
	}
	if err != nil {
		return nil, err
	}
	if err := l.remember(ctx, h); err != nil {
		return nil, fmt.Errorf("remember the head of size %d: %w", h.Size, err)
	}
	signed, err := l.checkpoints.sign(h)
	if err != nil {
		return nil, fmt.Errorf("%w: sign a checkpoint of size %d: %w", ErrUnavailable, h.Size, err)
	}
	return &checkpoint{head: h, note: signed, looked: looked}, nil
}

// sign makes the note of h.
//
// SPEC C2SP tlog-checkpoint: origin, decimal size and base64 root, each on a
// line of its own. No extension lines: they are not recommended.
func (c *checkpoints) sign(h Head) ([]byte, error) {
	text := fmt.Sprintf("%s\n%d\n%s\n", c.origin, h.Size, base64.StdEncoding.EncodeToString(h.Root[:]))
	return note.Sign(&note.Note{Text: text}, noteSigner{c})
}

// noteSigner is the key as sumdb/note wants it.
type noteSigner struct{ *checkpoints }

func (s noteSigner) Name() string    { return s.verifier.Name() }
func (s noteSigner) KeyHash() uint32 { return s.verifier.KeyHash() }

// Sign verifies its own signature before it returns it: a key in hardware, or
// memory, may fail without saying so.
func (s noteSigner) Sign(msg []byte) ([]byte, error) {
	sig, err := s.key.Sign(rand.Reader, msg, crypto.Hash(0))
	if err != nil {
		return nil, err
	}
	if !s.verifier.Verify(msg, sig) {
		return nil, errors.New("own signature does not verify")
	}
	return sig, nil
}
