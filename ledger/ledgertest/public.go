package ledgertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

var publicTests = []test{
	{"heads come in pages, smallest first", headsInPages},
	{"statements come in pages whose length tells nothing about what is hidden", statementsInPages},
	{"decisions are read out as they were recorded, and of hidden ones the ID alone", decisionsReadOut},
	{"growth between any two stored heads is proven, and x/mod's tlog agrees", growthProven},
	{"tiles and bundles are there for every stored size and no other", tilesOfStoredSizes},
	{"a checkpoint is a note of the newest head, once in a cadence", checkpointCadence},
	{"checkpoints that many ask for while the log grows never go back", checkpointsAtOnce},
	{"any process with the key publishes the same checkpoint", checkpointSame},
	{"a checkpoint key that the log does not announce is refused", checkpointKeyRefused},
	{"a store that went back gets no checkpoint", checkpointOfLostHead},
	{"while the store is away, checkpoint and full tiles stay", publicWithoutStore},
}

func headsInPages(w *world) {
	w.init()
	var want []ledger.Head
	for n := range 5 {
		w.commit(w.wabbit.Claims(w, 3*n, 1+n%3)...)
	}
	for at := uint64(0); at < w.size(); {
		h, err := w.store.HeadFor(w.ctx, at)
		if err != nil {
			w.Fatal(err)
		}
		want, at = append(want, h), h.Size
	}
	same := func(a, b ledger.Head) bool {
		return a.Size == b.Size && a.PrevSize == b.PrevSize && a.Root == b.Root && a.Policy == b.Policy &&
			a.Time.Equal(b.Time) && bytes.Equal(a.Protected, b.Protected) && bytes.Equal(a.Signature, b.Signature)
	}
	var got []ledger.Head
	for after := uint64(0); ; after = got[len(got)-1].Size {
		page, err := w.store.Heads(w.ctx, after, 2)
		if err != nil || len(page) > 2 {
			w.Fatalf("heads after %d: %d, %v", after, len(page), err)
		}
		if len(page) == 0 {
			break
		}
		got = append(got, page...)
	}
	if !slices.EqualFunc(got, want, same) {
		w.Errorf("%d heads in pages, want these %d", len(got), len(want))
	}
	for _, after := range []uint64{w.size(), 1 << 40, 1<<63 - 1, 1<<64 - 1} {
		if page, err := w.store.Heads(w.ctx, after, 10); err != nil || len(page) > 0 {
			w.Errorf("heads after %d: %d, %v", after, len(page), err)
		}
	}
	if page, err := w.store.Heads(w.ctx, 4, 1); err != nil || len(page) != 1 || page[0].Size != 5 || page[0].PrevSize != 3 {
		w.Errorf("heads after a size that has none: %+v, %v", page, err)
	}
	for _, limit := range []int{0, -1, ledger.MaxPage + 1} {
		if _, err := w.store.Heads(w.ctx, 0, limit); err == nil {
			w.Errorf("a page of %d is served", limit)
		}
	}
}

func statementsInPages(w *world) {
	w.init()
	// Leaves 2 to 11, every second one private, all of one size: a page ends
	// behind the fifth that it shows.
	large := bytes.Repeat([]byte("x"), ledger.PageBytes/4-1<<12)
	var all []*statement.Statement
	for n := range 10 {
		p := w.wabbit
		if n%2 == 1 {
			p = w.secret
		}
		all = append(all, p.Sign(w, statement.Template{
			Subject: fmt.Sprintf("pkg:oci/net-monitor@%s", Image(n)), ContentType: Report, Payload: large,
		}))
	}
	w.commit(all[:6]...)
	w.commit(all[6:]...)
	l := w.ledger(w.store, ledger.Options{})
	for _, c := range []struct {
		scope  ledger.Scope
		from   uint64
		limit  int
		want   int
		hidden bool
	}{
		{ledger.All, 0, 500, 7, false},
		{ledger.All, 2, 500, 5, false},
		{ledger.All, 2, 3, 3, false},
		{ledger.All, 8, 500, 4, false},
		{ledger.All, 11, 500, 1, false},
		{ledger.All, 12, 500, 0, false},
		{ledger.Public, 0, 500, 11, true},
		{ledger.Public, 2, 500, 9, true},
		{ledger.Public, 3, 500, 9, true},
		{ledger.Public, 3, 2, 2, true},
		{ledger.Public, 1<<63 - 1, 500, 0, true},
		{ledger.Public, 1<<64 - 1, 500, 0, true},
	} {
		got, err := l.Statements(w.ctx, c.from, c.limit, c.scope)
		if err != nil || len(got) != c.want {
			w.Errorf("scope %d from %d, at most %d: %d leaves, %v; want %d", c.scope, c.from, c.limit, len(got), err, c.want)
		}
		for i, leaf := range got {
			at := c.from + uint64(i)
			if leaf.Index != at {
				w.Fatalf("leaf %d, want %d", leaf.Index, at)
			}
			if at < 2 {
				continue
			}
			s, private := all[at-2], at%2 == 1
			if leaf.ID != s.ID() || leaf.Private != private {
				w.Errorf("leaf %d: %s, private %v", at, leaf.ID, leaf.Private)
			}
			if shown := !private || !c.hidden; shown != (leaf.Canonical != nil) || shown && !bytes.Equal(leaf.Canonical, s.Canonical()) {
				w.Errorf("scope %d: leaf %d has %d bytes", c.scope, at, len(leaf.Canonical))
			}
		}
	}
	for _, limit := range []int{0, -1, ledger.MaxPage + 1} {
		if _, err := w.store.Statements(w.ctx, 0, limit, ledger.All); err == nil {
			w.Errorf("a page of %d is served", limit)
		}
	}
}

// opinion is x/mod's tlog on the leaves of a store.
func (w *world) opinion() tlog.HashReader {
	w.Helper()
	leaves, err := w.store.Leaves(w.ctx, 0, w.size())
	if err != nil {
		w.Fatal(err)
	}
	var stored []tlog.Hash
	read := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		var got []tlog.Hash
		for _, i := range indexes {
			got = append(got, stored[i])
		}
		return got, nil
	})
	for i, id := range leaves {
		more, err := tlog.StoredHashes(int64(i), id[:], read)
		if err != nil {
			w.Fatal(err)
		}
		stored = append(stored, more...)
	}
	return read
}

func growthProven(w *world) {
	w.init()
	all := w.wabbit.Claims(w, 0, 298)
	sizes := []uint64{2}
	for at, next := 0, 0; at < len(all); at = next {
		next = min(at+1+len(sizes)*5%23, len(all))
		switch at { // the border of the first tile
		case 253, 254, 255:
			next = at + 1
		}
		if at < 253 && next > 253 {
			next = 253
		}
		w.commit(all[at:next]...)
		sizes = append(sizes, uint64(next)+2)
	}
	l := w.ledger(w.store, ledger.Options{})
	read := w.opinion()
	for i, from := range sizes {
		for _, to := range sizes[i+1:] {
			c, err := l.Consistency(w.ctx, from, to)
			if err != nil || c.From.Size != from || c.To.Size != to {
				w.Fatalf("from %d to %d: %+v, %v", from, to, c, err)
			}
			theirs, err := tlog.ProveTree(int64(to), int64(from), read)
			if err != nil || !slices.EqualFunc(c.Path, theirs, func(a []byte, b tlog.Hash) bool { return bytes.Equal(a, b[:]) }) {
				w.Fatalf("from %d to %d: %x, tlog has %v, %v", from, to, c.Path, theirs, err)
			}
			b, err := c.Receipt()
			if err != nil {
				w.Fatal(err)
			}
			r, err := receipts.Parse(b)
			if err != nil {
				w.Fatal(err)
			}
			root, err := l.Keys().VerifyConsistency(r, receipts.Roots{from: c.From.Root}, receipts.Strict)
			if err != nil || root != c.To.Root || !r.IssuedAt.Equal(c.To.Time) {
				w.Fatalf("from %d to %d: root %x, %v", from, to, root, err)
			}
		}
	}
	for _, bad := range [][2]uint64{{2, 2}, {300, 2}, {0, 300}, {1, 300}, {2, 301}, {2, 1<<64 - 1}, {1<<64 - 2, 1<<64 - 1}} {
		if _, err := l.Consistency(w.ctx, bad[0], bad[1]); !errors.Is(err, ledger.ErrNotFound) {
			w.Errorf("from %d to %d: %v, want ErrNotFound", bad[0], bad[1], err)
		}
	}
}

func tilesOfStoredSizes(w *world) {
	w.init()
	all := w.wabbit.Claims(w, 0, 770)
	sizes := []int{2, 3, 200, 255, 256, 257, 511, 700, 772}
	for i, size := range sizes[1:] {
		w.commit(all[sizes[i]-2 : size-2]...)
	}
	l := w.ledger(w.store, ledger.Options{})
	read := w.opinion()
	leaves, err := w.store.Leaves(w.ctx, 0, 772)
	if err != nil {
		w.Fatal(err)
	}
	for n := range uint64(5) {
		for width := 1; width <= 256; width++ {
			end := int(n)*256 + width
			stored := slices.Contains(sizes, end) || width == 256 && end <= 772
			tile, err := l.Tile(w.ctx, ledger.TileID{N: n}, width)
			bundle, bundleErr := l.EntryBundle(w.ctx, n, width)
			if !stored {
				if !errors.Is(err, ledger.ErrNotFound) || !errors.Is(bundleErr, ledger.ErrNotFound) {
					w.Fatalf("tile 0/%d of %d: %v, bundle: %v; want ErrNotFound", n, width, err, bundleErr)
				}
				continue
			}
			want, theirs := tlog.ReadTileData(tlog.Tile{H: 8, N: int64(n), W: width}, read)
			if err != nil || theirs != nil || !bytes.Equal(tile, want) {
				w.Fatalf("tile 0/%d of %d: %v, not what tlog has (%v)", n, width, err, theirs)
			}
			var ids []byte
			for _, id := range leaves[n*256 : end] {
				ids = append(append(ids, 0, 32), id[:]...)
			}
			if bundleErr != nil || !bytes.Equal(bundle, ids) {
				w.Fatalf("bundle %d of %d: %v", n, width, bundleErr)
			}
		}
	}
	for width := range 5 {
		tile, err := l.Tile(w.ctx, ledger.TileID{Level: 1}, width)
		if width < 1 || width > 3 {
			if !errors.Is(err, ledger.ErrNotFound) {
				w.Errorf("tile 1/0 of %d: %v, want ErrNotFound", width, err)
			}
			continue
		}
		want, theirs := tlog.ReadTileData(tlog.Tile{H: 8, L: 1, W: width}, read)
		if err != nil || theirs != nil || !bytes.Equal(tile, want) {
			w.Errorf("tile 1/0 of %d: %v, not what tlog has (%v)", width, err, theirs)
		}
	}
	for _, id := range []ledger.TileID{{Level: 2}, {Level: 7}, {Level: 8}, {Level: 255}, {N: 1 << 55}, {N: 1<<64 - 1}, {Level: 7, N: 1<<64 - 1}} {
		for _, width := range []int{-1, 0, 1, 255, 256, 257} {
			if _, err := l.Tile(w.ctx, id, width); !errors.Is(err, ledger.ErrNotFound) {
				w.Errorf("tile %v of %d: %v, want ErrNotFound", id, width, err)
			}
		}
	}
}

// publishing are the options of a ledger with the checkpoint key, and what moves
// its steady clock; ten seconds too far, and nothing is signed any more.
func (w *world) publishing() (o ledger.Options, pass func(time.Duration)) {
	var steady atomic.Int64
	o = w.options()
	o.Checkpoint, o.Cadence = w.operator.Checkpoint, time.Second
	o.Steady = func() time.Duration { return time.Hour + time.Duration(steady.Load()) }
	return o, func(d time.Duration) { steady.Add(int64(d)) }
}

// published reads the checkpoint of l with the key that the log announced.
func (w *world) published(l *ledger.Ledger) (b []byte, size uint64) {
	w.Helper()
	b, err := l.Checkpoint(w.ctx)
	if err != nil {
		w.Fatal(err)
	}
	verifier, err := note.NewVerifier(l.Service().CheckpointKeys[0])
	if err != nil {
		w.Fatal(err)
	}
	n, err := note.Open(b, note.VerifierList(verifier))
	if err != nil || len(n.Sigs) != 1 {
		w.Fatalf("checkpoint: %v\n%s", err, b)
	}
	if _, err := fmt.Sscanf(n.Text, w.operator.Origin+"\n%d\n", &size); err != nil {
		w.Fatalf("checkpoint: %v\n%s", err, b)
	}
	h, err := w.store.HeadFor(w.ctx, size-1)
	if want := fmt.Sprintf("%s\n%d\n%v\n", w.operator.Origin, size, tlog.Hash(h.Root)); err != nil || n.Text != want {
		w.Fatalf("checkpoint, %v\n%s, want\n%s", err, n.Text, want)
	}
	return b, size
}

func checkpointCadence(w *world) {
	w.init()
	o, pass := w.publishing()
	l := w.ledger(w.store, o)
	first, size := w.published(l)
	if size != 2 {
		w.Errorf("first checkpoint of size %d, want 2", size)
	}
	Append(w, l, w.wabbit.Claim(w, Image(1), SBOM, []byte("1")))
	pass(999 * time.Millisecond)
	if b, _ := w.published(l); !bytes.Equal(b, first) {
		w.Errorf("another checkpoint within the cadence:\n%s", b)
	}
	pass(time.Millisecond)
	second, size := w.published(l)
	if size != 3 {
		w.Errorf("checkpoint of size %d after a second, want 3", size)
	}
	pass(2 * time.Second)
	if b, _ := w.published(l); !bytes.Equal(b, second) {
		w.Errorf("another checkpoint of a log that did not grow:\n%s", b)
	}
	for n := range 300 {
		if n%100 == 0 {
			pass(time.Second)
		}
		Append(w, l, w.wabbit.Claim(w, Image(n), Report, []byte("x")))
		w.published(l)
	}
	pass(time.Second)
	if _, size := w.published(l); size != 303 {
		w.Errorf("checkpoint of size %d, want 303", size)
	}
	if _, err := w.ledger(w.store, w.options()).Checkpoint(w.ctx); !errors.Is(err, ledger.ErrReadOnly) {
		w.Errorf("without the key: %v, want ErrReadOnly", err)
	}
}

func checkpointsAtOnce(w *world) {
	w.init()
	o, _ := w.publishing()
	o.Steady, o.Cadence = nil, time.Nanosecond
	l := w.ledger(w.store, o)
	var readers sync.WaitGroup
	grown := make(chan struct{})
	for range 8 {
		readers.Go(func() {
			for last := 0; ; {
				b, err := l.Checkpoint(w.ctx)
				var size int
				if err == nil {
					_, err = fmt.Sscanf(string(b), w.operator.Origin+"\n%d\n", &size)
				}
				if err != nil || size < last {
					w.Errorf("checkpoint of size %d after one of size %d, %v", size, last, err)
					return
				}
				last = size
				select {
				case <-grown:
					return
				default:
				}
			}
		})
	}
	for _, s := range w.wabbit.Claims(w, 0, 40) {
		Append(w, l, s)
	}
	close(grown)
	readers.Wait()
	if _, size := w.published(l); size != 42 {
		w.Errorf("checkpoint of size %d, want 42", size)
	}
}

func checkpointSame(w *world) {
	w.init()
	o, _ := w.publishing()
	l := w.ledger(w.store, o)
	Append(w, l, w.wabbit.Claim(w, Image(1), SBOM, []byte("1")))
	want, _ := w.published(l)
	w.close(l)
	w.reopen()
	for name, issuer := range map[string]*receipts.Issuer{"after a restart": o.Issuer, "without the receipt key": nil} {
		o.Issuer = issuer
		if got, _ := w.published(w.ledger(w.store, o)); !bytes.Equal(got, want) {
			w.Errorf("%s:\n%s, want\n%s", name, got, want)
		}
	}
}

func checkpointKeyRefused(w *world) {
	w.init()
	stranger := NewOperator(w)
	for name, c := range map[string]struct {
		spoil func(*ledger.Options)
		want  string
	}{
		"another key":    {func(o *ledger.Options) { o.Checkpoint = stranger.Checkpoint }, "is not announced in the log"},
		"no Ed25519 key": {func(o *ledger.Options) { o.Checkpoint = stranger.Receipt }, "not an Ed25519 key"},
	} {
		o, _ := w.publishing()
		c.spoil(&o)
		if _, err := ledger.Open(w.ctx, w.store, o); err == nil || !strings.Contains(err.Error(), c.want) {
			w.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}

	// Announced, it is taken; the old one stays good.
	o, _ := w.publishing()
	l := w.ledger(w.store, o)
	next := *w.operator
	next.Checkpoint = stranger.Checkpoint
	Append(w, l, next.Announcement(w, w.operator.Receipt.Public()))
	w.close(l)
	w.close(w.ledger(w.store, o))
	o.Checkpoint = next.Checkpoint
	if _, size := w.published(w.ledger(w.store, o)); size != 3 {
		w.Errorf("checkpoint of size %d under the new key, want 3", size)
	}

	// A service statement cannot announce what is no key of this log.
	l = w.ledger(w.store, o)
	for _, vkey := range []string{"", "x", strings.Replace(l.Service().CheckpointKeys[0], "scitt", "other", 1)} {
		svc := l.Service()
		svc.CheckpointKeys = []string{vkey}
		_, err := l.Append(w.ctx, Submission(l, w.operator.Service(w, svc)))
		refusal(w.T, err)
	}
}

func checkpointOfLostHead(w *world) {
	w.init()
	for n := range 3 {
		w.commit(w.wabbit.Claims(w, 10*n, 3)...)
	}
	o, pass := w.publishing()
	back := &rolledBack{Store: w.store}
	l := w.ledger(back, o)
	w.published(l)
	pass(time.Second)
	for _, lose := range []uint64{1, 2} {
		back.lost.Store(lose)
		if b, err := l.Checkpoint(w.ctx); !errors.Is(err, ledger.ErrCorrupt) {
			w.Errorf("%d heads lost: %v, want ErrCorrupt\n%s", lose, err, b)
		}
	}
	back.lost.Store(0)
	w.published(l)
}

// rolledBack is a store that forgot its newest heads.
type rolledBack struct {
	ledger.Store
	lost atomic.Uint64
}

func (s *rolledBack) Head(ctx context.Context) (ledger.Head, error) {
	h, err := s.Store.Head(ctx)
	for range s.lost.Load() {
		if err == nil {
			h, err = s.Store.HeadFor(ctx, h.PrevSize-1)
		}
	}
	return h, err
}

func publicWithoutStore(w *world) {
	w.init()
	w.commit(w.wabbit.Claims(w, 0, 298)...)
	o, pass := w.publishing()
	away := &awayStore{Store: w.store}
	l := w.ledger(away, o)
	want, _ := w.published(l)
	tile, err := l.Tile(w.ctx, ledger.TileID{}, 256)
	if err != nil {
		w.Fatal(err)
	}
	away.gone.Store(true)
	pass(time.Hour)
	if got, err := l.Checkpoint(w.ctx); err != nil || !bytes.Equal(got, want) {
		w.Errorf("checkpoint: %v\n%s", err, got)
	}
	if got, err := l.Tile(w.ctx, ledger.TileID{}, 256); err != nil || !bytes.Equal(got, tile) {
		w.Errorf("full tile: %v", err)
	}
	if _, err := l.Tile(w.ctx, ledger.TileID{N: 1}, 44); !errors.Is(err, ledger.ErrUnavailable) {
		w.Errorf("partial tile: %v, want ErrUnavailable", err)
	}
}

// awayStore is a store that cannot be reached.
type awayStore struct {
	ledger.Store
	gone atomic.Bool
}

func (s *awayStore) Head(ctx context.Context) (ledger.Head, error) {
	if s.gone.Load() {
		return ledger.Head{}, ledger.ErrUnavailable
	}
	return s.Store.Head(ctx)
}

func (s *awayStore) HeadFor(ctx context.Context, index uint64) (ledger.Head, error) {
	if s.gone.Load() {
		return ledger.Head{}, ledger.ErrUnavailable
	}
	return s.Store.HeadFor(ctx, index)
}
