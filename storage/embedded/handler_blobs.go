package embedded

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

func (x exchange) headBlob() error {
	d, err := parseDigest(x.item)
	if err != nil {
		return err
	}
	size, err := x.wholeBlob(x.r.Context(), x.repository, d)
	if err != nil {
		return err
	}
	x.blobHeader(d, size)
	x.w.WriteHeader(http.StatusOK)
	return nil
}

func (x exchange) blobHeader(d digest, size int64) {
	h := x.w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Length", strconv.FormatInt(size, 10))
	h.Set("Docker-Content-Digest", string(d))
	h.Set("Accept-Ranges", "bytes")
}

func (x exchange) getBlob() error {
	d, err := parseDigest(x.item)
	if err != nil {
		return err
	}
	f, size, err := x.openBlob(x.r.Context(), x.repository, d)
	if err != nil {
		return err
	}
	defer f.Close()
	start, length, partial, err := parseRange(x.r.Header, size)
	if err != nil {
		x.w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", size))
		return err
	}
	if _, err := f.Seek(start, io.SeekStart); err != nil {
		return err
	}
	x.blobHeader(d, length)
	status := http.StatusOK
	if partial {
		x.w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start, start+length-1, size))
		status = http.StatusPartialContent
	}
	x.w.WriteHeader(status)
	x.send(f, length)
	return nil
}

// send streams by the MiB, each with its own deadline; net/http lifts the last
// one behind the answer. An error reaches the client as a body that is too short.
func (x exchange) send(f io.Reader, length int64) {
	control := http.NewResponseController(x.w)
	for length > 0 {
		_ = control.SetWriteDeadline(time.Now().Add(x.patience))
		n, err := io.CopyN(x.w, f, min(length, 1<<20))
		if err != nil {
			return
		}
		length -= n
	}
}

// parseRange reads a Range of one part. Others, and conditional ones, may be
// ignored (RFC 9110 §14.2) and are.
func parseRange(h http.Header, size int64) (start, length int64, partial bool, err error) {
	spec, ok := strings.CutPrefix(h.Get("Range"), "bytes=")
	first, last, dash := strings.Cut(strings.TrimSpace(spec), "-")
	if !ok || !dash || strings.Contains(spec, ",") || h.Get("If-Range") != "" {
		return 0, size, false, nil
	}
	unsatisfiable := refuse(416, "SIZE_INVALID", "the blob has %d bytes, the range %s lies outside", size, clip(spec))
	if first == "" { // the last so many
		n, ok := parseOffset(last)
		if !ok {
			return 0, size, false, nil
		}
		if n == 0 || size == 0 {
			return 0, 0, false, unsatisfiable
		}
		n = min(n, size)
		return size - n, n, true, nil
	}
	a, ok := parseOffset(first)
	b, okLast := parseOffset(last)
	if last == "" {
		b, okLast = size-1, true
	}
	if !ok || !okLast {
		return 0, size, false, nil
	}
	// A range that ends before it begins is invalid, which may be ignored or
	// rejected (RFC 9110 §14.2).
	if a >= size || last != "" && b < a {
		return 0, 0, false, unsatisfiable
	}
	return a, min(b, size-1) - a + 1, true, nil
}

// parseOffset reads digits. More than an int64 holds counts as its maximum.
func parseOffset(s string) (int64, bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, _ := strconv.ParseInt(s, 10, 64) // out of range: the maximum
	return n, true
}

func (x exchange) deleteBlob() error {
	d, err := parseDigest(x.item)
	if err != nil {
		return err
	}
	if err := x.Registry.deleteBlob(x.r.Context(), x.repository, d); err != nil {
		return err
	}
	return x.empty(http.StatusAccepted)
}

// startUpload is POST: a whole blob (?digest=), a mount (?mount=&from=), or the
// beginning of an upload.
func (x exchange) startUpload() error {
	query, err := url.ParseQuery(x.r.URL.RawQuery)
	if err != nil {
		return refuse(400, "BLOB_UPLOAD_INVALID", "the query does not parse")
	}
	if query.Has("digest") {
		d, err := parseDigest(query.Get("digest"))
		if err != nil {
			return err
		}
		if err := x.putBlob(x.r.Context(), x.repository, d, x.body); err != nil {
			return err
		}
		return x.blobCreated(d)
	}
	if query.Has("mount") {
		d, err := parseDigest(query.Get("mount"))
		if err != nil {
			return err
		}
		// Without from the client does not say that it may read the source, so
		// there is none.
		if from := query.Get("from"); from != "" {
			if err := checkName(from); err != nil {
				return err
			}
			mounted, err := x.mountBlob(x.r.Context(), x.repository, d, from)
			if err != nil {
				return err
			}
			if mounted {
				return x.blobCreated(d)
			}
		}
	}
	caller, err := x.caller(x.r)
	if err != nil {
		return err
	}
	s, err := x.Registry.startUpload(x.r.Context(), x.repository, caller)
	if err != nil {
		return err
	}
	return x.uploadAccepted(http.StatusAccepted, s.id, 0)
}

func (x exchange) blobCreated(d digest) error {
	x.w.Header().Set("Location", x.location("blobs/"+string(d)))
	x.w.Header().Set("Docker-Content-Digest", string(d))
	return x.empty(http.StatusCreated)
}

func (x exchange) uploadAccepted(status int, id string, received int64) error {
	x.uploadHeader(id, received)
	return x.empty(status)
}

func (x exchange) uploadHeader(id string, received int64) {
	x.w.Header().Set("Location", x.location("blobs/uploads/"+id))
	// Nothing yet is "0-0" to every client there is, though it reads as a byte.
	x.w.Header().Set("Range", fmt.Sprintf("0-%d", max(received-1, 0)))
	x.w.Header().Set("Docker-Upload-UUID", id)
}

// session is the upload that the request is about.
func (x exchange) session() (session, error) {
	caller, err := x.caller(x.r)
	return session{x.repository, x.item, caller}, err
}

func (x exchange) uploadStatus() error {
	s, err := x.session()
	if err != nil {
		return err
	}
	received, err := x.Registry.uploadStatus(x.r.Context(), s)
	if err != nil {
		return err
	}
	return x.uploadAccepted(http.StatusNoContent, x.item, received)
}

func (x exchange) patchUpload() error {
	s, err := x.session()
	if err != nil {
		return err
	}
	c, err := x.chunk()
	if err != nil {
		return err
	}
	received, err := x.appendUpload(x.r.Context(), s, c)
	if err != nil {
		return x.orWhere(err)
	}
	return x.uploadAccepted(http.StatusAccepted, x.item, received)
}

func (x exchange) putUpload() error {
	s, err := x.session()
	if err != nil {
		return err
	}
	d, err := parseDigest(x.r.URL.Query().Get("digest"))
	if err != nil {
		return err
	}
	c, err := x.chunk()
	if err != nil {
		return err
	}
	if err := x.finishUpload(x.r.Context(), s, d, c); err != nil {
		return x.orWhere(err)
	}
	return x.blobCreated(d)
}

// orWhere tells the sender of a chunk out of order where to go on.
func (x exchange) orWhere(err error) error {
	var e *outOfOrder
	if errors.As(err, &e) {
		x.uploadHeader(x.item, e.received)
	}
	return err
}

func (x exchange) cancelUpload() error {
	s, err := x.session()
	if err != nil {
		return err
	}
	if err := x.Registry.cancelUpload(x.r.Context(), s); err != nil {
		return err
	}
	return x.empty(http.StatusNoContent)
}

// chunk reads Content-Range, which is "first-last", both inclusive and without
// a unit; without it the body goes to the end.
func (x exchange) chunk() (chunk, error) {
	c := chunk{body: x.body, at: -1, size: x.r.ContentLength}
	header := x.r.Header.Get("Content-Range")
	if header == "" {
		return c, nil
	}
	first, last, _ := strings.Cut(header, "-")
	a, okFirst := parseOffset(first)
	b, okLast := parseOffset(last)
	if !okFirst || !okLast || b < a {
		return c, refuse(400, "BLOB_UPLOAD_INVALID", "Content-Range is %q, not \"first-last\"", clip(header))
	}
	if c.size >= 0 && c.size != b-a+1 {
		return c, refuse(400, "SIZE_INVALID", "Content-Range %s and Content-Length %d disagree", header, c.size)
	}
	c.at, c.size = a, b-a+1
	return c, nil
}
