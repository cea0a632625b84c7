// Package embedded is a durable OCI registry inside the process: what an image,
// an SBOM and a receipt are pushed to when there is no registry yet, or none
// that is wanted.
//
//	reg, err := embedded.Open("/var/lib/scittd/registry")
//	defer reg.Close()
//	http.Handle("/v2/", reg.Handler())                // crane, regctl, oras
//	repo, err := reg.Repository("wabbit/net-monitor") // the same, in process
//
// # Promises
//
//   - What was answered with 201 is on disk: a blob is written to a temporary
//     file on the same volume, hashed on the way, synced, renamed, its folder
//     synced, and only then does its row commit. A manifest, its tag and its
//     place in a referrers list commit in one transaction.
//   - A blob is visible in a repository only through a row of that repository,
//     never because another repository holds the same bytes.
//   - An upload is a row: it goes on after a restart where its last finished
//     chunk ended, and expires 24 hours after it was last touched and a week
//     after it began. A chunk that breaks off leaves it where it was. It belongs
//     to its repository and, when callers are known, to who began it.
//   - Only blobs that no manifest of their repository names are collected, and
//     only after 24 hours. Manifests are never collected. Deleting an image
//     keeps what refers to it.
//   - Blobs are streamed; only manifests, at most 4 MiB each, and pages of
//     lists, below 4 MiB, are held in memory. A page of referrers reads as many
//     rows as it lists, and attaching one more costs the same however many
//     there are.
//   - Nobody holds anything for long or for nothing: bodies must keep coming,
//     answers keep being read, uploads are bounded in number, and so are, if
//     [Limits] say so, the bytes of everything and the free space they leave.
//
// # On disk
//
// registry.db (SQLite, WAL, synchronous=FULL) holds names, manifests, tags and
// uploads; blobs/<algorithm>/<2 hex>/<hex> holds the bytes; uploads/<id> what
// is not yet a blob. One process at a time owns the folder: it holds the lock
// on the file lock, which stays.
//
// # The HTTP layer is ours
//
// No importable library is durable, lists referrers and follows the
// distribution specification at once. The best protocol layer among them
// (ociregistry's ociserver) would need a middleware for Content-Range, one for
// suffix ranges, own handlers for manifest PUT, referrers, tags and upload
// DELETE, and a mux in front of it for malformed digests: all the routes but
// the simple ones. Writing the remaining ones too is shorter than explaining
// the seams, and the core below it knows nothing of net/http.
//
// The package knows no tokens: who may push is decided in front of it. It knows
// nothing of statements, receipts or ledgers.
package embedded

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	_ "modernc.org/sqlite" // the database/sql driver "sqlite"

	"github.com/scittd/scittd/internal/filelock"
)

// expiry is the age at which an untouched upload ends, and below which a blob
// that no manifest names is kept: its manifest may still be on the way.
const expiry = 24 * time.Hour

// lifetime is how long an upload may go on in all: one byte an hour would keep
// it for ever.
const lifetime = 7 * expiry

// idle is how long an upload must have lain untouched to make room for others.
const idle = time.Hour

// sweepEvery is the pause between two collections.
const sweepEvery = time.Hour

// stall is how long 64 KiB of a body, or a MiB of an answer, may take.
const stall = time.Minute

var errClosed = errors.New("the registry is closed")

// Registry is an open registry. All methods are safe for concurrent use.
type Registry struct {
	dir  string
	lock *os.File // says whose the folder is
	read *sql.DB  // query_only, several connections
	now  func() time.Time
	log  atomic.Pointer[slog.Logger]

	patience time.Duration                   // stall
	free     func(dir string) (int64, error) // freeSpace
	limits   Limits
	counters
	large chan struct{} // holds one for each large manifest being pushed

	changes chan change // taken by the writer, which alone owns the writing connection

	// files is held for reading from a blob's rename until its row has
	// committed, and for writing while files without a row are removed. So
	// whoever holds it for writing knows that a file without a row is garbage.
	files sync.RWMutex

	sessions keyed // one request at a time works on an upload

	spoilt sync.Map // digests of blobs whose file was read and has another; until they are pushed again

	stop    context.CancelFunc
	stopped <-chan struct{} // closed by stop
	running sync.WaitGroup  // writer and sweeper
	write   *sql.DB         // owned by the writer
	closing func() error    // once
}

// Open opens the registry in dir and creates what is missing. A folder that is
// open already, here or in another process, is refused. The caller must Close
// the registry; a process that just ends lets go of the folder, too.
func Open(dir string) (*Registry, error) {
	r, err := open(dir, time.Now)
	if err != nil {
		return nil, fmt.Errorf("open registry in %s: %w", dir, err)
	}
	return r, nil
}

func open(dir string, now func() time.Time) (r *Registry, err error) {
	if err := makeFolders(dir); err != nil {
		return nil, err
	}
	lock, err := filelock.Take(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Close())
		}
	}()
	path, err := filepath.Abs(filepath.Join(dir, "registry.db"))
	if err != nil {
		return nil, err
	}
	write, err := openDatabase(path, "_txlock=immediate")
	if err != nil {
		return nil, err
	}
	write.SetMaxOpenConns(1)
	if err := migrate(write); err != nil {
		return nil, errors.Join(err, write.Close())
	}
	var used int64
	if err := write.QueryRow("SELECT bytes FROM usage").Scan(&used); err != nil {
		return nil, errors.Join(fmt.Errorf("read registry.db: %w", err), write.Close())
	}
	read, err := openDatabase(path, "_pragma=query_only(1)")
	if err != nil {
		return nil, errors.Join(err, write.Close())
	}
	read.SetMaxOpenConns(8)
	read.SetMaxIdleConns(8)

	ctx, cancel := context.WithCancel(context.Background())
	r = &Registry{
		dir: dir, lock: lock, read: read, write: write, now: now,
		patience: stall, free: freeSpace,
		large:   make(chan struct{}, maxLarge),
		changes: make(chan change),
		stop:    cancel, stopped: ctx.Done(),
	}
	r.Limit(Limits{})
	r.used.Store(used)
	r.LogTo(slog.New(slog.DiscardHandler))
	r.closing = sync.OnceValue(r.shutdown)
	r.running.Add(2)
	go r.writer()
	go r.sweeper(ctx)
	return r, nil
}

// LogTo sets who hears of the registry's own failures: HTTP answers never
// contain them, and collecting garbage has nobody to answer to. Until then they
// are dropped.
func (r *Registry) LogTo(log *slog.Logger) { r.log.Store(log) }

// Close ends the collection, waits for the change being committed, closes the
// database and lets go of the folder. Requests still running then fail; stop serving first.
func (r *Registry) Close() error { return r.closing() }

func (r *Registry) shutdown() error {
	r.stop()
	r.running.Wait()
	return errors.Join(r.read.Close(), r.write.Close(), r.lock.Close())
}

func openDatabase(path, option string) (*sql.DB, error) {
	dsn := (&url.URL{Scheme: "file", Path: path}).String() +
		"?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=foreign_keys(1)&" + option
	return sql.Open("sqlite", dsn)
}

// makeFolders creates all folders that blobs will ever need, so that no blob
// has to wait for, or survive the loss of, a folder of its own.
func makeFolders(dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "uploads"), 0o700); err != nil {
		return err
	}
	for _, algorithm := range []string{"sha256", "sha512"} {
		parent := filepath.Join(dir, "blobs", algorithm)
		if err := os.MkdirAll(parent, 0o700); err != nil {
			return err
		}
		for i := range 256 {
			err := os.Mkdir(filepath.Join(parent, fmt.Sprintf("%02x", i)), 0o700)
			if err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
		if err := syncFolder(parent); err != nil {
			return err
		}
	}
	if err := syncFolder(filepath.Join(dir, "blobs")); err != nil {
		return err
	}
	return syncFolder(dir)
}

func syncFolder(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// keyed is a set of locks by name.
type keyed struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed on release
}

// lock waits for key until ctx ends.
func (k *keyed) lock(ctx context.Context, key string) error {
	for {
		busy := k.try(key)
		if busy == nil {
			return nil
		}
		select {
		case <-busy:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// try takes key and returns nil, or returns what closes when it becomes free.
func (k *keyed) try(key string) (busy <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if busy, ok := k.held[key]; ok {
		return busy
	}
	if k.held == nil {
		k.held = map[string]chan struct{}{}
	}
	k.held[key] = make(chan struct{})
	return nil
}

func (k *keyed) unlock(key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	close(k.held[key])
	delete(k.held, key)
}
