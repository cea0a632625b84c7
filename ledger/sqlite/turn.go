package sqlite

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/scittd/scittd/ledger"
)

// turn keeps the ledgers of this process apart; no other process commits.
type turn struct {
	store *Store
	head  ledger.Head
	leave func()
	over  bool
}

// Turn waits for the commit or the turn in progress.
func (s *Store) Turn(ctx context.Context) (ledger.Turn, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	h, err := s.Head(ctx)
	if err != nil {
		leave()
		return nil, err
	}
	return &turn{store: s, head: h, leave: leave}, nil
}

// enter is held by whoever commits, or is about to.
func (s *Store) enter(ctx context.Context) (leave func(), err error) {
	if s.lock == nil {
		return nil, errors.New("this process does not hold the log")
	}
	select {
	case s.turn <- struct{}{}:
		return sync.OnceFunc(func() { <-s.turn }), nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: wait for a turn: %w", ledger.ErrUnavailable, ctx.Err())
	}
}

func (t *turn) Head() ledger.Head { return t.head }

func (t *turn) Commit(ctx context.Context, b *ledger.Batch) error {
	if t.over {
		return fmt.Errorf("commit at size %d: the turn is over", b.Head.PrevSize)
	}
	defer t.Release()
	return t.store.commit(ctx, b)
}

func (t *turn) Release() {
	t.over = true
	t.leave()
}
