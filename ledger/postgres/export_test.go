package postgres

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/scittd/scittd/ledger"
)

// Plan is how PostgreSQL finds a page of q.
func Plan(t *testing.T, s *Store, q ledger.Query) string {
	t.Helper()
	page, args := pageOf(q)
	return explain(t, s, `EXPLAIN (COSTS OFF) `+page, args...)
}

// PlansOfSeries are how PostgreSQL finds the page of a sub in its issuer's series,
// and behind that.
func PlansOfSeries(t *testing.T, s *Store, q ledger.Query) (series, tail string) {
	t.Helper()
	page, args := pageOfSeries(q)
	series = explain(t, s, `EXPLAIN (COSTS OFF) `+page, args...)
	page, args = pageOfTail(q, 2)
	return series, explain(t, s, `EXPLAIN (COSTS OFF) `+page, args...)
}

// WaitedInVain does what s does after a wait for the newest head that was too long.
func WaitedInVain(ctx context.Context, s *Store) {
	_ = s.waitedInVain(ctx, &pgconn.PgError{Code: lockNotAvailable})
}

// ChunksRead is how many chunks of TOAST are fetched for the statement at index,
// and how many for all of the piece that it lies in.
func ChunksRead(t *testing.T, s *Store, index uint64) (one, piece int) {
	t.Helper()
	for _, read := range []struct {
		chunks *int
		sql    string
	}{
		{&one, `SELECT octet_length(` + canonical + `) FROM entries e ` + statementOf + ` WHERE e.index = $1`},
		{&piece, `SELECT octet_length(data || rest) FROM pieces WHERE first <= $1 ORDER BY first DESC LIMIT 1`},
	} {
		err := s.reads.run(t.Context(), func(c *pgx.Conn) error {
			return pgx.BeginFunc(t.Context(), c, func(tx pgx.Tx) error {
				if err := tx.QueryRow(t.Context(), read.sql, int64(index)).Scan(nil); err != nil {
					return err
				}
				return tx.QueryRow(t.Context(), `SELECT idx_tup_fetch FROM pg_stat_xact_all_tables
					WHERE relid = (SELECT reltoastrelid FROM pg_class WHERE oid = 'pieces'::regclass)`).Scan(read.chunks)
			})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return one, piece
}

func explain(t *testing.T, s *Store, sql string, args ...any) string {
	t.Helper()
	lines, err := collect(t.Context(), s.reads, pgx.RowTo[string], sql, args...)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return strings.Join(lines, "\n")
}
