package api

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/scittd/scittd/ledger"
)

// sendEvidence sends size bytes, or the range of them that was asked for. They
// are a publisher's own: no browser is to make a page of them.
func sendEvidence(w http.ResponseWriter, r *http.Request, c Caller, e ledger.Entry, content io.Reader, size int64) error {
	h := w.Header()
	etag := `"` + string(e.Evidence) + `"`
	first, n := int64(0), size
	status := http.StatusOK
	// SPEC RFC 9110 §13.1.5: a range of something else is no use; all of it is.
	if held := r.Header.Get("If-Range"); held == "" || held == etag {
		var partial, ok bool
		if first, n, partial, ok = byteRange(r.Header.Get("Range"), size); !ok {
			h.Set("Content-Range", fmt.Sprintf("bytes */%d", size))
			return &fault{code: "bad-range", detail: fmt.Sprintf("There are %d bytes.", size)}
		}
		if partial {
			status = http.StatusPartialContent
			h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, first+n-1, size))
		}
	}
	mediaType := e.MediaType
	if mediaType == "" {
		mediaType = "application/octet-stream"
	}
	h.Set("Content-Type", mediaType)
	h.Set("Content-Length", strconv.FormatInt(n, 10))
	h.Set("Content-Disposition", "attachment")
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Accept-Ranges", "bytes")
	h.Set("ETag", etag)
	h.Set("Cache-Control", fresh(c))
	if r.Method == http.MethodHead {
		w.WriteHeader(status)
		return nil
	}
	if _, err := io.CopyN(io.Discard, content, first); err != nil {
		clear(h) // which spoke of the evidence
		return &fault{code: "registry-failure", cause: err}
	}
	w.WriteHeader(status)
	out := leaving{w, http.NewResponseController(w)}
	_, err := io.CopyN(out, content, n)
	if err == nil && first+n == size {
		// The digest is compared behind the last byte.
		if _, err = content.Read(make([]byte, 1)); err == io.EOF {
			err = nil
		}
	}
	if err != nil {
		panic(http.ErrAbortHandler) // so that nobody takes half for whole
	}
	return nil
}

// leaving is an answer that may take any time as long as it moves.
type leaving struct {
	io.Writer
	connection *http.ResponseController
}

func (l leaving) Write(p []byte) (int, error) {
	l.connection.SetWriteDeadline(time.Now().Add(idleTime))
	return l.Writer.Write(p)
}

// byteRange reads a Range header for size bytes. Several ranges, or another unit,
// are answered with everything.
//
// SPEC RFC 9110 §14.1.2: first-last, first-, or -suffix; a last beyond the end is
// the end; a first beyond it is not satisfiable.
func byteRange(header string, size int64) (first, n int64, partial, ok bool) {
	set, isBytes := strings.CutPrefix(header, "bytes=")
	from, to, isRange := strings.Cut(strings.TrimSpace(set), "-")
	if !isBytes || !isRange || strings.Contains(set, ",") {
		return 0, size, false, true
	}
	if from == "" {
		suffix, err := strconv.ParseUint(to, 10, 63)
		if err != nil {
			return 0, size, false, true
		}
		n = min(int64(suffix), size)
		return size - n, n, true, n > 0
	}
	start, err := strconv.ParseUint(from, 10, 63)
	if err != nil {
		return 0, size, false, true
	}
	end := size - 1
	if to != "" {
		last, err := strconv.ParseUint(to, 10, 63)
		if err != nil || last < start {
			return 0, size, false, true
		}
		end = min(end, int64(last))
	}
	return int64(start), end - int64(start) + 1, true, int64(start) < size
}
