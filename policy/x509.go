package policy

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/scittd/scittd/statement"
)

// authority is an X509 made ready: who may certify, and what a leaf must carry.
type authority struct {
	certifier
	naming  naming      // zero: a URI equal to iss
	subject []attribute // what its subject must have
}

// newAuthority checks the x509 member of the issuer at path.
func newAuthority(path string, doc Issuer) (*authority, error) {
	a := &authority{certifier: certifier{renew: "sign with certificates that are valid when it is registered"}}
	if doc.Pattern == "" {
		if err := checkIssuerURI(doc.Iss); err != nil {
			return nil, &fieldError{path + ".iss", err}
		}
		if strings.HasPrefix(doc.Iss, "did:x509:") {
			return nil, wrong(path+".iss", "a did:x509 says itself which certificates speak for it; write did: {} instead of x509")
		}
	}
	at := path + ".x509"
	if err := a.list(at, doc.X509); err != nil {
		return nil, err
	}
	san := doc.X509.SAN
	if san != "" {
		if doc.Pattern != "" {
			return nil, wrong(at+".san", "with a pattern one leaf could speak as many issuers; leave it out, and the leaf must name its iss")
		}
		var err error
		if a.naming, err = newNaming(san); err != nil {
			return nil, &fieldError{at + ".san", err}
		}
	}
	if err := checkWorkloads(path, doc.Iss, san); err != nil {
		return nil, err
	}
	var err error
	if a.subject, err = newAttributes(doc.X509.Subject); err != nil {
		return nil, &fieldError{at + ".subject", err}
	}
	if a.usage, err = parseUsage(doc.X509.EKU); err != nil {
		return nil, &fieldError{at + ".eku", err}
	}
	return a, nil
}

// checkWorkloads: who is named by a SPIFFE ID is named by a valid one.
func checkWorkloads(path, iss, san string) error {
	if isSPIFFE(iss) {
		if err := checkSPIFFE(iss); err != nil {
			return &fieldError{path + ".iss", err}
		}
	}
	if isSPIFFE(san) {
		// A * stands for what a segment may hold.
		if err := checkSPIFFE(strings.ReplaceAll(san, "*", "x")); err != nil {
			return &fieldError{path + ".x509.san", err}
		}
	}
	return nil
}

// list takes in what doc lists.
func (c *certifier) list(at string, doc *X509) error {
	if len(doc.Roots) == 0 {
		return wrong(at+".roots", "none; list at least one certificate")
	}
	for i, root := range doc.Roots {
		if err := c.add(root.Certificate, true); err != nil {
			return &fieldError{fmt.Sprintf("%s.roots[%d]", at, i), err}
		}
	}
	for i, ca := range doc.Intermediates {
		if err := c.add(ca.Certificate, false); err != nil {
			return &fieldError{fmt.Sprintf("%s.intermediates[%d]", at, i), err}
		}
	}
	for i, crl := range doc.CRLs {
		r, err := newRevocations(crl, &c.anchors)
		if err != nil {
			return &fieldError{fmt.Sprintf("%s.crls[%d]", at, i), err}
		}
		if j := slices.IndexFunc(c.revocations, r.sameSource); j >= 0 {
			return wrong(fmt.Sprintf("%s.crls[%d]", at, i), "is a list of the same CA as crls[%d]; keep the newer one", j)
		}
		c.revocations = append(c.revocations, r)
	}
	switch doc.CRLExpired {
	case "", RefuseExpired, AllowExpired:
		c.allowExpired = doc.CRLExpired == AllowExpired
	default:
		return wrong(at+".crlExpired", "%s; want %s or %s", quote(doc.CRLExpired), RefuseExpired, AllowExpired)
	}
	return c.listDenied(at, doc.Deny)
}

func (c *certifier) listDenied(at string, list []Denied) error {
	for i, doc := range list {
		d, err := newDenied(doc)
		if err != nil {
			return &fieldError{fmt.Sprintf("%s.deny[%d]", at, i), err}
		}
		c.denied = append(c.denied, d)
	}
	return nil
}

// named finds the name with which names speak for iss.
func (n naming) named(names []altName, iss string) (altName, bool) {
	if i := slices.IndexFunc(names, n.orIss(iss).admits); i >= 0 {
		return names[i], true
	}
	return altName{}, false
}

// orIss is n or, where there is none, what stands for iss: the URI itself.
func (n naming) orIss(iss string) naming {
	if n == (naming{}) {
		return naming{tag: tagURI, literal: iss}
	}
	return n
}

// checkNames: one leaf speaks as one issuer. Without `san:` or `identity:` it
// does by itself, for the leaf then names its iss. A name given by them must be
// nobody else's.
func (p *Policy) checkNames() error {
	for _, r := range p.rules {
		mine, ok := r.speakers()
		if !ok || mine.naming == (naming{}) {
			continue
		}
		for _, other := range p.rules {
			theirs, ok := other.speakers()
			if !ok || other.Iss == r.Iss || mine.login != theirs.login && mine.login != "" && theirs.login != "" || !mine.anchors.shares(theirs.anchors) {
				continue
			}
			if other.pattern != nil && mine.naming.String() == r.Iss {
				continue // iss itself: this rule hides the pattern
			}
			if mine.naming.meets(theirs.named(other)) {
				return wrong(r.path+mine.at, "%s under the same root also speaks for %s", quote(mine.naming.String()), other.path)
			}
		}
	}
	return nil
}

// speakers are the leaves that may speak for an issuer.
type speakers struct {
	at      string // what names them, below the issuer
	anchors *anchors
	naming  naming // zero: the iss itself
	login   string // where they have logged in; "" is anywhere
}

func (r *rule) speakers() (speakers, bool) {
	switch by := r.by.(type) {
	case certified:
		return speakers{".x509.san", &by.certs.anchors, by.certs.naming, ""}, true
	case loggedIn:
		return speakers{".oidc.identity", &by.login.anchors, by.login.naming, by.login.issuer}, true
	}
	return speakers{}, false
}

// named is how the leaves of r are named.
func (s speakers) named(r *rule) naming {
	if s.naming == (naming{}) && r.pattern != nil {
		return naming{tag: tagURI, regexp: r.pattern}
	}
	return s.naming.orIss(r.Iss)
}

// certified is the source `x509`.
type certified struct{ *rule }

func (c certified) member() string                        { return "x509" }
func (c certified) lookups(*statement.Statement) []Lookup { return nil }

func (c certified) fits(s *statement.Statement) *Refusal {
	return namesCertificate(s, c.path+".x509")
}

func (c certified) resolve(s *statement.Statement, f *facts) (signatory, *Refusal) {
	at := c.path + ".x509"
	var name altName
	l, refusal := c.certs.judge(at, s, f.now, f.chains, func(l *leaf) (refusal *Refusal) {
		name, refusal = c.speaks(l, s.Issuer)
		return refusal
	})
	if refusal != nil {
		return signatory{}, refusal
	}
	who := l.signatory(Certificate, name.value, s)
	who.from, who.to = l.from, l.to
	return who, nil
}

// speaks finds the name with which l speaks for iss.
func (c certified) speaks(l *leaf, iss string) (altName, *Refusal) {
	at := c.path + ".x509"
	name, ok := c.certs.naming.named(l.names, iss)
	if !ok {
		return name, refuse(CodeCertificateInvalid, at+".san", fmt.Sprintf("use a certificate with the subject alternative name %s", quote(c.certs.naming.orIss(iss).String())),
			"the leaf certificate does not speak for iss %s: %s", quote(iss), showNames(l.names))
	}
	if name.tag == tagURI && isSPIFFE(name.value) {
		err := checkSVID(l.names)
		if err == nil && c.pattern != nil && domainOf(c.Pattern) == "" {
			err = errors.New("the pattern of the policy does not stay in one trust domain, as ^spiffe://domain/ would")
		}
		if err != nil {
			return name, refuse(CodeCertificateInvalid, at+".san", "use an X.509-SVID: one URI, which is spiffe://domain/path", "the leaf is no SPIFFE certificate: %s", show(err))
		}
	}
	for _, a := range c.certs.subject {
		if !a.in(l.Certificate) {
			return name, refuse(CodeCertificateInvalid, at+".subject", fmt.Sprintf("use a certificate whose subject has %s=%s", a.name, a.value),
				"the leaf's subject is %s, which has not %s once and as %s", quote(l.Subject.String()), a.name, quote(a.value))
		}
	}
	return name, nil
}

func (c certified) recorded(s *statement.Statement, _ *facts) (signatory, error) {
	l, err := keptLeaf(s)
	if err != nil {
		return signatory{}, err
	}
	name, ok := c.certs.naming.named(l.names, s.Issuer)
	if !ok {
		return signatory{}, fmt.Errorf("the certificate that was kept does not speak for iss %s", quote(s.Issuer))
	}
	return l.signatory(Certificate, name.value, s), nil
}

// keptLeaf reads the leaf of s, whose collateral is what was kept.
func keptLeaf(s *statement.Statement) (*leaf, error) {
	if len(s.Chain) == 0 {
		return nil, errors.New("the certificates that it judged are not kept")
	}
	c, err := x509.ParseCertificate(s.Chain[0])
	if err != nil {
		return nil, fmt.Errorf("leaf certificate: %w", err)
	}
	return &leaf{Certificate: c, names: altNames(c), sum: sha256.Sum256(c.Raw), used: len(s.Chain)}, nil
}
