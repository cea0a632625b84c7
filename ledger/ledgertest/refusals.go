package ledgertest

import (
	"fmt"
	"reflect"
	"time"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

var refusalTests = []test{
	{"a refused push is found by repository and image, the newest first", findRefusals},
	{"another word on the same manifest replaces the first", replaceRefusal},
	{"a refusal that is dropped is gone, one that is not there is no error", dropRefusal},
}

// refusedPush is number n, in one of two repositories and of one of three images.
func refusedPush(n int) ledger.PushRefusal {
	return ledger.PushRefusal{
		Repository: []string{"wabbit/net-monitor", "acme/app"}[n%2], Manifest: statement.SHA256(fmt.Appendf(nil, "manifest %d", n)),
		Image: Image(n % 3), Entry: statement.ID{byte(n), 1}, Issuer: "https://mallory.example", Code: "rejected", Rule: "issuers",
		Reason: "no such issuer: \"x\"", Hint: "ask", Policy: statement.ID{2}, Caller: "ci (17)",
		At: time.Date(2026, 11, 3, 9, 12, 44, 5e6, time.UTC),
	}
}

func (w *world) note(r ledger.PushRefusal) {
	w.Helper()
	if err := w.store.NoteRefusal(w.ctx, r); err != nil {
		w.Fatal(err)
	}
}

func (w *world) refusals(repository string, image statement.Digest, limit int) []ledger.PushRefusal {
	w.Helper()
	found, err := w.store.FindRefusals(w.ctx, repository, image, limit)
	if err != nil {
		w.Fatal(err)
	}
	return found
}

func findRefusals(w *world) {
	var all []ledger.PushRefusal // newest first
	for n := range 12 {
		r := refusedPush(n)
		if n == 5 {
			r = ledger.PushRefusal{Repository: r.Repository, Manifest: r.Manifest, Code: "malformed-request", At: r.At}
		}
		w.note(r)
		all = append([]ledger.PushRefusal{r}, all...)
	}
	w.reopen()
	for _, repository := range []string{"", "acme/app", "no/such"} {
		for _, image := range []statement.Digest{"", Image(1), Image(9)} {
			for _, limit := range []int{1, 3, ledger.MaxPage} {
				var want []ledger.PushRefusal
				for _, r := range all {
					if (repository == "" || r.Repository == repository) && (image == "" || r.Image == image) && len(want) < limit {
						want = append(want, r)
					}
				}
				if got := w.refusals(repository, image, limit); len(got) != len(want) || len(got) > 0 && !reflect.DeepEqual(got, want) {
					w.Errorf("%q %q %d:\ngot  %v\nwant %v", repository, image, limit, got, want)
				}
			}
		}
	}
	for _, limit := range []int{0, -1, ledger.MaxPage + 1} {
		if _, err := w.store.FindRefusals(w.ctx, "", "", limit); err == nil {
			w.Errorf("a page of %d is given", limit)
		}
	}
}

func replaceRefusal(w *world) {
	first, other, second := refusedPush(1), refusedPush(2), refusedPush(1)
	second.Code, second.At = "bad-signature", second.At.Add(time.Hour)
	w.note(first)
	w.note(other)
	w.note(second)
	if got := w.refusals("", "", 10); !reflect.DeepEqual(got, []ledger.PushRefusal{second, other}) {
		w.Errorf("got %v", got)
	}
}

func dropRefusal(w *world) {
	w.note(refusedPush(1))
	for range 2 {
		if err := w.store.DropRefusal(w.ctx, refusedPush(1).Repository, refusedPush(1).Manifest); err != nil {
			w.Fatal(err)
		}
	}
	if got := w.refusals("", "", 10); len(got) != 0 {
		w.Errorf("left: %v", got)
	}
}
