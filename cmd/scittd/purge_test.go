package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/api/apitype"
)

const emptyScan = `{"version":"2.1.0","$schema":"https://json.schemastore.org/sarif-2.1.0.json","runs":[]}`

// evidenceOf reads what the service says about an entry's evidence.
func (s *site) evidenceOf(entry, token string) apitype.Evidence {
	s.t.Helper()
	var e apitype.Entry
	s.getJSON("/v1/entries/"+entry, token, &e)
	return e.Evidence
}

func TestEvidenceIsPurgedAndTheClaimStaysProvable(t *testing.T) {
	t.Parallel()
	for _, d := range []deployment{sqliteEmbedded, postgresDocker} {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			purgeStory(newSite(t, d))
		})
	}
}

func purgeStory(s *site) {
	t := s.t
	s.publishers()
	s.init(storyPolicy)
	running := s.serve()
	publish := s.token("publish", "publish")
	purge := s.token("purge", "purge")
	reader := s.token("reader", "read")
	s.login(publish)
	s.run("scitt", "trust", "init", s.url, "--yes")
	s.run("scitt", "trust", "add", "--issuer", "https://wabbit.example", "--roots", "wabbit/root.pem")
	image := s.registry + "/wabbit/net-monitor:v1"
	digest := s.image("wabbit/net-monitor:v1")
	s.write("sbom.json", s.run("kit", "sbom", filepath.Join(bin, "net-monitor")))
	s.write("scan.json", emptyScan)
	wabbit := []string{"--key", "wabbit/leaf.pem", "--cert-chain", "wabbit/chain.pem", "--issuer", "https://wabbit.example", "--token-file", "publish.token"}
	sbom := s.attach(image, append(wabbit, "--evidence", "sbom.json", "--hash-envelope", "always")...)
	scan := s.attach(image, append(wabbit, "--evidence", "scan.json", "--hash-envelope", "always", "--upload", "service")...)

	// While it is there it is given, whole or in part.
	path := "/v1/entries/" + sbom.EntryID + "/evidence"
	content := s.read("sbom.json")
	if got := s.get(path, ""); string(got) != string(content) {
		t.Errorf("evidence has %d bytes, want the %d of the SBOM", len(got), len(content))
	}
	if state := s.evidenceOf(sbom.EntryID, "").State; state != "placed" {
		t.Errorf("evidence is %q, want placed", state)
	}

	// Only a token for it purges; and only once.
	order := []byte(`{"reason":"it names a customer"}`)
	for token, want := range map[string]int{"": 401, publish: 403, purge: 200} {
		if a := s.ask(http.MethodPost, path+":purge", token, order); a.status != want {
			t.Errorf("purge: %d, want %d\n%s", a.status, want, a.body)
		}
	}
	first := s.evidenceOf(sbom.EntryID, "")
	s.ask(http.MethodPost, path+":purge", purge, []byte(`{"reason":"again"}`))
	second := s.evidenceOf(sbom.EntryID, reader)
	if first.State != "purged" || first.Size != int64(len(content)) || first.PurgedAt == nil || first.By != "" ||
		second.Reason != "it names a customer" || second.By == "" || !second.PurgedAt.Equal(*first.PurgedAt) {
		t.Errorf("purged: %+v, then %+v", first, second)
	}
	gone := s.ask(http.MethodGet, path, "", nil)
	var problem apitype.Problem
	if err := json.Unmarshal(gone.body, &problem); err != nil || gone.status != http.StatusGone || problem.Code != "evidence-purged" ||
		problem.Digest != first.Digest || problem.Size != first.Size || problem.MediaType != sbomType || problem.PurgedAt == nil || problem.Links == nil {
		t.Errorf("GET purged evidence: %d %s", gone.status, gone.body)
	}

	// The registry loses it, and what proves the claim stays.
	running.await("to remove the evidence", func() bool {
		held := s.referrers("wabbit/net-monitor", digest)
		return held[sbomType] == 0 && held[receiptType] == 2 && held[sarifType] == 1
	})
	if out := s.run("scitt", "status", sbom.EntryID, "--service", s.url); !strings.Contains(out, "purged "+first.PurgedAt.Format(time.DateOnly)) ||
		!strings.Contains(out, "claim proven by receipt") {
		t.Errorf("scitt status:\n%s", out)
	}
	if out := s.run("scitt", "verify", image, "--issuer", "https://wabbit.example", "--service", s.url); !strings.Contains(out, "evidence bytes: not checked (purged)") {
		t.Errorf("scitt verify:\n%s", out)
	}
	s.run("scitt", "verify", image, "--issuer", "https://wabbit.example", "--service", s.url, "--evidence", "sbom.json")
	fetched := s.run("scitt", "fetch", sbom.EntryID, "-o", "audit", "--what", "transparent,evidence", "--service", s.url)
	if !strings.Contains(fetched, "purged "+first.PurgedAt.Format(time.DateOnly)) {
		t.Errorf("scitt fetch:\n%s", fetched)
	}
	claims, err := filepath.Glob(s.path("audit/*.cose"))
	if err != nil || len(claims) != 1 {
		t.Fatalf("fetched %v, %v", claims, err)
	}
	s.run("unshare", "-rn", filepath.Join(bin, "scitt"), "verify", "--offline", "--issuer", "https://wabbit.example", claims[0])

	// The log tells of it, by the operator's word, and finds nothing wrong with that.
	if out := s.run("scittd", "evidence", "record", "--dir", "service", "--token-file", "publish.token"); !strings.Contains(out, "Recorded     1 entries") {
		t.Errorf("scittd evidence record:\n%s", out)
	}
	word := s.evidenceOf(sbom.EntryID, "").Statement
	if about := s.query("--digest", digest); !slices.Contains(about, word) || len(about) != 3 {
		t.Errorf("claims about the image: %v, want the purge %q among them", about, word)
	}
	if again := s.run("scittd", "evidence", "record", "--dir", "service", "--token-file", "publish.token"); again != "" {
		t.Errorf("recorded again: %s", again)
	}
	s.run("scittd", "log", "fsck", "--dir", "service")

	// A rule lets the rest go: nothing young, and nothing on a dry run.
	rule := func(name, age string) string {
		return s.write(name, "rules:\n  - {name: scans, olderThan: "+age+", mediaTypes: [application/sarif+json], repositories: [\"wabbit/*\"]}\n")
	}
	retention := []string{"evidence", "purge", "--dir", "service", "--token-file", "publish.token", "--retention"}
	if out := s.run("scittd", append(retention, rule("young.yaml", "36500d"))...); !strings.Contains(out, "Purged       0 pieces") {
		t.Errorf("retention of a hundred years:\n%s", out)
	}
	running.await("to be older than the rule", func() bool {
		return strings.Contains(s.run("scittd", append(retention, rule("rule.yaml", "1ns"), "--dry-run")...), fmt.Sprintf("Would purge  1 pieces of evidence, %d bytes", len(emptyScan)))
	})
	if state := s.evidenceOf(scan.EntryID, "").State; state != "placed" {
		t.Errorf("after a dry run evidence is %q", state)
	}
	s.refused(2, []string{"--reason is for named entries"}, "scittd", append(retention, "rule.yaml", "--reason", "because")...)
	s.run("scittd", append(retention, "rule.yaml")...)
	if e := s.evidenceOf(scan.EntryID, ""); e.State != "purged" || e.Statement == "" || e.Reason != "retention rule scans" {
		t.Errorf("after the rule evidence is %+v", e)
	}
	running.await("to remove what the rule let go", func() bool { return s.referrers("wabbit/net-monitor", digest)[sarifType] == 0 })

	// What was placed does not come back, whoever orders it.
	statement := s.get("/v1/entries/"+sbom.EntryID+"/statement", "")
	if a := s.ask(http.MethodPost, "/entries", publish, statement); a.status != http.StatusCreated {
		t.Errorf("resubmission: %d", a.status)
	}
	running.stop()
	running = s.serve()
	if e := s.evidenceOf(sbom.EntryID, ""); e.State != "purged" {
		t.Errorf("after a restart evidence is %+v", e)
	}
	running.stop()
	s.run("scittd", "log", "fsck", "--dir", "service")
}

func TestDeletingThroughTheFrontPurges(t *testing.T) {
	t.Parallel()
	s := newSite(t, sqliteEmbedded)
	s.publishers()
	s.init(storyPolicy)
	running := s.serve()
	publish := s.token("publish", "publish")
	s.login(publish)
	s.run("scitt", "trust", "init", s.url, "--yes")
	image := s.registry + "/wabbit/net-monitor:v1"
	digest := s.image("wabbit/net-monitor:v1")
	s.write("sbom.json", s.run("kit", "sbom", filepath.Join(bin, "net-monitor")))
	s.write("scan.json", emptyScan)
	wabbit := []string{"--key", "wabbit/leaf.pem", "--cert-chain", "wabbit/chain.pem", "--issuer", "https://wabbit.example", "--token-file", "publish.token"}
	sbom := s.attach(image, append(wabbit, "--evidence", "sbom.json")...)
	scan := s.attach(image, append(wabbit, "--evidence", "scan.json", "--hash-envelope", "always", "--upload", "service")...)
	manifest := func(a attachment) string {
		for _, d := range a.Deliveries {
			if d.Artifact == "evidence" {
				return d.Manifest
			}
		}
		t.Fatalf("no evidence was placed: %+v", a)
		return ""
	}
	remove := func(path, token string) int {
		return s.ask(http.MethodDelete, "/v2/wabbit/net-monitor/"+path, token, nil).status
	}

	// Who may not delete purges nothing, and a tag is not the image.
	if got := remove("manifests/"+manifest(sbom), ""); got != http.StatusUnauthorized {
		t.Errorf("anonymous delete: %d", got)
	}
	if got := remove("manifests/v1", publish); got != http.StatusAccepted {
		t.Errorf("delete of the tag: %d", got)
	}
	for _, a := range []attachment{sbom, scan} {
		if e := s.evidenceOf(a.EntryID, ""); e.State != "placed" {
			t.Errorf("evidence is %+v, want placed", e)
		}
	}
	if got := remove("manifests/"+manifest(sbom), publish); got != http.StatusAccepted {
		t.Fatalf("delete of evidence: %d", got)
	}
	if e := s.evidenceOf(sbom.EntryID, ""); e.State != "purged" || e.Size == 0 {
		t.Errorf("evidence is %+v, want purged", e)
	}
	if e := s.evidenceOf(scan.EntryID, ""); e.State != "placed" {
		t.Errorf("the other evidence is %+v, want placed", e)
	}
	if got := remove("manifests/"+digest, publish); got != http.StatusAccepted {
		t.Fatalf("delete of the image: %d", got)
	}
	if e := s.evidenceOf(scan.EntryID, ""); e.State != "purged" || e.Size != int64(len(emptyScan)) {
		t.Errorf("evidence of a deleted image is %+v, want purged", e)
	}
	if a := s.ask(http.MethodGet, "/v1/entries/"+scan.EntryID+"/evidence", "", nil); a.status != http.StatusGone {
		t.Errorf("GET evidence: %d, want 410", a.status)
	}

	// Whoever comes with another claim about it is told that it is gone.
	s.write("other.json", emptyScan+" ")
	late := s.run("scitt", append([]string{"sign", digest, "--evidence", "other.json", "--media-type", sarifType, "-o", "late.cose"}, wabbit[:6]...)...)
	a := s.ask(http.MethodPost, "/v2/wabbit/net-monitor/_scitt/entries/register", publish, s.read("late.cose"))
	if a.status != http.StatusCreated {
		t.Fatalf("register: %d %s%s", a.status, a.body, late)
	}
	entry := strings.TrimPrefix(a.header.Get("Location"), "/entries/")
	entry = entry[strings.LastIndex(entry, "/")+1:]
	running.await("to give up on the image", func() bool {
		var list apitype.Deliveries
		s.getJSON("/v1/entries/"+entry+"/deliveries", "", &list)
		return slices.ContainsFunc(list.Deliveries, func(d apitype.Delivery) bool {
			return d.State == "refused" && strings.Contains(d.LastError, "subject-gone")
		})
	})
	running.stop()
}
