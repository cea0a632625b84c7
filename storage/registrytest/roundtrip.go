package registrytest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
)

func (c client) manifest(ref string) string { return "/v2/" + c.Repository + "/manifests/" + ref }

// roundTrip pushes a dataset, finds all of it again and deletes it.
func (c client) roundTrip(s dataset) {
	blobs := map[string][]byte{}
	for _, m := range s.manifests {
		for _, b := range m.blobs {
			blobs[digestOf(s.algorithm, b)] = b
		}
	}
	for _, body := range blobs {
		c.blob(s.algorithm, body)
	}
	for _, m := range s.manifests {
		c.pushManifest(s, m)
	}
	c.sub("bad digest", func(c client) {
		m := s.manifests[0]
		c.refused(c.do("PUT", c.manifest(digestOf(s.algorithm, random(8))), m.body, "Content-Type: "+m.mediaType), 400)
	})
	c.lists(slices.Sorted(maps.Keys(s.tags)))
	for _, m := range s.manifests {
		refs := []string{m.digest}
		for tag, digest := range s.tags {
			if digest == m.digest {
				refs = append(refs, tag)
			}
		}
		for _, ref := range refs {
			for _, method := range []string{"HEAD", "GET"} {
				a := c.want(c.do(method, c.manifest(ref), nil, "Accept: "+indexType, "Accept: "+imageType), 200)
				c.header(a, "Content-Type", m.mediaType)
				c.content(a, m.digest, m.body)
			}
		}
	}
	for digest, body := range blobs {
		c.content(c.want(c.do("GET", c.at(digest), nil), 200), digest, body)
	}
	c.findReferrers(s)
	c.deleteAll(s, blobs)
}

func (c client) pushManifest(s dataset, m built) {
	c.t.Helper()
	put := func(ref string, tags ...string) {
		c.t.Helper()
		query := ""
		if len(tags) > 0 {
			query = "?" + url.Values{"tag": tags}.Encode()
		}
		a := c.want(c.do("PUT", c.manifest(ref)+query, m.body, "Content-Type: "+m.mediaType), 201)
		c.header(a, "Docker-Content-Digest", m.digest)
		if m.subject != "" {
			c.header(a, "OCI-Subject", m.subject)
		}
		for _, tag := range tags {
			if set := strings.Join(a.header.Values("OCI-Tag"), ","); !slices.Contains(strings.Split(set, ","), tag) {
				c.t.Errorf("OCI-Tag is %q, without %s", set, tag)
			}
		}
		c.content(c.want(c.do("GET", c.header(a, "Location", ""), nil, "Accept: "+m.mediaType), 200), m.digest, m.body)
	}
	var tags []string
	for tag, digest := range s.tags {
		if digest == m.digest {
			tags = append(tags, tag)
		}
	}
	if s.byQuery {
		put(m.digest, tags...)
		return
	}
	put(m.digest)
	for _, tag := range tags {
		put(tag)
	}
}

// tags lists them, in order.
func (c client) tags(query string) (tags []string, next string) {
	c.t.Helper()
	a := c.want(c.do("GET", "/v2/"+c.Repository+"/tags/list"+query, nil), 200)
	var list struct {
		Name string
		Tags []string
	}
	if err := json.Unmarshal(a.body, &list); err != nil || list.Name != c.Repository || list.Tags == nil || !slices.IsSorted(list.Tags) {
		c.t.Errorf("%s: %s: %v", a.request, a.body, err)
	}
	next, _, _ = strings.Cut(strings.TrimPrefix(a.header.Get("Link"), "<"), ">")
	return list.Tags, next
}

// lists looks for these tags, and for those behind one of them.
func (c client) lists(want []string) {
	c.t.Helper()
	all, _ := c.tags("")
	for _, tag := range want {
		if !slices.Contains(all, tag) {
			c.t.Errorf("tag %s is not listed", tag)
		}
	}
	for i, last := range all {
		if behind, _ := c.tags("?last=" + last); !slices.Equal(behind, all[i+1:]) {
			c.t.Errorf("behind %s are %v, want %v", last, behind, all[i+1:])
		}
	}
}

// referrers follows the pages of a list.
func (c client) referrers(subject, artifactType string) (list []descriptor) {
	c.t.Helper()
	next := "/v2/" + c.Repository + "/referrers/" + subject
	if artifactType != "" {
		next += "?artifactType=" + url.QueryEscape(artifactType)
	}
	for next != "" {
		a := c.want(c.do("GET", next, nil), 200)
		c.header(a, "Content-Type", indexType)
		if artifactType != "" {
			c.header(a, "OCI-Filters-Applied", "artifactType")
		}
		var page struct {
			SchemaVersion int
			MediaType     string
			Manifests     []descriptor
		}
		if err := json.Unmarshal(a.body, &page); err != nil || page.SchemaVersion != 2 || page.MediaType != indexType || page.Manifests == nil {
			c.t.Fatalf("%s: %.300s: %v", a.request, a.body, err)
		}
		list = append(list, page.Manifests...)
		next, _, _ = strings.Cut(strings.TrimPrefix(a.header.Get("Link"), "<"), ">")
	}
	return list
}

func (c client) findReferrers(s dataset) {
	c.t.Helper()
	want := map[string]map[string]descriptor{} // by subject and digest
	for _, m := range s.manifests {
		if m.subject != "" {
			if want[m.subject] == nil {
				want[m.subject] = map[string]descriptor{}
			}
			want[m.subject][m.digest] = m.listed
		}
	}
	for subject, referrers := range want {
		types := map[string]bool{"": true, "application/vnd.example.nobody": true}
		for _, d := range referrers {
			types[d.ArtifactType] = true
		}
		for artifactType := range types {
			expected := map[string]descriptor{}
			for digest, d := range referrers {
				if artifactType == "" || d.ArtifactType == artifactType {
					expected[digest] = d
				}
			}
			got := map[string]descriptor{}
			for _, d := range c.referrers(subject, artifactType) {
				got[d.Digest] = d
			}
			if fmt.Sprint(got) != fmt.Sprint(expected) {
				c.t.Errorf("referrers of %s with type %q are %v, want %v", subject, artifactType, got, expected)
			}
		}
	}
}

func (c client) deleteAll(s dataset, blobs map[string][]byte) {
	c.t.Helper()
	gone := func(ref string) {
		c.t.Helper()
		c.want(c.do("DELETE", c.manifest(ref), nil), 202)
		c.refused(c.do("HEAD", c.manifest(ref), nil), 404)
		c.refused(c.do("GET", c.manifest(ref), nil), 404)
	}
	for tag, digest := range s.tags {
		gone(tag)
		c.want(c.do("HEAD", c.manifest(digest), nil), 200)
		if tags, _ := c.tags(""); slices.Contains(tags, tag) {
			c.t.Errorf("the deleted tag %s is listed", tag)
		}
	}
	for _, m := range slices.Backward(s.manifests) {
		gone(m.digest)
		if m.subject != "" && slices.ContainsFunc(c.referrers(m.subject, ""), func(d descriptor) bool { return d.Digest == m.digest }) {
			c.t.Errorf("the deleted referrer %s is listed", m.digest)
		}
	}
	for digest := range blobs {
		c.deleteBlob(digest)
	}
}

// tagPages lists tags in parts.
func (c client) tagPages() {
	m := image{}.build("sha256")
	for _, b := range m.blobs {
		c.blob("sha256", b)
	}
	all := []string{"1.0", "1.10", "1.9", "B", "_x", "a", "b"}
	for _, tag := range all {
		c.want(c.do("PUT", c.manifest(tag), m.body, "Content-Type: "+imageType), 201)
	}
	for n := 1; n <= len(all)+1; n++ {
		var got []string
		next := fmt.Sprintf("?n=%d", n)
		for next != "" {
			tags, link := c.tags(next)
			if len(tags) != min(n, len(all)-len(got)) {
				c.t.Errorf("%s: %d tags", next, len(tags))
			}
			got = append(got, tags...)
			if _, next, _ = strings.Cut(link, "?"); next != "" {
				next = "?" + next
			}
		}
		if !slices.Equal(got, all) {
			c.t.Errorf("by %d: %v", n, got)
		}
	}
	if none, link := c.tags("?n=0"); len(none) != 0 || link != "" {
		c.t.Errorf("n=0: %v, Link %q", none, link)
	}
	c.want(c.do("DELETE", c.manifest(m.digest), nil), 202) // with all its tags
	if tags, _ := c.tags(""); len(tags) != 0 {
		c.t.Errorf("tags of a deleted manifest: %v", tags)
	}
	for _, b := range m.blobs {
		c.deleteBlob(digestOf("sha256", b))
	}
}
