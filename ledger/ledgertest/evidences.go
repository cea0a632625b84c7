package ledgertest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

var evidenceTests = []test{
	{"the state of evidence follows from where its bytes are", evidenceStates},
	{"a purge of bytes is one of every entry that speaks of them, and ends what is queued", purgeIsOfBytes},
	{"a purge is declared once, also by many at a time", purgedOnce},
	{"a purge reaches what was refused or dropped, and takes bytes that are named twice once", purgeReachesAll},
	{"evidence that went from one place is still in the other, and what is no place marks nothing", purgedAtOnePlace},
	{"what is missing is found again or declared purged, and what is purged stays so", missingUntilDeclared},
	{"evidence that is still needed is not asked to be removed", neededStays},
	{"removals and unrecorded purges come page by page, and a purge remembers which statement tells of it", purgesInPages},
	{"claims about an image index are found for what it lists, and marked", foundViaIndex},
	{"pages of claims via an index neither skip nor repeat", viaPagesAreStable},
	{"private claims about an image index stay private", viaIsScoped},
	{"an index that lists too much, itself or nothing does no harm", oddIndexes},
	{"many indexes of one manifest do not hide the one of which something is claimed", crowdedManifest},
}

// state of the evidence of s as a query says it.
func (w *world) state(s *statement.Statement) string {
	w.Helper()
	found, err := w.store.Claims(w.ctx, ledger.Query{Scope: ledger.All, IDs: []statement.ID{s.ID()}, Limit: 1}, false)
	if err != nil || len(found) != 1 {
		w.Fatalf("claims of %s: %+v, %v", s.ID(), found, err)
	}
	return found[0].EvidenceState
}

func (w *world) wantState(s *statement.Statement, want string) {
	w.Helper()
	if got := w.state(s); got != want {
		w.Fatalf("evidence of %s is %s, want %s", s.ID(), got, want)
	}
}

// deliver settles everything queued of s as done, evidence of size bytes.
func (w *world) deliver(s *statement.Statement, size int64) []ledger.Delivery {
	w.Helper()
	all, err := w.store.Deliveries(w.ctx, s.ID(), ledger.All)
	if err != nil {
		w.Fatal(err)
	}
	for _, d := range all {
		d.State, d.Tries, d.Manifest = ledger.Done, 1, statement.SHA256([]byte(d.Artifact))
		if d.Artifact == ledger.EvidenceArtifact {
			d.Size = size
		}
		w.settle(d, "courier")
	}
	return all
}

func (w *world) mark(m ledger.Marking) int {
	w.Helper()
	if m.At.IsZero() {
		m.At = purgeTime
	}
	n, err := w.store.Mark(w.ctx, m)
	if err != nil {
		w.Fatal(err)
	}
	w.check()
	return n
}

var purgeTime = time.Date(2027, 1, 10, 0, 0, 0, 0, time.UTC)

// purge declares the evidence of s purged.
func (w *world) purge(s *statement.Statement, why string) int {
	w.Helper()
	return w.mark(ledger.Marking{Evidence: []statement.Digest{s.Evidence()}, State: ledger.EvidencePurged, Who: "op", Why: why})
}

func (w *world) absences(statements ...*statement.Statement) []ledger.Absence {
	w.Helper()
	at, err := w.store.Indexes(w.ctx, ids(statements), ledger.All)
	if err != nil {
		w.Fatal(err)
	}
	var indexes []uint64
	for _, i := range at {
		indexes = append(indexes, i)
	}
	found, err := w.store.Absences(w.ctx, indexes)
	if err != nil {
		w.Fatal(err)
	}
	return found
}

func evidenceStates(w *world) {
	w.init()
	queued := w.wabbit.Claim(w, Image(1), SBOM, []byte("queued"))
	hidden := w.secret.Claim(w, Image(1), SBOM, []byte("hidden"))
	w.commit(queued, hidden)
	w.wantState(queued, ledger.EvidenceStaged)
	w.wantState(hidden, ledger.EvidenceNone)
	w.stage([]byte("hidden"))
	w.wantState(hidden, ledger.EvidenceStaged)
	w.deliver(queued, 6)
	w.wantState(queued, ledger.EvidencePlaced)
	w.purge(queued, "")
	w.reopen()
	w.wantState(queued, ledger.EvidencePurged)
	w.purge(hidden, "")
	w.wantState(hidden, ledger.EvidencePurged)
	if _, _, err := w.store.Staged(w.ctx, hidden.Evidence()); !errors.Is(err, ledger.ErrNotFound) {
		w.Errorf("staged content after its purge: %v, want ErrNotFound", err)
	}
	// Somebody stages the same bytes again: that is another story.
	w.stage([]byte("hidden"))
	w.wantState(hidden, ledger.EvidencePurged)
	again := w.secret.Sign(w, statement.Template{Subject: "later", ContentType: Report, Payload: []byte("hidden")})
	w.commit(again)
	w.wantState(again, ledger.EvidenceStaged)
}

func purgeIsOfBytes(w *world) {
	w.init()
	first := w.wabbit.Claim(w, Image(1), SBOM, []byte("shared"))
	second := w.wabbit.Claim(w, Image(2), SBOM, []byte("shared"))
	other := w.wabbit.Claim(w, Image(1), SBOM, []byte("other"))
	w.commit(first, second, other)
	w.deliver(first, 6)
	due := w.due("courier", time.Now().Add(time.Minute), 10, 10) // second is under way, and so is other
	if n := w.purge(first, "asked for"); n != 4 {
		w.Errorf("%d marks, want 2 entries and 2 places", n)
	}
	w.wantState(first, ledger.EvidencePurged)
	w.wantState(second, ledger.EvidencePurged)
	w.wantState(other, ledger.EvidenceStaged)
	for _, d := range due { // too late: the delivery has ended
		d.State, d.Tries, d.Manifest, d.Size = ledger.Done, 1, statement.SHA256([]byte("x")), 6
		w.settle(d, "courier")
	}
	w.wantState(second, ledger.EvidencePurged)
	w.wantState(other, ledger.EvidencePlaced)
	deliveries, err := w.store.Deliveries(w.ctx, second.ID(), ledger.All)
	if err != nil {
		w.Fatal(err)
	}
	for _, d := range deliveries {
		want := map[string]string{ledger.EvidenceArtifact: ledger.Dropped, ledger.TransparencyArtifact: ledger.Done}[d.Artifact]
		if d.State != want {
			w.Errorf("%s is %s, want %s", d.Artifact, d.State, want)
		}
	}
	for _, a := range w.absences(first, second, other) {
		if a.State != ledger.EvidencePurged || a.Size != 6 || !a.At.Equal(purgeTime) || a.Who != "op" || a.Why != "asked for" ||
			a.Evidence != first.Evidence() || a.MediaType != SBOM || a.Pending != (a.Registry != "") {
			w.Errorf("absence %+v", a)
		}
	}
}

func purgedOnce(w *world) {
	w.init()
	s := w.wabbit.Claim(w, Image(1), SBOM, []byte("x"))
	w.commit(s)
	w.deliver(s, 1)
	w.purge(s, "first")
	var many sync.WaitGroup
	for range 4 {
		many.Go(func() {
			m := ledger.Marking{Evidence: []statement.Digest{s.Evidence()}, State: ledger.EvidencePurged, At: time.Now(), Who: "other", Why: "later"}
			if n, err := w.store.Mark(context.Background(), m); err != nil || n != 0 {
				w.Errorf("purged again: %d, %v", n, err)
			}
		})
	}
	many.Wait()
	absences := w.absences(s)
	if len(absences) != 2 {
		w.Fatalf("%d absences, want the whole and one place", len(absences))
	}
	for _, a := range absences {
		if a.Why != "first" || a.Who != "op" || !a.At.Equal(purgeTime) {
			w.Errorf("%+v, want the first word", a)
		}
	}
}

func purgeReachesAll(w *world) {
	w.init()
	refused := w.wabbit.Claim(w, Image(1), SBOM, []byte("x"))
	dropped := w.wabbit.Claim(w, Image(2), SBOM, []byte("x"))
	w.commit(refused, dropped)
	for _, d := range w.due("courier", time.Now().Add(time.Minute), 10, 10) {
		if d.State, d.Tries, d.LastError = ledger.Refused, 1, "too large"; d.EntryID == refused.ID() {
			w.settle(d, "courier")
		} else if err := w.store.Intervene(w.ctx, d, ledger.Intervention{Action: ledger.Drop, Who: "op", At: purgeTime}); err != nil {
			w.Fatal(err)
		}
	}
	m := ledger.Marking{Evidence: []statement.Digest{refused.Evidence(), refused.Evidence()}, State: ledger.EvidencePurged, Who: "op"}
	if n := w.mark(m); n != 4 {
		w.Errorf("%d marks, want 2 entries and 2 places", n)
	}
	if all, err := w.store.Removals(w.ctx, -1, 10); err != nil || len(all) != 2 || all[0].Manifest != "" {
		w.Errorf("removals %+v, %v; want one from each place, where nothing was settled", all, err)
	}
}

func purgedAtOnePlace(w *world) {
	w.init()
	s := w.wabbit.Provenance(w, "https://slsa.dev/provenance/v1", Image(1), Image(2))
	w.commit(s)
	w.deliver(s, 9)
	if _, err := w.store.Mark(w.ctx, ledger.Marking{Registry: registry, State: ledger.EvidencePurged}); err == nil {
		w.Error("a marking of everything was taken")
	}
	for _, nowhere := range []ledger.Marking{
		{Registry: "other.example", Subject: Image(1)}, {Registry: registry, Repository: "wabbit/other", Subject: Image(1)},
		{Registry: registry, Subject: Image(3)}, {Evidence: []statement.Digest{Image(3)}}, {Registry: registry + "\x00", Subject: Image(1)},
	} {
		nowhere.State, nowhere.At = ledger.EvidencePurged, purgeTime
		if n, err := w.store.Mark(w.ctx, nowhere); err != nil || n != 0 {
			w.Errorf("%+v marked %d, %v", nowhere, n, err)
		}
	}
	at := ledger.Marking{Registry: registry, Repository: "wabbit/net-monitor", Subject: Image(1), State: ledger.EvidencePurged}
	if n := w.mark(at); n != 1 {
		w.Errorf("%d marks, want 1", n)
	}
	w.wantState(s, ledger.EvidencePlaced)
	at.Subject = Image(2)
	w.mark(at)
	w.wantState(s, ledger.EvidencePurged)
}

func missingUntilDeclared(w *world) {
	w.init()
	s := w.wabbit.Claim(w, Image(1), SBOM, []byte("x"))
	queued := w.wabbit.Claim(w, Image(1), SBOM, []byte("y"))
	w.commit(s)
	place := ledger.Place{Registry: registry, Repository: "wabbit/net-monitor", Subject: Image(1)}
	w.deliver(s, 1)
	w.commit(queued)
	missing := ledger.Marking{Registry: place.Registry, Repository: place.Repository, Subject: place.Subject, State: ledger.EvidenceMissing}
	if n := w.mark(missing); n != 1 {
		w.Errorf("%d marks; what is only queued cannot be missing", n)
	}
	w.wantState(s, ledger.EvidenceMissing)
	w.wantState(queued, ledger.EvidenceStaged)
	found := func() {
		if err := w.store.Found(w.ctx, place, s.Evidence()); err != nil {
			w.Fatal(err)
		}
	}
	found()
	w.wantState(s, ledger.EvidencePlaced)
	w.mark(missing)
	w.purge(s, "declared")
	w.wantState(s, ledger.EvidencePurged)
	found()
	w.mark(missing)
	w.wantState(s, ledger.EvidencePurged)
}

func neededStays(w *world) {
	w.init()
	s := w.wabbit.Claim(w, Image(1), SBOM, []byte("x"))
	w.commit(s)
	w.deliver(s, 1)
	w.purge(s, "it must go")
	removals := func() []ledger.Removal {
		w.Helper()
		all, err := w.store.Removals(w.ctx, -1, 10)
		if err != nil {
			w.Fatal(err)
		}
		return all
	}
	place := ledger.Place{Registry: registry, Repository: "wabbit/net-monitor", Subject: Image(1)}
	at := w.size() - 1
	want := ledger.Removal{Place: place, Entry: at, Evidence: s.Evidence(), At: purgeTime, Why: "it must go", Manifest: statement.SHA256([]byte(ledger.EvidenceArtifact))}
	if got := removals(); len(got) != 1 || got[0] != want {
		w.Fatalf("removals %+v, want %+v", got, want)
	}
	// The same bytes are claimed anew: first in the repository, then on the image.
	w.commit(w.wabbit.Claim(w, Image(2), SBOM, []byte("x")))
	want.BlobNeeded = true
	if got := removals(); len(got) != 1 || got[0] != want {
		w.Errorf("removals %+v, want %+v", got, want)
	}
	w.commit(w.wabbit.Claim(w, Image(1), Report, []byte("x")))
	want.ManifestNeeded = true
	if got := removals(); len(got) != 1 || got[0] != want {
		w.Errorf("removals %+v, want %+v", got, want)
	}
	removed := func(r ledger.Removal, left int) {
		w.Helper()
		if err := w.store.Removed(w.ctx, r); err != nil {
			w.Fatal(err)
		}
		if got := removals(); len(got) != left {
			w.Errorf("removals %+v, want %d", got, left)
		}
	}
	// It comes back while it is being removed.
	if err := w.store.RemoveAgain(w.ctx, at, place); err != nil {
		w.Fatal(err)
	}
	removed(want, 1)
	want.Asked++
	removed(want, 0)
	if err := w.store.RemoveAgain(w.ctx, at, place); err != nil {
		w.Fatal(err)
	}
	removed(want, 1)
	w.wantState(s, ledger.EvidencePurged)
}

func purgesInPages(w *world) {
	w.init()
	const n = 5
	statements := w.wabbit.Claims(w, 0, n)
	w.commit(statements...)
	for _, s := range statements {
		w.deliver(s, 1)
		w.purge(s, "")
	}
	var removed, unrecorded []uint64
	for above := int64(-1); ; {
		page, err := w.store.Removals(w.ctx, above, 2)
		if err != nil {
			w.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, r := range page {
			removed, above = append(removed, r.Entry), int64(r.Entry)
		}
	}
	for above := int64(-1); ; {
		page, err := w.store.Unrecorded(w.ctx, above, 2)
		if err != nil {
			w.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, a := range page {
			if above = int64(a.Entry); a.Place == (ledger.Place{}) {
				unrecorded = append(unrecorded, a.Entry)
			}
		}
	}
	var want []uint64
	for i := range uint64(n) {
		want = append(want, w.size()-n+i)
	}
	if !slices.Equal(removed, want) || !slices.Equal(unrecorded, want) {
		w.Errorf("removals of %v, unrecorded %v, want both %v", removed, unrecorded, want)
	}
	word := w.wabbit.Sign(w, statement.Template{Subject: "what was purged", Payload: []byte("{}")})
	w.commit(word)
	if err := w.store.Recorded(w.ctx, want[1:], word.ID()); err != nil {
		w.Fatal(err)
	}
	for _, a := range w.absences(statements...) {
		if recorded := a.Statement == word.ID(); recorded != (a.Entry != want[0]) {
			w.Errorf("%+v is recorded: %v", a, recorded)
		}
	}
	if left, err := w.store.Unrecorded(w.ctx, -1, 10); err != nil || len(left) != 2 || left[0].Entry != want[0] {
		w.Errorf("unrecorded: %+v, %v", left, err)
	}
	w.check()
}
