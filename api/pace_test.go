package api_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/api"
	"github.com/scittd/scittd/statement"
)

// timed is a connection that notes the deadlines set on it.
type timed struct {
	*httptest.ResponseRecorder
	reads, writes []time.Duration
}

func (w *timed) SetReadDeadline(at time.Time) error {
	w.reads = append(w.reads, time.Until(at).Round(time.Second))
	return nil
}

func (w *timed) SetWriteDeadline(at time.Time) error {
	w.writes = append(w.writes, time.Until(at).Round(time.Second))
	return nil
}

// stuck is a body that stops where the connection's deadline passes.
type stuck struct{ sent io.Reader }

func (b stuck) Read(p []byte) (int, error) {
	n, err := b.sent.Read(p)
	if err == io.EOF {
		err = fmt.Errorf("read tcp: %w", os.ErrDeadlineExceeded)
	}
	return n, err
}

func TestEveryRouteBoundsItsTimeOnTheWire(t *testing.T) {
	a := api.New(api.Config{Ledger: &fixedLedger{receipt: []byte("r")}, Registrar: accepting(), OpenWrites: true})
	for _, c := range []struct {
		method, path string
		read, write  time.Duration
	}{
		{"POST", "/entries", 30 * time.Second, 60 * time.Second},
		{"GET", somePath, 10 * time.Second, 40 * time.Second},
		{"GET", "/v1/entries", 10 * time.Second, 40 * time.Second},
		{"POST", "/v1/entries:batch", 60 * time.Second, 90 * time.Second},
		{"GET", "/.well-known/scitt-keys/x", 10 * time.Second, 40 * time.Second},
	} {
		w := &timed{ResponseRecorder: httptest.NewRecorder()}
		a.ServeHTTP(w, httptest.NewRequest(c.method, c.path, nil))
		if len(w.reads) != 1 || w.reads[0] != c.read || len(w.writes) != 1 || w.writes[0] != c.write {
			t.Errorf("%s %s: reads within %v, writes within %v, want %v, %v", c.method, c.path, w.reads, w.writes, c.read, c.write)
		}
	}
}

func TestSlowBodyIsRequestTimeout(t *testing.T) {
	w := newWorld(t)
	for _, path := range []string{"/entries", "/v1/evidence/" + string(statement.SHA256([]byte("never whole")))} {
		method := "POST"
		if strings.HasPrefix(path, "/v1/") {
			method = "PUT"
		}
		r := httptest.NewRequest(method, path, stuck{strings.NewReader("the first half")})
		r.Header.Set("Content-Type", "application/cose")
		name, value, _ := strings.Cut(w.publisher, ": ")
		r.Header.Set(name, value)
		rec := httptest.NewRecorder()
		w.api.ServeHTTP(rec, r)
		answer{rec.Code, rec.Header(), rec.Body.Bytes()}.refused(t, 408, "request-timeout")
		if rec.Header().Get("Connection") != "close" {
			t.Errorf("%s: the connection stays open for the rest", path)
		}
	}
}

// A body that is announced and never sent, to a path that does not read it: net/http
// waits for it before it answers.
func TestNobodyHoldsAConnectionWithABodyThatNeverComes(t *testing.T) {
	server := api.NewServer(newWorld(t).api)
	if server.ReadTimeout <= 0 {
		t.Fatal("bodies may take for ever")
	}
	server.ReadTimeout = 200 * time.Millisecond
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Close()
		<-served
	})
	for request, want := range map[string]string{
		"POST /nope HTTP/1.1":       "404",
		"POST /v1/entries HTTP/1.1": "405",
		"GET /healthz HTTP/1.1":     "200",
	} {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(conn, "%s\r\nHost: x\r\nContent-Length: 10\r\n\r\n", request)
		answered, err := io.ReadAll(conn) // to the end: the server hangs up too
		if err != nil || !strings.HasPrefix(string(answered), "HTTP/1.1 "+want) {
			t.Errorf("%s: %q, %v; want %s", request, answered, err, want)
		}
		conn.Close()
	}
}

func TestUploadMayTakeLongAsLongAsItMoves(t *testing.T) {
	w := newWorld(t)
	content := bytes.Repeat([]byte("evidence"), 100_000)
	r := httptest.NewRequest("PUT", "/v1/evidence/"+string(statement.SHA256(content)), bytes.NewReader(content))
	name, value, _ := strings.Cut(w.publisher, ": ")
	r.Header.Set(name, value)
	conn := &timed{ResponseRecorder: httptest.NewRecorder()}
	w.api.ServeHTTP(conn, r)
	if conn.Code != 201 {
		t.Fatalf("%d %s", conn.Code, conn.Body)
	}
	for i, d := range conn.reads {
		if last := i == len(conn.reads)-1; !last && d != time.Minute || last && d != 10*time.Second {
			t.Errorf("deadline %d of %d: %v", i+1, len(conn.reads), d)
		}
	}
	if len(conn.reads) < 3 {
		t.Errorf("the deadline was renewed %d times for %d bytes", len(conn.reads), len(content))
	}
	if len(conn.writes) != 1 || conn.writes[0] != 40*time.Second {
		t.Errorf("writes within %v", conn.writes)
	}
}
