package policy

import (
	"crypto/x509"
	"net/url"
	"strings"
	"testing"
)

func TestASPIFFEIDIsWrittenInOneWay(t *testing.T) {
	for id, ok := range map[string]bool{
		"spiffe://acme.example/release":             true,
		"spiffe://acme.example/ns/prod/sa/ci_1-a.b": true,
		"spiffe://a/b":                                true,
		"spiffe://10.0.0.1/b":                         true,
		"spiffe://acme.example":                       false,
		"spiffe://acme.example/":                      false,
		"spiffe://acme.example/a/":                    false,
		"spiffe://acme.example//a":                    false,
		"spiffe://acme.example/./a":                   false,
		"spiffe://acme.example/a/..":                  false,
		"spiffe://ACME.example/a":                     false,
		"SPIFFE://acme.example/a":                     false,
		"spiffe:/acme.example/a":                      false,
		"spiffe:acme.example/a":                       false,
		"spiffe:///a":                                 false,
		"spiffe://acme.example:8443/a":                false,
		"spiffe://user@acme.example/a":                false,
		"spiffe://acme.example/a?b":                   false,
		"spiffe://acme.example/a#b":                   false,
		"spiffe://acme.example/a%2fb":                 false,
		"spiffe://acme.example/ä":                     false,
		"spiffe://äcme.example/a":                     false,
		"spiffe://[::1]/a":                            false,
		"https://acme.example/a":                      false,
		"":                                            false,
		"spiffe://" + strings.Repeat("a", 255) + "/a": true,
		"spiffe://" + strings.Repeat("a", 256) + "/a": false,
		"spiffe://a/" + strings.Repeat("a", maxSPIFFE-len("spiffe://a/")):   true,
		"spiffe://a/" + strings.Repeat("a", maxSPIFFE-len("spiffe://a/")+1): false,
	} {
		if err := checkSPIFFE(id); (err == nil) != ok {
			t.Errorf("%.80q: %v", id, err)
		}
	}
}

const workload = "spiffe://acme.example/ns/prod/sa/release"

func svid(c *x509.Certificate) {
	c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
}

func uri(text string) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.URIs = append(c.URIs, &url.URL{Opaque: text}) } // written as it is
}

func TestAWorkloadSpeaksForItsSPIFFEID(t *testing.T) {
	root := newCA(t, "acme root")
	exact, pattern, glob := caIssuer(workload, root), caIssuer("", root), caIssuer(acme, root)
	pattern.Pattern = `^spiffe://acme\.example/ns/prod/sa/[a-z]+$`
	glob.X509.SAN = "spiffe://acme.example/ns/*/sa/release"
	for name, i := range map[string]Issuer{"exact": exact, "pattern": pattern, "glob": glob} {
		i.X509.EKU = "none"
		iss := workload
		if i.Iss != "" {
			iss = i.Iss
		}
		p := inForce(t, i)
		d := p.Evaluate(sign(t, iss, root.leaf(workload, svid)), noon)
		if admitted(t, d); d.Identity.Name != workload {
			t.Errorf("%s: identity %+v", name, d.Identity)
		}
		for fault, leaf := range map[string]signer{
			"another workload": root.leaf("spiffe://acme.example/ns/prod/sa/other/x", svid),
			"another domain":   root.leaf("spiffe://evil.example/ns/prod/sa/release", svid),
			"two URIs":         root.leaf(workload, svid, uri("https://acme.example")),
			"the same twice":   root.leaf(workload, svid, uri(workload)),
			"a query":          root.leaf("", svid, uri(workload+"?x")),
			"upper case":       root.leaf("", svid, uri("SPIFFE://acme.example/ns/prod/sa/release")),
			"no name":          root.leaf("", svid),
		} {
			d := p.Evaluate(sign(t, iss, leaf), noon)
			if d.Rule != "issuers[0].x509.san" {
				t.Errorf("%s, %s:", name, fault)
			}
			refused(t, d, CodeCertificateInvalid, "issuers[0].x509.san")
		}
		refused(t, p.Evaluate(sign(t, iss, root.leaf(workload, svid, func(c *x509.Certificate) {
			c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature
		})), noon), CodeCertificateInvalid, "issuers[0].x509")
		refused(t, p.Evaluate(sign(t, iss, newCA(t, "evil root").leaf(workload, svid)), noon), CodeCertificateInvalid, "issuers[0].x509")
	}
}

func TestTrustDomainsKeepTheirOwnRoots(t *testing.T) {
	acmeRoot, evilRoot := newCA(t, "acme root"), newCA(t, "evil root")
	domain := func(name string, root *ca) Issuer {
		i := caIssuer("", root)
		i.Pattern, i.X509.EKU = `^spiffe://`+strings.ReplaceAll(name, ".", `\.`)+`/.+$`, "none"
		return i
	}
	p := inForce(t, domain("acme.example", acmeRoot), domain("evil.example", evilRoot))
	const other = "spiffe://evil.example/release"
	admitted(t, p.Evaluate(sign(t, workload, acmeRoot.leaf(workload, svid)), noon))
	admitted(t, p.Evaluate(sign(t, other, evilRoot.leaf(other, svid)), noon))
	refused(t, p.Evaluate(sign(t, workload, evilRoot.leaf(workload, svid)), noon), CodeCertificateInvalid, "issuers[0].x509")
	refused(t, p.Evaluate(sign(t, other, acmeRoot.leaf(other, svid)), noon), CodeCertificateInvalid, "issuers[1].x509")
}

func TestAPatternAdmitsWorkloadsOfOneTrustDomainOnly(t *testing.T) {
	root := newCA(t, "root")
	for pattern, ok := range map[string]bool{
		`^spiffe://acme\.example/ns/prod/sa/[a-z]+$`: true,
		`^spiffe://acme\.example/.*$`:                true,
		`^spiffe://[a-z.]+/.*$`:                      false,
		`^spiffe://.*$`:                              false,
		`^spiffe://acme.example/.*$`:                 false, // the dot is any character
		`^(?i)spiffe://acme\.example/.*$`:            false,
		`^.*$`:                                       false,
		`^[a-z]+://acme\.example/.*$`:                false,
	} {
		i := caIssuer("", root)
		i.Pattern, i.X509.EKU = pattern, "none"
		d := inForce(t, i).Evaluate(sign(t, workload, root.leaf(workload, svid)), noon)
		if ok {
			admitted(t, d)
		} else {
			refused(t, d, CodeCertificateInvalid, "issuers[0].x509.san")
		}
	}
	for iss, san := range map[string]string{
		"spiffe://ACME.example/a": "", "spiffe://acme.example": "", acme: "spiffe://acme.example/a?*",
	} {
		i := caIssuer(iss, root)
		i.X509.SAN = san
		if _, err := New(newOperator(t).document(i)); err == nil {
			t.Errorf("%s, %s: read", iss, san)
		}
	}
}
