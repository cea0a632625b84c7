package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Lease gives work to owner unless another one has it.
func (s *Store) Lease(ctx context.Context, work, owner string, d time.Duration) (bool, error) {
	if !storable(work) || !storable(owner) {
		return false, fmt.Errorf("lease %.80q: it or its owner %.80q holds NUL or is not UTF-8", work, owner)
	}
	var given bool
	err := s.work.run(ctx, func(c *pgx.Conn) error {
		done, err := c.Exec(ctx, `
			INSERT INTO leases AS l (work, owner, until) VALUES ($1, $2, clock_timestamp() + $3)
			ON CONFLICT (work) DO UPDATE SET owner = excluded.owner, until = excluded.until
			WHERE l.owner = excluded.owner OR l.until <= clock_timestamp()`, work, owner, d)
		given = done.RowsAffected() > 0
		return err
	})
	if err != nil {
		return false, fmt.Errorf("lease %s: %w", work, err)
	}
	return given, nil
}
