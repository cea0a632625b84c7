package ledger

import (
	"bytes"
	"container/list"
	"context"
	"fmt"
	"sync"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"

	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// mint makes the receipt of one entry. A path that does not lead from the entry
// to the signed root never leaves: it would be a damaged tile, and a receipt
// that fails in a verifier's hands years later.
func mint(h receipts.SignedHead, index uint64, id statement.ID, path [][]byte) ([]byte, error) {
	leaf := hasher.HashLeaf(id[:])
	if err := proof.VerifyInclusion(hasher, index, h.Size, leaf, path, h.Root[:]); err != nil {
		return nil, fmt.Errorf("%w: entry %d under size %d: %v", ErrCorrupt, index, h.Size, err)
	}
	return receipts.Mint(h, index, path)
}

// Full tiles have 8 KiB, so that those in memory have 8 MiB at most: all that
// lie above the leaves of 60 million entries, and the leaves asked for of late.
// An edge is as many tiles as the tree has levels, none of them full: auditors
// ask for those of the last checkpoints, again and again. A head is remembered by
// its bytes.
const (
	cachedTiles = 1024
	cachedEdges = 16
	cachedHeads = 4096
)

// prover computes paths from what is stored.
type prover struct {
	log   Log
	tiles lru[TileID, []byte]
	edges lru[treeKey, *edge]
}

// treeKey is all that a tree is known by.
type treeKey struct {
	size uint64
	root [32]byte
}

func newProver(s Log) *prover {
	return &prover{log: s, tiles: lru[TileID, []byte]{limit: cachedTiles}, edges: lru[treeKey, *edge]{limit: cachedEdges}}
}

// edge is that of the tree under h, a head that is trusted. It is shared: read
// only.
func (p *prover) edge(ctx context.Context, h Head) (*edge, error) {
	key := treeKey{h.Size, h.Root}
	if e, ok := p.edges.get(key); ok {
		return e, nil
	}
	e, err := loadEdge(ctx, p.log, h)
	if err != nil {
		return nil, fmt.Errorf("read the tree of size %d: %w", h.Size, err)
	}
	p.edges.put(key, e)
	return e, nil
}

// path of index in the tree of size, which must be that of a stored head.
func (p *prover) path(ctx context.Context, index, size uint64) ([][]byte, error) {
	nodes, err := proof.Inclusion(index, size)
	if err != nil {
		return nil, err
	}
	return p.resolve(ctx, nodes, size)
}

// growth is the consistency path between the trees of two stored heads.
func (p *prover) growth(ctx context.Context, from, to uint64) ([][]byte, error) {
	nodes, err := proof.Consistency(from, to)
	if err != nil {
		return nil, err
	}
	return p.resolve(ctx, nodes, to)
}

// resolve turns the nodes of a proof in the tree of size into hashes.
func (p *prover) resolve(ctx context.Context, nodes proof.Nodes, size uint64) ([][]byte, error) {
	var err error
	rows := map[TileID][][]byte{} // one read per tile, however many of its nodes are on the path
	hashes := make([][]byte, len(nodes.IDs))
	for i, id := range nodes.IDs {
		t := tileOf(id)
		if _, ok := rows[t]; !ok {
			if rows[t], err = p.row(ctx, t, size); err != nil {
				return nil, err
			}
		}
		at, n := inTile(id)
		if uint64(len(rows[t])) < at+n {
			return nil, fmt.Errorf("%w: tile %d/%d is too short", ErrCorrupt, t.Level, t.N)
		}
		hashes[i] = subtree(rows[t][at:][:n])
	}
	return nodes.Rehash(hashes, hasher.HashChildren)
}

func tileOf(id compact.NodeID) TileID {
	return TileID{Level: uint8(id.Level / tileHeight), N: id.Index << (id.Level % tileHeight) / tileWidth}
}

// row returns the hashes of tile t as far as a tree of size has them: a full
// tile by its data, the last one of a level hash by hash.
func (p *prover) row(ctx context.Context, t TileID, size uint64) ([][]byte, error) {
	from, end := t.N*tileWidth, size>>(tileHeight*t.Level)
	if end < from+tileWidth {
		return hashes(ctx, p.log, t.Level, from, end)
	}
	data, err := p.full(ctx, t)
	if err != nil {
		return nil, err
	}
	return split(data), nil
}

// full returns the data of tile t, which must be full in a stored head's tree.
func (p *prover) full(ctx context.Context, t TileID) ([]byte, error) {
	if data, ok := p.tiles.get(t); ok {
		return data, nil
	}
	found, err := p.log.Tiles(ctx, []TileID{t})
	if err != nil {
		return nil, err
	}
	if len(found) != 1 || found[0].TileID != t || len(found[0].Data) != tileWidth*hasher.Size() {
		return nil, fmt.Errorf("%w: no tile %d/%d", ErrCorrupt, t.Level, t.N)
	}
	data := found[0].Data
	// A damaged tile must not stay in memory once the table is sound again.
	if !bytes.Equal(subtree(split(data)), found[0].Root[:]) {
		return nil, fmt.Errorf("%w: tile %d/%d does not give its root", ErrCorrupt, t.Level, t.N)
	}
	p.tiles.put(t, data)
	return data, nil
}

// split is a tile's data as hashes.
func split(data []byte) [][]byte {
	hashes := make([][]byte, len(data)/hasher.Size())
	for i := range hashes {
		hashes[i] = data[i*hasher.Size():][:hasher.Size()]
	}
	return hashes
}

// lru keeps the limit most recently used of values that never change.
type lru[K comparable, V any] struct {
	limit int

	mu    sync.Mutex // held for a lookup, never across a read of the store
	at    map[K]*list.Element
	order list.List // of kept[K, V], most recently used first
}

type kept[K comparable, V any] struct {
	key   K
	value V
}

func (c *lru[K, V]) get(key K) (value V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.at[key]
	if !ok {
		return value, false
	}
	c.order.MoveToFront(e)
	return e.Value.(kept[K, V]).value, true
}

func (c *lru[K, V]) put(key K, value V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at == nil {
		c.at = map[K]*list.Element{}
	}
	if _, ok := c.at[key]; ok {
		return
	}
	c.at[key] = c.order.PushFront(kept[K, V]{key, value})
	if c.order.Len() > c.limit {
		delete(c.at, c.order.Remove(c.order.Back()).(kept[K, V]).key)
	}
}
