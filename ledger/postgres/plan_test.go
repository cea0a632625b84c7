package postgres_test

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

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

// A page that is not full ends where its bounds do, whatever else there is of the
// issuer: the rest of the index is not walked to its end.
func TestAShortPageReadsNothingBehindIt(t *testing.T) {
	dsn := migrated(t)
	s := open(t, dsn)
	genesis(t, s)
	add := func(prev uint64, name, kind string) {
		b := batch(prev, name)
		b.Entries[0].MediaType, b.Entries[0].PredicateType = kind, kind
		commit(t, s, b)
	}
	add(2, "a", "frequent")
	add(3, "ab", "rare")
	const size = 30_000
	exec(t, dsn, `INSERT INTO entries (index, registered_at, issuer_id, media_type_id, predicate_type_id, private, entry_id, audited)
			SELECT n, registered_at, issuer_id, media_type_id, predicate_type_id, private, sha256(n::text::bytea), index
			FROM entries, generate_series(4, 29999) AS n WHERE index = 2;
		INSERT INTO heads (size, prev_size, prev_iat, iat, policy_index, root, protected, signature)
			SELECT 30000, size, iat, iat, policy_index, root, protected, signature FROM heads WHERE size = 4;
		ANALYZE`)
	add(size, "ac", "rare")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	issuer, frequent, rare := []string{"https://issuer.example/a"}, []string{"frequent"}, []string{"rare"}
	since := start.Add(size * time.Second)
	for _, q := range []struct {
		ledger.Query
		want int
	}{
		{ledger.Query{Issuers: issuer, MediaTypes: rare}, 2},
		{ledger.Query{Issuers: issuer, MediaTypes: rare, Before: size}, 1},
		{ledger.Query{Issuers: issuer, PredicateTypes: rare}, 2},
		{ledger.Query{Issuers: issuer, PredicateTypes: rare, Before: size}, 1},
		{ledger.Query{Issuers: issuer, Since: since}, 1},
		{ledger.Query{Issuers: append(issuer, "b"), Since: since}, 1},
		{ledger.Query{MediaTypes: frequent, Since: since}, 0},
		{ledger.Query{PredicateTypes: frequent, Since: since}, 0},
	} {
		q.Limit = 50
		read := blocksRead(t, dsn, []string{"entries"}, func(s *postgres.Store) {
			if found, err := s.Find(t.Context(), q.Query); err != nil || len(found) != q.want {
				t.Fatalf("%+v: found %d entries, %v; want %d", q.Query, len(found), err, q.want)
			}
		})
		if read > 25 {
			t.Errorf("%+v reads %d blocks of indexes for %d entries", q.Query, read, q.want)
		}
	}
}

// Nor is what was placed beside other images.
func TestWhatWasPlacedIsLookedUpByEntry(t *testing.T) {
	dsn := migrated(t)
	s := open(t, dsn)
	genesis(t, s)
	b := batch(2, "a")
	image := statement.SHA256([]byte("image"))
	b.Entries[0].Artifacts = []statement.Digest{image}
	at := ledger.Place{Registry: "registry.example", Repository: "app", Subject: image}
	b.Entries[0].Deliveries = []ledger.Delivery{{
		Registry: at.Registry, Repository: at.Repository, Subject: at.Subject,
		Artifact: ledger.TransparencyArtifact, State: ledger.Done, Manifest: image, NextAt: start,
	}}
	commit(t, s, b)
	exec(t, dsn, `INSERT INTO entries (index, registered_at, issuer_id, media_type_id, private, entry_id, audited)
			SELECT n, registered_at, issuer_id, media_type_id, private, sha256(n::text::bytea), index
			FROM entries, generate_series(3, 30000) AS n WHERE index = 2;
		INSERT INTO deliveries (index, registry, repository, subject, artifact, state, tries, next_at, last_error, manifest)
			SELECT n, registry, repository, sha256(n::text::bytea), artifact, state, tries, next_at, last_error, manifest
			FROM deliveries, generate_series(3, 30000) AS n;
		ANALYZE`)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for name, read := range map[string]func(*postgres.Store) ([]ledger.Delivery, error){
		"beside one image": func(s *postgres.Store) ([]ledger.Delivery, error) {
			found, _, err := s.PlacedAt(t.Context(), at, 0, 50)
			return found, err
		},
		"at a registry": func(s *postgres.Store) ([]ledger.Delivery, error) {
			found, _, err := s.Placed(t.Context(), at.Registry, ledger.PlacedMark{}, 50)
			return found, err
		},
	} {
		blocks := blocksRead(t, dsn, []string{"deliveries", "entries"}, func(s *postgres.Store) {
			if found, err := read(s); err != nil || len(found) != 1 {
				t.Fatalf("%s: found %v, %v; want one", name, found, err)
			}
		})
		if blocks > 10 {
			t.Errorf("%s: one delivery takes %d blocks of indexes", name, blocks)
		}
	}
}

// blocksRead is how many blocks of the tables' indexes do reads.
func blocksRead(t *testing.T, dsn string, tables []string, do func(*postgres.Store)) int {
	t.Helper()
	c, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	soFar := func() (n int) {
		t.Helper()
		for others := 1; others > 0; { // a session has told of its reads when it has gone
			if err := c.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
				AND backend_type = 'client backend' AND pid <> pg_backend_pid()`).Scan(&others); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.QueryRow(t.Context(), `SELECT sum(idx_blks_read + idx_blks_hit) FROM pg_statio_user_indexes WHERE relname = ANY($1)`, tables).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := soFar()
	s := open(t, dsn)
	const times = 10 // a statement has a plan for any values from the sixth on, if not before
	for range times {
		do(s)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return (soFar() - before) / times
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
