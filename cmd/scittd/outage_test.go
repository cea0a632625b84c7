package main

import (
	"flag"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/scittd/scittd/internal/testenv"
)

// The long form: make pulls.
var (
	outagePulls = flag.Int("outage.pulls", 200, "pulls while PostgreSQL is stopped")
	outageTime  = flag.Duration("outage.time", 0, "how long they take; then the p99 of a manifest is held against that of half as many before")
)

// TestPullsAndPushesNeedNoDatabase: PostgreSQL stops, the service is even
// started again meanwhile, and only what concerns the ledger notices.
func TestPullsAndPushesNeedNoDatabase(t *testing.T) {
	t.Parallel()
	pg := testenv.StartPostgres(t)
	s := standing(t, "in-front", lockedRegistry(t), pg.Database(t))
	running := s.serve()
	digest := s.image("wabbit/net-monitor:v1")
	image, err := name.NewDigest(s.registry+"/wabbit/net-monitor@"+digest, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	claim := s.claimed(image.String())

	before := s.goesOn(image, &wabbit, *outagePulls/2, *outageTime/2)
	pg.Stop(t)
	during := s.goesOn(image, &wabbit, *outagePulls, *outageTime)
	t.Logf("GET of a manifest, p99: %v before, %v without a database, %.2f times as long", before, during, float64(during)/float64(before))
	if *outageTime > 0 && float64(during) > 1.2*float64(before) {
		t.Errorf("a manifest takes %v without a database, and took %v before", during, before)
	}
	s.notRegistered(claim)

	running.stop()
	running = s.serve()
	s.goesOn(image, &wabbit, 50, 0)
	s.notRegistered(claim)
	if a := s.ask(http.MethodGet, "/readyz/write", "", nil); a.status != http.StatusServiceUnavailable {
		t.Errorf("/readyz/write: %d", a.status)
	}
	if a := s.ask(http.MethodGet, "/v1/entries", "", nil); a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" || !strings.Contains(string(a.body), "store-unavailable") {
		t.Errorf("/v1/entries: %d %s", a.status, a.body)
	}

	pg.Start(t)
	running.await("to find its database again", func() bool {
		status, _ := s.registerAt(s.registry, basicAuth("wabbit", "secret"), claim)
		return status == http.StatusCreated
	})
	running.await("to place the claim", func() bool { return s.receiptsOf(image) == 1 })
	running.stop()

	// Without a database and without an end: it stops when it is told to.
	pg.Stop(t)
	s.serve().stop()
}

// The embedded registry takes pushes from callers whose tokens it has seen
// lately, for the tokens are in the database.
func TestEmbeddedRegistryServesWithoutTheDatabase(t *testing.T) {
	t.Parallel()
	pg := testenv.StartPostgres(t)
	s := newSite(t, deployment{"PostgreSQL and the embedded registry", func(t *testing.T) (string, []string) {
		return "", []string{"--database-url", pg.Database(t)}
	}})
	s.keyPair("tester")
	s.init(crashPolicy)
	running := s.serve()
	token := s.token("ci", "publish")
	s.login(token)
	image, err := name.NewDigest(s.registry+"/wabbit/net-monitor@"+s.image("wabbit/net-monitor:v1"), name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	publisher := &authn.Basic{Username: "ci", Password: token}

	pg.Stop(t)
	s.goesOn(image, publisher, 40, 0)
	running.stop()
	running = s.serve()
	pull := func() error {
		_, err := remote.Get(image, remote.WithAuth(authn.Anonymous), remote.WithTransport(s.http.Transport))
		return err
	}
	if err := pull(); err != nil {
		t.Errorf("pull from a service that was started without its database: %v", err)
	}
	if a := s.ask(http.MethodPut, "/v2/wabbit/net-monitor/manifests/v2", token, []byte("{}")); a.status != http.StatusServiceUnavailable {
		t.Errorf("push with a token that cannot be looked up: %d %s", a.status, a.body)
	}
	pg.Start(t)
	running.await("to know its tokens again", func() bool {
		return s.ask(http.MethodPost, "/v2/wabbit/net-monitor/blobs/uploads/", token, nil).status == http.StatusAccepted
	})
	s.goesOn(image, publisher, 1, 0)
	running.stop()
}

// goesOn pulls an image n times in so long, and pushes as often as seems enough.
// It returns the p99 of reading the manifest.
func (s *site) goesOn(image name.Digest, who authn.Authenticator, n int, within time.Duration) time.Duration {
	s.t.Helper()
	options := []remote.Option{remote.WithAuth(who), remote.WithTransport(s.http.Transport)}
	puller, err := remote.NewPuller(options...)
	if err != nil {
		s.t.Fatal(err)
	}
	pace := time.NewTicker(max(time.Nanosecond, within/time.Duration(n)))
	defer pace.Stop()
	took := make([]time.Duration, n)
	for i := range n {
		<-pace.C
		began := time.Now()
		d, err := puller.Get(s.t.Context(), image)
		if err != nil {
			s.t.Fatalf("pull %d of %d: %v", i, n, err)
		}
		took[i] = time.Since(began)
		pulled, err := d.Image()
		if err != nil {
			s.t.Fatal(err)
		}
		layers, err := pulled.Layers()
		if err != nil || len(layers) == 0 {
			s.t.Fatalf("pull %d of %d: %d layers, %v", i, n, len(layers), err)
		}
		if i%20 > 0 {
			continue
		}
		blob, err := layers[0].Compressed()
		if err != nil {
			s.t.Fatalf("pull a layer: %v", err)
		}
		blob.Close()
		other, err := random.Image(1000, 1)
		if err != nil {
			s.t.Fatal(err)
		}
		if err := remote.Write(image.Context().Tag(fmt.Sprintf("other%d", i)), other, options...); err != nil {
			s.t.Fatalf("push: %v", err)
		}
	}
	slices.Sort(took)
	return took[n*99/100]
}

func (s *site) notRegistered(claim []byte) {
	s.t.Helper()
	status, header := s.registerAt(s.registry, basicAuth("wabbit", "secret"), claim)
	if status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" {
		s.t.Errorf("register without a database: %d %v, want 503 and when to come back", status, header)
	}
}
