package front

import (
	"io"
	"net/http"
	"runtime/debug"
)

// guarded runs serve. A panic is answered in the protocol's form, too, unless
// the answer has begun: then the connection breaks, so that nobody takes half
// an answer for a whole one.
func (f *front) guarded(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
	watched := &watchedWriter{ResponseWriter: w}
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if p == http.ErrAbortHandler {
			panic(p)
		}
		if f.Log != nil {
			f.Log.Error("panic under /v2", "method", r.Method, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
		}
		if watched.begun {
			panic(http.ErrAbortHandler)
		}
		clear(w.Header())
		answer(w, http.StatusInternalServerError, "UNKNOWN", "the registry failed; try again")
	}()
	serve(watched, r)
}

// watchedWriter remembers whether the answer has begun.
type watchedWriter struct {
	http.ResponseWriter
	begun bool
}

func (w *watchedWriter) WriteHeader(status int) {
	w.begun = w.begun || status >= 200
	w.ResponseWriter.WriteHeader(status)
}

func (w *watchedWriter) Write(p []byte) (int, error) {
	w.begun = true
	return w.ResponseWriter.Write(p)
}

// ReadFrom keeps a blob on its short way from file to socket.
func (w *watchedWriter) ReadFrom(r io.Reader) (int64, error) {
	w.begun = true
	return io.Copy(w.ResponseWriter, r)
}

// Unwrap is for http.ResponseController.
func (w *watchedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
