package policy

import (
	"fmt"
	"slices"

	"github.com/scittd/scittd/statement"
)

// Succession counts operators' signatures under the documents that would
// replace a policy. It is a function of that policy and of the policy statements
// that it admitted since it is in force, in log order, and is never modified.
//
// As many operators as the policy in force asks for have to sign the same
// document, byte for byte, each in a statement of his own. The one that completes
// their number puts it in force; those before it are entries without effect.
type Succession struct {
	inForce   *Policy
	approvals []Approval
}

// Approval is an operator's signature under a document that is not in force.
type Approval struct {
	Entry    statement.ID
	Operator string           // the RFC 9679 thumbprint of the key, as in an Identity
	Document statement.Digest // that the statement carries
}

// Succession begins where p comes into force: nobody has signed another policy.
func (p *Policy) Succession() Succession { return Succession{inForce: p} }

// Approvals are those that await others, the oldest first.
func (q Succession) Approvals() []Approval { return slices.Clone(q.approvals) }

// Add counts s, a policy statement that the policy in force admits. It returns
// the policy that is in force from s on; nil: others have yet to sign it.
func (q Succession) Add(s *statement.Statement) (Succession, *Policy, error) {
	next, err := FromStatement(s)
	if err != nil {
		return q, nil, err
	}
	if next.Previous == nil || *next.Previous != q.inForce.Entry {
		return q, nil, fmt.Errorf("policy statement %s does not replace the policy in force, %s", s.ID(), q.inForce.Entry)
	}
	a, refusal := q.approval(s)
	if refusal != nil {
		return q, nil, fmt.Errorf("policy statement %s: %w", s.ID(), refusal)
	}
	signed := map[string]bool{a.Operator: true}
	for _, other := range q.approvals {
		if other.Document == a.Document {
			signed[other.Operator] = true
		}
	}
	if len(signed) >= q.inForce.Threshold {
		return next.Succession(), next, nil
	}
	return Succession{q.inForce, append(slices.Clone(q.approvals), a)}, nil, nil
}

// Repeated refuses a policy statement by an operator who has signed the same
// document already: a second signature of his counts nothing.
func (q Succession) Repeated(s *statement.Statement) *Refusal {
	a, refusal := q.approval(s)
	if refusal != nil {
		return refusal
	}
	for _, other := range q.approvals {
		if other.Document == a.Document && other.Operator == a.Operator {
			refusal := refuse(CodeRejected, "threshold", "have another operator publish the same file",
				"this operator has signed the same policy already, in entry %s, and %d of the %d operators have to", other.Entry, q.inForce.Threshold, len(q.inForce.operators))
			refusal.Policy = q.inForce.Entry
			return refusal
		}
	}
	return nil
}

// approval is what s says, whose signature was verified when it was admitted.
func (q Succession) approval(s *statement.Statement) (Approval, *Refusal) {
	_, o, refusal := q.inForce.operator(s)
	if refusal != nil {
		return Approval{}, refusal
	}
	return Approval{Entry: s.ID(), Operator: o.identity(OperatorKey, s.Issuer).Thumbprint, Document: s.Evidence()}, nil
}

// signatories is how many operators there are: a key that is listed twice is
// one.
func (p *Policy) signatories() int {
	keys := map[[32]byte]bool{}
	for _, o := range p.operators {
		keys[o.thumbprint] = true
	}
	return len(keys)
}
