package policy

import (
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/scittd/scittd/internal/timestamp"
	"github.com/scittd/scittd/statement"
)

// OIDC says which certificates of a Fulcio-like authority speak for an issuer:
// it certifies, for ten minutes, a key of somebody who has logged in elsewhere.
// Neither the logs of such certificates (SCT) nor those of signatures (Rekor)
// are looked at: the authority is believed, and our own log is the record.
type OIDC struct {
	TrustedRoot    TrustedRoot       `json:"trustedRoot" yaml:"trustedRoot"`
	Issuer         string            `json:"issuer" yaml:"issuer"`                           // where they logged in, as https://accounts.example
	Identity       string            `json:"identity,omitempty" yaml:"identity"`             // as whom: URI or mail address, exact or with *; absent: a URI equal to iss
	IdentityRegexp string            `json:"identityRegexp,omitempty" yaml:"identityRegexp"` // anchored; with AllowRegexp only
	AllowRegexp    bool              `json:"allowRegexp,omitempty" yaml:"allowRegexp"`
	Extensions     map[string]string `json:"extensions,omitempty" yaml:"extensions"` // what else it certified, by name; exact or with *
	Deny           []Denied          `json:"deny,omitempty" yaml:"deny"`
}

// login is an OIDC made ready.
type login struct {
	certifier
	issuer     string
	naming     naming // zero: a URI equal to iss
	extensions []extension
	clocks     []timestamp.Authority
}

// extension is one that the leaf must have.
type extension struct {
	name string
	oid  asn1.ObjectIdentifier
	want glob
}

// fulcio is the arc of the extensions that Fulcio writes.
var fulcio = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1}

// Where the leaf says where somebody logged in: the old form is the bare text,
// the new one a UTF8String.
const (
	oldIssuer = 1
	newIssuer = 8
)

// extensions are what a policy may ask for beside the issuer, by their names in
// Fulcio's registry.
var extensions = map[string]int{
	"buildSignerURI":                      9,
	"buildSignerDigest":                   10,
	"runnerEnvironment":                   11,
	"sourceRepositoryURI":                 12,
	"sourceRepositoryDigest":              13,
	"sourceRepositoryRef":                 14,
	"sourceRepositoryIdentifier":          15,
	"sourceRepositoryOwnerURI":            16,
	"sourceRepositoryOwnerIdentifier":     17,
	"buildConfigURI":                      18,
	"buildConfigDigest":                   19,
	"buildTrigger":                        20,
	"runInvocationURI":                    21,
	"sourceRepositoryVisibilityAtSigning": 22,
}

func fulcioOID(n int) asn1.ObjectIdentifier { return append(slices.Clone(fulcio), n) }

// newLogin checks the oidc member of the issuer at path.
func newLogin(path string, doc Issuer) (*login, error) {
	at := path + ".oidc"
	o := &login{certifier: certifier{usage: usages[0], renew: "register while the certificate is valid, or have the signature time-stamped then (RFC 9921, label 270) by an authority that the policy lists"}, issuer: doc.OIDC.Issuer}
	if doc.Pattern == "" {
		if err := checkIssuerURI(doc.Iss); err != nil {
			return nil, &fieldError{path + ".iss", err}
		}
	}
	var err error
	if o.clocks, err = doc.OIDC.TrustedRoot.compile(&o.anchors); err != nil {
		return nil, &fieldError{at + ".trustedRoot", err}
	}
	if !strings.HasPrefix(o.issuer, "https://") || !printable(o.issuer) || strings.Contains(o.issuer, "*") {
		return nil, wrong(at+".issuer", "%s; want the exact https:// URL where they log in", quote(o.issuer))
	}
	if err := o.identify(at, doc); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(doc.OIDC.Extensions)) {
		n, known := extensions[name]
		want := doc.OIDC.Extensions[name]
		switch {
		case !known:
			return nil, wrong(at+".extensions", "%s is not known; want one of %s", quote(name), strings.Join(slices.Sorted(maps.Keys(extensions)), ", "))
		case !printable(want) || strings.Contains(want, "**") || len(want) > maxPattern:
			return nil, wrong(at+".extensions."+name, "%s; want text, in which one * may stand for what is between two slashes", quote(want))
		}
		o.extensions = append(o.extensions, extension{name, fulcioOID(n), glob(want)})
	}
	return o, o.listDenied(at, doc.OIDC.Deny)
}

// identify reads who must have logged in.
func (o *login) identify(at string, doc Issuer) (err error) {
	switch {
	case doc.OIDC.Identity != "" && doc.OIDC.IdentityRegexp != "":
		return wrong(at, "an identity is either identity or identityRegexp")
	case doc.Pattern != "" && doc.OIDC.Identity+doc.OIDC.IdentityRegexp != "":
		return wrong(at+".identity", "with a pattern one leaf could speak as many issuers; leave it out, and the leaf must name its iss")
	case doc.OIDC.Identity != "":
		if o.naming, err = newNaming(doc.OIDC.Identity); err == nil && o.naming.tag == tagDNS {
			err = fmt.Errorf("%s is neither a URI nor a mail address", quote(doc.OIDC.Identity))
		}
		if err != nil {
			return &fieldError{at + ".identity", err}
		}
	case doc.OIDC.IdentityRegexp != "":
		if !doc.OIDC.AllowRegexp {
			return wrong(at+".identityRegexp", "a dot or a missing anchor has let strangers in before; write identity, where * stands for what is between two slashes, or say allowRegexp: true")
		}
		if o.naming.regexp, err = compilePattern(doc.OIDC.IdentityRegexp); err != nil {
			return &fieldError{at + ".identityRegexp", err}
		}
	}
	return nil
}

// loggedIn is the source `oidc`.
type loggedIn struct {
	*rule
	login *login
}

func (o loggedIn) member() string                        { return "oidc" }
func (o loggedIn) lookups(*statement.Statement) []Lookup { return nil }

func (o loggedIn) fits(s *statement.Statement) *Refusal {
	return namesCertificate(s, o.path+".oidc")
}

// resolve judges the certificate at the time of signing: that of a time-stamp of
// the signature, where there is one, else now.
func (o loggedIn) resolve(s *statement.Statement, f *facts) (signatory, *Refusal) {
	at := o.path + ".oidc"
	when, token, refusal := o.signedAt(at, s, f)
	if refusal != nil {
		return signatory{}, refusal
	}
	var name altName
	l, refusal := o.login.judge(at, s, when, f.chains, func(l *leaf) (refusal *Refusal) {
		name, refusal = o.login.speaks(at, l, s.Issuer)
		return refusal
	})
	if refusal != nil {
		return signatory{}, refusal
	}
	who := l.signatory(ByOIDC, name.value, s)
	who.from, who.to, who.materials = l.from, l.to, token
	if token != nil { // it held when the signature was made, which stays true
		who.from, who.to = when.Add(-maxAhead), time.Time{}
	}
	return who, nil
}

// signedAt is the time at which s was signed, as far as anybody trusted says: by
// the token that it returns, or else now.
//
// SPEC RFC 9921 §2.2: a time-stamp of the signature proves that it was there by
// then. That of the payload (label 269) does not: who signs can do so later.
func (o loggedIn) signedAt(at string, s *statement.Statement, f *facts) (when time.Time, token []Material, refusal *Refusal) {
	token = tokenOf(s, f)
	if token == nil || len(o.login.clocks) == 0 {
		return f.now, nil, nil
	}
	when, err := timestamp.Verify(token[0].Body, s.SignatureField(), o.login.clocks)
	switch {
	case err != nil:
		return when, nil, refuse(CodeCertificateInvalid, at+".trustedRoot", "use a time-stamp of an authority that the policy lists, over the signature as RFC 9921 §3.1 says; or leave it (label 270) out while the certificate is valid",
			"%s", show(err))
	case when.Sub(f.now) > maxAhead:
		return when, nil, refuse(CodeCertificateInvalid, at+".trustedRoot", "set the clock of the time-stamping authority", "the signature was time-stamped at %s, and it is %s", stamp(when), stamp(f.now))
	}
	return when, token, nil
}

// tokenOf is the time-stamp of the signature of s: in the message or, when that
// was judged before, among what was kept.
func tokenOf(s *statement.Statement, f *facts) []Material {
	source := s.ID().String() // whose it is: evidence has time-stamps of its own
	if m, ok := f.material(Lookup{TimestampToken, source}); ok {
		return []Material{m}
	}
	if s.Timestamp == nil {
		return nil
	}
	return []Material{{TimestampToken, source, s.Timestamp}}
}

// speaks finds the name with which l speaks for iss.
func (o *login) speaks(at string, l *leaf, iss string) (altName, *Refusal) {
	where, err := loginOf(l.Certificate)
	switch {
	case err != nil:
		return altName{}, refuse(CodeCertificateInvalid, at+".issuer", "use a certificate as Fulcio writes it", "%s", show(err))
	case where != o.issuer:
		return altName{}, refuse(CodeCertificateInvalid, at+".issuer", "log in at "+quote(o.issuer), "its signer had logged in at %s", quote(where))
	// SPEC Fulcio, certificate specification: exactly one name.
	case len(l.names) != 1 || !o.naming.orIss(iss).admits(l.names[0]):
		return altName{}, refuse(CodeCertificateInvalid, at+".identity", "sign as "+quote(o.naming.orIss(iss).String()),
			"the leaf certificate does not speak for iss %s: %s", quote(iss), showNames(l.names))
	}
	for _, e := range o.extensions {
		value, err := utf8Extension(l.Certificate, e.oid)
		if err != nil {
			return altName{}, refuse(CodeCertificateInvalid, at+".extensions."+e.name, "use a certificate that says "+quote(string(e.want)), "the leaf's %s: %s", e.name, show(err))
		}
		if !e.want.matches(value) {
			return altName{}, refuse(CodeCertificateInvalid, at+".extensions."+e.name, "use a certificate that says "+quote(string(e.want)), "the leaf's %s is %s", e.name, quote(value))
		}
	}
	return l.names[0], nil
}

// loginOf reads where who got c had logged in. Both forms, when there are both,
// must agree.
func loginOf(c *x509.Certificate) (string, error) {
	old, hasOld := extensionValue(c, fulcioOID(oldIssuer))
	where := string(old)
	if _, has := extensionValue(c, fulcioOID(newIssuer)); !has {
		if !hasOld {
			return "", fmt.Errorf("the leaf does not say where its signer had logged in (extension %s)", fulcioOID(newIssuer))
		}
		return where, nil
	}
	now, err := utf8Extension(c, fulcioOID(newIssuer))
	switch {
	case err != nil:
		return "", err
	case hasOld && where != now:
		return "", fmt.Errorf("the leaf says in one place that its signer had logged in at %s, and in another at %s", quote(where), quote(now))
	}
	return now, nil
}

func extensionValue(c *x509.Certificate, oid asn1.ObjectIdentifier) ([]byte, bool) {
	for _, e := range c.Extensions {
		if e.Id.Equal(oid) {
			return e.Value, true
		}
	}
	return nil, false
}

func utf8Extension(c *x509.Certificate, oid asn1.ObjectIdentifier) (string, error) {
	der, ok := extensionValue(c, oid)
	if !ok {
		return "", fmt.Errorf("there is no extension %s", oid)
	}
	var value string
	rest, err := asn1.UnmarshalWithParams(der, &value, "utf8")
	if err != nil || len(rest) > 0 || len(der) == 0 || der[0] != asn1.TagUTF8String {
		return "", fmt.Errorf("extension %s is no UTF8String", oid)
	}
	return value, nil
}

func (o loggedIn) recorded(s *statement.Statement, f *facts) (signatory, error) {
	l, err := keptLeaf(s)
	if err != nil {
		return signatory{}, err
	}
	if len(l.names) != 1 || !o.login.naming.orIss(s.Issuer).admits(l.names[0]) {
		return signatory{}, fmt.Errorf("the certificate that was kept does not speak for iss %s", quote(s.Issuer))
	}
	who := l.signatory(ByOIDC, l.names[0].value, s)
	if len(o.login.clocks) > 0 {
		who.materials = tokenOf(s, f)
	}
	return who, nil
}
