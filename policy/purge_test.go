package policy

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/scittd/scittd/statement"
)

// purge is the payload of a purge statement about n digests.
func purge(n int) []byte {
	var subjects []string
	for i := range n {
		subjects = append(subjects, fmt.Sprintf(`{"name":"evidence","digest":{"sha256":%q}}`, fmt.Sprintf("%064x", i)))
	}
	return fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","subject":[%s],"predicateType":"https://purge.example/v1","predicate":{}}`, strings.Join(subjects, ","))
}

func TestAPurgeStatementIsForOperatorsAndFoundByWhatWasPurged(t *testing.T) {
	o, stranger := newOperator(t), newOperator(t)
	doc := o.document(keyIssuer(wabbit, stranger.key))
	doc.Subjects = []statement.Extractor{statement.ExtractSubject} // which says nothing of in-toto
	doc.Visibility = Private
	p := bootstrap(t, o.publish(doc))
	payload := func(n int) func(*statement.Template) {
		return func(tmpl *statement.Template) { tmpl.Payload = purge(n) }
	}
	s := sign(t, service, o.key, subject(service+PurgeSubject), mediaType(PurgeMediaType), payload(2))
	d := p.Evaluate(s, noon)
	admitted(t, d)
	want := []statement.Digest{statement.Digest("sha256:" + fmt.Sprintf("%064x", 0)), statement.Digest("sha256:" + fmt.Sprintf("%064x", 1))}
	if d.Private || d.Rule != "operators[0]" || !reflect.DeepEqual(d.Artifacts, want) {
		t.Errorf("decided %+v", d)
	}
	recorded, err := p.Recorded(s, d.Rule, d.Identity)
	if err != nil || !reflect.DeepEqual(recorded.Artifacts, want) {
		t.Errorf("recorded %+v, %v", recorded, err)
	}
	if places, err := p.Repositories(s, "team/app", "registry.example"); err != nil || places != nil {
		t.Errorf("it would be placed in %v, %v", places, err)
	}
	for name, s := range map[string]*statement.Statement{
		"by a stranger":         sign(t, service, stranger.key, subject(service+PurgeSubject), mediaType(PurgeMediaType), payload(1)),
		"by an issuer":          sign(t, wabbit, stranger.key, subject(wabbit+PurgeSubject), mediaType(PurgeMediaType), payload(1)),
		"with the policy's sub": sign(t, service, o.key, subject(service+StatementSubject), mediaType(PurgeMediaType), payload(1)),
		"of too much at once":   sign(t, service, o.key, subject(service+PurgeSubject), mediaType(PurgeMediaType), payload(statement.MaxArtifacts+1)),
	} {
		if d := p.Evaluate(s, noon); d.Refusal == nil {
			t.Errorf("%s: admitted", name)
		}
	}
}
