package embedded_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/storage"
	"github.com/scittd/scittd/storage/embedded"
)

// unannounced sends a body without its length.
func (s *server) unannounced(method, path string, body []byte) int {
	s.t.Helper()
	req, err := http.NewRequest(method, s.url+path, io.MultiReader(bytes.NewReader(body)))
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

func TestQuotaIsWhatClientsMayFill(t *testing.T) {
	dir := t.TempDir()
	s := serve(t, dir)
	s.Limit(embedded.Limits{Quota: 10_000})
	bytesOfSize := func(n int, c string) []byte { return []byte(strings.Repeat(c, n)) }
	first := s.blob("r", bytesOfSize(6_000, "a"))
	s.want(201, "", "POST", "/v2/other/blobs/uploads/?from=r&mount="+first, nil) // takes nothing
	if got := s.Usage(); got != 6_000 {
		t.Errorf("%d bytes are in use, want 6000", got)
	}

	second := bytesOfSize(6_000, "b")
	post := "/v2/r/blobs/uploads/?digest=" + sha(second)
	s.want(403, "DENIED", "POST", post, second)
	if status := s.unannounced("POST", post, second); status != 403 {
		t.Errorf("unannounced: %d, want 403", status)
	}
	at := s.start("r")
	s.want(202, "", "PATCH", at, second[:2_000])
	s.want(403, "DENIED", "PATCH", at, second[2_000:])
	s.want(204, "", "GET", at, nil)
	if status := s.unannounced("PUT", at+"?digest="+sha(second), second[2_000:]); status != 403 {
		t.Errorf("PUT: %d, want 403", status)
	}
	s.want(403, "DENIED", "PUT", "/v2/r/manifests/v1", image(func(m map[string]any) {
		m["annotations"] = map[string]string{"a": strings.Repeat("x", 3_000)}
	}), "Content-Type: "+ociManifest)
	if got := s.Usage(); got != 8_000 {
		t.Errorf("%d bytes are in use, want 6000 and a chunk of 2000", got)
	}

	// What the service places is not held up, but counts.
	repo, err := s.Repository("r")
	if err != nil {
		t.Fatal(err)
	}
	if err := repo.PushBlob(t.Context(), sha(second), 6_000, bytesOf(second)); err != nil {
		t.Errorf("in process: %v", err)
	}
	s.want(403, "DENIED", "POST", "/v2/r/blobs/uploads/", nil)
	s.want(200, "", "GET", "/v2/r/blobs/"+first, nil)

	s.want(202, "", "DELETE", "/v2/r/blobs/"+first, nil)
	s.want(202, "", "DELETE", "/v2/other/blobs/"+first, nil)
	s.want(204, "", "DELETE", at, nil)
	s.blob("r", bytesOfSize(3_000, "c"))

	// An upload that takes the last bytes is finished all the same.
	last := bytesOfSize(1_000, "d")
	at = s.start("r")
	s.want(202, "", "PATCH", at, last)
	s.want(201, "", "PUT", at+"?digest="+sha(last), nil)
	s.want(403, "DENIED", "POST", "/v2/r/blobs/uploads/", nil)
	if got := sizeOf(t, filepath.Join(dir, "uploads")); got != 0 {
		t.Errorf("refused pushes left %d bytes", got)
	}
}

func TestManyPushesAtOnceStayWithinTheQuota(t *testing.T) {
	s := serve(t, t.TempDir())
	s.Limit(embedded.Limits{Quota: 1_000})
	statuses := make(chan int)
	for i := range 16 {
		go func() {
			body := []byte(strings.Repeat(fmt.Sprintf("%02d", i), 150))
			statuses <- s.unannounced("POST", "/v2/r/blobs/uploads/?digest="+sha(body), body)
		}()
	}
	count := map[int]int{}
	for range 16 {
		count[<-statuses]++
	}
	if count[201]+count[403] != 16 || count[201] < 1 || count[201] > 3 || s.Usage() != int64(300*count[201]) {
		t.Errorf("answers %v, %d bytes in use, of 1000", count, s.Usage())
	}
}

func TestNothingIsTakenWhenTheDiskIsAlmostFull(t *testing.T) {
	s := serve(t, t.TempDir())
	d, at := s.blob("r", []byte("{}")), s.start("r")
	s.Limit(embedded.Limits{FreeSpace: 1 << 20})
	s.FillDisk(1<<20 - 1)
	other := sha([]byte("other"))
	for _, request := range []string{
		"POST /v2/r/blobs/uploads/", "POST /v2/r/blobs/uploads/?digest=" + other, "PATCH " + at, "PUT " + at + "?digest=" + other,
		"PUT /v2/r/manifests/v1",
	} {
		method, path, _ := strings.Cut(request, " ")
		s.want(507, "DENIED", method, path, []byte("other"), "Content-Type: "+ociManifest)
	}
	s.want(200, "", "GET", "/v2/r/blobs/"+d, nil)
	s.want(204, "", "DELETE", at, nil)

	// The Courier tries again: nothing is refused for good.
	repo, err := s.Repository("r")
	if err != nil {
		t.Fatal(err)
	}
	err = repo.PushBlob(t.Context(), other, 5, bytesOf([]byte("other")))
	if err == nil || errors.Is(err, storage.ErrRefused) || !strings.Contains(err.Error(), "almost full") {
		t.Errorf("a blob in process: %v", err)
	}
	_, err = repo.PushManifest(t.Context(), ociManifest, image(nil), "")
	if err == nil || errors.Is(err, storage.ErrRefused) {
		t.Errorf("a manifest in process: %v", err)
	}
	s.want(202, "", "DELETE", "/v2/r/blobs/"+d, nil)
}

func TestOpenUploadsAreBoundedAndTheOldOnesMakeRoom(t *testing.T) {
	s, later := serveAt(t, t.TempDir())
	s.Limit(embedded.Limits{Uploads: 20, RepositoryUploads: 8})
	crowded := func(repository string) {
		t.Helper()
		a := s.want(429, "TOOMANYREQUESTS", "POST", "/v2/"+repository+"/blobs/uploads/", nil)
		if a.header.Get("Retry-After") == "" {
			t.Error("429 without Retry-After")
		}
	}
	var first string
	for _, repository := range []string{"a", "b"} {
		for i := range 8 {
			if at := s.start(repository); repository == "a" && i == 0 {
				first = at
			}
		}
		crowded(repository)
	}
	for range 4 {
		s.start("c")
	}
	crowded("c") // there are 20 in all

	later(50 * time.Minute)
	s.want(202, "", "PATCH", first, []byte("x"))
	later(20 * time.Minute) // the others were touched 70 minutes ago, this one 20
	s.start("a")
	for range 7 {
		s.start("c")
	}
	s.want(204, "", "GET", first, nil)
	s.want(204, "", "DELETE", first, nil)
}

func TestUploadEndsAWeekAfterItBeganHoweverOftenItIsTouched(t *testing.T) {
	s, later := serveAt(t, t.TempDir())
	at := s.start("r")
	for range 8 {
		s.want(202, "", "PATCH", at, []byte("x"))
		later(20 * time.Hour)
	}
	s.want(202, "", "PATCH", at, []byte("x"))
	later(10 * time.Hour)
	s.want(404, "BLOB_UPLOAD_UNKNOWN", "PATCH", at, []byte("x"))
	if err := s.Sweep(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := s.Usage(); got != 0 {
		t.Errorf("%d bytes are still in use", got)
	}
}

func TestUploadBelongsToWhoBeganIt(t *testing.T) {
	r, err := embedded.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewServer(r.HandlerFor(embedded.Callers{Name: func(r *http.Request) (string, error) {
		name := r.Header.Get("Caller")
		if name == "unknowable" {
			return "", errors.New("the callers' database is away")
		}
		return name, nil
	}}))
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		h.Close()
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &server{t, r, h.URL}
	at := s.want(202, "", "POST", "/v2/r/blobs/uploads/", nil, "Caller: alice").header.Get("Location")
	s.want(202, "", "PATCH", at, []byte("mine"), "Caller: alice")
	put := at + "?digest=" + sha([]byte("mine"))
	for _, caller := range []string{"Caller: mallory", "Caller: "} {
		s.want(404, "BLOB_UPLOAD_UNKNOWN", "PATCH", at, []byte("theirs"), caller)
		s.want(404, "BLOB_UPLOAD_UNKNOWN", "PUT", put, nil, caller)
		s.want(404, "BLOB_UPLOAD_UNKNOWN", "DELETE", at, nil, caller)
	}
	s.want(404, "BLOB_UPLOAD_UNKNOWN", "GET", at, nil, "Caller: mallory")
	s.want(500, "UNKNOWN", "PATCH", at, []byte("x"), "Caller: unknowable")
	// Reading is anonymous; clients ask how far it is without credentials.
	if a := s.want(204, "", "GET", at, nil); a.header.Get("Range") != "0-3" {
		t.Errorf("Range is %q, want 0-3", a.header.Get("Range"))
	}
	s.want(201, "", "PUT", put, nil, "Caller: alice")
}

func TestReadsMayBePaced(t *testing.T) {
	r, err := embedded.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewServer(r.HandlerFor(embedded.Callers{Pace: func(*http.Request) error {
		return &embedded.Error{Status: 429, Code: "TOOMANYREQUESTS", Message: "too many", RetryAfter: 1500 * time.Millisecond}
	}}))
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		h.Close()
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &server{t, r, h.URL}
	d := s.blob("r", []byte("{}"))
	for _, path := range []string{"/v2/", "/v2/r/blobs/" + d, "/v2/r/tags/list", "/v2/r/referrers/" + d} {
		if a := s.want(429, "TOOMANYREQUESTS", "GET", path, nil); a.header.Get("Retry-After") != "2" {
			t.Errorf("%s: Retry-After is %q, want 2", path, a.header.Get("Retry-After"))
		}
	}
	s.manifest("r", "v1", image(nil))
}

func TestBodyThatTricklesIsRefused(t *testing.T) {
	s := serve(t, t.TempDir())
	s.LosePatience(200 * time.Millisecond)
	conn := s.raw("POST /v2/r/blobs/uploads/?digest="+sha([]byte("never whole")), "Content-Length: 500000", "")
	done := make(chan struct{})
	go func() {
		defer close(done)
		for { // time is what this is about: something comes long before the patience ends
			if _, err := conn.Write([]byte("x")); err != nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	conn.Close()
	<-done
	if resp.StatusCode != 408 {
		t.Errorf("got %d, want 408", resp.StatusCode)
	}
}

func TestLargeManifestsAreReadAFewAtATime(t *testing.T) {
	s := serve(t, t.TempDir())
	s.blob("r", []byte("{}"))
	large := append(image(nil), bytes.Repeat([]byte(" "), 100_000)...)
	for range 16 {
		conn := s.raw("PUT /v2/r/manifests/v1", fmt.Sprintf("Content-Length: %d\r\nExpect: 100-continue", len(large)), "")
		// The registry asks for the body, so it is reading.
		if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(line, "100 Continue") {
			t.Fatalf("%q, %v", line, err)
		}
	}
	s.want(429, "TOOMANYREQUESTS", "PUT", "/v2/r/manifests/v1", large, "Content-Type: "+ociManifest)
	s.manifest("r", "v1", image(nil))
}
