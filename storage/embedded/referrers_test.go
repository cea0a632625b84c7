package embedded_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/scittd/scittd/storage/embedded"
)

// referrers follows the pages of a listing.
func (s *server) referrers(repository, digest, query string) (digests []string) {
	s.t.Helper()
	next := "/v2/" + repository + "/referrers/" + digest + query
	for next != "" {
		a := s.want(200, "", "GET", next, nil)
		if got := a.header.Get("Content-Type"); got != ociIndex {
			s.t.Fatalf("a referrers list is %s", got)
		}
		if len(a.body) > 4<<20 {
			s.t.Fatalf("a page has %d bytes", len(a.body))
		}
		var page struct{ Manifests []struct{ Digest string } }
		if err := json.Unmarshal(a.body, &page); err != nil || page.Manifests == nil {
			s.t.Fatalf("%s: %v", a.body, err)
		}
		for _, m := range page.Manifests {
			digests = append(digests, m.Digest)
		}
		next, _, _ = strings.Cut(strings.TrimPrefix(a.header.Get("Link"), "<"), ">")
	}
	return digests
}

func TestReferrersAreListedWithTypeAndAnnotations(t *testing.T) {
	s := serve(t, t.TempDir())
	s.blob("r", []byte("{}"))
	d := sha(image(nil)) // not pushed yet
	if got := s.referrers("r", d, ""); got != nil {
		t.Errorf("before any push: %v", got)
	}
	if got := s.referrers("nobody", d, ""); got != nil {
		t.Errorf("of an unknown repository: %v", got)
	}
	put := func(mediaType string, body []byte) string {
		a := s.want(201, "", "PUT", "/v2/r/manifests/"+sha(body), body, "Content-Type: "+mediaType)
		if got := a.header.Get("OCI-Subject"); got != d {
			t.Errorf("OCI-Subject is %q, want %s", got, d)
		}
		return sha(body)
	}
	sbom := put(ociManifest, image(func(m map[string]any) {
		m["subject"], m["artifactType"], m["annotations"] = subject(d), "application/spdx+json", map[string]string{"k": "<v>"}
	}))
	config := put(ociManifest, image(func(m map[string]any) { m["subject"] = subject(d) }))
	index := put(ociIndex, func() []byte {
		body, _ := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": ociIndex, "manifests": []any{}, "subject": subject(d), "artifactType": "a/index"})
		return body
	}())
	s.manifest("r", "v1", image(nil))

	want := []string{sbom, config, index}
	slices.Sort(want)
	if got := s.referrers("r", d, ""); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for artifactType, want := range map[string]string{
		"application/spdx+json": sbom, "application/vnd.oci.empty.v1+json": config, "a/index": index,
	} {
		a := s.want(200, "", "GET", "/v2/r/referrers/"+d+"?artifactType="+url.QueryEscape(artifactType), nil)
		if got := a.header.Get("OCI-Filters-Applied"); got != "artifactType" {
			t.Errorf("OCI-Filters-Applied is %q", got)
		}
		if got := s.referrers("r", d, "?artifactType="+url.QueryEscape(artifactType)); !slices.Equal(got, []string{want}) {
			t.Errorf("%s: got %v, want %s", artifactType, got, want)
		}
	}
	a := s.want(200, "", "GET", "/v2/r/referrers/"+d+"?artifactType=application/spdx%2Bjson", nil)
	var list struct{ Manifests []json.RawMessage }
	if err := json.Unmarshal(a.body, &list); err != nil || len(list.Manifests) != 1 {
		t.Fatalf("%s: %v", a.body, err)
	}
	var entry struct {
		MediaType, ArtifactType string
		Size                    int
		Annotations             map[string]string
	}
	if err := json.Unmarshal(list.Manifests[0], &entry); err != nil {
		t.Fatal(err)
	}
	if entry.MediaType != ociManifest || entry.ArtifactType != "application/spdx+json" || entry.Annotations["k"] != "<v>" || entry.Size == 0 {
		t.Errorf("descriptor is %s", list.Manifests[0])
	}
	if a := s.want(200, "", "GET", "/v2/r/referrers/"+d, nil); a.header.Get("OCI-Filters-Applied") != "" {
		t.Error("OCI-Filters-Applied without a filter")
	}
}

func TestReferrersOfTheTagSchemaAreListedToo(t *testing.T) {
	s := serve(t, t.TempDir())
	s.blob("r", []byte("{}"))
	d := s.manifest("r", "v1", image(nil))
	tag := strings.Replace(d, ":", "-", 1)
	named := s.manifest("r", "", image(func(m map[string]any) { m["subject"] = subject(d) }))
	old := s.manifest("r", "", image(func(m map[string]any) { m["artifactType"] = "a/old" }))

	s.manifest("r", tag, indexOf(old, named, sha([]byte("absent"))))
	want := []string{old, named}
	slices.Sort(want)
	if got := s.referrers("r", d, ""); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := s.referrers("r", d, "?artifactType=a/old"); !slices.Equal(got, []string{old}) {
		t.Errorf("the type that the index left out is not found: %v", got)
	}

	s.manifest("r", tag, image(nil)) // the image under its own referrers tag
	if got := s.referrers("r", d, ""); !slices.Equal(got, []string{named}) {
		t.Errorf("got %v, want %s alone", got, named)
	}
}

func TestManyReferrersComeInPagesBelow4MiB(t *testing.T) {
	s := serve(t, t.TempDir())
	s.blob("r", []byte("{}"))
	d := sha(image(nil))
	var want []string
	for i := range 5 {
		want = append(want, s.manifest("r", "", image(func(m map[string]any) {
			m["subject"], m["artifactType"] = subject(d), "a/b"
			m["annotations"] = map[string]string{"n": fmt.Sprint(i), "text": strings.Repeat("x", 3<<20)}
		})))
	}
	slices.Sort(want)
	for _, query := range []string{"", "?artifactType=a%2Fb"} {
		if got := s.referrers("r", d, query); !slices.Equal(got, want) {
			t.Errorf("%q: got %d referrers, want %d", query, len(got), len(want))
		}
	}
}

// What a page costs must not depend on how many referrers there are behind it.
func TestPageOfReferrersReadsNoMoreRowsThanItLists(t *testing.T) {
	s := serve(t, t.TempDir())
	s.blob("r", []byte("{}"))
	plans, err := s.ReferrersPlans()
	if err != nil {
		t.Fatal(err)
	}
	for _, plan := range plans {
		// SCAN m would read a table, TEMP B-TREE sort what was read.
		if !strings.HasPrefix(plan, "SEARCH m USING INDEX") && !strings.HasPrefix(plan, "SCAN j VIRTUAL TABLE") {
			t.Errorf("a page is found by %q", plan)
		}
	}

	d := sha(image(nil))
	for artifactType, count := range map[string]int{"a/many": 9_990, "a/few": 10} {
		if err := s.AddReferrers(t.Context(), "r", d, artifactType, count); err != nil {
			t.Fatal(err)
		}
	}
	for query, want := range map[string]int{"": 10_000, "?artifactType=a/many": 9_990, "?artifactType=a/few": 10, "?artifactType=a/no": 0} {
		var seen []string
		pages := 0
		for next := "/v2/r/referrers/" + d + query; next != ""; pages++ {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			a := s.want(200, "", "GET", next, nil)
			runtime.ReadMemStats(&after)
			var page struct{ Manifests []struct{ Digest string } }
			if err := json.Unmarshal(a.body, &page); err != nil {
				t.Fatal(err)
			}
			if len(page.Manifests) > embedded.PageRows || len(a.body) > 4<<20 {
				t.Errorf("%q: a page of %d referrers in %d bytes", query, len(page.Manifests), len(a.body))
			}
			// Everything that was ever allocated, by the client as well.
			if took := after.TotalAlloc - before.TotalAlloc; took > 32<<20 {
				t.Errorf("%q: a page took %d bytes", query, took)
			}
			for _, m := range page.Manifests {
				seen = append(seen, m.Digest)
			}
			next, _, _ = strings.Cut(strings.TrimPrefix(a.header.Get("Link"), "<"), ">")
		}
		if len(seen) != want || !slices.IsSorted(seen) || len(slices.Compact(seen)) != want || pages > 1+want/embedded.PageRows {
			t.Errorf("%q: %d referrers on %d pages, want %d", query, len(seen), pages, want)
		}
	}

	// And with an index of the tag schema beside them, which lists some of them
	// and others.
	old := s.manifest("r", "", image(func(m map[string]any) { m["artifactType"] = "a/old" }))
	some := s.referrers("r", d, "?artifactType=a/few")
	s.manifest("r", strings.Replace(d, ":", "-", 1), indexOf(append(some, old, sha([]byte("absent")))...))
	got := s.referrers("r", d, "")
	if len(got) != 10_001 || !slices.IsSorted(got) || len(slices.Compact(got)) != 10_001 || !slices.Contains(got, old) {
		t.Errorf("with a tag: %d referrers, want 10001", len(got))
	}
}

// Of the tagged ones a page holds fewer than it has room for if the next is large.
func TestSmallReferrersDoNotSkipALargeTaggedOne(t *testing.T) {
	s := serve(t, t.TempDir())
	s.blob("r", []byte("{}"))
	d := sha([]byte("image"))
	var large, all []string
	for i := range 2 {
		large = append(large, s.manifest("r", "", image(func(m map[string]any) {
			m["annotations"] = map[string]string{"n": fmt.Sprint(i), "text": strings.Repeat("x", 2<<20)}
		})))
	}
	for i := range 16 {
		all = append(all, s.manifest("r", "", image(func(m map[string]any) {
			m["subject"], m["annotations"] = subject(d), map[string]string{"n": fmt.Sprint(i)}
		})))
	}
	s.manifest("r", strings.Replace(d, ":", "-", 1), indexOf(large...))
	all = append(all, large...)
	slices.Sort(all)
	if got := s.referrers("r", d, ""); !slices.Equal(got, all) {
		t.Errorf("got %d referrers, want %d: %v, %v", len(got), len(all), got, all)
	}
}

func TestIndexUnderTheReferrersTagIsPagedToo(t *testing.T) {
	s := serve(t, t.TempDir())
	s.blob("r", []byte("{}"))
	d := sha([]byte("image"))
	var want []string
	for i := range 4 {
		want = append(want, s.manifest("r", "", image(func(m map[string]any) {
			m["annotations"] = map[string]string{"n": fmt.Sprint(i), "text": strings.Repeat("x", 2<<20)}
			if i%2 == 0 {
				m["subject"] = subject(d)
			}
		})))
	}
	s.manifest("r", strings.Replace(d, ":", "-", 1), indexOf(want...))
	slices.Sort(want)
	if got := s.referrers("r", d, ""); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if a := s.want(200, "", "GET", "/v2/r/referrers/"+d, nil); a.header.Get("Link") == "" || bytes.Count(a.body, []byte("sha256:")) != 1 {
		t.Errorf("the first page has %d bytes, Link %q", len(a.body), a.header.Get("Link"))
	}
}
