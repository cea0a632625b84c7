package policy

import (
	"strings"
	"testing"
	"time"
)

func TestLintKnowsCertificates(t *testing.T) {
	root := newCA(t, "root", mayRevoke)
	clock := TrustedAuthority{Chain: []Root{{root.cert}}}
	x := func(iss string, edit func(*Issuer)) Issuer {
		i := caIssuer(iss, root)
		edit(&i)
		i.MediaTypes = []string{sbom}
		return i
	}
	login := func(edit func(*OIDC)) Issuer {
		i := oidcIssuer(wabbit, workflow, root)
		i.OIDC.TrustedRoot.TimestampAuthorities = []TrustedAuthority{clock}
		i.MediaTypes = []string{sbom}
		edit(i.OIDC)
		return i
	}
	for name, c := range map[string]struct {
		issuer Issuer
		want   string // "" is nothing
	}{
		"as it should be":         {x(acme, func(*Issuer) {}), ""},
		"any usage":               {x(acme, func(i *Issuer) { i.X509.EKU = "none" }), "issuers[0].x509.eku: whatever"},
		"web servers":             {x(acme, func(i *Issuer) { i.X509.EKU = "serverAuth" }), "issuers[0].x509.eku: every web server"},
		"a workload":              {x(workload, func(i *Issuer) { i.X509.EKU = "none" }), ""},
		"a workload by its SAN":   {x(acme, func(i *Issuer) { i.X509.SAN, i.X509.EKU = workload, "none" }), ""},
		"a workload's usage":      {x(workload, func(*Issuer) {}), "issuers[0].x509.eku: absent"},
		"workloads":               {x("", func(i *Issuer) { i.Pattern, i.X509.EKU = `^spiffe://acme\.example/[a-z]+$`, "none" }), ""},
		"workloads of any":        {x("", func(i *Issuer) { i.Pattern = `^spiffe://[a-z]+\.example/[a-z]+$` }), "issuers[0].pattern: admits no SPIFFE ID"},
		"a list that must be new": {x(acme, func(i *Issuer) { i.X509.CRLs = []CRL{root.revoke(nil)} }), ""},
		"a list that may be old": {x(acme, func(i *Issuer) { i.X509.CRLs, i.X509.CRLExpired = []CRL{root.revoke(nil)}, AllowExpired }),
			"issuers[0].x509.crls[0]: is used after its next update of " + noon.Add(time.Hour).Format(time.RFC3339)},
		"no list":                {x(acme, func(i *Issuer) { i.X509.CRLExpired = RefuseExpired }), "issuers[0].x509.crlExpired: unused"},
		"a login":                {login(func(*OIDC) {}), ""},
		"a login without clocks": {login(func(o *OIDC) { o.TrustedRoot.TimestampAuthorities = nil }), "issuers[0].oidc.trustedRoot: no timestampAuthorities"},
		"a login by expression": {login(func(o *OIDC) {
			o.Identity, o.IdentityRegexp, o.AllowRegexp = "", `^https://github\.com/wabbit/[a-z]+$`, true
		}), ""},
		"with a dot":      {login(func(o *OIDC) { o.Identity, o.IdentityRegexp, o.AllowRegexp = "", "^https://github.com/wabbit/x$", true }), "issuers[0].oidc.identityRegexp: \".\""},
		"by anybody":      {login(func(o *OIDC) { o.Identity, o.IdentityRegexp, o.AllowRegexp = "", `^[a-z0-9:/-]+\.[a-z.0-9/-]+$`, true }), "issuers[0].oidc.identityRegexp: admits anybody"},
		"allowed in vain": {login(func(o *OIDC) { o.AllowRegexp = true }), "issuers[0].oidc.allowRegexp: unused"},
	} {
		got := mustNew(t, newOperator(t).document(c.issuer)).Lint()[1:] // that there is one operator
		if c.want == "" && len(got) != 0 || c.want != "" && (len(got) != 1 || !strings.HasPrefix(got[0], c.want)) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
