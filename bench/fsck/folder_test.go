package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/publish"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// TestTesserasToolsAcceptAPublishedFolderOfAnySize publishes a tree that x/mod's
// tlog made, at the two sizes that a service never shows too: its first commit
// has two entries.
func TestTesserasToolsAcceptAPublishedFolderOfAnySize(t *testing.T) {
	skey, vkey, err := note.GenerateKey(rand.Reader, "tree.example/log")
	if err != nil {
		t.Fatal(err)
	}
	tree := &tree{}
	if tree.signer, err = note.NewSigner(skey); err != nil {
		t.Fatal(err)
	}
	if tree.keys, err = anyKey(); err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	p, err := publish.New("file://"+folder, tree, tree, publish.Options{Checkpoint: tree.checkpoint})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	files := httptest.NewServer(http.FileServer(http.Dir(folder)))
	defer files.Close()
	for _, size := range []uint64{0, 1, 2, 255, 256, 257, 70000} {
		tree.growTo(t, size)
		if err := p.Publish(t.Context()); err != nil {
			t.Fatalf("publish size %d: %v", size, err)
		}
		var out bytes.Buffer
		if err := run(t.Context(), []string{"-url", files.URL, "-key", vkey}, &out); err != nil {
			t.Fatalf("size %d: %v", size, err)
		}
		if want := fmt.Sprintf("\nsize  %d\n", size); !strings.Contains(out.String(), want) {
			t.Errorf("audited\n%s, want size %d", &out, size)
		}
	}
}

// tree is a log in memory: what a Publisher reads of one, by other code than
// ours. Statements are what their IDs are the hashes of.
type tree struct {
	signer note.Signer
	keys   receipts.KeySet
	ids    []statement.ID
	stored []tlog.Hash
	heads  []ledger.Head
}

// anyKey is a COSE_KeySet of one key: EC2, ES256, P-256.
func anyKey() (receipts.KeySet, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	point, err := key.PublicKey.Bytes() // 04, X, Y
	if err != nil {
		return nil, err
	}
	return receipts.ParseKeySet(slices.Concat([]byte{0x81, 0xa5, 1, 2, 3, 0x26, 0x20, 1, 0x21, 0x58, 32}, point[1:33], []byte{0x22, 0x58, 32}, point[33:]))
}

func content(i int) []byte { return fmt.Append(nil, "statement ", i) }

func (l *tree) ReadHashes(indexes []int64) (hashes []tlog.Hash, err error) {
	for _, i := range indexes {
		hashes = append(hashes, l.stored[i])
	}
	return hashes, nil
}

// growTo makes one head of that size.
func (l *tree) growTo(t *testing.T, size uint64) {
	t.Helper()
	for i := len(l.ids); i < int(size); i++ {
		id := statement.ID(sha256.Sum256(content(i)))
		more, err := tlog.StoredHashes(int64(i), id[:], l)
		if err != nil {
			t.Fatal(err)
		}
		l.ids, l.stored = append(l.ids, id), append(l.stored, more...)
	}
	root, err := tlog.TreeHash(int64(size), l)
	if err != nil {
		t.Fatal(err)
	}
	var h ledger.Head
	h.Size, h.Root, h.Time = size, root, time.Unix(1800000000, 0)
	l.heads = append(l.heads, h)
}

func (l *tree) checkpoint(context.Context) ([]byte, error) {
	h := l.heads[len(l.heads)-1]
	text := fmt.Sprintf("%s\n%d\n%v\n", l.signer.Name(), h.Size, tlog.Hash(h.Root))
	return note.Sign(&note.Note{Text: text}, l.signer)
}

func (l *tree) Head(context.Context) (ledger.Head, error) { return l.heads[len(l.heads)-1], nil }

func (l *tree) Keys() receipts.KeySet { return l.keys }

func (l *tree) Tile(_ context.Context, id ledger.TileID, width int) ([]byte, error) {
	return tlog.ReadTileData(tlog.Tile{H: 8, L: int(id.Level), N: int64(id.N), W: width}, l)
}

func (l *tree) EntryBundle(_ context.Context, n uint64, width int) (bundle []byte, err error) {
	for _, id := range l.ids[n*256:][:width] {
		bundle = append(binary.BigEndian.AppendUint16(bundle, 32), id[:]...)
	}
	return bundle, nil
}

func (l *tree) Heads(_ context.Context, after uint64, limit int) (found []ledger.Head, err error) {
	for _, h := range l.heads {
		if h.Size > after && len(found) < limit {
			found = append(found, h)
		}
	}
	return found, nil
}

func (l *tree) Statements(_ context.Context, from uint64, limit int, _ ledger.Scope) (leaves []ledger.Leaf, err error) {
	for i := from; i < from+uint64(limit); i++ {
		leaves = append(leaves, ledger.Leaf{Index: i, ID: l.ids[i], Canonical: content(int(i))})
	}
	return leaves, nil
}

func (l *tree) Lease(context.Context, string, string, time.Duration) (bool, error) { return true, nil }
