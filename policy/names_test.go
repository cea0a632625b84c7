package policy

import (
	"math/rand/v2"
	"strings"
	"testing"
)

func TestAStarStandsForWhatIsBetweenTwoSlashes(t *testing.T) {
	for _, c := range []struct {
		glob, text string
		want       bool
	}{
		{"https://a.example/x", "https://a.example/x", true},
		{"https://a.example/x", "https://a.example/x/", false},
		{"https://a.example/x", "https://A.example/x", false},
		{"https://a.example/*", "https://a.example/x", true},
		{"https://a.example/*", "https://a.example/", false},
		{"https://a.example/*", "https://a.example", false},
		{"https://a.example/*", "https://a.example/x/y", false},
		{"https://a.example/*", "https://a.example.evil.example/x", false},
		{"https://a.example/*/y", "https://a.example/x/y", true},
		{"https://a.example/*/y", "https://a.example//y", false},
		{"https://a.example/*/y", "https://a.example/b/x/y", false},
		{"https://a.example/v*", "https://a.example/v1", true},
		{"https://a.example/v*", "https://a.example/v", false},
		{"https://a.example/v*", "https://a.example/w1", false},
		{"https://a.example/*-*.yml", "https://a.example/a-b.yml", true},
		{"https://a.example/*-*.yml", "https://a.example/a-.yml", false},
		{"https://a.example/*-*.yml", "https://a.example/-b.yml", false},
		{"https://a.example/*-*.yml", "https://a.example/a-b-c.yml.yml", true},
		{"https://a.example/*-*.yml", "https://a.example/a-b.yml.", false},
		{"*@a.example", "x@a.example", true},
		{"*@a.example", "@a.example", false},
		{"*@a.example", "x@a.example.evil.example", false},
		{"ci-*@a.example", "ci-7@a.example", true},
		{
			"https://github.com/wabbit/*/.github/workflows/release.yml@refs/tags/*",
			"https://github.com/wabbit/net-monitor/.github/workflows/release.yml@refs/tags/v1", true,
		},
		{
			"https://github.com/wabbit/*/.github/workflows/release.yml@refs/tags/*",
			"https://github.com/wabbit/net-monitor/.github/workflows/release.yml@refs/heads/main", false,
		},
		{
			"https://github.com/wabbit/*/.github/workflows/release.yml@refs/tags/*",
			"https://github.com/wabbit/net-monitor/.github/workflows/release.yml@refs/heads/x@refs/tags/v1", false,
		},
		{
			"https://github.com/wabbit/*/.github/workflows/release.yml@refs/tags/*",
			"https://github.com/wabbit/a/b/.github/workflows/release.yml@refs/tags/v1", false,
		},
	} {
		if got := glob(c.glob).matches(c.text); got != c.want {
			t.Errorf("%s, %s: %v, want %v", c.glob, c.text, got, c.want)
		}
	}
}

// Every text of up to five characters says whether two globs meet.
func TestGlobsMeetWhenSomeTextMatchesBoth(t *testing.T) {
	const alphabet = "ab/"
	texts := []string{""}
	for from := 0; len(texts[len(texts)-1]) < 5; {
		end := len(texts)
		for _, s := range texts[from:end] {
			for _, c := range alphabet {
				texts = append(texts, s+string(c))
			}
		}
		from = end
	}
	random := rand.New(rand.NewPCG(1, 2))
	some := func() glob {
		var b strings.Builder
		for range 1 + random.IntN(3) {
			b.WriteByte("ab/*"[random.IntN(4)])
		}
		return glob(strings.ReplaceAll(b.String(), "**", "*a"))
	}
	met := 0
	for range 3000 {
		g, h := some(), some()
		want := false
		for _, s := range texts {
			if g.matches(s) && h.matches(s) {
				want = true
				break
			}
		}
		if got := g.meets(h); got != want {
			t.Fatalf("%q and %q meet: %v, want %v", g, h, got, want)
		}
		if want {
			met++
		}
	}
	if met < 100 || met > 2900 {
		t.Errorf("%d of 3000 meet; the test shows little", met)
	}
}

func TestANameLeavesItsHostNeverOpen(t *testing.T) {
	for name, ok := range map[string]bool{
		"https://a.example":             true,
		"https://a.example/*":           true,
		"spiffe://a.example/ns/*/sa/ci": true,
		"ci-*@a.example":                true,
		"release@a.example":             true,
		"a.example":                     true,
		"*.example":                     false,
		"a.*":                           false,
		"https://*.example":             false,
		"https://*/x":                   false,
		"https://a.example*":            false,
		"https://a.example*/x":          false,
		"*://a.example/x":               false,
		"https:*":                       false,
		"urn:a:*":                       false,
		"x@*":                           false,
		"x@*.example":                   false,
		"*@evil.example@a.example":      false,
		"https://a.example/**":          false,
		"https://a.example/**/x":        false,
		" https://a.example/*":          false,
		"https://a.example/\u202e*":     false,
		"https://" + strings.Repeat("a", maxPattern): false,
	} {
		if _, err := newNaming(name); (err == nil) != ok {
			t.Errorf("%.80q: %v", name, err)
		}
	}
}

func TestAGlobUnderOneRootMaySpeakForOneIssuerOnly(t *testing.T) {
	root, other := newCA(t, "root"), newCA(t, "other")
	x := func(iss, san string, roots ...*ca) Issuer {
		i := caIssuer(iss, roots...)
		i.X509.SAN = san
		return i
	}
	pattern := caIssuer("", root)
	pattern.Pattern = `^https://ci\.[a-z]+/ci/[a-z]+$`
	elsewhere := caIssuer("", root)
	elsewhere.Pattern = `^spiffe://ci\.example/.+$`
	const ci = "https://ci.example/*/release"
	o := newOperator(t)
	for name, c := range map[string]struct {
		issuers []Issuer
		ok      bool
	}{
		"alone":                           {[]Issuer{x(acme, ci, root)}, true},
		"twice for one issuer":            {[]Issuer{x(acme, ci, root), x(acme, "https://ci.example/acme/*", root)}, true},
		"other roots":                     {[]Issuer{x(acme, ci, root), x(wabbit, ci, other)}, true},
		"texts that cannot meet":          {[]Issuer{x(acme, "https://ci.example/acme/*", root), x(wabbit, "https://ci.example/wabbit/*", root)}, true},
		"mail addresses":                  {[]Issuer{x(acme, "ci-*@acme.example", root), x(wabbit, "ci-1@wabbit.example", root)}, true},
		"the same":                        {[]Issuer{x(acme, ci, root), x(wabbit, ci, root)}, false},
		"texts that meet":                 {[]Issuer{x(acme, ci, root), x(wabbit, "https://ci.example/wabbit/*", root)}, false},
		"a name that it matches":          {[]Issuer{x(acme, ci, root), x(wabbit, "https://ci.example/wabbit/release", root)}, false},
		"an iss that it matches":          {[]Issuer{x(acme, ci, root), caIssuer("https://ci.example/wabbit/release", root)}, false},
		"the same, the other way":         {[]Issuer{caIssuer("https://ci.example/wabbit/release", root), x(acme, ci, root)}, false},
		"an iss that it does not":         {[]Issuer{x(acme, ci, root), caIssuer(wabbit, root)}, true},
		"a pattern that nobody can tell":  {[]Issuer{x(acme, ci, root), pattern}, false},
		"a pattern that begins otherwise": {[]Issuer{x(acme, ci, root), elsewhere}, true},
	} {
		if _, err := New(o.document(c.issuers...)); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWhoeverFitsTheGlobSpeaksForTheIssuer(t *testing.T) {
	root := newCA(t, "root")
	i := caIssuer(acme, root)
	i.X509.SAN = "https://ci.acme.example/*/release"
	p := inForce(t, i)
	d := p.Evaluate(sign(t, acme, root.leaf("https://ci.acme.example/7/release")), noon)
	if admitted(t, d); d.Identity.Name != "https://ci.acme.example/7/release" {
		t.Errorf("identity %+v does not say under which name", d.Identity)
	}
	for _, san := range []string{acme, "https://ci.acme.example/release", "https://ci.acme.example/7/8/release", "https://ci.acme.example/*/release/x"} {
		refused(t, p.Evaluate(sign(t, acme, root.leaf(san)), noon), CodeCertificateInvalid, "issuers[0].x509.san")
	}
	// A * in a statement's iss means itself.
	open := caIssuer("", root)
	open.Pattern = `^https://ci\.acme\.example/.+$`
	refused(t, inForce(t, open).Evaluate(sign(t, "https://ci.acme.example/*/release", root.leaf("https://ci.acme.example/7/release")), noon),
		CodeCertificateInvalid, "issuers[0].x509.san")
}
