package registrar_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/scittd/scittd/storage"
)

// double is a registry in memory, without the referrers API, that holds its
// client to the protocol: a manifest comes after all it names, a list under a
// referrers tag never loses an entry, and the same artifact is the same bytes.
type double struct {
	t *testing.T

	mu        sync.Mutex
	blobs     map[string][]byte
	manifests map[string][]byte // by digest
	tags      map[string]string
}

func newDouble(t *testing.T) *double {
	return &double{t: t, blobs: map[string][]byte{}, manifests: map[string][]byte{}, tags: map[string]string{}}
}

// document is what a manifest or an index names.
type document struct {
	MediaType string               `json:"mediaType"`
	Subject   *storage.Descriptor  `json:"subject"`
	Config    *storage.Descriptor  `json:"config"`
	Layers    []storage.Descriptor `json:"layers"`
	Manifests []storage.Descriptor `json:"manifests"`
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func (d *double) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	path := strings.TrimPrefix(r.URL.Path, "/v2/"+repository+"/")
	kind, ref, _ := strings.Cut(path, "/")
	switch {
	case kind == "blobs" && r.Method == http.MethodPost:
		w.Header().Set("Location", r.URL.Path+"1")
		w.WriteHeader(http.StatusAccepted)
	case kind == "blobs" && r.Method == http.MethodPut:
		body, err := io.ReadAll(r.Body)
		if digest := r.URL.Query().Get("digest"); err == nil && digestOf(body) == digest {
			d.blobs[digest] = body
			w.WriteHeader(http.StatusCreated)
			return
		}
		w.WriteHeader(http.StatusBadRequest)
	case kind == "blobs":
		d.send(w, "application/octet-stream", ref, d.blobs)
	case kind == "manifests" && r.Method == http.MethodPut:
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		d.put(ref, body)
		w.Header().Set("Docker-Content-Digest", digestOf(body))
		w.WriteHeader(http.StatusCreated)
	case kind == "manifests":
		if tagged, ok := d.tags[ref]; ok {
			ref = tagged
		}
		var m document
		_ = json.Unmarshal(d.manifests[ref], &m) // put has read it before
		d.send(w, m.MediaType, ref, d.manifests)
	default: // referrers, too
		w.WriteHeader(http.StatusNotFound)
	}
}

func (d *double) send(w http.ResponseWriter, mediaType, digest string, from map[string][]byte) {
	body, ok := from[digest]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.Header().Set("Docker-Content-Digest", digest)
	w.Write(body)
}

// put keeps a manifest under ref, a digest or a tag.
func (d *double) put(ref string, body []byte) {
	var m, before document
	if err := json.Unmarshal(body, &m); err != nil {
		d.t.Errorf("manifest %s: %v", ref, err)
		return
	}
	needed := m.Layers
	if m.Config != nil {
		needed = append(slices.Clip(needed), *m.Config)
	}
	for _, blob := range needed {
		if _, there := d.blobs[blob.Digest]; !there {
			d.t.Errorf("manifest %s comes before its blob %s", ref, blob.Digest)
		}
	}
	for _, child := range m.Manifests {
		if _, there := d.manifests[child.Digest]; !there {
			d.t.Errorf("list %s comes before its manifest %s", ref, child.Digest)
		}
	}
	digest := digestOf(body)
	if ref != digest {
		if last, tagged := d.tags[ref]; tagged {
			_ = json.Unmarshal(d.manifests[last], &before)
		}
		for _, entry := range before.Manifests {
			if !listed(m.Manifests, entry.Digest) {
				d.t.Errorf("list %s loses %s", ref, entry.Digest)
			}
		}
		d.tags[ref] = digest
	}
	d.manifests[digest] = body
}

func listed(list []storage.Descriptor, digest string) bool {
	return slices.ContainsFunc(list, func(l storage.Descriptor) bool { return l.Digest == digest })
}

// attached are the manifests that refer to image, and those its list names.
func (d *double) attached(image string) (manifests, list []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for digest, body := range d.manifests {
		var m document
		_ = json.Unmarshal(body, &m)
		if m.Subject != nil && m.Subject.Digest == image {
			manifests = append(manifests, digest)
		}
	}
	var index document
	_ = json.Unmarshal(d.manifests[d.tags[strings.Replace(image, ":", "-", 1)]], &index)
	for _, l := range index.Manifests {
		list = append(list, l.Digest)
	}
	return manifests, list
}
