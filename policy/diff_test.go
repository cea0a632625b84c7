package policy

import (
	"slices"
	"strings"
	"testing"
)

func TestADifferenceIsToldByMemberAndNotByPlace(t *testing.T) {
	from, _ := readExample(t)
	d := from.Document
	d.Issuers = slices.Clone(d.Issuers)
	d.Issuers[0].MediaTypes = append(slices.Clone(d.Issuers[0].MediaTypes), "text/plain")
	d.Issuers = append(d.Issuers[1:], d.Issuers[0])
	d.Deny = append(slices.Clone(d.Deny), "https://new.example")
	d.Limits.MaxAge = 0
	to := mustNew(t, d)
	if same, err := Diff(from, from); err != nil || len(same) != 0 {
		t.Errorf("a policy differs from itself: %v, %v", same, err)
	}
	found, err := Diff(from, to)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range found {
		got = append(got, d.String())
	}
	want := []string{
		"+ deny[https://new.example]: https://new.example",
		"+ issuers[https://wabbit.example].mediaTypes[text/plain]: text/plain",
		`~ issuers (order): https://wabbit.example, https://acme.example, ^https://[a-z]+\.partners\.example$ -> https://acme.example, ^https://[a-z]+\.partners\.example$, https://wabbit.example`,
		`- limits: {"maxAge":"8760h0m0s"}`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%q, want\n%q", got, want)
	}
}

func TestWhatAnOperatorReadsBeforeSigningIsNotCut(t *testing.T) {
	from, _ := readExample(t)
	long := "issuer != \"\" &&\n" + strings.Repeat("artifacts.size() >= 0 && ", 20) + "true"
	message := strings.Repeat("ask Alice, or ", 20) + "Bob"
	added := from.Document
	added.Rules = append(slices.Clone(added.Rules), Rule{Name: "long", CEL: long, Message: message})
	changed := from.Document
	changed.Rules = append(slices.Clone(changed.Rules), Rule{Name: "long", CEL: "true", Message: message})
	for name, c := range map[string]struct {
		from *Policy
		want string
	}{
		"a new rule":     {from, message},
		"its expression": {mustNew(t, changed), "~ rules[long].cel: true -> issuer != \"\" &&\n    | " + long[strings.Index(long, "\n")+1:]},
	} {
		found, err := Diff(c.from, mustNew(t, added))
		if err != nil || len(found) != 1 || !strings.Contains(found[0].String(), c.want) || strings.Contains(found[0].String(), "sha256") {
			t.Errorf("%s: %v, %v", name, found, err)
		}
	}
}

func TestALongValueIsCutAndNamedByItsHash(t *testing.T) {
	o := newOperator(t)
	a, b := newCA(t, "root of all"), newCA(t, "another root")
	found, err := Diff(mustNew(t, o.document(caIssuer(wabbit, a))), mustNew(t, o.document(caIssuer(wabbit, b))))
	if err != nil || len(found) != 2 {
		t.Fatalf("%v, %v", found, err)
	}
	for _, d := range found {
		if s := d.String(); len(s) > 400 {
			t.Errorf("too long to read: %s", s)
		}
	}
}
