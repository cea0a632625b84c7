package client

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// EvidenceUnchecked stands in Verdict.NotChecked when no evidence was at hand.
const EvidenceUnchecked = "evidence bytes (--evidence FILE)"

// IssuerRule believes one issuer, or all that Prefix covers.
type IssuerRule struct {
	Issuer string
	Prefix statement.IssuerPrefix
}

func (r IssuerRule) matches(iss string) bool {
	if r.Prefix == "" {
		return iss == r.Issuer
	}
	return r.Prefix.Covers(iss)
}

func (r IssuerRule) String() string {
	if r.Prefix == "" {
		return r.Issuer
	}
	return "any below " + string(r.Prefix)
}

// Verifier verifies Transparent Statements from bytes alone: it needs no
// network. The zero value trusts nobody.
type Verifier struct {
	Trust     Trust
	Issuers   []IssuerRule     // whose claims count; none: every statement fails as untrusted
	Artifact  statement.Digest // the statement must speak about it; "" asks nothing
	Evidence  statement.Digest // digest of the evidence at hand; "" leaves its bytes unchecked
	Payload   []byte           // those bytes, for statements whose payload is detached; nil: not at hand
	MaxAge    time.Duration    // since registration; 0 asks nothing
	Witnessed *Witnessed       // nil leaves witnesses unchecked
	Now       time.Time
}

// Verify judges one Transparent Statement (RFC 9943 §7.1).
func (v Verifier) Verify(transparent []byte) Verdict {
	verdict := Verdict{Checks: []Check{}, NotChecked: []string{}}
	s, err := statement.Parse(transparent)
	if err != nil {
		verdict.Checks = append(verdict.Checks, failed("statement", FailInvalid, err.Error()))
		return verdict
	}
	verdict.EntryID = s.ID()
	verdict.Signed = Signed{Issuer: s.Issuer, Subject: s.Subject, MediaType: s.MediaType(), PredicateType: s.PredicateType(), Evidence: s.Evidence()}
	if !s.Expires.IsZero() {
		verdict.Signed.Expires = &s.Expires
	}
	verdict.Unsigned.Receipts = len(s.Receipts)
	if !s.ChainProtected {
		verdict.Unsigned.Certificates = len(s.Chain)
	}
	if s.Detached() && v.Payload != nil {
		// Whether it is what was signed, the signature will say.
		if whole, err := s.WithPayload(v.Evidence, v.Payload); err == nil {
			s = whole
		}
	}
	check := func(checks ...Check) { verdict.Checks = append(verdict.Checks, checks...) }
	open := func(what string) { verdict.NotChecked = append(verdict.NotChecked, what) }

	// A certificate must have been valid when the service looked at it.
	accepted, inclusion := v.receipt(s)
	at := v.Now
	if accepted != nil {
		verdict.Receipt = accepted
		if !accepted.RegisteredAt.IsZero() { // other services' receipts may leave it open
			at = accepted.RegisteredAt
		}
	}
	signature, unknown := v.signature(s, at)
	check(signature...)
	if unknown != "" {
		open(unknown)
	}
	issuer := v.issuer(s.Issuer)
	if issuer.Status == Fail && recordsPurge(s, accepted) {
		issuer = Check{Name: "issuer", Status: Skip, Detail: "the service's own record of evidence that was purged: nobody's claim, and counted with none"}
	}
	check(issuer)
	check(inclusion...)
	if v.Artifact != "" {
		check(v.artifact(s))
	} else {
		open("which artifact it is about (verify the image, not a file)")
	}
	check(v.validity(s)...)
	if v.MaxAge > 0 && accepted != nil {
		check(v.age(accepted.RegisteredAt))
	}
	if v.Evidence != "" {
		check(v.evidence(s, signature))
	} else {
		open(EvidenceUnchecked)
	}
	if v.Witnessed != nil {
		check(v.Witnessed.check(s.ID()))
	} else {
		open("witnesses")
	}
	if accepted != nil {
		open("revocation after registration")
	}
	verdict.Verified = accepted != nil && verdict.Failure() == "" && issuer.Status == OK
	return verdict
}

// purgeMediaType is that of the statements by which a service records purges.
const purgeMediaType = "application/vnd.scittd.purge+json"

// recordsPurge: it is the word of the very service whose receipt was accepted,
// which registers such statements from its operators alone.
func recordsPurge(s *statement.Statement, accepted *Accepted) bool {
	return accepted != nil && s.Issuer == accepted.Service && s.MediaType() == purgeMediaType
}

// receipt finds the first receipt that holds under a pinned key. A bad one
// beside a good one is reported and does no harm; only unknown keys are a
// matter of trust, not of validity.
func (v Verifier) receipt(s *statement.Statement) (*Accepted, []Check) {
	if len(s.Receipts) == 0 {
		return nil, []Check{failed("inclusion", FailInvalid, "the statement carries no receipt")}
	}
	var accepted *Accepted
	var good, bad []Check
	id := s.ID()
	for _, raw := range s.Receipts {
		r, err := receipts.Parse(raw)
		if err == nil {
			err = v.Trust.Verify(r, id[:])
		}
		switch {
		case errors.Is(err, ErrNotPinned):
			bad = append(bad, failed("service key", FailUntrusted, err.Error()))
		case err != nil:
			bad = append(bad, failed("inclusion", FailInvalid, err.Error()))
		case accepted == nil:
			accepted = &Accepted{r.Issuer, r.Proofs[0].LeafIndex, r.Proofs[0].TreeSize, r.IssuedAt.UTC()}
			pin, _ := v.Trust.Find(r.Issuer)
			good = []Check{
				ok("inclusion", accepted.String()),
				ok("service key", fmt.Sprintf("%s kid %s (pinned %s)", r.Issuer, short(r.KeyID), pin.Pinned)),
			}
		}
	}
	if accepted == nil {
		return nil, bad
	}
	for i := range bad {
		bad[i].Status, bad[i].Code = Skip, ""
		bad[i].Detail = "another receipt was not accepted: " + bad[i].Detail
	}
	return accepted, append(good, bad...)
}

// signature verifies the issuer's signature again, as far as keys are at hand:
// a pinned one, or the certificate chain in the statement. Without either it
// rests on the service, which checked it at registration; open says so.
func (v Verifier) signature(s *statement.Statement, at time.Time) (checks []Check, open string) {
	if !s.Verifiable() {
		return []Check{{Name: "signature", Status: Skip, Detail: "it is over a detached payload, which is not at hand; the service verified it at registration"}},
			"the issuer's signature, which is over a detached payload (--evidence FILE)"
	}
	var keys []crypto.PublicKey
	var authorities []*authority
	for _, known := range v.Trust.Issuers {
		if known.Issuer != s.Issuer {
			continue
		}
		if known.Key != "" {
			key, err := known.publicKey()
			if err != nil {
				return []Check{failed("signature", FailUntrusted, err.Error())}, ""
			}
			keys = append(keys, key)
			continue
		}
		a, err := known.authority()
		if err != nil {
			return []Check{failed("certificates", FailUntrusted, err.Error())}, ""
		}
		authorities = append(authorities, a)
	}
	for _, key := range keys {
		if s.Verify(key) == nil {
			return []Check{ok("signature", fmt.Sprintf("%s by the pinned key of %s", s.Alg, s.Issuer))}, ""
		}
		if names(s.KeyID, key) {
			return []Check{failed("signature", FailInvalid, s.Verify(key).Error())}, ""
		}
	}
	switch {
	case len(s.Chain) > 0:
		return byCertificate(s, authorities, at, len(keys) > 0)
	case len(keys)+len(authorities) > 0:
		return []Check{failed("signature", FailUntrusted, "not signed with what is pinned for "+s.Issuer)}, ""
	}
	return []Check{{Name: "signature", Status: Skip, Detail: "the issuer's key is not at hand; the service verified it at registration"}},
		"the issuer's signature (scitt trust add --issuer --key)"
}

// names says whether kid is the thumbprint of key.
func names(kid []byte, key crypto.PublicKey) bool {
	sum, err := cose.Thumbprint(key)
	return err == nil && bytes.Equal(kid, sum[:])
}

// byCertificate verifies with the leaf of the statement's own chain, and then
// who vouches for that: one of the authorities, or nobody here.
func byCertificate(s *statement.Statement, authorities []*authority, at time.Time, pinned bool) ([]Check, string) {
	leaf, err := x509.ParseCertificate(s.Chain[0])
	if err == nil {
		err = s.Verify(leaf.PublicKey)
	}
	if err != nil {
		return []Check{failed("signature", FailInvalid, err.Error())}, ""
	}
	checks := []Check{ok("signature", fmt.Sprintf("%s by certificate %q", s.Alg, leaf.Subject.CommonName))}
	if len(authorities) == 0 && pinned {
		return append(checks, failed("certificates", FailUntrusted, "the certificate's key is not the pinned one of "+s.Issuer)), ""
	}
	if len(authorities) == 0 {
		return checks, "the issuer's certificate path (scitt trust add --issuer --roots)"
	}
	for _, a := range authorities {
		if err = a.vouch(s.Chain, at); err == nil {
			return append(checks, ok("certificates", fmt.Sprintf("%s, valid at registration, under a pinned root", s.Issuer))), ""
		}
	}
	return append(checks, failed("certificates", FailUntrusted, err.Error())), ""
}

func (v Verifier) issuer(iss string) Check {
	var want []string
	for _, rule := range v.Issuers {
		if rule.matches(iss) {
			return ok("issuer", iss)
		}
		want = append(want, rule.String())
	}
	return failed("issuer", FailUntrusted, "the issuer is not among those asked for").against(strings.Join(want, " or "), iss)
}

// artifact: any of the places where a statement names artifacts will do, for
// which of them a service indexes is its policy's choice.
func (v Verifier) artifact(s *statement.Statement) Check {
	var named []statement.Digest
	for _, place := range []statement.Extractor{statement.ExtractInToto, statement.ExtractSubject} {
		found, err := s.Artifacts([]statement.Extractor{place})
		if err != nil {
			return failed("artifact", FailInvalid, err.Error())
		}
		named = append(named, found...)
	}
	if slices.Contains(named, v.Artifact) {
		return ok("artifact", string(v.Artifact))
	}
	got := "none"
	if len(named) > 0 {
		got = string(named[0])
	}
	return failed("artifact", FailInvalid, "the signed bytes do not name this artifact").against(string(v.Artifact), got)
}

// validity holds a statement to the time that its issuer gave it.
func (v Verifier) validity(s *statement.Statement) []Check {
	stamp := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	switch {
	case !s.Expires.IsZero() && !v.Now.Before(s.Expires):
		return []Check{failed("validity", FailUnmet, "the claim has expired").against("before "+stamp(s.Expires), stamp(v.Now))}
	case v.Now.Before(s.NotBefore):
		return []Check{failed("validity", FailUnmet, "the claim is not valid yet").against("from "+stamp(s.NotBefore), stamp(v.Now))}
	case !s.Expires.IsZero():
		return []Check{ok("validity", "until "+stamp(s.Expires))}
	}
	return nil
}

func (v Verifier) age(registered time.Time) Check {
	if registered.IsZero() {
		return failed("age", FailUnmet, "the receipt does not say when it was registered")
	}
	age := v.Now.Sub(registered)
	shown := age.Truncate(time.Second).String()
	detail := fmt.Sprintf("registered %s ago", shown)
	if age > v.MaxAge {
		return failed("age", FailUnmet, detail).against("at most "+v.MaxAge.String(), shown)
	}
	return ok("age", detail)
}

// evidence compares the digest that is signed. That a detached payload is the
// evidence at hand follows from the issuer's signature alone.
func (v Verifier) evidence(s *statement.Statement, signature []Check) Check {
	if s.Detached() {
		switch {
		case !s.Verifiable():
			return failed("evidence", FailInvalid, "the payload is detached, and the evidence at hand is not its bytes")
		case signature[0].Status == OK:
			return ok("evidence", string(v.Evidence)+", over which the issuer's signature is")
		case signature[0].Status == Fail:
			return failed("evidence", signature[0].Code, "the payload is detached, and no signature of the issuer's over this evidence holds")
		}
		return failed("evidence", FailUntrusted, "the payload is detached: whether this is it, only the issuer's key tells")
	}
	if v.Evidence == s.Evidence() {
		return ok("evidence", string(v.Evidence))
	}
	return failed("evidence", FailInvalid, "the evidence is not what was signed").against(string(s.Evidence()), string(v.Evidence))
}
