package testenv_test

import (
	"context"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/scittd/scittd/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func query(t *testing.T, dsn, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var got string
	if err := conn.QueryRow(t.Context(), sql).Scan(&got); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestEveryTestGetsADatabaseOfItsOwn(t *testing.T) {
	a, b := testenv.Database(t), testenv.Database(t)
	if a == b {
		t.Fatalf("two databases, one DSN: %s", a)
	}
	for _, dsn := range []string{a, b} {
		if got := query(t, dsn, "SELECT count(*)::text FROM pg_tables WHERE schemaname = 'public'"); got != "0" {
			t.Errorf("fresh database has %s tables", got)
		}
	}
}

func TestDurabilityIsAsShipped(t *testing.T) {
	dsn := testenv.Database(t)
	for _, setting := range []string{"fsync", "synchronous_commit", "full_page_writes"} {
		if got := query(t, dsn, "SHOW "+setting); got != "on" {
			t.Errorf("%s = %s, want on", setting, got)
		}
	}
}

func TestServerDoesNotRunAsRoot(t *testing.T) {
	pg := testenv.StartPostgres(t)
	pid, err := pg.PID()
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat("/proc/" + strconv.Itoa(pid))
	if err != nil {
		t.Fatal(err)
	}
	if uid := info.Sys().(*syscall.Stat_t).Uid; uid == 0 {
		t.Error("postmaster runs as root")
	}
}

func TestKilledServerComesBackWithWhatItCommitted(t *testing.T) {
	pg := testenv.StartPostgres(t, "work_mem=5MB")
	dsn := pg.Database(t)
	query(t, dsn, "SELECT set_config('a.b', 'c', false)")
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "CREATE TABLE kept AS SELECT 'still here' AS what"); err != nil {
		t.Fatal(err)
	}
	pg.Kill(t)
	if err := conn.Ping(t.Context()); err == nil {
		t.Error("connection survived the kill")
	}
	pg.Start(t)
	if got := query(t, dsn, "SELECT what FROM kept"); got != "still here" {
		t.Errorf("got %q", got)
	}
	if got := query(t, dsn, "SHOW work_mem"); got != "5MB" {
		t.Errorf("work_mem = %s, want the setting asked for", got)
	}
}

func TestRegistryAnswersAndIsEmpty(t *testing.T) {
	resp, err := http.Get("http://" + testenv.Registry(t) + "/v2/_catalog")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("GET /v2/_catalog: %s", resp.Status)
	}
}
