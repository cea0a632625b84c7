package postgres

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/scittd/scittd/ledger"
)

// Waiting steps from registry to registry, of which there are few, and looks at
// one row of each.
func (s *Store) Waiting(ctx context.Context, now time.Time) ([]string, error) {
	found, err := collect(ctx, s.reads, pgx.RowTo[string], `
		WITH RECURSIVE hosts (registry) AS (
			(SELECT registry FROM deliveries WHERE state = 'queued' ORDER BY registry LIMIT 1)
			UNION ALL
			SELECT (SELECT d.registry FROM deliveries d WHERE d.state = 'queued' AND d.registry > hosts.registry ORDER BY d.registry LIMIT 1)
			FROM hosts WHERE hosts.registry IS NOT NULL
		)
		SELECT registry FROM hosts WHERE registry IS NOT NULL AND EXISTS (
			SELECT FROM deliveries d WHERE d.state = 'queued' AND d.registry = hosts.registry AND d.next_at <= $1)`, now)
	if err != nil {
		return nil, fmt.Errorf("look for due deliveries: %w", err)
	}
	return found, nil
}

// due is the condition of a delivery d that is due and in no group in which a
// lease is running; $1 is now, $2 the registry.
const due = `d.state = 'queued' AND d.registry = $2 AND d.next_at <= $1 AND NOT EXISTS (
	SELECT FROM deliveries l WHERE l.state = 'queued' AND l.lease_owner IS NOT NULL AND l.leased_until > $1
	AND l.registry = d.registry AND l.repository = d.repository AND l.subject = d.subject)`

// Due leases groups of deliveries in steps, because two callers must not work on
// one subject at a time, and rows say nothing about a group.
//
// First it locks one row of each group: the oldest that is queued, whether due
// or not, the same for everybody. Groups that somebody else has locked at this
// moment are skipped. Only then, in a new statement that sees all leases
// committed so far, it looks which of its groups are free, and leases them.
func (s *Store) Due(ctx context.Context, p ledger.Pickup, now time.Time) ([]ledger.Delivery, error) {
	if p.Places < 1 || p.Each < 1 {
		return nil, nil
	}
	if !storable(p.Owner) || !storable(p.Registry) {
		return nil, fmt.Errorf("lease deliveries: owner %.80q or registry %.80q holds NUL or is not UTF-8", p.Owner, p.Registry)
	}
	places, each := min(p.Places, math.MaxInt16), min(p.Each, math.MaxInt16)
	var taken []ledger.Delivery
	err := s.work.run(ctx, func(c *pgx.Conn) error {
		return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) (err error) {
			taken = nil
			repositories, subjects, err := lockGroups(ctx, tx, p.Registry, now, places, each)
			if err != nil || len(repositories) == 0 {
				return err
			}
			rows, err := tx.Query(ctx, `
				WITH mine AS (
					SELECT d.*, min(d.next_at) OVER this AS turn, min(d.index) OVER this AS oldest
					FROM unnest($4::text[], $5::bytea[]) AS g (repository, subject)
					CROSS JOIN LATERAL (
						SELECT d.index, d.registry, d.repository, d.subject, d.artifact, d.next_at FROM deliveries d
						WHERE `+due+` AND d.repository = g.repository AND d.subject = g.subject
						ORDER BY d.index, d.artifact LIMIT $3) AS d
					WINDOW this AS (PARTITION BY d.repository, d.subject)
				), taken AS (
					UPDATE deliveries d SET lease_owner = $6, leased_until = $7 FROM mine m
					WHERE d.index = m.index AND d.registry = m.registry AND d.repository = m.repository
					  AND d.subject = m.subject AND d.artifact = m.artifact
					RETURNING d.*, m.turn, m.oldest
				)
				SELECT `+deliveryColumns+` FROM taken d LEFT JOIN entries e USING (index)
				ORDER BY d.turn, d.oldest, d.repository, d.subject, d.index, d.artifact`,
				now, p.Registry, each, repositories, subjects, p.Owner, now.Add(p.Lease))
			if err != nil {
				return err
			}
			if taken, err = pgx.CollectRows(rows, scanDelivery); err != nil {
				return err
			}
			return endTurns(ctx, tx, taken, now, each)
		})
	})
	if err != nil {
		return nil, fmt.Errorf("lease deliveries: %w", err)
	}
	return taken, nil
}

// lockGroups locks the groups whose turn it is.
func lockGroups(ctx context.Context, tx pgx.Tx, registry string, now time.Time, places, each int) (repositories []string, subjects [][]byte, err error) {
	rows, err := tx.Query(ctx, `
		WITH turns AS (
			SELECT repository, subject FROM (
				SELECT d.repository, d.subject, d.next_at, d.index FROM deliveries d
				WHERE `+due+` ORDER BY d.next_at, d.index LIMIT $3) AS waiting
			GROUP BY repository, subject ORDER BY min(next_at), min(index) LIMIT $4
		), first AS MATERIALIZED (
			SELECT f.* FROM turns g CROSS JOIN LATERAL (
				SELECT d.index, d.registry, d.repository, d.subject, d.artifact FROM deliveries d
				WHERE d.state = 'queued' AND d.registry = $2 AND d.repository = g.repository AND d.subject = g.subject
				ORDER BY d.index, d.artifact LIMIT 1) AS f
		)
		SELECT d.repository, d.subject
		FROM first JOIN deliveries d USING (index, registry, repository, subject, artifact)
		WHERE d.state = 'queued' FOR UPDATE OF d SKIP LOCKED`, now, registry, places*each, places)
	if err != nil {
		return nil, nil, err
	}
	var repository string
	var subject []byte
	_, err = pgx.ForEachRow(rows, []any{&repository, &subject}, func() error {
		repositories, subjects = append(repositories, repository), append(subjects, subject)
		subject = nil // Scan must not reuse it
		return nil
	})
	return repositories, subjects, err
}

// behind is how much of what is left of a group goes behind at a time: what stands
// before others, and not all of a hundred thousand with every few that are placed.
const behind = 4096

// endTurns puts what is left of groups that were cut behind all that is due.
func endTurns(ctx context.Context, tx pgx.Tx, taken []ledger.Delivery, now time.Time, each int) error {
	count := map[ledger.Place]int{}
	for _, d := range taken {
		at := d.Place()
		if count[at]++; count[at] < each {
			continue
		}
		_, err := tx.Exec(ctx, `UPDATE deliveries d SET next_at = $1 FROM (
				SELECT index, artifact FROM deliveries
				WHERE state = 'queued' AND registry = $2 AND repository = $3 AND subject = $4 AND next_at < $1
				  AND (lease_owner IS NULL OR leased_until <= $1) ORDER BY next_at, index LIMIT $5) AS rest
			WHERE d.index = rest.index AND d.registry = $2 AND d.repository = $3 AND d.subject = $4 AND d.artifact = rest.artifact
			  AND d.state = 'queued'`, now, at.Registry, at.Repository, notNil(at.Subject.Bytes()), behind)
		if err != nil {
			return err
		}
	}
	return nil
}

// Renew lets owner's leases at a place run on, or gives them back.
func (s *Store) Renew(ctx context.Context, owner string, at ledger.Place, now, until time.Time) (bool, error) {
	if !storable(owner) || !storable(at.Registry) || !storable(at.Repository) {
		return false, nil
	}
	set, args := `leased_until = $5`, []any{at.Registry, at.Repository, notNil(at.Subject.Bytes()), owner, until}
	if !until.After(now) {
		set, args = `lease_owner = NULL, leased_until = NULL`, args[:4]
	}
	var held bool
	err := s.work.run(ctx, func(c *pgx.Conn) error {
		done, err := c.Exec(ctx, `UPDATE deliveries SET `+set+`
			WHERE state = 'queued' AND registry = $1 AND repository = $2 AND subject = $3 AND lease_owner = $4`, args...)
		held = done.RowsAffected() > 0
		return err
	})
	if err != nil {
		return false, fmt.Errorf("renew the lease of %s/%s@%s: %w", at.Registry, at.Repository, at.Subject, err)
	}
	return held, nil
}
