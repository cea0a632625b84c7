package main

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/statement"
)

const auditPolicy = `
version: 1
operators:
  - key: service/keys/operator.pub
issuers:
  - iss: https://wabbit.example
    x509: {roots: [wabbit/root.pem]}
  - iss: https://tests.wabbit.example
    key: tester.pub
  - iss: https://internal.wabbit.example
    key: internal.pub
    visibility: private
`

// sign makes a statement of an issuer of auditPolicy.
func (s *site) sign(key string, t statement.Template) []byte {
	s.t.Helper()
	signer, err := cose.ParsePrivatePEM(s.read(key))
	if err != nil {
		s.t.Fatal(err)
	}
	t.ContentType = "application/json"
	b, err := statement.Sign(t, signer)
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

// chain are the certificates in a file.
func (s *site) chain(name string) (chain [][]byte) {
	s.t.Helper()
	for rest := s.read(name); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return chain
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			s.t.Fatal(err)
		}
		chain = append(chain, block.Bytes)
	}
}

// audit runs scittd audit and demands its exit code, and texts in what it prints.
func (s *site) audit(want int, texts []string, flags ...string) {
	s.t.Helper()
	s.audited(want, texts, filepath.Join(bin, "scittd"), append([]string{"audit"}, flags...)...)
}

func (s *site) audited(want int, texts []string, name string, args ...string) {
	s.t.Helper()
	code, stdout, stderr := s.exit(name, args...)
	if code != want {
		s.t.Errorf("%v: exit %d, want %d\n%s%s", args, code, want, stdout, stderr)
	}
	for _, text := range texts {
		if !strings.Contains(stdout+stderr, text) {
			s.t.Errorf("%v: no %q in\n%s%s", args, text, stdout, stderr)
		}
	}
}

func TestAnybodyRepeatsEveryDecisionOfALog(t *testing.T) {
	t.Parallel()
	s := newSite(t, sqliteAlone)
	s.publishers()
	s.init(auditPolicy)
	running := s.serve()
	publish := s.token("publish", "publish")
	s.token("reader", "read")
	chain := s.chain("wabbit/chain.pem")
	s.register(publish, s.sign("wabbit/leaf.pem", statement.Template{Issuer: "https://wabbit.example", Subject: "runs/0", Payload: []byte(`{"run":0}`), Chain: chain, ChainUnprotected: true}))
	for run := range 3 {
		s.register(publish, s.sign("tester.pem", statement.Template{Issuer: "https://tests.wabbit.example", Subject: "runs/1", Payload: fmt.Appendf(nil, `{"run":%d}`, run)}))
	}
	s.register(publish, s.sign("internal.pem", statement.Template{Issuer: "https://internal.wabbit.example", Subject: "runs/2", Payload: []byte(`{"run":5}`)}))
	payload := []byte(`{"a large":"payload"}`)
	digest := statement.SHA256(payload)
	if a := s.ask(http.MethodPut, "/v1/evidence/"+string(digest), publish, payload); a.status != http.StatusCreated {
		t.Fatalf("stage: %d %s", a.status, a.body)
	}
	loose := s.sign("tester.pem", statement.Template{Issuer: "https://tests.wabbit.example", Subject: "runs/3", Payload: payload, Detached: true})
	if a := s.ask(http.MethodPost, "/entries?evidence="+string(digest), publish, loose); a.status != http.StatusCreated {
		t.Fatalf("register a detached statement: %d %s", a.status, a.body)
	}

	// Without a token the private claim is named, not judged; with one it is.
	key := []string{"--key", "service/keys/operator.pub"}
	with := func(flags ...string) []string { return append(flags, key...) }
	s.audit(0, []string{"NOT REPLAYED   1 entries: private", "(6)", "OK             size 8", "6 of 8 decisions under 1 policies as recorded", "NOT REPLAYED   1 entries: the payload is detached"}, with("--replay", s.url)...)
	s.audit(0, []string{"NOT CHECKED    whose log this is"}, "--replay", s.url)
	s.audit(13, []string{"could not be judged again"}, with("--replay", s.url, "--complete")...)
	s.audit(13, []string{"this is another log"}, "--replay", s.url, "--key", "tester.pub")
	s.audit(0, []string{"OK             size 8", "8 decisions"}, with("--replay", s.url, "--dir", "audit", "--token-file", "reader.token")...)

	// A later run adds what is new; then no network is needed.
	s.write("checkpoint", string(s.get("/log/checkpoint?fresh", "")))
	s.register(publish, s.sign("tester.pem", statement.Template{Issuer: "https://tests.wabbit.example", Subject: "runs/4", Payload: []byte(`{"run":7}`)}))
	s.audit(0, []string{"OK             size 9", "8 decisions came from the folder and were not asked for again"}, with("--replay", s.url, "--dir", "audit", "--token-file", "reader.token", "--checkpoint", "checkpoint")...)
	offline := []string{"-rn", filepath.Join(bin, "scittd"), "audit", "--replay", "audit", "--key", "service/keys/operator.pub", "--checkpoint", "checkpoint"}
	s.audited(0, []string{"OK             size 9"}, "unshare", offline...)
	s.refused(1, []string{"Try:   scittd audit --replay URL --dir half"}, "scittd", "audit", "--replay", s.half("audit", "half"))
	s.refused(2, []string{"no folder that a log was downloaded to"}, "scittd", "audit", "--replay", "wabbit")
	s.refused(2, []string{"of " + s.url}, "scittd", "audit", "--replay", "http://localhost:1", "--dir", "audit")

	// What was changed behind the service's back shows, entry by entry.
	running.stop()
	s.refused(1, []string{s.url}, "scittd", "audit", "--replay", s.url)
	s.lite(`UPDATE audit SET rule = 'issuers[0].key' WHERE "index" = 3`)
	s.lite(`DELETE FROM entry_collateral WHERE "index" = 2`)
	s.lite(`DELETE FROM audit WHERE "index" = 4`)
	running = s.serve()
	s.audit(12, []string{
		"DEVIATES       entry 2", "the policy in force refuses it",
		"DEVIATES       entry 3", `the rule that admitted it is recorded otherwise: recorded "issuers[0].key", replayed "issuers[1].key"`,
		"DEVIATES       entry 4", "NOT REPLAYED   1 entries: no decision is recorded (4)",
	}, with("--replay", s.url, "--dir", "tampered", "--token-file", "reader.token")...)
	s.audited(12, []string{`"object": "entry 3"`}, "unshare", "-rn", filepath.Join(bin, "scittd"), "audit", "--replay", "tampered", "--format", "json")

	// A log that was rolled back is not the one that was downloaded.
	running.stop()
	if err := os.RemoveAll(s.path("service")); err != nil {
		t.Fatal(err)
	}
	s.init(auditPolicy)
	s.serve()
	s.audit(15, []string{"rolled back or rewritten"}, "--replay", s.url, "--dir", "audit")
	s.audit(15, []string{"signed by no checkpoint key of this log"}, "--replay", s.url, "--checkpoint", "checkpoint")
}

// Nobody is accused for want of what only readers see.
func TestWhatDependsOnHiddenEntriesIsNotJudged(t *testing.T) {
	t.Parallel()
	s := newSite(t, sqliteAlone)
	s.publishers()
	s.init(strings.Replace(auditPolicy, "version: 1\n", "version: 1\nrules:\n  - name: after-internal\n    when: {issuers: [https://tests.wabbit.example]}\n    needs: [{issuers: [https://internal.wabbit.example]}]\n", 1))
	s.serve()
	publish := s.token("publish", "publish")
	s.token("reader", "read")
	image := "pkg:oci/app@sha256:" + strings.Repeat("0", 63) + "1"
	s.register(publish, s.sign("internal.pem", statement.Template{Issuer: "https://internal.wabbit.example", Subject: image, Payload: []byte(`{}`)}))
	claim := s.sign("tester.pem", statement.Template{Issuer: "https://tests.wabbit.example", Subject: image, Payload: []byte(`{}`)})
	s.register(publish, claim)
	s.audit(0, []string{"NOT REPLAYED   1 entries: its rule depends on entries before it that are not shown (3)"}, "--replay", s.url)
	read, err := statement.Parse(claim)
	if err != nil {
		t.Fatal(err)
	}
	explain := []string{"policy", "explain", read.ID().String(), "--service", s.url}
	s.audited(0, []string{"NOT JUDGED   after-internal.needs[0] depends on entries that are not shown"}, filepath.Join(bin, "scittd"), explain...)
	s.audited(0, []string{"as it is recorded of entry"}, filepath.Join(bin, "scittd"), append(explain, "--token-file", "reader.token")...)
}

// half is a copy of a download that was cut off.
func (s *site) half(from, to string) string {
	s.t.Helper()
	if err := os.CopyFS(s.path(to), os.DirFS(s.path(from))); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Truncate(s.path(to+"/statements.cbor"), int64(len(s.read(to+"/statements.cbor"))/2)); err != nil {
		s.t.Fatal(err)
	}
	return to
}
