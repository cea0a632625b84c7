package sqlite_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/ledger/sqlite"
	"github.com/scittd/scittd/statement"
)

// A page costs the same however large the log is: one index, in its order.
func TestQueriesOfOneValueWalkTheirIndexWithoutSorting(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "ledger.db"))
	defer s.Close()
	operator, wabbit := ledgertest.NewOperator(t), ledgertest.NewPublisher(t, "https://wabbit.example")
	operator.Init(t, s, wabbit)
	l, err := ledger.Open(t.Context(), s, ledger.Options{Issuer: operator.Issuer(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close(t.Context())
	ledgertest.Append(t, l, wabbit.Provenance(t, "https://slsa.dev/provenance/v1", ledgertest.Image(1)))

	day := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	issuer, mediaType := []string{wabbit.Name}, []string{ledgertest.InToto}
	for _, c := range []struct {
		q    ledger.Query
		want string
	}{
		{ledger.Query{}, "e USING INTEGER PRIMARY KEY"},
		{ledger.Query{Artifacts: []statement.Digest{ledgertest.Image(1)}}, "es USING PRIMARY KEY (digest=? AND index<?)"},
		{ledger.Query{Issuers: issuer}, "entries_issuer (issuer_id=? AND index<?)"},
		{ledger.Query{IssuerPrefixes: []statement.IssuerPrefix{"https://wabbit.example/"}}, "entries_issuer (issuer_id=? AND index<?)"},
		{ledger.Query{MediaTypes: mediaType}, "entries_media_type (media_type_id=? AND index<?)"},
		{ledger.Query{Issuers: issuer, MediaTypes: mediaType}, "entries_issuer_media_type (issuer_id=? AND media_type_id=? AND index<?)"},
		{ledger.Query{PredicateTypes: []string{"https://slsa.dev/provenance/v1"}}, "entries_predicate_type (predicate_type_id=? AND index<?)"},
		{ledger.Query{Issuers: issuer, PredicateTypes: []string{"https://slsa.dev/provenance/v1"}}, "entries_issuer_predicate_type (issuer_id=? AND predicate_type_id=? AND index<?)"},
		{ledger.Query{Since: day, Until: day.Add(time.Hour)}, "e USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"},
		{ledger.Query{Issuers: issuer, Since: day}, "entries_issuer (issuer_id=? AND index>? AND index<?)"},
		{ledger.Query{Artifacts: []statement.Digest{ledgertest.Image(1)}, Since: day}, "es USING PRIMARY KEY (digest=? AND index>? AND index<?)"},
		{ledger.Query{Artifacts: []statement.Digest{ledgertest.Image(1)}, Issuers: issuer, MediaTypes: mediaType}, "es USING PRIMARY KEY (digest=? AND index<?)"},
		{ledger.Query{Repository: "wabbit/app"}, "deliveries_repository (repository=? AND index<?)"},
		{ledger.Query{Repository: "wabbit/app", Issuers: issuer, Since: day}, "deliveries_repository (repository=? AND index>? AND index<?)"},
		{ledger.Query{Repository: "wabbit/app", Artifacts: []statement.Digest{ledgertest.Image(1)}}, "es USING PRIMARY KEY (digest=? AND index<?)"},
		{ledger.Query{Evidence: []statement.Digest{ledgertest.Image(1)}}, "entries_evidence (evidence=? AND index<?)"},
	} {
		c.q.Limit, c.q.Before = 50, 1000
		plan := sqlite.Plan(t, s, c.q)
		if !strings.Contains(plan, c.want) || strings.Contains(plan, "TEMP B-TREE") {
			t.Errorf("%+v: %s; want %s", c.q, plan, c.want)
		}
	}
}
