package postgres

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

// Tallies counts what is open, by registry.
func (s *Store) Tallies(ctx context.Context, now time.Time) ([]ledger.Tally, error) {
	all, err := collect(ctx, s.reads, func(row pgx.CollectableRow) (t ledger.Tally, err error) {
		var first, oldest *time.Time
		if err = row.Scan(&t.Registry, &t.Queued, &t.Refused, &first, &oldest); err != nil {
			return t, err
		}
		if first != nil && !first.After(now) {
			t.Due = first.UTC()
		}
		if oldest != nil {
			t.Oldest = oldest.UTC()
		}
		return t, nil
	}, `WITH queued AS (
			SELECT registry, count(*) AS n, min(next_at) AS first, min(index) AS oldest FROM deliveries
			WHERE state = 'queued' GROUP BY registry
		), refused AS (
			SELECT registry, count(*) AS n FROM deliveries
			WHERE state = 'refused' AND state IN ('refused', 'dropped') GROUP BY registry
		)
		SELECT registry, coalesce(q.n, 0), coalesce(r.n, 0), q.first, e.registered_at
		FROM queued q FULL JOIN refused r USING (registry) LEFT JOIN entries e ON e.index = q.oldest
		ORDER BY registry`)
	if err != nil {
		return nil, fmt.Errorf("count open deliveries: %w", err)
	}
	return all, nil
}

// FindDeliveries returns a page of deliveries.
func (s *Store) FindDeliveries(ctx context.Context, q ledger.DeliveryQuery) ([]ledger.Delivery, error) {
	if err := q.Check(); err != nil {
		return nil, err
	}
	var args []any
	where := []string{`NOT e.private`, `d.state = '` + q.State + `'`} // Check knows them all
	add := func(condition string, values ...any) {
		for _, v := range values {
			args = append(args, v)
			condition = strings.Replace(condition, "?", fmt.Sprintf("$%d", len(args)), 1)
		}
		where = append(where, condition)
	}
	if q.State == ledger.Refused || q.State == ledger.Dropped {
		add(`d.state IN ('refused', 'dropped')`) // the index is partial
	}
	if q.EntryID != (statement.ID{}) {
		add(`e.entry_id = ?`, q.EntryID[:])
	}
	for _, f := range []struct{ column, value string }{
		{"registry", q.Registry}, {"repository", q.Repository}, {"artifact", q.Artifact},
	} {
		if !storable(f.value) {
			return nil, nil
		}
		if f.value != "" {
			add(`d.`+f.column+` = ?`, f.value)
		}
	}
	if q.Subject != "" {
		add(`d.subject = ?`, notNil(q.Subject.Bytes()))
	}
	if a := q.After; a != nil {
		if a.Entry > math.MaxInt64 || !storable(a.Registry) || !storable(a.Repository) || !storable(a.Artifact) {
			return nil, nil
		}
		add(`(d.registry, d.repository, d.subject, d.index, d.artifact) > (?, ?, ?, ?, ?)`,
			a.Registry, a.Repository, notNil(a.Subject.Bytes()), int64(a.Entry), a.Artifact)
	}
	found, err := collect(ctx, s.reads, scanDelivery, `SELECT `+deliveryColumns+` FROM deliveries d JOIN entries e USING (index)
		WHERE `+strings.Join(where, " AND ")+`
		ORDER BY d.registry, d.repository, d.subject, d.index, d.artifact LIMIT `+fmt.Sprint(q.Limit), args...)
	if err != nil {
		return nil, fmt.Errorf("find deliveries: %w", err)
	}
	return found, nil
}

// Intervene does what an operator orders, and records it.
func (s *Store) Intervene(ctx context.Context, d ledger.Delivery, i ledger.Intervention) error {
	if d.Entry > math.MaxInt64 || !storable(d.Registry) || !storable(d.Repository) || !storable(d.Artifact) {
		return ledger.ErrNotFound
	}
	i.Who, i.Why = legible(i.Who), legible(i.Why)
	const key = ` index = $1 AND registry = $2 AND repository = $3 AND subject = $4 AND artifact = $5`
	keys := []any{d.Entry, d.Registry, d.Repository, notNil(d.Subject.Bytes()), d.Artifact}
	err := s.work.run(ctx, func(c *pgx.Conn) error {
		return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
			was := d
			err := tx.QueryRow(ctx, `SELECT state, tries, next_at, last_error FROM deliveries WHERE`+key+` FOR UPDATE`, keys...).
				Scan(&was.State, &was.Tries, &was.NextAt, &was.LastError)
			if err != nil {
				return err
			}
			now, err := i.Apply(was)
			if err != nil {
				return err
			}
			// What is being worked on stays so while it stays queued.
			_, err = tx.Exec(ctx, `UPDATE deliveries SET state = $6, tries = $7, next_at = $8, last_error = $9, manifest = NULL,
				       lease_owner = CASE WHEN $6 = 'queued' THEN lease_owner END, leased_until = CASE WHEN $6 = 'queued' THEN leased_until END
				WHERE`+key, append(keys, now.State, now.Tries, now.NextAt, legible(now.LastError))...)
			if err != nil {
				return err
			}
			_, err = tx.Exec(ctx, `INSERT INTO interventions (index, registry, repository, subject, artifact, at, who, why, action, state, tries, last_error)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)`,
				append(keys, i.At, i.Who, i.Why, i.Action, was.State, was.Tries, was.LastError)...)
			return err
		})
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return ledger.ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("%s a delivery of entry %d: %w", i.Action, d.Entry, err)
	}
	return nil
}

// droppedByNobody finds what was dropped without the row that says by whom: an
// operator's, or that of a purge.
func (s *Store) droppedByNobody(ctx context.Context) ([]ledger.Flaw, error) {
	flaws, err := collect(ctx, s.reads, func(row pgx.CollectableRow) (f ledger.Flaw, err error) {
		var at int64
		var artifact, registry, repository string
		err = row.Scan(&at, &artifact, &registry, &repository)
		f.Object = fmt.Sprintf("delivery of entry %d", at)
		f.What = fmt.Sprintf("%s to %s/%s was dropped, and it is nowhere said by whom", artifact, registry, repository)
		return f, err
	}, `SELECT d.index, d.artifact, d.registry, d.repository FROM deliveries d
		WHERE d.state = 'dropped' AND d.state IN ('refused', 'dropped') AND NOT EXISTS (
			SELECT FROM interventions i WHERE i.action = 'drop' AND i.index = d.index AND i.registry = d.registry
			AND i.repository = d.repository AND i.subject = d.subject AND i.artifact = d.artifact)
		AND NOT EXISTS (
			SELECT FROM evidence_marks m WHERE m.state = 'purged' AND d.artifact = 'evidence' AND m.index = d.index
			AND (m.registry = '' OR m.registry = d.registry AND m.repository = d.repository AND m.subject = d.subject)) LIMIT $1`, ledger.MaxFlaws)
	if err != nil {
		return nil, fmt.Errorf("look for who dropped deliveries: %w", err)
	}
	return flaws, nil
}
