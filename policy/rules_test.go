package policy

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/statement"
)

// ruled is a policy in force with issuers and rules.
func ruled(t testing.TB, rules []Rule, issuers ...Issuer) *Policy {
	t.Helper()
	o := newOperator(t)
	doc := o.document(issuers...)
	doc.Rules = rules
	return bootstrap(t, o.publish(doc))
}

type edit = func(*statement.Template)

func claims(pairs ...any) edit {
	return func(tmpl *statement.Template) {
		if tmpl.Claims == nil {
			tmpl.Claims = map[any]any{}
		}
		for i := 0; i < len(pairs); i += 2 {
			tmpl.Claims[pairs[i]] = pairs[i+1]
		}
	}
}

func iat(at time.Time) edit { return func(tmpl *statement.Template) { tmpl.IssuedAt = at } }

const (
	slsa  = "https://slsa.dev/provenance/v1"
	place = "oci://scitt.example/prod/app@sha256:b6c7e21200000000000000000000000000000000000000000000000000000001"
)

func provenance(predicate string) edit {
	return func(tmpl *statement.Template) {
		tmpl.ContentType = "application/vnd.in-toto+json"
		tmpl.Payload = []byte(`{"_type":"https://in-toto.io/Statement/v1","subject":[],"predicateType":"` + predicate + `","predicate":{"builder":"x"}}`)
	}
}

func TestRulesDemandWhatTheySay(t *testing.T) {
	key := newKey(t)
	registerBy := claims("register_by", noon.Unix())
	for name, c := range map[string]struct {
		rule  Rule
		edits []edit
		want  string // the rule that refuses; "" admitted
	}{
		"deny":                      {Rule{Deny: true}, nil, "rules[0].deny"},
		"deny elsewhere":            {Rule{Deny: true, When: &When{Issuers: []string{acme}}}, nil, ""},
		"deny this type":            {Rule{Deny: true, When: &When{MediaTypes: []string{sbom}}}, nil, "rules[0].deny"},
		"deny this predicate":       {Rule{Deny: true, When: &When{PredicateTypes: []string{slsa}}}, []edit{provenance(slsa)}, "rules[0].deny"},
		"deny another predicate":    {Rule{Deny: true, When: &When{PredicateTypes: []string{slsa}}}, nil, ""},
		"this issuer":               {Rule{Issuers: []string{acme, wabbit}}, nil, ""},
		"another issuer":            {Rule{Issuers: []string{acme}}, nil, "rules[0].issuers"},
		"this kind of identity":     {Rule{Identities: []string{"x509", "key"}}, nil, ""},
		"another kind":              {Rule{Identities: []string{"x509"}}, nil, "rules[0].identities"},
		"this media type":           {Rule{MediaTypes: []string{sbom}}, nil, ""},
		"another media type":        {Rule{MediaTypes: []string{"text/plain"}}, nil, "rules[0].mediaTypes"},
		"this predicate type":       {Rule{PredicateTypes: []string{slsa}}, []edit{provenance(slsa)}, ""},
		"another predicate type":    {Rule{PredicateTypes: []string{slsa}}, []edit{provenance("https://spdx.dev/Document")}, "rules[0].predicateTypes"},
		"no predicate type":         {Rule{PredicateTypes: []string{slsa}}, nil, "rules[0].predicateTypes"},
		"in a repository":           {Rule{Deny: true, When: &When{Repositories: []string{"prod/*"}}}, []edit{subject(place)}, "rules[0].deny"},
		"in another repository":     {Rule{Deny: true, When: &When{Repositories: []string{"test/*"}}}, []edit{subject(place)}, ""},
		"in no repository":          {Rule{Deny: true, When: &When{Repositories: []string{"*", "*/*"}}}, nil, ""},
		"names this repository":     {Rule{Repositories: []string{"prod/*"}}, []edit{subject(place)}, ""},
		"names another":             {Rule{Repositories: []string{"test/*"}}, []edit{subject(place)}, "rules[0].repositories"},
		"names none":                {Rule{Repositories: []string{"prod/*"}}, nil, "rules[0].repositories"},
		"claim is there":            {Rule{Require: &Require{Claims: []string{"build", "iat", "-65537"}}}, []edit{claims("build", 7, -65537, "x"), iat(noon)}, ""},
		"claim is missing":          {Rule{Require: &Require{Claims: []string{"build"}}}, nil, "rules[0].require"},
		"exp as text is no exp":     {Rule{Require: &Require{Claims: []string{"exp"}}}, []edit{claims("exp", noon.Add(time.Hour).Unix())}, "rules[0].require"},
		"claim has the type":        {Rule{Require: &Require{Types: map[string]string{"build": "int", "ratio": "number"}}}, []edit{claims("build", 7, "ratio", 2)}, ""},
		"claim has another type":    {Rule{Require: &Require{Types: map[string]string{"build": "int"}}}, []edit{claims("build", "7")}, "rules[0].require"},
		"claim has the value":       {Rule{Require: &Require{Values: map[string]string{"env": "prod", "build": "7", "ok": "true"}}}, []edit{claims("env", "prod", "build", 7, "ok", true)}, ""},
		"claim has another value":   {Rule{Require: &Require{Values: map[string]string{"env": "prod"}}}, []edit{claims("env", "test")}, "rules[0].require"},
		"claim has no value":        {Rule{Require: &Require{Values: map[string]string{"env": "prod"}}}, []edit{claims("env", []any{"prod"})}, "rules[0].require"},
		"young enough":              {Rule{MaxAge: Duration(time.Hour)}, []edit{iat(noon.Add(-time.Hour))}, ""},
		"too old":                   {Rule{MaxAge: Duration(time.Hour)}, []edit{iat(noon.Add(-time.Hour - time.Second))}, "rules[0].maxAge"},
		"of no age":                 {Rule{MaxAge: Duration(time.Hour)}, nil, "rules[0].maxAge"},
		"in time":                   {Rule{RegisterBy: "register_by"}, []edit{registerBy}, ""},
		"too late":                  {Rule{RegisterBy: "register_by"}, []edit{claims("register_by", noon.Unix()-1)}, "rules[0].registerBy"},
		"in time with a fraction":   {Rule{RegisterBy: "register_by"}, []edit{claims("register_by", float64(noon.Unix())+0.5)}, ""},
		"never in time":             {Rule{RegisterBy: "register_by"}, []edit{claims("register_by", "tomorrow")}, "rules[0].registerBy"},
		"no time":                   {Rule{RegisterBy: "register_by"}, nil, "rules[0].registerBy"},
		"several, all met":          {Rule{MediaTypes: []string{sbom}, MaxAge: Duration(time.Hour)}, []edit{iat(noon)}, ""},
		"several, one of them not":  {Rule{MediaTypes: []string{sbom}, MaxAge: Duration(time.Hour)}, nil, "rules[0].maxAge"},
		"expression holds":          {Rule{CEL: `issuer == "` + wabbit + `"`}, nil, ""},
		"expression does not":       {Rule{CEL: `issuer != "` + wabbit + `"`}, nil, "rules[0].cel"},
		"a name instead of a place": {Rule{Name: "no-way", Deny: true}, nil, "no-way.deny"},
	} {
		p := ruled(t, []Rule{c.rule}, keyIssuer(wabbit, key))
		d := p.Evaluate(sign(t, wabbit, key, c.edits...), noon)
		if c.want == "" {
			if d.Refusal != nil {
				t.Errorf("%s: refused by %s: %s", name, d.Refusal.Rule, d.Refusal.Reason)
			}
			continue
		}
		refused(t, d, CodeRejected, c.want)
		c.rule.Message = "ask Alice"
		want := "ask Alice (" + d.Refusal.Hint + ")"
		if d := ruled(t, []Rule{c.rule}, keyIssuer(wabbit, key)).Evaluate(sign(t, wabbit, key, c.edits...), noon); d.Refusal == nil || d.Refusal.Hint != want {
			t.Errorf("%s: with a message the refusal is %+v", name, d.Refusal)
		}
	}
}

func TestTheMappingSaysWhichRepositoryANameMeans(t *testing.T) {
	key, o := newKey(t), newOperator(t)
	doc := o.document(keyIssuer(wabbit, key))
	doc.Repositories = []Mapping{{Match: "net-*", To: "prod/net"}}
	doc.Rules = []Rule{{Deny: true, When: &When{Repositories: []string{"prod/*"}}}}
	p := bootstrap(t, o.publish(doc))
	refused(t, p.Evaluate(sign(t, wabbit, key), noon), CodeRejected, "rules[0].deny")
	admitted(t, p.Evaluate(sign(t, wabbit, key, subject("other")), noon))

	// A location elsewhere hides no name that the mapping places here.
	digest := strings.TrimPrefix(place, "oci://scitt.example/prod/app")
	for _, sub := range []string{"elsewhere.example/net-monitor" + digest, "pkg:oci/net-monitor" + digest + "?repository_url=elsewhere.example/x"} {
		s := sign(t, wabbit, key, subject(sub))
		if to, err := p.Repositories(s, "", "scitt.example"); err != nil || !slices.Equal(to, []string{"prod/net"}) {
			t.Errorf("%s: placed in %v, %v", sub, to, err)
		}
		refused(t, p.Evaluate(s, noon), CodeRejected, "rules[0].deny")
	}
}

func TestAnIssuersOwnRulesBindItAlone(t *testing.T) {
	w, a := newKey(t), newKey(t)
	strict := keyIssuer(wabbit, w)
	strict.Name = "strict"
	strict.PredicateTypes = []string{slsa}
	strict.Require = &Require{Claims: []string{"build"}}
	strict.Rules = []Rule{{MaxAge: Duration(time.Hour)}, {Name: "small", CEL: `claims.build < 10`}}
	p := ruled(t, nil, strict, keyIssuer(acme, a))
	admitted(t, p.Evaluate(sign(t, acme, a), noon))
	admitted(t, p.Evaluate(sign(t, wabbit, w, provenance(slsa), claims("build", 1), iat(noon)), noon))
	refused(t, p.Evaluate(sign(t, wabbit, w, claims("build", 1), iat(noon)), noon), CodeRejected, "strict.predicateTypes")
	refused(t, p.Evaluate(sign(t, wabbit, w, provenance(slsa), iat(noon)), noon), CodeRejected, "strict.require")
	refused(t, p.Evaluate(sign(t, wabbit, w, provenance(slsa), claims("build", 1)), noon), CodeRejected, "strict.rules[0].maxAge")
	refused(t, p.Evaluate(sign(t, wabbit, w, provenance(slsa), claims("build", 10), iat(noon)), noon), CodeRejected, "small.cel")
}

// Two rules for one issuer: who does not meet those of the first may be admitted
// by the second, and the decision then says nothing of the first.
func TestWhatTheFirstRuleRefusesTheNextMayAdmit(t *testing.T) {
	key := newKey(t)
	hasty, slow := keyIssuer(wabbit, key), keyIssuer(wabbit, key)
	hasty.Rules = []Rule{{MaxAge: Duration(time.Minute)}, {Unique: UniqueContent}}
	p := ruled(t, nil, hasty, slow)
	young := p.Evaluate(sign(t, wabbit, key, iat(noon)), noon)
	if admitted(t, young); young.Rule != "issuers[0].key" || !young.Conditional || !young.NotAfter.Equal(noon.Add(time.Minute)) {
		t.Errorf("got %+v", young)
	}
	old := p.Evaluate(sign(t, wabbit, key, iat(noon.Add(-time.Hour))), noon)
	if admitted(t, old); old.Rule != "issuers[1].key" || old.Conditional || !old.NotAfter.IsZero() {
		t.Errorf("got %+v", old)
	}
}

// What a later rule admits is judged again in the next second, when the first may
// hold: an auditor judges at the time of registration.
func TestADecisionEndsWhereAnEarlierRuleMayBegin(t *testing.T) {
	key := newKey(t)
	from, always := keyIssuer(wabbit, key), keyIssuer(wabbit, key)
	from.Rules = []Rule{{CEL: `registrationTime >= timestamp("2026-11-21T12:00:01Z")`}}
	p := ruled(t, nil, from, always)
	s := sign(t, wabbit, key)
	early := p.Evaluate(s, noon.Add(time.Millisecond))
	if admitted(t, early); early.Rule != "issuers[1].key" || !early.NotBefore.Equal(noon) || !early.NotAfter.Equal(noon.Add(time.Second-1)) {
		t.Errorf("got %+v", early)
	}
	if late := p.Evaluate(s, noon.Add(time.Second)); late.Rule != "issuers[0].key" {
		t.Errorf("a second later: %+v", late)
	}

	root, begins := newCA(t, "root"), newCA(t, "root to be", func(c *x509.Certificate) { c.NotBefore = noon.Add(time.Second) })
	leaf := root.leaf(acme)
	if d := inForce(t, caIssuer(acme, begins), caIssuer(acme, root)).Evaluate(sign(t, acme, leaf), noon); !d.NotAfter.Equal(noon.Add(time.Second - 1)) {
		t.Errorf("got %+v", d)
	}
}

func TestOperatorsAreBoundByNoRule(t *testing.T) {
	o := newOperator(t)
	doc := o.document()
	doc.Rules = []Rule{{Deny: true}, {CEL: "false"}, {Unique: UniqueContent}}
	first := o.publish(doc)
	p := bootstrap(t, first)
	if d := p.Evaluate(first, noon); d.Refusal != nil || d.Conditional {
		t.Errorf("got %+v", d)
	}
}

func TestExpressionsRunOnlyForWhoSigned(t *testing.T) {
	key := newKey(t)
	p := ruled(t, []Rule{{CEL: "false"}}, keyIssuer(wabbit, key))
	b := bytes.Clone(sign(t, wabbit, key).Canonical())
	b[len(b)-1] ^= 1
	refused(t, p.Evaluate(parse(t, b), noon), CodeBadSignature, "issuers[0].key")
}

func TestTimedRulesBoundTheDecision(t *testing.T) {
	key := newKey(t)
	for _, c := range []struct {
		rule     Rule
		edit     edit
		at       time.Time
		from, to time.Time
	}{
		{Rule{MaxAge: Duration(time.Hour)}, iat(noon), noon, noon.Add(-time.Minute), noon.Add(time.Hour)},
		{Rule{RegisterBy: "by"}, claims("by", noon.Unix()+5), noon, time.Time{}, noon.Add(6*time.Second - 1)},
		{Rule{CEL: `registrationTime < timestamp("2027-01-01T00:00:00Z")`}, claims(), noon.Add(time.Millisecond), noon, noon.Add(time.Second - 1)},
		{Rule{CEL: `issuer != ""`}, claims(), noon, time.Time{}, time.Time{}},
	} {
		p := ruled(t, []Rule{c.rule}, keyIssuer(wabbit, key))
		s := sign(t, wabbit, key, c.edit)
		d := p.Evaluate(s, c.at)
		admitted(t, d)
		if !d.NotBefore.Equal(c.from) || !d.NotAfter.Equal(c.to) {
			t.Errorf("%+v: holds from %v to %v, want %v to %v", c.rule, d.NotBefore, d.NotAfter, c.from, c.to)
		}
		if c.to.IsZero() || c.rule.CEL != "" {
			continue
		}
		admitted(t, p.Evaluate(s, c.to))
		if p.Evaluate(s, c.to.Add(1)).Refusal == nil {
			t.Errorf("%+v: admitted after its window", c.rule)
		}
	}
}

func TestRulesComeBackAsTheyWereLogged(t *testing.T) {
	key, o := newKey(t), newOperator(t)
	all := Rule{
		Name: "all", When: &When{[]string{wabbit}, []string{"prod/*"}, []string{sbom}, []string{slsa}}, Message: "see <the> \"handbook\"",
		Issuers: []string{wabbit}, Identities: []string{"key"}, Repositories: []string{"prod/*"}, MediaTypes: []string{sbom}, PredicateTypes: []string{slsa},
		Require: &Require{[]string{"exp"}, map[string]string{"b": "int", "a": "text"}, map[string]string{"env": "prod"}}, MaxAge: Duration(time.Hour), RegisterBy: "by",
		CEL: "issuer.startsWith('https://') && subject != ''", Sequence: &Sequence{Claim: "n", Step: StepGreater}, Newest: NewestSubject, Unique: UniqueContent,
		Needs: []Need{{Issuers: []string{acme}, MediaTypes: []string{sbom}, PredicateTypes: []string{slsa}}},
	}
	i := keyIssuer(wabbit, key)
	i.Name, i.PredicateTypes, i.Require, i.Rules = "wabbit", []string{slsa}, &Require{Claims: []string{"iat"}}, []Rule{{Name: "own", Deny: true, When: &When{MediaTypes: []string{"text/plain"}}}}
	doc := o.document(i)
	doc.Rules = []Rule{all}
	p := mustNew(t, doc)
	b, err := p.JSON()
	if err != nil {
		t.Fatal(err)
	}
	q, err := Parse(b)
	if err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	if !reflect.DeepEqual(p.Document, q.Document) {
		t.Errorf("got  %+v\nwant %+v", q.Document, p.Document)
	}
	for i := range reflect.TypeFor[Rule]().NumField() {
		if reflect.ValueOf(all).Field(i).IsZero() && reflect.TypeFor[Rule]().Field(i).Name != "Deny" {
			t.Errorf("the rule of this test has no %s", reflect.TypeFor[Rule]().Field(i).Name)
		}
	}
}

func TestRulesAreCheckedAtLoad(t *testing.T) {
	head := "version: 1\noperators: [{key: operator.pub}]\nissuers: [{iss: a, key: other.pub, name: a-keys}]\n"
	files := func(body string) map[string]string {
		return map[string]string{"policy.yaml": head + body, "operator.pub": keyPEM(t, newKey(t)), "other.pub": keyPEM(t, newKey(t))}
	}
	many := func(n int) string {
		var list []string
		for i := range n {
			list = append(list, fmt.Sprintf("a/t%d", i))
		}
		return strings.Join(list, ", ")
	}
	for body, want := range map[string]string{
		"rules: [{}]": `policy.yaml:4:9: rules[0]: demands nothing`,
		"rules: [" + strings.Repeat("{deny: true},", 257) + "]":              `policy.yaml:4:8: rules: has 257 elements`,
		"rules: [{name: x, message: y}]":                                     `rules[0] (name "x"): demands nothing`,
		"rules: [{denied: true}]":                                            `policy.yaml:4:10: unknown key "denied"`,
		"rules: [{deny: true, when: {media: [a/b]}}]":                        `unknown key "media"`,
		"rules: [{deny: true, when: {}}]":                                    `policy.yaml:4:28: rules[0].when: empty`,
		"rules: [{deny: true, maxAge: 1h}]":                                  `policy.yaml:4:16: rules[0].deny: refuses everything`,
		"rules: [{deny: yes please}]":                                        `policy.yaml:4:16`,
		"rules: [{name: A, deny: true}]":                                     `policy.yaml:4:16: rules[0].name: "A"`,
		"rules: [{name: a-keys, deny: true}]":                                `policy.yaml:4:16: rules[0].name: a-keys is also that of another issuer or rule`,
		"rules: [{name: x, deny: true}, {name: x, deny: true}]":              `rules[1].name: x is also`,
		"rules: [{message: \"a\\u0007b\", deny: true}]":                      `rules[0].message`,
		"rules: [{issuers: ['']}]":                                           `rules[0].issuers[0]`,
		"rules: [{identities: [password]}]":                                  `policy.yaml:4:23: rules[0].identities[0]: "password"; want one of key, x509, did, keys, oidc`,
		"rules: [{repositories: ['[']}]":                                     `policy.yaml:4:25: rules[0].repositories[0]`,
		"rules: [{mediaTypes: [SPDX]}]":                                      `rules[0].mediaTypes[0]: "SPDX"`,
		"rules: [{mediaTypes: [" + MediaType + "]}]":                         `operators only`,
		"rules: [{mediaTypes: [" + many(65) + "]}]":                          `rules[0].mediaTypes: has 65 elements`,
		"rules: [{predicateTypes: ['']}]":                                    `rules[0].predicateTypes[0]`,
		"rules: [{deny: true, when: {mediaTypes: [x]}}]":                     `rules[0].when.mediaTypes[0]`,
		"rules: [{require: {}}]":                                             `policy.yaml:4:19: rules[0].require: requires nothing`,
		"rules: [{require: {claim: [a]}}]":                                   `unknown key "claim"`,
		"rules: [{require: {claims: ['']}}]":                                 `rules[0].require.claims[0]`,
		"rules: [{require: {types: {a: integer}}}]":                          `rules[0].require.types: "a": "integer"; want one of text`,
		"rules: [{require: {types: {a: int, a: int}}}]":                      `already defined`,
		"rules: [{require: {values: {a: ''}}}]":                              `rules[0].require.values`,
		"rules: [{maxAge: -1s}]":                                             `rules[0].maxAge: -1s`,
		"rules: [{maxAge: 1ms}]":                                             `rules[0].maxAge: 1ms`,
		"rules: [{registerBy: \" \"}]":                                       `rules[0].registerBy`,
		"rules: [{sequence: {}}]":                                            `rules[0].sequence.claim: "" is no name`,
		"rules: [{sequence: {claim: n, step: two}}]":                         `policy.yaml:4:37: rules[0].sequence.step: "two"`,
		"rules: [{newest: one}]":                                             `rules[0].newest: "one"; want subject or mediaType`,
		"rules: [{unique: payload}]":                                         `rules[0].unique: "payload"; want content`,
		"rules: [{needs: [{}]}]":                                             `rules[0].needs[0]: is met by any entry`,
		"rules: [{needs: [{mediaTypes: [" + many(17) + "]}]}]":               `rules[0].needs: has 17 combinations`,
		"rules: [{newest: subject, when: {mediaTypes: [" + many(17) + "]}}]": `rules[0].when: has 17 combinations`,
		"rules: [{needs: [{repositories: [a], issuers: [a]}]}]":              `unknown key "repositories"`,

		"rules: [{cel: 'isuer == 1'}]":                                                             `policy.yaml:4:16: rules[0].cel: undeclared reference to 'isuer' (did you mean 'issuer'?) (line 1 column 1 of the expression)`,
		"rules:\n  - cel: issuer == 1":                                                             `policy.yaml:5:17: rules[0].cel: found no matching overload for '_==_'`,
		"rules:\n  - cel: |\n      issuer != '' &&\n        isuer == ''":                           `policy.yaml:7:9: rules[0].cel: undeclared reference to 'isuer' (did you mean 'issuer'?) (line 2 column 3 of the expression)`,
		"rules: [{cel: 'issuer =='}]":                                                              `rules[0].cel: Syntax error`,
		"rules: [{cel: 'issuer'}]":                                                                 `rules[0].cel: is of type string; want bool`,
		"rules: [{cel: 'payload.ok'}]":                                                             `rules[0].cel: is of type dyn; want bool`,
		"rules: [{cel: 'identity.kinds == 1'}]":                                                    `rules[0].cel: undeclared reference to 'identity.kinds' (did you mean 'identity.kind'?)`,
		"rules: [{cel: '{1: 2}.size() == 1'}]":                                                     `rules[0].cel: makes a map or message`,
		"rules: [{cel: 'issuer.matches(subject)'}]":                                                `rules[0].cel: matches takes a pattern that is written out`,
		"rules: [{cel: 'issuer.matches(\"(\")'}]":                                                  `rules[0].cel`,
		"rules: [{cel: 'registrationTime.getHours(\"Europe/Berlin\") > 8'}]":                       `getHours takes no time zone here`,
		"rules: [{cel: 'artifacts.all(a, artifacts.all(b, artifacts.all(c, a == b || b == c)))'}]": `rules[0].cel: may cost`,
		"rules: [{cel: 'now() > registrationTime'}]":                                               `undeclared reference to 'now'`,
		"rules: [{cel: '" + strings.Repeat(" ", 4097) + "true'}]":                                  `rules[0].cel: has more than 4096 bytes`,
		"rules: [{cel: '" + strings.Repeat("(", 600) + "true'}]":                                   `rules[0].cel`,

		"rules:\n  - name: x\n    deny: true\n  - {name: y, maxAge: 1h, sequence: {claims: n}}": `policy.yaml:7:`,
	} {
		_, err := ReadYAML(write(t, files(body)))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\ngot  %v\nwant %s", body, err, want)
		}
	}
	issuer := "version: 1\noperators: [{key: operator.pub}]\nissuers:\n  - iss: a\n    key: other.pub\n"
	for body, want := range map[string]string{
		"    predicateTypes: ['']\n":     `policy.yaml:6:22: issuers[0].predicateTypes[0]`,
		"    require: {}\n":              `policy.yaml:6:14: issuers[0].require: requires nothing`,
		"    rules: [{}]\n":              `policy.yaml:6:13: issuers[0].rules[0]: demands nothing`,
		"    rules:\n      - cel: 'a'\n": `policy.yaml:7:15: issuers[0].rules[0].cel: undeclared`,
		"    rules: [{deny: true, name: x}, {deny: true, name: x}]\n": `issuers[0].rules[1].name: x is also`,
	} {
		all := files("")
		all["policy.yaml"] = issuer + body
		if _, err := ReadYAML(write(t, all)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\ngot  %v\nwant %s", body, err, want)
		}
	}
}

func TestLineFindsARuleByPlaceAndByName(t *testing.T) {
	name := write(t, map[string]string{"policy.yaml": `version: 1
issuers:
  - iss: a
    name: a-keys
    x509:
      roots: [a]
    rules:
      - name: own
        deny: true
      - maxAge: 1h
deny:
  - b
rules:
  - cel: 'true'
  - name: last
    maxAge: 1h
`})
	for rule, want := range map[string]int{
		"issuers[0].x509": 6, "a-keys.x509": 6, "a-keys": 3, "a-keys.rules[1].maxAge": 10, "own.deny": 9, "own": 8, "deny[0]": 12, "rules[0].cel": 14,
		"last.maxAge": 16, "last": 15, "a-keys.key": 3, "exp": 0, "": 0, "nobody": 0,
	} {
		if got := Line(name, rule); got != want {
			t.Errorf("%s: line %d, want %d", rule, got, want)
		}
	}
	if got := Line("testdata/absent.yaml", "a"); got != 0 {
		t.Errorf("a missing file has line %d", got)
	}
}

func TestLintNamesRulesThatDoNothing(t *testing.T) {
	key, o := newKey(t), newOperator(t)
	typed := keyIssuer(wabbit, key)
	typed.MediaTypes = []string{sbom}
	typed.PredicateTypes = []string{slsa}
	typed.Rules = []Rule{{Deny: true, When: &When{Issuers: []string{acme}}}}
	later := typed
	later.Rules = nil
	doc := o.document(typed, later)
	doc.Rules = []Rule{
		{Deny: true, When: &When{MediaTypes: []string{sbom, "text/plain"}}},
		{MaxAge: Duration(time.Hour), When: &When{MediaTypes: []string{sbom}, Issuers: []string{wabbit}}},
		{MaxAge: Duration(time.Hour), When: &When{Issuers: []string{acme}, PredicateTypes: []string{"x"}}},
		{MediaTypes: []string{"a/b"}, When: &When{MediaTypes: []string{"c/d"}}},
		{Deny: true},
		{CEL: "true"},
	}
	got := mustNew(t, doc).Lint()[1:]
	want := []string{
		`issuers[0].rules[0].when.issuers: "https://acme.example" is not that of issuers[0]`,
		"rules[0].when.mediaTypes: text/plain is admitted from no issuer",
		"rules[1]: never reached; rules[0] refuses the same",
		`rules[2].when.issuers: "https://acme.example" is not in the policy`,
		`rules[2].when.predicateTypes: "x" is admitted`,
		"rules[3].mediaTypes: none of those in when",
		"rules[3].when.mediaTypes: c/d is admitted",
		"rules[4].deny: refuses every statement",
		"rules[5]: never reached; rules[4] refuses",
	}
	if !slices.EqualFunc(got, want, strings.HasPrefix) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	// Without rules of its own, the first hides the second.
	doc = o.document(later, later)
	hidden := func(n string) bool { return strings.HasPrefix(n, "issuers[1]: never reached") }
	if got := mustNew(t, doc).Lint(); !slices.ContainsFunc(got, hidden) {
		t.Errorf("got %q", got)
	}
	// What the first asks of evidence, the second does not.
	guarded := later
	guarded.Evidence = &Evidence{MediaTypes: []string{sbom}, Signers: []Signer{{Key: typed.Key}}}
	if got := mustNew(t, o.document(guarded, later)).Lint(); slices.ContainsFunc(got, hidden) {
		t.Errorf("got %q", got)
	}
}
