package receipts

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	service = "https://ts.wabbit.example"
	origin  = "ts.wabbit.example/log"
)

var registered = time.Unix(1_790_000_000, 0)

// serviceKey is the P-256 key of RFC 6979 A.2.5, so that receipts in tests are
// the same bytes in every run.
func serviceKey(t testing.TB) crypto.Signer {
	t.Helper()
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), unhex(t, "c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721"))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newIssuer(t testing.TB) *Issuer {
	t.Helper()
	i, err := NewIssuer(serviceKey(t), service, origin)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func entryOf(i uint64) []byte {
	d := sha256.Sum256(fmt.Appendf(nil, "entry %d", i))
	return d[:]
}

// log is a tree that grows, with all its perfect subtrees.
type log struct {
	t     testing.TB
	edge  *compact.Range
	nodes map[compact.NodeID][]byte
}

func newLog(t testing.TB, entries ...[]byte) *log {
	f := &compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}
	l := &log{t: t, edge: f.NewEmptyRange(0), nodes: map[compact.NodeID][]byte{}}
	for _, e := range entries {
		l.add(e)
	}
	return l
}

// logOf has the entries entryOf(0) to entryOf(size-1).
func logOf(t testing.TB, size uint64) *log {
	l := newLog(t)
	for i := range size {
		l.add(entryOf(i))
	}
	return l
}

func (l *log) add(entry []byte) {
	err := l.edge.Append(rfc6962.DefaultHasher.HashLeaf(entry), func(id compact.NodeID, hash []byte) { l.nodes[id] = hash })
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *log) head() Head {
	root, err := l.edge.GetRootHash(nil)
	if err != nil {
		l.t.Fatal(err)
	}
	return Head{Size: l.edge.End(), Root: [32]byte(root), Time: registered}
}

func (l *log) path(index, size uint64) [][]byte {
	nodes, err := proof.Inclusion(index, size)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.resolve(nodes)
}

// growth is the consistency path between two sizes.
func (l *log) growth(from, to uint64) [][]byte {
	nodes, err := proof.Consistency(from, to)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.resolve(nodes)
}

func (l *log) resolve(nodes proof.Nodes) [][]byte {
	hashes := make([][]byte, len(nodes.IDs))
	for i, id := range nodes.IDs {
		hashes[i] = l.nodes[id]
	}
	path, err := nodes.Rehash(hashes, rfc6962.DefaultHasher.HashChildren)
	if err != nil {
		l.t.Fatal(err)
	}
	return path
}

// receipt of entry index under the newest head, by the test's issuer.
func (l *log) receipt(index uint64) []byte {
	l.t.Helper()
	h, err := newIssuer(l.t).Sign(l.head())
	if err != nil {
		l.t.Fatal(err)
	}
	b, err := Mint(h, index, l.path(index, h.Size))
	if err != nil {
		l.t.Fatal(err)
	}
	return b
}

// consistency is the receipt from an older size to the newest head.
func (l *log) consistency(from uint64) []byte {
	l.t.Helper()
	h, err := newIssuer(l.t).Sign(l.head())
	if err != nil {
		l.t.Fatal(err)
	}
	b, err := MintConsistency(h, from, l.growth(from, h.Size))
	if err != nil {
		l.t.Fatal(err)
	}
	return b
}

// TestReceiptsAgreeWithTlog compares roots, paths and verdicts with an
// implementation that shares no code with ours, for every index and size.
func TestReceiptsAgreeWithTlog(t *testing.T) {
	const sizes = 130
	issuer := newIssuer(t)
	ours := newLog(t)
	var theirs []tlog.Hash
	stored := tlog.HashReaderFunc(func(at []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(at))
		for i, n := range at {
			out[i] = theirs[n]
		}
		return out, nil
	})
	for size := uint64(1); size <= sizes; size++ {
		entry := entryOf(size - 1)
		ours.add(entry)
		more, err := tlog.StoredHashes(int64(size-1), entry, stored)
		if err != nil {
			t.Fatal(err)
		}
		theirs = append(theirs, more...)
		root, err := tlog.TreeHash(int64(size), stored)
		if err != nil {
			t.Fatal(err)
		}
		h, err := issuer.Sign(ours.head())
		if err != nil {
			t.Fatal(err)
		}
		if h.Root != root {
			t.Fatalf("size %d: root %x, tlog says %x", size, h.Root, root)
		}
		for index := range size {
			b, err := Mint(h, index, ours.path(index, size))
			if err != nil {
				t.Fatalf("mint %d of %d: %v", index, size, err)
			}
			r, err := Parse(b)
			if err != nil {
				t.Fatalf("parse %d of %d: %v", index, size, err)
			}
			want, err := tlog.ProveRecord(int64(size), int64(index), stored)
			if err != nil {
				t.Fatal(err)
			}
			got := r.Proofs[0]
			if got.TreeSize != size || got.LeafIndex != index || !samePath(got.Path, want) {
				t.Fatalf("proof %d of %d is %v, tlog says %v", index, size, got, want)
			}
			if err := r.Verify(entryOf(index), issuer.Public(), Strict); err != nil {
				t.Fatalf("verify %d of %d: %v", index, size, err)
			}
			if root, err := r.Root(entryOf(index + 1)); err != nil || root == h.Root {
				t.Fatalf("%d of %d: another entry leads to the same root, or %v", index, size, err)
			}
		}
	}
}

func samePath(a [][]byte, b []tlog.Hash) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !bytes.Equal(a[i], b[i][:]) {
			return false
		}
	}
	return true
}
