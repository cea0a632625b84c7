package front

import (
	"container/list"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/scittd/scittd/storage"
)

// entry of a list of referrers.
type entry struct {
	digest       string
	artifactType string
	at           string          // where a page that begins with it begins
	raw          json.RawMessage // as it is sent; nil: nothing is known of it yet
	poor         bool            // the manifest says more
}

// listing is in order of digests, without duplicates.
type listing []entry

// find returns where a digest is, or would be.
func (l listing) find(dig string) (at int, found bool) {
	return slices.BinarySearchFunc(l, dig, func(e entry, dig string) int { return strings.Compare(e.digest, dig) })
}

// size in memory, about.
func (l listing) size() int {
	size := 0
	for _, e := range l {
		size += len(e.raw) + 160
	}
	return size
}

// parseList reads an index as a list of referrers; false if it is none. Entries
// stay as they came: others may have put in fields that we do not know. What is
// no descriptor is left out, for clients would refuse the whole list. tagged: it
// was made by clients, some of which leave annotations out.
//
// Lists have thousands of entries, of which a page shows a part: decoding all of
// them as encoding/json does would take most of the time of a page.
func parseList(body []byte, tagged bool) (listing, bool) {
	if !json.Valid(body) {
		return nil, false
	}
	var mediaType string
	var manifests []byte
	_ = storage.Members(body, func(name, value []byte) error {
		switch string(name) {
		case "mediaType":
			mediaType, _ = storage.Text(value)
		case "manifests":
			manifests = value
		}
		return nil
	})
	if mediaType != "" && mediaType != ocispec.MediaTypeImageIndex || len(manifests) == 0 || manifests[0] != '[' {
		return nil, false
	}
	var all listing
	_ = storage.Elements(manifests, func(raw []byte) error {
		if e, ok := parseEntry(raw, tagged); ok {
			all = append(all, e)
		}
		return nil
	})
	return merge(all, nil), true
}

// parseEntry reads a descriptor; false if it is none.
func parseEntry(raw []byte, tagged bool) (entry, bool) {
	e := entry{raw: raw}
	sound, annotated, typed, rare := true, false, false, false
	err := storage.Members(raw, func(name, value []byte) error {
		ok := true
		switch string(name) {
		case "digest":
			e.digest, ok = storage.Text(value)
		case "mediaType":
			_, typed = storage.Text(value)
		case "artifactType":
			e.artifactType, ok = storage.Text(value)
		case "size":
			_, err := strconv.ParseInt(string(value), 10, 64)
			ok = err == nil
		case "annotations":
			annotated = value[0] == '{'
			ok = annotated || string(value) == "null"
			_ = storage.Members(value, func(_, value []byte) error {
				ok = ok && value[0] == '"'
				return nil
			})
		default:
			rare = true
		}
		sound = sound && ok
		return nil
	})
	if err != nil || !sound || !typed || !isDigest(e.digest) {
		return entry{}, false
	}
	if rare && json.Unmarshal(raw, new(ocispec.Descriptor)) != nil {
		return entry{}, false
	}
	e.at = e.digest
	e.poor = uninformed(e.artifactType) || tagged && !annotated
	return e, true
}

// isDigest is digest.Validate, which takes a regular expression to the digests
// that everybody uses.
func isDigest(s string) bool {
	if hex, ok := strings.CutPrefix(s, "sha256:"); ok && len(hex) == 64 {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return digest.Digest(s).Validate() == nil
}

// uninformed artifact types are missing, or the config's media type in their
// place (go-containerregistry).
func uninformed(artifactType string) bool {
	return artifactType == "" || artifactType == ocispec.MediaTypeEmptyJSON || artifactType == ocispec.MediaTypeImageConfig
}

// merge is both in one; of what both have, the first's.
func merge(a, b listing) listing {
	all := append(slices.Clip(a), b...)
	order := func(x, y entry) int { return strings.Compare(x.digest, y.digest) }
	if !slices.IsSortedFunc(all, order) {
		slices.SortStableFunc(all, order)
	}
	return slices.CompactFunc(all, func(x, y entry) bool { return x.digest == y.digest })
}

// described is what a list says of a manifest, from the manifest.
type described struct {
	artifactType string
	raw          json.RawMessage
	at           time.Time
}

// describe reads a manifest.
//
// SPEC OCI distribution 1.1, listing referrers: artifactType is the manifest's,
// or else its config's media type; annotations are the manifest's.
func describe(a *Answer, dig string) described {
	var m struct {
		MediaType    string              `json:"mediaType"`
		ArtifactType string              `json:"artifactType"`
		Config       *ocispec.Descriptor `json:"config"`
		Annotations  map[string]string   `json:"annotations"`
	}
	if json.Unmarshal(a.Body, &m) != nil {
		return described{}
	}
	if m.MediaType == "" {
		m.MediaType, _, _ = strings.Cut(a.Header.Get("Content-Type"), ";")
	}
	if m.ArtifactType == "" && m.Config != nil {
		m.ArtifactType = m.Config.MediaType
	}
	raw, err := json.Marshal(storage.Descriptor{
		MediaType: m.MediaType, Digest: dig, Size: int64(len(a.Body)), ArtifactType: m.ArtifactType, Annotations: m.Annotations,
	})
	if err != nil {
		return described{}
	}
	return described{artifactType: m.ArtifactType, raw: raw, at: time.Now()}
}

// referrersTag of a subject.
//
// SPEC OCI distribution 1.1, referrers tag schema: algorithm, "-", encoded, cut
// to 32 and 64 characters.
func referrersTag(subject digest.Digest) string {
	alg, enc := subject.Algorithm().String(), subject.Encoded()
	return alg[:min(len(alg), 32)] + "-" + enc[:min(len(enc), 64)]
}

// cache keeps what was used last, up to so many bytes. Safe for concurrent use.
type cache[V any] struct {
	limit int

	mu    sync.Mutex
	used  int
	order list.List // of *kept[V], the latest in front
	items map[string]*list.Element
}

type kept[V any] struct {
	key   string
	value V
	size  int
}

func (c *cache[V]) get(key string) (value V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.items[key]
	if !ok {
		return value, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*kept[V]).value, true
}

func (c *cache[V]) put(key string, value V, size int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(key)
	if size > c.limit {
		return
	}
	if c.items == nil {
		c.items = map[string]*list.Element{}
	}
	c.items[key] = c.order.PushFront(&kept[V]{key, value, size})
	for c.used += size; c.used > c.limit; {
		c.remove(c.order.Back().Value.(*kept[V]).key)
	}
}

func (c *cache[V]) drop(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(key)
}

// remove is drop; c.mu is held.
func (c *cache[V]) remove(key string) {
	if e, ok := c.items[key]; ok {
		delete(c.items, key)
		c.used -= c.order.Remove(e).(*kept[V]).size
	}
}
