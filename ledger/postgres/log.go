package postgres

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

const headColumns = `size, prev_size, iat, policy_index, root, protected, signature`

// Head returns the newest signed head.
func (s *Store) Head(ctx context.Context) (ledger.Head, error) {
	h, err := s.head(ctx, `SELECT `+headColumns+` FROM heads ORDER BY size DESC LIMIT 1`)
	if errors.Is(err, pgx.ErrNoRows) {
		return ledger.Head{}, ledger.ErrEmpty
	}
	if err != nil {
		return ledger.Head{}, fmt.Errorf("read the newest head: %w", err)
	}
	return h, nil
}

// HeadFor returns the head of the batch that holds index.
func (s *Store) HeadFor(ctx context.Context, index uint64) (ledger.Head, error) {
	if index > math.MaxInt64 {
		return ledger.Head{}, ledger.ErrNotFound
	}
	h, err := s.head(ctx, `SELECT `+headColumns+` FROM heads WHERE size > $1 ORDER BY size LIMIT 1`, index)
	if errors.Is(err, pgx.ErrNoRows) {
		return ledger.Head{}, ledger.ErrNotFound
	}
	if err != nil {
		return ledger.Head{}, fmt.Errorf("read the head over index %d: %w", index, err)
	}
	return h, nil
}

// Heads returns the heads of a size above after.
func (s *Store) Heads(ctx context.Context, after uint64, limit int) ([]ledger.Head, error) {
	if limit < 1 || limit > ledger.MaxPage {
		return nil, fmt.Errorf("page of %d is not within 1..%d", limit, ledger.MaxPage)
	}
	heads, err := collect(ctx, s.reads, func(row pgx.CollectableRow) (ledger.Head, error) { return scanHead(row) },
		`SELECT `+headColumns+` FROM heads WHERE size > $1 ORDER BY size LIMIT $2`, bound(after), limit)
	if err != nil {
		return nil, fmt.Errorf("read heads above size %d: %w", after, err)
	}
	return heads, nil
}

func (s *Store) head(ctx context.Context, sql string, args ...any) (ledger.Head, error) {
	var h ledger.Head
	err := s.reads.read(ctx, func(c *pgx.Conn) (err error) {
		h, err = scanHead(c.QueryRow(ctx, sql, args...))
		return err
	})
	return h, err
}

// scanHead reads headColumns.
func scanHead(row pgx.Row) (ledger.Head, error) {
	var h ledger.Head
	var iat time.Time
	var root []byte
	if err := row.Scan(&h.Size, &h.PrevSize, &iat, &h.Policy, &root, &h.Protected, &h.Signature); err != nil {
		return ledger.Head{}, err
	}
	h.Time, h.Root = iat.UTC(), rootOf(root)
	return h, nil
}

// rootOf reads a root. The table's CHECK speaks of what was written, not of what
// is there now; what is none comes back as zeros, which nothing hashes to.
func rootOf(b []byte) (root [32]byte) {
	if len(b) == len(root) {
		copy(root[:], b)
	}
	return root
}

// Tiles returns those full tiles that exist, in the order asked.
func (s *Store) Tiles(ctx context.Context, ids []ledger.TileID) ([]ledger.Tile, error) {
	var levels []int16
	var ns []int64
	for _, id := range ids {
		if id.N <= math.MaxInt64 {
			levels, ns = append(levels, int16(id.Level)), append(ns, int64(id.N))
		}
	}
	tiles, err := collect(ctx, s.reads, scanTile, `
		SELECT level, n, root, data
		FROM unnest($1::smallint[], $2::bigint[]) WITH ORDINALITY AS asked (level, n, place)
		JOIN tiles USING (level, n)
		ORDER BY place`, levels, ns)
	if err != nil {
		return nil, fmt.Errorf("read %d tiles: %w", len(ids), err)
	}
	return tiles, nil
}

func scanTile(row pgx.CollectableRow) (ledger.Tile, error) {
	var t ledger.Tile
	var level int16
	var root []byte
	if err := row.Scan(&level, &t.N, &root, &t.Data); err != nil {
		return t, err
	}
	t.Level, t.Root = uint8(level), rootOf(root)
	return t, nil
}

// Roots returns the roots of the full tiles (level, from) to (level, to).
func (s *Store) Roots(ctx context.Context, level uint8, from, to uint64) ([][32]byte, error) {
	roots, err := collect(ctx, s.reads, func(row pgx.CollectableRow) ([32]byte, error) {
		var root []byte
		err := row.Scan(&root)
		return rootOf(root), err
	},
		`SELECT root FROM tiles WHERE level = $1 AND n >= $2 AND n < $3 ORDER BY n`,
		int16(level), bound(from), bound(to))
	if err != nil {
		return nil, fmt.Errorf("read tile roots %d/[%d, %d): %w", level, from, to, err)
	}
	return roots, nil
}

// Leaves returns the entry IDs of indexes [from, to), fewer when the log ends
// before.
func (s *Store) Leaves(ctx context.Context, from, to uint64) ([]statement.ID, error) {
	ids, err := collect(ctx, s.reads, func(row pgx.CollectableRow) (statement.ID, error) {
		var at int64
		var id []byte
		if err := row.Scan(&at, &id); err != nil {
			return statement.ID{}, err
		}
		return entryID(at, id)
	},
		`SELECT index, entry_id FROM entries WHERE index >= $1 AND index < $2 ORDER BY index`, bound(from), bound(to))
	if err != nil {
		return nil, fmt.Errorf("read leaves [%d, %d): %w", from, to, err)
	}
	return ids, nil
}

// bound fits a position into bigint; nothing lies beyond.
func bound(n uint64) int64 { return int64(min(n, math.MaxInt64)) }

// entryID reads the ID of an entry, which nothing can take the place of.
func entryID(at int64, b []byte) (statement.ID, error) {
	if len(b) != 32 {
		return statement.ID{}, fmt.Errorf("%w: the ID of entry %d has %d bytes", ledger.ErrCorrupt, at, len(b))
	}
	return statement.ID(b), nil
}

// collect runs a query on a connection of p and scans every row.
func collect[T any](ctx context.Context, p *pool, scan pgx.RowToFunc[T], sql string, args ...any) ([]T, error) {
	var all []T
	err := p.read(ctx, func(c *pgx.Conn) error {
		rows, err := c.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		all, err = pgx.CollectRows(rows, scan)
		return err
	})
	return all, err
}
