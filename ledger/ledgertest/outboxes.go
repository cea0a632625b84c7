package ledgertest

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

var outboxTests = []test{
	{"deliveries are listed in order, with their entry", listsDeliveries},
	{"due deliveries come in groups, those first that have been due longest", dueByGroup},
	{"every registry has a queue of its own", dueByRegistry},
	{"a group under a running lease is left alone", leaseIsExclusive},
	{"a lease is renewed by its owner alone, and given back", leaseIsRenewed},
	{"who lost the lease tells of success alone", settlesWithoutLease},
	{"concurrent workers never share a delivery", workersDoNotShare},
	{"what is settled never comes back", settledStays},
	{"what is queued again comes back later", queuedComesBack},
	{"groups that are cut take turns", largeGroups},
	{"what fails again and again does not stand before what is new", failuresGoBehind},
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

// pickup asks for that many groups, and deliveries of each.
func pickup(owner string, places, each int) ledger.Pickup {
	return ledger.Pickup{Owner: owner, Registry: registry, Lease: time.Minute, Places: places, Each: each}
}

func (w *world) due(owner string, now time.Time, places, each int) []ledger.Delivery {
	w.Helper()
	due, err := w.store.Due(w.ctx, pickup(owner, places, each), now)
	if err != nil {
		w.Fatal(err)
	}
	count := map[ledger.Place]int{}
	for _, d := range due {
		if count[d.Place()]++; count[d.Place()] > each || len(count) > places {
			w.Fatalf("asked for %d of %d groups: %v", each, places, labels(due))
		}
	}
	return due
}

// settle settles d as the owner of its lease, or where nobody has one.
func (w *world) settle(d ledger.Delivery, owner string) {
	w.Helper()
	if err := w.store.Settle(w.ctx, owner, d); err != nil {
		w.Fatal(err)
	}
}

func (w *world) done(owner string, all ...ledger.Delivery) {
	w.Helper()
	for _, d := range all {
		d.State, d.Manifest = ledger.Done, Image(50)
		w.settle(d, owner)
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
	if got := w.due("early", now.Add(-time.Hour), 100, 100); len(got) > 0 {
		w.Errorf("an hour before: %v", labels(got))
	}
	first := w.due("a", now, 1, 100)
	if got, want := labels(first), []string{"1/2/e", "1/2/t", "1/4/e", "1/4/t"}; !slices.Equal(got, want) {
		w.Errorf("first group: %v, want %v", got, want)
	}
	rest := labels(w.due("a", now, 100, 100))
	if want := []string{"2/3/e", "2/3/t", "2/5/e", "2/5/t", "3/6/e", "3/6/t"}; !slices.Equal(rest, want) {
		w.Errorf("rest: %v, want %v", rest, want)
	}
	for _, none := range [][2]int{{0, 10}, {10, 0}} {
		if got := w.due("a", now, none[0], none[1]); len(got) > 0 {
			w.Errorf("none asked for: %v", labels(got))
		}
	}
}

func dueByRegistry(w *world) {
	w.init()
	claims(w, 1)
	now := time.Now().Add(time.Second)
	other := pickup("a", 10, 10)
	other.Registry = "elsewhere.example"
	if got, err := w.store.Due(w.ctx, other, now); err != nil || len(got) > 0 {
		w.Errorf("due for another registry: %v, %v", labels(got), err)
	}
	waiting := func(at time.Time, want ...string) {
		w.Helper()
		if got, err := w.store.Waiting(w.ctx, at); err != nil || !slices.Equal(got, want) {
			w.Errorf("waiting: %v, %v; want %v", got, err, want)
		}
	}
	waiting(now.Add(-time.Hour))
	waiting(now, registry)
	due := w.due("a", now, 10, 10)
	waiting(now, registry) // leased is not placed
	w.done("a", due...)
	waiting(now)
}

func leaseIsExclusive(w *world) {
	w.init()
	claims(w, 1)
	now := time.Now().Add(time.Second)
	held := w.due("a", now, 10, 10)
	claims(w, 1, 2) // one more for the leased subject
	for _, owner := range []string{"a", "b"} {
		if got, want := labels(w.due(owner, now, 10, 10)), []string{"2/4/e", "2/4/t"}; owner == "a" && !slices.Equal(got, want) || owner == "b" && len(got) > 0 {
			w.Errorf("beside the lease %s gets %v", owner, got)
		}
	}
	w.done("a", held[0])
	if got := labels(w.due("b", now, 10, 10)); len(got) > 0 {
		w.Errorf("with the group half settled b gets %v", got)
	}
	// The lease of a worker that died ends by itself.
	late := now.Add(time.Minute + time.Second)
	if got, want := labels(w.due("b", late, 10, 10)), []string{"1/2/t", "1/3/e", "1/3/t", "2/4/e", "2/4/t"}; !slices.Equal(got, want) {
		w.Errorf("after the leases: %v, want %v", got, want)
	}
}

func leaseIsRenewed(w *world) {
	w.init()
	claims(w, 1)
	now := time.Now().Add(time.Second)
	held := w.due("a", now, 10, 10)
	at := held[0].Place()
	renew := func(owner string, now, until time.Time, want bool) {
		w.Helper()
		if got, err := w.store.Renew(w.ctx, owner, at, now, until); err != nil || got != want {
			w.Errorf("renewed by %s: %v, %v; want %v", owner, got, err, want)
		}
	}
	renew("b", now, now.Add(time.Hour), false)
	soon, late := now.Add(30*time.Second), now.Add(80*time.Second)
	renew("a", soon, soon.Add(time.Minute), true)
	if got := w.due("b", late, 10, 10); len(got) > 0 {
		w.Errorf("a lease that was renewed ends as before: b gets %v", labels(got))
	}
	w.done("a", held[0])
	renew("a", late, late, true)
	renew("a", late, late.Add(time.Minute), false) // it was given back
	if got, want := labels(w.due("b", late, 10, 10)), []string{"1/2/t"}; !slices.Equal(got, want) {
		w.Errorf("given back: b gets %v, want %v", got, want)
	}
	renew("a", late, late.Add(time.Minute), false)
}

func settlesWithoutLease(w *world) {
	w.init()
	s := claims(w, 1)[0]
	now := time.Now().Add(time.Second)
	slow := w.due("a", now, 10, 10)
	late := now.Add(time.Hour)
	w.due("b", late, 10, 10)
	for i, state := range []string{ledger.Queued, ledger.Refused} {
		d := slow[i]
		d.State, d.Tries, d.NextAt, d.LastError = state, 7, late, "too late"
		w.settle(d, "a")
	}
	if got := w.due("c", late, 10, 10); len(got) > 0 {
		w.Errorf("who lost its lease ended b's: c gets %v", labels(got))
	}
	w.done("a", slow[0])
	got, err := w.store.Deliveries(w.ctx, s.ID(), ledger.Public)
	if err != nil || len(got) != 2 || got[0].State != ledger.Done || got[1].State != ledger.Queued || got[1].Tries != 0 {
		w.Errorf("deliveries %+v (%v); want what was placed to be done, the other untouched", got, err)
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
				due, err := w.store.Due(w.ctx, pickup(fmt.Sprint(worker), 3, 10), now)
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
	due := w.due("a", now, 10, 10)
	done, refused := due[0], due[1]
	done.State, done.Tries, done.Manifest, done.LastError = ledger.Done, 1, Image(7), ""
	refused.State, refused.Tries, refused.LastError = ledger.Refused, 3, "413: too large"
	w.settle(done, "a")
	w.settle(refused, "a")
	again := done
	again.State, again.Tries, again.Manifest = ledger.Queued, 9, ""
	w.settle(again, "a")
	w.reopen()
	got, err := w.store.Deliveries(w.ctx, s.ID(), ledger.Public)
	if err != nil || !reflect.DeepEqual(got, []ledger.Delivery{done, refused}) {
		w.Errorf("%v: deliveries\n%+v, want\n%+v", err, got, []ledger.Delivery{done, refused})
	}
	if got := w.due("a", now.Add(24*time.Hour), 10, 10); len(got) > 0 {
		w.Errorf("due again: %v", labels(got))
	}
	w.check()
}

func queuedComesBack(w *world) {
	w.init()
	claims(w, 1)
	now := time.Now().Add(time.Second).UTC().Truncate(time.Millisecond)
	due := w.due("a", now, 10, 10)
	for _, d := range due {
		d.Tries, d.NextAt, d.LastError = d.Tries+1, now.Add(5*time.Second), "connection refused"
		w.settle(d, "a")
	}
	if got := w.due("a", now.Add(4*time.Second), 10, 10); len(got) > 0 {
		w.Errorf("too early: %v", labels(got))
	}
	got := w.due("b", now.Add(5*time.Second), 10, 10)
	if len(got) != 2 || got[0].Tries != 1 || got[0].LastError != "connection refused" || !got[0].NextAt.Equal(now.Add(5*time.Second)) {
		w.Errorf("later: %+v", got)
	}
	w.check()
}

func largeGroups(w *world) {
	w.init()
	claims(w, 1, 1, 1, 1, 1)
	claims(w, 2, 2, 2)
	claims(w, 3)
	now := time.Now().Add(time.Second)
	var turns []string
	for range 10 {
		// A worker takes what it gets, places it, and comes again.
		due := w.due("a", now, 1, 4)
		if len(due) == 0 {
			break
		}
		turns = append(turns, labels(due)...)
		turns = append(turns, "|")
		w.done("a", due...)
		now = now.Add(time.Second)
	}
	if got, want := strings.Join(turns, " "), "1/2/e 1/2/t 1/3/e 1/3/t | 2/7/e 2/7/t 2/8/e 2/8/t | 3/10/e 3/10/t | "+
		"1/4/e 1/4/t 1/5/e 1/5/t | 2/9/e 2/9/t | 1/6/e 1/6/t |"; got != want {
		w.Errorf("turns\n%s, want\n%s", got, want)
	}
}

func failuresGoBehind(w *world) {
	w.init()
	claims(w, 1, 2, 3) // whose images are not there
	now := time.Now().Add(time.Second).UTC().Truncate(time.Millisecond)
	for _, d := range w.due("a", now, 10, 10) {
		d.Tries, d.NextAt = 100, now.Add(time.Second)
		w.settle(d, "a")
	}
	claims(w, 4)
	if got, want := labels(w.due("a", now.Add(time.Minute), 1, 10)), []string{"4/5/e", "4/5/t"}; !slices.Equal(got, want) {
		w.Errorf("next is %v, want %v", got, want)
	}
}

func settleUnknown(w *world) {
	w.init()
	claims(w, 1)
	d := w.due("a", time.Now().Add(time.Second), 1, 1)[0]
	for name, spoil := range map[string]func(*ledger.Delivery){
		"entry":      func(d *ledger.Delivery) { d.Entry = 99 },
		"repository": func(d *ledger.Delivery) { d.Repository = "elsewhere" },
		"subject":    func(d *ledger.Delivery) { d.Subject = Image(12) },
	} {
		wrong := d
		wrong.State, wrong.Manifest = ledger.Done, Image(3)
		spoil(&wrong)
		if err := w.store.Settle(w.ctx, "a", wrong); !errors.Is(err, ledger.ErrNotFound) {
			w.Errorf("other %s: %v, want ErrNotFound", name, err)
		}
	}
	w.check()
}
