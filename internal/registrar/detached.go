package registrar

import (
	"context"
	"errors"
	"fmt"

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
		payload, release, err = r.staged(ctx, digest)
		if long := (*tooLong)(nil); errors.As(err, &long) {
			err = &policy.Refusal{
				Code: policy.CodeRejected, Rule: "evidence",
				Reason: fmt.Sprintf("the detached payload has %d bytes; a signature is verified over at most %d", long.size, maxPayload),
				Hint:   "sign its digest as a hash envelope (RFC 9995, label 258)",
			}
		}
		if err != nil {
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

// decide is judge with the evidence at hand that p asks for. The registry, whose
// answers are slow and may not come, is asked last: for evidence that nobody has
// here, when all else holds, and for what is registered already only if again says
// so. done gives back the memory, once nobody needs the materials.
func (r *Registrar) decide(ctx context.Context, p *policy.Policy, s *statement.Statement, with ledger.Circumstances, again bool) (d policy.Decision, used []policy.Material, done func(), err error) {
	evidence, done, err := r.evidence(ctx, p, s, with)
	if err == nil {
		d, used, err = r.judge(ctx, p, s, evidence...)
	}
	if err == nil && lacksEvidence(s, d) && !again {
		_, err = r.ledger.Entry(ctx, s.ID(), with.Scope)
		if err == nil {
			return d, used, done, nil
		}
		if errors.Is(err, ledger.ErrNotFound) {
			err = nil
		}
	}
	if err == nil && lacksEvidence(s, d) {
		evidence, done, err = r.pushed(ctx, p, s, with)
		if err == nil && evidence != nil {
			d, used, err = r.judge(ctx, p, s, evidence...)
		}
	}
	if long := (*tooLong)(nil); errors.As(err, &long) {
		refusal := &policy.Refusal{
			Code: policy.CodeRejected, Rule: "evidence", Policy: p.Entry,
			Reason: fmt.Sprintf("the evidence %s has %d bytes; to find out who signed it, at most %d are read", s.Evidence(), long.size, maxPayload),
			Hint:   "sign less of it, or ask the operator not to ask for its signer",
		}
		return policy.Decision{Refusal: refusal, Policy: p.Entry, Rule: refusal.Rule, Identity: policy.Identity{Issuer: s.Issuer}}, nil, done, nil
	}
	return d, used, done, err
}

// lacksEvidence says whether d refuses s for nothing but evidence that was not at
// hand: its signature holds.
func lacksEvidence(s *statement.Statement, d policy.Decision) bool {
	return s.Verifiable() && d.Refusal != nil && d.Refusal.Code == policy.CodePayloadMissing
}

// evidence reads what s speaks for, when p asks who signed that: what the caller
// has, else what is staged. Where there is none, the eNotary says so. release
// gives back the memory, once nobody needs the material. *tooLong.
func (r *Registrar) evidence(ctx context.Context, p *policy.Policy, s *statement.Statement, with ledger.Circumstances) (_ []policy.Material, release func(), err error) {
	release = func() {}
	digest, needed := p.NeedsEvidence(s)
	if !needed {
		return nil, release, nil
	}
	body := with.Payload
	if !digest.Matches(body) {
		body = nil
		if r.staging != nil {
			body, release, err = r.staged(ctx, digest)
		}
	}
	if err != nil || body == nil {
		return nil, release, err
	}
	return evidenceOf(digest, body), release, nil
}

func evidenceOf(digest statement.Digest, body []byte) []policy.Material {
	return []policy.Material{{Kind: policy.EvidenceDocument, Source: string(digest), Body: body}}
}

// tooLong is content that is not read into memory.
type tooLong struct{ size int64 }

func (e *tooLong) Error() string { return fmt.Sprintf("content of %d bytes", e.size) }

// staged reads staged content; nil when there is none. A *tooLong: it is more
// than maxPayload.
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
	payload, release, err = r.read(ctx, content, size)
	if errors.As(err, new(*tooLong)) {
		return nil, nothing, err
	}
	if err != nil {
		return nil, nothing, fmt.Errorf("read staged %s: %w", digest, err)
	}
	return payload, release, nil
}
