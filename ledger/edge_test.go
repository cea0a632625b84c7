package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/transparency-dev/merkle/compact"

	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// memory is the tree part of a Log.
type memory struct {
	Log
	leaves []statement.ID
	tiles  map[TileID]Tile
	reads  int
}

func (m *memory) Leaves(_ context.Context, from, to uint64) ([]statement.ID, error) {
	m.reads++
	if to-from > tileWidth {
		return nil, errors.New("more than a tile was asked for")
	}
	return m.leaves[from:to], nil
}

func (m *memory) Roots(_ context.Context, level uint8, from, to uint64) (roots [][32]byte, err error) {
	m.reads++
	for n := from; n < to; n++ {
		if t, ok := m.tiles[TileID{level, n}]; ok {
			roots = append(roots, t.Root)
		}
	}
	return roots, nil
}

func (m *memory) Tiles(_ context.Context, ids []TileID) (tiles []Tile, err error) {
	m.reads++
	for _, id := range ids {
		if t, ok := m.tiles[id]; ok {
			tiles = append(tiles, t)
		}
	}
	return tiles, nil
}

func leaf(i uint64) statement.ID { return sha256.Sum256(binary.BigEndian.AppendUint64(nil, i)) }

// grown is a tree in memory with everything kept that was promised on the way.
type grown struct {
	*memory
	edge  *edge
	roots map[uint64][32]byte
}

// growTo appends n leaves to g in a batch, and checks the paths of some.
func (g *grown) growTo(t *testing.T, size uint64) {
	t.Helper()
	var ids []statement.ID
	for i := g.edge.size(); i < size; i++ {
		ids = append(ids, leaf(i))
	}
	before := g.edge.size()
	next, err := g.edge.grow(ids)
	if err != nil {
		t.Fatal(err)
	}
	if g.edge.size() != before {
		t.Fatalf("the edge of size %d was advanced in place", before)
	}
	for _, i := range []uint64{before, (before + size) / 2, size - 1} {
		path, err := next.path(i)
		if err != nil {
			t.Fatal(err)
		}
		checkPath(t, path, next.root, i, size)
	}
	g.edge = next.edge
	g.leaves = append(g.leaves, ids...)
	for _, tile := range next.tiles {
		if _, ok := g.tiles[tile.TileID]; ok {
			t.Fatalf("tile %v was completed twice", tile.TileID)
		}
		g.tiles[tile.TileID] = tile
	}
	g.roots[size] = next.root
}

func checkPath(t *testing.T, path [][]byte, root [32]byte, index, size uint64) {
	t.Helper()
	var p tlog.RecordProof
	for _, h := range path {
		p = append(p, tlog.Hash(h))
	}
	id := leaf(index)
	if err := tlog.CheckRecord(p, int64(size), tlog.Hash(root), int64(index), tlog.RecordHash(id[:])); err != nil {
		t.Fatalf("path of %d in %d: %v", index, size, err)
	}
}

func newGrown() *grown {
	return &grown{memory: &memory{tiles: map[TileID]Tile{}}, edge: emptyEdge(), roots: map[uint64][32]byte{}}
}

func TestEveryLeafIsProvenAtEverySizeOfASmallTree(t *testing.T) {
	g := newGrown()
	p := newProver(g)
	for size := uint64(1); size <= 100; size++ {
		g.growTo(t, size)
		for i := range size {
			path, err := p.path(t.Context(), i, size)
			if err != nil {
				t.Fatal(err)
			}
			checkPath(t, path, g.roots[size], i, size)
		}
	}
}

func checkGrowth(t *testing.T, path [][]byte, older, newer [32]byte, from, to uint64) {
	t.Helper()
	var p tlog.TreeProof
	for _, h := range path {
		p = append(p, tlog.Hash(h))
	}
	if err := tlog.CheckTree(p, int64(to), tlog.Hash(newer), int64(from), tlog.Hash(older)); err != nil {
		t.Fatalf("growth from %d to %d: %v", from, to, err)
	}
}

func TestGrowthIsProvenBetweenAllSizesOfALogOf300(t *testing.T) {
	g := newGrown()
	p := newProver(g)
	for to := uint64(1); to <= 300; to++ {
		g.growTo(t, to)
		for from := uint64(1); from < to; from++ {
			path, err := p.growth(t.Context(), from, to)
			if err != nil {
				t.Fatal(err)
			}
			checkGrowth(t, path, g.roots[from], g.roots[to], from, to)
		}
	}
}

// The second tile level begins at 65,536 leaves.
func TestTilesOfAllLevelsProveOldAndNewLeavesAtStoredSizes(t *testing.T) {
	const last = 65536 + 600
	g := newGrown()
	random := rand.New(rand.NewPCG(3, 4))
	sizes := []uint64{2, 255, 256, 257, 511, 512, 513, 65280, 65535, 65536, 65537, 65792, last}
	for _, size := range sizes {
		for g.edge.size() < size {
			g.growTo(t, min(size, g.edge.size()+1+random.Uint64N(1024)))
		}
	}
	if got, want := len(g.tiles), last/256+1; got != want {
		t.Errorf("%d full tiles, want %d", got, want)
	}
	p := newProver(g)
	for _, size := range sizes {
		for range 50 {
			i := random.Uint64N(size)
			path, err := p.path(t.Context(), i, size)
			if err != nil {
				t.Fatal(err)
			}
			checkPath(t, path, g.roots[size], i, size)
		}
	}
	for i, from := range sizes {
		for _, to := range sizes[i+1:] {
			path, err := p.growth(t.Context(), from, to)
			if err != nil {
				t.Fatal(err)
			}
			checkGrowth(t, path, g.roots[from], g.roots[to], from, to)
		}
	}
	if n := p.tiles.order.Len(); n > cachedTiles || n != len(p.tiles.at) {
		t.Errorf("%d tiles are cached, at most %d", n, cachedTiles)
	}

	for size, root := range g.roots {
		if size < 65000 && size%64 > 2 {
			continue
		}
		h := Head{SignedHead: receipts.SignedHead{Head: receipts.Head{Size: size, Root: root}}}
		short := &memory{leaves: g.leaves[:size], tiles: g.tiles}
		e, err := loadEdge(t.Context(), short, h)
		if err != nil {
			t.Fatalf("size %d: %v", size, err)
		}
		if short.reads > 3 {
			t.Errorf("size %d: %d reads, want one per level", size, short.reads)
		}
		more, err := e.grow([]statement.ID{leaf(size)})
		if err != nil {
			t.Fatal(err)
		}
		path, err := more.path(size)
		if err != nil {
			t.Fatal(err)
		}
		checkPath(t, path, more.root, size, size+1)
	}
}

func TestAnEdgeIsReadOnceAndOnlyWhenItIsSound(t *testing.T) {
	g := newGrown()
	head := func(size uint64) Head {
		return Head{SignedHead: receipts.SignedHead{Head: receipts.Head{Size: size, Root: g.roots[size]}}}
	}
	for size := uint64(1); size <= 300; size++ {
		g.growTo(t, size)
	}
	p := newProver(g)
	g.leaves[299][0] ^= 1
	if _, err := p.edge(t.Context(), head(300)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a damaged leaf: %v, want ErrCorrupt", err)
	}
	g.leaves[299][0] ^= 1
	first, err := p.edge(t.Context(), head(300))
	if err != nil {
		t.Fatalf("mended: %v", err)
	}
	read := g.reads
	if again, err := p.edge(t.Context(), head(300)); err != nil || again != first || g.reads != read {
		t.Errorf("asked again: %d reads, %v; want none", g.reads-read, err)
	}
	other := head(300)
	other.Root[0] ^= 1
	if _, err := p.edge(t.Context(), other); !errors.Is(err, ErrCorrupt) {
		t.Errorf("another root of the same size: %v, want ErrCorrupt", err)
	}
	for size := uint64(1); size <= 300; size++ {
		e, err := p.edge(t.Context(), head(size))
		if err != nil || e.size() != size {
			t.Fatalf("edge of size %d: %v", size, err)
		}
	}
	if n := p.edges.order.Len(); n != cachedEdges || n != len(p.edges.at) {
		t.Errorf("%d edges are kept, want %d", n, cachedEdges)
	}
}

func TestADamagedTreeIsNeitherContinuedNorProven(t *testing.T) {
	g := newGrown()
	for g.edge.size() < 70000 {
		g.growTo(t, g.edge.size()+1000)
	}
	h := Head{SignedHead: receipts.SignedHead{Head: receipts.Head{Size: 70000, Root: g.roots[70000]}}}
	spoilTile := func(id TileID, spoil func(*Tile)) func() {
		return func() {
			tile := g.tiles[id]
			tile.Data = bytes.Clone(tile.Data)
			spoil(&tile)
			g.tiles[id] = tile
		}
	}
	for _, c := range []struct {
		name        string
		spoil       func()
		edge, proof bool // notice it
	}{
		{"a leaf at the edge", func() { g.leaves[69999][0] ^= 1 }, true, false},
		{"a root that the edge stands on", spoilTile(TileID{0, 272}, func(t *Tile) { t.Root[0] ^= 1 }), true, true},
		{"the root of the large tile", spoilTile(TileID{1, 0}, func(t *Tile) { t.Root[0] ^= 1 }), true, true},
		{"a hash in a tile", spoilTile(TileID{0, 0}, func(t *Tile) { t.Data[99] ^= 1 }), false, true},
		{"a tile that is cut", spoilTile(TileID{0, 0}, func(t *Tile) { t.Data = t.Data[:8000] }), false, true},
		{"a tile that is missing", func() { delete(g.tiles, TileID{0, 0}) }, false, true},
		{"a root that is missing", func() { delete(g.tiles, TileID{0, 272}) }, true, true},
	} {
		tiles, leaves := g.tiles, g.leaves
		g.tiles, g.leaves = map[TileID]Tile{}, append([]statement.ID{}, leaves...)
		for id, tile := range tiles {
			g.tiles[id] = tile
		}
		c.spoil()
		if _, err := loadEdge(t.Context(), g, h); c.edge != errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: load says %v", c.name, err)
		}
		noticed := false
		for _, i := range []uint64{0, 1, 300, 69632, 69998} {
			path, err := newProver(g).path(t.Context(), i, 70000)
			if err == nil {
				_, err = mint(h.SignedHead, i, leaf(i), path)
			}
			noticed = noticed || errors.Is(err, ErrCorrupt)
		}
		if c.proof && !noticed {
			t.Errorf("%s: every proof was made", c.name)
		}
		g.tiles, g.leaves = tiles, leaves
	}
}

func TestTheOldTreeIsEnoughForThePathsOfNewLeaves(t *testing.T) {
	g := newGrown()
	for before := uint64(0); before < 70; before++ {
		if before > 0 {
			g.growTo(t, before)
		}
		for n := uint64(1); n < 20; n++ {
			var ids []statement.ID
			for i := range n {
				ids = append(ids, leaf(before+i))
			}
			next, err := g.edge.grow(ids)
			if err != nil {
				t.Fatal(err)
			}
			for i := before; i < before+n; i++ {
				path, err := next.path(i)
				if err != nil {
					t.Fatalf("%d more on %d: %v", n, before, err)
				}
				checkPath(t, path, next.root, i, before+n)
			}
		}
	}
}

func TestSubtreesAreFoundInTheirTiles(t *testing.T) {
	for _, c := range []struct {
		node  compact.NodeID
		tile  TileID
		at, n uint64
	}{
		{compact.NewNodeID(0, 0), TileID{0, 0}, 0, 1},
		{compact.NewNodeID(0, 300), TileID{0, 1}, 44, 1},
		{compact.NewNodeID(7, 1), TileID{0, 0}, 128, 128},
		{compact.NewNodeID(7, 3), TileID{0, 1}, 128, 128},
		{compact.NewNodeID(8, 1), TileID{1, 0}, 1, 1},
		{compact.NewNodeID(9, 130), TileID{1, 1}, 4, 2},
		{compact.NewNodeID(16, 257), TileID{2, 1}, 1, 1},
	} {
		at, n := inTile(c.node)
		if tile := tileOf(c.node); tile != c.tile || at != c.at || n != c.n {
			t.Errorf("%v: %d hashes from %d of tile %v; want %d from %d of %v", c.node, n, at, tile, c.n, c.at, c.tile)
		}
	}
}
