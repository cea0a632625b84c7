package storage_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/scittd/scittd/storage"
	"github.com/scittd/scittd/storage/storagetest"
)

func TestAProfileGoesByTheHost(t *testing.T) {
	for _, tt := range []struct{ host, want string }{
		{"wabbit.azurecr.io", "acr"},
		{"123456789012.dkr.ecr.eu-central-1.amazonaws.com", "ecr"},
		{"123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", "ecr"},
		{"ghcr.io", "ghcr"}, {"GHCR.io", "ghcr"}, {"ghcr.io:443", "ghcr"},
		{"quay.io", "quay"}, {"docker.io", "dockerhub"}, {"registry-1.docker.io", "dockerhub"},
		{"europe-docker.pkg.dev", "google"}, {"eu.gcr.io", "google"}, {"wabbit.jfrog.io", "artifactory"},
		{"registry.cn-hangzhou.aliyuncs.com", "alibaba"}, {"docker.cloudsmith.io", "cloudsmith"},
		{"registry.gitlab.com", "gitlab"}, {"registry.digitalocean.com", "digitalocean"},
		{"registry.example", ""}, {"notghcr.io", ""}, {"azurecr.io.evil.example", ""}, {"127.0.0.1:5000", ""}, {"[::1]:5000", ""},
	} {
		got, err := storage.ProfileOf(tt.host, nil)
		if err != nil || got.Name != tt.want {
			t.Errorf("%s: profile %q, %v; want %q", tt.host, got.Name, err, tt.want)
		}
	}
	for _, d := range storagetest.Doubles() {
		if got, err := storage.ProfileOf(d.Host, nil); d.Host != "" && (err != nil || got.Name != d.Profile) {
			t.Errorf("%s at %s: profile %q, %v; want %q", d.Name, d.Host, got.Name, err, d.Profile)
		}
	}
}

func TestRulesSayMoreThanTheHost(t *testing.T) {
	rules := []string{
		"registry.example:5000 like=harbor referrers=api",
		"registry.example referrers=tags page_size=100 max_annotations=2048 max_manifest=65536 chunk_size=5242880",
		"*.example config_media_type=application/vnd.wabbit.empty+json index_platform=linux/amd64 delete_scope=*",
		"ghcr.io referrers=off",
		"quay.io like=ecr",
	}
	for _, tt := range []struct {
		host string
		want storage.Profile
	}{
		{"registry.example", storage.Profile{Referrers: "tags", PageSize: 100, MaxAnnotations: 2048, MaxManifest: 65536, ChunkSize: 5 << 20}},
		{"other.example:443", storage.Profile{ConfigMediaType: "application/vnd.wabbit.empty+json", IndexPlatform: "linux/amd64", DeleteScope: "*"}},
		{"example", storage.Profile{}},
	} {
		if got, err := storage.ProfileOf(tt.host, rules); err != nil || got != tt.want {
			t.Errorf("%s: %+v, %v; want %+v", tt.host, got, err, tt.want)
		}
	}
	for host, want := range map[string][2]string{
		"registry.example:5000": {"harbor", "api"}, // the first that fits
		"ghcr.io":               {"ghcr", "off"},   // on top of what is known
		"quay.io":               {"ecr", ""},       // instead of it
	} {
		if got, err := storage.ProfileOf(host, rules); err != nil || got.Name != want[0] || got.Referrers != want[1] {
			t.Errorf("%s: %+v, %v; want %v", host, got, err, want)
		}
	}
	for _, tt := range []struct{ rule, says string }{
		{"", "want a host"}, {"registry.example", "want a host"}, {"[ like=ecr", "syntax error in pattern"},
		{"a like=none", "none of acr, harbor"}, {"a referrers=yes", "none of auto, api, tags, off"},
		{"a page_size=0", "no number from 1"}, {"a page_size=many", "no number from 1"}, {"a max_manifest=4194305", "no number from 1 to 4194304"},
		{"a chunk_size=1e6", "no number"}, {"a config_media_type=x", "no media type"}, {"a index_platform=linux", "not os/architecture"},
		{"a index_platform=a/b/c", "not os/architecture"}, {"a delete_scope=push", "neither delete nor *"},
		{"a colour=blue", `unknown key "colour"`}, {"a referrers", "none of auto"},
	} {
		if _, err := storage.ProfileOf("registry.example", []string{tt.rule}); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("rule %q: %v; want it to say %q", tt.rule, err, tt.says)
		}
	}
	if _, err := storage.OpenRemote("registry.example", storage.RemoteOptions{Profiles: []string{"other.example like=none"}}); err == nil {
		t.Error("a wrong rule for another host went unnoticed")
	}
}

// like opens the test repository with a rule for the double at host.
func like(t *testing.T, host, rule string) storage.Repository {
	t.Helper()
	if rule == "" {
		return open(t, host, storage.RemoteOptions{})
	}
	return open(t, host, storage.RemoteOptions{Profiles: []string{"127.0.0.1 " + rule}})
}

func (d doubled) rule() string {
	if d.Profile == "" {
		return ""
	}
	return "like=" + d.Profile
}

type doubled struct {
	storagetest.Double
	*storagetest.Registry
	host, subject string
}

// start runs a double with the test's image in it.
func start(t *testing.T, d storagetest.Double) doubled {
	t.Helper()
	r := d.Start()
	host := serve(t, r)
	subject := pushImage(t, host)
	r.Requests()
	return doubled{d, r, host, subject}
}

func TestEveryRegistryTakesAndListsWhatItsProfileMakes(t *testing.T) {
	for _, double := range storagetest.Doubles() {
		t.Run(double.Name, func(t *testing.T) {
			d := start(t, double)
			repo := like(t, d.host, d.rule())
			var p impatient
			place := func(repo storage.Repository) []string {
				sbom, proof := p.both(t, repo, d.subject)
				return []string{sbom, proof}
			}
			want := place(repo)
			if again := place(like(t, d.host, d.rule())); !slices.Equal(again, want) {
				t.Errorf("placed again as %v, first as %v", again, want)
			}
			slices.Sort(want)
			tagged, listed := digests(tagLists(t, d.host, d.subject)), []string(nil)
			if d.Lists == "api" {
				listed = digests(apiLists(t, d.host, d.subject))
				if tagged != nil {
					t.Errorf("a tag was written, although the API lists: %v", tagged)
				}
			} else {
				listed = tagged
			}
			if !slices.Equal(listed, want) {
				t.Errorf("listed by %s: %v, want %v", d.Lists, listed, want)
			}
			found, err := like(t, d.host, d.rule()).Referrers(t.Context(), d.subject, storage.TransparencyType)
			if err != nil || len(found) != 1 || found[0].Annotations["io.github.scittd.entry"] != "e1" {
				t.Errorf("another process finds %+v, %v", found, err)
			}
			if refused := d.Refused(); len(refused) > 0 {
				t.Errorf("the registry refused %v", refused)
			}
			for what, n := range d.Requests() {
				if strings.HasPrefix(what, http.MethodDelete) {
					t.Errorf("%d times %s, to attach something", n, what)
				}
			}
		})
	}
}

func TestWithoutItsProfileARegistryRefuses(t *testing.T) {
	for _, tt := range []struct{ double, says string }{
		{"Alibaba", "config media type application/vnd.oci.empty.v1+json is not supported"},
		{"CloudSmith", "an entry of the index has no platform"},
	} {
		d := start(t, storagetest.ByName(tt.double))
		var p impatient
		dig, err := p.placer().Transparency(t.Context(), like(t, d.host, ""), d.subject, transparency("e1"))
		if !errors.Is(err, storage.ErrRefused) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: placed as %s, %v; want it refused for good: %q", tt.double, dig, err, tt.says)
		}
	}
}

func TestEntriesThatOthersWroteGetThePlatformToo(t *testing.T) {
	d := start(t, storagetest.ByName("distribution v3")) // takes what CloudSmith would not
	foreign := attach(t, like(t, d.host, ""), d.subject, "application/vnd.acme.approval", pushText(t, like(t, d.host, ""), "approved"))
	if _, err := storage.PlaceTransparency(t.Context(), like(t, d.host, "like=cloudsmith"), d.subject, transparency("e1")); err != nil {
		t.Fatal(err)
	}
	list := tagLists(t, d.host, d.subject)
	for _, entry := range list {
		if entry.Platform == nil || entry.Platform.OS != "unknown" || entry.Platform.Architecture != "unknown" {
			t.Errorf("entry %s has platform %v", entry.Digest, entry.Platform)
		}
		if entry.Digest.String() == foreign && entry.Annotations["org.opencontainers.image.created"] == "" {
			t.Errorf("the foreign entry lost its annotations: %+v", entry)
		}
	}
	if len(list) != 2 {
		t.Errorf("the tag lists %d artifacts, want 2", len(list))
	}
}

func TestImmutableTagsAreRefusedWithThatReason(t *testing.T) {
	for _, tt := range []struct {
		code int
		says string
	}{
		{400, "The image tag 'sha256-…' already exists in the repository and cannot be overwritten because the repository is immutable."},
		{412, "configured as immutable"},
		{403, "Immutability rule"},
		{409, "tag is locked"},
	} {
		t.Run(fmt.Sprint(tt.code), func(t *testing.T) {
			r := storagetest.ImmutableTags(tt.code, tt.says)
			host := serve(t, r)
			subject := pushImage(t, host)
			first, err := storage.PlaceTransparency(t.Context(), like(t, host, ""), subject, transparency("e1"))
			if err != nil {
				t.Fatal(err)
			}
			_, err = storage.PlaceTransparency(t.Context(), like(t, host, ""), subject, transparency("e2"))
			if !errors.Is(err, storage.ErrRefused) || !strings.Contains(err.Error(), "tags are immutable here") || !strings.Contains(err.Error(), "referrers=off") {
				t.Errorf("%v; want it refused for good, for its tags, with what to do", err)
			}
			// Without a list of its own the registry takes everything.
			off := like(t, host, "referrers=off")
			second, err := storage.PlaceTransparency(t.Context(), off, subject, transparency("e2"))
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := off.Manifest(t.Context(), second); err != nil {
				t.Errorf("placed, but not there: %v", err)
			}
			if got := digests(tagLists(t, host, subject)); !slices.Equal(got, []string{first}) {
				t.Errorf("the tag lists %v, want %v as before", got, first)
			}
		})
	}
}

func TestReferrersModesAreKeptTo(t *testing.T) {
	for _, tt := range []struct {
		mode, double       string
		placed, tags, asks bool
	}{
		{"api", "Harbor", true, false, true},
		{"api", "Quay", false, false, true},
		{"api", "GHCR", false, false, true},
		{"tags", "Harbor", true, true, false},
		{"tags", "Docker Hub", true, true, false},
		{"off", "Docker Hub", true, false, false},
		{"off", "Harbor", true, false, false},
	} {
		t.Run(tt.mode+" at "+tt.double, func(t *testing.T) {
			d := start(t, storagetest.ByName(tt.double))
			var p impatient
			dig, err := p.placer().Transparency(t.Context(), like(t, d.host, "referrers="+tt.mode), d.subject, transparency("e1"))
			if tt.placed != (err == nil) {
				t.Errorf("placed as %q, %v; want it placed: %v", dig, err, tt.placed)
			}
			counts := d.Requests()
			if asked := counts["GET referrer"] > 0; asked != tt.asks {
				t.Errorf("the API was asked: %v, want %v", asked, tt.asks)
			}
			if wrote := counts["PUT list"] > 0; wrote != tt.tags {
				t.Errorf("the tag was written: %v, want %v", wrote, tt.tags)
			}
		})
	}
}

func TestRefusalsOfReferrersKeepTheRegistrysWords(t *testing.T) {
	for _, tt := range []struct {
		code    int
		word    string
		refused bool
	}{
		{http.StatusMethodNotAllowed, "UNSUPPORTED", true}, // ECR, once
		{http.StatusNotFound, "NOT_FOUND", false},          // Docker Hub, once: may pass
	} {
		host := serve(t, storagetest.NoSubjects(tt.code, tt.word, "no artifacts of that kind"))
		subject := pushImage(t, host)
		var p impatient
		_, err := p.placer().Transparency(t.Context(), like(t, host, ""), subject, transparency("e1"))
		if err == nil || errors.Is(err, storage.ErrRefused) != tt.refused || !strings.Contains(err.Error(), "no artifacts of that kind") {
			t.Errorf("%d: %v; want it refused for good: %v, in the registry's words", tt.code, err, tt.refused)
		}
	}
}

func TestAnnotationsAndManifestsAreBoundedByTheProfile(t *testing.T) {
	d := start(t, storagetest.ByName("Harbor"))
	annotations := func(dig string) map[string]string {
		_, body, err := like(t, d.host, "").Manifest(t.Context(), dig)
		if err != nil {
			t.Fatal(err)
		}
		var m ocispec.Manifest
		if err := json.Unmarshal(body, &m); err != nil {
			t.Fatal(err)
		}
		return m.Annotations
	}
	claim := transparency("e1")
	claim.Issuer = "https://" + strings.Repeat("w", 200) + ".example"
	whole, err := storage.PlaceTransparency(t.Context(), like(t, d.host, ""), d.subject, claim)
	if err != nil {
		t.Fatal(err)
	}
	cut, err := storage.PlaceTransparency(t.Context(), like(t, d.host, "max_annotations=200"), d.subject, claim)
	if err != nil {
		t.Fatal(err)
	}
	size := 0
	for name, value := range annotations(cut) {
		size += len(name) + len(value)
	}
	if got := annotations(cut); size > 200 || got["io.github.scittd.entry"] != "e1" || got["org.opencontainers.image.created"] == "" || got["io.github.scittd.issuer"] != "" {
		t.Errorf("%d bytes of annotations: %v; want at most 200, with the entry", size, got)
	}
	if n := len(annotations(whole)); n != 6 {
		t.Errorf("without a bound there are %d annotations, want 6", n)
	}
	_, err = storage.PlaceTransparency(t.Context(), like(t, d.host, "max_manifest=500"), d.subject, claim)
	if !errors.Is(err, storage.ErrRefused) || !strings.Contains(err.Error(), "at most 500") {
		t.Errorf("a manifest above max_manifest: %v", err)
	}
}

func TestBigBlobsGoUpInPiecesWhereBodiesAreBounded(t *testing.T) {
	const most = 1 << 20
	text := strings.Repeat("0123456789abcdef", 3<<20/16) + "and a little more"
	dig := digest.FromString(text).String()
	for _, tt := range []struct {
		name    string
		rule    string
		least   int
		patches int
		fails   bool
	}{
		{"whole, as ever", "referrers=auto", 0, 0, true},
		{"in pieces", "chunk_size=1048576", 0, 4, false},
		{"in the pieces that the registry wants at least", "chunk_size=1000", 1 << 20, 4, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := storagetest.SmallBodies(most, tt.least)
			repo := like(t, serve(t, r), tt.rule)
			err := repo.PushBlob(t.Context(), dig, int64(len(text)), evidenceOpen(text))
			if tt.fails != errors.Is(err, storage.ErrRefused) || !tt.fails && err != nil {
				t.Fatalf("%v; want it refused: %v", err, tt.fails)
			}
			if got := r.Requests()["PATCH upload"]; got != tt.patches {
				t.Errorf("%d pieces, want %d", got, tt.patches)
			}
			if tt.fails {
				return
			}
			if got := readBlob(t, repo, dig); string(got) != text {
				t.Errorf("%d bytes arrived, want %d", len(got), len(text))
			}
			err = repo.PushBlob(t.Context(), digest.FromString("other").String(), int64(len(text)), evidenceOpen(text))
			if err == nil {
				t.Error("other bytes than those of the digest were taken")
			}
		})
	}
}
