package publish_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/bits"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/scittd/scittd/internal/detcbor"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// audited is what an auditor has learnt from a folder, with nothing but a file
// server and the log's verifier key.
type audited struct {
	size       uint64
	ids        []statement.ID
	statements [][]byte // nil: private
	heads      []receipts.SignedHead
	keys       receipts.KeySet
}

// auditor reads one folder over HTTP.
type auditor struct {
	t   *testing.T
	url string
}

func (a auditor) get(path string) ([]byte, int) {
	a.t.Helper()
	resp, err := http.Get(a.url + "/" + path)
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return b, resp.StatusCode
}

func (a auditor) must(path string) []byte {
	a.t.Helper()
	b, status := a.get(path)
	if status != 200 {
		a.t.Fatalf("%s: %d", path, status)
	}
	return b
}

// checkpoint is the zero tree when there is none.
func (a auditor) checkpoint(vkey string) tlog.Tree {
	a.t.Helper()
	signed, status := a.get("checkpoint")
	if status == 404 {
		return tlog.Tree{}
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		a.t.Fatal(err)
	}
	n, err := note.Open(signed, note.VerifierList(verifier))
	if err != nil {
		a.t.Fatalf("checkpoint: %v\n%s", err, signed)
	}
	var tree tlog.Tree
	var root string
	if _, err := fmt.Sscanf(n.Text, verifier.Name()+"\n%d\n%s\n", &tree.N, &root); err != nil {
		a.t.Fatalf("checkpoint: %v\n%s", err, n.Text)
	}
	if tree.Hash, err = tlog.ParseHash(root); err != nil {
		a.t.Fatal(err)
	}
	return tree
}

// The auditor is x/mod's TileReader: its paths name the height, C2SP's do not.
func (a auditor) Height() int                     { return 8 }
func (a auditor) SaveTiles([]tlog.Tile, [][]byte) {}
func (a auditor) ReadTiles(asked []tlog.Tile) (data [][]byte, err error) {
	for _, t := range asked {
		data = append(data, a.must(strings.Replace(t.Path(), "tile/8/", "tile/", 1)))
	}
	return data, nil
}

// audit reads everything that a checkpoint covers and recomputes it: each
// statement hashes to its entry, the entries hash to the root, which the tiles
// give as well; each signed head has the root of its size.
func audit(t *testing.T, url, vkey string) audited {
	t.Helper()
	a := auditor{t, url}
	tree := a.checkpoint(vkey)
	if tree.N == 0 {
		return audited{}
	}
	got := audited{size: uint64(tree.N)}
	var err error
	if got.keys, err = receipts.ParseKeySet(a.must("scitt-keys")); err != nil {
		t.Fatal(err)
	}
	for n := uint64(0); n*256 < got.size; n++ {
		width := min(256, got.size-n*256)
		got.ids = append(got.ids, a.entries(n, int(width))...)
		got.statements = append(got.statements, a.statements(n, int(width))...)
		got.heads = append(got.heads, a.heads(n, int(width))...)
	}
	if len(got.ids) != int(got.size) || len(got.statements) != int(got.size) {
		t.Fatalf("%d entries and %d statements under a checkpoint of %d", len(got.ids), len(got.statements), got.size)
	}
	leaves := make([]tlog.Hash, got.size)
	for i, id := range got.ids {
		if s := got.statements[i]; s != nil && sha256.Sum256(s) != id {
			t.Fatalf("statement %d is not the one that was registered", i)
		}
		leaves[i] = tlog.RecordHash(id[:])
	}
	roots := rootsOf(leaves)
	if tlog.Hash(roots[got.size]) != tree.Hash {
		t.Fatalf("the entries give root %x at size %d, the checkpoint has %x", roots[got.size], got.size, tree.Hash)
	}
	tiles := tlog.TileHashReader(tree, a)
	for i := int64(0); i < tree.N; i += 1 + tree.N/50 {
		path, err := tlog.ProveRecord(tree.N, i, tiles)
		if err != nil {
			t.Fatalf("entry %d of %d: %v", i, tree.N, err)
		}
		if err := tlog.CheckRecord(path, tree.N, tree.Hash, i, leaves[i]); err != nil {
			t.Fatalf("entry %d of %d: %v", i, tree.N, err)
		}
	}
	last := uint64(0)
	for _, h := range got.heads {
		if h.Size <= last || h.Root != roots[h.Size] || receipts.VerifyHead(h, got.keys[0].Public) != nil {
			t.Fatalf("head of size %d after one of %d, root %x, want %x", h.Size, last, h.Root, roots[h.Size])
		}
		last = h.Size
	}
	if last != got.size {
		t.Fatalf("the last head is of size %d, the checkpoint of %d", last, got.size)
	}
	return got
}

// rootsOf are the roots of all sizes, computed from the definition of RFC 9162
// §2.1.1 with one stack of perfect subtrees.
func rootsOf(leaves []tlog.Hash) [][32]byte {
	roots := make([][32]byte, len(leaves)+1)
	var stack []tlog.Hash
	for i, leaf := range leaves {
		stack = append(stack, leaf)
		for range bits.TrailingZeros(uint(i + 1)) {
			top := len(stack) - 1
			stack = append(stack[:top-1], tlog.NodeHash(stack[top-1], stack[top]))
		}
		root := stack[len(stack)-1]
		for j := len(stack) - 2; j >= 0; j-- {
			root = tlog.NodeHash(stack[j], root)
		}
		roots[i+1] = root
	}
	return roots
}

func (a auditor) entries(n uint64, width int) (ids []statement.ID) {
	a.t.Helper()
	b := a.must("tile/entries/" + ledger.TileNumber(n, width))
	for ; len(b) > 0; b = b[34:] {
		if !bytes.HasPrefix(b, []byte{0, 32}) {
			a.t.Fatalf("entries %d: an entry of length %x", n, b[:2])
		}
		ids = append(ids, statement.ID(b[2:34]))
	}
	return ids
}

// statements follows partial files back to the beginning of the group.
func (a auditor) statements(n uint64, width int) [][]byte {
	a.t.Helper()
	all := make([][]byte, width)
	for end := width; end > 0; {
		path := "statements/" + ledger.TileNumber(n, end)
		leaves := read[struct {
			_         struct{} `cbor:",toarray"`
			Index     uint64
			Canonical []byte
		}](a, path)
		if len(leaves) == 0 || leaves[0].Index < n*256 {
			a.t.Fatalf("%s begins with %+v", path, leaves)
		}
		first := int(leaves[0].Index - n*256)
		for i, leaf := range leaves {
			if leaf.Index != leaves[0].Index+uint64(i) || first+i >= end {
				a.t.Fatalf("%s: leaf %d at %d", path, leaf.Index, i)
			}
			all[first+i] = leaf.Canonical
		}
		if first+len(leaves) != end {
			a.t.Fatalf("%s ends before leaf %d", path, first+len(leaves))
		}
		end = first
	}
	return all
}

func (a auditor) heads(n uint64, width int) (heads []receipts.SignedHead) {
	a.t.Helper()
	for _, h := range read[struct {
		_                    struct{} `cbor:",toarray"`
		Size, PrevSize       uint64
		Root                 []byte
		IssuedAt             int64
		Policy               uint64
		Protected, Signature []byte
	}](a, "heads/"+ledger.TileNumber(n, width)) {
		heads = append(heads, receipts.SignedHead{
			Head:      receipts.Head{Size: h.Size, Root: [32]byte(h.Root), Time: time.Unix(h.IssuedAt, 0)},
			Protected: h.Protected, Signature: h.Signature,
		})
	}
	return heads
}

// read decodes the items of a CBOR sequence.
func read[T any](a auditor, path string) (items []T) {
	a.t.Helper()
	r := detcbor.NewReader(a.must(path))
	for r.End() != nil {
		raw, err := r.Raw()
		if err != nil {
			a.t.Fatalf("%s: %v", path, err)
		}
		var item T
		if err := detcbor.Unmarshal(raw, &item); err != nil {
			a.t.Fatalf("%s: %v", path, err)
		}
		items = append(items, item)
	}
	return items
}
