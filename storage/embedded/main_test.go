package embedded_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/scittd/scittd/storage/embedded"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(victimDir); dir != "" {
		victim(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// server is a registry behind real HTTP.
type server struct {
	t *testing.T
	*embedded.Registry
	url string
}

func serve(t *testing.T, dir string) *server {
	t.Helper()
	r, err := embedded.Open(dir)
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
	return &server{t, r, h.URL}
}

// answer is a response, read to its end.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// do sends a request. headers are "Name: value".
func (s *server) do(method, path string, body []byte, headers ...string) answer {
	s.t.Helper()
	req, err := http.NewRequest(method, s.url+path, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer{resp.StatusCode, resp.Header, got}
}

// want sends a request and fails unless it is answered with status and, for an
// error, with the specification's document and code.
func (s *server) want(status int, code, method, path string, body []byte, headers ...string) answer {
	s.t.Helper()
	a := s.do(method, path, body, headers...)
	if a.status != status {
		s.t.Fatalf("%s %s: got %d %s, want %d %s", method, path, a.status, a.body, status, code)
	}
	if code != "" && method != http.MethodHead && a.code() != code {
		s.t.Fatalf("%s %s: got code %q (%s), want %s", method, path, a.code(), a.body, code)
	}
	return a
}

// code is the error code of a well-formed error document.
func (a answer) code() string {
	var doc struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(a.body, &doc) != nil || len(doc.Errors) != 1 || doc.Errors[0].Message == "" ||
		a.header.Get("Content-Type") != "application/json" {
		return ""
	}
	return doc.Errors[0].Code
}

func sha(b []byte) string     { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }
func sha512d(b []byte) string { return fmt.Sprintf("sha512:%x", sha512.Sum512(b)) }

// blob pushes content in one request.
func (s *server) blob(repository string, content []byte) string {
	s.t.Helper()
	s.want(201, "", "POST", "/v2/"+repository+"/blobs/uploads/?digest="+sha(content), content)
	return sha(content)
}

const (
	ociManifest = "application/vnd.oci.image.manifest.v1+json"
	ociIndex    = "application/vnd.oci.image.index.v1+json"
)

// image is a manifest of config and layer "{}"; edit changes it.
func image(edit func(m map[string]any)) []byte {
	empty := map[string]any{"mediaType": "application/vnd.oci.empty.v1+json", "digest": sha([]byte("{}")), "size": 2}
	m := map[string]any{
		"schemaVersion": 2, "mediaType": ociManifest, "config": empty, "layers": []any{empty},
	}
	if edit != nil {
		edit(m)
	}
	body, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return body
}

func subject(digest string) map[string]any {
	return map[string]any{"mediaType": ociManifest, "digest": digest, "size": 2}
}

// manifest pushes one, by digest unless a tag is given.
func (s *server) manifest(repository, tag string, body []byte) string {
	s.t.Helper()
	mediaType := ociManifest
	if bytes.Contains(body, []byte(`"manifests"`)) {
		mediaType = ociIndex
	}
	if tag == "" {
		tag = sha(body)
	}
	s.want(201, "", "PUT", "/v2/"+repository+"/manifests/"+tag, body, "Content-Type: "+mediaType)
	return sha(body)
}
