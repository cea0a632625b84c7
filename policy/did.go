package policy

import (
	"crypto/x509"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/scittd/scittd/internal/did"
	"github.com/scittd/scittd/statement"
)

// DID says that iss is a decentralised identifier, and that whoever it names
// speaks for it:
//
//	did:key, did:jwk  the key that it holds
//	did:web           the keys for assertions in its document, which is looked up
//	did:x509          who has a certificate that fits it
//
// The first two prove nothing but possession of a key, so that each has to be
// listed as it is. So has a did:web, for it says which URL is asked. A did:x509
// that is listed as iss names its own trust anchor, the CA with its fingerprint
// (SPEC RFC 9943 §5.1.1.1: a trust anchor may be a thumbprint). With Roots the
// chain must lead to one of them, too; a pattern needs that, for a did:x509 that
// nobody listed can name any CA.
type DID struct {
	Roots []Root `json:"roots,omitempty" yaml:"roots"` // for did:x509 only
}

// newDID makes the source `did` ready.
func newDID(r *rule) (source, error) {
	method := did.Method(r.Iss)
	switch {
	case r.pattern != nil && len(r.DID.Roots) == 0:
		return nil, wrong(r.path+".did.roots", "none; with a pattern, only a did:x509 under a listed root can be believed")
	case r.pattern == nil && method != "x509" && len(r.DID.Roots) > 0:
		return nil, wrong(r.path+".did.roots", "belongs to a did:x509; %s needs no certificate", quote(r.Iss))
	}
	switch {
	case r.pattern != nil, method == "x509":
		return newX509DID(r)
	case method == "key", method == "jwk":
		keys, err := did.Self(r.Iss)
		if err != nil {
			return nil, &fieldError{r.path + ".iss", err}
		}
		return selfDID{r, keys}, nil
	case method == "web":
		url, err := did.WebURL(r.Iss)
		if err != nil {
			return nil, &fieldError{r.path + ".iss", err}
		}
		return webDID{r, Lookup{DIDDocument, url}, &reading{}}, nil
	}
	return nil, wrong(r.path+".iss", "%s is no did:key, did:jwk, did:web or did:x509", quote(r.Iss))
}

// selfDID is a did:key or did:jwk.
type selfDID struct {
	*rule
	keys did.Keys
}

func (d selfDID) member() string                        { return "did" }
func (d selfDID) lookups(*statement.Statement) []Lookup { return nil }
func (d selfDID) fits(s *statement.Statement) *Refusal  { return fitsByKid(d.rule, s) }

func (d selfDID) resolve(s *statement.Statement, _ *facts) (signatory, *Refusal) {
	key, refusal := choose(d.rule, s, &d.keys, "name the key as the DID does, by its fragment, or by its RFC 9679 thumbprint")
	if refusal != nil {
		return signatory{}, refusal
	}
	return keyed(d.rule, s, key, key.ID)
}

func (d selfDID) recorded(s *statement.Statement, f *facts) (signatory, error) {
	return lookedUp(d.resolve(s, f))
}

// webDID is a did:web.
type webDID struct {
	*rule
	want Lookup
	read *reading
}

func (d webDID) member() string                        { return "did" }
func (d webDID) lookups(*statement.Statement) []Lookup { return []Lookup{d.want} }
func (d webDID) fits(s *statement.Statement) *Refusal  { return fitsByKid(d.rule, s) }
func (d webDID) parse(body []byte) (did.Keys, error)   { return did.ParseDocument(d.Iss, body) }
func (d webDID) name(key did.Named) string             { return key.ID }
func (d webDID) resolve(s *statement.Statement, f *facts) (signatory, *Refusal) {
	return lookUp(s, f, d.rule, d.want, d.read, d)
}

func (d webDID) recorded(s *statement.Statement, f *facts) (signatory, error) {
	return lookedUp(d.resolve(s, f))
}

// x509DID is a did:x509, or with a pattern any of those that it admits.
type x509DID struct {
	*rule
	certifier
	one *did.X509 // nil with a pattern
}

func newX509DID(r *rule) (source, error) {
	d := x509DID{rule: r, certifier: certifier{usage: anyUsage}}
	if r.pattern == nil {
		var err error
		if d.one, err = did.ParseX509(r.Iss); err != nil {
			return nil, &fieldError{r.path + ".iss", err}
		}
		if d.one.String() != r.Iss {
			return nil, wrong(r.path+".iss", "%s has a fragment; an issuer is the DID without one", quote(r.Iss))
		}
	}
	for i, root := range r.DID.Roots {
		if err := d.add(root.Certificate, true); err != nil {
			return nil, &fieldError{fmt.Sprintf("%s.did.roots[%d]", r.path, i), err}
		}
	}
	return d, nil
}

func (d x509DID) member() string                        { return "did" }
func (d x509DID) lookups(*statement.Statement) []Lookup { return nil }
func (d x509DID) fits(s *statement.Statement) *Refusal  { return namesCertificate(s, d.at()) }

const didChainHint = "send the leaf first, then each certificate that signed the one before, all of them, with the CA that the did:x509 names"

func (d x509DID) resolve(s *statement.Statement, f *facts) (signatory, *Refusal) {
	if len(s.Chain) == 0 {
		return signatory{}, refuse(CodeCertificateInvalid, d.at(), "send the chain as x5chain (33) in the unprotected header, or in the protected one",
			"x5t names a certificate that is not in the message")
	}
	id, err := d.identifier(s.Issuer)
	if err != nil {
		return signatory{}, refuse(CodeCertificateInvalid, d.at(), "use a did:x509 as iss", "iss %s: %s", quote(s.Issuer), show(err))
	}
	l, known, refusal := f.chains.find(f.chains.slot(d.at()+" "+s.Issuer, s.Chain), f.now, func() (*leaf, *Refusal) {
		certs, refusal := d.parse(d.at(), s.Chain)
		if refusal != nil {
			return nil, refusal
		}
		l, err := newLeaf(certs[0])
		if err != nil {
			return nil, refuse(CodeCertificateInvalid, d.at(), didChainHint, "leaf certificate: %s", show(err))
		}
		if refusal := l.agrees(s, d.at()); refusal != nil {
			return nil, refusal
		}
		if err := d.lead(id, certs, l, f.now); err != nil {
			return nil, refuse(CodeCertificateInvalid, d.at(), didChainHint, "the chain does not make its leaf %s: %s", quote(s.Issuer), showVerify(err, f.now))
		}
		return l, nil
	})
	if refusal == nil && known {
		refusal = l.agrees(s, d.at())
	}
	if refusal != nil {
		return signatory{}, refusal
	}
	who := d.signatory(l, s)
	who.from, who.to = l.from, l.to
	return who, nil
}

func (d x509DID) signatory(l *leaf, s *statement.Statement) signatory {
	return l.signatory(ByDID, s.Issuer+"#0", s)
}

func (d x509DID) identifier(iss string) (*did.X509, error) {
	if d.one != nil {
		return d.one, nil
	}
	id, err := did.ParseX509(iss)
	switch {
	case err != nil:
		return nil, err
	case id.String() != iss:
		return nil, errors.New("it has a fragment")
	case respelled.MatchString(iss):
		return nil, errors.New("it percent-encodes what needs none, or in small letters")
	}
	return id, nil
}

// respelled is the encoding of a character that stands for itself, and any in
// small letters. By them one name could be written in many ways, and whoever is on
// the deny list, or counted by the rules, would be another issuer in each.
var respelled = regexp.MustCompile(`%(2[DE]|3[0-9]|4[1-9A-F]|5[0-9AF]|6[1-9A-F]|7[0-9A]|[0-9A-F]?[a-f])`)

// lead finds the path that makes l one of id, and writes its extent into l.
//
// SPEC RFC 9943 §5.1.1.1: the service MUST build and validate a full path (RFC
// 5280 §6) to a root it has registered: one of Roots, else what the DID names.
func (d x509DID) lead(id *did.X509, certs []*x509.Certificate, l *leaf, now time.Time) error {
	a := &d.anchors
	if len(a.roots) == 0 {
		// SPEC did:x509, DID Resolution: the last certificate is the anchor, and each
		// takes part in the path. That it is to be trusted follows from id.
		a = &anchors{roots: []anchor{{Certificate: certs[len(certs)-1]}}}
	}
	p, err := a.lead(certs)
	switch {
	case err != nil:
		return err
	case len(d.roots) == 0 && (len(certs) < 2 || p.sent != len(certs)):
		return errors.New("it is not in order, or has certificates that do not belong to it")
	}
	if err := p.verify(d.usage, now); err != nil {
		return err
	}
	if err := id.Match(p.certs); err != nil {
		return err
	}
	w, _ := a.times(p, now)
	l.used, l.from, l.to = p.sent, w.from, w.to
	return nil
}

func (d x509DID) recorded(s *statement.Statement, _ *facts) (signatory, error) {
	l, err := keptLeaf(s)
	if err != nil {
		return signatory{}, err
	}
	return d.signatory(l, s), nil
}

// lintKeys says what is questionable about whose word is taken for the keys of r.
func (r *rule) lintKeys(note func(path, format string, args ...any)) {
	switch by := r.by.(type) {
	case published:
		if iss, keys := hostOf(r.Iss), hostOf(by.want.URL); iss != keys && iss != "" {
			note(r.path+".keys.url", "%s alone says which keys speak for an issuer on %s", keys, iss)
		}
	case x509DID:
		const usage = "asks for no extended key usage, so that a certificate for a web server will do; add ::eku:1.3.6.1.5.5.7.3.3 for code signing"
		switch {
		case by.one == nil && !strings.Contains(r.Pattern, "::eku:"):
			note(r.path+".pattern", usage)
		case by.one != nil && !by.one.NamesUsage():
			note(r.path+".iss", usage)
		}
	}
}

// hostOf is the host of an https URL, "" of anything else.
func hostOf(text string) string {
	rest, ok := strings.CutPrefix(text, "https://")
	if !ok {
		return ""
	}
	host, _, _ := strings.Cut(rest, "/")
	return host
}
