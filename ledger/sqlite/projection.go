package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/scittd/scittd/ledger"
)

var _ ledger.Projection = (*Store)(nil)

// Placed walks the indexes of artifacts and of the images that claims came for,
// which are in order of their digests.
func (s *Store) Placed(ctx context.Context, registry string, after ledger.PlacedMark, n int) ([]ledger.Delivery, ledger.PlacedMark, error) {
	at, err := index(after.Entry)
	if err != nil || n < 1 {
		return nil, ledger.PlacedMark{}, nil
	}
	var mark ledger.PlacedMark
	var pairs int
	err = s.read.QueryRowContext(ctx, `SELECT digest, "index", count(*) OVER () FROM (
			SELECT * FROM (SELECT digest, "index" FROM entry_subjects WHERE (digest, "index") > (?1, ?2) ORDER BY digest, "index" LIMIT ?3)
			UNION SELECT * FROM (SELECT image, "index" FROM audit WHERE image <> '' AND (image, "index") > (?1, ?2) ORDER BY image, "index" LIMIT ?3)
			UNION SELECT * FROM (SELECT image, "index" FROM later_images WHERE (image, "index") > (?1, ?2) ORDER BY image, "index" LIMIT ?3)
			ORDER BY 1, 2 LIMIT ?3)
		ORDER BY digest DESC, "index" DESC LIMIT 1`, string(after.Subject), at, n).Scan(&mark.Subject, &mark.Entry, &pairs)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ledger.PlacedMark{}, nil
	}
	if err != nil {
		return nil, ledger.PlacedMark{}, classify(err)
	}
	rows, err := s.read.QueryContext(ctx, `SELECT `+deliveryColumns+` FROM (
			SELECT digest, "index" FROM entry_subjects WHERE (digest, "index") > (?1, ?2) AND (digest, "index") <= (?3, ?4)
			UNION SELECT image, "index" FROM audit WHERE image <> '' AND (image, "index") > (?1, ?2) AND (image, "index") <= (?3, ?4)
			UNION SELECT image, "index" FROM later_images WHERE (image, "index") > (?1, ?2) AND (image, "index") <= (?3, ?4)) s
		CROSS JOIN deliveries d ON d."index" = s."index" AND d.subject = s.digest
		JOIN entries e ON e."index" = s."index"
		WHERE d.registry = ?5 AND d.state = 'done' AND e.private = 0
		ORDER BY s.digest, s."index", d.repository, d.artifact`,
		string(after.Subject), at, string(mark.Subject), int64(mark.Entry), registry)
	if err != nil {
		return nil, ledger.PlacedMark{}, classify(err)
	}
	found, err := scanDeliveries(rows)
	if pairs < n {
		mark = ledger.PlacedMark{}
	}
	return found, mark, err
}

// PlacedAt returns what was placed beside one image.
func (s *Store) PlacedAt(ctx context.Context, at ledger.Place, from uint64, n int) ([]ledger.Delivery, uint64, error) {
	first, err := index(from)
	if err != nil || n < 1 {
		return nil, 0, nil
	}
	const page = `SELECT * FROM (SELECT "index" FROM entry_subjects WHERE digest = ?1 AND "index" >= ?2 ORDER BY "index" LIMIT ?3)
		UNION SELECT * FROM (SELECT "index" FROM audit WHERE image = ?1 AND image <> '' AND "index" >= ?2 ORDER BY "index" LIMIT ?3)
		UNION SELECT * FROM (SELECT "index" FROM later_images WHERE image = ?1 AND "index" >= ?2 ORDER BY "index" LIMIT ?3)
		ORDER BY 1 LIMIT ?3`
	var last, entries int64
	if err := s.read.QueryRowContext(ctx, `SELECT coalesce(max("index"), 0), count(*) FROM (`+page+`)`,
		string(at.Subject), first, n).Scan(&last, &entries); err != nil {
		return nil, 0, classify(err)
	}
	rows, err := s.read.QueryContext(ctx, `SELECT `+deliveryColumns+` FROM (`+page+`) AS p
		CROSS JOIN deliveries d ON d."index" = p."index"
		JOIN entries e ON e."index" = p."index"
		WHERE d.registry = ?4 AND d.repository = ?5 AND d.subject = ?1 AND d.state = 'done' AND e.private = 0
		ORDER BY d."index", d.artifact`, string(at.Subject), first, n, at.Registry, at.Repository)
	if err != nil {
		return nil, 0, classify(err)
	}
	found, err := scanDeliveries(rows)
	if err != nil || entries < int64(n) {
		return found, 0, err
	}
	return found, uint64(last) + 1, nil
}

// Capability of a repository.
func (s *Store) Capability(ctx context.Context, registry, repository string) (string, time.Time, error) {
	var capability string
	var at int64
	err := s.read.QueryRowContext(ctx, `SELECT capability, at FROM capabilities WHERE registry = ? AND repository = ?`,
		registry, repository).Scan(&capability, &at)
	if errors.Is(err, sql.ErrNoRows) {
		return "", time.Time{}, nil
	}
	return capability, fromMillis(at), classify(err)
}

// SetCapability of a repository.
func (s *Store) SetCapability(ctx context.Context, registry, repository, capability string, at time.Time) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO capabilities (registry, repository, capability, at) VALUES (?, ?, ?, ?)
			ON CONFLICT (registry, repository) DO UPDATE SET capability = excluded.capability, at = excluded.at
			WHERE at <= excluded.at`, registry, repository, capability, millis(at))
		return err
	})
}
