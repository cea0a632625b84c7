package registrar_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/scittd/scittd/internal/registrar"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/ledger/sqlite"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
	"github.com/scittd/scittd/storage"
	"github.com/scittd/scittd/storage/embedded"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	host       = "registry.example"
	repository = "wabbit/net-monitor"
)

// world is a service without HTTP: a SQLite ledger, an embedded registry with
// one image, a registrar.
type world struct {
	*testing.T
	publisher *ledgertest.Publisher
	private   *ledgertest.Publisher // whose claims the policy makes private
	operator  *ledgertest.Operator
	store     *sqlite.Store
	ledger    *ledger.Ledger
	registry  *embedded.Registry
	registrar *registrar.Registrar
	image     statement.Digest
}

func newWorld(t *testing.T) *world {
	w := &world{T: t,
		operator:  ledgertest.NewOperator(t),
		publisher: ledgertest.NewPublisher(t, "https://wabbit.example"),
		private:   ledgertest.NewPublisher(t, "https://secret.example"),
	}
	w.private.Rule.Visibility = "private"
	var err error
	if w.store, err = sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "ledger.db")); err != nil {
		t.Fatal(err)
	}
	w.operator.Init(t, w.store, w.publisher, w.private)
	w.ledger, err = ledger.Open(t.Context(), w.store, ledger.Options{Issuer: w.operator.Issuer(t), Registry: host})
	if err != nil {
		t.Fatal(err)
	}
	if w.registry, err = embedded.Open(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := errors.Join(w.ledger.Close(context.Background()),
			ledgertest.CheckLog(context.Background(), w.store), w.store.Close(), w.registry.Close())
		if err != nil {
			t.Error(err)
		}
	})
	w.registrar = registrar.New(w.ledger, registrar.Options{Registry: host, Further: w.store})
	w.image = w.pushImage(repository)
	return w
}

// pushImage pushes a small image and returns its digest.
func (w *world) pushImage(name string) statement.Digest {
	w.Helper()
	repo, err := w.registry.Repository(name)
	if err != nil {
		w.Fatal(err)
	}
	blob := func(content string) map[string]any {
		digest := statement.SHA256([]byte(content))
		open := func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(content)), nil }
		if err := repo.PushBlob(w.Context(), string(digest), int64(len(content)), open); err != nil {
			w.Fatal(err)
		}
		return map[string]any{"digest": digest, "size": len(content)}
	}
	config, layer := blob(`{"architecture":"amd64","os":"linux"}`), blob("layer of "+name)
	config["mediaType"] = "application/vnd.oci.image.config.v1+json"
	layer["mediaType"] = "application/vnd.oci.image.layer.v1.tar"
	const mediaType = "application/vnd.oci.image.manifest.v1+json"
	body, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": mediaType, "config": config, "layers": []any{layer}})
	if err != nil {
		w.Fatal(err)
	}
	desc, err := repo.PushManifest(w.Context(), mediaType, body, "v1")
	if err != nil {
		w.Fatal(err)
	}
	return statement.Digest(desc.Digest)
}

func (w *world) register(s *statement.Statement, scope ledger.Scope) (ledger.Registered, error) {
	return w.registrar.Register(w.Context(), s.Canonical(), ledger.Circumstances{Repository: repository, Caller: "test", Scope: scope})
}

func (w *world) mustRegister(s *statement.Statement) ledger.Registered {
	w.Helper()
	reg, err := w.register(s, ledger.Public)
	if err != nil {
		w.Fatal(err)
	}
	return reg
}

// deliver runs a Courier on registry until every delivery of the entry is settled.
func (w *world) deliver(registry storage.Registry, id statement.ID) []ledger.Delivery {
	w.Helper()
	c := registrar.NewCourier(w.ledger, w.store, func(h string) (storage.Registry, error) {
		if h != host {
			return nil, fmt.Errorf("asked for registry %s, not %s", h, host)
		}
		return registry, nil
	}, registrar.CourierOptions{Owner: w.Name(), Poll: 10 * time.Millisecond, Lease: time.Second})
	ctx, stop := context.WithTimeout(w.Context(), 30*time.Second)
	var running sync.WaitGroup
	running.Go(func() { c.Run(ctx) })
	defer running.Wait()
	defer stop()
	for {
		deliveries, err := w.ledger.Deliveries(w.Context(), id, ledger.All)
		if err != nil {
			w.Fatal(err)
		}
		open := 0
		for _, d := range deliveries {
			if d.State == ledger.Queued {
				open++
			}
		}
		if open == 0 {
			return deliveries
		}
		select {
		case <-ctx.Done():
			w.Fatalf("still queued: %+v", deliveries)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// referrers lists what hangs on the image, by artifact type.
func (w *world) referrers() map[string][]storage.Descriptor {
	w.Helper()
	repo, err := w.registry.Repository(repository)
	if err != nil {
		w.Fatal(err)
	}
	list, err := repo.Referrers(w.Context(), string(w.image), "")
	if err != nil {
		w.Fatal(err)
	}
	byType := map[string][]storage.Descriptor{}
	for _, d := range list {
		byType[d.ArtifactType] = append(byType[d.ArtifactType], d)
	}
	return byType
}

const transparencyType = "application/scitt-receipt+cose"

func TestTheSameBytesGetTheSameReceipt(t *testing.T) {
	w := newWorld(t)
	s := w.publisher.Claim(t, w.image, ledgertest.SBOM, []byte("sbom"))
	first := w.mustRegister(s)
	id := s.ID()
	r, err := receipts.Parse(first.Receipt)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Verify(id[:], w.operator.Issuer(t).Public(), receipts.Strict); err != nil {
		t.Fatal(err)
	}
	var storm sync.WaitGroup
	for range 32 {
		storm.Go(func() {
			again, err := w.register(s, ledger.Public)
			if err != nil || again.New || !bytes.Equal(again.Receipt, first.Receipt) {
				t.Errorf("again: new %v, same receipt %v, error %v", again.New, bytes.Equal(again.Receipt, first.Receipt), err)
			}
		})
	}
	storm.Wait()
}

func TestRefusalsAreDecisionsAndLeaveNothingBehind(t *testing.T) {
	w := newWorld(t)
	stranger := ledgertest.NewPublisher(t, "https://mallory.example")
	before, err := w.ledger.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.register(stranger.Claim(t, w.image, ledgertest.SBOM, []byte("sbom")), ledger.Public)
	if refusal := (*policy.Refusal)(nil); !errors.As(err, &refusal) || refusal.Hint == "" {
		t.Errorf("a stranger's claim: %v; want a refusal that says what would help", err)
	}
	if _, err = w.registrar.Register(t.Context(), []byte{0xd2}, ledger.Circumstances{Caller: "test"}); !errors.Is(err, statement.ErrMalformed) {
		t.Errorf("one byte: %v; want %v", err, statement.ErrMalformed)
	}
	after, err := w.ledger.Head(t.Context())
	if err != nil || after.Size != before.Size {
		t.Errorf("tree grew from %d to %d (%v)", before.Size, after.Size, err)
	}
}

func TestSignedBytesThatNameAnotherRepositoryAreRefused(t *testing.T) {
	w := newWorld(t)
	s := w.publisher.Sign(t, statement.Template{
		Subject: host + "/wabbit/other@" + string(w.image), ContentType: ledgertest.SBOM, Payload: []byte("{}"),
	})
	_, err := w.register(s, ledger.Public)
	if refusal := (*policy.Refusal)(nil); !errors.As(err, &refusal) || refusal.Code != "repository-mismatch" {
		t.Errorf("got %v; want a repository-mismatch", err)
	}
}

func TestAPrivateEntryTellsNothingToThoseWhoMayNotReadIt(t *testing.T) {
	w := newWorld(t)
	s := w.private.Claim(t, w.image, ledgertest.SBOM, []byte("secret sbom"))
	first := w.mustRegister(s)
	if d, err := w.ledger.Deliveries(t.Context(), s.ID(), ledger.All); err != nil || len(d) > 0 {
		t.Errorf("a private claim has deliveries %+v (%v)", d, err)
	}
	again, err := w.register(s, ledger.Public)
	if err != nil || !bytes.Equal(again.Receipt, first.Receipt) {
		t.Errorf("admitted bytes resubmitted without the right to read: %v; want the original receipt", err)
	}

	// A policy that no longer knows the issuer: the resubmission is judged like
	// fresh bytes, while a reader still gets the receipt.
	ledgertest.Append(t, w.ledger, w.operator.Policy(t, w.ledger.Policy().Entry, w.operator.Document(w.publisher)))
	if _, err = w.register(s, ledger.Public); !errors.As(err, new(*policy.Refusal)) {
		t.Errorf("resubmission under a policy that refuses it: %v; want a refusal", err)
	}
	if again, err = w.register(s, ledger.All); err != nil || !bytes.Equal(again.Receipt, first.Receipt) {
		t.Errorf("resubmission by a reader: %v; want the original receipt", err)
	}
}

func TestEvidenceArrivesByAllThreeWays(t *testing.T) {
	content := []byte(`{"bomFormat":"CycloneDX"}`)
	digest := statement.SHA256(content)
	for _, way := range []struct {
		name string
		make func(w *world) *statement.Statement
	}{
		{"attached payload", func(w *world) *statement.Statement {
			return w.publisher.Sign(t, statement.Template{
				Subject: "pkg:oci/net-monitor@" + string(w.image), ContentType: ledgertest.SBOM, Payload: content,
			})
		}},
		{"blob already in the repository", func(w *world) *statement.Statement {
			repo, err := w.registry.Repository(repository)
			if err != nil {
				w.Fatal(err)
			}
			open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }
			if err := repo.PushBlob(w.Context(), string(digest), int64(len(content)), open); err != nil {
				w.Fatal(err)
			}
			return w.publisher.Claim(w, w.image, ledgertest.SBOM, content)
		}},
		{"staged at the service", func(w *world) *statement.Statement {
			limits := ledger.StagingLimits{MaxSize: 1 << 20, Quota: 1 << 20, Keep: time.Hour}
			if _, err := w.store.Stage(w.Context(), digest, bytes.NewReader(content), limits); err != nil {
				w.Fatal(err)
			}
			return w.publisher.Claim(w, w.image, ledgertest.SBOM, content)
		}},
	} {
		t.Run(way.name, func(t *testing.T) {
			w := newWorld(t)
			s := way.make(w)
			w.mustRegister(s)
			for _, d := range w.deliver(w.registry, s.ID()) {
				if d.State != ledger.Done || d.Manifest == "" {
					t.Errorf("%s: %s %q", d.Artifact, d.State, d.LastError)
				}
			}
			listed := w.referrers()
			if len(listed[ledgertest.SBOM]) != 1 || len(listed[transparencyType]) != 1 {
				t.Errorf("listed %v; want one SBOM and one transparency artifact", listed)
			}
			if got := listed[transparencyType][0].Annotations["io.github.scittd.entry"]; got != s.ID().String() {
				t.Errorf("transparency artifact names entry %q, want %s", got, s.ID())
			}
		})
	}
}

// trouble is a registry whose calls fail as told.
type trouble struct {
	storage.Registry
	fail func(call string) error
}

func (r trouble) Repository(name string) (storage.Repository, error) {
	if name != repository {
		return nil, fmt.Errorf("asked for repository %q, not %q", name, repository)
	}
	repo, err := r.Registry.Repository(name)
	return troubled{repo, r.fail}, err
}

type troubled struct {
	storage.Repository
	fail func(call string) error
}

// PushManifest fails before or after the real push: what was not applied, and
// what was applied but not answered.
func (r troubled) PushManifest(ctx context.Context, mediaType string, body []byte, tag string) (storage.Descriptor, error) {
	if err := r.fail("before"); err != nil {
		return storage.Descriptor{}, err
	}
	desc, err := r.Repository.PushManifest(ctx, mediaType, body, tag)
	return desc, errors.Join(err, r.fail("after"))
}

func TestARepeatedDeliveryMakesTheSameManifest(t *testing.T) {
	for _, moment := range []string{"before", "after"} {
		t.Run("failing "+moment+" the push", func(t *testing.T) {
			w := newWorld(t)
			s := w.publisher.Sign(t, statement.Template{
				Subject: "pkg:oci/net-monitor@" + string(w.image), ContentType: ledgertest.SBOM, Payload: []byte("{}"),
			})
			w.mustRegister(s)
			var left atomic.Int32
			left.Store(3)
			flaky := trouble{w.registry, func(at string) error {
				if at == moment && left.Add(-1) >= 0 {
					return &storage.RetryError{After: time.Millisecond, Err: errors.New("the answer was lost")}
				}
				return nil
			}}
			tries := 0
			for _, d := range w.deliver(flaky, s.ID()) {
				tries += d.Tries
				if d.State != ledger.Done {
					t.Errorf("%s: %s %q", d.Artifact, d.State, d.LastError)
				}
			}
			if tries != 5 {
				t.Errorf("%d tries, want 2 and 3 repetitions", tries)
			}
			if listed := w.referrers(); len(listed[ledgertest.SBOM]) != 1 || len(listed[transparencyType]) != 1 {
				t.Errorf("listed %v; want each once", listed)
			}
		})
	}
}

func TestOnlyARefusalForGoodParksADelivery(t *testing.T) {
	w := newWorld(t)
	s := w.publisher.Sign(t, statement.Template{
		Subject: "pkg:oci/net-monitor@" + string(w.image), ContentType: ledgertest.SBOM, Payload: []byte("{}"),
	})
	w.mustRegister(s)
	never := trouble{w.registry, func(string) error { return fmt.Errorf("%w: 413", storage.ErrRefused) }}
	for _, d := range w.deliver(never, s.ID()) {
		if d.State != ledger.Refused || !strings.Contains(d.LastError, "413") || d.Tries != 1 {
			t.Errorf("%s: %s after %d tries, %q; want refused after 1", d.Artifact, d.State, d.Tries, d.LastError)
		}
	}
}

func TestRegistryTroubleNeverDelaysARegistration(t *testing.T) {
	w := newWorld(t)
	stuck := make(chan struct{})
	hanging := trouble{w.registry, func(string) error { <-stuck; return errors.New("gone") }}
	c := registrar.NewCourier(w.ledger, w.store, func(string) (storage.Registry, error) { return hanging, nil },
		registrar.CourierOptions{Owner: t.Name(), Poll: time.Millisecond, Workers: 2})
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { c.Run(ctx) })
	for _, s := range w.publisher.Claims(t, 0, 20) {
		w.mustRegister(s)
	}
	stop()
	close(stuck)
	running.Wait()
}

func TestADeliveryToAnImageThatIsNotThereWaits(t *testing.T) {
	w := newWorld(t)
	absent := ledgertest.Image(7)
	s := w.publisher.Claim(t, absent, ledgertest.SBOM, []byte("sbom"))
	w.mustRegister(s)
	ctx, stop := context.WithCancel(t.Context())
	c := registrar.NewCourier(w.ledger, w.store, func(string) (storage.Registry, error) { return w.registry, nil },
		registrar.CourierOptions{Owner: t.Name(), Poll: time.Millisecond})
	var running sync.WaitGroup
	running.Go(func() { c.Run(ctx) })
	defer running.Wait()
	defer stop()
	for {
		deliveries, err := w.ledger.Deliveries(t.Context(), s.ID(), ledger.All)
		if err != nil {
			t.Fatal(err)
		}
		tried := 0
		for _, d := range deliveries {
			if d.State != ledger.Queued {
				t.Fatalf("%s is %s; want it to stay queued", d.Artifact, d.State)
			}
			if d.Tries > 0 && d.LastError != "" {
				tried++
			}
		}
		if tried == 2 {
			return
		}
		time.Sleep(time.Millisecond)
	}
}
