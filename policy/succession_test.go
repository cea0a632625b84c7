package policy

import (
	"strings"
	"testing"

	"github.com/scittd/scittd/statement"
)

// shared is a policy of several operators.
func shared(t testing.TB, threshold int, operators ...operator) Document {
	t.Helper()
	d := operators[0].document(keyIssuer(wabbit, newKey(t)))
	d.Threshold = threshold
	for _, o := range operators[1:] {
		d.Operators = append(d.Operators, Operator{Key: pub(o.key)})
	}
	return d
}

func TestAPolicyTakesEffectWithTheSignatureThatCompletesTheThreshold(t *testing.T) {
	a, b, c := newOperator(t), newOperator(t), newOperator(t)
	p := bootstrap(t, a.publish(shared(t, 2, a, b, c)))
	next := shared(t, 1, b)
	next.Previous = previous(p.Entry)
	other := shared(t, 3, a, b, c)
	other.Previous = previous(p.Entry)

	q := p.Succession()
	for i, s := range []*statement.Statement{a.publish(next), b.publish(other), c.publish(other)} {
		admitted(t, p.Evaluate(s, noon))
		if refusal := q.Repeated(s); refusal != nil {
			t.Fatalf("statement %d: %v", i, refusal)
		}
		grown, completed, err := q.Add(s)
		if err != nil {
			t.Fatalf("statement %d: %v", i, err)
		}
		if (completed != nil) != (i == 2) {
			t.Fatalf("statement %d: %v in force", i, completed)
		}
		if completed == nil {
			if n := len(grown.Approvals()); n != i+1 || len(q.Approvals()) != i {
				t.Errorf("statement %d: %d approvals, %d before", i, n, len(q.Approvals()))
			}
			if refusal := grown.Repeated(s); refusal == nil || refusal.Rule != "threshold" || refusal.Policy != p.Entry || !strings.Contains(refusal.Reason, s.ID().String()) {
				t.Errorf("signed twice: %+v", refusal)
			}
		} else if completed.Entry != s.ID() || completed.Threshold != 3 || len(grown.Approvals()) != 0 {
			t.Errorf("in force is %s with threshold %d; %d approvals are left", completed.Entry, completed.Threshold, len(grown.Approvals()))
		}
		q = grown
	}
	// What was signed for the old policy is void.
	if _, _, err := q.Add(b.publish(next)); err == nil {
		t.Error("a policy took effect that replaces one which is not in force")
	}
}

func TestOneOperatorWithTwoKidsIsOne(t *testing.T) {
	a, b := newOperator(t), newOperator(t)
	d := shared(t, 2, a, b)
	d.Operators = append(d.Operators, Operator{Key: pub(a.key), Kid: KeyID("again")})
	p := bootstrap(t, a.publish(d))
	next := shared(t, 1, a)
	next.Previous = previous(p.Entry)
	q, completed, err := p.Succession().Add(a.publish(next))
	if err != nil || completed != nil {
		t.Fatalf("%v, %v", completed, err)
	}
	again := a.publish(next, kid([]byte("again")))
	admitted(t, p.Evaluate(again, noon))
	if q.Repeated(again) == nil {
		t.Error("a second kid of the same key counts")
	}
	d.Threshold = 3
	if _, err := New(d); err == nil || !strings.Contains(err.Error(), "threshold") {
		t.Errorf("three of two: %v", err)
	}
}
