package postgres_test

import (
	"testing"

	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/ledger/postgres"
)

func TestEveryPromiseOfAStore(t *testing.T) {
	ledgertest.Run(t, func(t testing.TB) ledgertest.Opener {
		dsn := migrated(t)
		return func(t testing.TB) ledgertest.Store {
			t.Helper()
			s, err := postgres.Open(t.Context(), dsn, postgres.Options{})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
	})
}
