package postgres_test

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/scittd/scittd/internal/testenv"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/postgres"
)

func TestAServerThatMayLoseCommitsIsRefused(t *testing.T) {
	for _, tc := range []struct {
		setting string
		managed bool
		refused bool
	}{
		{"fsync", false, true},
		{"full_page_writes", false, true},
		{"fsync", true, false},
		{"full_page_writes", true, false},
	} {
		pg := testenv.StartPostgres(t, tc.setting+"=off")
		dsn := pg.Database(t)
		if err := postgres.Migrate(t.Context(), dsn); err != nil {
			t.Fatal(err)
		}
		refusedBecause(t, dsn, postgres.Options{Managed: tc.managed}, tc.setting+" is off", tc.refused)
	}
	for _, managed := range []bool{false, true} {
		dsn := migrated(t)
		exec(t, dsn, `DO $$ BEGIN EXECUTE 'ALTER DATABASE ' || current_database() || ' SET synchronous_commit = off'; END $$`)
		refusedBecause(t, dsn, postgres.Options{Managed: managed}, "synchronous_commit is off", true)
	}
}

func TestAServerThatHasComeToBeRefusedIsUnavailable(t *testing.T) {
	dsn := migrated(t)
	s := open(t, dsn)
	exec(t, dsn, `DO $$ BEGIN EXECUTE 'ALTER DATABASE ' || current_database() || ' SET synchronous_commit = off'; END $$`)
	exec(t, dsn, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
	if _, err := s.Head(t.Context()); !errors.Is(err, ledger.ErrUnavailable) || !strings.Contains(err.Error(), "synchronous_commit is off") {
		t.Errorf("a read: %v, want ErrUnavailable that says why", err)
	}
}

func refusedBecause(t *testing.T, dsn string, o postgres.Options, reason string, want bool) {
	t.Helper()
	s, err := postgres.Open(t.Context(), dsn, o)
	if err == nil {
		defer s.Close()
	}
	if got := err != nil && strings.Contains(err.Error(), reason); got != want {
		t.Errorf("%s, options %+v: refused %v, want %v; error %v", reason, o, got, want, err)
	}
	if errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("%v: trying later will not help", err)
	}
}

func TestSchemaOfAnotherVersionIsRefused(t *testing.T) {
	empty := testenv.Database(t)
	refusedBecause(t, empty, postgres.Options{}, "run scittd migrate up", true)
	if have, want, err := postgres.SchemaVersion(t.Context(), empty); have != 0 || want < 1 || err != nil {
		t.Errorf("SchemaVersion of an empty database = %d, %d, %v", have, want, err)
	}

	newer := migrated(t)
	exec(t, newer, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, true)`)
	refusedBecause(t, newer, postgres.Options{}, "newer than this binary", true)
	refusedBecause(t, newer, postgres.Options{SkipSchemaCheck: true}, "newer than this binary", false)
	if err := postgres.Migrate(t.Context(), newer); err == nil || !strings.Contains(err.Error(), "newer than this binary") {
		t.Errorf("Migrate of a newer schema: %v", err)
	}
}

func TestManyMigrateAtOnce(t *testing.T) {
	dsn := testenv.Database(t)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if err := postgres.Migrate(t.Context(), dsn); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if have, want, err := postgres.SchemaVersion(t.Context(), dsn); have != want || err != nil {
		t.Errorf("SchemaVersion = %d, %d, %v", have, want, err)
	}
}

func TestAServerThatIsDownIsUnavailableAndItsReturnIsNoticed(t *testing.T) {
	pg := testenv.StartPostgres(t)
	dsn := pg.Database(t)
	if err := postgres.Migrate(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	s := open(t, dsn)
	genesis(t, s)

	pg.Kill(t)
	if _, err := s.Head(t.Context()); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("Head while the server is down: %v, want ErrUnavailable", err)
	}
	if _, err := s.Due(t.Context(), ledger.Pickup{Owner: "o", Registry: "r", Lease: 1, Places: 1, Each: 1}, start); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("Due while the server is down: %v, want ErrUnavailable", err)
	}
	// The first commit finds its connection dead: nobody knows what became of
	// it. The second cannot even connect.
	if err := s.Commit(t.Context(), batch(2, "a")); err == nil || errors.Is(err, ledger.ErrConflict) {
		t.Errorf("Commit while the server is down: %v", err)
	}
	if err := s.Commit(t.Context(), batch(2, "a")); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("second Commit while the server is down: %v, want ErrUnavailable", err)
	}
	if _, err := postgres.Open(t.Context(), dsn, postgres.Options{}); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("Open while the server is down: %v, want ErrUnavailable", err)
	}

	pg.Start(t)
	if got := size(t, s); got != 2 {
		t.Errorf("size after restart %d, want 2", got)
	}
	commit(t, s, batch(2, "a"))

	pg.Stop(t) // also a polite end kills idle connections
	pg.Start(t)
	if got := size(t, s); got != 3 {
		t.Errorf("size after second restart %d, want 3", got)
	}
}
