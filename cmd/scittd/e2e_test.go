package main

import (
	"bytes"
	"encoding/json"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	registrytest "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/internal/testenv"
)

var postgresReferrers = deployment{"PostgreSQL and a registry that lists referrers", func(t *testing.T) (string, []string) {
	registry := httptest.NewServer(registrytest.New(registrytest.WithReferrersSupport(true), registrytest.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(registry.Close)
	host := strings.TrimPrefix(registry.URL, "http://")
	return host, []string{"--database-url", testenv.Database(t), "--registry-host", host, "--registry-plain-http"}
}}

// storyPolicy admits a vendor by certificate, its test system by key, and a
// team whose claims stay private.
const storyPolicy = `
version: 1
operators:
  - key: service/keys/operator.pub
issuers:
  - iss: https://wabbit.example
    x509: {roots: [wabbit/root.pem]}
    mediaTypes: [application/vnd.cyclonedx+json, application/vnd.in-toto+json, application/sarif+json]
    repositories: ["wabbit/*"]
  - iss: https://tests.wabbit.example
    key: tester.pub
    mediaTypes: [application/vnd.in-toto+json]
    repositories: ["wabbit/*"]
  - iss: https://internal.wabbit.example
    key: internal.pub
    visibility: private
subjects: [intoto, sub]
visibility: public
`

const (
	sbomType    = "application/vnd.cyclonedx+json"
	inTotoType  = "application/vnd.in-toto+json"
	sarifType   = "application/sarif+json"
	receiptType = "application/scitt-receipt+cose"
)

// attachment is what scitt attach --format json reports.
type attachment struct {
	EntryID    string             `json:"entryId"`
	Uploaded   string             `json:"uploaded"`
	LeafIndex  uint64             `json:"leafIndex"`
	Deliveries []apitype.Delivery `json:"deliveries"`
}

// attach makes a claim about image and returns the report.
func (s *site) attach(image string, flags ...string) attachment {
	s.t.Helper()
	out := s.run("scitt", append([]string{"attach", image, "--service", s.url, "--wait", "placed", "--format", "json"}, flags...)...)
	var report struct{ Data attachment }
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		s.t.Fatalf("scitt attach: %v\n%s", err, out)
	}
	for _, d := range report.Data.Deliveries {
		if d.State != "done" {
			s.t.Errorf("%s of entry %s is %s: %s", d.Artifact, report.Data.EntryID, d.State, d.LastError)
		}
	}
	return report.Data
}

// query returns the entries that scitt query lists.
func (s *site) query(flags ...string) []string {
	s.t.Helper()
	out := s.run("scitt", append([]string{"query", "--service", s.url, "--format", "json", "--allow-empty"}, flags...)...)
	var report struct{ Data apitype.EntryList }
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		s.t.Fatalf("scitt query: %v\n%s", err, out)
	}
	var ids []string
	for _, e := range report.Data.Entries {
		ids = append(ids, e.EntryID)
	}
	slices.Sort(ids)
	return ids
}

// referrers counts what refers to an image, by the artifactType of the manifests
// themselves (not every registry lists it right); each may be listed once only.
func (s *site) referrers(repository, digest string) map[string]int {
	s.t.Helper()
	image, err := name.NewDigest(s.registry+"/"+repository+"@"+digest, name.Insecure)
	if err != nil {
		s.t.Fatal(err)
	}
	index, err := remote.Referrers(image, remote.WithTransport(s.http.Transport))
	if err != nil {
		s.t.Fatal(err)
	}
	list, err := index.IndexManifest()
	if err != nil {
		s.t.Fatal(err)
	}
	counts, seen := map[string]int{}, map[string]bool{}
	for _, d := range list.Manifests {
		if seen[d.Digest.String()] {
			s.t.Errorf("%s is listed twice under %s", d.Digest, digest)
		}
		seen[d.Digest.String()] = true
		m, err := s.manifest(repository + "@" + d.Digest.String())
		if err != nil {
			s.t.Fatal(err)
		}
		var own struct{ ArtifactType string }
		if err := json.Unmarshal(m.Manifest, &own); err != nil {
			s.t.Fatal(err)
		}
		counts[own.ArtifactType]++
	}
	return counts
}

func (s *site) receipts(ids []string, token string) map[string]string {
	s.t.Helper()
	all := map[string]string{}
	for _, id := range ids {
		all[id] = string(s.get("/v1/entries/"+id+"/receipt", token))
	}
	return all
}

// publishers makes the keys and certificates that storyPolicy names.
func (s *site) publishers() {
	s.t.Helper()
	if err := os.MkdirAll(s.path("wabbit"), 0o700); err != nil {
		s.t.Fatal(err)
	}
	s.run("kit", "chain", "wabbit", "https://wabbit.example")
	for _, name := range []string{"tester", "internal", "mallory"} {
		s.keyPair(name)
	}
}

// image pushes net-monitor and returns its digest.
func (s *site) image(tag string) string {
	s.t.Helper()
	return strings.TrimSpace(s.run("kit", "image", filepath.Join(bin, "net-monitor"), s.registry+"/"+tag))
}

func TestTheStoryFromImageToReceiptAfterThePurge(t *testing.T) {
	t.Parallel()
	for _, d := range []struct {
		deployment
		tagSchema bool
	}{{sqliteEmbedded, false}, {postgresDocker, true}, {postgresReferrers, false}} {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			story(newSite(t, d.deployment), d.tagSchema)
		})
	}
}

func story(s *site, tagSchema bool) {
	t := s.t

	// A service starts; its tokens are made beside it, its key is pinned.
	s.publishers()
	s.init(storyPolicy)
	running := s.serve()
	publish, reader := s.token("publish", "publish"), s.token("reader", "read")
	s.token("internal", "publish,read")
	s.login(publish)
	s.run("scitt", "trust", "init", s.url, "--yes")
	s.run("scitt", "trust", "add", "--issuer", "https://wabbit.example", "--roots", "wabbit/root.pem")
	s.run("scitt", "trust", "add", "--issuer", "https://tests.wabbit.example", "--key", "tester.pub")

	// Wabbit builds, pushes, and claims: evidence by all three ways.
	image := s.registry + "/wabbit/net-monitor:v1"
	digest := s.image("wabbit/net-monitor:v1")
	s.write("sbom.json", s.run("kit", "sbom", filepath.Join(bin, "net-monitor")))
	s.write("provenance.json", s.run("kit", "provenance", filepath.Join(bin, "net-monitor"), digest))
	s.write("smoke.json", s.run("kit", "testresult", "smoke", digest))
	s.write("scan.json", `{"version":"2.1.0","$schema":"https://json.schemastore.org/sarif-2.1.0.json","runs":[]}`)
	wabbit := []string{"--key", "wabbit/leaf.pem", "--cert-chain", "wabbit/chain.pem", "--issuer", "https://wabbit.example", "--token-file", "publish.token"}
	sbom := s.attach(image, append(wabbit, "--evidence", "sbom.json", "--hash-envelope", "always")...)
	build := s.attach(image, append(wabbit, "--evidence", "provenance.json")...)
	scan := s.attach(image, append(wabbit, "--evidence", "scan.json", "--hash-envelope", "always", "--upload", "service")...)
	for way, a := range map[string]attachment{"registry": sbom, "statement": build, "service": scan} {
		if a.Uploaded != way || len(a.Deliveries) != 2 {
			t.Errorf("evidence by way of %s: uploaded by %s, %d placements", way, a.Uploaded, len(a.Deliveries))
		}
	}
	if again := s.attach(image, append(wabbit, "--evidence", "provenance.json")...); again.EntryID != build.EntryID || again.LeafIndex != build.LeafIndex {
		t.Errorf("attached again: entry %s at %d, want %s at %d", again.EntryID, again.LeafIndex, build.EntryID, build.LeafIndex)
	}

	// A second issuer speaks about the same image.
	tester := []string{"--key", "tester.pem", "--issuer", "https://tests.wabbit.example", "--token-file", "publish.token"}
	smoke := s.attach(image, append(tester, "--evidence", "smoke.json")...)

	// Everything hangs on the image, for every OCI client, once.
	placed := map[string]int{sbomType: 1, inTotoType: 2, sarifType: 1, receiptType: 4}
	if got := s.referrers("wabbit/net-monitor", digest); !maps.Equal(got, placed) {
		t.Errorf("referrers %v, want %v", got, placed)
	}
	if fallback := s.hasTag("wabbit/net-monitor", strings.Replace(digest, ":", "-", 1)); fallback != tagSchema {
		t.Errorf("a referrers tag is there: %t, want %t", fallback, tagSchema)
	}

	// What is claimed about this digest, by whom, of which kind?
	public := []string{sbom.EntryID, build.EntryID, scan.EntryID, smoke.EntryID}
	slices.Sort(public)
	for _, q := range []struct {
		flags []string
		want  []string
	}{
		{[]string{"--digest", digest}, public},
		{[]string{"--issuer", "https://tests.wabbit.example"}, []string{smoke.EntryID}},
		{[]string{"--media-type", sbomType}, []string{sbom.EntryID}},
		{[]string{"--digest", digest, "--issuer", "https://wabbit.example", "--media-type", sarifType}, []string{scan.EntryID}},
		{[]string{"--issuer", "https://mallory.example"}, nil},
	} {
		if got := s.query(q.flags...); !slices.Equal(got, q.want) {
			t.Errorf("query %v: %v, want %v", q.flags, got, q.want)
		}
	}

	// An issuer that the policy does not know is refused, and so is a caller
	// without a token.
	mallory := []string{"attach", image, "--service", s.url, "--evidence", "smoke.json", "--key", "mallory.pem", "--issuer", "https://mallory.example"}
	s.refused(16, []string{"Rejected", "https://mallory.example"}, "scitt", append(mallory, "--token-file", "publish.token")...)
	s.refused(4, []string{"token"}, "scitt", mallory...)

	// A private claim is found by readers only, and placed nowhere.
	private := s.attach(image, "--key", "internal.pem", "--issuer", "https://internal.wabbit.example", "--evidence", "scan.json", "--token-file", "internal.token")
	if len(private.Deliveries) != 0 {
		t.Errorf("the private claim is placed: %v", private.Deliveries)
	}
	unknown := strings.Repeat("0", 64)
	for _, path := range []string{"/entries/ID", "/v1/entries/ID", "/v1/entries/ID/statement", "/v1/entries/ID/receipt", "/v1/entries/ID/transparent", "/v1/entries/ID/deliveries"} {
		path, other := strings.Replace(path, "ID", private.EntryID, 1), strings.Replace(path, "ID", unknown, 1)
		hidden, missing := s.ask(http.MethodGet, path, publish, nil), s.ask(http.MethodGet, other, publish, nil)
		if hidden.status != http.StatusNotFound || missing.status != http.StatusNotFound {
			t.Errorf("GET %s without the scope read: %d, of an unknown entry: %d, want 404", path, hidden.status, missing.status)
		}
		if a := s.ask(http.MethodGet, path, "", nil); a.status != http.StatusNotFound {
			t.Errorf("GET %s, anonymous: %d, want 404", path, a.status)
		}
		if a := s.ask(http.MethodGet, path, reader, nil); a.status != http.StatusOK {
			t.Errorf("GET %s with the scope read: %d, want 200", path, a.status)
		}
	}
	if got := s.query("--digest", digest); !slices.Equal(got, public) {
		t.Errorf("anonymous query: %v, want the public claims %v", got, public)
	}
	if got := s.query("--digest", digest, "--token-file", "reader.token"); len(got) != len(public)+1 {
		t.Errorf("a reader's query finds %d claims, want %d", len(got), len(public)+1)
	}
	if got := s.referrers("wabbit/net-monitor", digest); !maps.Equal(got, placed) {
		t.Errorf("referrers after the private claim %v, want %v", got, placed)
	}

	// A restart changes nothing: same bytes, same receipts.
	everything := append(slices.Clone(public), private.EntryID)
	before := s.receipts(everything, reader)
	statement := s.get("/v1/entries/"+smoke.EntryID+"/statement", "")
	running.stop()
	running = s.serve()
	if after := s.receipts(everything, reader); !maps.Equal(before, after) {
		t.Error("receipts changed over a restart")
	}
	if a := s.ask(http.MethodPost, "/entries", publish, statement); a.status != http.StatusCreated || string(a.body) != before[smoke.EntryID] {
		t.Errorf("resubmission after the restart: %d, the same receipt: %t", a.status, string(a.body) == before[smoke.EntryID])
	}

	// An auditor keeps a few kilobytes; image and SBOM are purged, the service ends.
	s.run("scitt", "fetch", digest, "-o", "audit", "--what", "transparent", "--service", s.url)
	s.run("scitt", "trust", "export", "-o", "trust-export.yaml")
	s.run("kit", "purge", image)
	if _, err := s.manifest("wabbit/net-monitor@" + digest); err == nil {
		t.Error("the image is still there after the purge")
	}
	running.stop()
	if err := os.RemoveAll(s.path("service")); err != nil {
		t.Fatal(err)
	}

	// And still the receipts verify, without any network.
	claims, err := filepath.Glob(s.path("audit/*.cose"))
	if err != nil || len(claims) != len(public) {
		t.Fatalf("fetched %v, want %d claims: %v", claims, len(public), err)
	}
	offline := []string{"-rn", filepath.Join(bin, "scitt"), "verify", "--offline", "--trust", "trust-export.yaml", "--issuer", "https://wabbit.example", "--issuer", "https://tests.wabbit.example"}
	for _, claim := range claims {
		if out := s.run("unshare", append(offline, claim)...); !strings.Contains(out, "verified") {
			t.Errorf("verify --offline:\n%s", out)
		}
	}
	forged := bytes.Clone(s.read("audit/" + filepath.Base(claims[0])))
	forged[len(forged)-10] ^= 1 // in the signature
	s.write("forged.cose", string(forged))
	if code, out, _ := s.exit("unshare", append(offline, "forged.cose")...); code != 12 {
		t.Errorf("verify --offline of a forged claim: exit %d, want 12\n%s", code, out)
	}
}

// manifest reads a manifest by tag or digest.
func (s *site) manifest(ref string) (*remote.Descriptor, error) {
	r, err := name.ParseReference(s.registry+"/"+ref, name.Insecure)
	if err != nil {
		return nil, err
	}
	return remote.Get(r, remote.WithTransport(s.http.Transport))
}

// hasTag says whether a repository lists a tag.
func (s *site) hasTag(repository, tag string) bool {
	s.t.Helper()
	r, err := name.NewRepository(s.registry+"/"+repository, name.Insecure)
	if err != nil {
		s.t.Fatal(err)
	}
	tags, err := remote.List(r, remote.WithTransport(s.http.Transport))
	if err != nil {
		s.t.Fatal(err)
	}
	return slices.Contains(tags, tag)
}
