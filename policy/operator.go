package policy

import (
	"fmt"

	"github.com/scittd/scittd/statement"
)

// forOperators: kinds of statement that only operators make.
func forOperators(s *statement.Statement) bool { return operatorsType(s.MediaType()) }

func operatorsType(t string) bool {
	return t == MediaType || t == ServiceMediaType || t == PurgeMediaType
}

// OperatorKeyIDs are the kids of the operators, in the document's order.
func (p *Policy) OperatorKeyIDs() []KeyID {
	var all []KeyID
	for _, o := range p.operators {
		all = append(all, o.kid)
	}
	return all
}

// operator finds the operator who claims to have signed s. Rule is its place.
func (p *Policy) operator(s *statement.Statement) (rule string, o *pinned, refusal *Refusal) {
	want := p.Service + StatementSubject
	switch s.MediaType() {
	case ServiceMediaType:
		want = p.Service + ServiceSubject
	case PurgeMediaType:
		want = p.Service + PurgeSubject
	}
	switch {
	case p.Service == "" || s.Issuer != p.Service || s.Subject != want:
		return "operators", nil, refuse(CodeRejected, "operators", fmt.Sprintf("use iss %s and sub %s", quote(p.Service), quote(want)),
			"%s is for the operators of this service, not for iss %s with sub %s", s.MediaType(), quote(s.Issuer), quote(s.Subject))
	case s.Thumbprint != nil || s.ChainProtected:
		return "operators", nil, refuse(CodeRejected, "operators", "sign with the key alone, named by kid", "operators are known by key, not by certificate")
	}
	for _, o := range p.operators {
		if o.names(s.KeyID) {
			return o.path, o, nil
		}
	}
	return "operators", nil, refuse(CodeUnknownIssuerKey, "operators", "sign with a key that the policy in force lists under operators",
		"kid %s is no operator's", quote(KeyID(s.KeyID).String()))
}

// checkSuccessor: s, whose signature holds, must carry a policy that replaces p.
func (p *Policy) checkSuccessor(s *statement.Statement) *Refusal {
	next, err := FromStatement(s)
	if err != nil {
		return refuse(CodeRejected, "operators", "publish it with scittd policy publish", "%s", show(err))
	}
	// The first policy is judged under itself.
	if s.ID() == p.Entry && next.Previous == nil {
		return nil
	}
	if next.Previous == nil || *next.Previous != p.Entry {
		found := "null"
		if next.Previous != nil {
			found = next.Previous.String()
		}
		return refuse(CodeRejected, "previous", "compare it with the policy in force, then publish it with previous: "+p.Entry.String(),
			"the policy replaces %s, but %s is in force", found, p.Entry)
	}
	return nil
}

// purged are the digests that a purge statement is about, whatever extractors
// the policy has; none of other kinds. Who looks for a claim about an image, or
// for evidence, finds with it what was purged of it.
func purged(s *statement.Statement) ([]statement.Digest, *Refusal) {
	if s.MediaType() != PurgeMediaType {
		return nil, nil
	}
	found, err := s.Artifacts([]statement.Extractor{statement.ExtractInToto})
	if err != nil {
		return nil, refuse(CodeRejected, "operators", "split the statement", "%s", show(err))
	}
	return found, nil
}
