package front_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/scittd/scittd/storage/front"
)

var discovery = []front.Endpoint{
	{Path: "entries/register", InRepository: true},
	{Path: "receipts/{id}"},
}

func echo(w http.ResponseWriter, r *http.Request, repository, path string) {
	fmt.Fprintf(w, "%s [%s] [%s] %s", r.Method, repository, path, r.Header.Get("Authorization"))
}

func TestDiscoveryListsTheExtension(t *testing.T) {
	url := serve(t, front.Config{Extension: echo, ExtensionEndpoints: discovery})
	for path, want := range map[string][]string{
		"/v2/_oci/ext/discover":             {"/v2/<name>/_scitt/entries/register", "/v2/_scitt/receipts/{id}"},
		"/v2/wabbit/app/_oci/ext/discover":  {"/v2/wabbit/app/_scitt/entries/register"},
		"/v2/manifests/x/_oci/ext/discover": {"/v2/manifests/x/_scitt/entries/register"},
	} {
		a := do(t, "GET", url+path, "", "")
		var got struct {
			Extensions []struct {
				Name, URL, Description string
				Endpoints              []string
			}
		}
		if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.status != 200 || len(got.Extensions) != 1 {
			t.Fatalf("%s: %d %s %v", path, a.status, a.body, err)
		}
		e := got.Extensions[0]
		if e.Name != "_scitt" || !strings.HasPrefix(e.URL, "https://") || e.Description == "" || !slices.Equal(e.Endpoints, want) {
			t.Errorf("%s: got %+v, want endpoints %v", path, e, want)
		}
	}
	if a := do(t, "POST", url+"/v2/_oci/ext/discover", "", ""); a.status != 405 || a.code() != "UNSUPPORTED" || a.header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: %d %s", a.status, a.body)
	}
	registry := hostOf(serve(t, front.Config{}))
	before := before(t, registry, func(_ *front.UpstreamConfig, c *front.Config) { c.Extension = echo })
	for _, name := range []string{"a%2Fb", "..", "a/..", "A", "a//b", "%61", strings.Repeat("a", 256)} {
		for _, url := range []string{url, before} {
			if a := do(t, "GET", url+"/v2/"+name+"/_oci/ext/discover", "", ""); a.status != 400 || a.code() != "NAME_INVALID" {
				t.Errorf("discovery in %s: %d %s", name, a.status, a.body)
			}
		}
	}
	without := serve(t, front.Config{})
	if a := do(t, "GET", without+"/v2/_oci/ext/discover", "", ""); a.body != `{"extensions":[]}` {
		t.Errorf("without an extension: %s", a.body)
	}
}

func TestExtensionGetsItsPathsAsTheyCame(t *testing.T) {
	url := serve(t, front.Config{Extension: echo, Authorize: func(*http.Request, string, bool) error {
		return errors.New("the extension authenticates its own requests")
	}})
	for _, c := range []struct{ method, path, want string }{
		{"POST", "/v2/wabbit/net-monitor/_scitt/entries/register", "POST [wabbit/net-monitor] [entries/register] Bearer x"},
		{"GET", "/v2/_scitt/receipts/00ff", "GET [] [receipts/00ff] Bearer x"},
		{"GET", "/v2/a%2Fb/_scitt/entries/list?x=1", "GET [a%2Fb] [entries/list] Bearer x"},
		{"DELETE", "/v2/a/_scitt", "DELETE [a] [] Bearer x"},
		{"GET", "/v2/a/_scitt/a//_x/../%2e", "GET [a] [a//_x/../%2e] Bearer x"},
		{"GET", "/v2/a/manifests/_scitt/keys/set", "GET [a/manifests] [keys/set] Bearer x"},
	} {
		if a := do(t, c.method, url+c.path, "", "Bearer x"); a.status != 200 || a.body != c.want {
			t.Errorf("%s %s: got %d %s, want %s", c.method, c.path, a.status, a.body, c.want)
		}
	}
	for _, path := range []string{"/v2/_other/x/y", "/v2/a/_scitt2/x", "/v2/_oci/ext", "/v2/a/_oci/ext/discover/", "/v2/a/blobs/_x", "/v2/_catalog"} {
		if a := do(t, "GET", url+path, "", ""); a.status != 404 || a.code() != "EXTENSION_UNKNOWN" {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	// A tag may begin with an underscore.
	if a := do(t, "GET", url+"/v2/a/manifests/_scitt", "", ""); a.code() != "MANIFEST_UNKNOWN" {
		t.Errorf("tag _scitt: %d %s", a.status, a.body)
	}
}

func TestWithoutARegistryThereIsOnlyTheExtension(t *testing.T) {
	h := front.New(front.Config{Extension: echo, ExtensionEndpoints: discovery})
	url := serve(t, front.Config{Backend: h}) // a front is a backend, too
	for path, code := range map[string]string{
		"/v2/":                     "UNSUPPORTED",
		"/v2/a":                    "UNSUPPORTED",
		"/v2/a/tags/list":          "NAME_UNKNOWN",
		"/v2/a/blobs/uploads/":     "NAME_UNKNOWN",
		"/v2/a/b/manifests/latest": "NAME_UNKNOWN",
	} {
		if a := do(t, "GET", url+path, "", ""); a.status != 404 || a.code() != code {
			t.Errorf("%s: %d %s, want 404 %s", path, a.status, a.body, code)
		}
	}
}

func TestAuthorizeDecidesWritesAndOnlyWrites(t *testing.T) {
	var asked []string
	var verdict error
	url := serve(t, front.Config{
		Backend: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(299) }),
		Authorize: func(r *http.Request, repository string, write bool) error {
			asked = append(asked, fmt.Sprint(repository, " ", write))
			return verdict
		},
	})
	for _, c := range []struct {
		method, path string
		asked        []string
	}{
		{"GET", "/v2/a/b/blobs/x", nil},
		{"HEAD", "/v2/a/b/manifests/x", nil},
		{"GET", "/v2/a/b/tags/list", nil},
		{"GET", "/v2/a/b/blobs/uploads/1", nil},
		{"GET", "/v2/a/b/referrers/x", nil},
		{"POST", "/v2/a/b/blobs/uploads/", []string{"a/b true"}},
		{"POST", "/v2/a/b/blobs/uploads", []string{"a/b true"}},
		{"POST", "/v2/a/b/blobs/uploads/?mount=x&from=c/d", []string{"a/b true", "c/d false"}},
		{"PATCH", "/v2/a/b/blobs/uploads/1", []string{"a/b true"}},
		{"PUT", "/v2/a/b/blobs/uploads/1?digest=x", []string{"a/b true"}},
		{"DELETE", "/v2/a/b/blobs/uploads/1", []string{"a/b true"}},
		{"DELETE", "/v2/a/b/blobs/x", []string{"a/b true"}},
		{"PUT", "/v2/a/b/manifests/x", []string{"a/b true"}},
		{"DELETE", "/v2/a/b/manifests/x", []string{"a/b true"}},
		{"PUT", "/v2/nowhere", []string{" true"}},
		{"POST", "/v2/manifests/x", []string{" true"}},
		{"BREW", "/v2/a/b/blobs/x", []string{"a/b true"}},
	} {
		asked, verdict = nil, nil
		if a := do(t, c.method, url+c.path, "", ""); a.status != 299 || !slices.Equal(asked, c.asked) {
			t.Errorf("%s %s: got %d after %q, want 299 after %q", c.method, c.path, a.status, asked, c.asked)
		}
		verdict = front.ErrDenied
		a := do(t, c.method, url+c.path, "", "")
		if denied := a.status == 403; denied != (c.asked != nil) {
			t.Errorf("%s %s: got %d when Authorize denies", c.method, c.path, a.status)
		}
	}

	for _, c := range []struct {
		err          error
		status       int
		code, header string
	}{
		{fmt.Errorf("wrapped: %w", front.ErrUnauthenticated), 401, "UNAUTHORIZED", `Www-Authenticate: Basic realm="scittd"`},
		{fmt.Errorf("wrapped: %w", front.ErrDenied), 403, "DENIED", ""},
		{fmt.Errorf("wrapped: %w", &front.RateLimited{After: 1500 * time.Millisecond}), 429, "TOOMANYREQUESTS", "Retry-After: 2"},
		{&front.RateLimited{}, 429, "TOOMANYREQUESTS", ""},
		{errors.New("the token database is away"), 503, "UNKNOWN", "Retry-After: 1"},
	} {
		verdict = c.err
		a := do(t, "PUT", url+"/v2/a/manifests/v1", "{}", "")
		name, value, _ := strings.Cut(c.header, ": ")
		if a.status != c.status || a.code() != c.code || name != "" && a.header.Get(name) != value {
			t.Errorf("%v: got %d %s %v, want %d %s %s", c.err, a.status, a.body, a.header, c.status, c.code, c.header)
		}
		if strings.Contains(a.body, "database") {
			t.Errorf("the answer tells an inner detail: %s", a.body)
		}
	}
}

// What Authorize is asked about must be what the backend writes to.
func TestRepositoryAskedAboutIsTheOneWritten(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	url := serve(t, front.Config{Authorize: func(_ *http.Request, repository string, _ bool) error {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, repository)
		return nil
	}})
	empty := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte("{}")))
	manifest := `{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"` + empty + `","size":2},"layers":[]}`
	for _, name := range []string{"a", "blobs", "a/blobs/uploads", "manifests/tags", "tags/list/manifests", "blobs/uploads/blobs", "referrers/a"} {
		asked = nil
		for _, c := range []struct {
			method, path, body string
			status             int
		}{
			{"POST", "/blobs/uploads/?digest=" + empty, "{}", 201},
			{"POST", "/blobs/uploads", "", 202},
			{"PUT", "/manifests/uploads", manifest, 201},
			{"PUT", "/manifests/list", manifest, 201},
			{"DELETE", "/manifests/uploads", "", 202},
			{"DELETE", "/blobs/" + empty, "", 202},
		} {
			a := do(t, c.method, url+"/v2/"+name+c.path, c.body, "", "Content-Type: application/vnd.oci.image.manifest.v1+json")
			if a.status != c.status {
				t.Errorf("%s %s%s: %d %s", c.method, name, c.path, a.status, a.body)
			}
		}
		if other := slices.IndexFunc(asked, func(r string) bool { return r != name }); other >= 0 || len(asked) != 6 {
			t.Errorf("writing to %s asked about %q", name, asked)
		}
		if a := do(t, "GET", url+"/v2/"+name+"/tags/list", "", ""); a.body != `{"name":"`+name+`","tags":["list"]}` {
			t.Errorf("%s has %d %s", name, a.status, a.body)
		}
	}
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func TestPingChallengesOnlyWhereWritesNeedAToken(t *testing.T) {
	open := serve(t, front.Config{})
	if a := do(t, "GET", open+"/v2/", "", ""); a.status != 200 {
		t.Errorf("open to everyone: %d", a.status)
	}
	url := serve(t, front.Config{Authorize: tokens, PublicURL: "https://scitt.example"})
	host := strings.TrimPrefix(url, "http://")
	for _, c := range []struct {
		name, authorization, host string
		status                    int
		challenge                 string
	}{
		{"nothing", "", host, 401, `Bearer realm="http://` + host + `/v2/_token",service="scittd"`},
		{"anonymous token", "Bearer anonymous", host, 200, ""},
		{"empty pair", basic("", ""), host, 401, `Bearer realm="http://` + host + `/v2/_token",service="scittd"`},
		{"wrong token", basic("u", "wrong"), host, 401, `Bearer realm="http://` + host + `/v2/_token",service="scittd"`},
		{"behind TLS", "", "SCITT.example", 401, `Bearer realm="https://SCITT.example/v2/_token",service="scittd"`},
		{"basic", basic("u", good), host, 200, ""},
		{"bearer", "Bearer " + good, host, 200, ""},
		{"known but not allowed to write", basic("u", readOnly), host, 200, ""},
	} {
		for _, path := range []string{"/v2/", "/v2"} {
			a := do(t, "GET", url+path, "", c.authorization, "Host: "+c.host)
			if a.status != c.status || a.header.Get("WWW-Authenticate") != c.challenge {
				t.Errorf("%s: got %d %q, want %d %q", c.name, a.status, a.header.Get("WWW-Authenticate"), c.status, c.challenge)
			}
		}
	}
	limited := serve(t, front.Config{Authorize: func(*http.Request, string, bool) error { return &front.RateLimited{After: time.Second} }})
	if a := do(t, "GET", limited+"/v2/", "", ""); a.status != 429 {
		t.Errorf("limited: %d", a.status)
	}
	away := serve(t, front.Config{Authorize: func(*http.Request, string, bool) error { return errors.New("the token database is away") }})
	if a := do(t, "GET", away+"/v2/", "", basic("u", good)); a.status != 200 {
		t.Errorf("a pull must not fail because nobody can be known: %d", a.status)
	}
}

func TestTokenRealmHandsOutWhatTheCallerHasAlready(t *testing.T) {
	url := serve(t, front.Config{Authorize: tokens})
	for _, c := range []struct {
		name, authorization string
		status              int
		token               string
	}{
		{"nobody", "", 200, "anonymous"},
		{"empty pair", basic("", ""), 200, "anonymous"},
		{"publisher", basic("u", good), 200, good},
		{"reader", basic("u", readOnly), 200, readOnly},
		{"wrong", basic("u", "wrong"), 401, ""},
		{"bearer", "Bearer " + good, 401, ""},
		{"garbage", "garbage", 401, ""},
	} {
		a := do(t, "GET", url+"/v2/_token?service=scittd&scope=repository:a:pull,push", "", c.authorization)
		var got struct {
			Token       string `json:"token"`
			AccessToken string `json:"access_token"`
		}
		if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.status != c.status || got.Token != c.token || got.AccessToken != c.token {
			t.Errorf("%s: got %d %s, want %d with token %q", c.name, a.status, a.body, c.status, c.token)
		}
		if a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: the answer may be cached", c.name)
		}
	}
	if a := do(t, "POST", url+"/v2/_token", "grant_type=password", ""); a.status != 405 || a.code() != "UNSUPPORTED" {
		t.Errorf("POST: %d %s", a.status, a.body)
	}
	// The anonymous token is no token.
	if a := do(t, "PUT", url+"/v2/a/manifests/v1", "{}", "Bearer anonymous"); a.status != 401 {
		t.Errorf("push with the anonymous token: %d", a.status)
	}
}

func TestPanicIsAnsweredLikeAnyError(t *testing.T) {
	var log bytes.Buffer
	url := serve(t, front.Config{
		Log: slog.New(slog.NewTextHandler(&log, nil)),
		Backend: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "7")
			if r.URL.Path == "/v2/half" {
				fmt.Fprint(w, "hal")
			}
			panic("on purpose")
		}),
	})
	if a := do(t, "GET", url+"/v2/a/tags/list", "", ""); a.status != 500 || a.code() != "UNKNOWN" || strings.Contains(a.body, "purpose") {
		t.Errorf("got %d %s", a.status, a.body)
	}
	if !strings.Contains(log.String(), "on purpose") || !strings.Contains(log.String(), "front_test.go") {
		t.Errorf("the log has no panic with its stack: %s", log.String())
	}
	resp, err := http.Get(url + "/v2/half")
	if err == nil {
		_, err = io.ReadAll(resp.Body)
		resp.Body.Close()
	}
	if err == nil {
		t.Error("half an answer looks whole")
	}
}
