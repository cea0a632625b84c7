package sqlite

import (
	"context"
	"database/sql"
	"math"
	"time"

	"github.com/scittd/scittd/ledger"
)

// Waiting steps from registry to registry, of which there are few, and looks at
// one row of each.
func (s *Store) Waiting(ctx context.Context, now time.Time) ([]string, error) {
	var found []string
	err := s.each(ctx, func(scan func(...any) error) error {
		var host string
		err := scan(&host)
		found = append(found, host)
		return err
	}, `WITH RECURSIVE hosts (registry) AS (
			SELECT min(registry) FROM deliveries WHERE state = 'queued'
			UNION ALL
			SELECT (SELECT min(d.registry) FROM deliveries d WHERE d.state = 'queued' AND d.registry > hosts.registry)
			FROM hosts WHERE hosts.registry IS NOT NULL
		)
		SELECT registry FROM hosts WHERE registry IS NOT NULL AND EXISTS (
			SELECT 1 FROM deliveries d WHERE d.state = 'queued' AND d.registry = hosts.registry AND d.next_at <= ?)`, millis(now))
	return found, err
}

// due is the condition of a delivery d that is due and in no group in which a
// lease is running; ?1 is now, ?2 the registry.
const due = `d.state = 'queued' AND d.registry = ?2 AND d.next_at <= ?1 AND NOT EXISTS (
	SELECT 1 FROM deliveries l WHERE l.state = 'queued' AND l.lease_owner <> '' AND l.leased_until > ?1
	AND l.registry = d.registry AND l.repository = d.repository AND l.subject = d.subject)`

// Due leases groups of deliveries. The writer is alone, so choosing and leasing
// in one transaction is enough.
func (s *Store) Due(ctx context.Context, p ledger.Pickup, now time.Time) ([]ledger.Delivery, error) {
	if p.Places < 1 || p.Each < 1 {
		return nil, nil
	}
	// Many calls find nothing, and should not wait for a commit to learn it.
	var some bool
	if err := s.read.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM deliveries d WHERE `+due+`)`, millis(now), p.Registry).
		Scan(&some); err != nil || !some {
		return nil, classify(err)
	}
	places, each := min(p.Places, math.MaxInt16), min(p.Each, math.MaxInt16)
	var leased []ledger.Delivery
	err := s.update(ctx, func(tx *sql.Tx) error {
		turns, err := turns(ctx, tx, p.Registry, now, places, each)
		if err != nil {
			return err
		}
		for _, at := range turns {
			found, err := leaseOldest(ctx, tx, at, p.Owner, now, now.Add(p.Lease), each)
			if err != nil {
				return err
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

// turns finds the groups whose turn it is.
func turns(ctx context.Context, tx *sql.Tx, registry string, now time.Time, places, each int) ([]ledger.Place, error) {
	rows, err := tx.QueryContext(ctx, `SELECT repository, subject FROM (
			SELECT d.repository, d.subject, d.next_at, d."index" FROM deliveries d
			WHERE `+due+` ORDER BY d.next_at, d."index" LIMIT ?3)
		GROUP BY repository, subject ORDER BY min(next_at), min("index"), repository, subject LIMIT ?4`,
		millis(now), registry, places*each, places)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []ledger.Place
	for rows.Next() {
		at := ledger.Place{Registry: registry}
		if err := rows.Scan(&at.Repository, &at.Subject); err != nil {
			return nil, err
		}
		all = append(all, at)
	}
	return all, rows.Err()
}

// leaseOldest gives the oldest deliveries of a free group to owner. What is left of one
// that was cut goes behind all that is due.
func leaseOldest(ctx context.Context, tx *sql.Tx, at ledger.Place, owner string, now, until time.Time, each int) ([]ledger.Delivery, error) {
	const group = ` state = 'queued' AND registry = ? AND repository = ? AND subject = ?`
	key := []any{at.Registry, at.Repository, string(at.Subject)}
	rows, err := tx.QueryContext(ctx, `SELECT `+deliveryColumns+` FROM deliveries d JOIN entries e ON e."index" = d."index"
		WHERE d.state = 'queued' AND d.registry = ? AND d.repository = ? AND d.subject = ? AND d.next_at <= ?
		ORDER BY d."index", d.artifact LIMIT ?`, append(key, millis(now), each)...)
	if err != nil {
		return nil, err
	}
	found, err := scanDeliveries(rows)
	if err != nil {
		return nil, err
	}
	for _, d := range found {
		if _, err := tx.ExecContext(ctx, `UPDATE deliveries SET lease_owner = ?, leased_until = ?
			WHERE "index" = ? AND registry = ? AND repository = ? AND subject = ? AND artifact = ?`,
			owner, millis(until), int64(d.Entry), d.Registry, d.Repository, string(d.Subject), d.Artifact); err != nil {
			return nil, err
		}
	}
	if len(found) < each {
		return found, nil
	}
	_, err = tx.ExecContext(ctx, `UPDATE deliveries SET next_at = ? WHERE id IN (
			SELECT id FROM deliveries WHERE next_at < ? AND leased_until <= ? AND`+group+` ORDER BY next_at, "index" LIMIT ?)`,
		append(append([]any{millis(now), millis(now), millis(now)}, key...), behind)...)
	return found, err
}

// behind is how much of what is left of a group goes behind at a time: what stands
// before others, and not all of a hundred thousand with every few that are placed.
const behind = 4096

// Renew lets owner's leases at a place run on, or gives them back.
func (s *Store) Renew(ctx context.Context, owner string, at ledger.Place, now, until time.Time) (held bool, err error) {
	holder := owner
	if !until.After(now) {
		holder, until = "", time.Time{}
	}
	err = s.update(ctx, func(tx *sql.Tx) error {
		done, err := tx.ExecContext(ctx, `UPDATE deliveries SET lease_owner = ?, leased_until = ?
			WHERE state = 'queued' AND registry = ? AND repository = ? AND subject = ? AND lease_owner = ?`,
			holder, millis(until), at.Registry, at.Repository, string(at.Subject), owner)
		if err != nil {
			return err
		}
		n, err := done.RowsAffected()
		held = n > 0
		return err
	})
	return held, err
}
