package policy

import (
	"slices"
	"strings"
	"testing"
)

func TestLintNamesWhatIsSeldomMeant(t *testing.T) {
	o := newOperator(t)
	root, key, other := newCA(t, "root"), newKey(t), newKey(t)

	web, dotted, private := caIssuer("https://web.example", root), caIssuer("", root), keyIssuer("https://private.example", other)
	web.X509.EKU = "serverAuth"
	dotted.Pattern = `^https://.*\.partners\.example$`
	private.Visibility, private.Repositories = Private, []string{"a"}
	typed, twin := keyIssuer(wabbit, key), keyIssuer(wabbit, key)
	typed.MediaTypes, twin.MediaTypes = []string{sbom, "application/spdx+json"}, []string{sbom}
	hexed := keyIssuer("https://hexed.example", newKey(t))
	hexed.Kid = KeyID(strings.Repeat("0a", 32))

	doc := o.document(keyIssuer("https://operator.example", o.key), web, dotted, private, typed, twin, hexed, keyIssuer(acme, key))
	doc.Deny = []string{acme, acme}
	doc.Subjects = nil
	doc.Repositories = []Mapping{{"a", "b"}, {"a", "b"}}
	got := mustNew(t, doc).Lint()
	want := []string{
		"operators: only one",
		"issuers[0].key: is also the key of operators[0]",
		"issuers[0].mediaTypes: absent",
		"issuers[1].x509.eku: every web server",
		"issuers[1].mediaTypes: absent",
		`issuers[2].pattern: "." stands for any character`,
		"issuers[2].mediaTypes: absent",
		"issuers[3].mediaTypes: absent",
		"issuers[3].repositories: unused",
		"issuers[5]: never reached; issuers[4]",
		"issuers[6].kid: ",
		"issuers[6].mediaTypes: absent",
		`issuers[7].iss: "https://acme.example" is on the deny list`,
		"issuers[7].key: is also the key of issuers[4]",
		"issuers[7].key: is also the key of issuers[5]",
		"issuers[7].mediaTypes: absent",
		"deny[1]: ",
		"subjects: none",
		"repositories[1]: is there already",
	}
	if !slices.EqualFunc(got, want, strings.HasPrefix) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if notes := mustNew(t, newOperator(t).document()).Lint(); !slices.ContainsFunc(notes, func(n string) bool { return strings.HasPrefix(n, "issuers: none") }) {
		t.Errorf("no issuer at all: %q", notes)
	}
}

func TestTheExampleHasLittleToFind(t *testing.T) {
	p, _ := readExample(t)
	want := []string{"operators: only one", "issuers[1].mediaTypes", "issuers[2].mediaTypes"}
	if got := p.Lint(); !slices.EqualFunc(got, want, strings.HasPrefix) {
		t.Errorf("got %q", got)
	}
	if p.AllowsAnyIssuer() {
		t.Error("the example admits any issuer")
	}
}

func TestPatternsThatAdmitAnyIssuerAreFound(t *testing.T) {
	root := newCA(t, "root")
	for pattern, want := range map[string]bool{
		`^.*$`: true, `^.+$`: true, `^(?s).*$`: true, `^https://.*$`: true, `^https?://[^/]+$`: true, `^https://[a-z.-]+$`: true,
		`^https://[a-z]+\.[a-z]+$`: true, `^https://[a-z0-9.-]+/path$`: true, `^http://.*$`: true, `^urn:.*$`: true, `^did:web:.*$`: true, `^spiffe://.*$`: true,
		`^https://[a-z]+\.wabbit\.example$`: false, `^https://wabbit\.example/.*$`: false, `^https://.*\.wabbit\.example$`: false,
	} {
		i := caIssuer("", root)
		i.Pattern = pattern
		p := mustNew(t, newOperator(t).document(i))
		if got := p.AllowsAnyIssuer(); got != want {
			t.Errorf("%s: got %t, want %t", pattern, got, want)
		}
		if found := slices.ContainsFunc(p.Lint(), func(n string) bool { return strings.Contains(n, "any issuer") }); found != want {
			t.Errorf("%s: lint found it: %t, want %t", pattern, found, want)
		}
	}
	if mustNew(t, newOperator(t).document(keyIssuer(wabbit, newKey(t)))).AllowsAnyIssuer() {
		t.Error("a pinned key admits any issuer")
	}
}
