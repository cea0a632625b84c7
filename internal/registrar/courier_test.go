package registrar_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scittd/scittd/internal/registrar"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/sqlite"
	"github.com/scittd/scittd/statement"
	"github.com/scittd/scittd/storage"
)

// beside opens the log once more with other options, as another replica would.
func (w *world) beside(o ledger.Options) *registrar.Registrar {
	w.Helper()
	o.Issuer = w.operator.Issuer(w)
	l, err := ledger.Open(w.Context(), w.store, o)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		if err := l.Close(context.Background()); err != nil {
			w.Error(err)
		}
	})
	return registrar.New(l, registrar.Options{Registry: o.Registry})
}

func (w *world) states(id statement.ID) (queued int, all []ledger.Delivery) {
	w.Helper()
	all, err := w.ledger.Deliveries(w.Context(), id, ledger.All)
	if err != nil {
		w.Fatal(err)
	}
	for _, d := range all {
		if d.State == ledger.Queued {
			queued++
		}
	}
	return queued, all
}

func TestADeadRegistryDelaysNoHealthyOne(t *testing.T) {
	w := newWorld(t)
	const dead, workers = "dead.example", 2
	elsewhere := w.beside(ledger.Options{Registry: dead})
	for _, s := range w.publisher.Claims(t, 0, 5*workers) { // older than what is healthy, and about as many images
		if _, err := elsewhere.Register(t.Context(), s.Canonical(), ledger.Circumstances{Repository: repository, Caller: "test"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.ledger.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := w.publisher.Sign(t, statement.Template{Subject: "pkg:oci/net-monitor@" + string(w.image), ContentType: "application/sarif+json", Payload: []byte("{}")})
	w.mustRegister(s)
	var hanging atomic.Int32
	c := registrar.NewCourier(w.ledger, w.store, func(h string) (storage.Registry, error) {
		if h == dead {
			return silent{w.registry, func() bool { hanging.Add(1); return true }}, nil
		}
		return w.registry, nil
	}, registrar.CourierOptions{Owner: t.Name(), Workers: workers, Poll: time.Millisecond})
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { c.Run(ctx) })
	defer running.Wait()
	defer stop()
	for queued := 1; queued > 0 || hanging.Load() < workers; time.Sleep(time.Millisecond) {
		queued, _ = w.states(s.ID())
	}
	for _, f := range c.Figures() {
		if f.Registry == dead && (f.Placed > 0 || f.Busy != workers) || f.Registry == host && f.Placed != 2 {
			t.Errorf("figures %+v", f)
		}
	}
}

// Two replicas, and a registry that takes longer over one artifact than a lease
// runs.
func TestALongDeliveryKeepsItsImage(t *testing.T) {
	file, dir := filepath.Join(memory(t), "ledger.db"), memory(t)
	synctest.Test(t, func(t *testing.T) {
		store, err := sqlite.Open(t.Context(), file)
		if err != nil {
			t.Fatal(err)
		}
		registry := openEmbedded(t, dir)
		image := pushImage(t, registry, 1)
		var atOnce, most, calls atomic.Int32
		f, stop := startFleet(t, host, []database{store, store}, func() storage.Registry {
			return trouble{registry, func(at string) error {
				if at == "before" {
					calls.Add(1)
					if n := atOnce.Add(1); n > most.Load() {
						most.Store(n)
					}
					time.Sleep(5 * time.Minute)
					atOnce.Add(-1)
				}
				return nil
			}}
		}, registrar.CourierOptions{Lease: 30 * time.Second, PerImage: 1})
		for n := range 3 {
			if err := f.replicas[n%2].register(t.Context(), f.claim(image, n)); err != nil {
				t.Fatal(err)
			}
		}
		took := f.awaitPlaced(time.Second, 2*time.Hour)
		if most.Load() != 1 || calls.Load() != 6 || took > 31*time.Minute {
			t.Errorf("%d pushes, %d at once, in %s; want each of 6 once, one after the other", calls.Load(), most.Load(), took)
		}
		stop()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
		if err := registry.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestWhatIsPlacedIsArchivedOnce(t *testing.T) {
	w := newWorld(t)
	const archive = "scitt/archive"
	r := w.beside(ledger.Options{Registry: host, Archive: archive})
	s := w.publisher.Sign(t, statement.Template{
		Subject: "pkg:oci/net-monitor@" + string(w.image), ContentType: "application/sarif+json", Payload: []byte("{}"),
	})
	for range 2 {
		if _, err := r.Register(t.Context(), s.Canonical(), ledger.Circumstances{Repository: repository, Caller: "test"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.ledger.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	delivered := w.deliver(w.registry, s.ID())
	var places []string
	for _, d := range delivered {
		places = append(places, fmt.Sprintf("%s in %s %s", d.Artifact, d.Repository, d.State))
	}
	if got, want := strings.Join(places, ", "), "archive in scitt/archive done, evidence in wabbit/net-monitor done, transparency in wabbit/net-monitor done"; got != want {
		t.Fatalf("placed %s\nwant   %s", got, want)
	}
	repo, err := w.registry.Repository(archive)
	if err != nil {
		t.Fatal(err)
	}
	desc, body, err := repo.Manifest(t.Context(), s.ID().String())
	if err != nil || desc.Digest != string(delivered[0].Manifest) {
		t.Fatalf("tag %s leads to %s (%v), want %s", s.ID(), desc.Digest, err, delivered[0].Manifest)
	}
	if text := string(body); strings.Contains(text, `"subject"`) || !strings.Contains(text, s.ID().String()) {
		t.Errorf("archived manifest %s", text)
	}
	again, err := w.beside(ledger.Options{Registry: host, Archive: "other/archive"}).
		Register(t.Context(), s.Canonical(), ledger.Circumstances{Repository: repository, Caller: "test"})
	if _, all := w.states(s.ID()); err != nil || again.New || len(all) != 3 {
		t.Errorf("registered again: new %v, %d deliveries, %v", again.New, len(all), err)
	}
	private := w.private.Claim(t, w.image, "application/sarif+json", []byte("secret"))
	if _, err := r.Register(t.Context(), private.Canonical(), ledger.Circumstances{Repository: repository, Caller: "test"}); err != nil {
		t.Fatal(err)
	}
	if _, all := w.states(private.ID()); len(all) > 0 {
		t.Errorf("a private claim has deliveries %+v", all)
	}
}
