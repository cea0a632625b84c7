package policy

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/statement"
)

// outline is what steps say, a line each.
func outline(steps []Step) []string {
	var lines []string
	for _, s := range steps {
		lines = append(lines, s.Rule+": "+string(s.Outcome))
	}
	return lines
}

func TestExplainTellsEveryRuleAndDecidesAsEvaluateDoes(t *testing.T) {
	key, root := newKey(t), newCA(t, "root")
	own := keyIssuer(wabbit, key)
	own.Name = "release"
	own.Rules = []Rule{{Name: "young", MaxAge: Duration(time.Hour)}}
	other := keyIssuer(wabbit, newKey(t))
	p := ruled(t, []Rule{
		{Name: "no-drafts", Deny: true, When: &When{MediaTypes: []string{"text/plain"}}},
		{Name: "built", Require: &Require{Claims: []string{"build"}}},
		{Name: "small", CEL: `claims.build < 10`},
		{Name: "once", Unique: UniqueContent},
	}, own, other, caIssuer(acme, root))

	for name, c := range map[string]struct {
		s    *statement.Statement
		want []string
	}{
		"admitted": {sign(t, wabbit, key, iat(noon), claims("build", 7)), []string{
			"deny: holds", "release: fits", "issuers[1]: does not fit", "exp, nbf, iat, limits: holds", "subjects: holds",
			"young: holds", "no-drafts: does not apply", "built: holds",
			"release.key: identifies", "small: holds", "once: depends on the log",
		}},
		"refused for many reasons": {sign(t, wabbit, key, iat(noon.Add(-2*time.Hour)), claims("build", 70), func(tmpl *statement.Template) { tmpl.Expires = noon }, mediaType("text/plain")), []string{
			"deny: holds", "release: fits", "issuers[1]: does not fit", "exp, nbf, iat, limits: refuses", "subjects: holds",
			"young: refuses", "no-drafts: refuses", "built: holds",
			"release.key: identifies", "small: refuses", "once: depends on the log",
		}},
		"a stranger": {sign(t, "https://stranger.example", key), []string{"deny: holds", "issuers: refuses"}},
		"another key": {sign(t, wabbit, newKey(t), kid(thumbprint(t, key)), iat(noon), claims("build", 7)), []string{
			"deny: holds", "release: fits", "issuers[1]: does not fit", "exp, nbf, iat, limits: holds", "subjects: holds",
			"young: holds", "no-drafts: does not apply", "built: holds", "release.key: refuses",
			"small: not judged: refused before", "once: not judged: refused before",
		}},
		"an operator's type": {sign(t, wabbit, key, mediaType(MediaType)), []string{"operators: refuses"}},
	} {
		d, steps := p.Explain(c.s, noon)
		if got := outline(steps); !slices.Equal(got, c.want) {
			t.Errorf("%s: got\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
		}
		if want := p.Evaluate(c.s, noon); !reflect.DeepEqual(d, want) {
			t.Errorf("%s: explained %+v\nevaluated %+v", name, d, want)
		}
		for _, step := range steps {
			if (step.Refusal != nil) != (step.Outcome == Refuses || step.Outcome == Unfit) || step.Rule == "" || !printable(step.Input+"x") {
				t.Errorf("%s: step %+v", name, step)
			}
		}
	}
}

func TestExplainSettleTellsWhatTheLogSays(t *testing.T) {
	key := newKey(t)
	p := ruled(t, []Rule{{Unique: UniqueContent}, {Name: "newest", Newest: NewestSubject}, {CEL: "true"}}, keyIssuer(wabbit, key))
	s := sign(t, wabbit, key, iat(noon))
	d := p.Evaluate(s, noon)
	h := (&pastLog{t: t}).add(false, sign(t, wabbit, key, iat(noon.Add(time.Second))))
	refusal, steps, err := p.ExplainSettle(t.Context(), s, d, h)
	if err != nil || refusal == nil || refusal.Rule != "rules[0].unique" {
		t.Errorf("got %+v, %v", refusal, err)
	}
	if got, want := outline(steps), []string{"rules[0]: refuses", "newest: refuses"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	plain, err := p.Settle(t.Context(), s, d, h)
	if err != nil || !reflect.DeepEqual(plain, refusal) {
		t.Errorf("explained %+v, settled %+v, %v", refusal, plain, err)
	}
	refusal, steps, err = p.ExplainSettle(t.Context(), s, d, &pastLog{t: t})
	if err != nil || refusal != nil || !slices.Equal(outline(steps), []string{"rules[0]: holds", "newest: holds"}) {
		t.Errorf("in an empty log: %+v, %q, %v", refusal, outline(steps), err)
	}
}
