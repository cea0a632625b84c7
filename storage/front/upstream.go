package front

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/scittd/scittd/storage"
)

// UpstreamConfig says which registry a front stands before, and what is special
// about the way there.
type UpstreamConfig struct {
	Host      string // name, optionally :port
	PlainHTTP bool   // http instead of https
	CAFile    string // PEM: trust these roots instead of the system's

	// OwnName sends the registry its own name as Host. Otherwise it is sent the
	// name that the client used, so that it knows itself by it; a registry that
	// shares its address with others may not answer to that.
	OwnName bool

	// FollowRedirects fetches what the registry redirects readers to, usually
	// blobs in a bucket, for clients that cannot reach it. Otherwise they are
	// redirected.
	FollowRedirects bool

	// PathRouted: only the extension is served here, and clients reach the
	// registry, its realm of tokens too, by themselves.
	PathRouted bool

	// TokenHosts may see credentials besides the registry itself: where its token
	// service is, if elsewhere.
	TokenHosts []string

	Log *slog.Logger // hears of a registry that fails or misleads; nil: nobody
}

// Upstream is a registry elsewhere, as a handler: a reverse proxy. Blobs stream
// both ways, through no more memory than a buffer. It keeps credentials to the
// registry and its token hosts: an answer that would lead a client to show its
// own to anybody else is not passed on, but answered 502.
//
// Safe for concurrent use.
type Upstream struct {
	base    url.URL         // scheme and host
	ownName bool            // see UpstreamConfig
	trusts  map[string]bool // hosts whose realms are proxied
	follow  bool
	routed  bool
	log     *slog.Logger
	name    string // of this process in Via

	pool   *http.Transport // to the registry and its token service
	bucket *http.Transport // to where it redirects readers
	proxy  *httputil.ReverseProxy
	realm  atomic.Pointer[url.URL] // of tokens, as last announced
	rights rights                  // lately allowed
	waits  waits
}

// OpenUpstream prepares to stand before a registry; it does not connect.
func OpenUpstream(c UpstreamConfig) (*Upstream, error) {
	address, tokens, err := storage.Endpoint(c.Host)
	if err != nil {
		return nil, err
	}
	config, err := storage.TLSConfig(c.CAFile)
	if err != nil {
		return nil, fmt.Errorf("registry %s: %w", c.Host, err)
	}
	u := &Upstream{
		base: url.URL{Scheme: "https", Host: address}, ownName: c.OwnName, trusts: map[string]bool{},
		follow: c.FollowRedirects, routed: c.PathRouted, log: c.Log, waits: patience, name: "scittd-" + rand.Text(),
	}
	if c.PlainHTTP {
		u.base.Scheme = "http"
	}
	if u.log == nil {
		u.log = slog.New(slog.DiscardHandler)
	}
	for _, h := range append(tokens, c.TokenHosts...) {
		u.trusts[strings.ToLower(h)] = true
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	careful := *dialer
	careful.Control = u.mayReach
	u.pool = &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            dialer.DialContext,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    10 * time.Second,
		ResponseHeaderTimeout:  patience.head,
		ExpectContinueTimeout:  time.Second,
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConnsPerHost:    256,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true, // digests are of the bytes on the wire
		ForceAttemptHTTP2:      true,
	}
	u.bucket = u.pool.Clone()
	u.bucket.DialContext = careful.DialContext
	u.proxy = &httputil.ReverseProxy{
		Rewrite:        u.rewrite,
		Transport:      followRedirects{u},
		ModifyResponse: u.modify,
		ErrorHandler:   u.failed,
		FlushInterval:  -1,
		BufferPool:     &buffers{},
		// What it says is said by failed, or is a client that went away.
		ErrorLog: log.New(logDebug{u.log}, "", 0),
	}
	return u, nil
}

// Close lets go of idle connections.
func (u *Upstream) Close() {
	u.pool.CloseIdleConnections()
	u.bucket.CloseIdleConnections()
}

// ServeHTTP passes r to the registry, and its answer back.
func (u *Upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
	default:
		w.Header().Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
		answer(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "registries have no such method")
		return
	}
	if u.sent(r) {
		u.log.Error("the registry that this stands before leads back here: set registry.host to the one behind it", "registry", u.base.Host)
		answer(w, http.StatusLoopDetected, "UNSUPPORTED", "this front stands before itself: its registry, "+u.base.Host+", leads back to it")
		return
	}
	if message := ambiguous(r.URL.EscapedPath()); message != "" {
		answer(w, http.StatusBadRequest, "NAME_INVALID", message)
		return
	}
	if no := misnamed(r.Method, r.URL.EscapedPath()); no != nil {
		no.answer(w)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	stall := watchStall(w, cancel, u.waits)
	defer stall.end()
	r = r.WithContext(context.WithValue(ctx, stallKey{}, stall))
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = &movingBody{ReadCloser: r.Body, stall: stall, request: true}
	}
	u.proxy.ServeHTTP(final{w}, r)
}

// final passes on nothing but the answer itself: nobody checks what a registry
// hints at before it.
type final struct{ http.ResponseWriter }

func (w final) WriteHeader(status int) {
	if status >= 200 {
		w.ResponseWriter.WriteHeader(status)
	}
}

// Unwrap is for http.ResponseController.
func (w final) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// rewrite addresses a request to the registry. Path and query stay as they came,
// byte for byte.
func (u *Upstream) rewrite(p *httputil.ProxyRequest) {
	p.Out.URL.Scheme, p.Out.URL.Host = u.base.Scheme, u.base.Host
	p.Out.URL.RawQuery = p.In.URL.RawQuery
	u.address(p.Out, p.In)
	// Nothing but HTTP, and nothing of this host's that a browser may carry.
	for _, name := range []string{"Connection", "Upgrade", "Cookie"} {
		p.Out.Header.Del(name)
	}
}

// address says to the registry who asks, and by which name. Whoever was trusted
// to say so to us has said it in originOf.
func (u *Upstream) address(out, in *http.Request) {
	o := originOf(in)
	out.Host = o.host
	if u.ownName {
		out.Host = u.base.Host
	}
	// SPEC RFC 9110 §7.6.3: a proxy MUST send Via, by which a loop is found.
	out.Header.Add("Via", "1.1 "+u.name)
	out.Header.Set("X-Forwarded-Host", o.host)
	out.Header.Set("X-Forwarded-Proto", o.scheme)
	if client, _, err := net.SplitHostPort(in.RemoteAddr); err == nil {
		out.Header.Set("X-Forwarded-For", client)
	}
}

// sent says whether r has been sent on from here before.
func (u *Upstream) sent(r *http.Request) bool {
	return slices.ContainsFunc(r.Header.Values("Via"), func(via string) bool { return strings.Contains(via, u.name) })
}

// misleads is an answer that clients must not see.
type misleads struct{ what string }

func (e *misleads) Error() string { return e.what }

// elsewhere are paths that registries have outside of /v2: Google's Artifact
// Registry takes and gives blobs there.
var elsewhere = []string{"/artifacts-uploads/", "/artifacts-downloads/"}

// Serves says whether a path is one of a registry's, if an Upstream is in front.
func Serves(path string) bool {
	return path == "/v2" || path == realmPath || strings.HasPrefix(path, "/v2/") || isElsewhere(path)
}

func isElsewhere(path string) bool {
	return slices.ContainsFunc(elsewhere, func(prefix string) bool { return strings.HasPrefix(path, prefix) })
}

// failed answers in the place of a registry that did not.
func (u *Upstream) failed(w http.ResponseWriter, r *http.Request, err error) {
	stall := stallOf(r)
	var lies *misleads
	var timeout net.Error
	switch {
	case stall != nil && stall.failed.Load():
		answer(w, http.StatusBadRequest, "BLOB_UPLOAD_INVALID", "the body broke off or stood still")
	case errors.As(err, &lies):
		u.log.Warn("registry's answer withheld", "method", r.Method, "path", r.URL.Path, "why", lies.what)
		answer(w, http.StatusBadGateway, "UNKNOWN", "the registry's answer was not passed on: "+lies.what)
	case errors.Is(err, context.Canceled): // the client has gone, or stands still
		panic(http.ErrAbortHandler)
	case errors.As(err, &timeout) && timeout.Timeout():
		u.log.Warn("registry does not answer", "method", r.Method, "path", r.URL.Path, "err", err)
		answer(w, http.StatusGatewayTimeout, "UNKNOWN", "the registry does not answer, try again")
	default:
		u.log.Warn("registry not reached", "method", r.Method, "path", r.URL.Path, "err", err)
		w.Header().Set("Retry-After", "1")
		answer(w, http.StatusBadGateway, "UNKNOWN", "the registry cannot be reached, try again")
	}
}

// ambiguous refuses paths that we and the registry could read differently: then
// a name would be judged here that is not the one written to there. Only the
// last segment, a digest, may have anything escaped.
func ambiguous(escaped string) string {
	segments := strings.Split(strings.TrimPrefix(escaped, "/"), "/")
	for i, s := range segments {
		last := i == len(segments)-1
		plain, err := url.PathUnescape(s)
		switch {
		case err != nil:
			return "the path is not well escaped"
		case plain == "." || plain == "..", plain == "" && !last, strings.ContainsAny(plain, "/\\\x00"):
			return "the path has empty or dotted parts, or an escaped slash"
		case plain != s && !last:
			return "a repository name has nothing to escape"
		}
	}
	if name := repositoryOf(escaped); name != "" && !validName(name) {
		return "this is not a repository name"
	}
	return ""
}

// misnamed refuses what is neither a tag nor a digest where one of them belongs,
// in a path that is not ambiguous: registries fail at some, each at others.
func misnamed(method, escaped string) *refusal {
	if repositoryOf(escaped) == "" {
		return nil
	}
	words := strings.Split(escaped, "/")
	kind, item := words[len(words)-2], words[len(words)-1]
	item, _ = url.PathUnescape(item)
	_, err := digest.Parse(item)
	switch {
	case err == nil, kind == "tags", kind == "uploads", kind == "blobs" && item == "uploads", kind == "manifests" && tagGrammar.MatchString(item):
		return nil
	case kind != "manifests", strings.Contains(item, ":"):
		return &refusal{status: http.StatusBadRequest, code: "DIGEST_INVALID", message: "this is not a digest"}
	case method == http.MethodPut:
		return &refusal{status: http.StatusBadRequest, code: "MANIFEST_INVALID", message: "this is not a tag"}
	}
	// SPEC OCI distribution 1.1, "Pulling manifests": 404 if the manifest is not
	// found. Under what is no tag there is none.
	return &refusal{status: http.StatusNotFound, code: "MANIFEST_UNKNOWN", message: "this is neither a tag nor a digest"}
}

// buffers lends the proxy what it copies bodies through.
type buffers struct{ pool sync.Pool }

const bufferSize = 64 << 10

func (b *buffers) Get() []byte {
	if buffer, ok := b.pool.Get().(*[bufferSize]byte); ok {
		return buffer[:]
	}
	return new([bufferSize]byte)[:]
}

func (b *buffers) Put(buffer []byte) { b.pool.Put((*[bufferSize]byte)(buffer)) }

// logDebug is an io.Writer for log lines.
type logDebug struct{ *slog.Logger }

func (l logDebug) Write(p []byte) (int, error) {
	l.Debug("proxy", "says", strings.TrimSpace(string(p)))
	return len(p), nil
}
