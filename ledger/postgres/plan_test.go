package postgres_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/ledger/postgres"
	"github.com/scittd/scittd/statement"
)

// A page costs the same however large the log is: an index is walked in the
// page's order. A walk of several values ends in a sort of a page for each.
func TestQueriesWalkAnIndexInTheOrderOfThePage(t *testing.T) {
	s := open(t, migrated(t))
	genesis(t, s)
	commit(t, s, batch(2, "a", "b", "c"))
	issuer, mediaType, predicateType := []string{"https://issuer.example/a"}, []string{"application/a"}, []string{"https://slsa.dev/provenance/v1"}
	image, other := ledgertest.Image(1), ledgertest.Image(2)
	since := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		q    ledger.Query
		want string // the index that is walked
	}{
		{ledger.Query{}, "entries_pkey"},
		{ledger.Query{Since: since, Until: since.Add(time.Hour)}, "entries_pkey"},
		{ledger.Query{Artifacts: []statement.Digest{image}}, "entry_subjects_digest"},
		{ledger.Query{Artifacts: []statement.Digest{image}, Issuers: issuer}, "entry_subjects_digest"},
		{ledger.Query{Artifacts: []statement.Digest{image}, MediaTypes: mediaType, PredicateTypes: predicateType}, "entry_subjects_digest"},
		{ledger.Query{Artifacts: []statement.Digest{image}, Since: since, Until: since.Add(time.Hour)}, "entry_subjects_digest"},
		{ledger.Query{Artifacts: []statement.Digest{image, other}}, "entry_subjects_digest"},
		{ledger.Query{Artifacts: []statement.Digest{image, other}, Issuers: append(issuer, "b")}, "entry_subjects_digest"},
		{ledger.Query{Repository: "wabbit/app"}, "deliveries_repository"},
		{ledger.Query{Repository: "wabbit/app", Issuers: issuer, MediaTypes: mediaType, Since: since}, "deliveries_repository"},
		{ledger.Query{Repository: "wabbit/app", Artifacts: []statement.Digest{image}}, "entry_subjects_digest"},
		{ledger.Query{Evidence: []statement.Digest{image}}, "entries_evidence"},
		{ledger.Query{Evidence: []statement.Digest{image, other}}, "entries_evidence"},
		{ledger.Query{Issuers: issuer}, "entries_issuer"},
		{ledger.Query{Issuers: issuer, Since: since}, "entries_issuer"},
		{ledger.Query{Issuers: append(issuer, "b")}, "entries_issuer"},
		{ledger.Query{IssuerPrefixes: []statement.IssuerPrefix{"https://issuer.example/"}}, "entries_issuer"},
		{ledger.Query{MediaTypes: mediaType}, "entries_media_type"},
		{ledger.Query{MediaTypes: append(mediaType, "b")}, "entries_media_type"},
		{ledger.Query{PredicateTypes: predicateType}, "entries_predicate_type"},
		{ledger.Query{PredicateTypes: append(predicateType, "b")}, "entries_predicate_type"},
		{ledger.Query{Issuers: issuer, MediaTypes: mediaType}, "entries_issuer_media_type"},
		{ledger.Query{Issuers: append(issuer, "b"), MediaTypes: mediaType}, "entries_issuer_media_type"},
		{ledger.Query{Issuers: issuer, PredicateTypes: predicateType}, "entries_issuer_predicate_type"},
		{ledger.Query{Issuers: issuer, PredicateTypes: predicateType, MediaTypes: mediaType, Until: since}, "entries_issuer"},
	} {
		for _, before := range []uint64{0, 1000} {
			c.q.Limit, c.q.Before = 50, before
			plan := postgres.Plan(t, s, c.q)
			if strings.Contains(plan, "Seq Scan on ent") || strings.Contains(plan, "Bitmap") || !strings.Contains(plan, "using "+c.want) {
				t.Errorf("%+v:\n%s\nwant a walk of %s", c.q, plan, c.want)
			}
			// What is under a LIMIT of its own comes in order.
			if inner := plan[strings.LastIndex(plan, "Limit"):]; strings.Contains(inner, "Sort") {
				t.Errorf("%+v sorts before it limits:\n%s", c.q, plan)
			}
		}
	}
}

func TestASubIsFoundInTheSeriesOfItsIssuerAlone(t *testing.T) {
	s := open(t, migrated(t))
	genesis(t, s)
	commit(t, s, batch(2, "a", "b", "c"))
	q := ledger.Query{Issuers: []string{"https://issuer.example/a"}, Subject: "a", Limit: 5}
	for _, types := range [][]string{nil, {"application/a"}, {"application/a", "application/b"}} {
		q.MediaTypes, q.PredicateTypes = types, types
		series, tail := postgres.PlansOfSeries(t, s, q)
		if !strings.Contains(series, "using series_pkey") || !strings.Contains(series, "(sub = ") {
			t.Errorf("%+v:\n%s\nwant a walk of series_pkey at one sub", q, series)
		}
		if !strings.Contains(tail, "(issuer_id = ") {
			t.Errorf("%+v:\n%s\nwant a walk of what the issuer has", q, tail)
		}
		for _, plan := range []string{series, tail} {
			if strings.Contains(plan, "Seq Scan on") || strings.Contains(plan, "Sort") {
				t.Errorf("%+v:\n%s", q, plan)
			}
		}
	}
}

func TestOneStatementIsReadWithoutTheOthersOfItsPiece(t *testing.T) {
	s := open(t, migrated(t))
	genesis(t, s)
	names := make([]string, 31)
	for i := range names {
		names[i] = "a" + strconv.Itoa(i)
	}
	b := batch(2, names...)
	for i := range b.Entries {
		b.Entries[i].Canonical = make([]byte, 2000)
	}
	commit(t, s, b)
	one, piece := postgres.ChunksRead(t, s, 17)
	if one < 1 || one > 2 || piece < 30 {
		t.Errorf("one statement of 2,000 bytes takes %d chunks, its piece of 31 takes %d", one, piece)
	}
}
