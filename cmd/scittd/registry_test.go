package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/scittd/scittd/storage/registrytest"
)

// As a client that has credentials, shows them when it is asked, and is quick:
// no rate may stand in the way of an ordinary push.
func TestServedRegistryDoesWhatTheSpecificationSays(t *testing.T) {
	s, token := withLog(t, sqliteEmbedded)
	s.serve()
	registrytest.Test(t, registrytest.Registry{URL: s.url, User: "ci", Password: token, Client: s.http})
}

// push sends a request as some caller and returns status and Location.
func (s *site) push(method, path, token, body string) (int, string) {
	s.t.Helper()
	req, err := http.NewRequest(method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if token != "" {
		req.SetBasicAuth("ci", token)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(resp.Body); err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("Location")
}

func TestUploadBelongsToTheTokenItWasBegunWith(t *testing.T) {
	s, alice := withLog(t, sqliteEmbedded)
	mallory := s.token("mallory", "publish")
	s.serve()
	status, at := s.push("POST", "/v2/r/blobs/uploads/", alice, "")
	if status != 202 {
		t.Fatalf("POST: %d", status)
	}
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte("mine")))
	for _, c := range []struct {
		method, path, token string
		want                int
	}{
		{"PATCH", at, alice, 202},
		{"PATCH", at, mallory, 404},
		{"PATCH", at, "", 401},
		{"GET", at, mallory, 404},
		{"GET", at, "scittd_" + strings.Repeat("x", 40), 401},
		{"GET", at, "", 204},
		{"DELETE", at, mallory, 404},
		{"PUT", at + "?digest=" + digest, mallory, 404},
	} {
		if got, _ := s.push(c.method, c.path, c.token, "mine"); got != c.want {
			t.Errorf("%s with token %.12q: %d, want %d", c.method, c.token, got, c.want)
		}
	}
	if got, _ := s.push("PUT", at+"?digest="+digest, alice, ""); got != 201 {
		t.Errorf("the end of the upload: %d", got)
	}
}

func TestRegistryLimitsComeFromTheConfiguration(t *testing.T) {
	s, token := withLog(t, sqliteEmbedded)
	s.serve("--registry-quota", "1000", "--limits-pull-rate", "0.001", "--limits-pull-burst", "3")
	if status, _ := s.push("POST", "/v2/r/blobs/uploads/", token, strings.Repeat("x", 1001)); status != 403 {
		t.Errorf("more than the quota: %d, want 403", status)
	}
	statuses := map[int]int{}
	for range 5 {
		status, _ := s.push("GET", "/v2/r/tags/list", "", "")
		statuses[status]++
	}
	if statuses[404] != 3 || statuses[429] != 2 {
		t.Errorf("five pulls of three: %v", statuses)
	}
}

func TestDiskThatIsAlmostFullTakesNoPush(t *testing.T) {
	s, token := withLog(t, sqliteEmbedded)
	s.serve("--registry-free-space", fmt.Sprint(1<<62))
	if status, _ := s.push("POST", "/v2/r/blobs/uploads/", token, ""); status != 507 {
		t.Errorf("got %d, want 507", status)
	}
	if status, _ := s.push("GET", "/v2/r/tags/list", "", ""); status != 404 {
		t.Errorf("a pull: %d, want 404 NAME_UNKNOWN", status)
	}
}
