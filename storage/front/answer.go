package front

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
)

// Answer is a response that is held back.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// maxHeld bounds the body of an Answer: the largest manifest, and then some.
const maxHeld = 2 * MaxManifest

var errTooLong = errors.New("the answer is too long")

// Hold calls next and keeps what it answers, so that a Hook can look at it
// before the client does. It fails when that has more than 8 MiB or breaks off.
func Hold(next func(http.ResponseWriter)) (*Answer, error) {
	h := &holder{answer: Answer{Header: http.Header{}}}
	if err := h.fill(next); err != nil {
		return nil, err
	}
	h.WriteHeader(http.StatusOK) // where nothing was said
	return &h.answer, nil
}

// Release sends the answer after all.
func (a *Answer) Release(w http.ResponseWriter) {
	maps.Copy(w.Header(), a.Header)
	w.WriteHeader(a.Status)
	_, _ = w.Write(a.Body)
}

// Ask sends the backend a request of the hook's own. It carries the credentials
// of r's caller and nothing else of r: an upstream registry allows it what it
// allows that caller, while the embedded one allows everything, so stay in
// r.Repository. path is escaped and may have a query. Redirects are followed,
// without the credentials. The answer may have 8 MiB.
func (r *Request) Ask(ctx context.Context, method, path string, header http.Header, body []byte) (*Answer, error) {
	u, err := url.ParseRequestURI(path)
	if err != nil {
		return nil, err
	}
	ask := (&http.Request{
		Method: method, URL: u, RequestURI: path, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Host: r.HTTP.Host, TLS: r.HTTP.TLS, RemoteAddr: r.HTTP.RemoteAddr,
		Header: http.Header{}, Body: http.NoBody, ContentLength: int64(len(body)),
	}).WithContext(withRedirects(withOrigin(ctx, originOf(r.HTTP))))
	if len(body) > 0 {
		ask.Body = io.NopCloser(bytes.NewReader(body))
	}
	for name, values := range header {
		ask.Header[http.CanonicalHeaderKey(name)] = values
	}
	delete(ask.Header, "Authorization")
	if credentials, ok := r.HTTP.Header["Authorization"]; ok {
		ask.Header["Authorization"] = credentials
	}
	a, err := Hold(func(w http.ResponseWriter) { r.backend.ServeHTTP(w, ask) })
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, u.Path, err)
	}
	return a, nil
}

// holder is the ResponseWriter of Hold.
type holder struct {
	answer Answer
	failed error
}

func (h *holder) Header() http.Header { return h.answer.Header }

func (h *holder) WriteHeader(status int) {
	if h.answer.Status == 0 && status >= 200 {
		h.answer.Status = status
	}
}

func (h *holder) Write(p []byte) (int, error) {
	h.WriteHeader(http.StatusOK)
	if len(h.answer.Body)+len(p) > maxHeld {
		h.failed = errTooLong
		return 0, h.failed
	}
	h.answer.Body = append(h.answer.Body, p...)
	return len(p), nil
}

// fill runs next, which breaks off as handlers do: by a panic.
func (h *holder) fill(next func(http.ResponseWriter)) (err error) {
	defer func() {
		switch p := recover(); {
		case p != nil && p != http.ErrAbortHandler:
			panic(p)
		case h.failed != nil:
			err = h.failed
		case p != nil:
			err = io.ErrUnexpectedEOF
		}
	}()
	next(h)
	return nil
}

// following marks requests whose redirects are followed here.
type following struct{}

func withRedirects(ctx context.Context) context.Context {
	return context.WithValue(ctx, following{}, true)
}
