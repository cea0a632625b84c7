package ledgertest

import (
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"time"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

var refusalTests = []test{
	{"a refused push is found by repository and image, the newest first", findRefusals},
	{"another word on the same manifest replaces the first", replaceRefusal},
	{"a refusal that is dropped is gone, one that is not there is no error", dropRefusal},
	{"refusals of one kind are one count, with what the last one was told", countRefusals},
	{"counts that were used last stay when there are too many", boundedCounts},
	{"a tally tells issuers apart as long as there are not too many", tallyRefusals},
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

// refusalKind is one kind of refusal that occurred n times.
func refusalKind(kind int, n uint64, at time.Time) ledger.RefusalCount {
	return ledger.RefusalCount{
		Code: "rejected", Rule: fmt.Sprintf("issuers[%d]", kind), Policy: statement.ID{1}, Issuer: "https://mallory.example \"x\"",
		Count: n, First: at, Last: at, Reason: fmt.Sprintf("reason %d", n), Hint: "ask",
	}
}

func (w *world) counted(since time.Time, limit int) []ledger.RefusalCount {
	w.Helper()
	found, err := w.store.CountedRefusals(w.ctx, since, limit)
	if err != nil {
		w.Fatal(err)
	}
	return found
}

func countRefusals(w *world) {
	at := time.Date(2026, 11, 3, 9, 12, 44, 5e6, time.UTC)
	unknown := ledger.RefusalCount{Code: "malformed-request", Count: 9, First: at, Last: at, Reason: "no COSE"}
	for _, counts := range [][]ledger.RefusalCount{
		{refusalKind(1, 3, at), refusalKind(2, 4, at), unknown}, {refusalKind(1, 2, at.Add(time.Hour))}, nil,
	} {
		if err := w.store.CountRefusals(w.ctx, counts); err != nil {
			w.Fatal(err)
		}
	}
	first := refusalKind(1, 5, at)
	first.Last, first.Reason = at.Add(time.Hour), "reason 2"
	w.reopen()
	if got, want := w.counted(time.Time{}, 10), []ledger.RefusalCount{unknown, first, refusalKind(2, 4, at)}; !reflect.DeepEqual(got, want) {
		w.Errorf("got\n%+v, want\n%+v", got, want)
	}
	if got := w.counted(at.Add(time.Minute), 10); !reflect.DeepEqual(got, []ledger.RefusalCount{first}) {
		w.Errorf("since a minute later: %+v", got)
	}
	if got := w.counted(time.Time{}, 1); !reflect.DeepEqual(got, []ledger.RefusalCount{unknown}) {
		w.Errorf("the most frequent: %+v", got)
	}
	for _, limit := range []int{0, -1, ledger.MaxPage + 1} {
		if _, err := w.store.CountedRefusals(w.ctx, at, limit); err == nil {
			w.Errorf("a page of %d is given", limit)
		}
	}
}

func boundedCounts(w *world) {
	at := time.Date(2026, 11, 3, 9, 12, 44, 0, time.UTC)
	var counts []ledger.RefusalCount
	for i := range ledger.MaxRefusalCounts + 5 {
		counts = append(counts, refusalKind(i, 1, at.Add(time.Duration(i)*time.Second)))
	}
	if err := w.store.CountRefusals(w.ctx, counts); err != nil {
		w.Fatal(err)
	}
	last := at.Add((ledger.MaxRefusalCounts + 5) * time.Second)
	if err := w.store.CountRefusals(w.ctx, []ledger.RefusalCount{refusalKind(0, 7, last)}); err != nil {
		w.Fatal(err)
	}
	if got := w.counted(time.Time{}, 1); len(got) != 1 || got[0].Count != 7 {
		w.Errorf("what went first began anew as %+v", got)
	}
	if n := w.rows("refusals"); n > ledger.MaxRefusalCounts {
		w.Errorf("%d rows, want %d at most", n, ledger.MaxRefusalCounts)
	}
}

func tallyRefusals(w *world) {
	tally := ledger.NewRefusalTally(w.store, slog.New(slog.DiscardHandler))
	at := time.Date(2026, 11, 3, 9, 12, 44, 0, time.UTC)
	long := strings.Repeat("long ", 1000)
	for i := range 3000 {
		tally.Count(&policy.Refusal{Code: "unknown-issuer-key", Rule: "issuers", Reason: long, Hint: "\x00\xff", Policy: statement.ID{2}},
			fmt.Sprintf("https://%d.example", i), at.Add(time.Duration(i)*time.Second))
	}
	tally.Count(&policy.Refusal{Code: "malformed-request", Reason: "no COSE"}, "", at)
	if codes := tally.Codes(); !reflect.DeepEqual(codes, map[string]uint64{"unknown-issuer-key": 3000, "malformed-request": 1}) {
		w.Errorf("codes %v", codes)
	}
	for range 2 {
		if err := tally.Flush(w.ctx); err != nil {
			w.Fatal(err)
		}
	}
	got := w.counted(time.Time{}, 5)
	if len(got) != 5 || got[0].Issuer != "" || got[0].Count < 1000 || got[1].Count != 1 || got[1].Issuer == "" {
		w.Errorf("counted %+v", got)
	}
	if len(got) > 0 && (len(got[0].Reason) >= len(long) || got[0].Hint != "" || got[0].Last != at.Add(2999*time.Second)) {
		w.Errorf("the last one was told %d bytes, %q, at %v", len(got[0].Reason), got[0].Hint, got[0].Last)
	}
}
