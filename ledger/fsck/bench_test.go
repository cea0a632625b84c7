package fsck_test

import (
	"context"
	"flag"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/scittd/scittd/internal/testenv"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/fsck"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/ledger/postgres"
	"github.com/scittd/scittd/ledger/sqlite"
)

// benchSize is the log that BenchmarkCheck goes through. One run of it tells
// entries a second: go test ./ledger/fsck -run - -bench . -benchtime 1x
var benchSize = flag.Int("fsck.entries", 100_000, "entries of the log that is checked")

func BenchmarkCheck(b *testing.B) {
	for name, open := range map[string]func(testing.TB) ledgertest.Store{"sqlite": openSQLite, "postgres": openPostgres} {
		b.Run(name, func(b *testing.B) {
			s := open(b)
			defer s.Close()
			fill(b, s, *benchSize)
			b.ResetTimer()
			for range b.N {
				tally, err := fsck.Check(b.Context(), s.(fsck.Store), func(f fsck.Finding) { b.Error(f) })
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(tally.Size)*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
			}
		})
	}
}

// fill makes a log of n claims.
func fill(t testing.TB, s ledgertest.Store, n int) {
	t.Helper()
	operator, wabbit := ledgertest.NewOperator(t), ledgertest.NewPublisher(t, "https://wabbit.example")
	operator.Init(t, s, wabbit)
	l, err := ledger.Open(t.Context(), s, ledger.Options{Issuer: operator.Issuer(t), Registry: "registry.example"})
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	for w := range 256 {
		work.Go(func() {
			for i := w; i < n; i += 256 {
				c := wabbit.Claim(t, ledgertest.Image(i), ledgertest.SBOM, fmt.Appendf(nil, "sbom %d", i))
				ledgertest.Append(t, l, c)
			}
		})
	}
	work.Wait()
	if err := l.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	runtime.GC()
}

func openSQLite(t testing.TB) ledgertest.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func openPostgres(t testing.TB) ledgertest.Store {
	t.Helper()
	dsn := testenv.Database(t)
	if err := postgres.Migrate(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	s, err := postgres.Open(t.Context(), dsn, postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestMain(m *testing.M) { testenv.Main(m) }
