package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/scittd/scittd/statement"
)

// Recorded checks what was recorded of a decision about s, without judging
// again: no signature is verified and no certificate path validated. p must
// have the rule, which may admit s and is the identity's. s carries its
// collateral. It returns what then follows, Artifacts, Private and the kept
// Chain, so that a record which Evaluate would not have made is seldom taken
// for one; Evaluate alone is sure.
func (p *Policy) Recorded(s *statement.Statement, rule string, id Identity) (Decision, error) {
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
	for _, r := range rules {
		var want Identity
		switch rule {
		case r.path + ".key":
			if r.key == nil {
				continue
			}
			want = r.key.identity(PinnedKey, s.Issuer)
		case r.path + ".x509":
			if r.certs == nil {
				continue
			}
			if len(s.Chain) == 0 {
				return d, fmt.Errorf("the certificates that %s judged are not kept", rule)
			}
			leaf := sha256.Sum256(s.Chain[0])
			want = Identity{Kind: Certificate, Issuer: s.Issuer, Thumbprint: hex.EncodeToString(leaf[:])}
			if !s.ChainProtected {
				d.Chain = s.Chain
			}
		default:
			continue
		}
		if err := sameIdentity(id, want); err != nil {
			return d, err
		}
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
	if got != want {
		return fmt.Errorf("identity %+v is recorded, the rule's is %+v", got, want)
	}
	return nil
}
