package policy

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/statement"
)

// authority is an X509 made ready: who may certify, and what a leaf must carry.
type authority struct {
	roots []Root
	pool  *x509.CertPool
	san   altName // zero: a URI equal to iss
	usage usage
}

// usage is an extended key usage: one that crypto/x509 has a name for, or an OID.
type usage struct {
	name  string
	known x509.ExtKeyUsage
	oid   asn1.ObjectIdentifier
}

var usages = []usage{
	{name: "codeSigning", known: x509.ExtKeyUsageCodeSigning, oid: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 3}},
	{name: "emailProtection", known: x509.ExtKeyUsageEmailProtection, oid: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 4}},
	{name: "timeStamping", known: x509.ExtKeyUsageTimeStamping, oid: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 8}},
	{name: "clientAuth", known: x509.ExtKeyUsageClientAuth, oid: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 2}},
	{name: "serverAuth", known: x509.ExtKeyUsageServerAuth, oid: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 1}},
	{name: "OCSPSigning", known: x509.ExtKeyUsageOCSPSigning, oid: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 9}},
}

// parseOID reads dotted decimals.
func parseOID(s string) (asn1.ObjectIdentifier, bool) {
	var oid asn1.ObjectIdentifier
	for part := range strings.SplitSeq(s, ".") {
		n := 0
		if _, err := fmt.Sscanf(part, "%d", &n); err != nil || n < 0 || fmt.Sprint(n) != part {
			return nil, false
		}
		oid = append(oid, n)
	}
	return oid, len(oid) >= 2 && oid[0] <= 2
}

func parseUsage(s string) (usage, error) {
	if s == "" {
		return usages[0], nil
	}
	for _, u := range usages {
		if s == u.name || s == u.oid.String() {
			return u, nil
		}
	}
	oid, ok := parseOID(s)
	if !ok {
		return usage{}, fmt.Errorf("%s; want codeSigning, emailProtection, timeStamping, clientAuth, serverAuth, OCSPSigning or an OID", quote(s))
	}
	return usage{name: s, oid: oid}, nil
}

// named reports whether c lists the usage itself: silence and anyExtendedKeyUsage
// are enough for a CA, but not for the leaf that signs.
func (u usage) named(c *x509.Certificate) bool {
	return u.known != x509.ExtKeyUsageAny && slices.Contains(c.ExtKeyUsage, u.known) ||
		slices.ContainsFunc(c.UnknownExtKeyUsage, u.oid.Equal)
}

func (u usage) permitted(ca *x509.Certificate) bool {
	return len(ca.ExtKeyUsage)+len(ca.UnknownExtKeyUsage) == 0 || slices.Contains(ca.ExtKeyUsage, x509.ExtKeyUsageAny) || u.named(ca)
}

// newAuthority checks the x509 member of the issuer at path.
func newAuthority(path string, doc Issuer) (*authority, error) {
	a := &authority{roots: doc.X509.Roots, pool: x509.NewCertPool()}
	if doc.Pattern == "" {
		if err := checkIssuerURI(doc.Iss); err != nil {
			return nil, &fieldError{path + ".iss", err}
		}
		if strings.HasPrefix(doc.Iss, "did:x509:") {
			return nil, wrong(path+".iss", "a did:x509 says itself which certificates speak for it, and this release does not resolve it; name the issuer by another URI")
		}
	}
	at := path + ".x509"
	if len(a.roots) == 0 {
		return nil, wrong(at+".roots", "none; list at least one certificate")
	}
	for i, root := range a.roots {
		if err := a.addRoot(i, root); err != nil {
			return nil, &fieldError{fmt.Sprintf("%s.roots[%d]", at, i), err}
		}
	}
	if san := doc.X509.SAN; san != "" {
		if doc.Pattern != "" {
			return nil, wrong(at+".san", "with a pattern one leaf could speak as many issuers; leave it out, and the leaf must name its iss")
		}
		if !printable(san) || strings.Contains(san, "*") {
			return nil, wrong(at+".san", "%s; names compare as exact strings", quote(san))
		}
		a.san = parseAltName(san)
	}
	var err error
	if a.usage, err = parseUsage(doc.X509.EKU); err != nil {
		return nil, &fieldError{at + ".eku", err}
	}
	return a, nil
}

func (a *authority) addRoot(i int, root Root) error {
	switch {
	case root.Certificate == nil:
		return errors.New("missing")
	case !root.IsCA || !root.BasicConstraintsValid:
		return fmt.Errorf("certificate %s is not a CA", quote(root.Subject.String()))
	}
	if err := cose.CheckKey(root.PublicKey); err != nil {
		return fmt.Errorf("certificate %s: %w", quote(root.Subject.String()), err)
	}
	// With at most one root for a name and key, a chain has at most one path, so
	// that a Decision does not depend on which path is found first.
	for j, other := range a.roots[:i] {
		if sameAnchor(root, other) {
			return fmt.Errorf("same name and key as roots[%d]", j)
		}
	}
	a.pool.AddCert(root.Certificate)
	return nil
}

func sameAnchor(a, b Root) bool {
	return bytes.Equal(a.RawSubject, b.RawSubject) && bytes.Equal(a.RawSubjectPublicKeyInfo, b.RawSubjectPublicKeyInfo)
}

func (a *authority) sharesRoot(b *authority) bool {
	return slices.ContainsFunc(a.roots, func(r Root) bool {
		return slices.ContainsFunc(b.roots, func(s Root) bool { return sameAnchor(r, s) })
	})
}

// altName is a subject alternative name as it stands in the certificate: not
// parsed and printed again, for that would make different names equal.
type altName struct {
	tag   int
	value string
}

// Tags of GeneralName that can name an issuer (RFC 5280 §4.2.1.6).
const (
	tagEmail = 1
	tagDNS   = 2
	tagURI   = 6
)

func parseAltName(s string) altName {
	switch {
	case strings.Contains(s, ":"):
		return altName{tagURI, s}
	case strings.Contains(s, "@"):
		return altName{tagEmail, s}
	default:
		return altName{tagDNS, s}
	}
}

// altNames reads the names of c; crypto/x509 has checked the extension already.
func altNames(c *x509.Certificate) []altName {
	var names []altName
	for _, e := range c.Extensions {
		if !e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			continue
		}
		var list asn1.RawValue
		if _, err := asn1.Unmarshal(e.Value, &list); err != nil {
			return nil
		}
		for rest := list.Bytes; len(rest) > 0; {
			var name asn1.RawValue
			var err error
			if rest, err = asn1.Unmarshal(rest, &name); err != nil {
				return nil
			}
			if name.Class == asn1.ClassContextSpecific && slices.Contains([]int{tagEmail, tagDNS, tagURI}, name.Tag) {
				names = append(names, altName{name.Tag, string(name.Bytes)})
			}
		}
	}
	return names
}

// admitsName reports whether a leaf with that name speaks for an issuer of r.
func (a *authority) admitsName(r *rule, name altName) bool {
	if a.san != (altName{}) {
		return name == a.san
	}
	return name.tag == tagURI && r.admitsIssuer(name.value)
}

// wanted is the name that a leaf must have to speak as iss.
func (a *authority) wanted(iss string) altName {
	if a.san != (altName{}) {
		return a.san
	}
	return altName{tagURI, iss}
}

// leaf is what a validated chain comes to. It is shared by statements and never
// modified.
type leaf struct {
	key        crypto.PublicKey
	names      []altName
	sum        [32]byte // SHA-256 of the certificate
	thumbprint [32]byte // of the key
	used       int      // certificates of the message that the path uses, from the leaf on
	from, to   time.Time
}

func (l *leaf) holdsAt(now time.Time) bool { return !now.Before(l.from) && !now.After(l.to) }

const chainHint = "send the leaf first, then each certificate that signed the one before, up to a root that the policy lists"

// certificate finds out who signed s, if it is somebody r knows by certificate.
// All but the signature itself is checked here, the path last.
func (r *rule) certificate(s *statement.Statement, now time.Time, cache *chainCache) (*leaf, *Refusal) {
	at := r.path + ".x509"
	if len(s.Chain) == 0 {
		return nil, refuse(CodeCertificateInvalid, at, "send the chain as x5chain (33) in the unprotected header, or in the protected one",
			"x5t names a certificate that is not in the message")
	}
	if err := checkIssuerURI(s.Issuer); err != nil {
		return nil, refuse(CodeCertificateInvalid, at, "use a URI as iss", "%v", err)
	}
	slot := cache.slot(r.path, s.Chain)
	l, hit := cache.get(slot, now)
	var certs []*x509.Certificate
	if !hit {
		var refusal *Refusal
		if certs, refusal = r.parseChain(s.Chain); refusal != nil {
			return nil, refusal
		}
		l = &leaf{key: certs[0].PublicKey, names: altNames(certs[0]), sum: sha256.Sum256(certs[0].Raw)}
		var err error
		if l.thumbprint, err = cose.Thumbprint(l.key); err != nil {
			return nil, refuse(CodeCertificateInvalid, at, chainHint, "leaf certificate: %v", err)
		}
	}
	if want := r.certs.wanted(s.Issuer); !slices.Contains(l.names, want) {
		return nil, refuse(CodeCertificateInvalid, at+".san", fmt.Sprintf("use a certificate with the subject alternative name %s", quote(want.value)),
			"the leaf certificate does not speak for iss %s: %s", quote(s.Issuer), showNames(l.names))
	}
	// SPEC RFC 9943 §6: whoever else the protected header names must be the same.
	if s.KeyID != nil && !bytes.Equal(s.KeyID, l.thumbprint[:]) && !bytes.Equal(s.KeyID, l.sum[:]) {
		return nil, refuse(CodeCertificateInvalid, at, "leave kid out, or set it to the RFC 9679 thumbprint of the leaf's key or the SHA-256 of the leaf",
			"kid %s and the leaf certificate name different keys", quote(KeyID(s.KeyID).String()))
	}
	if refusal := checkAlgorithm(s.Alg, l.key, at); refusal != nil {
		return nil, refusal
	}
	if !hit {
		if refusal := r.validate(certs, l, now); refusal != nil {
			return nil, refusal
		}
		cache.put(slot, l)
	}
	return l, nil
}

// parseChain reads the certificates and checks what needs no path. Their number
// and size were bounded by statement.Parse.
func (r *rule) parseChain(chain [][]byte) ([]*x509.Certificate, *Refusal) {
	at := r.path + ".x509"
	certs := make([]*x509.Certificate, len(chain))
	for i, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, refuse(CodeCertificateInvalid, at, chainHint, "certificate %d of the chain: %s", i, show(err))
		}
		if err := cose.CheckKey(c.PublicKey); err != nil {
			return nil, refuse(CodeCertificateInvalid, at, "use certificates with keys on P-256, P-384 or P-521, Ed25519, or RSA of 2048 to 4096 bits",
				"certificate %d of the chain: %s", i, show(err))
		}
		certs[i] = c
	}
	switch l := certs[0]; {
	case l.IsCA:
		return nil, refuse(CodeCertificateInvalid, at, "sign with an end-entity certificate", "the leaf is a CA certificate")
	case l.KeyUsage != 0 && l.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return nil, refuse(CodeCertificateInvalid, at, "use a certificate with key usage digitalSignature", "the leaf's key usage does not allow signatures")
	case !r.certs.usage.named(l):
		return nil, refuse(CodeCertificateInvalid, at+".eku", "use a certificate with extended key usage "+r.certs.usage.name,
			"the leaf does not list the extended key usage %s", r.certs.usage.name)
	}
	return certs, nil
}

// validate finds the path from the leaf to a root and writes its extent into l.
//
// SPEC RFC 9943 §5.1.1.1: the service MUST build and validate a full path (RFC
// 5280 §6) from the issuer's certificate to a root it has registered.
func (r *rule) validate(certs []*x509.Certificate, l *leaf, now time.Time) *Refusal {
	at := r.path + ".x509"
	opts := x509.VerifyOptions{
		Roots:         r.certs.pool, // never nil, which would mean the system's
		Intermediates: x509.NewCertPool(),
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{r.certs.usage.known}, // of an OID: any, checked below
	}
	if now.IsZero() {
		opts.CurrentTime = now.Add(1) // a zero CurrentTime would mean the wall clock
	}
	for _, c := range certs[1:] {
		opts.Intermediates.AddCert(c)
	}
	paths, err := certs[0].Verify(opts)
	if err != nil {
		return refuse(CodeCertificateInvalid, at, chainHint, "the chain does not lead to a root of %s: %s", r.path, showVerify(err, now))
	}
	// SPEC RFC 9360 §2: x5chain is ordered, each certificate certified by the
	// next. So the path is the chain as sent up to the anchor; when a later one
	// is an anchor too, the shorter path decides.
	var best []*x509.Certificate
	for _, path := range paths {
		n := common(path, certs)
		if n >= len(path)-1 && (best == nil || len(path) < len(best)) {
			best, l.used = path, n
		}
	}
	if best == nil {
		return refuse(CodeCertificateInvalid, at, chainHint, "the certificates of the chain are not in order")
	}
	var w window
	for i, c := range best {
		if i > 0 && !r.certs.usage.permitted(c) {
			return refuse(CodeCertificateInvalid, at+".eku", "use a chain whose CAs allow it", "CA %s does not allow the extended key usage %s",
				quote(c.Subject.String()), r.certs.usage.name)
		}
		w.narrow(c.NotBefore, c.NotAfter)
	}
	l.from, l.to = w.from, w.to
	return nil
}

// common counts the certificates that path and sent begin with.
func common(path, sent []*x509.Certificate) int {
	n := 0
	for n < len(path) && n < len(sent) && path[n].Equal(sent[n]) {
		n++
	}
	return n
}

func (l *leaf) identity(iss string) Identity {
	return Identity{Kind: Certificate, Issuer: iss, Thumbprint: hex.EncodeToString(l.sum[:])}
}

func showVerify(err error, now time.Time) string {
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
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
