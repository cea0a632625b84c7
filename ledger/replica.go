package ledger

import (
	"context"
	"errors"
	"fmt"

	"github.com/scittd/scittd/statement"
)

// Stats are a process's figures since Open, for whoever watches it.
type Stats struct {
	Size      uint64 // of the newest head that this process has seen
	Committed uint64 // batches
	Discarded uint64 // batches that were built and lost the compare-and-swap
	Turns     uint64 // times that the newest head was locked to build a batch

	Waiting, WaitingBytes int    // submissions in the queue
	Refused               uint64 // submissions for which it had no room
}

// Stats returns them as of now.
func (l *Ledger) Stats() Stats {
	waiting, bytes, refused := l.queue.load()
	return Stats{
		Size: l.current.Load().head.Size, Committed: l.counts.committed.Load(),
		Discarded: l.counts.discarded.Load(), Turns: l.counts.turns.Load(),
		Waiting: waiting, WaitingBytes: bytes, Refused: refused,
	}
}

// Refresh looks whether another process has grown the log, and takes over what
// its entries say about the log itself: the policy in force, the keys. A process
// that commits learns of it anyhow; one that only reads, or has nothing to do,
// calls this now and then: it is one read, and little more when there is news.
// An error leaves all as it was. ErrCorrupt with ErrHalted: the log has gone back
// behind what this process has seen of it, perhaps to grow in another way since.
func (l *Ledger) Refresh(ctx context.Context) error {
	known := l.current.Load().head
	h, err := l.store.Head(ctx)
	if errors.Is(err, ErrEmpty) {
		h, err = Head{}, nil
	}
	if err != nil {
		return err
	}
	if h.Size > known.Size {
		err = continues(ctx, l.store, known, h)
	} else if h.Size < known.Size || h.Root != known.Root {
		err = moved(known, h)
	}
	if errors.Is(err, errMoved) {
		l.halt.set(err)
		return l.halt.err()
	}
	if err != nil {
		return err
	}
	return l.see(ctx, h)
}

// see takes over what a newest head stands for.
func (l *Ledger) see(ctx context.Context, h Head) error {
	known := l.current.Load()
	if h.Size <= known.head.Size {
		return nil
	}
	st, err := advance(ctx, l.store, known, h)
	if err != nil {
		return fmt.Errorf("look at the head of size %d: %w", h.Size, err)
	}
	publish(&l.current, st)
	return nil
}

// Fresh returns a receipt of one visible entry under the newest head, which says
// that the log still holds it. ErrNotFound.
func (l *Ledger) Fresh(ctx context.Context, id statement.ID, scope Scope) ([]byte, error) {
	index, err := l.index(ctx, id, scope)
	if err != nil {
		return nil, err
	}
	h, err := l.Head(ctx) // read after the index: it covers it
	if err != nil {
		return nil, err
	}
	return l.receipt(ctx, h, id, index)
}
