package sqlite

import (
	"context"
	"errors"
	"fmt"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

const headColumns = `size, prev_size, root, iat, policy_index, protected, signature`

// Head returns the newest head.
func (s *Store) Head(ctx context.Context) (ledger.Head, error) {
	h, err := s.head(ctx, `SELECT `+headColumns+` FROM heads ORDER BY size DESC LIMIT 1`)
	if errors.Is(err, ledger.ErrNotFound) {
		return h, ledger.ErrEmpty
	}
	return h, err
}

// HeadFor returns the head of the batch that holds i.
func (s *Store) HeadFor(ctx context.Context, i uint64) (ledger.Head, error) {
	at, err := index(i)
	if err != nil {
		return ledger.Head{}, ledger.ErrNotFound
	}
	return s.head(ctx, `SELECT `+headColumns+` FROM heads WHERE size > ? ORDER BY size LIMIT 1`, at)
}

// Heads returns the heads of a size above after.
func (s *Store) Heads(ctx context.Context, after uint64, limit int) ([]ledger.Head, error) {
	if limit < 1 || limit > ledger.MaxPage {
		return nil, fmt.Errorf("page of %d is not within 1..%d", limit, ledger.MaxPage)
	}
	at, err := index(after)
	if err != nil {
		return nil, nil
	}
	rows, err := s.read.QueryContext(ctx, `SELECT `+headColumns+` FROM heads WHERE size > ? ORDER BY size LIMIT ?`, at, limit)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	var heads []ledger.Head
	for rows.Next() {
		h, err := scanHead(rows.Scan)
		if err != nil {
			return nil, err
		}
		heads = append(heads, h)
	}
	return heads, classify(rows.Err())
}

func (s *Store) head(ctx context.Context, query string, args ...any) (ledger.Head, error) {
	return scanHead(s.read.QueryRowContext(ctx, query, args...).Scan)
}

// scanHead reads headColumns.
func scanHead(scan func(...any) error) (ledger.Head, error) {
	var h ledger.Head
	var root []byte
	var iat int64
	if err := scan(&h.Size, &h.PrevSize, &root, &iat, &h.Policy, &h.Protected, &h.Signature); err != nil {
		return ledger.Head{}, classify(err)
	}
	copy(h.Root[:], root)
	h.Time = fromSeconds(iat)
	return h, nil
}

// Tiles returns those full tiles that exist, in the order asked.
func (s *Store) Tiles(ctx context.Context, ids []ledger.TileID) ([]ledger.Tile, error) {
	var tiles []ledger.Tile
	for _, id := range ids {
		n, err := index(id.N)
		if err != nil {
			continue
		}
		t := ledger.Tile{TileID: id}
		var root []byte
		err = classify(s.read.QueryRowContext(ctx, `SELECT root, data FROM tiles WHERE level = ? AND n = ?`, id.Level, n).
			Scan(&root, &t.Data))
		if errors.Is(err, ledger.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		copy(t.Root[:], root)
		tiles = append(tiles, t)
	}
	return tiles, nil
}

// Roots returns the roots of full tiles, without reading their data.
func (s *Store) Roots(ctx context.Context, level uint8, from, to uint64) ([][32]byte, error) {
	var roots [][32]byte
	err := s.span(ctx, `SELECT n, root FROM tiles WHERE level = ? AND n >= ? AND n < ? ORDER BY n`,
		[]any{level}, from, to, func(b []byte) { roots = append(roots, [32]byte(b)) })
	return roots, err
}

// Leaves returns the entry IDs of [from, to).
func (s *Store) Leaves(ctx context.Context, from, to uint64) ([]statement.ID, error) {
	var ids []statement.ID
	err := s.span(ctx, `SELECT "index", entry_id FROM entries WHERE "index" >= ? AND "index" < ? ORDER BY "index"`,
		nil, from, to, func(b []byte) { ids = append(ids, statement.ID(b)) })
	return ids, err
}

// span reads the hashes of [from, to), up to the first that is missing.
func (s *Store) span(ctx context.Context, query string, args []any, from, to uint64, add func([]byte)) error {
	low, err := index(from)
	if err != nil || to <= from {
		return nil
	}
	high, err := index(to)
	if err != nil {
		high = 1<<63 - 1
	}
	rows, err := s.read.QueryContext(ctx, query, append(args, low, high)...)
	if err != nil {
		return classify(err)
	}
	defer rows.Close()
	for next := low; rows.Next(); next++ {
		var at int64
		var hash []byte
		if err := rows.Scan(&at, &hash); err != nil {
			return classify(err)
		}
		if at != next {
			break
		}
		if len(hash) != 32 {
			return fmt.Errorf("%w: hash %d has %d bytes", ledger.ErrCorrupt, at, len(hash))
		}
		add(hash)
	}
	return classify(rows.Err())
}
