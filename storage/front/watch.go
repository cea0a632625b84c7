package front

import (
	"bytes"
	"mime"
	"net/http"
	"regexp"

	"github.com/opencontainers/go-digest"

	"github.com/scittd/scittd/storage"
)

// Indexes is told which image indexes pass by. Nothing that passes waits for it,
// and it may forget.
type Indexes interface {
	// Knows says that it need not be told of one again.
	Knows(digest string) bool
	// Saw is given the bytes under a digest that nobody has checked.
	Saw(digest string, body []byte)
}

// tagOfReferrers is what clients keep lists of referrers under, which are no indexes
// of an image: each attach makes another.
var tagOfReferrers = regexp.MustCompile(`^sha(256|384|512)-[0-9a-f]{32,128}$`)

// PushedIndexes is the ManifestPut hook that tells i what was pushed.
func PushedIndexes(i Indexes) Hook {
	return func(w http.ResponseWriter, r *Request, next func(http.ResponseWriter)) {
		if !isIndex(r.HTTP.Header) || tagOfReferrers.MatchString(r.Reference) {
			next(w)
			return
		}
		watched := &statusWriter{ResponseWriter: w}
		next(watched)
		if watched.status == http.StatusCreated {
			tell(i, r.Reference, r.Manifest)
		}
	}
}

// PulledIndexes is the ManifestGet hook that tells i what was pulled. Answers pass
// through it as they come; only of an index that i does not know, a copy is kept
// until it is whole.
func PulledIndexes(i Indexes) Hook {
	return func(w http.ResponseWriter, r *Request, next func(http.ResponseWriter)) {
		if tagOfReferrers.MatchString(r.Reference) || i.Knows(r.Reference) {
			next(w)
			return
		}
		copied := &copyWriter{statusWriter: statusWriter{ResponseWriter: w}, indexes: i}
		next(copied)
		if copied.body != nil && copied.body.Len() <= MaxManifest {
			tell(i, r.Reference, copied.body.Bytes())
		}
	}
}

func isIndex(h http.Header) bool {
	mediaType, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	return err == nil && storage.IsIndexType(mediaType)
}

func tell(i Indexes, reference string, body []byte) {
	if _, err := digest.Parse(reference); err != nil { // a tag
		reference = digest.FromBytes(body).String()
	}
	i.Saw(reference, body)
}

// Deleted is the Delete hook that asks deleting what a deletion would mean, before
// it is done, and calls what that returns, unless it is nil, once it is.
func Deleted(deleting func(r *Request) (done func())) Hook {
	return func(w http.ResponseWriter, r *Request, next func(http.ResponseWriter)) {
		done := deleting(r)
		if done == nil {
			next(w)
			return
		}
		watched := &statusWriter{ResponseWriter: w}
		next(watched)
		if watched.status/100 == 2 {
			done()
		}
	}
}

// statusWriter remembers the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// copyWriter keeps the body of an index that passes.
type copyWriter struct {
	statusWriter
	indexes Indexes
	body    *bytes.Buffer // nil: it is none, or known
}

func (w *copyWriter) WriteHeader(status int) {
	h := w.Header()
	if w.status == 0 && status == http.StatusOK && isIndex(h) && !w.indexes.Knows(h.Get("Docker-Content-Digest")) {
		w.body = new(bytes.Buffer)
	}
	w.statusWriter.WriteHeader(status)
}

func (w *copyWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.body != nil && w.body.Len() <= MaxManifest {
		w.body.Write(p)
	}
	return w.statusWriter.Write(p)
}
