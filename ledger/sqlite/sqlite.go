// Package sqlite keeps one log in one SQLite file: the ledger.Store of the
// embedded mode, with Staging, Tokens and Leases beside it.
//
// A file belongs to one process, which a lock beside it enforces; other
// commands may come beside a running server with OpenBeside, but never commit.
// There is one writing connection and a pool of reading ones, which in WAL mode
// do not wait for it. synchronous=FULL: what Commit promised survives a power
// cut, as far as the disk keeps its word.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/scittd/scittd/internal/failpoint"
	"github.com/scittd/scittd/internal/filelock"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/migrations"
)

// Store is one open file. It is safe for concurrent use.
type Store struct {
	lock    *os.File // nil: beside the process that holds it
	write   *sql.DB  // one connection
	read    *sql.DB
	inserts inserts       // prepared on write
	turn    chan struct{} // one element, taken by whoever commits
	leases  leases
}

var (
	_ ledger.Store   = (*Store)(nil)
	_ ledger.Staging = (*Store)(nil)
	_ ledger.Tokens  = (*Store)(nil)
	_ ledger.Leases  = (*Store)(nil)
	_ ledger.Backlog = (*Store)(nil)

	_ ledger.Placements = (*Store)(nil)
)

// Open opens or creates the file, applies missing migrations, and keeps every
// other process out until Close. A file whose schema is newer than this binary
// is refused.
func Open(ctx context.Context, path string) (*Store, error) {
	lock, err := filelock.Take(path + ".lock")
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	s, err := open(ctx, path, true)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", path, err), lock.Close())
	}
	s.lock = lock
	return s, nil
}

// OpenBeside opens a file that another process may be serving, for what is kept
// beside the log and for reading: Commit fails. The file must exist and have
// this binary's schema.
func OpenBeside(ctx context.Context, path string) (*Store, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	s, err := open(ctx, path, false)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return s, nil
}

func open(ctx context.Context, path string, migrate bool) (_ *Store, err error) {
	s := &Store{turn: make(chan struct{}, 1)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.write, err = sql.Open("sqlite", dsn(path, false)); err != nil {
		return nil, err
	}
	s.write.SetMaxOpenConns(1)
	if err = checkSchema(ctx, s.write, migrate); err != nil {
		return nil, err
	}
	if s.read, err = sql.Open("sqlite", dsn(path, true)); err != nil {
		return nil, err
	}
	s.read.SetMaxOpenConns(max(4, runtime.GOMAXPROCS(0)))
	s.read.SetMaxIdleConns(max(4, runtime.GOMAXPROCS(0)))
	if err = s.inserts.prepare(ctx, s.write); err != nil {
		return nil, err
	}
	return s, nil
}

// dsn sets what every connection needs. A transaction of the writer takes the
// lock when it begins, so that it never fails half way for having read first.
func dsn(path string, readOnly bool) string {
	q := url.Values{"_pragma": {
		"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(ON)",
	}, "_txlock": {"immediate"}}
	if readOnly {
		q["_pragma"] = append(q["_pragma"], "query_only(ON)")
		q.Set("_txlock", "deferred")
	}
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String()
}

// checkSchema brings the file to this binary's schema, or refuses it.
func checkSchema(ctx context.Context, db *sql.DB, migrate bool) error {
	dir, err := fs.Sub(migrations.FS, "sqlite")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, dir, goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return fmt.Errorf("read the migrations: %w", err)
	}
	have, want, err := p.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("read the schema version: %w", classify(err))
	}
	switch {
	case have > want:
		return fmt.Errorf("schema %d is newer than this binary's %d: use the newer binary", have, want)
	case have == want:
		return nil
	case !migrate:
		return fmt.Errorf("schema %d is older than this binary's %d: start the server once to migrate it", have, want)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrate from schema %d to %d: %w", have, want, classify(err))
	}
	return nil
}

// Now is the clock that SQLite reads.
func (s *Store) Now(ctx context.Context) (time.Time, error) {
	var ms int64
	err := s.read.QueryRowContext(ctx, `SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER)`).Scan(&ms)
	return time.UnixMilli(ms).UTC(), classify(err)
}

// Close waits for calls in progress and lets the next process in.
func (s *Store) Close() error {
	var errs []error
	errs = append(errs, s.inserts.close())
	if s.read != nil {
		errs = append(errs, s.read.Close())
	}
	if s.write != nil {
		errs = append(errs, s.write.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

// update runs f in one transaction of the writer.
func (s *Store) update(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return classify(err)
	}
	if err := f(tx); err != nil {
		// Whatever went wrong, nothing may stay open on the one connection.
		return errors.Join(classify(err), rollback(tx))
	}
	failpoint.Hit(failpoint.Sent)
	return classify(tx.Commit())
}

func rollback(tx *sql.Tx) error {
	if err := tx.Rollback(); err != nil && !errors.Is(err, sql.ErrTxDone) {
		return err
	}
	return nil
}

// Times are integers; zero time is 0.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

func fromSeconds(sec int64) time.Time { return time.Unix(sec, 0).UTC() }

// index guards the conversion: SQLite has 63 bits.
func index(i uint64) (int64, error) {
	if i > 1<<63-1 {
		return 0, errors.New("index " + strconv.FormatUint(i, 10) + " is beyond 63 bits")
	}
	return int64(i), nil
}
