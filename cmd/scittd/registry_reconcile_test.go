package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/scittd/scittd/internal/testenv"
	"github.com/scittd/scittd/storage"
	"github.com/scittd/scittd/storage/storagetest"
)

// A registry without the referrers API, and whose sweeper takes what has no tag.
func TestWhatTheRegistrySweptIsFoundListedAndPlacedAgain(t *testing.T) {
	t.Parallel()
	const repository = "wabbit/net-monitor"
	double := storagetest.ByName("Docker Hub").Start()
	registry := httptest.NewServer(double)
	t.Cleanup(registry.Close)
	host := strings.TrimPrefix(registry.URL, "http://")
	s := standing(t, "in-front", host, testenv.Database(t))
	running := s.serve("--registry-reconcile-every", "0")

	image, err := name.NewDigest(s.registry+"/"+repository+"@"+s.image(repository+":v1"), name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if status, header := s.registerAt(s.registry, basicAuth("wabbit", "secret"), s.claimed(image.String())); status != http.StatusCreated {
		t.Fatalf("register: %d %v", status, header)
	}
	running.await("to place the claim", func() bool { return s.receiptsOf(image) == 1 })
	var kept struct{ Referrers string }
	s.getJSON("/v2/"+repository+"/_oci/ext/discover", "", &kept)
	if kept.Referrers != "synthesised" {
		t.Errorf("discovery says that referrers are %q", kept.Referrers)
	}

	reconcile := func(flags ...string) reconciled {
		t.Helper()
		var found reconciled
		text := s.run("scittd", append([]string{"registry", "reconcile", "--dir", "service", "--format", "json"}, flags...)...)
		if err := json.Unmarshal([]byte(text), &found); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		return found
	}
	whole := func() bool { found := reconcile(); return found.Queued == 0 && found.Placed == 2 }
	running.await("to settle what is listed", whole)
	sweep := func() {
		t.Helper()
		if n := double.Sweep(repository, func(hasSubject bool) bool { return hasSubject }); n != 2 {
			t.Fatalf("%d manifests were swept", n)
		}
	}
	sweep()
	if found := reconcile("--dry-run"); found.Queued != 2 || found.Found[0].Queued {
		t.Errorf("dry run: %+v", found)
	}
	s.refused(3, []string{"nothing that was placed in", "other/repository"}, "scittd", "registry", "reconcile", "--dir", "service", "other/repository")
	if text := s.run("scittd", "registry", "reconcile", "--dir", "service", repository); !strings.Contains(text, "2 queued again") || !strings.Contains(text, "not there") {
		t.Errorf("reconcile says %s", text)
	}
	running.await("to place again what was swept", whole)
	running.stop()

	// A service does so by itself.
	sweep()
	running = s.serve("--registry-reconcile-every", "1s")
	running.await("to find by itself what was swept", whole)
	running.stop()

	var report storage.Report
	text := s.run("scittd", "registry", "probe", "--dir", "service", "--format", "json", host+"/wabbit/probe")
	if err := json.Unmarshal([]byte(text), &report); err != nil || report.API != "absent" || report.Tag != "works" || report.Left != 0 {
		t.Errorf("probe says %s: %v", text, err)
	}
	if text := s.run("scittd", "registry", "probe", "--registry-plain-http", host+"/wabbit/probe"); !strings.Contains(text, "referrers tag") {
		t.Errorf("probe without a configuration says %s", text)
	}
	s.refused(2, []string{"host/repository"}, "scittd", "registry", "probe", "nowhere")
	s.refused(2, []string{"--format"}, "scittd", "registry", "probe", "--format", "xml", host+"/wabbit/probe")
	s.refused(2, []string{"--format"}, "scittd", "registry", "reconcile", "--dir", "service", "--format", "xml")
	s.refused(2, []string{"registry.profiles", "like"}, "scittd", "check", "--dir", "service", "--registry-profiles", "registry.example like=nobody")
}
