package policy

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/scittd/scittd/statement"
)

func TestIntermediatesOfThePolicyNeedNotBeSent(t *testing.T) {
	root := newCA(t, "root")
	upper := root.intermediate("upper")
	lower := upper.intermediate("lower")
	leaf := lower.leaf(acme)
	i := caIssuer(acme, root)
	i.X509.Intermediates = []Root{{upper.cert}, {lower.cert}}
	p := inForce(t, i)
	for sent := range leaf.chain {
		s := signer{leaf.Signer, leaf.chain[:sent+1]}
		d := p.Evaluate(sign(t, acme, s, unprotected), noon)
		if admitted(t, d); !reflect.DeepEqual(d.Chain, s.chain) {
			t.Errorf("of %d certificates %d are kept", len(s.chain), len(d.Chain))
		}
	}
	// Who is listed is believed, and no more: a policy without them is not served.
	refused(t, inForce(t, caIssuer(acme, root)).Evaluate(sign(t, acme, signer{leaf.Signer, leaf.chain[:1]}), noon), CodeCertificateInvalid, "issuers[0].x509")
	// One that is listed, but under no listed root, leads nowhere.
	j := caIssuer(acme, newCA(t, "stranger"))
	j.X509.Intermediates = i.X509.Intermediates
	refused(t, inForce(t, j).Evaluate(sign(t, acme, leaf), noon), CodeCertificateInvalid, "issuers[0].x509")
}

func TestKidNamesALeafThatCameUnprotected(t *testing.T) {
	root := newCA(t, "root")
	leaf := root.intermediate("mid").leaf(acme)
	other := root.leafFor(leaf.Signer, wabbit) // the same key, another name
	sum := sha256.Sum256(leaf.chain[0])
	p := inForce(t, caIssuer(acme, root), caIssuer(wabbit, root))
	for name, id := range map[string][]byte{"SHA-256 of the leaf": sum[:], "thumbprint of its key": thumbprint(t, leaf)} {
		s := withChain(t, sign(t, acme, leaf.Signer, kid(id)), leaf.chain)
		d := p.Evaluate(s, noon)
		admitted(t, d)
		if want := hex.EncodeToString(sum[:]); d.Identity.Thumbprint != want || !reflect.DeepEqual(d.Chain, leaf.chain) {
			t.Errorf("%s: identity %+v, %d certificates kept; want leaf %s and both", name, d.Identity, len(d.Chain), want)
		}
		// The chain, which nobody signed, makes nobody else of the signer.
		swapped := withChain(t, sign(t, acme, leaf.Signer, kid(id)), other.chain)
		if d := p.Evaluate(swapped, noon); d.Refusal == nil {
			t.Errorf("%s: admitted with the certificate of %s", name, wabbit)
		}
		lost := parse(t, s.Canonical())
		refused(t, p.Evaluate(lost, noon), CodeUnknownIssuerKey, "issuers[0].x509")
	}
}

func TestOneCertificateMayHaveAKeyThatIsPinnedForAnother(t *testing.T) {
	root, key := newCA(t, "root"), newKey(t)
	p := inForce(t, keyIssuer(acme, key), caIssuer(acme, root))
	leaf := root.leafFor(key, acme)
	for want, s := range map[string]*statement.Statement{
		"issuers[0].key":  withChain(t, sign(t, acme, key), leaf.chain),
		"issuers[1].x509": sign(t, acme, leaf, unprotected),
	} {
		if d := p.Evaluate(s, noon); d.Rule != want {
			t.Errorf("%+v by %s, want %s", d.Refusal, d.Rule, want)
		}
	}
}

func TestOnlyTheDiagonalOfIssLeafAndKidIsAdmitted(t *testing.T) {
	const n = 3
	root := newCA(t, "shared root")
	var isses []string
	var issuers []Issuer
	var leaves []signer
	for i := range n {
		isses = append(isses, fmt.Sprintf("https://vendor-%d.example", i))
		issuers = append(issuers, caIssuer(isses[i], root))
		leaves = append(leaves, root.leaf(isses[i]))
	}
	p := inForce(t, issuers...)
	for iss := range n {
		for l := range n {
			for k := range n {
				for _, id := range [][]byte{thumbprint(t, leaves[k]), sum(leaves[k].chain[0])} {
					at := fmt.Sprintf("issuers[%d].x509", iss)
					switch d := p.Evaluate(withChain(t, sign(t, isses[iss], leaves[l].Signer, kid(id)), leaves[l].chain), noon); {
					case iss != l:
						refused(t, d, CodeCertificateInvalid, at+".san")
					case l != k:
						refused(t, d, CodeCertificateInvalid, at)
					default:
						admitted(t, d)
					}
				}
			}
		}
	}
}

func sum(b []byte) []byte { h := sha256.Sum256(b); return h[:] }

// crossSigned are two CAs that have certified each other, and no root.
func crossSigned(t *testing.T) (a, b *ca) {
	t.Helper()
	a, b = newCA(t, "a"), newCA(t, "b")
	certify := func(who, by *ca) *x509.Certificate {
		return create(t, caTemplate(who.cert.Subject.CommonName, nil), by.cert, who.key.Public(), by.key)
	}
	ab, ba := certify(a, b), certify(b, a)
	return &ca{t: t, key: a.key, cert: ab}, &ca{t: t, key: b.key, cert: ba}
}

func TestLoopsOfCAsEndSoon(t *testing.T) {
	a, b := crossSigned(t)
	root := newCA(t, "root")
	leaf := a.leaf(acme)
	round := [][]byte{leaf.chain[0], a.cert.Raw, b.cert.Raw, a.cert.Raw, b.cert.Raw, a.cert.Raw, b.cert.Raw, a.cert.Raw}
	listed := caIssuer(acme, root)
	listed.X509.Intermediates = []Root{{a.cert}, {b.cert}}
	for name, p := range map[string]*Policy{"sent": inForce(t, caIssuer(acme, root)), "listed": inForce(t, listed)} {
		for n := range round {
			refused(t, p.Evaluate(sign(t, acme, signer{leaf.Signer, round[:n+1]}), noon), CodeCertificateInvalid, "issuers[0].x509")
		}
		certs := mustParse(t, round)
		path, err := p.rules[0].certs.lead(certs)
		if err == nil || len(path.certs) > maxPath || path.checks > 2*maxPath {
			t.Errorf("%s: %v after %d certificates and %d signatures", name, err, len(path.certs), path.checks)
		}
	}
	// A way out of the loop is taken at once.
	out := caIssuer(acme, newCAFrom(a))
	p := inForce(t, out)
	admitted(t, p.Evaluate(sign(t, acme, signer{leaf.Signer, round}), noon))
}

// newCAFrom makes a root of a CA that others have certified.
func newCAFrom(c *ca) *ca {
	tmpl := caTemplate(c.cert.Subject.CommonName, nil)
	return &ca{t: c.t, key: c.key, cert: create(c.t, tmpl, tmpl, c.key.Public(), c.key)}
}

func mustParse(t *testing.T, chain [][]byte) []*x509.Certificate {
	t.Helper()
	var certs []*x509.Certificate
	for _, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		certs = append(certs, c)
	}
	return certs
}

// Every certificate that could have signed costs one signature, and no message
// brings more than one candidate for a place.
func TestNamesakesCostOneSignatureEach(t *testing.T) {
	const n = 5
	var roots []*ca
	for range n {
		roots = append(roots, newCA(t, "same"))
	}
	i := caIssuer(acme, roots...)
	p := inForce(t, i)
	chain := roots[n-1]
	for range statement.MaxChain - 1 {
		chain = chain.intermediate("same")
	}
	certs := mustParse(t, chain.leaf(acme).chain)[:statement.MaxChain]
	path, err := p.rules[0].certs.lead(certs)
	if most := (n + 1) * statement.MaxChain; path.checks > most {
		t.Errorf("%d signatures, want at most %d (%v)", path.checks, most, err)
	}
	admitted(t, p.Evaluate(sign(t, acme, roots[n-1].intermediate("same").leaf(acme)), noon))
}

// crypto/x509 would try a hundred signatures on such a chain, which takes no
// certificate of anybody's to write.
func TestNamesakesWhoHaveNotSignedEachOtherAreNotSearchedForAPath(t *testing.T) {
	root := newCA(t, "root")
	p := inForce(t, caIssuer(acme, root))
	imposter := newCA(t, "root")
	chain := imposter.intermediate("same")
	for range statement.MaxChain - 2 {
		chain = chain.intermediate("same")
	}
	leaf := chain.leaf(acme)
	path, err := p.rules[0].certs.lead(mustParse(t, leaf.chain))
	if err != nil {
		t.Fatal(err)
	}
	if err := path.verify(anyUsage, noon); err == nil || !strings.Contains(err.Error(), "has not signed") || path.checks > maxPath {
		t.Errorf("%v after %d signatures", err, path.checks)
	}
	refused(t, p.Evaluate(sign(t, acme, leaf), noon), CodeCertificateInvalid, "issuers[0].x509")
	// Nor does a path go by way of one CA twice.
	loop := signer{leaf.Signer, append([][]byte{leaf.chain[0], leaf.chain[1]}, leaf.chain[1:]...)}
	refused(t, p.Evaluate(sign(t, acme, signer{loop.Signer, loop.chain[:statement.MaxChain]}), noon), CodeCertificateInvalid, "issuers[0].x509")
	// The same under a did:x509, whose anchor the message brings.
	imposter.chain = [][]byte{imposter.cert.Raw}
	chain = imposter
	for range statement.MaxChain - 2 {
		chain = chain.intermediate("same")
	}
	leaf = chain.leaf("")
	iss := x509DIDOf(imposter.cert)
	admitted(t, inForce(t, didIssuer(iss)).Evaluate(sign(t, iss, leaf), noon))
	leaf.chain[2], leaf.chain[3] = leaf.chain[3], leaf.chain[2]
	refused(t, inForce(t, didIssuer(iss)).Evaluate(sign(t, iss, leaf), noon), CodeCertificateInvalid, "issuers[0].did")
}

func TestNameConstraintsBindTheNamesOfTheLeaf(t *testing.T) {
	root := newCA(t, "root")
	p := inForce(t, caIssuer(acme, root), caIssuer("https://sub.acme.example", root), caIssuer(wabbit, root))
	uris := func(edit func(*x509.Certificate)) *ca { return root.intermediate("bound", edit) }
	only := uris(func(c *x509.Certificate) { c.PermittedURIDomains = []string{"acme.example"} })
	below := uris(func(c *x509.Certificate) { c.PermittedURIDomains = []string{".acme.example"} })
	not := uris(func(c *x509.Certificate) { c.ExcludedURIDomains = []string{"wabbit.example"} })
	for _, c := range []struct {
		by   *ca
		iss  string
		want bool
	}{
		{only, acme, true}, {only, wabbit, false},
		{below, acme, false}, {below, "https://sub.acme.example", true}, {below, wabbit, false},
		{not, acme, true}, {not, wabbit, false},
	} {
		d := p.Evaluate(sign(t, c.iss, c.by.leaf(c.iss)), noon)
		if c.want {
			admitted(t, d)
		} else if d.Refusal == nil || d.Refusal.Code != CodeCertificateInvalid || !strings.HasSuffix(d.Rule, ".x509") {
			t.Errorf("%s under %v, %v: %+v", c.iss, c.by.cert.PermittedURIDomains, c.by.cert.ExcludedURIDomains, d.Refusal)
		}
	}
	// Of all its names: one outside is enough.
	two := only.leaf(acme, func(c *x509.Certificate) { c.URIs = append(c.URIs, &url.URL{Scheme: "https", Host: "evil.example"}) })
	refused(t, p.Evaluate(sign(t, acme, two), noon), CodeCertificateInvalid, "issuers[0].x509")
}

func TestPathLengthsBindWhoStandsBetween(t *testing.T) {
	root := newCA(t, "root", func(c *x509.Certificate) { c.MaxPathLen = 1 })
	p := inForce(t, caIssuer(acme, root))
	one := root.intermediate("one")
	admitted(t, p.Evaluate(sign(t, acme, root.leaf(acme)), noon))
	admitted(t, p.Evaluate(sign(t, acme, one.leaf(acme)), noon))
	refused(t, p.Evaluate(sign(t, acme, one.intermediate("two").leaf(acme)), noon), CodeCertificateInvalid, "issuers[0].x509")
	// Those that the policy lists count, too.
	i := caIssuer(acme, root)
	two := one.intermediate("two")
	i.X509.Intermediates = []Root{{one.cert}, {two.cert}}
	leaf := two.leaf(acme)
	refused(t, inForce(t, i).Evaluate(sign(t, acme, signer{leaf.Signer, leaf.chain[:1]}), noon), CodeCertificateInvalid, "issuers[0].x509")
}

func TestDeniedCertificatesAreRefusedWhereverTheyStand(t *testing.T) {
	root := newCA(t, "root")
	mid, sound := root.intermediate("mid"), root.intermediate("sound")
	leaf := mid.leaf(acme)
	cert := mustParse(t, leaf.chain)[0]
	hash := func(b []byte) string { h := sha256.Sum256(b); return hex.EncodeToString(h[:]) }
	for name, c := range map[string]struct {
		deny      Denied
		all, none bool // of what stands under mid
	}{
		"serial and issuer":          {Denied{Serial: fmt.Sprintf("%x", cert.SerialNumber), Issuer: "CN=mid"}, false, false},
		"serial with colons":         {Denied{Serial: fmt.Sprintf("00:%02x", cert.SerialNumber), Issuer: "CN=mid"}, false, false},
		"serial of another issuer":   {Denied{Serial: fmt.Sprintf("%x", cert.SerialNumber), Issuer: "CN=root"}, false, true},
		"certificate":                {Denied{Certificate: hash(cert.Raw)}, false, false},
		"key, by its SPKI":           {Denied{Key: hash(cert.RawSubjectPublicKeyInfo)}, false, false},
		"key, by its thumbprint":     {Denied{Key: hex.EncodeToString(thumbprint(t, leaf))}, false, false},
		"intermediate":               {Denied{Certificate: hash(mid.cert.Raw)}, true, false},
		"key of an intermediate":     {Denied{Key: hash(mid.cert.RawSubjectPublicKeyInfo)}, true, false},
		"serial of an intermediate":  {Denied{Serial: fmt.Sprintf("%x", mid.cert.SerialNumber), Issuer: "CN=root"}, true, false},
		"something else, in SHA-256": {Denied{Certificate: hash(nil)}, false, true},
	} {
		i := caIssuer(acme, root)
		i.X509.Deny = []Denied{{Key: hash([]byte("x"))}, c.deny}
		p := inForce(t, i)
		admitted(t, p.Evaluate(sign(t, acme, sound.leaf(acme)), noon))
		for s, gone := range map[*statement.Statement]bool{sign(t, acme, leaf): !c.none, sign(t, acme, mid.leaf(acme)): c.all} {
			d := p.Evaluate(s, noon)
			switch {
			case !gone:
				admitted(t, d)
			case d.Refusal == nil:
				t.Errorf("%s: admitted", name)
			default:
				refused(t, d, CodeRejected, "issuers[0].x509.deny[1]")
			}
		}
	}
	for name, deny := range map[string]Denied{
		"nothing":               {},
		"serial alone":          {Serial: "1"},
		"issuer alone":          {Issuer: "CN=mid"},
		"two ways at once":      {Certificate: hash(nil), Key: hash(nil)},
		"serial that is no hex": {Serial: "0x1", Issuer: "CN=mid"},
		"negative serial":       {Serial: "-1", Issuer: "CN=mid"},
		"endless serial":        {Serial: strings.Repeat("1", 41), Issuer: "CN=mid"},
		"short sum":             {Certificate: "abcd"},
		"sum that is no hex":    {Key: strings.Repeat("x", 64)},
	} {
		i := caIssuer(acme, root)
		i.X509.Deny = []Denied{deny}
		if _, err := New(newOperator(t).document(i)); err == nil || !strings.HasPrefix(err.Error(), "issuers[0].x509.deny[0]: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheSubjectOfALeafMustBeWhatThePolicySays(t *testing.T) {
	root := newCA(t, "root")
	i := caIssuer(acme, root)
	i.X509.Subject = map[string]string{"O": "Acme", "2.5.4.3": "release signer"}
	p := inForce(t, i)
	organization := func(names ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.Subject.Organization = names }
	}
	admitted(t, p.Evaluate(sign(t, acme, root.leaf(acme, organization("Acme"))), noon))
	for name, leaf := range map[string]signer{
		"none":             root.leaf(acme),
		"another":          root.leaf(acme, organization("Wabbit")),
		"another case":     root.leaf(acme, organization("ACME")),
		"two":              root.leaf(acme, organization("Acme", "Wabbit")),
		"the same twice":   root.leaf(acme, organization("Acme", "Acme")),
		"as a unit":        root.leaf(acme, func(c *x509.Certificate) { c.Subject.OrganizationalUnit = []string{"Acme"} }),
		"another CN":       root.leaf(acme, organization("Acme"), func(c *x509.Certificate) { c.Subject.CommonName = "tester" }),
		"a slash in it":    root.leaf(acme, organization("Acme/CN=release signer")),
		"a comma in it":    root.leaf(acme, organization("Acme,CN=release signer")),
		"a trailing blank": root.leaf(acme, organization("Acme ")),
	} {
		d := p.Evaluate(sign(t, acme, leaf), noon)
		if d.Rule != "issuers[0].x509.subject" {
			t.Errorf("%s:", name)
		}
		refused(t, d, CodeCertificateInvalid, "issuers[0].x509.subject")
	}
	for name, subject := range map[string]map[string]string{
		"unknown": {"X": "y"}, "no OID": {"2.5.4.": "y"}, "empty": {"O": ""}, "twice": {"O": "a", "2.5.4.10": "b"},
	} {
		i.X509.Subject = subject
		if _, err := New(newOperator(t).document(i)); err == nil || !strings.HasPrefix(err.Error(), "issuers[0].x509.subject: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnyUsageWillDoWhereThePolicySaysNone(t *testing.T) {
	root := newCA(t, "root")
	i := caIssuer(acme, root)
	i.X509.EKU = "none"
	p := inForce(t, i)
	for _, usages := range [][]x509.ExtKeyUsage{nil, {x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, {x509.ExtKeyUsageCodeSigning}} {
		admitted(t, p.Evaluate(sign(t, acme, root.leaf(acme, func(c *x509.Certificate) { c.ExtKeyUsage = usages })), noon))
	}
	if notes := strings.Join(p.Lint(), "\n"); !strings.Contains(notes, "issuers[0].x509.eku: ") {
		t.Errorf("lint says nothing about it:\n%s", notes)
	}
}

func TestOfManyWhoAskForOneChainOneValidatesIt(t *testing.T) {
	c := newChainCache()
	slot := c.slot("x", [][]byte{{1}})
	started, finish := make(chan struct{}), make(chan struct{})
	calls := 0 // of the one; others would race for it
	l := &leaf{from: noon, to: noon}
	var all sync.WaitGroup
	all.Go(func() {
		c.find(slot, noon, func() (*leaf, *Refusal) {
			close(started)
			<-finish
			calls++
			return l, nil
		})
	})
	<-started
	for range 20 {
		all.Go(func() {
			got, known, refusal := c.find(slot, noon, func() (*leaf, *Refusal) {
				calls++
				return l, nil
			})
			if got != l || !known || refusal != nil {
				t.Errorf("%v, %v, %v", got, known, refusal)
			}
		})
	}
	close(finish)
	all.Wait()
	if calls != 1 || len(c.busy) != 0 {
		t.Errorf("%d validated, %d still busy", calls, len(c.busy))
	}
	// A failure is nobody else's, and is forgotten.
	bad := c.slot("x", [][]byte{{2}})
	for range 2 {
		if _, known, refusal := c.find(bad, noon, func() (*leaf, *Refusal) { return nil, refusePayload() }); known || refusal == nil {
			t.Errorf("%v, %v", known, refusal)
		}
	}
	if got, known, _ := c.find(bad, noon, func() (*leaf, *Refusal) { return l, nil }); got != l || known {
		t.Error("what failed once is remembered")
	}
	if _, known, _ := c.find(slot, noon.Add(time.Second), func() (*leaf, *Refusal) { return l, nil }); known {
		t.Error("what held at noon is taken to hold later")
	}
}

// Whatever stands in a chain is a refusal or an admission, and no panic.
func FuzzChainsOfStrangers(f *testing.F) {
	root := newCA(f, "root")
	mid := root.intermediate("mid")
	leaf := mid.leaf(acme)
	f.Add(leaf.chain[0], leaf.chain[1])
	f.Add(leaf.chain[0], root.cert.Raw)
	f.Add(mid.certifyLogin(workflow).chain[0], mid.cert.Raw)
	f.Add([]byte{0x30, 0x80}, []byte{})
	p := inForce(f, caIssuer(acme, root), oidcIssuer(wabbit, workflow, mid))
	signed := sign(f, acme, leaf)
	f.Fuzz(func(t *testing.T, first, second []byte) {
		for _, iss := range []string{acme, wabbit} {
			s := *signed
			s.Issuer, s.Chain = iss, [][]byte{first, second}
			d := p.Evaluate(&s, noon)
			if same := reflect.DeepEqual(s.Chain, leaf.chain) && iss == acme; (d.Refusal == nil) != same {
				t.Errorf("%s: %+v", iss, d.Refusal)
			}
			if d.Refusal != nil && (!printable(d.Refusal.Reason) || d.Refusal.Hint == "") {
				t.Errorf("%s: not fit to show: %+v", iss, d.Refusal)
			}
		}
	})
}
