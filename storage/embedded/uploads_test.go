package embedded_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// start opens an upload and returns where it goes on.
func (s *server) start(repository string) string {
	s.t.Helper()
	a := s.want(202, "", "POST", "/v2/"+repository+"/blobs/uploads/", nil)
	if a.header.Get("Range") != "0-0" || a.header.Get("Docker-Upload-UUID") == "" {
		s.t.Fatalf("start of an upload answers %v", a.header)
	}
	return a.header.Get("Location")
}

func TestWrongChunkLeavesTheUploadWhereItWas(t *testing.T) {
	s := serve(t, t.TempDir())
	at := s.start("r")
	s.want(202, "", "PATCH", at, []byte("0123456789"), "Content-Range: 0-9")
	d := sha([]byte("0123456789abcde"))
	for _, c := range []struct {
		name   string
		status int
		code   string
		method string
		query  string
		header string
	}{
		{"gap", 416, "BLOB_UPLOAD_INVALID", "PATCH", "", "Content-Range: 11-15"},
		{"repeated", 416, "BLOB_UPLOAD_INVALID", "PATCH", "", "Content-Range: 0-4"},
		{"overlap", 416, "BLOB_UPLOAD_INVALID", "PATCH", "", "Content-Range: 9-13"},
		{"gap in PUT", 416, "BLOB_UPLOAD_INVALID", "PUT", "?digest=" + d, "Content-Range: 20-24"},
		{"other length", 400, "SIZE_INVALID", "PATCH", "", "Content-Range: 10-12"},
		{"unit", 400, "BLOB_UPLOAD_INVALID", "PATCH", "", "Content-Range: bytes 10-14/*"},
		{"backwards", 400, "BLOB_UPLOAD_INVALID", "PATCH", "", "Content-Range: 14-10"},
		{"no digest", 400, "DIGEST_INVALID", "PUT", "", "Content-Range: 10-14"},
		{"other digest", 400, "DIGEST_INVALID", "PUT", "?digest=" + sha([]byte("x")), "Content-Range: 10-14"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := *s
			s.t = t
			a := s.want(c.status, c.code, c.method, at+c.query, []byte("abcde"), c.header)
			if c.status == 416 && (a.header.Get("Range") != "0-9" || a.header.Get("Location") != at) {
				t.Errorf("416 does not say where to go on: %v", a.header)
			}
			status := s.want(204, "", "GET", at, nil)
			if got := status.header.Get("Range"); got != "0-9" {
				t.Errorf("the upload now ends at %q, want 0-9", got)
			}
		})
	}
	s.want(201, "", "PUT", at+"?digest="+d, []byte("abcde"))
	s.want(404, "BLOB_UPLOAD_UNKNOWN", "GET", at, nil)
}

func TestBodyThatBreaksOffHasNotHappened(t *testing.T) {
	s := serve(t, t.TempDir())
	at := s.start("r")
	s.want(202, "", "PATCH", at, []byte("0123456789"))
	d := sha([]byte("0123456789abcde"))
	for _, request := range []string{
		"PATCH " + at, "PUT " + at + "?digest=" + d, "POST /v2/r/blobs/uploads/?digest=" + d,
		"PUT /v2/r/manifests/v1",
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: r\r\nContent-Type: %s\r\nContent-Length: 1000\r\n\r\nabc", request, ociManifest)
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%s: %v", request, err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != 400 || !strings.Contains(string(body), "broke off after 3 bytes") {
			t.Errorf("%s with 3 of 1000 bytes: %d %s %v", request, resp.StatusCode, body, err)
		}
		resp.Body.Close()
		conn.Close()
	}
	s.want(201, "", "PUT", at+"?digest="+d, []byte("abcde"))
	a := s.want(200, "", "GET", "/v2/r/blobs/"+d, nil)
	if string(a.body) != "0123456789abcde" {
		t.Errorf("the blob is %q", a.body)
	}
	s.want(404, "MANIFEST_UNKNOWN", "GET", "/v2/r/manifests/v1", nil)
}

// raw sends one request, broken off behind body, and returns the connection.
func (s *server) raw(request, headers, body string) *net.TCPConn {
	s.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		s.t.Fatal(err)
	}
	fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: r\r\nContent-Type: %s\r\n%s\r\n\r\n%s", request, ociManifest, headers, body)
	return conn.(*net.TCPConn)
}

func TestBodyThatStandsStillIsRefusedAndItsConnectionClosed(t *testing.T) {
	s := serve(t, t.TempDir())
	s.LosePatience(50 * time.Millisecond)
	d := sha([]byte("never whole"))
	for _, c := range []struct{ request, code string }{
		{"POST /v2/r/blobs/uploads/?digest=" + d, "BLOB_UPLOAD_INVALID"},
		{"PATCH " + s.start("r"), "BLOB_UPLOAD_INVALID"},
		{"PUT " + s.start("r") + "?digest=" + d, "BLOB_UPLOAD_INVALID"},
		{"PUT /v2/r/manifests/v1", "MANIFEST_INVALID"},
	} {
		for headers, body := range map[string]string{
			"Content-Length: 500":        "ab",
			"Transfer-Encoding: chunked": "2\r\nab\r\n",
		} {
			from := bufio.NewReader(s.raw(c.request, headers, body))
			resp, err := http.ReadResponse(from, nil)
			if err != nil {
				t.Errorf("%s, %s: no answer: %v", c.request, headers, err)
				continue
			}
			text, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			got := answer{resp.StatusCode, resp.Header, text}
			if err != nil || got.status != 408 || got.code() != c.code || !resp.Close {
				t.Errorf("%s, %s: %d %s, closing %v, %v; want 408 %s, closing", c.request, headers, got.status, text, resp.Close, err, c.code)
			}
			if _, err := from.ReadByte(); err != io.EOF {
				t.Errorf("%s, %s: after the answer %v, want the end", c.request, headers, err)
			}
		}
	}
}

// pipes are connections without buffers.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if conn, open := <-p; open {
		return conn, nil
	}
	return nil, net.ErrClosed
}
func (pipes) Close() error   { return nil }
func (pipes) Addr() net.Addr { return &net.UnixAddr{} }

// unread is the registry's end of a connection whose client reads nothing. For it
// time passes at once: what has a deadline has missed it, and what has none would
// wait for ever.
type unread struct {
	net.Conn
	mu      sync.Mutex
	bounded bool
	forever bool
	closed  chan struct{}
	once    sync.Once
}

func (u *unread) SetWriteDeadline(t time.Time) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.bounded = !t.IsZero()
	return nil
}

func (u *unread) Write([]byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.forever = u.forever || !u.bounded
	return 0, os.ErrDeadlineExceeded
}

func (u *unread) Close() error {
	u.once.Do(func() { close(u.closed) })
	return u.Conn.Close()
}

func TestAnswerThatNobodyReadsEndsTheConnection(t *testing.T) {
	s := serve(t, t.TempDir())
	connections, done := make(pipes), make(chan error)
	go func() { done <- http.Serve(connections, s.Handler()) }()
	for _, request := range []string{"GET /v2/", "HEAD /v2/", "GET /v2/no", "POST /v2/r/blobs/uploads/", "DELETE /v2/r/manifests/v1"} {
		client, server := net.Pipe()
		conn := &unread{Conn: server, closed: make(chan struct{})}
		connections <- conn
		if _, err := fmt.Fprintf(client, "%s HTTP/1.1\r\nHost: r\r\n\r\n", request); err != nil {
			t.Fatal(err)
		}
		<-conn.closed
		if conn.forever {
			t.Errorf("%s: the registry would wait for ever", request)
		}
		client.Close()
	}
	close(connections)
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

func TestChunkThatWasNotTakenLeavesNoBytesOnDisk(t *testing.T) {
	dir := t.TempDir()
	s := serve(t, dir)
	mb := strings.Repeat("x", 1<<20)
	const known = "0123456789"
	for name, refused := range map[string]func(at string){
		"PATCH broken off": func(at string) {
			conn := s.raw("PATCH "+at, fmt.Sprintf("Content-Length: %d", 2<<20), mb)
			if err := conn.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.StatusCode != 400 {
				t.Fatalf("PATCH broken off: %v, %v", resp, err)
			}
		},
		"PUT of another digest": func(at string) {
			s.want(400, "DIGEST_INVALID", "PUT", at+"?digest="+sha([]byte("other")), []byte(mb))
			s.want(400, "DIGEST_INVALID", "PUT", at+"?digest="+sha512d([]byte("other")), []byte(mb))
		},
		"PATCH whose sender goes at its end": func(at string) {
			ctx, gone := context.WithCancel(t.Context())
			body := io.MultiReader(strings.NewReader(mb), readerFunc(func([]byte) (int, error) {
				gone()
				return 0, io.EOF
			}))
			w := httptest.NewRecorder()
			s.Handler().ServeHTTP(w, httptest.NewRequestWithContext(ctx, "PATCH", at, body))
			if w.Code == 202 { // it was taken before anybody noticed
				s.want(204, "", "DELETE", at, nil)
				s.want(202, "", "PATCH", s.start("r"), []byte(known))
			}
		},
	} {
		before := sizeOf(t, filepath.Join(dir, "uploads"))
		for range 10 {
			at := s.start("r")
			s.want(202, "", "PATCH", at, []byte(known))
			refused(at)
		}
		if got, want := sizeOf(t, filepath.Join(dir, "uploads"))-before, int64(10*len(known)); got != want {
			t.Errorf("%s, ten times: %d bytes on disk, the rows know of %d", name, got, want)
		}
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// sizeOf is how many bytes the files in a folder have.
func sizeOf(t *testing.T, folder string) (all int64) {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		all += info.Size()
	}
	return all
}

func TestUploadOfAnotherRepositoryIsUnknown(t *testing.T) {
	s := serve(t, t.TempDir())
	at := s.start("mine")
	theirs := strings.Replace(at, "mine", "theirs", 1)
	for _, method := range []string{"GET", "PATCH", "DELETE"} {
		s.want(404, "BLOB_UPLOAD_UNKNOWN", method, theirs, []byte("x"))
	}
	s.want(404, "BLOB_UPLOAD_UNKNOWN", "PUT", theirs+"?digest="+sha([]byte("x")), []byte("x"))
	s.want(204, "", "DELETE", at, nil)
	s.want(404, "BLOB_UPLOAD_UNKNOWN", "PATCH", at, []byte("x"))
}

func TestUploadGoesOnAfterARestart(t *testing.T) {
	dir := t.TempDir()
	var at string
	t.Run("first process", func(t *testing.T) {
		s := serve(t, dir)
		at = s.start("r")
		s.want(202, "", "PATCH", at, []byte("01234"), "Content-Range: 0-4")
	})
	t.Run("second process", func(t *testing.T) {
		s := serve(t, dir)
		if a := s.want(204, "", "GET", at, nil); a.header.Get("Range") != "0-4" {
			t.Errorf("Range is %q, want 0-4", a.header.Get("Range"))
		}
		s.want(202, "", "PATCH", at, []byte("56789"), "Content-Range: 5-9")
		s.want(201, "", "PUT", at+"?digest="+sha([]byte("0123456789")), nil)
	})
}

func TestOneUploadIsWrittenByOneRequestAtATime(t *testing.T) {
	s := serve(t, t.TempDir())
	at := s.start("r")
	results := make(chan int)
	for range 8 {
		go func() { results <- s.do("PATCH", at, []byte("0123456789"), "Content-Range: 0-9").status }()
	}
	count := map[int]int{}
	for range 8 {
		count[<-results]++
	}
	if count[202] != 1 || count[416] != 7 {
		t.Errorf("the same chunk eight times at once was answered %v, want 1 × 202, 7 × 416", count)
	}
	s.want(201, "", "PUT", at+"?digest="+sha([]byte("0123456789")), nil)
}

func TestServerTimeoutDoesNotCutABodyThatKeepsComing(t *testing.T) {
	s := serve(t, t.TempDir())
	h := httptest.NewUnstartedServer(s.Handler())
	h.Config.ReadTimeout = 50 * time.Millisecond
	h.Start()
	defer h.Close()
	body, feed := io.Pipe()
	go func() {
		defer feed.Close()
		for range 4 {
			time.Sleep(h.Config.ReadTimeout) // time is what this is about
			if _, err := feed.Write([]byte("slowly")); err != nil {
				return
			}
		}
	}()
	req, err := http.NewRequest("POST", h.URL+"/v2/r/blobs/uploads/?digest="+sha([]byte("slowlyslowlyslowlyslowly")), body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 201 {
		t.Errorf("got %d, want 201", resp.StatusCode)
	}
}
