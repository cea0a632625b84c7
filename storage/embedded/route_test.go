package embedded

import (
	"encoding/json"
	"maps"
	"slices"
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

// Whatever parses as a manifest names only clean digests, and encoding/json
// reads the same in it.
func FuzzManifest(f *testing.F) {
	d := "sha256:" + strings.Repeat("a", 64)
	for _, body := range []string{
		`{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"` + d + `","size":2},"layers":[{"digest":"` + d + `"}],"subject":{"digest":"` + d + `"}}`,
		`{"schemaVersion":2,"mediaType":"` + ociIndex + `","manifests":[{"digest":"` + d + `"}],"annotations":{"a":"b\"}{","ü":"\u00fc"}}`,
		` { "schema\u0056ersion" : 2 , "x" : [ { } , [ ] , "]" , 1e9 , null , true ] , "config" : { "digest" : "` + d + `" , "urls" : [ ] } } `,
		`{"schemaVersion":2,"config":{"digest":"` + d + `"},"layers":[{"digest":"x","urls":["y"]}]}`,
		`{"schemaVersion":2,"schemaVersion":2}`, `{"subject":null,"config":[]}`, `{}`, `[`, `null`, ``, `1`, `"{"`, "{\"\xff\":1}",
	} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		for _, mediaType := range []string{ociManifest, ociIndex, dockerManifest, dockerList} {
			c, err := parseManifest(mediaType, []byte(body))
			if err != nil {
				continue
			}
			var want map[string]json.RawMessage // names apart, unlike in a struct
			if err := json.Unmarshal([]byte(body), &want); err != nil {
				t.Fatalf("%q was taken: %v", body, err)
			}
			for field, got := range map[string]any{
				"artifactType": c.artifactType, "annotations": json.RawMessage(c.annotations),
				"subject": []digest{c.subject}, "manifests": c.manifests, "layers": c.layers,
			} {
				same(t, body, field, want[field], got)
			}
			all := append(c.manifests, c.subject)
			for _, s := range c.blobs {
				all = append(all, digest(s))
			}
			for _, d := range all {
				if d == "" {
					continue
				}
				if _, err := parseDigest(string(d)); err != nil {
					t.Errorf("%q names %q", body, d)
				}
			}
		}
	})
}

// same compares what the registry read of a field with what encoding/json does.
func same(t *testing.T, body, field string, raw json.RawMessage, got any) {
	t.Helper()
	var want any
	switch got := got.(type) {
	case string: // of an image, the config's type stands for none
		var s string
		if _ = json.Unmarshal(raw, &s); s == "" {
			return
		}
		if got != s {
			t.Errorf("%q: %s is %q, want %q", body, field, got, s)
		}
		return
	case json.RawMessage:
		var theirs, ours map[string]string
		if json.Unmarshal(got, &ours) != nil || len(raw) > 0 && json.Unmarshal(raw, &theirs) != nil || !maps.Equal(ours, theirs) {
			t.Errorf("%q: %s are %s, want %s", body, field, got, raw)
		}
		return
	case []digest:
		want = got
	case []descriptor:
		digests := []digest{}
		for _, d := range got {
			digests = append(digests, d.digest)
		}
		want = digests
	}
	var list []map[string]json.RawMessage
	if len(raw) > 0 && raw[0] == '{' { // a subject
		raw = json.RawMessage("[" + string(raw) + "]")
	}
	if len(raw) > 0 && json.Unmarshal(raw, &list) != nil {
		t.Fatalf("%q: %s was taken", body, field)
	}
	digests := []digest{}
	for _, d := range list {
		var s digest
		_ = json.Unmarshal(d["digest"], &s)
		digests = append(digests, s)
	}
	if ours := slices.DeleteFunc(slices.Clone(want.([]digest)), func(d digest) bool { return d == "" }); !slices.Equal(ours, digests) {
		t.Errorf("%q: %s are %v, want %v", body, field, ours, digests)
	}
}
