package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/traits"

	"github.com/scittd/scittd/statement"
)

func expressed(t testing.TB, i Issuer, source string) *Policy {
	t.Helper()
	return ruled(t, []Rule{{CEL: source}}, i)
}

func payload(json string) edit {
	return func(tmpl *statement.Template) { tmpl.ContentType, tmpl.Payload = "application/json", []byte(json) }
}

func TestExpressionsSeeTheStatement(t *testing.T) {
	key := newKey(t)
	who := keyIssuer(wabbit, key)
	text := strings.NewReplacer("IMAGE", image, "WABBIT", wabbit)
	in := payload(`{"n": 3, "x": 1.5, "s": "a", "list": [1, "b", {"c": null}], "yes": true, "big": 123456789012345678901234567890}`)
	for source, edits := range map[string][]edit{
		`issuer == "WABBIT" && subject == "IMAGE"`:                                               nil,
		`mediaType == "application/vnd.cyclonedx+json" && predicateType == "" && alg == "ES256"`: nil,
		`predicateType == "https://slsa.dev/provenance/v1"`:                                      {provenance(slsa)},
		`payload.predicate.builder == "x" && payload.subject == []`:                              {provenance(slsa)},
		`artifacts.size() == 1 && artifacts[0].startsWith("sha256:b6c7")`:                        nil,
		`artifacts == []`: {subject("x")},
		`evidence.matches("^sha256:[0-9a-f]{64}$")`: nil,
		`repositories == ["prod/app"]`:              {subject(place)},
		`repositories.size() == 0`:                  nil,
		`identity.kind == "key" && identity.issuer == issuer && identity.thumbprint.size() == 64 && identity.name == ""`:        nil,
		`certificate.subject == "" && certificate.issuer == "" && certificate.serial == "" && certificate.sans == []`:           nil,
		`registrationTime == timestamp("2026-11-21T12:00:00Z") && registrationTime.getDayOfWeek() == 6`:                         nil,
		`claims.build == 7 && claims["-65537"] == "x" && claims.iss == issuer && !has(claims.exp)`:                              {claims("build", 7, -65537, "x")},
		`timestamp(claims.iat) == registrationTime`:                                                                             {iat(noon)},
		`claims.deep.a[1] == b"\x01" && claims.deep.b == false`:                                                                 {claims("deep", map[string]any{"a": []any{1, []byte{1}}, "b": false})},
		`payload.n == 3 && payload.x > 1 && payload.s == "a" && payload.yes && payload.list[2].c == null && payload.big > 1e29`: {in},
		`payload.all(k, k in ["big", "list", "n", "s", "x", "yes"])`:                                                            {in},
		`payload.map(k, k) == ["big", "list", "n", "s", "x", "yes"]`:                                                            {in}, // in order, not in Go's
		`payload.list.exists(e, e == "b")`:                                                                                      {in},
		`payload == null`:                                                                                                       {payload("no JSON")},
		`payload == null || false`:                                                                                              {payload(`{"a": 1, "a": 2}`)},
		`payload == null || 1 > 2`:                                                                                              {payload(`{} {}`)},
		`payload == null && true`:                                                                                               {payload(`"` + strings.Repeat("x", maxJSON) + `"`)},
		`payload == null && mediaType == "text/plain"`: {func(tmpl *statement.Template) {
			tmpl.ContentType, tmpl.HashAlg, tmpl.Payload = "text/plain", -16, make([]byte, 32)
		}},
	} {
		d := expressed(t, who, text.Replace(source)).Evaluate(sign(t, wabbit, key, edits...), noon)
		if d.Refusal != nil {
			t.Errorf("%s: %s", source, d.Refusal.Reason)
		}
	}
}

func TestExpressionsSeeTheCertificate(t *testing.T) {
	root := newCA(t, "root")
	source := fmt.Sprintf(`identity.kind == "x509" && certificate.sans == [%q] && certificate.subject.contains("CN=") && certificate.issuer.contains("root") && certificate.serial != ""`, acme)
	p := ruled(t, []Rule{{CEL: source}}, caIssuer(acme, root))
	admitted(t, p.Evaluate(sign(t, acme, root.leaf(acme)), noon))
}

func TestAnExpressionWithoutAnAnswerRefuses(t *testing.T) {
	key := newKey(t)
	who := keyIssuer(wabbit, key)
	for source, why := range map[string]string{
		`claims.absent == 1`:              "no such key",
		`payload.a == 1`:                  "no answer",
		`claims.iss > 3`:                  "no answer",
		`1 / (artifacts.size() - 1) == 0`: "division by zero",
		`artifacts[5] == ""`:              "no answer",
	} {
		d := expressed(t, who, source).Evaluate(sign(t, wabbit, key), noon)
		refused(t, d, CodeRejected, "rules[0].cel")
		if d.Refusal != nil && !strings.Contains(d.Refusal.Reason, why) {
			t.Errorf("%s: reason %q does not say %q", source, d.Refusal.Reason, why)
		}
	}
}

// What a statement brings decides here how much there is to do.
func TestAnExpressionThatCostsTooMuchIsARefusal(t *testing.T) {
	key := newKey(t)
	p := expressed(t, keyIssuer(wabbit, key), `payload.all(a, payload.all(b, payload.all(c, a + b + c != "")))`)
	list := func(n int) edit { return payload(`["x"` + strings.Repeat(`,"x"`, n-1) + `]`) }
	admitted(t, p.Evaluate(sign(t, wabbit, key, list(10)), noon))
	for range 2 {
		d := p.Evaluate(sign(t, wabbit, key, list(200)), noon)
		refused(t, d, CodeRejected, "rules[0].cel")
		if d.Refusal != nil && !strings.Contains(d.Refusal.Reason, "more than 100000 steps") {
			t.Errorf("reason %q", d.Refusal.Reason)
		}
	}
}

// A list counts for all that is in it, not only for its length.
func TestComparingLargeValuesCosts(t *testing.T) {
	key := newKey(t)
	large := payload(`[` + strings.Repeat(`"x",`, 100) + `[` + strings.Repeat(`"x",`, 10_000) + `"x"]]`)
	for source, costly := range map[string]bool{
		`payload.all(a, payload == payload)`:            true,
		`payload.all(a, !(payload != payload))`:         true,
		`payload.all(a, !("y" in payload))`:             true,
		`payload.all(a, payload != [] && payload != a)`: false,
		`payload == payload && "x" in payload`:          false,
		`payload.all(a, !("y" in claims))`:              false,
	} {
		d := expressed(t, keyIssuer(wabbit, key), source).Evaluate(sign(t, wabbit, key, large), noon)
		if (d.Refusal != nil) != costly || costly && !strings.Contains(d.Refusal.Reason, "more than 100000 steps") {
			t.Errorf("%s: %+v", source, d.Refusal)
		}
	}
}

// Each of these is one step in CEL's own count, and as much work as the payload has
// bytes.
func TestReadingAllOfAValueCosts(t *testing.T) {
	key := newKey(t)
	long := payload(`{"s": "` + strings.Repeat("x", 50_000) + `", "list": [0` + strings.Repeat(", 0", 200) + `]}`)
	for _, each := range []string{
		`payload.s.size() > 0`,
		`payload.s + payload.s != ""`,
		`payload.s >= payload.s`,
		`(payload.list + payload.list + payload.list).size() > 0`,
		`(int(payload.s) > 0 || true)`,
		`(timestamp(payload.s) > registrationTime || true)`,
		`string(payload.s) != "y"`,
	} {
		refused(t, expressed(t, keyIssuer(wabbit, key), `payload.list.all(x, `+each+`)`).Evaluate(sign(t, wabbit, key, long), noon), CodeRejected, "rules[0].cel")
	}
	doubled := `[payload.list]` + strings.Repeat(`.map(x, x + x)`, 40) + `.all(x, x == x)`
	refused(t, expressed(t, keyIssuer(wabbit, key), doubled).Evaluate(sign(t, wabbit, key, long), noon), CodeRejected, "rules[0].cel")
	usual := `payload.list.map(x, x + 1).size() == 201 && payload.s.size() == 50000 && payload.list + [1] != []`
	admitted(t, expressed(t, keyIssuer(wabbit, key), usual).Evaluate(sign(t, wabbit, key, long), noon))
}

// A walk may begin at every step, so that nothing is sorted for one.
func TestAMapIsSortedOnce(t *testing.T) {
	native := map[string]any{}
	for i := range 1000 {
		native[fmt.Sprint(i)] = map[string]any{"b": nil, "a": nil}
	}
	shown := ordered{}.NativeToValue(native).(traits.Mapper)
	deep := shown.Get(types.String("7")).(traits.Mapper)
	for _, m := range []traits.Mapper{shown, deep} {
		if n := testing.AllocsPerRun(10, func() { m.Iterator().Next() }); n > 2 {
			t.Errorf("to begin a walk over %v entries takes %v allocations", m.Size(), n)
		}
	}
}

// Maps of Go are walked in any order; ours in one, so that the first refusal is
// always the same one and so is its cost.
func TestTheOrderOfAMapChangesNothing(t *testing.T) {
	key := newKey(t)
	p := expressed(t, keyIssuer(wabbit, key), `payload.exists(k, payload[k] / 0 == 1 || k == "zz")`)
	var members []string
	for i := range 40 {
		members = append(members, fmt.Sprintf(`"k%02d": %d`, i, i))
	}
	s := sign(t, wabbit, key, payload("{"+strings.Join(members, ",")+"}"))
	first := p.Evaluate(s, noon)
	refused(t, first, CodeRejected, "rules[0].cel")
	for range 50 {
		if again := p.Evaluate(s, noon); again.Refusal == nil || again.Refusal.Reason != first.Refusal.Reason {
			t.Fatalf("got %+v, then %+v", first.Refusal, again.Refusal)
		}
	}
}

// An offset in a text is no time zone, not even where it is that of the machine.
func TestTheTimeZoneOfTheMachineChangesNothing(t *testing.T) {
	key := newKey(t)
	s := sign(t, wabbit, key, payload(`{"t": "2026-03-28T12:00:00+01:00"}`))
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	defer func(was *time.Location) { time.Local = was }(time.Local)
	for _, time.Local = range []*time.Location{time.UTC, berlin} {
		for _, each := range []string{
			`string(timestamp(payload.t) + duration("24h")) == "2026-03-29T11:00:00Z"`,
			`string(timestamp("2026-03-28T12:00:00+01:00") + duration("24h")) == "2026-03-29T11:00:00Z"`,
			`timestamp(payload.t).getHours() == 11`,
			`(timestamp(mediaType) > registrationTime || true)`,
		} {
			if d := expressed(t, keyIssuer(wabbit, key), each).Evaluate(s, noon); d.Refusal != nil {
				t.Errorf("%s in %s: %s", each, time.Local, d.Refusal.Reason)
			}
		}
	}
}

func TestTheSecondOfRegistrationIsAllThatAnExpressionKnowsOfTime(t *testing.T) {
	key := newKey(t)
	p := expressed(t, keyIssuer(wabbit, key), `registrationTime == timestamp("2026-11-21T12:00:00Z")`)
	s := sign(t, wabbit, key)
	admitted(t, p.Evaluate(s, noon.Add(time.Second-1)))
	refused(t, p.Evaluate(s, noon.Add(time.Second)), CodeRejected, "rules[0].cel")
}

// Whatever is written as an expression and whatever a statement brings: an
// answer or an error, and no panic.
func FuzzExpression(f *testing.F) {
	key := newKey(f)
	for _, seed := range []string{`issuer == ""`, `payload.a.b[0]`, `claims.all(k, claims[k] != null)`, `issuer.matches("a*")`, `[1,2].map(x, x*2)`, "a\n+", `registrationTime.getHours("UTC")`} {
		f.Add(seed, `{"a":{"b":[1]}}`)
	}
	f.Fuzz(func(t *testing.T, source, body string) {
		x, err := compileExpression(source)
		if err != nil || len(body) == 0 || len(body) > 10_000 {
			return
		}
		c := &condition{Rule: Rule{CEL: source}, path: "rules[0]", expression: x}
		s := sign(t, wabbit, key, payload(body))
		one := c.checkExpression(&matter{Statement: s, policy: &Policy{}, now: noon}, &window{})
		two := c.checkExpression(&matter{Statement: s, policy: &Policy{}, now: noon}, &window{})
		if (one == nil) != (two == nil) || one != nil && one.Reason != two.Reason {
			t.Errorf("%q over %q: %+v, then %+v", source, body, one, two)
		}
	})
}

// What an expression adds to a registration, beside the ES256 verification.
func BenchmarkExpression(b *testing.B) {
	key := newKey(b)
	s := sign(b, wabbit, key, provenance(slsa))
	for name, rules := range map[string][]Rule{
		"none":      nil,
		"declared":  {{MediaTypes: []string{"application/vnd.in-toto+json"}, When: &When{Issuers: []string{wabbit}}}},
		"issuer":    {{CEL: `issuer.startsWith("https://")`}},
		"claims":    {{CEL: `claims.iss == issuer`}},
		"predicate": {{CEL: `payload.predicate.builder == "x"`}},
	} {
		p := ruled(b, rules, keyIssuer(wabbit, key))
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if d := p.Evaluate(s, noon); d.Refusal != nil {
					b.Fatal(d.Refusal)
				}
			}
		})
	}
}
