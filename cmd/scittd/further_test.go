package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/scittd/scittd/internal/testenv"
	"github.com/scittd/scittd/statement"
	"github.com/scittd/scittd/storage"
)

func TestAClaimIsPlacedWhereverItIsPushed(t *testing.T) {
	t.Parallel()
	s := newSite(t, sqliteEmbedded)
	s.keyPair("tester")
	s.settings = append(s.settings, "--registry-push-through", "off:past/*")
	s.init(pushPolicy)
	running := s.serve()
	s.login(s.token("publish", "publish"))
	s.token("reader", "read")
	s.run("scitt", "trust", "init", s.url, "--yes")
	s.run("scitt", "trust", "add", "--issuer", "https://tests.wabbit.example", "--key", "tester.pub")
	digest := s.image("wabbit/net-monitor:v1")
	for _, other := range []string{"copies/net-monitor:v1", "third/net-monitor:v1", "past/net-monitor:v1"} {
		s.image(other)
	}
	claim := s.signed("pkg:oci/net-monitor@"+digest, `{"bomFormat":"CycloneDX"}`)
	s.write("claim.cose", string(claim))
	placed := func(repository string) func() bool {
		return func() bool { return s.listed(s.listen, repository, digest)[receiptType] == 1 }
	}
	push := func(repository string) {
		t.Helper()
		if _, err := s.orasAttach(s.listen, repository, digest, storage.StatementType, [2]string{storage.StatementType, string(claim)}); err != nil {
			t.Fatal(err)
		}
	}
	push("wabbit/net-monitor")
	running.await("to place the claim", placed("wabbit/net-monitor"))
	size := s.logSize()

	// By a push, by attach, and by a backfill of what came past the service.
	push("copies/net-monitor")
	running.await("to place the claim in a second repository, too", placed("copies/net-monitor"))
	third := s.registry + "/third/net-monitor:v1"
	if out := s.run("scitt", "attach", third, "--statement", "claim.cose", "--token-file", "publish.token", "--wait", "placed", "-q"); !placed("third/net-monitor")() {
		t.Errorf("attached and waited for, but there is no receipt:\n%s", out)
	}
	push("past/net-monitor")
	backfill := func(repository string, flags ...string) string {
		t.Helper()
		return s.run("scittd", append([]string{"registry", "backfill", repository, "--dir", "service", "--token-file", "publish.token"}, flags...)...)
	}
	for _, step := range []struct {
		want  string
		flags []string
	}{{"would place", []string{"--dry-run"}}, {"placed", nil}, {"known", nil}} {
		if out := backfill("past/net-monitor", step.flags...); !strings.HasPrefix(out, step.want+" ") {
			t.Errorf("backfill %v: %s\nwant %s", step.flags, out, step.want)
		}
	}
	running.await("to place what was backfilled", placed("past/net-monitor"))
	if now := s.logSize(); now != size {
		t.Errorf("the log has %d entries, had %d", now, size)
	}
	s.refused(3, []string{"no/such", "no such repository"}, "scittd", "registry", "backfill", "no/such", "--dir", "service", "--token-file", "publish.token")
	s.refused(3, []string{"no such image"}, "scittd", "registry", "backfill", "past/net-monitor:v9", "--dir", "service", "--token-file", "publish.token")

	// A purge that could not be recorded does not begin.
	id := s.entryOf(claim)
	purge := []string{"evidence", "purge", id, "--dir", "service", "--reason", "a test"}
	for _, token := range [][]string{nil, {"--token-file", "reader.token"}} {
		s.refused(1, []string{"nothing is purged", "--no-statement"}, "scittd", append(purge, token...)...)
		if e := s.evidenceOf(id, ""); e.State != "placed" {
			t.Errorf("purged with %v: evidence is %q", token, e.State)
		}
	}
	s.run("scittd", append(purge, "--token-file", "publish.token")...)
	out := s.run("scitt", "verify", third, "--issuer", "https://tests.wabbit.example")
	if !strings.Contains(out, "SKIP  issuer") || strings.Contains(out, "FAIL") || !strings.Contains(out, "verified: 1 of 2") {
		t.Errorf("verify beside the service's own record of a purge:\n%s", out)
	}
	running.stop()
	s.run("scittd", "log", "fsck", "--dir", "service")
}

func TestOperatorsAreToldWhatIsWrongInTheirOwnTerms(t *testing.T) {
	t.Parallel()
	s := newSite(t, sqliteEmbedded)
	s.keyPair("tester")
	s.init(pushPolicy)

	nowhere := filepath.Join("nowhere", "head.json")
	for _, command := range [][]string{{"init", "--dir", "other", "--policy", "policy.yaml", "--keys-operator", "service/keys/operator.pem"}, {"check", "--dir", "service"}, {"serve", "--dir", "service"}} {
		s.refused(2, []string{"memory.file", "nowhere"}, "scittd", append(command, "--memory-file", nowhere)...)
	}
	s.refused(2, []string{"scittd outbox list with --dir or --config"}, "scittd", "outbox", "list", "--dir", "nowhere")
	s.refused(2, []string{"where this service listens"}, "scittd", "check", "--dir", "service",
		"--registry-host", s.listen, "--registry-plain-http", "--registry-front", "in-front")

	s.write("rules.yaml", "rules:\n  - name: scans\n    olderthan: 90d\n")
	s.refused(2, []string{"line 3", "unknown key olderthan", "allowed here: name, olderThan, mediaTypes"},
		"scittd", "evidence", "purge", "--dir", "service", "--retention", "rules.yaml", "--dry-run")

	help := s.run("scittd", "outbox", "retry", "--help")
	if !strings.Contains(help, "--dir") || !strings.Contains(help, "scittd serve --help") || strings.Contains(help, "--limits-") {
		t.Errorf("help of a verb:\n%s", help)
	}
	if help := s.run("scittd", "serve", "--help"); !strings.Contains(help, "--limits-") {
		t.Errorf("help of serve:\n%s", help)
	}
	s.refused(1, []string{"--state queued"}, "scittd", "outbox", "retry", "--all", "--dir", "service")
}

// entryOf is the ID of a statement as it was signed.
func (s *site) entryOf(signed []byte) string {
	s.t.Helper()
	read, err := statement.Parse(signed)
	if err != nil {
		s.t.Fatal(err)
	}
	return read.ID().String()
}

func TestTheExampleForALaptopWorksAsItSays(t *testing.T) {
	t.Parallel()
	s := newSite(t, sqliteEmbedded)
	s.keyPair("tester")
	if err := os.MkdirAll(s.path("service/keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.keyPair("service/keys/operator")
	s.write("service/scittd.yaml", adapted(t, "in-front-laptop.yaml",
		"url: http://127.0.0.1:8080", "url: "+s.url, "listen: 127.0.0.1:8080", "listen: "+s.listen, "dir: data", "dir: .", "host: 127.0.0.1:5000", "host: "+testenv.Registry(t)))
	s.write("policy.yaml", pushPolicy)
	s.run("scittd", "init", "--config", "service/scittd.yaml", "--policy", "policy.yaml")
	running := s.serve()
	s.write("publish.token", "none: this registry lets everybody push")
	digest := s.image("wabbit/net-monitor:v1")
	claim := s.signed("pkg:oci/net-monitor@"+digest, `{"bomFormat":"CycloneDX"}`)
	if _, err := s.orasAttach(s.listen, "wabbit/net-monitor", digest, storage.StatementType, [2]string{storage.StatementType, string(claim)}); err != nil {
		t.Fatal(err)
	}
	running.await("to place the claim", func() bool { return s.listed(s.listen, "wabbit/net-monitor", digest)[receiptType] == 1 })
	report := s.run("scittd", "registry", "probe", "--dir", "service", s.listen+"/probe/it")
	if !strings.Contains(report, "delete") {
		t.Errorf("probe through the front:\n%s", report)
	}
	if tags := string(s.get("/v2/probe/it/tags/list", "")); strings.Contains(tags, "sha256-") {
		t.Errorf("the probe has left tags behind: %s\n%s", tags, report)
	}
	running.stop()
}

func TestPurgedEvidenceIsNotListedFromMemory(t *testing.T) {
	t.Parallel()
	s := newSite(t, inFrontOfDocker)
	s.keyPair("tester")
	s.init(pushPolicy)
	running := s.serve()
	s.token("publish", "publish")
	digest := s.image("wabbit/net-monitor:v1")
	claim := s.signed("pkg:oci/net-monitor@"+digest, `{"bomFormat":"CycloneDX"}`)
	if _, err := s.orasAttach(s.listen, "wabbit/net-monitor", digest, storage.StatementType, [2]string{storage.StatementType, string(claim)}); err != nil {
		t.Fatal(err)
	}
	// The list is read, and what it says of the evidence is remembered.
	running.await("to place the evidence", func() bool { return s.listed(s.listen, "wabbit/net-monitor", digest)[sbomType] == 1 })
	s.run("scittd", "evidence", "purge", s.entryOf(claim), "--dir", "service", "--reason", "a test", "--no-statement")
	running.await("to list no purged evidence", func() bool { return s.listed(s.listen, "wabbit/net-monitor", digest)[sbomType] == 0 })
	if got := s.listed(s.listen, "wabbit/net-monitor", digest); got[receiptType] != 1 {
		t.Errorf("listed after the purge: %v, want the receipt", got)
	}
	running.stop()
}
