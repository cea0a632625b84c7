package embedded

import (
	"strings"
	"testing"
)

// A path that passes parser and grammar means one thing only: it can be
// written back, and every part of it is clean.
func FuzzPath(f *testing.F) {
	for _, path := range []string{
		"/v2/", "/v2", "/v2/a/b/tags/list", "/v2/a/blobs/uploads/", "/v2/a/blobs/uploads", "/v2/a/blobs/uploads/0123",
		"/v2/a/manifests/v1", "/v2/a/manifests/sha256%3Aabc", "/v2/a/referrers/sha256:abc", "/v2/blobs/uploads/manifests/x",
		"/v2/a%2Fb/manifests/v1", "/v2/../manifests/v1", "/v2/a/../../etc/blobs/sha256:00", "/v2//tags/list", "/v2/a/blobs/%2e%2e",
		"/v2/tags/list/tags/list", "/v2/a/blobs/uploads/blobs/uploads/", "/v2/a/manifests/%", "/v3/a/tags/list", "",
	} {
		f.Add(path)
	}
	words := map[kind]string{
		blobRoute: "/blobs/", uploadsRoute: "/blobs/uploads", uploadRoute: "/blobs/uploads/",
		manifestRoute: "/manifests/", tagsRoute: "/tags/list", referrersRoute: "/referrers/",
	}
	f.Fuzz(func(t *testing.T, path string) {
		r, ok := parsePath(path)
		if !ok {
			return
		}
		if r.kind == root {
			if strings.Trim(path, "/") != "v2" {
				t.Errorf("%q is taken for the root", path)
			}
			return
		}
		if checkName(r.repository) != nil {
			return
		}
		if strings.ContainsAny(r.repository, "%\\ ") || strings.Contains(r.repository, "..") || strings.HasPrefix(r.repository, "/") {
			t.Errorf("%q names repository %q", path, r.repository)
		}
		prefix := "/v2/" + r.repository + words[r.kind]
		if !strings.HasPrefix(path, prefix) {
			t.Errorf("%q is read as %+v", path, r)
		}
		if rest := strings.TrimPrefix(path, prefix); !strings.Contains(path, "%") && rest != r.item && rest != "/" {
			t.Errorf("%q is read as %+v", path, r)
		}
		if d, err := parseDigest(r.item); err == nil && strings.ContainsAny(d.path()[len("blobs/sha256/"):], ".\\%") {
			t.Errorf("%q leads to %s", path, d.path())
		}
	})
}

func TestReferrersTagIsCutTo64Characters(t *testing.T) {
	for in, want := range map[string]string{
		"sha256:" + strings.Repeat("a", 64):  "sha256-" + strings.Repeat("a", 64),
		"sha512:" + strings.Repeat("b", 128): "sha512-" + strings.Repeat("b", 64),
	} {
		d, err := parseDigest(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := d.referrersTag(); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

// Whatever parses as a manifest names only clean digests.
func FuzzManifest(f *testing.F) {
	d := "sha256:" + strings.Repeat("a", 64)
	for _, body := range []string{
		`{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"` + d + `","size":2},"layers":[{"digest":"` + d + `"}],"subject":{"digest":"` + d + `"}}`,
		`{"schemaVersion":2,"mediaType":"` + ociIndex + `","manifests":[{"digest":"` + d + `"}],"annotations":{"a":"b"}}`,
		`{"schemaVersion":2,"config":{"digest":"` + d + `"},"layers":[{"digest":"x","urls":["y"]}]}`, `{}`, `[`, `null`, ``,
	} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		for _, mediaType := range []string{ociManifest, ociIndex, dockerManifest, dockerList} {
			m, err := parseManifest(mediaType, []byte(body))
			if err != nil {
				continue
			}
			all := m.blobs
			for _, e := range m.Manifests {
				all = append(all, e.Digest)
			}
			if m.Subject != nil {
				all = append(all, m.Subject.Digest)
			}
			for _, s := range all {
				if _, err := parseDigest(s); err != nil {
					t.Errorf("%q names %q", body, s)
				}
			}
		}
	})
}
