package front_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/scittd/scittd/storage/front"
)

const indexType = "application/vnd.oci.image.index.v1+json"

// seenIndexes remembers what it was told.
type seenIndexes struct {
	mu    sync.Mutex
	known map[string]bool
	told  []string // digests
	bytes int
}

func (s *seenIndexes) Knows(digest string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known[digest]
}

func (s *seenIndexes) Saw(digest string, body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told = append(s.told, digest)
	s.bytes += len(body)
}

// take returns what was told since.
func (s *seenIndexes) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	told := s.told
	s.told = nil
	return told
}

// fixed is a backend that answers every GET with one manifest, takes pushes that
// end in "ok", and deletes what ends in "ok" or is a digest.
func fixed(mediaType string, body []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		good := strings.HasSuffix(r.URL.Path, "ok") || strings.Contains(r.URL.Path, "sha256:")
		switch {
		case r.Method == http.MethodGet:
			w.Header().Set("Content-Type", mediaType)
			w.Header().Set("Docker-Content-Digest", digest.FromBytes(body).String())
			for part := range slices.Chunk(body, 7) {
				w.Write(part)
			}
		case r.Method == http.MethodPut && good:
			w.WriteHeader(http.StatusCreated)
		case r.Method == http.MethodDelete && good:
			w.WriteHeader(http.StatusAccepted)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
}

func TestIndexesThatPassAreTold(t *testing.T) {
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": indexType, "manifests": []any{map[string]string{"digest": digest.FromString("a").String()}}})
	if err != nil {
		t.Fatal(err)
	}
	of := digest.FromBytes(index).String()
	list := "sha256-" + strings.Repeat("0", 64)
	for _, c := range []struct {
		name, method, reference, mediaType string
		known                              bool
		want                               []string
	}{
		{"pulled by tag", "GET", "v1", indexType, false, []string{of}},
		{"pulled by digest", "GET", of, indexType, false, []string{of}},
		{"pulled as another digest", "GET", digest.FromString("x").String(), indexType, false, []string{digest.FromString("x").String()}},
		{"pulled, and known by its digest", "GET", of, indexType, true, nil},
		{"pulled by tag, and known", "GET", "v1", indexType, true, nil},
		{"a list of docker's", "GET", "v1", "application/vnd.docker.distribution.manifest.list.v2+json; charset=utf-8", false, []string{of}},
		{"an image", "GET", "v1", "application/vnd.oci.image.manifest.v1+json", false, nil},
		{"a list of referrers", "GET", list, indexType, false, nil},
		{"looked at", "HEAD", "v1", indexType, false, nil},
		{"pushed", "PUT", "ok", indexType, false, []string{of}},
		{"pushed by digest", "PUT", of, indexType, false, []string{of}},
		{"pushed and refused", "PUT", "bad", indexType, false, nil},
		{"an image pushed", "PUT", "ok", "application/vnd.oci.image.manifest.v1+json", false, nil},
		{"a list of referrers pushed", "PUT", list, indexType, false, nil},
	} {
		seen := &seenIndexes{known: map[string]bool{of: c.known}}
		h := front.New(front.Config{Backend: fixed(c.mediaType, index),
			ManifestPut: []front.Hook{front.PushedIndexes(seen)}, ManifestGet: []front.Hook{front.PulledIndexes(seen)}})
		r := httptest.NewRequest(c.method, "/v2/team/app/manifests/"+c.reference, strings.NewReader(string(index)))
		r.Header.Set("Content-Type", c.mediaType)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if got := seen.take(); !slices.Equal(got, c.want) {
			t.Errorf("%s: told %v, want %v", c.name, got, c.want)
		}
		if c.method == "GET" && w.Body.String() != string(index) {
			t.Errorf("%s: the answer changed to %q", c.name, w.Body)
		}
	}
}

func TestWhatIsTooLargeForAManifestIsPassedAndNotKept(t *testing.T) {
	seen := &seenIndexes{}
	body := make([]byte, front.MaxManifest+1)
	backend := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", indexType)
		w.Write(body)
	})
	h := front.New(front.Config{Backend: backend, ManifestGet: []front.Hook{front.PulledIndexes(seen)}})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/v2/team/app/manifests/v1", nil))
	if w.Body.Len() != len(body) || len(seen.take()) != 0 {
		t.Errorf("%d bytes passed, %d were told", w.Body.Len(), seen.bytes)
	}
}

func TestADeletionIsToldOnceItIsDone(t *testing.T) {
	for _, c := range []struct {
		method, path string
		want         []string
	}{
		{"DELETE", "/v2/team/app/manifests/ok", []string{"asked team/app ok false", "done"}},
		{"DELETE", "/v2/team/app/manifests/gone", []string{"asked team/app gone false"}},
		{"DELETE", "/v2/team/app/blobs/sha256:1", []string{"asked team/app sha256:1 true", "done"}},
		{"DELETE", "/v2/team/app/blobs/uploads/ok", nil},
		{"GET", "/v2/team/app/manifests/ok", nil},
	} {
		var got []string
		h := front.New(front.Config{Backend: fixed("", nil), Delete: []front.Hook{front.Deleted(func(r *front.Request) func() {
			got = append(got, fmt.Sprint("asked ", r.Repository, " ", r.Reference, " ", r.Blob))
			return func() { got = append(got, "done") }
		})}})
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(c.method, c.path, nil))
		if !slices.Equal(got, c.want) {
			t.Errorf("%s %s: %v, want %v", c.method, c.path, got, c.want)
		}
	}
}
