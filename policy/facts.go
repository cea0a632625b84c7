package policy

import (
	"errors"

	"github.com/scittd/scittd/statement"
)

// Kinds of Material.
const (
	DIDDocument      = "did"       // of a did:web
	KeySetDocument   = "keys"      // JWKS or COSE Key Set of an issuer
	EvidenceDocument = "evidence"  // a signed envelope that the statement speaks for
	TimestampToken   = "timestamp" // of the signature (RFC 9921), which came unprotected
)

// Material is what a judgement used besides the statement and the policy. What
// a lookup brought is collateral: kept, so that the judgement can be repeated
// when its source is gone or says something else.
type Material struct {
	Kind   string // DIDDocument, KeySetDocument, EvidenceDocument, TimestampToken
	Source string // URL it came from; of evidence, its digest; of a time-stamp, the entry it is of
	Body   []byte
}

// Lookup is a Material that Evaluate wants for a statement.
type Lookup struct {
	Kind string
	URL  string
}

// ErrLookup is the error of whoever was to bring what a Lookup asks for, and does
// not know now what is there. It is no reason to refuse a statement, and none to
// admit it.
var ErrLookup = errors.New("lookup failed")

// Lookups says what has to be fetched before s can be judged: nothing for most
// statements, and nothing that the policy does not name for the issuer of s.
// What was fetched is given to Evaluate; a Material that is missing there is a
// refusal.
func (p *Policy) Lookups(s *statement.Statement) []Lookup {
	if !p.published && !p.guards || !s.Verifiable() || forOperators(s) {
		return nil // the first is what most policies cost each statement
	}
	rules, _ := p.candidates(s)
	var all []Lookup
	for _, r := range rules {
		all = append(append(all, r.by.lookups(s)...), r.evidence.lookups(s)...)
	}
	return all
}
