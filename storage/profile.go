package storage

import (
	"fmt"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// How a registry lists what refers to an image.
const (
	ReferrersAuto = "auto" // find out by attaching and listing
	ReferrersAPI  = "api"  // by the API alone: no tag is ever written
	ReferrersTags = "tags" // by the referrers tag alone: the API is never asked
	ReferrersOff  = "off"  // nowhere: what is placed is read back by its digest, and found through whoever else keeps a list
)

// Profile is what is particular about a registry. The zero value fits one that
// does as the specification says; numbers are bytes unless they say otherwise,
// and 0 is the specification's.
type Profile struct {
	Name            string // of the row it began as, "" for an ordinary registry
	Referrers       string // one of the above; "" is ReferrersAuto
	ConfigMediaType string // stands for the empty config's type where that is refused
	IndexPlatform   string // os/architecture that every entry of an index must have
	PageSize        int    // entries of a page to ask for; 0: the registry decides
	MaxAnnotations  int    // of all annotations of one manifest
	MaxManifest     int    // at most 4 MiB
	ChunkSize       int    // above it blobs go up in pieces, for proxies that bound a body
	DeleteScope     string // action that a token needs to delete; "" is "delete"
	Note            string // what an operator should know, a sentence
}

// profiles are the rows for registries that we know something of. Most is told
// by their users and may have changed: what can be found out is found out, and
// stands here as a note alone.
var profiles = []struct {
	hosts []string // patterns; none: chosen by name
	Profile
}{
	{[]string{"*.azurecr.io"}, Profile{Name: "acr", Note: "Deletes referrers together with their subject: configure an archive repository."}},
	{nil, Profile{Name: "harbor", Note: "Deletes referrers together with their subject: configure an archive repository."}},
	{nil, Profile{Name: "zot", Note: "Sweeps untagged manifests by default; reconciliation puts back what was swept."}},
	{nil, Profile{Name: "distribution", Note: "Keeps no referrers API. garbage-collect --delete-untagged (-m) deletes referrers of living images: never run it."}},
	{[]string{"ghcr.io"}, Profile{Name: "ghcr", Note: "Cleanup jobs sweep untagged manifests; reconciliation puts back what was swept."}},
	{[]string{"*.dkr.ecr.*.amazonaws.com", "*.dkr.ecr.*.amazonaws.com.cn", "public.ecr.aws"},
		Profile{Name: "ecr", PageSize: 1000, Note: "Refuses pages above 1,000 and media types with parameters; a lifecycle policy may sweep untagged manifests."}},
	{[]string{"registry.gitlab.com"}, Profile{Name: "gitlab", Note: "The referrers tag may resolve to the image itself: nothing is ever deleted by way of it."}},
	{[]string{"quay.io"}, Profile{Name: "quay", Note: "May accept a referrer and not list it; then the referrers tag is kept."}},
	{[]string{"docker.io", "index.docker.io", "registry-1.docker.io"}, Profile{Name: "dockerhub"}},
	{[]string{"gcr.io", "*.gcr.io", "*.pkg.dev"}, Profile{Name: "google", DeleteScope: "*"}},
	{[]string{"*.jfrog.io"}, Profile{Name: "artifactory"}},
	{[]string{"registry.digitalocean.com"}, Profile{Name: "digitalocean"}},
	{[]string{"*.aliyuncs.com"}, Profile{Name: "alibaba", ConfigMediaType: ocispec.MediaTypeImageConfig, Note: "Refuses the type of the empty config."}},
	{[]string{"docker.cloudsmith.io", "*.cloudsmith.io", "*.cloudsmith.com"}, Profile{Name: "cloudsmith", IndexPlatform: "unknown/unknown", Note: "Refuses index entries without a platform."}},
}

// ProfileNames are those that like= understands.
func ProfileNames() []string {
	var names []string
	for _, row := range profiles {
		names = append(names, row.Name)
	}
	return names
}

// ProfileOf is the profile of the registry at host (as in references): the first
// of rules whose pattern fits, else the row that is known for that host, else
// the zero Profile.
//
// A rule is a line of text, a pattern of hosts and what is said of them:
//
//	registry.example like=harbor
//	*.corp.example:5000 referrers=tags page_size=100
//
// The pattern is as in path.Match; one without a port fits every port. like=
// names a row to begin with; without it, it is the host's own. The other keys
// are referrers, config_media_type, index_platform, page_size, max_annotations,
// max_manifest, chunk_size and delete_scope.
func ProfileOf(host string, rules []string) (Profile, error) {
	var known Profile
	for _, row := range profiles {
		if slices.ContainsFunc(row.hosts, func(pattern string) bool { return fits(pattern, host) }) {
			known = row.Profile
		}
	}
	chosen := false
	profile := known
	for _, rule := range rules {
		words := strings.Fields(rule)
		if len(words) < 2 {
			return Profile{}, fmt.Errorf("profile %q: want a host and what is said of it, such as registry.example like=harbor", rule)
		}
		if _, err := path.Match(words[0], host); err != nil {
			return Profile{}, fmt.Errorf("profile %q: %w", rule, err)
		}
		said := known // a rule for others is checked all the same
		for _, word := range words[1:] {
			key, value, _ := strings.Cut(word, "=")
			if err := said.set(key, value); err != nil {
				return Profile{}, fmt.Errorf("profile %q: %w", rule, err)
			}
		}
		if !chosen && fits(words[0], host) {
			chosen, profile = true, said
		}
	}
	return profile, nil
}

func fits(pattern, host string) bool {
	pattern, host = strings.ToLower(pattern), strings.ToLower(host)
	if ok, err := path.Match(pattern, host); ok || err != nil {
		return ok
	}
	name, _, err := net.SplitHostPort(host)
	ok, _ := path.Match(pattern, name)
	return ok && err == nil
}

// set takes one key of a rule.
func (p *Profile) set(key, value string) error {
	number := func(into *int, most int) error {
		n, err := strconv.Atoi(value)
		if err != nil || n < 1 || n > most {
			return fmt.Errorf("%s: %q is no number from 1 to %d", key, value, most)
		}
		*into = n
		return nil
	}
	switch key {
	case "like":
		for _, row := range profiles {
			if row.Name == value {
				*p = row.Profile
				return nil
			}
		}
		return fmt.Errorf("like: %q is none of %s", value, strings.Join(ProfileNames(), ", "))
	case "referrers":
		if !slices.Contains([]string{ReferrersAuto, ReferrersAPI, ReferrersTags, ReferrersOff}, value) {
			return fmt.Errorf("referrers: %q is none of auto, api, tags, off", value)
		}
		p.Referrers = value
	case "config_media_type":
		if !mediaTypeForm.MatchString(value) {
			return fmt.Errorf("config_media_type: %q is no media type", value)
		}
		p.ConfigMediaType = value
	case "index_platform":
		if os, arch, ok := strings.Cut(value, "/"); !ok || os == "" || arch == "" || strings.Contains(arch, "/") {
			return fmt.Errorf("index_platform: %q is not os/architecture", value)
		}
		p.IndexPlatform = value
	case "page_size":
		return number(&p.PageSize, maxReferrers)
	case "max_annotations":
		return number(&p.MaxAnnotations, maxManifest)
	case "max_manifest":
		return number(&p.MaxManifest, maxManifest)
	case "chunk_size":
		return number(&p.ChunkSize, 64<<20)
	case "delete_scope":
		if value != "delete" && value != "*" {
			return fmt.Errorf("delete_scope: %q is neither delete nor *", value)
		}
		p.DeleteScope = value
	default:
		return fmt.Errorf("unknown key %q", key)
	}
	return nil
}

// config describes the two bytes that every artifact has for a config.
func (p Profile) config() ocispec.Descriptor {
	if p.ConfigMediaType == "" {
		return ocispec.DescriptorEmptyJSON
	}
	d := ocispec.DescriptorEmptyJSON
	d.MediaType, d.Data = p.ConfigMediaType, nil
	return d
}

// platform of entries in an index; nil where they need none.
func (p Profile) platform() *ocispec.Platform {
	os, arch, ok := strings.Cut(p.IndexPlatform, "/")
	if !ok {
		return nil
	}
	return &ocispec.Platform{OS: os, Architecture: arch}
}

// limit of one manifest.
func (p Profile) limit() int {
	if p.MaxManifest > 0 {
		return p.MaxManifest
	}
	return maxManifest
}

// dispensable annotations, the first to go first where there may not be many:
// the statement has them all.
var dispensable = []string{"predicate-type", "log", "media-type", "issuer", "evidence", "entry"}

// bound leaves annotations out until the rest is not too much.
func (p Profile) bound(annotations map[string]string) {
	if p.MaxAnnotations == 0 {
		return
	}
	size := 0
	for name, value := range annotations {
		size += len(name) + len(value)
	}
	for _, name := range dispensable {
		name = annotationPrefix + name
		if value, there := annotations[name]; there && size > p.MaxAnnotations {
			size -= len(name) + len(value)
			delete(annotations, name)
		}
	}
}

// Unlisted: by its profile, nothing lists what is placed in repo.
func Unlisted(repo Repository) bool { return profileOf(repo).Referrers == ReferrersOff }

// profileOf is what a Repository says of its registry.
func profileOf(repo Repository) Profile {
	if r, ok := repo.(interface{ profile() Profile }); ok {
		return r.profile()
	}
	return Profile{}
}
