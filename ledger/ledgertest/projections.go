package ledgertest

import (
	"slices"
	"time"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

var projectionTests = []test{
	{"what was placed is listed once, image by image, on pages of any size", listsPlaced},
	{"what was placed beside an image is listed by entry", listsPlacedAt},
	{"what is not done, or private, was not placed", onlyDoneIsPlaced},
	{"of two findings about a repository the newer one stays", remembersCapabilities},
}

// place settles everything that is due as done.
func (w *world) place() {
	w.Helper()
	for {
		due := w.due("courier", time.Now().Add(time.Minute), 100, 100)
		if len(due) == 0 {
			return
		}
		w.done("courier", due...)
	}
}

// placed reads all pages of n.
func (w *world) placed(n int) []ledger.Delivery {
	w.Helper()
	var all []ledger.Delivery
	var mark ledger.PlacedMark
	for {
		page, next, err := w.store.Placed(w.ctx, registry, mark, n)
		if err != nil {
			w.Fatal(err)
		}
		all = append(all, page...)
		if next == (ledger.PlacedMark{}) {
			return all
		}
		if next == mark {
			w.Fatalf("no way on behind %+v", mark)
		}
		mark = next
	}
}

func listsPlaced(w *world) {
	w.init()
	claims(w, 1, 2, 1, 3)
	claims(w, 2, 1)
	w.place()
	w.reopen()
	whole := labels(w.placed(500))
	for i := 1; i < len(whole); i++ { // an image that was left does not come back
		if whole[i][0] != whole[i-1][0] && slices.ContainsFunc(whole[:i], func(l string) bool { return l[0] == whole[i][0] }) {
			w.Errorf("not image by image: %v", whole)
		}
	}
	sorted := slices.Sorted(slices.Values(whole))
	if want := []string{"1/2/e", "1/2/t", "1/4/e", "1/4/t", "1/7/e", "1/7/t", "2/3/e", "2/3/t", "2/6/e", "2/6/t", "3/5/e", "3/5/t"}; !slices.Equal(sorted, want) {
		w.Errorf("placed: %v, want %v in some order of images", whole, want)
	}
	for n := range 8 {
		if got := labels(w.placed(max(n, 1))); !slices.Equal(got, whole) {
			w.Errorf("on pages of %d: %v, want %v", max(n, 1), got, whole)
		}
	}
	if d, mark, err := w.store.Placed(w.ctx, "other.example", ledger.PlacedMark{}, 500); err != nil || len(d) > 0 || mark != (ledger.PlacedMark{}) {
		w.Errorf("at another registry: %v, %v, %v", labels(d), mark, err)
	}
	if d, mark, err := w.store.Placed(w.ctx, registry, ledger.PlacedMark{}, 0); err != nil || len(d) > 0 || mark != (ledger.PlacedMark{}) {
		w.Errorf("a page of none: %v, %v, %v", labels(d), mark, err)
	}
	for _, d := range w.placed(500) {
		if d.Manifest != Image(50) || d.State != ledger.Done || d.EntryID == (statement.ID{}) {
			w.Errorf("placed: %+v", d)
		}
	}
}

func listsPlacedAt(w *world) {
	w.init()
	claims(w, 1, 2, 1, 1)
	w.place()
	at := w.placed(500)[0].Place()
	at.Subject = Image(1)
	for _, n := range []int{1, 2, 3, 4} {
		var all []ledger.Delivery
		from := uint64(0)
		for more := true; more; more = from > 0 {
			page, next, err := w.store.PlacedAt(w.ctx, at, from, n)
			if err != nil {
				w.Fatal(err)
			}
			all, from = append(all, page...), next
		}
		if got, want := labels(all), []string{"1/2/e", "1/2/t", "1/4/e", "1/4/t", "1/5/e", "1/5/t"}; !slices.Equal(got, want) {
			w.Errorf("%d entries at a time: %v, want %v", n, got, want)
		}
	}
	for _, other := range []ledger.Place{
		{Registry: "other.example", Repository: at.Repository, Subject: at.Subject},
		{Registry: at.Registry, Repository: "other", Subject: at.Subject},
		{Registry: at.Registry, Repository: at.Repository, Subject: Image(9)},
		{Registry: at.Registry, Repository: at.Repository},
	} {
		if d, next, err := w.store.PlacedAt(w.ctx, other, 0, 500); err != nil || len(d) > 0 || next != 0 {
			w.Errorf("at %+v: %v, %d, %v", other, labels(d), next, err)
		}
	}
}

func onlyDoneIsPlaced(w *world) {
	w.init()
	claims(w, 1)
	w.commit(w.secret.Claim(w, Image(2), SBOM, []byte("private")))
	if got := w.placed(500); len(got) > 0 {
		w.Errorf("placed before anybody placed it: %v", labels(got))
	}
	due := w.due("courier", time.Now().Add(time.Minute), 100, 100)
	w.done("courier", due[0])
	for _, d := range due[1:] {
		d.State = ledger.Refused
		w.settle(d, "courier")
	}
	if got, want := labels(w.placed(500)), []string{label(due[0])}; !slices.Equal(got, want) {
		w.Errorf("placed: %v, want %v", got, want)
	}
}

func remembersCapabilities(w *world) {
	noon := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for _, f := range []struct {
		capability string
		at         time.Time
		want       string
		wantAt     time.Time
	}{
		{"api", noon, "api", noon},
		{"both", noon.Add(time.Hour), "both", noon.Add(time.Hour)},
		{"tags", noon, "both", noon.Add(time.Hour)}, // who found out earlier, and comes later
		{"", noon.Add(2 * time.Hour), "", noon.Add(2 * time.Hour)},
	} {
		if err := w.store.SetCapability(w.ctx, registry, "wabbit/net-monitor", f.capability, f.at); err != nil {
			w.Fatal(err)
		}
		w.reopen()
		got, at, err := w.store.Capability(w.ctx, registry, "wabbit/net-monitor")
		if err != nil || got != f.want || !at.Equal(f.wantAt) {
			w.Errorf("after %q of %v: %q of %v, %v; want %q of %v", f.capability, f.at, got, at, err, f.want, f.wantAt)
		}
	}
	if got, at, err := w.store.Capability(w.ctx, registry, "wabbit/other"); err != nil || got != "" || !at.IsZero() {
		w.Errorf("of a repository that nobody asked: %q, %v, %v", got, at, err)
	}
	if err := w.store.SetCapability(w.ctx, registry, "wabbit/net-monitor", "more than sixteen bytes", noon.Add(24*time.Hour)); err == nil {
		w.Error("a finding of 23 bytes was taken")
	}
}
