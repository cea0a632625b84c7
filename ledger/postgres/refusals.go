package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

var _ ledger.Refusals = (*Store)(nil)

// NoteRefusal replaces what was noted of the manifest. A new row gets a higher
// id than any other, so that the newest are the last.
func (s *Store) NoteRefusal(ctx context.Context, r ledger.PushRefusal) error {
	err := s.work.run(ctx, func(c *pgx.Conn) error {
		var q pgx.Batch // one transaction
		q.Queue(`DELETE FROM push_refusals WHERE repository = $1 AND manifest = $2`, legible(r.Repository), r.Manifest.Bytes())
		q.Queue(`INSERT INTO push_refusals (repository, manifest, image, entry_id, issuer, code, rule, reason, hint, policy, caller, at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT (repository, manifest) DO NOTHING`,
			legible(r.Repository), r.Manifest.Bytes(), r.Image.Bytes(), r.Entry[:], legible(r.Issuer), legible(r.Code), legible(r.Rule),
			legible(r.Reason), legible(r.Hint), r.Policy[:], legible(r.Caller), r.At)
		q.Queue(`DELETE FROM push_refusals WHERE id <= (SELECT max(id) FROM push_refusals) - $1`, ledger.MaxRefusals)
		return c.SendBatch(ctx, &q).Close()
	})
	if err != nil {
		return fmt.Errorf("note the refusal of %s in %s: %w", r.Manifest, r.Repository, err)
	}
	return nil
}

// DropRefusal forgets what was noted of a manifest.
func (s *Store) DropRefusal(ctx context.Context, repository string, manifest statement.Digest) error {
	err := s.work.run(ctx, func(c *pgx.Conn) error {
		_, err := c.Exec(ctx, `DELETE FROM push_refusals WHERE repository = $1 AND manifest = $2`, legible(repository), manifest.Bytes())
		return err
	})
	if err != nil {
		return fmt.Errorf("drop the refusal of %s in %s: %w", manifest, repository, err)
	}
	return nil
}

// FindRefusals returns the newest first.
func (s *Store) FindRefusals(ctx context.Context, repository string, image statement.Digest, limit int) ([]ledger.PushRefusal, error) {
	if limit < 1 || limit > ledger.MaxPage {
		return nil, fmt.Errorf("page of %d is not within 1..%d", limit, ledger.MaxPage)
	}
	all, err := collect(ctx, s.reads, func(row pgx.CollectableRow) (ledger.PushRefusal, error) {
		var r ledger.PushRefusal
		var manifest, image, entry, policy []byte
		err := row.Scan(&r.Repository, &manifest, &image, &entry, &r.Issuer, &r.Code, &r.Rule, &r.Reason, &r.Hint, &policy, &r.Caller, &r.At)
		if err != nil {
			return r, err
		}
		copy(r.Entry[:], entry)
		copy(r.Policy[:], policy)
		r.At = r.At.UTC()
		if r.Manifest, err = digest(manifest); err == nil {
			r.Image, err = digest(image)
		}
		return r, err
	}, `SELECT repository, manifest, image, entry_id, issuer, code, rule, reason, hint, policy, caller, at FROM push_refusals
		WHERE ($1 = '' OR repository = $1) AND ($2::bytea IS NULL OR image = $2) ORDER BY id DESC LIMIT $3`,
		legible(repository), image.Bytes(), limit)
	if err != nil {
		return nil, fmt.Errorf("find refusals in %q: %w", repository, err)
	}
	return all, nil
}

// CountRefusals adds to what is there, in one transaction.
func (s *Store) CountRefusals(ctx context.Context, counts []ledger.RefusalCount) error {
	err := s.work.run(ctx, func(c *pgx.Conn) error {
		var q pgx.Batch // one transaction
		for _, r := range counts {
			q.Queue(`INSERT INTO refusals AS r (code, rule, policy, issuer, count, first_at, last_at, reason, hint)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
				ON CONFLICT (code, rule, policy, issuer) DO UPDATE SET count = r.count + excluded.count,
					last_at = greatest(r.last_at, excluded.last_at), reason = excluded.reason, hint = excluded.hint`,
				r.Code, r.Rule, r.Policy[:], r.Issuer, int64(r.Count), r.First, r.Last, r.Reason, r.Hint)
		}
		q.Queue(`DELETE FROM refusals WHERE last_at < (SELECT last_at FROM refusals ORDER BY last_at DESC OFFSET $1 LIMIT 1)`, ledger.MaxRefusalCounts-1)
		return c.SendBatch(ctx, &q).Close()
	})
	if err != nil {
		return fmt.Errorf("count %d kinds of refusals: %w", len(counts), err)
	}
	return nil
}

// CountedRefusals returns the most frequent first.
func (s *Store) CountedRefusals(ctx context.Context, since time.Time, limit int) ([]ledger.RefusalCount, error) {
	if limit < 1 || limit > ledger.MaxPage {
		return nil, fmt.Errorf("page of %d is not within 1..%d", limit, ledger.MaxPage)
	}
	var all []ledger.RefusalCount
	err := s.reads.read(ctx, func(c *pgx.Conn) error {
		rows, err := c.Query(ctx, `SELECT code, rule, policy, issuer, count, first_at, last_at, reason, hint FROM refusals
			WHERE last_at >= $1 ORDER BY count DESC, last_at DESC, code, rule, policy, issuer LIMIT $2`, since, limit)
		if err != nil {
			return err
		}
		all, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (ledger.RefusalCount, error) {
			var r ledger.RefusalCount
			var policy []byte
			err := row.Scan(&r.Code, &r.Rule, &policy, &r.Issuer, &r.Count, &r.First, &r.Last, &r.Reason, &r.Hint)
			copy(r.Policy[:], policy)
			r.First, r.Last = r.First.UTC(), r.Last.UTC()
			return r, err
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read how often what was refused: %w", err)
	}
	return all, nil
}
