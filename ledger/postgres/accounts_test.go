package postgres_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
)

func TestAnAuditRowSpeaksForAllEntriesOfWhichTheSameIsTrue(t *testing.T) {
	dsn := migrated(t)
	db, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(context.Background())
	own := func() (indexes string) {
		t.Helper()
		if err := db.QueryRow(t.Context(), `SELECT array_agg(index ORDER BY index)::text FROM audit`).Scan(&indexes); err != nil {
			t.Fatal(err)
		}
		return indexes
	}

	s := open(t, dsn)
	genesis(t, s)
	first := batch(2, "a1", "a2", "b1", "a3", "a4", "a5")
	first.Entries[3].Image = ledgertest.Image(1)
	first.Entries[4].Image = ledgertest.Image(1)
	first.Entries[5].Caller = "ci"
	commit(t, s, first)
	lost := batch(2, "c1") // nothing is learned from what is not there
	if err := s.Commit(t.Context(), lost); err == nil {
		t.Fatal("two batches over one size")
	}
	second := batch(8, "a6", "b2", "c1", "c2")
	second.Entries[1].Repository = "team/x"
	commit(t, s, second)
	if got := own(); got != "{0,1,2,4,5,6,7,9,10}" {
		t.Errorf("audit rows of %s", got)
	}
	restarted := open(t, dsn)
	third := batch(12, "a7", "a8")
	commit(t, restarted, third)
	if got := own(); got != "{0,1,2,4,5,6,7,9,10,12}" {
		t.Errorf("after another start: audit rows of %s", got)
	}

	for _, b := range []*ledger.Batch{first, second, third} {
		for _, e := range b.Entries {
			r, err := s.Record(t.Context(), e.ID, ledger.All)
			if err != nil {
				t.Fatal(err)
			}
			got := fmt.Sprint(r.Policy, r.Rule, r.Identity, r.Registry, r.Repository, r.Image)
			if want := fmt.Sprint(e.Policy, e.Rule, e.Identity, e.Registry, e.Repository, e.Image); got != want {
				t.Errorf("entry %d: %s, want %s", e.Index, got, want)
			}
		}
	}
}
