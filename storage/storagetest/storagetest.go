// Package storagetest has stand-ins for registries that people run: HTTP handlers
// that list, refuse, sweep and mislead as those are reported to do, over a sound
// registry in memory. What a client gets wrong they refuse, as the real one
// would, and remember, so that a test can say that nothing was.
//
// They are reports turned into code: where one is wrong, the real registry is
// right.
package storagetest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"

	"cuelabs.dev/go/oci/ociregistry/ocimem"
	"cuelabs.dev/go/oci/ociregistry/ociserver"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Registry is one running double. It is safe for concurrent use.
type Registry struct {
	sound  http.Handler
	quirks []quirk

	mu       sync.Mutex
	refused  []string
	requests []string
	pushed   map[string]map[digest.Digest]manifest // by repository
	tags     map[string]digest.Digest              // by repository:tag
}

// manifest is what the double knows of one.
type manifest struct {
	mediaType string
	subject   digest.Digest
}

// request is one to the registry, taken apart.
type request struct {
	*http.Request
	repository, kind, reference string // kind: manifests, blobs, uploads, referrers, tags, or ""
	body                        []byte // of a manifest
	ocispec.Index                      // what of it can be read as a manifest or an index
	Config                      ocispec.Descriptor
}

// quirk serves a request, or returns false to let the next one do it.
type quirk func(r *Registry, w http.ResponseWriter, q *request) bool

var form = regexp.MustCompile(`^/v2/(.+)/(manifests|blobs|referrers|tags)/([^/]+)(/[^/]*)?$`)

func (r *Registry) ServeHTTP(w http.ResponseWriter, in *http.Request) {
	q := &request{Request: in}
	if m := form.FindStringSubmatch(in.URL.Path); m != nil {
		q.repository, q.kind, q.reference = m[1], m[2], m[3]
		if q.kind == "blobs" && q.reference == "uploads" {
			q.kind, q.reference = "uploads", m[4]
		}
	}
	if q.kind == "manifests" && in.Method == http.MethodPut {
		body, err := io.ReadAll(in.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		q.body, in.Body = body, io.NopCloser(bytes.NewReader(body))
		var m struct {
			Config ocispec.Descriptor `json:"config"`
		}
		if json.Unmarshal(body, &q.Index) == nil && json.Unmarshal(body, &m) == nil {
			q.Config = m.Config
		}
	}
	r.mu.Lock()
	r.requests = append(r.requests, in.Method+" "+q.what())
	r.mu.Unlock()
	for _, serve := range r.quirks {
		if serve(r, w, q) {
			return
		}
	}
	r.pass(w, q)
}

// what a request is about, in a word.
func (q *request) what() string {
	switch {
	case q.kind == "manifests" && strings.HasPrefix(q.reference, "sha256-"):
		return "list"
	case q.kind == "manifests" && q.Subject != nil:
		return "referrer"
	case q.kind == "":
		return "registry"
	}
	return strings.TrimSuffix(q.kind, "s")
}

// pass lets the sound registry answer, and remembers what was pushed.
func (r *Registry) pass(w http.ResponseWriter, q *request) {
	noted := &status{ResponseWriter: w}
	r.sound.ServeHTTP(noted, q.Request)
	if q.kind != "manifests" || noted.code/100 != 2 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch q.Method {
	case http.MethodPut:
		if r.pushed[q.repository] == nil {
			r.pushed[q.repository] = map[digest.Digest]manifest{}
		}
		m := manifest{mediaType: q.Header.Get("Content-Type")}
		if q.Subject != nil {
			m.subject = q.Subject.Digest
		}
		d := digest.FromBytes(q.body)
		r.pushed[q.repository][d] = m
		if !strings.Contains(q.reference, ":") {
			r.tags[q.repository+":"+q.reference] = d
		}
	case http.MethodDelete:
		delete(r.pushed[q.repository], digest.Digest(q.reference))
	}
}

type status struct {
	http.ResponseWriter
	code int
}

func (s *status) WriteHeader(code int) {
	s.code = code
	s.ResponseWriter.WriteHeader(code)
}

func (s *status) Write(p []byte) (int, error) {
	if s.code == 0 {
		s.code = http.StatusOK
	}
	return s.ResponseWriter.Write(p)
}

// Refused are the requests that were turned down for what the client got wrong.
func (r *Registry) Refused() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.refused)
}

// Requests counts what came since the last call, by method and what it was
// about: "PUT referrer", "GET list" (the referrers tag), "GET referrer" (the
// API), "POST upload", "HEAD blob", "GET manifest".
func (r *Registry) Requests() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	counts := map[string]int{}
	for _, what := range r.requests {
		counts[what]++
	}
	r.requests = nil
	return counts
}

// Sweep deletes every manifest without a tag for which also says so, as the
// cleaning jobs of registries do. Lists that name them stay as they are.
func (r *Registry) Sweep(repository string, also func(hasSubject bool) bool) (swept int) {
	r.mu.Lock()
	var victims []digest.Digest
	kept := map[digest.Digest]bool{}
	for tag, d := range r.tags {
		if strings.HasPrefix(tag, repository+":") {
			kept[d] = true
		}
	}
	for d, m := range r.pushed[repository] {
		if !kept[d] && also(m.subject != "") {
			victims = append(victims, d)
		}
	}
	r.mu.Unlock()
	for _, d := range victims {
		r.remove(repository, d)
	}
	return len(victims)
}

func (r *Registry) remove(repository string, d digest.Digest) {
	in := httptest.NewRequest(http.MethodDelete, "/v2/"+repository+"/manifests/"+d.String(), nil)
	r.pass(httptest.NewRecorder(), &request{Request: in, repository: repository, kind: "manifests", reference: d.String()})
}

// refuse answers that the client is wrong, and remembers.
func (r *Registry) refuse(w http.ResponseWriter, q *request, code int, errorCode, message string) bool {
	r.mu.Lock()
	r.refused = append(r.refused, fmt.Sprintf("%s %s: %d %s", q.Method, q.what(), code, message))
	r.mu.Unlock()
	return say(w, code, errorCode, message)
}

func say(w http.ResponseWriter, code int, errorCode, message string) bool {
	body, err := json.Marshal(map[string]any{"errors": []map[string]string{{"code": errorCode, "message": message}}})
	if err != nil {
		panic(err) // strings only
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(body)
	return true
}

func (q *request) pushes() bool { return q.kind == "manifests" && q.Method == http.MethodPut }

// grammar is what every registry checks: the type in the header is the
// manifest's own, and types are names without parameters.
func grammar(r *Registry, w http.ResponseWriter, q *request) bool {
	if !q.pushes() {
		return false
	}
	if q.MediaType != "" && q.MediaType != q.Header.Get("Content-Type") {
		return r.refuse(w, q, http.StatusBadRequest, "MANIFEST_INVALID", "the media type is not the one of the header")
	}
	for _, d := range append(slices.Clone(q.Manifests), q.Config, ocispec.Descriptor{MediaType: q.ArtifactType}) {
		for _, name := range []string{d.MediaType, d.ArtifactType} {
			if _, parameters, err := mime.ParseMediaType(name); name != "" && (err != nil || len(parameters) > 0) {
				return r.refuse(w, q, http.StatusBadRequest, "MANIFEST_INVALID", fmt.Sprintf("%q is no media type", name))
			}
		}
	}
	return false
}

func soundRegistry(o ociserver.Options) http.Handler { return ociserver.New(ocimem.New(), &o) }

// configTypes is go-containerregistry's, which lists the config's media type
// where an artifact type is asked for, filters nothing and promises nothing.
func configTypes() http.Handler {
	return registry.New(registry.WithReferrersSupport(true), registry.Logger(discard))
}

func build(sound http.Handler, quirks ...quirk) *Registry {
	return &Registry{
		sound: sound, quirks: append([]quirk{grammar}, quirks...),
		pushed: map[string]map[digest.Digest]manifest{}, tags: map[string]digest.Digest{},
	}
}

// held is the sound registry's answer, before anybody sees it.
func (r *Registry) held(q *request) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	r.pass(rec, q)
	return rec
}

func release(w http.ResponseWriter, rec *httptest.ResponseRecorder) bool {
	maps.Copy(w.Header(), rec.Header())
	w.WriteHeader(rec.Code)
	_, _ = w.Write(rec.Body.Bytes())
	return true
}

// page cuts a list of referrers to n entries behind last.
func page(w http.ResponseWriter, rec *httptest.ResponseRecorder, q *request, n int) bool {
	var list ocispec.Index
	if err := json.Unmarshal(rec.Body.Bytes(), &list); err != nil {
		panic(err) // the sound registry's own
	}
	slices.SortFunc(list.Manifests, func(a, b ocispec.Descriptor) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
	last := q.URL.Query().Get("last")
	list.Manifests = slices.DeleteFunc(list.Manifests, func(d ocispec.Descriptor) bool { return d.Digest.String() <= last })
	if len(list.Manifests) > n {
		list.Manifests = list.Manifests[:n]
		more := url.Values{"n": {fmt.Sprint(n)}, "last": {list.Manifests[n-1].Digest.String()}}
		if t := q.URL.Query().Get("artifactType"); t != "" {
			more.Set("artifactType", t)
		}
		w.Header().Set("Link", fmt.Sprintf(`<%s?%s>; rel="next"`, q.URL.Path, more.Encode()))
	}
	if list.Manifests == nil {
		list.Manifests = []ocispec.Descriptor{}
	}
	body, err := json.Marshal(list)
	if err != nil {
		panic(err)
	}
	if applied := rec.Header().Get("OCI-Filters-Applied"); applied != "" {
		w.Header().Set("OCI-Filters-Applied", applied)
	}
	w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
	_, _ = w.Write(body)
	return true
}
