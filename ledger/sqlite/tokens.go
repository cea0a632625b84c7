package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/scittd/scittd/ledger"
)

// AddToken keeps a new token's hash.
func (s *Store) AddToken(ctx context.Context, t ledger.Token) error {
	if err := t.Check(); err != nil {
		return fmt.Errorf("add %w", err)
	}
	return s.update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO tokens (id, name, hash, scopes, created_at, expires_at, revoked_at)
			VALUES (?, ?, ?, ?, ?, ?, ?)`,
			t.ID, t.Name, t.Hash[:], list(t.Scopes), millis(t.Created), millis(t.Expires), millis(t.Revoked))
		if taken(err) {
			return fmt.Errorf("token %s is there already: %w", t.ID, err)
		}
		return err
	})
}

// RevokeToken ends a token, once.
func (s *Store) RevokeToken(ctx context.Context, id string, at time.Time) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		r, err := tx.ExecContext(ctx, `UPDATE tokens SET revoked_at = iif(revoked_at = 0, ?, revoked_at) WHERE id = ?`, millis(at), id)
		if err != nil {
			return err
		}
		if n, err := r.RowsAffected(); err != nil {
			return err
		} else if n == 0 {
			return fmt.Errorf("token %q: %w", id, ledger.ErrNotFound)
		}
		return nil
	})
}

const tokenColumns = `id, name, hash, scopes, created_at, expires_at, revoked_at`

func scanToken(scan func(...any) error) (ledger.Token, error) {
	var t ledger.Token
	var hash, scopes []byte
	var created, expires, revoked int64
	if err := scan(&t.ID, &t.Name, &hash, &scopes, &created, &expires, &revoked); err != nil {
		return t, classify(err)
	}
	copy(t.Hash[:], hash)
	if err := json.Unmarshal(scopes, &t.Scopes); err != nil {
		return t, fmt.Errorf("%w: scopes of token %s: %v", ledger.ErrCorrupt, t.ID, err)
	}
	t.Created, t.Expires, t.Revoked = fromMillis(created), fromMillis(expires), fromMillis(revoked)
	return t, nil
}

// ListTokens returns all of them, oldest first.
func (s *Store) ListTokens(ctx context.Context) ([]ledger.Token, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT `+tokenColumns+` FROM tokens ORDER BY created_at, id`)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	var all []ledger.Token
	for rows.Next() {
		t, err := scanToken(rows.Scan)
		if err != nil {
			return nil, err
		}
		all = append(all, t)
	}
	return all, classify(rows.Err())
}

// FindToken finds a token by the hash of what the caller showed.
func (s *Store) FindToken(ctx context.Context, hash [32]byte) (ledger.Token, error) {
	return scanToken(s.read.QueryRowContext(ctx, `SELECT `+tokenColumns+` FROM tokens WHERE hash = ?`, hash[:]).Scan)
}
