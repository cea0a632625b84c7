package api_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/scittd/scittd/api"
	"github.com/scittd/scittd/ledger"
)

var somePath = "/entries/" + strings.Repeat("0", 64)

func TestAnonymousCallersAreLimitedByAddress(t *testing.T) {
	w, store := newWatch(), &tokenStore{}
	reader := store.add(w, "r", "read")
	s := serve(t, api.Config{
		Ledger: &fixedLedger{receipt: []byte("r")}, Registrar: accepting(), Tokens: store, Clock: w.now,
		Limits: api.Limits{AddressRate: 20, AddressBurst: 100, CallerRate: 50, CallerBurst: 200},
	})
	statuses := func(n int, header ...string) (answered, limited int) {
		for range n {
			switch a := s.get(somePath, header...); a.status {
			case 200:
				answered++
			case 429:
				limited++
				if p := a.refused(t, 429, "rate-limited"); p.Title != "Too Many Requests" || a.header.Get("Retry-After") != "1" {
					t.Errorf("%q, Retry-After %q", p.Title, a.header.Get("Retry-After"))
				}
			}
		}
		return answered, limited
	}
	// The reader's first request is counted against its address too: its token
	// is not known yet.
	if got, _ := statuses(1, bearer(reader)); got != 1 {
		t.Fatal("reader not admitted")
	}
	if got, limited := statuses(101); got != 99 || limited != 2 {
		t.Errorf("anonymous burst: %d answered, %d limited, want 99 and 2", got, limited)
	}
	if got, limited := statuses(201, bearer(reader)); got != 199 || limited != 2 {
		t.Errorf("reader from the same address: %d answered, %d limited, want 199 and 2", got, limited)
	}
	if a := s.get(somePath, bearer("guess")); a.status != 429 {
		t.Errorf("guessing a token from an address over its rate: %d", a.status)
	}
	if a := s.get("/healthz"); a.status != 200 {
		t.Errorf("health check from an address over its rate: %d", a.status)
	}
	w.pass(100 * time.Millisecond) // two more at 20/s, five at 50/s
	if got, _ := statuses(5); got != 2 {
		t.Errorf("100 ms later %d anonymous requests were answered, want 2", got)
	}
	if got, _ := statuses(9, bearer(reader)); got != 5 {
		t.Errorf("100 ms later %d of the reader's were answered, want 5", got)
	}
}

func TestAddressComesFromConfiguredProxiesAlone(t *testing.T) {
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")}
	for _, c := range []struct {
		name    string
		proxies []netip.Prefix
		a, b    []string // header of two requests
		same    bool     // they count as one client
	}{
		{"no proxy: the header is hearsay", nil, []string{"X-Forwarded-For: 1.1.1.1"}, []string{"X-Forwarded-For: 2.2.2.2"}, true},
		{"two clients behind a proxy", loopback, []string{"X-Forwarded-For: 1.1.1.1"}, []string{"X-Forwarded-For: 2.2.2.2"}, false},
		{"what a client wrote itself", loopback, []string{"X-Forwarded-For: 8.8.8.8, 1.1.1.1"}, []string{"X-Forwarded-For: 9.9.9.9, 1.1.1.1"}, true},
		{"two proxies in a row", loopback, []string{"X-Forwarded-For: 1.1.1.1, 10.0.0.1"}, []string{"X-Forwarded-For: 2.2.2.2, 10.0.0.1"}, false},
		{"two lines are one list", loopback, []string{"X-Forwarded-For: 1.1.1.1", "X-Forwarded-For: 10.0.0.1"}, []string{"X-Forwarded-For: 2.2.2.2", "X-Forwarded-For: 10.0.0.1"}, false},
		{"garbage counts as the proxy", loopback, []string{"X-Forwarded-For: rubbish"}, []string{"X-Forwarded-For: other rubbish"}, true},
		{"one IPv6 network", loopback, []string{"X-Forwarded-For: 2001:db8::1"}, []string{"X-Forwarded-For: 2001:db8::2"}, true},
		{"two IPv6 networks", loopback, []string{"X-Forwarded-For: 2001:db8:0:1::1"}, []string{"X-Forwarded-For: 2001:db8:0:2::1"}, false},
		{"IPv4 written as IPv6", loopback, []string{"X-Forwarded-For: ::ffff:1.1.1.1"}, []string{"X-Forwarded-For: 1.1.1.1"}, true},
		{"other headers say nothing", loopback, []string{"X-Real-IP: 1.1.1.1", "Forwarded: for=1.1.1.1"}, []string{"X-Real-IP: 2.2.2.2", "True-Client-IP: 3.3.3.3"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t, api.Config{
				Ledger: &fixedLedger{receipt: []byte("r")}, Registrar: accepting(), Clock: newWatch().now,
				TrustedProxies: c.proxies, Limits: api.Limits{AddressRate: 1, AddressBurst: 1},
			})
			if a := s.get(somePath, c.a...); a.status != 200 {
				t.Fatalf("first request: %d", a.status)
			}
			if a := s.get(somePath, c.b...); (a.status == 429) != c.same {
				t.Errorf("second request: %d", a.status)
			}
		})
	}
}

// Past capacity most answers say so: whoever asks for what, the log of it is one
// line a second.
func TestTurningAwayIsOneLineASecond(t *testing.T) {
	var log lines
	clock := newWatch()
	inside, leave := make(chan struct{}), make(chan struct{})
	s := serve(t, api.Config{
		Ledger: &fixedLedger{receipt: []byte("r")}, OpenWrites: true, Limits: api.Limits{InFlight: 1}, Log: log.logger(), Clock: clock.now,
		Registrar: registering(func(context.Context, []byte, ledger.Circumstances) (ledger.Registered, error) {
			close(inside)
			<-leave
			return ledger.Registered{}, nil
		}),
	})
	var waiting sync.WaitGroup
	waiting.Go(func() { s.register([]byte("first")) })
	<-inside
	for range 2 {
		for range 50 {
			for _, a := range []answer{s.register([]byte("more")), s.get(somePath), s.get("/v1/entries")} {
				if p := a.refused(t, 503, "overloaded"); p.TraceID != "" || p.Detail == "" || a.header.Get("Retry-After") != "1" {
					t.Fatalf("turned away with %+v, Retry-After %q", p, a.header.Get("Retry-After"))
				}
			}
		}
		clock.pass(time.Second)
	}
	close(leave)
	waiting.Wait()
	if n := strings.Count(log.String(), "msg=overloaded"); n != 2 || !strings.Contains(log.String(), "turnedAwaySinceStart=151") {
		t.Errorf("two seconds of it are %d lines:\n%s", n, log.String())
	}
}

func TestRequestsInFlightAreBounded(t *testing.T) {
	const limit = 3
	inside, leave := make(chan struct{}, limit), make(chan struct{})
	s := serve(t, api.Config{
		Ledger: &fixedLedger{receipt: []byte("r")}, OpenWrites: true, Limits: api.Limits{InFlight: limit},
		Registrar: registering(func(context.Context, []byte, ledger.Circumstances) (ledger.Registered, error) {
			inside <- struct{}{}
			<-leave
			return ledger.Registered{}, nil
		}),
	})
	var waiting sync.WaitGroup
	for i := range limit {
		waiting.Go(func() {
			if a := s.register(fmt.Append(nil, i)); a.status != 201 {
				t.Errorf("request %d: %d", i, a.status)
			}
		})
	}
	for range limit {
		<-inside
	}
	a := s.get(somePath)
	a.refused(t, 503, "overloaded")
	if a.header.Get("Retry-After") == "" {
		t.Error("503 without Retry-After")
	}
	for _, path := range []string{"/healthz", "/readyz", "/readyz/write"} {
		if a := s.get(path); a.status != 200 {
			t.Errorf("%s under load: %d", path, a.status)
		}
	}
	close(leave)
	waiting.Wait()
	if a := s.get(somePath); a.status != 200 {
		t.Errorf("afterwards: %d", a.status)
	}
}

func TestZeroLimitsMeanTheDefaults(t *testing.T) {
	s := serve(t, api.Config{Ledger: &fixedLedger{receipt: []byte("r")}, Registrar: accepting(), Clock: newWatch().now, Limits: api.DefaultLimits()})
	a := api.New(api.Config{Ledger: &fixedLedger{}, Registrar: accepting()})
	if a.Limits != s.api.Limits || a.Limits.Statement != 1<<20 || a.Limits.Evidence != 64<<20 || a.Limits.InFlight != 512 {
		t.Errorf("%+v", a.Limits)
	}
	var limited int
	for range 110 {
		if s.get(somePath).status == 429 {
			limited++
		}
	}
	if limited != 10 {
		t.Errorf("%d of 110 anonymous requests were limited, want 10", limited)
	}
}

func TestBucketsOfManyAddressesStayBounded(t *testing.T) {
	// 10,000 are remembered; the one used longest ago is forgotten, and a client
	// that is forgotten starts with a full bucket.
	a := api.New(api.Config{
		Ledger: &fixedLedger{receipt: []byte("r")}, Registrar: accepting(), Clock: newWatch().now,
		Limits: api.Limits{AddressRate: 1, AddressBurst: 1},
	})
	from := func(i int) int {
		r, rec := httptest.NewRequest("GET", somePath, nil), httptest.NewRecorder()
		r.RemoteAddr = fmt.Sprintf("1.%d.%d.%d:4711", i>>16, i>>8&255, i&255)
		a.ServeHTTP(rec, r)
		return rec.Code
	}
	from(0)
	if got := from(0); got != 429 {
		t.Fatalf("second request of the first address: %d", got)
	}
	for i := 1; i <= 10_000; i++ {
		if got := from(i); got != 200 {
			t.Fatalf("address %d: %d", i, got)
		}
		if i == 5000 {
			from(1)
		}
	}
	if got := from(0); got != 200 {
		t.Errorf("an address that 10,000 others came after: %d", got)
	}
	if got := from(1); got != 429 {
		t.Errorf("an address that was here in between: %d", got)
	}
	if got := from(10_000); got != 429 {
		t.Errorf("an address that was just here: %d", got)
	}
}
