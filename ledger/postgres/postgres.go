// Package postgres keeps a ledger in PostgreSQL 15 or newer: ledger.Store,
// ledger.Staging and ledger.Tokens over one schema, for any number of scittd
// processes at a time.
//
// It promises what those interfaces promise, and that it refuses a server which
// could not keep the promise: one with fsync, full_page_writes or
// synchronous_commit off. A commit is one round trip. It takes no lock that
// outlives a transaction, and no transaction waits for anything but the
// database.
//
// It knows nothing of trees, receipts or policies: it stores what the ledger
// computed, and the constraints of migrations/postgres repeat the invariants.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/scittd/scittd/ledger"
)

// Limits of a session. No statement of ours needs a fraction of them: they end
// what a stuck lock or a paused process would hold up.
const (
	statementTimeout = 5 * time.Second
	lockTimeout      = 2 * time.Second
	idleInTxTimeout  = 2 * time.Second
	connectTimeout   = 2 * time.Second
	acquireTimeout   = 2 * time.Second
)

// Connections by purpose. Each has its own pool, so that neither a burst of
// queries nor a long backlog can keep a commit from its connection, and no
// registry trouble can slow a query down.
const (
	readConns   = 16
	commitConns = 1 // a log has one sequencer
	workConns   = 4 // Courier, staging, tokens
)

// Options of Open.
type Options struct {
	// Managed trusts the provider of a managed database whose fsync and
	// full_page_writes read off because its storage does their work.
	// synchronous_commit off is refused even then.
	Managed bool
	// SkipSchemaCheck opens whatever schema version is there.
	SkipSchemaCheck bool
}

// Store is one log in one PostgreSQL schema.
type Store struct {
	reads, commits, work *pool

	issuers, mediaTypes, predicateTypes *dictionary
}

var (
	_ ledger.Store   = (*Store)(nil)
	_ ledger.Staging = (*Store)(nil)
	_ ledger.Tokens  = (*Store)(nil)
)

// Open connects to the database that dsn names (a URL or key=value pairs,
// completed from the PG* environment variables as libpq does). It fails unless
// the server is reachable, durable and at the schema version of this binary.
func Open(ctx context.Context, dsn string, o Options) (_ *Store, err error) {
	s := &Store{
		issuers:        newDictionary("issuers"),
		mediaTypes:     newDictionary("media_types"),
		predicateTypes: newDictionary("predicate_types"),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	for _, p := range []struct {
		pool **pool
		max  int32
	}{{&s.reads, readConns}, {&s.commits, commitConns}, {&s.work, workConns}} {
		if *p.pool, err = newPool(ctx, dsn, o, p.max); err != nil {
			return nil, fmt.Errorf("open PostgreSQL ledger: %w", err)
		}
	}
	err = s.reads.read(ctx, func(c *pgx.Conn) error {
		if o.SkipSchemaCheck {
			return c.Ping(ctx)
		}
		return checkSchema(ctx, c)
	})
	if err != nil {
		return nil, fmt.Errorf("open PostgreSQL ledger: %w", err)
	}
	return s, nil
}

// Close waits for calls in progress and closes all connections.
func (s *Store) Close() error {
	for _, p := range []*pool{s.reads, s.commits, s.work} {
		if p != nil {
			p.Pool.Close()
		}
	}
	return nil
}

// Now is the database server's clock.
func (s *Store) Now(ctx context.Context) (time.Time, error) {
	var now time.Time
	err := s.reads.read(ctx, func(c *pgx.Conn) error {
		return c.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&now)
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("ask the database's clock: %w", err)
	}
	return now.UTC(), nil
}

// pool is a set of connections that have passed the checks of prepare.
type pool struct {
	*pgxpool.Pool
}

func newPool(ctx context.Context, dsn string, o Options, conns int32) (*pool, error) {
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, err // pgx leaves the password out
	}
	config.MaxConns, config.MinConns = conns, 0
	config.ConnConfig.ConnectTimeout = connectTimeout
	if config.ConnConfig.ValidateConnect == nil {
		// Of several hosts take the primary: no decision comes from a replica.
		config.ConnConfig.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	config.AfterConnect = func(ctx context.Context, c *pgx.Conn) error { return prepare(ctx, c, o) }
	p, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	return &pool{p}, nil
}

// prepare sets the session's limits and looks at what durability it gives. Every
// new connection is looked at, because settings change while we run;
// synchronous_commit is pinned, so that no reload can weaken a session.
func prepare(ctx context.Context, c *pgx.Conn, o Options) error {
	var version int
	var fsync, fullPageWrites, synchronousCommit string
	err := c.QueryRow(ctx, `
		SELECT current_setting('server_version_num')::int,
		       current_setting('fsync'),
		       current_setting('full_page_writes'),
		       set_config('synchronous_commit', current_setting('synchronous_commit'), false),
		       set_config('statement_timeout', $1, false),
		       set_config('lock_timeout', $2, false),
		       set_config('idle_in_transaction_session_timeout', $3, false)`,
		millis(statementTimeout), millis(lockTimeout), millis(idleInTxTimeout),
	).Scan(&version, &fsync, &fullPageWrites, &synchronousCommit, nil, nil, nil)
	if err != nil {
		return err
	}
	if version < 150000 {
		return &refusal{fmt.Sprintf("PostgreSQL 15 or newer is needed; the server is %d", version/10000)}
	}
	for _, setting := range []struct {
		name, value string
		trusted     bool
	}{
		{"fsync", fsync, o.Managed},
		{"full_page_writes", fullPageWrites, o.Managed},
		{"synchronous_commit", synchronousCommit, false},
	} {
		if setting.value == "off" && !setting.trusted {
			return &refusal{fmt.Sprintf("%s is off: an acknowledged registration could be lost; turn it on in the server, database or role settings", setting.name)}
		}
	}
	return nil
}

func millis(d time.Duration) string { return fmt.Sprint(d.Milliseconds()) }

// acquire waits for a connection, but not long: who waits here has a caller who
// is better served by 503.
func (p *pool) acquire(ctx context.Context) (*pgxpool.Conn, error) {
	wait, cancel := context.WithTimeout(ctx, acquireTimeout)
	defer cancel()
	conn, err := p.Acquire(wait)
	if refused := (*refusal)(nil); err == nil || errors.As(err, &refused) || ctx.Err() != nil {
		return conn, err
	}
	return nil, unavailable(err)
}

// run lends f a connection. f begins no transaction that it does not end.
func (p *pool) run(ctx context.Context, f func(*pgx.Conn) error) error {
	conn, err := p.acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	err = f(conn.Conn())
	if err != nil && ctx.Err() == nil && (conn.Conn().IsClosed() || passing(err)) {
		return unavailable(err)
	}
	return err
}

// read is run for what may be repeated: connections that died with the server
// are only noticed in use, and one call should not have to fail for each.
func (p *pool) read(ctx context.Context, f func(*pgx.Conn) error) error {
	var lost bool
	err := p.run(ctx, func(c *pgx.Conn) error {
		err := f(c)
		lost = err != nil && c.IsClosed() && ctx.Err() == nil
		return err
	})
	if !lost {
		return err
	}
	p.Reset()
	return p.run(ctx, f)
}
