package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/scittd/scittd/ledger"
)

// turn is an open transaction that has the newest head's row locked. Its batch
// is written and committed by one more round trip.
type turn struct {
	store *Store
	conn  *pgxpool.Conn // nil: it is over
	head  ledger.Head
}

// Turn locks the newest head's row. Who held it before has most likely
// committed, so that the row which was waited for is not the newest any more:
// the second look, a statement with a snapshot of its own, moves the lock to
// the one that is, in the same round trip. Locks are taken in the order of the
// log, so there is no deadlock; those that stay behind on older rows make the
// queue.
func (s *Store) Turn(ctx context.Context) (ledger.Turn, error) {
	conn, err := s.commits.acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("wait for a turn: %w", err)
	}
	t := &turn{store: s, conn: conn}
	if err := t.wait(ctx); err != nil {
		conn.Release() // which ends a session that is in a transaction
		return nil, fmt.Errorf("wait for a turn: %w", err)
	}
	return t, nil
}

const lockNewest = `SELECT size FROM heads ORDER BY size DESC LIMIT 1 FOR UPDATE`

func (t *turn) wait(ctx context.Context) error {
	if t.store.portable {
		return t.waitApart(ctx)
	}
	var q pgx.Batch
	// Whatever the database's default: each statement shall see what is
	// committed when it begins.
	q.Queue(`BEGIN ISOLATION LEVEL READ COMMITTED`)
	for {
		var locked uint64
		q.Queue(lockNewest)
		q.Queue(lockNewest).QueryRow(func(row pgx.Row) error { return row.Scan(&locked) })
		q.Queue(`SELECT ` + headColumns + ` FROM heads ORDER BY size DESC LIMIT 1`).
			QueryRow(func(row pgx.Row) (err error) {
				t.head, err = scanHead(row)
				return err
			})
		err := t.conn.SendBatch(ctx, &q).Close()
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return ledger.ErrEmpty
		case err != nil && ctx.Err() == nil && (t.conn.Conn().IsClosed() || passing(err)):
			return t.store.waitedInVain(ctx, unavailable(err))
		case err != nil:
			return err
		case locked == t.head.Size:
			return nil
		}
		q = pgx.Batch{} // somebody was quicker between the two: behind them, then
	}
}

func (t *turn) Head() ledger.Head { return t.head }

// Commit sends the batch and COMMIT in one round trip. After an error the rest
// of it is skipped, COMMIT too, and the failed transaction ends with its session.
func (t *turn) Commit(ctx context.Context, b *ledger.Batch) error {
	if t.conn == nil {
		return fmt.Errorf("commit at size %d: the turn is over", b.Head.PrevSize)
	}
	defer t.end()
	w, err := t.store.write(b)
	if err != nil {
		return fmt.Errorf("commit at size %d: %w", b.Head.PrevSize, err)
	}
	w.Queue(`COMMIT`).Exec(func(done pgconn.CommandTag) error {
		if done.String() != "COMMIT" {
			return fmt.Errorf("COMMIT was answered with %s", done)
		}
		return nil
	})
	err = t.store.send(ctx, t.conn, w)
	if yielded(err) { // the lock is gone, but the head's row decides without it
		t.end()
		return t.store.Commit(ctx, b)
	}
	if err != nil {
		return fmt.Errorf("commit at size %d: %w", b.Head.PrevSize, err)
	}
	return nil
}

// Release rolls back what is not committed.
func (t *turn) Release() {
	if t.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	// Should it fail, the pool ends the session, which comes to the same.
	_, _ = t.conn.Exec(ctx, `ROLLBACK`)
	t.end()
}

func (t *turn) end() {
	if t.conn != nil {
		t.conn.Release()
	}
	t.conn = nil
}

// stopped is how long a session may have the newest head locked and say nothing
// before others who wait for it end it.
const stopped = time.Second

// waitedInVain looks, after a wait for the newest head that was too long, whether
// it is held by a client that has stopped, and ends that one's session.
// idle_in_transaction_session_timeout does so by itself between messages, but
// not in the middle of one. Who had to wait for the lock just as long, and has
// only now got it, is left alone. err is returned as it came; where the server
// does not let us, there is the timeout.
func (s *Store) waitedInVain(ctx context.Context, err error) error {
	if !hasState(err, lockNotAvailable) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = s.work.run(ctx, func(c *pgx.Conn) error {
		_, err := c.Exec(ctx, `
			SELECT pg_terminate_backend(a.pid)
			FROM pg_locks l JOIN pg_stat_activity a USING (pid)
			WHERE l.relation = 'heads'::regclass AND l.granted AND l.mode IN ('RowShareLock', 'RowExclusiveLock')
			  AND a.datname = current_database() AND a.wait_event = 'ClientRead'
			  AND a.state_change < clock_timestamp() - $1 * interval '1 millisecond'`, stopped.Milliseconds())
		return err
	})
	return err
}
