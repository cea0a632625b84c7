// Package registrytest is the OCI distribution specification 1.1 as a test, from
// a client's side: every endpoint, by every way in, over HTTP. It asks what the
// specification's own conformance suites ask, in its order (push, list, look,
// pull, refer, delete), and leaves the registry as empty as it was.
//
//	registrytest.Test(t, registrytest.Registry{URL: server.URL})
//
// It knows nothing of how a registry keeps things, and of this one nothing at
// all: it may be pointed at any.
package registrytest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Registry is what is tested.
type Registry struct {
	URL               string // without /v2
	Repository, Other string // default: conformance/repo1, conformance/repo2

	// User and Password are shown when, and only when, the registry asks for
	// them, in the way it asks. "": to nobody.
	User, Password string

	Client *http.Client // nil: http.DefaultClient
}

// Test runs everything as subtests of t.
func Test(t *testing.T, r Registry) {
	if r.Repository == "" {
		r.Repository, r.Other = "conformance/repo1", "conformance/repo2"
	}
	if r.Client == nil {
		r.Client = http.DefaultClient
	}
	c := client{Registry: r, known: map[string]string{}}
	t.Run("nothing there yet", c.run(client.empty))
	for _, algorithm := range []string{"sha256", "sha512"} {
		t.Run("blobs "+algorithm, c.run(func(c client) { c.blobs(algorithm) }))
	}
	for _, set := range datasets() {
		t.Run(set.name, c.run(func(c client) { c.roundTrip(set) }))
	}
	t.Run("tags in pages", c.run(client.tagPages))
	t.Run("errors", c.run(client.refusals))
}

// client sends the requests of one test.
type client struct {
	t *testing.T
	Registry
	known map[string]string // Authorization by repository and kind of request
}

// run is a subtest with a client of its own.
func (c client) run(f func(client)) func(*testing.T) {
	return func(t *testing.T) {
		c.t = t
		f(c)
	}
}

func (c client) sub(name string, f func(client)) { c.t.Run(name, c.run(f)) }

// answer is a response, read to its end.
type answer struct {
	request string
	status  int
	header  http.Header
	body    []byte
}

// do sends a request to path, or to where a Location pointed. headers are
// "Name: value". A body of nil is none.
func (c client) do(method, path string, body []byte, headers ...string) answer {
	c.t.Helper()
	at, err := url.Parse(c.URL)
	if err != nil {
		c.t.Fatal(err)
	}
	if at, err = at.Parse(path); err != nil {
		c.t.Fatal(err)
	}
	if at.Host != strings.TrimPrefix(strings.TrimPrefix(c.URL, "http://"), "https://") {
		c.t.Fatalf("%s leads away from %s", path, c.URL)
	}
	key := repositoryOf(at.Path) + " " + strings.NewReplacer("HEAD", "GET", "PATCH", "POST", "PUT", "POST").Replace(method)
	a := c.send(method, at, body, headers, c.known[key])
	if a.status == http.StatusUnauthorized && c.Password != "" {
		c.known[key] = c.authenticate(a.header.Get("WWW-Authenticate"))
		a = c.send(method, at, body, headers, c.known[key])
	}
	return a
}

func (c client) send(method string, at *url.URL, body []byte, headers []string, authorization string) answer {
	c.t.Helper()
	req, err := http.NewRequest(method, at.String(), bytes.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	if slices.Contains(headers, "Transfer-Encoding: chunked") {
		req.Header.Del("Transfer-Encoding")
		req.ContentLength = -1
	}
	resp, err := c.Client.Do(req)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, at, err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, at, err)
	}
	return answer{method + " " + at.RequestURI(), resp.StatusCode, resp.Header, got}
}

// repositoryOf is the name in a path, as far as remembering credentials needs it.
func repositoryOf(path string) string {
	for _, word := range []string{"/blobs/", "/manifests/", "/tags/", "/referrers/"} {
		if name, _, ok := strings.Cut(path, word); ok {
			return name
		}
	}
	return path
}

var parameter = regexp.MustCompile(`([a-z]+)="([^"]*)"`)

// authenticate does what a challenge asks for and returns the Authorization.
func (c client) authenticate(challenge string) string {
	c.t.Helper()
	basic, err := http.NewRequest("GET", c.URL, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	basic.SetBasicAuth(c.User, c.Password)
	scheme, rest, _ := strings.Cut(challenge, " ")
	if scheme == "Basic" {
		return basic.Header.Get("Authorization")
	}
	params := map[string]string{}
	for _, p := range parameter.FindAllStringSubmatch(rest, -1) {
		params[p[1]] = p[2]
	}
	realm, err := url.Parse(params["realm"])
	if scheme != "Bearer" || err != nil || realm.Host == "" {
		c.t.Fatalf("WWW-Authenticate is %q", challenge)
	}
	realm.RawQuery = url.Values{"service": {params["service"]}, "scope": {params["scope"]}}.Encode()
	a := c.send("GET", realm, nil, nil, basic.Header.Get("Authorization"))
	var token struct{ Token string }
	if err := json.Unmarshal(a.body, &token); err != nil || a.status != 200 || token.Token == "" {
		c.t.Fatalf("%s: %d %s", a.request, a.status, a.body)
	}
	return "Bearer " + token.Token
}

// want fails the test unless the answer has one of the statuses.
func (c client) want(a answer, statuses ...int) answer {
	c.t.Helper()
	if !slices.Contains(statuses, a.status) {
		c.t.Fatalf("%s: got %d %.300s, want %v", a.request, a.status, a.body, statuses)
	}
	return a
}

// header fails the test unless the answer has the header: with the value,
// unless that is "".
func (c client) header(a answer, name, value string) string {
	c.t.Helper()
	got := a.header.Get(name)
	if got == "" || value != "" && got != value {
		c.t.Errorf("%s: %s is %q, want %q", a.request, name, got, value)
	}
	return got
}

// content fails the test unless the answer is these bytes, or for HEAD would be.
func (c client) content(a answer, digest string, body []byte) {
	c.t.Helper()
	c.header(a, "Content-Length", fmt.Sprint(len(body)))
	c.header(a, "Docker-Content-Digest", digest)
	if strings.HasPrefix(a.request, "HEAD") {
		body = nil
	}
	if !bytes.Equal(a.body, body) {
		c.t.Errorf("%s: %d bytes, not the %d that were pushed", a.request, len(a.body), len(body))
	}
}

// refused fails the test unless an error came with the document and one of the
// codes of the specification.
func (c client) refused(a answer, statuses ...int) {
	c.t.Helper()
	c.want(a, statuses...)
	var document struct {
		Errors []struct{ Code, Message string }
	}
	if strings.HasPrefix(a.request, "HEAD") {
		return
	}
	if err := json.Unmarshal(a.body, &document); err != nil || len(document.Errors) == 0 || !slices.Contains(codes, document.Errors[0].Code) {
		c.t.Errorf("%s: %d with %s: %v", a.request, a.status, a.body, err)
	}
}

// codes of the specification, "Error Codes".
var codes = []string{
	"BLOB_UNKNOWN", "BLOB_UPLOAD_INVALID", "BLOB_UPLOAD_UNKNOWN", "DIGEST_INVALID", "MANIFEST_BLOB_UNKNOWN", "MANIFEST_INVALID",
	"MANIFEST_UNKNOWN", "NAME_INVALID", "NAME_UNKNOWN", "SIZE_INVALID", "UNAUTHORIZED", "DENIED", "UNSUPPORTED", "TOOMANYREQUESTS",
}

// empty is a registry before the first push.
func (c client) empty() {
	c.want(c.do("GET", "/v2/", nil), 200)
	c.want(c.do("GET", "/v2/"+c.Repository+"/tags/list", nil), 200, 404)
	if list := c.referrers(digestOf("sha256", []byte("nothing")), ""); len(list) != 0 {
		c.t.Errorf("nothing has referrers: %v", list)
	}
}

// refusals are those that no other test meets.
func (c client) refusals() {
	absent := digestOf("sha256", []byte("absent"))
	manifests := "/v2/" + c.Repository + "/manifests/"
	for _, ref := range []string{absent, "missing-tag", ".INVALID_MANIFEST_NAME"} {
		c.refused(c.do("GET", manifests+ref, nil), 404)
		c.refused(c.do("HEAD", manifests+ref, nil), 404)
	}
	c.refused(c.do("GET", manifests+"sha256:baddigeststring", nil), 400, 404)
	c.refused(c.do("PUT", manifests+"sha256:totallywrong", []byte("blablabla"), "Content-Type: "+imageType), 400)
	c.refused(c.do("PUT", manifests+"v1", []byte("blablabla"), "Content-Type: "+imageType), 400)
	c.refused(c.do("PUT", manifests+"v1", bytes.Repeat([]byte(" "), 4<<20+1), "Content-Type: "+imageType), 413)
	c.refused(c.do("GET", "/v2/"+c.Repository+"/referrers/sha256:xyz", nil), 400)
	c.refused(c.do("GET", "/v2/"+c.Repository+"/blobs/"+absent, nil), 404)
	c.refused(c.do("DELETE", "/v2/"+c.Repository+"/blobs/"+absent, nil), 404)
	c.refused(c.do("DELETE", manifests+absent, nil), 404)
	c.refused(c.do("POST", "/v2/"+c.Repository+"/blobs/uploads/?digest=sha256:short", []byte("x")), 400)
	c.refused(c.do("PATCH", "/v2/"+c.Repository+"/blobs/uploads/unknown", []byte("x")), 404)
	c.refused(c.do("GET", "/v2/UPPER/manifests/v1", nil), 400, 404)

	lost := image{layers: [][]byte{[]byte("never pushed")}}.build("sha256")
	c.blob("sha256", lost.config)
	c.refused(c.do("PUT", manifests+lost.digest, lost.body, "Content-Type: "+imageType), 404, 400)
	c.refused(c.do("PUT", manifests+lost.digest, lost.body, "Content-Type: "+indexType), 400)
	c.want(c.do("DELETE", "/v2/"+c.Repository+"/blobs/"+digestOf("sha256", lost.config), nil), 202)
}
