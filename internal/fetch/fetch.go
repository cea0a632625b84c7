// Package fetch gets small public documents over HTTPS: the one door through
// which a statement can make this service open a connection.
//
// What it promises:
//
//   - https alone, without userinfo, to hosts and ports that are configured; when
//     no host is, to any host with public addresses, on port 443.
//   - Every address of a host is checked, and the one that was checked is dialled,
//     so that a name cannot mean one thing to the check and another to the
//     connection. Loopback, private, link-local and other addresses that no public
//     server has are refused, but for hosts that are configured to have them.
//   - No redirect, no proxy, no cookie, no credential, no compression. One answer of
//     the expected type, within a bound of bytes and of time.
//   - One request per URL at a time, whoever waits. What was got is remembered for a
//     while, and so is a failure; both within bounds.
//
// It knows neither policies nor what the documents mean: who calls it decides
// which URLs are asked at all.
package fetch

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Every error of Get and Again is exactly one of these. Its text names the URL
// and what was found there, and is safe to show.
var (
	// ErrForbidden: the URL, or what its host resolves to, is not to be asked.
	ErrForbidden = errors.New("not to be asked")
	// ErrAnswer: the host answered, and the answer is of no use.
	ErrAnswer = errors.New("useless answer")
	// ErrUnavailable: what the URL holds is not known now; another time it may be.
	ErrUnavailable = errors.New("unavailable")
)

// Resolver is what a Fetcher needs of *net.Resolver.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

var _ Resolver = (*net.Resolver)(nil)

// Options of New. The zero value asks any public host on port 443.
type Options struct {
	Hosts     []string       // host[:port] that may be asked; empty: any, on port 443
	Private   []string       // host[:port] that may be asked at addresses that are not public, too
	Roots     *x509.CertPool // of server certificates; nil: the system's
	Timeout   time.Duration  // of one request, from name to last byte; 0: DefaultTimeout
	Size      int64          // of one document, in bytes; 0: DefaultSize
	MaxAge    time.Duration  // how long a document is remembered; 0: DefaultMaxAge
	UserAgent string
	Resolver  Resolver         // nil: the system's
	Clock     func() time.Time // nil: time.Now
}

// Defaults of Options.
const (
	DefaultTimeout = 5 * time.Second
	DefaultSize    = 256 << 10
	DefaultMaxAge  = 5 * time.Minute
)

const (
	maxURL    = 2048     // bytes
	maxHeader = 16 << 10 // of an answer
	maxDials  = 4        // addresses of a host that are tried
)

// Page is a document as it was got.
type Page struct {
	Body []byte
	At   time.Time // when it was asked for
}

// Fetcher gets documents. Safe for concurrent use; Close it.
type Fetcher struct {
	hosts     map[string]bool // host:port; nil: any
	private   map[string]bool
	timeout   time.Duration
	size      int64
	userAgent string
	resolver  Resolver
	clock     func() time.Time
	tls       *tls.Config
	shelf     shelf

	// Requests outlive the callers that wait for them, and end with the Fetcher.
	life     context.Context
	end      context.CancelFunc
	requests sync.WaitGroup
}

// New returns a Fetcher. The error names an entry of Hosts or Private that is no
// host[:port].
func New(o Options) (*Fetcher, error) {
	f := &Fetcher{
		timeout: o.Timeout, size: o.Size, userAgent: o.UserAgent, resolver: o.Resolver, clock: o.Clock,
		shelf: shelf{maxAge: o.MaxAge, seats: map[seat]*place{}},
	}
	if f.timeout == 0 {
		f.timeout = DefaultTimeout
	}
	if f.size == 0 {
		f.size = DefaultSize
	}
	if f.shelf.maxAge == 0 {
		f.shelf.maxAge = DefaultMaxAge
	}
	if f.resolver == nil {
		f.resolver = net.DefaultResolver
	}
	if f.clock == nil {
		f.clock = time.Now
	}
	var err error
	if f.hosts, err = hostSet(o.Hosts); err != nil {
		return nil, err
	}
	if f.private, err = hostSet(o.Private); err != nil {
		return nil, err
	}
	f.tls = &tls.Config{RootCAs: o.Roots, MinVersion: tls.VersionTLS12}
	f.life, f.end = context.WithCancel(context.Background())
	return f, nil
}

// Close ends what is under way, and waits for it.
func (f *Fetcher) Close() {
	f.end()
	f.requests.Wait()
}

// failure is an error of this package: what was found at a URL.
type failure struct {
	kind  error // ErrForbidden, ErrAnswer, ErrUnavailable
	url   string
	found string // no address, no name and no text that a server behind our own walls has
	cause error  // may be nil; its text may hold what is nobody's business
}

func (e *failure) Error() string { return show(e.url) + " " + e.found }
func (e *failure) Unwrap() []error {
	if e.cause == nil {
		return []error{e.kind}
	}
	return []error{e.kind, e.cause}
}

// LogValue tells the operator what clients are not told.
func (e *failure) LogValue() slog.Value {
	if e.cause == nil {
		return slog.StringValue(e.Error())
	}
	return slog.StringValue(e.Error() + ": " + e.cause.Error())
}

// ask makes one request.
func (f *Fetcher) ask(ctx context.Context, s seat) (Page, error) {
	fail := func(kind error, format string, args ...any) (Page, error) {
		return Page{}, &failure{kind: kind, url: s.url, found: fmt.Sprintf(format, args...)}
	}
	page := Page{At: f.clock()}
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return fail(ErrForbidden, "is no URL")
	}
	req.Header.Set("Accept", s.accept)
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", f.userAgent)
	// The transport itself: no client is there to follow redirects or to keep cookies.
	answer, err := f.transport(ctx).RoundTrip(req)
	if err != nil {
		return Page{}, f.broken(s.url, cmp.Or(ctx.Err(), err)) // leaving breaks the connection, too
	}
	defer answer.Body.Close()

	switch code := answer.StatusCode; {
	case code == http.StatusOK:
	case code >= 300 && code < 400:
		return Page{}, &failure{ErrAnswer, s.url, "redirects, and redirects are not followed", fmt.Errorf("to %s", show(answer.Header.Get("Location")))}
	case code >= 500, code == http.StatusRequestTimeout, code == http.StatusTooEarly, code == http.StatusTooManyRequests:
		return fail(ErrUnavailable, "answers %d %s", code, http.StatusText(code))
	default:
		return fail(ErrAnswer, "answers %d %s", code, http.StatusText(code))
	}
	if e := answer.Header.Values("Content-Encoding"); len(e) > 0 && !(len(e) == 1 && strings.EqualFold(e[0], "identity")) {
		return fail(ErrAnswer, "has the content encoding %s, which was not asked for", show(strings.Join(e, ", ")))
	}
	declared := answer.Header.Get("Content-Type")
	if name, _, err := mime.ParseMediaType(declared); err != nil || !slices.Contains(strings.Split(s.accept, ", "), name) {
		return fail(ErrAnswer, "has the content type %s, not one of %s", show(declared), s.accept)
	}
	if answer.ContentLength > f.size {
		return fail(ErrAnswer, "has %d bytes, the limit is %d", answer.ContentLength, f.size)
	}
	page.Body, err = io.ReadAll(io.LimitReader(answer.Body, f.size+1))
	if err == nil {
		err = ctx.Err() // a server may end its answer because we are leaving
	}
	switch {
	case err != nil:
		return Page{}, f.broken(s.url, cmp.Or(ctx.Err(), err))
	case int64(len(page.Body)) > f.size:
		return fail(ErrAnswer, "has more than %d bytes, the limit", f.size)
	case len(page.Body) == 0:
		return fail(ErrAnswer, "is empty")
	}
	return page, nil
}

// transport is for one request, which ends with ctx. net/http would let what it
// dials outlive that, for a next request to use: a host that takes connections and
// then says nothing would keep each of them for ever.
func (f *Fetcher) transport(ctx context.Context) *http.Transport {
	return &http.Transport{
		Proxy: nil, // not even that of the environment
		DialContext: func(_ context.Context, network, hostport string) (net.Conn, error) {
			conn, err := f.dial(ctx, network, hostport)
			if err == nil {
				context.AfterFunc(ctx, func() { conn.Close() })
			}
			return conn, err
		},
		TLSClientConfig:        f.tls,
		DisableKeepAlives:      true, // every request resolves, checks and dials anew
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeader,
	}
}

// broken says what went wrong before there was a whole answer. Who cannot prove
// to be the host has not answered for it, and addresses are nobody's business.
func (f *Fetcher) broken(url string, err error) error {
	var known *failure
	if errors.As(err, &known) {
		return known
	}
	e := &failure{kind: ErrUnavailable, url: url, cause: err}
	var certificate *tls.CertificateVerificationError
	var timeout net.Error
	switch {
	case f.life.Err() != nil:
		e.found = "is not asked any more: the service stops"
	case errors.As(err, &certificate):
		e.found = "has a TLS certificate that is not accepted: " + untrusted(certificate.Err)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		e.found = fmt.Sprintf("does not answer within %s", f.timeout)
	default:
		e.found = "does not give a whole answer"
	}
	return e
}

// untrusted says what is wrong with a server's certificate, without what it says.
func untrusted(err error) string {
	var name x509.HostnameError
	var authority x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &name):
		return "it is for another host"
	case errors.As(err, &authority):
		return "its authority is not trusted here"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "it does not hold now"
	}
	return "its chain is not valid"
}

// admit reads a URL and says whether it may be asked, as far as that can be told
// without resolving its host.
func (f *Fetcher) admit(raw string) error {
	fail := func(format string, args ...any) error {
		return &failure{kind: ErrForbidden, url: raw, found: fmt.Sprintf(format, args...)}
	}
	if len(raw) > maxURL {
		return fail("has more than %d bytes", maxURL)
	}
	for i := range len(raw) {
		if raw[i] <= ' ' || raw[i] >= 0x7f || raw[i] == '\\' {
			return fail("holds a character that no URL has")
		}
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Opaque != "" || u.Host == "":
		return fail("is no URL with a host")
	case u.Scheme != "https":
		return fail("is not https")
	case u.User != nil:
		return fail("names a user")
	case u.Fragment != "" || strings.HasSuffix(raw, "#"):
		return fail("has a fragment")
	}
	host, err := hostPort(u.Host)
	if err != nil {
		return fail("names no host that can be asked: %v", err)
	}
	_, port, _ := net.SplitHostPort(host)
	switch {
	case f.private[host], f.hosts[host]:
		return nil
	case f.hosts != nil:
		return fail("is on a host that this service is not configured to ask (%s)", host)
	case port != defaultPort:
		return fail("is on port %s, which this service is not configured to ask", port)
	case publicHost(host):
		return nil
	}
	return fail("is on a host that this service is not configured to ask (%s)", host)
}

// dial resolves a host, checks all of its addresses, and dials those.
func (f *Fetcher) dial(ctx context.Context, network, hostport string) (net.Conn, error) {
	hostport, err := hostPort(hostport) // once more: net/http dials it as it was written
	if err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return nil, err
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, err
	}
	at := "https://" + hostport
	addresses, err := f.resolve(ctx, host, f.private[hostport])
	if err != nil {
		return nil, &failure{kind: ErrUnavailable, url: at, found: "has a host that cannot be resolved", cause: err}
	}
	for _, a := range addresses {
		if reason := refused(a, f.private[hostport]); reason != "" {
			return nil, &failure{ErrForbidden, at, "resolves to an address " + reason, fmt.Errorf("to %s", a)}
		}
	}
	dialer := net.Dialer{Timeout: f.timeout / 2} // so that a dead address leaves time for another
	for _, a := range addresses[:min(len(addresses), maxDials)] {
		var conn net.Conn
		if conn, err = dialer.DialContext(ctx, network, netip.AddrPortFrom(a, uint16(number)).String()); err == nil {
			return conn, nil
		}
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return nil, &failure{kind: ErrUnavailable, url: at, found: "does not accept connections", cause: err}
}

// resolve returns the addresses of host, at least one.
func (f *Fetcher) resolve(ctx context.Context, host string, private bool) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	if !private {
		host += "." // no search list of this machine makes another name of it
	}
	found, err := f.resolver.LookupNetIP(ctx, "ip", host)
	if err == nil && len(found) == 0 {
		err = errors.New("no address")
	}
	// A resolver writes A records as IPv4 inside IPv6.
	for i, a := range found {
		found[i] = a.Unmap()
	}
	return found, err
}

// show is a stranger's text: escaped where it is not plain, cut where it is long.
func show(s string) string {
	const most = 200
	if len(s) > most {
		return strconv.QuoteToASCII(s[:most]) + "…"
	}
	if quoted := strconv.QuoteToASCII(s); quoted != `"`+s+`"` || s == "" || strings.ContainsRune(s, ' ') {
		return quoted
	}
	return s
}
