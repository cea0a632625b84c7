package sqlite_test

import (
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/ledger/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStore(t *testing.T) { ledgertest.Run(t, fresh) }

// fresh names a file in a folder of the test's.
func fresh(t testing.TB) ledgertest.Opener {
	path := filepath.Join(t.TempDir(), "ledger.db")
	return func(t testing.TB) ledgertest.Store { return open(t, path) }
}

func open(t testing.TB, path string) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
