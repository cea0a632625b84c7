package ledgertest

import (
	"context"
	"reflect"

	"github.com/scittd/scittd/ledger"
)

// decisionsReadOut: whoever judges again gets what was recorded, and of what he
// may not see the ID alone, in pages that end where they should.
func decisionsReadOut(w *world) {
	w.init()
	l := w.ledger(w.store, w.options())
	Append(w, l, w.wabbit.Claim(w, Image(1), SBOM, []byte("sbom")))
	Append(w, l, w.acme.Claim(w, Image(2), SBOM, []byte("another")))
	private := Append(w, l, w.secret.Claim(w, Image(3), SBOM, []byte("hidden")))
	Append(w, l, w.acme.Claim(w, Image(4), SBOM, []byte("one more")))
	audit, ok := w.store.(interface {
		ledger.Log
		ledger.Index
		ledger.Audit
	})
	if !ok {
		w.Fatalf("%T keeps no audit", w.store)
	}
	d := ledger.Decisions{Store: audit}
	for _, scope := range []ledger.Scope{ledger.Public, ledger.All} {
		for _, limit := range []int{1, 4, ledger.MaxPage} {
			var all []ledger.Decided
			for {
				page, err := d.Decided(w.ctx, uint64(len(all)), limit, scope)
				if err != nil {
					w.Fatal(err)
				}
				if len(page) > limit {
					w.Errorf("a page of %d, want at most %d", len(page), limit)
				}
				if len(page) == 0 {
					break
				}
				all = append(all, page...)
			}
			if len(all) != 6 {
				w.Fatalf("%d decisions, want 6", len(all))
			}
			for i, got := range all {
				r, err := l.Record(w.ctx, got.ID, ledger.All)
				if err != nil {
					w.Fatal(err)
				}
				want := ledger.Decided{Entry: r.Entry, Collateral: r.Collateral}
				if got.ID == private.Entry.ID && scope == ledger.Public {
					want = ledger.Decided{Entry: ledger.Entry{Index: private.Entry.Index, ID: private.Entry.ID}, Hidden: true}
				}
				if len(got.Collateral) == 0 && len(want.Collateral) == 0 {
					got.Collateral, want.Collateral = nil, nil
				}
				if !reflect.DeepEqual(got, want) {
					w.Errorf("entry %d, scope %d:\n%+v, want\n%+v", i, scope, got, want)
				}
			}
			if acme, again := all[3].Collateral, all[5].Collateral; len(acme) != 1 || !reflect.DeepEqual(acme, again) {
				w.Errorf("collateral %v and %v", acme, again)
			}
		}
	}
	// What was looked up is kept with every entry: a page is not read at once.
	w.commit(w.acme.Claims(w, 0, 100)...)
	sparing := &sparing{Audit: audit}
	d.Store = struct {
		ledger.Log
		ledger.Index
		ledger.Audit
	}{audit, audit, sparing}
	page, err := d.Decided(w.ctx, 0, ledger.MaxPage, ledger.All)
	if err != nil || len(page) != 106 || sparing.most > 50 {
		w.Errorf("%d decisions, %v, of which %d were read at once", len(page), err, sparing.most)
	}
	for _, e := range page[6:] {
		r, err := l.Record(w.ctx, e.ID, ledger.All)
		if err != nil || len(r.Collateral) != len(e.Collateral) {
			w.Errorf("entry %d: collateral %v, want %v, %v", e.Index, e.Collateral, r.Collateral, err)
		}
	}
}

// sparing notes how much is read at once.
type sparing struct {
	ledger.Audit
	most int
}

func (s *sparing) Dossiers(ctx context.Context, from uint64, limit int) ([]ledger.Dossier, error) {
	s.most = max(s.most, limit)
	return s.Audit.Dossiers(ctx, from, limit)
}
