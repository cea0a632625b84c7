package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/internal/envelope/envelopetest"
	"github.com/scittd/scittd/statement"
	"github.com/scittd/scittd/storage"
)

// envelopePolicy asks who signed the attestations that a team hands in.
const envelopePolicy = `
version: 1
operators:
  - key: service/keys/operator.pub
issuers:
  - name: team
    iss: https://tests.wabbit.example
    key: tester.pub
    repositories: ["wabbit/*"]
    evidence:
      mediaTypes: [application/vnd.dsse.envelope.v1+json, application/vnd.dev.sigstore.bundle.v0.3+json, application/cose]
      signers:
        - key: ci.pub
        - iss: https://wabbit.example
          x509: {roots: [wabbit/root.pem]}
subjects: [intoto, sub]
visibility: public
`

func (s *site) envelopeSigner(key string, chain ...[]byte) envelopetest.Signer {
	s.t.Helper()
	k, err := cose.ParsePrivatePEM(s.read(key))
	if err != nil {
		s.t.Fatal(err)
	}
	return envelopetest.Signer{Key: k, Chain: chain}
}

func TestEnvelopesOfOtherToolsAreEvidenceWhoseSignerIsChecked(t *testing.T) {
	t.Parallel()
	s := newSite(t, sqliteEmbedded)
	s.publishers()
	s.keyPair("ci")
	s.settings = append(s.settings, "--registry-push-through", "off:past/*")
	s.init(envelopePolicy)
	s.serve()
	publish := s.token("publish", "publish")
	s.login(publish)
	s.run("scitt", "trust", "init", s.url, "--yes")
	digest := s.image("wabbit/net-monitor:v1")
	image := statement.Digest(digest)
	ci, vendor, mallory := s.envelopeSigner("ci.pem"), s.envelopeSigner("wabbit/leaf.pem", s.chain("wabbit/chain.pem")...), s.envelopeSigner("mallory.pem")
	attestation := envelopetest.InToto(t, image)
	for name, content := range map[string][]byte{
		"bundle":  envelopetest.Bundle(t, attestation, vendor, nil),
		"dsse":    envelopetest.DSSE(t, attestation, ci),
		"notary":  envelopetest.Notary(t, envelopetest.NotaryPayload(t, image), vendor, envelopetest.NotaryHeader(time.Now(), time.Now().Add(time.Hour))),
		"expired": envelopetest.Notary(t, envelopetest.NotaryPayload(t, image), vendor, envelopetest.NotaryHeader(time.Now(), time.Now().Add(-time.Hour))),
		"forged":  envelopetest.Bundle(t, attestation, mallory, nil),
		"other":   envelopetest.Bundle(t, envelopetest.InToto(t, statement.SHA256(nil)), vendor, nil),
	} {
		s.write(name, string(content))
	}
	flags := func(evidence string, more ...string) []string {
		return append([]string{"--evidence", evidence, "--key", "tester.pem", "--issuer", "https://tests.wabbit.example", "--token-file", "publish.token"}, more...)
	}
	ref := s.registry + "/wabbit/net-monitor:v1"

	// A dry run says who signed it.
	var judged apitype.Judged
	asked := s.ask(http.MethodPost, "/v1/entries:validate", publish, s.signed("pkg:oci/net-monitor@"+digest, string(s.read("bundle")), func(t *statement.Template) {
		t.ContentType = "application/vnd.dev.sigstore.bundle.v0.3+json"
	}))
	if err := json.Unmarshal(asked.body, &judged); err != nil || judged.EvidenceSigner == nil || judged.EvidenceSigner.Name != "https://wabbit.example" {
		t.Errorf("validate: %s, %v", asked.body, err)
	}

	// Inside the statement, as small evidence is; staged beside it; or in the
	// registry, where attach brings what is hashed.
	s.write("dsse pushed", string(s.read("dsse"))+"\n")
	placed, staged := map[string]int{}, ""
	for _, c := range []struct{ evidence, mediaType, uploaded string }{
		{"bundle", "application/vnd.dev.sigstore.bundle.v0.3+json", "statement"},
		{"notary", "application/cose", "statement"},
		{"dsse pushed", "application/vnd.dsse.envelope.v1+json", "registry"},
		{"dsse", "application/vnd.dsse.envelope.v1+json", "service"},
	} {
		more := flags(c.evidence)
		if c.uploaded != "statement" {
			more = append(more, "--hash-envelope", "always")
		}
		if c.uploaded == "service" {
			more = append(more, "--upload", "service")
		}
		got := s.attach(ref, more...)
		if got.Uploaded != c.uploaded || len(got.Deliveries) != 2 {
			t.Errorf("%s: %+v", c.evidence, got)
		}
		placed[c.mediaType]++
		staged = got.EntryID // in the end the one that was
	}
	listed := s.referrers("wabbit/net-monitor", digest)
	for mediaType, n := range placed {
		if listed[mediaType] != n {
			t.Errorf("%s: %d referrers, want %d", mediaType, listed[mediaType], n)
		}
	}

	size := s.logSize()
	for evidence, want := range map[string]string{
		"forged":  "not signed by whom the policy lists",
		"expired": "expired",
		"other":   "which the Sigstore bundle does not name",
	} {
		s.refused(16, []string{want}, "scitt", append([]string{"attach", ref, "--service", s.url}, flags(evidence)...)...)
	}
	// What only the registry has is judged no less, and what is nowhere is not there.
	s.refused(16, []string{"not signed by whom the policy lists"}, "scitt",
		append([]string{"attach", ref, "--service", s.url}, flags("forged", "--hash-envelope", "always")...)...)
	sum := statement.SHA256([]byte("nowhere")).Bytes()
	nowhere := s.signed("pkg:oci/net-monitor@"+digest, string(sum), func(t *statement.Template) {
		t.HashAlg, t.ContentType = -16, "application/vnd.dsse.envelope.v1+json"
	})
	for _, path := range []string{"/entries", "/v2/wabbit/net-monitor/_scitt/entries/register"} {
		a := s.ask(http.MethodPost, path, publish, nowhere)
		if a.status != http.StatusBadRequest || !strings.Contains(string(a.body), "PUT /v1/evidence/") || !strings.Contains(string(a.body), "--upload service") {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	if now := s.logSize(); now != size {
		t.Errorf("refused, but the log grew from %d to %d", size, now)
	}

	// Pushed with any OCI client, the statement has its evidence beside it.
	push := func(repository, evidence string) {
		hashed := s.signed("pkg:oci/net-monitor@"+digest, string(statement.SHA256([]byte(evidence)).Bytes()), func(t *statement.Template) {
			t.HashAlg, t.ContentType = -16, "application/vnd.dsse.envelope.v1+json"
		})
		if _, err := s.orasAttach(s.listen, repository, digest, storage.StatementType,
			[2]string{storage.StatementType, string(hashed)}, [2]string{"application/vnd.dsse.envelope.v1+json", evidence}); err != nil {
			t.Fatal(err)
		}
	}
	push("wabbit/net-monitor", string(s.read("dsse"))+"\t")
	if now := s.logSize(); now != size+1 {
		t.Errorf("pushed: the log grew from %d to %d", size, now)
	}
	// Or pushed past the service, and brought in later.
	if got := s.image("past/net-monitor:v1"); got != digest {
		t.Fatalf("past/net-monitor is %s, not %s", got, digest)
	}
	push("past/net-monitor", string(s.read("dsse"))+"\r")
	backfill := []string{"registry", "backfill", "past/net-monitor", "--dir", "service", "--token-file", "publish.token"}
	if out := s.run("scittd", append(backfill, "--dry-run")...); !strings.Contains(out, "would register") {
		t.Errorf("dry run of a backfill: %s", out)
	}
	s.run("scittd", backfill...)
	if now := s.logSize(); now != size+2 {
		t.Errorf("backfilled: the log grew from %d to %d", size+1, now)
	}

	// The log alone says what was decided, and whose evidence is judged again.
	if out := s.run("scittd", "log", "fsck", "--dir", "service"); strings.Contains(out, "DAMAGE") {
		t.Errorf("fsck: %s", out)
	}
	audit := []string{"--replay", s.url, "--key", "service/keys/operator.pub"}
	s.audit(0, []string{"as recorded", "OK"}, append(audit, "--complete")...)
	purged := s.ask(http.MethodPost, "/v1/entries/"+staged+"/evidence:purge", s.token("purge", "purge"), []byte(`{"reason":"a test"}`))
	if purged.status != http.StatusOK {
		t.Fatalf("purge: %d %s", purged.status, purged.body)
	}
	s.audit(0, []string{"NOT REPLAYED   1 entries: the evidence whose signer was judged is not at hand"}, audit...)
	s.audit(13, nil, append(audit, "--complete")...)
}
