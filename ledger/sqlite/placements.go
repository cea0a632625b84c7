package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/scittd/scittd/ledger"
)

// Enqueue gives an entry further deliveries, and records who asked.
func (s *Store) Enqueue(ctx context.Context, ds []ledger.Delivery, who, why string, at time.Time) (added int, err error) {
	err = s.update(ctx, func(tx *sql.Tx) error {
		added = 0
		for _, d := range ds {
			entry, err := index(d.Entry)
			if err != nil {
				return nil
			}
			key := []any{entry, d.Registry, d.Repository, string(d.Subject), d.Artifact}
			done, err := tx.ExecContext(ctx, `INSERT INTO deliveries ("index", registry, repository, subject, artifact, state, tries, next_at, last_error, manifest)
				SELECT "index", ?2, ?3, ?4, ?5, 'queued', 0, ?6, '', '' FROM entries e WHERE "index" = ?1 AND private = 0
				AND NOT (?5 = 'archive' AND EXISTS (SELECT 1 FROM deliveries a WHERE a."index" = e."index" AND a.artifact = 'archive'))
				ON CONFLICT DO NOTHING`, append(key, millis(d.NextAt))...)
			if err != nil {
				return err
			}
			if n, err := done.RowsAffected(); err != nil || n == 0 {
				if err != nil {
					return err
				}
				continue
			}
			added++
			if _, err := tx.ExecContext(ctx, `INSERT INTO interventions ("index", registry, repository, subject, artifact, at, who, why, action, state, tries, last_error)
				VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, '', 0, '')`, append(key, millis(at), who, why, ledger.PlaceAlso)...); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `INSERT INTO later_images (image, "index") VALUES (?, ?) ON CONFLICT DO NOTHING`, string(d.Subject), entry); err != nil {
				return err
			}
			if d.Artifact != ledger.EvidenceArtifact {
				continue
			}
			if _, err := tx.ExecContext(ctx, `UPDATE staged SET claimed = 1
				WHERE digest = (SELECT evidence FROM entries WHERE "index" = ? AND evidence <> '')`, entry); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("queue further deliveries: %w", err)
	}
	return added, nil
}
