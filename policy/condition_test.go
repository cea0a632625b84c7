package policy

import (
	"context"
	"crypto/elliptic"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/statement"
)

// pastLog is a log of statements that were admitted, as a History.
type pastLog struct {
	t       testing.TB
	entries []Past
	asked   int // questions
	read    int // entries in the answers
	err     error
}

func (l *pastLog) add(private bool, statements ...*statement.Statement) *pastLog {
	for _, s := range statements {
		l.entries = append(l.entries, Past{Index: uint64(len(l.entries)), Private: private, Statement: s})
	}
	return l
}

func (l *pastLog) Past(_ context.Context, q PastQuery, limit int) ([]Past, error) {
	if l.asked++; limit < 1 || limit > maxPast || l.asked > maxQueries*maxNeedArtifacts {
		l.t.Errorf("question %d for %d entries", l.asked, limit)
	}
	var found []Past
	for _, e := range slices.Backward(l.entries) {
		s := e.Statement
		artifacts, err := s.Artifacts(Defaults().Subjects)
		if err != nil {
			return nil, err
		}
		fits := oneOf(orNone(q.Issuer), s.Issuer) && oneOf(orNone(q.Subject), s.Subject) && oneOf(orNone(q.MediaType), s.MediaType()) &&
			oneOf(orNone(q.PredicateType), s.PredicateType()) && oneOf(orNone(string(q.Evidence)), string(s.Evidence())) &&
			(q.Artifact == "" || slices.Contains(artifacts, q.Artifact))
		if fits && len(found) < limit {
			found = append(found, e)
		}
	}
	l.read += len(found)
	return found, l.err
}

func orNone(text string) []string {
	if text == "" {
		return nil
	}
	return []string{text}
}

func content(text string) edit {
	return func(tmpl *statement.Template) { tmpl.Payload = []byte(text) }
}

func number(n any) edit { return claims("n", n) }

// numberOf is a statement of its own about each number.
func numbered(n int) edit {
	return func(tmpl *statement.Template) { number(n)(tmpl); content(fmt.Sprint(n))(tmpl) }
}

func TestRulesAboutTheLogAreSettledAtThePlaceOfTheEntry(t *testing.T) {
	key, other := newKey(t), newKey(t)
	say := func(edits ...edit) *statement.Statement { return sign(t, wabbit, key, edits...) }
	theirs := func(edits ...edit) *statement.Statement { return sign(t, acme, other, edits...) }
	const digest = "sha256:1111111111111111111111111111111111111111111111111111111111111111"
	about := subject("oci://scitt.example/prod/app@" + digest)
	spdx := mediaType("application/spdx+json")
	minute := func(n int) time.Time { return noon.Add(time.Duration(n) * time.Minute) }

	unique, next := Rule{Unique: UniqueContent}, Rule{Sequence: &Sequence{Claim: "n"}}
	greater := Rule{Sequence: &Sequence{Claim: "n", Step: StepGreater}}
	newest, newestOfType := Rule{Newest: NewestSubject}, Rule{Newest: NewestMediaType}
	bill := Rule{When: &When{MediaTypes: []string{sbom}}, Needs: []Need{{MediaTypes: []string{"application/spdx+json"}, Issuers: []string{acme}}}}
	onlySBOM := Rule{When: &When{MediaTypes: []string{sbom}}, Sequence: &Sequence{Claim: "n"}}

	var plain []*statement.Statement
	for i := range 3 * maxPast {
		plain = append(plain, say(content(fmt.Sprint(i)), spdx))
	}
	for name, c := range map[string]struct {
		rule    Rule
		past    []*statement.Statement
		private bool
		s       *statement.Statement
		want    string // the refusing rule, and what its reason says
		reason  string
	}{
		"unique in an empty log":        {unique, nil, false, say(), "", ""},
		"unique, another payload":       {unique, []*statement.Statement{say(content("x"))}, false, say(), "", ""},
		"unique, another sub":           {unique, []*statement.Statement{say(about)}, false, say(), "", ""},
		"unique, another issuer":        {unique, []*statement.Statement{theirs()}, false, say(), "", ""},
		"signed again":                  {unique, []*statement.Statement{say(iat(noon))}, false, say(iat(minute(1))), "rules[0].unique", say(iat(noon)).ID().String()},
		"signed again, of another type": {unique, []*statement.Statement{say(spdx)}, false, say(), "rules[0].unique", "as entry"},
		"signed again, and private":     {unique, []*statement.Statement{say(iat(noon))}, true, say(iat(minute(1))), "rules[0].unique", "before"},

		"first number":             {next, nil, false, say(number(17)), "", ""},
		"next number":              {next, []*statement.Statement{say(numbered(17))}, false, say(number(18)), "", ""},
		"number left out":          {next, []*statement.Statement{say(numbered(17))}, false, say(number(19)), "rules[0].sequence", "has 17"},
		"number again":             {next, []*statement.Statement{say(numbered(17))}, false, say(number(17)), "rules[0].sequence", "has 17"},
		"no number":                {next, nil, false, say(), "rules[0].sequence", "is missing"},
		"a text for a number":      {next, nil, false, say(number("18")), "rules[0].sequence", "is text"},
		"number of another sub":    {next, []*statement.Statement{say(numbered(17), about)}, false, say(number(3)), "", ""},
		"number of another issuer": {next, []*statement.Statement{theirs(numbered(17))}, false, say(number(3)), "", ""},
		"nothing follows the last": {next, []*statement.Statement{say(number(int64(9223372036854775807)))}, false, say(number(int64(-9223372036854775808))), "rules[0].sequence", "has 9223372036854775807"},
		"private number":           {next, []*statement.Statement{say(numbered(17))}, true, say(number(19)), "rules[0].sequence", "does not follow"},
		"greater number":           {greater, []*statement.Statement{say(numbered(17))}, false, say(number(30)), "", ""},
		"not greater":              {greater, []*statement.Statement{say(numbered(17))}, false, say(number(17)), "rules[0].sequence", "has 17"},
		"number before the others": {next, append([]*statement.Statement{say(numbered(17))}, plain[:maxPast-1]...), false, say(number(19)), "rules[0].sequence", "has 17"},
		"number of the same type":  {onlySBOM, append([]*statement.Statement{say(numbered(17))}, plain...), false, say(number(19)), "rules[0].sequence", "has 17"},

		"newest":                     {newest, []*statement.Statement{say(iat(noon))}, false, say(iat(minute(1))), "", ""},
		"as new":                     {newest, []*statement.Statement{say(iat(noon))}, false, say(iat(noon), content("x")), "rules[0].newest", "2026-11-21T12:00:00Z"},
		"older":                      {newest, []*statement.Statement{say(iat(noon))}, false, say(iat(minute(-1))), "rules[0].newest", "at 2026-11-21T11:59:00Z"},
		"older than a private one":   {newest, []*statement.Statement{say(iat(noon))}, true, say(iat(minute(-1))), "rules[0].newest", "not before it"},
		"of no time":                 {newest, nil, false, say(), "rules[0].newest", "does not say when"},
		"older than another type":    {newest, []*statement.Statement{say(iat(noon), spdx)}, false, say(iat(minute(-1))), "rules[0].newest", ""},
		"newest of its type":         {newestOfType, []*statement.Statement{say(iat(noon), spdx)}, false, say(iat(minute(-1))), "", ""},
		"older than one of its type": {newestOfType, []*statement.Statement{say(iat(noon))}, false, say(iat(minute(-1))), "rules[0].newest", ""},

		"what it needs is there":           {bill, []*statement.Statement{theirs(spdx)}, false, say(), "", ""},
		"what it needs is there, private":  {bill, []*statement.Statement{theirs(spdx)}, true, say(), "", ""},
		"what it needs is not":             {bill, nil, false, say(), "rules[0].needs[0]", `no entry with media type "application/spdx+json" by issuer "https://acme.example" about sha256:b6c7`},
		"what it needs is by another":      {bill, []*statement.Statement{say(spdx)}, false, say(), "rules[0].needs[0]", ""},
		"what it needs is about another":   {bill, []*statement.Statement{theirs(spdx, about)}, false, say(), "rules[0].needs[0]", ""},
		"what it needs is of another type": {bill, []*statement.Statement{theirs()}, false, say(), "rules[0].needs[0]", ""},
		"it names no artifact":             {bill, []*statement.Statement{theirs(spdx)}, false, say(subject("x")), "rules[0].needs", "names no artifact"},
		"it is not asked":                  {bill, nil, false, say(spdx), "-", ""},
	} {
		p := ruled(t, []Rule{c.rule}, keyIssuer(wabbit, key), keyIssuer(acme, other))
		d := p.Evaluate(c.s, minute(5))
		if admitted(t, d); d.Conditional == (c.want == "-") {
			t.Errorf("%s: conditional is %t", name, d.Conditional)
		}
		for range 2 {
			h := (&pastLog{t: t}).add(c.private, c.past...)
			refusal, err := p.Settle(t.Context(), c.s, d, h)
			switch {
			case err != nil:
				t.Errorf("%s: %v", name, err)
			case c.want == "" || c.want == "-":
				if refusal != nil {
					t.Errorf("%s: refused by %s: %s", name, refusal.Rule, refusal.Reason)
				}
			case refusal == nil:
				t.Errorf("%s: admitted; want %s", name, c.want)
			case refusal.Rule != c.want || refusal.Code != CodeRejected || refusal.Policy != p.Entry || refusal.Hint == "" || !strings.Contains(refusal.Reason, c.reason):
				t.Errorf("%s: %+v; want %s: %s", name, refusal, c.want, c.reason)
			case c.private && strings.Contains(refusal.Reason+refusal.Hint, c.past[0].ID().String()):
				t.Errorf("%s: tells a private entry: %+v", name, refusal)
			case c.private && strings.Contains(refusal.Reason+refusal.Hint, "17"):
				t.Errorf("%s: tells what a private entry says: %+v", name, refusal)
			}
			if h.read > 2*maxPast {
				t.Errorf("%s: read %d entries", name, h.read)
			}
		}
	}
}

// An issuer may stand twice, and only one of the two number what it signs: however
// much comes by the other hides no number.
func TestAnIssuersOwnRuleComparesWithWhatItAppliesTo(t *testing.T) {
	key := newKey(t)
	bills, rest := keyIssuer(wabbit, key), keyIssuer(wabbit, key)
	bills.MediaTypes, bills.Rules = []string{sbom}, []Rule{{Sequence: &Sequence{Claim: "n"}}, {Newest: NewestSubject}}
	rest.MediaTypes = []string{"text/plain"}
	p := ruled(t, nil, bills, rest)
	h := (&pastLog{t: t}).add(false, sign(t, wabbit, key, numbered(17), iat(noon)))
	for i := range maxPast {
		h.add(false, sign(t, wabbit, key, mediaType("text/plain"), content(fmt.Sprint(i))))
	}
	for _, c := range []struct {
		edits []edit
		want  string
	}{
		{[]edit{numbered(18), iat(noon.Add(time.Second))}, ""},
		{[]edit{numbered(1), iat(noon.Add(time.Second))}, "issuers[0].rules[0].sequence"},
		{[]edit{numbered(18), iat(noon)}, "issuers[0].rules[1].newest"},
	} {
		s := sign(t, wabbit, key, c.edits...)
		refusal, err := p.Settle(t.Context(), s, p.Evaluate(s, noon), &pastLog{t: t, entries: h.entries})
		if err != nil || (refusal == nil) != (c.want == "") || refusal != nil && refusal.Rule != c.want {
			t.Errorf("got %+v, %v; want %q", refusal, err, c.want)
		}
	}

	for i := range maxQueries {
		bills.MediaTypes = append(bills.MediaTypes, fmt.Sprintf("a/b%d", i))
	}
	if _, err := New(newOperator(t).document(bills)); err == nil || !strings.Contains(err.Error(), "issuers[0].rules[0]: compares with") {
		t.Errorf("an issuer with %d types: %v", len(bills.MediaTypes), err)
	}
}

func TestEveryArtifactHasWhatItNeeds(t *testing.T) {
	key := newKey(t)
	approval := func(digests ...string) *statement.Statement {
		var list []string
		for _, d := range digests {
			list = append(list, `{"digest":{"sha256":"`+d+`"}}`)
		}
		return sign(t, wabbit, key, func(tmpl *statement.Template) {
			tmpl.ContentType = "application/vnd.in-toto+json"
			tmpl.Payload = []byte(`{"_type":"https://in-toto.io/Statement/v1","subject":[` + strings.Join(list, ",") + `],"predicateType":"https://example/approval","predicate":{}}`)
		})
	}
	var digests []string
	h := &pastLog{t: t}
	for i := range maxNeedArtifacts + 1 {
		digests = append(digests, fmt.Sprintf("%064x", i))
		h.add(false, sign(t, wabbit, key, subject("sha256:"+digests[i])))
	}
	p := ruled(t, []Rule{{When: &When{PredicateTypes: []string{"https://example/approval"}}, Needs: []Need{{MediaTypes: []string{"a/b", sbom}, Issuers: []string{acme, wabbit}}}}}, keyIssuer(wabbit, key))
	for n, want := range map[int]string{1: "", maxNeedArtifacts: "", maxNeedArtifacts + 1: "at most 16 are looked up"} {
		s := approval(digests[:n]...)
		refusal, err := p.Settle(t.Context(), s, p.Evaluate(s, noon), &pastLog{t: t, entries: h.entries})
		if err != nil || (refusal == nil) != (want == "") || refusal != nil && !strings.Contains(refusal.Reason, want) {
			t.Errorf("%d artifacts: %+v, %v", n, refusal, err)
		}
	}
	s := approval(digests[0], strings.Repeat("f", 64))
	if refusal, err := p.Settle(t.Context(), s, p.Evaluate(s, noon), &pastLog{t: t, entries: h.entries}); err != nil || refusal == nil || !strings.Contains(refusal.Reason, "ffff") {
		t.Errorf("one artifact without: %+v, %v", refusal, err)
	}
}

// A signature of ECDSA can be turned into another one by whoever sees it.
func TestATwinIsNotUnique(t *testing.T) {
	key := newKey(t)
	p := ruled(t, []Rule{{Unique: UniqueContent}}, keyIssuer(wabbit, key))
	first := sign(t, wabbit, key)
	twin := parse(t, twinOf(first.Canonical()))
	d := p.Evaluate(twin, noon)
	admitted(t, d)
	refusal, err := p.Settle(t.Context(), twin, d, (&pastLog{t: t}).add(false, first))
	if err != nil || refusal == nil || !strings.Contains(refusal.Reason, first.ID().String()) {
		t.Errorf("got %+v, %v", refusal, err)
	}
}

// twinOf replaces s by n-s in the ES256 signature at the end of a message.
func twinOf(message []byte) []byte {
	twin := slices.Clone(message)
	half := twin[len(twin)-32:]
	new(big.Int).Sub(elliptic.P256().Params().N, new(big.Int).SetBytes(half)).FillBytes(half)
	return twin
}

func TestAnErrorOfTheLogIsNoRefusal(t *testing.T) {
	key := newKey(t)
	broken := errors.New("disk full")
	for _, rule := range []Rule{{Unique: UniqueContent}, {Newest: NewestSubject}, {Sequence: &Sequence{Claim: "n"}}, {Needs: []Need{{MediaTypes: []string{sbom}}}}} {
		p := ruled(t, []Rule{rule}, keyIssuer(wabbit, key))
		s := sign(t, wabbit, key, iat(noon), number(1))
		if refusal, err := p.Settle(t.Context(), s, p.Evaluate(s, noon), &pastLog{t: t, err: broken}); !errors.Is(err, broken) || refusal != nil {
			t.Errorf("%+v: %+v, %v", rule, refusal, err)
		}
	}
}

func TestWithoutSuchRulesNobodyAsksTheLog(t *testing.T) {
	key := newKey(t)
	p := ruled(t, []Rule{{CEL: "true"}, {Unique: UniqueContent, When: &When{Issuers: []string{acme}}}}, keyIssuer(wabbit, key))
	s := sign(t, wabbit, key)
	d := p.Evaluate(s, noon)
	h := &pastLog{t: t}
	if refusal, err := p.Settle(t.Context(), s, d, h); d.Conditional || refusal != nil || err != nil || h.asked != 0 {
		t.Errorf("conditional %t, %+v, %v, %d questions", d.Conditional, refusal, err, h.asked)
	}
}
