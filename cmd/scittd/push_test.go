package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/internal/testenv"
	"github.com/scittd/scittd/statement"
	"github.com/scittd/scittd/storage"
)

func TestRepositoryRulesAreReadInOrder(t *testing.T) {
	mode, err := repositoryRules("x", []string{"gate:prod/*", "off:scratch", "gate:*/release-*"}, "observe", pushModes)
	if err != nil {
		t.Fatal(err)
	}
	for repository, want := range map[string]string{
		"prod/app": "gate", "prod/app/arm": "gate", "prod": "observe", "production/app": "observe", "scratch": "off", "scratch/a/b": "off",
		"scratches": "observe", "wabbit/release-1": "gate", "wabbit/release-1/x": "gate", "wabbit/app": "observe",
	} {
		if got := mode(repository); got != want {
			t.Errorf("%s: %s, want %s", repository, got, want)
		}
	}
	for _, bad := range []string{"", "gate", "gate:", "deny:*", "gate:[", ":*"} {
		if _, err := repositoryRules("x", []string{bad}, "observe", pushModes); err == nil || !strings.Contains(err.Error(), "off|observe|gate:PATTERN") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// inFrontOfDocker is a service through which a registry without the referrers
// API is used.
var inFrontOfDocker = deployment{"PostgreSQL, in front of docker-registry", func(t *testing.T) (string, []string) {
	return "", []string{"--database-url", testenv.Database(t), "--registry-host", testenv.Registry(t), "--registry-plain-http", "--registry-front", "in-front"}
}}

const pushPolicy = `
version: 1
operators:
  - key: service/keys/operator.pub
issuers:
  - iss: https://tests.wabbit.example
    key: tester.pub
    repositories: ["wabbit/*"]
subjects: [intoto, sub]
visibility: public
`

// signed is a statement by tester about sub, which need not be an image.
func (s *site) signed(sub string, payload string, change ...func(*statement.Template)) []byte {
	s.t.Helper()
	key, err := cose.ParsePrivatePEM(s.read("tester.pem"))
	if err != nil {
		s.t.Fatal(err)
	}
	tmpl := statement.Template{Issuer: "https://tests.wabbit.example", Subject: sub, ContentType: sbomType, Payload: []byte(payload)}
	for _, c := range change {
		c(&tmpl)
	}
	body, err := statement.Sign(tmpl, key)
	if err != nil {
		s.t.Fatal(err)
	}
	return body
}

func detached(t *statement.Template) { t.Detached = true }

func stranger(t *statement.Template) { t.Issuer = "https://mallory.example" }

// orasAttach does what `oras attach --artifact-type T REPO@SUBJECT FILE:T` does,
// against any host, and returns the manifest.
func (s *site) orasAttach(host, repository, subject, artifactType string, layers ...[2]string) (ocispec.Descriptor, error) {
	s.t.Helper()
	ctx := context.Background()
	repo := s.orasRepository(host, repository)
	image, err := repo.Resolve(ctx, subject)
	if err != nil {
		return image, err
	}
	var files []ocispec.Descriptor
	for _, layer := range layers {
		d := content.NewDescriptorFromBytes(layer[0], []byte(layer[1]))
		if err := repo.Push(ctx, d, strings.NewReader(layer[1])); err != nil {
			return image, err
		}
		files = append(files, d)
	}
	return oras.PackManifest(ctx, repo, oras.PackManifestVersion1_1, artifactType, oras.PackManifestOptions{Subject: &image, Layers: files})
}

func (s *site) orasRepository(host, repository string) *remote.Repository {
	s.t.Helper()
	repo, err := remote.NewRepository(host + "/" + repository)
	if err != nil {
		s.t.Fatal(err)
	}
	repo.PlainHTTP = true
	password := strings.TrimSpace(string(s.read("publish.token")))
	repo.Client = &auth.Client{
		Client: s.http, Cache: auth.NewCache(), Credential: auth.StaticCredential(host, auth.Credential{Username: "wabbit", Password: password}), // of a token of ours, any user name will do
	}
	return repo
}

// listed are the artifact types of what oras discovers, with how often.
func (s *site) listed(host, repository, subject string) map[string]int {
	s.t.Helper()
	repo := s.orasRepository(host, repository)
	image, err := repo.Resolve(context.Background(), subject)
	if err != nil {
		s.t.Fatal(err)
	}
	counts := map[string]int{}
	err = repo.Referrers(context.Background(), image, "", func(page []ocispec.Descriptor) error {
		for _, d := range page {
			counts[d.ArtifactType]++
		}
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return counts
}

func (s *site) logSize() uint64 {
	s.t.Helper()
	var service apitype.Service
	s.getJSON("/v1/service", "", &service)
	return service.TreeSize
}

func TestStatementsAreRegisteredByPush(t *testing.T) {
	t.Parallel()
	for _, d := range []deployment{sqliteEmbedded, inFrontOfDocker} {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			pushStory(newSite(t, d))
		})
	}
}

func pushStory(s *site) {
	t := s.t
	s.keyPair("tester")
	s.settings = append(s.settings, "--registry-push-through", "gate:strict/*,off:past/*")
	s.init(pushPolicy)
	running := s.serve()
	if token := s.token("publish", "publish"); len(s.settings) == 2 {
		s.login(token) // elsewhere the registry knows its own callers
	}
	s.run("scitt", "trust", "init", s.url, "--yes")
	s.run("scitt", "trust", "add", "--issuer", "https://tests.wabbit.example", "--key", "tester.pub")
	digest := s.image("wabbit/net-monitor:v1")
	for _, other := range []string{"strict/net-monitor:v1", "past/net-monitor:v1", "copies/net-monitor:v1"} {
		if got := s.image(other); got != digest {
			t.Fatalf("%s is %s, not %s", other, got, digest)
		}
	}
	statementOf := func(b []byte) [2]string { return [2]string{storage.StatementType, string(b)} }
	attach := func(repository string, layers ...[2]string) (ocispec.Descriptor, error) {
		return s.orasAttach(s.listen, repository, digest, storage.StatementType, layers...)
	}

	// Evidence is pushed first, the claim later: both are found, and the receipt
	// is there when the push is.
	const sbom = `{"bomFormat":"CycloneDX","specVersion":"1.6"}`
	if _, err := s.orasAttach(s.listen, "wabbit/net-monitor", digest, sbomType, [2]string{sbomType, sbom}); err != nil {
		t.Fatal(err)
	}
	sum := statement.SHA256([]byte(sbom)).Bytes()
	claim := s.signed("pkg:oci/net-monitor@"+digest, string(sum), func(t *statement.Template) { t.HashAlg = -16 })
	if _, err := attach("wabbit/net-monitor", statementOf(claim)); err != nil {
		t.Fatal(err)
	}
	running.await("to place the claim", func() bool { return s.listed(s.listen, "wabbit/net-monitor", digest)[receiptType] == 1 })
	if got := s.listed(s.listen, "wabbit/net-monitor", digest); got[sbomType] != 1 || got[storage.StatementType] != 1 || got[receiptType] != 1 {
		t.Errorf("referrers %v", got)
	}
	size := s.logSize()
	if _, err := attach("wabbit/net-monitor", statementOf(claim)); err != nil || s.logSize() != size {
		t.Errorf("pushed again: %v, log of %d, was %d", err, s.logSize(), size)
	}

	// Refused: noted in one repository, denied in the other.
	bad := s.signed("pkg:oci/net-monitor@"+digest, sbom, stranger)
	noted, err := attach("wabbit/net-monitor", statementOf(bad))
	if err != nil {
		t.Fatal(err)
	}
	var refusals apitype.PushRefusals
	s.getJSON("/v2/wabbit/net-monitor/_scitt/entries/refused", "", &refusals)
	if len(refusals.Refusals) != 1 || refusals.Refusals[0].Manifest != noted.Digest.String() || refusals.Refusals[0].Code != "unknown-issuer-key" || refusals.Refusals[0].Image != digest {
		t.Errorf("refusals %+v", refusals)
	}
	if out := s.run("scittd", "registry", "refusals", "--dir", "service", "--repository", "wabbit/net-monitor"); !strings.Contains(out, noted.Digest.String()) || !strings.Contains(out, "mallory") {
		t.Errorf("scittd registry refusals: %s", out)
	}
	_, err = attach("strict/net-monitor", statementOf(bad))
	var denied *errcode.ErrorResponse
	if !errors.As(err, &denied) || denied.StatusCode != http.StatusForbidden || !strings.Contains(err.Error(), "mallory") {
		t.Errorf("gate: %v", err)
	}
	if got := s.listed(s.listen, "strict/net-monitor", digest); len(got) != 0 {
		t.Errorf("denied, and still there: %v", got)
	}

	// What contradicts its manifest is refused everywhere.
	for what, b := range map[string][]byte{
		"another subject":    s.signed("pkg:oci/net-monitor@"+string(statement.SHA256(nil)), sbom),
		"another repository": s.signed(s.listen+"/wabbit/other@"+digest, sbom),
		"no statement":       []byte("claim"),
	} {
		if _, err := attach("wabbit/net-monitor", statementOf(b)); !errors.As(err, &denied) || denied.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %v", what, err)
		}
	}

	s.detachedByPush(running, digest)
	s.copied(digest)
	s.backfilled(digest)

	out := s.run("scittd", "log", "fsck", "--dir", "service")
	if !strings.Contains(out, "NOT RECOMPUTED  the issuer's signature of 4 entries") {
		t.Errorf("fsck: %s", out)
	}
	running.stop()
}

// detachedByPush: a publisher who has signed an SBOM before any of this existed.
func (s *site) detachedByPush(running *server, digest string) {
	t := s.t
	const sbom = `{"bomFormat":"CycloneDX","specVersion":"1.5"}`
	b := s.signed("net-monitor", sbom, detached) // which names no image
	parsed, err := statement.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	id := parsed.ID().String()
	s.write("sbom.json", sbom)
	s.write("detached.cose", string(b))
	s.refused(16, []string{"Payload Missing", "hash envelope", "/v1/evidence/"}, "scitt", "submit", "detached.cose", "--service", s.url, "--token-file", "publish.token")
	if _, err := s.orasAttach(s.listen, "wabbit/net-monitor", digest, storage.StatementType, [2]string{storage.StatementType, string(b)}, [2]string{sbomType, sbom}); err != nil {
		t.Fatal(err)
	}
	var e apitype.Entry
	s.getJSON("/v1/entries/"+id, "", &e)
	if e.Evidence.Digest != string(statement.SHA256([]byte(sbom))) || len(e.Artifacts) != 0 {
		t.Errorf("entry %+v", e)
	}
	running.await("to place the claim", func() bool {
		var d apitype.Deliveries
		s.getJSON("/v1/entries/"+id+"/deliveries", "", &d)
		for _, d := range d.Deliveries {
			if d.Subject != digest || d.State != "done" {
				return false
			}
		}
		return len(d.Deliveries) == 2
	})

	// The issuer's signature is verified over the SBOM by who has it, and the
	// others are told that it was not.
	s.run("scitt", "fetch", id, "-o", "got", "--what", "transparent,evidence", "--service", s.url)
	if got := string(s.read("got/" + id[:12] + ".evidence")); got != sbom {
		t.Errorf("fetched %q", got)
	}
	file := "got/" + id[:12] + ".cose"
	issuer := []string{"--issuer", "https://tests.wabbit.example", "--offline"}
	if out := s.run("scitt", append([]string{"verify", file, "--evidence", "sbom.json"}, issuer...)...); !strings.Contains(out, "ES256 by the pinned key") || !strings.Contains(out, "over which the issuer's signature is") {
		t.Errorf("verify: %s", out)
	}
	if out := s.run("scitt", append([]string{"verify", file}, issuer...)...); !strings.Contains(out, "SKIP") || !strings.Contains(out, "detached payload") {
		t.Errorf("verify without the payload: %s", out)
	}
	s.write("another.json", sbom+"\n")
	s.refused(12, nil, "scitt", append([]string{"verify", file, "--evidence", "another.json"}, issuer...)...)

	// The same by submitting it, with the evidence beside it.
	s.write("second.cose", string(s.signed("pkg:oci/net-monitor@"+digest, sbom, detached)))
	if out := s.run("scitt", "submit", "second.cose", "--evidence", "sbom.json", "--service", s.url, "--token-file", "publish.token"); !strings.Contains(out, "Registered") {
		t.Errorf("submit: %s", out)
	}
	s.write("third.cose", string(s.signed("net-monitor, the third", sbom, detached)))
	out := s.run("scitt", "attach", s.registry+"/wabbit/net-monitor:v1", "--statement", "third.cose", "--evidence", "sbom.json", "--service", s.url, "--token-file", "publish.token", "--wait", "placed")
	if !strings.Contains(out, "staged at the service") || strings.Count(out, "Placement") != 2 {
		t.Errorf("attach: %s", out)
	}
}

// copied: what this service hung on the image is copied, as by oras cp -r.
func (s *site) copied(digest string) {
	t := s.t
	ctx := context.Background()
	from, to := s.orasRepository(s.listen, "wabbit/net-monitor"), s.orasRepository(s.listen, "copies/net-monitor")
	image, err := from.Resolve(ctx, digest)
	if err != nil {
		t.Fatal(err)
	}
	size, copies := s.logSize(), 0
	err = from.Referrers(ctx, image, receiptType, func(page []ocispec.Descriptor) error {
		for _, d := range page {
			copies++
			if err := oras.CopyGraph(ctx, from, to, d, oras.DefaultCopyGraphOptions); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || copies == 0 || s.logSize() != size {
		t.Errorf("%d artifacts copied, %v: the log has %d entries, had %d", copies, err, s.logSize(), size)
	}
}

// backfilled: statements that came past the service.
func (s *site) backfilled(digest string) {
	t := s.t
	push := func(b []byte, more ...[2]string) string {
		d, err := s.orasAttach(s.listen, "past/net-monitor", digest, storage.StatementType, append([][2]string{{storage.StatementType, string(b)}}, more...)...)
		if err != nil {
			t.Fatal(err)
		}
		return d.Digest.String()
	}
	const sbom = `{"bomFormat":"CycloneDX","specVersion":"1.4"}`
	size := s.logSize()
	want := map[string]string{
		push(s.signed("pkg:oci/net-monitor@"+digest, sbom)):                        "registered",
		push(s.signed("pkg:oci/net-monitor@"+digest, sbom, stranger)):              "refused",
		push(s.signed("pkg:oci/net-monitor@"+string(statement.SHA256(nil)), sbom)): "refused",
		push([]byte("claim")): "malformed",
		push(s.signed("pkg:oci/net-monitor@"+digest, sbom, detached), [2]string{sbomType, sbom}): "registered",
		push(s.signed("pkg:oci/net-monitor@"+digest, sbom), [2]string{"a/b", "an extra"}):        "known",
	}
	if s.logSize() != size {
		t.Fatal("push_through is off, and something was registered")
	}
	run := func(flags ...string) map[string]string {
		out := s.run("scittd", append([]string{"registry", "backfill", "past/net-monitor", "--dir", "service", "--token-file", "publish.token", "--format", "json"}, flags...)...)
		var all []backfilled
		if err := json.Unmarshal([]byte(out), &all); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		got := map[string]string{}
		for _, r := range all {
			if got[r.Manifest] = r.Outcome; r.Image != digest || r.Repository != "past/net-monitor" {
				t.Errorf("%+v", r)
			}
		}
		return got
	}
	said := map[string]int{}
	for manifest, outcome := range run("--dry-run") {
		said[outcome]++
		if outcome == "registered" || outcome != want[manifest] && outcome != "would register" && outcome != "undecided" {
			t.Errorf("dry run of %s: %s", manifest, outcome)
		}
	}
	if s.logSize() != size || said["undecided"] != 1 {
		t.Errorf("the dry run: log of %d after %d; %v, want the detached one undecided", s.logSize(), size, said)
	}
	got := run()
	registered := 0
	for manifest, outcome := range want {
		if got[manifest] == "registered" {
			registered++
		}
		same := got[manifest] == outcome || outcome == "known" && got[manifest] == "registered" || outcome == "registered" && got[manifest] == "known" // whichever is met first
		if !same {
			t.Errorf("%s: %s, want %s", manifest, got[manifest], outcome)
		}
	}
	if len(got) != len(want) || registered != 2 || s.logSize() != size+2 {
		t.Errorf("%d of %d looked at, %d registered, log of %d after %d", len(got), len(want), registered, s.logSize(), size)
	}
	for manifest, outcome := range run() {
		if outcome == "registered" {
			t.Errorf("%s is registered again", manifest)
		}
	}
}

// A registry that judges its callers itself judges those who push statements,
// too, before anything is done for them. What it stored while the log was away is
// registered by a backfill, if it is not pushed again.
func TestAStatementIsPushedWithTheRegistrysOwnCredentials(t *testing.T) {
	t.Parallel()
	pg := testenv.StartPostgres(t)
	s := standing(t, "in-front", lockedRegistry(t), pg.Database(t))
	running := s.serve("--register-wait", "1s")
	s.token("operator", "publish")
	digest := s.image("wabbit/net-monitor:v1")
	push := func(n int, password string) error {
		s.write("publish.token", password)
		claim := s.signed("pkg:oci/net-monitor@"+digest, fmt.Sprintf(`{"bomFormat":"CycloneDX","version":%d}`, n))
		_, err := s.orasAttach(s.listen, "wabbit/net-monitor", digest, storage.StatementType, [2]string{storage.StatementType, string(claim)})
		return err
	}
	size := s.logSize()
	if err := push(1, "wrong"); err == nil {
		t.Error("somebody else pushed a statement")
	}
	if err := push(1, "secret"); err != nil || s.logSize() != size+1 {
		t.Errorf("%v; the log has %d entries, had %d", err, s.logSize(), size)
	}
	running.await("to place the claim", func() bool { return s.listed(s.listen, "wabbit/net-monitor", digest)[receiptType] == 1 })

	pg.Stop(t)
	var unavailable *errcode.ErrorResponse
	if err := push(2, "secret"); !errors.As(err, &unavailable) || unavailable.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("without the log: %v", err)
	}
	pg.Start(t)
	running.await("to find its database again", func() bool {
		return s.ask(http.MethodGet, "/readyz/write", "", nil).status == http.StatusOK
	})
	out := s.run("scittd", "registry", "backfill", "wabbit/net-monitor", "--config", "service/scittd.yaml", "--token-file", "operator.token")
	if s.logSize() != size+2 || !strings.Contains(out, "2 statements") || strings.Contains(out, "refused") || strings.Contains(out, "failed") {
		t.Errorf("the log has %d entries, had %d; backfill says\n%s", s.logSize(), size, out)
	}
	running.await("to place the other", func() bool { return s.listed(s.listen, "wabbit/net-monitor", digest)[receiptType] == 2 })
	running.stop()
}
