package embedded_test

import (
	"context"
	"encoding/json"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/scittd/scittd/storage/embedded"
)

func layersOf(t *testing.T, manifest []byte) (digests []string) {
	t.Helper()
	var m struct{ Layers []struct{ Digest string } }
	if err := json.Unmarshal(manifest, &m); err != nil {
		t.Fatal(err)
	}
	for _, l := range m.Layers {
		digests = append(digests, l.Digest)
	}
	return digests
}

// serveAt is serve with a clock that the test moves on.
func serveAt(t *testing.T, dir string) (s *server, later func(time.Duration)) {
	t.Helper()
	var moved atomic.Int64
	r, err := embedded.OpenAt(dir, func() time.Time { return time.Now().Add(time.Duration(moved.Load())) })
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewServer(r.Handler())
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		h.Close()
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return &server{t, r, h.URL}, func(d time.Duration) { moved.Add(int64(d)) }
}

// files below a folder, by name.
func files(t *testing.T, dir string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			found[e.Name()] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestSweepTakesOnlyOldBlobsThatNoManifestNames(t *testing.T) {
	dir := t.TempDir()
	s, later := serveAt(t, dir)
	sweep := func() {
		t.Helper()
		if err := s.Sweep(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	s.blob("r", []byte("{}"))
	image1 := s.manifest("r", "v1", image(nil))
	claim := s.manifest("r", "", image(func(m map[string]any) { m["subject"] = subject(image1) }))
	shared := s.blob("r", []byte("shared"))
	s.blob("other", []byte("shared"))
	lonely := s.blob("r", []byte("lonely"))
	later(23 * time.Hour)
	young := s.blob("r", []byte("young"))
	s.blob("other", []byte("shared")) // pushed again: young again
	s.want(202, "", "DELETE", "/v2/r/manifests/"+image1, nil)

	sweep()
	s.want(200, "", "GET", "/v2/r/blobs/"+lonely, nil)

	later(2 * time.Hour)
	sweep()
	s.want(404, "BLOB_UNKNOWN", "GET", "/v2/r/blobs/"+lonely, nil)
	s.want(404, "BLOB_UNKNOWN", "GET", "/v2/r/blobs/"+shared, nil)
	s.want(200, "", "GET", "/v2/other/blobs/"+shared, nil)
	s.want(200, "", "GET", "/v2/r/blobs/"+young, nil)
	s.want(200, "", "GET", "/v2/r/manifests/"+claim, nil) // its subject is gone
	s.want(200, "", "GET", "/v2/r/blobs/"+sha([]byte("{}")), nil)
	if on := files(t, filepath.Join(dir, "blobs")); len(on) != 3 || on[lonely[7:]] {
		t.Errorf("on disk are %v, want {}, shared and young", on)
	}

	s.want(202, "", "DELETE", "/v2/r/manifests/"+claim, nil)
	later(24 * time.Hour)
	sweep()
	if on := files(t, filepath.Join(dir, "blobs")); len(on) != 0 {
		t.Errorf("on disk are still %v", on)
	}
}

// With a clock that is a month ahead of the files, a sweep takes every file that
// has no row when it looks: also one whose row is about to commit.
func TestBlobsPushedWhileOthersAreDeletedAndSweptAreWhole(t *testing.T) {
	dir := t.TempDir()
	s, later := serveAt(t, dir)
	later(30 * 24 * time.Hour)
	contents := [][]byte{[]byte("one"), []byte("two")}
	var pushers, others sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	for i := range 4 {
		content := contents[i%2]
		pushers.Go(func() {
			for range 25 {
				if i < 2 {
					s.do("POST", "/v2/r/blobs/uploads/?digest="+sha(content), content)
				} else if at := s.do("POST", "/v2/r/blobs/uploads/", nil).header.Get("Location"); s.do("PUT", at+"?digest="+sha(content), content).status != 201 {
					t.Errorf("%s was not taken", content)
				}
				if a := s.do("GET", "/v2/r/blobs/"+sha(content), nil); a.status != 404 && string(a.body) != string(content) {
					t.Errorf("%s came back as %d %q", content, a.status, a.body)
				}
			}
		})
		others.Go(func() {
			for ctx.Err() == nil {
				s.do("DELETE", "/v2/r/blobs/"+sha(content), nil)
				if err := s.Sweep(context.Background()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	pushers.Wait()
	stop()
	others.Wait()
	on := files(t, filepath.Join(dir, "blobs"))
	for _, content := range contents {
		if a := s.do("GET", "/v2/r/blobs/"+sha(content), nil); a.status == 200 != on[sha(content)[7:]] {
			t.Errorf("%s is answered with %d, and on disk: %v", content, a.status, on)
		}
	}
}

func TestDeletedBlobLeavesTheDiskAtOnceWithItsLastRepository(t *testing.T) {
	dir := t.TempDir()
	s := serve(t, dir)
	d := s.blob("a", []byte("evidence"))
	s.blob("b", []byte("evidence"))
	s.want(202, "", "DELETE", "/v2/a/blobs/"+d, nil)
	if on := files(t, filepath.Join(dir, "blobs")); !on[d[7:]] {
		t.Error("the bytes went while b still had them")
	}
	s.want(202, "", "DELETE", "/v2/b/blobs/"+d, nil)
	if on := files(t, filepath.Join(dir, "blobs")); len(on) != 0 {
		t.Errorf("on disk are still %v", on)
	}
	s.blob("a", []byte("evidence"))
	s.want(200, "", "GET", "/v2/a/blobs/"+d, nil)
}

func TestUploadsExpireAfterADayWithoutAChunk(t *testing.T) {
	dir := t.TempDir()
	s, later := serveAt(t, dir)
	idle, busy := s.start("r"), s.start("r")
	s.want(202, "", "PATCH", idle, []byte("x"))
	later(20 * time.Hour)
	s.want(202, "", "PATCH", busy, []byte("x"))
	later(5 * time.Hour)
	s.want(404, "BLOB_UPLOAD_UNKNOWN", "PATCH", idle, []byte("x"))
	if err := s.Sweep(context.Background()); err != nil {
		t.Fatal(err)
	}
	if on := files(t, filepath.Join(dir, "uploads")); len(on) != 1 {
		t.Errorf("uploads on disk: %v, want one", on)
	}
	s.want(201, "", "PUT", busy+"?digest="+sha([]byte("x")), nil)
}

func TestSweepFindsWhatACrashLeftWithoutARow(t *testing.T) {
	dir := t.TempDir()
	s := serve(t, dir)
	kept := s.blob("r", []byte("kept"))
	at := s.start("r")
	s.want(202, "", "PATCH", at, []byte("x"))
	id := at[strings.LastIndex(at, "/")+1:]
	orphan := strings.Repeat("ab", 32)
	for _, path := range []string{
		filepath.Join(dir, "uploads", "leftover"),
		filepath.Join(dir, "blobs", "sha256", "ab", orphan),
	} {
		if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.want(404, "BLOB_UNKNOWN", "GET", "/v2/r/blobs/sha256:"+orphan, nil)
	if err := s.Sweep(context.Background()); err != nil {
		t.Fatal(err)
	}
	if on := files(t, dir); !on[orphan] || !on["leftover"] {
		t.Error("young files without a row were removed: a push may be under way")
	}
	old := time.Now().Add(-25 * time.Hour)
	for name := range map[string]string{orphan: "", "leftover": "", kept[7:]: "", id: ""} {
		for _, folder := range []string{"uploads", "blobs/sha256/" + name[:2]} {
			if err := os.Chtimes(filepath.Join(dir, folder, name), old, old); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
		}
	}
	if err := s.Sweep(context.Background()); err != nil {
		t.Fatal(err)
	}
	if on := files(t, dir); on[orphan] || on["leftover"] || !on[kept[7:]] || !on[id] {
		t.Errorf("after the sweep there are %v", on)
	}
}

func TestOpenRefusesWhatItDoesNotKnow(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := embedded.Open(file); err == nil {
		t.Error("a file was opened as a registry")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "registry.db"), []byte("this is no database at all, but long enough to be asked"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := embedded.Open(dir); err == nil || !strings.Contains(err.Error(), "registry.db") {
		t.Errorf("a broken registry.db was opened: %v", err)
	}
}

func TestClosedRegistryAnswers500(t *testing.T) {
	r, err := embedded.Open(filepath.Join(t.TempDir(), "with space?and#more%20"))
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewServer(r.Handler())
	defer h.Close()
	defer http.DefaultClient.CloseIdleConnections()
	s := &server{t, r, h.URL}
	d := s.blob("r", []byte("x"))
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
	s.want(500, "UNKNOWN", "GET", "/v2/r/blobs/"+d, nil)
	s.want(500, "UNKNOWN", "POST", "/v2/r/blobs/uploads/", nil)
}

func TestSweepOfManyBlobsGoesPageByPage(t *testing.T) {
	dir := t.TempDir()
	s, later := serveAt(t, dir)
	const many = 2*embedded.SweepPage + 10
	for i := range many {
		s.blob("r", []byte(strings.Repeat("x", i+1)))
	}
	later(25 * time.Hour)
	young := s.blob("r", []byte("young"))
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := files(t, filepath.Join(dir, "blobs")); len(left) != 1 {
		t.Errorf("%d files are left, want the young one", len(left))
	}
	s.want(200, "", "HEAD", "/v2/r/blobs/"+young, nil)
}
