package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

var _ ledger.Refusals = (*Store)(nil)

// NoteRefusal replaces what was noted of the manifest. A new row gets a higher
// id than any other, so that the newest are the last.
func (s *Store) NoteRefusal(ctx context.Context, r ledger.PushRefusal) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM push_refusals WHERE repository = ? AND manifest = ?`, r.Repository, string(r.Manifest)); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO push_refusals (repository, manifest, image, entry_id, issuer, code, rule, reason, hint, policy, caller, at)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			r.Repository, string(r.Manifest), string(r.Image), r.Entry[:], r.Issuer, r.Code, r.Rule, r.Reason, r.Hint, r.Policy[:], r.Caller, millis(r.At))
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM push_refusals WHERE id <= (SELECT max(id) FROM push_refusals) - ?`, ledger.MaxRefusals)
		return err
	})
}

// DropRefusal takes the write lock only where there is something to drop.
func (s *Store) DropRefusal(ctx context.Context, repository string, manifest statement.Digest) error {
	var there bool
	err := s.read.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM push_refusals WHERE repository = ? AND manifest = ?)`,
		repository, string(manifest)).Scan(&there)
	if err != nil || !there {
		return classify(err)
	}
	return s.update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM push_refusals WHERE repository = ? AND manifest = ?`, repository, string(manifest))
		return err
	})
}

// FindRefusals returns the newest first.
func (s *Store) FindRefusals(ctx context.Context, repository string, image statement.Digest, limit int) ([]ledger.PushRefusal, error) {
	if limit < 1 || limit > ledger.MaxPage {
		return nil, fmt.Errorf("page of %d is not within 1..%d", limit, ledger.MaxPage)
	}
	var all []ledger.PushRefusal
	err := s.each(ctx, func(scan func(...any) error) error {
		var r ledger.PushRefusal
		var entry, policy []byte
		var at int64
		err := scan(&r.Repository, &r.Manifest, &r.Image, &entry, &r.Issuer, &r.Code, &r.Rule, &r.Reason, &r.Hint, &policy, &r.Caller, &at)
		copy(r.Entry[:], entry)
		copy(r.Policy[:], policy)
		r.At = fromMillis(at)
		all = append(all, r)
		return err
	}, `SELECT repository, manifest, image, entry_id, issuer, code, rule, reason, hint, policy, caller, at FROM push_refusals
		WHERE (repository = ?1 OR ?1 = '') AND (image = ?2 OR ?2 = '') ORDER BY id DESC LIMIT ?3`, repository, string(image), limit)
	return all, err
}

// CountRefusals adds to what is there, in one transaction.
func (s *Store) CountRefusals(ctx context.Context, counts []ledger.RefusalCount) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		for _, r := range counts {
			_, err := tx.ExecContext(ctx, `INSERT INTO refusals (code, rule, policy, issuer, count, first_at, last_at, reason, hint)
				VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
				ON CONFLICT (code, rule, policy, issuer) DO UPDATE SET count = count + excluded.count,
					last_at = max(last_at, excluded.last_at), reason = excluded.reason, hint = excluded.hint`,
				r.Code, r.Rule, r.Policy[:], r.Issuer, int64(r.Count), millis(r.First), millis(r.Last), r.Reason, r.Hint)
			if err != nil {
				return fmt.Errorf("count refusals by %s: %w", r.Rule, err)
			}
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM refusals WHERE last_at < (SELECT last_at FROM refusals ORDER BY last_at DESC LIMIT 1 OFFSET ?)`, ledger.MaxRefusalCounts-1)
		return err
	})
}

// CountedRefusals returns the most frequent first.
func (s *Store) CountedRefusals(ctx context.Context, since time.Time, limit int) ([]ledger.RefusalCount, error) {
	if limit < 1 || limit > ledger.MaxPage {
		return nil, fmt.Errorf("page of %d is not within 1..%d", limit, ledger.MaxPage)
	}
	var all []ledger.RefusalCount
	err := s.each(ctx, func(scan func(...any) error) error {
		var r ledger.RefusalCount
		var policy []byte
		var first, last int64
		err := scan(&r.Code, &r.Rule, &policy, &r.Issuer, &r.Count, &first, &last, &r.Reason, &r.Hint)
		copy(r.Policy[:], policy)
		r.First, r.Last = fromMillis(first), fromMillis(last)
		all = append(all, r)
		return err
	}, `SELECT code, rule, policy, issuer, count, first_at, last_at, reason, hint FROM refusals
		WHERE last_at >= ? ORDER BY count DESC, last_at DESC, code, rule, policy, issuer LIMIT ?`, millis(since), limit)
	return all, err
}
