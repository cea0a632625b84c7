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
package front

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
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
}

// New returns the handler of /v2. It must get request paths as they came: a
// router before it may not clean or decode them.
func New(c Config) http.Handler {
	f := &front{Config: c}
	if u, err := url.Parse(c.PublicURL); err == nil {
		f.public = *u
	}
	return f
}

type front struct {
	Config
	public url.URL
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.guarded(w, r, f.serve)
}

func (f *front) serve(w http.ResponseWriter, r *http.Request) {
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
	f.Backend.ServeHTTP(w, r)
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
	default:
		f.refuse(w, err)
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
	switch {
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
