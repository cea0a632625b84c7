package postgres

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/scittd/scittd/ledger"
)

// Enqueue gives an entry further deliveries, and records who asked.
func (s *Store) Enqueue(ctx context.Context, ds []ledger.Delivery, who, why string, at time.Time) (added int, err error) {
	err = s.work.run(ctx, func(c *pgx.Conn) error {
		added = 0
		return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
			for _, d := range ds {
				if d.Entry > math.MaxInt64 || !storable(d.Registry) || !storable(d.Repository) || !storable(d.Artifact) {
					continue
				}
				// One at a time for an entry, or two would each be the first archive.
				if _, err := tx.Exec(ctx, `SELECT FROM entries WHERE index = $1 FOR UPDATE`, d.Entry); err != nil {
					return err
				}
				key := []any{d.Entry, d.Registry, d.Repository, notNil(d.Subject.Bytes()), d.Artifact}
				done, err := tx.Exec(ctx, `INSERT INTO deliveries (index, registry, repository, subject, artifact, state, tries, next_at, last_error)
					SELECT index, $2::text, $3::text, $4::bytea, $5::text, 'queued', 0, $6::timestamptz, '' FROM entries e WHERE index = $1 AND NOT private
					AND NOT ($5 = 'archive' AND EXISTS (SELECT FROM deliveries a WHERE a.index = e.index AND a.artifact = 'archive'))
					ON CONFLICT DO NOTHING`, append(key, d.NextAt)...)
				if err != nil {
					return err
				}
				if done.RowsAffected() == 0 {
					continue
				}
				added++
				if _, err := tx.Exec(ctx, `INSERT INTO interventions (index, registry, repository, subject, artifact, at, who, why, action, state, tries, last_error)
					VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, '', 0, '')`, append(key, at, legible(who), legible(why), ledger.PlaceAlso)...); err != nil {
					return err
				}
				if _, err := tx.Exec(ctx, `INSERT INTO later_images (image, index) VALUES ($1, $2) ON CONFLICT DO NOTHING`, key[3], key[0]); err != nil {
					return err
				}
				if d.Artifact != ledger.EvidenceArtifact {
					continue
				}
				if _, err := tx.Exec(ctx, `UPDATE staged SET claimed = true WHERE digest = (SELECT evidence FROM entries WHERE index = $1)`, d.Entry); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil {
		return 0, fmt.Errorf("queue further deliveries: %w", err)
	}
	return added, nil
}
