package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// queryTimes is one kind of query over HTTP, and the SQL it leads to by itself.
type queryTimes struct {
	Name           string
	HTTP50, HTTP99 time.Duration
	SQL50, SQL99   time.Duration
	HTTP10, SQL10  time.Duration // undisturbed, on a machine that has other work
}

// page is how many entries a query asks for.
const page = 50

// samples is how many queries of a kind are asked.
const samples = 16

// queries times GET /v1/entries against the same SQL on a bare connection, one
// at a time, by turns. The SQL and its parameters are not written down here but
// read off PostgreSQL's log, and both have to find the same entries.
func (m *measurement) queries(ctx context.Context) error {
	if missing := m.small - m.ours.sent; missing > 0 {
		if _, err := m.bench.load(ctx, m.ours, shape{Clients: 64}, missing, 0, 0); err != nil {
			return err
		}
	}
	c, err := pgx.Connect(ctx, m.bench.DSN)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	// As in scittd's own sessions, for the same plans: see ledger/postgres.
	for _, setting := range []string{
		"plan_cache_mode = force_generic_plan", "enable_hashjoin = off", "enable_mergejoin = off", "enable_seqscan = off",
		"enable_bitmapscan = off", "enable_sort = off", "enable_incremental_sort = off", "jit = off",
	} {
		if _, err := c.Exec(ctx, `SET `+setting); err != nil {
			return err
		}
	}
	if _, err := c.Exec(ctx, `VACUUM ANALYZE`); err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(1, 2))
	one := func() int { return random.IntN(m.small) }
	for _, kind := range []struct {
		name  string
		query func() url.Values
	}{
		{"newest", func() url.Values { return url.Values{} }},
		{"artifact", func() url.Values { return url.Values{"subject": {fmt.Sprintf("sha256:%x", image(one()))}} }},
		{"issuer", func() url.Values { return url.Values{"issuer": {issuerName(one())}} }},
		{"media type", func() url.Values { return url.Values{"mediaType": {mediaTypeName(one())}} }},
		{"issuer, media type", func() url.Values {
			n := one()
			return url.Values{"issuer": {issuerName(n)}, "mediaType": {mediaTypeName(n)}}
		}},
	} {
		t, err := m.timeQueries(ctx, c, kind.name, kind.query)
		if err != nil {
			return fmt.Errorf("query by %s: %w", kind.name, err)
		}
		m.Queries = append(m.Queries, t)
	}

	m.printf("## Queries: GET /v1/entries over the same SQL by bare pgx, pages of %d\n\n", page)
	m.printf("| by | HTTP p10 / p50 / p99 | SQL p10 / p50 / p99 | p50 over p50 | p10 over p10 |\n|---|---|---|---|---|\n")
	worst := 0.0
	for _, q := range m.Queries {
		over := ratio(q.HTTP50, q.SQL50)
		worst = max(worst, over)
		m.printf("| %s | %s / %s / %s | %s / %s / %s | %.2f | %.2f |\n", q.Name, micros(q.HTTP10), micros(q.HTTP50), micros(q.HTTP99),
			micros(q.SQL10), micros(q.SQL50), micros(q.SQL99), over, ratio(q.HTTP10, q.SQL10))
	}
	m.printf("\n")
	m.atMost("R1", worst, 2, 1.3, "GET /v1/entries p50 over the same SQL by bare pgx, worst of %d kinds", len(m.Queries))
	return nil
}

// timeQueries asks as long as a window takes, both ways by turns.
func (m *measurement) timeQueries(ctx context.Context, c *pgx.Conn, name string, query func() url.Values) (queryTimes, error) {
	t := queryTimes{Name: name}
	service := newWires(m.bench.url, "")
	defer service.close()
	asked, executed := make([]string, samples), make([]executed, samples)
	if err := m.bench.set(ctx, [2]string{"log_statement", "all"}); err != nil {
		return t, err
	}
	for i := range asked {
		values := query()
		values.Set("limit", fmt.Sprint(page))
		asked[i] = "/v1/entries?" + values.Encode()
		var err error
		if executed[i], err = m.overheard(ctx, c, service, asked[i]); err != nil {
			return t, err
		}
	}
	if err := m.bench.set(ctx, [2]string{"log_statement", "none"}); err != nil {
		return t, err
	}
	var overHTTP, bare []time.Duration
	for begin, i := time.Now(), 0; time.Since(begin) < m.window || i < 2*samples; i++ {
		start := time.Now()
		answer, err := get(service, asked[i%samples])
		overHTTP = append(overHTTP, time.Since(start))
		if err != nil {
			return t, err
		}
		start = time.Now()
		want, err := executed[i%samples].run(ctx, c)
		bare = append(bare, time.Since(start))
		if err != nil {
			return t, err
		}
		var list struct {
			Items []struct{ LeafIndex int64 }
		}
		if err := json.Unmarshal(answer, &list); err != nil {
			return t, err
		}
		var got []int64
		for _, e := range list.Items {
			got = append(got, e.LeafIndex)
		}
		if want = want[:min(len(want), page)]; !slices.Equal(got, want) {
			return t, fmt.Errorf("%s over HTTP found %v, the SQL %v", asked[i%samples], got, want)
		}
	}
	overHTTP, bare = overHTTP[samples:], bare[samples:] // the first ones warm up
	t.HTTP10, t.HTTP50, t.HTTP99 = quantile(overHTTP, 0.1), quantile(overHTTP, 0.5), quantile(overHTTP, 0.99)
	t.SQL10, t.SQL50, t.SQL99 = quantile(bare, 0.1), quantile(bare, 0.5), quantile(bare, 0.99)
	return t, nil
}

// executed is a statement that scittd has sent.
type executed struct {
	sql  string
	args []any
}

var (
	selectEntries = regexp.MustCompile(`execute \S+: (SELECT e\.index, e\.entry_id,(?s:.*?))\n\S+ \S+ \S+ \[\d+\] DETAIL:  parameters: (.*)\n`)
	parameter     = regexp.MustCompile(`\$\d+ = (NULL|'(?:[^']|'')*')`)
)

// overheard asks over HTTP and returns the statement that PostgreSQL's log then
// has for it.
func (m *measurement) overheard(ctx context.Context, c *pgx.Conn, service *wires, query string) (x executed, err error) {
	file := filepath.Join(m.bench.Postgres.Dir(), "log")
	var found [][]byte
	for deadline := time.Now().Add(10 * time.Second); found == nil; { // a session may not have heard yet that it is logged
		before, err := os.Stat(file)
		if err != nil {
			return x, err
		}
		if _, err := get(service, query); err != nil {
			return x, err
		}
		log, err := os.ReadFile(file)
		if err != nil {
			return x, err
		}
		found = selectEntries.FindSubmatch(log[before.Size():])
		if found == nil && time.Now().After(deadline) {
			return x, fmt.Errorf("PostgreSQL's log has no SELECT of entries: %.2000q", log[before.Size():])
		}
	}
	x.sql = string(found[1])
	prepared, err := c.Prepare(ctx, x.sql, x.sql)
	if err != nil {
		return x, err
	}
	for i, p := range parameter.FindAllSubmatch(found[2], -1) {
		text := string(p[1])
		if text == "NULL" {
			x.args = append(x.args, nil)
			continue
		}
		text = strings.ReplaceAll(text[1:len(text)-1], "''", "'")
		oid := prepared.ParamOIDs[i]
		kind, ok := c.TypeMap().TypeForOID(oid)
		if !ok {
			return x, fmt.Errorf("parameter %d is of type %d", i+1, oid)
		}
		arg, err := kind.Codec.DecodeValue(c.TypeMap(), oid, pgx.TextFormatCode, []byte(text))
		if err != nil {
			return x, fmt.Errorf("parameter %d: %w", i+1, err)
		}
		x.args = append(x.args, arg)
	}
	return x, nil
}

// run decodes every column of every row, and returns the first ones.
func (x executed) run(ctx context.Context, c *pgx.Conn) ([]int64, error) {
	rows, err := c.Query(ctx, x.sql, x.args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (int64, error) {
		values, err := row.Values()
		if err != nil {
			return 0, err
		}
		index, ok := values[0].(int64)
		if !ok {
			return 0, fmt.Errorf("the first column is a %T", values[0])
		}
		return index, nil
	})
}

func get(service *wires, path string) ([]byte, error) {
	status, answer, err := service.exchange(http.MethodGet, path, "")
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%d %q", status, answer)
	}
	if err != nil {
		return nil, fmt.Errorf("GET %s: %w", path, err)
	}
	return answer, nil
}
