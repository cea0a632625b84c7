package api_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/scittd/scittd/api"
	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

const (
	digestA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	digestB = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

func TestFiltersReachTheIndex(t *testing.T) {
	l := &fixedLedger{}
	s := serve(t, api.Config{Ledger: l, Registrar: accepting()})
	day := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		query string
		want  ledger.Query
	}{
		{"", ledger.Query{Limit: 51}},
		{"limit=1", ledger.Query{Limit: 2}},
		{"limit=500", ledger.Query{Limit: 500}},
		{"subject=" + digestA, ledger.Query{Artifacts: []statement.Digest{digestA}, Limit: 51}},
		{"subject=" + digestA[7:], ledger.Query{Artifacts: []statement.Digest{digestA}, Limit: 51}},
		{"subject=" + digestA + "&subject=" + digestB, ledger.Query{Artifacts: []statement.Digest{digestA, digestB}, Limit: 51}},
		{"evidence=" + digestB, ledger.Query{Evidence: []statement.Digest{digestB}, Limit: 51}},
		{"issuer=https://a.example&issuer=https://B.example", ledger.Query{Issuers: []string{"https://a.example", "https://B.example"}, Limit: 51}},
		{"mediaType=Application/SPDX%2Bjson;version=2", ledger.Query{}},
		{"mediaType=Application/SPDX%2Bjson%3Bversion=2", ledger.Query{MediaTypes: []string{"application/spdx+json"}, Limit: 51}},
		{"issuerPrefix=https://a.example&issuerPrefix=https://B.example/", ledger.Query{IssuerPrefixes: []statement.IssuerPrefix{"https://a.example/", "https://B.example/"}, Limit: 51}},
		{"issuerPrefix=did:web:a.example", ledger.Query{IssuerPrefixes: []statement.IssuerPrefix{"did:web:a.example:"}, Limit: 51}},
		{"issuer=https://a.example/team&issuerPrefix=https://a.example", ledger.Query{
			Issuers: []string{"https://a.example/team"}, IssuerPrefixes: []statement.IssuerPrefix{"https://a.example/"}, Limit: 51}},
		{"predicateType=https://slsa.dev/provenance/v1", ledger.Query{PredicateTypes: []string{"https://slsa.dev/provenance/v1"}, Limit: 51}},
		{"mediaType=application/spdx+json", ledger.Query{MediaTypes: []string{"application/spdx+json"}, Limit: 51}},
		{"since=2026-11-01T00:00:00Z&until=2026-11-01T02:00:00%2B01:00", ledger.Query{Since: day, Until: day.Add(time.Hour), Limit: 51}},
	} {
		l.received = nil
		a := s.get("/v1/entries?" + c.query)
		if c.want.Limit == 0 {
			a.refused(t, 400, "bad-filter")
			continue
		}
		if a.status != 200 {
			t.Errorf("%s: %d %s", c.query, a.status, a.body)
			continue
		}
		got := l.received[0]
		if !got.Since.Equal(c.want.Since) || !got.Until.Equal(c.want.Until) {
			t.Errorf("%s: since %v until %v", c.query, got.Since, got.Until)
		}
		got.Since, got.Until, c.want.Since, c.want.Until = time.Time{}, time.Time{}, time.Time{}, time.Time{}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", c.query, got, c.want)
		}
	}
}

func TestFiltersThatMeanNothingAreRefused(t *testing.T) {
	l := &fixedLedger{}
	s := serve(t, api.Config{Ledger: l, Registrar: accepting()})
	cursor := func(b string) string { return base64.RawURLEncoding.EncodeToString([]byte(b)) }
	for _, c := range []struct{ query, code, says string }{
		{"limit=0", "bad-filter", "limit"},
		{"limit=-1", "bad-filter", "limit"},
		{"limit=1000000000", "bad-filter", "limit"},
		{"limit=501", "bad-filter", "500"},
		{"limit=99999999999999999999", "bad-filter", "limit"},
		{"limit=ten", "bad-filter", "limit"},
		{"limit=", "bad-filter", "limit"},
		{"limit=1&limit=2", "bad-filter", "limit"},
		{"colour=red", "bad-filter", "colour"},
		{"Subject=" + digestA, "bad-filter", "Subject"},
		{"issuerprefix=https://a", "bad-filter", "no such parameter; there are subject, evidence, issuer, issuerPrefix"},
		{"issuerPrefix=", "bad-filter", "issuerPrefix"},
		{"issuerPrefix=https://", "bad-filter", "names no issuer"},
		{"issuerPrefix=did:web:", "bad-filter", "names no issuer"},
		{"issuerPrefix=https://a&issuerPrefix=/", "bad-filter", "issuerPrefix"},
		{"issuerPrefix=https://a%00", "bad-filter", "no clean text"},
		{"issuerPrefix=https://a%ff", "bad-filter", "no clean text"},
		{"issuerPrefix=" + strings.Repeat("i", 8193), "bad-filter", "8192"},
		{strings.Repeat("issuerPrefix=a&", 10) + "issuerPrefix=a", "bad-filter", "10 times"},
		{"=x", "bad-filter", "no such parameter"},
		{"subject=sha256:" + strings.Repeat("A", 64), "bad-digest", "subject"},
		{"subject=sha256:aa", "bad-digest", "subject"},
		{"subject=sha1:" + strings.Repeat("a", 40), "bad-digest", "subject"},
		{"subject=" + strings.Repeat("a", 63), "bad-digest", "subject"},
		{"subject=", "bad-digest", "subject"},
		{"evidence=net-monitor:v1", "bad-digest", "evidence"},
		{"subject=" + digestA + "&subject=oops", "bad-digest", "oops"},
		{"issuer=", "bad-filter", "issuer"},
		{"issuer=%00", "bad-filter", "issuer"},
		{"issuer=%ff", "bad-filter", "issuer"},
		{"issuer=" + strings.Repeat("i", 8193), "bad-filter", "8192"},
		{"mediaType=" + strings.Repeat("i", 256), "bad-filter", "255"},
		{"predicateType=" + strings.Repeat("i", 2049), "bad-filter", "2048"},
		{strings.Repeat("issuer=a&", 100) + "issuer=a", "bad-filter", "100"},
		{"since=yesterday", "bad-filter", "since"},
		{"since=2026-11-01", "bad-filter", "RFC 3339"},
		{"until=0001-01-01T00:00:00Z", "bad-filter", "until"},
		{"since=2026-11-01T00:00:00Z&since=2026-11-02T00:00:00Z", "bad-filter", "since"},
		{"since=2026-11-02T00:00:00Z&until=2026-11-01T00:00:00Z", "bad-filter", "until"},
		{"issuer=%zz", "bad-filter", "well formed"},
		{"issuer=a;limit=1", "bad-filter", "well formed"},
		{"cursor=", "bad-cursor", ""},
		{"cursor=garbage", "bad-cursor", ""},
		{"cursor=" + cursor("sixteen bytes it"), "bad-cursor", ""},
		{"cursor=" + cursor(strings.Repeat("x", 1000)), "bad-cursor", ""},
		{"cursor=a&cursor=b", "bad-cursor", ""},
	} {
		a := s.get("/v1/entries?" + c.query)
		p := a.refused(t, 400, c.code)
		if !strings.Contains(p.Detail, c.says) {
			t.Errorf("%.60s: detail %q does not say %q", c.query, p.Detail, c.says)
		}
	}
	if len(l.received) != 0 {
		t.Errorf("the ledger was asked %d times", len(l.received))
	}
}

func TestCursorServesItsOwnQueryAlone(t *testing.T) {
	l := &fixedLedger{}
	for i := range 10 {
		l.entries = append(l.entries, ledger.Entry{Index: uint64(9 - i)})
	}
	s := serve(t, api.Config{Ledger: l, Registrar: accepting()})
	first := s.page("issuer=a&issuer=b&limit=3")
	for query, ok := range map[string]bool{
		"issuer=a&issuer=b&limit=3":                 true,
		"limit=7&issuer=b&issuer=a":                 true,
		"issuer=a&limit=3":                          false,
		"issuer=a&issuer=b&mediaType=a/b&limit=3":   false,
		"issuer=a&mediaType=b&limit=3":              false,
		"issuer=a&issuer=b&issuerPrefix=a&limit=3":  false,
		"issuerPrefix=a&issuerPrefix=b&limit=3":     false,
		"limit=3":                                   false,
		"subject=" + digestA + "&issuer=a&issuer=b": false,
	} {
		a := s.get("/v1/entries?" + query + "&cursor=" + first.Next)
		if !ok {
			a.refused(t, 400, "bad-cursor")
		} else if a.status != 200 {
			t.Errorf("%s: %d %s", query, a.status, a.body)
		}
	}
}

// page fetches one page.
func (s *server) page(query string) apitype.EntryList {
	s.t.Helper()
	a := s.get("/v1/entries?" + query)
	var page apitype.EntryList
	if err := json.Unmarshal(a.body, &page); a.status != 200 || err != nil {
		s.t.Fatalf("/v1/entries?%s: %d %v %s", query, a.status, err, a.body)
	}
	if a.header.Get("Content-Type") != "application/json" || !strings.Contains(a.header.Get("Cache-Control"), "no-cache") {
		s.t.Errorf("list: %s, Cache-Control %q", a.header.Get("Content-Type"), a.header.Get("Cache-Control"))
	}
	if link := a.header.Get("Link"); (link == "") != (page.Next == "") || page.Next != "" && !strings.Contains(link, url.QueryEscape(page.Next)) {
		s.t.Errorf("next %q, Link %q", page.Next, link)
	}
	return page
}

func TestPagesOverAGrowingLogSkipAndRepeatNothing(t *testing.T) {
	l := &fixedLedger{}
	s := serve(t, api.Config{Ledger: l, Registrar: accepting()})
	rapid.Check(t, func(r *rapid.T) {
		l.entries, l.received = nil, nil
		n := rapid.IntRange(0, 40).Draw(r, "entries")
		for i := range n {
			l.entries = append(l.entries, ledger.Entry{Index: uint64(n - 1 - i)})
		}
		var got []uint64
		cursor, last := "", false
		for !last {
			limit := rapid.IntRange(1, 20).Draw(r, "limit")
			page := s.page(fmt.Sprintf("limit=%d%s", limit, cursor))
			if page.IndexedThrough != uint64(len(l.entries)) {
				r.Fatalf("indexed through %d of %d", page.IndexedThrough, len(l.entries))
			}
			if len(page.Entries) > limit {
				r.Fatalf("%d entries on a page of %d", len(page.Entries), limit)
			}
			if len(page.Entries) == 0 && n > 0 {
				r.Fatalf("empty page after %d of %d", len(got), n)
			}
			for _, e := range page.Entries {
				got = append(got, e.Index)
			}
			cursor, last = "&cursor="+page.Next, page.Next == ""
			// Meanwhile the log grows.
			newest := len(l.entries)
			l.entries = slices.Insert(l.entries, 0, ledger.Entry{Index: uint64(newest)})
		}
		want := make([]uint64, n)
		for i := range want {
			want[i] = uint64(n - 1 - i)
		}
		if !slices.Equal(got, want) {
			r.Fatalf("got %v, want %v", got, want)
		}
	})
}

func TestPageOf500IsFollowed(t *testing.T) {
	l := &fixedLedger{}
	for i := range 1001 {
		l.entries = append(l.entries, ledger.Entry{Index: uint64(1000 - i)})
	}
	s := serve(t, api.Config{Ledger: l, Registrar: accepting()})
	var sizes []int
	for cursor := "limit=500"; cursor != ""; {
		page := s.page(cursor)
		sizes = append(sizes, len(page.Entries))
		if cursor = ""; page.Next != "" {
			cursor = "limit=500&cursor=" + page.Next
		}
	}
	if !slices.Equal(sizes, []int{500, 500, 1}) {
		t.Errorf("pages of %v", sizes)
	}
	l.entries = l.entries[501:] // down to the first entry of all
	if page := s.page("limit=500"); len(page.Entries) != 500 || page.Next != "" {
		t.Errorf("%d entries, next %q below the first", len(page.Entries), page.Next)
	}
}

func FuzzQueryStringsAreReadOrRefused(f *testing.F) {
	for _, seed := range []string{"", "limit=1", "subject=" + digestA, "cursor=AAAA", "since=2026-11-01T00:00:00Z", "a=%", "issuer=%ff", "issuerPrefix=https://a.example/", "issuerPrefix=did:"} {
		f.Add(seed)
	}
	l := &fixedLedger{}
	a := api.New(api.Config{Ledger: l, Registrar: accepting(), OpenWrites: true, PublicURL: publicURL})
	f.Fuzz(func(t *testing.T, query string) { queryOnce(t, a, l, query) })
}

// queryOnce checks that a query is answered 200 or 400, and that what reaches
// the ledger is within its bounds.
func queryOnce(t *testing.T, a *api.API, l *fixedLedger, query string) {
	r := httptest.NewRequest("GET", "/v1/entries", nil)
	r.URL.RawQuery = query
	rec := httptest.NewRecorder()
	l.received = nil
	a.ServeHTTP(rec, r)
	switch got := (answer{rec.Code, rec.Header(), rec.Body.Bytes()}); got.status {
	case 200:
		if q := l.received[0]; q.Limit < 2 || q.Limit > 500 || q.Scope != ledger.Public {
			t.Errorf("%q asks the ledger %+v", query, q)
		}
	case 400:
		got.problem(t)
	default:
		t.Errorf("%q: %d %s", query, got.status, got.body)
	}
}
