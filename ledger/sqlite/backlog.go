package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

// Tallies counts what is open, by registry.
func (s *Store) Tallies(ctx context.Context, now time.Time) ([]ledger.Tally, error) {
	var all []ledger.Tally
	err := s.each(ctx, func(scan func(...any) error) error {
		var t ledger.Tally
		var first, oldest int64
		if err := scan(&t.Registry, &t.Queued, &t.Refused, &first, &oldest); err != nil {
			return err
		}
		if t.Queued > 0 {
			t.Oldest = fromSeconds(oldest)
			if first <= millis(now) {
				t.Due = fromMillis(first)
			}
		}
		all = append(all, t)
		return nil
	}, `WITH queued AS (
			SELECT registry, count(*) AS n, min(next_at) AS first, min("index") AS oldest FROM deliveries
			WHERE state = 'queued' GROUP BY registry
		), refused AS (
			SELECT registry, count(*) AS n FROM deliveries
			WHERE state IN ('refused', 'dropped') AND state = 'refused' GROUP BY registry
		)
		SELECT registry, coalesce(q.n, 0), coalesce(r.n, 0), coalesce(q.first, 0), coalesce(e.registered_at, 0)
		FROM queued q FULL JOIN refused r USING (registry) LEFT JOIN entries e ON e."index" = q.oldest
		ORDER BY registry`)
	return all, err
}

// FindDeliveries returns a page of deliveries.
func (s *Store) FindDeliveries(ctx context.Context, q ledger.DeliveryQuery) ([]ledger.Delivery, error) {
	if err := q.Check(); err != nil {
		return nil, err
	}
	where, args := []string{`e.private = 0`, `d.state = '` + q.State + `'`}, []any{} // Check knows them all
	add := func(condition string, values ...any) {
		where, args = append(where, condition), append(args, values...)
	}
	if q.State == ledger.Refused || q.State == ledger.Dropped {
		add(`d.state IN ('refused', 'dropped')`) // the index is partial
	}
	if q.EntryID != (statement.ID{}) {
		add(`e.entry_id = ?`, q.EntryID[:])
	}
	for _, f := range []struct{ column, value string }{
		{"registry", q.Registry}, {"repository", q.Repository}, {"artifact", q.Artifact}, {"subject", string(q.Subject)},
	} {
		if f.value != "" {
			add(`d.`+f.column+` = ?`, f.value)
		}
	}
	if a := q.After; a != nil {
		at, err := index(a.Entry)
		if err != nil {
			return nil, nil
		}
		add(`(d.registry, d.repository, d.subject, d."index", d.artifact) > (?, ?, ?, ?, ?)`,
			a.Registry, a.Repository, string(a.Subject), at, a.Artifact)
	}
	rows, err := s.read.QueryContext(ctx, `SELECT `+deliveryColumns+` FROM deliveries d JOIN entries e ON e."index" = d."index"
		WHERE `+strings.Join(where, " AND ")+`
		ORDER BY d.registry, d.repository, d.subject, d."index", d.artifact LIMIT `+fmt.Sprint(q.Limit), args...)
	if err != nil {
		return nil, classify(err)
	}
	return scanDeliveries(rows)
}

// Intervene does what an operator orders, and records it.
func (s *Store) Intervene(ctx context.Context, d ledger.Delivery, i ledger.Intervention) error {
	at, err := index(d.Entry)
	if err != nil {
		return ledger.ErrNotFound
	}
	const key = ` WHERE "index" = ? AND registry = ? AND repository = ? AND subject = ? AND artifact = ?`
	keys := []any{at, d.Registry, d.Repository, string(d.Subject), d.Artifact}
	return s.update(ctx, func(tx *sql.Tx) error {
		was := d
		var next int64
		err := tx.QueryRowContext(ctx, `SELECT state, tries, next_at, last_error FROM deliveries`+key, keys...).
			Scan(&was.State, &was.Tries, &next, &was.LastError)
		if err != nil {
			return err
		}
		was.NextAt = fromMillis(next)
		now, err := i.Apply(was)
		if err != nil {
			return err
		}
		// What is being worked on stays so while it stays queued.
		_, err = tx.ExecContext(ctx, `UPDATE deliveries SET state = ?1, tries = ?2, next_at = ?3, last_error = ?4, manifest = '',
			lease_owner = iif(?1 = 'queued', lease_owner, ''), leased_until = iif(?1 = 'queued', leased_until, 0)
			WHERE "index" = ?5 AND registry = ?6 AND repository = ?7 AND subject = ?8 AND artifact = ?9`,
			append([]any{now.State, now.Tries, millis(now.NextAt), now.LastError}, keys...)...)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO interventions ("index", registry, repository, subject, artifact, at, who, why, action, state, tries, last_error)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			append(keys, millis(i.At), i.Who, i.Why, i.Action, was.State, was.Tries, was.LastError)...)
		return err
	})
}

// droppedByNobody finds what was dropped without the row that says by whom: an
// operator's, or that of a purge.
func (s *Store) droppedByNobody(ctx context.Context) ([]ledger.Flaw, error) {
	var flaws []ledger.Flaw
	err := s.each(ctx, func(scan func(...any) error) error {
		var at int64
		var artifact, registry, repository string
		err := scan(&at, &artifact, &registry, &repository)
		flaws = append(flaws, ledger.Flaw{
			Object: fmt.Sprintf("delivery of entry %d", at),
			What:   fmt.Sprintf("%s to %s/%s was dropped, and it is nowhere said by whom", artifact, registry, repository),
		})
		return err
	}, `SELECT d."index", d.artifact, d.registry, d.repository FROM deliveries d
		WHERE d.state IN ('refused', 'dropped') AND d.state = 'dropped' AND NOT EXISTS (
			SELECT 1 FROM interventions i WHERE i.action = 'drop' AND i."index" = d."index" AND i.registry = d.registry
			AND i.repository = d.repository AND i.subject = d.subject AND i.artifact = d.artifact)
		AND NOT EXISTS (
			SELECT 1 FROM evidence_marks m WHERE m.state = 'purged' AND d.artifact = 'evidence' AND m."index" = d."index"
			AND (m.registry = '' OR m.registry = d.registry AND m.repository = d.repository AND m.subject = d.subject)) LIMIT ?`, ledger.MaxFlaws)
	if err != nil {
		return nil, fmt.Errorf("look for who dropped deliveries: %w", err)
	}
	return flaws, nil
}
