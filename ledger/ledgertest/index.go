package ledgertest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"time"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

var indexTests = []test{
	{"any query answers what filtering all entries would", queriesFilter},
	{"an issuer prefix finds whole segments and nothing that is hidden", prefixesFind},
	{"pages neither skip nor repeat while the log grows", pagesAreStable},
	{"a limit outside the bounds is refused", limitIsBounded},
	{"a statement with 256 artifacts is found by each", manyArtifacts},
	{"a private entry answers as an unknown one", privateIsUnknown},
	{"a thousand IDs are one lookup", manyIDs},
	{"an empty value finds nothing", emptyValues},
	{"statements of every size come back byte for byte", everySize},
}

// populate commits entries of every kind in several batches, and returns all
// entries of the log, newest first.
func populate(w *world) []ledger.Entry {
	w.Helper()
	w.init()
	for round := range 4 {
		var batch []*statement.Statement
		for i := range 10 {
			image := Image(i % 4)
			evidence := fmt.Appendf(nil, "evidence %d", i%6)
			for _, p := range w.publishers() {
				batch = append(batch, p.Sign(w, statement.Template{
					Subject: fmt.Sprintf("pkg:oci/net-monitor-%d@%s", round, image), ContentType: []string{SBOM, Report}[i%2],
					Payload: evidence,
				}))
			}
		}
		batch = append(batch,
			w.wabbit.Provenance(w, "https://slsa.dev/provenance/v1", Image(round), Image(round+1)),
			w.acme.Provenance(w, fmt.Sprintf("https://predicate.example/%d", round), Image(round)),
			w.wabbit.Sign(w, statement.Template{Subject: fmt.Sprintf("no artifact, no type %d", round), Payload: []byte("x")}),
		)
		w.commit(batch...)
	}
	w.check()
	all, err := w.store.Find(w.ctx, ledger.Query{Scope: ledger.All, Limit: ledger.MaxPage})
	if err != nil {
		w.Fatal(err)
	}
	if uint64(len(all)) != w.size() {
		w.Fatalf("%d entries in a log of %d", len(all), w.size())
	}
	return all
}

// matches is Query as its documentation says it, one entry at a time.
func matches(q ledger.Query, e ledger.Entry) bool {
	in := func(values []string, v string) bool { return len(values) == 0 || v != "" && slices.Contains(values, v) }
	return (q.Scope == ledger.All || !e.Private) &&
		(len(q.IDs) == 0 || slices.Contains(q.IDs, e.ID)) &&
		(len(q.Artifacts) == 0 || slices.ContainsFunc(e.Artifacts, func(d statement.Digest) bool { return slices.Contains(q.Artifacts, d) })) &&
		(len(q.Evidence) == 0 || e.Evidence != "" && slices.Contains(q.Evidence, e.Evidence)) &&
		(len(q.IssuerPrefixes) == 0 || slices.ContainsFunc(q.IssuerPrefixes, func(p statement.IssuerPrefix) bool { return p.Covers(e.Issuer) })) &&
		in(q.Issuers, e.Issuer) && in(q.MediaTypes, e.MediaType) && in(q.PredicateTypes, e.PredicateType) &&
		(q.Since.IsZero() || !e.RegisteredAt.Before(q.Since)) &&
		(q.Until.IsZero() || e.RegisteredAt.Before(q.Until)) &&
		(q.Before == 0 || e.Index < q.Before)
}

func queriesFilter(w *world) {
	all := populate(w)
	random := rand.New(rand.NewPCG(1, 2))
	pick := func() ledger.Entry { return all[random.IntN(len(all))] }
	times := []time.Time{all[0].RegisteredAt, all[len(all)-1].RegisteredAt, all[0].RegisteredAt.Add(time.Nanosecond), all[0].RegisteredAt.Add(time.Second)}
	for range 1000 {
		q := ledger.Query{Scope: ledger.Scope(random.IntN(2)), Limit: []int{1, 7, ledger.MaxPage}[random.IntN(3)]}
		for _, add := range []func(ledger.Entry){
			func(e ledger.Entry) { q.IDs = append(q.IDs, e.ID) },
			func(e ledger.Entry) { q.Artifacts = append(q.Artifacts, e.Artifacts...) },
			func(e ledger.Entry) {
				if e.Evidence != "" {
					q.Evidence = append(q.Evidence, e.Evidence)
				}
			},
			func(e ledger.Entry) { q.Issuers = append(q.Issuers, e.Issuer) },
			func(e ledger.Entry) { q.MediaTypes = append(q.MediaTypes, e.MediaType) },
			func(e ledger.Entry) { q.PredicateTypes = append(q.PredicateTypes, e.PredicateType) },
			func(ledger.Entry) { q.Issuers = append(q.Issuers, "https://nobody.example") },
			func(e ledger.Entry) {
				q.IssuerPrefixes = append(q.IssuerPrefixes, statement.IssuerPrefix(e.Issuer+"/"))
			},
			func(ledger.Entry) { q.IssuerPrefixes = append(q.IssuerPrefixes, "https://nobody.example/") },
			func(ledger.Entry) { q.Artifacts = append(q.Artifacts, Image(99)) },
			func(e ledger.Entry) { q.Before = e.Index },
			func(ledger.Entry) { q.Since = times[random.IntN(len(times))] },
			func(ledger.Entry) { q.Until = times[random.IntN(len(times))] },
		} {
			for random.IntN(4) == 0 {
				add(pick())
			}
		}
		want := []ledger.Entry{}
		for _, e := range all {
			if matches(q, e) && len(want) < q.Limit {
				want = append(want, e)
			}
		}
		got, err := w.store.Find(w.ctx, q)
		if err != nil {
			w.Fatalf("%+v: %v", q, err)
		}
		if !slices.Equal(indexes(got), indexes(want)) {
			w.Fatalf("%+v:\ngot  %v\nwant %v", q, indexes(got), indexes(want))
		}
		for i := range got {
			if !reflect.DeepEqual(got[i], want[i]) {
				w.Fatalf("%+v: entry %d is\n%+v, want\n%+v", q, got[i].Index, got[i], want[i])
			}
		}
	}
}

func prefixesFind(w *world) {
	var people []*Publisher
	for _, iss := range []string{
		"https://good.example", "https://good.example/team", "https://good.example/team/a", "https://good.example/tëam",
		"https://good.example.evil", "https://good.example@evil", "https://good.example:8443", "https://good.example-evil/team",
		"https://g%25d.example/team", "https://good.example/%25", "https://good_example/team", "https://GOOD.example/team",
		"did:web:good.example", "did:web:good.example:team", "did:web:good.example.evil",
	} {
		people = append(people, NewPublisher(w, iss))
	}
	hidden := NewPublisher(w, "https://good.example/hidden")
	hidden.Rule.Visibility = "private"
	people = append(people, hidden)
	w.operator.Init(w, w.store, people...)
	for round := range 3 {
		var batch []*statement.Statement
		for _, p := range people {
			batch = append(batch, p.Claim(w, Image(round), SBOM, []byte("x")))
		}
		w.commit(batch...)
	}
	w.check()
	all, err := w.store.Find(w.ctx, ledger.Query{Scope: ledger.All, Limit: ledger.MaxPage})
	if err != nil {
		w.Fatal(err)
	}
	for _, c := range []struct {
		prefixes []string
		issuers  int // how many they cover, the hidden one included
	}{
		{[]string{"https://good.example"}, 6},
		{[]string{"https://good.example/"}, 6},
		{[]string{"https://good.example/team"}, 2},
		{[]string{"https://good.example/te"}, 0},
		{[]string{"https://good.example/tëam"}, 1},
		{[]string{"https://good"}, 0},
		{[]string{"https://g%d.example"}, 0},
		{[]string{"https://g%25d.example"}, 1},
		{[]string{"https://good.example/%"}, 0},
		{[]string{"https://good_example"}, 1},
		{[]string{"https://g__d.example"}, 0},
		{[]string{"https://g*"}, 0},
		{[]string{`https://good.example\`}, 0},
		{[]string{"https://good.example' OR ''='"}, 0},
		{[]string{"did:web:good.example"}, 2},
		{[]string{"https://good.example/team", "did:web:good.example:team", "https://nobody.example"}, 3},
	} {
		for _, scope := range []ledger.Scope{ledger.Public, ledger.All} {
			q := ledger.Query{Scope: scope, Limit: 2}
			for _, text := range c.prefixes {
				p, err := statement.ParseIssuerPrefix(text)
				if err != nil {
					w.Fatal(err)
				}
				q.IssuerPrefixes = append(q.IssuerPrefixes, p)
			}
			var got, want []uint64
			covered := map[string]bool{}
			for _, e := range all {
				if matches(ledger.Query{Scope: ledger.All, IssuerPrefixes: q.IssuerPrefixes}, e) {
					covered[e.Issuer] = true
				}
				if matches(q, e) {
					want = append(want, e.Index)
				}
			}
			if len(covered) != c.issuers {
				w.Errorf("%q covers %d issuers, want %d", c.prefixes, len(covered), c.issuers)
			}
			for more := true; more; {
				page, err := w.store.Find(w.ctx, q)
				if err != nil {
					w.Fatalf("%q: %v", c.prefixes, err)
				}
				got = append(got, indexes(page)...)
				if more = len(page) == q.Limit; more {
					q.Before = page[len(page)-1].Index
				}
			}
			if !slices.Equal(got, want) {
				w.Errorf("%q in scope %d: pages give %v, want %v", c.prefixes, scope, got, want)
			}
		}
	}
	both := ledger.Query{Issuers: []string{"https://good.example"}, IssuerPrefixes: []statement.IssuerPrefix{"https://good.example/team/"}, Limit: 10}
	if found, err := w.store.Find(w.ctx, both); err != nil || len(found) > 0 {
		w.Errorf("an issuer that its prefix does not cover: %v, %v", indexes(found), err)
	}
}

func pagesAreStable(w *world) {
	all := populate(w)
	q := ledger.Query{Scope: ledger.All, Issuers: []string{w.wabbit.Name, w.acme.Name}, Limit: 7}
	var got []uint64
	for n := 0; ; n++ {
		page, err := w.store.Find(w.ctx, q)
		if err != nil {
			w.Fatal(err)
		}
		got = append(got, indexes(page)...)
		if len(page) < q.Limit {
			break
		}
		q.Before = page[len(page)-1].Index
		if n < 3 {
			w.commit(w.wabbit.Claims(w, 1000+n, 1)...)
		}
	}
	var want []uint64
	for _, e := range all {
		if e.Issuer == w.wabbit.Name || e.Issuer == w.acme.Name {
			want = append(want, e.Index)
		}
	}
	if !slices.Equal(got, want) {
		w.Errorf("pages give %v, want %v", got, want)
	}
}

func limitIsBounded(w *world) {
	w.init()
	for _, limit := range []int{-1, 0, ledger.MaxPage + 1, 1e9} {
		if found, err := w.store.Find(w.ctx, ledger.Query{Limit: limit}); err == nil {
			w.Errorf("limit %d: %d entries, want an error", limit, len(found))
		}
	}
}

func manyArtifacts(w *world) {
	w.init()
	var images []statement.Digest
	for i := range statement.MaxArtifacts {
		images = append(images, Image(i))
	}
	s := w.wabbit.Provenance(w, "https://slsa.dev/provenance/v1", images...)
	w.commit(s)
	for _, image := range images {
		found, err := w.store.Find(w.ctx, ledger.Query{Artifacts: []statement.Digest{image}, Limit: 2})
		if err != nil || len(found) != 1 || found[0].ID != s.ID() {
			w.Fatalf("artifact %s finds %v, %v", image, indexes(found), err)
		}
	}
	w.check()
}

func privateIsUnknown(w *world) {
	w.init()
	private := w.secret.Claim(w, Image(1), SBOM, []byte("private"))
	public := w.wabbit.Claim(w, Image(1), SBOM, []byte("public"))
	w.commit(private, public)
	unknown := w.wabbit.Claim(w, Image(2), SBOM, []byte("never registered"))

	for name, id := range map[string]statement.ID{"private": private.ID(), "unknown": unknown.ID()} {
		if _, err := w.store.Record(w.ctx, id, ledger.Public); !errors.Is(err, ledger.ErrNotFound) {
			w.Errorf("record of %s entry: %v, want ErrNotFound", name, err)
		}
		if d, err := w.store.Deliveries(w.ctx, id, ledger.Public); !errors.Is(err, ledger.ErrNotFound) || len(d) > 0 {
			w.Errorf("deliveries of %s entry: %v, want ErrNotFound", name, err)
		}
		if found, err := w.store.Indexes(w.ctx, []statement.ID{id}, ledger.Public); err != nil || len(found) > 0 {
			w.Errorf("indexes of %s entry: %v, %v", name, found, err)
		}
		if found, err := w.store.Find(w.ctx, ledger.Query{IDs: []statement.ID{id}, Limit: 1}); err != nil || len(found) > 0 {
			w.Errorf("find %s entry: %v, %v", name, found, err)
		}
	}
	r, err := w.store.Record(w.ctx, private.ID(), ledger.All)
	if err != nil || !r.Private || !slices.Equal(r.Canonical, private.Canonical()) {
		w.Errorf("record of the private entry for a reader: %+v, %v", r.Entry, err)
	}
	if d, err := w.store.Deliveries(w.ctx, private.ID(), ledger.All); err != nil || len(d) > 0 {
		w.Errorf("deliveries of the private entry for a reader: %v, %v", d, err)
	}
	found, err := w.store.Find(w.ctx, ledger.Query{Artifacts: []statement.Digest{Image(1)}, Limit: 5})
	if err != nil || len(found) != 1 || found[0].ID != public.ID() {
		w.Errorf("the image's public claims: %v, %v", indexes(found), err)
	}
	w.check()
}

func manyIDs(w *world) {
	w.init()
	b := w.commit(w.wabbit.Claims(w, 0, 20)...)
	asked := idsOf(b)
	asked = append(asked, asked...)
	for i := range 2000 {
		asked = append(asked, statement.ID{byte(i), byte(i >> 8), 1})
	}
	found, err := w.store.Indexes(w.ctx, asked, ledger.Public)
	if err != nil || len(found) != 20 {
		w.Fatalf("%d found, %v; want 20", len(found), err)
	}
	for _, e := range b.Entries {
		if found[e.ID] != e.Index {
			w.Errorf("entry %d is found at %d", e.Index, found[e.ID])
		}
	}
}

func emptyValues(w *world) {
	populate(w)
	for name, q := range map[string]ledger.Query{
		"issuer":         {Issuers: []string{""}},
		"issuer prefix":  {IssuerPrefixes: []statement.IssuerPrefix{""}},
		"media type":     {MediaTypes: []string{""}},
		"predicate type": {PredicateTypes: []string{""}},
		"evidence":       {Evidence: []statement.Digest{""}},
		"artifact":       {Artifacts: []statement.Digest{""}},
	} {
		q.Scope, q.Limit = ledger.All, 10
		if found, err := w.store.Find(w.ctx, q); err != nil || len(found) > 0 {
			w.Errorf("%s \"\": %v, %v; want nothing", name, indexes(found), err)
		}
	}
}

// everySize commits what a store may have to lay out: next to nothing, what
// fills 64 KiB to the byte, the largest statement, and the largest batch.
func everySize(w *world) {
	w.init()
	sized := func(n, bytes int) *statement.Statement {
		payload := make([]byte, max(bytes, 1)) // none is refused before it comes to a store
		for i := range payload {
			payload[i] = byte(n + i/7)
		}
		return w.wabbit.Sign(w, statement.Template{Subject: fmt.Sprintf("statement %d", n), ContentType: SBOM, Payload: payload})
	}
	overhead := len(sized(100, 1000).Canonical()) - 1000
	var mixed []*statement.Statement
	for i, bytes := range []int{
		0, 0, 1, 2000, 1 << 15, 1<<15 - 2*overhead, 1<<16 - overhead, 1<<16 - overhead + 1, 3, 1996, 1<<16 - overhead - 1,
		100_000, 5, statement.MaxSize - overhead - 2, 0, 7,
	} {
		mixed = append(mixed, sized(100+i, bytes))
	}
	for i := range 150 {
		mixed = append(mixed, sized(200+i, i%3))
	}
	var large []*statement.Statement
	for i := range 1000 {
		large = append(large, sized(1000+i, 16<<10))
	}
	for _, all := range [][]*statement.Statement{mixed, {sized(999, 0)}, large} {
		w.commit(all...)
		for i, s := range all {
			if i%10 > 0 && len(all) == len(large) {
				continue
			}
			r, err := w.store.Record(w.ctx, s.ID(), ledger.Public)
			if err != nil || !slices.Equal(r.Canonical, s.Canonical()) || r.Subject != s.Subject {
				w.Fatalf("statement of %d bytes about %q: %d bytes about %q, %v", len(s.Canonical()), s.Subject, len(r.Canonical), r.Subject, err)
			}
		}
	}
	w.check()
}
