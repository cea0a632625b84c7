package api_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/api"
)

// listen serves h with the settings of NewServer and returns its URL.
func listen(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config = api.NewServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.Start()
	t.Cleanup(s.Close)
	return s.URL
}

// speak writes raw bytes to url's host and reads one answer.
func speak(t *testing.T, url, raw string) answer {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	go io.WriteString(conn, raw) // the server may stop reading
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("%.60q: no answer: %v", raw, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%.60q: %v", raw, err)
	}
	return answer{resp.StatusCode, resp.Header, body}
}

func TestWhatNetHTTPRefusesReachesNoHandler(t *testing.T) {
	url := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("a handler saw %s %q", r.Method, r.RequestURI)
	}))
	for _, c := range []struct {
		name, raw string
		status    int
	}{
		{"no Host", "GET / HTTP/1.1\r\n\r\n", 400},
		{"two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400},
		{"malformed Host", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400},
		{"bad escape in the path", "GET /entries/%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"cut escape in the path", "GET /entries/%2 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"no request line", "hello\r\n\r\n", 400},
		{"space in the path", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"forbidden byte in a header name", "GET / HTTP/1.1\r\nHost: a\r\nA(b): c\r\n\r\n", 400},
		{"forbidden byte in a header value", "GET / HTTP/1.1\r\nHost: a\r\nA: \x01\r\n\r\n", 400},
		{"header without colon", "GET / HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n", 400},
		{"Content-Length no number", "POST /entries HTTP/1.1\r\nHost: a\r\nContent-Length: many\r\n\r\n", 400},
		{"two Content-Lengths", "POST /entries HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy", 400},
		{"unmet expectation", "POST /entries HTTP/1.1\r\nHost: a\r\nExpect: miracles\r\nContent-Length: 0\r\n\r\n", 417},
		{"headers of 1 MiB", "GET / HTTP/1.1\r\nHost: a\r\nA: " + strings.Repeat("a", 1<<20) + "\r\n\r\n", 431},
		{"request line of 1 MiB", "GET /" + strings.Repeat("a", 1<<20) + " HTTP/1.1\r\nHost: a\r\n\r\n", 431},
		{"unknown Transfer-Encoding", "POST /entries HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501},
		{"HTTP/3 in the request line", "GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := speak(t, url, c.raw)
			if a.status != c.status {
				t.Errorf("status %d, want %d: %s", a.status, c.status, a.body)
			}
			if kind := a.header.Get("Content-Type"); kind != "" && !strings.HasPrefix(kind, "text/plain") {
				t.Errorf("Content-Type %q: the list of what has no problem document is out of date", kind)
			}
		})
	}
}

func TestOddButLegalRequestsGetProblems(t *testing.T) {
	s := open(t, accepting())
	for _, c := range []struct {
		name, raw string
		status    int
		code      string
	}{
		{"OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 404, "not-found"},
		{"CONNECT", "CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example\r\n\r\n", 404, "not-found"},
		{"HTTP/1.0 without Host", "GET /nothing HTTP/1.0\r\n\r\n", 404, "not-found"},
		{"absolute form", "GET http://a/nothing HTTP/1.1\r\nHost: a\r\n\r\n", 404, "not-found"},
		{"method nobody knows", "BREW /entries HTTP/1.1\r\nHost: a\r\n\r\n", 405, "method-not-allowed"},
		{"broken chunk", "POST /entries HTTP/1.1\r\nHost: a\r\nContent-Type: application/cose\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "malformed-request"},
		{"headers just below the limit", "GET /nothing HTTP/1.1\r\nHost: a\r\nA: " + strings.Repeat("a", 16<<10-200) + "\r\n\r\n", 404, "not-found"},
	} {
		t.Run(c.name, func(t *testing.T) { speak(t, s.url, c.raw).refused(t, c.status, c.code) })
	}
}

func TestAnswerThatHadBegunIsCutWhenItsHandlerPanics(t *testing.T) {
	// Whoever hands out receipts must not hand out half of one as whole.
	s := serve(t, api.Config{Ledger: &fixedLedger{receipt: []byte("receipt")}, Registrar: accepting()})
	url := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.api.ServeHTTP(&breaking{ResponseWriter: w}, r)
		t.Error("the handler was not aborted")
	}))
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /entries/%s HTTP/1.1\r\nHost: a\r\n\r\n", strings.Repeat("0", 64))
	got, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(got, []byte("internal")) {
		t.Errorf("a problem was appended to an answer: %q", got)
	}
	if resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(got)), nil); err == nil {
		if _, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("half an answer looks whole: %q", got)
		}
	}
}

// breaking panics where the body would first be written.
type breaking struct {
	http.ResponseWriter
	broke bool
}

func (w *breaking) Write(b []byte) (int, error) {
	if w.broke {
		return w.ResponseWriter.Write(b)
	}
	w.broke = true
	panic("torn")
}
