package main

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// policyInForce is the entry of the policy that the service judges under.
func (s *site) policyInForce() string {
	s.t.Helper()
	var facts apitype.Service
	s.getJSON("/v1/service", "", &facts)
	return facts.PolicyEntry
}

// without is crashPolicy once its only issuer was dropped for another.
const without = `
version: 1
operators:
  - key: service/keys/operator.pub
issuers:
  - iss: https://wabbit.example
    key: other.pub
subjects: [intoto, sub]
visibility: public
`

func TestPublishedPolicyIsInForceFromItsEntryOn(t *testing.T) {
	t.Parallel()
	for _, d := range []deployment{sqliteEmbedded, postgresDocker} {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			l, _ := newLoad(newSite(t, d))
			l.keyPair("other")
			l.write("next.yaml", without)
			first := l.policyInForce()
			publish := []string{"policy", "publish", "next.yaml", "--dir", "service", "--token-file", "ci.token"}
			l.refused(4, []string{"token"}, "scittd", publish[:5]...)

			// It is published while claims of the issuer that it drops are queued.
			before, meanwhile, after := l.sign(20), l.sign(3*inFlight), l.sign(20)
			l.post(before, func(int) {})
			refused := make(chan string, len(meanwhile)) // what was said about refused claims
			var posting sync.WaitGroup
			for part := range slices.Chunk(meanwhile, len(meanwhile)/8) {
				posting.Go(func() {
					for _, r := range part {
						switch a, err := l.do(t.Context(), http.MethodPost, "/entries", l.token, r.body); {
						case err != nil:
							t.Error(err)
						case a.status == http.StatusCreated:
							l.journal(r, a.body)
						case a.status == http.StatusBadRequest:
							refused <- string(a.body)
						default:
							t.Errorf("entry %s: %d %s", r.id, a.status, a.body)
						}
					}
				})
			}
			out := l.run("scittd", publish...)
			posting.Wait()
			close(refused)
			t.Logf("%d of %d claims were refused meanwhile", len(refused), len(meanwhile))
			second := l.policyInForce()
			if second == first || !strings.Contains(out, "entry "+second) {
				t.Errorf("in force is %s after %s, but publish said\n%s", second, first, out)
			}
			for text := range refused {
				if !strings.Contains(text, "Rejected") {
					t.Errorf("a claim of the dropped issuer was refused so: %s", text)
				}
			}
			var entry apitype.Entry
			l.getJSON("/v1/entries/"+second, "", &entry)
			for _, r := range append(before, meanwhile...) {
				if r.receipt != nil && r.index > entry.Index {
					t.Errorf("entry %s of the dropped issuer is at %d, after the policy's %d", r.id, r.index, entry.Index)
				}
			}
			for _, r := range after {
				if a := l.ask(http.MethodPost, "/entries", l.token, r.body); a.status != http.StatusBadRequest || !strings.Contains(string(a.body), "Rejected") {
					t.Errorf("a claim of the dropped issuer after the policy: %d %s", a.status, a.body)
				}
			}

			// What is committed keeps its receipt.
			for _, r := range before {
				if a := l.ask(http.MethodPost, "/entries", l.token, r.body); a.status != http.StatusCreated || string(a.body) != string(r.receipt) {
					t.Errorf("entry %s of before, resubmitted: %d, the same receipt: %t", r.id, a.status, string(a.body) == string(r.receipt))
				}
			}

			// No way leads back to the old policy but a new one that says so.
			l.write("stale.yaml", "previous: "+first+crashPolicy)
			l.refused(2, []string{first, second, "in force"}, "scittd", "policy", "publish", "stale.yaml", "--dir", "service", "--token-file", "ci.token")
			if a := l.ask(http.MethodPost, "/entries", l.token, l.signPolicy(first)); a.status != http.StatusBadRequest || !strings.Contains(string(a.body), "Rejected") {
				t.Errorf("a policy that replaces one that is not in force: %d %s", a.status, a.body)
			}
			old := l.get("/v1/entries/"+first+"/statement", "")
			if a := l.ask(http.MethodPost, "/entries", l.token, old); a.status != http.StatusCreated {
				t.Errorf("the bytes of the first policy again: %d %s, want its old receipt", a.status, a.body)
			} else if r, err := receipts.Parse(a.body); err != nil || r.Proofs[0].LeafIndex != 0 {
				t.Errorf("the bytes of the first policy again: not the receipt of leaf 0: %v", err)
			}
			if got := l.policyInForce(); got != second {
				t.Errorf("in force is %s, want still %s", got, second)
			}
			back := l.run("scittd", "policy", "publish", "policy.yaml", "--dir", "service", "--token-file", "ci.token")
			if third := l.policyInForce(); third == first || third == second || !strings.Contains(back, third) {
				t.Errorf("in force is %s after publishing the first policy's text again", third)
			}
			if a := l.ask(http.MethodPost, "/entries", l.token, after[0].body); a.status != http.StatusCreated {
				t.Errorf("a claim of the issuer that was admitted again: %d %s", a.status, a.body)
			}
		})
	}
}

// signPolicy signs policy.yaml, by hand, as the successor of previous.
func (l *load) signPolicy(previous string) []byte {
	l.t.Helper()
	id, err := statement.ParseID(previous)
	if err != nil {
		l.t.Fatal(err)
	}
	p, err := policy.ReadYAML(l.path("policy.yaml"))
	if err != nil {
		l.t.Fatal(err)
	}
	p.Previous = &id
	text, err := p.JSON()
	if err != nil {
		l.t.Fatal(err)
	}
	if !json.Valid(text) {
		l.t.Fatalf("not JSON: %s", text)
	}
	key, err := cose.ParsePrivatePEM(l.read("service/keys/operator.pem"))
	if err != nil {
		l.t.Fatal(err)
	}
	signed, err := signOperator(key, l.url, "/policy", policy.MediaType, text)
	if err != nil {
		l.t.Fatal(err)
	}
	return signed.Canonical()
}
