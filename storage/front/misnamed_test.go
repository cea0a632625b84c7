package front_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/scittd/scittd/internal/testenv"
	"github.com/scittd/scittd/storage/front"
)

func TestPathsThatCouldBeReadTwoWaysAreRefused(t *testing.T) {
	var asked []string
	url := before(t, hostOf(listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.RequestURI)
	}))), nil)
	for _, path := range []string{
		"/v2/a%2Fb/manifests/v1", "/v2/a%2fb/manifests/v1", "/v2/a/../b/manifests/v1", "/v2/a/%2e%2e/b/manifests/v1", "/v2/a/./manifests/v1",
		"/v2//a/manifests/v1", "/v2/a//manifests/v1", "/v2/a%5cb/manifests/v1", "/v2/a/manifests/..", "/v2/a/manifests/%2e%2e", "/v2/a/manifests/x%2Fy",
		"/v2/A/manifests/v1", "/v2/a/blobs/%2e%2e/uploads/", "/v2/%61/manifests/v1", "/v2/" + strings.Repeat("a", 256) + "/manifests/v1", "/v2/a%00/manifests/v1",
	} {
		if a := do(t, "GET", url+path, "", ""); a.status != 400 || a.code() != "NAME_INVALID" {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	if len(asked) > 0 {
		t.Errorf("the registry was asked for %q", asked)
	}
	for _, path := range []string{
		"/v2/a/b/manifests/" + strings.Replace(zero, ":", "%3A", 1) + "?ns=docker.io&x=%2F%20+", "/v2/a/blobs/uploads/", "/v2/a/blobs/uploads/1?_state=a%2Bb+c%3D%3D", "/v2/a/blobs/uploads/?mount=x&from=y/z",
		"/v2/_catalog?n=1;m=2", "/v2/_zot/ext/search?query=%7B%7D", "/v2/a/blobs/upload/7", "/v2/a/manifests/_x", "/v2/a/tags/list?n=1&n=%zz",
	} {
		asked = nil
		if a := do(t, "GET", url+path, "", ""); a.status != 200 || !slices.Equal(asked, []string{path}) {
			t.Errorf("%s: %d %s; the registry was asked for %q", path, a.status, a.body, asked)
		}
	}
	if a := do(t, "TRACE", url+"/v2/", "", "Bearer x"); a.status != 405 || a.code() != "UNSUPPORTED" {
		t.Errorf("TRACE: %d %s", a.status, a.body)
	}
}

func TestReferencesThatAreNoneAreRefusedHere(t *testing.T) {
	registry := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) })
	url := before(t, hostOf(listen(t, registry)), nil)
	hooked := before(t, hostOf(listen(t, registry)), func(_ *front.UpstreamConfig, c *front.Config) {
		c.ManifestPut = []front.Hook{func(w http.ResponseWriter, _ *front.Request, next func(http.ResponseWriter)) { next(w) }}
	})
	long := strings.Repeat("v", 129)
	for _, c := range []struct {
		method, path string
		status       int
		code         string
	}{
		{"GET", "manifests/sha256:xyz", 400, "DIGEST_INVALID"},
		{"HEAD", "manifests/sha256%3Axyz", 400, ""},
		{"PUT", "manifests/sha256:xyz", 400, "DIGEST_INVALID"},
		{"DELETE", "manifests/foo:bar", 400, "DIGEST_INVALID"},
		{"GET", "manifests/SHA256:" + zero[7:], 400, "DIGEST_INVALID"},
		{"GET", "manifests/.v1", 404, "MANIFEST_UNKNOWN"},
		{"GET", "manifests/" + long, 404, "MANIFEST_UNKNOWN"},
		{"GET", "manifests/", 404, "MANIFEST_UNKNOWN"},
		{"PUT", "manifests/" + long, 400, "MANIFEST_INVALID"},
		{"PUT", "manifests/v1%0a", 400, "MANIFEST_INVALID"},
		{"GET", "blobs/", 400, "DIGEST_INVALID"},
		{"GET", "blobs/v1", 400, "DIGEST_INVALID"},
		{"GET", "blobs/" + zero + "0", 400, "DIGEST_INVALID"},
		{"GET", "referrers/xyz", 400, "DIGEST_INVALID"},
		// And these are for the registry.
		{"GET", "manifests/" + long[1:], 500, ""},
		{"GET", "manifests/_x.Y-z", 500, ""},
		{"PUT", "manifests/sha512:" + zero[7:] + zero[7:], 500, ""},
		{"GET", "blobs/" + strings.Replace(zero, ":", "%3a", 1), 500, ""},
		{"GET", "referrers/" + zero, 500, ""},
		{"POST", "blobs/uploads", 500, ""},
		{"PATCH", "blobs/uploads/any-thing:", 500, ""},
		{"GET", "tags/list", 500, ""},
		{"GET", "manifests/tags/list", 500, ""},
	} {
		for _, url := range []string{url, hooked} {
			if a := do(t, c.method, url+"/v2/a/b/"+c.path, `{"schemaVersion":2}`, ""); a.status != c.status || a.code() != c.code {
				t.Errorf("%s %s: %d %s, want %d %s", c.method, c.path, a.status, a.body, c.status, c.code)
			}
		}
	}
}

// docker-registry answers each of these with 500, or stores it.
func TestNoClientMakesARegistryFail(t *testing.T) {
	url := before(t, testenv.Registry(t), func(_ *front.UpstreamConfig, c *front.Config) {
		c.ManifestPut = []front.Hook{func(w http.ResponseWriter, _ *front.Request, next func(http.ResponseWriter)) { next(w) }}
	})
	good := push(t, url, "a/b")
	manifests := "/v2/a/b/manifests/"
	if a := do(t, "PUT", url+manifests+"good", good, "", "Content-Type: "+ociManifest); a.status != 201 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	config := digestOf([]byte("{}"))
	for _, m := range []string{
		"null", "", `{"schemaVersion":1,"name":"a/b","tag":"bad","fsLayers":[],"history":[]}`,
		strings.Replace(good, config, "sha256:xyz", 1), strings.Replace(good, config, "sha256:../../etc/passwd", 1),
		strings.Replace(good, `"layers"`, `"subject":{"digest":"sha256:xyz"},"layers"`, 1), strings.Replace(good, `"layers"`, `"subject":"x","layers"`, 1),
		strings.Replace(good, `"layers"`, `"subject":{},"layers"`, 1), strings.Replace(good, `"size":2`, `"size":-1`, 1),
	} {
		if a := do(t, "PUT", url+manifests+"bad", m, "", "Content-Type: "+ociManifest); a.status != 400 || a.code() != "MANIFEST_INVALID" {
			t.Errorf("%s: %d %s", m, a.status, a.body)
		}
	}
	for _, reference := range []string{"sha256:xyz", "foo:bar"} {
		for _, method := range []string{"GET", "PUT", "DELETE"} {
			if a := do(t, method, url+manifests+reference, good, "", "Content-Type: "+ociManifest); a.status != 400 || a.code() != "DIGEST_INVALID" {
				t.Errorf("%s %s: %d %s", method, reference, a.status, a.body)
			}
		}
	}
}
