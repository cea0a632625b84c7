package policy

import (
	"fmt"
	"regexp/syntax"
	"slices"
	"strings"
)

// lintCertificates looks at what a rule says of certificates.
func (r *rule) lintCertificates(note func(path, format string, args ...any)) {
	switch by := r.by.(type) {
	case certified:
		r.lintX509(by.certs, note)
	case loggedIn:
		r.lintOIDC(by.login, note)
	}
}

func (r *rule) lintX509(a *authority, note func(path, format string, args ...any)) {
	at := r.path + ".x509"
	switch workload := isSPIFFE(a.naming.orIss(r.Iss).String()) || domainOf(r.Pattern) != ""; {
	case a.usage.name == "serverAuth":
		note(at+".eku", "every web server with a certificate under these roots can sign")
	case a.usage.name == anyUsage.name && !workload:
		note(at+".eku", "whatever a certificate under these roots is for, it can sign")
	case r.X509.EKU == "" && workload:
		note(at+".eku", "absent, which is codeSigning; SPIFFE certificates seldom list it, for them write none")
	}
	if r.pattern != nil && strings.Contains(r.Pattern, "spiffe") && domainOf(r.Pattern) == "" {
		note(r.path+".pattern", "admits no SPIFFE ID, for it does not stay in one trust domain; begin it with ^spiffe://domain/")
	}
	for i, l := range a.revocations {
		if a.allowExpired {
			note(fmt.Sprintf("%s.crls[%d]", at, i), "is used after its next update of %s, too; whom %s revokes later is admitted", stamp(l.next), quote(l.ca.Subject.String()))
		}
	}
	if r.X509.CRLExpired != "" && len(a.revocations) == 0 {
		note(at+".crlExpired", "unused, for no crls are listed")
	}
}

func (r *rule) lintOIDC(o *login, note func(path, format string, args ...any)) {
	at := r.path + ".oidc"
	if len(o.clocks) == 0 {
		note(at+".trustedRoot", "no timestampAuthorities; a statement has to be registered while its certificate is valid, for some ten minutes")
	}
	if re := o.naming.regexp; re != nil {
		if slices.ContainsFunc(strangers, re.MatchString) {
			note(at+".identityRegexp", "admits anybody whatever")
		}
		if parsed, err := syntax.Parse(re.String(), syntax.Perl); err == nil && hasDot(parsed) {
			note(at+".identityRegexp", `"." stands for any character, "/" included; for a full stop write \.`)
		}
	} else if r.OIDC.AllowRegexp {
		note(at+".allowRegexp", "unused, for there is no identityRegexp")
	}
}
