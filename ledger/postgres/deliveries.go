package postgres

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

const deliveryColumns = `d.index, e.entry_id, d.registry, d.repository, d.subject, d.artifact,
	d.state, d.tries, d.next_at, d.last_error, d.manifest, d.size, e.registered_at`

func scanDelivery(row pgx.CollectableRow) (ledger.Delivery, error) {
	var d ledger.Delivery
	var id, subject, manifest []byte
	var since *time.Time
	err := row.Scan(&d.Entry, &id, &d.Registry, &d.Repository, &subject, &d.Artifact,
		&d.State, &d.Tries, &d.NextAt, &d.LastError, &manifest, &d.Size, &since)
	if err != nil {
		return d, err
	}
	if id == nil || since == nil {
		return d, fmt.Errorf("%w: delivery of entry %d, which is missing", ledger.ErrCorrupt, d.Entry)
	}
	if d.EntryID, err = entryID(int64(d.Entry), id); err != nil {
		return d, err
	}
	d.NextAt, d.Since = d.NextAt.UTC(), since.UTC()
	if d.Subject, err = digest(subject); err != nil {
		return d, err
	}
	d.Manifest, err = digest(manifest)
	return d, err
}

// Deliveries of one visible entry.
func (s *Store) Deliveries(ctx context.Context, id statement.ID, scope ledger.Scope) ([]ledger.Delivery, error) {
	var found []ledger.Delivery
	err := s.reads.read(ctx, func(c *pgx.Conn) error {
		var q pgx.Batch
		q.Queue(`SELECT index FROM entries e WHERE entry_id = $2 AND `+visible, scope == ledger.All, id[:]).
			QueryRow(func(row pgx.Row) error { return row.Scan(nil) })
		q.Queue(`SELECT `+deliveryColumns+` FROM entries e JOIN deliveries d USING (index)
			WHERE e.entry_id = $2 AND `+visible+`
			ORDER BY d.registry, d.repository, octet_length(d.subject), d.subject, d.artifact`, scope == ledger.All, id[:]).
			Query(func(rows pgx.Rows) (err error) {
				found, err = pgx.CollectRows(rows, scanDelivery)
				return err
			})
		return c.SendBatch(ctx, &q).Close()
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, ledger.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("read deliveries of %s: %w", id, err)
	}
	return found, nil
}

// Settle records the outcome of d and ends its lease.
func (s *Store) Settle(ctx context.Context, owner string, d ledger.Delivery) error {
	if d.Entry > math.MaxInt64 || !storable(owner) || !storable(d.Registry) || !storable(d.Repository) || !storable(d.Artifact) {
		return ledger.ErrNotFound
	}
	key := []any{d.Entry, d.Registry, d.Repository, notNil(d.Subject.Bytes()), d.Artifact}
	err := s.work.run(ctx, func(c *pgx.Conn) error {
		done, err := c.Exec(ctx, `
			UPDATE deliveries SET state = $6, tries = $7, next_at = $8, last_error = $9, manifest = $10, size = $11,
			       lease_owner = NULL, leased_until = NULL
			WHERE index = $1 AND registry = $2 AND repository = $3 AND subject = $4 AND artifact = $5 AND state = 'queued'
			  AND ($6 = 'done' OR lease_owner IS NULL OR lease_owner = $12)`,
			append(key, d.State, d.Tries, d.NextAt, legible(d.LastError), d.Manifest.Bytes(), d.Size, owner)...)
		if err != nil || done.RowsAffected() > 0 {
			return err
		}
		// Settled before, another's by now, or never there.
		return c.QueryRow(ctx, `SELECT FROM deliveries
			WHERE index = $1 AND registry = $2 AND repository = $3 AND subject = $4 AND artifact = $5`, key...).Scan()
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return ledger.ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("settle a delivery of entry %d: %w", d.Entry, err)
	}
	return nil
}
