package embedded

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// maxBatch bounds how many changes share one transaction.
const maxBatch = 64

// change is one all-or-nothing alteration of the database.
type change struct {
	apply func(*sql.Tx) error
	lazy  bool
	done  chan error
}

// commit applies one change and returns when it is durable, or refused, or
// failed. Changes that wait at the same time share a transaction and its one
// sync; a change that returns an error is undone alone.
func (r *Registry) commit(ctx context.Context, apply func(*sql.Tx) error) error {
	return r.submit(ctx, change{apply: apply})
}

// commitLazily is for what a power cut may take, though a crash of the process
// may not: where an upload stands.
func (r *Registry) commitLazily(ctx context.Context, apply func(*sql.Tx) error) error {
	return r.submit(ctx, change{apply: apply, lazy: true})
}

// submit does not give up on a change the writer has taken: apply writes to its
// caller's variables, and the caller must know whether it happened.
func (r *Registry) submit(ctx context.Context, c change) error {
	c.done = make(chan error, 1)
	select {
	case r.changes <- c:
		return <-c.done
	case <-ctx.Done():
		return ctx.Err()
	case <-r.stopped:
		return errClosed
	}
}

// writer takes whatever changes queued up during the previous commit and
// commits them together. It alone uses the writing connection.
func (r *Registry) writer() {
	defer r.running.Done()
	for {
		var batch []change
		select {
		case c := <-r.changes:
			batch = append(batch, c)
		case <-r.stopped:
			return
		}
		for waiting := true; waiting && len(batch) < maxBatch; {
			select {
			case c := <-r.changes:
				batch = append(batch, c)
			default:
				waiting = false
			}
		}
		r.commitBatch(batch)
	}
}

func (r *Registry) commitBatch(batch []change) {
	results := make([]error, len(batch))
	err := r.transact(batch, results)
	for i, c := range batch {
		// A refused change was refused whatever became of the others.
		if results[i] == nil {
			results[i] = err
		}
		c.done <- results[i]
	}
}

func (r *Registry) transact(batch []change, results []error) (err error) {
	lazy := true
	for _, c := range batch {
		lazy = lazy && c.lazy
	}
	if lazy {
		if _, err := r.write.Exec("PRAGMA synchronous = NORMAL"); err != nil {
			return fmt.Errorf("write registry.db: %w", err)
		}
		// A FULL that fails to come back must not leave later commits lazy.
		defer func() {
			if _, full := r.write.Exec("PRAGMA synchronous = FULL"); full != nil {
				err = errors.Join(err, fmt.Errorf("write registry.db: %w", full))
			}
		}()
	}
	tx, err := r.write.Begin()
	if err != nil {
		return fmt.Errorf("write registry.db: %w", err)
	}
	defer tx.Rollback() // without effect after Commit
	for i, c := range batch {
		if _, err := tx.Exec("SAVEPOINT one"); err != nil {
			return fmt.Errorf("write registry.db: %w", err)
		}
		if results[i] = c.apply(tx); results[i] != nil {
			if _, err := tx.Exec("ROLLBACK TO one"); err != nil {
				return fmt.Errorf("write registry.db: %w", err)
			}
		}
		if _, err := tx.Exec("RELEASE one"); err != nil {
			return fmt.Errorf("write registry.db: %w", err)
		}
	}
	var used int64
	if err := tx.QueryRow("SELECT bytes FROM usage").Scan(&used); err != nil {
		return fmt.Errorf("write registry.db: %w", err)
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("write registry.db: %w", err)
	}
	r.used.Store(used)
	return nil
}

// repositoryID returns the row of repository name, creating it.
func repositoryID(tx *sql.Tx, name string) (id int64, err error) {
	err = tx.QueryRow("SELECT id FROM repositories WHERE name = ?", name).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		err = tx.QueryRow("INSERT INTO repositories (name) VALUES (?) RETURNING id", name).Scan(&id)
	}
	return id, err
}
