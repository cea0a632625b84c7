// Package postgres keeps a ledger in PostgreSQL 15 or newer: ledger.Store,
// ledger.Staging, ledger.Tokens and ledger.Leases over one schema, for any number
// of scittd processes at a time.
//
// It promises what those interfaces promise, and that it refuses a server which
// could not keep the promise: one with fsync, full_page_writes or
// synchronous_commit off. A commit is one round trip. It takes no lock that
// outlives a transaction, and no transaction waits for anything but the
// database, but for a Turn: that one is between other people's commits, and
// ends when its owner is silent for long.
//
// Engines that speak PostgreSQL but are not it are reached with profile=portable
// in the DSN, see profileOf; which ones keep the promises is for a run of
// compat to say, not for us.
//
// It knows nothing of trees, receipts or policies: it stores what the ledger
// computed, and the constraints of migrations/postgres repeat the invariants.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
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
	pingTimeout      = time.Second // of a connection that was idle
)

// dialer notices within seconds that a machine or the way to it is gone, where
// the kernel would take hours.
var dialer = net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: time.Second, Count: 3}}

// Connections by purpose. Each has its own pool, so that neither a burst of
// queries nor a long backlog can keep a commit from its connection, and no
// registry trouble can slow a query down. What the sequencer looks up before a
// commit goes through the readers' pool, though, and waits with them.
const (
	readConns   = 16
	commitConns = 2 // a log has one sequencer; a connection it gave up on may take seconds to end
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
	portable             bool // see profileOf

	issuers, mediaTypes, predicateTypes *dictionary
	accounts                            accounts
}

var (
	_ ledger.Store   = (*Store)(nil)
	_ ledger.Staging = (*Store)(nil)
	_ ledger.Tokens  = (*Store)(nil)
	_ ledger.Leases  = (*Store)(nil)
	_ ledger.Backlog = (*Store)(nil)

	_ ledger.Placements = (*Store)(nil)
)

// Open connects to the database that dsn names (a URL or key=value pairs,
// completed from the PG* environment variables as libpq does; several hosts are
// tried in turn for the one that takes writes). It fails unless
// the server is reachable, durable and at the schema version of this binary.
func Open(ctx context.Context, dsn string, o Options) (_ *Store, err error) {
	s := &Store{
		issuers:        newDictionary("issuers"),
		mediaTypes:     newDictionary("media_types"),
		predicateTypes: newDictionary("predicate_types"),
		accounts:       accounts{of: map[account]int64{}},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	for _, p := range []struct {
		pool     **pool
		max      int32
		writes   bool
		settings []string
	}{{&s.reads, readConns, false, lookedUp}, {&s.commits, commitConns, true, plannedOnce}, {&s.work, workConns, true, planned}} {
		if *p.pool, err = newPool(ctx, dsn, o, p.max, p.writes, p.settings); err != nil {
			return nil, fmt.Errorf("open PostgreSQL ledger: %w", err)
		}
	}
	s.portable = s.reads.portable
	err = s.reads.read(ctx, func(c *pgx.Conn) error {
		if o.SkipSchemaCheck {
			return c.Ping(ctx)
		}
		return checkSchema(ctx, c)
	})
	if refused := (*refusal)(nil); errors.As(err, &refused) {
		err = refused // trying later will not help who only begins
	}
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
	portable bool
}

func newPool(ctx context.Context, dsn string, o Options, conns int32, writes bool, settings []string) (*pool, error) {
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, err // pgx leaves the password out
	}
	portable, err := profileOf(config.ConnConfig)
	if err != nil {
		return nil, err
	}
	if portable {
		settings = nil
	}
	config.MaxConns, config.MinConns = conns, 0
	config.ConnConfig.ConnectTimeout = connectTimeout
	if writes {
		config.BeforeConnect = uncancelled
	}
	config.PingTimeout = pingTimeout
	if config.ConnConfig.ValidateConnect == nil {
		// Of several hosts take the primary: no decision comes from a replica.
		config.ConnConfig.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	config.AfterConnect = func(ctx context.Context, c *pgx.Conn) error {
		return again(ctx, func() error { return prepare(ctx, c, o, portable, settings) })
	}
	p, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	return &pool{p, portable}, nil
}

// planned switches off the bad habits of a planner that knows too little of a
// table yet: every query has an index that gives its order, and must not read and
// sort the table instead. jit goes with them, for a plan that has to do such a
// thing all the same then looks costly enough to be compiled, which takes a second.
var planned = []string{"enable_seqscan=off", "enable_bitmapscan=off", "enable_sort=off", "enable_incremental_sort=off", "jit=off"}

// plannedOnce is for what has one good plan whatever it is about: planning it anew
// each time is a third of what a small commit costs, and more than half of what a
// page does.
var plannedOnce = append([]string{"plan_cache_mode=force_generic_plan"}, planned...)

// lookedUp is for reads. A plan that knows no limit yet takes a page for a tenth of
// the log, and would rather read a table to its end than look a few rows up in it.
var lookedUp = append([]string{"enable_hashjoin=off", "enable_mergejoin=off"}, plannedOnce...)

// uncancelled gives a connection no way to ask for the cancelling of what runs on
// it, which pgx does when a context ends. A commit that waits for a synchronous
// standby would stop waiting and be there for everybody to see, on one machine
// only: read back, it would be acknowledged, and lost with that machine.
func uncancelled(_ context.Context, config *pgx.ConnConfig) error {
	var connected atomic.Bool
	config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		if connected.Load() {
			return nil, errors.New("a commit is not cancelled")
		}
		return dialer.DialContext(ctx, network, address)
	}
	config.AfterConnect = func(context.Context, *pgconn.PgConn) error {
		connected.Store(true)
		return nil
	}
	return nil
}

// prepare sets the session's limits and looks at what durability it gives. Every
// new connection is looked at, because settings change while we run;
// synchronous_commit is pinned, so that no reload can weaken a session.
func prepare(ctx context.Context, c *pgx.Conn, o Options, portable bool, settings []string) error {
	var version int
	var fsync, fullPageWrites, synchronousCommit string
	err := c.QueryRow(ctx, `
		SELECT current_setting('server_version_num')::int,
		       coalesce(current_setting('fsync', true), ''), -- other engines may have none
		       coalesce(current_setting('full_page_writes', true), ''),
		       set_config('synchronous_commit', current_setting('synchronous_commit'), false),
		       set_config('statement_timeout', $1, false),
		       set_config('lock_timeout', $2, false),
		       set_config('idle_in_transaction_session_timeout', $3, false),
		       (SELECT count(set_config(split_part(s, '=', 1), split_part(s, '=', 2), false)) FROM unnest($4::text[]) AS settings (s))`,
		millis(statementTimeout), millis(lockTimeout), millis(idleInTxTimeout), append([]string{}, settings...), // nil would be NULL
	).Scan(&version, &fsync, &fullPageWrites, &synchronousCommit, nil, nil, nil, nil)
	if err != nil {
		return err
	}
	if version < 150000 && !portable {
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
// is better served by 503. So is one whose server has come to be refused: that
// says nothing of what is stored.
func (p *pool) acquire(ctx context.Context) (*pgxpool.Conn, error) {
	wait, cancel := context.WithTimeout(ctx, acquireTimeout)
	defer cancel()
	conn, err := p.Acquire(wait)
	if err == nil || ctx.Err() != nil {
		return conn, err
	}
	return nil, unavailable(err)
}

// run lends f a connection, and again when f had to yield: f is one or more
// whole transactions that may be repeated.
func (p *pool) run(ctx context.Context, f func(*pgx.Conn) error) error {
	return again(ctx, func() error { return p.once(ctx, f) })
}

func (p *pool) once(ctx context.Context, f func(*pgx.Conn) error) error {
	conn, err := p.acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	err = f(conn.Conn())
	if hasState(err, readOnlyTransaction) || conn.Conn().IsClosed() && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		// Not the primary any more, or silent: so it is on the other connections.
		p.Reset()
	}
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
		return damaged(err)
	}
	p.Reset()
	return damaged(p.run(ctx, f))
}
