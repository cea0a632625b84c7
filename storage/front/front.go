// Package front is the door to /v2: the registry protocol with the _scitt
// extension mounted in it.
//
//	h := front.New(front.Config{
//		Backend:            registry.Handler(),
//		Extension:          api.Extension,
//		ExtensionEndpoints: []front.Endpoint{{Path: "entries/register", InRepository: true}},
//		Authorize:          callers.MayPush,
//		PublicURL:          "https://scitt.example",
//	})
//
// It decides three things and passes everything else on untouched: which
// requests are the extension's, who may write, and how a client learns that it
// has to say who it is. Requests to the extension authenticate where they are
// served. It knows nothing of statements, ledgers or how blobs are kept.
//
// # Who must authenticate, and how clients find out
//
// Reading is anonymous; the backend's writing methods (POST, PUT, PATCH,
// DELETE) ask Authorize. The difficulty is that clients choose how to
// authenticate in two different ways:
//
//   - oras, regctl, containerd and buildkit just send the request and act on a
//     401. They get WWW-Authenticate: Basic on the refused write.
//   - docker, podman, skopeo and older go-containerregistry ask GET /v2/ first
//     and believe its answer for everything that follows. After a 200 they never
//     send credentials, so that no push could succeed. After a 401 with Basic,
//     docker refuses to pull anonymously ("no basic auth credentials").
//     (go-containerregistry 0.22 sends credentials even after a 200.)
//
// Only the token handshake suits both: where an anonymous write is not allowed,
// GET /v2/ without valid credentials answers 401 with WWW-Authenticate: Bearer
// and the realm /v2/_token, which hands out a token to everyone: to callers with
// credentials their own password (it is a bearer token of the API already:
// nothing is minted, stored or prolonged), to anyone else the word "anonymous",
// which the front takes off every request again. Wrong credentials are refused
// there, so that `docker login` notices. Where Authorize lets everyone write,
// GET /v2/ answers 200 and none of this happens.
//
// # Before a registry elsewhere
//
// With an [Upstream] the registry judges its callers itself, by credentials that
// pass through here and are kept nowhere. What is promised then:
//
//   - Requests and answers are the client's and the registry's own, byte for
//     byte, but for what names a host: Location, Link and the realm of tokens
//     lead back here, whatever the registry believes its name to be. Tokens are
//     asked for at /token, which passes on to the realm; none is minted.
//   - Credentials go to the registry and its token hosts alone. An answer that
//     would take a client's anywhere else is withheld: 502.
//   - Paths that we and the registry could read differently are refused: a name
//     that a hook judges is the name that is written to. So are references that
//     are none, and manifests that can be read differently: some registries take
//     them, and others fail.
//   - Blobs stream, both ways, and may take as long as bytes move. Only
//     manifests that a hook looks at are held in memory, 32 MiB of them at once.
//   - Nothing here asks a ledger. What hooks do about theirs being away is theirs.
//
// A caller of the extension may what the registry lets those credentials do with
// the repository: it is asked, by doing (see Upstream.May).
package front

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/semaphore"
)

// Authorize answers with one of these, possibly wrapped, or nil. Any other
// error is a failure: 503.
var (
	ErrUnauthenticated = errors.New("credentials are missing or not valid")
	ErrDenied          = errors.New("these credentials do not allow this")
)

// RateLimited refuses a request that may be repeated later.
type RateLimited struct {
	After time.Duration // 0: unknown
}

func (e *RateLimited) Error() string {
	return fmt.Sprintf("too many requests, try again in %s", e.After)
}

// Config is what the front stands before.
type Config struct {
	// Backend serves the distribution protocol. nil: there is no registry here,
	// only the extension, and every ordinary path is 404.
	Backend http.Handler

	// Upstream is a registry elsewhere, in the place of Backend and Authorize: it
	// decides about its callers itself, and about those of the extension that
	// come with its credentials. If it is path-routed, only the extension is
	// served here.
	Upstream *Upstream

	// TokenPrefix is how credentials of this service begin. They are good for the
	// extension, and never go upstream.
	TokenPrefix string

	// Vouched makes r a request to the extension whose caller may push to the
	// repository (or only read it), as Upstream said.
	Vouched func(r *http.Request, push bool) *http.Request

	// TrustedProxies are believed when they say by X-Forwarded-Proto and -Host
	// what the client asked for.
	TrustedProxies []netip.Prefix

	// Extension serves what is below _scitt. repository is "" for
	// /v2/_scitt/...; otherwise it looks like a name, but its grammar is not
	// checked. path is escaped as it came, without a slash in front:
	// "entries/register". nil: there is no extension.
	Extension func(w http.ResponseWriter, r *http.Request, repository, path string)

	// ExtensionEndpoints is what discovery lists.
	ExtensionEndpoints []Endpoint

	// Authorize says whether the caller of r may write to (or, for the source of
	// a mount, read from) repository; "" asks whether it may write anywhere at
	// all. It sees Bearer as well as Basic credentials, the latter with the token
	// as password. nil: everyone may.
	Authorize func(r *http.Request, repository string, write bool) error

	// ManifestPut, ManifestGet, Referrers and Delete stand before the backend when
	// a manifest is pushed or pulled, when referrers are listed, and when a manifest
	// or blob is deleted; the first of each is the outermost.
	ManifestPut, ManifestGet, Referrers, Delete []Hook

	// Synthesis answers the referrers API where Upstream does not, behind all other
	// hooks. nil: nobody does.
	Synthesis *Synthesis

	// PublicURL is where clients find this service ("https://scitt.example"). A
	// request for its host is given a token realm of its scheme: TLS may end in
	// front of us. Other requests get the scheme they came by.
	PublicURL string

	// Log hears of panics. nil: they are only answered.
	Log *slog.Logger
}

// Endpoint of the extension.
type Endpoint struct {
	Path         string // "entries/register", "receipts/{id}"
	InRepository bool   // below /v2/<name>/_scitt/, otherwise below /v2/_scitt/
	Push         bool   // who calls it must be allowed to push to the repository, not only to read it
}

// New returns the handler of /v2. It must get request paths as they came: a
// router before it may not clean or decode them.
func New(c Config) http.Handler {
	f := &front{Config: c, room: semaphore.NewWeighted(manifestsRoom)}
	if c.Upstream != nil {
		f.Backend = c.Upstream
	}
	if s := c.Synthesis; s != nil {
		f.Referrers = append(slices.Clone(c.Referrers), s.listed)
		f.ManifestPut = append(slices.Clone(c.ManifestPut), s.pushed)
		f.Delete = append(slices.Clone(c.Delete), s.deleted)
	}
	f.origins.proxies = c.TrustedProxies
	if u, err := url.Parse(c.PublicURL); err == nil {
		f.origins.public = *u
	}
	return f
}

type front struct {
	Config
	origins origins
	room    *semaphore.Weighted // in bytes, for manifests that hooks have in hand
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.guarded(w, r, f.serve)
}

func (f *front) serve(w http.ResponseWriter, r *http.Request) {
	r = r.WithContext(withOrigin(r.Context(), f.origins.of(r)))
	if f.Upstream != nil {
		f.serveUpstream(w, r)
		return
	}
	greeted := r.Header.Get("Authorization") == "Bearer "+anonymous
	r = withoutAnonymous(r)
	path := r.URL.EscapedPath()
	if path == tokenPath {
		f.token(w, r)
		return
	}
	if e, ok := parseExtension(path); ok {
		f.extension(w, r, e)
		return
	}
	if f.Backend == nil {
		f.noRegistry(w, path)
		return
	}
	if path == "/v2" || path == "/v2/" {
		f.ping(w, r, greeted)
		return
	}
	if err := f.mayProceed(r, path); err != nil {
		f.refuse(w, err)
		return
	}
	f.serveBackend(w, r, path)
}

func (f *front) serveBackend(w http.ResponseWriter, r *http.Request, path string) {
	if hooks, request := f.hooked(r, path); len(hooks) > 0 {
		f.withHooks(w, hooks, request)
		return
	}
	f.Backend.ServeHTTP(w, r)
}

// serveUpstream serves a request to a registry that judges its callers itself.
func (f *front) serveUpstream(w http.ResponseWriter, r *http.Request) {
	path := r.URL.EscapedPath()
	e, ok := parseExtension(path)
	switch {
	case ok && (e.name == extensionName || e.name == "_oci" && e.path == "ext/discover"):
		f.extension(w, r, e)
	case f.Upstream.routed:
		f.noRegistry(w, path)
	case isOwn(r, f.TokenPrefix):
		errOwn.answer(w)
	case path == realmPath:
		f.Upstream.token(w, r)
	default:
		f.serveBackend(w, r, path)
	}
}

// vouched asks Upstream what the caller of the extension may do, and answers
// when that is not enough. Callers with a token of this service need nobody to
// vouch for them, and outside of repositories nobody does.
func (f *front) vouched(w http.ResponseWriter, r *http.Request, e extensionPath) (*http.Request, bool) {
	if f.Upstream == nil || isOwn(r, f.TokenPrefix) {
		return r, true
	}
	push := slices.ContainsFunc(f.ExtensionEndpoints, func(known Endpoint) bool {
		return known.InRepository && known.Push && known.Path == e.path
	})
	if e.repository != "" {
		if err := f.Upstream.May(r, e.repository, push); err != nil {
			f.refuse(w, err)
			return nil, false
		}
		r = f.Vouched(r, push)
	}
	r = r.Clone(r.Context())
	r.Header.Del("Authorization")
	return r, true
}

// ping is GET /v2/, by which many clients decide whether to authenticate.
// greeted: the client has gone through the handshake and is content to be
// nobody.
func (f *front) ping(w http.ResponseWriter, r *http.Request, greeted bool) {
	if greeted {
		f.Backend.ServeHTTP(w, r)
		return
	}
	err := f.authorize(r, "", true)
	switch {
	case err == nil, errors.Is(err, ErrDenied): // known, if not allowed to write
		f.Backend.ServeHTTP(w, r)
	case errors.Is(err, ErrUnauthenticated):
		w.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
		f.challenge(w, r)
	case errors.As(err, new(*RateLimited)):
		f.refuse(w, err)
	default: // nobody can be known now: then nobody is asked, and pulls go on
		f.Backend.ServeHTTP(w, r)
	}
}

// mayProceed asks Authorize about a request that writes. The source of a mount
// needs rights, too: a blob must not become visible through a repository that
// its reader chose.
func (f *front) mayProceed(r *http.Request, path string) error {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return nil
	}
	if err := f.authorize(r, repositoryOf(path), true); err != nil {
		return err
	}
	for _, from := range r.URL.Query()["from"] {
		if err := f.authorize(r, from, false); err != nil {
			return err
		}
	}
	return nil
}

func (f *front) authorize(r *http.Request, repository string, write bool) error {
	if f.Authorize == nil {
		return nil
	}
	return f.Authorize(r, repository, write)
}

// noRegistry answers ordinary paths where there is only the extension.
func (f *front) noRegistry(w http.ResponseWriter, path string) {
	if name := repositoryOf(path); name != "" {
		answer(w, http.StatusNotFound, "NAME_UNKNOWN", "there is no registry here, only the _scitt extension")
		return
	}
	answer(w, http.StatusNotFound, "UNSUPPORTED", "there is no registry here, only the _scitt extension")
}

// refuse turns Authorize's error into an answer.
func (f *front) refuse(w http.ResponseWriter, err error) {
	var limited *RateLimited
	var refused *refusal
	switch {
	case errors.As(err, &refused):
		refused.answer(w)
	case errors.Is(err, ErrUnauthenticated):
		w.Header().Set("WWW-Authenticate", `Basic realm="scittd"`)
		answer(w, http.StatusUnauthorized, "UNAUTHORIZED", "writing needs a token: use it as the password of any user, or as bearer token")
	case errors.Is(err, ErrDenied):
		answer(w, http.StatusForbidden, "DENIED", "this token does not allow it")
	case errors.As(err, &limited):
		if limited.After > 0 {
			w.Header().Set("Retry-After", strconv.FormatInt(int64((limited.After+time.Second-1)/time.Second), 10))
		}
		answer(w, http.StatusTooManyRequests, "TOOMANYREQUESTS", "too many requests")
	default:
		w.Header().Set("Retry-After", "1")
		answer(w, http.StatusServiceUnavailable, "UNKNOWN", "the credentials could not be checked, try again")
	}
}

// answer writes an error as the distribution specification does.
func answer(w http.ResponseWriter, status int, code, message string) {
	writeJSON(w, status, map[string]any{"errors": []map[string]string{{"code": code, "message": message}}})
}

func writeJSON(w http.ResponseWriter, status int, document any) {
	body, _ := json.Marshal(document) // ours always marshal
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// repositoryOf is the name in an ordinary path, "" if there is none. It reads
// the path from its end, as the backend does: names may contain the protocol's
// words.
func repositoryOf(escaped string) string {
	s := strings.Split(strings.TrimPrefix(escaped, "/v2/"), "/")
	n := len(s)
	at := func(i int) string { // from the end
		if i > n {
			return ""
		}
		return s[n-i]
	}
	words := 0
	switch {
	case at(2) == "tags" && at(1) == "list", at(2) == "manifests", at(2) == "referrers", at(2) == "blobs":
		words = 2
	case at(3) == "blobs" && at(2) == "uploads":
		words = 3
	}
	if words == 0 || n == words {
		return ""
	}
	return strings.Join(s[:n-words], "/")
}
