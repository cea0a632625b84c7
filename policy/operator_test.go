package policy

import (
	"reflect"
	"strings"
	"testing"

	"github.com/scittd/scittd/statement"
)

func previous(id statement.ID) *statement.ID { return &id }

func TestBootstrapReadsTheFirstPolicy(t *testing.T) {
	o := newOperator(t)
	s := o.publish(o.document(keyIssuer(wabbit, newKey(t))))
	p := bootstrap(t, s)
	if p.Entry != s.ID() || p.Service != service || len(p.Issuers) != 1 {
		t.Errorf("got entry %s of %s with %d issuers", p.Entry, p.Service, len(p.Issuers))
	}
	// It is judged under itself, like the service statement that follows it.
	admitted(t, p.Evaluate(s, noon))
	d := p.Evaluate(sign(t, service, o.key, subject(service+"/service"), mediaType(ServiceMediaType)), noon)
	admitted(t, d)
	if d.Rule != "operators[0]" || d.Identity.Kind != OperatorKey || d.Private || d.Artifacts != nil {
		t.Errorf("decided %+v", d)
	}
}

func TestBootstrapRefusesWhatIsNoFirstPolicy(t *testing.T) {
	o, stranger := newOperator(t), newOperator(t)
	doc := o.document()
	successor := o.document()
	successor.Previous = previous(statement.ID{1})
	payload, err := mustNew(t, doc).JSON()
	if err != nil {
		t.Fatal(err)
	}
	attached := func(tmpl *statement.Template) { tmpl.Payload = payload }
	root := newCA(t, "root")
	for name, c := range map[string]struct {
		s    *statement.Statement
		want string
	}{
		"signed by a stranger":          {stranger.publish(doc), "no operator"},
		"a stranger with the kid":       {stranger.publish(doc, kid(thumbprint(t, o.key))), "does not verify"},
		"signed with a certificate":     {sign(t, service, root.leafFor(o.key, service), subject(service+"/policy"), mediaType(MediaType), attached), "certificate"},
		"with a previous policy":        {o.publish(successor), "previous"},
		"another media type":            {o.publish(doc, mediaType("application/json")), "media type"},
		"another sub":                   {o.publish(doc, subject(service+"/policies")), "sub"},
		"detached":                      {o.publish(doc, func(tmpl *statement.Template) { tmpl.Detached = true }), "not in the message"},
		"a hash envelope":               {o.publish(doc, func(tmpl *statement.Template) { tmpl.HashAlg, tmpl.Payload = -16, make([]byte, 32) }), "not in the message"},
		"not in its canonical encoding": {o.publish(doc, func(tmpl *statement.Template) { tmpl.Payload = append(payload[:len(payload):len(payload)], '\n') }), "RFC 8785"},
		"no policy at all":              {o.publish(doc, func(tmpl *statement.Template) { tmpl.Payload = []byte("{}") }), "operators"},
	} {
		if _, err := Bootstrap(c.s); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, c.want)
		}
	}
}

func mustNew(t testing.TB, d Document) *Policy {
	t.Helper()
	p, err := New(d)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAPolicyIsReplacedByItsOperatorsOnly(t *testing.T) {
	o, key := newOperator(t), newKey(t)
	p := bootstrap(t, o.publish(o.document(keyIssuer(service, key), keyIssuer(wabbit, key))))
	next := o.document(keyIssuer(wabbit, newKey(t)))
	next.Previous = previous(p.Entry)

	s := o.publish(next)
	admitted(t, p.Evaluate(s, noon))
	if q, err := FromStatement(s); err != nil || q.Entry != s.ID() || q.Service != service || !reflect.DeepEqual(q.Document, mustNew(t, next).Document) {
		t.Errorf("read %+v, %v", q, err)
	}

	issuer, stranger := operator{t, key}, newOperator(t)
	refused(t, p.Evaluate(issuer.publish(next), noon), CodeUnknownIssuerKey, "operators")
	refused(t, p.Evaluate(stranger.publish(next), noon), CodeUnknownIssuerKey, "operators")
	refused(t, p.Evaluate(stranger.publish(next, kid(thumbprint(t, o.key))), noon), CodeBadSignature, "operators[0].key")
	refused(t, p.Evaluate(o.publish(next, func(tmpl *statement.Template) { tmpl.Issuer = wabbit }), noon), CodeRejected, "operators")
	refused(t, p.Evaluate(o.publish(next, func(tmpl *statement.Template) { tmpl.Issuer, tmpl.Subject = wabbit, wabbit+"/policy" }), noon), CodeRejected, "operators")
	refused(t, p.Evaluate(o.publish(next, subject(service+"/service")), noon), CodeRejected, "operators")
	refused(t, p.Evaluate(o.publish(next, mediaType(ServiceMediaType)), noon), CodeRejected, "operators")
	refused(t, p.Evaluate(o.publish(next, func(tmpl *statement.Template) { tmpl.Expires = noon }), noon), CodeRejected, "exp")
	refused(t, p.Evaluate(o.publish(next, func(tmpl *statement.Template) { tmpl.Payload = []byte(`{"version":1}`) }), noon), CodeRejected, "operators")
	refused(t, p.Evaluate(o.publish(next, func(tmpl *statement.Template) { tmpl.HashAlg, tmpl.Payload = -16, make([]byte, 32) }), noon), CodeRejected, "operators")
	// Whatever its media type claims, an issuer's statement is not an operator's.
	refused(t, p.Evaluate(sign(t, wabbit, key, mediaType("Application/vnd.scittd.Policy+JSON; v=1")), noon), CodeRejected, "operators")
}

func TestAPolicyMustNameTheOneInForce(t *testing.T) {
	o := newOperator(t)
	first := o.publish(o.document())
	p := bootstrap(t, first)
	doc := o.document(keyIssuer(wabbit, newKey(t)))
	doc.Previous = previous(p.Entry)
	second := o.publish(doc)
	admitted(t, p.Evaluate(second, noon))
	q, err := FromStatement(second)
	if err != nil {
		t.Fatal(err)
	}

	other := o.document(keyIssuer(acme, newKey(t)))
	other.Previous = previous(p.Entry)
	for name, s := range map[string]*statement.Statement{
		"the loser of two publishers":   o.publish(other),
		"a first policy, made later":    o.publish(o.document(keyIssuer(acme, newKey(t)))),
		"the bytes of the first policy": first,
		"its own bytes":                 second,
	} {
		d := q.Evaluate(s, noon)
		refused(t, d, CodeRejected, "previous")
		if d.Refusal != nil && !strings.Contains(d.Refusal.Hint, q.Entry.String()) {
			t.Errorf("%s: hint %q does not name the policy in force", name, d.Refusal.Hint)
		}
	}
	// An old policy comes back as a new entry.
	again := o.document()
	again.Previous = previous(q.Entry)
	admitted(t, q.Evaluate(o.publish(again), noon))
}

func TestAKeyThatAPolicyRevokesIsRefusedUnderIt(t *testing.T) {
	o, key := newOperator(t), newKey(t)
	p := bootstrap(t, o.publish(o.document(keyIssuer(wabbit, key))))
	s := sign(t, wabbit, key)
	queued := p.Evaluate(s, noon)
	admitted(t, queued)

	doc := o.document(keyIssuer(wabbit, newKey(t)))
	doc.Previous = previous(p.Entry)
	q, err := FromStatement(o.publish(doc))
	if err != nil {
		t.Fatal(err)
	}
	d := q.Evaluate(s, noon)
	refused(t, d, CodeUnknownIssuerKey, "issuers[0].kid")
	if queued.Policy != p.Entry || d.Policy != q.Entry {
		t.Errorf("judged under %s and %s, want %s and %s", queued.Policy, d.Policy, p.Entry, q.Entry)
	}
}

func TestAnyOperatorOfThePolicyMaySign(t *testing.T) {
	o, second := newOperator(t), newOperator(t)
	doc := o.document()
	doc.Operators = append(doc.Operators, Operator{Key: pub(second.key), Kid: KeyID("offline")})
	p := bootstrap(t, o.publish(doc))
	doc.Previous = previous(p.Entry)
	d := p.Evaluate(second.publish(doc, kid([]byte("offline"))), noon)
	if admitted(t, d); d.Rule != "operators[1]" {
		t.Errorf("rule %s, want operators[1]", d.Rule)
	}
	doc.Operators[1].Kid = thumbprint(t, o.key)
	if _, err := New(doc); err == nil || !strings.Contains(err.Error(), "operators[1].kid") {
		t.Errorf("two operators with one kid: %v", err)
	}
}
