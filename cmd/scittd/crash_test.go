package main

import (
	"bytes"
	"context"
	"crypto"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/spf13/pflag"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// seed chooses the moments of the kills; it is logged, to be given again.
var seed = flag.Uint64("seed", uint64(time.Now().UnixNano()), "of the moments at which servers are killed")

const (
	kills    = 5
	inFlight = 200 // registrations under way at each kill
	images   = 25  // in the registry
	aboutOne = 4   // every so many-th registration is about an image, and placed
)

// unlimited are flags of serve that let one caller do as it likes.
var unlimited = []string{"--limits-caller-rate", "0", "--limits-address-rate", "0", "--limits-in-flight", "2000"}

const crashPolicy = `
version: 1
operators:
  - key: service/keys/operator.pub
issuers:
  - iss: https://tests.wabbit.example
    key: tester.pub
    repositories: ["wabbit/*"]
repositories: [{match: net-monitor, to: wabbit/net-monitor}]
subjects: [intoto, sub]
visibility: public
`

// registration is one statement, signed beforehand, and what was promised for
// it: a journal outside the process that is killed.
type registration struct {
	id    statement.ID
	image string // "": about something else, and only in the ledger
	body  []byte

	receipt []byte // of the first 201; nil: nothing was promised
	index   uint64
}

// load is a site with a publisher who has much to say.
type load struct {
	*site
	token  string
	key    crypto.Signer
	images []string // digests, in wabbit/net-monitor
	signed int
}

// newLoad initialises s and fills its registry; the service is running.
func newLoad(s *site) (*load, *server) {
	s.t.Helper()
	s.keyPair("tester")
	s.init(crashPolicy)
	running := s.serve(unlimited...)
	l := &load{site: s, token: s.token("ci", "publish")}
	var err error
	if l.key, err = cose.ParsePrivatePEM(s.read("tester.pem")); err != nil {
		s.t.Fatal(err)
	}
	for i := range images {
		l.images = append(l.images, l.push(i))
	}
	return l, running
}

// push makes one of many images.
func (l *load) push(i int) string {
	l.t.Helper()
	image := mutate.Annotations(mutate.MediaType(empty.Image, types.OCIManifestSchema1), map[string]string{"number": fmt.Sprint(i)}).(v1.Image)
	tag, err := name.NewTag(fmt.Sprintf("%s/wabbit/net-monitor:v%d", l.registry, i), name.Insecure)
	if err != nil {
		l.t.Fatal(err)
	}
	err = remote.Write(tag, image, remote.WithTransport(l.http.Transport), remote.WithAuth(&authn.Basic{Username: "ci", Password: l.token}))
	if err != nil {
		l.t.Fatal(err)
	}
	digest, err := image.Digest()
	if err != nil {
		l.t.Fatal(err)
	}
	return digest.String()
}

// sign makes n statements, all different.
func (l *load) sign(n int) []*registration {
	l.t.Helper()
	var all []*registration
	for range n {
		l.signed++
		image, sub := "", fmt.Sprintf("https://tests.wabbit.example/runs/%d", l.signed)
		if l.signed%aboutOne == 0 {
			image = l.images[l.signed/aboutOne%len(l.images)]
			sub = "pkg:oci/net-monitor@" + image
		}
		body, err := statement.Sign(statement.Template{
			Issuer: "https://tests.wabbit.example", Subject: sub,
			ContentType: "application/json", Payload: fmt.Appendf(nil, `{"run": %d}`, l.signed),
		}, l.key)
		if err != nil {
			l.t.Fatal(err)
		}
		s, err := statement.Parse(body)
		if err != nil {
			l.t.Fatal(err)
		}
		all = append(all, &registration{id: s.ID(), image: image, body: body})
	}
	return all
}

// post submits all, inFlight at a time, and journals every promise before it
// counts it. An answer other than a promise, a broken connection or a 503 is an
// error.
func (l *load) post(all []*registration, promised func(n int)) {
	l.t.Helper()
	var count atomic.Int64
	var posting sync.WaitGroup
	slots := make(chan struct{}, inFlight)
	for _, r := range all {
		slots <- struct{}{}
		posting.Go(func() {
			defer func() { <-slots }()
			a, err := l.do(context.Background(), http.MethodPost, "/entries", l.token, r.body)
			switch {
			case err != nil || a.status == http.StatusServiceUnavailable:
				return
			case a.status != http.StatusCreated:
				l.t.Errorf("entry %s: %d\n%s", r.id, a.status, a.body)
				return
			}
			l.journal(r, a.body)
			promised(int(count.Add(1)))
		})
	}
	posting.Wait()
}

// during posts all, and after so many promises does something to the server.
func (l *load) during(all []*registration, promises int, something func()) {
	l.t.Helper()
	reached := make(chan struct{})
	reach := sync.OnceFunc(func() { close(reached) })
	var doing sync.WaitGroup
	doing.Go(func() {
		<-reached
		something()
	})
	l.post(all, func(n int) {
		if n >= promises {
			reach()
		}
	})
	reach() // however few there were
	doing.Wait()
}

// journal keeps a promise, or holds the service to the one it gave before.
func (l *load) journal(r *registration, receipt []byte) {
	if r.receipt != nil {
		if !bytes.Equal(r.receipt, receipt) {
			l.t.Errorf("entry %s: another receipt than the one that was given", r.id)
		}
		return
	}
	parsed, err := receipts.Parse(receipt)
	if err != nil {
		l.t.Errorf("entry %s: %v", r.id, err)
		return
	}
	r.receipt, r.index = receipt, parsed.Proofs[0].LeafIndex
}

// finish resubmits everything: now each is registered, and what was promised is
// as it was.
func (l *load) finish(all []*registration) {
	l.t.Helper()
	l.post(all, func(int) {})
	for _, r := range all {
		if r.receipt == nil {
			l.t.Errorf("entry %s is not registered in the end", r.id)
			continue
		}
		var e apitype.Entry
		l.getJSON("/v1/entries/"+r.id.String(), l.token, &e)
		if e.Index != r.index {
			l.t.Errorf("entry %s is at index %d, its receipt says %d", r.id, e.Index, r.index)
		}
		if got := l.get("/v1/entries/"+r.id.String()+"/receipt", l.token); !bytes.Equal(got, r.receipt) {
			l.t.Errorf("entry %s: the stored receipt is not the one that was given", r.id)
		}
	}
}

// awaitPlacement waits until every delivery is settled, and settled well.
func (l *load) awaitPlacement(running *server, all []*registration) {
	l.t.Helper()
	left := all
	running.await("to place everything", func() bool {
		left = slices.DeleteFunc(slices.Clone(left), func(r *registration) bool {
			if r.image == "" {
				return true
			}
			var d apitype.Deliveries
			l.getJSON("/v1/entries/"+r.id.String()+"/deliveries", l.token, &d)
			return !slices.ContainsFunc(d.Deliveries, func(d apitype.Delivery) bool {
				if d.State == ledger.Refused {
					l.t.Fatalf("entry %s: %s was refused: %s", r.id, d.Artifact, d.LastError)
				}
				return d.State != ledger.Done
			})
		})
		return len(left) == 0
	})
}

// listed counts the manifests that refer to any of the images.
func (l *load) listed() map[string]int {
	l.t.Helper()
	counts := map[string]int{}
	for _, image := range l.images {
		at, err := name.NewDigest(l.registry+"/wabbit/net-monitor@"+image, name.Insecure)
		if err != nil {
			l.t.Fatal(err)
		}
		index, err := remote.Referrers(at, remote.WithTransport(l.http.Transport))
		if err != nil {
			l.t.Fatal(err)
		}
		list, err := index.IndexManifest()
		if err != nil {
			l.t.Fatal(err)
		}
		for _, d := range list.Manifests {
			counts[image+" "+d.Digest.String()]++
		}
	}
	return counts
}

// audit opens the store of a service that has ended: the log is sound, and every
// delivery is done. It returns what the deliveries say was placed, once each.
func (l *load) audit(all []*registration) map[string]int {
	l.t.Helper()
	ctx := l.t.Context()
	c, err := loadConfig(l.path("service/scittd.yaml"), func(string) string { return "" }, &pflag.FlagSet{})
	if err != nil {
		l.t.Fatal(err)
	}
	issuer, err := openIssuer(c)
	if err != nil {
		l.t.Fatal(err)
	}
	db, err := openDatabase(ctx, c)
	if err != nil {
		l.t.Fatal(err)
	}
	defer db.Close()
	if err := ledgertest.CheckLog(ctx, db, issuer.Public()); err != nil {
		l.t.Errorf("the log is not sound: %v", err)
	}
	head, err := db.Head(ctx)
	if err != nil || head.Size != uint64(len(all))+2 {
		l.t.Errorf("the log has size %d, want %d: each statement once, after policy and service: %v", head.Size, len(all)+2, err)
	}
	placed := map[string]int{}
	for _, r := range all {
		deliveries, err := db.Deliveries(ctx, r.id, ledger.All)
		if err != nil {
			l.t.Fatal(err)
		}
		if want := placements(r); len(deliveries) != want {
			l.t.Errorf("entry %s has %d deliveries, want %d", r.id, len(deliveries), want)
		}
		for _, d := range deliveries {
			if d.State == ledger.Done {
				placed[string(d.Subject)+" "+string(d.Manifest)] = 1
			}
		}
	}
	return placed
}

// placements is how many manifests a registration adds to the registry: evidence
// and transparency artifact.
func placements(all ...*registration) int {
	n := 0
	for _, r := range all {
		if r.image != "" {
			n += 2
		}
	}
	return n
}

func onBothStores(t *testing.T, test func(*testing.T, *load, *server)) {
	for _, d := range []deployment{sqliteEmbedded, postgresDocker} {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			l, running := newLoad(newSite(t, d))
			test(t, l, running)
		})
	}
}

func TestKilledServiceKeepsEveryPromise(t *testing.T) {
	t.Parallel()
	t.Logf("-seed %d", *seed)
	onBothStores(t, func(t *testing.T, l *load, running *server) {
		chance := rand.New(rand.NewPCG(*seed, 0))
		var all []*registration
		lost := 0
		for range kills {
			fresh := l.sign(inFlight)
			all = append(all, fresh...)
			// The kill comes a moment after some number of promises.
			after, moment := 1+chance.IntN(inFlight*3/4), time.Duration(chance.IntN(3_000))*time.Microsecond
			l.during(fresh, after, func() {
				time.Sleep(moment)
				running.kill()
			})
			unanswered := 0
			for _, r := range fresh {
				if r.receipt == nil {
					unanswered++
				}
			}
			t.Logf("killed %s after promise %d: %d of %d were never answered", moment, after, unanswered, len(fresh))
			lost += unanswered
			running = l.serve(unlimited...)
		}
		if lost == 0 {
			t.Error("no kill hit a registration under way: nothing was tested")
		}

		l.finish(all)
		l.awaitPlacement(running, all)
		listed := l.listed()
		running.stop()
		placed := l.audit(all)
		if !maps.Equal(listed, placed) || len(listed) != placements(all...) {
			t.Errorf("the registry lists %d manifests, %d deliveries are done; want %d, the same, each once", len(listed), len(placed), placements(all...))
		}
	})
}

func TestStopUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, l *load, running *server) {
		all := l.sign(4 * inFlight)
		l.during(all, inFlight, running.stop) // within shutdownTime, with exit code 0
		promised := 0
		for _, r := range all {
			if r.receipt != nil {
				promised++
			}
		}
		t.Logf("%d of %d were promised before the stop", promised, len(all))
		if promised == len(all) {
			t.Error("the stop came when all was over: nothing was tested")
		}

		running = l.serve(unlimited...)
		for _, r := range all {
			if r.receipt == nil {
				continue
			}
			if got := l.get("/v1/entries/"+r.id.String()+"/receipt", l.token); !bytes.Equal(got, r.receipt) {
				t.Errorf("entry %s: the receipt after the restart is not the one that was given", r.id)
			}
		}
		l.finish(all)
		running.stop()
		l.audit(all)
	})
}
