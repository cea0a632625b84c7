package api

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

// Problem is one kind of refusal. Clients match Code; Status and Title are the
// standard's where it has words for the case. Retry is the least Retry-After,
// zero for a request that waiting does not mend.
type Problem struct {
	Code   string
	Status int
	Title  string
	Retry  time.Duration
	About  string // for its page, and the detail of an answer that has no better one
}

// maxRetry is the longest Retry-After that is ever sent.
const maxRetry = 5 * time.Minute

// problems is the one table of refusals.
//
// SPEC draft-ietf-scitt-scrapi-11 §2.3.3, §2.3.4, §2.2, §2.4: the titles of
// registration, of too many requests, of an unknown key and an unknown entry.
var problems = []Problem{
	{"malformed-request", 400, "Malformed request", 0, "The request could not be parsed."},
	{"missing-header", 400, "Malformed request", 0, "The Signed Statement lacks a header that RFC 9943 requires."},
	{"duplicate-label", 400, "Malformed request", 0, "The Signed Statement carries one label twice."},
	{"unknown-crit", 400, "Malformed request", 0, "The Signed Statement marks a header as critical that is not understood here."},
	{"bad-algorithm", 400, "Bad Signature Algorithm", 0, "The Signed Statement uses an algorithm that is not supported, or that does not fit its key."},
	{"bad-signature", 400, "Bad Signature", 0, "The signature of the Signed Statement does not verify with the key that it names."},
	{"payload-missing", 400, "Payload Missing", 0, "The payload must be present: attach it, or sign its digest as a hash envelope (RFC 9995)."},
	{"rejected", 400, "Rejected", 0, "The Signed Statement is not accepted by the current Registration Policy."},
	{"unknown-issuer-key", 400, "Rejected", 0, "The Registration Policy knows no such key for this issuer."},
	{"certificate-invalid", 400, "Rejected", 0, "The certificate chain does not lead to a root that the Registration Policy lists for this issuer."},
	{"lookup-failed", 400, "Rejected", 0, "The keys of the issuer are looked up where the Registration Policy says, and what is found there is of no use."},
	{"subject-missing", 400, "Rejected", 0, "The Registration Policy asks for an artifact digest, and the Signed Statement names none."},
	{"repository-mismatch", 400, "Repository Mismatch", 0, "The signed bytes name another repository than the request path."},
	{"subject-mismatch", 400, "Subject Mismatch", 0, "The signed bytes speak about another image than the one that the statement came for."},
	{"invalid-locator", 400, "Invalid locator", 0, "An entry id is 64 lower-case hexadecimal digits."},
	{"bad-filter", 400, "Bad Filter", 0, "A query parameter is unknown, or its value is out of range."},
	{"bad-cursor", 400, "Bad Cursor", 0, "The cursor was not made for this query."},
	{"bad-tile", 400, "Bad Tile Path", 0, "A tile is <L>/<N> or entries/<N>, a partial one with .p/<W> behind it: L from 0 to 63, N in groups of three digits of which all but the last begin with x, W from 1 to 255."},
	{"bad-digest", 400, "Bad Digest", 0, "A digest is written sha256:<64 lower-case hexadecimal digits>, or likewise with sha384 or sha512."},
	{"unauthenticated", 401, "Unauthenticated", 0, "This needs a valid token, as bearer token or as basic-auth password."},
	{"forbidden", 403, "Forbidden", 0, "The token lacks the scope that this needs."},
	{"not-found", 404, "Not Found", 0, "There is nothing here, or nothing that this caller may see. If a registration was answered 202 and is not found later, submit it again."},
	{"no-such-key", 404, "No such key", 0, "No key could be found for this kid value."},
	{"evidence-missing", 404, "Evidence missing", 0, "The evidence was found gone from the registry; nobody has declared it purged. The claim and its receipt remain valid."},
	{"evidence-purged", 410, "Evidence purged", 0, "The evidence was removed for good. The claim and its receipt remain valid."},
	{"method-not-allowed", 405, "Method Not Allowed", 0, "The path exists, but not for this method; Allow lists those that it has."},
	{"request-timeout", 408, "Request Timeout", 0, "The request did not arrive in time."},
	{"digest-mismatch", 409, "Digest Mismatch", 0, "The bytes received do not have the digest in the path."},
	{"too-large", 413, "Too Large", 0, "The body exceeds the limit."},
	{"bad-range", 416, "Range Not Satisfiable", 0, "The range asked for begins behind the last byte."},
	{"unsupported-media-type", 415, "Unsupported Media Type", 0, "The body's Content-Type is not accepted here, or it has a Content-Encoding."},
	{"rate-limited", 429, "Too Many Requests", time.Second, "The caller or its address is over its rate of requests."},
	{"quota", 429, "Too Many Requests", time.Minute, "The quota of staged evidence is used up until some of it is placed or expires."},
	{"internal", 500, "Internal Error", 0, "The service failed. Its operator finds the reason in the log under the trace id."},
	{"registry-failure", 502, "Registry Failure", 0, "The registry does not give what was placed in it."},
	{"overloaded", 503, "Overloaded", time.Second, "The service has more work than it can take."},
	{"policy-changed", 503, "Policy Changed", time.Second, "Another registration policy came into force while this statement waited, and asks for something that was not looked up for it. Submit it again."},
	{"store-unavailable", 503, "Store Unavailable", 5 * time.Second, "The database of the log does not answer."},
	{"lookup-unavailable", 503, "Lookup Unavailable", 30 * time.Second, "The Registration Policy asks for the keys of the issuer or for evidence in the registry, and what is there cannot be got now. Nothing was decided."},
	{"key-unavailable", 503, "Key Unavailable", time.Minute, "The key that signs receipts does not answer."},
	{"read-only", 503, "Read Only", 5 * time.Second, "This replica reads the log and has no key to sign with: replicas that write register statements and sign checkpoints."},
	{"not-cosigned", 503, "Not Cosigned", 5 * time.Second, "No checkpoint has its quorum of witnesses yet. /log/checkpoint?fresh shows the newest one without."},
	{"log-damaged", 503, "Log Damaged", time.Minute, "The service found its log damaged, or not what it was. It registers nothing until its operator has repaired that, and shows nothing that does not lead to what it signed."},
	{"clock-untrusted", 503, "Clock Untrusted", time.Minute, "The service's clocks disagree; it signs nothing until they agree again."},
}

// Problems returns the table: every refusal that this package can answer.
func Problems() []Problem { return slices.Clone(problems) }

// problem looks code up. A code that is not in the table is a bug here, but a
// client must still get a sound answer.
func problem(code string) Problem {
	for _, p := range problems {
		if p.Code == code {
			return p
		}
	}
	return problem("internal")
}

// fault is a refusal on its way to a client: an error that knows its problem.
// Everything in it but cause may be shown.
type fault struct {
	code   string
	detail string // "": the problem's About
	hint   string // what to do next; may be ""
	rule   string // of a refusal by policy
	policy string // entry of that policy
	entry  string // entry id, where the client did not name it
	after  time.Duration
	gone   *apitype.Entry // whose evidence it is about
	accept []string       // media types that would have been accepted
	cause  error          // for the log alone
}

func (f *fault) Error() string {
	switch {
	case f.cause != nil:
		return f.code + ": " + f.cause.Error()
	case f.detail != "":
		return f.code + ": " + f.detail
	}
	return f.code
}

func (f *fault) Unwrap() error { return f.cause }

// retry is when the same request may succeed; 0: waiting does not mend it.
func (f *fault) retry() time.Duration { return max(f.after, problem(f.code).Retry) }

// Is makes faults of one code alike to errors.Is.
func (f *fault) Is(target error) bool {
	t, ok := target.(*fault)
	return ok && t.code == f.code
}

// What Authorize and Callers.Identify return, to errors.Is.
var (
	ErrUnauthenticated error = &fault{code: "unauthenticated"} // no token, or one that is unknown, expired or revoked
	ErrForbidden       error = &fault{code: "forbidden"}       // the token lacks the scope
)

// RateLimited is returned by Authorize for a caller over its rate.
type RateLimited struct {
	After time.Duration // when to try again
}

func (e *RateLimited) Error() string { return "rate-limited: try again in " + e.After.String() }

// Code is the problem that err would be answered with, and its status.
func Code(err error) (code string, status int) {
	p := problem(faultOf(err).code)
	return p.Code, p.Status
}

// faultOf is the only place where an error becomes a problem. What it does not
// know is internal: a trace id for the client, the error for the log.
func faultOf(err error) *fault {
	var (
		known   *fault
		refusal *policy.Refusal
		limited *RateLimited
		tooBig  *http.MaxBytesError
	)
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &refusal):
		return refused(refusal)
	case errors.As(err, &limited):
		return &fault{code: "rate-limited", after: limited.After}
	case errors.As(err, &tooBig):
		return tooLarge(tooBig.Limit)
	}
	for _, m := range mapping {
		if errors.Is(err, m.err) {
			f := &fault{code: m.code, cause: err}
			if m.told {
				f.detail = err.Error()
			}
			return f
		}
	}
	return &fault{code: "internal", cause: err}
}

// mapping tells which sentinel is which problem. The text of an error is told
// to clients only where it speaks of nothing but their own bytes.
var mapping = []struct {
	err  error
	code string
	told bool
}{
	{statement.ErrMissingHeader, "missing-header", true},
	{statement.ErrDuplicateLabel, "duplicate-label", true},
	{statement.ErrUnknownCrit, "unknown-crit", true},
	{statement.ErrAlgorithm, "bad-algorithm", true},
	{statement.ErrPayloadMissing, "payload-missing", true},
	{statement.ErrSignature, "bad-signature", true},
	{statement.ErrTooManyArtifacts, "rejected", true},
	{statement.ErrMalformed, "malformed-request", true},

	{policy.ErrLookup, "lookup-unavailable", true}, // of what its own policy names, which is public

	{ledger.ErrHalted, "log-damaged", false}, // before whatever it was that was found
	{ledger.ErrCorrupt, "log-damaged", false},
	{ledger.ErrNotFound, "not-found", false},
	{ledger.ErrDigest, "digest-mismatch", false},
	{ledger.ErrTooLarge, "too-large", false},
	{ledger.ErrQuota, "quota", false},
	{ledger.ErrOverloaded, "overloaded", false},
	{ledger.ErrConflict, "overloaded", false},
	{ledger.ErrReadOnly, "read-only", false},
	{ledger.ErrClock, "clock-untrusted", false},
	{ledger.ErrMeanwhile, "policy-changed", false},
	{ledger.ErrUnavailable, "store-unavailable", false},
	{ledger.ErrEmpty, "store-unavailable", false},
	{ledger.ErrClosed, "store-unavailable", false},

	{context.Canceled, "request-timeout", false}, // the client is gone and reads no answer
	{context.DeadlineExceeded, "store-unavailable", false},
}

// refused carries a policy's refusal. A code that only a newer policy room
// knows is still a rejection.
func refused(r *policy.Refusal) *fault {
	f := &fault{code: r.Code, detail: r.Reason, hint: r.Hint, rule: r.Rule}
	if p := problem(r.Code); p.Status != http.StatusBadRequest {
		f.code = "rejected"
	}
	if r.Policy != (statement.ID{}) {
		f.policy = r.Policy.String()
	}
	return f
}
