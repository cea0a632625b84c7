package embedded

import (
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

// Handler serves the distribution protocol at /v2.
func (r *Registry) Handler() http.Handler { return &handler{r} }

type handler struct {
	registry *Registry
}

// exchange is one request with its answer.
type exchange struct {
	*Registry
	w http.ResponseWriter
	r *http.Request
	route
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
	if err := h.serve(w, r); err != nil {
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
	if r.ContentLength != 0 {
		r.Body = &moving{ReadCloser: r.Body, control: http.NewResponseController(w), patience: h.registry.patience}
	}
	return serve(exchange{h.registry, w, r, route})
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
		"errors": []map[string]string{{"code": refusal.Code, "message": refusal.Message}},
	})
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	// SPEC RFC 9110 §15.5.9: with 408 the server SHOULD say that it closes.
	if refusal.Status == http.StatusRequestTimeout {
		w.Header().Set("Connection", "close")
	}
	w.WriteHeader(refusal.Status)
	_, _ = w.Write(body)
}

func (x exchange) root() error {
	return x.json(http.StatusOK, "application/json", struct{}{})
}

// json answers with a document.
func (x exchange) json(status int, mediaType string, document any) error {
	body, err := json.Marshal(document)
	if err != nil {
		return err
	}
	x.w.Header().Set("Content-Type", mediaType)
	x.w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	x.w.WriteHeader(status)
	if x.r.Method != http.MethodHead {
		_, _ = x.w.Write(body)
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

// moving fails a body that stops coming, however long it may be in all.
type moving struct {
	io.ReadCloser
	control  *http.ResponseController
	patience time.Duration
}

func (m *moving) Read(p []byte) (int, error) {
	// A ResponseWriter without deadlines has them kept elsewhere.
	_ = m.control.SetReadDeadline(time.Now().Add(m.patience))
	n, err := m.ReadCloser.Read(p)
	switch err {
	case nil:
	case io.EOF:
		// What follows is not the body's: net/http watches the connection
		// meanwhile, and would take a deadline for a client that has gone.
		_ = m.control.SetReadDeadline(time.Time{})
	default:
		// net/http drains a body before it answers. This one is over.
		_ = m.control.SetReadDeadline(time.Unix(1, 0))
	}
	return n, err
}

// brokenOff refuses a body of which n bytes came and then err.
func brokenOff(code string, n int64, err error) *Error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return refuse(http.StatusRequestTimeout, code, "the body stood still after %d bytes", n)
	}
	return refuse(400, code, "the body broke off after %d bytes", n)
}
