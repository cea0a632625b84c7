package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

const deliveryColumns = `d."index", e.entry_id, d.registry, d.repository, d.subject, d.artifact,
	d.state, d.tries, d.next_at, d.last_error, d.manifest`

func scanDeliveries(rows *sql.Rows) ([]ledger.Delivery, error) {
	defer rows.Close()
	var all []ledger.Delivery
	for rows.Next() {
		var d ledger.Delivery
		var id []byte
		var next int64
		if err := rows.Scan(&d.Entry, &id, &d.Registry, &d.Repository, &d.Subject, &d.Artifact,
			&d.State, &d.Tries, &next, &d.LastError, &d.Manifest); err != nil {
			return nil, classify(err)
		}
		var err error
		if d.EntryID, err = entryID(d.Entry, id); err != nil {
			return nil, err
		}
		d.NextAt = fromMillis(next)
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

// group is what one Courier works on at a time.
type group struct {
	registry, repository, subject string
	due                           int
}

// Due leases whole groups. The writer is alone, so choosing and leasing in one
// transaction is enough.
func (s *Store) Due(ctx context.Context, owner string, now time.Time, lease time.Duration, n int) ([]ledger.Delivery, error) {
	// Most calls find nothing, and should not wait for a commit to learn it.
	var some bool
	if err := s.read.QueryRowContext(ctx, `SELECT EXISTS
		(SELECT 1 FROM deliveries WHERE state = 'queued' AND next_at <= ?)`, millis(now)).Scan(&some); err != nil || !some || n < 1 {
		return nil, classify(err)
	}
	var leased []ledger.Delivery
	err := s.update(ctx, func(tx *sql.Tx) error {
		groups, err := dueGroups(ctx, tx, now, n)
		if err != nil {
			return err
		}
		for _, g := range groups {
			if len(leased) > 0 && len(leased)+g.due > n {
				break
			}
			rows, err := tx.QueryContext(ctx, `SELECT `+deliveryColumns+` FROM deliveries d JOIN entries e ON e."index" = d."index"
				WHERE d.state = 'queued' AND d.registry = ? AND d.repository = ? AND d.subject = ? AND d.next_at <= ?
				ORDER BY d."index", d.artifact LIMIT ?`, g.registry, g.repository, g.subject, millis(now), n)
			if err != nil {
				return err
			}
			found, err := scanDeliveries(rows)
			if err != nil {
				return err
			}
			for _, d := range found {
				if _, err := tx.ExecContext(ctx, `UPDATE deliveries SET lease_owner = ?, leased_until = ?
					WHERE "index" = ? AND registry = ? AND repository = ? AND subject = ? AND artifact = ?`,
					owner, millis(now.Add(lease)), int64(d.Entry), d.Registry, d.Repository, string(d.Subject), d.Artifact); err != nil {
					return err
				}
			}
			leased = append(leased, found...)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return leased, nil
}

// dueGroups finds groups with something due and no running lease, oldest entry
// first.
func dueGroups(ctx context.Context, tx *sql.Tx, now time.Time, n int) ([]group, error) {
	rows, err := tx.QueryContext(ctx, `SELECT registry, repository, subject, due FROM (
			SELECT registry, repository, subject, count(*) AS due, min("index") AS oldest FROM deliveries
			WHERE state = 'queued' AND next_at <= ?1 GROUP BY registry, repository, subject) g
		WHERE NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.state = 'queued' AND d.registry = g.registry
			AND d.repository = g.repository AND d.subject = g.subject AND d.leased_until > ?1)
		ORDER BY oldest, registry, repository, subject LIMIT ?2`, millis(now), n)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var groups []group
	for rows.Next() {
		var g group
		if err := rows.Scan(&g.registry, &g.repository, &g.subject, &g.due); err != nil {
			return nil, err
		}
		groups = append(groups, g)
	}
	return groups, rows.Err()
}

// Settle records the outcome of a queued delivery and ends its lease.
func (s *Store) Settle(ctx context.Context, d ledger.Delivery) error {
	at, err := index(d.Entry)
	if err != nil {
		return ledger.ErrNotFound
	}
	return s.update(ctx, func(tx *sql.Tx) error {
		const key = ` WHERE "index" = ? AND registry = ? AND repository = ? AND subject = ? AND artifact = ?`
		keys := []any{at, d.Registry, d.Repository, string(d.Subject), d.Artifact}
		var state string
		err := tx.QueryRowContext(ctx, `SELECT state FROM deliveries`+key, keys...).Scan(&state)
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("%w: no delivery of entry %d to %s/%s", ledger.ErrNotFound, d.Entry, d.Registry, d.Repository)
		}
		if err != nil || state != ledger.Queued {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE deliveries SET state = ?, tries = ?, next_at = ?, last_error = ?, manifest = ?,
			lease_owner = '', leased_until = 0`+key,
			append([]any{d.State, d.Tries, millis(d.NextAt), d.LastError, string(d.Manifest)}, keys...)...)
		return err
	})
}
