package registrar_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
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

// database is what replicas share.
type database interface {
	ledger.Store
	ledger.Staging
	ledger.Backlog
}

// clocked is a database whose clock is the test's, a bubble's too.
type clocked struct{ database }

func (clocked) Now(context.Context) (time.Time, error) { return time.Now(), nil }

// replica is a service without HTTP that shares its database with others.
type replica struct {
	ledger    *ledger.Ledger
	registrar *registrar.Registrar
	courier   *registrar.Courier
}

// fleet is a log, its replicas and their publisher.
type fleet struct {
	*testing.T
	operator  *ledgertest.Operator
	publisher *ledgertest.Publisher
	db        database
	replicas  []*replica
	host      string
}

// startFleet initialises a log and starts a replica for each database, which are
// ways to the same one; a registry is opened for each of them. stop ends them
// all and checks the log.
func startFleet(t *testing.T, host string, dbs []database, open func() storage.Registry, o registrar.CourierOptions) (f *fleet, stop func()) {
	f = &fleet{T: t, operator: ledgertest.NewOperator(t), publisher: ledgertest.NewPublisher(t, "https://wabbit.example"), db: dbs[0], host: host}
	f.operator.Init(t, clocked{dbs[0]}, f.publisher)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for i, db := range dbs {
		l, err := ledger.Open(ctx, clocked{db}, ledger.Options{Issuer: f.operator.Issuer(t), Registry: host})
		if err != nil {
			t.Fatal(err)
		}
		target := open()
		o.Owner = fmt.Sprint("replica ", i)
		c := registrar.NewCourier(l, db, func(h string) (storage.Registry, error) {
			if h != host {
				return nil, fmt.Errorf("asked for registry %s, not %s", h, host)
			}
			return target, nil
		}, o)
		running.Go(func() { c.Run(ctx) })
		f.replicas = append(f.replicas, &replica{l, registrar.New(l, registrar.Options{Registry: host, Wake: c.Wake}), c})
	}
	return f, func() {
		cancel()
		running.Wait()
		var errs []error
		for _, r := range f.replicas {
			errs = append(errs, r.ledger.Close(context.Background()))
		}
		if err := errors.Join(append(errs, ledgertest.CheckLog(context.Background(), f.db))...); err != nil {
			t.Error(err)
		}
	}
}

// claim is one of many about image, with evidence of its own.
func (f *fleet) claim(image statement.Digest, n int) *statement.Statement {
	return f.publisher.Sign(f, statement.Template{
		Subject: "pkg:oci/net-monitor@" + string(image), ContentType: ledgertest.SBOM, Payload: fmt.Appendf(nil, `{"n":%d}`, n),
	})
}

func (r *replica) register(ctx context.Context, s *statement.Statement) error {
	_, err := r.registrar.Register(ctx, s.Canonical(), ledger.Circumstances{Repository: repository, Caller: "test"})
	return err
}

// awaitPlaced waits until nothing is queued any more, looking every so often, and
// returns how long that took.
func (f *fleet) awaitPlaced(every, patience time.Duration) time.Duration {
	f.Helper()
	for begin := time.Now(); ; time.Sleep(every) {
		tallies, err := f.db.Tallies(f.Context(), time.Now())
		if err != nil {
			f.Fatal(err)
		}
		open := 0
		for _, t := range tallies {
			open += int(t.Queued)
			if t.Refused > 0 {
				f.Fatalf("refused: %+v", f.open(ledger.Refused))
			}
		}
		if open == 0 {
			return time.Since(begin)
		}
		if time.Since(begin) > patience {
			f.Fatalf("after %s %d deliveries are queued, such as %+v", patience, open, f.open(ledger.Queued))
		}
	}
}

func (f *fleet) open(state string) []ledger.Delivery {
	f.Helper()
	found, err := f.db.FindDeliveries(f.Context(), ledger.DeliveryQuery{State: state, Limit: 3})
	if err != nil {
		f.Fatal(err)
	}
	return found
}

// pushImage pushes the n-th of many small images and returns its digest.
func pushImage(t *testing.T, registry storage.Registry, n int) statement.Digest {
	t.Helper()
	repo, err := registry.Repository(repository)
	if err != nil {
		t.Fatal(err)
	}
	config := []byte("{}")
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(config)), nil }
	if err := repo.PushBlob(t.Context(), digestOf(config), int64(len(config)), open); err != nil {
		t.Fatal(err)
	}
	const mediaType = "application/vnd.oci.image.manifest.v1+json"
	body := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":2},"layers":[],"annotations":{"n":"%d"}}`,
		mediaType, digestOf(config), n)
	pushed, err := repo.PushManifest(t.Context(), mediaType, body, fmt.Sprint("v", n))
	if err != nil {
		t.Fatal(err)
	}
	return statement.Digest(pushed.Digest)
}

// remote opens the registry at host as one replica does.
func remote(t *testing.T, host string) *storage.Remote {
	t.Helper()
	r, err := storage.OpenRemote(host, storage.RemoteOptions{PlainHTTP: true, Credentials: anonymous})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// wantPlaced looks at the registry as any client does, by its API and by the
// referrers tag, opens everything that is listed for image, and wants each claim
// and its evidence once.
func wantPlaced(t *testing.T, host string, image statement.Digest, claims []*statement.Statement) {
	t.Helper()
	listed := map[string]bool{}
	for _, path := range []string{"referrers/" + string(image), "manifests/" + strings.Replace(string(image), ":", "-", 1)} {
		var index struct{ Manifests []storage.Descriptor }
		if !fetch(t, host, path, &index) {
			continue
		}
		for _, d := range index.Manifests {
			listed[d.Digest] = true
		}
	}
	count, evidence := map[string]int{}, 0
	for digest := range listed {
		var m struct {
			ArtifactType string
			Subject      storage.Descriptor
			Annotations  map[string]string
		}
		if !fetch(t, host, "manifests/"+digest, &m) {
			t.Errorf("%s is listed, but lost", digest)
			continue
		}
		switch {
		case m.Subject.Digest != string(image):
			t.Errorf("%s refers to %s", digest, m.Subject.Digest)
		case m.ArtifactType == ledgertest.SBOM:
			evidence++
		case m.ArtifactType == transparencyType:
			count[m.Annotations["io.github.scittd.entry"]]++
		}
	}
	lost := slices.DeleteFunc(slices.Clone(claims), func(s *statement.Statement) bool { return count[s.ID().String()] == 1 })
	if len(lost) > 0 || len(count) != len(claims) || evidence != len(claims) {
		t.Errorf("of %d claims %d are not listed once; %d transparency artifacts, %d pieces of evidence", len(claims), len(lost), len(count), evidence)
	}
}

// fetch reads JSON at a path of the repository; false: it is not there.
func fetch(t *testing.T, host, path string, into any) bool {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+host+"/v2/"+repository+"/"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json")
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return false
	}
	if err != nil || resp.StatusCode != http.StatusOK || json.Unmarshal(body, into) != nil {
		t.Fatalf("GET %s: %d %v %.200s", path, resp.StatusCode, err, body)
	}
	return true
}
