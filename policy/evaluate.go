package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
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
// remembers between calls changes no answer. Checks come in the order of their
// cost; the signature is the last of those that a stranger can cause.
//
// SPEC RFC 9943 §6.3: the signature and the mandatory headers MUST be checked,
// and what the policy asks for MUST be in the protected header: nothing
// unprotected is used here but an x5chain whose leaf x5t names.
func (p *Policy) Evaluate(s *statement.Statement, now time.Time, with ...Material) Decision {
	return p.judge(s, &facts{now: now, materials: with, chains: p.chains})
}

func (p *Policy) judge(s *statement.Statement, f *facts) Decision {
	d := Decision{Policy: p.Entry}
	var w window
	var refusal *Refusal
	switch {
	// SPEC RFC 9943 §6: a detached payload is still needed to verify.
	case !s.Verifiable():
		refusal = refusePayload()
		f.told("payload", refusal, nothing)
	case forOperators(s):
		refusal = p.judgeOperator(s, f.now, &d, &w)
		f.told("operators", refusal, nothing)
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
	if refusal := f.step("deny", p.checkDenied(s), func() string { return "issuer " + quote(s.Issuer) }); refusal != nil {
		return refusal
	}
	rules, refusal := p.selectRules(s, f)
	if refusal != nil {
		return f.end(refusal)
	}
	refusal = checkTimes(s, f.now, time.Duration(p.Limits.MaxAge), w)
	if refusal := f.step("exp, nbf, iat, limits", refusal, func() string { return times(s, f.now) }); refusal != nil {
		return refusal
	}
	d.Artifacts, refusal = p.artifacts(s)
	if refusal := f.step("subjects", refusal, func() string { return fmt.Sprintf("%d artifacts", len(d.Artifacts)) }); refusal != nil {
		return refusal
	}
	// Only an explanation gets here with a refusal.
	refused := f.end(nil)
	// Several rules may still fit, as while a root is replaced: the first that
	// holds decides, and if none does, the first says why not: of those that lack
	// nothing but their evidence, else of all.
	var first *Refusal
	var again bool // a rule that refused may hold in another second, and would decide then
	for _, r := range rules {
		judged, narrowed := *d, *w
		refusal := r.judge(s, f, &matter{Statement: s, policy: p, now: f.now, artifacts: d.Artifacts}, &judged, &narrowed)
		if refusal == nil {
			if again {
				second := f.now.Truncate(time.Second)
				narrowed.narrow(second, second.Add(time.Second-1))
			}
			*d, *w = judged, narrowed
			return refused
		}
		again = again || r.timed()
		if first == nil || refusal.Code == CodePayloadMissing && first.Code != CodePayloadMissing {
			first = refusal
		}
	}
	if refused != nil {
		return refused
	}
	return first
}

func (p *Policy) checkDenied(s *statement.Statement) *Refusal {
	if i, ok := p.denied[s.Issuer]; ok {
		return refuse(CodeRejected, fmt.Sprintf("deny[%d]", i), "this issuer is refused on purpose; ask the operator",
			"issuer %s is on the deny list", quote(s.Issuer))
	}
	return nil
}

// candidates returns the rules that may admit s, judged by what can be compared
// without computing: iss, types, and which key or kind of key is named.
func (p *Policy) candidates(s *statement.Statement) ([]*rule, *Refusal) {
	return p.selectRules(s, &facts{})
}

func (p *Policy) selectRules(s *statement.Statement, f *facts) ([]*rule, *Refusal) {
	known := p.rulesFor(s.Issuer)
	if len(known) == 0 {
		refusal := refuse(CodeUnknownIssuerKey, "issuers", "use an iss that the policy lists, or ask the operator to list this one",
			"issuer %s is not in the policy", quote(s.Issuer))
		f.told("issuers", refusal, func() string { return "issuer " + quote(s.Issuer) })
		return nil, refusal
	}
	var fitting []*rule
	var unlisted, unfit *Refusal // the first of each
	for _, r := range known {
		refusal := r.lists(s)
		switch {
		case refusal != nil:
			unlisted = cmp.Or(unlisted, refusal)
		default:
			if refusal = r.by.fits(s); refusal == nil {
				fitting = append(fitting, r)
			}
			unfit = cmp.Or(unfit, refusal)
		}
		f.fitted(r.path, refusal, func() string { return "issuer " + quote(s.Issuer) + ", " + described("media type", s.MediaType()) })
	}
	if len(fitting) > 0 {
		return fitting, nil
	}
	return nil, cmp.Or(unfit, unlisted)
}

// lists says whether r is for statements of that kind.
func (r *rule) lists(s *statement.Statement) *Refusal {
	switch {
	case !r.admitsMediaType(s.MediaType()):
		return refuse(CodeRejected, r.path+".mediaTypes", "register one of: "+quoteAll(r.MediaTypes),
			"%s is not on the list of issuer %s", described("media type", s.MediaType()), quote(s.Issuer))
	case len(r.PredicateTypes) > 0 && !slices.Contains(r.PredicateTypes, s.PredicateType()):
		return refuse(CodeRejected, r.path+".predicateTypes", "attach an in-toto statement with one of: "+quoteAll(r.PredicateTypes),
			"%s", unlistedPredicate(s, "is not on the list of issuer "+quote(s.Issuer), r.PredicateTypes))
	}
	return nil
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

// judge judges s by r: the rules that bind its issuer, who signed, and last what
// those rules say of them. Nobody whose signature does not hold makes an
// expression run.
func (r *rule) judge(s *statement.Statement, f *facts, m *matter, d *Decision, w *window) *Refusal {
	var later []*condition // that have more to say
	for _, c := range r.binding {
		if !m.applies(c.When) {
			f.note(c.path, NotAsked, nothing)
			continue
		}
		refusal := c.checkStated(m, r, w)
		if refusal == nil && (c.expression != nil || c.dependsOnLog()) {
			later = append(later, c)
			continue
		}
		if refusal := f.step(c.path, refusal, func() string { return c.input(m) }); refusal != nil {
			return refusal
		}
	}
	if refusal := r.judgeSignature(s, f, m, d, w); refusal != nil {
		f.told(r.at(), refusal, func() string { return "alg " + s.Alg.String() })
		for _, c := range later {
			f.note(c.path, NotJudged, func() string { return c.input(m) })
		}
		return f.end(refusal)
	}
	f.note(r.at(), Identified, func() string { return d.Identity.show() })
	if r.evidence.concerns(s) {
		refusal := r.judgeEvidence(s, f, d, w)
		if refusal := f.step(r.path+".evidence", refusal, func() string { return "signed by " + d.EvidenceSigner.show() }); refusal != nil {
			return refusal
		}
	}
	for _, c := range later {
		refusal := c.checkExpression(m, w)
		if refusal == nil && c.dependsOnLog() {
			d.Conditional = true
			f.note(c.path, AskTheLog, func() string { return c.input(m) })
			continue
		}
		if refusal := f.step(c.path, refusal, func() string { return c.input(m) }); refusal != nil {
			return refusal
		}
	}
	d.Private = r.private
	return f.end(nil)
}

// timed says whether r may hold where it did not before, only because time has
// passed: its certificates begin, or its expressions tell seconds.
func (r *rule) timed() bool {
	_, pinned := r.by.(pinnedKey)
	return !pinned || r.evidence != nil ||
		slices.ContainsFunc(r.binding, func(c *condition) bool { return c.expression != nil && c.expression.timed })
}

// judgeSignature finds who signed s and verifies it with their key.
func (r *rule) judgeSignature(s *statement.Statement, f *facts, m *matter, d *Decision, w *window) *Refusal {
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
	m.who = who
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
