package registrar_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cuelabs.dev/go/oci/ociregistry/ocimem"
	"cuelabs.dev/go/oci/ociregistry/ociserver"

	"github.com/scittd/scittd/internal/registrar"
	"github.com/scittd/scittd/internal/testenv"
	"github.com/scittd/scittd/ledger/postgres"
	"github.com/scittd/scittd/ledger/sqlite"
	"github.com/scittd/scittd/statement"
	"github.com/scittd/scittd/storage"
)

var (
	writers    = flag.Int("writers", 4, "claims about one image that each of 4 replicas registers at once")
	tagSchema  = flag.String("distribution", "docker-registry", "the program of CNCF distribution, in PATH, that is written to by the tag schema (registry is what v3 calls itself)")
	onPostgres = flag.Bool("onpostgres", false, "the replicas that write to real registries share a PostgreSQL, not one process's SQLite")
)

// replicas is how many services write at once.
const replicas = 4

// Four replicas, each with several writers, all about one image: no referrer is
// lost and none comes twice, whatever the registry is like.
func TestNoReferrerIsLost(t *testing.T) {
	for _, tt := range []struct {
		name  string
		start func(t *testing.T) (host string)
	}{
		{"in the embedded registry", func(t *testing.T) string {
			r := openEmbedded(t, memory(t))
			closing(t, r)
			return serve(t, r.Handler())
		}},
		{"in CNCF distribution, by the tag schema", func(t *testing.T) string { return testenv.RegistryOf(t, *tagSchema, "") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			host := tt.start(t)
			var open []*storage.Remote
			defer func() {
				for _, r := range open {
					r.Close()
				}
			}()
			begin := time.Now()
			f, stop := startFleet(t, host, sharedDatabase(t), func() storage.Registry {
				open = append(open, remote(t, host))
				return open[len(open)-1]
			}, registrar.CourierOptions{})
			image := pushImage(t, open[0], 1)
			claims := f.registerAll(image)
			registered := time.Since(begin)
			f.awaitPlaced(50*time.Millisecond, 20*time.Minute)
			t.Logf("%d claims about one image by %d replicas: registered in %s, placed in %s", len(claims), replicas, registered, time.Since(begin))
			stop()
			wantPlaced(t, host, image, claims)
		})
	}
}

// The same against doubles that misbehave, on a clock that waits for nobody.
func TestNoReferrerIsLostByARegistryThatMisbehaves(t *testing.T) {
	for _, tt := range []struct {
		name  string
		wrong func(w http.ResponseWriter, r *http.Request, honest http.Handler) (done bool)
		slow  func() bool // a call of the client is not answered; nil: every one is
	}{
		{"acknowledges a third of its referrers and loses them", forgets, nil},
		{"answers 500, 429 or not at all to a third", fails, func() bool { return rand.IntN(30) == 0 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			honest := ociserver.New(ocimem.New(), nil)
			var behaves sync.RWMutex
			sound := true
			host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				behaves.RLock()
				defer behaves.RUnlock()
				if sound || !tt.wrong(w, r, honest) {
					honest.ServeHTTP(w, r)
				}
			}))
			behave := func(well bool) {
				behaves.Lock()
				defer behaves.Unlock()
				sound = well
			}
			setup := remote(t, host)
			image := pushImage(t, setup, 1)
			setup.Close()
			behave(false)
			file := filepath.Join(memory(t), "ledger.db")
			var claims []*statement.Statement
			synctest.Test(t, func(t *testing.T) {
				store, err := sqlite.Open(t.Context(), file)
				if err != nil {
					t.Fatal(err)
				}
				var dbs []database
				for range replicas {
					dbs = append(dbs, store)
				}
				var open []*storage.Remote
				f, stop := startFleet(t, host, dbs, func() storage.Registry {
					open = append(open, remote(t, host))
					return silent{open[len(open)-1], tt.slow}
				}, registrar.CourierOptions{Timeout: time.Minute, PerImage: 1}) // who waits for a mutex stops the clock
				claims = f.registerAll(image)
				took := f.awaitPlaced(time.Second, 24*time.Hour)
				t.Logf("%d claims about one image by %d replicas: placed within %s", len(claims), replicas, took)
				stop()
				for _, r := range open {
					r.Close()
				}
				if err := store.Close(); err != nil {
					t.Error(err)
				}
			})
			behave(true)
			wantPlaced(t, host, image, claims)
		})
	}
}

// registerAll registers what every writer of every replica has to say about image.
func (f *fleet) registerAll(image statement.Digest) (claims []*statement.Statement) {
	f.Helper()
	for n := range len(f.replicas) * *writers {
		claims = append(claims, f.claim(image, n))
	}
	var registering sync.WaitGroup
	for n, s := range claims {
		registering.Go(func() {
			if err := f.replicas[n%len(f.replicas)].register(f.Context(), s); err != nil {
				f.Errorf("claim %d: %v", n, err)
			}
		})
	}
	registering.Wait()
	return claims
}

// sharedDatabase is one database, reached as each of the replicas does.
func sharedDatabase(t *testing.T) (all []database) {
	t.Helper()
	if !*onPostgres {
		store, err := sqlite.Open(t.Context(), filepath.Join(memory(t), "ledger.db"))
		if err != nil {
			t.Fatal(err)
		}
		closing(t, store)
		for range replicas {
			all = append(all, store)
		}
		return all
	}
	dsn := testenv.StartPostgres(t).Database(t)
	if err := postgres.Migrate(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	for range replicas {
		store, err := postgres.Open(t.Context(), dsn, postgres.Options{})
		if err != nil {
			t.Fatal(err)
		}
		closing(t, store)
		all = append(all, store)
	}
	return all
}

func closing(t *testing.T, c io.Closer) {
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

// serve runs h on loopback, without keeping connections, which would stop the
// clock of a bubble.
func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.SetKeepAlivesEnabled(false)
	s.Start()
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// forgets acknowledges each third manifest with a subject and forgets it.
func forgets(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
	if r.Method != http.MethodPut || !strings.Contains(r.URL.Path, "/manifests/") {
		return false
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	var m document
	if json.Unmarshal(body, &m) != nil || m.Subject == nil || rand.IntN(3) > 0 {
		return false
	}
	w.Header().Set("Docker-Content-Digest", digestOf(body))
	w.Header().Set("OCI-Subject", m.Subject.Digest)
	w.Header().Set("Location", r.URL.Path)
	w.WriteHeader(http.StatusCreated)
	return true
}

// fails gives each third request no useful answer, half of them after having done
// what was asked.
func fails(w http.ResponseWriter, r *http.Request, honest http.Handler) bool {
	if rand.IntN(3) > 0 {
		return false
	}
	if rand.IntN(2) == 0 {
		honest.ServeHTTP(httptest.NewRecorder(), r)
	}
	switch rand.IntN(3) {
	case 0:
		w.WriteHeader(http.StatusInternalServerError)
	case 1:
		w.Header().Set("Retry-After", fmt.Sprint(rand.IntN(3)))
		w.WriteHeader(http.StatusTooManyRequests)
	default:
		panic(http.ErrAbortHandler)
	}
	return true
}

// silent is a registry that sometimes does not answer before the caller gives up.
type silent struct {
	storage.Registry
	now func() bool
}

func (s silent) Repository(name string) (storage.Repository, error) {
	repo, err := s.Registry.Repository(name)
	if s.now == nil {
		return repo, err
	}
	return silentRepository{repo, s.now}, err
}

type silentRepository struct {
	storage.Repository
	now func() bool
}

func (r silentRepository) Manifest(ctx context.Context, ref string) (storage.Descriptor, []byte, error) {
	if r.now() {
		<-ctx.Done()
		return storage.Descriptor{}, nil, errors.Join(errors.New("no answer"), ctx.Err())
	}
	return r.Repository.Manifest(ctx, ref)
}
