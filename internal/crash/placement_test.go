package crash

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/internal/failpoint"
	"github.com/scittd/scittd/internal/testenv"
	"github.com/scittd/scittd/ledger"
)

// perImage is how many claims about an image are placed when the kill comes.
const perImage = 3

// Each kill leaves a lease behind, so each has an image of its own.
func TestKilledWhilePlacingPlacesEverythingOnce(t *testing.T) {
	t.Parallel()
	// The embedded registry lists referrers itself.
	embedded := slices.DeleteFunc(slices.Clone(failpoint.Placement), func(p failpoint.Point) bool { return p == failpoint.Tagged })
	placementCampaign(t, 5, *placementKills, embedded, func(t *testing.T, chance *rand.Rand) (w *world, registry string) {
		w = newWorld(t, chance, onSQLite, 1)
		return w, strings.TrimPrefix(w.replicas[0].url, "http://")
	})
	placementCampaign(t, 6, *taggedKills, failpoint.Placement, func(t *testing.T, chance *rand.Rand) (w *world, registry string) {
		registry = testenv.Registry(t)
		dsn := testenv.Database(t)
		return newWorld(t, chance, onPostgres(dsn), 2, "--database-url", dsn, "--registry-host", registry, "--registry-plain-http"), registry
	})
}

func placementCampaign(t *testing.T, stream uint64, n int, points []failpoint.Point, newWorld func(*testing.T, *rand.Rand) (*world, string)) {
	total := campaign(t, stream, n, func(t *testing.T, chance *rand.Rand, kills int) figures {
		w, registry := newWorld(t, chance)
		var images []v1.Hash
		for k := range kills {
			image := w.push(registry, k)
			images = append(images, image)
			w.killWhilePlacing(w.replicas[k%len(w.replicas)], image, points[k%len(points)])
		}
		w.awaitPlacement()
		for _, image := range images {
			if n := w.listed(registry, image.String()); n != 2*perImage { // evidence and transparency artifact
				t.Errorf("image %s has %d referrers, want those of %d claims, each once", image, n, perImage)
			}
		}
		return w.finish()
	})
	for _, p := range points {
		if total.AtPoint[p] == 0 && n >= len(points) {
			t.Errorf("no process died at %q", p)
		}
	}
}

// killWhilePlacing ends every replica, and one of them at p.
func (w *world) killWhilePlacing(r *replica, image v1.Hash, p failpoint.Point) {
	w.t.Helper()
	for _, other := range w.replicas {
		other.kill()
	}
	r.start(string(p))
	w.sign(perImage, image.String())
	var posts []post
	for _, e := range w.journal.open() {
		posts = append(posts, post{e, r})
	}
	w.during(posts, 0, func() {
		select {
		case <-r.exited:
			w.journal.figures.AtPoint[p]++
		case <-time.After(patience):
			w.t.Errorf("nobody comes to %q", p)
		}
	})
	w.journal.figures.Kills++
	for _, r := range w.replicas {
		r.kill()
		r.start("")
	}
	w.lookBack(w.recent())
	w.submit(w.posts(), func() {})
}

// push makes the n-th of many images.
func (w *world) push(registry string, n int) v1.Hash {
	w.t.Helper()
	image := mutate.Annotations(mutate.MediaType(empty.Image, types.OCIManifestSchema1), map[string]string{"number": fmt.Sprint(n)}).(v1.Image)
	tag, err := name.NewTag(fmt.Sprintf("%s/wabbit/net-monitor:v%d", registry, n), name.Insecure)
	if err != nil {
		w.t.Fatal(err)
	}
	err = remote.Write(tag, image, remote.WithTransport(w.replicas[0].http.Transport), remote.WithAuth(&authn.Basic{Username: "ci", Password: w.token}))
	if err != nil {
		w.t.Fatal(err)
	}
	digest, err := image.Digest()
	if err != nil {
		w.t.Fatal(err)
	}
	return digest
}

// listed counts the manifests that refer to the image.
func (w *world) listed(registry, image string) int {
	w.t.Helper()
	at, err := name.NewDigest(registry+"/wabbit/net-monitor@"+image, name.Insecure)
	if err != nil {
		w.t.Fatal(err)
	}
	index, err := remote.Referrers(at, remote.WithTransport(w.replicas[0].http.Transport))
	if err != nil {
		w.t.Fatal(err)
	}
	list, err := index.IndexManifest()
	if err != nil {
		w.t.Fatal(err)
	}
	return len(list.Manifests)
}

// awaitPlacement waits until every delivery is done: as long as a lease, at most,
// if all goes well.
func (w *world) awaitPlacement() {
	w.t.Helper()
	for _, e := range w.journal.list(func(e *entry) bool { return e.receipt != nil && e.image != "" }) {
		for deadline := time.Now().Add(2 * patience); !w.placed(e); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				w.t.Fatalf("entry %s is not placed", e.id)
			}
		}
	}
}

func (w *world) placed(e *entry) bool {
	w.t.Helper()
	status, body, err := w.replicas[0].do(http.MethodGet, "/v1/entries/"+e.id.String()+"/deliveries", nil)
	if err != nil || status != http.StatusOK {
		w.t.Fatalf("deliveries of entry %s: %d, %v\n%s", e.id, status, err, body)
	}
	var list apitype.Deliveries
	if err := json.Unmarshal(body, &list); err != nil {
		w.t.Fatal(err)
	}
	return !slices.ContainsFunc(list.Deliveries, func(d apitype.Delivery) bool { return d.State != ledger.Done })
}
