package fsck

import (
	"context"
	"errors"
	"fmt"

	"github.com/transparency-dev/merkle/compact"

	"github.com/scittd/scittd/ledger"
)

// Verify recomputes the root of every head from the leaves alone: no statement
// and no tile is read. For each size in at that the log has, whether or not it
// has a head there, it returns the root too, and the newest head.
func Verify(ctx context.Context, s ledger.Log, at []uint64, found func(Finding)) (newest ledger.Head, roots map[uint64][32]byte, err error) {
	c := &Checker{found: found}
	f := compact.RangeFactory{Hash: hasher.HashChildren}
	tree := f.NewEmptyRange(0)
	roots = map[uint64][32]byte{}
	for _, size := range at {
		roots[size] = [32]byte{}
	}
	if newest, err = s.Head(ctx); err != nil {
		return newest, nil, err
	}
	var wrong run
	var heads []ledger.Head
	for tree.End() < newest.Size {
		from := tree.End()
		ids, err := s.Leaves(ctx, from, min(from+PageSize, newest.Size))
		if err != nil {
			return newest, nil, fmt.Errorf("read leaves from %d: %w", from, err)
		}
		if len(ids) == 0 {
			c.report(Entry, fmt.Sprintf("entry %d", from), fmt.Sprintf("is missing, below the newest head, of size %d", newest.Size))
			break
		}
		for _, id := range ids {
			if err := tree.Append(hasher.HashLeaf(id[:]), nil); err != nil {
				return newest, nil, err
			}
			size := tree.End()
			if len(heads) == 0 {
				if heads, err = s.Heads(ctx, size-1, ledger.MaxPage); err != nil {
					return newest, nil, fmt.Errorf("read heads above size %d: %w", size-1, err)
				}
			}
			_, asked := roots[size]
			ends := len(heads) > 0 && heads[0].Size == size
			if !asked && !ends {
				continue
			}
			b, err := tree.GetRootHash(nil)
			if err != nil {
				return newest, nil, err
			}
			if asked {
				roots[size] = [32]byte(b)
			}
			if ends {
				h := heads[0]
				heads = heads[1:]
				wrong.add(size, h.Root != [32]byte(b), func() {
					c.differs(Head, headName(h), "its root is not what the leaves give", fmt.Sprintf("%x", h.Root), fmt.Sprintf("%x", b))
				}, func(r run) { r.end(c, "root") })
			}
		}
	}
	wrong.end(c, "root")
	for size := range roots {
		if size > tree.End() || size == 0 {
			delete(roots, size)
		}
	}
	if newest.Size == 0 {
		return newest, nil, errors.New("the newest head is of an empty tree")
	}
	return newest, roots, nil
}
