package storage_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/scittd/scittd/storage"
	"github.com/scittd/scittd/storage/storagetest"
)

func probe(t *testing.T, r http.Handler, rules ...string) (storage.Report, error) {
	t.Helper()
	remote, err := storage.OpenRemote(serve(t, r), storage.RemoteOptions{PlainHTTP: true, Profiles: rules})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(remote.Close)
	var p impatient
	return p.placer().Probe(t.Context(), remote, repoName)
}

func TestAProbeTellsHowARegistryIs(t *testing.T) {
	for _, tt := range []struct {
		double                                             string
		api, filter, paging, tag, subject, deletes, advice string
		left                                               int
	}{
		{"Azure", "lists what was pushed", "applied", "as asked for", "", "promised", "referrers go with it", "", 0},
		{"Zot", "lists what was pushed", "applied", "its own", "", "promised", "referrers stay", "", 0},
		{"go-containerregistry", "lists what was pushed; entries lack type or annotations", "ignored", "its own", "", "not promised", "referrers stay", "", 0},
		{"GHCR", "absent", "", "", "works", "not promised", "referrers stay", "", 0},
		{"Google", "absent", "", "", "works", "not promised", "referrers stay", "", 0},
		{"ECR", "absent", "", "", "works", "promised", "referrers stay", "", 0},
		{"Quay", "answers, and does not list", "", "", "works", "promised", "referrers stay", "", 0},
		{"Alibaba", "absent", "", "", "works", "not promised", "referrers stay", "config_media_type=application/vnd.oci.image.config.v1+json", 0},
		{"CloudSmith", "absent", "", "", "refused: ", "not promised", "referrers stay", "index_platform=unknown/unknown", 0},
	} {
		t.Run(tt.double, func(t *testing.T) {
			d := storagetest.ByName(tt.double).Start()
			got, err := probe(t, d)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range []struct{ name, got, want string }{
				{"API", got.API, tt.api}, {"filter", got.Filter, tt.filter}, {"paging", got.Paging, tt.paging}, {"tag", got.Tag, tt.tag},
				{"subject", got.Subject, tt.subject}, {"delete", got.Delete, "works"}, {"after the subject", got.AfterDelete, tt.deletes},
			} {
				if !strings.HasPrefix(f.got, f.want) || f.want == "" && f.got != "" {
					t.Errorf("%s: %q, want %q", f.name, f.got, f.want)
				}
			}
			if got.Manifest < 4<<20-8<<10 || got.Advice != tt.advice || got.Left != tt.left {
				t.Errorf("largest manifest %d, advice %q, left %d; want 4 MiB, %q, %d", got.Manifest, got.Advice, got.Left, tt.advice, tt.left)
			}
			if n := d.Sweep(repoName, func(bool) bool { return true }); n > tt.left {
				t.Errorf("%d manifests were left behind", n)
			}
		})
	}
}

func TestAProbeTellsOfRefusals(t *testing.T) {
	got, err := probe(t, storagetest.ImmutableTags(400, "cannot be overwritten because the repository is immutable"))
	if err != nil || !strings.HasPrefix(got.Tag, "cannot be written again") || got.Advice != "referrers=off" {
		t.Errorf("immutable tags: %+v, %v", got, err)
	}
	got, err = probe(t, storagetest.NoSubjects(405, "UNSUPPORTED", "no artifacts"))
	if err != nil || !strings.HasPrefix(got.API, "refuses manifests with a subject") || !strings.Contains(got.API, "no artifacts") {
		t.Errorf("no subjects: %+v, %v", got, err)
	}
	got, err = probe(t, storagetest.SmallBodies(256<<10, 0))
	if err != nil || got.Manifest < 60<<10 || got.Manifest > 64<<10 || !strings.HasPrefix(got.Advice, "max_manifest=") {
		t.Errorf("small manifests: %+v, %v", got, err)
	}
	sound := storagetest.ByName("Harbor").Start()
	got, err = probe(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodDelete {
			answer(w, http.StatusMethodNotAllowed, `{"errors":[{"code":"UNSUPPORTED","message":"never"}]}`)
			return
		}
		sound.ServeHTTP(w, r)
	}))
	if err != nil || !strings.HasPrefix(got.Delete, "not allowed") || got.Left != 6 {
		t.Errorf("no deletion: %+v, %v", got, err)
	}
	if _, err = probe(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusForbidden, `{"errors":[{"code":"DENIED","message":"who are you"}]}`)
	})); !errors.Is(err, storage.ErrDenied) {
		t.Errorf("no right to push: %v", err)
	}
}
