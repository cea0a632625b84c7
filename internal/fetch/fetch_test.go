package fetch_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/scittd/scittd/internal/fetch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// names is a resolver that knows a few names, and answers the calls for one in turn.
type names struct {
	mu    sync.Mutex
	known map[string][]string // name -> answers, each a list of addresses
	asked []string
}

func (n *names) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked = append(n.asked, host)
	host = strings.TrimSuffix(host, ".")
	answers := n.known[host]
	if len(answers) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	if len(answers) > 1 {
		n.known[host] = answers[1:]
	}
	var found []netip.Addr
	for a := range strings.FieldsSeq(answers[0]) {
		found = append(found, netip.MustParseAddr(a))
	}
	return found, nil
}

// clock is a time that tests set.
type clock struct{ now atomic.Int64 }

func (c *clock) time() time.Time         { return time.Unix(0, c.now.Load()) }
func (c *clock) advance(d time.Duration) { c.now.Add(int64(d)) }

// world is a server for keys.example.com, with a Fetcher that may ask it.
type world struct {
	fetcher *fetch.Fetcher
	server  *httptest.Server
	clock   *clock
	names   *names
	url     string // without a path
	hits    atomic.Int64
}

func open(t *testing.T, serve http.HandlerFunc, change func(*fetch.Options)) *world {
	t.Helper()
	w := &world{clock: &clock{}, names: &names{known: map[string][]string{"keys.example.com": {"127.0.0.1"}}}}
	w.clock.advance(1000 * time.Hour)
	w.server = httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.hits.Add(1)
		serve(rw, r)
	}))
	w.server.Config.ErrorLog = log.New(io.Discard, "", 0) // clients that leave are what is tested
	w.server.StartTLS()
	t.Cleanup(w.server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(w.server.Certificate())
	_, port, err := net.SplitHostPort(w.server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	host := "keys.example.com:" + port
	w.url = "https://" + host
	o := fetch.Options{Private: []string{host}, Roots: roots, Resolver: w.names, Clock: w.clock.time, UserAgent: "test/1"}
	if change != nil {
		change(&o)
	}
	if w.fetcher, err = fetch.New(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.fetcher.Close)
	return w
}

func answering(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, body)
	}
}

func (w *world) get(t *testing.T, path string) (fetch.Page, error) {
	t.Helper()
	return w.fetcher.Get(t.Context(), w.url+path, "application/json")
}

func TestADocumentIsFetchedOverTLSWithNothingThatIdentifiesTheCaller(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1") // must not be asked
	var seen *http.Request
	w := open(t, func(w http.ResponseWriter, r *http.Request) {
		seen = r.Clone(context.Background())
		http.SetCookie(w, &http.Cookie{Name: "who", Value: "you"})
		answering(`{"keys":[]}`)(w, r)
	}, nil)
	for range 2 {
		page, err := w.get(t, "/jwks.json?tenant=7")
		if err != nil || string(page.Body) != `{"keys":[]}` {
			t.Fatalf("%q, %v", page.Body, err)
		}
		w.clock.advance(time.Hour)
	}
	if seen.URL.String() != "/jwks.json?tenant=7" || seen.Method != "GET" {
		t.Errorf("asked %s %s", seen.Method, seen.URL)
	}
	for name, want := range map[string]string{
		"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "test/1",
		"Cookie": "", "Authorization": "", "Referer": "",
	} {
		if got := seen.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestAnswersThatAreOfNoUseAreRefusedAndSayWhatWasFound(t *testing.T) {
	var redirected atomic.Bool
	head := func(name, value string, code int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set(name, value)
			w.WriteHeader(code)
			fmt.Fprint(w, body)
		}
	}
	for _, c := range []struct {
		name  string
		serve http.HandlerFunc
		kind  error
		found string
	}{
		{"a redirect elsewhere", head("Location", "https://169.254.169.254/latest", 302, ""), fetch.ErrAnswer, "redirects are not followed"},
		{"a redirect to itself", func(w http.ResponseWriter, r *http.Request) {
			redirected.Store(r.URL.Path == "/elsewhere")
			http.Redirect(w, r, "/elsewhere", http.StatusMovedPermanently)
		}, fetch.ErrAnswer, "redirects are not followed"},
		{"a permanent redirect", head("Location", "https://keys.example.com/x", 308, ""), fetch.ErrAnswer, "redirects, and"},
		{"nothing there", head("X", "", 404, "{}"), fetch.ErrAnswer, "answers 404 Not Found"},
		{"gone", head("X", "", 410, "{}"), fetch.ErrAnswer, "410"},
		{"not for everybody", head("X", "", 401, "{}"), fetch.ErrAnswer, "401"},
		{"no content", head("X", "", 204, ""), fetch.ErrAnswer, "204"},
		{"part of it", head("X", "", 206, "{}"), fetch.ErrAnswer, "206"},
		{"a page for people", head("Content-Type", "text/html; charset=utf-8", 200, "<html>"), fetch.ErrAnswer, `the content type "text/html; charset=utf-8", not one of application/json`},
		{"no type", head("Content-Type", "", 200, "{}"), fetch.ErrAnswer, `the content type ""`},
		{"a broken type", head("Content-Type", "application/json; =", 200, "{}"), fetch.ErrAnswer, "content type"},
		{"compressed", head("Content-Encoding", "gzip", 200, "{}"), fetch.ErrAnswer, "the content encoding gzip"},
		{"compressed twice", head("Content-Encoding", "identity, br", 200, "{}"), fetch.ErrAnswer, "content encoding"},
		{"too long, as it says", head("Content-Length", "262145", 200, strings.Repeat(" ", 262145)), fetch.ErrAnswer, "has 262145 bytes, the limit is 262144"},
		{"too long, without saying so", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			for range 5 {
				fmt.Fprint(w, strings.Repeat(" ", 64<<10))
				w.(http.Flusher).Flush()
			}
		}, fetch.ErrAnswer, "more than 262144 bytes"},
		{"empty", head("X", "", 200, ""), fetch.ErrAnswer, "is empty"},
		{"overloaded", head("Retry-After", "3600", 503, ""), fetch.ErrUnavailable, "answers 503"},
		{"too often asked", head("X", "", 429, ""), fetch.ErrUnavailable, "answers 429"},
		{"broken server", head("X", "", 500, ""), fetch.ErrUnavailable, "answers 500"},
		{"header without end", func(w http.ResponseWriter, r *http.Request) {
			head("X", strings.Repeat("x", 64<<10), 200, "{}")(w, r)
		}, fetch.ErrUnavailable, "does not give a whole answer"},
		{"cut off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "{}")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, fetch.ErrUnavailable, "does not give a whole answer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := open(t, c.serve, nil)
			page, err := w.get(t, "/did.json")
			if !errors.Is(err, c.kind) || page.Body != nil {
				t.Fatalf("%q, %v; want %v", page.Body, err, c.kind)
			}
			if text := err.Error(); !strings.Contains(text, c.found) || !strings.Contains(text, w.url+"/did.json") {
				t.Errorf("%s; want the URL and %q", text, c.found)
			}
			if n := w.hits.Load(); n != 1 {
				t.Errorf("%d requests, want 1", n)
			}
		})
	}
	if redirected.Load() {
		t.Error("a redirect was followed")
	}
}

func TestAnswersOfTheExpectedSizeAndTypeAreTaken(t *testing.T) {
	for _, c := range []struct{ contentType, body string }{
		{"application/json", strings.Repeat(" ", 256<<10)},
		{"Application/JSON; charset=utf-8", "{}"},
		{"application/did+json", "{}"},
	} {
		w := open(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", c.contentType)
			w.Header().Set("Content-Encoding", "identity")
			fmt.Fprint(w, c.body)
		}, nil)
		page, err := w.fetcher.Get(t.Context(), w.url+"/x", "application/did+json", "application/json")
		if err != nil || string(page.Body) != c.body {
			t.Errorf("%s: %d bytes, %v", c.contentType, len(page.Body), err)
		}
	}
}

func TestAServerThatHangsCostsTheTimeoutAndNoMore(t *testing.T) {
	for name, serve := range map[string]http.HandlerFunc{
		"before the header": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"in the body": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, "{")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := open(t, serve, func(o *fetch.Options) { o.Timeout = 300 * time.Millisecond })
			if _, err := w.get(t, "/x"); !errors.Is(err, fetch.ErrUnavailable) || !strings.Contains(err.Error(), "within 300ms") {
				t.Errorf("%v, want ErrUnavailable", err)
			}
		})
	}
}

func TestAHostThatTakesConnectionsAndSaysNothingKeepsNone(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	w := open(t, answering("{}"), func(o *fetch.Options) {
		o.Timeout = 300 * time.Millisecond
		o.Private = []string{"keys.example.com:" + port}
	})
	gone := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			defer conn.Close()
			conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			_, err = io.Copy(io.Discard, conn) // until it is closed there, which is no error
		}
		gone <- err
	}()
	if _, err := w.fetcher.Get(t.Context(), "https://keys.example.com:"+port+"/x", "application/json"); !errors.Is(err, fetch.ErrUnavailable) {
		t.Errorf("%v, want ErrUnavailable", err)
	}
	if err := <-gone; err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection outlives its request: %v", err)
	}
}

// What stands behind our own walls is the operator's to know, not a client's.
func TestErrorsSayNothingOfWhatOnlyThisServiceCanSee(t *testing.T) {
	for name, c := range map[string]struct {
		address string
		serve   http.HandlerFunc
		change  func(*fetch.Options)
		secret  string
	}{
		"an address":  {"10.1.2.3", answering("{}"), func(o *fetch.Options) { o.Hosts, o.Private = o.Private, nil }, "10.1.2.3"},
		"a redirect":  {"127.0.0.1", http.RedirectHandler("https://sso.corp.internal/?t=1", http.StatusFound).ServeHTTP, nil, "sso.corp.internal"},
		"nobody home": {"127.0.0.9", answering("{}"), nil, "127.0.0.9"},
		"a certificate": {"127.0.0.1", answering("{}"), func(o *fetch.Options) {
			o.Private = []string{strings.Replace(o.Private[0], "keys.example.com", "keys.example.org", 1)}
		}, "*.example.com"},
	} {
		t.Run(name, func(t *testing.T) {
			w := open(t, c.serve, c.change)
			url := w.url
			if name == "a certificate" {
				url = strings.Replace(url, ".com", ".org", 1)
			}
			w.names.known = map[string][]string{"keys.example.com": {c.address}, "keys.example.org": {c.address}}
			_, err := w.fetcher.Get(t.Context(), url+"/x", "application/json")
			if err == nil || strings.Contains(err.Error(), c.secret) {
				t.Errorf("%v; want an error without %s", err, c.secret)
			}
			var log strings.Builder
			slog.New(slog.NewTextHandler(&log, nil)).Info("x", "err", err)
			if !strings.Contains(log.String(), c.secret) {
				t.Errorf("the operator is told %s; want %s, too", log.String(), c.secret)
			}
		})
	}
}

func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	begun := make(chan struct{})
	w := open(t, func(_ http.ResponseWriter, r *http.Request) {
		close(begun)
		<-r.Context().Done()
	}, func(o *fetch.Options) { o.Timeout = time.Hour })
	done := make(chan error)
	go func() {
		_, err := w.fetcher.Get(context.Background(), w.url+"/x", "application/json")
		done <- err
	}()
	<-begun
	w.fetcher.Close()
	if err := <-done; !errors.Is(err, fetch.ErrUnavailable) {
		t.Errorf("%v, want ErrUnavailable", err)
	}
}

func TestWhoCannotProveToBeTheHostHasNotAnsweredForIt(t *testing.T) {
	for name, change := range map[string]func(*fetch.Options){
		"signed by somebody else": func(o *fetch.Options) { o.Roots = x509.NewCertPool() },
		"for another name": func(o *fetch.Options) {
			o.Private = []string{strings.Replace(o.Private[0], "keys.example.com", "keys.example.org", 1)}
		},
	} {
		w := open(t, answering("{}"), change)
		w.names.known["keys.example.org"] = []string{"127.0.0.1"}
		url := w.url
		if name == "for another name" {
			url = strings.Replace(url, ".com", ".org", 1)
		}
		_, err := w.fetcher.Get(t.Context(), url+"/x", "application/json")
		if !errors.Is(err, fetch.ErrUnavailable) || !strings.Contains(err.Error(), "TLS certificate") {
			t.Errorf("%s: %v, want ErrUnavailable", name, err)
		}
		if w.hits.Load() != 0 {
			t.Errorf("%s: it was asked", name)
		}
	}
}
