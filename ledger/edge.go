package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/scittd/scittd/statement"
)

// The tree is RFC 9162's with SHA-256; a leaf's entry is the 32 bytes of a
// statement's ID. A tile holds tileWidth hashes of every tileHeight-th level.
const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
)

var (
	hasher = treeHasher{rfc6962.DefaultHasher}
	ranges = compact.RangeFactory{Hash: hasher.HashChildren}
)

// treeHasher is the library's hasher; the hash of two children, which makes up
// nearly all of a registration's tree work, it computes without a hash.Hash of
// its own for each.
type treeHasher struct{ *rfc6962.Hasher }

func (treeHasher) HashChildren(l, r []byte) []byte {
	var both [1 + 2*sha256.Size]byte
	both[0] = rfc6962.RFC6962NodeHashPrefix
	copy(both[1:], l)
	copy(both[1+sha256.Size:], r)
	sum := sha256.Sum256(both[:])
	return sum[:]
}

// edge is the right border of the tree: all that appending needs. It is never
// advanced in place, because a commit that fails would make every later root
// wrong; grow works on a copy.
type edge struct {
	tree *compact.Range // [0, size)
	open [][][]byte     // by tile level: the hashes of the last tile, which is not full
}

func emptyEdge() *edge { return &edge{tree: ranges.NewEmptyRange(0)} }

func (e *edge) size() uint64 { return e.tree.End() }

// growth is an edge with new leaves on it, and what came of it.
type growth struct {
	edge  *edge
	root  [32]byte
	tiles []Tile                    // completed, lower levels first within one leaf
	nodes map[compact.NodeID][]byte // enough for the path of every new leaf
}

// grow appends a leaf for every ID to a copy of e.
func (e *edge) grow(ids []statement.ID) (*growth, error) {
	old := e.tree.Hashes()
	tree, err := ranges.NewRange(0, e.size(), slices.Clone(old))
	if err != nil {
		return nil, err
	}
	g := &growth{edge: &edge{tree: tree}, nodes: make(map[compact.NodeID][]byte, len(old)+2*len(ids))}
	for _, row := range e.open {
		g.edge.open = append(g.edge.open, slices.Clone(row))
	}
	// Every sibling on a new leaf's path is either new, or one of the maximal
	// perfect subtrees of the old tree.
	for i, id := range compact.RangeNodes(0, e.size(), nil) {
		g.nodes[id] = old[i]
	}
	for _, id := range ids {
		if err := tree.Append(hasher.HashLeaf(id[:]), g.visit); err != nil {
			return nil, err
		}
	}
	root, err := tree.GetRootHash(nil)
	if err != nil {
		return nil, err
	}
	copy(g.root[:], root)
	return g, nil
}

// visit is told every new node, children before parents.
func (g *growth) visit(id compact.NodeID, hash []byte) {
	g.nodes[id] = hash
	if id.Level%tileHeight != 0 {
		return
	}
	e, level := g.edge, int(id.Level/tileHeight)
	if level > 0 {
		// The root over a tile appears exactly when the tile has become full.
		t := Tile{TileID: TileID{Level: uint8(level - 1), N: id.Index}, Data: bytes.Join(e.open[level-1], nil)}
		copy(t.Root[:], hash)
		g.tiles = append(g.tiles, t)
		e.open[level-1] = nil
	}
	if level == len(e.open) {
		e.open = append(e.open, nil)
	}
	e.open[level] = append(e.open[level], hash)
}

// path returns the inclusion path of a leaf that grow added.
func (g *growth) path(index uint64) ([][]byte, error) {
	p, err := proof.Inclusion(index, g.edge.size())
	if err != nil {
		return nil, err
	}
	hashes := make([][]byte, len(p.IDs))
	for i, id := range p.IDs {
		h, ok := g.nodes[id]
		if !ok {
			return nil, fmt.Errorf("path of %d in %d: no node %v", index, g.edge.size(), id)
		}
		hashes[i] = h
	}
	return p.Rehash(hashes, hasher.HashChildren)
}

// loadEdge rebuilds the edge of the tree under h from leaves and tile roots, at
// most 255 hashes a level, and holds it against the signed root.
func loadEdge(ctx context.Context, s Log, h Head) (*edge, error) {
	e := &edge{}
	for level := uint8(0); h.Size>>(tileHeight*level) > 0; level++ {
		n := h.Size >> (tileHeight * level)
		row, err := hashes(ctx, s, level, n-n%tileWidth, n)
		if err != nil {
			return nil, err
		}
		e.open = append(e.open, row)
	}
	ids := compact.RangeNodes(0, h.Size, nil)
	border := make([][]byte, len(ids))
	for i, id := range ids {
		at, n := inTile(id)
		border[i] = subtree(e.open[id.Level/tileHeight][at:][:n])
	}
	var err error
	if e.tree, err = ranges.NewRange(0, h.Size, border); err != nil {
		return nil, err
	}
	root, err := e.tree.GetRootHash(nil)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(root, h.Root[:]) {
		return nil, fmt.Errorf("%w: leaves and tiles do not give the signed root of size %d", ErrCorrupt, h.Size)
	}
	return e, nil
}

// hashes reads the hashes [from, to) of a tile level one by one: leaf hashes from
// the entries, others from the roots of the full tiles one level below.
func hashes(ctx context.Context, s Log, level uint8, from, to uint64) ([][]byte, error) {
	if from == to {
		return nil, nil
	}
	got := make([][]byte, 0, to-from)
	if level == 0 {
		leaves, err := s.Leaves(ctx, from, to)
		if err != nil {
			return nil, err
		}
		for _, id := range leaves {
			got = append(got, hasher.HashLeaf(id[:]))
		}
	} else {
		roots, err := s.Roots(ctx, level-1, from, to)
		if err != nil {
			return nil, err
		}
		for _, r := range roots {
			got = append(got, r[:])
		}
	}
	if uint64(len(got)) != to-from {
		return nil, fmt.Errorf("%w: tile level %d has %d of the hashes [%d, %d)", ErrCorrupt, level, len(got), from, to)
	}
	return got, nil
}

// inTile says which hashes of its tile make up a perfect subtree: n from at on.
func inTile(id compact.NodeID) (at, n uint64) {
	height := id.Level % tileHeight
	return id.Index << height % tileWidth, 1 << height
}

// subtree is the root over 1, 2, 4 … hashes.
func subtree(hashes [][]byte) []byte {
	r := ranges.NewEmptyRange(0)
	for _, h := range hashes {
		if err := r.Append(h, nil); err != nil {
			panic(err) // a range that starts at 0 and grows by one cannot be at odds with itself
		}
	}
	root, err := r.GetRootHash(nil)
	if err != nil {
		panic(err)
	}
	return root
}
