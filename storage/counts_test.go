package storage_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/scittd/scittd/storage"
	"github.com/scittd/scittd/storage/storagetest"
)

// What placing costs, exactly. In every case that is: the image's manifest, to
// describe it; a look for each blob, and two requests to push one; the manifest;
// and the list, to read it back. Evidence looks at the list before, for what
// somebody else may have attached. Keeping the list by tag costs reading and
// writing it, and a second look at it. The empty config costs a look and a push
// once, and the first artifact one more listing, to find out how the registry is.
func TestPlacingCostsExactlySoManyRequests(t *testing.T) {
	type counts = map[string]int
	with := func(base, more counts) counts {
		sum := maps.Clone(base)
		for what, n := range more {
			sum[what] += n
		}
		return sum
	}
	blob := counts{"HEAD blob": 1, "POST upload": 1, "PUT upload": 1}
	config := blob
	one := with(counts{"GET manifest": 1, "PUT referrer": 1}, blob)
	for _, tt := range []struct {
		double                                 string
		first, evidence, transparency, repeats counts
	}{
		{"Harbor",
			with(with(one, config), counts{"GET referrer": 3, "GET list": 1}),
			with(one, counts{"GET referrer": 2}),
			with(with(one, blob), counts{"GET referrer": 1}),
			counts{"GET manifest": 1, "HEAD blob": 2, "PUT referrer": 1, "GET referrer": 1}},
		{"Docker Hub",
			with(with(one, config), counts{"GET referrer": 2, "GET list": 4, "PUT list": 1}),
			with(one, counts{"GET list": 4, "PUT list": 1}),
			with(with(one, blob), counts{"GET list": 3, "PUT list": 1}),
			counts{"GET manifest": 1, "HEAD blob": 2, "PUT referrer": 1, "GET list": 3}},
		{"Quay", // 3 looks for what never comes, and from then on both lists
			with(with(one, config), counts{"GET referrer": 8, "GET list": 8, "PUT list": 1}),
			with(one, counts{"GET referrer": 3, "GET list": 4, "PUT list": 1}),
			with(with(one, blob), counts{"GET referrer": 2, "GET list": 3, "PUT list": 1}),
			counts{"GET manifest": 1, "HEAD blob": 2, "PUT referrer": 1, "GET referrer": 2, "GET list": 3}},
	} {
		t.Run(tt.double, func(t *testing.T) {
			d := start(t, storagetest.ByName(tt.double))
			repo := like(t, d.host, d.rule())
			var p impatient
			costs := func(what string, err error, want counts) {
				t.Helper()
				if got := d.Requests(); err != nil || !maps.Equal(got, want) {
					t.Errorf("%s: %v, %v\nwant %v", what, got, err, want)
				}
			}
			for i, want := range []counts{tt.first, tt.evidence, tt.evidence} {
				_, err := p.placer().Evidence(t.Context(), repo, d.subject, evidence(fmt.Sprint("sbom", i)))
				costs(fmt.Sprint("evidence ", i), err, want)
			}
			for i, want := range []counts{tt.transparency, tt.transparency} {
				_, err := p.placer().Transparency(t.Context(), repo, d.subject, transparency(fmt.Sprint("e", i)))
				costs(fmt.Sprint("transparency artifact ", i), err, want)
			}
			_, err := p.placer().Transparency(t.Context(), repo, d.subject, transparency("e0"))
			costs("what is there already", err, tt.repeats)
		})
	}
}

func TestAnIndexUnderTheReferrersTagIsNotItsOwnReferrers(t *testing.T) {
	d := start(t, storagetest.ByName("GitLab"))
	repo := like(t, d.host, d.rule())
	image, _, err := repo.Manifest(t.Context(), d.subject)
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{{MediaType: image.MediaType, Digest: digest.Digest(image.Digest), Size: image.Size}}})
	if err != nil {
		t.Fatal(err)
	}
	index, err := repo.PushManifest(t.Context(), ocispec.MediaTypeImageIndex, body, "all")
	if err != nil {
		t.Fatal(err)
	}
	if found, err := repo.Referrers(t.Context(), index.Digest, ""); err != nil || len(found) > 0 {
		t.Errorf("%+v, %v: its instances pass for its referrers", found, err)
	}
	dig, err := storage.PlaceTransparency(t.Context(), repo, index.Digest, transparency("e1"))
	if err != nil {
		t.Fatal(err)
	}
	if found, err := repo.Referrers(t.Context(), index.Digest, ""); err != nil || len(found) != 1 || found[0].Digest != dig {
		t.Errorf("%+v, %v; want %s alone", found, err, dig)
	}
	if refused := d.Refused(); len(refused) > 0 {
		t.Errorf("the image was deleted: %v", refused)
	}
}

func TestAMirroredListIsMergedWithTheRegistrysOwn(t *testing.T) {
	d := start(t, storagetest.ByName("Zot"))
	repo := like(t, d.host, d.rule())
	// Somewhere else it was a referrer; here came the list, by a tool that copies tags.
	elsewhere := attach(t, repo, digest.FromString("another image").String(), "application/vnd.acme.approval", pushText(t, repo, "approved"), d.subject)
	body, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.Digest(elsewhere), Size: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	send(t, http.MethodPut, "http://"+d.host+"/v2/"+repoName+"/manifests/"+strings.Replace(d.subject, ":", "-", 1), ocispec.MediaTypeImageIndex, string(body))
	dig := attach(t, like(t, d.host, d.rule()), d.subject, "application/vnd.acme.approval", pushText(t, repo, "here too"))
	found, err := like(t, d.host, d.rule()).Referrers(t.Context(), d.subject, "application/vnd.acme.approval")
	if err != nil || len(found) != 2 || found[0].Digest != dig || found[1].Digest != elsewhere || len(found[1].Annotations) != 1 {
		t.Errorf("%+v, %v; want %s by the API and %s by the tag, with what their manifests say", found, err, dig, elsewhere)
	}
}
