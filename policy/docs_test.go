package policy

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// Every YAML block of the policy page is a policy, or becomes one with the two
// lines that every policy has.
func TestThePolicyPageShowsPolicies(t *testing.T) {
	text, err := os.ReadFile("../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string) string {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	const intranet = "../deploy/policies/open-intranet/"
	files := map[string]string{
		"operator.pub": keyPEM(t, newKey(t)), "operator-second.pub": keyPEM(t, newKey(t)), "wabbit.pub": keyPEM(t, newKey(t)), "acme.pub": keyPEM(t, newKey(t)),
		"root.pem": file(intranet + "intranet-root.pem"), "issuing.pem": file(intranet + "intranet-root.pem"), "root.crl": file(intranet + "intranet.crl"),
		"trusted_root.json": file("../testdata/sigstore/public-good.trusted_root.json"),
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(blocks) < 14 {
		t.Fatalf("found %d blocks", len(blocks))
	}
	for _, block := range blocks {
		head := ""
		if !strings.Contains(block[1], "version:") {
			head += "version: 1\n"
		}
		if !strings.Contains(block[1], "operators:") {
			head += "operators: [{key: operator.pub}]\n"
		}
		files["policy.yaml"] = head + block[1]
		if _, err := ReadYAML(write(t, files)); err != nil {
			t.Errorf("%v in\n%s", err, block[1])
		}
	}
	// None of the members is left out.
	for _, shape := range []any{Document{}, Issuer{}, Rule{}, When{}, Require{}, Sequence{}, Need{}} {
		for f := range reflect.TypeOf(shape).NumField() {
			member := reflect.TypeOf(shape).Field(f).Tag.Get("yaml")
			if member != "previous" && !regexp.MustCompile(`\b`+member+`\b`).Match(text) {
				t.Errorf("the page does not show %s of %T", member, shape)
			}
		}
	}
	for name := range variables {
		last := name[strings.LastIndex(name, ".")+1:]
		if !strings.Contains(string(text), "`"+name+"`") && !strings.Contains(string(text), "`."+last+"`") {
			t.Errorf("the page does not tell the variable %s", name)
		}
	}
}
