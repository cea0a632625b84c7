package front_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/scittd/scittd/storage"
	"github.com/scittd/scittd/storage/front"
	"github.com/scittd/scittd/storage/storagetest"
)

const (
	image    = "wabbit/net-monitor"
	approval = "application/vnd.acme.approval"
)

// ledgerOf is what somebody else knows to be placed.
type ledgerOf struct {
	placed []front.Placement
	down   error
}

func (l *ledgerOf) Placements(_ context.Context, repository, subject string, from uint64, n int) ([]front.Placement, uint64, error) {
	if l.down != nil || repository != image {
		return nil, 0, l.down
	}
	var page []front.Placement
	entries := map[uint64]bool{}
	for _, p := range l.placed {
		if p.Entry < from {
			continue
		}
		if entries[p.Entry] = true; len(entries) > n {
			return page, p.Entry, nil
		}
		page = append(page, p)
	}
	return page, 0, nil
}

// synthesis is a front before a registry, and a client of both.
type synthesis struct {
	*testing.T
	url, direct string
	double      *storagetest.Registry
	ledger      *ledgerOf
	subject     ocispec.Descriptor
}

func newSynthesis(t *testing.T, double *storagetest.Registry, rules ...string) *synthesis {
	t.Helper()
	direct := listen(t, double)
	remote, err := storage.OpenRemote(hostOf(direct), storage.RemoteOptions{PlainHTTP: true, Profiles: rules})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(remote.Close)
	s := &synthesis{T: t, direct: direct, double: double, ledger: &ledgerOf{}}
	s.url = before(t, hostOf(direct), func(_ *front.UpstreamConfig, c *front.Config) {
		c.Synthesis = front.NewSynthesis(remote, s.ledger, nil)
	})
	s.blob("{}")
	s.subject = s.push(s.url, "v1", ocispec.Manifest{Config: ocispec.DescriptorEmptyJSON, ArtifactType: "application/vnd.wabbit.image",
		Layers: []ocispec.Descriptor{ocispec.DescriptorEmptyJSON}})
	double.Requests()
	return s
}

func (s *synthesis) blob(text string) {
	s.Helper()
	a := do(s.T, http.MethodPost, s.direct+"/v2/"+image+"/blobs/uploads/", "", "")
	at := a.header.Get("Location")
	if strings.HasPrefix(at, "/") {
		at = s.direct + at
	}
	join := "?"
	if strings.Contains(at, "?") {
		join = "&"
	}
	if a := do(s.T, http.MethodPut, at+join+"digest="+digestOf([]byte(text)), text, "", "Content-Type: application/octet-stream"); a.status != 201 {
		s.Fatalf("blob: %d %s", a.status, a.body)
	}
}

// push puts a manifest through the front or behind it.
func (s *synthesis) push(url, tag string, m ocispec.Manifest) ocispec.Descriptor {
	s.Helper()
	d, a := s.tryPush(url, tag, m)
	if a.status != 201 {
		s.Fatalf("push: %d %s", a.status, a.body)
	}
	return d
}

func (s *synthesis) tryPush(url, tag string, m ocispec.Manifest) (ocispec.Descriptor, answer) {
	s.Helper()
	m.Versioned, m.MediaType = specs.Versioned{SchemaVersion: 2}, ociManifest
	body, err := json.Marshal(m)
	if err != nil {
		s.Fatal(err)
	}
	dig := digestOf(body)
	if tag == "" {
		tag = dig
	}
	a := do(s.T, http.MethodPut, url+"/v2/"+image+"/manifests/"+tag, string(body), "", "Content-Type: "+ociManifest)
	return ocispec.Descriptor{MediaType: ociManifest, Digest: digest.Digest(dig), Size: int64(len(body))}, a
}

// referrer is an artifact about the subject.
func (s *synthesis) referrer(artifactType, text string) ocispec.Manifest {
	return ocispec.Manifest{Config: ocispec.DescriptorEmptyJSON, ArtifactType: artifactType, Subject: &s.subject,
		Layers: []ocispec.Descriptor{ocispec.DescriptorEmptyJSON}, Annotations: map[string]string{"text": text}}
}

// list reads all pages of the list that the front gives.
func (s *synthesis) list(query string) (all []ocispec.Descriptor, pages int) {
	s.Helper()
	for at := "/v2/" + image + "/referrers/" + s.subject.Digest.String() + query; at != ""; pages++ {
		a := do(s.T, http.MethodGet, s.url+at, "", "")
		var list ocispec.Index
		if err := json.Unmarshal([]byte(a.body), &list); err != nil || a.status != 200 || a.header.Get("Content-Type") != ocispec.MediaTypeImageIndex || list.SchemaVersion != 2 {
			s.Fatalf("GET %s: %d %v %s: %v", at, a.status, a.header, a.body, err)
		}
		if filtered := a.header.Get("OCI-Filters-Applied") == "artifactType"; filtered != strings.Contains(at, "artifactType=") {
			s.Errorf("GET %s: filters applied: %v", at, filtered)
		}
		if len(a.body) > 4<<20 {
			s.Errorf("GET %s: a page of %d bytes", at, len(a.body))
		}
		all, at = append(all, list.Manifests...), ""
		if link := a.header.Get("Link"); link != "" {
			var ok bool
			if at, ok = strings.CutSuffix(strings.TrimPrefix(link, "<"), `>; rel="next"`); !ok || !strings.HasPrefix(at, "/v2/") {
				s.Fatalf("Link: %s", link)
			}
		}
	}
	return all, pages
}

func (s *synthesis) digests(query string) []string {
	s.Helper()
	all, _ := s.list(query)
	return digestsOf(all)
}

func digestsOf(all []ocispec.Descriptor) []string {
	found := []string{}
	for _, d := range all {
		found = append(found, d.Digest.String())
	}
	return slices.Sorted(slices.Values(found))
}

// tagged is what clients find that go to the registry directly.
func (s *synthesis) tagged() []ocispec.Descriptor {
	s.Helper()
	a := do(s.T, http.MethodGet, s.direct+"/v2/"+image+"/manifests/"+strings.Replace(s.subject.Digest.String(), ":", "-", 1), "", "", "Accept: "+ocispec.MediaTypeImageIndex)
	var list ocispec.Index
	if a.status == 200 {
		if err := json.Unmarshal([]byte(a.body), &list); err != nil {
			s.Fatal(err)
		}
	}
	return list.Manifests
}

func TestWhatIsAttachedThroughTheFrontIsListedEverywhere(t *testing.T) {
	for _, name := range []string{"Azure", "ECR with the API", "GHCR", "ECR", "GitLab", "CloudSmith"} {
		d := storagetest.ByName(name)
		t.Run(d.Name, func(t *testing.T) {
			s := newSynthesis(t, d.Start(), "127.0.0.1 like="+d.Profile)
			m := s.referrer(approval, "approved")
			for i := range 2 {
				m.Annotations = map[string]string{"text": fmt.Sprint("approved ", i)}
				desc, a := s.tryPush(s.url, "", m)
				// Who was told OCI-Subject leaves the tag alone.
				if got := a.header.Get("OCI-Subject"); a.status != 201 || got != s.subject.Digest.String() && d.Lists != "api" {
					t.Fatalf("push: %d, OCI-Subject %q: %s", a.status, got, a.body)
				}
				if got := s.digests("?artifactType=" + approval); !slices.Contains(got, desc.Digest.String()) {
					t.Errorf("listed: %v, want %s too", got, desc.Digest)
				}
				direct := s.tagged()
				at := slices.IndexFunc(direct, func(o ocispec.Descriptor) bool { return o.Digest == desc.Digest })
				switch {
				case d.Lists == "api" && direct != nil:
					t.Errorf("a tag was written where the API lists: %+v", direct)
				case d.Lists == "tags" && (at < 0 || direct[at].ArtifactType != approval || direct[at].Annotations["text"] == ""):
					t.Errorf("under the tag there is %+v, want %s with type and annotations", direct, desc.Digest)
				}
			}
			if refused := s.double.Refused(); len(refused) > 0 {
				t.Errorf("the registry refused %v", refused)
			}
			var doc struct{ Referrers string }
			a := do(t, http.MethodGet, s.url+"/v2/"+image+"/_oci/ext/discover", "", "")
			want := map[string]string{"api": "registry", "tags": "synthesised"}[d.Lists]
			if err := json.Unmarshal([]byte(a.body), &doc); err != nil || doc.Referrers != want {
				t.Errorf("discovery says %s, want referrers %q", a.body, want)
			}
		})
	}
}

func TestTheListIsTheTagAndWhatTheLedgerKnows(t *testing.T) {
	s := newSynthesis(t, storagetest.ByName("Docker Hub").Start())
	var want []string
	attach := func(url, artifactType, text string) string {
		return s.push(url, "", s.referrer(artifactType, text)).Digest.String()
	}
	both := attach(s.url, approval, "in both")
	want = append(want, attach(s.url, approval, "in the tag"))
	lost := attach(s.direct, approval, "known to the ledger alone")
	other := attach(s.direct, "application/vnd.acme.other", "of another type")
	gone := digest.FromString("swept").String()
	s.ledger.placed = []front.Placement{{Entry: 3, Manifest: both}, {Entry: 3, Manifest: lost}, {Entry: 7, Manifest: lost}, {Entry: 8, Manifest: gone},
		{Entry: 9, Manifest: "no digest"}, {Entry: 9, Manifest: other}, {Entry: 12, Manifest: both}}
	want = slices.Sorted(slices.Values(append(want, both, lost)))

	if got := s.digests("?artifactType=" + approval); !slices.Equal(got, want) {
		t.Errorf("listed: %v, want %v", got, want)
	}
	all, _ := s.list("")
	if got, want := digestsOf(all), slices.Sorted(slices.Values(append(slices.Clone(want), other))); !slices.Equal(got, want) {
		t.Errorf("unfiltered: %v, want %v", got, want)
	}
	for _, d := range all {
		if d.ArtifactType == "" || d.Annotations["text"] == "" || d.MediaType != ociManifest || d.Size == 0 {
			t.Errorf("an entry says too little: %+v", d)
		}
	}
	for _, n := range []int{1, 2, 3, 1000} {
		got, pages := s.list(fmt.Sprintf("?n=%d", n))
		if found, all := digestsOf(got), digestsOf(all); !slices.Equal(found, all) || len(all) > n*pages {
			t.Errorf("on %d pages of %d: %v, want %v", pages, n, found, all)
		}
	}
	s.ledger.down = errors.New("no connection")
	if got, want := s.digests(""), digestsOf(s.tagged()); !slices.Equal(got, want) || len(got) != 2 {
		t.Errorf("without the ledger: %v, want the tag alone, %v", got, want)
	}
	if a := do(t, http.MethodHead, s.url+"/v2/"+image+"/referrers/"+s.subject.Digest.String(), "", ""); a.status != 200 || a.body != "" || a.header.Get("Content-Type") != ocispec.MediaTypeImageIndex {
		t.Errorf("HEAD: %d %v %q", a.status, a.header, a.body)
	}
}

func TestEntriesThatSayTooLittleAreReadFromTheirManifests(t *testing.T) {
	s := newSynthesis(t, storagetest.ByName("distribution v3").Start())
	bare := s.push(s.direct, "", s.referrer(approval, "pushed by cosign"))
	wrong := s.push(s.direct, "", s.referrer(approval, "listed by its config"))
	list := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{
		bare,
		{MediaType: ociManifest, Digest: wrong.Digest, Size: wrong.Size, ArtifactType: ocispec.MediaTypeEmptyJSON, Annotations: map[string]string{"made": "up"}},
	}}
	body, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	tag := s.direct + "/v2/" + image + "/manifests/" + strings.Replace(s.subject.Digest.String(), ":", "-", 1)
	if a := do(t, http.MethodPut, tag, string(body), "", "Content-Type: "+ocispec.MediaTypeImageIndex); a.status != 201 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	for range 2 {
		got, _ := s.list("?artifactType=" + approval)
		if len(got) != 2 || got[0].Annotations["text"] == "" || got[1].Annotations["text"] == "" || got[0].Annotations["made"] != "" {
			t.Errorf("listed: %+v, want both with what their manifests say", got)
		}
	}
	if n := s.double.Requests()["GET manifest"]; n != 2 {
		t.Errorf("manifests were read %d times, want each once", n)
	}
}

// go-containerregistry lists the config's media type as artifactType.
func TestTypesThatARegistryListsWronglyAreTheManifests(t *testing.T) {
	s := newSynthesis(t, storagetest.ByName("go-containerregistry").Start())
	s.push(s.url, "", s.referrer("application/vnd.acme.other", "another"))
	want := s.push(s.url, "", s.referrer(approval, "this"))
	s.double.Requests()
	for range 2 {
		if got := s.digests(""); len(got) != 2 {
			t.Errorf("listed: %v", got)
		}
		got, _ := s.list("?artifactType=" + approval)
		if len(got) != 1 || got[0].Digest != want.Digest || got[0].ArtifactType != approval || got[0].Annotations["text"] != "this" {
			t.Errorf("listed of one type: %+v", got)
		}
		if got := s.digests("?artifactType=" + ocispec.MediaTypeEmptyJSON); len(got) != 0 {
			t.Errorf("listed of the config's type: %v", got)
		}
		if _, pages := s.list("?n=1"); pages != 2 {
			t.Errorf("one at a time: %d pages", pages)
		}
	}
	if n := s.double.Requests()["GET manifest"]; n != 2 {
		t.Errorf("manifests were read %d times, want each once", n)
	}
}

// What is right is passed on, byte for byte.
func TestAListWithTheRightTypesIsTheRegistrysOwn(t *testing.T) {
	s := newSynthesis(t, storagetest.ByName("Harbor").Start())
	s.push(s.url, "", s.referrer("application/vnd.acme.other", "another"))
	s.push(s.url, "", s.referrer(approval, "this"))
	s.double.Requests()
	for _, query := range []string{"", "?artifactType=" + approval} {
		path := "/v2/" + image + "/referrers/" + s.subject.Digest.String() + query
		if own, got := do(t, http.MethodGet, s.direct+path, "", ""), do(t, http.MethodGet, s.url+path, "", ""); got.status != 200 || got.body != own.body {
			t.Errorf("%s: %d %s, want %s", query, got.status, got.body, own.body)
		}
	}
	if n := s.double.Requests()["GET manifest"]; n != 0 {
		t.Errorf("manifests were read %d times", n)
	}
}

func TestAnImageWithoutReferrersHasAnEmptyList(t *testing.T) {
	for _, name := range []string{"GHCR", "GitLab", "Docker Hub"} {
		s := newSynthesis(t, storagetest.ByName(name).Start())
		a := do(t, http.MethodGet, s.url+"/v2/"+image+"/referrers/"+s.subject.Digest.String(), "", "")
		if a.status != 200 || !strings.Contains(a.body, `"manifests":[]`) || a.header.Get("Link") != "" {
			t.Errorf("%s: %d %s, want an empty list", name, a.status, a.body)
		}
		// Nothing is said of an image that is not there, whatever the ledger knows.
		s.ledger.placed = []front.Placement{{Entry: 1, Manifest: s.subject.Digest.String()}}
		a = do(t, http.MethodGet, s.url+"/v2/"+image+"/referrers/"+digest.FromString("absent").String(), "", "")
		if a.status != 200 || !strings.Contains(a.body, `"manifests":[]`) {
			t.Errorf("%s, image absent: %d %s, want an empty list", name, a.status, a.body)
		}
		for _, bad := range []string{"sha256:abc", "v1", "sha256:" + strings.Repeat("Z", 64)} {
			if a := do(t, http.MethodGet, s.url+"/v2/"+image+"/referrers/"+bad, "", ""); a.status != 400 || a.code() != "DIGEST_INVALID" {
				t.Errorf("%s, referrers of %s: %d %s", name, bad, a.status, a.body)
			}
		}
		for _, from := range []string{"entry-", "entry-x-0", "entry-18446744073709551615-0", "entry-1"} {
			if a := do(t, http.MethodGet, s.url+"/v2/"+image+"/referrers/"+s.subject.Digest.String()+"?from="+from, "", ""); a.status != 400 {
				t.Errorf("%s, a page from %s: %d %s", name, from, a.status, a.body)
			}
		}
	}
}

func TestWhatCannotBeListedIsLeftToTheClient(t *testing.T) {
	s := newSynthesis(t, storagetest.ImmutableTags(400, "the tag cannot be overwritten because the repository is immutable"))
	if _, a := s.tryPush(s.url, "", s.referrer(approval, "first")); a.header.Get("OCI-Subject") == "" {
		t.Errorf("the first, which the tag still takes: %d %v", a.status, a.header)
	}
	if _, a := s.tryPush(s.url, "", s.referrer(approval, "second")); a.status != 201 || a.header.Get("OCI-Subject") != "" {
		t.Errorf("the second: %d, OCI-Subject %q; want it stored and nothing promised", a.status, a.header.Get("OCI-Subject"))
	}
	if a := do(t, http.MethodPut, s.url+"/v2/"+image+"/manifests/"+digest.FromString("x").String(), `{"subject":{"digest":"`+s.subject.Digest.String()+`"}}`, "", "Content-Type: "+ociManifest); a.status == 201 || a.header.Get("OCI-Subject") != "" {
		t.Errorf("a manifest that the registry refuses: %d %v", a.status, a.header)
	}
}

func TestWhatIsDeletedThroughTheFrontLeavesTheList(t *testing.T) {
	s := newSynthesis(t, storagetest.ByName("Docker Hub").Start())
	first, second := s.push(s.url, "", s.referrer(approval, "first")), s.push(s.url, "", s.referrer(approval, "second"))
	s.ledger.placed = []front.Placement{{Entry: 1, Manifest: first.Digest.String()}}
	if a := do(t, http.MethodDelete, s.url+"/v2/"+image+"/manifests/"+first.Digest.String(), "", ""); a.status != 202 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	want := []string{second.Digest.String()}
	if got := digestsOf(s.tagged()); !slices.Equal(got, want) {
		t.Errorf("under the tag: %v, want %v", got, want)
	}
	if got := s.digests(""); !slices.Equal(got, want) {
		t.Errorf("listed: %v, want %v", got, want)
	}
	if a := do(t, http.MethodDelete, s.url+"/v2/"+image+"/manifests/"+first.Digest.String(), "", ""); a.status != 404 {
		t.Errorf("once more: %d %s", a.status, a.body)
	}
}

// oras deletes with a token that allows nothing else.
func TestWhatIsDeletedByOneWhoMayNotReadLeavesTheList(t *testing.T) {
	double := storagetest.ByName("Docker Hub").Start()
	s := newSynthesis(t, double)
	first, second := s.push(s.url, "", s.referrer(approval, "first")), s.push(s.url, "", s.referrer(approval, "second"))
	remote, err := storage.OpenRemote(hostOf(s.direct), storage.RemoteOptions{PlainHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	defer remote.Close()
	deleter := basic("user", "may delete")
	guarded := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == deleter && r.Method != http.MethodDelete {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		double.ServeHTTP(w, r)
	}))
	url := before(t, hostOf(guarded), func(_ *front.UpstreamConfig, c *front.Config) {
		c.Synthesis = front.NewSynthesis(remote, s.ledger, nil)
	})
	if a := do(t, http.MethodDelete, url+"/v2/"+image+"/manifests/"+first.Digest.String(), "", deleter); a.status != 202 || strings.Contains(a.body, "sha256") {
		t.Fatalf("%d %s", a.status, a.body)
	}
	want := []string{second.Digest.String()}
	if got := digestsOf(s.tagged()); !slices.Equal(got, want) {
		t.Errorf("under the tag: %v, want %v", got, want)
	}
	if got := s.digests(""); !slices.Equal(got, want) {
		t.Errorf("listed: %v, want %v", got, want)
	}
}

func TestWhoMayNotPullLearnsNothing(t *testing.T) {
	double := storagetest.ByName("Docker Hub").Start()
	guarded := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch _, password, ok := r.BasicAuth(); {
		case !ok:
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			w.WriteHeader(http.StatusUnauthorized)
		case password == "nobody":
			w.WriteHeader(http.StatusForbidden)
		case password == "hidden":
			w.WriteHeader(http.StatusNotFound)
		case password == "busy":
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(http.StatusTooManyRequests)
		default:
			double.ServeHTTP(w, r)
		}
	})
	s := newSynthesis(t, double)
	placed := s.push(s.direct, "", s.referrer(approval, "secret"))
	s.ledger.placed = []front.Placement{{Entry: 1, Manifest: placed.Digest.String()}}
	remote, err := storage.OpenRemote(hostOf(s.direct), storage.RemoteOptions{PlainHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	defer remote.Close()
	url := before(t, hostOf(listen(t, guarded)), func(_ *front.UpstreamConfig, c *front.Config) {
		c.Synthesis = front.NewSynthesis(remote, s.ledger, nil)
	})
	at := url + "/v2/" + image + "/referrers/" + s.subject.Digest.String()
	for range 2 { // what one was shown is not kept for others
		if a := do(t, http.MethodGet, at, "", basic("user", "reader")); a.status != 200 || !strings.Contains(a.body, placed.Digest.String()) {
			t.Errorf("a reader: %d %s", a.status, a.body)
		}
		if a := do(t, http.MethodGet, at, "", ""); a.status != 401 || a.header.Get("WWW-Authenticate") == "" || strings.Contains(a.body, "sha256") {
			t.Errorf("nobody: %d %v %s", a.status, a.header, a.body)
		}
		if a := do(t, http.MethodGet, at, "", basic("user", "nobody")); a.status != 403 || strings.Contains(a.body, "sha256") {
			t.Errorf("who may not: %d %s", a.status, a.body)
		}
		if a := do(t, http.MethodGet, at, "", basic("user", "hidden")); a.status != 200 || strings.Contains(a.body, "sha256") {
			t.Errorf("who is told that nothing is there: %d %s", a.status, a.body)
		}
		if a := do(t, http.MethodGet, at, "", basic("user", "busy")); a.status != 429 || a.header.Get("Retry-After") != "7" {
			t.Errorf("of a busy registry: %d %v", a.status, a.header)
		}
	}
}

// crowd is a registry with n referrers on the image, the first listed of them in
// the tag.
func crowd(t *testing.T, n, listed int) *synthesis {
	t.Helper()
	s := newSynthesis(t, storagetest.ByName("Docker Hub").Start(), "127.0.0.1 referrers=tags")
	list := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for i := range n {
		m := s.referrer(storage.TransparencyType, "")
		m.Annotations = map[string]string{"io.github.scittd.entry": fmt.Sprintf("%064x", i), "io.github.scittd.issuer": "https://wabbit.example"}
		d := s.push(s.direct, "", m)
		s.ledger.placed = append(s.ledger.placed, front.Placement{Entry: uint64(i), Manifest: d.Digest.String()})
		if d.ArtifactType, d.Annotations = m.ArtifactType, m.Annotations; i < listed {
			list.Manifests = append(list.Manifests, d)
		}
	}
	body, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	tag := s.direct + "/v2/" + image + "/manifests/" + strings.Replace(s.subject.Digest.String(), ":", "-", 1)
	if a := do(t, http.MethodPut, tag, string(body), "", "Content-Type: "+ocispec.MediaTypeImageIndex); a.status != 201 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	s.double.Requests()
	return s
}

func TestTenThousandReferrersAreListedInPagesOfBoundedWork(t *testing.T) {
	const n, listed = 10_000, 9_000
	s := crowd(t, n, listed)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	all, pages := s.list("")
	runtime.GC()
	runtime.ReadMemStats(&after)
	if got := slices.Compact(digestsOf(all)); len(got) != n || len(all) != n {
		t.Fatalf("%d referrers listed, %d different ones, want %d", len(all), len(got), n)
	}
	// The tag's entries 1,000 at a time, then those that have to be read 128 at a time.
	if pages > listed/1000+(n-listed)/128+2 {
		t.Errorf("%d pages", pages)
	}
	counts := s.double.Requests()
	if counts["GET list"] != 1 || counts["HEAD list"] != pages-1 || counts["GET manifest"] != n-listed {
		t.Errorf("the registry was asked %v for %d pages, want its list once, and each other manifest once", counts, pages)
	}
	if kept := int64(after.HeapAlloc) - int64(before.HeapAlloc); kept > 32<<20 {
		t.Errorf("%d MiB stay in memory", kept>>20)
	}
	if again, pages := s.list(""); len(again) != n || pages > n/1000+2 {
		t.Errorf("%d referrers on %d pages, when they were listed again", len(again), pages)
	}
}
