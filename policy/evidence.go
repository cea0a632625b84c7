package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/internal/envelope"
	"github.com/scittd/scittd/internal/timestamp"
	"github.com/scittd/scittd/statement"
)

// Evidence says that what an issuer hands in as one of MediaTypes is a signed
// envelope itself: a DSSE envelope around an in-toto Statement, a Sigstore
// bundle, or a Notary Project signature. One of its signatures has to be one of
// the Signers', by the rules that issuers are known by. What it says is not
// judged, but for this: it has to name all artifacts that the statement does, by
// digest.
type Evidence struct {
	MediaTypes []string `json:"mediaTypes" yaml:"mediaTypes"`
	Signers    []Signer `json:"signers" yaml:"signers"`
}

// Signer is an identity as an Issuer has one. Envelopes name no issuer, so Iss,
// where it matters, stands here: as x509 and oidc compare it with the names of a
// leaf, and did resolves it.
type Signer struct {
	Iss  string  `json:"iss,omitempty" yaml:"iss"` // absent: the issuer's
	Key  *Key    `json:"key,omitempty" yaml:"key"` // whatever key an envelope names
	Kid  KeyID   `json:"kid,omitempty" yaml:"kid"` // what answers call the key
	X509 *X509   `json:"x509,omitempty" yaml:"x509"`
	DID  *DID    `json:"did,omitempty" yaml:"did"`
	Keys *KeySet `json:"keys,omitempty" yaml:"keys"`
	OIDC *OIDC   `json:"oidc,omitempty" yaml:"oidc"`
}

// maxSigners bounds what one envelope can cost: each of its signatures may be
// held against each.
const maxSigners = 8

// guarded is an Evidence made ready.
type guarded struct {
	Evidence
	signers []*rule
}

// compileEvidence checks the evidence member of the issuer of r.
func (r *rule) compileEvidence() error {
	doc := r.Issuer.Evidence
	if doc == nil {
		return nil
	}
	at := r.path + ".evidence"
	if len(doc.MediaTypes) == 0 {
		return wrong(at+".mediaTypes", "none; say which evidence has to be a signed envelope")
	}
	for i, t := range doc.MediaTypes {
		if err := checkMediaType(t); err != nil {
			return &fieldError{fmt.Sprintf("%s.mediaTypes[%d]", at, i), err}
		}
		if !r.admitsMediaType(t) {
			return wrong(fmt.Sprintf("%s.mediaTypes[%d]", at, i), "%s is not on the issuer's own list", t)
		}
	}
	if n := len(doc.Signers); n == 0 || n > maxSigners {
		return wrong(at+".signers", "%d; list 1 to %d", n, maxSigners)
	}
	r.evidence = &guarded{Evidence: *doc}
	for i, doc := range doc.Signers {
		g := &rule{path: fmt.Sprintf("%s.signers[%d]", at, i), Issuer: Issuer{
			Iss: cmp.Or(doc.Iss, r.Iss), Key: doc.Key, Kid: doc.Kid, X509: doc.X509, DID: doc.DID, Keys: doc.Keys, OIDC: doc.OIDC,
		}}
		if err := g.compileSigner(); err != nil {
			return err
		}
		r.evidence.signers = append(r.evidence.signers, g)
	}
	return nil
}

func (r *rule) compileSigner() (err error) {
	switch {
	case len(r.sources()) != 1:
		return wrong(r.path, "a signer is known by exactly one of key, x509, did, keys, oidc")
	case r.Key == nil && r.Kid != nil:
		return wrong(r.path+".kid", "belongs to a pinned key")
	case r.Key == nil && r.Iss == "":
		return wrong(r.path+".iss", "missing; an issuer with a pattern has none to give")
	case r.Iss != "" && !printable(r.Iss):
		return wrong(r.path+".iss", "%s is not printable text", quote(r.Iss))
	}
	r.by, err = newSource(r)
	return err
}

// rename gives the signers the name of their issuer's rule, which is at path.
func (g *guarded) rename(path string) {
	if g == nil {
		return
	}
	for i, r := range g.signers {
		r.path = fmt.Sprintf("%s.evidence.signers[%d]", path, i)
		if r.key != nil {
			r.key.path = r.path
		}
	}
}

// concerns says whether s speaks for evidence that has to be an envelope: by its
// media type, or because it is one. Whoever says what it is called does not get it
// past its signers by another name.
func (g *guarded) concerns(s *statement.Statement) bool {
	return g.lists(s) || g != nil && envelope.Like(s.Whole())
}

func (g *guarded) lists(s *statement.Statement) bool {
	return g != nil && slices.Contains(g.MediaTypes, s.MediaType())
}

// elsewhere says whether that evidence is not in the message.
func (g *guarded) elsewhere(s *statement.Statement) bool {
	return s.Envelope != nil && g.lists(s)
}

// NeedsEvidence returns the digest of the evidence that has to be read before s
// can be judged, and given to Evaluate as a Material of kind EvidenceDocument
// with the digest for its Source; false for most statements.
func (p *Policy) NeedsEvidence(s *statement.Statement) (statement.Digest, bool) {
	if !p.guards || s.Envelope == nil || forOperators(s) {
		return "", false
	}
	rules, _ := p.candidates(s)
	return s.Evidence(), slices.ContainsFunc(rules, func(r *rule) bool { return r.evidence.elsewhere(s) })
}

// lookups are those of the signers of the evidence of s.
func (g *guarded) lookups(s *statement.Statement) (all []Lookup) {
	if g == nil {
		return nil
	}
	for _, r := range g.signers {
		all = append(all, r.by.lookups(s)...)
	}
	if len(all) == 0 || !g.concerns(s) {
		return nil
	}
	return all
}

// kept adds to used, which finding out who signed s took, what was kept of
// finding out who signed its evidence.
func (g *guarded) kept(s *statement.Statement, f *facts, used []Material) ([]Material, error) {
	if g == nil {
		return used, nil
	}
	// Without asking whether it was an envelope, for its bytes may be gone: what was
	// not used was not kept either.
	for _, r := range g.signers {
		for _, l := range r.by.lookups(s) {
			if m, ok := f.material(l); ok {
				used = also(used, m)
			}
		}
	}
	if !g.elsewhere(s) {
		return used, nil
	}
	m, ok := f.material(Lookup{EvidenceDocument, string(s.Evidence())})
	if !ok {
		return nil, errors.New("the digest of the evidence that it judged is not kept")
	}
	return also(used, m), nil
}

// also adds those of more that are not there yet.
func also(materials []Material, more ...Material) []Material {
	for _, m := range more {
		if !slices.ContainsFunc(materials, func(have Material) bool { return have.Kind == m.Kind && have.Source == m.Source }) {
			materials = append(materials, m)
		}
	}
	return materials
}

// judgeEvidence finds out who signed the evidence of s. It comes after the
// signature of s, so that only who may register anything makes envelopes be read.
func (r *rule) judgeEvidence(s *statement.Statement, f *facts, d *Decision, w *window) *Refusal {
	at := r.path + ".evidence"
	body, materials, refusal := r.evidence.read(at, s, f)
	if refusal != nil {
		return refusal
	}
	e, err := envelope.Parse(body)
	if err != nil {
		return refuse(CodeRejected, at, "hand in a DSSE envelope with an in-toto Statement, a Sigstore bundle or a Notary Project signature",
			"the evidence cannot be read as a signed envelope: %s", show(err))
	}
	if want := envelope.KindOf(s.MediaType()); want != "" && want != e.Kind {
		return refuse(CodeRejected, at+".mediaTypes", "sign a statement with the media type of what it is about",
			"the evidence is a %s, but the statement calls it %s", e.Kind, s.MediaType())
	}
	if !e.Expires.IsZero() {
		if !f.now.Before(e.Expires) {
			return refuse(CodeRejected, at, "have it signed again", "the %s expired at %s, and it is %s", e.Kind, stamp(e.Expires), stamp(f.now))
		}
		w.narrow(time.Time{}, e.Expires.Add(-1))
	}
	for _, a := range d.Artifacts {
		if !slices.Contains(e.Artifacts, a) {
			return refuse(CodeRejected, at, "sign a statement about what its evidence is about",
				"the statement is about %s, which the %s does not name; it is about %s", a, e.Kind, showArtifacts(e.Artifacts))
		}
	}
	who, refusal := r.evidence.identify(at, e, s.Issuer, f)
	if refusal != nil {
		return refusal
	}
	w.narrow(who.from, who.to)
	d.Materials = also(also(d.Materials, who.materials...), materials...)
	d.EvidenceSigner = who.identity
	return nil
}

func showArtifacts(all []statement.Digest) string {
	switch len(all) {
	case 0:
		return "nothing that it names by a SHA-256, SHA-384 or SHA-512"
	case 1:
		return string(all[0])
	default:
		return fmt.Sprintf("%s and %d more", all[0], len(all)-1)
	}
}

// read returns the evidence: what is in the message, else what was brought.
func (g *guarded) read(at string, s *statement.Statement, f *facts) ([]byte, []Material, *Refusal) {
	if !g.elsewhere(s) {
		return s.Whole(), nil, nil
	}
	digest := s.Evidence()
	m, ok := f.material(Lookup{EvidenceDocument, string(digest)})
	switch {
	case !ok || len(m.Body) == 0:
		return nil, nil, refuse(CodePayloadMissing, at, "stage it first (PUT /v1/evidence/"+string(digest)+", as scitt attach --upload service does; or as a layer beside the statement), push it to the repository that the claim is placed in, or attach it as payload",
			"the evidence %s, whose own signer has to be checked, is not here", digest)
	case !digest.Matches(m.Body):
		return nil, nil, refuse(CodeRejected, at, "stage the bytes that were signed for", "what was brought as evidence %s has another digest", digest)
	}
	return m.Body, []Material{m}, nil
}

// identify finds the first signer that signed e. If none did, the refusal is that
// of the first who could have.
func (g *guarded) identify(at string, e *envelope.Envelope, iss string, f *facts) (signatory, *Refusal) {
	var first *Refusal
	fits := false
	for _, sig := range e.Signatures {
		for _, r := range g.signers {
			who, fit, refusal := r.signed(sig, cmp.Or(r.Iss, iss), f)
			if refusal == nil {
				return who, nil
			}
			if first == nil || fit && !fits {
				first, fits = refusal, fit
			}
		}
	}
	refusal := *first
	refusal.Reason = fmt.Sprintf("the %s is not signed by whom the policy lists: %s", e.Kind, first.Reason)
	refusal.Hint = "have it signed by one of " + at + ".signers: " + g.listed()
	return signatory{}, &refusal
}

// listed are the signers, for people.
func (g *guarded) listed() string {
	var all []string
	for _, r := range g.signers {
		all = append(all, r.called())
	}
	return strings.Join(all, ", ")
}

// called is what a signer is known by, which is not the issuer of the statement.
func (r *rule) called() string {
	switch {
	case r.key != nil:
		return "key " + quote(KeyID(r.key.kid).String())
	case r.OIDC != nil:
		return "oidc " + quote(cmp.Or(r.OIDC.Identity, r.OIDC.IdentityRegexp))
	}
	return r.by.member() + " " + quote(r.Iss)
}

// algorithms are tried where an envelope names none: it is the key that decides,
// and sources want to hear of one.
var algorithms = []cose.Algorithm{cose.ES256, cose.EdDSA, cose.PS256, cose.ES384, cose.ES512}

// signed says whether sig was made by the signer of r. The sources judge
// statements, so they get one: with the header that whoever signed the envelope
// would have written. fit: the envelope names its key in a way that they know.
func (r *rule) signed(sig envelope.Signature, iss string, f *facts) (who signatory, fit bool, refusal *Refusal) {
	s := &statement.Statement{Issuer: iss, Chain: sig.Chain, ChainProtected: len(sig.Chain) > 0}
	switch {
	case r.key != nil:
		// An unsigned hint names no key better than the policy does.
		fit = !s.ChainProtected
		s.Chain, s.ChainProtected, s.KeyID = nil, false, r.key.kid
	case !s.ChainProtected && sig.KeyID != "":
		s.KeyID = []byte(sig.KeyID)
	}
	if refusal = r.by.fits(s); refusal != nil {
		return who, false, refusal
	}
	fit = fit || r.key == nil
	f, stamped, refusal := r.whenSigned(sig, f)
	if refusal != nil {
		return who, fit, refusal
	}
	choice := algorithms
	if sig.Algorithm != 0 {
		choice = []cose.Algorithm{sig.Algorithm}
	}
	for _, s.Alg = range choice {
		if who, refusal = r.by.resolve(s, f); refusal == nil || refusal.Code != CodeBadAlgorithm {
			break
		}
	}
	if refusal != nil {
		return who, fit, refusal
	}
	if err := sig.Verify(who.key); err != nil {
		code := CodeBadSignature
		if errors.Is(err, cose.ErrAlgorithm) {
			code = CodeBadAlgorithm
		}
		return who, fit, refuse(code, r.at(), "", "with that of %s: %s", r.called(), show(err))
	}
	if stamped {
		who.from, who.to = f.now.Add(-maxAhead), time.Time{} // the certificate held then, which stays true
	}
	return who, fit, nil
}

// whenSigned is when sig was there: at the time of one of its time-stamps, where
// the source knows authorities that make them, else now.
func (r *rule) whenSigned(sig envelope.Signature, f *facts) (at *facts, stamped bool, refusal *Refusal) {
	o, ok := r.by.(loggedIn)
	if !ok || len(o.login.clocks) == 0 || len(sig.Timestamps) == 0 {
		return f, false, nil
	}
	var reasons []string
	for _, token := range sig.Timestamps {
		when, err := timestamp.Verify(token, sig.Bytes, o.login.clocks)
		switch {
		case err != nil:
			reasons = append(reasons, show(err))
		case when.Sub(f.now) > maxAhead:
			reasons = append(reasons, fmt.Sprintf("it was time-stamped at %s, and it is %s", stamp(when), stamp(f.now)))
		default:
			then := *f
			then.now = when
			return &then, true, nil
		}
	}
	return f, false, refuse(CodeCertificateInvalid, r.at()+".trustedRoot", "", "%s", strings.Join(reasons, "; "))
}
