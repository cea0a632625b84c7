package api

import (
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

const (
	// stagingTime is how long evidence waits for an entry to claim it.
	stagingTime = 24 * time.Hour

	// idleTime is how long an upload may stand still.
	idleTime = time.Minute
)

// stage keeps evidence until the entry that speaks for it is placed. It is
// durable when this answers: 201, or 200 where the same bytes were already.
func (a *API) stage(w http.ResponseWriter, r *http.Request, c Caller) error {
	digest, err := parseDigest(pathValue(r, "digest"))
	if err != nil {
		return err
	}
	if err := acceptPlain(r.Header); err != nil {
		return err
	}
	limit := a.Limits.Evidence
	if r.ContentLength > limit {
		return evidenceTooLarge(limit)
	}
	status := http.StatusCreated
	if old, _, err := a.Staging.Staged(r.Context(), digest); err == nil {
		old.Close()
		status = http.StatusOK
	} else if !errors.Is(err, ledger.ErrNotFound) {
		return err
	}

	body := &arriving{
		Reader: http.MaxBytesReader(w, r.Body, limit), connection: http.NewResponseController(w),
	}
	size, err := a.Staging.Stage(r.Context(), digest, body, ledger.StagingLimits{
		MaxSize: limit, Quota: a.Limits.StagingQuota, Keep: stagingTime,
	})
	switch {
	case errors.As(body.err, new(*http.MaxBytesError)), errors.Is(err, ledger.ErrTooLarge):
		return evidenceTooLarge(limit)
	case body.err != nil:
		return bodyError(body.err)
	case err != nil:
		return err
	}
	brief.set(w)
	w.Header().Set("Cache-Control", "no-store")
	send(w, status, jsonType, marshalJSON(apitype.Staged{Digest: string(digest), Size: size}))
	a.log.InfoContext(r.Context(), "evidence staged", "digest", digest, "size", size, "caller", c.Name)
	return nil
}

func evidenceTooLarge(limit int64) *fault {
	f := tooLarge(limit)
	f.hint = "push it as a blob of the image's repository instead"
	return f
}

// arriving is a body that may take any time as long as it moves. It remembers
// why it broke off.
type arriving struct {
	io.Reader
	connection *http.ResponseController
	err        error // other than io.EOF
}

func (b *arriving) Read(p []byte) (int, error) {
	b.connection.SetReadDeadline(time.Now().Add(idleTime))
	n, err := b.Reader.Read(p)
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}

// parseDigest reads a digest as people write it: 64 bare digits are SHA-256.
func parseDigest(s string) (statement.Digest, error) {
	if len(s) == 64 {
		s = "sha256:" + s
	}
	d, err := statement.ParseDigest(s)
	if err != nil {
		return "", &fault{code: "bad-digest", cause: err}
	}
	return d, nil
}
