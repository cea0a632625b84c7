package postgres

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/scittd/scittd/ledger"
)

var _ ledger.Projection = (*Store)(nil)

// Placed walks the indexes of artifacts and of the images that claims came for,
// which are in order of the first bytes of their digests; that a few share them
// changes nothing but the order.
func (s *Store) Placed(ctx context.Context, registry string, after ledger.PlacedMark, n int) ([]ledger.Delivery, ledger.PlacedMark, error) {
	if n < 1 || after.Entry > math.MaxInt64 || !storable(registry) {
		return nil, ledger.PlacedMark{}, nil
	}
	// Each index has two of the three columns; the third row comparison is for the
	// few that share them.
	const order = `substr(s.digest, 1, 7), s.index, s.digest`
	const behind = `(substr(s.digest, 1, 7), s.index) >= (substr($1::bytea, 1, 7), $2)
		AND (` + order + `) > (substr($1::bytea, 1, 7), $2, $1)`
	const cameFor = `(SELECT image AS digest, index FROM audit WHERE image IS NOT NULL) AS s`
	const hungOn = `(SELECT image AS digest, index FROM later_images) AS s`
	const upTo = behind + ` AND (substr(s.digest, 1, 7), s.index) <= (substr($3::bytea, 1, 7), $4)
		AND (` + order + `) <= (substr($3::bytea, 1, 7), $4, $3)`
	from := []any{notNil(after.Subject.Bytes()), int64(after.Entry)}
	if after.Subject == "" {
		from[1] = int64(-1)
	}
	var found []ledger.Delivery
	var mark ledger.PlacedMark
	err := s.reads.read(ctx, func(c *pgx.Conn) error {
		var last []byte
		var pairs int
		err := c.QueryRow(ctx, `SELECT s.digest, s.index, count(*) OVER ()
			FROM (SELECT * FROM (
				(SELECT s.digest, s.index FROM entry_subjects s WHERE `+behind+` ORDER BY `+order+` LIMIT $3)
				UNION (SELECT s.digest, s.index FROM `+cameFor+` WHERE `+behind+` ORDER BY `+order+` LIMIT $3)
				UNION (SELECT s.digest, s.index FROM `+hungOn+` WHERE `+behind+` ORDER BY `+order+` LIMIT $3)) AS s
				ORDER BY `+order+` LIMIT $3) AS s
			ORDER BY substr(s.digest, 1, 7) DESC, s.index DESC, s.digest DESC LIMIT 1`, append(from, n)...).
			Scan(&last, &mark.Entry, &pairs)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		if mark.Subject, err = digest(last); err != nil {
			return err
		}
		rows, err := c.Query(ctx, `SELECT `+deliveryColumns+` FROM (
				SELECT s.digest, s.index FROM entry_subjects s WHERE `+upTo+`
				UNION SELECT s.digest, s.index FROM `+cameFor+` WHERE `+upTo+`
				UNION SELECT s.digest, s.index FROM `+hungOn+` WHERE `+upTo+`) AS s
			`+placedOf(`s.index`, `d.subject = s.digest AND d.registry = $5`)+`
			ORDER BY `+order+`, d.repository, d.artifact`, append(from, last, int64(mark.Entry), registry)...)
		if err == nil {
			found, err = pgx.CollectRows(rows, scanDelivery)
		}
		if pairs < n {
			mark = ledger.PlacedMark{}
		}
		return err
	})
	if err != nil {
		return nil, ledger.PlacedMark{}, fmt.Errorf("read what was placed at %s: %w", registry, err)
	}
	return found, mark, nil
}

// placedOf joins d, what was placed of the public entry e at index. OFFSET 0 keeps
// each look-up what it is, one row after the other: a planner told not to sort sees
// no difference between ways that all have to, and may read whole tables for a page.
func placedOf(index, where string) string {
	return `CROSS JOIN LATERAL (SELECT * FROM deliveries d WHERE d.index = ` + index + ` AND ` + where + ` AND d.state = 'done' OFFSET 0) AS d
		CROSS JOIN LATERAL (SELECT * FROM entries e WHERE e.index = d.index AND NOT e.private OFFSET 0) AS e`
}

// PlacedAt returns what was placed beside one image.
func (s *Store) PlacedAt(ctx context.Context, at ledger.Place, from uint64, n int) ([]ledger.Delivery, uint64, error) {
	if n < 1 || from > math.MaxInt64 || at.Subject == "" || !storable(at.Registry) || !storable(at.Repository) {
		return nil, 0, nil
	}
	var found []ledger.Delivery
	var last, entries uint64
	err := s.reads.read(ctx, func(c *pgx.Conn) error {
		var q pgx.Batch
		const page = `
			(SELECT index FROM entry_subjects
				WHERE substr(digest, 1, 7) = substr($1::bytea, 1, 7) AND digest = $1 AND index >= $2 ORDER BY index LIMIT $3)
			UNION (SELECT index FROM audit
				WHERE substr(image, 1, 7) = substr($1::bytea, 1, 7) AND image = $1 AND image IS NOT NULL AND index >= $2 ORDER BY index LIMIT $3)
			UNION (SELECT index FROM later_images
				WHERE substr(image, 1, 7) = substr($1::bytea, 1, 7) AND image = $1 AND index >= $2 ORDER BY index LIMIT $3)
			ORDER BY index LIMIT $3`
		args := []any{notNil(at.Subject.Bytes()), int64(from), n}
		q.Queue(`SELECT coalesce(max(index), 0), count(*) FROM (`+page+`) AS p`, args...).
			QueryRow(func(row pgx.Row) error { return row.Scan(&last, &entries) })
		q.Queue(`SELECT `+deliveryColumns+` FROM (`+page+`) AS p
			`+placedOf(`p.index`, `d.registry = $4 AND d.repository = $5 AND d.subject = $1`)+`
			ORDER BY d.index, d.artifact`, append(args, at.Registry, at.Repository)...).
			Query(func(rows pgx.Rows) (err error) {
				found, err = pgx.CollectRows(rows, scanDelivery)
				return err
			})
		return c.SendBatch(ctx, &q).Close()
	})
	if err != nil {
		return nil, 0, fmt.Errorf("read what was placed beside %s: %w", at.Subject, err)
	}
	if entries < uint64(n) {
		return found, 0, nil
	}
	return found, last + 1, nil
}

// Capability of a repository.
func (s *Store) Capability(ctx context.Context, registry, repository string) (capability string, at time.Time, err error) {
	if !storable(registry) || !storable(repository) {
		return "", time.Time{}, nil
	}
	err = s.reads.read(ctx, func(c *pgx.Conn) error {
		return c.QueryRow(ctx, `SELECT capability, at FROM capabilities WHERE registry = $1 AND repository = $2`, registry, repository).
			Scan(&capability, &at)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return "", time.Time{}, nil
	}
	if err != nil {
		return "", time.Time{}, fmt.Errorf("read the capability of %s/%s: %w", registry, repository, err)
	}
	return capability, at.UTC(), nil
}

// SetCapability of a repository.
func (s *Store) SetCapability(ctx context.Context, registry, repository, capability string, at time.Time) error {
	for _, text := range []string{registry, repository, capability} {
		if !storable(text) {
			return fmt.Errorf("keep a capability: %.80q holds NUL or is not UTF-8", text)
		}
	}
	err := s.work.run(ctx, func(c *pgx.Conn) error {
		_, err := c.Exec(ctx, `
			INSERT INTO capabilities AS c (registry, repository, capability, at) VALUES ($1, $2, $3, $4)
			ON CONFLICT (registry, repository) DO UPDATE SET capability = excluded.capability, at = excluded.at
			WHERE c.at <= excluded.at`, registry, repository, capability, at)
		return err
	})
	if err != nil {
		return fmt.Errorf("keep the capability of %s/%s: %w", registry, repository, err)
	}
	return nil
}
