package replay_test

import (
	"bytes"
	"context"
	"iter"
	"maps"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/ledger/replay"
	"github.com/scittd/scittd/ledger/sqlite"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// held is what an auditor has, in memory, where a test can change it: a Source.
type held struct {
	entries  []replay.Entry
	heads    []ledger.Head
	receipts map[uint64][]byte
	evidence map[statement.Digest][]byte
}

var _ replay.Source = (*held)(nil)

func (h *held) Size() uint64 { return h.heads[len(h.heads)-1].Size }

func (h *held) Heads() iter.Seq2[ledger.Head, error] { return all(h.heads) }

func (h *held) Entries() iter.Seq2[replay.Entry, error] { return all(h.entries) }

func (h *held) Statement(index uint64) ([]byte, error) { return h.entries[index].Canonical, nil }

func (h *held) Receipts() (map[uint64][]byte, error) { return maps.Clone(h.receipts), nil }

func (h *held) Evidence(d statement.Digest) ([]byte, error) { return h.evidence[d], nil }

func all[T any](values []T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, v := range values {
			if !yield(v, nil) {
				return
			}
		}
	}
}

// readAll is what an auditor with that scope downloads.
func readAll(t testing.TB, db *sqlite.Store, l *ledger.Ledger, scope ledger.Scope) *held {
	t.Helper()
	ctx := t.Context()
	h := &held{receipts: map[uint64][]byte{}, evidence: map[statement.Digest][]byte{}}
	var err error
	for page := []ledger.Head(nil); ; h.heads = append(h.heads, page...) {
		after := uint64(0)
		if n := len(h.heads) + len(page); len(h.heads) > 0 && n > 0 {
			after = h.heads[len(h.heads)-1].Size
		}
		if page, err = l.Heads(ctx, after, ledger.MaxPage); err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
	}
	for size := h.Size(); uint64(len(h.entries)) < size; {
		from := uint64(len(h.entries))
		leaves, err := l.Statements(ctx, from, ledger.MaxPage, scope)
		if err != nil {
			t.Fatal(err)
		}
		decided, err := ledger.Decisions{Store: db}.Decided(ctx, from, len(leaves), scope)
		if err != nil {
			t.Fatal(err)
		}
		for i, d := range decided {
			h.entries = append(h.entries, replay.Entry{Decided: d, Canonical: leaves[i].Canonical})
		}
	}
	for i, e := range h.entries {
		if i%7 == 0 && e.Canonical != nil {
			if h.receipts[e.Index], err = l.Receipt(ctx, e.ID, scope); err != nil {
				t.Fatal(err)
			}
		}
	}
	return h
}

// save writes what h has into a folder, as a download does, pages of n each.
func (h *held) save(t testing.TB, dir string, n int) {
	t.Helper()
	d, err := replay.NewDownload(dir, "https://scitt.example")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.AddHeads(h.heads); err != nil {
		t.Fatal(err)
	}
	for page := range slices.Chunk(h.entries, n) {
		var statements []byte
		var decided []ledger.Decided
		for _, e := range page {
			statements = ledger.Leaf{Index: e.Index, Canonical: e.Canonical}.AppendCBOR(statements)
			decided = append(decided, e.Decided)
		}
		if got, err := d.AddStatements(statements); err != nil || got != len(page) {
			t.Fatalf("%d statements of %d: %v", got, len(page), err)
		}
		if got, err := d.AddDecisions(ledger.AppendDecided(nil, decided)); err != nil || got != len(page) {
			t.Fatalf("%d decisions of %d: %v", got, len(page), err)
		}
	}
	for _, index := range slices.Sorted(maps.Keys(h.receipts)) {
		if err := d.AddReceipt(index, h.receipts[index]); err != nil {
			t.Fatal(err)
		}
	}
	for digest, content := range h.evidence {
		if err := d.AddEvidence(digest, content); err != nil {
			t.Fatal(err)
		}
	}
}

// sign makes the log that h has the operator's: roots that fit the entries, and
// heads that are signed. This is what a service can do that lies.
func (h *held) sign(t testing.TB, o *ledgertest.Operator) {
	t.Helper()
	tree := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
	for i, head := range h.heads {
		for _, e := range h.entries[head.PrevSize:head.Size] {
			if err := tree.Append(rfc6962.DefaultHasher.HashLeaf(e.ID[:]), nil); err != nil {
				t.Fatal(err)
			}
		}
		root, err := tree.GetRootHash(nil)
		if err != nil {
			t.Fatal(err)
		}
		head.SignedHead, err = o.Issuer(t).Sign(receipts.Head{Size: head.Size, Root: [32]byte(root), Time: head.Time})
		if err != nil {
			t.Fatal(err)
		}
		h.heads[i] = head
	}
	h.receipts = nil
}

// clone can be changed without changing h.
func (h *held) clone() *held {
	c := *h
	c.entries, c.heads, c.receipts, c.evidence = slices.Clone(h.entries), slices.Clone(h.heads), maps.Clone(h.receipts), maps.Clone(h.evidence)
	for i := range c.entries {
		c.entries[i].Collateral = slices.Clone(c.entries[i].Collateral)
		c.entries[i].Artifacts = slices.Clone(c.entries[i].Artifacts)
	}
	return &c
}

// put replaces entry i by s, as if it had been decided like it.
func (h *held) put(i int, s *statement.Statement) {
	h.entries[i].ID, h.entries[i].Canonical = s.ID(), bytes.Clone(s.Canonical())
}

// world is a log with people around it.
type world struct {
	testing.TB
	operator             *ledgertest.Operator
	wabbit, acme, secret *ledgertest.Publisher
	db                   *sqlite.Store
	ledger               *ledger.Ledger
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{
		TB: t, operator: ledgertest.NewOperator(t),
		wabbit: ledgertest.NewPublisher(t, "https://wabbit.example"),
		acme:   ledgertest.NewCertifiedPublisher(t, "https://acme.example"),
		secret: ledgertest.NewPublisher(t, "https://secret.example"),
	}
	w.secret.Rule.Visibility = "private"
	var err error
	if w.db, err = sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "ledger.db")); err != nil {
		t.Fatal(err)
	}
	w.operator.Init(t, w.db, w.wabbit, w.acme, w.secret)
	w.ledger, err = ledger.Open(t.Context(), w.db, ledger.Options{Issuer: w.operator.Issuer(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := w.ledger.Close(ctx); err != nil {
			t.Error(err)
		}
		if err := w.db.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) append(s *statement.Statement) *statement.Statement {
	w.Helper()
	ledgertest.Append(w, w.ledger, s)
	return s
}

// run replays h, and returns what deviates.
func run(t testing.TB, src replay.Source, o replay.Options) (replay.Report, []replay.Deviation) {
	t.Helper()
	var found []replay.Deviation
	o.Found = func(d replay.Deviation) { found = append(found, d) }
	report, err := replay.Run(t.Context(), src, o)
	if err != nil {
		t.Fatal(err)
	}
	return report, found
}
