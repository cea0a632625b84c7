package policy

import "github.com/scittd/scittd/statement"

// Kinds of Material.
const (
	DIDDocument      = "did"      // of a did:web
	KeySetDocument   = "keys"     // JWKS or COSE Key Set of an issuer
	EvidenceDocument = "evidence" // a signed envelope that the statement speaks for
)

// Material is what a judgement used besides the statement and the policy. What
// a lookup brought is collateral: kept, so that the judgement can be repeated
// when its source is gone or says something else.
type Material struct {
	Kind   string // DIDDocument, KeySetDocument, EvidenceDocument
	Source string // URL it came from; of evidence, its digest
	Body   []byte
}

// Lookup is a Material that Evaluate wants for a statement.
type Lookup struct {
	Kind string
	URL  string
}

// Lookups says what has to be fetched before s can be judged: nothing for most
// statements, and nothing that the policy does not name for the issuer of s.
// What was fetched is given to Evaluate; a Material that is missing there is a
// refusal.
func (p *Policy) Lookups(s *statement.Statement) []Lookup {
	if !s.Verifiable() || forOperators(s) {
		return nil
	}
	rules, _ := p.candidates(s)
	var all []Lookup
	for _, r := range rules {
		all = append(all, r.by.lookups(s)...)
	}
	return all
}
