package sqlite

import (
	"fmt"
	"strings"
	"testing"

	"github.com/scittd/scittd/ledger"
)

// LimitPages makes the file full at n pages, or at its size if that is more.
func LimitPages(t *testing.T, s *Store, n int) {
	t.Helper()
	if _, err := s.write.Exec(fmt.Sprintf(`PRAGMA max_page_count = %d`, n)); err != nil {
		t.Fatal(err)
	}
}

// Plan is how SQLite finds a page of q.
func Plan(t *testing.T, s *Store, q ledger.Query) string {
	t.Helper()
	f, err := s.filter(t.Context(), q)
	if err != nil || f == nil {
		t.Fatalf("no filter: %v", err)
	}
	rows, err := s.read.Query(`EXPLAIN QUERY PLAN `+f.page(), append(f.args, q.Limit)...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var plan []string
	for rows.Next() {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			t.Fatal(err)
		}
		plan = append(plan, detail)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return strings.Join(plan, "; ")
}
