package registrar_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/scittd/scittd/internal/registrar"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/statement"
	"github.com/scittd/scittd/storage"
)

// eventful is a registry that tells of each step of a placement, before and after.
type eventful struct {
	storage.Registry
	on func(moment string)
}

type eventfulRepository struct {
	storage.Repository
	storage.Deleter
	on func(moment string)
}

func (e eventful) Repository(name string) (storage.Repository, error) {
	repo, err := e.Registry.Repository(name)
	if err != nil {
		return nil, err
	}
	return eventfulRepository{repo, repo.(storage.Deleter), e.on}, nil
}

func (r eventfulRepository) PushBlob(ctx context.Context, digest string, size int64, open func() (io.ReadCloser, error)) error {
	r.on("before a blob")
	defer r.on("after a blob")
	return r.Repository.PushBlob(ctx, digest, size, open)
}

func (r eventfulRepository) PushManifest(ctx context.Context, mediaType string, body []byte, tag string) (storage.Descriptor, error) {
	r.on("before the manifest")
	defer r.on("after the manifest")
	return r.Repository.PushManifest(ctx, mediaType, body, tag)
}

func (r eventfulRepository) Referrers(ctx context.Context, subject, artifactType string) ([]storage.Descriptor, error) {
	list, err := r.Repository.Referrers(ctx, subject, artifactType)
	r.on("behind a list")
	return list, err
}

// custodian runs one on the world's registry until the test ends.
func (w *world) custodian() *registrar.Custodian { return w.custodianOf(w.registry) }

func (w *world) custodianOf(registry storage.Registry) *registrar.Custodian {
	w.Helper()
	c := registrar.NewCustodian(w.ledger, w.store, func(string) (storage.Registry, error) { return registry, nil },
		registrar.CustodianOptions{Owner: w.Name(), Registry: host, Poll: time.Millisecond, Grace: 50 * time.Millisecond})
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { c.Run(ctx) })
	w.Cleanup(func() { stop(); running.Wait() })
	return c
}

// settle runs a Courier with a custodian until nothing of the entry is queued.
func (w *world) settle(registry storage.Registry, c *registrar.Custodian, id statement.ID) {
	w.Helper()
	courier := registrar.NewCourier(w.ledger, w.store, func(string) (storage.Registry, error) { return registry, nil },
		registrar.CourierOptions{Owner: w.Name(), Poll: time.Millisecond, Lease: time.Second, Custodian: c, Gone: c.Gone})
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { courier.Run(ctx) })
	defer running.Wait()
	defer stop()
	w.await("all deliveries to be settled", func() bool {
		deliveries, err := w.ledger.Deliveries(ctx, id, ledger.All)
		if err != nil {
			w.Fatal(err)
		}
		return !slices.ContainsFunc(deliveries, func(d ledger.Delivery) bool { return d.State == ledger.Queued })
	})
}

func (w *world) await(what string, done func() bool) {
	w.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.Fatalf("waited in vain for %s", what)
		}
	}
}

func (w *world) state(id statement.ID) string {
	w.Helper()
	claims, err := w.store.Claims(w.Context(), ledger.Query{Scope: ledger.All, IDs: []statement.ID{id}, Limit: 1}, false)
	if err != nil || len(claims) != 1 {
		w.Fatalf("claims %v, %v", claims, err)
	}
	return claims[0].EvidenceState
}

// left says what of the evidence of s the registry has.
func (w *world) left(s *statement.Statement) (manifests, blobs int) {
	w.Helper()
	repo, err := w.registry.Repository(repository)
	if err != nil {
		w.Fatal(err)
	}
	if _, there, err := repo.HasBlob(w.Context(), string(s.Evidence())); err != nil {
		w.Fatal(err)
	} else if there {
		blobs = 1
	}
	return len(w.referrers()[s.MediaType()]), blobs
}

func TestAPurgeAtAnyMomentOfADeliveryLeavesNothing(t *testing.T) {
	w := newWorld(t)
	c := w.custodian()
	// The moments that a placement has, one by one until there is none left.
	for nth := 0; ; nth++ {
		s := w.publisher.Provenance(t, fmt.Sprintf("https://slsa.dev/provenance/v%d", nth), w.image)
		var once sync.Mutex
		at, moment := 0, ""
		purge := func(now string) {
			once.Lock()
			defer once.Unlock()
			if at++; at != nth+1 {
				return
			}
			moment = now
			if err := c.Purge(context.Background(), s.ID(), ledger.All, "test", now); err != nil {
				t.Errorf("purge %s: %v", now, err)
			}
		}
		w.mustRegister(s)
		w.settle(eventful{w.registry, purge}, c, s.ID())
		last := moment == ""
		if last { // everything is settled
			if err := c.Purge(t.Context(), s.ID(), ledger.All, "test", "afterwards"); err != nil {
				t.Fatal(err)
			}
		}
		w.await("the removal of what was purged "+moment, func() bool {
			manifests, blobs := w.left(s)
			pending, err := w.store.Removals(t.Context(), -1, 1)
			return err == nil && manifests+blobs+len(pending) == 0
		})
		if got := w.state(s.ID()); got != ledger.EvidencePurged {
			t.Errorf("purged %s: evidence is %s", moment, got)
		}
		if n := len(w.referrers()[transparencyType]); n != nth+1 {
			t.Errorf("purged %s: %d transparency artifacts, want %d", moment, n, nth+1)
		}
		if last {
			if nth < 8 {
				t.Errorf("only %d moments were tried", nth)
			}
			return
		}
	}
}

func TestWhatWasPurgedIsNotPlacedByOrder(t *testing.T) {
	w := newWorld(t)
	c := w.custodian()
	s := w.publisher.Provenance(t, "https://slsa.dev/provenance/v1", w.image)
	w.mustRegister(s)
	w.settle(w.registry, c, s.ID())
	if err := c.Purge(t.Context(), s.ID(), ledger.Public, "test", ""); err != nil {
		t.Fatal(err)
	}
	deliveries, err := w.ledger.Deliveries(t.Context(), s.ID(), ledger.All)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range deliveries {
		if err := w.store.Intervene(t.Context(), d, ledger.Intervention{Action: ledger.Retry, Who: "operator", At: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	pushed := false
	w.settle(eventful{w.registry, func(moment string) { pushed = pushed || moment == "before a blob" }}, c, s.ID())
	if n := len(w.referrers()[s.MediaType()]); n != 0 || pushed || w.state(s.ID()) != ledger.EvidencePurged {
		t.Errorf("%d artifacts with the evidence, pushed: %v, state %s", n, pushed, w.state(s.ID()))
	}
}

func TestWhatAnotherClaimNeedsStays(t *testing.T) {
	w := newWorld(t)
	c := w.custodian()
	first := w.publisher.Provenance(t, "https://slsa.dev/provenance/v1", w.image)
	w.mustRegister(first)
	w.settle(w.registry, c, first.ID())
	if err := c.Purge(t.Context(), first.ID(), ledger.All, "test", ""); err != nil {
		t.Fatal(err)
	}
	// The same bytes, claimed anew: that was not purged.
	second := w.publisher.Sign(t, statement.Template{Subject: "again", ContentType: ledgertest.InToto, Payload: first.Payload})
	w.mustRegister(second)
	w.settle(w.registry, c, second.ID())
	w.await("what was purged to be dealt with", func() bool {
		pending, err := w.store.Removals(t.Context(), -1, 1)
		return err == nil && len(pending) == 0
	})
	if manifests, blobs := w.left(second); manifests != 1 || blobs != 1 {
		t.Errorf("%d manifests, %d blobs of evidence that is needed", manifests, blobs)
	}
	if a, b := w.state(first.ID()), w.state(second.ID()); a != ledger.EvidencePurged || b != ledger.EvidencePlaced {
		t.Errorf("evidence is %s and %s", a, b)
	}
}

// deleting is a registry whose deletions of blobs are preceded by on, which may
// refuse them.
type deleting struct {
	storage.Registry
	on func(blob string) error
}

func (d deleting) Repository(name string) (storage.Repository, error) {
	repo, err := d.Registry.Repository(name)
	return deletingRepository{eventfulRepository{repo, repo.(storage.Deleter), func(string) {}}, d.on}, err
}

type deletingRepository struct {
	eventfulRepository
	on func(blob string) error
}

func (r deletingRepository) DeleteBlob(ctx context.Context, digest string) error {
	if err := r.on(digest); err != nil {
		return err
	}
	return r.eventfulRepository.DeleteBlob(ctx, digest)
}

func TestWhatIsNotRemovedKeepsNothingElseWaiting(t *testing.T) {
	w := newWorld(t)
	first := w.publisher.Provenance(t, "https://slsa.dev/provenance/v1", w.image)
	second := w.publisher.Provenance(t, "https://slsa.dev/provenance/v2", w.image)
	c := w.custodianOf(deleting{w.registry, func(blob string) error {
		if blob == string(first.Evidence()) {
			return storage.ErrDenied
		}
		return nil
	}})
	for _, s := range []*statement.Statement{first, second} {
		w.mustRegister(s)
		w.settle(w.registry, c, s.ID())
		if err := c.Purge(t.Context(), s.ID(), ledger.All, "test", ""); err != nil {
			t.Fatal(err)
		}
	}
	w.await("the second to go", func() bool {
		manifests, blobs := w.left(second)
		return manifests+blobs == 0
	})
	if _, blobs := w.left(first); blobs != 1 {
		t.Error("the first is gone, which nobody may delete")
	}
}

func TestABlobThatAClaimCameForWhileItWasRemovedIsPlacedAgain(t *testing.T) {
	w := newWorld(t)
	first := w.publisher.Provenance(t, "https://slsa.dev/provenance/v1", w.image)
	index, _ := w.pushIndex()
	second := w.publisher.Sign(t, statement.Template{
		Subject: "pkg:oci/net-monitor@" + string(index), ContentType: ledgertest.SBOM, Payload: first.Payload,
	})
	var c *registrar.Custodian
	var once sync.Once
	came := make(chan struct{})
	c = w.custodianOf(deleting{w.registry, func(string) error {
		once.Do(func() {
			defer close(came)
			w.mustRegister(second)
			w.settle(w.registry, c, second.ID())
		})
		return nil
	}})
	w.mustRegister(first)
	w.settle(w.registry, c, first.ID())
	if err := c.Purge(t.Context(), first.ID(), ledger.All, "test", ""); err != nil {
		t.Fatal(err)
	}
	<-came
	w.await("the blob to be asked for again", func() bool {
		queued, _ := w.states(second.ID())
		return queued > 0
	})
	w.settle(w.registry, c, second.ID())
	w.await("what was purged to be dealt with", func() bool {
		pending, err := w.store.Removals(t.Context(), -1, 1)
		return err == nil && len(pending) == 0
	})
	if _, blobs := w.left(second); blobs != 1 || w.state(second.ID()) != ledger.EvidencePlaced {
		t.Errorf("%d blobs of evidence that is %s", blobs, w.state(second.ID()))
	}
}

// pushIndex pushes an image index that lists the world's image.
func (w *world) pushIndex() (digest statement.Digest, body []byte) {
	w.Helper()
	repo, err := w.registry.Repository(repository)
	if err != nil {
		w.Fatal(err)
	}
	const mediaType = "application/vnd.oci.image.index.v1+json"
	body, err = json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": mediaType, "manifests": []any{
		map[string]any{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": w.image, "size": 2},
	}})
	if err != nil {
		w.Fatal(err)
	}
	index, err := repo.PushManifest(w.Context(), mediaType, body, "")
	if err != nil {
		w.Fatal(err)
	}
	return statement.Digest(index.Digest), body
}

func TestAnIndexThatAClaimIsPlacedOnIsKept(t *testing.T) {
	w := newWorld(t)
	c := w.custodian()
	index, body := w.pushIndex()
	// Others crowd it out until something is claimed of it, however early it was seen.
	for i := range ledger.MaxIndexes {
		if err := w.store.KeepIndex(t.Context(), ledgertest.Image(100+i), []statement.Digest{w.image}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.KeepIndex(t.Context(), index, body); err != nil || !c.Knows(index) {
		t.Fatalf("keep the index before it is claimed: %v", err)
	}
	s := w.publisher.Provenance(t, "https://slsa.dev/provenance/v1", index)
	w.mustRegister(s)
	w.settle(w.registry, c, s.ID())
	claims, err := w.store.Claims(t.Context(), ledger.Query{Artifacts: []statement.Digest{w.image}, Limit: 9}, false)
	if err != nil || len(claims) != 1 || claims[0].ID != s.ID() || claims[0].Via != index {
		t.Errorf("claims about an instance: %+v, %v", claims, err)
	}
	if err := c.KeepIndex(t.Context(), ledgertest.Image(1), body); !errors.Is(err, ledger.ErrNoIndex) {
		t.Errorf("another digest: %v", err)
	}
}

func TestRetentionTakesWhatAllConditionsAdmit(t *testing.T) {
	w := newWorld(t)
	c := w.custodian()
	sbom := w.publisher.Sign(t, statement.Template{Subject: "pkg:oci/net-monitor@" + string(w.image), ContentType: ledgertest.SBOM, Payload: []byte("sbom")})
	scan := w.publisher.Sign(t, statement.Template{Subject: "pkg:oci/net-monitor@" + string(w.image), ContentType: ledgertest.Report, Payload: []byte("scan")})
	shared := w.publisher.Sign(t, statement.Template{Subject: "pkg:oci/net-monitor@" + string(w.image), ContentType: ledgertest.SBOM, Payload: []byte("shared")})
	sharing := w.publisher.Sign(t, statement.Template{Subject: "pkg:oci/other@" + string(w.image), ContentType: ledgertest.Report, Payload: []byte("shared")})
	nowhere := w.private.Sign(t, statement.Template{Subject: "pkg:oci/net-monitor@" + string(w.image), ContentType: ledgertest.Report, Payload: []byte("private")})
	for _, s := range []*statement.Statement{sbom, scan, shared, sharing, nowhere} {
		w.mustRegister(s)
		w.settle(w.registry, c, s.ID())
	}
	for _, test := range []struct {
		name string
		rule registrar.RetentionRule
		want []*statement.Statement
	}{
		{"everything", registrar.RetentionRule{OlderThan: time.Nanosecond}, []*statement.Statement{sharing, scan, sbom}},
		{"one type: not what another type shares", registrar.RetentionRule{OlderThan: time.Nanosecond, MediaTypes: []string{ledgertest.SBOM}}, []*statement.Statement{sbom}},
		{"its repository", registrar.RetentionRule{OlderThan: time.Nanosecond, Repositories: []string{"acme/*", "wabbit/*"}}, []*statement.Statement{sharing, scan, sbom}},
		{"another repository", registrar.RetentionRule{OlderThan: time.Nanosecond, Repositories: []string{"acme/*"}}, nil},
		{"nothing so old", registrar.RetentionRule{OlderThan: time.Hour}, nil},
	} {
		var got, want []string
		err := c.Expired(t.Context(), []registrar.RetentionRule{test.rule, test.rule}, time.Now().Add(time.Minute), func(e registrar.Expiry) error {
			got = append(got, fmt.Sprint(e.Entry.ID, e.Sharing, e.Size, len(e.Places)))
			return nil
		})
		for _, s := range test.want {
			more := 0
			if s == sharing {
				more = 1
			}
			want = append(want, fmt.Sprint(s.ID(), more, len(s.Payload), 1))
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v; want %v", test.name, got, err, want)
		}
	}
}

func TestRetentionSaysWhichRepositoryHoldsEvidenceBack(t *testing.T) {
	w := newWorld(t)
	c := w.custodian()
	const second = "mirror/net-monitor"
	other := w.pushImage(second)
	s := w.publisher.Sign(t, statement.Template{Subject: "urn:scan:1", ContentType: ledgertest.Report, Payload: []byte("scan")})
	w.pushedBeside(s, repository, w.image)
	w.pushedBeside(s, second, other)
	w.settled(c, s.ID())
	for covered, want := range map[string]string{"wabbit/*": second, "mirror/*": repository, "acme/*": "nothing", "*/net-monitor": ""} {
		held := "nothing"
		rule := registrar.RetentionRule{OlderThan: time.Nanosecond, Repositories: []string{covered}}
		err := c.Expired(t.Context(), []registrar.RetentionRule{rule}, time.Now().Add(time.Minute), func(e registrar.Expiry) error {
			held = e.HeldBy
			return nil
		})
		if err != nil || held != want {
			t.Errorf("a rule for %s: held by %q, %v; want %q", covered, held, err, want)
		}
	}
}

func TestDeletingWhatNoClaimSpeaksOfMarksNothing(t *testing.T) {
	w := newWorld(t)
	c := w.custodian()
	s := w.publisher.Provenance(t, "https://slsa.dev/provenance/v1", w.image)
	w.mustRegister(s)
	w.settle(w.registry, c, s.ID())
	for _, what := range []struct {
		repository, reference string
		blob                  bool
	}{
		{repository, "v1", false},
		{repository, "sha256:..%2f", false},
		{repository, string(ledgertest.Image(5)), false},
		{repository, string(ledgertest.Image(5)), true},
		{"wabbit/other", string(w.image), false},
		{"wabbit/other", string(s.Evidence()), true},
		{strings.Repeat("x/", 200), string(w.image), false},
	} {
		if done := c.Deleting(t.Context(), what.repository, what.reference, what.blob); done != nil {
			if err := done(t.Context(), "test"); err != nil {
				t.Errorf("%v: %v", what, err)
			}
		}
	}
	if got := w.state(s.ID()); got != ledger.EvidencePlaced {
		t.Errorf("evidence is %s", got)
	}
	if gone, err := c.Gone(t.Context(), ledger.Place{Registry: host, Repository: repository, Subject: w.image}); err != nil || gone {
		t.Errorf("the image is gone: %v, %v", gone, err)
	}
	if err := c.Deleting(t.Context(), repository, string(s.Evidence()), true)(t.Context(), "test"); err != nil || w.state(s.ID()) != ledger.EvidencePurged {
		t.Errorf("deleted blob: %v, %s", err, w.state(s.ID()))
	}
	// What is left of it goes a little later, when its client has had its time.
	w.await("the rest to be removed", func() bool {
		manifests, blobs := w.left(s)
		return manifests+blobs == 0
	})
}
