package client_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/scittd/scittd/client"
)

// exchange is one request that is expected, and what it is answered.
type exchange struct {
	method, path string // path with query
	check        func(t *testing.T, r *http.Request, body []byte)
	answer       func(w http.ResponseWriter)
}

// double is a service that expects exactly these exchanges, in order, and
// whose clients pass waits to the test instead of waiting.
type double struct {
	*client.Client
	url   string
	waits []time.Duration
}

const token = "a-secret-token"

func newDouble(t *testing.T, script ...exchange) *double {
	t.Helper()
	var mu sync.Mutex
	next := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if next == len(script) {
			t.Errorf("unexpected further request %s %s", r.Method, r.URL)
			return
		}
		want := script[next]
		next++
		if got := r.Method + " " + r.URL.String(); got != want.method+" "+want.path {
			t.Errorf("request %d is %s, want %s %s", next, got, want.method, want.path)
		}
		if got := r.Header.Get("Authorization"); got != "Bearer "+token {
			t.Errorf("%s %s: Authorization %q", r.Method, r.URL, got)
		}
		if got := r.Header.Get("User-Agent"); got != "tests/1" {
			t.Errorf("%s %s: User-Agent %q", r.Method, r.URL, got)
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if want.check != nil {
			want.check(t, r, body)
		}
		want.answer(w)
	}))
	t.Cleanup(func() {
		server.Close()
		if next != len(script) {
			t.Errorf("%d of %d expected requests came", next, len(script))
		}
	})
	c, err := client.New(server.URL+"/", client.Options{Token: token, UserAgent: "tests/1"})
	if err != nil {
		t.Fatal(err)
	}
	d := &double{Client: c, url: server.URL}
	c.Sleeping(func(_ context.Context, wait time.Duration) error {
		d.waits = append(d.waits, wait)
		return nil
	})
	return d
}

// status answers with headers (name, value, ...) and no body.
func status(code int, headers ...string) func(http.ResponseWriter) {
	return body(code, "", "", headers...)
}

func body(code int, contentType, content string, headers ...string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		if contentType != "" {
			w.Header().Set("Content-Type", contentType)
		}
		for pair := range slices.Chunk(headers, 2) {
			w.Header().Set(pair[0], pair[1])
		}
		w.WriteHeader(code)
		fmt.Fprint(w, content)
	}
}
