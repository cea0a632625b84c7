package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/internal/detcbor"
	"github.com/scittd/scittd/ledger"
)

const (
	concise     = "application/concise-problem-details+cbor"
	problemJSON = "application/problem+json"

	// extension is the key of our own entry in a concise problem.
	extension = "https://github.com/scittd/scittd"

	// maxDetail bounds what a problem says, which may quote the request.
	maxDetail = 1024
)

// shape is how the problems of a path are written.
type shape int

const (
	cborShape     shape = iota // SCRAPI, and whatever has no route
	jsonShape                  // /v1
	registryShape              // the extension below /v2, for registry clients
)

// shapeOf goes by the path alone, so that a 404, a 405 and a panic are written
// like every other answer of their neighbourhood, whatever Accept says.
func shapeOf(r *http.Request) shape {
	path := r.URL.EscapedPath()
	switch {
	case path == "/v1" || strings.HasPrefix(path, "/v1/"):
		return jsonShape
	case strings.HasPrefix(path, "/v2/") && !strings.HasSuffix(path, "/"+registerPath):
		return registryShape
	}
	return cborShape
}

// fail answers r with the problem of err.
func (a *API) fail(w http.ResponseWriter, r *http.Request, err error) {
	f := a.faultFor(r, err)
	p := problem(f.code)
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	if after := f.retry(); after > 0 {
		h.Set("Retry-After", seconds(after))
	}
	switch p.Status {
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Bearer realm="scittd"`)
	case http.StatusUnsupportedMediaType:
		h.Set("Accept", strings.Join(f.accept, ", "))
	case http.StatusRequestEntityTooLarge, http.StatusRequestTimeout:
		h.Set("Connection", "close") // rather than read the rest of the body
	}
	form := shapeOf(r)
	if f.turnsAway() && f.detail == "" {
		a.turnedAway()
		send(w, p.Status, form.mediaType(), a.away.bodies[form])
		return
	}
	send(w, p.Status, form.mediaType(), form.write(a.document(r, f)))
}

func (s shape) mediaType() string {
	if s == cborShape {
		return concise
	}
	return problemJSON
}

// write is doc as the problems of such paths are written.
func (s shape) write(doc apitype.Problem) []byte {
	switch s {
	case registryShape:
		doc.Errors = []apitype.RegistryError{{Code: registryCode(problem(doc.Code)), Message: doc.Title, Detail: doc.Detail}}
		fallthrough
	case jsonShape:
		return marshalJSON(doc)
	}
	return conciseProblem(doc)
}

// away is what those are told for whom there is no room. Past capacity that is
// most of all answers, so it has to cost little: no trace, no line in the log of
// its own, and bytes that are made once.
type away struct {
	bodies map[shape][]byte
	count  atomic.Int64
	said   atomic.Int64 // when the log was told of the count, Unix seconds
}

// turnsAway: f says only that there is no room, which is a decision.
func (f *fault) turnsAway() bool {
	return f.code == "overloaded" && (f.cause == nil || errors.Is(f.cause, ledger.ErrOverloaded))
}

// turnedAwayWith makes the answers that turn away.
func (a *API) turnedAwayWith() map[shape][]byte {
	bodies := map[shape][]byte{}
	for _, s := range []shape{cborShape, jsonShape, registryShape} {
		bodies[s] = s.write(a.describe(&fault{code: "overloaded"}))
	}
	return bodies
}

// turnedAway counts, and tells the log once a second.
func (a *API) turnedAway() {
	n, now := a.away.count.Add(1), a.Clock().Unix()
	if said := a.away.said.Load(); said != now && a.away.said.CompareAndSwap(said, now) {
		a.log.Warn("overloaded", "turnedAwaySinceStart", n)
	}
}

// faultFor is what err means to the client of r.
func (a *API) faultFor(r *http.Request, err error) *fault {
	if r.Context().Err() != nil {
		err = context.Canceled // nobody reads the answer, and nothing of ours has failed
	}
	return faultOf(err)
}

// document is the problem of f, in full. A failure of ours is logged by it, and
// who is turned away is counted.
func (a *API) document(r *http.Request, f *fault) apitype.Problem {
	doc := a.describe(f)
	// Only failures of ours carry a trace id: two answers of 404 must not differ.
	switch p := problem(f.code); {
	case f.turnsAway():
		a.turnedAway()
	case p.Status >= http.StatusInternalServerError:
		doc.TraceID = a.trace(r, p, f)
	}
	return doc
}

func (a *API) describe(f *fault) apitype.Problem {
	p := problem(f.code)
	doc := apitype.Problem{
		Type: a.base + "/problems/" + p.Code, Title: p.Title, Status: p.Status, Code: p.Code,
		Detail: f.detail, Hint: f.hint, EntryID: f.entry, Rule: f.rule, PolicyEntry: f.policy,
	}
	if doc.Detail == "" {
		doc.Detail = p.About
	}
	if e := f.gone; e != nil {
		doc.Digest, doc.Size, doc.MediaType = e.Evidence.Digest, e.Evidence.Size, e.MediaType
		doc.PurgedAt, doc.MissingSince, doc.Statement = e.Evidence.PurgedAt, e.Evidence.MissingSince, e.Evidence.Statement
		doc.Links = &e.Links
	}
	doc.Detail, doc.Hint = bounded(doc.Detail), bounded(doc.Hint)
	return doc
}

// conciseProblem writes p as a concise problem details map (RFC 9290).
//
// SPEC draft-ietf-scitt-scrapi-11 §2: title (-1) and detail (-2) are both
// present. RFC 9290 §2: response-code (-4) is a CoAP code, so an HTTP status
// never goes there; a custom entry is keyed by a URI and holds a non-empty map.
func conciseProblem(p apitype.Problem) []byte {
	ours := map[string]string{"code": p.Code}
	for key, value := range map[string]string{
		"hint": p.Hint, "traceId": p.TraceID, "entryId": p.EntryID, "rule": p.Rule, "policyEntry": p.PolicyEntry,
	} {
		if value != "" {
			ours[key] = value
		}
	}
	b, err := detcbor.Marshal(map[any]any{-1: p.Title, -2: p.Detail, -3: p.Type, extension: ours})
	if err != nil {
		panic(err) // text and maps of text always encode
	}
	return b
}

// registryCode is the code of the distribution specification nearest to p.
func registryCode(p Problem) string {
	switch p.Status {
	case http.StatusUnauthorized:
		return "UNAUTHORIZED"
	case http.StatusForbidden:
		return "DENIED"
	case http.StatusNotFound:
		return "EXTENSION_UNKNOWN"
	case http.StatusTooManyRequests:
		return "TOOMANYREQUESTS"
	}
	return "UNSUPPORTED"
}

// trace logs a failure of ours and returns the id under which.
func (a *API) trace(r *http.Request, p Problem, f *fault) string {
	var b [8]byte
	rand.Read(b[:])
	id := hex.EncodeToString(b[:])
	level := slog.LevelWarn
	if p.Status == http.StatusInternalServerError {
		level = slog.LevelError
	}
	a.log.Log(r.Context(), level, "request failed", "trace", id, "code", p.Code,
		"method", r.Method, "path", bounded(r.URL.Path), "err", f.cause)
	return id
}

// bounded makes s fit to be sent or logged: valid UTF-8, not too long.
func bounded(s string) string {
	if len(s) > maxDetail {
		s = s[:maxDetail] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// seconds writes a Retry-After: whole seconds, rounded up, five minutes at most.
func seconds(d time.Duration) string {
	d = min(d, maxRetry)
	return strconv.Itoa(int((d + time.Second - 1) / time.Second))
}

// marshalJSON writes one of our own shapes, which always encode.
func marshalJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return append(b, '\n')
}

// send writes a whole answer. Its length is always announced.
func send(w http.ResponseWriter, status int, contentType string, body []byte) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	w.Write(body) // an error here means that the client is gone
}
