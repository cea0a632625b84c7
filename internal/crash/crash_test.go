package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/scittd/scittd/internal/failpoint"
	"github.com/scittd/scittd/internal/testenv"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/postgres"
	"github.com/scittd/scittd/ledger/sqlite"
)

// campaign does n kills on a series of logs. fight is given a chance of its own
// and how many kills to do on one log.
func campaign(t *testing.T, stream uint64, n int, fight func(t *testing.T, chance *rand.Rand, kills int) figures) figures {
	total, begin := newFigures(), time.Now()
	for log := 0; total.Kills < n && !t.Failed(); log++ {
		t.Run(fmt.Sprint("log ", log), func(t *testing.T) {
			total.add(fight(t, rand.New(rand.NewPCG(*seed, stream<<32|uint64(log))), min(*perLog, n-total.Kills)))
		})
	}
	t.Logf("%s; in %s", total, time.Since(begin).Round(time.Second))
	if total.Lost+total.Duplicated+total.Forked > 0 {
		t.Error("promises were broken")
	}
	if total.Kills < n {
		t.Errorf("%d kills, want %d", total.Kills, n)
	}
	return total
}

// serviceCampaign ends replicas in turn: at every failpoint of a registration,
// and between each two at a moment of no name.
func serviceCampaign(t *testing.T, stream uint64, n int, newWorld func(*testing.T, *rand.Rand) *world) {
	total := campaign(t, stream, n, func(t *testing.T, chance *rand.Rand, kills int) figures {
		w := newWorld(t, chance)
		points := slices.Clone(failpoint.Registration)
		if len(w.replicas) > 1 {
			points = append(points, failpoint.InTurn)
		}
		for k := range kills {
			i := k / 2 % len(points)
			if i == 0 && k%2 == 0 {
				chance.Shuffle(len(points), func(i, j int) { points[i], points[j] = points[j], points[i] })
			}
			r, p, fail := w.replicas[k/2%len(w.replicas)], points[i], ""
			switch {
			case k%2 == 1:
			case k/2 < len(points): // each once at least
				fail = string(p)
			case chance.IntN(4) == 0: // stand there when the kill comes
				fail = fmt.Sprintf("%s:%d=%dms", p, 1+chance.IntN(3), 1+chance.IntN(10))
			default:
				fail = fmt.Sprintf("%s:%d", p, 1+chance.IntN(3))
			}
			w.killService(r, fail)
		}
		return w.finish()
	})
	if total.Unanswered < n {
		t.Errorf("%d kills left %d registrations unanswered: too little was tested", n, total.Unanswered)
	}
	for _, p := range failpoint.Registration {
		if total.AtPoint[p] == 0 && n >= 2*len(failpoint.Registration) {
			t.Errorf("no process died at %q", p)
		}
	}
}

func onSQLite(s *site) func(context.Context) (ledger.Store, error) {
	return func(ctx context.Context) (ledger.Store, error) {
		return sqlite.Open(ctx, filepath.Join(s.replicas[0].dir, "ledger.db"))
	}
}

func onPostgres(dsn string) func(*site) func(context.Context) (ledger.Store, error) {
	return func(*site) func(context.Context) (ledger.Store, error) {
		return func(ctx context.Context) (ledger.Store, error) { return postgres.Open(ctx, dsn, postgres.Options{}) }
	}
}

func TestKilledServiceOnSQLiteKeepsEveryPromise(t *testing.T) {
	t.Parallel()
	serviceCampaign(t, 1, *serviceKills-*serviceKills/2, func(t *testing.T, chance *rand.Rand) *world {
		return newWorld(t, chance, onSQLite, 1, "--registry-off")
	})
}

// One of two replicas is killed at a time; the other goes on.
func TestKilledReplicasOnPostgreSQLKeepEveryPromise(t *testing.T) {
	t.Parallel()
	serviceCampaign(t, 2, *serviceKills/2, func(t *testing.T, chance *rand.Rand) *world {
		dsn := testenv.Database(t)
		return newWorld(t, chance, onPostgres(dsn), 2, "--registry-off", "--database-url", dsn)
	})
}

// The postmaster dies, or one of its backends, whereupon the server ends all
// others and recovers; two replicas go on.
func TestKilledPostgreSQLKeepsEveryPromise(t *testing.T) {
	t.Parallel()
	campaign(t, 3, *postgresKills, func(t *testing.T, chance *rand.Rand, kills int) figures {
		pg := testenv.StartPostgres(t)
		dsn := pg.Database(t)
		w := newWorld(t, chance, onPostgres(dsn), 2, "--registry-off", "--database-url", dsn)
		for i := range kills {
			w.during(w.round(), 1+chance.IntN(perRound*3/4), func() {
				if i%4 == 3 {
					killBackend(t, dsn)
				} else {
					pg.Kill(t)
					pg.Start(t)
				}
			})
			w.journal.figures.Kills++
			awaitPostgres(t, dsn)
			w.lookBack(w.recent())
		}
		return w.finish()
	})
}

// killBackend ends one of the processes that serve scittd.
func killBackend(t *testing.T, dsn string) {
	t.Helper()
	var pid int
	query(t, dsn, `SELECT pid FROM pg_stat_activity
		WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1`, &pid)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
}

// awaitPostgres waits until the server has recovered.
func awaitPostgres(t *testing.T, dsn string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		c, err := pgx.Connect(t.Context(), dsn)
		if err == nil {
			err = c.Ping(t.Context())
			c.Close(t.Context())
		}
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("PostgreSQL does not come back after a kill: %v", err)
		}
	}
}

// query asks for one row.
func query(t *testing.T, dsn, sql string, into ...any) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	if err := c.QueryRow(t.Context(), sql).Scan(into...); err != nil {
		t.Fatal(err)
	}
}
