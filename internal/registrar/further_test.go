package registrar_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/scittd/scittd/internal/registrar"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
	"github.com/scittd/scittd/storage"
)

func (w *world) pushedBeside(s *statement.Statement, name string, image statement.Digest) ledger.Registered {
	w.Helper()
	reg, err := w.registrar.Register(w.Context(), s.Canonical(), ledger.Circumstances{Repository: name, Image: image, Caller: "test"})
	if err != nil {
		w.Fatal(err)
	}
	return reg
}

// settled are the deliveries of an entry, once a Courier with a Custodian has
// settled them.
func (w *world) settled(c *registrar.Custodian, id statement.ID) []ledger.Delivery {
	w.Helper()
	w.settle(w.registry, c, id)
	all, err := w.ledger.Deliveries(w.Context(), id, ledger.All)
	if err != nil || len(all) == 0 {
		w.Fatal(all, err)
	}
	return all
}

// places says where an entry goes: repository@subject artifact.
func (w *world) places(id statement.ID) []string {
	w.Helper()
	all, err := w.ledger.Deliveries(w.Context(), id, ledger.All)
	if err != nil {
		w.Fatal(err)
	}
	var places []string
	for _, d := range all {
		places = append(places, d.Repository+"@"+string(d.Subject)+" "+d.Artifact)
	}
	slices.Sort(places)
	return places
}

func TestWhatIsRegisteredAlreadyIsPlacedWhereItIsPushedNext(t *testing.T) {
	w := newWorld(t)
	const second = "mirror/net-monitor"
	other := w.pushImage(second)
	// It names no artifact, and may so be hung on any image.
	s := w.publisher.Sign(t, statement.Template{Subject: "urn:sbom:1", ContentType: ledgertest.SBOM, Payload: []byte("{}")})
	first := w.pushedBeside(s, repository, w.image)
	before := w.places(s.ID())
	if reg, err := w.registrar.Register(t.Context(), s.Canonical(), ledger.Circumstances{Caller: "test"}); err != nil || reg.New || !slices.Equal(w.places(s.ID()), before) {
		t.Fatalf("a plain resubmission: %v, places %v, before %v", err, w.places(s.ID()), before)
	}

	for range 2 { // the second time adds nothing
		if reg := w.pushedBeside(s, second, other); reg.New || reg.Entry.Index != first.Entry.Index || string(reg.Receipt) != string(first.Receipt) {
			t.Errorf("pushed beside a second image: %+v; want the first entry and receipt", reg)
		}
		want := append(slices.Clone(before), second+"@"+string(other)+" evidence", second+"@"+string(other)+" transparency")
		slices.Sort(want)
		if got := w.places(s.ID()); !slices.Equal(got, want) {
			t.Errorf("places %v, want %v", got, want)
		}
	}

	for _, d := range w.deliver(w.registry, s.ID()) {
		if d.State != ledger.Done {
			t.Errorf("%s beside %s: %s, %s", d.Artifact, d.Repository, d.State, d.LastError)
		}
	}
	repo, err := w.registry.Repository(second)
	if err != nil {
		t.Fatal(err)
	}
	if list, err := repo.Referrers(t.Context(), string(other), storage.TransparencyType); err != nil || len(list) != 1 {
		t.Errorf("beside the second image: %v, %v; want the transparency artifact", list, err)
	}
}

func TestEvidenceThatWasPlacedOnceIsCopiedToTheSecondRepository(t *testing.T) {
	w := newWorld(t)
	const second = "mirror/net-monitor"
	other, c := w.pushImage(second), w.custodian()
	content := []byte(`{"bomFormat":"CycloneDX"}`)
	w.stageContent(content)
	s := w.publisher.Sign(t, statement.Template{
		Subject: "urn:sbom:2", ContentType: ledgertest.SBOM, HashAlg: -16, Payload: statement.SHA256(content).Bytes(),
	})
	w.pushedBeside(s, repository, w.image)
	w.settled(c, s.ID())
	w.pushedBeside(s, second, other)
	for _, d := range w.settled(c, s.ID()) {
		if d.State != ledger.Done {
			t.Errorf("%s beside %s: %s, %s", d.Artifact, d.Repository, d.State, d.LastError)
		}
	}
}

func TestNothingOfAPrivateClaimIsPlacedByNamingAPlaceForIt(t *testing.T) {
	w := newWorld(t)
	s := w.private.Claim(t, w.image, ledgertest.SBOM, []byte("secret sbom"))
	w.mustRegister(s)
	w.pushedBeside(s, repository, w.image)
	if got := w.places(s.ID()); len(got) > 0 {
		t.Errorf("a private claim goes to %v", got)
	}
	e, err := w.ledger.Entry(t.Context(), s.ID(), ledger.All)
	if err != nil {
		t.Fatal(err)
	}
	d := ledger.Delivery{Entry: e.Index, Registry: host, Repository: repository, Subject: w.image, Artifact: ledger.TransparencyArtifact}
	if n, err := w.store.Enqueue(t.Context(), []ledger.Delivery{d}, "test", "", e.RegisteredAt); n != 0 || err != nil {
		t.Errorf("the store queues %d, %v; want none", n, err)
	}
}

// Bytes that are public could else be hung on every digest that somebody makes up.
func TestAnEntryIsNotGivenPlacesWithoutEnd(t *testing.T) {
	w := newWorld(t)
	s := w.publisher.Sign(t, statement.Template{Subject: "urn:sbom:4", ContentType: ledgertest.SBOM, Payload: []byte("{}")})
	e := w.pushedBeside(s, repository, w.image).Entry
	var many []ledger.Delivery
	for i := range 1020 {
		many = append(many, ledger.Delivery{
			Entry: e.Index, EntryID: e.ID, Registry: host, Repository: repository, Subject: statement.SHA256([]byte{byte(i), byte(i >> 8)}),
			Artifact: ledger.TransparencyArtifact, NextAt: e.RegisteredAt,
		})
	}
	if _, err := w.store.Enqueue(t.Context(), many, "test", "", e.RegisteredAt); err != nil {
		t.Fatal(err)
	}
	before := len(w.places(s.ID()))
	w.pushedBeside(s, repository, w.image) // is there
	w.pushedBeside(s, repository, statement.SHA256([]byte("the last one")))
	_, err := w.registrar.Register(t.Context(), s.Canonical(), ledger.Circumstances{Repository: repository, Image: statement.SHA256([]byte("one more")), Caller: "test"})
	var refusal *policy.Refusal
	if !errors.As(err, &refusal) || refusal.Rule != "placement" {
		t.Errorf("got %v, want a refusal", err)
	}
	if got := len(w.places(s.ID())); before != 1022 || got != 1024 {
		t.Errorf("%d deliveries, and %d after two more; want 1022 and 1024", before, got)
	}
}

func TestPurgedEvidenceIsPlacedNowhereElse(t *testing.T) {
	w := newWorld(t)
	const second = "mirror/net-monitor"
	other, c := w.pushImage(second), w.custodian()
	s := w.publisher.Sign(t, statement.Template{Subject: "urn:sbom:3", ContentType: ledgertest.SBOM, Payload: []byte("{}")})
	w.pushedBeside(s, repository, w.image)
	if _, err := w.store.Mark(t.Context(), ledger.Marking{
		Evidence: []statement.Digest{s.Evidence()}, State: ledger.EvidencePurged, Who: "olga",
	}); err != nil {
		t.Fatal(err)
	}
	w.pushedBeside(s, second, other)
	for _, d := range w.settled(c, s.ID()) {
		if want := map[string]string{ledger.EvidenceArtifact: ledger.Dropped, ledger.TransparencyArtifact: ledger.Done}[d.Artifact]; d.State != want {
			t.Errorf("%s in %s: %s, %s; want %s", d.Artifact, d.Repository, d.State, d.LastError, want)
		}
	}
}
