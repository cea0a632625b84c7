package statement_test

import (
	"strings"
	"testing"

	"github.com/scittd/scittd/statement"
)

func TestIssuerPrefixesCompareWholeSegments(t *testing.T) {
	for _, c := range []struct {
		prefix, iss string
		want        bool
	}{
		{"https://good.example", "https://good.example", true},
		{"https://good.example", "https://good.example/", true},
		{"https://good.example", "https://good.example/team", true},
		{"https://good.example", "https://good.example/team/a", true},
		{"https://good.example/", "https://good.example", true},
		{"https://good.example/", "https://good.example/team", true},
		{"https://good.example/te", "https://good.example/team", false},
		{"https://good.example/team", "https://good.example", false},
		{"https://good.example", "https://good.example.evil", false},
		{"https://good.example", "https://good.example@evil", false},
		{"https://good.example", "https://good.example:443@evil/", false},
		{"https://good.example", "https://good.example:8443", false},
		{"https://good.example", "https://good.example?x", false},
		{"https://good.example", "https://GOOD.example", false},
		{"https://good.example", " https://good.example", false},
		{"https://good.example:8443", "https://good.example:8443/team", true},
		{"https://good.example:8443", "https://good.example:84430", false},
		{"https://g%d.example", "https://good.example/team", false},
		{"https://g__d.example", "https://good.example/team", false},
		{"did:web:good.example", "did:web:good.example", true},
		{"did:web:good.example", "did:web:good.example:team", true},
		{"did:web:good.example:", "did:web:good.example:team", true},
		{"did:web:good.example", "did:web:good.example/team", false},
		{"did:web:good.example", "did:web:good.example.evil", false},
		{"did:web:good.example", "did:web:good.example%3A8443", false},
		{"urn:example:good", "urn:example:good:team", true},
		{"urn:example:good", "urn:example:goods", false},
		{"wabbit", "wabbit/team", true},
		{"wabbit", "wabbit networks", false},
	} {
		p, err := statement.ParseIssuerPrefix(c.prefix)
		if err != nil {
			t.Errorf("%s: %v", c.prefix, err)
		} else if p.Covers(c.iss) != c.want {
			t.Errorf("prefix %s covers %s: %t, want %t", c.prefix, c.iss, !c.want, c.want)
		}
	}
	if statement.IssuerPrefix("").Covers("https://good.example") || statement.IssuerPrefix("").Covers("") {
		t.Error("the zero prefix covers somebody")
	}
}

func TestPrefixesThatNameNoIssuerAreRefused(t *testing.T) {
	for _, text := range []string{
		"", "/", "//", ":", "https:", "https:/", "https://", "https:///", "https://good.example//",
		"did:", "did:web", "did:web:", "did::", "did:web::", "urn:", "urn:example", "urn:example:",
		"https://good.example\x00", "https://good.example/\xff", strings.Repeat("i", statement.MaxIssuer+1),
	} {
		if p, err := statement.ParseIssuerPrefix(text); err == nil {
			t.Errorf("%.40q is read as %.40q", text, p)
		}
	}
	if _, err := statement.ParseIssuerPrefix(strings.Repeat("i", statement.MaxIssuer)); err != nil {
		t.Errorf("a prefix as long as an issuer may be: %v", err)
	}
}
