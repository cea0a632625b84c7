package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/scittd/scittd/statement"
)

// maxAhead is how far iat may lie in the future: clocks differ.
const maxAhead = time.Minute

// window is a stretch of time; a zero end is open.
type window struct{ from, to time.Time }

// narrow intersects w with [from, to].
func (w *window) narrow(from, to time.Time) {
	if !from.IsZero() && (w.from.IsZero() || from.After(w.from)) {
		w.from = from.UTC()
	}
	if !to.IsZero() && (w.to.IsZero() || to.Before(w.to)) {
		w.to = to.UTC()
	}
}

// Evaluate judges s at time now. It is a function of s with its chain, p and
// now, and of what its Lookups brought: no clock, no network, and what it
// remembers between calls changes no answer. Checks come in the order of their cost, the signature last.
//
// SPEC RFC 9943 §6.3: the signature and the mandatory headers MUST be checked,
// and what the policy asks for MUST be in the protected header: nothing
// unprotected is used here but an x5chain whose leaf x5t names.
func (p *Policy) Evaluate(s *statement.Statement, now time.Time, with ...Material) Decision {
	d := Decision{Policy: p.Entry}
	f := &facts{now: now, materials: with, chains: p.chains}
	var w window
	var refusal *Refusal
	switch {
	// SPEC RFC 9943 §6: a detached payload is still needed to verify.
	case !s.Verifiable():
		refusal = refusePayload()
	case forOperators(s):
		refusal = p.judgeOperator(s, now, &d, &w)
	default:
		refusal = p.judgeIssuer(s, f, &d, &w)
	}
	if refusal != nil {
		refusal.Policy = p.Entry
		return Decision{Refusal: refusal, Policy: p.Entry, Rule: refusal.Rule, Identity: Identity{Issuer: s.Issuer}}
	}
	d.NotBefore, d.NotAfter = w.from, w.to
	return d
}

// judgeOperator admits policies, service and purge statements. All are public,
// whatever the visibility of the rest.
func (p *Policy) judgeOperator(s *statement.Statement, now time.Time, d *Decision, w *window) *Refusal {
	rule, o, refusal := p.operator(s)
	if refusal != nil {
		return refusal
	}
	if refusal := checkTimes(s, now, 0, w); refusal != nil {
		return refusal
	}
	if refusal := o.verify(s); refusal != nil {
		return refusal
	}
	// Reading a policy costs more than a signature, so here that comes first.
	if s.MediaType() == MediaType {
		if refusal := p.checkSuccessor(s); refusal != nil {
			return refusal
		}
	}
	if d.Artifacts, refusal = purged(s); refusal != nil {
		return refusal
	}
	d.Rule, d.Identity = rule, o.identity(OperatorKey, s.Issuer)
	return nil
}

func (p *Policy) judgeIssuer(s *statement.Statement, f *facts, d *Decision, w *window) *Refusal {
	if i, ok := p.denied[s.Issuer]; ok {
		return refuse(CodeRejected, fmt.Sprintf("deny[%d]", i), "this issuer is refused on purpose; ask the operator",
			"issuer %s is on the deny list", quote(s.Issuer))
	}
	rules, refusal := p.candidates(s)
	if refusal != nil {
		return refusal
	}
	if refusal := checkTimes(s, f.now, time.Duration(p.Limits.MaxAge), w); refusal != nil {
		return refusal
	}
	if d.Artifacts, refusal = p.artifacts(s); refusal != nil {
		return refusal
	}
	// Several rules may still fit, as while a root is replaced: the first that
	// holds decides, and if none does, the first says why not.
	var first *Refusal
	for _, r := range rules {
		refusal := r.judgeSignature(s, f, d, w)
		if refusal == nil {
			d.Private = r.private
			return nil
		}
		if first == nil {
			first = refusal
		}
	}
	return first
}

// candidates returns the rules that may admit s, judged by what can be compared
// without computing: iss, media type, and which key or kind of key is named.
func (p *Policy) candidates(s *statement.Statement) ([]*rule, *Refusal) {
	known := p.rulesFor(s.Issuer)
	if len(known) == 0 {
		return nil, refuse(CodeUnknownIssuerKey, "issuers", "use an iss that the policy lists, or ask the operator to list this one",
			"issuer %s is not in the policy", quote(s.Issuer))
	}
	listed := filter(known, func(r *rule) bool { return r.admitsMediaType(s.MediaType()) })
	if len(listed) == 0 {
		r := known[0]
		found := "no media type"
		if t := s.MediaType(); t != "" {
			found = "media type " + quote(t)
		}
		return nil, refuse(CodeRejected, r.path+".mediaTypes", "register one of: "+quote(strings.Join(r.MediaTypes, ", ")),
			"%s is not on the list of issuer %s", found, quote(s.Issuer))
	}
	var first *Refusal
	fitting := filter(listed, func(r *rule) bool {
		refusal := r.by.fits(s)
		if first == nil {
			first = refusal
		}
		return refusal == nil
	})
	if len(fitting) == 0 {
		return nil, first
	}
	return fitting, nil
}

// rulesFor: an exact iss hides patterns.
func (p *Policy) rulesFor(iss string) []*rule {
	var found []*rule
	for _, i := range p.exact[iss] {
		found = append(found, p.rules[i])
	}
	if found != nil {
		return found
	}
	for _, i := range p.patterns {
		if r := p.rules[i]; r.admitsIssuer(iss) {
			found = append(found, r)
		}
	}
	return found
}

// judgeSignature finds who signed s and verifies it with their key.
func (r *rule) judgeSignature(s *statement.Statement, f *facts, d *Decision, w *window) *Refusal {
	who, refusal := r.by.resolve(s, f)
	if refusal != nil {
		return refusal
	}
	at := r.at()
	if refusal := verify(s, who.key, at); refusal != nil {
		return refusal
	}
	w.narrow(who.from, who.to)
	d.Rule, d.Identity = at, who.identity
	d.Chain, d.Materials = who.chain, who.materials
	return nil
}

// at is where the source of r stands in the document; it is recorded as the rule
// that admitted.
func (r *rule) at() string { return r.path + "." + r.by.member() }

func (p *Policy) artifacts(s *statement.Statement) ([]statement.Digest, *Refusal) {
	found, err := s.Artifacts(p.Subjects)
	switch {
	case errors.Is(err, statement.ErrTooManyArtifacts):
		return nil, refuse(CodeRejected, "subjects", "split the statement",
			"the statement names more than %d artifacts", statement.MaxArtifacts)
	case err != nil:
		return nil, refuse(CodeRejected, "subjects", "name artifacts by digest", "%s", show(err))
	case p.RequireSubject && len(found) == 0:
		return nil, refuse(CodeSubjectMissing, "requireSubject", "name the artifact by its sha256, sha384 or sha512 digest, in sub or as in-toto subject",
			"no artifact digest in sub %s or in the payload", quote(s.Subject))
	}
	return found, nil
}

// checkTimes judges what s says about time and narrows w to where the answer
// stays the same. maxAge 0 is no limit; it binds only who says iat.
func checkTimes(s *statement.Statement, now time.Time, maxAge time.Duration, w *window) *Refusal {
	// SPEC RFC 8392 §3.1.4 (RFC 7519 §4.1.4): not accepted on or after exp.
	if t := s.Expires; !t.IsZero() {
		if !now.Before(t) {
			return refuse(CodeRejected, "exp", "sign it again with a later exp", "the statement expired at %s, and it is %s", stamp(t), stamp(now))
		}
		w.narrow(time.Time{}, t.Add(-1))
	}
	if t := s.NotBefore; !t.IsZero() {
		if now.Before(t) {
			return refuse(CodeRejected, "nbf", "submit it then", "the statement is not valid before %s, and it is %s", stamp(t), stamp(now))
		}
		w.narrow(t, time.Time{})
	}
	t := s.IssuedAt
	if t.IsZero() {
		return nil
	}
	if t.Sub(now) > maxAhead {
		return refuse(CodeRejected, "iat", "set the signer's clock", "the statement was issued at %s, and it is %s", stamp(t), stamp(now))
	}
	w.narrow(t.Add(-maxAhead), time.Time{})
	if maxAge > 0 {
		if now.Sub(t) > maxAge {
			return refuse(CodeRejected, "limits.maxAge", "sign it again", "the statement was issued at %s, longer than %s ago", stamp(t), maxAge)
		}
		w.narrow(time.Time{}, t.Add(maxAge))
	}
	return nil
}

func refusePayload() *Refusal {
	return refuse(CodePayloadMissing, "payload", "attach the payload, or sign its digest as a hash envelope (RFC 9995, label 258); "+
		"or stage it (PUT /v1/evidence/{digest}, or as a layer beside the statement) and name its digest (evidence=sha256:…)",
		"the payload is detached, so the signature cannot be verified")
}

func (r *rule) admitsMediaType(t string) bool {
	return len(r.MediaTypes) == 0 || slices.Contains(r.MediaTypes, t)
}

func filter(rules []*rule, keep func(*rule) bool) []*rule {
	var kept []*rule
	for _, r := range rules {
		if keep(r) {
			kept = append(kept, r)
		}
	}
	return kept
}
