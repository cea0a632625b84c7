package storage_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"cuelabs.dev/go/oci/ociregistry/ociserver"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/scittd/scittd/internal/testenv"
	"github.com/scittd/scittd/storage"
)

func TestPlacedArtifactsAreReferrersOfTheImage(t *testing.T) {
	for _, reg := range realRegistries {
		t.Run(reg.name, func(t *testing.T) {
			host := reg.start(t)
			subject := pushImage(t, host)
			repo := open(t, host, storage.RemoteOptions{})
			sbom, proof := mustPlace(t, repo, subject)

			lists := tagLists
			if reg.hasAPI {
				lists = apiLists
			}
			want := []string{sbom, proof}
			slices.Sort(want)
			if got := digests(lists(t, host, subject)); !slices.Equal(got, want) {
				t.Fatalf("the registry lists %v, want %v", got, want)
			}
			if reg.hasAPI && tagLists(t, host, subject) != nil {
				t.Error("a referrers tag was written although the API lists")
			}

			// Another process, later: the same digests, and nothing is added.
			again := open(t, host, storage.RemoteOptions{})
			if sbom2, proof2 := mustPlace(t, again, subject); sbom2 != sbom || proof2 != proof {
				t.Errorf("placed again as %s, %s; first as %s, %s", sbom2, proof2, sbom, proof)
			}
			if got := digests(lists(t, host, subject)); !slices.Equal(got, want) {
				t.Errorf("after placing again the registry lists %v, want %v", got, want)
			}

			// What a reader gets, filtered, with type and annotations, from any of them.
			list, err := again.Referrers(t.Context(), subject, storage.TransparencyType)
			if err != nil {
				t.Fatal(err)
			}
			if len(list) != 1 || list[0].Digest != proof || list[0].Annotations["io.github.scittd.entry"] != "e1" {
				t.Fatalf("transparency artifacts listed: %+v, want only %s with its entry", list, proof)
			}
			if got := string(readBlob(t, repo, digest.FromString("sbom").String())); got != "sbom" {
				t.Errorf("evidence read back as %q", got)
			}

			_, tags := get(t, "http://"+host+"/v2/"+repoName+"/tags/list?n=2")
			var listed struct{ Tags []string }
			if err := json.Unmarshal(tags, &listed); err != nil {
				t.Fatalf("tags: %s: %v", tags, err)
			}
			for _, tag := range listed.Tags {
				if tag != "v1" && (reg.hasAPI || tag != strings.Replace(subject, ":", "-", 1)) {
					t.Errorf("tag %s was written", tag)
				}
			}
		})
	}
}

func TestManifestsAreDerivedFromTheirContentAlone(t *testing.T) {
	host := ociServer(ociserver.Options{})(t)
	subject := pushImage(t, host)
	repo := open(t, host, storage.RemoteOptions{})
	sbom, proof := mustPlace(t, repo, subject)
	image, raw, err := repo.Manifest(t.Context(), subject)
	if err != nil {
		t.Fatal(err)
	}
	about := fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":%d}`, subject, len(raw))
	if image.Size != int64(len(raw)) || image.MediaType != ocispec.MediaTypeImageManifest {
		t.Errorf("image described as %+v", image)
	}
	const empty = `{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2,"data":"e30="}`
	for _, tt := range []struct{ name, digest, want string }{
		{"evidence", sbom, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"application/vnd.cyclonedx+json","config":` + empty +
			`,"layers":[{"mediaType":"application/vnd.cyclonedx+json","digest":"` + digest.FromString("sbom").String() + `","size":4}],"subject":` + about +
			`,"annotations":{"io.github.scittd.evidence":"` + digest.FromString("sbom").String() + `","org.opencontainers.image.created":"1970-01-01T00:00:00Z"}}`},
		{"transparency", proof, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"application/scitt-receipt+cose","config":` + empty +
			`,"layers":[{"mediaType":"application/scitt-statement+cose","digest":"` + digest.FromString("statement of e1").String() + `","size":15},{"mediaType":"application/scitt-receipt+cose","digest":"` + digest.FromString("receipt of e1").String() + `","size":13}],"subject":` + about +
			`,"annotations":{"io.github.scittd.entry":"e1","io.github.scittd.evidence":"` + digest.FromString("sbom").String() + `","io.github.scittd.issuer":"https://wabbit.example","io.github.scittd.log":"scitt.wabbit.example","io.github.scittd.media-type":"application/vnd.cyclonedx+json","org.opencontainers.image.created":"2026-11-21T03:25:00Z"}}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, body, err := repo.Manifest(t.Context(), tt.digest)
			if err != nil {
				t.Fatal(err)
			}
			if string(body) != tt.want {
				t.Errorf("got  %s\nwant %s", body, tt.want)
			}
		})
	}
	for _, dig := range []string{digest.FromString("{}").String(), digest.FromString("statement of e1").String(), digest.FromString("receipt of e1").String()} {
		if _, there, err := repo.HasBlob(t.Context(), dig); err != nil || !there {
			t.Errorf("blob %s: there %v, %v", dig, there, err)
		}
	}
}

func TestAnnotationsAreWholeOrAbsent(t *testing.T) {
	host := ociServer(ociserver.Options{})(t)
	subject := pushImage(t, host)
	repo := open(t, host, storage.RemoteOptions{})
	for i, tt := range []struct {
		name, issuer string
		kept         bool
	}{
		{"short", "https://wabbit.example", true},
		{"256 bytes", strings.Repeat("a", 256), true},
		{"257 bytes", strings.Repeat("a", 257), false},
		{"line break", "https://wabbit.example\r\nX-Evil: 1", false},
		{"delete character", "a\x7f", false},
		{"C1 control", "a\u0085b", false},
		{"no UTF-8", "a\xff", false},
		{"empty", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tr := transparency(fmt.Sprint("entry", i))
			tr.Issuer = tt.issuer
			dig, err := storage.PlaceTransparency(t.Context(), repo, subject, tr)
			if err != nil {
				t.Fatal(err)
			}
			_, body, err := repo.Manifest(t.Context(), dig)
			if err != nil {
				t.Fatal(err)
			}
			var m ocispec.Manifest
			if err := json.Unmarshal(body, &m); err != nil {
				t.Fatal(err)
			}
			got, kept := m.Annotations["io.github.scittd.issuer"]
			if kept != tt.kept || kept && got != tt.issuer {
				t.Errorf("issuer %q became annotation %q (there: %v), want there: %v", tt.issuer, got, kept, tt.kept)
			}
		})
	}
	tr := transparency("e9")
	tr.Created = "yesterday"
	if dig, err := storage.PlaceTransparency(t.Context(), repo, subject, tr); err == nil {
		t.Errorf("a registration time of %q was placed as %s", tr.Created, dig)
	}
}

func TestEvidenceTypeCannotMakeTheManifestSomethingElse(t *testing.T) {
	host := ociServer(ociserver.Options{})(t)
	subject := pushImage(t, host)
	repo := open(t, host, storage.RemoteOptions{})
	for i, tt := range []struct{ given, want string }{
		{"application/spdx+json", "application/spdx+json"},
		{"Application/SPDX+json", "application/spdx+json"},
		{"application/vnd.dev.sigstore.bundle+json;version=0.3", "application/vnd.dev.sigstore.bundle+json"},
		{"text/plain; broken=", "text/plain"},
		{"", "application/octet-stream"},
		{"spdx", "application/octet-stream"},
		{"a/b/c", "application/octet-stream"},
		{"text/plain\r\nX-Evil: 1", "application/octet-stream"},
		{"text/" + strings.Repeat("x", 128), "application/octet-stream"},
		{"application/scitt-statement+cose", "application/cose"},
		{"application/scitt-receipt+cose", "application/cose"},
		{"application/vnd.oci.image.manifest.v1+json", "application/octet-stream"},
		{"application/vnd.docker.distribution.manifest.list.v2+json", "application/octet-stream"},
		{"application/vnd.oci.empty.v1+json", "application/octet-stream"},
	} {
		e := evidence(fmt.Sprint("evidence", i))
		e.MediaType = tt.given
		dig, err := storage.PlaceEvidence(t.Context(), repo, subject, e)
		if err != nil {
			t.Errorf("type %q: %v", tt.given, err)
			continue
		}
		_, body, err := repo.Manifest(t.Context(), dig)
		if err != nil {
			t.Fatal(err)
		}
		var m ocispec.Manifest
		if err := json.Unmarshal(body, &m); err != nil {
			t.Fatal(err)
		}
		if m.ArtifactType != tt.want || m.Layers[0].MediaType != tt.want {
			t.Errorf("type %q became %q and layer %q, want %q", tt.given, m.ArtifactType, m.Layers[0].MediaType, tt.want)
		}
	}
}

func TestEvidenceThatIsAlreadyAttachedIsReused(t *testing.T) {
	for _, reg := range realRegistries[:4] {
		t.Run(reg.name, func(t *testing.T) {
			host := reg.start(t)
			subject := pushImage(t, host)
			repo := open(t, host, storage.RemoteOptions{})
			e := evidence("sbom")
			pushText(t, repo, "sbom")
			// As a pipeline with an ordinary OCI client attached it: own dates and annotations.
			foreign := attach(t, repo, subject, e.MediaType, digest.Digest(e.Digest))
			decoy := attach(t, repo, subject, e.MediaType, digest.FromString("{}"))
			e.Open = nil
			got, err := storage.PlaceEvidence(t.Context(), repo, subject, e)
			if err != nil {
				t.Fatal(err)
			}
			if got != foreign {
				t.Errorf("placed as %s, want the existing %s (not %s)", got, foreign, decoy)
			}
			e.MediaType = "application/json"
			if got, err := storage.PlaceEvidence(t.Context(), repo, subject, e); err != nil || got == foreign {
				t.Errorf("same bytes as another type: %s, %v; want a referrer of its own", got, err)
			}
		})
	}
}

// attach pushes an artifact as other clients do and returns its digest. like is
// an image that is there, if subject is not.
func attach(t *testing.T, repo storage.Repository, subject, artifactType string, blob digest.Digest, like ...string) string {
	t.Helper()
	if err := repo.PushBlob(t.Context(), digest.FromString("{}").String(), 2, func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader("{}")), nil
	}); err != nil {
		t.Fatal(err)
	}
	size, there, err := repo.HasBlob(t.Context(), blob.String())
	if err != nil || !there {
		t.Fatalf("blob %s: %v %v", blob, there, err)
	}
	image, _, err := repo.Manifest(t.Context(), append(like, subject)[0])
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactType, Config: ocispec.DescriptorEmptyJSON,
		Layers:      []ocispec.Descriptor{{MediaType: artifactType, Digest: blob, Size: size}},
		Subject:     &ocispec.Descriptor{MediaType: image.MediaType, Digest: digest.Digest(subject), Size: image.Size},
		Annotations: map[string]string{"org.opencontainers.image.created": "2026-11-03T10:00:00Z"},
	})
	if err != nil {
		t.Fatal(err)
	}
	body = append([]byte(`{"schemaVersion":2,`), strings.TrimPrefix(string(body), `{"schemaVersion":0,`)...)
	d, err := repo.PushManifest(t.Context(), ocispec.MediaTypeImageManifest, body, "")
	if err != nil {
		t.Fatal(err)
	}
	return d.Digest
}

func TestWhatIsMissingIsNamed(t *testing.T) {
	for _, reg := range realRegistries[:4] {
		t.Run(reg.name, func(t *testing.T) {
			host := reg.start(t)
			repo := open(t, host, storage.RemoteOptions{})
			absent := digest.FromString("no such image").String()
			if _, err := storage.PlaceTransparency(t.Context(), repo, absent, transparency("e1")); !errors.Is(err, storage.ErrSubjectAbsent) {
				t.Errorf("repository absent: %v, want ErrSubjectAbsent", err)
			}
			subject := pushImage(t, host)
			if _, err := storage.PlaceEvidence(t.Context(), repo, absent, evidence("sbom")); !errors.Is(err, storage.ErrSubjectAbsent) {
				t.Errorf("image absent: %v, want ErrSubjectAbsent", err)
			}
			e := evidence("sbom")
			e.Open = nil
			if _, err := storage.PlaceEvidence(t.Context(), repo, subject, e); !errors.Is(err, storage.ErrEvidenceAbsent) {
				t.Errorf("evidence absent: %v, want ErrEvidenceAbsent", err)
			}
			if _, _, err := repo.Manifest(t.Context(), "v9"); !errors.Is(err, storage.ErrNotFound) {
				t.Errorf("tag absent: %v, want ErrNotFound", err)
			}
			if _, _, err := repo.Blob(t.Context(), absent); !errors.Is(err, storage.ErrNotFound) {
				t.Errorf("blob absent: %v, want ErrNotFound", err)
			}
			if list, err := repo.Referrers(t.Context(), absent, ""); err != nil || len(list) != 0 {
				t.Errorf("referrers of an absent image: %v, %v; want none", list, err)
			}
			for _, bad := range []string{"", "v1", "sha256:abc", "sha256:" + strings.Repeat("Z", 64), "../../etc"} {
				if _, err := storage.PlaceTransparency(t.Context(), repo, bad, transparency("e1")); err == nil || errors.Is(err, storage.ErrSubjectAbsent) {
					t.Errorf("subject %q: %v, want an error that says it is no digest", bad, err)
				}
			}
		})
	}
}

func TestConcurrentPlacementsOnOneImageAreAllListed(t *testing.T) {
	for _, tt := range []struct{ remotes, each int }{{1, 8}, {4, 16}} {
		t.Run(fmt.Sprintf("%d processes with %d each", tt.remotes, tt.each), func(t *testing.T) {
			host := testenv.Registry(t)
			subject := pushImage(t, host)
			var mu sync.Mutex
			var placed []string
			var wg sync.WaitGroup
			for p := range tt.remotes {
				repo := open(t, host, storage.RemoteOptions{})
				for i := range tt.each {
					wg.Go(func() {
						claim := transparency(fmt.Sprintf("p%de%d", p, i))
						dig, err := storage.PlaceTransparency(t.Context(), repo, subject, claim)
						if err != nil && tt.remotes > 1 { // such a storm makes distribution answer 500 at times
							dig, err = storage.PlaceTransparency(t.Context(), repo, subject, claim)
						}
						if err != nil {
							t.Errorf("process %d, claim %d: %v", p, i, err)
						}
						mu.Lock()
						defer mu.Unlock()
						placed = append(placed, dig)
					})
				}
			}
			wg.Wait()
			slices.Sort(placed)
			if got := digests(tagLists(t, host, subject)); !slices.Equal(got, placed) {
				t.Errorf("the tag lists %d artifacts, want these %d", len(got), len(placed))
			}
		})
	}
}

func TestReferrersTagKeepsWhatOthersPutThere(t *testing.T) {
	host := testenv.Registry(t)
	subject := pushImage(t, host)
	repo := open(t, host, storage.RemoteOptions{})
	foreign := attach(t, repo, subject, "application/vnd.acme.approval", pushText(t, repo, "approved"))

	swept := attach(t, repo, subject, "application/vnd.acme.approval", pushText(t, repo, "swept"))

	// A writer as poor as they come: no artifactType, no annotations. And then
	// the registry's sweeper takes one of the two away, but not its entry.
	var poor []ocispec.Descriptor
	for _, dig := range []string{foreign, swept} {
		d, _, err := repo.Manifest(t.Context(), dig)
		if err != nil {
			t.Fatal(err)
		}
		poor = append(poor, ocispec.Descriptor{MediaType: d.MediaType, Digest: digest.Digest(dig), Size: d.Size})
	}
	list, err := json.Marshal(ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: poor})
	if err != nil {
		t.Fatal(err)
	}
	manifests := "http://" + host + "/v2/" + repoName + "/manifests/"
	send(t, http.MethodPut, manifests+strings.Replace(subject, ":", "-", 1), ocispec.MediaTypeImageIndex,
		strings.Replace(string(list), `"schemaVersion":0`, `"schemaVersion":2`, 1))
	send(t, http.MethodDelete, manifests+swept, "", "")

	sbom, proof := mustPlace(t, repo, subject)
	want := []string{foreign, sbom, proof}
	slices.Sort(want)
	entries := tagLists(t, host, subject)
	if got := digests(entries); !slices.Equal(got, want) {
		t.Errorf("the tag lists %v, want %v", got, want)
	}
	for _, d := range entries {
		if d.Digest.String() == proof && (d.ArtifactType != storage.TransparencyType || d.Annotations["io.github.scittd.entry"] != "e1") {
			t.Errorf("our entry in the tag lacks type or annotations: %+v", d)
		}
	}
	fresh := open(t, host, storage.RemoteOptions{}) // has not seen the manifest pushed
	found, err := fresh.Referrers(t.Context(), subject, "application/vnd.acme.approval")
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != 1 || found[0].Digest != foreign || len(found[0].Annotations) != 1 {
		t.Errorf("found %+v, want the foreign artifact with type and annotations of its manifest", found)
	}
}

func pushText(t *testing.T, repo storage.Repository, text string) digest.Digest {
	t.Helper()
	dig := digest.FromString(text)
	if err := repo.PushBlob(t.Context(), dig.String(), int64(len(text)), evidenceOpen(text)); err != nil {
		t.Fatal(err)
	}
	return dig
}

func send(t *testing.T, method, url, contentType, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if answer, _ := io.ReadAll(resp.Body); resp.StatusCode/100 != 2 {
		t.Fatalf("%s %s: %d %s", method, url, resp.StatusCode, answer)
	}
}
