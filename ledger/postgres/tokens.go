package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/scittd/scittd/ledger"
)

// AddToken keeps a new token.
func (s *Store) AddToken(ctx context.Context, t ledger.Token) error {
	if err := t.Check(); err != nil {
		return fmt.Errorf("add %w", err)
	}
	err := s.work.run(ctx, func(c *pgx.Conn) error {
		_, err := c.Exec(ctx, `INSERT INTO tokens (id, name, hash, scopes, created_at, expires_at, revoked_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7)`,
			t.ID, t.Name, t.Hash[:], t.Scopes, t.Created, t.Expires, nullTime(t.Revoked))
		return err
	})
	if violated(err) != "" {
		return fmt.Errorf("add token %s: its id or secret is there already", t.ID)
	}
	if err != nil {
		return fmt.Errorf("add token %s: %w", t.ID, err)
	}
	return nil
}

// RevokeToken sets the revocation time once.
func (s *Store) RevokeToken(ctx context.Context, id string, at time.Time) error {
	if !storable(id) {
		return ledger.ErrNotFound
	}
	var found bool
	err := s.work.run(ctx, func(c *pgx.Conn) error {
		done, err := c.Exec(ctx, `UPDATE tokens SET revoked_at = coalesce(revoked_at, $2) WHERE id = $1`, id, at)
		found = done.RowsAffected() > 0
		return err
	})
	if err != nil {
		return fmt.Errorf("revoke token %s: %w", id, err)
	}
	if !found {
		return ledger.ErrNotFound
	}
	return nil
}

const tokenColumns = `id, name, hash, scopes, created_at, expires_at, revoked_at`

func scanToken(row pgx.CollectableRow) (ledger.Token, error) {
	var t ledger.Token
	var hash []byte
	var revoked *time.Time
	if err := row.Scan(&t.ID, &t.Name, &hash, &t.Scopes, &t.Created, &t.Expires, &revoked); err != nil {
		return t, err
	}
	copy(t.Hash[:], hash)
	t.Created, t.Expires = t.Created.UTC(), t.Expires.UTC()
	if revoked != nil {
		t.Revoked = revoked.UTC()
	}
	return t, nil
}

// ListTokens returns all tokens, oldest first.
func (s *Store) ListTokens(ctx context.Context) ([]ledger.Token, error) {
	tokens, err := collect(ctx, s.reads, scanToken, `SELECT `+tokenColumns+` FROM tokens ORDER BY created_at, id`)
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	return tokens, nil
}

// FindToken finds a token by the hash of its secret.
func (s *Store) FindToken(ctx context.Context, hash [32]byte) (ledger.Token, error) {
	var t ledger.Token
	err := s.reads.read(ctx, func(c *pgx.Conn) error {
		rows, err := c.Query(ctx, `SELECT `+tokenColumns+` FROM tokens WHERE hash = $1`, hash[:])
		if err != nil {
			return err
		}
		t, err = pgx.CollectExactlyOneRow(rows, scanToken)
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return ledger.Token{}, ledger.ErrNotFound
	}
	if err != nil {
		return ledger.Token{}, fmt.Errorf("find token: %w", err)
	}
	return t, nil
}

// nullTime keeps a zero time as NULL.
func nullTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
