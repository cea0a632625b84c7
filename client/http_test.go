package client_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/client"
	"github.com/scittd/scittd/statement"
)

const servicePath = "/v1/service"

func getService(answer func(http.ResponseWriter)) exchange {
	return exchange{method: "GET", path: servicePath, answer: answer}
}

var described = body(200, "application/json", `{"url":"https://scitt.example"}`)

func TestAServiceThatAsksForPatienceIsAskedAgain(t *testing.T) {
	for _, c := range []struct {
		name       string
		status     int
		retryAfter string
		least, max time.Duration
	}{
		{"429 with seconds", 429, "7", 7 * time.Second, 7 * time.Second},
		{"503 with seconds beyond the cap", 503, "86400", 5 * time.Minute, 5 * time.Minute},
		{"503 with a date beyond the cap", 503, "Fri, 31 Dec 2100 23:59:59 GMT", 5 * time.Minute, 5 * time.Minute},
		{"503 with a date in a minute", 503, time.Now().Add(time.Minute).UTC().Format(http.TimeFormat), 50 * time.Second, time.Minute},
		{"503 with a date in the past backs off", 503, "Fri, 31 Dec 1999 23:59:59 GMT", 100 * time.Millisecond, 400 * time.Millisecond},
		{"502 without a word backs off", 502, "", 100 * time.Millisecond, 400 * time.Millisecond},
		{"504 with nonsense backs off", 504, "soon", 100 * time.Millisecond, 400 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDouble(t, getService(status(c.status, "Retry-After", c.retryAfter)), getService(described))
			facts, err := d.Service(t.Context())
			if err != nil || facts.URL != "https://scitt.example" {
				t.Fatalf("Service: %+v, %v", facts, err)
			}
			if len(d.waits) != 1 || d.waits[0] < c.least || d.waits[0] > c.max {
				t.Errorf("waited %v, want once from %s to %s", d.waits, c.least, c.max)
			}
		})
	}
}

func TestPatienceEndsAfterSixTriesWithTheServicesReason(t *testing.T) {
	busy := getService(body(503, "application/problem+json", `{"title":"Overloaded","status":200,"code":"overloaded"}`))
	d := newDouble(t, busy, busy, busy, busy, busy, busy)
	_, err := d.Service(t.Context())
	p := (*client.Problem)(nil)
	if !errors.As(err, &p) || p.Status != 503 || p.Code != "overloaded" || p.Host != d.url {
		t.Fatalf("err %v (%+v), want the problem of status 503", err, p)
	}
	if len(d.waits) != 5 || !slices.IsSorted([]time.Duration{d.waits[0], d.waits[2], d.waits[4]}) {
		t.Errorf("waits %v, want five that grow", d.waits)
	}
}

func TestADamagedLogIsNotWaitedFor(t *testing.T) {
	d := newDouble(t, getService(body(503, "application/problem+json", `{"title":"Log Damaged","code":"log-damaged"}`)))
	_, err := d.Service(t.Context())
	p := (*client.Problem)(nil)
	if !errors.As(err, &p) || p.Code != "log-damaged" || len(d.waits) != 0 {
		t.Errorf("err %v, waits %v; want the problem at once", err, d.waits)
	}
}

func TestAWaitBeyondTheDeadlineIsNotBegun(t *testing.T) {
	d := newDouble(t, getService(status(503, "Retry-After", "120")))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := d.Service(ctx)
	p := (*client.Problem)(nil)
	if !errors.As(err, &p) || p.RetryAfter != 2*time.Minute || len(d.waits) != 0 {
		t.Errorf("err %v, waits %v; want the problem at once, with its Retry-After", err, d.waits)
	}
}

func TestWhatIsRefusedForGoodIsAskedOnce(t *testing.T) {
	for _, code := range []int{301, 307, 308, 400, 401, 403, 404, 409, 413, 500, 501} {
		d := newDouble(t, getService(status(code)))
		_, err := d.Service(t.Context())
		p := (*client.Problem)(nil)
		if !errors.As(err, &p) || p.Status != code || len(d.waits) != 0 {
			t.Errorf("status %d: err %v, waits %v", code, err, d.waits)
		}
	}
}

func TestNoRedirectIsFollowedAndNoTokenLeaves(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("%s %s came to another host, Authorization %q", r.Method, r.URL, r.Header.Get("Authorization"))
	}))
	defer elsewhere.Close()
	for _, code := range []int{301, 302, 303, 307, 308} {
		d := newDouble(t, getService(status(code, "Location", elsewhere.URL+servicePath)))
		if _, err := d.Service(t.Context()); err == nil || !strings.Contains(err.Error(), http.StatusText(code)) {
			t.Errorf("status %d: err %v, want the status", code, err)
		}
	}
}

func TestAHostThatCannotBeReachedIsGivenUpAfterThreeTries(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	c, err := client.New("http://"+l.Addr().String(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	waits := 0
	c.Sleeping(func(context.Context, time.Duration) error { waits++; return nil })
	if _, err := c.Service(t.Context()); err == nil || waits != 2 || !strings.Contains(err.Error(), servicePath) {
		t.Errorf("err %v after %d waits, want an error that names the request after 2", err, waits)
	}
}

func TestACertificateThatIsNotTrustedIsNotTriedAgain(t *testing.T) {
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	c, err := client.New(server.URL, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c.Sleeping(func(context.Context, time.Duration) error { t.Error("waited"); return nil })
	if _, err := c.Service(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("err %v, want one about the certificate", err)
	}
}

func TestAnAnswerWithoutEndIsCutOff(t *testing.T) {
	d := newDouble(t, getService(func(w http.ResponseWriter) {
		junk := bytes.Repeat([]byte("x"), 1<<20)
		for range 9 {
			w.Write(junk)
		}
	}))
	if _, err := d.Service(t.Context()); err == nil || !strings.Contains(err.Error(), "exceeds 8388608 bytes") {
		t.Errorf("err %v, want that the answer is too long", err)
	}
}

func TestTheTraceTellsRequestsAndNoSecret(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	var lines []string
	c, err := client.New(server.URL, client.Options{Token: token, Trace: func(l string) { lines = append(lines, l) }})
	if err != nil {
		t.Fatal(err)
	}
	c.Service(t.Context())
	if len(lines) != 1 || !strings.HasPrefix(lines[0], "GET "+server.URL+servicePath+": 404") || strings.Contains(lines[0], token) {
		t.Errorf("trace %q", lines)
	}
}

func TestWhatIsNoServiceURLIsRefused(t *testing.T) {
	for _, url := range []string{"", "scitt.example", "ftp://scitt.example", "https://", "https://user:pw@scitt.example", "https://scitt.example?x=1", "https://scitt.example#x", ":"} {
		if _, err := client.New(url, client.Options{}); err == nil {
			t.Errorf("New(%q) succeeded", url)
		}
	}
}

func TestEvidenceIsOpenedAnewForEveryTry(t *testing.T) {
	content := "the evidence"
	digest := statement.SHA256([]byte(content))
	put := func(answer func(http.ResponseWriter)) exchange {
		return exchange{method: "PUT", path: "/v1/evidence/" + string(digest), answer: answer, check: func(t *testing.T, r *http.Request, body []byte) {
			if string(body) != content || r.ContentLength != int64(len(content)) {
				t.Errorf("body %q of length %d", body, r.ContentLength)
			}
		}}
	}
	d := newDouble(t, put(status(503)), put(status(201)))
	opened := 0
	err := d.StageEvidence(t.Context(), digest, int64(len(content)), func() (io.ReadCloser, error) {
		opened++
		return io.NopCloser(strings.NewReader(content)), nil
	})
	if err != nil || opened != 2 {
		t.Errorf("err %v, opened %d times, want 2", err, opened)
	}
}

func TestEvidenceThatCannotBeOpenedIsNotTriedAgain(t *testing.T) {
	d := newDouble(t)
	gone := errors.New("gone")
	err := d.StageEvidence(t.Context(), statement.SHA256(nil), 1, func() (io.ReadCloser, error) { return nil, gone })
	if !errors.Is(err, gone) || len(d.waits) != 0 {
		t.Errorf("err %v, waits %v", err, d.waits)
	}
}
