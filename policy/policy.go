// Package policy is the eNotary: who signed a statement, and may it be
// registered? It reads Registration Policies and judges Signed Statements by
// them. A verdict is a Decision; a refusal is a Decision too, not a failure.
//
// # The document
//
// People write a policy in YAML. Keys and certificates are named by file,
// relative to the document, or pasted as PEM:
//
//	version: 1
//	previous: null            # entry ID of the policy this one replaces; null in the first
//	operators:
//	  - key: operator.pub     # signs policies and service statements, nothing else does
//	threshold: 1
//	issuers:
//	  - iss: https://wabbit.example             # a pinned key: iss + kid -> key
//	    key: wabbit.pub                         # PEM or COSE_Key
//	    kid: release-2026                       # default: the key's RFC 9679 thumbprint; "hex:…" for bytes
//	    mediaTypes: [application/spdx+json, application/vnd.cyclonedx+json]
//	    repositories: ["wabbit/*"]              # where a location in sub may place its claims
//	  - iss: https://acme.example               # certificates: listed roots AND a leaf constraint
//	    x509: {roots: [acme-root.pem], san: "https://acme.example", eku: codeSigning}
//	    visibility: private
//	  - pattern: ^https://[a-z]+\.partners\.example$   # anchored; x509 only
//	    x509: {roots: [partners-root.pem]}
//	deny: ["https://formerly.example"]
//	subjects: [intoto, sub]   # extractors, in order
//	requireSubject: false
//	repositories: [{match: net-monitor, to: wabbit/net-monitor}]
//	visibility: public
//	limits: {maxAge: 8760h}   # for statements that carry iat
//
// X509, DID, KeySet and OIDC tell what else may stand in place of a key.
//
// On the log it is RFC 8785 JSON with keys (base64 COSE_Key), certificates and
// revocation lists (base64 DER) inlined; Parse accepts exactly the bytes that JSON writes.
//
// # Promises
//
// Evaluate is a function of the statement with its chain, the policy, the time
// and the Materials that its Lookups asked for; Settle, which judges the rules
// about the log, of that and of what a History says of the entries before. So an
// auditor who holds these repeats every decision offline. Neither opens a file or
// a connection, and Explain tells every rule that they go by, being the same code.
// Issuers compare as exact strings and patterns are anchored. An x509 identity
// admits exactly one iss: two vendors under one root cannot speak as each other.
// A Policy is safe for concurrent use, and everything it caches dies with it.
//
// It does not know who called the service, what is in the ledger but for what a
// History answers, or whether evidence is true. Only its signer is judged.
package policy

import (
	"fmt"
	"slices"

	"github.com/scittd/scittd/statement"
)

// MediaType is the content type of a policy statement, whose payload is the
// RFC 8785 JSON form; ServiceMediaType that of a service statement; PurgeMediaType
// that of a purge statement, an in-toto Statement about evidence that was removed.
// All three are admitted from operator keys only.
const (
	MediaType        = "application/vnd.scittd.policy+json"
	ServiceMediaType = "application/vnd.scittd.service+json"
	PurgeMediaType   = "application/vnd.scittd.purge+json"
)

// What follows the service URL in sub of a policy statement, of a service
// statement and of a purge statement.
const (
	StatementSubject = "/policy"
	ServiceSubject   = "/service"
	PurgeSubject     = "/purge"
)

// Policy is a Registration Policy, immutable once read. It comes from ReadYAML,
// Parse, New, FromStatement or Bootstrap; one made otherwise admits nothing.
type Policy struct {
	Entry   statement.ID // of the policy statement that carries it; zero before it is signed
	Service string       // service URL: iss of that statement; "" before it is signed
	Document

	operators  []*pinned
	rules      []*rule          // one per issuer of the document
	conditions []*condition     // one per rule of the document
	exact      map[string][]int // iss -> rules
	patterns   []int            // rules that admit a pattern
	denied     map[string]int   // iss -> index in Deny
	chains     *chainCache
	guards     bool // some rule asks who signed evidence
	published  bool // some issuer publishes its keys
}

// FromStatement reads the policy that s carries in its attached payload. It
// does not ask who signed s.
func FromStatement(s *statement.Statement) (*Policy, error) {
	switch {
	case s.MediaType() != MediaType:
		return nil, fmt.Errorf("policy statement %s: media type %s, want %s", s.ID(), quote(s.MediaType()), MediaType)
	case s.Envelope != nil || s.Detached():
		return nil, fmt.Errorf("policy statement %s: the policy is not in the message; attach it as payload", s.ID())
	case s.Subject != s.Issuer+StatementSubject:
		return nil, fmt.Errorf("policy statement %s: sub %s, want iss + %q", s.ID(), quote(s.Subject), StatementSubject)
	}
	p, err := Parse(s.Payload)
	if err != nil {
		return nil, fmt.Errorf("policy statement %s: %w", s.ID(), err)
	}
	p.Entry, p.Service = s.ID(), s.Issuer
	return p, nil
}

// Bootstrap reads the first policy of a log: leaf 0. It names no previous
// policy and is signed by an operator that it names itself; whoever trusts the
// log must have compared that key with one obtained elsewhere.
func Bootstrap(s *statement.Statement) (*Policy, error) {
	p, err := FromStatement(s)
	if err != nil {
		return nil, err
	}
	if p.Previous != nil {
		return nil, fmt.Errorf("policy statement %s: previous is %s, but the first policy of a log has none", s.ID(), p.Previous)
	}
	_, o, refusal := p.operator(s)
	if refusal == nil {
		refusal = o.verify(s)
	}
	if refusal != nil {
		return nil, fmt.Errorf("policy statement %s: %w", s.ID(), refusal)
	}
	return p, nil
}

// Hides says whether p makes the entries of any issuer private.
func (p *Policy) Hides() bool {
	return slices.ContainsFunc(p.rules, func(r *rule) bool { return r.private })
}

// fieldError says what is wrong at one place of a document.
type fieldError struct {
	path string // "issuers[1].x509.san"
	err  error
}

func (e *fieldError) Error() string { return e.path + ": " + e.err.Error() }

func (e *fieldError) Unwrap() error { return e.err }

// namedError is one in an issuer or rule that its author has named.
type namedError struct {
	*fieldError
	name string
}

func (e *namedError) Error() string {
	return fmt.Sprintf("%s (name %s): %v", e.path, quote(e.name), e.err)
}
func (e *namedError) Unwrap() error { return e.fieldError }

func wrong(path, format string, args ...any) error {
	return &fieldError{path, fmt.Errorf(format, args...)}
}
