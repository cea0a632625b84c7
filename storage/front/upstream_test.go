package front_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"cuelabs.dev/go/oci/ociregistry/ocimem"
	"cuelabs.dev/go/oci/ociregistry/ociserver"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	orasremote "oras.land/oras-go/v2/registry/remote"

	"github.com/scittd/scittd/internal/testenv"
	"github.com/scittd/scittd/storage/front"
)

// registries are what a front may stand before.
var registries = []struct {
	name  string
	start func(t *testing.T) (host string)
}{
	{"debian docker-registry", func(t *testing.T) string { return testenv.Registry(t) }},
	{"embedded", func(t *testing.T) string { return hostOf(serve(t, front.Config{})) }},
	{"go-containerregistry", handler(func() http.Handler {
		return registry.New(registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0)))
	})},
	{"ociserver", ociServer(ociserver.Options{})},
	{"ociserver without referrers", ociServer(ociserver.Options{DisableReferrersAPI: true, DisableSinglePostUpload: true})},
	{"ociserver with short pages", ociServer(ociserver.Options{MaxListPageSize: 2, DisableReferrersFiltering: true, OmitDigestFromTagGetResponse: true})},
	{"another front", func(t *testing.T) string { return hostOf(before(t, hostOf(serve(t, front.Config{})), nil)) }},
}

func ociServer(o ociserver.Options) func(t *testing.T) string {
	return handler(func() http.Handler { return ociserver.New(ocimem.New(), &o) })
}

func handler(h func() http.Handler) func(t *testing.T) string {
	return func(t *testing.T) string { return hostOf(listen(t, h())) }
}

func listen(t *testing.T, h http.Handler) (url string) {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		s.Close()
	})
	return s.URL
}

func hostOf(url string) string {
	_, host, _ := strings.Cut(url, "://")
	return host
}

// before puts a front before the registry at host.
func before(t *testing.T, host string, change func(*front.UpstreamConfig, *front.Config)) (url string) {
	t.Helper()
	return listen(t, fronted(t, host, change))
}

func fronted(t *testing.T, host string, change func(*front.UpstreamConfig, *front.Config)) http.Handler {
	t.Helper()
	u, c := front.UpstreamConfig{Host: host, PlainHTTP: true}, front.Config{TokenPrefix: "scitt_"}
	if change != nil {
		change(&u, &c)
	}
	upstream, err := front.OpenUpstream(u)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(upstream.Close)
	c.Upstream = upstream
	return front.New(c)
}

// zero is a digest of nothing known.
var zero = "sha256:" + strings.Repeat("0", 64)

func digestOf(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

const ociManifest = "application/vnd.oci.image.manifest.v1+json"

// errand is a client that notes how it was answered. Where it went and what it
// was promised may differ between two hosts in nothing but the host.
type errand struct {
	t     *testing.T
	url   string
	notes []string
}

func (e *errand) do(method, target, body string, headers ...string) answer {
	e.t.Helper()
	if strings.HasPrefix(target, "/") {
		target = e.url + target
	}
	if !strings.HasPrefix(target, e.url+"/") {
		e.t.Fatalf("%s %s: the client of %s was sent elsewhere", method, target, e.url)
	}
	a := do(e.t, method, target, body, "", headers...)
	kept := []string{}
	for name, values := range a.header {
		switch name {
		case "Date", "X-Content-Type-Options", "Content-Security-Policy": // ours, or of the moment
		case "Location", "Link", "Docker-Upload-Uuid":
			kept = append(kept, name)
		default:
			kept = append(kept, fmt.Sprint(name, values))
		}
	}
	slices.Sort(kept)
	e.notes = append(e.notes, fmt.Sprintf("%s %s\n  %d %v %q", method, path(target), a.status, kept, unstable(a.body)))
	return a
}

// path is a target without what is made up for one upload.
func path(target string) string {
	target = target[strings.Index(target, "/v2"):]
	if before, _, upload := strings.Cut(target, "/blobs/uploads/"); upload {
		return before + "/blobs/uploads/…"
	}
	return target
}

// unstable hides what error messages say of one upload.
func unstable(body string) string {
	if strings.Contains(body, "upload") {
		return "…"
	}
	return body
}

// location is where an answer leads, as a client resolves it.
func (e *errand) location(a answer) string {
	e.t.Helper()
	l := a.header.Get("Location")
	if l == "" {
		e.t.Fatalf("no Location: %d %s", a.status, a.body)
	}
	return l
}

// with adds a query to a location that may have one.
func with(location, query string) string {
	if strings.Contains(location, "?") {
		return location + "&" + query
	}
	return location + "?" + query
}

// run does everything that clients do.
func (e *errand) run(repo string) {
	base := "/v2/" + repo
	config, layer := "{}", strings.Repeat("layer ", 5000)
	e.do("GET", "/v2/", "")
	for _, blob := range []string{config, layer} {
		up := e.do("POST", base+"/blobs/uploads/", "")
		e.do("PUT", with(e.location(up), "digest="+digestOf([]byte(blob))), blob, "Content-Type: application/octet-stream")
	}
	chunks := strings.Repeat("chunk", 4000)
	up := e.do("POST", base+"/blobs/uploads/", "")
	for i := 0; i < len(chunks); i += 10_000 {
		part := chunks[i:min(i+10_000, len(chunks))]
		up = e.do("PATCH", e.location(up), part, fmt.Sprintf("Content-Range: %d-%d", i, i+len(part)-1), "Content-Type: application/octet-stream")
	}
	e.do("PUT", with(e.location(up), "digest="+strings.Replace(digestOf([]byte(chunks)), ":", "%3A", 1)), "")
	cancelled := e.do("POST", base+"/blobs/uploads/", "")
	e.do("PUT", with(e.location(cancelled), "digest="+digestOf([]byte("other"))), "not that")
	e.do("POST", "/v2/"+repo+"/mounted/blobs/uploads/?mount="+digestOf([]byte(layer))+"&from="+repo, "")

	blob := base + "/blobs/" + digestOf([]byte(layer))
	e.do("HEAD", blob, "")
	e.do("GET", blob, "")
	e.do("GET", blob, "", "Range: bytes=6-11")
	e.do("GET", base+"/blobs/"+digestOf([]byte("absent")), "")

	descriptor := func(b string) string {
		return fmt.Sprintf(`{"mediaType":"application/octet-stream","digest":%q,"size":%d}`, digestOf([]byte(b)), len(b))
	}
	image := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]}`, ociManifest, descriptor(config), descriptor(layer))
	for _, tag := range []string{"v1", "v2", "v3"} {
		e.do("PUT", base+"/manifests/"+tag, image, "Content-Type: "+ociManifest)
	}
	e.do("PUT", base+"/manifests/bad", `{"schemaVersion":2`, "Content-Type: "+ociManifest)
	claim := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"artifactType":"a/b","config":%s,"layers":[%s],"subject":{"mediaType":%q,"digest":%q,"size":%d}}`,
		ociManifest, descriptor(config), descriptor(chunks), ociManifest, digestOf([]byte(image)), len(image))
	e.do("PUT", base+"/manifests/"+digestOf([]byte(claim)), claim, "Content-Type: "+ociManifest)
	accept := "Accept: application/vnd.oci.image.index.v1+json, " + ociManifest
	e.do("GET", base+"/manifests/v1", "", accept)
	e.do("GET", base+"/manifests/v1?ns=docker.io", "", accept)
	e.do("HEAD", base+"/manifests/"+digestOf([]byte(image)), "", accept)
	e.do("GET", base+"/manifests/absent", "", accept)
	e.do("GET", base+"/referrers/"+digestOf([]byte(image))+"?artifactType=a/b", "")
	page := e.do("GET", base+"/tags/list?n=2", "")
	if link := page.header.Get("Link"); link != "" {
		target, _, _ := strings.Cut(strings.TrimPrefix(link, "<"), ">")
		e.do("GET", target, "")
	}
	e.do("GET", base+"/tags/list", "")
	e.do("DELETE", base+"/manifests/"+digestOf([]byte(claim)), "")
	e.do("GET", base+"/manifests/"+digestOf([]byte(claim)), "", accept)
	e.do("GET", "/v2/Upper/manifests/v1", "", accept)
}

func TestAnswersThroughTheFrontAreTheRegistrysOwn(t *testing.T) {
	for _, r := range registries {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			host := r.start(t)
			direct := &errand{t: t, url: "http://" + host}
			direct.run("team/app")
			through := &errand{t: t, url: before(t, r.start(t), nil)}
			through.run("team/app")
			for i := range direct.notes {
				if direct.notes[i] != through.notes[i] && !strings.Contains(direct.notes[i], "/v2/Upper/") {
					t.Errorf("directly:\n%s\nthrough the front:\n%s", direct.notes[i], through.notes[i])
				}
			}
			if len(direct.notes) != len(through.notes) {
				t.Errorf("%d answers directly, %d through the front", len(direct.notes), len(through.notes))
			}
		})
	}
}

func TestClientLibrariesWorkThroughTheFront(t *testing.T) {
	for _, r := range registries {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			host := hostOf(before(t, r.start(t), nil))
			ref, err := name.ParseReference(host + "/team/app:v1")
			if err != nil {
				t.Fatal(err)
			}
			img, err := random.Image(100_000, 3)
			if err != nil {
				t.Fatal(err)
			}
			if err := remote.Write(ref, img); err != nil {
				t.Fatal(err)
			}
			mounted, err := name.ParseReference(host + "/team/other:v1")
			if err != nil {
				t.Fatal(err)
			}
			pulled, err := remote.Image(ref)
			if err != nil {
				t.Fatal(err)
			}
			if err := remote.Write(mounted, pulled); err != nil { // layers are mounted
				t.Fatal(err)
			}
			want, err := img.Digest()
			if err != nil {
				t.Fatal(err)
			}
			if got, err := remote.Head(mounted); err != nil || got.Digest != want {
				t.Errorf("pushed %s, got %v, %v", want, got, err)
			}

			repo, err := orasremote.NewRepository(host + "/team/app")
			if err != nil {
				t.Fatal(err)
			}
			repo.PlainHTTP = true
			repo.SkipReferrersGC = true
			subject, err := repo.Resolve(t.Context(), "v1")
			if err != nil {
				t.Fatal(err)
			}
			claims := map[string]bool{}
			for i := range 3 {
				d, err := oras.PackManifest(t.Context(), repo, oras.PackManifestVersion1_1, fmt.Sprintf("a/claim%d", i), oras.PackManifestOptions{Subject: &subject})
				if err != nil {
					t.Fatal(err)
				}
				claims[d.Digest.String()] = true
			}
			if r.name == "ociserver without referrers" {
				return // it answers as no registry does that oras-go knows
			}
			found := map[string]bool{}
			err = repo.Referrers(t.Context(), subject, "", func(list []ocispec.Descriptor) error {
				for _, d := range list {
					found[d.Digest.String()] = true
				}
				return nil
			})
			if err != nil || !maps.Equal(claims, found) {
				t.Errorf("attached %v, listed %v, %v", claims, found, err)
			}
		})
	}
}

// What the registry is told, and what not.
func TestRegistryIsToldWhoAsksAndByWhichName(t *testing.T) {
	var got *http.Request
	registry := hostOf(listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { got = r })))
	headers := []string{
		"Host: images.example", "Accept: a/b", "Range: bytes=0-1", "X-Forwarded-For: 6.6.6.6", "X-Forwarded-Host: evil.example", "X-Forwarded-Proto: gopher",
		"Forwarded: for=6.6.6.6", "Cookie: session=1", "Upgrade: websocket", "Connection: Upgrade", "Accept-Encoding: gzip", "User-Agent: docker/1",
	}
	url := before(t, registry, func(_ *front.UpstreamConfig, c *front.Config) { c.PublicURL = "https://images.example" })
	do(t, "GET", url+"/v2/a/manifests/v1", "", "Basic dTpw", headers...)
	for name, want := range map[string]string{
		"Authorization": "Basic dTpw", "Accept": "a/b", "Range": "bytes=0-1", "X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "images.example",
		"X-Forwarded-Proto": "https", "Cookie": "", "Upgrade": "", "Connection": "", "Forwarded": "", "User-Agent": "docker/1", "Accept-Encoding": "gzip",
	} {
		if v := got.Header.Get(name); v != want {
			t.Errorf("%s is %q, want %q", name, v, want)
		}
	}
	if got.Host != "images.example" {
		t.Errorf("Host is %s", got.Host)
	}
	url = before(t, registry, func(u *front.UpstreamConfig, _ *front.Config) { u.OwnName = true })
	do(t, "GET", url+"/v2/a/manifests/v1", "", "", headers...)
	if got.Host != registry || got.Header.Get("X-Forwarded-Proto") != "http" {
		t.Errorf("by its own name: Host %s, X-Forwarded-Proto %s", got.Host, got.Header.Get("X-Forwarded-Proto"))
	}
}

func TestRegistryThatIsAwayIsA502InItsOwnWords(t *testing.T) {
	gone := httptest.NewServer(nil)
	host := hostOf(gone.URL)
	url := before(t, host, nil)
	gone.Close() // only now, or its port could become the front's
	for _, path := range []string{"/v2/", "/v2/a/manifests/v1", "/token"} {
		if a := do(t, "GET", url+path, "", ""); a.status != 502 || a.code() != "UNKNOWN" || strings.Contains(a.body, host) {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
}

func TestFrontBeforeItselfIsALoopAndNotEndless(t *testing.T) {
	s := httptest.NewUnstartedServer(nil)
	host := s.Listener.Addr().String()
	passed := 0
	handler := fronted(t, host, nil)
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		passed++
		handler.ServeHTTP(w, r)
	})
	s.Start()
	t.Cleanup(s.Close)
	for _, path := range []string{"/v2/", "/v2/r/manifests/v1", "/v2/r/tags/list"} {
		passed = 0
		resp, err := http.Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusLoopDetected || !strings.Contains(string(body), host) || passed != 2 {
			t.Errorf("GET %s: %d %s, %v, after %d passes; want 508 that names %s after two", path, resp.StatusCode, body, err, passed, host)
		}
	}
}

func TestTokensOfOursNeverGoUpstream(t *testing.T) {
	url := before(t, hostOf(listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("the registry was asked for %s with %v", r.URL, r.Header)
	}))), nil)
	for _, authorization := range []string{"Bearer scitt_secret", "bearer  scitt_secret", basic("u", "scitt_secret")} {
		for _, path := range []string{"/v2/", "/v2/a/manifests/v1", "/token?service=x"} {
			if a := do(t, "GET", url+path, "", authorization); a.status != 401 || a.code() != "UNAUTHORIZED" {
				t.Errorf("%s with %s: %d %s", path, authorization, a.status, a.body)
			}
		}
	}
}

func TestPagesOfPushersAreNoPagesOfThisHost(t *testing.T) {
	url := before(t, hostOf(listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Set-Cookie", "session=mine")
		io.WriteString(w, "<script>alert(1)</script>")
	}))), nil)
	a := do(t, "GET", url+"/v2/a/blobs/"+zero, "", "")
	if a.header.Get("X-Content-Type-Options") != "nosniff" || !strings.HasPrefix(a.header.Get("Content-Security-Policy"), "sandbox") || a.header.Get("Set-Cookie") != "" {
		t.Errorf("got %v", a.header)
	}
}

func TestDiscoveryNamesBothExtensions(t *testing.T) {
	url := before(t, hostOf(listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `{"extensions":[{"name":"_zot","url":"https://zot.example","description":"search","endpoints":["/v2/_zot/ext/search"]},{"name":"_scitt","url":"","endpoints":[]}]}`)
	}))), func(_ *front.UpstreamConfig, c *front.Config) { c.Extension, c.ExtensionEndpoints = echo, discovery })
	a := do(t, "GET", url+"/v2/_oci/ext/discover", "", "")
	var got struct{ Extensions []struct{ Name string } }
	if err := json.Unmarshal([]byte(a.body), &got); err != nil || len(got.Extensions) != 2 || got.Extensions[0].Name != "_scitt" || got.Extensions[1].Name != "_zot" {
		t.Errorf("got %s", a.body)
	}
}
