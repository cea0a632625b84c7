package front

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/scittd/scittd/storage"
)

// A Hook serves one kind of request before the backend does. It may ask the
// backend other things first, refuse, or change the answer (see Hold): next is
// the backend or the hook behind this one, and may be called again. A hook that
// has nothing to say calls next(w) and is done. It runs after Authorize; an
// upstream registry has not judged the caller yet, and does so when it is asked.
type Hook func(w http.ResponseWriter, r *Request, next func(http.ResponseWriter))

// Request is what a Hook serves.
type Request struct {
	// HTTP is the request as it came. The body of a manifest has been read.
	HTTP *http.Request
	// Repository follows the grammar of names.
	Repository string
	// Reference is a manifest's tag or digest, a blob's digest, or the subject of
	// referrers: unescaped, not checked.
	Reference string
	// Blob: a blob is being deleted, not a manifest.
	Blob bool
	// Manifest is what is being pushed, at most MaxManifest bytes, of which
	// storage.CheckManifest approves. Nobody may change it.
	Manifest []byte

	backend http.Handler // for requests of the hook's own
}

// MaxManifest is the size of the largest manifest that passes hooks.
// SPEC distribution-spec 1.1, "Pushing Manifests": a registry SHOULD take 4 MiB
// and answer 413 above its limit.
const MaxManifest = 4 << 20

const (
	manifestsRoom = 32 << 20         // of all manifests that hooks have in hand
	manifestStep  = 64 << 10         // in which it is taken, for what has come
	manifestTime  = 30 * time.Second // for all of one to come
)

// hooked finds the hooks for a request, and what they are shown of it.
func (f *front) hooked(r *http.Request, path string) ([]Hook, *Request) {
	s := strings.Split(path, "/")
	if len(s) < 5 { // "", v2, name, kind, item
		return nil, nil
	}
	kind, item := s[len(s)-2], s[len(s)-1]
	var hooks []Hook
	switch {
	case kind == "manifests" && r.Method == http.MethodPut:
		hooks = f.ManifestPut
	case kind == "manifests" && r.Method == http.MethodGet:
		hooks = f.ManifestGet
	case kind == "referrers" && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		hooks = f.Referrers
	case (kind == "manifests" || kind == "blobs") && r.Method == http.MethodDelete:
		hooks = f.Delete
	}
	if reference, err := url.PathUnescape(item); err == nil {
		item = reference
	}
	return hooks, &Request{HTTP: r, Repository: repositoryOf(path), Reference: item, Blob: kind == "blobs", backend: f.Backend}
}

// withHooks serves r by hooks and, behind the last of them, by the backend.
func (f *front) withHooks(w http.ResponseWriter, hooks []Hook, r *Request) {
	if !validName(r.Repository) {
		answer(w, http.StatusBadRequest, "NAME_INVALID", "this is not a repository name")
		return
	}
	next := func(w http.ResponseWriter) { f.Backend.ServeHTTP(w, r.HTTP) }
	if r.HTTP.Method == http.MethodPut {
		var taken int64
		defer func() { f.room.Release(taken) }()
		if taken = f.readManifest(w, r); r.Manifest == nil {
			return
		}
		// What hooks judge is what the registry stores, however it reads.
		if err := storage.CheckManifest(r.Manifest); err != nil {
			answer(w, http.StatusBadRequest, "MANIFEST_INVALID", err.Error())
			return
		}
		next = func(w http.ResponseWriter) {
			again := r.HTTP.WithContext(r.HTTP.Context())
			again.Body, again.ContentLength, again.TransferEncoding = io.NopCloser(bytes.NewReader(r.Manifest)), int64(len(r.Manifest)), nil
			f.Backend.ServeHTTP(w, again)
		}
	}
	for i := len(hooks) - 1; i >= 0; i-- {
		behind := next
		next = func(w http.ResponseWriter) { hooks[i](w, r, behind) }
	}
	next(w)
}

// readManifest fills in r.Manifest, or answers. It returns how much of the room
// it took, which is never more than has come and a step.
func (f *front) readManifest(w http.ResponseWriter, r *Request) (taken int64) {
	in := r.HTTP
	if in.ContentLength > MaxManifest {
		answer(w, http.StatusRequestEntityTooLarge, "SIZE_INVALID", "a manifest has at most 4194304 bytes")
		return 0
	}
	// A ResponseWriter without deadlines has them kept elsewhere.
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(manifestTime))
	defer control.SetReadDeadline(time.Time{})
	body := bytes.NewBuffer([]byte{})
	for {
		if !f.room.TryAcquire(manifestStep) {
			w.Header().Set("Retry-After", "1")
			answer(w, http.StatusServiceUnavailable, "TOOMANYREQUESTS", "too many manifests are being pushed at once, try again")
			return taken
		}
		taken += manifestStep
		switch _, err := io.CopyN(body, in.Body, manifestStep); {
		case body.Len() > MaxManifest:
			answer(w, http.StatusRequestEntityTooLarge, "SIZE_INVALID", "a manifest has at most 4194304 bytes")
			return taken
		case errors.Is(err, io.EOF):
			r.Manifest = body.Bytes()
			return taken
		case err != nil:
			answer(w, http.StatusBadRequest, "MANIFEST_INVALID", "the body broke off")
			return taken
		}
	}
}

// SPEC distribution-spec 1.1, "Pulling manifests": the grammar of <name> and of
// a tag. Clients limit host and name together to 255 characters.
var (
	nameGrammar = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagGrammar  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

func validName(name string) bool { return len(name) <= 255 && nameGrammar.MatchString(name) }
