package policy

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/scittd/scittd/statement"
)

// Decision is what was decided, under which policy, and why.
type Decision struct {
	Refusal   *Refusal     // nil: admitted
	Policy    statement.ID // entry of the policy judged under
	Rule      string       // what decided: "issuers[1].x509", "operators[0]"; of a refusal, the rule that was not met
	Identity  Identity     // of a refusal, only what s claims: its Issuer
	Artifacts []statement.Digest
	Private   bool

	// The Decision holds in [NotBefore, NotAfter]; zero is unbounded. Outside of
	// it, or under another policy, the statement is to be judged again.
	NotBefore time.Time
	NotAfter  time.Time

	// Chain is the validated part of an x5chain that came unprotected: the
	// collateral with which the decision can be repeated, and label 33 of the
	// Transparent Statement. nil otherwise.
	Chain [][]byte

	// Materials are those of Evaluate's that were used: collateral, too.
	Materials []Material

	// EvidenceSigner is who signed the evidence, where the policy asks for that; it
	// is not recorded, for whoever has the evidence finds it again.
	EvidenceSigner Identity

	// Conditional: the log itself has a say, too. The entry may be admitted only
	// when Settle, asked at its place, does not refuse.
	Conditional bool
}

// Kinds of Identity.
const (
	PinnedKey   = "key"
	Certificate = "x509"
	OperatorKey = "operator"
	ByDID       = "did"
	ByKeySet    = "keys"
	ByOIDC      = "oidc"
)

// Identity is who signed, as resolved.
type Identity struct {
	Kind       string // PinnedKey, Certificate, OperatorKey, ByDID, ByKeySet, ByOIDC
	Issuer     string
	Thumbprint string // of a key: its RFC 9679 thumbprint; of a certificate: SHA-256 of the leaf. Lower-case hex
	Name       string // what the key was found under: a name of the certificate, the DID URL of a method; "" of a pinned key
}

// Codes of a Refusal, as in the problem table of the HTTP interface.
const (
	CodeRejected           = "rejected"
	CodeUnknownIssuerKey   = "unknown-issuer-key"
	CodeCertificateInvalid = "certificate-invalid"
	CodeBadSignature       = "bad-signature"
	CodeBadAlgorithm       = "bad-algorithm"
	CodePayloadMissing     = "payload-missing"
	CodeLookupFailed       = "lookup-failed" // what the policy's Lookups ask for is not there, or cannot be used
	CodeSubjectMissing     = "subject-missing"
	CodeRepositoryMismatch = "repository-mismatch" // from Repositories only
	CodeSubjectMismatch    = "subject-mismatch"    // from Concerns only
)

// Refusal is a Decision against registration. It is an error so that it can
// travel as one. All its text is safe to show: what came from the statement is
// quoted and cut.
type Refusal struct {
	Code   string
	Rule   string // place in the document ("issuers[1].mediaTypes") or the claim or header that no policy can waive ("exp")
	Reason string // what was found
	Hint   string // what would satisfy the rule
	Policy statement.ID
}

func (r *Refusal) Error() string { return r.Reason }

func refuse(code, rule, hint, format string, args ...any) *Refusal {
	return &Refusal{Code: code, Rule: rule, Reason: fmt.Sprintf(format, args...), Hint: hint}
}

// quote shows a stranger's text: escaped, and cut where it would fill the page.
func quote(s string) string {
	const most = 200
	if len(s) <= most {
		return strconv.Quote(s)
	}
	cut := most
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return strconv.Quote(s[:cut]) + "…"
}

// quoteAll quotes each of a list on its own.
func quoteAll(list []string) string {
	quoted := make([]string, len(list))
	for i, text := range list {
		quoted[i] = quote(text)
	}
	return strings.Join(quoted, ", ")
}
