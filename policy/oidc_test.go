package policy

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/internal/timestamp/timestamptest"
	"github.com/scittd/scittd/statement"
)

const (
	actions  = "https://token.actions.githubusercontent.com"
	workflow = "https://github.com/wabbit/net-monitor/.github/workflows/release.yml@refs/tags/v1"
)

// fulcioExtension writes extension n of Fulcio's, as a UTF8String.
func fulcioExtension(n int, value string) func(*x509.Certificate) {
	der, err := asn1.MarshalWithParams(value, "utf8")
	if err != nil {
		panic(err) // of a test's own text
	}
	return rawExtension(n, der)
}

func rawExtension(n int, value []byte) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: fulcioOID(n), Value: value})
	}
}

// tenMinutes is how long a certificate of Fulcio holds.
func tenMinutes(c *x509.Certificate) {
	c.Subject = pkix.Name{}
	c.NotBefore, c.NotAfter = noon.Add(-5*time.Minute), noon.Add(5*time.Minute)
}

// certifyLogin makes what Fulcio would for a GitHub workflow.
func (c *ca) certifyLogin(san string, edit ...func(*x509.Certificate)) signer {
	c.t.Helper()
	return c.leaf(san, append([]func(*x509.Certificate){tenMinutes, rawExtension(oldIssuer, []byte(actions)), fulcioExtension(newIssuer, actions)}, edit...)...)
}

func oidcIssuer(iss, identity string, root *ca) Issuer {
	return Issuer{Iss: iss, OIDC: &OIDC{
		TrustedRoot: TrustedRoot{CertificateAuthorities: []TrustedAuthority{{Chain: []Root{{root.cert}}}}},
		Issuer:      actions, Identity: identity,
	}}
}

func TestWhoHasLoggedInSpeaksForAnIssuer(t *testing.T) {
	root := newCA(t, "fulcio")
	mid := root.intermediate("fulcio intermediate")
	i := oidcIssuer(wabbit, "https://github.com/wabbit/*/.github/workflows/release.yml@refs/tags/*", root)
	i.OIDC.TrustedRoot.CertificateAuthorities[0].Chain = []Root{{mid.cert}, {root.cert}}
	p := inForce(t, i)
	leaf := mid.certifyLogin(workflow)
	leaf.chain = leaf.chain[:1] // bundles bring no more
	d := p.Evaluate(sign(t, wabbit, leaf, unprotected), noon)
	if admitted(t, d); d.Rule != "issuers[0].oidc" || d.Identity.Kind != ByOIDC || d.Identity.Name != workflow ||
		!reflect.DeepEqual(d.Chain, leaf.chain) || d.Materials != nil || !d.NotAfter.Equal(noon.Add(5*time.Minute)) {
		t.Errorf("%+v", d)
	}
	admitted(t, p.Evaluate(sign(t, wabbit, leaf), noon))
	for name, c := range map[string]struct {
		s    signer
		rule string
	}{
		"another repository":    {mid.certifyLogin("https://github.com/evil/net-monitor/.github/workflows/release.yml@refs/tags/v1"), ".identity"},
		"another workflow":      {mid.certifyLogin("https://github.com/wabbit/net-monitor/.github/workflows/test.yml@refs/tags/v1"), ".identity"},
		"a branch":              {mid.certifyLogin("https://github.com/wabbit/net-monitor/.github/workflows/release.yml@refs/heads/main"), ".identity"},
		"a longer repository":   {mid.certifyLogin("https://github.com/wabbit/evil/x/.github/workflows/release.yml@refs/tags/v1"), ".identity"},
		"a mail address":        {mid.certifyLogin("", func(c *x509.Certificate) { c.EmailAddresses = []string{"dev@wabbit.example"} }), ".identity"},
		"two names":             {mid.certifyLogin(workflow, func(c *x509.Certificate) { c.EmailAddresses = []string{"dev@wabbit.example"} }), ".identity"},
		"a name and an address": {mid.certifyLogin(workflow, func(c *x509.Certificate) { c.IPAddresses = []net.IP{{192, 0, 2, 1}} }), ".identity"},
		"no name":               {mid.certifyLogin(""), ".identity"},
		"another login":         {mid.leaf(workflow, tenMinutes, fulcioExtension(newIssuer, "https://gitlab.com")), ".issuer"},
		"a longer login":        {mid.leaf(workflow, tenMinutes, fulcioExtension(newIssuer, actions+".evil.example")), ".issuer"},
		"no login":              {mid.leaf(workflow, tenMinutes), ".issuer"},
		"two logins":            {mid.leaf(workflow, tenMinutes, rawExtension(oldIssuer, []byte("https://gitlab.com")), fulcioExtension(newIssuer, actions)), ".issuer"},
		"two logins, turned":    {mid.leaf(workflow, tenMinutes, rawExtension(oldIssuer, []byte(actions)), fulcioExtension(newIssuer, "https://gitlab.com")), ".issuer"},
		"a login that is bare":  {mid.leaf(workflow, tenMinutes, rawExtension(newIssuer, []byte(actions))), ".issuer"},
		"bytes behind a login":  {mid.leaf(workflow, tenMinutes, rawExtension(newIssuer, append([]byte{12, 1, 'x'}, 0))), ".issuer"},
		"an empty extension":    {mid.leaf(workflow, tenMinutes, rawExtension(newIssuer, nil)), ".issuer"},
		"another authority":     {newCA(t, "evil").certifyLogin(workflow), ""},
		"a namesake of it":      {newCA(t, "fulcio").intermediate("fulcio intermediate").certifyLogin(workflow), ""},
		"not for code":          {mid.certifyLogin(workflow, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), ".eku"},
		"expired":               {mid.certifyLogin(workflow, func(c *x509.Certificate) { c.NotAfter = noon.Add(-1) }), ""},
		"not yet valid":         {mid.certifyLogin(workflow, func(c *x509.Certificate) { c.NotBefore = noon.Add(time.Second) }), ""},
		"unknown and critical": {mid.certifyLogin(workflow, func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 2}, Critical: true, Value: []byte{5, 0}})
		}), ""},
		"signed by somebody": {signer{newKey(t), leaf.chain}, "signature"},
	} {
		code, rule := CodeCertificateInvalid, "issuers[0].oidc"+c.rule
		if c.rule == "signature" {
			code, rule = CodeBadSignature, "issuers[0].oidc"
		}
		d := p.Evaluate(sign(t, wabbit, c.s), noon)
		if d.Rule != rule {
			t.Errorf("%s:", name)
		}
		refused(t, d, code, rule)
	}
	// The old form alone is what authorities wrote at first.
	admitted(t, p.Evaluate(sign(t, wabbit, mid.leaf(workflow, tenMinutes, rawExtension(oldIssuer, []byte(actions)))), noon))
	refused(t, p.Evaluate(sign(t, wabbit, newKey(t)), noon), CodeUnknownIssuerKey, "issuers[0].oidc")
	refused(t, p.Evaluate(sign(t, acme, leaf), noon), CodeUnknownIssuerKey, "issuers")
}

func TestWithoutAnIdentityALoginNamesItsIss(t *testing.T) {
	root := newCA(t, "fulcio")
	const other = "https://github.com/wabbit/x/.github/workflows/release.yml@refs/tags/v1"
	exact, pattern := oidcIssuer(workflow, "", root), oidcIssuer("", "", root)
	pattern.Pattern = `^https://github\.com/wabbit/[a-z-]+/\.github/workflows/release\.yml@refs/tags/v[0-9]+$`
	for _, i := range []Issuer{exact, pattern} {
		p := inForce(t, i)
		admitted(t, p.Evaluate(sign(t, workflow, root.certifyLogin(workflow)), noon))
		refused(t, p.Evaluate(sign(t, workflow, root.certifyLogin(other)), noon), CodeCertificateInvalid, "issuers[0].oidc.identity")
	}
	mail := inForce(t, oidcIssuer(wabbit, "*@wabbit.example", root))
	admitted(t, mail.Evaluate(sign(t, wabbit, root.certifyLogin("", func(c *x509.Certificate) { c.EmailAddresses = []string{"dev@wabbit.example"} })), noon))
	refused(t, mail.Evaluate(sign(t, wabbit, root.certifyLogin("", func(c *x509.Certificate) { c.EmailAddresses = []string{"dev@wabbit.example.evil.example"} })), noon),
		CodeCertificateInvalid, "issuers[0].oidc.identity")
}

func TestOtherThingsThatALoginSaysMayBeAskedFor(t *testing.T) {
	root := newCA(t, "fulcio")
	i := oidcIssuer(wabbit, workflow, root)
	i.OIDC.Extensions = map[string]string{"runnerEnvironment": "github-hosted", "sourceRepositoryRef": "refs/tags/*"}
	p := inForce(t, i)
	hosted, tag := fulcioExtension(11, "github-hosted"), fulcioExtension(14, "refs/tags/v1")
	admitted(t, p.Evaluate(sign(t, wabbit, root.certifyLogin(workflow, hosted, tag)), noon))
	for rule, edits := range map[string][]func(*x509.Certificate){
		"runnerEnvironment":   {fulcioExtension(11, "self-hosted"), tag},
		"sourceRepositoryRef": {hosted, fulcioExtension(14, "refs/heads/main")},
	} {
		refused(t, p.Evaluate(sign(t, wabbit, root.certifyLogin(workflow, edits...)), noon), CodeCertificateInvalid, "issuers[0].oidc.extensions."+rule)
	}
	refused(t, p.Evaluate(sign(t, wabbit, root.certifyLogin(workflow, tag)), noon), CodeCertificateInvalid, "issuers[0].oidc.extensions.runnerEnvironment")
	refused(t, p.Evaluate(sign(t, wabbit, root.certifyLogin(workflow, rawExtension(11, []byte("github-hosted")), tag)), noon),
		CodeCertificateInvalid, "issuers[0].oidc.extensions.runnerEnvironment")
}

func TestWhatAnOIDCRuleMustNotSay(t *testing.T) {
	root := newCA(t, "fulcio")
	for name, c := range map[string]struct {
		edit  func(*Issuer)
		place string
	}{
		"an expression unasked":    {func(i *Issuer) { i.OIDC.Identity, i.OIDC.IdentityRegexp = "", "^https://github.com/wabbit/.*$" }, "oidc.identityRegexp"},
		"one without anchors":      {func(i *Issuer) { i.OIDC.Identity, i.OIDC.IdentityRegexp, i.OIDC.AllowRegexp = "", "wabbit", true }, "oidc.identityRegexp"},
		"one beside an identity":   {func(i *Issuer) { i.OIDC.IdentityRegexp, i.OIDC.AllowRegexp = "^x$", true }, "oidc"},
		"more than a segment":      {func(i *Issuer) { i.OIDC.Identity = "https://github.com/wabbit/**" }, "oidc.identity"},
		"any host":                 {func(i *Issuer) { i.OIDC.Identity = "https://*" }, "oidc.identity"},
		"a DNS name":               {func(i *Issuer) { i.OIDC.Identity = "wabbit.example" }, "oidc.identity"},
		"no issuer":                {func(i *Issuer) { i.OIDC.Issuer = "" }, "oidc.issuer"},
		"an issuer with a star":    {func(i *Issuer) { i.OIDC.Issuer = "https://*.example" }, "oidc.issuer"},
		"an issuer that is no URL": {func(i *Issuer) { i.OIDC.Issuer = "token.actions.githubusercontent.com" }, "oidc.issuer"},
		"no authority":             {func(i *Issuer) { i.OIDC.TrustedRoot = TrustedRoot{} }, "oidc.trustedRoot"},
		"an authority without CAs": {func(i *Issuer) { i.OIDC.TrustedRoot.CertificateAuthorities[0].Chain = nil }, "oidc.trustedRoot"},
		"a leaf for an authority": {func(i *Issuer) {
			i.OIDC.TrustedRoot.CertificateAuthorities[0].Chain = []Root{{mustParse(t, root.leaf(acme).chain)[0]}}
		}, "oidc.trustedRoot"},
		"an unknown extension":  {func(i *Issuer) { i.OIDC.Extensions = map[string]string{"workflowSha": "x"} }, "oidc.extensions"},
		"an empty extension":    {func(i *Issuer) { i.OIDC.Extensions = map[string]string{"buildTrigger": ""} }, "oidc.extensions.buildTrigger"},
		"an iss that is no URI": {func(i *Issuer) { i.Iss = "Wabbit" }, "iss"},
		"a pattern and a name":  {func(i *Issuer) { i.Iss, i.Pattern = "", "^https://a\\.example/.*$" }, "oidc.identity"},
	} {
		i := oidcIssuer(wabbit, workflow, root)
		c.edit(&i)
		if _, err := New(newOperator(t).document(i)); err == nil || !strings.HasPrefix(err.Error(), "issuers[0]."+c.place+": ") {
			t.Errorf("%s: %v, want a fault at %s", name, err, c.place)
		}
	}
	i := oidcIssuer(wabbit, "", root)
	i.OIDC.IdentityRegexp, i.OIDC.AllowRegexp = `^https://github\.com/wabbit/.+$`, true
	p := inForce(t, i)
	admitted(t, p.Evaluate(sign(t, wabbit, root.certifyLogin(workflow)), noon))
	refused(t, p.Evaluate(sign(t, wabbit, root.certifyLogin("https://evil.example/https://github.com/wabbit/x")), noon), CodeCertificateInvalid, "issuers[0].oidc.identity")
	if notes := strings.Join(p.Lint(), "\n"); !strings.Contains(notes, "issuers[0].oidc.identityRegexp: ") {
		t.Errorf("lint says nothing about the dot:\n%s", notes)
	}
}

func TestOneLoginMaySpeakForOneIssuerOnly(t *testing.T) {
	root, other := newCA(t, "fulcio"), newCA(t, "other")
	gitlab := oidcIssuer(acme, workflow, root)
	gitlab.OIDC.Issuer = "https://gitlab.com"
	regexp := oidcIssuer(acme, "", root)
	regexp.OIDC.IdentityRegexp, regexp.OIDC.AllowRegexp = "^https://github\\.com/.*$", true
	under := caIssuer(acme, root)
	under.X509.SAN = workflow
	for name, c := range map[string]struct {
		second Issuer
		ok     bool
	}{
		"the same identity":       {oidcIssuer(acme, workflow, root), false},
		"one that meets it":       {oidcIssuer(acme, "https://github.com/wabbit/*/.github/workflows/release.yml@refs/tags/v1", root), false},
		"an expression":           {regexp, false},
		"by the bare certificate": {under, false},
		"another identity":        {oidcIssuer(acme, "https://github.com/acme/*/.github/workflows/release.yml@refs/tags/*", root), true},
		"another authority":       {oidcIssuer(acme, workflow, other), true},
		"another login":           {gitlab, true},
	} {
		first := oidcIssuer(wabbit, workflow, root)
		for _, issuers := range [][]Issuer{{first, c.second}, {c.second, first}} {
			if _, err := New(newOperator(t).document(issuers...)); (err == nil) != c.ok {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// stampedBy asks a for a time-stamp of the signature.
func stampedBy(t testing.TB, a *timestamptest.Authority, at time.Time) func(*statement.Template) {
	return func(tmpl *statement.Template) {
		tmpl.Timestamp = func(signature []byte) ([]byte, error) { return a.Token(t, signature, at), nil }
	}
}

func TestATimestampSaysWhenItWasSigned(t *testing.T) {
	root := newCA(t, "fulcio")
	clock, stranger := timestamptest.New(t, noon, nil), timestamptest.New(t, noon, nil)
	i := oidcIssuer(wabbit, workflow, root)
	i.OIDC.TrustedRoot.TimestampAuthorities = []TrustedAuthority{{Chain: []Root{{clock.Leaf}, {clock.Root}}}}
	p := inForce(t, i)
	leaf := root.certifyLogin(workflow)
	tomorrow := noon.Add(20 * time.Hour)

	s := sign(t, wabbit, leaf, unprotected, stampedBy(t, clock, noon))
	d := p.Evaluate(s, tomorrow)
	admitted(t, d)
	if len(d.Materials) != 1 || d.Materials[0].Kind != TimestampToken || !reflect.DeepEqual(d.Chain, leaf.chain) {
		t.Errorf("kept: %d certificates and %+v", len(d.Chain), d.Materials)
	}
	if !d.NotBefore.Equal(noon.Add(-maxAhead)) || !d.NotAfter.IsZero() {
		t.Errorf("holds from %s to %s; a proof of the past stays one", d.NotBefore, d.NotAfter)
	}
	// What was kept is enough to repeat it, and the canonical bytes have no part in it.
	kept := withChain(t, parse(t, s.Canonical()), d.Chain)
	if again := p.Evaluate(kept, tomorrow, d.Materials...); !reflect.DeepEqual(again, d) {
		t.Errorf("got  %+v\nwant %+v", again, d)
	}
	recorded, err := p.Recorded(kept, d.Rule, d.Identity, d.Materials...)
	if err != nil || !reflect.DeepEqual(recorded.Materials, d.Materials) || !reflect.DeepEqual(recorded.Chain, d.Chain) {
		t.Errorf("%+v, %v", recorded, err)
	}
	refused(t, p.Evaluate(kept, tomorrow), CodeCertificateInvalid, "issuers[0].oidc")
	// It says nothing about another statement.
	refused(t, p.Evaluate(sign(t, wabbit, leaf), tomorrow, d.Materials...), CodeCertificateInvalid, "issuers[0].oidc")

	for name, c := range map[string]struct {
		how  func(*statement.Template)
		rule string
	}{
		"none":          {func(*statement.Template) {}, ""},
		"too late":      {stampedBy(t, clock, noon.Add(6*time.Minute)), ""},
		"too early":     {stampedBy(t, clock, noon.Add(-6*time.Minute)), ""},
		"by a stranger": {stampedBy(t, stranger, noon), ".trustedRoot"},
		"in the future": {stampedBy(t, clock, tomorrow.Add(maxAhead+time.Second)), ".trustedRoot"},
		"of something else": {func(tmpl *statement.Template) {
			tmpl.Timestamp = func([]byte) ([]byte, error) { return clock.Token(t, []byte("x"), noon), nil }
		}, ".trustedRoot"},
		"of the bare bytes": {func(tmpl *statement.Template) {
			tmpl.Timestamp = func(sig []byte) ([]byte, error) { return clock.Token(t, sig[2:], noon), nil }
		}, ".trustedRoot"},
		"rubbish": {func(tmpl *statement.Template) {
			tmpl.Timestamp = func([]byte) ([]byte, error) { return []byte("rubbish"), nil }
		}, ".trustedRoot"},
	} {
		d := p.Evaluate(sign(t, wabbit, leaf, c.how), tomorrow)
		if d.Rule != "issuers[0].oidc"+c.rule {
			t.Errorf("%s:", name)
		}
		refused(t, d, CodeCertificateInvalid, "issuers[0].oidc"+c.rule)
	}
	// Where no authority is listed, nobody's time-stamp counts, for or against.
	i.OIDC.TrustedRoot.TimestampAuthorities = nil
	q := inForce(t, i)
	d = q.Evaluate(s, noon)
	if admitted(t, d); d.Materials != nil {
		t.Error("a time-stamp that decided nothing was kept")
	}
	refused(t, q.Evaluate(s, tomorrow), CodeCertificateInvalid, "issuers[0].oidc")
}

func TestAnAuthorityCountsInItsTimeOnly(t *testing.T) {
	root := newCA(t, "fulcio")
	leaf := root.certifyLogin(workflow, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = noon.Add(-time.Hour), noon.Add(time.Hour) })
	i := oidcIssuer(wabbit, workflow, root)
	chain := []Root{{root.cert}}
	i.OIDC.TrustedRoot.CertificateAuthorities = []TrustedAuthority{
		{Chain: chain, To: noon.Add(-10 * time.Minute)}, {Chain: chain, From: noon, To: noon.Add(10 * time.Minute)},
	}
	p := inForce(t, i)
	for after, ok := range map[time.Duration]bool{
		-11 * time.Minute: true, -10 * time.Minute: true, -10*time.Minute + 1: false, -1: false, 0: true, 10 * time.Minute: true, 10*time.Minute + 1: false,
	} {
		at := noon.Add(after)
		d := p.Evaluate(sign(t, wabbit, leaf), at)
		if !ok {
			refused(t, d, CodeCertificateInvalid, "issuers[0].oidc")
			continue
		}
		admitted(t, d)
		if !(window{d.NotBefore, d.NotAfter}).contains(at) || d.NotAfter.Sub(d.NotBefore) > time.Hour {
			t.Errorf("at %s it holds from %s to %s", at, d.NotBefore, d.NotAfter)
		}
	}
}

func TestAnAuthorityThatHasEndedIsNotReplacedByOneUnderItsRoot(t *testing.T) {
	root := newCA(t, "sigstore")
	stolen, fresh := root.intermediate("fulcio-1"), root.intermediate("fulcio-2")
	hours := func(c *x509.Certificate) { c.NotBefore, c.NotAfter = noon.Add(-time.Hour), noon.Add(time.Hour) }
	i := oidcIssuer(wabbit, workflow, root)
	i.OIDC.TrustedRoot.CertificateAuthorities = []TrustedAuthority{
		{Chain: []Root{{stolen.cert}, {root.cert}}, To: noon.Add(-10 * time.Minute)},
		{Chain: []Root{{fresh.cert}, {root.cert}}, From: noon.Add(-20 * time.Minute)},
	}
	p := inForce(t, i)
	before := noon.Add(-15 * time.Minute)
	ofStolen, ofFresh := stolen.certifyLogin(workflow, hours), fresh.certifyLogin(workflow, hours)
	admitted(t, p.Evaluate(sign(t, wabbit, ofFresh), noon))
	admitted(t, p.Evaluate(sign(t, wabbit, ofFresh), before))
	admitted(t, p.Evaluate(sign(t, wabbit, ofStolen), before)) // and is remembered
	refused(t, p.Evaluate(sign(t, wabbit, ofStolen), noon), CodeCertificateInvalid, "issuers[0].oidc")
	// Nor by another certificate for the same key, that the message brings.
	again := stolen.leaf(workflow, tenMinutes, hours, rawExtension(oldIssuer, []byte(actions)), fulcioExtension(newIssuer, actions))
	again.chain = append(again.chain[:1:1], root.intermediateWith("fulcio-1", stolen.key).cert.Raw)
	refused(t, p.Evaluate(sign(t, wabbit, again), noon), CodeCertificateInvalid, "issuers[0].oidc")
}

func fromFile(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Certificates that the public Fulcio has issued, to sigstore-js in 2023 (from
// sigstore-go, examples/bundle-provenance.json) and to a person in 2022, and its
// own trusted root.
func TestPublicCertificatesOfSigstoreAreJudged(t *testing.T) {
	trusted, err := ParseTrustedRoot(fromFile(t, "../testdata/sigstore/public-good.trusted_root.json"))
	if err != nil {
		t.Fatal(err)
	}
	github, _ := pem.Decode(fromFile(t, "testdata/fulcio-github.pem"))
	var bundle struct {
		VerificationMaterial struct {
			X509CertificateChain struct{ Certificates []struct{ RawBytes string } }
		}
	}
	if err := json.Unmarshal(fromFile(t, "../testdata/sigstore/dsse.sigstore.json"), &bundle); err != nil {
		t.Fatal(err)
	}
	person, err := base64.StdEncoding.DecodeString(bundle.VerificationMaterial.X509CertificateChain.Certificates[0].RawBytes)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{
		"runnerEnvironment": "github-hosted", "sourceRepositoryURI": "https://github.com/sigstore/*", "sourceRepositoryRef": "refs/heads/main",
		"sourceRepositoryIdentifier": "495574555", "sourceRepositoryOwnerURI": "https://github.com/sigstore", "sourceRepositoryOwnerIdentifier": "71096353",
		"buildTrigger": "push", "sourceRepositoryDigest": "dae8bd8eb433a4147b4655c00fe73e0f22bc0fb1", "buildConfigDigest": "dae8bd8eb433a4147b4655c00fe73e0f22bc0fb1",
		"buildSignerDigest": "dae8bd8eb433a4147b4655c00fe73e0f22bc0fb1", "runInvocationURI": "https://github.com/sigstore/sigstore-js/actions/runs/4735384265/attempts/1",
		"buildSignerURI": "https://github.com/sigstore/*/.github/workflows/release.yml@refs/heads/main",
		"buildConfigURI": "https://github.com/sigstore/sigstore-js/.github/workflows/release.yml@refs/heads/main",
	}
	for _, c := range []struct {
		name       string
		leaf       []byte
		issuer     string
		identity   string
		extensions map[string]string
		from       time.Time
	}{
		{"a workflow", github.Bytes, actions, "https://github.com/sigstore/*/.github/workflows/release.yml@refs/heads/main", all, time.Date(2023, 4, 18, 17, 45, 11, 0, time.UTC)},
		{"a person", person, "https://github.com/login/oauth", "brian@dehamer.com", nil, time.Date(2022, 11, 9, 23, 0, 35, 0, time.UTC)},
	} {
		i := Issuer{Iss: wabbit, OIDC: &OIDC{TrustedRoot: trusted, Issuer: c.issuer, Identity: c.identity, Extensions: c.extensions}}
		o, err := newLogin("x", i)
		if err != nil {
			t.Fatal(err)
		}
		judge := func(at time.Time) (*leaf, *Refusal) {
			s := &statement.Statement{Issuer: wabbit, Alg: cose.ES256, Chain: [][]byte{c.leaf}, ChainProtected: true}
			return o.judge("x.oidc", s, at, newChainCache(), func(l *leaf) *Refusal {
				_, refusal := o.speaks("x.oidc", l, wabbit)
				return refusal
			})
		}
		to := c.from.Add(10 * time.Minute)
		for _, at := range []time.Time{c.from, to} {
			if l, refusal := judge(at); refusal != nil || !l.from.Equal(c.from) || !l.to.Equal(to) {
				t.Errorf("%s at %s: %+v", c.name, at, refusal)
			}
		}
		for _, at := range []time.Time{c.from.Add(-1), to.Add(1), noon} {
			if _, refusal := judge(at); refusal == nil {
				t.Errorf("%s at %s: admitted", c.name, at)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(c.extensions)) {
			i.OIDC.Extensions = map[string]string{name: "other"}
			if o, err = newLogin("x", i); err != nil {
				t.Fatal(err)
			}
			if _, refusal := judge(c.from); refusal == nil || refusal.Rule != "x.oidc.extensions."+name {
				t.Errorf("%s with another %s: %+v", c.name, name, refusal)
			}
		}
	}
}

func TestATrustedRootIsReadFromItsFileAndLoggedWhole(t *testing.T) {
	for _, file := range []string{"public-good", "scaffolding"} {
		trusted := fromFile(t, "../testdata/sigstore/"+file+".trusted_root.json")
		p, err := ReadYAML(write(t, map[string]string{
			"policy.yaml": "operators: [{key: o.pub}]\nissuers:\n  - iss: " + wabbit + "\n    oidc:\n      trustedRoot: trusted_root.json\n      issuer: " + actions + "\n      identity: " + workflow + "\n",
			"o.pub":       keyPEM(t, newKey(t)), "trusted_root.json": string(trusted),
		}))
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		want, err := ParseTrustedRoot(trusted)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Issuers[0].OIDC.TrustedRoot; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", file, got, want)
		}
		b, err := p.JSON()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(b); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	// Or written out, as somebody with an authority of their own would.
	root := newCA(t, "fulcio")
	p, err := ReadYAML(write(t, map[string]string{
		"policy.yaml": "operators: [{key: o.pub}]\nissuers:\n  - iss: " + wabbit + "\n    oidc:\n      trustedRoot: {certificateAuthorities: [{chain: [fulcio.pem], from: 2026-11-21T11:00:00Z}]}\n      issuer: " + actions + "\n      identity: " + workflow + "\n",
		"o.pub":       keyPEM(t, newKey(t)), "fulcio.pem": certPEM(root.cert),
	}))
	if err != nil {
		t.Fatal(err)
	}
	admitted(t, p.Evaluate(sign(t, wabbit, root.certifyLogin(workflow)), noon))

	for name, text := range map[string]string{
		"not JSON":            "certificateAuthorities: []",
		"another media type":  `{"mediaType":"application/json","certificateAuthorities":[]}`,
		"no authorities":      `{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`,
		"rubbish for a CA":    `{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1","certificateAuthorities":[{"certChain":{"certificates":[{"rawBytes":"AAAA"}]}}]}`,
		"a time that is none": `{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1","certificateAuthorities":[{"validFor":{"start":"yesterday"}}]}`,
	} {
		_, err := ReadYAML(write(t, map[string]string{
			"policy.yaml": "operators: [{key: o.pub}]\nissuers:\n  - iss: " + wabbit + "\n    oidc: {trustedRoot: t.json, issuer: " + fmt.Sprintf("%q", actions) + ", identity: " + fmt.Sprintf("%q", workflow) + "}\n",
			"o.pub":       keyPEM(t, newKey(t)), "t.json": text,
		}))
		if err == nil || !strings.Contains(err.Error(), "policy.yaml:4:") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
