package registrar

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

// A signature is verified over the whole payload at once, so that a detached one
// has to fit into memory. maxPayload of one, payloadRoom of all together.
const (
	maxPayload  = 32 << 20
	payloadRoom = 2 * maxPayload
)

// whole gives a detached statement its payload: what the caller has, else what
// is staged under the digest that the caller names. Where there is none it stays
// as it is, and the eNotary says so. That the bytes belong to the statement is
// the signature's to prove. release gives back the memory, once nobody needs s.
func (r *Registrar) whole(ctx context.Context, s *statement.Statement, with ledger.Circumstances) (_ *statement.Statement, release func(), err error) {
	release = func() {}
	if !s.Detached() {
		return s, release, agrees(s, with.Evidence)
	}
	payload, digest := with.Payload, with.Evidence
	if payload == nil && digest != "" && r.staging != nil {
		if payload, release, err = r.staged(ctx, digest); err != nil {
			return s, release, err
		}
	}
	if len(payload) == 0 {
		return s, release, nil
	}
	if digest == "" {
		digest = statement.SHA256(payload)
	}
	s, err = s.WithPayload(digest, payload)
	if err != nil {
		release()
	}
	return s, release, err
}

// agrees refuses evidence that is named for a statement which signs another.
func agrees(s *statement.Statement, evidence statement.Digest) error {
	if evidence == "" || evidence == s.Evidence() {
		return nil
	}
	return &policy.Refusal{
		Code: policy.CodeRejected, Rule: "evidence",
		Reason: fmt.Sprintf("the request names evidence %s, but what is signed speaks for %s", evidence, s.Evidence()),
		Hint:   "name no evidence: only of a detached payload the digest is not in the message",
	}
}

// staged reads staged content; nil when there is none.
func (r *Registrar) staged(ctx context.Context, digest statement.Digest) (payload []byte, release func(), err error) {
	nothing := func() {}
	content, size, err := r.staging.Staged(ctx, digest)
	if errors.Is(err, ledger.ErrNotFound) {
		return nil, nothing, nil
	}
	if err != nil {
		return nil, nothing, err
	}
	defer content.Close()
	if size > maxPayload {
		return nil, nothing, &policy.Refusal{
			Code: policy.CodeRejected, Rule: "evidence",
			Reason: fmt.Sprintf("the detached payload has %d bytes; a signature is verified over at most %d", size, maxPayload),
			Hint:   "sign its digest as a hash envelope (RFC 9995, label 258)",
		}
	}
	if err := r.payloads.Acquire(ctx, size); err != nil {
		return nil, nothing, fmt.Errorf("wait for room for a payload: %w", err)
	}
	payload = make([]byte, size)
	if _, err := io.ReadFull(content, payload); err != nil {
		r.payloads.Release(size)
		return nil, nothing, fmt.Errorf("read staged %s: %w", digest, err)
	}
	return payload, func() { r.payloads.Release(size) }, nil
}
