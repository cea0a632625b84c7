package client_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/client"
)

func readRequirements(t *testing.T, text string) (client.Requirements, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "policy.yaml")
	must(t, os.WriteFile(file, []byte(text), 0o600))
	return client.ReadRequirements(file)
}

func TestAFileOfRequirementsIsWhatItsFlagsWouldBe(t *testing.T) {
	got, err := readRequirements(t, `# what a release needs
issuers: [https://wabbit.example]
issuerPrefixes:
  - https://acme.example/
  - did:web:wabbit.example
require:
  - Application/SPDX+json
  - https://slsa.dev/provenance/v1=2
maxAge: 720h
`)
	want := client.Requirements{
		Issuers: []client.IssuerRule{{Issuer: "https://wabbit.example"}, {Prefix: "https://acme.example/"}, {Prefix: "did:web:wabbit.example:"}},
		Claims:  []client.RequiredClaim{{Type: "application/spdx+json", Want: 1}, {Type: "https://slsa.dev/provenance/v1", Want: 2}},
		MaxAge:  720 * time.Hour,
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\ngot  %+v\nwant %+v", err, got, want)
	}
}

func TestMalformedRequirementsAreRefusedByLine(t *testing.T) {
	for _, c := range []struct{ text, says string }{
		{"", "line 1: it asks for nothing"},
		{"# nothing\n", "line 1: it asks for nothing"},
		{"issuers: [a]\nissuer: b\n", "line 2: field issuer not found"},
		{"issuers: [a]\nissuers: [b]\n", "line 2: mapping key \"issuers\" already defined"},
		{"issuers: [a]\n---\nissuers: [b]\n", "line 2: a second document"},
		{"- a\n", "line 1: "},
		{"issuers: a: b\n", "line 1: "},
		{"\nissuers: a\n", "line 2: issuers is a list"},
		{"issuers: []\n", "line 1: issuers is a list"},
		{"issuers:\n", "line 1: issuers is a list"},
		{"issuers:\n  - a\n  - ~\n", "line 3: issuers: something else than text"},
		{"issuers:\n  - a\n  - ''\n", "line 3: issuers: something else than text"},
		{"issuers:\n  - [a]\n", "line 2: issuers: something else than text"},
		{"issuerPrefixes:\n  - https://a.example\n  - https://\n", "line 3: issuerPrefixes: \"https://\" names no issuer"},
		{"issuers: [a]\nrequire: [a/b, a/b=0]\n", "line 2: require: \"a/b=0\" is not TYPE or TYPE=N"},
		{"issuers: [a]\nmaxAge:\n", "line 2: maxAge: something else than text"},
		{"maxAge: 30\n", "line 1: maxAge: \"30\" is no duration"},
		{"maxAge: -1h\n", "line 1: maxAge: "},
		{"maxAge: 0s\n", "line 1: maxAge: "},
	} {
		got, err := readRequirements(t, c.text)
		if err == nil || !strings.Contains(err.Error(), "policy.yaml: ") || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q: %+v, %v; want %q", c.text, got, err, c.says)
		}
	}
	if _, err := client.ReadRequirements(filepath.Join(t.TempDir(), "nowhere")); !os.IsNotExist(err) {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestRequirementsAddUpAndTheShorterAgeHolds(t *testing.T) {
	a := client.Requirements{Issuers: []client.IssuerRule{{Issuer: "a"}}, MaxAge: time.Hour}
	for _, c := range []struct{ more, want time.Duration }{{0, time.Hour}, {time.Minute, time.Minute}, {2 * time.Hour, time.Hour}} {
		b := client.Requirements{Issuers: []client.IssuerRule{{Issuer: "b"}}, Claims: []client.RequiredClaim{{Type: "a/b", Want: 1}}, MaxAge: c.more}
		for _, sum := range []client.Requirements{a.And(b), b.And(a)} {
			if len(sum.Issuers) != 2 || len(sum.Claims) != 1 || sum.MaxAge != c.want {
				t.Errorf("%v and %v is %+v", a, b, sum)
			}
		}
	}
}
