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
	d.state, d.tries, d.next_at, d.last_error, d.manifest`

func scanDelivery(row pgx.CollectableRow) (ledger.Delivery, error) {
	var d ledger.Delivery
	var id, subject, manifest []byte
	err := row.Scan(&d.Entry, &id, &d.Registry, &d.Repository, &subject, &d.Artifact,
		&d.State, &d.Tries, &d.NextAt, &d.LastError, &manifest)
	if err != nil {
		return d, err
	}
	if id == nil {
		return d, fmt.Errorf("%w: delivery of entry %d, which is missing", ledger.ErrCorrupt, d.Entry)
	}
	if d.EntryID, err = entryID(int64(d.Entry), id); err != nil {
		return d, err
	}
	d.NextAt = d.NextAt.UTC()
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

// due is the condition of a delivery d that nobody works on; $1 is now.
const due = `d.state = 'queued' AND d.next_at <= $1 AND (d.leased_until IS NULL OR d.leased_until <= $1)`

// leased finds a running lease anywhere in the group of d.
const leased = `EXISTS (SELECT FROM deliveries l WHERE l.state = 'queued' AND l.leased_until > $1
	AND l.registry = d.registry AND l.repository = d.repository AND l.subject = d.subject)`

// Due leases groups of deliveries in two steps, because two callers must not
// work on one subject at a time, and rows say nothing about a group.
//
// First it locks one row of each group: the oldest that is queued, whether due
// or not, the same for everybody. Groups that somebody else has locked at this
// moment are skipped. Only then, in a new statement that sees all leases
// committed so far, it looks which of its groups are free, and leases them.
func (s *Store) Due(ctx context.Context, owner string, now time.Time, lease time.Duration, n int) ([]ledger.Delivery, error) {
	if n < 1 {
		return nil, nil
	}
	if !storable(owner) {
		return nil, fmt.Errorf("lease deliveries: owner %.80q holds NUL or is not UTF-8", owner)
	}
	n = min(n, math.MaxInt32-1)
	var taken []ledger.Delivery
	err := s.work.run(ctx, func(c *pgx.Conn) error {
		return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) (err error) {
			var registries, repositories []string
			var subjects [][]byte
			rows, err := tx.Query(ctx, `
				WITH groups AS (
					SELECT DISTINCT registry, repository, subject FROM (
						SELECT d.registry, d.repository, d.subject FROM deliveries d
						WHERE `+due+` AND NOT `+leased+` ORDER BY d.index LIMIT $2) AS oldest
				), first AS MATERIALIZED (
					SELECT f.* FROM groups g CROSS JOIN LATERAL (
						SELECT d.index, d.registry, d.repository, d.subject, d.artifact FROM deliveries d
						WHERE d.state = 'queued' AND d.registry = g.registry AND d.repository = g.repository AND d.subject = g.subject
						ORDER BY d.index, d.artifact LIMIT 1) AS f
				)
				SELECT d.registry, d.repository, d.subject
				FROM first JOIN deliveries d USING (index, registry, repository, subject, artifact)
				WHERE d.state = 'queued' FOR UPDATE OF d SKIP LOCKED`, now, n)
			if err != nil {
				return err
			}
			var registry, repository string
			var subject []byte
			if _, err := pgx.ForEachRow(rows, []any{&registry, &repository, &subject}, func() error {
				registries, repositories, subjects = append(registries, registry), append(repositories, repository), append(subjects, subject)
				subject = nil // Scan must not reuse it
				return nil
			}); err != nil || len(registries) == 0 {
				return err
			}
			// One row more than n of each group tells whether all of it fits.
			rows, err = tx.Query(ctx, `
				WITH mine AS (
					SELECT d.*, min(d.index) OVER this AS oldest
					FROM unnest($3::text[], $4::text[], $5::bytea[]) AS g (registry, repository, subject)
					CROSS JOIN LATERAL (
						SELECT d.index, d.registry, d.repository, d.subject, d.artifact FROM deliveries d
						WHERE `+due+` AND NOT `+leased+`
						  AND d.registry = g.registry AND d.repository = g.repository AND d.subject = g.subject
						ORDER BY d.index, d.artifact LIMIT $2 + 1) AS d
					WINDOW this AS (PARTITION BY d.registry, d.repository, d.subject)
				), ranked AS (
					SELECT *, row_number() OVER placed AS place,
					       dense_rank() OVER (ORDER BY oldest, registry, repository, subject) AS nth
					FROM mine WINDOW placed AS (ORDER BY oldest, registry, repository, subject, index, artifact)
				), chosen AS (
					SELECT * FROM (SELECT *, max(place) OVER (PARTITION BY nth) AS last FROM ranked) AS r
					WHERE place <= $2 AND (last <= $2 OR nth = 1)
				), taken AS (
					UPDATE deliveries d SET lease_owner = $6, leased_until = $7 FROM chosen c
					WHERE d.index = c.index AND d.registry = c.registry AND d.repository = c.repository
					  AND d.subject = c.subject AND d.artifact = c.artifact
					RETURNING d.*, c.place
				)
				SELECT `+deliveryColumns+` FROM taken d LEFT JOIN entries e USING (index) ORDER BY d.place`,
				now, n, registries, repositories, subjects, owner, now.Add(lease))
			if err != nil {
				return err
			}
			taken, err = pgx.CollectRows(rows, scanDelivery)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("lease deliveries: %w", err)
	}
	return taken, nil
}

// Settle records the outcome of d and ends its lease.
func (s *Store) Settle(ctx context.Context, d ledger.Delivery) error {
	if d.Entry > math.MaxInt64 || !storable(d.Registry) || !storable(d.Repository) || !storable(d.Artifact) {
		return ledger.ErrNotFound
	}
	key := []any{d.Entry, d.Registry, d.Repository, notNil(d.Subject.Bytes()), d.Artifact}
	err := s.work.run(ctx, func(c *pgx.Conn) error {
		done, err := c.Exec(ctx, `
			UPDATE deliveries SET state = $6, tries = $7, next_at = $8, last_error = $9, manifest = $10,
			       lease_owner = NULL, leased_until = NULL
			WHERE index = $1 AND registry = $2 AND repository = $3 AND subject = $4 AND artifact = $5 AND state = 'queued'`,
			append(key, d.State, d.Tries, d.NextAt, legible(d.LastError), d.Manifest.Bytes())...)
		if err != nil || done.RowsAffected() > 0 {
			return err
		}
		// Settled before, which is final, or never there.
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
