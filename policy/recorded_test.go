package policy

import (
	"reflect"
	"testing"
	"time"

	"github.com/scittd/scittd/statement"
)

// What Evaluate decided is a record that holds; the same record of anybody else,
// by another rule, or without the certificates, does not.
func TestOnlyTheRecordOfADecisionHolds(t *testing.T) {
	key, root := newKey(t), newCA(t, "root")
	hidden := caIssuer(acme, root)
	hidden.Visibility = Private
	o := newOperator(t)
	first := o.publish(o.document(keyIssuer(wabbit, key), hidden))
	p := bootstrap(t, first)
	for name, s := range map[string]*statement.Statement{
		"pinned key":              sign(t, wabbit, key),
		"certificates":            sign(t, acme, root.leaf(acme)),
		"unprotected certificate": sign(t, acme, root.leaf(acme), unprotected),
		"operator":                first,
	} {
		d := p.Evaluate(s, noon)
		admitted(t, d)
		kept := parse(t, s.Canonical())
		var err error
		if d.Chain != nil {
			if kept, err = kept.WithChain(d.Chain); err != nil {
				t.Fatal(err)
			}
		}
		want := d
		want.NotBefore, want.NotAfter = time.Time{}, time.Time{}
		if got, err := p.Recorded(kept, d.Rule, d.Identity); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got  %+v, %v\nwant %+v", name, got, err, want)
		}
		for what, id := range map[string]Identity{
			"another issuer": {d.Identity.Kind, "https://other.example", d.Identity.Thumbprint, ""},
			"another key":    {d.Identity.Kind, d.Identity.Issuer, "00", ""},
			"another kind":   {"hearsay", d.Identity.Issuer, d.Identity.Thumbprint, ""},
		} {
			if got, err := p.Recorded(kept, d.Rule, id); err == nil {
				t.Errorf("%s: %s holds: %+v", name, what, got)
			}
		}
		for _, rule := range []string{"", "issuers[7].key", "issuers[0].x509", "issuers[1].key", "operators[1]", d.Rule + "x"} {
			if got, err := p.Recorded(kept, rule, d.Identity); err == nil {
				t.Errorf("%s: rule %q holds: %+v", name, rule, got)
			}
		}
		if d.Chain != nil {
			if got, err := p.Recorded(parse(t, s.Canonical()), d.Rule, d.Identity); err == nil {
				t.Errorf("%s: holds without its certificates: %+v", name, got)
			}
		}
	}
}
