package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/scittd/scittd/internal/testenv"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/postgres"
)

// portable is an empty, migrated database under the portable profile.
func portable(t *testing.T) (dsn, plain string) {
	t.Helper()
	plain = testenv.Database(t)
	dsn = plain + "&profile=portable"
	if err := postgres.Migrate(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	return dsn, plain
}

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(t.Context()) })
	return c
}

func TestThePortableProfileLeavesTheTuningOutAndNothingElse(t *testing.T) {
	_, plain := portable(t)
	tuned := migrated(t)
	for dsn, want := range map[string]bool{plain: false, tuned: true} {
		var tuned bool
		err := connect(t, dsn).QueryRow(t.Context(), `
			SELECT EXISTS (SELECT FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_type y ON y.oid = a.atttypid
				WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
				  AND (a.attstorage <> y.typstorage OR c.reloptions IS NOT NULL))`).Scan(&tuned)
		if err != nil || tuned != want {
			t.Errorf("tuned %v, %v; want %v", tuned, err, want)
		}
	}
	const shape = `SELECT string_agg(format('%s.%s %s %s', table_name, column_name, data_type, is_nullable), E'\n' ORDER BY table_name, column_name)
		FROM information_schema.columns WHERE table_schema = 'public' AND table_name NOT LIKE 'goose%'`
	var shapes [2]string
	for i, dsn := range []string{plain, tuned} {
		if err := connect(t, dsn).QueryRow(t.Context(), shape).Scan(&shapes[i]); err != nil {
			t.Fatal(err)
		}
	}
	if shapes[0] != shapes[1] {
		t.Errorf("portable tables\n%s\nothers\n%s", shapes[0], shapes[1])
	}
}

func TestAProfileThatWeDoNotKnowIsRefused(t *testing.T) {
	dsn := migrated(t) + "&profile=oracle"
	refusedBecause(t, dsn, postgres.Options{}, "neither postgres nor portable", true)
	if err := postgres.Migrate(t.Context(), dsn); err == nil || !strings.Contains(err.Error(), "profile=oracle") {
		t.Errorf("Migrate: %v", err)
	}
}

func TestATransactionThatMustYieldIsBegunAnew(t *testing.T) {
	dsn, plain := portable(t)
	s := open(t, dsn)
	token := ledger.Token{ID: "t", Name: "n", Scopes: []string{"read"}, Created: start, Expires: start.Add(time.Hour)}
	if err := s.AddToken(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	other := connect(t, plain)
	tx, err := other.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `UPDATE tokens SET name = 'm' WHERE id = 't'`); err != nil {
		t.Fatal(err)
	}
	revoked := make(chan error, 1)
	go func() { revoked <- s.RevokeToken(t.Context(), "t", start) }()
	watch := connect(t, plain)
	for waiting := false; !waiting; runtime.Gosched() { // behind the other's row
		err := watch.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock')`).Scan(&waiting)
		if err != nil {
			t.Fatal(err)
		}
	}
	// "could not serialize access due to concurrent update", by the server itself.
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-revoked; err != nil {
		t.Errorf("revoke: %v, want it done at the second try", err)
	}
}

// A primary that steps down answers writes with 25006; it is left for another.
func TestASessionThatTakesNoWritesAnyMoreIsLeft(t *testing.T) {
	pg := testenv.StartPostgres(t)
	dsn := pg.Database(t)
	if err := postgres.Migrate(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	watch := connect(t, dsn) // opened first, told of new settings last
	s := open(t, dsn)
	genesis(t, s)
	set := func(value string) {
		t.Helper()
		exec(t, dsn+"&default_transaction_read_only=off", `ALTER SYSTEM SET default_transaction_read_only = `+value)
		exec(t, dsn, `SELECT pg_reload_conf()`)
		for now := ""; now != value; runtime.Gosched() {
			if err := watch.QueryRow(t.Context(), `SHOW default_transaction_read_only`).Scan(&now); err != nil {
				t.Fatal(err)
			}
		}
	}
	set("on")
	for try, how := range []string{"on the session there is", "on a new one"} {
		if err := s.Commit(t.Context(), batch(2, "a")); !errors.Is(err, ledger.ErrUnavailable) {
			t.Errorf("commit %d, %s: %v, want ErrUnavailable", try, how, err)
		}
	}
	set("off")
	commit(t, s, batch(2, "a"))
}

func TestACommitThatWaitsForAStandbyIsNotCutShort(t *testing.T) {
	pg := testenv.StartPostgres(t)
	dsn := pg.Database(t)
	if err := postgres.Migrate(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	watch := connect(t, dsn)
	s := open(t, dsn)
	genesis(t, s)
	set := func(standby string) {
		t.Helper()
		exec(t, dsn, `ALTER SYSTEM SET synchronous_standby_names = '`+standby+`'`)
		exec(t, dsn, `SELECT pg_reload_conf()`)
		for now := "-"; now != standby; runtime.Gosched() {
			if err := watch.QueryRow(t.Context(), `SHOW synchronous_standby_names`).Scan(&now); err != nil {
				t.Fatal(err)
			}
		}
	}
	set("nobody")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	before := uint64(2)
	committed := make(chan error, 1)
	commit := func() { committed <- s.Commit(ctx, batch(before, fmt.Sprint("claim ", before))) }
	go commit()
	backends := func(event string) (n int) {
		t.Helper()
		if err := watch.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE wait_event = $1`, event).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for backends("SyncRep") == 0 {
		select {
		case err := <-committed: // not every process of the server has heard of the setting
			if err != nil {
				t.Fatal(err)
			}
			before++
			go commit()
		default:
			runtime.Gosched()
		}
	}
	cancel()
	if err := <-committed; err == nil || errors.Is(err, ledger.ErrUnavailable) || errors.Is(err, ledger.ErrConflict) {
		t.Errorf("a commit nobody waits for any more: %v, want an unknown outcome", err)
	}
	if got := size(t, s); got != before {
		t.Errorf("size %d: seen before it is on the standby", got)
	}
	set("") // as when a standby has come
	for size(t, s) != before+1 {
		runtime.Gosched()
	}
	log, err := os.ReadFile(filepath.Join(pg.Dir(), "log"))
	if err != nil || bytes.Contains(log, []byte("canceling wait for synchronous replication")) {
		t.Errorf("the server was asked to cut its wait short: %v", err)
	}
}
