package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"github.com/transparency-dev/merkle/proof"

	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// The public log: what an auditor reads. Tiles and entry bundles are those of
// C2SP tlog-tiles; they show no more of an entry than its ID, so that they are
// the same for everybody. Every signed head counts as published, whether or not
// a checkpoint was made of it.

// Tile returns the first width hashes of a tile, 32 bytes each. Full tiles
// (256) are there as soon as they are full, partial ones under the sizes that
// were signed, and stay for ever. ErrNotFound: none such.
//
// A full tile is held against the root over it, a partial one with the whole
// edge of its tree against the signed root. The bytes are shared: read only.
func (l *Ledger) Tile(ctx context.Context, id TileID, width int) ([]byte, error) {
	if width == tileWidth {
		if data, ok := l.prover.tiles.get(id); ok {
			return data, nil // also while the store is away
		}
	}
	h, err := l.headWith(ctx, id, width)
	if err != nil {
		return nil, err
	}
	if width == tileWidth {
		return l.prover.full(ctx, id)
	}
	if err := l.trust(ctx, h); err != nil {
		return nil, err
	}
	e, err := l.prover.edge(ctx, h)
	if err != nil {
		return nil, err
	}
	return bytes.Join(e.open[id.Level], nil), nil
}

// TileNumber is the end of a tile's path in C2SP tlog-tiles, <N>[.p/<W>]: n in
// groups of three digits, all but the last behind an x.
func TileNumber(n uint64, width int) string {
	s := fmt.Sprintf("%03d", n%1000)
	for n /= 1000; n > 0; n /= 1000 {
		s = fmt.Sprintf("x%03d/%s", n%1000, s)
	}
	if width < tileWidth {
		s += fmt.Sprintf(".p/%d", width)
	}
	return s
}

// headWith finds the smallest signed head whose tree has tile id at that width,
// or ErrNotFound.
func (l *Ledger) headWith(ctx context.Context, id TileID, width int) (Head, error) {
	if width < 1 || width > tileWidth || id.Level > 7 || id.N > 1<<63/tileWidth {
		return Head{}, ErrNotFound
	}
	height := tileHeight * uint(id.Level)
	hashes := id.N*tileWidth + uint64(width) // of its level, in such a tree
	if bits.Len64(hashes)+int(height) > 63 {
		return Head{}, ErrNotFound // no store counts that far
	}
	h, err := l.store.HeadFor(ctx, hashes<<height-1)
	if err != nil {
		return Head{}, err
	}
	if width < tileWidth && h.Size>>height != hashes {
		return Head{}, ErrNotFound
	}
	return h, nil
}

// EntryBundle returns the entries under the first width hashes of level-0 tile
// n: each the 32 bytes of an ID behind its length in two bytes. ErrNotFound as
// for Tile.
func (l *Ledger) EntryBundle(ctx context.Context, n uint64, width int) ([]byte, error) {
	tile, err := l.Tile(ctx, TileID{N: n}, width)
	if err != nil {
		return nil, err
	}
	ids, err := l.store.Leaves(ctx, n*tileWidth, n*tileWidth+uint64(width))
	if err != nil {
		return nil, err
	}
	if len(ids) != width {
		return nil, fmt.Errorf("%w: %d of the entries of tile 0/%d, want %d", ErrCorrupt, len(ids), n, width)
	}
	var bundle []byte
	for i, hash := range split(tile) {
		if !bytes.Equal(hasher.HashLeaf(ids[i][:]), hash) {
			return nil, fmt.Errorf("%w: entry %d is not the one under its tile", ErrCorrupt, n*tileWidth+uint64(i))
		}
		bundle = binary.BigEndian.AppendUint16(bundle, uint16(len(ids[i])))
		bundle = append(bundle, ids[i][:]...)
	}
	return bundle, nil
}

// Heads returns signed heads of a size above after, smallest first, at most
// limit (1..MaxPage), as they are stored.
func (l *Ledger) Heads(ctx context.Context, after uint64, limit int) ([]Head, error) {
	return l.store.Heads(ctx, after, limit)
}

// headAt returns the signed head of exactly this size, or ErrNotFound.
func (l *Ledger) headAt(ctx context.Context, size uint64) (Head, error) {
	if size == 0 {
		return Head{}, fmt.Errorf("%w: no head of size 0", ErrNotFound)
	}
	h, err := l.store.HeadFor(ctx, size-1)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return Head{}, err
	}
	if err != nil || h.Size != size {
		return Head{}, fmt.Errorf("%w: no head of size %d", ErrNotFound, size)
	}
	return h, nil
}

// Consistency proves that the tree of To begins with that of From.
type Consistency struct {
	From, To Head
	Path     [][]byte
}

// Receipt is the proof as a COSE Receipt (RFC 9942 §5.3): To's own signature
// serves, no key is touched.
func (c Consistency) Receipt() ([]byte, error) {
	return receipts.MintConsistency(c.To.SignedHead, c.From.Size, c.Path)
}

// Consistency proves that the log has only grown between two signed heads.
// ErrNotFound: one of the sizes was not signed, or from is not below to.
func (l *Ledger) Consistency(ctx context.Context, from, to uint64) (Consistency, error) {
	if from >= to {
		return Consistency{}, fmt.Errorf("%w: no growth from size %d to size %d", ErrNotFound, from, to)
	}
	older, err := l.headAt(ctx, from)
	if err != nil {
		return Consistency{}, err
	}
	newer, err := l.headAt(ctx, to)
	if err != nil {
		return Consistency{}, err
	}
	return l.growth(ctx, older, newer)
}

// growth proves it of heads in hand. A path that does not lead from the one
// signed root to the other never leaves.
func (l *Ledger) growth(ctx context.Context, older, newer Head) (Consistency, error) {
	for _, h := range []Head{older, newer} {
		if err := l.trust(ctx, h); err != nil {
			return Consistency{}, err
		}
	}
	path, err := l.prover.growth(ctx, older.Size, newer.Size)
	if err != nil {
		return Consistency{}, fmt.Errorf("prove growth from size %d to size %d: %w", older.Size, newer.Size, err)
	}
	if err := proof.VerifyConsistency(hasher, older.Size, newer.Size, path, older.Root[:], newer.Root[:]); err != nil {
		return Consistency{}, fmt.Errorf("%w: from size %d to size %d: %v", ErrCorrupt, older.Size, newer.Size, err)
	}
	return Consistency{From: older, To: newer, Path: path}, nil
}

// Statements returns leaves from index from on, in order, with the bytes that
// scope shows: at most limit (1..MaxPage), and not many more than PageBytes. An
// empty page is the end of the log. Bytes that are not the leaf's any more are
// ErrCorrupt.
func (l *Ledger) Statements(ctx context.Context, from uint64, limit int, scope Scope) ([]Leaf, error) {
	leaves, err := l.store.Statements(ctx, from, limit, scope)
	if err != nil {
		return nil, err
	}
	for i, leaf := range leaves {
		hidden := leaf.Private && scope == Public && leaf.Canonical == nil
		if leaf.Index != from+uint64(i) || !hidden && statement.ID(sha256.Sum256(leaf.Canonical)) != leaf.ID {
			return nil, fmt.Errorf("%w: the bytes of entry %d", ErrCorrupt, from+uint64(i))
		}
	}
	return leaves, nil
}
