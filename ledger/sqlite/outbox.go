package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

const deliveryColumns = `d."index", e.entry_id, d.registry, d.repository, d.subject, d.artifact,
	d.state, d.tries, d.next_at, d.last_error, d.manifest, d.size, e.registered_at`

func scanDeliveries(rows *sql.Rows) ([]ledger.Delivery, error) {
	defer rows.Close()
	var all []ledger.Delivery
	for rows.Next() {
		var d ledger.Delivery
		var id []byte
		var next, since int64
		if err := rows.Scan(&d.Entry, &id, &d.Registry, &d.Repository, &d.Subject, &d.Artifact,
			&d.State, &d.Tries, &next, &d.LastError, &d.Manifest, &d.Size, &since); err != nil {
			return nil, classify(err)
		}
		var err error
		if d.EntryID, err = entryID(d.Entry, id); err != nil {
			return nil, err
		}
		d.NextAt, d.Since = fromMillis(next), fromSeconds(since)
		all = append(all, d)
	}
	return all, classify(rows.Err())
}

// Deliveries of one visible entry.
func (s *Store) Deliveries(ctx context.Context, id statement.ID, scope ledger.Scope) ([]ledger.Delivery, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT `+deliveryColumns+` FROM entries e
		JOIN deliveries d ON d."index" = e."index"
		WHERE e.entry_id = ? AND `+visible+`
		ORDER BY d.registry, d.repository, d.subject, d.artifact`, id[:], scope == ledger.All)
	if err != nil {
		return nil, classify(err)
	}
	all, err := scanDeliveries(rows)
	if err != nil || len(all) > 0 {
		return all, err
	}
	if found, err := s.Indexes(ctx, []statement.ID{id}, scope); err != nil || len(found) == 1 {
		return nil, err
	}
	return nil, ledger.ErrNotFound
}

// Settle records the outcome of a queued delivery and ends its lease.
func (s *Store) Settle(ctx context.Context, owner string, d ledger.Delivery) error {
	at, err := index(d.Entry)
	if err != nil {
		return ledger.ErrNotFound
	}
	return s.update(ctx, func(tx *sql.Tx) error {
		const key = ` WHERE "index" = ? AND registry = ? AND repository = ? AND subject = ? AND artifact = ?`
		keys := []any{at, d.Registry, d.Repository, string(d.Subject), d.Artifact}
		var state, holder string
		err := tx.QueryRowContext(ctx, `SELECT state, lease_owner FROM deliveries`+key, keys...).Scan(&state, &holder)
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("%w: no delivery of entry %d to %s/%s", ledger.ErrNotFound, d.Entry, d.Registry, d.Repository)
		}
		if err != nil || state != ledger.Queued || d.State != ledger.Done && holder != "" && holder != owner {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE deliveries SET state = ?, tries = ?, next_at = ?, last_error = ?, manifest = ?, size = ?,
			lease_owner = '', leased_until = 0`+key,
			append([]any{d.State, d.Tries, millis(d.NextAt), d.LastError, string(d.Manifest), d.Size}, keys...)...)
		return err
	})
}
