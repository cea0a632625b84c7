package policy

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/statement"
)

func didIssuer(iss string, roots ...*ca) Issuer {
	i := Issuer{Iss: iss, DID: &DID{}}
	for _, c := range roots {
		i.DID.Roots = append(i.DID.Roots, Root{c.cert})
	}
	return i
}

// didKey is the key of 32 zero bytes, from the vectors of did:key.
const didKey = "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp"

func TestADIDThatHoldsItsKeyIsAdmitted(t *testing.T) {
	zero, key := ed25519.NewKeyFromSeed(make([]byte, 32)), newKey(t)
	didJWK := "did:jwk:" + base64.RawURLEncoding.EncodeToString(asJSON(t, jwk(t, key, "alg", "ES256")))
	p := inForce(t, didIssuer(didKey), didIssuer(didJWK))
	fragment := strings.TrimPrefix(didKey, "did:key:")
	for _, s := range []*statement.Statement{
		sign(t, didKey, zero), sign(t, didKey, zero, kid([]byte(didKey+"#"+fragment))), sign(t, didKey, zero, kid([]byte("#"+fragment))), sign(t, didKey, zero, kid([]byte(fragment))),
		sign(t, didJWK, key), sign(t, didJWK, key, kid([]byte(didJWK+"#0"))), sign(t, didJWK, key, kid([]byte("#0"))), sign(t, didJWK, key, kid([]byte("0"))),
	} {
		d := p.Evaluate(s, noon)
		admitted(t, d)
		if d.Identity.Kind != ByDID || !strings.HasPrefix(d.Identity.Name, s.Issuer+"#") || d.Identity.Thumbprint == "" || d.Materials != nil || len(p.Lookups(s)) != 0 {
			t.Errorf("%+v", d)
		}
		if _, err := p.Recorded(s, d.Rule, d.Identity); err != nil {
			t.Errorf("the record does not hold: %v", err)
		}
	}
	stranger := newKey(t)
	for name, c := range map[string]struct {
		s    *statement.Statement
		code string
		rule string
	}{
		"another kid":         {sign(t, didKey, zero, kid([]byte("#other"))), CodeUnknownIssuerKey, "issuers[0].did"},
		"another key":         {sign(t, didJWK, stranger, kid([]byte("#0"))), CodeBadSignature, "issuers[1].did"},
		"another kind of key": {sign(t, didKey, key, kid([]byte(fragment))), CodeBadAlgorithm, "issuers[0].did"},
		"another algorithm":   {sign(t, didJWK, key, kid([]byte("#0")), func(tmpl *statement.Template) { tmpl.Alg = cose.ESP256 }), "", ""}, // the same computation
		"with a fragment":     {sign(t, didKey+"#"+fragment, zero), CodeUnknownIssuerKey, "issuers"},
		"one that is unlisted": {sign(t, "did:jwk:"+base64.RawURLEncoding.EncodeToString(asJSON(t, jwk(t, stranger))), stranger),
			CodeUnknownIssuerKey, "issuers"},
		"with a certificate": {sign(t, didJWK, newCA(t, "root").leafFor(key, didJWK)), CodeUnknownIssuerKey, "issuers[1].did"},
	} {
		t.Run(name, func(t *testing.T) {
			if d := p.Evaluate(c.s, noon); c.code == "" {
				admitted(t, d)
			} else {
				refused(t, d, c.code, c.rule)
			}
		})
	}
}

const (
	didWeb = "did:web:wabbit.example:release"
	webURL = "https://wabbit.example/release/did.json"
)

// webDocument is that of didWeb with one key.
func webDocument(t testing.TB, edit func(map[string]any), key map[string]any) Material {
	t.Helper()
	d := map[string]any{
		"id":                 didWeb,
		"verificationMethod": []any{map[string]any{"id": didWeb + "#key-1", "type": "JsonWebKey", "controller": didWeb, "publicKeyJwk": key}},
		"assertionMethod":    []any{"#key-1"},
	}
	if edit != nil {
		edit(d)
	}
	return Material{DIDDocument, webURL, asJSON(t, d)}
}

func TestADIDWebIsAdmittedByItsDocument(t *testing.T) {
	key, other := newKey(t), newKey(t)
	p := inForce(t, didIssuer(didWeb))
	doc := webDocument(t, nil, jwk(t, key))
	for _, s := range []*statement.Statement{
		sign(t, didWeb, key), sign(t, didWeb, key, kid([]byte(didWeb+"#key-1"))), sign(t, didWeb, key, kid([]byte("#key-1"))), sign(t, didWeb, key, kid([]byte("key-1"))),
	} {
		if got, want := p.Lookups(s), []Lookup{{DIDDocument, webURL}}; !reflect.DeepEqual(got, want) {
			t.Errorf("lookups %v, want %v", got, want)
		}
		d := p.Evaluate(s, noon, doc)
		admitted(t, d)
		if d.Rule != "issuers[0].did" || d.Identity.Name != didWeb+"#key-1" || d.Identity.Kind != ByDID || !reflect.DeepEqual(d.Materials, []Material{doc}) {
			t.Errorf("%+v", d)
		}
		if _, err := p.Recorded(s, d.Rule, d.Identity, d.Materials...); err != nil {
			t.Errorf("the record does not hold: %v", err)
		}
	}
	s := sign(t, didWeb, key, kid([]byte("#key-1")))
	for name, c := range map[string]struct {
		with []Material
		code string
	}{
		"no document":        {nil, CodeLookupFailed},
		"another DID's":      {[]Material{webDocument(t, func(d map[string]any) { d["id"] = "did:web:evil.example" }, jwk(t, key))}, CodeLookupFailed},
		"not for assertions": {[]Material{webDocument(t, func(d map[string]any) { delete(d, "assertionMethod") }, jwk(t, key))}, CodeLookupFailed},
		"another key":        {[]Material{webDocument(t, nil, jwk(t, other))}, CodeBadSignature},
		"another method": {[]Material{webDocument(t, func(d map[string]any) {
			d["verificationMethod"].([]any)[0].(map[string]any)["id"] = "#key-2"
			d["assertionMethod"] = []any{"#key-2"}
		}, jwk(t, key))}, CodeUnknownIssuerKey},
		"a key for ES384":      {[]Material{webDocument(t, nil, jwk(t, key, "alg", "ES384"))}, CodeLookupFailed},
		"its document as keys": {[]Material{{KeySetDocument, webURL, doc.Body}}, CodeLookupFailed},
	} {
		t.Run(name, func(t *testing.T) { refused(t, p.Evaluate(s, noon, c.with...), c.code, "issuers[0].did") })
	}
}

func TestAMethodThatHasEndedSignsNothingMore(t *testing.T) {
	key := newKey(t)
	p := inForce(t, didIssuer(didWeb))
	s := sign(t, didWeb, key, kid([]byte("#key-1")))
	end := noon.Add(time.Minute)
	for _, member := range []string{"expires", "revoked"} {
		doc := webDocument(t, func(d map[string]any) {
			d["verificationMethod"].([]any)[0].(map[string]any)[member] = end.Format(time.RFC3339)
		}, jwk(t, key))
		d := p.Evaluate(s, noon, doc)
		admitted(t, d)
		if !d.NotAfter.Equal(end.Add(-1)) {
			t.Errorf("%s: it holds until %s", member, d.NotAfter)
		}
		refused(t, p.Evaluate(s, end, doc), CodeUnknownIssuerKey, "issuers[0].did")
		if _, err := p.Recorded(s, d.Rule, d.Identity, d.Materials...); err != nil {
			t.Errorf("%s: the record does not hold: %v", member, err)
		}
	}
}

// x509DIDOf names leaves of a CA by their common name and usage.
func x509DIDOf(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return "did:x509:0:sha256:" + base64.RawURLEncoding.EncodeToString(sum[:]) + "::subject:CN:release%20signer::eku:1.3.6.1.5.5.7.3.3"
}

func TestADIDX509IsAdmittedByAChainThatFitsIt(t *testing.T) {
	root := newCA(t, "root")
	root.chain = [][]byte{root.cert.Raw} // a did:x509 needs all of it
	between := root.intermediate("between")
	leaf := between.leaf("")
	byRoot, byBetween := x509DIDOf(root.cert), x509DIDOf(between.cert)
	p := inForce(t, didIssuer(byRoot), didIssuer(byBetween))
	for _, iss := range []string{byRoot, byBetween} {
		for name, s := range map[string]*statement.Statement{
			"protected":   sign(t, iss, leaf),
			"unprotected": sign(t, iss, leaf, unprotected),
			"and kid":     sign(t, iss, leaf, kid(thumbprint(t, leaf))),
		} {
			for range 2 { // the second time the path is known
				d := p.Evaluate(s, noon)
				admitted(t, d)
				if d.Identity.Kind != ByDID || d.Identity.Name != iss+"#0" || (d.Chain != nil) == s.ChainProtected || d.NotAfter.IsZero() || d.NotAfter.After(noon.Add(24*time.Hour)) {
					t.Errorf("%s: %+v", name, d)
				}
				kept := parse(t, s.Canonical())
				if d.Chain != nil {
					kept = withChain(t, kept, d.Chain)
				}
				if _, err := p.Recorded(kept, d.Rule, d.Identity); err != nil {
					t.Errorf("%s: the record does not hold: %v", name, err)
				}
				if again := p.Evaluate(kept, noon); !reflect.DeepEqual(again, d) {
					t.Errorf("%s: judged again: %+v, want %+v", name, again, d)
				}
			}
		}
	}
	late, early := p.Evaluate(sign(t, byRoot, leaf), noon.Add(48*time.Hour)), p.Evaluate(sign(t, byRoot, leaf), noon.Add(-48*time.Hour))
	refused(t, late, CodeCertificateInvalid, "issuers[0].did")
	refused(t, early, CodeCertificateInvalid, "issuers[0].did")

	imposter := newCA(t, "root")
	imposter.chain = [][]byte{imposter.cert.Raw}
	short := signer{leaf.Signer, leaf.chain[:2]}
	swapped := signer{leaf.Signer, [][]byte{leaf.chain[0], leaf.chain[2], leaf.chain[1]}}
	padded := signer{leaf.Signer, append(append([][]byte{}, leaf.chain...), imposter.cert.Raw)}
	for name, s := range map[string]*statement.Statement{
		"a CA of the same name":   sign(t, byRoot, imposter.leaf("")),
		"another common name":     sign(t, byRoot, between.leaf("", func(c *x509.Certificate) { c.Subject.CommonName = "web server" })),
		"another usage":           sign(t, byRoot, between.leaf("", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })),
		"a CA as leaf":            sign(t, byRoot, signer{between.key, between.chain}),
		"key agreement only":      sign(t, byRoot, between.leaf("", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement })),
		"the CA left out":         sign(t, byRoot, short),
		"the leaf alone":          sign(t, byRoot, signer{leaf.Signer, leaf.chain[:1]}),
		"in another order":        sign(t, byRoot, swapped),
		"with one that is beside": sign(t, byRoot, padded),
		"kid of another key":      sign(t, byRoot, leaf, kid(thumbprint(t, newKey(t)))),
		"rubbish for a CA":        sign(t, byRoot, signer{leaf.Signer, [][]byte{leaf.chain[0], {0x30, 0}}}),
	} {
		t.Run(name, func(t *testing.T) { refused(t, p.Evaluate(s, noon), CodeCertificateInvalid, "issuers[0].did") })
	}
	refused(t, p.Evaluate(sign(t, byRoot, signer{newKey(t), leaf.chain}), noon), CodeBadSignature, "issuers[0].did")
	refused(t, p.Evaluate(sign(t, byRoot, newKey(t)), noon), CodeUnknownIssuerKey, "issuers[0].did")
	refused(t, p.Evaluate(sign(t, x509DIDOf(imposter.cert), imposter.leaf("")), noon), CodeUnknownIssuerKey, "issuers")
}

func TestAPatternOverDIDX509NeedsAListedRoot(t *testing.T) {
	root, imposter := newCA(t, "root"), newCA(t, "root")
	between := root.intermediate("between")
	i := didIssuer("", root)
	i.Pattern = `^did:x509:0:sha256:[A-Za-z0-9_-]+::subject:CN:[A-Za-z0-9._%-]+::eku:1\.3\.6\.1\.5\.5\.7\.3\.3$`
	p := inForce(t, i)
	for name, s := range map[string]*statement.Statement{
		"by the root":         sign(t, x509DIDOf(root.cert), between.leaf("")),
		"by the intermediate": sign(t, x509DIDOf(between.cert), between.leaf("")),
	} {
		d := p.Evaluate(s, noon)
		admitted(t, d)
		if d.Identity.Issuer != s.Issuer {
			t.Errorf("%s: %+v", name, d)
		}
	}
	// One chain serves two identifiers, and is not remembered as both.
	leaf := between.leaf("")
	admitted(t, p.Evaluate(sign(t, x509DIDOf(between.cert), leaf), noon))
	imposter.chain = [][]byte{imposter.cert.Raw}
	for name, s := range map[string]*statement.Statement{
		"a root that nobody listed": sign(t, x509DIDOf(imposter.cert), imposter.leaf("")),
		"a name that is not met":    sign(t, strings.Replace(x509DIDOf(between.cert), "release%20signer", "somebody", 1), leaf),
		"another spelling":          sign(t, strings.Replace(x509DIDOf(between.cert), "release", "%72elease", 1), leaf),
		"small hexadecimal letters": sign(t, strings.Replace(x509DIDOf(between.cert), "%20", "%2a", 1), between.leaf("", func(c *x509.Certificate) { c.Subject.CommonName = "release*signer" })),
		"a CA beside the path":      sign(t, x509DIDOf(imposter.cert), leaf),
		"no did:x509":               sign(t, strings.Replace(x509DIDOf(between.cert), "::eku", "::eku:1.2::eku", 1), leaf),
	} {
		d := p.Evaluate(s, noon)
		if d.Refusal == nil {
			t.Errorf("%s: admitted", name)
		}
	}
}

func TestDIDsThatNoPolicyMayName(t *testing.T) {
	root := newCA(t, "root")
	o := newOperator(t)
	pattern := func(p string) Issuer { return Issuer{Pattern: p, DID: &DID{}} }
	for name, c := range map[string]struct {
		issuer Issuer
		want   string
	}{
		"no DID":                   {didIssuer(wabbit), "issuers[0].iss: "},
		"an unknown method":        {didIssuer("did:ion:abc"), "issuers[0].iss: "},
		"no key in it":             {didIssuer("did:key:zabc"), "issuers[0].iss: "},
		"a weak key":               {didIssuer("did:jwk:" + base64.RawURLEncoding.EncodeToString([]byte(`{"kty":"OKP","crv":"Ed25519","x":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}`))), "issuers[0].iss: "},
		"an address":               {didIssuer("did:web:127.0.0.1"), "issuers[0].iss: "},
		"a DID URL":                {didIssuer(x509DIDOf(root.cert) + "#0"), "issuers[0].iss: "},
		"half a did:x509":          {didIssuer("did:x509:0:sha256:abc"), "issuers[0].iss: "},
		"a pattern without roots":  {pattern("^did:x509:.+$"), "issuers[0].did.roots: none"},
		"a pattern over did:web":   {pattern(`^did:web:[a-z]+\.example$`), "issuers[0].did.roots: none"},
		"roots where there is one": {didIssuer(didKey, root), "issuers[0].did.roots: belongs to a did:x509"},
		"a leaf as root":           {Issuer{Iss: x509DIDOf(root.cert), DID: &DID{Roots: []Root{{parseCertificate(t, root.leaf("").chain[0])}}}}, "issuers[0].did.roots[0]: "},
		"two sources":              {Issuer{Iss: didKey, DID: &DID{}, Keys: &KeySet{setURL}}, "issuers[0]: an issuer is known by exactly one of"},
		"a kid":                    {Issuer{Iss: didKey, DID: &DID{}, Kid: KeyID("k")}, "issuers[0].kid: "},
		"a pattern of key sets":    {Issuer{Pattern: "^a$", Keys: &KeySet{setURL}}, "issuers[0].pattern: "},
	} {
		if _, err := New(o.document(c.issuer)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func parseCertificate(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestDIDsAndKeySetsAreWrittenInYAMLAndLogged(t *testing.T) {
	root := newCA(t, "root")
	name := write(t, map[string]string{"operator.pub": keyPEM(t, newKey(t)), "root.pem": certPEM(root.cert), "policy.yaml": `version: 1
operators: [{key: operator.pub}]
issuers:
  - {iss: "` + didKey + `", did: {}}
  - {iss: "` + didWeb + `", did: {}}
  - {iss: "` + wabbit + `", keys: {url: "https://keys.example/jwks.json"}}
  - {iss: "` + x509DIDOf(root.cert) + `", did: {}}
  - {iss: "` + strings.Split(x509DIDOf(root.cert), "::eku")[0] + `", did: {roots: [root.pem]}}
`})
	p, err := ReadYAML(name)
	if err != nil {
		t.Fatal(err)
	}
	b, err := p.JSON()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if len(again.Issuers) != 5 || again.Issuers[4].DID.Roots[0].Certificate == nil {
		t.Errorf("read again: %+v", again.Issuers)
	}
	notes := strings.Join(p.Lint(), "\n")
	for _, want := range []string{
		"issuers[2].keys.url: keys.example alone says which keys speak for an issuer on wabbit.example",
		"issuers[4].iss: asks for no extended key usage",
	} {
		if !strings.Contains(notes, want) {
			t.Errorf("lint does not say %q:\n%s", want, notes)
		}
	}
	if strings.Contains(notes, "issuers[3].iss: asks for") {
		t.Errorf("lint:\n%s", notes)
	}
	broken := write(t, map[string]string{"operator.pub": keyPEM(t, newKey(t)), "policy.yaml": "version: 1\noperators: [{key: operator.pub}]\nissuers: [{iss: a, keys: {uri: x}}]\n"})
	if _, err := ReadYAML(broken); err == nil || !strings.Contains(err.Error(), `policy.yaml:3:`) || !strings.Contains(err.Error(), `unknown key "uri"`) {
		t.Errorf("an unknown key: %v", err)
	}
}
