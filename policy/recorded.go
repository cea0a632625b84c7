package policy

import (
	"fmt"

	"github.com/scittd/scittd/statement"
)

// Recorded checks what was recorded of a decision about s, without judging
// again: no signature is verified and no certificate path validated. p must
// have the rule, which may admit s and is the identity's. s carries its
// collateral. It returns what then follows, Artifacts, Private and the kept
// Chain, so that a record which Evaluate would not have made is seldom taken
// for one; Evaluate alone is sure.
func (p *Policy) Recorded(s *statement.Statement, rule string, id Identity, with ...Material) (Decision, error) {
	d := Decision{Policy: p.Entry, Rule: rule, Identity: id}
	if forOperators(s) {
		path, o, refusal := p.operator(s)
		switch {
		case refusal != nil:
			return d, refusal
		case path != rule:
			return d, fmt.Errorf("rule %s decided, not %s", path, quote(rule))
		}
		if d.Artifacts, refusal = purged(s); refusal != nil {
			return d, refusal
		}
		return d, sameIdentity(id, o.identity(OperatorKey, s.Issuer))
	}
	rules, refusal := p.candidates(s)
	if refusal != nil {
		return d, refusal
	}
	f := &facts{materials: with}
	for _, r := range rules {
		if rule != r.at() {
			continue
		}
		who, err := r.by.recorded(s, f)
		if err != nil {
			return d, fmt.Errorf("%s: %w", rule, err)
		}
		if err := sameIdentity(id, who.identity); err != nil {
			return d, err
		}
		if who.materials, err = r.evidence.kept(s, f, who.materials); err != nil {
			return d, fmt.Errorf("%s: %w", rule, err)
		}
		d.Chain, d.Materials = who.chain, who.materials
		d.Private = r.private
		d.Artifacts, refusal = p.artifacts(s)
		if refusal != nil {
			return d, refusal
		}
		return d, nil
	}
	return d, fmt.Errorf("no rule %s of the policy may admit it", quote(rule))
}

func sameIdentity(got, want Identity) error {
	if got.Name == "" {
		want.Name = "" // as older releases recorded it
	}
	if got != want {
		return fmt.Errorf("identity %+v is recorded, the rule's is %+v", got, want)
	}
	return nil
}
