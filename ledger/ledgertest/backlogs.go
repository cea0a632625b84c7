package ledgertest

import (
	"errors"
	"slices"
	"time"

	"github.com/scittd/scittd/ledger"
)

var backlogTests = []test{
	{"open deliveries are counted by registry", tallies},
	{"deliveries are found by state, place and entry, page by page", findsDeliveries},
	{"an operator retries, parks and drops, and it is written down", intervenes},
	{"what cannot be done to a delivery changes nothing", intervenesInVain},
	{"a retry leaves the lease of what is being placed alone", retriesUnderLease},
}

func (w *world) intervene(d ledger.Delivery, action string, at time.Time) {
	w.Helper()
	if err := w.store.Intervene(w.ctx, d, ledger.Intervention{Action: action, Who: "olga", Why: "a test", At: at}); err != nil {
		w.Fatalf("%s %s: %v", action, label(d), err)
	}
	w.check()
}

func (w *world) found(q ledger.DeliveryQuery) []ledger.Delivery {
	w.Helper()
	if q.Limit == 0 {
		q.Limit = ledger.MaxPage
	}
	found, err := w.store.FindDeliveries(w.ctx, q)
	if err != nil {
		w.Fatal(err)
	}
	return found
}

func tallies(w *world) {
	w.init()
	tally := func(now time.Time) (t ledger.Tally) {
		w.Helper()
		all, err := w.store.Tallies(w.ctx, now)
		if err != nil || len(all) > 1 || len(all) == 1 && all[0].Registry != registry {
			w.Fatalf("tallies %+v, %v", all, err)
		}
		if len(all) == 1 {
			t = all[0]
		}
		return t
	}
	now := time.Now().Add(time.Second)
	if got := tally(now); got != (ledger.Tally{}) {
		w.Errorf("of an empty outbox: %+v", got)
	}
	claims(w, 1, 2)
	due := w.due("a", now, 10, 10)
	want := ledger.Tally{Registry: registry, Queued: 4, Due: due[0].NextAt, Oldest: due[0].Since}
	if got := tally(now); got != want {
		w.Errorf("%+v, want %+v", got, want)
	}
	if got := tally(now.Add(-time.Hour)); !got.Due.IsZero() {
		w.Errorf("an hour before something is due: %+v", got)
	}
	w.done("a", due[0])
	due[1].State, due[1].LastError = ledger.Refused, "413"
	w.settle(due[1], "a")
	want = ledger.Tally{Registry: registry, Queued: 2, Refused: 1, Due: due[2].NextAt, Oldest: due[2].Since}
	if got := tally(now); got != want {
		w.Errorf("%+v, want %+v", got, want)
	}
}

func findsDeliveries(w *world) {
	w.init()
	all := claims(w, 1, 2, 1)
	now := time.Now().Add(time.Second)
	due := w.due("a", now, 10, 10)
	w.done("a", due[0])
	due[1].State, due[1].LastError = ledger.Refused, "413"
	w.settle(due[1], "a")
	for _, tt := range []struct {
		q    ledger.DeliveryQuery
		want []string
	}{
		{ledger.DeliveryQuery{State: ledger.Queued}, []string{"1/4/e", "1/4/t", "2/3/e", "2/3/t"}},
		{ledger.DeliveryQuery{State: ledger.Refused}, []string{"1/2/t"}},
		{ledger.DeliveryQuery{State: ledger.Dropped}, []string{}},
		{ledger.DeliveryQuery{State: ledger.Done, EntryID: all[0].ID()}, []string{"1/2/e"}},
		{ledger.DeliveryQuery{State: ledger.Queued, EntryID: all[1].ID()}, []string{"2/3/e", "2/3/t"}},
		{ledger.DeliveryQuery{State: ledger.Queued, Subject: Image(1)}, []string{"1/4/e", "1/4/t"}},
		{ledger.DeliveryQuery{State: ledger.Queued, Artifact: ledger.EvidenceArtifact, Registry: registry}, []string{"1/4/e", "2/3/e"}},
		{ledger.DeliveryQuery{State: ledger.Queued, Repository: due[0].Repository, Artifact: ledger.ArchiveArtifact}, []string{}},
		{ledger.DeliveryQuery{State: ledger.Queued, Registry: "elsewhere.example"}, []string{}},
		{ledger.DeliveryQuery{State: ledger.Queued, Repository: "bad \x00 name"}, []string{}},
	} {
		got := labels(w.found(tt.q))
		slices.Sort(got) // images come in the order of their digests
		if !slices.Equal(got, tt.want) {
			w.Errorf("%+v: %v, want %v", tt.q, got, tt.want)
		}
		var paged []ledger.Delivery
		for q := tt.q; ; q.After = &paged[len(paged)-1] {
			q.Limit = 1
			page := w.found(q)
			if paged = append(paged, page...); len(page) == 0 || len(paged) > 10 {
				break
			}
		}
		if got := labels(paged); !slices.Equal(got, labels(w.found(tt.q))) {
			w.Errorf("%+v, one by one: %v, want %v", tt.q, got, tt.want)
		}
	}
	for _, q := range []ledger.DeliveryQuery{
		{State: ledger.Done, Limit: 1}, {State: "lost", Limit: 1}, {State: ledger.Queued}, {State: ledger.Queued, Limit: ledger.MaxPage + 1},
	} {
		if got, err := w.store.FindDeliveries(w.ctx, q); err == nil {
			w.Errorf("%+v is answered with %v", q, labels(got))
		}
	}
}

func intervenes(w *world) {
	w.init()
	s := claims(w, 1)[0]
	now := time.Now().Add(time.Second).UTC().Truncate(time.Millisecond)
	read := func() (evidence, transparency ledger.Delivery) {
		w.Helper()
		all, err := w.store.Deliveries(w.ctx, s.ID(), ledger.Public)
		if err != nil || len(all) != 2 {
			w.Fatal(all, err)
		}
		return all[0], all[1]
	}
	e, tr := read()
	w.intervene(e, ledger.Park, now)
	if e, _ = read(); e.State != ledger.Refused || e.LastError != "parked by olga: a test" {
		w.Errorf("parked: %+v", e)
	}
	if got, want := labels(w.due("a", now, 10, 10)), []string{"1/2/t"}; !slices.Equal(got, want) {
		w.Errorf("due beside what is parked: %v, want %v", got, want)
	}
	w.done("a", tr)
	w.intervene(tr, ledger.Retry, now)
	if _, tr = read(); tr.State != ledger.Queued || tr.Manifest != "" || tr.Tries != 0 || !tr.NextAt.Equal(now) {
		w.Errorf("retried: %+v", tr)
	}
	w.intervene(e, ledger.Drop, now)
	w.intervene(tr, ledger.Drop, now)
	if e, tr = read(); e.State != ledger.Dropped || tr.State != ledger.Dropped {
		w.Errorf("dropped: %+v, %+v", e, tr)
	}
	if got := w.due("a", now, 10, 10); len(got) > 0 {
		w.Errorf("due although dropped: %v", labels(got))
	}
	w.intervene(e, ledger.Retry, now.Add(time.Second))
	if got, want := labels(w.due("a", now.Add(time.Second), 10, 10)), []string{"1/2/e"}; !slices.Equal(got, want) {
		w.Errorf("due after all: %v, want %v", got, want)
	}
}

func intervenesInVain(w *world) {
	w.init()
	claims(w, 1)
	now := time.Now().Add(time.Second)
	due := w.due("a", now, 10, 10)
	w.done("a", due[0])
	for _, action := range []string{ledger.Park, ledger.Drop} {
		err := w.store.Intervene(w.ctx, due[0], ledger.Intervention{Action: action, Who: "olga", At: now})
		if !errors.Is(err, ledger.ErrOtherState) {
			w.Errorf("%s what is done: %v, want ErrOtherState", action, err)
		}
	}
	for name, i := range map[string]ledger.Intervention{
		"burn": {Action: "burn", Who: "olga", At: now}, "nobody": {Action: ledger.Park, At: now},
	} {
		if err := w.store.Intervene(w.ctx, due[1], i); err == nil {
			w.Errorf("%s: no error", name)
		}
	}
	unknown := due[1]
	unknown.Entry = 99
	err := w.store.Intervene(w.ctx, unknown, ledger.Intervention{Action: ledger.Park, Who: "olga", At: now})
	if !errors.Is(err, ledger.ErrNotFound) {
		w.Errorf("unknown delivery: %v, want ErrNotFound", err)
	}
	if got, want := labels(w.found(ledger.DeliveryQuery{State: ledger.Queued})), []string{"1/2/t"}; !slices.Equal(got, want) {
		w.Errorf("queued %v, want %v", got, want)
	}
	w.check()
}

func retriesUnderLease(w *world) {
	w.init()
	claims(w, 1)
	now := time.Now().Add(time.Second)
	due := w.due("a", now, 10, 10)
	w.intervene(due[0], ledger.Retry, now)
	if got := w.due("b", now, 10, 10); len(got) > 0 {
		w.Errorf("b gets %v", labels(got))
	}
	w.intervene(due[0], ledger.Park, now)
	w.done("a", due[0]) // in vain: it was parked meanwhile
	if got := w.found(ledger.DeliveryQuery{State: ledger.Refused}); len(got) != 1 {
		w.Errorf("parked while it was placed: %v", labels(got))
	}
}
