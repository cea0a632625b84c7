package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/statement"
)

const example = "testdata/policy.yaml"

func readExample(t testing.TB) (*Policy, []byte) {
	t.Helper()
	p, err := ReadYAML(example)
	if err != nil {
		t.Fatal(err)
	}
	b, err := p.JSON()
	if err != nil {
		t.Fatal(err)
	}
	return p, b
}

func TestTheDocumentOfThePackageCommentIsTheOneThatIsTested(t *testing.T) {
	source, err := os.ReadFile("policy.go")
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	commented := "//\t" + strings.ReplaceAll(strings.TrimSpace(string(want)), "\n", "\n//\t")
	if !strings.Contains(string(source), commented) {
		t.Errorf("%s is not what the package comment shows", example)
	}
}

func TestTheExampleSaysWhatItsAuthorMeant(t *testing.T) {
	p, _ := readExample(t)
	if p.Previous != nil || len(p.Operators) != 1 || len(p.Issuers) != 3 || p.Threshold != 1 {
		t.Fatalf("read %+v", p.Document)
	}
	w, a, partners := p.Issuers[0], p.Issuers[1], p.Issuers[2]
	if w.Iss != wabbit || string(w.Kid) != "release-2026" || w.Key.Public == nil || len(w.MediaTypes) != 2 {
		t.Errorf("issuers[0] = %+v", w)
	}
	if a.Iss != acme || a.X509.Roots[0].Subject.CommonName != "acme root" || a.X509.EKU != "codeSigning" || a.Visibility != Private {
		t.Errorf("issuers[1] = %+v", a)
	}
	if partners.Pattern == "" || partners.X509.Roots[0].Subject.CommonName != "partners root" {
		t.Errorf("issuers[2] = %+v", partners)
	}
	if time.Duration(p.Limits.MaxAge) != 8760*time.Hour || p.Visibility != Public || len(p.Deny) != 1 {
		t.Errorf("read %+v", p.Document)
	}
	want := []statement.Extractor{statement.ExtractInToto, statement.ExtractSubject}
	if !reflect.DeepEqual(p.Subjects, want) {
		t.Errorf("subjects %v, want %v", p.Subjects, want)
	}
}

func TestParseReturnsWhatJSONWrote(t *testing.T) {
	p, b := readExample(t)
	q, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(p.Document, q.Document) {
		t.Errorf("got  %+v\nwant %+v", q.Document, p.Document)
	}
	again, err := q.JSON()
	if err != nil || !bytes.Equal(again, b) {
		t.Errorf("second encoding %s, %v\nwant %s", again, err, b)
	}
}

// A log holds its policies for ever, so these bytes must never change and must
// always be read.
func TestTheLoggedFormOfTheExampleStaysWhatItWas(t *testing.T) {
	_, b := readExample(t)
	want, err := os.ReadFile("testdata/policy.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, want) {
		t.Errorf("got  %s\nwant %s", b, want)
	}
	if _, err := Parse(want); err != nil {
		t.Error(err)
	}
}

func TestReadYAMLReadsTheLoggedForm(t *testing.T) {
	p, b := readExample(t)
	var spaced bytes.Buffer
	if err := json.Indent(&spaced, b, "", "  "); err != nil {
		t.Fatal(err)
	}
	q, err := ReadYAML(write(t, map[string]string{"policy.yaml": spaced.String()}))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(p.Document, q.Document) {
		t.Errorf("got  %+v\nwant %+v", q.Document, p.Document)
	}
}

func TestParseAcceptsOneEncodingOnly(t *testing.T) {
	_, b := readExample(t)
	good := string(b)
	swap := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("%s is not in %s", old, good)
		}
		return strings.Replace(good, old, new, 1)
	}
	for name, c := range map[string]struct{ in, want string }{
		"empty":             {"", "EOF"},
		"null":              {"null", "operators"},
		"trailing newline":  {good + "\n", "RFC 8785"},
		"trailing document": {good + "{}", "RFC 8785"},
		"white space":       {swap(`"threshold":1`, `"threshold": 1`), "RFC 8785"},
		"order of members":  {swap(`"threshold":1,"version":1`, `"version":1,"threshold":1`), "RFC 8785"},
		"needless escape":   {swap(`"deny"`, `"den\u0079"`), "RFC 8785"},
		"escaped slash":     {swap(`https://formerly`, `https:\/\/formerly`), "RFC 8785"},
		"other case":        {swap(`"deny"`, `"Deny"`), "RFC 8785"},
		"repeated member":   {swap(`"threshold":1`, `"threshold":1,"threshold":1`), "RFC 8785"},
		"number with point": {swap(`"version":1`, `"version":1.0`), "version"},
		"unknown member":    {swap(`"version":1`, `"version":1,"zone":1`), "zone"},
		"default left out":  {swap(`"threshold":1,`, ``), "RFC 8785"},
		"bad UTF-8":         {swap(`formerly`, "f\xff"), ""},
		"other version":     {swap(`"version":1`, `"version":2`), "version"},
		"other threshold":   {swap(`"threshold":1`, `"threshold":2`), "threshold"},
		"no threshold":      {swap(`"threshold":1`, `"threshold":0`), "threshold"},
		"duration in words": {swap(`"8760h0m0s"`, `"8760h"`), "RFC 8785"},
		"broken key":        {swap(`"key":"`, `"key":"!`), "base64"},
		"cut short":         {good[:len(good)-1], "EOF"},
	} {
		_, err := Parse([]byte(c.in))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, c.want)
		}
	}
}

// The samples of RFC 8785 §3.2.2 and §3.2.3, as far as a policy's values go.
func TestCanonicalFormFollowsTheStandard(t *testing.T) {
	for in, want := range map[string]string{
		`{"b":1,"a":[true,false,null,"x"]}`:               `{"a":[true,false,null,"x"],"b":1}`,
		`"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/"`: `"€$\u000f\nA'B\"\\\\\"/"`,
		`{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew","1":"One","\ud83d\ude00":"Emoji","\u0080":"Control","\u00f6":"Latin"}`: "{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\u0080\":\"Control\",\"ö\":\"Latin\",\"€\":\"Euro Sign\",\"😀\":\"Emoji\",\"\ufb33\":\"Hebrew\"}",
		`"<&>\u2028\u007f\b\f\t"`: "\"<&>\u2028\u007f\\b\\f\\t\"",
	} {
		dec := json.NewDecoder(strings.NewReader(in))
		dec.UseNumber()
		var v any
		if err := dec.Decode(&v); err != nil {
			t.Fatal(err)
		}
		if got := string(appendCanonical(nil, v)); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

func TestReadYAMLNamesThePlaceOfAnError(t *testing.T) {
	operatorKey, otherKey := newKey(t), newKey(t)
	root := newCA(t, "root")
	files := func(body string) map[string]string {
		return map[string]string{
			"policy.yaml":  "version: 1\noperators: [{key: operator.pub}]\n" + body,
			"operator.pub": keyPEM(t, operatorKey), "other.pub": keyPEM(t, otherKey), "root.pem": certPEM(root.cert),
			"rubbish": "rubbish", "private.pem": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
		}
	}
	const issuer = "issuers:\n  - iss: https://a.example\n"
	const certs = issuer + "    x509: {roots: [root.pem]"
	for body, want := range map[string]string{
		"operator: []\n":                          `policy.yaml:3:1: unknown key "operator"`,
		issuer + "    keyz: other.pub\n":          `policy.yaml:5:5: unknown key "keyz"`,
		certs + ", sans: x}\n":                    `policy.yaml:5:31: unknown key "sans"`,
		"version: 1\n":                            `policy.yaml:3:1: mapping key "version" already defined at line 1`,
		issuer + "    iss: b\n    key: other.pub": `policy.yaml:5:5: mapping key "iss" already defined at line 4`,
		"limits: {maxAge: soon}\n":                `policy.yaml:3:18: "soon" is no duration`,
		"limits: {maxAge: -1h}\n":                 `policy.yaml:3:18: limits.maxAge: -1h0m0s`,
		"limits: {maxAge: 1ms}\n":                 `limits.maxAge`,
		"deny: &d [x]\n":                          `policy.yaml:3:7: anchors`,
		"<<: {threshold: 1}\n":                    `anchors, aliases and merge keys`,
		"---\nversion: 1\n":                       `expected single document`,
		"deny: [\n":                               `policy.yaml:`,
		"threshold: 2\n":                          `policy.yaml:3:12: threshold: 2`,
		"threshold: 0\n":                          `policy.yaml:3:12: threshold: 0`,
		"visibility: secret\n":                    `policy.yaml:3:13: visibility: "secret"`,
		"previous: 12\n":                          `policy.yaml:3:11: `,
		"subjects: [sub, purl]\n":                 `policy.yaml:3:17: subjects[1]: "purl"`,
		"subjects: [sub, sub]\n":                  `subjects[1]: sub is there twice`,
		"subjects: []\nrequireSubject: true\n":    `policy.yaml:4:17: requireSubject`,
		"repositories: [{match: '[', to: a}]\n":   `repositories[0].match`,
		"repositories: [{match: a, to: A}]\n":     `policy.yaml:3:31: repositories[0].to: "A" is no repository name`,
		"deny: ['']\n":                            `deny[0]`,
		"deny: [\"a\\u202eb\"]\n":                 `deny[0]: "a\u202eb" is not printable`,

		issuer:                                                                                      `policy.yaml:4:5: issuers[0]: an issuer is known by exactly one of key, x509, did, keys`,
		issuer + "    key: missing.pub\n":                                                           `policy.yaml:5:10: open `,
		issuer + "    key: rubbish\n":                                                               `policy.yaml:5:10: key "rubbish"`,
		issuer + "    key: private.pem\n":                                                           `policy.yaml:5:10: key "private.pem"`,
		issuer + "    key: ''\n":                                                                    `policy.yaml:5:10: empty`,
		issuer + "    key: [a]\n":                                                                   `policy.yaml:5:10: `,
		issuer + "    key: .\n":                                                                     `is a directory`,
		certs + "}\n    key: other.pub\n":                                                           `exactly one of key, x509`,
		certs + "}\n    kid: a\n":                                                                   `policy.yaml:6:10: issuers[0].kid: belongs to a pinned key`,
		issuer + "    key: other.pub\n    kid: 'hex:0'\n":                                           `policy.yaml:6:10: kid "hex:0"`,
		issuer + "    key: other.pub\n    kid: ''\n":                                                `kid ""`,
		"issuers: [{key: other.pub}]\n":                                                             `issuers[0]: an issuer has either iss or pattern`,
		"issuers: [{iss: a, pattern: ^a$, key: other.pub}]\n":                                       `either iss or pattern`,
		"issuers: [{pattern: ^a$, key: other.pub}]\n":                                               `issuers[0].pattern: a key speaks for one issuer`,
		issuer + "    key: other.pub\n    mediaTypes: [spdx]\n":                                     `policy.yaml:6:18: issuers[0].mediaTypes[0]: "spdx"`,
		issuer + "    key: other.pub\n    mediaTypes: [Application/SPDX+json]\n":                    `lower case`,
		issuer + "    key: other.pub\n    mediaTypes: ['application/json; a=b']\n":                  `without parameters`,
		issuer + "    key: other.pub\n    mediaTypes: [" + MediaType + "]\n":                        `operators only`,
		issuer + "    key: other.pub\n    mediaTypes: [" + ServiceMediaType + "]\n":                 `operators only`,
		issuer + "    key: other.pub\n    mediaTypes: [" + PurgeMediaType + "]\n":                   `operators only`,
		issuer + "    key: other.pub\n    repositories: ['[']\n":                                    `issuers[0].repositories[0]`,
		issuer + "    key: other.pub\n    visibility: Public\n":                                     `issuers[0].visibility`,
		"issuers:\n  - {iss: a, key: other.pub, kid: k}\n  - {iss: a, key: operator.pub, kid: k}\n": `policy.yaml:5:38: issuers[1].kid: k is also that of another key, in issuers[0]`,

		issuer + "    x509: {}\n":                                                         `issuers[0].x509.roots: none`,
		issuer + "    x509: {roots: [rubbish]}\n":                                         `policy.yaml:5:20: `,
		issuer + "    x509: {roots: [other.pub]}\n":                                       `"PUBLIC KEY" where a CERTIFICATE belongs`,
		issuer + "    x509: {roots: [root.pem, root.pem]}\n":                              `issuers[0].x509.roots[1]: same name and key as roots[0]`,
		certs + ", eku: signing}\n":                                                       `issuers[0].x509.eku: "signing"`,
		certs + ", eku: any}\n":                                                           `issuers[0].x509.eku: "any"`,
		certs + ", eku: 1.x}\n":                                                           `issuers[0].x509.eku`,
		certs + ", san: '*.a.example'}\n":                                                 `exact strings`,
		"issuers: [{iss: Wabbit, x509: {roots: [root.pem]}}]\n":                           `issuers[0].iss: iss "Wabbit" is no URI`,
		"issuers: [{iss: 'did:x509:0:sha256:x::san:uri:a', x509: {roots: [root.pem]}}]\n": `did:x509`,
		"issuers: [{pattern: '^https://[a-z]+$', x509: {roots: [root.pem], san: a}}]\n":   `issuers[0].x509.san: with a pattern`,
	} {
		_, err := ReadYAML(write(t, files(body)))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\ngot  %v\nwant %s", body, err, want)
		}
	}
	for _, body := range []string{"", issuer + "    key: other.pub\n", certs + "}\n", certs + ", eku: 1.3.6.1.4.1.311.10.3.13}\n", "issuers:\n"} {
		if _, err := ReadYAML(write(t, files(body))); err != nil {
			t.Errorf("%s\nrefused: %v", body, err)
		}
	}
	for _, whole := range []string{"", "[]", "- a\n", "version: 1\n", "operators: []\n", "operators: [{}]\n", "operators: [{key: {}}]\n", "\x00"} {
		if _, err := ReadYAML(write(t, map[string]string{"policy.yaml": whole})); err == nil {
			t.Errorf("%q was read", whole)
		}
	}
	if _, err := ReadYAML("testdata/absent.yaml"); err == nil {
		t.Error("a missing file was read")
	}
	if _, err := ReadYAML(write(t, map[string]string{"policy.yaml": strings.Repeat("#", statement.MaxSize+1)})); err == nil {
		t.Error("a file over the limit was read")
	}
}

func TestPatternsMustBeAnchoredAtBothEnds(t *testing.T) {
	root := newCA(t, "root")
	compile := func(pattern string) error {
		i := caIssuer("", root)
		i.Pattern = pattern
		_, err := New(newOperator(t).document(i))
		return err
	}
	for _, bad := range []string{
		`wabbit\.example`, `^https://a`, `a$`, `^a$|b`, `^a|b$`, `(?m)^a$`, `(?m:^)a$`, `(^a$)|(^b$)`, `.*`, ``, `^`, `$`, `(`, `^(?:a$)?`,
		`^` + strings.Repeat("a", 1024) + `$`, `^a{1000}{1000}$`,
	} {
		if err := compile(bad); err == nil {
			t.Errorf("%q was compiled", bad)
		}
	}
	for _, good := range []string{`^https://[a-z]+\.wabbit\.example$`, `\Ahttps://a\z`, `^(?:https://a|https://b)$`, `(?i)^https://a$`} {
		if err := compile(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
}

func TestKeysAndRootsMayBePasted(t *testing.T) {
	o, w, root, second := newKey(t), newKey(t), newCA(t, "one"), newCA(t, "two")
	p, err := ReadYAML(write(t, map[string]string{"policy.yaml": "operators:\n  - key: |\n" + indent(keyPEM(t, o)) +
		"\nissuers:\n  - iss: a\n    key: |\n" + indent(keyPEM(t, w)) +
		"\n  - iss: https://b\n    x509:\n     roots:\n      - |\n  " + strings.ReplaceAll(indent(certPEM(root.cert)+certPEM(second.cert)), "\n", "\n  ") + "\n"}))
	if err != nil {
		t.Fatal(err)
	}
	if !w.PublicKey.Equal(p.Issuers[0].Key.Public) || !o.PublicKey.Equal(p.Operators[0].Key.Public) {
		t.Error("other keys were read than written")
	}
	if r := p.Issuers[1].X509.Roots; len(r) != 2 || !r[0].Equal(root.cert) || !r[1].Equal(second.cert) {
		t.Errorf("read roots %v", r)
	}
}

func TestACOSEKeyBringsItsKidAndAlgorithm(t *testing.T) {
	key := newKey(t)
	b, err := cose.Key{ID: []byte{1, 2}, Alg: cose.ESP256, Public: key.Public()}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	p, err := ReadYAML(write(t, map[string]string{"policy.yaml": "operators: [{key: o.pub}]\nissuers: [{iss: a, key: a.key}]\n",
		"o.pub": keyPEM(t, newKey(t)), "a.key": string(b)}))
	if err != nil {
		t.Fatal(err)
	}
	logged, err := p.JSON()
	if err != nil {
		t.Fatal(err)
	}
	if p, err = Parse(logged); err != nil {
		t.Fatal(err)
	}
	kid := func(tmpl *statement.Template) { tmpl.KeyID = []byte{1, 2} }
	fit := func(tmpl *statement.Template) { tmpl.Alg = cose.ESP256 }
	admitted(t, p.Evaluate(sign(t, "a", key, kid, fit), noon))
	refused(t, p.Evaluate(sign(t, "a", key, kid), noon), CodeBadAlgorithm, "issuers[0].key")
	refused(t, p.Evaluate(sign(t, "a", key, fit), noon), CodeUnknownIssuerKey, "issuers[0].kid")
}

func TestKeyIDsHaveOneText(t *testing.T) {
	for text, want := range map[string]KeyID{"release-2026": KeyID("release-2026"), "hex:00ff": {0, 255}, "hex:6865783a": KeyID("hex:"), "12e45": KeyID("12e45")} {
		var got KeyID
		if err := got.UnmarshalText([]byte(text)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: got %x, %v, want %x", text, got, err, want)
		}
		if back, _ := got.MarshalText(); string(back) != text {
			t.Errorf("%s comes back as %s", text, back)
		}
	}
	for _, bad := range []string{"", "hex:", "hex:0", "hex:xy", " a", "a\n", "\xff"} {
		var got KeyID
		if err := got.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q was read as %x", bad, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	_, b := readExample(f)
	f.Add(b)
	minimal, err := New(newOperator(f).document())
	if err != nil {
		f.Fatal(err)
	}
	b, err = minimal.JSON()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"version":1,"operators":[{"key":""}],"issuers":[{"x509":{"roots":[""]}}]}`))
	ruled := newOperator(f).document()
	ruled.Rules = []Rule{{CEL: `claims.a in payload || artifacts.all(a, a != "")`}, {Needs: []Need{{Issuers: []string{"a"}}}}, {Require: &Require{Types: map[string]string{"a": "int"}}}}
	if b, err = mustNew(f, ruled).JSON(); err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Parse(b)
		if err != nil {
			return
		}
		if again, err := p.JSON(); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%s was read and written as %s, %v", b, again, err)
		}
		p.Lint()
		p.AllowsAnyIssuer()
	})
}

func TestARuleIsCalledByItsName(t *testing.T) {
	key := newKey(t)
	named := func(names ...string) Document {
		d := Defaults()
		d.Operators = []Operator{{Key: Key{Public: newKey(t).Public()}}}
		for i, name := range names {
			d.Issuers = append(d.Issuers, Issuer{Name: name, Iss: fmt.Sprintf("https://%d.example", i), Key: &Key{Public: key.Public()}})
		}
		return d
	}
	p, err := New(named("release-2026", ""))
	if err != nil {
		t.Fatal(err)
	}
	if p.rules[0].at() != "release-2026.key" || p.rules[1].at() != "issuers[1].key" {
		t.Errorf("rules are called %s and %s", p.rules[0].at(), p.rules[1].at())
	}
	for name, d := range map[string]Document{
		"issuers[0].name: \"Release\"":    named("Release"),
		"issuers[0].name: \"a--b\"":       named("a--b"),
		"issuers[0].name: \"issuers[1]\"": named("issuers[1]"),
		"issuers[1].name: twin is also":   named("twin", "twin"),
	} {
		if _, err := New(d); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("want an error with %s, got %v", name, err)
		}
	}
}
