package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/internal/testenv"
)

// inProcess runs scittd in this process until stop, which returns its exit code
// and what it printed; goroutines that it leaves fail the test run.
func (s *site) inProcess(args ...string) (stop func() (int, string)) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	code, errs := make(chan int, 1), &bytes.Buffer{}
	go func() { code <- run(ctx, args, process{func(string) string { return "" }, io.Discard, errs}) }()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if resp, err := s.http.Get(s.url + "/healthz"); err == nil {
			resp.Body.Close()
			break
		}
		select {
		case c := <-code:
			s.t.Fatalf("scittd %v: exit %d\n%s", args, c, errs)
		default:
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("scittd %v does not answer\n%s", args, errs)
		}
	}
	return func() (int, string) {
		cancel()
		return <-code, errs.String()
	}
}

func TestServeLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	for _, d := range []deployment{
		sqliteEmbedded, postgresReferrers,
		{"PostgreSQL and the embedded registry", func(t *testing.T) (string, []string) {
			return "", []string{"--database-url", testenv.Database(t)}
		}},
		{"no registry", func(*testing.T) (string, []string) { return "", []string{"--registry-off"} }},
	} {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, d)
			s.keyPair("tester")
			s.init(crashPolicy)
			ops := freeAddress(t)
			for range 2 { // the second finds no lock of the first
				stop := s.inProcess("serve", "--dir", s.path("service"), "--ops-listen", ops)
				for _, path := range []string{"/healthz", "/readyz", "/readyz/write", "/debug/pprof/goroutine"} {
					resp, err := s.http.Get("http://" + ops + path)
					if err != nil {
						t.Fatal(err)
					}
					resp.Body.Close()
					if resp.StatusCode != http.StatusOK {
						t.Errorf("%s of the operations listener: %d", path, resp.StatusCode)
					}
				}
				if a := s.ask(http.MethodGet, "/debug/pprof/", "", nil); a.status != http.StatusNotFound {
					t.Errorf("profiles on the public listener: %d, want 404", a.status)
				}
				if code, errs := stop(); code != 0 || strings.Contains(errs, "Error") {
					t.Errorf("exit %d\n%s", code, errs)
				}
			}
			s.refused(1, []string{"address already in use"}, "scittd", "serve", "--dir", "service", "--ops-listen", s.listen)
		})
	}
}

func TestFolderOfAnEmbeddedRegistryIsServedOnce(t *testing.T) {
	t.Parallel()
	dsn := testenv.Database(t) // which several replicas may share
	s := onDatabase(t, dsn)
	s.init(crashPolicy)
	running := s.serve()
	s.refused(1, []string{"registry", "another process holds it"}, "scittd", "serve", "--dir", "service", "--listen", "127.0.0.1:0")
	running.kill()
	s.serve().stop()
}

func TestStopDoesNotWaitForAStuckRequest(t *testing.T) {
	t.Parallel()
	l, running := newLoad(newSite(t, sqliteEmbedded))
	conn, err := net.Dial("tcp", l.listen)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /entries HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/cose\r\nContent-Length: 100\r\n\r\nnever more", l.listen, l.token)
	answered := l.sign(1)
	l.post(answered, func(int) {})
	running.stop() // within shutdownTime, with exit code 0
	if !strings.Contains(l.tail(), "requests cut off") {
		t.Errorf("the log does not say that a request was cut off:\n%s", l.tail())
	}
	l.serve().stop()
	if placed := l.audit(answered); len(placed) > 2 {
		t.Errorf("placed %v", placed)
	}
}

func TestLimitsOfTheConfigurationHold(t *testing.T) {
	t.Parallel()
	l, running := newLoad(newSite(t, sqliteEmbedded))
	running.stop()
	running = l.serve("--limits-statement", "1000", "--limits-evidence", "100", "--limits-staging-quota", "150",
		"--limits-caller-rate", "0.01", "--limits-caller-burst", "8", "--limits-address-rate", "0.01", "--limits-address-burst", "5")
	defer running.stop()

	var facts apitype.Service
	l.getJSON("/v1/service", "", &facts)
	if facts.Limits.Statement != 1000 || facts.Limits.Evidence != 100 {
		t.Errorf("announced limits %+v", facts.Limits)
	}
	stage := func(size int) answer {
		content := bytes.Repeat([]byte{byte(size)}, size)
		return l.ask(http.MethodPut, fmt.Sprintf("/v1/evidence/sha256:%x", sha256.Sum256(content)), l.token, content)
	}
	for _, c := range []struct {
		what string
		got  answer
		want int
		says string
	}{
		{"a statement over its limit", l.ask(http.MethodPost, "/entries", l.token, make([]byte, 1001)), http.StatusRequestEntityTooLarge, "1000"},
		{"evidence over its limit", stage(101), http.StatusRequestEntityTooLarge, "100"},
		{"evidence within", stage(100), http.StatusCreated, ""},
		{"evidence over the quota", stage(90), http.StatusTooManyRequests, "quota"},
	} {
		if c.got.status != c.want || !strings.Contains(string(c.got.body), c.says) {
			t.Errorf("%s: %d, want %d and %q\n%s", c.what, c.got.status, c.want, c.says, c.got.body)
		}
	}
	last := func(token string, requests int) (a answer) {
		for range requests {
			a = l.ask(http.MethodGet, "/v1/entries", token, nil)
		}
		return a
	}
	if a := last(l.token, 8); a.status != http.StatusTooManyRequests || a.header.Get("Retry-After") == "" {
		t.Errorf("a caller beyond its burst: %d, Retry-After %q", a.status, a.header.Get("Retry-After"))
	}
	if a := last("", 8); a.status != http.StatusTooManyRequests || a.header.Get("Retry-After") == "" {
		t.Errorf("an address beyond its burst: %d, Retry-After %q", a.status, a.header.Get("Retry-After"))
	}
}

func TestCertificateServesTLS(t *testing.T) {
	t.Parallel()
	s := newSite(t, sqliteEmbedded)
	s.url = "https://" + s.listen
	s.keyPair("tester")
	s.init(crashPolicy)

	borrowed := httptest.NewTLSServer(nil) // for its certificate, which names 127.0.0.1
	defer borrowed.Close()
	key, err := x509.MarshalPKCS8PrivateKey(borrowed.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	s.write("tls.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: borrowed.Certificate().Raw})))
	s.write("tls.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
	roots := x509.NewCertPool()
	roots.AddCert(borrowed.Certificate())
	transport := s.http.Transport.(*http.Transport)
	transport.TLSClientConfig = &tls.Config{RootCAs: roots}

	flags := []string{"--tls-cert", s.path("tls.pem"), "--tls-key", s.path("tls.key")}
	running := s.serve(flags...)
	var facts apitype.Service
	s.getJSON("/v1/service", "", &facts)
	if facts.URL != s.url {
		t.Errorf("the service is %s, want %s", facts.URL, s.url)
	}
	if out := s.run("scittd", append([]string{"check", "--dir", "service"}, flags...)...); !strings.Contains(out, ", TLS") {
		t.Errorf("check does not show TLS:\n%s", out)
	}
	running.stop()
	s.run("chmod", "640", "tls.key")
	s.refused(2, []string{"tls.key is readable by others", "chmod 600"}, "scittd", append([]string{"serve", "--dir", "service"}, flags...)...)
}
