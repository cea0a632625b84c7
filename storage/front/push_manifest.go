package front

import (
	"crypto/sha256"
	"fmt"
	"net/http"

	"github.com/opencontainers/go-digest"

	"github.com/scittd/scittd/storage"
)

// maxPushedPayload is how long evidence may be that is pushed beside a statement,
// where it has to be read to judge that.
const maxPushedPayload = 8 << 20

// badManifest refuses what is no submission of one statement.
func badManifest(format string, args ...any) error {
	return &refusal{status: http.StatusBadRequest, code: "MANIFEST_INVALID", message: fmt.Sprintf(format, args...)}
}

// registryAnswer is what the registry said instead of what was asked for.
type registryAnswer struct{ *Answer }

func (e *registryAnswer) Error() string { return fmt.Sprintf("the registry answers %d", e.Status) }

// read gets the statement of a submission, and a detached payload if one comes
// with it, out of the repository, with the pusher's rights. release gives back
// the memory.
func (p *pushes) read(r *Request, s storage.Submission) (pushed Pushed, release func(), err error) {
	if s.Statement.Size > p.MaxStatement {
		return pushed, nil, &refusal{
			status: http.StatusRequestEntityTooLarge, code: "SIZE_INVALID",
			message: fmt.Sprintf("the statement has %d bytes; at most %d are registered: sign the digest of large evidence as a hash envelope", s.Statement.Size, p.MaxStatement),
		}
	}
	taken := s.Statement.Size
	if s.Payload.Size <= maxPushedPayload {
		taken += s.Payload.Size
	}
	if !p.room.TryAcquire(taken) {
		return pushed, nil, &refusal{
			status: http.StatusServiceUnavailable, code: "TOOMANYREQUESTS", message: "too many statements are being pushed at once, try again",
			header: http.Header{"Retry-After": {"1"}},
		}
	}
	defer func() {
		if err != nil {
			p.room.Release(taken)
		}
	}()
	release = func() { p.room.Release(taken) }
	pushed = Pushed{
		Request: r.HTTP, Repository: r.Repository, Manifest: manifestDigest(r), Image: s.Subject.Digest, Evidence: s.Evidence,
	}
	if pushed.Statement, err = fetch(r, s.Statement); err != nil {
		return pushed, nil, err
	}
	// Whether a payload is needed, the statement says. Beside one that is not
	// detached it is evidence, of any size.
	if s.Payload.Digest == "" || !p.Service.Detached(pushed.Statement) {
		return pushed, release, nil
	}
	if s.Payload.Size > maxPushedPayload {
		return pushed, nil, badManifest("the evidence that has to be read has %d bytes; beside a pushed statement it has at most %d: stage it at the service (PUT /v1/evidence/%s), and name it in the annotation %s instead",
			s.Payload.Size, int64(maxPushedPayload), s.Payload.Digest, storage.EvidenceAnnotation)
	}
	pushed.Evidence = s.Payload.Digest
	pushed.Payload, err = fetch(r, s.Payload)
	return pushed, release, err
}

// fetch reads a blob of at most a few MiB.
func fetch(r *Request, d storage.Descriptor) ([]byte, error) {
	a, err := r.Ask(r.HTTP.Context(), http.MethodGet, "/v2/"+r.Repository+"/blobs/"+d.Digest, nil, nil)
	switch {
	case err != nil:
		return nil, err
	case a.Status == http.StatusNotFound:
		return nil, &refusal{status: http.StatusBadRequest, code: "MANIFEST_BLOB_UNKNOWN", message: "layer " + d.Digest + " is not in the repository: push it first"}
	case a.Status != http.StatusOK:
		return nil, &registryAnswer{a}
	}
	if err := d.Verify(a.Body); err != nil {
		return nil, badManifest("layer %v", err)
	}
	return a.Body, nil
}

// manifestDigest is what the manifest being pushed will be known by.
func manifestDigest(r *Request) string {
	if d, err := digest.Parse(r.Reference); err == nil {
		return d.String()
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256(r.Manifest))
}
