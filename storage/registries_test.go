package storage_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"cuelabs.dev/go/oci/ociregistry/ocimem"
	"cuelabs.dev/go/oci/ociregistry/ociserver"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	ggcr "github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/scittd/scittd/internal/testenv"
	"github.com/scittd/scittd/storage"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// realRegistry is one that people run, or one with the quirk of such a one.
type realRegistry struct {
	name   string
	hasAPI bool // lists referrers by the API
	start  func(t *testing.T) (host string)
}

var realRegistries = []realRegistry{
	{"debian docker-registry", false, func(t *testing.T) string { return testenv.Registry(t) }},
	{"go-containerregistry with referrers", true, func(t *testing.T) string { return serve(t, inRAM(true)) }},
	{"go-containerregistry without referrers", false, func(t *testing.T) string { return serve(t, inRAM(false)) }},
	{"ociserver", true, ociServer(ociserver.Options{})},
	{"ociserver without referrers", false, ociServer(ociserver.Options{DisableReferrersAPI: true})},
	{"ociserver without filter", true, ociServer(ociserver.Options{DisableReferrersFiltering: true})},
	{"ociserver without digest on tags", true, ociServer(ociserver.Options{OmitDigestFromTagGetResponse: true})},
	{"ociserver without either", false, ociServer(ociserver.Options{DisableReferrersAPI: true, OmitDigestFromTagGetResponse: true})},
	{"ociserver without single post, short pages, links", true, ociServer(ociserver.Options{DisableSinglePostUpload: true, MaxListPageSize: 2, OmitLinkHeaderFromResponses: true})},
}

func inRAM(referrers bool) http.Handler {
	return registry.New(registry.WithReferrersSupport(referrers), registry.Logger(quiet))
}

func ociServer(o ociserver.Options) func(t *testing.T) string {
	return func(t *testing.T) string { return serve(t, ociserver.New(ocimem.New(), &o)) }
}

// serve runs h on loopback and returns its host:port.
func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// quiet swallows what servers say about clients that hang up on purpose.
var quiet = log.New(io.Discard, "", 0)

const repoName = "wabbit/net-monitor"

// pushImage builds a small image and pushes it as v1, with another client than
// the one under test. It returns the image's digest.
func pushImage(t *testing.T, host string) string {
	t.Helper()
	img, err := random.Image(512, 1)
	if err != nil {
		t.Fatal(err)
	}
	img = mutate.ConfigMediaType(mutate.MediaType(img, types.OCIManifestSchema1), types.OCIConfigJSON)
	ref, err := name.ParseReference(host+"/"+repoName+":v1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	defer transport.CloseIdleConnections()
	if err := ggcr.Write(ref, img, ggcr.WithTransport(transport)); err != nil {
		t.Fatal(err)
	}
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

// open opens the test repository through a Remote of its own.
func open(t *testing.T, host string, o storage.RemoteOptions) storage.Repository {
	t.Helper()
	o.PlainHTTP = true
	if o.Credentials == nil {
		o.Credentials = func(context.Context, string) (storage.Credential, error) { return storage.Credential{}, nil }
	}
	r, err := storage.OpenRemote(host, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	repo, err := r.Repository(repoName)
	if err != nil {
		t.Fatal(err)
	}
	return repo
}

// get reads a URL as any client would.
func get(t *testing.T, url string) (int, []byte) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", ocispec.MediaTypeImageIndex+", "+ocispec.MediaTypeImageManifest)
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}

// apiLists and tagLists read the two lists of referrers with plain HTTP.
func apiLists(t *testing.T, host, subject string) []ocispec.Descriptor {
	t.Helper()
	return index(t, "http://"+host+"/v2/"+repoName+"/referrers/"+subject)
}

func tagLists(t *testing.T, host, subject string) []ocispec.Descriptor {
	t.Helper()
	return index(t, "http://"+host+"/v2/"+repoName+"/manifests/"+strings.Replace(subject, ":", "-", 1))
}

func index(t *testing.T, url string) []ocispec.Descriptor {
	t.Helper()
	code, body := get(t, url)
	if code == http.StatusNotFound {
		return nil
	}
	var list ocispec.Index
	if err := json.Unmarshal(body, &list); err != nil {
		t.Fatalf("GET %s: %d %s: %v", url, code, body, err)
	}
	return list.Manifests
}

func digests(list []ocispec.Descriptor) []string {
	var found []string
	for _, d := range list {
		found = append(found, d.Digest.String())
	}
	slices.Sort(found)
	return found
}

// evidence is an SBOM with its bytes at hand.
func evidence(text string) storage.Evidence {
	return storage.Evidence{
		Digest:    digest.FromString(text).String(),
		MediaType: "application/vnd.cyclonedx+json",
		Open: func() (io.ReadCloser, int64, error) {
			return io.NopCloser(strings.NewReader(text)), int64(len(text)), nil
		},
	}
}

// transparency is an artifact whose bytes depend on entry alone.
func transparency(entry string) storage.Transparency {
	return storage.Transparency{
		Transparent: []byte("statement of " + entry), Receipt: []byte("receipt of " + entry),
		Entry: entry, Issuer: "https://wabbit.example", MediaType: "application/vnd.cyclonedx+json",
		Evidence: digest.FromString("sbom").String(), Log: "scitt.wabbit.example", Created: "2026-11-21T03:25:00Z",
	}
}

// patience is how long a registry is waited for that does not list.
var patience = []time.Duration{200 * time.Millisecond, time.Second, 5 * time.Second}

// impatient places without waiting, and notes how long it would have waited for
// the registry. Waits for a competitor at a tag are random, and not noted.
type impatient struct{ waits []time.Duration }

func (p *impatient) placer() storage.Placer {
	return storage.Placer{Pause: func(ctx context.Context, d time.Duration) error {
		if slices.Contains(patience, d) {
			p.waits = append(p.waits, d)
		}
		return ctx.Err()
	}}
}

// both places what mustPlace does.
func (p *impatient) both(t *testing.T, repo storage.Repository, subject string) (evidenceManifest, transparencyManifest string) {
	t.Helper()
	e, err := p.placer().Evidence(t.Context(), repo, subject, evidence("sbom"))
	if err != nil {
		t.Fatal(err)
	}
	tr, err := p.placer().Transparency(t.Context(), repo, subject, transparency("e1"))
	if err != nil {
		t.Fatal(err)
	}
	return e, tr
}

func mustPlace(t *testing.T, repo storage.Repository, subject string) (evidenceManifest, transparencyManifest string) {
	t.Helper()
	e, err := storage.PlaceEvidence(t.Context(), repo, subject, evidence("sbom"))
	if err != nil {
		t.Fatal(err)
	}
	tr, err := storage.PlaceTransparency(t.Context(), repo, subject, transparency("e1"))
	if err != nil {
		t.Fatal(err)
	}
	return e, tr
}

func readBlob(t *testing.T, repo storage.Repository, dig string) []byte {
	t.Helper()
	rc, _, err := repo.Blob(t.Context(), dig)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(rc); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
