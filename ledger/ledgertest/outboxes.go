package ledgertest

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

var outboxTests = []test{
	{"deliveries are listed in order, with their entry", listsDeliveries},
	{"due deliveries come in whole groups, oldest first", dueByGroup},
	{"a group under a running lease is left alone", leaseIsExclusive},
	{"concurrent workers never share a delivery", workersDoNotShare},
	{"what is settled never comes back", settledStays},
	{"what is queued again comes back later", queuedComesBack},
	{"a group larger than asked for is cut", largeGroup},
	{"settling what is not there is not found", settleUnknown},
}

// claims commits one claim of wabbit's for each image, in one batch.
func claims(w *world, images ...int) []*statement.Statement {
	w.Helper()
	var all []*statement.Statement
	for i, image := range images {
		all = append(all, w.wabbit.Claim(w, Image(image), SBOM, fmt.Appendf(nil, "%d of %d", i, w.size())))
	}
	w.commit(all...)
	return all
}

func (w *world) due(owner string, now time.Time, n int) []ledger.Delivery {
	w.Helper()
	due, err := w.store.Due(w.ctx, owner, now, time.Minute, n)
	if err != nil {
		w.Fatal(err)
	}
	if len(due) > n {
		w.Fatalf("%d deliveries, asked for %d", len(due), n)
	}
	return due
}

func (w *world) settle(d ledger.Delivery) {
	w.Helper()
	if err := w.store.Settle(w.ctx, d); err != nil {
		w.Fatal(err)
	}
}

// label shows what identifies a delivery in these tests.
func label(d ledger.Delivery) string {
	for i := range 20 {
		if d.Subject == Image(i) {
			return fmt.Sprintf("%d/%d/%s", i, d.Entry, d.Artifact[:1])
		}
	}
	return string(d.Subject)
}

func labels(all []ledger.Delivery) []string {
	got := []string{}
	for _, d := range all {
		got = append(got, label(d))
	}
	return got
}

func listsDeliveries(w *world) {
	w.init()
	b := w.commit(w.wabbit.Claim(w, Image(1), SBOM, []byte("x")))
	w.reopen()
	got, err := w.store.Deliveries(w.ctx, b.Entries[0].ID, ledger.Public)
	if err != nil {
		w.Fatal(err)
	}
	if !reflect.DeepEqual(got, b.Entries[0].Deliveries) {
		w.Errorf("deliveries\n%+v, want\n%+v", got, b.Entries[0].Deliveries)
	}
	if labels := labels(got); !slices.Equal(labels, []string{"1/2/e", "1/2/t"}) {
		w.Errorf("deliveries %v", labels)
	}
	leaf0, err := w.store.Leaves(w.ctx, 0, 1)
	if err != nil {
		w.Fatal(err)
	}
	if d, err := w.store.Deliveries(w.ctx, leaf0[0], ledger.Public); err != nil || len(d) > 0 {
		w.Errorf("deliveries of the policy: %v, %v", d, err)
	}
}

func dueByGroup(w *world) {
	w.init()
	claims(w, 1, 2, 1)
	claims(w, 2, 3)
	now := time.Now().Add(time.Second)
	if got := w.due("early", now.Add(-time.Hour), 100); len(got) > 0 {
		w.Errorf("an hour before: %v", labels(got))
	}
	first := w.due("a", now, 4)
	if got, want := labels(first), []string{"1/2/e", "1/2/t", "1/4/e", "1/4/t"}; !slices.Equal(got, want) {
		w.Errorf("first group: %v, want %v", got, want)
	}
	rest := labels(w.due("a", now, 100))
	if want := []string{"2/3/e", "2/3/t", "2/5/e", "2/5/t", "3/6/e", "3/6/t"}; !slices.Equal(rest, want) {
		w.Errorf("rest: %v, want %v", rest, want)
	}
	if got := w.due("a", now, 0); len(got) > 0 {
		w.Errorf("none asked for: %v", labels(got))
	}
}

func leaseIsExclusive(w *world) {
	w.init()
	claims(w, 1)
	now := time.Now().Add(time.Second)
	held := w.due("a", now, 10)
	claims(w, 1, 2) // one more for the leased subject
	for _, owner := range []string{"a", "b"} {
		if got, want := labels(w.due(owner, now, 10)), []string{"2/4/e", "2/4/t"}; owner == "a" && !slices.Equal(got, want) || owner == "b" && len(got) > 0 {
			w.Errorf("beside the lease %s gets %v", owner, got)
		}
	}
	done := held[0]
	done.State, done.Manifest = ledger.Done, Image(50)
	w.settle(done)
	if got := labels(w.due("b", now, 10)); len(got) > 0 {
		w.Errorf("with the group half settled b gets %v", got)
	}
	// The lease of a worker that died ends by itself.
	late := now.Add(time.Minute + time.Second)
	if got, want := labels(w.due("b", late, 10)), []string{"1/2/t", "1/3/e", "1/3/t", "2/4/e", "2/4/t"}; !slices.Equal(got, want) {
		w.Errorf("after the leases: %v, want %v", got, want)
	}
}

func workersDoNotShare(w *world) {
	w.init()
	var images []int
	for i := range 60 {
		images = append(images, i%15)
	}
	claims(w, images...)
	now := time.Now().Add(time.Second)
	var mu sync.Mutex
	owner := map[string]int{} // by subject
	seen := 0
	var done sync.WaitGroup
	for worker := range 8 {
		done.Go(func() {
			for range 60 { // there are 15 subjects
				due, err := w.store.Due(w.ctx, fmt.Sprint(worker), now, time.Minute, 10)
				if err != nil {
					w.Error(err)
					return
				}
				if len(due) == 0 {
					return
				}
				mu.Lock()
				for _, d := range due {
					seen++
					if other, ok := owner[string(d.Subject)]; ok && other != worker {
						w.Errorf("%s is worked on by %d and %d", label(d), other, worker)
					}
					owner[string(d.Subject)] = worker
				}
				mu.Unlock()
			}
		})
	}
	done.Wait()
	if seen != 120 {
		w.Errorf("%d deliveries were handed out, want 120", seen)
	}
}

func settledStays(w *world) {
	w.init()
	s := claims(w, 1)[0]
	now := time.Now().Add(time.Second)
	due := w.due("a", now, 10)
	done, refused := due[0], due[1]
	done.State, done.Tries, done.Manifest, done.LastError = ledger.Done, 1, Image(7), ""
	refused.State, refused.Tries, refused.LastError = ledger.Refused, 3, "413: too large"
	w.settle(done)
	w.settle(refused)
	again := done
	again.State, again.Tries, again.Manifest = ledger.Queued, 9, ""
	w.settle(again)
	w.reopen()
	got, err := w.store.Deliveries(w.ctx, s.ID(), ledger.Public)
	if err != nil || !reflect.DeepEqual(got, []ledger.Delivery{done, refused}) {
		w.Errorf("%v: deliveries\n%+v, want\n%+v", err, got, []ledger.Delivery{done, refused})
	}
	if got := w.due("a", now.Add(24*time.Hour), 10); len(got) > 0 {
		w.Errorf("due again: %v", labels(got))
	}
	w.check()
}

func queuedComesBack(w *world) {
	w.init()
	claims(w, 1)
	now := time.Now().Add(time.Second).UTC().Truncate(time.Millisecond)
	due := w.due("a", now, 10)
	for _, d := range due {
		d.Tries, d.NextAt, d.LastError = d.Tries+1, now.Add(5*time.Second), "connection refused"
		w.settle(d)
	}
	if got := w.due("a", now.Add(4*time.Second), 10); len(got) > 0 {
		w.Errorf("too early: %v", labels(got))
	}
	got := w.due("b", now.Add(5*time.Second), 10)
	if len(got) != 2 || got[0].Tries != 1 || got[0].LastError != "connection refused" || !got[0].NextAt.Equal(now.Add(5*time.Second)) {
		w.Errorf("later: %+v", got)
	}
	w.check()
}

func largeGroup(w *world) {
	w.init()
	claims(w, 1, 1, 1, 1, 1)
	now := time.Now().Add(time.Second)
	cut := w.due("a", now, 4)
	if got, want := labels(cut), []string{"1/2/e", "1/2/t", "1/3/e", "1/3/t"}; !slices.Equal(got, want) {
		w.Errorf("cut to %v, want %v", got, want)
	}
	if got := w.due("b", now, 4); len(got) > 0 {
		w.Errorf("the rest of the group goes to b: %v", labels(got))
	}
	for _, d := range cut {
		d.State, d.Manifest = ledger.Done, Image(9)
		w.settle(d)
	}
	if got, want := labels(w.due("b", now, 4)), []string{"1/4/e", "1/4/t", "1/5/e", "1/5/t"}; !slices.Equal(got, want) {
		w.Errorf("then %v, want %v", got, want)
	}
}

func settleUnknown(w *world) {
	w.init()
	claims(w, 1)
	d := w.due("a", time.Now().Add(time.Second), 1)[0]
	for name, spoil := range map[string]func(*ledger.Delivery){
		"entry":      func(d *ledger.Delivery) { d.Entry = 99 },
		"repository": func(d *ledger.Delivery) { d.Repository = "elsewhere" },
		"subject":    func(d *ledger.Delivery) { d.Subject = Image(12) },
	} {
		wrong := d
		wrong.State, wrong.Manifest = ledger.Done, Image(3)
		spoil(&wrong)
		if err := w.store.Settle(w.ctx, wrong); !errors.Is(err, ledger.ErrNotFound) {
			w.Errorf("other %s: %v, want ErrNotFound", name, err)
		}
	}
	w.check()
}
