package policy

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

func TestAnEvidenceMemberThatCannotWorkIsRefused(t *testing.T) {
	key, site := newKey(t), newSite(t)
	pattern := caIssuer("", site.vendor)
	pattern.Pattern = `^https://[a-z]+\.partners\.example$`
	for _, c := range []struct {
		name  string
		alter func(*Issuer)
		want  string
	}{
		{"no media types", func(i *Issuer) { i.Evidence.MediaTypes = nil }, "issuers[0].evidence.mediaTypes: none"},
		{"media type with parameters", func(i *Issuer) { i.Evidence.MediaTypes[0] = "application/cose; a=b" }, "issuers[0].evidence.mediaTypes[0]: "},
		{"media type that is not admitted", func(i *Issuer) { i.MediaTypes = []string{sbom} }, "issuers[0].evidence.mediaTypes[0]: " + dsseType + " is not on the issuer's own list"},
		{"no signers", func(i *Issuer) { i.Evidence.Signers = nil }, "issuers[0].evidence.signers: 0; list 1 to 8"},
		{"many signers", func(i *Issuer) { i.Evidence.Signers = slices.Repeat(i.Evidence.Signers, 9) }, "issuers[0].evidence.signers: 9; list 1 to 8"},
		{"signer of no kind", func(i *Issuer) { i.Evidence.Signers[0].Key = nil }, "issuers[0].evidence.signers[0]: a signer is known by exactly one of"},
		{"signer of two kinds", func(i *Issuer) { i.Evidence.Signers[0].X509 = site.byVendor.X509 }, "issuers[0].evidence.signers[0]: a signer is known by exactly one of"},
		{"kid without a key", func(i *Issuer) { i.Evidence.Signers[0] = site.byVendor; i.Evidence.Signers[0].Kid = KeyID("k") }, "issuers[0].evidence.signers[0].kid: "},
		{"roots missing", func(i *Issuer) { i.Evidence.Signers[0] = Signer{X509: &X509{}} }, "issuers[0].evidence.signers[0].x509.roots: none"},
		{"iss missing", func(i *Issuer) {
			e := i.Evidence
			*i = pattern
			i.Evidence = e
			i.Evidence.Signers[0] = Signer{X509: site.byVendor.X509}
		}, "issuers[0].evidence.signers[0].iss: missing"},
		{"iss that hides something", func(i *Issuer) { i.Evidence.Signers[0].Iss = "https://\u202eexample" }, "issuers[0].evidence.signers[0].iss: "},
	} {
		i := vouched(key, site.byKey)
		c.alter(&i)
		d := newOperator(t).document(i)
		if _, err := New(d); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", c.name, err, c.want)
		}
	}
}

func TestThePolicyFileNamesSignersOfEvidenceByFile(t *testing.T) {
	site := newSite(t)
	name := write(t, map[string]string{
		"operator.pub": keyPEM(t, newKey(t)), "wabbit.pub": keyPEM(t, newKey(t)), "ci.pub": keyPEM(t, site.key.Key), "vendor.pem": certPEM(site.vendor.cert),
		"policy.yaml": `version: 1
operators: [{key: operator.pub}]
issuers:
  - iss: https://wabbit.example
    key: wabbit.pub
    evidence:
      mediaTypes: [application/vnd.dsse.envelope.v1+json]
      signers:
        - key: ci.pub
        - {iss: "https://acme.example", x509: {roots: [vendor.pem]}}
`,
	})
	p, err := ReadYAML(name)
	if err != nil {
		t.Fatal(err)
	}
	b, err := p.JSON()
	if err != nil {
		t.Fatal(err)
	}
	q, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []*Evidence{p.Issuers[0].Evidence, q.Issuers[0].Evidence} {
		if len(e.Signers) != 2 || e.Signers[0].Key.Public == nil || e.Signers[1].X509.Roots[0].Subject.CommonName != "vendor" {
			shown, _ := json.Marshal(e)
			t.Errorf("read %s", shown)
		}
	}
}
