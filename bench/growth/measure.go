package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/scittd/scittd/internal/testenv"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/postgres"
	"github.com/scittd/scittd/statement"
)

// figures of a log of one size.
type figures struct {
	size   uint64
	commit time.Duration // PostgreSQL's CPU for one entry, since the size before
	tables []relation
	times  []timing
}

type relation struct {
	name  string
	index bool
	total int64 // pg_total_relation_size
	toast int64 // of it, with its index
}

type timing struct {
	name     string
	p50, p99 time.Duration
}

// measure fills the log to size and looks at it.
func measure(ctx context.Context, o options, pg *testenv.Postgres, dsn string, f *filler, size uint64) (figures, error) {
	got := figures{size: size}
	pid, err := pg.PID()
	if err != nil {
		return got, err
	}
	before, from := familyCPU(pid), f.tree.End()
	if err := f.to(ctx, size, o.batch); err != nil {
		return got, err
	}
	got.commit = (familyCPU(pid) - before) / time.Duration(size-from)

	c, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return got, err
	}
	defer c.Close(ctx)
	if _, err := c.Exec(ctx, `VACUUM ANALYZE`); err != nil {
		return got, err
	}
	if got.tables, err = relations(ctx, c); err != nil || o.probes == 0 {
		return got, err
	}
	got.times, err = probe(ctx, o, dsn, f)
	return got, err
}

// relations are the tables, each followed by its indexes.
func relations(ctx context.Context, c *pgx.Conn) ([]relation, error) {
	rows, err := c.Query(ctx, `
		SELECT t.relname, false, pg_total_relation_size(t.oid),
		       coalesce(pg_total_relation_size(nullif(t.reltoastrelid, 0)), 0), t.relname AS of, ''
		FROM pg_class t WHERE t.relkind = 'r' AND t.relnamespace = 'public'::regnamespace
		UNION ALL
		SELECT i.relname, true, pg_relation_size(i.oid), 0, t.relname, i.relname
		FROM pg_class t JOIN pg_index x ON x.indrelid = t.oid JOIN pg_class i ON i.oid = x.indexrelid
		WHERE t.relkind = 'r' AND t.relnamespace = 'public'::regnamespace
		ORDER BY of, 6`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (r relation, err error) {
		err = row.Scan(&r.name, &r.index, &r.total, &r.toast, nil, nil)
		return r, err
	})
}

// probe times what readers ask, and the start of a process.
func probe(ctx context.Context, o options, dsn string, f *filler) ([]timing, error) {
	s, err := postgres.Open(ctx, dsn, postgres.Options{})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	size := f.tree.End()
	random := rand.New(rand.NewPCG(1, size))
	l, err := ledger.Open(ctx, s, ledger.Options{})
	if err != nil {
		return nil, err
	}
	defer l.Close(ctx)

	one := func() uint64 { return 2 + random.Uint64N(size-2) }
	idOf := func(n uint64) statement.ID {
		ids, err := s.Leaves(ctx, n, n+1)
		if err != nil || len(ids) != 1 {
			panic(fmt.Sprint("leaf ", n, ": ", err))
		}
		return ids[0]
	}
	// Pages have as many rows in the smallest log as in the largest, else their
	// times would tell of rows: there an issuer has ten entries.
	page := func(rows int, q ledger.Query) func() error {
		return func() error {
			q.Limit = rows
			found, err := s.Find(ctx, q)
			if err == nil && len(found) != rows {
				err = fmt.Errorf("a page of %d entries has %d", rows, len(found))
			}
			return err
		}
	}
	late := func() uint64 { return size/2 + 1000 + random.Uint64N(size/2-1000) } // with half of all entries before it
	var all []timing
	for _, p := range []struct {
		name string
		make func() func() error // what is asked is not timed
	}{
		{"newest, 50", func() func() error { return page(50, ledger.Query{}) }},
		{"artifact, 8", func() func() error { return page(8, ledger.Query{Artifacts: []statement.Digest{image(one())}}) }},
		{"issuer, 8", func() func() error { return page(8, ledger.Query{Issuers: []string{issuerName(one())}}) }},
		{"issuer, a later page, 4", func() func() error {
			return page(4, ledger.Query{Issuers: []string{issuerName(one())}, Before: late()})
		}},
		{"media type, 50", func() func() error { return page(50, ledger.Query{MediaTypes: []string{mediaTypeName(one())}}) }},
		{"issuer, media type, 8", func() func() error {
			n := one()
			return page(8, ledger.Query{Issuers: []string{issuerName(n)}, MediaTypes: []string{mediaTypeName(n)}})
		}},
		{"predicate type, a later page, 40", func() func() error {
			return page(40, ledger.Query{PredicateTypes: []string{provenance}, Before: late()})
		}},
		{"issuer, predicate type, 8", func() func() error {
			return page(8, ledger.Query{Issuers: []string{issuerName(one() / 100 * 100)}, PredicateTypes: []string{provenance}})
		}},
		{"artifact, issuer, 1", func() func() error {
			n := one()
			return page(1, ledger.Query{Artifacts: []statement.Digest{image(n)}, Issuers: []string{issuerName(n)}})
		}},
		{"evidence, 1", func() func() error {
			id := idOf(one())
			return page(1, ledger.Query{Evidence: []statement.Digest{statement.SHA256(id[:])}})
		}},
		{"record", func() func() error {
			id := idOf(one())
			return func() error {
				_, err := s.Record(ctx, id, ledger.Public)
				return err
			}
		}},
		{"inclusion proof", func() func() error {
			id := idOf(one())
			return func() error {
				_, err := l.ReceiptAt(ctx, id, size, ledger.Public)
				return err
			}
		}},
		{"start-up", func() func() error {
			return func() error {
				l, err := ledger.Open(ctx, s, ledger.Options{})
				if err != nil {
					return err
				}
				return l.Close(ctx)
			}
		}},
	} {
		took := make([]time.Duration, 0, o.probes)
		for range o.probes + o.probes/10 { // the first tenth warms up
			ask := p.make()
			begin := time.Now()
			if err := ask(); err != nil {
				return nil, fmt.Errorf("%s: %w", p.name, err)
			}
			took = append(took, time.Since(begin))
		}
		took = took[o.probes/10:]
		slices.Sort(took)
		all = append(all, timing{p.name, took[len(took)/2], took[len(took)*99/100]})
	}
	return all, nil
}

// report prints the tables. What P7 bounds leaves out the statements' own
// bytes, deliveries and audit.
func report(w io.Writer, o options, at []figures) {
	fmt.Fprintf(w, "| entries | PostgreSQL CPU us/entry |\n|---|---|\n")
	for _, f := range at {
		fmt.Fprintf(w, "| %d | %.1f |\n", f.size, float64(f.commit.Nanoseconds())/1000)
	}
	fmt.Fprintf(w, "\n| bytes per entry |")
	for _, f := range at {
		fmt.Fprintf(w, " %d |", f.size)
	}
	fmt.Fprintf(w, "\n|---|%s\n", strings.Repeat("---|", len(at)))
	sum, bounded := make([]float64, len(at)), make([]float64, len(at))
	for row, r := range at[0].tables {
		name := r.name
		if r.index {
			name = "· " + name
		}
		line := fmt.Sprintf("| %s |", name)
		worth := false
		for i, f := range at {
			r := f.tables[row]
			per := float64(r.total) / float64(f.size)
			worth = worth || per >= 0.5
			line += fmt.Sprintf(" %.0f |", per)
			if r.index {
				continue
			}
			sum[i] += per
			if r.name != "audit" && r.name != "deliveries" {
				bounded[i] += per
			}
		}
		if worth {
			fmt.Fprintln(w, line)
		}
	}
	fmt.Fprintf(w, "| **all in, beyond the statement** |")
	for _, v := range sum {
		fmt.Fprintf(w, " **%.0f** |", v-float64(o.bytes))
	}
	fmt.Fprintf(w, "\n| **without deliveries and audit (P7: at most 700)** |")
	for _, v := range bounded {
		fmt.Fprintf(w, " **%.0f** |", v-float64(o.bytes))
	}
	fmt.Fprintln(w)
	if o.probes == 0 {
		return
	}
	fmt.Fprintf(w, "\n| p50 / p99 us, pages of so many entries |")
	for _, f := range at {
		fmt.Fprintf(w, " %d |", f.size)
	}
	fmt.Fprintf(w, " largest / smallest, p50 |\n|---|%s---|\n", strings.Repeat("---|", len(at)))
	for row, t := range at[0].times {
		fmt.Fprintf(w, "| %s |", t.name)
		for _, f := range at {
			fmt.Fprintf(w, " %d / %d |", f.times[row].p50.Microseconds(), f.times[row].p99.Microseconds())
		}
		fmt.Fprintf(w, " %.2f |\n", float64(at[len(at)-1].times[row].p50)/float64(cmp.Or(t.p50, 1)))
	}
}

// familyCPU is the CPU time of pid and its children, ended ones included.
func familyCPU(pid int) time.Duration {
	type process struct {
		parent     int
		own, ended time.Duration
	}
	all := map[int]process{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it ended
		}
		_, after, _ := bytes.Cut(b, []byte(") "))
		field := strings.Fields(string(after))
		n := func(i int) int { // numbered as in proc(5), where the state is 3
			v, _ := strconv.Atoi(field[i-3])
			return v
		}
		const tick = 10 * time.Millisecond
		of, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		all[of] = process{n(4), time.Duration(n(14)+n(15)) * tick, time.Duration(n(16)+n(17)) * tick}
	}
	total := all[pid].own + all[pid].ended
	for p := range maps.Values(all) {
		if p.parent == pid {
			total += p.own
		}
	}
	return total
}
