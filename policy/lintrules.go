package policy

import "slices"

// lintRules notes the rules that do nothing, or refuse everything.
func (p *Policy) lintRules(note func(path, format string, args ...any), list []*condition, owner *rule) {
	for i, c := range list {
		for _, earlier := range list[:i] {
			if earlier.Deny && earlier.When.covers(c.When) {
				note(c.path, "never reached; %s refuses the same", earlier.path)
				break
			}
		}
		if c.Deny && c.When == nil {
			note(c.path+".deny", "refuses every statement but those of operators")
		}
		if disjoint(c.MediaTypes, c.When.mediaTypes()) {
			note(c.path+".mediaTypes", "none of those in when; say deny to refuse them all")
		}
		if c.When != nil {
			p.lintWhen(note, c, owner)
		}
	}
}

// lintWhen notes what a rule waits for in vain. owner is the issuer whose rule it
// is; nil for a rule of the document.
func (p *Policy) lintWhen(note func(path, format string, args ...any), c *condition, owner *rule) {
	issuers := p.rules
	if owner != nil {
		issuers = []*rule{owner}
	}
	for _, iss := range c.When.Issuers {
		switch {
		case owner != nil && !owner.admitsIssuer(iss):
			note(c.path+".when.issuers", "%s is not that of %s", quote(iss), owner.path)
		case owner == nil && len(p.rulesFor(iss)) == 0:
			note(c.path+".when.issuers", "%s is not in the policy", quote(iss))
		}
	}
	for _, t := range c.When.MediaTypes {
		if !slices.ContainsFunc(issuers, func(r *rule) bool { return r.admitsMediaType(t) }) {
			note(c.path+".when.mediaTypes", "%s is admitted from no issuer", t)
		}
	}
	for _, t := range c.When.PredicateTypes {
		if !slices.ContainsFunc(issuers, func(r *rule) bool { return oneOf(r.PredicateTypes, t) }) {
			note(c.path+".when.predicateTypes", "%s is admitted from no issuer", quote(t))
		}
	}
}

// covers reports whether w selects whatever other does.
func (w *When) covers(other *When) bool {
	if w == nil {
		return true
	}
	if other == nil {
		return false
	}
	return includes(w.Issuers, other.Issuers) && includes(w.Repositories, other.Repositories) &&
		includes(w.MediaTypes, other.MediaTypes) && includes(w.PredicateTypes, other.PredicateTypes)
}

// includes reports whether a list has all of another; an empty one has everything.
func includes(list, other []string) bool {
	return len(list) == 0 || len(other) > 0 && !slices.ContainsFunc(other, func(text string) bool { return !slices.Contains(list, text) })
}

func (w *When) mediaTypes() []string {
	if w == nil {
		return nil
	}
	return w.MediaTypes
}

func disjoint(a, b []string) bool {
	return len(a) > 0 && len(b) > 0 && !slices.ContainsFunc(a, func(text string) bool { return slices.Contains(b, text) })
}
