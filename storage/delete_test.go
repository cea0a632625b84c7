package storage_test

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/scittd/scittd/storage"
	"github.com/scittd/scittd/storage/storagetest"
)

func deleter(t *testing.T, repo storage.Repository) storage.Deleter {
	t.Helper()
	d, ok := repo.(storage.Deleter)
	if !ok {
		t.Fatalf("%T deletes nothing", repo)
	}
	return d
}

func TestWhatIsDeletedIsGoneAndOffTheList(t *testing.T) {
	for _, double := range storagetest.Doubles() {
		if double.Name == "GitLab" {
			continue // below
		}
		t.Run(double.Name, func(t *testing.T) {
			d := start(t, double)
			repo := like(t, d.host, d.rule())
			var p impatient
			sbom, proof := p.both(t, repo, d.subject)
			for range 2 { // the second time there is nothing left to do
				if err := deleter(t, repo).DeleteManifest(t.Context(), sbom); err != nil {
					t.Fatal(err)
				}
				if err := deleter(t, repo).DeleteBlob(t.Context(), digest.FromString("sbom").String()); err != nil {
					t.Fatal(err)
				}
			}
			if _, _, err := repo.Manifest(t.Context(), sbom); !errors.Is(err, storage.ErrNotFound) {
				t.Errorf("the manifest after it was deleted: %v", err)
			}
			if _, there, err := repo.HasBlob(t.Context(), digest.FromString("sbom").String()); err != nil || there {
				t.Errorf("the blob after it was deleted: there %v, %v", there, err)
			}
			lists := tagLists
			if d.Lists == "api" {
				lists = apiLists
			}
			if got := digests(lists(t, d.host, d.subject)); !slices.Equal(got, []string{proof}) {
				t.Errorf("listed: %v, want %s alone", got, proof)
			}
			if _, _, err := repo.Manifest(t.Context(), d.subject); err != nil {
				t.Errorf("the image: %v", err)
			}
		})
	}
}

func TestWhoMayNotDeleteIsTold(t *testing.T) {
	for _, tt := range []struct {
		code int
		is   error
	}{{http.StatusMethodNotAllowed, storage.ErrRefused}, {http.StatusForbidden, storage.ErrDenied}, {http.StatusBadGateway, nil}} {
		host, subject := startLiar(t, true, func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			return r.Method == http.MethodDelete && answer(w, tt.code, `{"errors":[{"code":"UNSUPPORTED","message":"not here"}]}`)
		})
		repo := open(t, host, storage.RemoteOptions{})
		sbom, _ := mustPlace(t, repo, subject)
		err := deleter(t, repo).DeleteManifest(t.Context(), sbom)
		if err == nil || tt.is != nil && !errors.Is(err, tt.is) || !strings.Contains(err.Error(), "not here") {
			t.Errorf("%d: %v, want %v in the registry's words", tt.code, err, tt.is)
		}
		if got := digests(apiLists(t, host, subject)); !slices.Contains(got, sbom) {
			t.Errorf("%d: %s is off the list although it is there", tt.code, sbom)
		}
		if err := deleter(t, repo).DeleteBlob(t.Context(), digest.FromString("{}").String()); !errors.Is(err, storage.ErrRefused) {
			t.Errorf("the empty config was deleted: %v", err)
		}
	}
}

func TestAFrontKeepsTheListForOthers(t *testing.T) {
	for _, name := range []string{"GHCR", "Quay", "Harbor"} {
		t.Run(name, func(t *testing.T) {
			d := start(t, storagetest.ByName(name))
			// Somebody pushes and leaves the list to whoever stands before the registry.
			client := like(t, d.host, "referrers=off")
			dig, err := storage.PlaceTransparency(t.Context(), client, d.subject, transparency("e1"))
			if err != nil {
				t.Fatal(err)
			}
			desc, body, err := client.Manifest(t.Context(), dig)
			if err != nil {
				t.Fatal(err)
			}
			r, err := storage.OpenRemote(d.host, storage.RemoteOptions{PlainHTTP: true})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(r.Close)
			if known, err := r.Capability(t.Context(), repoName); err != nil || known != "" {
				t.Errorf("capability %q, %v, before anything was listed", known, err)
			}
			if err := r.List(t.Context(), repoName, desc, body, false); err != nil {
				t.Fatal(err)
			}
			want := map[string]string{"GHCR": "tags", "Quay": "both", "Harbor": "api"}[name]
			if known, err := r.Capability(t.Context(), repoName); err != nil || known != want {
				t.Errorf("capability %q, %v; want %q", known, err, want)
			}
			lists := tagLists
			if name == "Harbor" {
				lists = apiLists
			}
			entries := lists(t, d.host, d.subject)
			if got := digests(entries); !slices.Equal(got, []string{dig}) || entries[0].Annotations["io.github.scittd.entry"] != "e1" {
				t.Errorf("listed: %+v, want %s with its annotations", entries, dig)
			}
			if err := deleter(t, client).DeleteManifest(t.Context(), dig); err != nil {
				t.Fatal(err)
			}
			if err := r.Unlist(t.Context(), repoName, d.subject, dig); err != nil {
				t.Fatal(err)
			}
			if got := lists(t, d.host, d.subject); len(got) > 0 {
				t.Errorf("still listed after it was taken off: %+v", got)
			}
			// A list with nothing in it is not left behind under its tag.
			if _, _, err := client.Manifest(t.Context(), strings.Replace(d.subject, ":", "-", 1)); !errors.Is(err, storage.ErrNotFound) {
				t.Errorf("the referrers tag: %v, want none", err)
			}
			for _, bad := range []func() error{
				func() error { return r.List(t.Context(), repoName, storage.Descriptor{Digest: "x"}, body, false) },
				func() error { return r.List(t.Context(), repoName, desc, []byte(`{}`), false) },
				func() error { return r.List(t.Context(), repoName, desc, []byte(`nothing`), false) },
				func() error { return r.List(t.Context(), "UPPER", desc, body, false) },
				func() error { return r.Unlist(t.Context(), repoName, "x", dig) },
				func() error { return r.Unlist(t.Context(), "UPPER", d.subject, dig) },
				func() error { _, err := r.Capability(t.Context(), "UPPER"); return err },
			} {
				if bad() == nil {
					t.Error("nonsense was taken")
				}
			}
		})
	}
}

func TestWrongCredentialsTellNothingOfARegistry(t *testing.T) {
	for _, code := range []int{http.StatusUnauthorized, http.StatusForbidden} {
		d := start(t, storagetest.ByName("Harbor"))
		dig, err := storage.PlaceTransparency(t.Context(), like(t, d.host, "referrers=off"), d.subject, transparency("e1"))
		if err != nil {
			t.Fatal(err)
		}
		desc, body, err := like(t, d.host, "").Manifest(t.Context(), dig)
		if err != nil {
			t.Fatal(err)
		}
		m := &memo{found: map[string]finding{}}
		r, err := storage.OpenRemote(serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w, code, `{}`) })),
			storage.RemoteOptions{PlainHTTP: true, Memo: m})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.Close)
		err = r.List(t.Context(), repoName, desc, body, true)
		known, _ := r.Capability(t.Context(), repoName)
		if !errors.Is(err, storage.ErrDenied) || known != "" || len(m.found) > 0 {
			t.Errorf("%d: %v, and it is known to list by %q, %v; want ErrDenied and nothing known", code, err, known, m.found)
		}
	}
}
