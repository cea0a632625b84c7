package sqlite

import (
	"context"
	"database/sql"
	"fmt"

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
