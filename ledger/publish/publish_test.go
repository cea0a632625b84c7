package publish_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	_ "gocloud.dev/blob/memblob"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/ledger/publish"
	"github.com/scittd/scittd/ledger/sqlite"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// world is a log in a file, a folder that it is published to, and a plain file
// server over that.
type world struct {
	*testing.T
	ctx      context.Context
	operator *ledgertest.Operator
	wabbit   *ledgertest.Publisher
	vault    *ledgertest.Publisher // all claims private
	store    *sqlite.Store
	ledger   *ledger.Ledger
	vkey     string
	folder   string
	url      string
	receipts map[statement.ID][]byte
	end      func() error // of ledger and store
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		T: t, ctx: t.Context(), operator: ledgertest.NewOperator(t),
		wabbit:   ledgertest.NewPublisher(t, "https://wabbit.example"),
		vault:    ledgertest.NewPublisher(t, "https://vault.example"),
		folder:   filepath.Join(t.TempDir(), "published"),
		receipts: map[statement.ID][]byte{},
	}
	w.vault.Rule.Visibility = policy.Private
	var err error
	if w.store, err = sqlite.Open(w.ctx, filepath.Join(t.TempDir(), "ledger.db")); err != nil {
		t.Fatal(err)
	}
	w.operator.Init(t, w.store, w.wabbit, w.vault)
	w.ledger, err = ledger.Open(w.ctx, w.store, ledger.Options{
		Issuer: w.operator.Issuer(t), Checkpoint: w.operator.Checkpoint, Cadence: time.Nanosecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	w.end = sync.OnceValue(func() error { return errors.Join(w.ledger.Close(context.Background()), w.store.Close()) })
	t.Cleanup(func() {
		if err := w.end(); err != nil {
			t.Error(err)
		}
	})
	w.vkey = w.ledger.Service().CheckpointKeys[0]
	w.url = serve(t, w.folder)
	return w
}

// serve is a file server as anybody's.
func serve(t *testing.T, folder string) string {
	server := httptest.NewServer(http.FileServer(http.Dir(folder)))
	t.Cleanup(server.Close)
	return server.URL
}

// growTo registers claims, many at once, each tenth one private.
func (w *world) growTo(size uint64) {
	w.Helper()
	var done sync.WaitGroup
	var mu sync.Mutex
	head, err := w.ledger.Head(w.ctx)
	if err != nil {
		w.Fatal(err)
	}
	for n := head.Size; n < size; n++ {
		p := w.wabbit
		if n%10 == 3 {
			p = w.vault
		}
		done.Go(func() {
			s := p.Claim(w, ledgertest.Image(int(n)), ledgertest.SBOM, fmt.Appendf(nil, "sbom %d", n))
			r, err := w.ledger.Append(w.ctx, ledgertest.Submission(w.ledger, s))
			if err != nil {
				w.Errorf("append %d: %v", n, err)
			}
			mu.Lock()
			defer mu.Unlock()
			w.receipts[s.ID()] = r.Receipt
		})
	}
	done.Wait()
}

// publisher opens a Publisher of the folder; spoil changes what it is given.
func (w *world) publisher(spoil ...func(*parts)) *publish.Publisher {
	w.Helper()
	p := parts{url: "file://" + w.folder, log: w.ledger, leases: w.store, o: publish.Options{Checkpoint: w.ledger.Checkpoint}}
	for _, change := range spoil {
		change(&p)
	}
	got, err := publish.New(p.url, p.log, p.leases, p.o)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		if err := got.Close(); err != nil {
			w.Error(err)
		}
	})
	return got
}

type parts struct {
	url    string
	log    publish.Log
	leases ledger.Leases
	o      publish.Options
}

func (w *world) publish(p *publish.Publisher) {
	w.Helper()
	if err := p.Publish(w.ctx); err != nil {
		w.Fatal(err)
	}
}

// audit audits the folder and says up to which size it goes.
func (w *world) audit() uint64 {
	w.Helper()
	return audit(w.T, w.url, w.vkey).size
}

func TestAFileServerOverTheFolderPassesAFullAudit(t *testing.T) {
	w := newWorld(t)
	p := w.publisher()
	for _, size := range []uint64{2, 5, 255, 256, 257, 511, 512, 700} {
		w.growTo(size)
		w.publish(p)
		if got := w.audit(); got != size {
			t.Fatalf("published up to %d, want %d", got, size)
		}
	}

	// Everything but the folder is gone.
	if err := w.end(); err != nil {
		t.Fatal(err)
	}
	got := audit(t, w.url, w.vkey)
	hidden := 0
	for i, id := range got.ids {
		if got.statements[i] == nil {
			hidden++
		} else if _, err := statement.Parse(got.statements[i]); err != nil {
			t.Errorf("statement %d: %v", i, err)
		}
		if i < 2 {
			continue // what the log says about itself
		}
		r, err := receipts.Parse(w.receipts[id])
		if err != nil {
			t.Fatal(err)
		}
		if err := got.keys.Verify(r, id[:], receipts.Strict); err != nil {
			t.Errorf("receipt of entry %d: %v", i, err)
		}
	}
	if hidden != 70 {
		t.Errorf("%d statements are withheld, want the 70 private ones", hidden)
	}
	w.mint(got)
}

// mint makes receipts anew from what was published, head and tiles, and gets the
// bytes that the service gave out.
func (w *world) mint(got audited) {
	w.Helper()
	tree := auditor{w.T, w.url}.checkpoint(w.vkey)
	tiles := tlog.TileHashReader(tree, auditor{w.T, w.url})
	for i := 2; i < len(got.ids); i += 37 {
		at := slices.IndexFunc(got.heads, func(h receipts.SignedHead) bool { return h.Size > uint64(i) })
		path, err := tlog.ProveRecord(int64(got.heads[at].Size), int64(i), tiles)
		if err != nil {
			w.Fatal(err)
		}
		var hashes [][]byte
		for _, h := range path {
			hashes = append(hashes, h[:])
		}
		minted, err := receipts.Mint(got.heads[at], uint64(i), hashes)
		if err != nil || !bytes.Equal(minted, w.receipts[got.ids[i]]) {
			w.Errorf("receipt of entry %d, minted from the folder, is not the one that was given out: %v", i, err)
		}
	}
}

func TestWhereverPublishingBreaksOffTheFolderIsAWholeLogAndTheRestFollows(t *testing.T) {
	w := newWorld(t)
	w.growTo(200)
	w.publish(w.fresh())
	w.growTo(600)
	before := t.TempDir()
	if err := os.CopyFS(before, os.DirFS(w.folder)); err != nil {
		t.Fatal(err)
	}
	steps := 0
	for done := false; !done; steps++ {
		if err := errors.Join(os.RemoveAll(w.folder), os.CopyFS(w.folder, os.DirFS(before))); err != nil {
			t.Fatal(err)
		}
		ctx, cut := context.WithCancel(w.ctx)
		broken := &breaking{Log: w.ledger, Leases: always{}, cut: cut}
		broken.left.Store(int64(steps))
		p := w.publisher(func(p *parts) { p.log, p.leases = broken, broken })
		err := p.Publish(ctx)
		cut()
		done = broken.left.Load() >= 0
		if (err == nil) != done {
			t.Fatalf("cut at step %d: %v", steps, err)
		}
		if got, want := w.audit(), map[bool]uint64{false: 200, true: 600}[done]; got != want {
			t.Fatalf("cut at step %d: published up to %d, want %d", steps, got, want)
		}
		again := p // the same process tries again, or one that knows nothing
		if steps%2 == 1 {
			again = w.fresh()
		}
		broken.left.Store(1 << 40)
		w.publish(again)
		if got := w.audit(); got != 600 {
			t.Fatalf("after a cut at step %d: published up to %d, want 600", steps, got)
		}
	}
	if steps < 20 {
		t.Errorf("only %d steps were cut at", steps)
	}
}

// breaking cuts its caller's context after so many calls, like a crash there:
// what is written from then on does not get into place.
type breaking struct {
	publish.Log
	ledger.Leases
	left atomic.Int64
	cut  func()
}

func (b *breaking) step() {
	if b.left.Add(-1) < 0 {
		b.cut()
	}
}

func (b *breaking) Keys() receipts.KeySet {
	b.step()
	return b.Log.Keys()
}

func (b *breaking) Tile(ctx context.Context, id ledger.TileID, width int) ([]byte, error) {
	b.step()
	return b.Log.Tile(ctx, id, width)
}

func (b *breaking) EntryBundle(ctx context.Context, n uint64, width int) ([]byte, error) {
	b.step()
	return b.Log.EntryBundle(ctx, n, width)
}

func (b *breaking) Heads(ctx context.Context, after uint64, limit int) ([]ledger.Head, error) {
	b.step()
	return b.Log.Heads(ctx, after, limit)
}

func (b *breaking) Statements(ctx context.Context, from uint64, limit int, scope ledger.Scope) ([]ledger.Leaf, error) {
	b.step()
	return b.Log.Statements(ctx, from, limit, scope)
}

func (b *breaking) Lease(ctx context.Context, work, owner string, d time.Duration) (bool, error) {
	b.step()
	return b.Leases.Lease(ctx, work, owner, d)
}

func TestAFileIsWholeOrNotThere(t *testing.T) {
	w := newWorld(t)
	w.growTo(100)
	ends := errors.New("the store is away")
	p := w.publisher(func(p *parts) { p.log = &ending{Log: w.ledger, err: ends} })
	if err := p.Publish(w.ctx); !errors.Is(err, ends) {
		t.Fatalf("published: %v, want %v", err, ends)
	}
	for name := range readAll(t, w.folder) {
		if strings.HasPrefix(name, "statements/") || strings.HasSuffix(name, ".tmp") {
			t.Errorf("%s is there", name)
		}
	}
}

// ending gives ten statements and no more.
type ending struct {
	publish.Log
	err   error
	given bool
}

func (e *ending) Statements(ctx context.Context, from uint64, limit int, scope ledger.Scope) ([]ledger.Leaf, error) {
	if e.given {
		return nil, e.err
	}
	e.given = true
	return e.Log.Statements(ctx, from, min(limit, 10), scope)
}

func TestTwoProcessesAtOnceDoNotHarmEachOther(t *testing.T) {
	w := newWorld(t)
	ctx, stop := context.WithCancel(w.ctx)
	var running sync.WaitGroup
	for n := range 4 {
		p := w.publisher(func(p *parts) {
			p.o.Every = time.Millisecond
			if n >= 2 { // these two never hear of one another's leases
				p.leases = always{}
			}
		})
		running.Go(func() { p.Run(ctx) })
	}
	for size := uint64(3); size < 300; size += 1 + rand.Uint64N(20) {
		w.growTo(size)
		w.audit()
	}
	w.growTo(300)
	stop()
	running.Wait()
	if got := w.audit(); got != 300 {
		t.Errorf("published up to %d, want 300", got)
	}
}

// always gives everybody everything.
type always struct{}

func (always) Lease(context.Context, string, string, time.Duration) (bool, error) { return true, nil }

func TestWhoStoppedInTheMiddleDoesNotTakeTheCheckpointBack(t *testing.T) {
	w := newWorld(t)
	w.growTo(100)
	late := &stopping{Leases: always{}, stopped: make(chan struct{}), on: make(chan struct{})}
	slow := w.publisher(func(p *parts) { p.leases = late })
	done := make(chan error)
	go func() { done <- slow.Publish(w.ctx) }()
	<-late.stopped // everything is copied, and the checkpoint is next

	w.growTo(200)
	w.publish(w.publisher())
	close(late.on)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := w.audit(); got != 200 {
		t.Errorf("published up to %d, want 200", got)
	}
	w.growTo(201)
	w.publish(slow)
	if got := w.audit(); got != 200 {
		t.Errorf("published up to %d while another process has the lease, want 200", got)
	}
}

// stopping stops who asks for a third lease, the one before the checkpoint.
type stopping struct {
	ledger.Leases
	asked       int
	stopped, on chan struct{}
}

func (s *stopping) Lease(ctx context.Context, work, owner string, d time.Duration) (bool, error) {
	s.asked++
	switch {
	case s.asked < 3:
		return true, nil
	case s.asked == 3:
		close(s.stopped)
		<-s.on
		return true, nil
	}
	return false, nil
}

func TestABucketThatIsAwayIsFilledWhenItIsBack(t *testing.T) {
	w := newWorld(t)
	if err := os.WriteFile(w.folder, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := w.publisher()
	if err := p.Publish(w.ctx); err == nil {
		t.Fatal("published into a file")
	}
	if err := os.Remove(w.folder); err != nil {
		t.Fatal(err)
	}
	w.publish(p)
	away := w.folder + ".away"
	if err := errors.Join(os.Rename(w.folder, away), os.WriteFile(w.folder, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	w.growTo(300) // registrations do not notice
	if err := p.Publish(w.ctx); err == nil {
		t.Fatal("published into a file")
	}
	if err := errors.Join(os.Remove(w.folder), os.Rename(away, w.folder)); err != nil {
		t.Fatal(err)
	}
	if got := w.audit(); got != 2 {
		t.Errorf("published up to %d, want 2", got)
	}
	w.publish(p)
	if got := w.audit(); got != 300 {
		t.Errorf("published up to %d, want 300", got)
	}

	// Emptied, and with a checkpoint that is no more than a beginning.
	for i, damage := range []func() error{
		func() error { return os.RemoveAll(w.folder) },
		func() error { return os.Truncate(filepath.Join(w.folder, "checkpoint"), 9) },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		size := uint64(301 + i)
		w.growTo(size)
		w.publish(p)
		if got := w.audit(); got != size {
			t.Errorf("published up to %d, want %d", got, size)
		}
	}
}

func TestABucketThatIsNotOfThisLogIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	w.growTo(100)
	w.publish(w.publisher())
	old := readAll(t, w.folder)
	signed := func(origin string, size uint64, root string) []byte {
		return fmt.Appendf(nil, "%s\n%d\n%s\n\n— x AAAAAAAA\n", origin, size, root)
	}
	origin := w.ledger.Service().Origin
	zeros := strings.Repeat("A", 43) + "="
	for _, c := range []struct {
		checkpoint []byte
		want       string
	}{
		{signed("other.example/log", 100, zeros), "other.example/log"},
		{signed(origin, 1000, zeros), "restored from a backup"},
		{signed(origin, 100, zeros), "was not signed here"},
		{signed(origin, 99, zeros), "was not signed here"},
	} {
		w.growTo(110)
		if err := os.WriteFile(filepath.Join(w.folder, "checkpoint"), c.checkpoint, 0o600); err != nil {
			t.Fatal(err)
		}
		err := w.fresh().Publish(w.ctx)
		if !errors.Is(err, publish.ErrForeign) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("over\n%s: %v, want %q", c.checkpoint, err, c.want)
		}
		now := readAll(t, w.folder)
		if !bytes.Equal(now["checkpoint"], c.checkpoint) || len(now) != len(old) {
			t.Errorf("the folder was written to: %d files, before %d", len(now), len(old))
		}
	}
}

// fresh is a Publisher that never waits for a lease.
func (w *world) fresh() *publish.Publisher {
	return w.publisher(func(p *parts) { p.leases = always{} })
}

func readAll(t *testing.T, folder string) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	err := filepath.WalkDir(folder, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, _ := filepath.Rel(folder, path)
		all[name], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestWhatIsPublishedNeverChanges(t *testing.T) {
	w := newWorld(t)
	p := w.publisher()
	var before map[string][]byte
	for size := uint64(2); size < 540; size += 1 + rand.Uint64N(60) {
		w.growTo(size)
		w.publish(p)
		now := readAll(t, w.folder)
		for name, content := range before {
			if name != "checkpoint" && !bytes.Equal(now[name], content) {
				t.Fatalf("%s changed, or is gone, at size %d", name, size)
			}
		}
		before = now
	}
	// A process that knows nothing, over an empty folder, gives the same.
	old := w.folder
	w.folder = filepath.Join(t.TempDir(), "another")
	w.publish(w.publisher(func(p *parts) { p.leases = always{} }))
	for name, content := range readAll(t, w.folder) {
		if strings.HasPrefix(name, "statements/") && strings.Contains(name, ".p/") {
			continue // where one of these begins is where publishing was before
		}
		if had, err := os.ReadFile(filepath.Join(old, name)); err != nil || !bytes.Equal(had, content) {
			t.Errorf("%s is another file: %v", name, err)
		}
	}
}

func TestPartialFilesGoOnceTheyAreReplaced(t *testing.T) {
	w := newWorld(t)
	p := w.publisher(func(p *parts) { p.o.Keep = time.Nanosecond })
	for _, size := range []uint64{100, 200, 255, 300, 301, 600} {
		w.growTo(size)
		w.publish(p)
		w.audit()
	}
	w.growTo(601)
	w.publish(p)
	if got := w.audit(); got != 601 {
		t.Errorf("published up to %d, want 601", got)
	}
	for name := range readAll(t, w.folder) {
		if strings.Contains(name, "000.p/") && !strings.HasPrefix(name, "tile/1/") || strings.Contains(name, "001.p/") {
			t.Errorf("%s is still there", name)
		}
	}
}

func TestABucketIsToldWhatMayBeCached(t *testing.T) {
	w := newWorld(t)
	w.growTo(300)
	p := w.publisher(func(p *parts) { p.url = "mem://" })
	w.publish(p)
	const immutable = "public, max-age=31536000, immutable"
	seen := 0
	for files := p.Bucket().List(nil); ; seen++ {
		f, err := files.Next(w.ctx)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got, err := p.Bucket().Attributes(w.ctx, f.Key)
		if err != nil {
			t.Fatal(err)
		}
		kind, cache := "application/octet-stream", immutable
		switch room, _, _ := strings.Cut(f.Key, "/"); room {
		case "checkpoint":
			kind, cache = "text/plain; charset=utf-8", "max-age=5"
		case "scitt-keys":
			kind, cache = "application/cbor", "max-age=5"
		case "statements", "heads":
			kind = "application/cbor-seq"
		}
		if got.ContentType != kind || got.CacheControl != cache {
			t.Errorf("%s: %s, %q; want %s, %q", f.Key, got.ContentType, got.CacheControl, kind, cache)
		}
	}
	if seen != 11 {
		t.Errorf("%d files", seen)
	}
}

func TestCosignaturesThatComeLateArePublished(t *testing.T) {
	w := newWorld(t)
	signed, err := w.ledger.Checkpoint(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	shown := signed
	p := w.publisher(func(p *parts) { p.o.Checkpoint = func(context.Context) ([]byte, error) { return shown, nil } })
	for _, next := range [][]byte{nil, signed, append(bytes.Clone(signed), "— witness.example/w AAAAAAAA\n"...)} {
		shown = next
		w.publish(p)
		if got, err := os.ReadFile(filepath.Join(w.folder, "checkpoint")); !bytes.Equal(got, next) {
			t.Errorf("published\n%s, want\n%s (%v)", got, next, err)
		}
	}
	full := shown
	shown = signed // another process knows of no witness
	w.publish(w.fresh())
	if got, err := os.ReadFile(filepath.Join(w.folder, "checkpoint")); err != nil || !bytes.Equal(got, full) {
		t.Errorf("published\n%s, want\n%s (%v)", got, full, err)
	}
}

func TestAURLThatIsNoBucketIsRefused(t *testing.T) {
	for url, want := range map[string]string{
		"":                       "not a URL such as file:///srv/log",
		"/srv/log":               "not a URL such as file:///srv/log",
		"file://srv/log":         "not the URL of a folder",
		"file:///":               "not the URL of a folder",
		"file:srv":               "not the URL of a folder",
		"s3://bucket":            `no bucket of scheme s3`,
		"file:///srv/log?color=": "not the URL of a folder",
		"ftp://u:secret@host/":   `no bucket of scheme ftp`,
	} {
		_, err := publish.New(url, nil, nil, publish.Options{})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v, want %q", url, err, want)
		}
	}
}
