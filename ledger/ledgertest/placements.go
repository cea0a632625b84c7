package ledgertest

import (
	"slices"
	"sync"
	"time"

	"github.com/scittd/scittd/ledger"
)

var placementTests = []test{
	{"an entry is given another place, once", placedAlso},
	{"what is private, unknown or archived already is given no place", placedInVain},
	{"staged evidence stays for a place that was added", placedStaged},
}

// elsewhere are the deliveries of an entry to another image in another repository.
func elsewhere(e ledger.Entry, now time.Time, artifacts ...string) []ledger.Delivery {
	var all []ledger.Delivery
	for _, artifact := range artifacts {
		all = append(all, ledger.Delivery{
			Entry: e.Index, EntryID: e.ID, Registry: registry, Repository: "mirror/app", Subject: Image(9), Artifact: artifact, NextAt: now,
		})
	}
	return all
}

func placedAlso(w *world) {
	w.init()
	e := w.commit(w.wabbit.Claim(w, Image(1), SBOM, []byte("x"))).Entries[0].Entry
	now := time.Now().Add(time.Second).UTC().Truncate(time.Millisecond)
	ds := elsewhere(e, now, ledger.EvidenceArtifact, ledger.TransparencyArtifact)
	var mu sync.Mutex
	var asking sync.WaitGroup
	added := 0
	for range 8 {
		asking.Go(func() {
			n, err := w.store.Enqueue(w.ctx, ds, "ci", "pushed again", now)
			if err != nil {
				w.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			added += n
		})
	}
	asking.Wait()
	if added != 2 {
		w.Errorf("%d deliveries were added by eight that asked for the same two", added)
	}
	w.check()
	w.reopen()
	found, err := w.store.Find(w.ctx, ledger.Query{Repository: "mirror/app", Limit: 10})
	if err != nil || len(found) != 1 || found[0].ID != e.ID {
		w.Errorf("claims of the second repository: %v, %v", found, err)
	}

	w.place()
	for n := range 4 { // found by the image that it was hung on, on pages of any size
		if got := labels(w.placed(n + 1)); !slices.Contains(got, "9/2/e") || !slices.Contains(got, "9/2/t") || len(got) != 4 {
			w.Errorf("on pages of %d there is placed %v", n+1, got)
		}
	}
	at := ledger.Place{Registry: registry, Repository: "mirror/app", Subject: Image(9)}
	if got, _, err := w.store.PlacedAt(w.ctx, at, 0, 10); err != nil || !slices.Equal(labels(got), []string{"9/2/e", "9/2/t"}) {
		w.Errorf("beside the second image: %v, %v", labels(got), err)
	}
	if n := w.mark(ledger.Marking{Subject: Image(9), State: ledger.EvidencePurged, Why: "the image was deleted", Who: "ci"}); n != 1 {
		w.Errorf("%d marks when the second image is deleted", n)
	}
}

func placedInVain(w *world) {
	w.init()
	w.commit(w.secret.Claim(w, Image(1), SBOM, []byte("secret")), w.wabbit.Claim(w, Image(2), SBOM, []byte("x")))
	now := time.Now()
	enqueue := func(e ledger.Entry, artifact string) int {
		w.Helper()
		n, err := w.store.Enqueue(w.ctx, elsewhere(e, now, artifact), "ci", "", now)
		if err != nil {
			w.Fatal(err)
		}
		w.check()
		return n
	}
	private, public := ledger.Entry{Index: 2}, ledger.Entry{Index: 3}
	if n := enqueue(private, ledger.TransparencyArtifact); n != 0 {
		w.Errorf("%d deliveries of a private entry", n)
	}
	if n := enqueue(ledger.Entry{Index: 99}, ledger.TransparencyArtifact); n != 0 {
		w.Errorf("%d deliveries of an entry that is not there", n)
	}
	if n := enqueue(public, ledger.ArchiveArtifact); n != 1 {
		w.Errorf("%d archives of what had none", n)
	}
	again := elsewhere(public, now, ledger.ArchiveArtifact)
	again[0].Subject = Image(2)
	if n, err := w.store.Enqueue(w.ctx, again, "ci", "", now); n != 0 || err != nil {
		w.Errorf("a second archive: %d, %v", n, err)
	}
	w.check()
}

func placedStaged(w *world) {
	w.init()
	b := content(1000)
	e := w.commit(w.wabbit.Claim(w, Image(1), SBOM, b)).Entries[0].Entry
	now := time.Now().Add(time.Second)
	for _, d := range w.due("a", now, 10, 10) {
		w.done("a", d)
	}
	digest := w.stage(b)
	if _, err := w.store.Enqueue(w.ctx, elsewhere(e, now, ledger.EvidenceArtifact), "ci", "", now); err != nil {
		w.Fatal(err)
	}
	w.sweep(now)
	if w.staged(digest) == nil {
		w.Error("gone before it was placed")
	}
	for _, d := range w.due("a", now, 10, 10) {
		w.done("a", d)
	}
	w.sweep(now)
	if w.staged(digest) != nil {
		w.Error("still there, although all that needed it is settled")
	}
}
