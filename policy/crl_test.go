package policy

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"
)

// revoke makes a list of c's about certificates, by their serial numbers.
func (c *ca) revoke(edit func(*x509.RevocationList), certs ...[]byte) CRL {
	c.t.Helper()
	tmpl := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: noon.Add(-time.Hour), NextUpdate: noon.Add(time.Hour)}
	for _, der := range certs {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			c.t.Fatal(err)
		}
		tmpl.RevokedCertificateEntries = append(tmpl.RevokedCertificateEntries, x509.RevocationListEntry{
			SerialNumber: cert.SerialNumber, RevocationTime: noon.Add(-2 * time.Hour), ReasonCode: 1,
		})
	}
	if edit != nil {
		edit(tmpl)
	}
	der, err := x509.CreateRevocationList(rand.Reader, tmpl, c.cert, c.key)
	if err != nil {
		c.t.Fatal(err)
	}
	l, err := x509.ParseRevocationList(der)
	if err != nil {
		c.t.Fatal(err)
	}
	return CRL{l}
}

// mayRevoke lets a CA sign revocation lists.
func mayRevoke(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign }

func TestWhoIsRevokedIsRefusedWithSerialDateAndReason(t *testing.T) {
	root := newCA(t, "root", mayRevoke)
	mid, sound := root.intermediate("mid", mayRevoke), root.intermediate("sound")
	bad, good := mid.leaf(acme), mid.leaf(acme)
	for name, c := range map[string]struct {
		crl     CRL
		refused []signer
		fine    []signer
	}{
		"a leaf":          {mid.revoke(nil, bad.chain[0]), []signer{bad}, []signer{good, sound.leaf(acme)}},
		"an intermediate": {root.revoke(nil, mid.cert.Raw), []signer{bad, good}, []signer{sound.leaf(acme)}},
		"nobody":          {mid.revoke(nil), nil, []signer{bad, good}},
		// Serial numbers are an issuer's own.
		"the number with another CA": {root.revoke(nil, bad.chain[0]), nil, []signer{bad, good}},
	} {
		t.Run(name, func(t *testing.T) {
			i := caIssuer(acme, root)
			i.X509.Intermediates, i.X509.CRLs = []Root{{mid.cert}}, []CRL{c.crl}
			p := inForce(t, i)
			for _, s := range c.fine {
				admitted(t, p.Evaluate(sign(t, acme, s), noon))
			}
			for _, s := range c.refused {
				d := p.Evaluate(sign(t, acme, s), noon)
				refused(t, d, CodeCertificateInvalid, "issuers[0].x509.crls[0]")
				for _, say := range []string{"keyCompromise", "2026-11-21T10:00:00Z", serialNumber(c.crl.RevokedCertificateEntries[0].SerialNumber)} {
					if d.Refusal != nil && !strings.Contains(d.Refusal.Reason, say) {
						t.Errorf("%q does not say %s", d.Refusal.Reason, say)
					}
				}
			}
		})
	}
}

func TestARevocationListPastItsNextUpdateRefusesUnlessThePolicySaysElse(t *testing.T) {
	root := newCA(t, "root", mayRevoke)
	other := newCA(t, "other")
	leaf, gone := root.leaf(acme), root.leaf(acme)
	i := caIssuer(acme, root, other)
	i.X509.CRLs = []CRL{root.revoke(nil, gone.chain[0])}
	next := i.X509.CRLs[0].NextUpdate

	p := inForce(t, i)
	d := p.Evaluate(sign(t, acme, leaf), noon)
	if admitted(t, d); !d.NotAfter.Equal(next) {
		t.Errorf("the decision holds to %s, want the next update, %s", d.NotAfter, next)
	}
	admitted(t, p.Evaluate(sign(t, acme, leaf), next))
	refused(t, p.Evaluate(sign(t, acme, leaf), next.Add(1)), CodeCertificateInvalid, "issuers[0].x509.crls[0]")
	admitted(t, p.Evaluate(sign(t, acme, other.leaf(acme)), next.Add(1))) // whom the list is not about

	i.X509.CRLExpired = AllowExpired
	q := inForce(t, i)
	admitted(t, q.Evaluate(sign(t, acme, leaf), next.Add(1)))
	refused(t, q.Evaluate(sign(t, acme, gone), next.Add(1)), CodeCertificateInvalid, "issuers[0].x509.crls[0]")
	if d := q.Evaluate(sign(t, acme, leaf), noon); d.NotAfter.Equal(next) {
		t.Error("a list that may be old bounds the decision")
	}
	if notes := strings.Join(q.Lint(), "\n"); !strings.Contains(notes, "issuers[0].x509.crls[0]: ") {
		t.Errorf("lint says nothing about old lists:\n%s", notes)
	}
}

// What is remembered of a chain ends with the policy, and so with its lists.
func TestANewRevocationListCountsForChainsThatWereKnown(t *testing.T) {
	root := newCA(t, "root", mayRevoke)
	leaf := root.leaf(acme)
	o := newOperator(t)
	i := caIssuer(acme, root)
	p := bootstrap(t, o.publish(o.document(i)))
	admitted(t, p.Evaluate(sign(t, acme, leaf), noon))
	i.X509.CRLs = []CRL{root.revoke(nil, leaf.chain[0])}
	doc := o.document(i)
	doc.Previous = previous(p.Entry)
	q, err := FromStatement(o.publish(doc))
	if err != nil {
		t.Fatal(err)
	}
	refused(t, q.Evaluate(sign(t, acme, leaf), noon), CodeCertificateInvalid, "issuers[0].x509.crls[0]")
}

func TestRevocationListsThatSayLessThanTheySeemAreRefusedWithThePolicy(t *testing.T) {
	root := newCA(t, "root", mayRevoke)
	silent := newCA(t, "silent")
	namesake := newCA(t, "root", mayRevoke)
	leaf := root.leaf(acme)
	extra := func(id asn1.ObjectIdentifier, critical bool, value ...byte) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) {
			l.ExtraExtensions = append(l.ExtraExtensions, pkix.Extension{Id: id, Critical: critical, Value: value})
		}
	}
	entry := func(edit func(*x509.RevocationListEntry)) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) { edit(&l.RevokedCertificateEntries[0]) }
	}
	for name, c := range map[string]struct {
		crl  CRL
		says string // "" is fine
	}{
		"complete":             {root.revoke(nil, leaf.chain[0]), ""},
		"of part of the users": {root.revoke(extra(oidPart, true, 0x30, 0x03, 0x81, 0x01, 0xff), leaf.chain[0]), ""},
		"by nobody listed":     {newCA(t, "stranger", mayRevoke).revoke(nil), "no listed CA"},
		"by a namesake":        {namesake.revoke(nil), "not signed by"},
		"by a CA that may not": {CRL{silent.forge()}, "not signed by"},
		"a delta":              {root.revoke(extra(oidDelta, true, 0x02, 0x01, 0x01), leaf.chain[0]), "delta"},
		"indirect":             {root.revoke(extra(oidPart, true, 0x30, 0x03, 0x84, 0x01, 0xff), leaf.chain[0]), "indirect"},
		"of attributes":        {root.revoke(extra(oidPart, true, 0x30, 0x03, 0x85, 0x01, 0xff), leaf.chain[0]), "indirect"},
		"rubbish for a part":   {root.revoke(extra(oidPart, true, 0x30, 0x05, 0x84), leaf.chain[0]), "cannot be read"},
		"critical and unknown": {root.revoke(extra(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 7}, true, 5, 0), leaf.chain[0]), "critical extension"},
		"unknown":              {root.revoke(extra(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 7}, false, 5, 0), leaf.chain[0]), ""},
		"a removal":            {root.revoke(entry(func(e *x509.RevocationListEntry) { e.ReasonCode = 8 }), leaf.chain[0]), "removal"},
		"somebody else's number": {root.revoke(entry(func(e *x509.RevocationListEntry) {
			e.ExtraExtensions = []pkix.Extension{{Id: oidEntryIssuer, Critical: true, Value: []byte{0x30, 0}}}
		}), leaf.chain[0]), "somebody else"},
	} {
		i := caIssuer(acme, root, silent)
		i.X509.CRLs = []CRL{c.crl}
		_, err := New(newOperator(t).document(i))
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says) || !strings.HasPrefix(err.Error(), "issuers[0].x509.crls[0]: ")) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
	i := caIssuer(acme, root)
	i.X509.CRLs = []CRL{root.revoke(nil), root.revoke(nil, leaf.chain[0])}
	if _, err := New(newOperator(t).document(i)); err == nil || !strings.Contains(err.Error(), "keep the newer one") {
		t.Errorf("two lists of one CA: %v", err)
	}
	i.X509.CRLs, i.X509.CRLExpired = nil, "ignore"
	if _, err := New(newOperator(t).document(i)); err == nil || !strings.HasPrefix(err.Error(), "issuers[0].x509.crlExpired: ") {
		t.Errorf("crlExpired ignore: %v", err)
	}
}

// forge makes a list although c's certificate does not let it.
func (c *ca) forge() *x509.RevocationList {
	c.t.Helper()
	able := *c.cert
	able.KeyUsage |= x509.KeyUsageCRLSign
	l := (&ca{t: c.t, cert: &able, key: c.key}).revoke(nil)
	return l.RevocationList
}

func TestRevocationListsAreReadFromFilesAndLoggedWhole(t *testing.T) {
	root := newCA(t, "root", mayRevoke)
	mid := root.intermediate("mid", mayRevoke)
	leaf := mid.leaf(acme)
	crl := mid.revoke(nil, leaf.chain[0])
	for name, text := range map[string]string{
		"PEM": string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: crl.Raw})),
		"DER": string(crl.Raw),
	} {
		p, err := ReadYAML(write(t, map[string]string{
			"policy.yaml": "operators: [{key: o.pub}]\nissuers:\n  - iss: " + acme + "\n    x509: {roots: [root.pem], intermediates: [mid.pem], crls: [mid.crl], crlExpired: refuse}\n",
			"o.pub":       keyPEM(t, newKey(t)), "root.pem": certPEM(root.cert), "mid.pem": certPEM(mid.cert), "mid.crl": text,
		}))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		b, err := p.JSON()
		if err != nil {
			t.Fatal(err)
		}
		q, err := Parse(b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		refused(t, q.Evaluate(sign(t, acme, leaf), noon), CodeCertificateInvalid, "issuers[0].x509.crls[0]")
		admitted(t, q.Evaluate(sign(t, acme, mid.leaf(acme)), noon))
	}
}
