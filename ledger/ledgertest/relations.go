package ledgertest

import (
	"errors"
	"fmt"
	"slices"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

// related asks for claims about artifacts and shows them as leaf/via/instance,
// by the number of the image.
func (w *world) related(q ledger.Query, instances bool) []string {
	w.Helper()
	if q.Limit == 0 {
		q.Limit = 100
	}
	found, err := w.store.Claims(w.ctx, q, instances)
	if err != nil {
		w.Fatal(err)
	}
	number := func(d statement.Digest) string {
		for i := range 20 {
			if d == Image(i) {
				return fmt.Sprint(i)
			}
		}
		return string(d)
	}
	got := []string{}
	for _, c := range found {
		got = append(got, fmt.Sprintf("%d/%s/%s", c.Index, number(c.Via), number(c.Instance)))
	}
	return got
}

func (w *world) wantRelated(q ledger.Query, instances bool, want ...string) {
	w.Helper()
	if got := w.related(q, instances); !slices.Equal(got, want) {
		w.Errorf("claims about %v (instances %v): %v, want %v", q.Artifacts, instances, got, want)
	}
}

func (w *world) keep(index statement.Digest, manifests ...statement.Digest) {
	w.Helper()
	if err := w.store.KeepIndex(w.ctx, index, manifests); err != nil {
		w.Fatal(err)
	}
}

// about asks for claims about images, all or public.
func about(scope ledger.Scope, images ...int) ledger.Query {
	q := ledger.Query{Scope: scope}
	for _, i := range images {
		q.Artifacts = append(q.Artifacts, Image(i))
	}
	return q
}

// Image 0 is an index of 1 and 2; 3 is another, of 2.
func foundViaIndex(w *world) {
	w.init()
	w.keep(Image(0), Image(1), Image(2), Image(2))
	w.keep(Image(0), Image(1), Image(2)) // again
	w.keep(Image(3), Image(2))
	w.commit(claimsAbout(w, w.wabbit, 0, 1, 2, 3)...) // leaves 2 to 5
	w.commit(w.wabbit.Provenance(w, "https://slsa.dev/provenance/v1", Image(0), Image(1)))
	w.reopen()
	w.wantRelated(about(ledger.Public, 1), false, "6//", "3//", "2/0/")
	w.wantRelated(about(ledger.Public, 2), false, "6/0/", "5/3/", "4//", "2/0/")
	w.wantRelated(about(ledger.Public, 0), false, "6//", "2//")
	w.wantRelated(about(ledger.Public, 0), true, "6//", "4//2", "3//1", "2//")
	w.wantRelated(about(ledger.Public, 9), true)
	w.wantRelated(about(ledger.Public, 1, 3), false, "6//", "5//", "3//", "2/0/")
	q := about(ledger.Public, 1)
	q.Before, q.Issuers = 3, []string{w.wabbit.Name}
	w.wantRelated(q, false, "2/0/")
	q.Issuers = []string{w.acme.Name}
	w.wantRelated(q, false)
	// Find knows nothing of indexes.
	if found, err := w.store.Find(w.ctx, ledger.Query{Artifacts: []statement.Digest{Image(2)}, Limit: 9}); err != nil || len(found) != 1 {
		w.Errorf("find: %v, %v", indexes(found), err)
	}
}

// claimsAbout are claims of p, one about each image.
func claimsAbout(w *world, p *Publisher, images ...int) []*statement.Statement {
	var all []*statement.Statement
	for _, i := range images {
		all = append(all, p.Claim(w, Image(i), SBOM, fmt.Appendf(nil, "%s about %d at %d", p.Name, i, w.size())))
	}
	return all
}

func viaPagesAreStable(w *world) {
	w.init()
	w.keep(Image(0), Image(1))
	for range 5 {
		w.commit(claimsAbout(w, w.wabbit, 0, 1, 2)...)
	}
	all := w.related(about(ledger.Public, 1), false)
	var paged []string
	q := about(ledger.Public, 1)
	for q.Limit = 3; ; {
		page := w.related(q, false)
		if paged = append(paged, page...); len(page) < q.Limit {
			break
		}
		if _, err := fmt.Sscanf(page[len(page)-1], "%d/", &q.Before); err != nil {
			w.Fatal(err)
		}
		w.commit(claimsAbout(w, w.wabbit, 0)...) // the log grows meanwhile
	}
	if len(all) != 10 || !slices.Equal(paged, all) {
		w.Errorf("pages %v\nall   %v", paged, all)
	}
}

func viaIsScoped(w *world) {
	w.init()
	w.keep(Image(0), Image(1))
	w.commit(claimsAbout(w, w.secret, 0, 1)...)
	w.wantRelated(about(ledger.Public, 1), true)
	w.wantRelated(about(ledger.Public, 0), true)
	w.wantRelated(about(ledger.All, 1), true, "3//", "2/0/")
	w.wantRelated(about(ledger.All, 0), true, "3//1", "2//")
}

func oddIndexes(w *world) {
	w.init()
	w.commit(claimsAbout(w, w.wabbit, 0, 1)...)
	w.keep(Image(0))
	w.keep(Image(0), Image(0), Image(1)) // no digest of real bytes says so
	w.keep(Image(1), Image(0))
	w.wantRelated(about(ledger.Public, 0), true, "3/1/", "2//")
	w.wantRelated(about(ledger.Public, 1), true, "3//", "2/0/")
	many := make([]statement.Digest, ledger.MaxListed+1)
	for i := range many {
		many[i] = Image(100 + i)
	}
	if err := w.store.KeepIndex(w.ctx, Image(2), many); !errors.Is(err, ledger.ErrTooLarge) {
		w.Errorf("an index of %d manifests: %v, want ErrTooLarge", len(many), err)
	}
	w.keep(Image(2), many[1:]...)
	w.check()
}

func crowdedManifest(w *world) {
	w.init()
	w.commit(claimsAbout(w, w.wabbit, 0)...)
	for i := range ledger.MaxIndexes {
		w.keep(Image(100+i), Image(1))
	}
	w.keep(Image(99), Image(1))
	w.keep(Image(0), Image(1))
	w.commit(claimsAbout(w, w.wabbit, 99, 100)...)
	w.wantRelated(about(ledger.Public, 1), false, "4/"+string(Image(100))+"/", "2/0/")
}
