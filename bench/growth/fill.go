package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// The corpus is that of the load generator, but for its signatures, which no
// store looks at.
const (
	issuers    = 1000
	perSubject = 10
	mediaTypes = 8
)

func issuerName(n uint64) string { return fmt.Sprintf("https://issuer-%04d.example", n%issuers) }
func mediaTypeName(n uint64) string {
	return fmt.Sprintf("application/vnd.bench-%d+json", n%mediaTypes)
}
func image(n uint64) statement.Digest {
	return statement.SHA256(fmt.Append(nil, "image ", n/perSubject))
}

// Every hundredth entry is provenance.
const provenance = "https://slsa.dev/provenance/v1"

// filler appends to a log what a sequencer would, without verifying anything:
// the tree is right, and every head is signed.
type filler struct {
	store  ledger.Store
	issuer *receipts.Issuer
	policy statement.ID
	bytes  int  // of a statement
	placed bool // two deliveries to an entry
	random *rand.ChaCha8
	tree   *compact.Range
	open   [][][]byte // by tile level: the hashes of the last tile, which is not full
	tiles  []ledger.Tile
}

var ranges = compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}

// outside lends a program the builders of ledgertest.
type outside struct{ testing.TB }

func (outside) Helper()           {}
func (outside) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

// newFiller makes a log of two entries in an empty store.
func newFiller(ctx context.Context, s ledger.Store, bytes int, placed bool) (*filler, error) {
	t := outside{}
	operator := ledgertest.NewOperator(t)
	f := &filler{
		store: s, issuer: operator.Issuer(t), bytes: bytes, placed: placed,
		random: rand.NewChaCha8([32]byte{1}), tree: ranges.NewEmptyRange(0),
	}
	genesis := operator.Genesis(t)
	if err := ledger.Init(ctx, s, f.issuer, genesis, nil); err != nil {
		return nil, err
	}
	f.policy = genesis.Policy.ID()
	for _, leaf := range []*statement.Statement{genesis.Policy, genesis.Service} {
		if err := f.append(leaf.ID()); err != nil {
			return nil, err
		}
	}
	return f, nil
}

func (f *filler) append(id statement.ID) error {
	return f.tree.Append(rfc6962.DefaultHasher.HashLeaf(id[:]), f.visit)
}

// visit is told every new node, children before parents; the root over a tile
// appears when the tile has become full.
func (f *filler) visit(id compact.NodeID, hash []byte) {
	if id.Level%8 != 0 {
		return
	}
	level := int(id.Level / 8)
	if level > 0 {
		f.tiles = append(f.tiles, ledger.Tile{
			TileID: ledger.TileID{Level: uint8(level - 1), N: id.Index},
			Root:   [32]byte(hash), Data: bytes.Join(f.open[level-1], nil),
		})
		f.open[level-1] = nil
	}
	if level == len(f.open) {
		f.open = append(f.open, nil)
	}
	f.open[level] = append(f.open[level], hash)
}

// to commits batches until the log has size entries.
func (f *filler) to(ctx context.Context, size uint64, batch int) error {
	for f.tree.End() < size {
		if err := f.commit(ctx, int(min(uint64(batch), size-f.tree.End()))); err != nil {
			return err
		}
	}
	return nil
}

func (f *filler) commit(ctx context.Context, n int) error {
	now := time.Now().UTC().Truncate(time.Second)
	b := &ledger.Batch{Head: ledger.Head{PrevSize: f.tree.End()}}
	for range n {
		e, err := f.entry(f.tree.End(), now)
		if err != nil {
			return err
		}
		b.Entries = append(b.Entries, e)
	}
	root, err := f.tree.GetRootHash(nil)
	if err != nil {
		return err
	}
	b.Head.SignedHead, err = f.issuer.Sign(receipts.Head{Size: f.tree.End(), Root: [32]byte(root), Time: now})
	if err != nil {
		return err
	}
	b.Tiles, f.tiles = f.tiles, nil
	return f.store.Commit(ctx, b)
}

// entry makes entry n and appends it to the tree.
func (f *filler) entry(n uint64, now time.Time) (ledger.NewEntry, error) {
	e := ledger.NewEntry{Entry: ledger.Entry{
		Index: n, Issuer: issuerName(n), MediaType: mediaTypeName(n), Artifacts: []statement.Digest{image(n)},
		RegisteredAt: now, Policy: f.policy, Rule: "issuer",
	}}
	e.Caller, e.Subject = "bench", "pkg:oci/image@"+string(e.Artifacts[0])
	e.Identity.Kind, e.Identity.Issuer = "key", e.Issuer
	if n%100 == 0 {
		e.PredicateType = provenance
	}
	e.Canonical = make([]byte, f.bytes)
	if _, err := f.random.Read(e.Canonical); err != nil {
		return e, err
	}
	copy(e.Canonical[min(len(e.Canonical), 60):], e.Issuer+e.Subject)
	sum := sha256.Sum256(e.Canonical)
	e.ID, e.Evidence = sum, statement.SHA256(sum[:])
	if f.placed {
		for _, artifact := range []string{ledger.EvidenceArtifact, ledger.TransparencyArtifact} {
			e.Deliveries = append(e.Deliveries, ledger.Delivery{
				Registry: "registry.example", Repository: "wabbit/net-monitor", Subject: e.Artifacts[0],
				Artifact: artifact, State: ledger.Queued, NextAt: now,
			})
		}
	}
	return e, f.append(e.ID)
}
