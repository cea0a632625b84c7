package policy

import (
	"bytes"
	"crypto"
	//lint:ignore SA1019 to be refused
	"crypto/dsa"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/statement"
)

func TestACertificateUnderAListedRootIsAdmitted(t *testing.T) {
	root := newCA(t, "root")
	mid := root.intermediate("mid", func(c *x509.Certificate) { c.NotAfter = noon.Add(time.Hour) })
	p := inForce(t, caIssuer(acme, root))
	leaf := mid.leaf(acme, func(c *x509.Certificate) { c.NotBefore = noon.Add(-time.Hour) })
	sum := sha256.Sum256(leaf.chain[0])
	want := Decision{
		Policy:    p.Entry,
		Rule:      "issuers[0].x509",
		Identity:  Identity{Kind: Certificate, Issuer: acme, Thumbprint: hex.EncodeToString(sum[:]), Name: acme},
		Artifacts: []statement.Digest{"sha256:b6c7e21200000000000000000000000000000000000000000000000000000001"},
		NotBefore: noon.Add(-time.Hour),
		NotAfter:  noon.Add(time.Hour),
	}
	if d := p.Evaluate(sign(t, acme, leaf), noon); !reflect.DeepEqual(d, want) {
		t.Errorf("x5chain protected\ngot  %+v\nwant %+v", d, want)
	}
	want.Chain = leaf.chain
	if d := p.Evaluate(sign(t, acme, leaf, unprotected), noon); !reflect.DeepEqual(d, want) {
		t.Errorf("x5t protected\ngot  %+v\nwant %+v", d, want)
	}
	// The root may come along or stay at home.
	withRoot := signer{leaf.Signer, append(leaf.chain[:2:2], root.cert.Raw)}
	want.Chain = withRoot.chain
	if d := p.Evaluate(sign(t, acme, withRoot, unprotected), noon); !reflect.DeepEqual(d, want) {
		t.Errorf("with the root\ngot  %+v\nwant %+v", d, want)
	}
}

func TestTwoVendorsUnderOneRootCannotSpeakAsEachOther(t *testing.T) {
	root := newCA(t, "shared root")
	mail := caIssuer("https://mail.example", root)
	mail.X509.SAN = "release@mail.example"
	p := inForce(t, caIssuer(wabbit, root), caIssuer(acme, root), mail)
	byMail := func(c *x509.Certificate) { c.EmailAddresses = []string{"release@mail.example"} }
	leaves := map[string]signer{wabbit: root.leaf(wabbit), acme: root.leaf(acme), "https://mail.example": root.leaf("", byMail)}
	for speaker, leaf := range leaves {
		for iss := range leaves {
			for _, how := range []func(*statement.Template){func(*statement.Template) {}, unprotected} {
				d := p.Evaluate(sign(t, iss, leaf, how), noon)
				if iss == speaker {
					admitted(t, d)
				} else {
					refused(t, d, CodeCertificateInvalid, d.Rule)
					if !strings.HasSuffix(d.Rule, ".x509.san") {
						t.Errorf("%s as %s: refused by %s", speaker, iss, d.Rule)
					}
				}
			}
		}
	}
}

func TestALeafNamesItsIssExactly(t *testing.T) {
	root := newCA(t, "root")
	p := inForce(t, caIssuer(acme, root))
	uris := func(list ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			for _, s := range list {
				c.URIs = append(c.URIs, &url.URL{Opaque: s}) // written as it is
			}
		}
	}
	for name, leaf := range map[string]signer{
		"no name":                  root.leaf(""),
		"the name as common name":  root.leaf("", func(c *x509.Certificate) { c.Subject.CommonName = acme }),
		"another host":             root.leaf("https://acme.example.evil.example"),
		"upper case":               root.leaf("", uris("HTTPS://acme.example")),
		"upper-case host":          root.leaf("https://ACME.example"),
		"a slash more":             root.leaf("https://acme.example/"),
		"a wildcard":               root.leaf("", uris("https://*.example")),
		"an empty fragment":        root.leaf("", uris("https://acme.example#")),
		"an empty query":           root.leaf("", uris("https://acme.example?")),
		"host as DNS name":         root.leaf("", func(c *x509.Certificate) { c.DNSNames = []string{"acme.example"} }),
		"wildcard as DNS name":     root.leaf("", func(c *x509.Certificate) { c.DNSNames = []string{"*.example"} }),
		"an address at the host":   root.leaf("", func(c *x509.Certificate) { c.EmailAddresses = []string{"root@acme.example"} }),
		"the name as mail address": root.leaf("", func(c *x509.Certificate) { c.EmailAddresses = []string{acme} }),
	} {
		d := p.Evaluate(sign(t, acme, leaf), noon)
		if d.Rule != "issuers[0].x509.san" {
			t.Errorf("%s:", name)
		}
		refused(t, d, CodeCertificateInvalid, "issuers[0].x509.san")
	}
	admitted(t, p.Evaluate(sign(t, acme, root.leaf(acme, uris("https://other.example"))), noon))
}

func TestThePolicyMayBindAnotherName(t *testing.T) {
	root := newCA(t, "root")
	for san, leaf := range map[string]signer{
		"spiffe://acme.example/release": root.leaf("spiffe://acme.example/release"),
		"release@acme.example":          root.leaf("", func(c *x509.Certificate) { c.EmailAddresses = []string{"release@acme.example"} }),
		"release.acme.example":          root.leaf("", func(c *x509.Certificate) { c.DNSNames = []string{"release.acme.example"} }),
	} {
		i := caIssuer(acme, root)
		i.X509.SAN = san
		p := inForce(t, i)
		admitted(t, p.Evaluate(sign(t, acme, leaf), noon))
		refused(t, p.Evaluate(sign(t, acme, root.leaf(acme)), noon), CodeCertificateInvalid, "issuers[0].x509.san")
		refused(t, p.Evaluate(sign(t, wabbit, leaf), noon), CodeUnknownIssuerKey, "issuers")
	}
}

func TestOneNameUnderOneRootMaySpeakForOneIssuerOnly(t *testing.T) {
	root, other := newCA(t, "root"), newCA(t, "other")
	issuer := func(iss, san string, roots ...*ca) Issuer {
		i := caIssuer(iss, roots...)
		i.X509.SAN = san
		return i
	}
	pattern := func(p string) Issuer {
		i := caIssuer("", root)
		i.Pattern = p
		return i
	}
	o := newOperator(t)
	for name, c := range map[string]struct {
		issuers []Issuer
		ok      bool
	}{
		"one SAN for two issuers":          {[]Issuer{issuer(wabbit, "a.example", root), issuer(acme, "a.example", root)}, false},
		"one of several roots in common":   {[]Issuer{issuer(wabbit, "a.example", other, root), issuer(acme, "a.example", root)}, false},
		"the iss of another":               {[]Issuer{issuer(wabbit, acme, root), issuer(acme, "", root)}, false},
		"the iss of another, listed first": {[]Issuer{issuer(acme, "", root), issuer(wabbit, acme, root)}, false},
		"an iss that a pattern admits":     {[]Issuer{issuer(wabbit, "https://a.example", root), pattern(`^https://[a-z]+\.example$`)}, false},
		"other roots":                      {[]Issuer{issuer(wabbit, "a.example", root), issuer(acme, "a.example", other)}, true},
		"its own iss, which is the rule":   {[]Issuer{issuer(acme, acme, root), issuer(wabbit, "", root)}, true},
		"its own iss, hiding a pattern":    {[]Issuer{issuer(acme, acme, root), pattern(`^https://[a-z]+\.example$`)}, true},
		"two rules for one issuer":         {[]Issuer{issuer(acme, "a.example", root), issuer(acme, "a.example", root)}, true},
	} {
		_, err := New(o.document(c.issuers...))
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAPatternAdmitsEachLeafForItsOwnNameOnly(t *testing.T) {
	root, strict := newCA(t, "root"), newCA(t, "strict")
	i := caIssuer("", root)
	i.Pattern = `^https://[a-z]+\.partners\.example$`
	p := inForce(t, i, caIssuer("https://one.partners.example", strict))
	admitted(t, p.Evaluate(sign(t, "https://two.partners.example", root.leaf("https://two.partners.example")), noon))
	refused(t, p.Evaluate(sign(t, "https://two.partners.example", root.leaf("https://three.partners.example")), noon), CodeCertificateInvalid, "issuers[0].x509.san")
	refused(t, p.Evaluate(sign(t, "https://a.evil/.partners.example", root.leaf("https://a.evil/.partners.example")), noon), CodeUnknownIssuerKey, "issuers")
	// A rule with that very iss hides the pattern.
	refused(t, p.Evaluate(sign(t, "https://one.partners.example", root.leaf("https://one.partners.example")), noon), CodeCertificateInvalid, "issuers[1].x509")
	admitted(t, p.Evaluate(sign(t, "https://one.partners.example", strict.leaf("https://one.partners.example")), noon))
}

func TestTheIssOfACertificateIsAURI(t *testing.T) {
	root := newCA(t, "root")
	i := caIssuer("", root)
	i.Pattern = `^[A-Za-z ]+$`
	p := inForce(t, i)
	leaf := root.leaf("", func(c *x509.Certificate) { c.URIs = []*url.URL{{Opaque: "Wabbit"}} })
	refused(t, p.Evaluate(sign(t, "Wabbit", leaf), noon), CodeCertificateInvalid, "issuers[0].x509")
	refused(t, p.Evaluate(sign(t, "Wabbit Networks", leaf), noon), CodeCertificateInvalid, "issuers[0].x509")
	for iss, ok := range map[string]bool{
		acme: true, "urn:acme:release": true, "did:web:acme.example": true, "spiffe://acme/release": true,
		"acme": false, "acme.example": false, "https://": false, "://acme": false, "https://a b": false, ":": false, "https:": false,
	} {
		if err := checkIssuerURI(iss); (err == nil) != ok {
			t.Errorf("%q: %v", iss, err)
		}
	}
}

func TestTheUsageIsCodeSigningUnlessThePolicySaysElse(t *testing.T) {
	root := newCA(t, "root")
	own := asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}
	usage := func(list ...x509.ExtKeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtKeyUsage = list }
	}
	leaves := map[string]signer{
		"codeSigning":          root.leaf(acme),
		"emailProtection":      root.leaf(acme, usage(x509.ExtKeyUsageEmailProtection)),
		"serverAuth":           root.leaf(acme, usage(x509.ExtKeyUsageServerAuth)),
		own.String():           root.leaf(acme, usage(), func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{own} }),
		"any":                  root.leaf(acme, usage(x509.ExtKeyUsageAny)),
		"none":                 root.leaf(acme, usage()),
		"1.3.6.1.4.1.99999.10": root.leaf(acme, usage(), func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{append(own[:7:7], 10)} }),
	}
	for eku, name := range map[string]string{
		"": "codeSigning", "codeSigning": "codeSigning", "1.3.6.1.5.5.7.3.3": "codeSigning",
		"emailProtection": "emailProtection", own.String(): own.String(),
	} {
		i := caIssuer(acme, root)
		i.X509.EKU = eku
		p := inForce(t, i)
		for has, leaf := range leaves {
			d := p.Evaluate(sign(t, acme, leaf), noon)
			if has == name {
				admitted(t, d)
			} else {
				refused(t, d, CodeCertificateInvalid, "issuers[0].x509.eku")
			}
		}
	}
}

func TestCAsMustAllowTheUsage(t *testing.T) {
	own := asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}
	root := newCA(t, "root")
	with := func(known []x509.ExtKeyUsage, unknown ...asn1.ObjectIdentifier) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtKeyUsage, c.UnknownExtKeyUsage = known, unknown }
	}
	serverAuth := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for name, c := range map[string]struct {
		eku  string
		ca   func(*x509.Certificate)
		leaf func(*x509.Certificate)
		ok   bool
	}{
		"silent":              {"", with(nil), with([]x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}), true},
		"any":                 {"", with([]x509.ExtKeyUsage{x509.ExtKeyUsageAny}), with([]x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}), true},
		"another":             {"", with(serverAuth), with([]x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}), false},
		"silent on an OID":    {own.String(), with(nil), with(nil, own), true},
		"any for an OID":      {own.String(), with([]x509.ExtKeyUsage{x509.ExtKeyUsageAny}), with(nil, own), true},
		"the OID":             {own.String(), with(nil, own), with(nil, own), true},
		"another than an OID": {own.String(), with(serverAuth), with(nil, own), false},
	} {
		i := caIssuer(acme, root)
		i.X509.EKU = c.eku
		d := inForce(t, i).Evaluate(sign(t, acme, root.intermediate("mid", c.ca).leaf(acme, c.leaf)), noon)
		if (d.Refusal == nil) != c.ok {
			t.Errorf("%s: %+v", name, d.Refusal)
		}
		if d.Refusal != nil && d.Refusal.Code != CodeCertificateInvalid {
			t.Errorf("%s: code %s", name, d.Refusal.Code)
		}
	}
}

func TestChainsThatDoNotValidateAreRefused(t *testing.T) {
	root, stranger := newCA(t, "root"), newCA(t, "stranger")
	mid := root.intermediate("mid")
	namesake := newCA(t, "root") // same name, other key
	expired := func(c *x509.Certificate) { c.NotBefore, c.NotAfter = noon.Add(-2*time.Hour), noon.Add(-time.Second) }
	future := func(c *x509.Certificate) { c.NotBefore = noon.Add(time.Second) }
	notCA := func(c *x509.Certificate) { c.IsCA, c.MaxPathLen = false, -1 }
	critical := func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 2}, Critical: true, Value: []byte{5, 0}}}
	}
	short := root.intermediate("short", func(c *x509.Certificate) { c.MaxPathLenZero = true })
	elsewhere := root.intermediate("elsewhere", func(c *x509.Certificate) {
		c.PermittedURIDomains, c.PermittedDNSDomainsCritical = []string{"wabbit.example"}, true
	})
	good := mid.leaf(acme)
	tampered := bytes.Clone(good.chain[0])
	tampered[len(tampered)-1] ^= 1

	p := inForce(t, caIssuer(acme, root))
	admitted(t, p.Evaluate(sign(t, acme, good), noon))
	for name, c := range map[string]struct {
		s    signer
		rule string
	}{
		"leaf expired":                    {mid.leaf(acme, expired), ""},
		"leaf not yet valid":              {mid.leaf(acme, future), ""},
		"intermediate expired":            {root.intermediate("mid", expired).leaf(acme), ""},
		"intermediate not yet valid":      {root.intermediate("mid", future).leaf(acme), ""},
		"unknown critical extension":      {mid.leaf(acme, critical), ""},
		"the same in an intermediate":     {root.intermediate("mid", critical).leaf(acme), ""},
		"under another root":              {stranger.leaf(acme), ""},
		"under another root that came":    {signer{stranger.leaf(acme).Signer, append(stranger.leaf(acme).chain, stranger.cert.Raw)}, ""},
		"root's name with another key":    {namesake.leaf(acme), ""},
		"issuer's name with another key":  {signer{good.Signer, append(good.chain[:1:1], root.intermediate("mid").cert.Raw)}, ""},
		"intermediate missing":            {signer{good.Signer, good.chain[:1]}, ""},
		"intermediate is no CA":           {root.intermediate("mid", notCA).leaf(acme), ""},
		"path longer than a CA allows":    {short.intermediate("below").leaf(acme), ""},
		"name outside a CA's constraints": {elsewhere.leaf(acme), ""},
		"CA as leaf":                      {signer{mid.key, mid.chain}, ""},
		"self-signed leaf":                {selfSigned(t, acme), ""},
		"key usage without signature":     {mid.leaf(acme, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }), ""},
		"out of order":                    {outOfOrder(root), ""},
		"something in between":            {signer{good.Signer, [][]byte{good.chain[0], stranger.cert.Raw, good.chain[1]}}, ""},
		"rubbish behind the leaf":         {signer{good.Signer, [][]byte{good.chain[0], []byte("rubbish")}}, ""},
		"signature of a CA altered":       {signer{good.Signer, [][]byte{tampered, good.chain[1]}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, how := range []func(*statement.Template){func(*statement.Template) {}, unprotected} {
				refused(t, p.Evaluate(sign(t, acme, c.s, how), noon), CodeCertificateInvalid, "issuers[0].x509"+c.rule)
			}
		})
	}
}

func selfSigned(t *testing.T, san string) signer {
	key := newKey(t)
	tmpl := leafTemplate(san, nil)
	return signer{key, [][]byte{create(t, tmpl, tmpl, key.Public(), key).Raw}}
}

func outOfOrder(root *ca) signer {
	s := root.intermediate("upper").intermediate("lower").leaf(acme)
	s.chain = [][]byte{s.chain[0], s.chain[2], s.chain[1]}
	return s
}

func TestSystemRootsAreNeverAsked(t *testing.T) {
	root := newCA(t, "public root")
	t.Setenv("SSL_CERT_FILE", write(t, map[string]string{"policy.yaml": certPEM(root.cert)}))
	p := inForce(t, caIssuer(acme, newCA(t, "root")))
	refused(t, p.Evaluate(sign(t, acme, root.leaf(acme)), noon), CodeCertificateInvalid, "issuers[0].x509")
}

func TestTheSignatureIsThatOfTheLeaf(t *testing.T) {
	root := newCA(t, "root")
	p := inForce(t, caIssuer(acme, root))
	leaf := root.leaf(acme)
	thief := signer{newKey(t), leaf.chain}
	refused(t, p.Evaluate(sign(t, acme, thief), noon), CodeBadSignature, "issuers[0].x509")
	admitted(t, p.Evaluate(sign(t, acme, leaf), noon))
	refused(t, p.Evaluate(sign(t, acme, thief), noon), CodeBadSignature, "issuers[0].x509")
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	refused(t, p.Evaluate(sign(t, acme, signer{p384, leaf.chain}), noon), CodeBadAlgorithm, "issuers[0].x509")
}

func TestEveryIdentityInTheHeaderMustBeTheSame(t *testing.T) {
	root, key := newCA(t, "root"), newKey(t)
	leaf := root.leafFor(key, acme)
	sum := sha256.Sum256(leaf.chain[0])
	byCert, byKey := inForce(t, caIssuer(acme, root)), inForce(t, keyIssuer(acme, key))

	admitted(t, byCert.Evaluate(sign(t, acme, leaf, kid(thumbprint(t, key))), noon))
	admitted(t, byCert.Evaluate(sign(t, acme, leaf, kid(sum[:]), unprotected), noon))
	refused(t, byCert.Evaluate(sign(t, acme, leaf, kid(thumbprint(t, newKey(t)))), noon), CodeCertificateInvalid, "issuers[0].x509")
	refused(t, byCert.Evaluate(sign(t, acme, leaf, kid([]byte("release"))), noon), CodeCertificateInvalid, "issuers[0].x509")
	// A certificate is no proof for who is known by key, nor a key for who is
	// known by certificate.
	refused(t, byKey.Evaluate(sign(t, acme, leaf), noon), CodeUnknownIssuerKey, "issuers[0].key")
	refused(t, byKey.Evaluate(sign(t, acme, leaf, kid(thumbprint(t, key)), unprotected), noon), CodeUnknownIssuerKey, "issuers[0].key")
	refused(t, byCert.Evaluate(sign(t, acme, key), noon), CodeUnknownIssuerKey, "issuers[0].x509")

	// x5t alone, its chain lost on the way.
	lost := parse(t, sign(t, acme, leaf, unprotected).Canonical())
	refused(t, byCert.Evaluate(lost, noon), CodeCertificateInvalid, "issuers[0].x509")
	// A chain that anybody may have added: for who is known by key it decides
	// nothing, and for others kid must have named it.
	added := withChain(t, sign(t, acme, key), leaf.chain)
	d := byKey.Evaluate(added, noon)
	if admitted(t, d); d.Chain != nil {
		t.Error("a chain that decided nothing was kept")
	}
	admitted(t, byCert.Evaluate(added, noon))
	for _, id := range [][]byte{[]byte("release"), thumbprint(t, newKey(t)), sum[:31]} {
		named := withChain(t, sign(t, acme, key, kid(id)), leaf.chain)
		refused(t, byCert.Evaluate(named, noon), CodeCertificateInvalid, "issuers[0].x509")
	}
}

func TestOneIssuerMayHaveAKeyAndCertificates(t *testing.T) {
	oldRoot, newRoot, key := newCA(t, "old"), newCA(t, "new"), newKey(t)
	p := inForce(t, caIssuer(acme, oldRoot), keyIssuer(acme, key), caIssuer(acme, newRoot))
	for want, s := range map[string]*statement.Statement{
		"issuers[0].x509": sign(t, acme, oldRoot.leaf(acme)), "issuers[1].key": sign(t, acme, key), "issuers[2].x509": sign(t, acme, newRoot.leaf(acme)),
	} {
		d := p.Evaluate(s, noon)
		if admitted(t, d); d.Rule != want {
			t.Errorf("rule %s, want %s", d.Rule, want)
		}
	}
	refused(t, p.Evaluate(sign(t, acme, newCA(t, "third").leaf(acme)), noon), CodeCertificateInvalid, "issuers[0].x509")
}

func TestWeakKeysAnywhereInAChainAreRefused(t *testing.T) {
	root := newCA(t, "root")
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	huge := new(big.Int).Lsh(big.NewInt(1), 16383)
	huge.Add(huge, big.NewInt(1))
	smallOrder := make(ed25519.PublicKey, 32)

	p := inForce(t, caIssuer(acme, root))
	mid := root.intermediate("mid")
	plain := mid.leaf(acme)
	// The message itself is signed with a sound key: the chain is looked at first.
	other := func(chain [][]byte) signer { return signer{newKey(t), chain} }
	dsaLeaf := root.resign(root.leaf(acme).chain[0], func(tbs *tbsCertificate) { tbs.PublicKey = dsaPublicKey(t) })
	for name, s := range map[string]signer{
		"RSA 1024 leaf":             other(mid.certify(weak.Public(), acme)),
		"RSA 1024 intermediate":     root.intermediateWith("weak", weak).leaf(acme),
		"RSA 1024 above the anchor": {plain.Signer, append(plain.chain[:2:2], newCAWith(t, "weak", weak).cert.Raw)},
		"RSA 16384 leaf":            other(mid.certify(&rsa.PublicKey{N: huge, E: 65537}, acme)),
		"P-224 leaf":                other(mid.certify(p224.Public(), acme)),
		"P-224 intermediate":        root.intermediateWith("weak", p224).leaf(acme),
		"Ed25519 of small order":    other(mid.certify(smallOrder, acme)),
		"DSA leaf":                  other([][]byte{dsaLeaf}),
		"point off the curve":       other([][]byte{offCurve(t, root)}),
	} {
		d := p.Evaluate(sign(t, acme, s), noon)
		if d.Refusal == nil || d.Refusal.Code != CodeCertificateInvalid || d.Rule != "issuers[0].x509" {
			t.Errorf("%s: %+v", name, d.Refusal)
		}
	}
	strong, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []crypto.Signer{strong, ed} {
		admitted(t, p.Evaluate(sign(t, acme, mid.leafFor(key, acme)), noon))
		admitted(t, p.Evaluate(sign(t, acme, root.intermediateWith("mid", key).leaf(acme)), noon))
	}
}

func dsaPublicKey(t *testing.T) asn1.RawValue {
	t.Helper()
	var key dsa.PrivateKey
	if err := dsa.GenerateParameters(&key.Parameters, rand.Reader, dsa.L1024N160); err != nil {
		t.Fatal(err)
	}
	if err := dsa.GenerateKey(&key, rand.Reader); err != nil {
		t.Fatal(err)
	}
	params, err := asn1.Marshal(key.Parameters)
	if err != nil {
		t.Fatal(err)
	}
	y, err := asn1.Marshal(key.Y)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := asn1.Marshal(struct {
		Algorithm pkix.AlgorithmIdentifier
		PublicKey asn1.BitString
	}{
		pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10040, 4, 1}, Parameters: asn1.RawValue{FullBytes: params}},
		asn1.BitString{Bytes: y, BitLength: 8 * len(y)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return asn1.RawValue{FullBytes: spki}
}

func offCurve(t *testing.T, c *ca) []byte {
	t.Helper()
	return c.resign(c.leaf(acme).chain[0], func(tbs *tbsCertificate) {
		spki := bytes.Clone(tbs.PublicKey.FullBytes)
		spki[len(spki)-1] ^= 1
		tbs.PublicKey = asn1.RawValue{FullBytes: spki}
	})
}

func TestTrustAnchorsWithWeakKeysAreRefusedWhenThePolicyIsRead(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	notCA := newCA(t, "no CA", func(c *x509.Certificate) { c.IsCA = false })
	o := newKey(t)
	for name, anchor := range map[string]*ca{"RSA 1024": newCAWith(t, "weak", weak), "P-224": newCAWith(t, "weak", p224), "no CA": notCA} {
		path := write(t, map[string]string{
			"policy.yaml": "operators: [{key: o.pub}]\nissuers: [{iss: 'https://a', x509: {roots: [root.pem]}}]\n",
			"o.pub":       keyPEM(t, o), "root.pem": certPEM(anchor.cert),
		})
		if _, err := ReadYAML(path); err == nil || !strings.Contains(err.Error(), "policy.yaml:2:") || !strings.Contains(err.Error(), "issuers[0].x509.roots[0]") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, key := range map[string]crypto.PublicKey{"RSA 1024": weak.Public(), "P-224": p224.Public(), "small order": make(ed25519.PublicKey, 32)} {
		doc := newOperator(t).document(Issuer{Iss: "a", Key: &Key{Public: key}})
		if _, err := New(doc); err == nil || !strings.Contains(err.Error(), "issuers[0].key") {
			t.Errorf("%s: %v", name, err)
		}
		doc = Defaults()
		doc.Operators = []Operator{{Key: Key{Public: key}}}
		if _, err := New(doc); err == nil || !strings.Contains(err.Error(), "operators[0].key") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLongChainsAreBounded(t *testing.T) {
	c := newCA(t, "root")
	p := inForce(t, caIssuer(acme, c))
	for i := range 7 {
		c = c.intermediate(fmt.Sprint("ca ", i))
	}
	s := sign(t, acme, c.leaf(acme)) // eight certificates
	admitted(t, p.Evaluate(s, noon))
	// No two of them share a name, so that each is verified once.
	if path, err := p.rules[0].certs.lead(mustParse(t, s.Chain)); err != nil || len(path.certs) != 9 || path.checks != 0 {
		t.Errorf("%v: %d certificates, %d more signatures", err, len(path.certs), path.checks)
	}
	for _, n := range []int{1, 93, 993} {
		leaf := c.leaf(acme)
		for range n {
			leaf.chain = append(leaf.chain, c.cert.Raw)
		}
		_, err := statement.Sign(statement.Template{Issuer: acme, Subject: image, Payload: []byte("x"), Chain: leaf.chain}, leaf.Signer)
		if !errors.Is(err, statement.ErrMalformed) {
			t.Errorf("%d certificates: %v", len(leaf.chain), err)
		}
	}
}

func TestANameConstraintBombIsBounded(t *testing.T) {
	root := newCA(t, "root")
	p := inForce(t, caIssuer(acme, root))
	bomb := root.intermediate("bomb", func(c *x509.Certificate) {
		for i := range 2000 {
			c.ExcludedURIDomains = append(c.ExcludedURIDomains, fmt.Sprintf("x%d.example", i))
		}
	})
	leaf := bomb.leaf(acme, func(c *x509.Certificate) {
		for i := range 1600 {
			c.URIs = append(c.URIs, &url.URL{Scheme: "a", Host: fmt.Sprintf("y%d.test", i)})
		}
	})
	if size := len(leaf.chain[0]) + len(leaf.chain[1]); size < 48<<10 || size > statement.MaxChainBytes {
		t.Fatalf("the chain has %d bytes; make it as large as is read", size)
	}
	s := sign(t, acme, leaf, unprotected)
	if took := quickest(func() {
		p.chains = newChainCache()
		admitted(t, p.Evaluate(s, noon)) // so all of it was compared
	}); took > 50*time.Millisecond {
		t.Errorf("took %v", took)
	}
}

// quickest of three runs: the machine may be busy.
func quickest(f func()) time.Duration {
	best := time.Hour
	for range 3 {
		began := time.Now()
		f()
		best = min(best, time.Since(began))
	}
	return best
}

func TestARememberedChainEndsWithItsCertificates(t *testing.T) {
	root := newCA(t, "root")
	leaf := root.leaf(acme, func(c *x509.Certificate) { c.NotAfter = noon.Add(time.Minute) })
	o := newOperator(t)
	p := bootstrap(t, o.publish(o.document(caIssuer(acme, root))))
	s := sign(t, acme, leaf)
	first := p.Evaluate(s, noon)
	admitted(t, first)
	if len(p.chains.leaves) != 1 {
		t.Fatalf("%d chains remembered, want 1", len(p.chains.leaves))
	}
	if again := p.Evaluate(s, first.NotAfter); !reflect.DeepEqual(again, first) {
		t.Errorf("got  %+v\nwant %+v", again, first)
	}
	refused(t, p.Evaluate(s, first.NotAfter.Add(1)), CodeCertificateInvalid, "issuers[0].x509")
	refused(t, p.Evaluate(s, first.NotBefore.Add(-1)), CodeCertificateInvalid, "issuers[0].x509")

	doc := o.document(caIssuer(acme, newCA(t, "next root")))
	doc.Previous = previous(p.Entry)
	q, err := FromStatement(o.publish(doc))
	if err != nil {
		t.Fatal(err)
	}
	refused(t, q.Evaluate(s, noon), CodeCertificateInvalid, "issuers[0].x509")
}

func TestFailuresAreNotRememberedAndMemoryIsBounded(t *testing.T) {
	root := newCA(t, "root")
	p := inForce(t, caIssuer(acme, root))
	p.Evaluate(sign(t, acme, newCA(t, "stranger").leaf(acme)), noon)
	p.Evaluate(sign(t, acme, root.leaf(wabbit)), noon)
	if n := len(p.chains.leaves); n != 0 {
		t.Errorf("%d failures remembered", n)
	}
	c := newChainCache()
	l := &leaf{from: noon, to: noon}
	for i := range maxChains + 100 {
		c.put(c.slot("issuers[0]", [][]byte{fmt.Append(nil, i)}), l)
	}
	if n := len(c.leaves); n != maxChains {
		t.Errorf("%d chains remembered, want %d", n, maxChains)
	}
	if c.slot("a", [][]byte{{1, 2}, {3}}) == c.slot("a", [][]byte{{1}, {2, 3}}) {
		t.Error("chains with other bounds share a slot")
	}
	if c.slot("issuers[0]", [][]byte{{1}}) == c.slot("issuers[1]", [][]byte{{1}}) {
		t.Error("rules share a slot")
	}
}

// Where two anchors could end a path, the answer must not depend on which was
// tried first, or on what was remembered.
func TestThePathDoesNotDependOnMemory(t *testing.T) {
	root := newCA(t, "root", func(c *x509.Certificate) { c.NotBefore = noon })
	mid := root.intermediate("mid")
	s := sign(t, acme, mid.leaf(acme), unprotected)
	doc := caIssuer(acme, root, mid) // the intermediate is an anchor too
	warm := inForce(t, doc)
	early := noon.Add(-time.Second)
	admitted(t, warm.Evaluate(s, early)) // only the shorter path is valid yet
	cold := mustNew(t, warm.Document)
	cold.Entry = warm.Entry
	if a, b := warm.Evaluate(s, noon), cold.Evaluate(s, noon); !reflect.DeepEqual(a, b) {
		t.Errorf("warm %+v\ncold %+v", a, b)
	}
}
