package registrar_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scittd/scittd/internal/registrar"
	"github.com/scittd/scittd/internal/testenv"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/sqlite"
	"github.com/scittd/scittd/statement"
	"github.com/scittd/scittd/storage"
	"github.com/scittd/scittd/storage/embedded"
)

var outageTime = flag.Duration("outage", 0, "also take a docker-registry away from a service on PostgreSQL for so long in real time, at 10 registrations a second")

// weather is how a registry fares.
type weather int32

const (
	fair   weather = iota
	faulty         // one call in ten fails
	down
)

// stormy is a registry over whose calls the weather decides.
type stormy struct {
	storage.Registry
	weather *atomic.Int32
}

func (s stormy) Repository(name string) (storage.Repository, error) {
	repo, err := s.Registry.Repository(name)
	return stormyRepository{repo, s.weather}, err
}

type stormyRepository struct {
	storage.Repository
	weather *atomic.Int32
}

// fails tells what becomes of a call: an error, before or after it was done.
func (r stormyRepository) fails(ctx context.Context) (before, after error) {
	switch weather(r.weather.Load()) {
	case fair:
		return nil, nil
	case down:
		return fmt.Errorf("connection refused: %w", storage.ErrTrouble), nil
	}
	switch rand.IntN(60) {
	case 0, 1:
		return fmt.Errorf("500: %w", storage.ErrTrouble), nil
	case 2:
		return &storage.RetryError{After: time.Second, Err: errors.New("429")}, nil
	case 3, 4:
		return nil, fmt.Errorf("the answer is lost: %w", storage.ErrTrouble)
	case 5:
		<-ctx.Done()
		return ctx.Err(), nil
	}
	return nil, nil
}

func (r stormyRepository) Manifest(ctx context.Context, ref string) (storage.Descriptor, []byte, error) {
	before, after := r.fails(ctx)
	if before != nil {
		return storage.Descriptor{}, nil, before
	}
	d, body, err := r.Repository.Manifest(ctx, ref)
	return d, body, errors.Join(err, after)
}

func (r stormyRepository) PushManifest(ctx context.Context, mediaType string, body []byte, tag string) (storage.Descriptor, error) {
	before, after := r.fails(ctx)
	if before != nil {
		return storage.Descriptor{}, before
	}
	d, err := r.Repository.PushManifest(ctx, mediaType, body, tag)
	return d, errors.Join(err, after)
}

func (r stormyRepository) Referrers(ctx context.Context, subject, artifactType string) ([]storage.Descriptor, error) {
	before, after := r.fails(ctx)
	if before != nil {
		return nil, before
	}
	list, err := r.Repository.Referrers(ctx, subject, artifactType)
	return list, errors.Join(err, after)
}

// outage registers a claim every so often, first in fair weather, then with the
// registry down for a time, then for a time with faults. No registration may fail
// or wait, and everything must be placed within ten minutes after each.
func (f *fleet) outage(images []statement.Digest, sky *atomic.Int32, before, long, every time.Duration) (claims map[statement.Digest][]*statement.Statement) {
	f.Helper()
	const patience = 10 * time.Minute
	claims = map[statement.Digest][]*statement.Statement{}
	n := 0
	during := func(w weather, long time.Duration) (took []time.Duration) {
		sky.Store(int32(w))
		tick := time.NewTicker(every)
		defer tick.Stop()
		var registering sync.WaitGroup
		var mu sync.Mutex
		for end := time.Now().Add(long); time.Now().Before(end); <-tick.C {
			image := images[n%len(images)]
			s := f.claim(image, n)
			claims[image] = append(claims[image], s)
			r := f.replicas[n%len(f.replicas)]
			registering.Go(func() {
				begin := time.Now()
				if err := r.register(f.Context(), s); err != nil {
					f.Errorf("a registration fails: %v", err)
				}
				mu.Lock()
				defer mu.Unlock()
				took = append(took, time.Since(begin))
			})
			n++
		}
		registering.Wait()
		slices.Sort(took)
		return took
	}
	p := func(took []time.Duration, q int) time.Duration {
		return took[(len(took)-1)*q/100].Round(time.Microsecond)
	}
	usual := during(fair, before)
	f.awaitPlaced(time.Second, patience)
	dark := during(down, long)
	queued, tried := f.backlog()
	sky.Store(int32(fair))
	recovery := f.awaitPlaced(time.Second, patience)
	f.Logf("%d registrations in an outage of %s, p50 %s p99 %s (in fair weather %s and %s); %d deliveries queued, tried up to %d times, placed %s after",
		len(dark), long, p(dark, 50), p(dark, 99), p(usual, 50), p(usual, 99), queued, tried, recovery)
	if queued < 2*len(dark) {
		f.Errorf("%d deliveries are queued after %d registrations: the registry was not away", queued, len(dark))
	}
	if limit := 2*p(usual, 99) + 100*time.Millisecond; p(dark, 99) > limit {
		f.Errorf("registrations are slowed: p99 %s, want at most %s", p(dark, 99), limit)
	}
	rough := during(faulty, long)
	f.Logf("%d registrations in %s with faults, p99 %s; placed %s after", len(rough), long, p(rough, 99), f.awaitPlaced(time.Second, patience))
	sky.Store(int32(fair))
	return claims
}

// backlog is how much is queued, and how often the most unlucky of it was tried.
func (f *fleet) backlog() (queued, tries int) {
	f.Helper()
	q := ledger.DeliveryQuery{State: ledger.Queued, Limit: ledger.MaxPage}
	for {
		page, err := f.db.FindDeliveries(f.Context(), q)
		if err != nil {
			f.Fatal(err)
		}
		for _, d := range page {
			tries = max(tries, d.Tries)
		}
		if queued += len(page); len(page) < q.Limit {
			return queued, tries
		}
		q.After = &page[len(page)-1]
	}
}

func TestAnOutageDelaysPlacementsAndNothingElse(t *testing.T) {
	t.Run("of an hour, on a clock that waits for nobody", simulatedOutage)
	if *outageTime > 0 {
		t.Run("in real time", realOutage)
	}
}

func openEmbedded(t *testing.T, dir string) *embedded.Registry {
	t.Helper()
	registry, err := embedded.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return registry
}

// simulatedOutage is of the embedded registry.
func simulatedOutage(t *testing.T) {
	dir, file := memory(t), filepath.Join(memory(t), "ledger.db")
	synctest.Test(t, func(t *testing.T) {
		registry := openEmbedded(t, dir)
		store, err := sqlite.Open(t.Context(), file)
		if err != nil {
			t.Fatal(err)
		}
		var sky atomic.Int32
		var images []statement.Digest
		for n := range 10 {
			images = append(images, pushImage(t, registry, n))
		}
		f, stop := startFleet(t, host, []database{store}, func() storage.Registry { return stormy{registry, &sky} },
			registrar.CourierOptions{Timeout: time.Minute})
		claims := f.outage(images, &sky, 5*time.Minute, time.Hour, 20*time.Second)
		stop()
		repo, err := registry.Repository(repository)
		if err != nil {
			t.Fatal(err)
		}
		for image, about := range claims {
			list, err := repo.Referrers(t.Context(), string(image), "")
			if err != nil || len(list) != 2*len(about) {
				t.Errorf("%d claims about %s have %d referrers (%v), want 2 each", len(about), image, len(list), err)
			}
		}
		if err := errors.Join(store.Close(), registry.Close()); err != nil {
			t.Error(err)
		}
	})
}

// realOutage is of a docker-registry, behind a proxy that hangs up. The replicas
// share a PostgreSQL.
func realOutage(t *testing.T) {
	backend := testenv.Registry(t)
	var sky atomic.Int32
	target := &url.URL{Scheme: "http", Host: backend}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = r.In.Host }}
	public := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch weather(sky.Load()) {
		case down:
			panic(http.ErrAbortHandler)
		case faulty:
			if rand.IntN(10) == 0 && fails(w, r, proxy) {
				return
			}
		}
		proxy.ServeHTTP(w, r)
	}))
	var open []*storage.Remote
	defer func() {
		for _, r := range open {
			r.Close()
		}
	}()
	*onPostgres = true
	f, stop := startFleet(t, public, sharedDatabase(t), func() storage.Registry {
		open = append(open, remote(t, public))
		return open[len(open)-1]
	}, registrar.CourierOptions{})
	var images []statement.Digest
	for n := range 300 {
		images = append(images, pushImage(t, open[0], n))
	}
	claims := f.outage(images, &sky, min(30*time.Second, *outageTime), *outageTime, 100*time.Millisecond)
	stop()
	for image, about := range claims {
		wantPlaced(t, public, image, about)
	}
}
