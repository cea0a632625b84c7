package registrar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
	"github.com/scittd/scittd/storage"
)

// pushedTime bounds reading evidence from the registry. It is less than callers
// wait for a registration, so that they hear what was in the way.
const pushedTime = 8 * time.Second

// pushed reads the evidence of s where its publisher pushed it: in the repository
// that the submission names, else where the policy would place the claim. No
// other host is asked than the registry, and nothing but for that digest. Where it
// is not, or may not be read by this service, there is no material. *tooLong, or
// policy.ErrLookup: what is there is not known now.
func (r *Registrar) pushed(ctx context.Context, p *policy.Policy, s *statement.Statement, with ledger.Circumstances) (_ []policy.Material, release func(), err error) {
	release = func() {}
	if r.blobs == nil {
		return nil, release, nil
	}
	repositories := []string{with.Repository}
	if with.Repository == "" {
		// What the signed bytes exclude is refused once the rest holds.
		repositories, _ = p.Repositories(s, "", r.registry)
	}
	ctx, cancel := context.WithTimeout(ctx, pushedTime)
	defer cancel()
	digest := s.Evidence()
	for _, name := range repositories {
		body, done, err := r.blob(ctx, name, digest)
		switch {
		case err == nil:
			return evidenceOf(digest, body), done, nil
		case errors.Is(err, storage.ErrNotFound), errors.Is(err, storage.ErrRefused):
		case errors.Is(err, storage.ErrDenied): // as some registries say of what is not there
			r.log.WarnContext(ctx, "evidence not read", "repository", name, "evidence", digest, "err", err)
		case errors.As(err, new(*tooLong)):
			return nil, release, err
		default:
			r.log.WarnContext(ctx, "evidence not read", "repository", name, "evidence", digest, "err", err)
			return nil, release, fmt.Errorf("%w: the registry does not give the evidence %s from %s now", policy.ErrLookup, digest, name)
		}
	}
	return nil, release, nil
}

// blob reads a blob of the registry into memory; see read.
func (r *Registrar) blob(ctx context.Context, repository string, digest statement.Digest) (body []byte, release func(), err error) {
	if !policy.ValidRepository(repository) {
		return nil, nil, storage.ErrNotFound
	}
	repo, err := r.blobs.Repository(repository)
	if err != nil {
		return nil, nil, err
	}
	content, size, err := repo.Blob(ctx, string(digest))
	if err != nil {
		return nil, nil, err
	}
	defer content.Close()
	if body, release, err = r.read(ctx, content, size); err != nil {
		return nil, nil, err
	}
	if !digest.Matches(body) {
		release()
		return nil, nil, storage.ErrOtherBytes
	}
	return body, release, nil
}

// read reads size bytes into memory, once there is room for them. *tooLong: they
// are more than maxPayload.
func (r *Registrar) read(ctx context.Context, content io.Reader, size int64) (body []byte, release func(), err error) {
	if size > maxPayload {
		return nil, nil, &tooLong{size}
	}
	if err := r.payloads.Acquire(ctx, size); err != nil {
		return nil, nil, fmt.Errorf("wait for room for a payload: %w", err)
	}
	body = make([]byte, size)
	if _, err := io.ReadFull(content, body); err != nil {
		r.payloads.Release(size)
		return nil, nil, err
	}
	return body, func() { r.payloads.Release(size) }, nil
}
