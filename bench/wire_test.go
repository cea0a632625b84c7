package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

func TestWires(t *testing.T) {
	var mu sync.Mutex
	callers := map[string]int{} // requests by connection
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		callers[r.RemoteAddr]++
		mu.Unlock()
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		switch r.URL.Path {
		case "/last":
			w.Header().Set("Connection", "close")
		case "/cut":
			w.Header().Set("Content-Length", "1000")
		case "/gone":
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(http.StatusCreated)
		io.WriteString(w, r.Method+" "+r.URL.String()+" "+r.Header.Get("Content-Type")+" "+r.Header.Get("Authorization")+" "+string(body))
	}))
	defer server.Close()
	service := newWires(server.URL, "secret")
	defer service.close()
	long := strings.Repeat("x", 100_000) // more than any buffer holds
	for _, c := range []struct {
		path string
		body [][]byte
		want string // "": an error
	}{
		{"/a?b=c", nil, "GET /a?b=c  Bearer secret "},
		{"/a", [][]byte{[]byte("one"), []byte(long)}, "POST /a text/plain Bearer secret one" + long},
		{"/last", nil, "GET /last  Bearer secret "}, // the third on the first connection
		{"/cut", nil, ""}, // the first on the second
		{"/gone", nil, ""},
		{"/a", [][]byte{{}}, "POST /a text/plain Bearer secret "},
	} {
		method := http.MethodGet
		if c.body != nil {
			method = http.MethodPost
		}
		status, answer, err := service.exchange(method, c.path, "text/plain", c.body...)
		if c.want == "" {
			if err == nil {
				t.Errorf("%s %s: got %d %q, want an error", method, c.path, status, answer)
			}
			continue
		}
		if err != nil || status != http.StatusCreated || string(answer) != c.want {
			t.Errorf("%s %s: got %d %.100q %v, want %d %.100q", method, c.path, status, answer, err, http.StatusCreated, c.want)
		}
	}
	if len(callers) != 4 {
		t.Errorf("connections: got %v, want one of 3 requests and three of 1", callers)
	}

	server.CloseClientConnections()
	if status, answer, err := service.exchange(http.MethodGet, "/a", ""); err == nil {
		t.Errorf("on a connection that the server has closed: got %d %q, want an error", status, answer)
	}
}
