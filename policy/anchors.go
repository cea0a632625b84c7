package policy

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/statement"
)

// maxPath bounds a path: what a message may bring, and what a policy adds.
const maxPath = statement.MaxChain + 2

// anchor is a certificate in which a path may end.
type anchor struct {
	*x509.Certificate
	terms []term // of the authorities whose root it is; none: it counts always
}

// term is when an authority counts, beside the validity of its certificates.
type term struct {
	window
	chain []*x509.Certificate // the authority: its root, and who stands between
}

// covers says whether the path is of that authority at now. Others may have the
// same root and have ended, as one whose key was stolen.
func (t term) covers(p *certPath, a *anchors, now time.Time) bool {
	return t.contains(now) && !slices.ContainsFunc(p.certs[1:], func(c *x509.Certificate) bool {
		is := func(other *x509.Certificate) bool { return sameCA(c, other) }
		return slices.ContainsFunc(a.between, is) && !slices.ContainsFunc(t.chain, is)
	})
}

// anchors are the certificates that a policy lists: ends of paths, and those
// that stand between and that a message may leave out.
type anchors struct {
	roots   []anchor
	between []*x509.Certificate
}

// add takes c in, as a root or as one that stands between.
func (a *anchors) add(c *x509.Certificate, root bool) error {
	switch {
	case c == nil:
		return errors.New("missing")
	case !c.IsCA || !c.BasicConstraintsValid:
		return fmt.Errorf("certificate %s is not a CA", quote(c.Subject.String()))
	}
	if err := cose.CheckKey(c.PublicKey); err != nil {
		return fmt.Errorf("certificate %s: %w", quote(c.Subject.String()), err)
	}
	// With at most one certificate for a name and key, a chain has at most one
	// path, so that a Decision does not depend on which path is found first.
	if root {
		if i := slices.IndexFunc(a.roots, func(other anchor) bool { return sameCA(c, other.Certificate) }); i >= 0 {
			return fmt.Errorf("same name and key as roots[%d]", i)
		}
		a.roots = append(a.roots, anchor{Certificate: c})
		return nil
	}
	if i := slices.IndexFunc(a.between, func(other *x509.Certificate) bool { return sameCA(c, other) }); i >= 0 {
		return fmt.Errorf("same name and key as intermediates[%d]", i)
	}
	a.between = append(a.between, c)
	return nil
}

func sameCA(a, b *x509.Certificate) bool {
	return bytes.Equal(a.RawSubject, b.RawSubject) && bytes.Equal(a.RawSubjectPublicKeyInfo, b.RawSubjectPublicKeyInfo)
}

// shares says whether some path could end in either.
func (a *anchors) shares(b *anchors) bool {
	return slices.ContainsFunc(a.roots, func(r anchor) bool {
		return slices.ContainsFunc(b.roots, func(s anchor) bool { return sameCA(r.Certificate, s.Certificate) })
	})
}

// certPath leads from a leaf to a root.
type certPath struct {
	certs  []*x509.Certificate // leaf first, root last
	sent   int                 // how many of them the message brought
	root   anchor
	checks int // signatures that it took to tell namesakes apart
}

// lead finds the path of a chain: for each certificate the one that issued it,
// which is a root, else what was sent next, else what the policy lists.
//
// SPEC RFC 9360 §2: x5chain is ordered, each certificate certified by the next.
// So nothing is searched. Names decide, and signatures only between namesakes:
// time has no say in which path it is, and no message can make it long.
func (a *anchors) lead(sent []*x509.Certificate) (*certPath, error) {
	p := &certPath{certs: sent[:1:1], sent: 1}
	for len(p.certs) < maxPath {
		last := p.certs[len(p.certs)-1]
		var next *x509.Certificate
		if p.sent == len(p.certs) && p.sent < len(sent) {
			next = sent[p.sent]
		}
		issuer, err := p.issuer(a, last, next)
		if err != nil {
			return p, err
		}
		p.certs = append(p.certs, issuer)
		if next != nil && next.Equal(issuer) {
			p.sent++
		}
		if i := slices.IndexFunc(a.roots, func(r anchor) bool { return r.Equal(issuer) }); i >= 0 {
			p.root = a.roots[i]
			return p, nil
		}
	}
	return p, fmt.Errorf("it has more than %d certificates", maxPath)
}

func (p *certPath) issuer(a *anchors, c, next *x509.Certificate) (*x509.Certificate, error) {
	var named []*x509.Certificate
	consider := func(ca *x509.Certificate) {
		if bytes.Equal(ca.RawSubject, c.RawIssuer) && !slices.ContainsFunc(named, ca.Equal) {
			named = append(named, ca)
		}
	}
	for _, r := range a.roots {
		consider(r.Certificate)
	}
	if next != nil {
		consider(next)
	}
	for _, ca := range a.between {
		consider(ca)
	}
	switch len(named) {
	case 0:
		return nil, fmt.Errorf("nothing that was sent next or that the policy lists is %s, who issued %s", quote(c.Issuer.String()), quote(c.Subject.String()))
	case 1:
		return named[0], nil // verify will tell
	}
	for _, ca := range named {
		p.checks++
		if c.CheckSignatureFrom(ca) == nil {
			return ca, nil
		}
	}
	return nil, fmt.Errorf("none of those called %s has signed %s", quote(c.Issuer.String()), quote(c.Subject.String()))
}

// verify validates p at now (RFC 5280 §6).
func (p *certPath) verify(u usage, now time.Time) error {
	if err := p.checkNamesakes(); err != nil {
		return err
	}
	last := len(p.certs) - 1
	opts := x509.VerifyOptions{
		Roots:         x509.NewCertPool(), // never nil, which would mean the system's
		Intermediates: x509.NewCertPool(),
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{u.known}, // of an OID: any, which the caller checks
	}
	if now.IsZero() {
		opts.CurrentTime = now.Add(1) // a zero CurrentTime would mean the wall clock
	}
	opts.Roots.AddCert(p.certs[last])
	for _, c := range p.certs[1:last] {
		opts.Intermediates.AddCert(c)
	}
	found, err := p.certs[0].Verify(opts)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(found, func(other []*x509.Certificate) bool {
		return slices.EqualFunc(other, p.certs, (*x509.Certificate).Equal)
	}) {
		return errors.New("its certificates are not in order")
	}
	return nil
}

// checkNamesakes holds the links of a path whose CAs share names, one signature
// each. crypto/x509 would search them for another path, a hundred signatures long,
// and whoever has no certificate can write such chains, too.
func (p *certPath) checkNamesakes() error {
	shared := false
	for i, c := range p.certs[1:] {
		for _, other := range p.certs[i+2:] {
			if sameCA(c, other) {
				return fmt.Errorf("it has %s twice", quote(c.Subject.String()))
			}
			shared = shared || bytes.Equal(c.RawSubject, other.RawSubject)
		}
	}
	for i, c := range p.certs[1:] {
		if !shared {
			return nil
		}
		p.checks++
		if err := p.certs[i].CheckSignatureFrom(c); err != nil {
			return fmt.Errorf("%s has not signed %s: %w", quote(c.Subject.String()), quote(p.certs[i].Subject.String()), err)
		}
	}
	return nil
}

// times is when p holds, around now; false: its authority does not count at now.
func (a *anchors) times(p *certPath, now time.Time) (w window, ok bool) {
	for _, c := range p.certs {
		w.narrow(c.NotBefore, c.NotAfter)
	}
	if len(p.root.terms) == 0 {
		return w, true
	}
	for _, t := range p.root.terms {
		if t.covers(p, a, now) {
			w.narrow(t.from, t.to)
			return w, true
		}
	}
	return w, false
}

func (w window) contains(t time.Time) bool {
	return (w.from.IsZero() || !t.Before(w.from)) && (w.to.IsZero() || !t.After(w.to))
}
