package front_test

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/scittd/scittd/storage/front"
)

func writeCA(t *testing.T, s *httptest.Server) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// judge is a registry of which only the verdict on a caller matters.
type judge struct {
	mu      sync.Mutex
	asked   []string
	verdict func(w http.ResponseWriter, r *http.Request)
}

func (j *judge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.asked = append(j.asked, r.Method+" "+r.URL.RequestURI()+" "+r.Header.Get("Authorization"))
	j.verdict(w, r)
}

func (j *judge) questions() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	asked := j.asked
	j.asked = nil
	return asked
}

// vouching is a front whose extension tells what it was told of its caller.
func vouching(t *testing.T, j *judge) (string, *front.Upstream) {
	t.Helper()
	u, err := front.OpenUpstream(front.UpstreamConfig{Host: hostOf(listen(t, j)), PlainHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.Close)
	return listen(t, front.New(front.Config{
		Upstream: u, TokenPrefix: "scitt_", Extension: echo,
		ExtensionEndpoints: []front.Endpoint{{Path: "entries/register", InRepository: true, Push: true}, {Path: "entries/list", InRepository: true}},
		Vouched: func(r *http.Request, push bool) *http.Request {
			r = r.Clone(r.Context())
			r.Method = map[bool]string{true: "MAYPUSH", false: "MAYPULL"}[push]
			return r
		},
	})), u
}

func status(code int, headers ...string) func(w http.ResponseWriter, r *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		for _, h := range headers {
			name, value, _ := strings.Cut(h, ": ")
			w.Header().Set(name, value)
		}
		w.WriteHeader(code)
	}
}

func TestRegistryDecidesWhoMayUseTheExtension(t *testing.T) {
	j := &judge{}
	url, _ := vouching(t, j)
	for i, c := range []struct {
		name    string
		verdict func(w http.ResponseWriter, r *http.Request)
		status  int
		code    string
	}{
		{"yes", status(202, "Location: /v2/team/app/blobs/uploads/77?_state=x"), 200, ""},
		{"created at once", status(201), 200, ""},
		{"who are you", status(401, `WWW-Authenticate: Basic realm="x"`), 401, "UNAUTHORIZED"},
		{"nobody knows how to answer that", status(401), 503, "UNKNOWN"},
		{"no", status(403), 403, "DENIED"},
		{"never", status(405), 403, "DENIED"},
		{"no such repository", status(404), 404, "NAME_UNKNOWN"},
		{"later", status(429, "Retry-After: 7"), 503, "UNKNOWN"},
		{"broken", status(500), 503, "UNKNOWN"},
		{"busy", status(503), 503, "UNKNOWN"},
		{"ask somebody else", status(307, "Location: http://elsewhere.example/"), 503, "UNKNOWN"},
		{"what", status(400), 503, "UNKNOWN"},
		{"silence", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 503, "UNKNOWN"},
	} {
		j.mu.Lock()
		j.verdict = c.verdict
		j.mu.Unlock()
		caller := basic("caller", string(rune('a'+i)))
		for path, want := range map[string]string{"entries/register": "MAYPUSH [team/app] [entries/register] ", "entries/list": "MAYPULL [team/app] [entries/list] "} {
			a := do(t, "POST", url+"/v2/team/app/_scitt/"+path, "x", caller)
			if a.status != c.status || a.code() != c.code || a.status == 200 && a.body != want {
				t.Errorf("%s: %s: %d %s, want %d %s", c.name, path, a.status, a.body, c.status, c.code)
			}
			if c.name == "later" && a.header.Get("Retry-After") != "7" {
				t.Errorf("Retry-After %q", a.header.Get("Retry-After"))
			}
		}
	}
}

func TestARightIsAskedForOnceAMinuteForEachCredential(t *testing.T) {
	j := &judge{verdict: status(202, "Location: /v2/a/blobs/uploads/77?_state=x%2By")}
	url, upstream := vouching(t, j)
	register, list := url+"/v2/a/_scitt/entries/register", url+"/v2/a/_scitt/entries/list"
	for range 3 {
		do(t, "POST", register, "", "Bearer one")
	}
	want := []string{"POST /v2/a/blobs/uploads/ Bearer one", "DELETE /v2/a/blobs/uploads/77?_state=x%2By Bearer one"}
	if got := j.questions(); !slices.Equal(got, want) {
		t.Errorf("three registrations asked %q, want %q", got, want)
	}
	do(t, "GET", list, "", "Bearer one")
	do(t, "GET", list, "", "Bearer one")
	do(t, "GET", list, "", "Bearer two")
	do(t, "GET", list, "", "")
	want = []string{"GET /v2/a/tags/list?n=1 Bearer one", "GET /v2/a/tags/list?n=1 Bearer two", "GET /v2/a/tags/list?n=1 "}
	if got := j.questions(); !slices.Equal(got, want) {
		t.Errorf("lists asked %q, want %q", got, want)
	}
	front.Expire(upstream)
	do(t, "GET", list, "", "Bearer one")
	if got := j.questions(); len(got) != 1 {
		t.Errorf("a minute later: %q", got)
	}
	// A no is asked for again, and the session of a probe that leads elsewhere
	// is left to expire.
	j.mu.Lock()
	j.verdict = status(403)
	j.mu.Unlock()
	do(t, "GET", list, "", "Bearer three")
	do(t, "GET", list, "", "Bearer three")
	if got := j.questions(); len(got) != 2 {
		t.Errorf("after a no: %q", got)
	}
	j.mu.Lock()
	j.verdict = status(202, "Location: http://elsewhere.example/v2/a/blobs/uploads/1")
	j.mu.Unlock()
	do(t, "POST", register, "", "Bearer four")
	if got := j.questions(); len(got) != 1 {
		t.Errorf("after a probe that leads elsewhere: %q", got)
	}
}

func TestTokensOfOursNeedNobodyToVouch(t *testing.T) {
	j := &judge{verdict: status(500)}
	url, _ := vouching(t, j)
	if a := do(t, "POST", url+"/v2/a/_scitt/entries/register", "", "Bearer scitt_x"); a.body != "POST [a] [entries/register] Bearer scitt_x" {
		t.Errorf("%d %s", a.status, a.body)
	}
	// Outside of repositories there is nothing to ask for, and the registry's
	// credentials mean nothing.
	if a := do(t, "GET", url+"/v2/_scitt/keys/set", "", "Bearer the-registrys"); a.body != "GET [] [keys/set] " {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := do(t, "GET", url+"/v2/A/_scitt/entries/list", "", ""); a.status != 400 || a.code() != "NAME_INVALID" {
		t.Errorf("%d %s", a.status, a.body)
	}
	if got := j.questions(); len(got) != 0 {
		t.Errorf("the registry was asked %q", got)
	}
}
