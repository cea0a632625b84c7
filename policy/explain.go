package policy

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/scittd/scittd/statement"
)

// Step is one rule that a judgement came by.
type Step struct {
	Rule    string // its name or place in the document, as in a Decision
	Outcome Outcome
	Input   string   // what it looked at; "" where that is plain
	Refusal *Refusal // of Refuses and Unfit
}

// Outcome is what a rule said.
type Outcome string

const (
	Holds      Outcome = "holds"
	Refuses    Outcome = "refuses"
	Fits       Outcome = "fits"         // an issuer's rule, which is judged after
	Unfit      Outcome = "does not fit" // one whose place another may take
	NotAsked   Outcome = "does not apply"
	AskTheLog  Outcome = "depends on the log" // Settle says
	NotJudged  Outcome = "not judged: refused before"
	Identified Outcome = "identifies" // the issuer's rule found who signed, and the signature holds
)

// Explain judges as Evaluate does, by the same code, and tells every rule on the
// way, once for each issuer's rule that fits. It goes on where Evaluate ends, at
// the first refusal, as far as there is something to go on with: all that is wrong
// is told at once. The Decision is Evaluate's.
func (p *Policy) Explain(s *statement.Statement, now time.Time, with ...Material) (Decision, []Step) {
	f := &facts{now: now, materials: with, chains: p.chains, trace: &trace{}}
	d := p.judge(s, f)
	return d, f.trace.steps
}

// ExplainSettle is to Settle what Explain is to Evaluate: it tells what became of the
// steps that depend on the log.
func (p *Policy) ExplainSettle(ctx context.Context, s *statement.Statement, d Decision, h History) (*Refusal, []Step, error) {
	f := &facts{trace: &trace{}}
	refusal, err := p.settle(ctx, s, d, h, f)
	return refusal, f.trace.steps, err
}

// trace collects what Explain tells.
type trace struct {
	steps []Step
	first *Refusal // since the last end
}

// step ends the judgement of a rule: with its refusal, if there is one. An
// explanation notes the step, and gets nil to go on with; end has the refusal.
func (f *facts) step(rule string, refusal *Refusal, input func() string) *Refusal {
	if f.trace == nil {
		return refusal
	}
	f.trace.first = cmp.Or(f.trace.first, refusal)
	f.told(rule, refusal, input)
	return nil
}

// end returns the first refusal that steps had since the last end, else refusal.
func (f *facts) end(refusal *Refusal) *Refusal {
	if f.trace == nil {
		return refusal
	}
	first := f.trace.first
	f.trace.first = nil
	return cmp.Or(first, refusal)
}

// told notes what a rule said where the judgement itself knows how to go on.
func (f *facts) told(rule string, refusal *Refusal, input func() string) {
	f.tell(rule, Holds, Refuses, refusal, input)
}

// fitted notes whether an issuer's rule may be the one for a statement.
func (f *facts) fitted(rule string, refusal *Refusal, input func() string) {
	f.tell(rule, Fits, Unfit, refusal, input)
}

// tell notes the outcome without a refusal, or the one with it.
func (f *facts) tell(rule string, outcome, otherwise Outcome, refusal *Refusal, input func() string) {
	if f.trace == nil {
		return
	}
	if refusal != nil {
		outcome = otherwise
	}
	f.trace.steps = append(f.trace.steps, Step{Rule: rule, Outcome: outcome, Input: input(), Refusal: refusal})
}

// note tells a step that refuses nothing.
func (f *facts) note(rule string, outcome Outcome, input func() string) {
	if f.trace != nil {
		f.trace.steps = append(f.trace.steps, Step{Rule: rule, Outcome: outcome, Input: input()})
	}
}

func nothing() string { return "" }

// input tells what a rule looks at.
func (c *condition) input(m *matter) string {
	var seen []string
	see := func(is bool, format string, args ...any) {
		if is {
			seen = append(seen, fmt.Sprintf(format, args...))
		}
	}
	see(c.Deny || len(c.Issuers) > 0 || len(c.Identities) > 0, "issuer %s", quote(m.Issuer))
	see(c.Deny || len(c.MediaTypes) > 0, "%s", m.what())
	see(len(c.PredicateTypes) > 0, "%s", described("predicate type", m.PredicateType()))
	see(len(c.Repositories) > 0, "repositories %s", quote(strings.Join(m.signedRepositories(), ", ")))
	see(c.MaxAge > 0 || c.Newest != "", "iat %s", stampOrNone(m.IssuedAt))
	if c.Require != nil {
		names := append(append(append([]string{}, c.Require.Claims...), sortedKeys(c.Require.Types)...), sortedKeys(c.Require.Values)...)
		for _, name := range names {
			m.seeClaim(see, name)
		}
	}
	if c.RegisterBy != "" {
		m.seeClaim(see, c.RegisterBy)
	}
	if c.Sequence != nil {
		m.seeClaim(see, c.Sequence.Claim)
	}
	see(c.Unique != "", "payload %s", m.Evidence())
	see(len(c.Needs) > 0, "%d artifacts", len(m.artifacts))
	see(c.CEL != "", "%s", quote(oneLine(c.CEL)))
	return strings.Join(seen, ", ")
}

func (m *matter) seeClaim(see func(bool, string, ...any), name string) {
	v, ok := m.claim(name)
	if text, scalar := scalarText(v); scalar {
		see(true, "claim %s = %s", quote(name), quote(text))
		return
	}
	see(true, "claim %s is %s", quote(name), typeOf(v, ok))
}

func stampOrNone(t time.Time) string {
	if t.IsZero() {
		return "none"
	}
	return stamp(t)
}

// times tells what a statement says of time.
func times(s *statement.Statement, now time.Time) string {
	return fmt.Sprintf("exp %s, nbf %s, iat %s; it is %s", stampOrNone(s.Expires), stampOrNone(s.NotBefore), stampOrNone(s.IssuedAt), stamp(now))
}

func (id Identity) show() string {
	text := id.Kind + " " + id.Thumbprint
	if id.Name != "" {
		text += " (" + quote(id.Name) + ")"
	}
	return text
}
