package policy

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/scittd/scittd/statement"
)

// History answers about the log as it is just before the place of the entry in
// question.
type History interface {
	// Past returns entries that match q, newest first, at most limit.
	Past(ctx context.Context, q PastQuery, limit int) ([]Past, error)
}

// PastQuery selects entries: an empty field admits everything, the others must
// all be equal.
type PastQuery struct {
	Issuer        string
	Subject       string // SCITT's (sub)
	Artifact      statement.Digest
	Evidence      statement.Digest
	MediaType     string
	PredicateType string
}

// Past is an entry that is in the log already.
type Past struct {
	Index     uint64
	Private   bool
	Statement *statement.Statement
}

// maxPast bounds how far one question looks back.
const maxPast = 64

// Settle judges what depends on the log itself, for a Decision that is
// Conditional: whoever knows the entry's place asks it with the History of that
// place, and admits the entry only when there is no Refusal. An error is the
// History's.
//
// Its answer is a function of s, d and what the History says. It asks at most
// some questions for each artifact of s, and reads at most maxPast entries for
// an answer. A refusal says nothing about private entries but that there is one.
func (p *Policy) Settle(ctx context.Context, s *statement.Statement, d Decision, h History) (*Refusal, error) {
	return p.settle(ctx, s, d, h, &facts{})
}

// Serial says that Settle, asked about d, may look for entries by the issuer and sub
// of its statement.
func (p *Policy) Serial(d Decision) bool {
	return d.Conditional && slices.ContainsFunc(p.rules, func(r *rule) bool {
		return r.at() == d.Rule && slices.ContainsFunc(r.binding, func(c *condition) bool { return c.Sequence != nil || c.Newest != "" })
	})
}

// Needs says that Settle, asked about d, asks only whether something is there: what a
// History leaves out cannot make it refuse.
func (p *Policy) Needs(d Decision) bool {
	return !slices.ContainsFunc(p.rules, func(r *rule) bool {
		return r.at() == d.Rule && slices.ContainsFunc(r.binding, func(c *condition) bool { return c.Sequence != nil || c.Newest != "" || c.Unique != "" })
	})
}

func (p *Policy) settle(ctx context.Context, s *statement.Statement, d Decision, h History, f *facts) (*Refusal, error) {
	m := &matter{Statement: s, policy: p, artifacts: d.Artifacts}
	for _, r := range p.rules {
		if r.at() != d.Rule {
			continue
		}
		for _, c := range r.binding {
			if !c.dependsOnLog() || !m.applies(c.When) {
				continue
			}
			refusal, err := c.checkLog(ctx, m, h)
			if err != nil {
				return nil, fmt.Errorf("judge %s: %w", c.path, err)
			}
			if refusal != nil {
				refusal.Policy = p.Entry
			}
			if refusal := f.step(c.path, refusal, func() string { return c.input(m) }); refusal != nil {
				return refusal, nil
			}
		}
		return f.end(nil), nil
	}
	return nil, nil
}

// checkLog judges the demands that depend on the log.
func (c *condition) checkLog(ctx context.Context, m *matter, h History) (*Refusal, error) {
	for _, check := range []func(context.Context, *matter, History) (*Refusal, error){c.checkUnique, c.checkSequence, c.checkNewest, c.checkNeed} {
		if refusal, err := check(ctx, m, h); refusal != nil || err != nil {
			return refusal, err
		}
	}
	return nil, nil
}

// checkUnique: the issuer has not registered this payload for this sub before.
// A signature can be written in two ways, and a statement be signed again with
// another iat: both are other entries, and the same content.
func (c *condition) checkUnique(ctx context.Context, m *matter, h History) (*Refusal, error) {
	if c.Unique == "" {
		return nil, nil
	}
	past, err := h.Past(ctx, PastQuery{Issuer: m.Issuer, Subject: m.Subject, Evidence: m.Evidence()}, 1)
	if err != nil || len(past) == 0 {
		return nil, err
	}
	const hint = "use the receipt that it has; there is nothing to register again"
	if past[0].Private {
		return c.refuse("unique", hint, "issuer %s has registered this payload for this sub before", quote(m.Issuer)), nil
	}
	return c.refuse("unique", hint, "issuer %s has registered this payload for this sub before, as entry %s", quote(m.Issuer), past[0].Statement.ID()), nil
}

// checkSequence compares a statement's number with that of the newest entry that
// has one and that the rule applies to.
func (c *condition) checkSequence(ctx context.Context, m *matter, h History) (*Refusal, error) {
	if c.Sequence == nil {
		return nil, nil
	}
	name := c.Sequence.Claim
	v, present := m.claim(name)
	n, ok := v.(int64)
	if !ok {
		return c.refuse("sequence", "sign it with the CWT claim "+quote(name)+" as an integer", "claim %s is %s", quote(name), typeOf(v, present)), nil
	}
	before, found, err := c.newest(ctx, h, PastQuery{Issuer: m.Issuer, Subject: m.Subject}, func(old *statement.Statement) bool {
		_, numbered := old.Claims()[name].(int64)
		return numbered
	})
	if err != nil || !found {
		return nil, err
	}
	last := before.Statement.Claims()[name].(int64)
	switch {
	case c.Sequence.Step == StepGreater && n > last, c.Sequence.Step != StepGreater && last < math.MaxInt64 && n == last+1:
		return nil, nil
	case before.Private:
		return c.refuse("sequence", "number it after the newest one", "claim %s is %d, which does not follow the number of the newest entry", quote(name), n), nil
	case c.Sequence.Step == StepGreater:
		return c.refuse("sequence", fmt.Sprintf("number it greater than %d", last), "claim %s is %d, and entry %s has %d", quote(name), n, before.Statement.ID(), last), nil
	}
	return c.refuse("sequence", fmt.Sprintf("number it as the one after %d", last), "claim %s is %d, and entry %s has %d", quote(name), n, before.Statement.ID(), last), nil
}

// checkNewest compares iat with that of the newest entry that has one and that
// the rule applies to.
func (c *condition) checkNewest(ctx context.Context, m *matter, h History) (*Refusal, error) {
	if c.Newest == "" {
		return nil, nil
	}
	if m.IssuedAt.IsZero() {
		return c.refuse("newest", "sign it with iat", "the statement does not say when it was issued"), nil
	}
	q := PastQuery{Issuer: m.Issuer, Subject: m.Subject}
	if c.Newest == NewestMediaType {
		q.MediaType = m.MediaType()
	}
	before, found, err := c.newest(ctx, h, q, func(old *statement.Statement) bool { return !old.IssuedAt.IsZero() })
	switch {
	case err != nil || !found || m.IssuedAt.After(before.Statement.IssuedAt):
		return nil, err
	case before.Private:
		return c.refuse("newest", "sign what is newer than the newest one", "the statement was issued at %s, and the newest entry not before it", stamp(m.IssuedAt)), nil
	}
	return c.refuse("newest", "sign what is newer than "+stamp(before.Statement.IssuedAt), "the statement was issued at %s, and entry %s at %s",
		stamp(m.IssuedAt), before.Statement.ID(), stamp(before.Statement.IssuedAt)), nil
}

// newest returns the newest entry of q that the rule applies to and that has
// what it compares. Whatever the rule admitted has it, so nearly always that is
// the newest of all; others were there before the rule, and maxPast of them are
// read. Issuer and sub are those of q, so that of When the types alone select.
func (c *condition) newest(ctx context.Context, h History, q PastQuery, has func(*statement.Statement) bool) (newest Past, found bool, err error) {
	types := c.types()
	if q.MediaType != "" {
		types.MediaTypes = []string{q.MediaType}
	}
	for _, q.MediaType = range orAny(types.MediaTypes) {
		for _, q.PredicateType = range orAny(types.PredicateTypes) {
			for _, limit := range []int{1, maxPast} {
				past, err := h.Past(ctx, q, limit)
				if err != nil {
					return Past{}, false, err
				}
				i := slices.IndexFunc(past, func(p Past) bool { return has(p.Statement) })
				if i >= 0 && (!found || past[i].Index > newest.Index) {
					newest, found = past[i], true
				}
				if i >= 0 || len(past) < limit {
					break
				}
			}
		}
	}
	return newest, found, nil
}

// checkNeed looks for what has to be in the log before, for every artifact.
func (c *condition) checkNeed(ctx context.Context, m *matter, h History) (*Refusal, error) {
	if len(c.Needs) == 0 {
		return nil, nil
	}
	switch n := len(m.artifacts); {
	case n == 0:
		return c.refuse("needs", "name the artifact by its digest, in sub or as in-toto subject", "the statement names no artifact for which anything could be registered before"), nil
	case n > maxNeedArtifacts:
		return c.refuse("needs", "split the statement", "the statement names %d artifacts; at most %d are looked up", n, maxNeedArtifacts), nil
	}
	for i, need := range c.Needs {
		for _, artifact := range m.artifacts {
			met, err := need.met(ctx, artifact, h)
			if err != nil {
				return nil, err
			}
			if !met {
				return c.refuse(fmt.Sprintf("needs[%d]", i), "register first "+need.show(), "the log has no %s about %s", need.show(), artifact), nil
			}
		}
	}
	return nil, nil
}

func (n Need) met(ctx context.Context, artifact statement.Digest, h History) (bool, error) {
	for _, iss := range orAny(n.Issuers) {
		for _, media := range orAny(n.MediaTypes) {
			for _, predicate := range orAny(n.PredicateTypes) {
				past, err := h.Past(ctx, PastQuery{Artifact: artifact, Issuer: iss, MediaType: media, PredicateType: predicate}, 1)
				if err != nil || len(past) > 0 {
					return len(past) > 0, err
				}
			}
		}
	}
	return false, nil
}

// orAny is list, or the one empty text that admits everything.
func orAny(list []string) []string {
	if len(list) == 0 {
		return []string{""}
	}
	return list
}

func (n Need) show() string {
	text := "entry"
	if len(n.MediaTypes) > 0 {
		text += " with media type " + anyOf(n.MediaTypes)
	}
	if len(n.PredicateTypes) > 0 {
		text += " with predicate type " + anyOf(n.PredicateTypes)
	}
	if len(n.Issuers) > 0 {
		text += " by issuer " + anyOf(n.Issuers)
	}
	return text
}

// anyOf shows a list of alternatives, the first few of them.
func anyOf(list []string) string {
	const most = 4
	text := ""
	for i, item := range list[:min(len(list), most)] {
		if i > 0 {
			text += " or "
		}
		text += quote(item)
	}
	if len(list) > most {
		text += fmt.Sprintf(" or %d others", len(list)-most)
	}
	return text
}
