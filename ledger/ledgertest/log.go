package ledgertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

var logTests = []test{
	{"a fresh database is empty and says so", freshIsEmpty},
	{"what was committed is there after reopening", commitIsDurable},
	{"heads are found by the entries they hold", headsByEntry},
	{"leaves and roots end where the log ends", spansEnd},
	{"losing commit leaves nothing behind", losingCommit},
	{"of concurrent commits on one size exactly one wins", concurrentCommits},
	{"a bad row takes its whole batch with it, and nothing else", badRows},
	{"a cancelled commit is all or nothing", cancelledCommit},
	{"a batch of a thousand entries is one commit", largeBatch},
	{"the longest texts are kept", longTexts},
	{"collateral comes back as it was", keepsCollateral},
	{"the store's clock goes", clockGoes},
}

func freshIsEmpty(w *world) {
	if _, err := w.store.Head(w.ctx); !errors.Is(err, ledger.ErrEmpty) {
		w.Errorf("head: %v, want ErrEmpty", err)
	}
	if _, err := w.store.HeadFor(w.ctx, 0); !errors.Is(err, ledger.ErrNotFound) {
		w.Errorf("head for 0: %v, want ErrNotFound", err)
	}
	if ids, err := w.store.Leaves(w.ctx, 0, 10); err != nil || len(ids) > 0 {
		w.Errorf("leaves: %v, %v", ids, err)
	}
	if roots, err := w.store.Roots(w.ctx, 0, 0, 10); err != nil || len(roots) > 0 {
		w.Errorf("roots: %v, %v", roots, err)
	}
	if found, err := w.store.Find(w.ctx, ledger.Query{Scope: ledger.All, Limit: 10}); err != nil || len(found) > 0 {
		w.Errorf("find: %v, %v", found, err)
	}
	if due, err := w.store.Due(w.ctx, pickup("o", 10, 10), time.Now()); err != nil || len(due) > 0 {
		w.Errorf("due: %v, %v", due, err)
	}
	if found, err := w.store.Indexes(w.ctx, nil, ledger.All); err != nil || len(found) > 0 {
		w.Errorf("indexes of nothing: %v, %v", found, err)
	}
	if _, err := ledger.Open(w.ctx, w.store, w.options()); !errors.Is(err, ledger.ErrEmpty) {
		w.Errorf("open: %v, want ErrEmpty", err)
	}
	w.check()
}

func commitIsDurable(w *world) {
	w.init()
	b := w.commit(w.wabbit.Claims(w, 0, 3)...)
	w.reopen()
	h, err := w.store.Head(w.ctx)
	if err != nil {
		w.Fatal(err)
	}
	if !reflect.DeepEqual(h, b.Head) {
		w.Errorf("head after reopening is\n%+v, want\n%+v", h, b.Head)
	}
	w.check()
}

func headsByEntry(w *world) {
	w.init()
	w.commit(w.wabbit.Claims(w, 0, 3)...)
	w.commit(w.wabbit.Claims(w, 3, 1)...)
	for index, want := range []uint64{2, 2, 5, 5, 5, 6} {
		if h, err := w.store.HeadFor(w.ctx, uint64(index)); err != nil || h.Size != want {
			w.Errorf("head for %d: size %d, %v; want %d", index, h.Size, err, want)
		}
	}
	for _, index := range []uint64{6, 1 << 40, 1<<64 - 1} {
		if h, err := w.store.HeadFor(w.ctx, index); !errors.Is(err, ledger.ErrNotFound) {
			w.Errorf("head for %d: size %d, %v; want ErrNotFound", index, h.Size, err)
		}
	}
}

func spansEnd(w *world) {
	w.init()
	statements := w.wabbit.Claims(w, 0, 256)
	b := w.commit(statements...)
	all, err := w.store.Leaves(w.ctx, 0, 1000)
	if err != nil || len(all) != 258 || !slices.Equal(all[2:], ids(statements)) {
		w.Fatalf("%d leaves, %v", len(all), err)
	}
	for _, span := range [][2]uint64{{0, 0}, {0, 1}, {5, 9}, {257, 258}, {257, 1 << 40}, {258, 300}, {9, 5}} {
		got, err := w.store.Leaves(w.ctx, span[0], span[1])
		want := []statement.ID{}
		if from, to := min(span[0], 258), min(span[1], 258); from < to {
			want = all[from:to]
		}
		if err != nil || !slices.Equal(got, want) {
			w.Errorf("leaves of %v: %d, %v; want %d", span, len(got), err, len(want))
		}
	}
	if len(b.Tiles) != 1 {
		w.Fatalf("%d tiles in a tree of 258", len(b.Tiles))
	}
	tiles, err := w.store.Tiles(w.ctx, []ledger.TileID{{Level: 1}, {N: 1}, {}, {N: 1 << 62}, {}})
	if err != nil || !reflect.DeepEqual(tiles, []ledger.Tile{b.Tiles[0], b.Tiles[0]}) {
		w.Errorf("%d of the tiles, %v; want the one that exists, twice", len(tiles), err)
	}
	roots, err := w.store.Roots(w.ctx, 0, 0, 9)
	if err != nil || !slices.Equal(roots, [][32]byte{b.Tiles[0].Root}) {
		w.Errorf("%d roots, %v; want one", len(roots), err)
	}
}

func losingCommit(w *world) {
	w.init()
	claims := w.wabbit.Claims(w, 0, 4)
	winner, loser := w.batch(claims[:2]...), w.batch(claims[2:]...)
	if err := w.store.Commit(w.ctx, winner); err != nil {
		w.Fatal(err)
	}
	stale := *loser
	ahead := w.batch(claims[3])
	ahead.Head.PrevSize, ahead.Head.Size, ahead.Entries[0].Index = 9, 10, 9
	for name, b := range map[string]*ledger.Batch{"on an old size": &stale, "on a size to come": ahead, "of the same batch again": winner} {
		if err := w.store.Commit(w.ctx, b); !errors.Is(err, ledger.ErrConflict) {
			w.Errorf("commit %s: %v, want ErrConflict", name, err)
		}
		w.check()
	}
	if found, err := w.store.Indexes(w.ctx, ids(claims), ledger.All); err != nil || len(found) != 2 {
		w.Errorf("%d entries are there, %v; want the winner's 2", len(found), err)
	}
	if found, err := w.store.Find(w.ctx, ledger.Query{Artifacts: []statement.Digest{Image(2)}, Limit: 1}); err != nil || len(found) > 0 {
		w.Errorf("the loser's artifact finds %v, %v", found, err)
	}
	w.commit(claims[2:]...)
	w.check()
}

func concurrentCommits(w *world) {
	w.init()
	const rivals = 8
	claims := w.wabbit.Claims(w, 0, rivals)
	batches := make([]*ledger.Batch, rivals)
	for i := range batches {
		batches[i] = w.batch(claims[i])
	}
	errs := make([]error, rivals)
	var done sync.WaitGroup
	for i := range batches {
		done.Go(func() { errs[i] = w.store.Commit(w.ctx, batches[i]) })
	}
	done.Wait()
	won := 0
	for i, err := range errs {
		switch {
		case err == nil:
			won++
		case !errors.Is(err, ledger.ErrConflict):
			w.Errorf("rival %d: %v, want ErrConflict", i, err)
		}
	}
	if won != 1 {
		w.Errorf("%d commits succeeded on one size, want 1", won)
	}
	w.check()
}

func badRows(w *world) {
	w.init()
	claims := w.wabbit.Claims(w, 0, 40)
	w.commit(claims[0])
	next := 1
	const known = "an entry ID that is there"
	for _, bad := range []struct {
		name  string
		spoil func(b *ledger.Batch)
	}{
		{known, func(b *ledger.Batch) { b.Entries[1].ID = claims[0].ID() }},
		{"an entry ID twice", func(b *ledger.Batch) { b.Entries[1].ID = b.Entries[0].ID }},
		{"a gap in the indexes", func(b *ledger.Batch) { b.Entries[1].Index++ }},
		{"an index twice", func(b *ledger.Batch) { b.Entries[1].Index-- }},
		{"a missing entry", func(b *ledger.Batch) { b.Entries = b.Entries[:1] }},
		{"an artifact twice", func(b *ledger.Batch) {
			b.Entries[1].Artifacts = append(b.Entries[1].Artifacts, b.Entries[1].Artifacts[0])
		}},
		{"a delivery twice", func(b *ledger.Batch) {
			b.Entries[1].Deliveries = append(b.Entries[1].Deliveries, b.Entries[1].Deliveries[0])
		}},
		{"a delivery in no state", func(b *ledger.Batch) { b.Entries[1].Deliveries[0].State = "lost" }},
		{"a delivery of no artifact", func(b *ledger.Batch) { b.Entries[1].Deliveries[0].Artifact = "hearsay" }},
		{"a policy that is no entry", func(b *ledger.Batch) { b.Entries[1].Policy = statement.ID{1} }},
		{"a head before its predecessor", func(b *ledger.Batch) { b.Head.Time = b.Head.Time.Add(-time.Hour) }},
		{"a short tile", func(b *ledger.Batch) { b.Tiles = []ledger.Tile{{Data: make([]byte, 8191)}} }},
		{"a policy in force that is no entry", func(b *ledger.Batch) { b.Head.Policy = b.Head.Size }},
	} {
		b := w.batch(claims[next : next+2]...)
		bad.spoil(b)
		err := w.store.Commit(w.ctx, b)
		if err == nil || errors.Is(err, ledger.ErrConflict) {
			w.Errorf("%s: %v, want an error other than ErrConflict", bad.name, err)
		}
		if bad.name == known && !errors.Is(err, ledger.ErrUnfit) {
			w.Errorf("%s: %v, want ErrUnfit: the sequencer counts on it", bad.name, err)
		}
		if found, err := w.store.Indexes(w.ctx, ids(claims[next:next+2]), ledger.All); err != nil || len(found) > 0 {
			w.Fatalf("%s: %d of its entries stayed, %v", bad.name, len(found), err)
		}
		w.commit(claims[next]) // the store goes on as if nothing had been
		next++
	}
	w.check()
}

func cancelledCommit(w *world) {
	w.init()
	for i := range 20 {
		b := w.batch(w.wabbit.Claims(w, 10*i, 10)...)
		ctx, cancel := context.WithCancel(w.ctx)
		go cancel()
		err := w.store.Commit(ctx, b)
		cancel()
		found, look := w.store.Indexes(w.ctx, idsOf(b), ledger.All)
		if look != nil {
			w.Fatal(look)
		}
		if n := len(found); n != 0 && n != 10 || err == nil && n != 10 || errors.Is(err, ledger.ErrConflict) {
			w.Fatalf("commit: %v; %d of 10 entries are there", err, n)
		}
	}
	w.check()
}

func idsOf(b *ledger.Batch) []statement.ID {
	var all []statement.ID
	for _, e := range b.Entries {
		all = append(all, e.ID)
	}
	return all
}

func largeBatch(w *world) {
	w.init()
	w.commit(w.wabbit.Claims(w, 0, 1024)...)
	w.check()
}

func longTexts(w *world) {
	iss := "https://long.example/" + strings.Repeat("ä", 8192-21)
	long := NewPublisher(w, iss)
	w.operator.Init(w, w.store, long)
	mediaType := "application/" + strings.Repeat("x", 100)
	sub := strings.Repeat("s", 2048-72) + "@" + string(Image(1))
	predicate := "https://predicate.example/" + strings.Repeat("p", 1000)
	payload := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[],"predicateType":%q,"predicate":{}}`, predicate)
	w.commit(
		long.Sign(w, statement.Template{Subject: sub, ContentType: mediaType, Payload: []byte("x")}),
		long.Sign(w, statement.Template{Subject: sub, ContentType: InToto, Payload: []byte(payload)}),
	)
	w.reopen()
	w.check()
}

func keepsCollateral(w *world) {
	w.init()
	a := w.acme.Claim(w, Image(1), SBOM, []byte("a"))
	b := w.acme.Claim(w, Image(2), SBOM, []byte("b"))
	batch := w.batch(a, b)
	if len(batch.Entries[0].Collateral) != 1 {
		w.Fatalf("%d pieces of collateral, want the chain", len(batch.Entries[0].Collateral))
	}
	batch.Entries[1].Collateral = append([]ledger.Collateral{{Kind: "note", Data: []byte{}}, {Kind: "note", Data: []byte("2")}},
		batch.Entries[1].Collateral...)
	if err := w.store.Commit(w.ctx, batch); err != nil {
		w.Fatal(err)
	}
	w.reopen()
	for i, e := range batch.Entries {
		r, err := w.store.Record(w.ctx, e.ID, ledger.Public)
		if err != nil {
			w.Fatal(err)
		}
		same := func(a, b ledger.Collateral) bool { return a.Kind == b.Kind && bytes.Equal(a.Data, b.Data) }
		if !slices.EqualFunc(r.Collateral, e.Collateral, same) {
			w.Errorf("entry %d: %d pieces of collateral are not the %d that were committed", i, len(r.Collateral), len(e.Collateral))
		}
		if r.Registry != registry || r.Repository != "" {
			w.Errorf("entry %d: registry %q, repository %q", i, r.Registry, r.Repository)
		}
	}
}

func clockGoes(w *world) {
	before := time.Now().Add(-time.Minute)
	now, err := w.store.Now(w.ctx)
	if err != nil {
		w.Fatal(err)
	}
	if now.Before(before) || now.After(time.Now().Add(time.Minute)) {
		w.Errorf("the store says it is %v", now)
	}
	if now.Location() != time.UTC {
		w.Errorf("location %v, want UTC", now.Location())
	}
}

// refusal expects err to be one.
func refusal(t *testing.T, err error) *policy.Refusal {
	t.Helper()
	var r *policy.Refusal
	if !errors.As(err, &r) {
		t.Fatalf("got %v, want a refusal", err)
	}
	return r
}
