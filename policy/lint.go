package policy

import (
	"encoding/hex"
	"fmt"
	"regexp/syntax"
	"slices"
)

// Lint returns what is questionable in a policy that can be read, in document
// order: legal, but seldom meant. Each line starts with the place.
func (p *Policy) Lint() []string {
	var notes []string
	note := func(path, format string, args ...any) {
		notes = append(notes, path+": "+fmt.Sprintf(format, args...))
	}
	if len(p.operators) == 1 {
		note("operators", "only one; when its key is lost, the policy can never be changed again")
	}
	for i, o := range p.Operators {
		p.lintKid(note, fmt.Sprintf("operators[%d]", i), o.Kid)
	}
	if len(p.rules) == 0 {
		note("issuers", "none; only operators can register anything")
	}
	for i, r := range p.rules {
		p.lintIssuer(note, i, r)
	}
	for i, iss := range p.Deny {
		if p.denied[iss] != i {
			note(fmt.Sprintf("deny[%d]", i), "%s is there already", quote(iss))
		}
	}
	if len(p.Subjects) == 0 {
		note("subjects", "none; no claim will be found by the digest of its artifact")
	}
	seen := map[Mapping]bool{}
	for i, m := range p.Document.Repositories {
		if seen[m] {
			note(fmt.Sprintf("repositories[%d]", i), "is there already")
		}
		seen[m] = true
	}
	p.lintRules(note, p.conditions, nil)
	return notes
}

func (p *Policy) lintIssuer(note func(path, format string, args ...any), i int, r *rule) {
	if r.pattern != nil {
		if admitsAny(r) {
			note(r.path+".pattern", "admits any issuer whatever")
		}
		if re, err := syntax.Parse(r.Pattern, syntax.Perl); err == nil && hasDot(re) {
			note(r.path+".pattern", `"." stands for any character, "/" included; for a full stop write \.`)
		}
	}
	if _, ok := p.denied[r.Iss]; ok && r.pattern == nil {
		note(r.path+".iss", "%s is on the deny list, which wins", quote(r.Iss))
	}
	p.lintKid(note, r.path, r.Kid)
	if r.key != nil {
		for _, o := range p.operators {
			if o.thumbprint == r.key.thumbprint {
				note(r.path+".key", "is also the key of %s; a key should have one purpose", o.path)
			}
		}
		for _, other := range p.rules[:i] {
			if other.key != nil && other.key.thumbprint == r.key.thumbprint && other.Iss != r.Iss {
				note(r.path+".key", "is also the key of %s, another issuer", other.path)
			}
		}
	}
	r.lintCertificates(note)
	r.lintKeys(note)
	if g := r.evidence; g != nil && !includes(g.MediaTypes, r.MediaTypes) {
		note(r.path+".evidence.mediaTypes", "what is handed in under another type is not looked at, unless it is attached and an envelope by its content; list the issuer's mediaTypes too, and none but these")
	}
	if len(r.MediaTypes) == 0 && !slices.ContainsFunc(r.binding, func(c *condition) bool { return c.When == nil && len(c.MediaTypes) > 0 }) {
		note(r.path+".mediaTypes", "absent, so that any is admitted")
	}
	if r.private && len(r.Repositories) > 0 {
		note(r.path+".repositories", "unused, for private claims are never placed")
	}
	p.lintRules(note, r.conditions, r)
	for _, other := range p.rules[:i] {
		if other.hides(r) {
			note(r.path, "never reached; %s admits the same", other.path)
			break
		}
	}
}

// lintKid: somebody pasted a thumbprint in hex, and now it is text.
func (p *Policy) lintKid(note func(path, format string, args ...any), path string, kid KeyID) {
	if _, err := hex.DecodeString(string(kid)); err == nil && len(kid) >= 32 {
		note(path+".kid", "%s is text that looks like bytes; for bytes write %s%s", quote(string(kid)), hexKeyID, kid)
	}
}

// hides reports whether r takes whatever later could: same issuer, same pinned
// key under the same kid, at least its types, and nothing more to meet.
func (r *rule) hides(later *rule) bool {
	if r.key == nil || later.key == nil || r.Iss != later.Iss || !r.key.names(later.key.kid) {
		return false
	}
	return len(r.conditions) == 0 && r.evidence == nil && includes(r.MediaTypes, later.MediaTypes) && includes(r.PredicateTypes, later.PredicateTypes)
}

// AllowsAnyIssuer: some pattern admits issuers that nobody can have meant. A
// service with such a policy starts only with --allow-any-issuer.
func (p *Policy) AllowsAnyIssuer() bool { return slices.ContainsFunc(p.rules, admitsAny) }

// strangers are issuers that no policy means: .invalid names no host (RFC 6761).
var strangers = []string{
	"https://a.invalid",
	"https://stranger.invalid",
	"https://stranger-0f7a.example.invalid",
	"https://stranger.invalid/path",
	"http://stranger.invalid",
	"urn:example:stranger",
	"did:web:stranger.invalid",
	"spiffe://stranger.invalid/workload",
}

func admitsAny(r *rule) bool {
	return r.pattern != nil && slices.ContainsFunc(strangers, r.pattern.MatchString)
}

func hasDot(re *syntax.Regexp) bool {
	return re.Op == syntax.OpAnyChar || re.Op == syntax.OpAnyCharNotNL || slices.ContainsFunc(re.Sub, hasDot)
}
