package policy

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/statement"
)

// certifier judges certificates: what the sources x509 and oidc have in common.
type certifier struct {
	anchors
	usage        usage
	denied       []denied
	revocations  []*revocations
	allowExpired bool   // revocations count after their next update, too
	renew        string // what to do about a certificate that does not hold
}

// leaf is what a validated chain comes to. It is shared by statements and never
// modified.
type leaf struct {
	*x509.Certificate
	names      []altName
	sum        [32]byte // SHA-256 of the certificate
	thumbprint [32]byte // of the key
	used       int      // certificates of the message that the path uses, from the leaf on
	from, to   time.Time
}

func (l *leaf) holdsAt(now time.Time) bool { return window{l.from, l.to}.contains(now) }

// signatory is who signed s, when l is found under name.
func (l *leaf) signatory(kind, name string, s *statement.Statement) signatory {
	who := signatory{
		key:         l.PublicKey,
		identity:    Identity{Kind: kind, Issuer: s.Issuer, Thumbprint: hex.EncodeToString(l.sum[:]), Name: name},
		certificate: l.Certificate,
	}
	if !s.ChainProtected {
		who.chain = s.Chain[:l.used:l.used]
	}
	return who
}

func newLeaf(c *x509.Certificate) (*leaf, error) {
	l := &leaf{Certificate: c, names: altNames(c), sum: sha256.Sum256(c.Raw)}
	var err error
	l.thumbprint, err = cose.Thumbprint(c.PublicKey)
	return l, err
}

const chainHint = "send the leaf first, then each certificate that signed the one before, up to a root that the policy lists"

// namesCertificate says whether what was signed of s names a certificate: by
//
//   - x5chain, protected; or
//   - x5t, protected, with the certificates in an unprotected x5chain; or
//   - kid, protected, with the same: it is then the SHA-256 of the leaf, or the
//     thumbprint of its key.
func namesCertificate(s *statement.Statement, at string) *Refusal {
	if s.Thumbprint == nil && !s.ChainProtected && (s.KeyID == nil || len(s.Chain) == 0) {
		return refuse(CodeUnknownIssuerKey, at, "put x5chain (33) into the protected header, or x5t (34) or kid (4) there and the chain into the unprotected one",
			"issuer %s is known by certificates, but the message names none", quote(s.Issuer))
	}
	return nil
}

// judge finds out whose certificate s was signed with, and that it holds at now;
// at is the place of the source in the document. speaks says whether the leaf
// may speak for s at all, and comes before the path, which costs most.
func (c *certifier) judge(at string, s *statement.Statement, now time.Time, cache *chainCache, speaks func(*leaf) *Refusal) (*leaf, *Refusal) {
	if len(s.Chain) == 0 {
		return nil, refuse(CodeCertificateInvalid, at, "send the chain as x5chain (33) in the unprotected header, or in the protected one",
			"x5t names a certificate that is not in the message")
	}
	if err := checkIssuerURI(s.Issuer); err != nil {
		return nil, refuse(CodeCertificateInvalid, at, "use a URI as iss", "%v", err)
	}
	admissible := func(l *leaf) *Refusal {
		if refusal := speaks(l); refusal != nil {
			return refusal
		}
		return l.agrees(s, at)
	}
	l, known, refusal := cache.find(cache.slot(at, s.Chain), now, func() (*leaf, *Refusal) {
		certs, refusal := c.parse(at, s.Chain)
		if refusal != nil {
			return nil, refusal
		}
		l, err := newLeaf(certs[0])
		if err != nil {
			return nil, refuse(CodeCertificateInvalid, at, chainHint, "leaf certificate: %v", err)
		}
		if refusal := admissible(l); refusal != nil {
			return nil, refusal
		}
		return l, c.validate(at, certs, l, now)
	})
	if refusal == nil && known {
		refusal = admissible(l)
	}
	return l, refusal
}

// agrees: SPEC RFC 9943 §6: whoever else the protected header names must be the same.
func (l *leaf) agrees(s *statement.Statement, at string) *Refusal {
	if s.KeyID != nil && !bytes.Equal(s.KeyID, l.thumbprint[:]) && !bytes.Equal(s.KeyID, l.sum[:]) {
		return refuse(CodeCertificateInvalid, at, "set kid to the RFC 9679 thumbprint of the leaf's key or the SHA-256 of the leaf; with x5t or a protected x5chain it may be left out",
			"kid %s and the leaf certificate name different keys", quote(KeyID(s.KeyID).String()))
	}
	return checkAlgorithm(s.Alg, l.PublicKey, at)
}

// parse reads the certificates and checks what needs no path. Their number and
// size were bounded by statement.Parse.
func (c *certifier) parse(at string, chain [][]byte) ([]*x509.Certificate, *Refusal) {
	certs := make([]*x509.Certificate, len(chain))
	for i, der := range chain {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, refuse(CodeCertificateInvalid, at, chainHint, "certificate %d of the chain: %s", i, show(err))
		}
		if err := cose.CheckKey(cert.PublicKey); err != nil {
			return nil, refuse(CodeCertificateInvalid, at, "use certificates with keys on P-256, P-384 or P-521, Ed25519, or RSA of 2048 to 4096 bits",
				"certificate %d of the chain: %s", i, show(err))
		}
		certs[i] = cert
	}
	switch l := certs[0]; {
	case l.IsCA:
		return nil, refuse(CodeCertificateInvalid, at, "sign with an end-entity certificate", "the leaf is a CA certificate")
	case l.KeyUsage != 0 && l.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return nil, refuse(CodeCertificateInvalid, at, "use a certificate with key usage digitalSignature", "the leaf's key usage does not allow signatures")
	case !c.usage.named(l):
		return nil, refuse(CodeCertificateInvalid, at+".eku", "use a certificate with extended key usage "+c.usage.name,
			"the leaf does not list the extended key usage %s", c.usage.name)
	}
	return certs, nil
}

// validate finds the path from the leaf to a root and writes its extent into l.
//
// SPEC RFC 9943 §5.1.1.1: the service MUST build and validate a full path (RFC
// 5280 §6) from the issuer's certificate to a root it has registered.
func (c *certifier) validate(at string, certs []*x509.Certificate, l *leaf, now time.Time) *Refusal {
	p, err := c.lead(certs)
	if err == nil {
		err = p.verify(c.usage, now)
	}
	if err != nil {
		hint := chainHint
		if expired(err) {
			hint = c.renew
		}
		return refuse(CodeCertificateInvalid, at, hint, "the chain does not lead to a root of %s: %s", at, showVerify(err, now))
	}
	for _, ca := range p.certs[1:] {
		if !c.usage.permitted(ca) {
			return refuse(CodeCertificateInvalid, at+".eku", "use a chain whose CAs allow it", "CA %s does not allow the extended key usage %s",
				quote(ca.Subject.String()), c.usage.name)
		}
	}
	w, ok := c.times(p, now)
	if !ok {
		return refuse(CodeCertificateInvalid, at, "sign with a certificate of an authority that counts", "the authority %s does not count at %s",
			quote(p.certs[1].Subject.String()), stamp(now))
	}
	for i, d := range c.denied {
		if j := slices.IndexFunc(p.certs, d.is); j >= 0 {
			return refuse(CodeRejected, fmt.Sprintf("%s.deny[%d]", at, i), "sign with another certificate; this one is refused on purpose",
				"certificate %s (serial %s) is on the deny list", quote(p.certs[j].Subject.String()), serialNumber(p.certs[j].SerialNumber))
		}
	}
	if refusal := c.checkRevocation(at, p, &w, now); refusal != nil {
		return refusal
	}
	l.used, l.from, l.to = p.sent, w.from, w.to
	return nil
}

// checkRevocation: who is on a list has been revoked, whatever the time; who is
// not, is not until the list's next update.
func (c *certifier) checkRevocation(at string, p *certPath, w *window, now time.Time) *Refusal {
	for i, r := range c.revocations {
		for j, cert := range p.certs[:len(p.certs)-1] {
			issuer := p.certs[j+1]
			if e, revoked := r.of(cert, issuer); revoked {
				return refuse(CodeCertificateInvalid, fmt.Sprintf("%s.crls[%d]", at, i), "sign with a certificate that has not been revoked",
					"certificate %s (serial %s) was revoked at %s: %s", quote(cert.Subject.String()), serialNumber(cert.SerialNumber), stamp(e.RevocationTime), reason(e.ReasonCode))
			}
			if c.allowExpired || !sameCA(r.ca, issuer) {
				continue
			}
			if now.After(r.next) {
				return refuse(CodeCertificateInvalid, fmt.Sprintf("%s.crls[%d]", at, i), "ask the operator to publish a policy with the newer list",
					"the next update of the revocation list of %s was due at %s, and it is %s", quote(issuer.Subject.String()), stamp(r.next), stamp(now))
			}
			w.narrow(time.Time{}, r.next)
		}
	}
	return nil
}

// expired says that a certificate does not hold any more, or yet.
func expired(err error) bool {
	var invalid x509.CertificateInvalidError
	return errors.As(err, &invalid) && invalid.Reason == x509.Expired
}

func showVerify(err error, now time.Time) string {
	var invalid x509.CertificateInvalidError
	if expired(err) && errors.As(err, &invalid) {
		return fmt.Sprintf("certificate %s is valid from %s to %s, and it is %s", quote(invalid.Cert.Subject.String()),
			stamp(invalid.Cert.NotBefore), stamp(invalid.Cert.NotAfter), stamp(now))
	}
	return show(err)
}

// show is the text of an error that may repeat a stranger's words.
func show(err error) string {
	if s := err.Error(); len(s) <= 200 && printable(s) {
		return s
	}
	return quote(err.Error())
}

func showNames(names []altName) string {
	switch len(names) {
	case 0:
		return "it has no subject alternative name"
	case 1:
		return "its subject alternative name is " + quote(names[0].value)
	default:
		return fmt.Sprintf("its subject alternative names are %s and %d more", quote(names[0].value), len(names)-1)
	}
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
