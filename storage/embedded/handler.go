package embedded

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// Callers tells the registry whom it serves. An *Error that one of the two
// returns is answered as it says, another error with 500.
type Callers struct {
	// Name of who sends a request, "" for who has none. An upload belongs to
	// the caller who began it. nil: nobody has a name.
	Name func(*http.Request) (string, error)

	// Pace refuses a read that comes too soon after others. nil: none does.
	Pace func(*http.Request) error
}

// Handler serves the distribution protocol at /v2, to callers it cannot tell
// apart.
func (r *Registry) Handler() http.Handler { return r.HandlerFor(Callers{}) }

// HandlerFor is Handler for callers that are known.
func (r *Registry) HandlerFor(c Callers) http.Handler {
	if c.Name == nil {
		c.Name = func(*http.Request) (string, error) { return "", nil }
	}
	if c.Pace == nil {
		c.Pace = func(*http.Request) error { return nil }
	}
	return &handler{r, c}
}

type handler struct {
	registry *Registry
	callers  Callers
}

// exchange is one request with its answer.
type exchange struct {
	*Registry
	w    http.ResponseWriter
	r    *http.Request
	body io.Reader // the request's, in time and within the quota
	route
	caller func(*http.Request) (string, error)
}

type methods map[string]func(exchange) error

// endpoints is the protocol: who serves which method of which kind of path.
var endpoints = map[kind]methods{
	root:           {"GET": exchange.root, "HEAD": exchange.root},
	blobRoute:      {"GET": exchange.getBlob, "HEAD": exchange.headBlob, "DELETE": exchange.deleteBlob},
	uploadsRoute:   {"POST": exchange.startUpload},
	uploadRoute:    {"GET": exchange.uploadStatus, "PATCH": exchange.patchUpload, "PUT": exchange.putUpload, "DELETE": exchange.cancelUpload},
	manifestRoute:  {"GET": exchange.getManifest, "HEAD": exchange.getManifest, "PUT": exchange.putManifest, "DELETE": exchange.deleteManifest},
	tagsRoute:      {"GET": exchange.listTags, "HEAD": exchange.listTags},
	referrersRoute: {"GET": exchange.listReferrers, "HEAD": exchange.listReferrers},
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	err := h.serve(w, r)
	// What is left to write goes out when this has returned.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(h.registry.patience))
	if err != nil {
		h.fail(w, r, err)
	}
}

func (h *handler) serve(w http.ResponseWriter, r *http.Request) error {
	route, ok := parsePath(r.URL.EscapedPath())
	if !ok {
		return refuse(404, "UNSUPPORTED", "the distribution specification has no such path")
	}
	if route.kind != root {
		if err := checkName(route.repository); err != nil {
			return err
		}
	}
	serve, ok := endpoints[route.kind][r.Method]
	if !ok {
		var allowed []string
		for _, m := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"} {
			if endpoints[route.kind][m] != nil {
				allowed = append(allowed, m)
			}
		}
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		return refuse(405, "UNSUPPORTED", "%s is not supported here", clip(r.Method))
	}
	taken := claim{of: h.registry}
	defer taken.release()
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		if err := h.callers.Pace(r); err != nil {
			return err
		}
	case http.MethodPost, http.MethodPatch, http.MethodPut:
		if err := h.registry.roomOnDisk(); err != nil {
			return err
		}
		// Ending an upload of which everything has come takes nothing.
		if r.ContentLength != 0 || route.kind != uploadRoute {
			if err := taken.fits(r.ContentLength); err != nil {
				return err
			}
		}
	}
	x := exchange{h.registry, w, r, http.NoBody, route, h.callers.Name}
	if r.ContentLength != 0 {
		body := &moving{Reader: r.Body, control: http.NewResponseController(w), patience: h.registry.patience, code: "BLOB_UPLOAD_INVALID"}
		if route.kind == manifestRoute {
			body.code = "MANIFEST_INVALID"
		}
		x.body = claiming{body, &taken}
	}
	return serve(x)
}

// fail answers with err in the specification's form.
func (h *handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	var refusal *Error
	if !errors.As(err, &refusal) {
		if r.Context().Err() == nil && !errors.Is(err, context.Canceled) {
			h.registry.log.Load().Error("registry request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		}
		refusal = refuse(500, "UNKNOWN", "the registry failed; try again")
	}
	body, _ := json.Marshal(map[string]any{ // strings always marshal
		"errors": []problem{{refusal.Code, refusal.Message, refusal.Detail}},
	})
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	// SPEC RFC 9110 §15.5.9: with 408 the server SHOULD say that it closes.
	if refusal.Status == http.StatusRequestTimeout {
		w.Header().Set("Connection", "close")
	}
	// SPEC distribution-spec 1.1, "Error Codes": 429 SHOULD say how long to wait.
	if wait := refusal.RetryAfter; wait > 0 {
		w.Header().Set("Retry-After", strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10))
	}
	w.WriteHeader(refusal.Status)
	_, _ = w.Write(body)
}

// problem is an element of the error document.
type problem struct {
	Code    string            `json:"code"`
	Message string            `json:"message"`
	Detail  map[string]string `json:"detail,omitempty"`
}

func (x exchange) root() error {
	return x.json(http.StatusOK, "application/json", struct{}{})
}

func (x exchange) json(status int, mediaType string, document any) error {
	body, err := json.Marshal(document)
	if err != nil {
		return err
	}
	return x.document(status, mediaType, body)
}

// document answers with body, or to HEAD with its length.
func (x exchange) document(status int, mediaType string, body []byte) error {
	x.w.Header().Set("Content-Type", mediaType)
	x.w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	x.w.WriteHeader(status)
	if x.r.Method != http.MethodHead {
		x.send(bytes.NewReader(body), int64(len(body)))
	}
	return nil
}

// empty answers without a body.
func (x exchange) empty(status int) error {
	if status != http.StatusNoContent {
		x.w.Header().Set("Content-Length", "0")
	}
	x.w.WriteHeader(status)
	return nil
}

// location is relative to the host, so it is right behind every proxy.
func (x exchange) location(words string) string {
	return "/v2/" + x.repository + "/" + words
}

// quantum is how much of a body must come within the patience.
const quantum = 64 << 10

// moving fails a body that stops coming, or trickles, however long it may be in
// all.
type moving struct {
	io.Reader
	control  *http.ResponseController
	patience time.Duration
	due      int    // bytes that must come before the deadline
	came     int64  // bytes in all
	code     string // of the refusal when no more come
}

func (m *moving) Read(p []byte) (int, error) {
	if m.due <= 0 {
		m.due = quantum
		// A ResponseWriter without deadlines has them kept elsewhere.
		_ = m.control.SetReadDeadline(time.Now().Add(m.patience))
	}
	n, err := m.Reader.Read(p)
	m.due -= n
	m.came += int64(n)
	switch err {
	case nil:
	case io.EOF:
		// What follows is not the body's: net/http watches the connection
		// meanwhile, and would take a deadline for a client that has gone.
		_ = m.control.SetReadDeadline(time.Time{})
	default:
		// net/http drains a body before it answers. This one is over.
		_ = m.control.SetReadDeadline(time.Unix(1, 0))
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return n, refuse(http.StatusRequestTimeout, m.code, "the body stood still after %d bytes", m.came)
		}
		return n, refuse(400, m.code, "the body broke off after %d bytes", m.came)
	}
	return n, err
}
