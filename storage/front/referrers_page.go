package front

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// Bounds of a page. It ends, and says where the next one begins, as soon as one
// of them is reached.
const (
	pageEntries = 1000
	pageBytes   = 3 << 20 // of entries; clients read 4 MiB
	pageReads   = 128     // manifests to open, since lists leave things out
	readsAtOnce = 16
	placedTime  = 2 * time.Second // for what is known from elsewhere
)

// page is one of a list of referrers. The list is what the registry's own lists
// show, in order of digests, and behind it what is known to be placed and in
// none of them, in order of entries. So a page begins at a digest, or at the
// k-th manifest of an entry: "entry-17-1".
type page struct {
	s            *Synthesis
	r            *Request
	subject      digest.Digest
	artifactType string
	most, reads  int // entries, and manifests to open, that it may still have

	whole   bool // the registry's API has all there is
	absent  bool // neither the referrers tag nor the image is there
	entries []json.RawMessage
	bytes   int
	next    string // where the next page begins; "": this is the last
}

// halted is the answer instead of a page: the registry's, or one of ours.
type halted struct {
	given *Answer
	code  int
	word  string
	text  string
}

func (h *halted) answer(w http.ResponseWriter) {
	if h.given != nil {
		h.given.Release(w)
		return
	}
	if h.code == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	answer(w, h.code, h.word, h.text)
}

var errUnread = &halted{code: http.StatusServiceUnavailable, word: "UNKNOWN", text: "the registry's lists cannot be read, try again"}

// fill makes the page that begins at from.
func (p *page) fill(ctx context.Context, from string) *halted {
	var at, skip uint64
	placed := strings.HasPrefix(from, "entry-")
	if placed {
		if n, err := fmt.Sscanf(from, "entry-%d-%d", &at, &skip); n != 2 || err != nil || at > math.MaxInt64 {
			return &halted{code: http.StatusBadRequest, word: "UNSUPPORTED", text: "no page begins there"}
		}
	}
	list, halt := p.list(ctx, from != "")
	if halt != nil {
		return halt
	}
	if !placed {
		first, _ := list.find(from)
		if halt := p.take(ctx, list[first:]); halt != nil || p.next != "" {
			return halt
		}
	}
	if p.s.placed == nil || p.absent || p.whole {
		return nil
	}
	return p.known(ctx, list, at, skip)
}

// theirs answers with the registry's own list, untouched, unless that gives types
// which may not be those of the manifests. A list that was filtered by such types
// does not show it, so a filter is tried without.
func (p *page) theirs(ctx context.Context, w http.ResponseWriter, next func(http.ResponseWriter)) bool {
	var own *Answer
	var err error
	if p.artifactType == "" {
		own, err = Hold(next)
	} else {
		own, err = p.r.Ask(ctx, http.MethodGet, p.api(), http.Header{"Accept": {ocispec.MediaTypeImageIndex}}, nil)
	}
	if err == nil && own.Status == http.StatusOK {
		list, _ := parseList(own.Body, false)
		if slices.ContainsFunc(list, func(e entry) bool { return e.poor }) {
			return false
		}
	}
	if err == nil && p.artifactType == "" {
		own.Release(w)
	} else {
		next(w)
	}
	return true
}

func (p *page) api() string {
	return "/v2/" + p.r.Repository + "/referrers/" + p.subject.String()
}

// take adds entries, in their order, until the page is full.
func (p *page) take(ctx context.Context, entries []entry) *halted {
	for len(entries) > 0 {
		if len(p.entries) >= p.most {
			p.next = entries[0].at
			return nil
		}
		whole, halt := p.complete(ctx, entries[:min(len(entries), p.most)])
		if halt != nil {
			return halt
		}
		for _, e := range whole {
			if e.raw == nil || p.artifactType != "" && e.artifactType != p.artifactType {
				continue
			}
			if len(p.entries) >= p.most || p.bytes+len(e.raw) > pageBytes && p.bytes > 0 {
				p.next = e.at
				return nil
			}
			p.entries, p.bytes = append(p.entries, e.raw), p.bytes+len(e.raw)+1
		}
		if len(whole) == 0 { // nothing more may be opened
			p.next = entries[0].at
			return nil
		}
		entries = entries[len(whole):]
	}
	return nil
}

// complete opens the manifests of entries that say too little, a few at a time,
// and returns as many entries as it may open manifests for. One whose manifest is
// not there has no bytes afterwards.
func (p *page) complete(ctx context.Context, entries []entry) ([]entry, *halted) {
	var whole []entry
	var open []int
	for i, e := range entries {
		if e.poor {
			d, ok := p.s.described.get(p.r.Repository + "@" + e.digest)
			switch {
			case ok && time.Since(d.at) < describedHolds:
				e.artifactType, e.raw = d.artifactType, d.raw
			case len(open) == p.reads:
				entries = entries[:i]
			default:
				open = append(open, i)
			}
		}
		if i == len(entries) {
			break
		}
		whole = append(whole, e)
	}
	p.reads -= len(open)
	halts := make([]*halted, len(open))
	var reading errgroup.Group
	reading.SetLimit(readsAtOnce)
	for n, i := range open {
		reading.Go(func() error {
			e := &whole[i]
			var d described
			d, halts[n] = p.describe(ctx, e.digest)
			e.artifactType, e.raw = d.artifactType, d.raw
			if key := p.r.Repository + "@" + e.digest; d.raw != nil {
				p.s.described.put(key, d, len(key)+len(d.raw))
			}
			return nil
		})
	}
	_ = reading.Wait() // what failed is in halts
	for _, halt := range halts {
		if halt != nil {
			return nil, halt
		}
	}
	return whole, nil
}

// describe reads a manifest and says of it what a list does: nothing, if it is
// not there, or not for this caller.
func (p *page) describe(ctx context.Context, dig string) (described, *halted) {
	a, err := p.r.Ask(ctx, http.MethodGet, "/v2/"+p.r.Repository+"/manifests/"+dig, http.Header{"Accept": manifestTypes}, nil)
	switch {
	case err != nil:
		return described{}, errUnread
	case a.Status == http.StatusTooManyRequests || a.Status >= 500:
		return described{}, &halted{given: a}
	case a.Status != http.StatusOK || digest.Digest(dig).Algorithm().FromBytes(a.Body).String() != dig:
		return described{}, nil
	}
	return describe(a, dig), nil
}

// list is what the registry's own lists show, one with the other. again: this is
// not the first page, so that the list is probably here already.
func (p *page) list(ctx context.Context, again bool) (listing, *halted) {
	if p.whole {
		listed, halt := p.listed(ctx)
		return merge(listed, nil), halt
	}
	tagged, halt := p.tagged(ctx, again)
	if halt != nil {
		return nil, halt
	}
	if capability, err := p.s.lists.Capability(ctx, p.r.Repository); err == nil && capability == "tags" {
		return tagged, nil
	}
	listed, halt := p.listed(ctx)
	if halt != nil {
		return nil, halt
	}
	return merge(listed, tagged), nil
}

// tagged is the list under the referrers tag; empty, if the tag is not there or
// leads to something else, such as the image itself.
func (p *page) tagged(ctx context.Context, again bool) (listing, *halted) {
	path := "/v2/" + p.r.Repository + "/manifests/" + referrersTag(p.subject)
	header := http.Header{"Accept": manifestTypes}
	if again {
		a, err := p.r.Ask(ctx, http.MethodHead, path, header, nil)
		if err == nil && a.Status == http.StatusOK {
			if list, ok := p.s.read.get(a.Header.Get("Docker-Content-Digest")); ok {
				return list, nil
			}
		}
	}
	a, err := p.r.Ask(ctx, http.MethodGet, path, header, nil)
	switch {
	case err != nil:
		return nil, errUnread
	case a.Status == http.StatusNotFound:
		return nil, p.mayPull(ctx)
	case a.Status != http.StatusOK:
		return nil, &halted{given: a}
	}
	dig := digest.FromBytes(a.Body).String()
	if dig == p.subject.String() {
		return nil, nil
	}
	if list, ok := p.s.read.get(dig); ok {
		return list, nil
	}
	list, ok := parseList(a.Body, true)
	if ok {
		p.s.read.put(dig, list, list.size())
	}
	return list, nil
}

// mayPull asks for the image itself where nothing else has shown that the caller
// may read the repository: what is known of images is not for everybody.
func (p *page) mayPull(ctx context.Context) *halted {
	a, err := p.r.Ask(ctx, http.MethodHead, "/v2/"+p.r.Repository+"/manifests/"+p.subject.String(), http.Header{"Accept": manifestTypes}, nil)
	switch {
	case err != nil:
		return errUnread
	case a.Status == http.StatusOK:
		return nil
	case a.Status == http.StatusNotFound:
		p.absent = true
		return nil
	}
	return &halted{given: a}
}

// listed is what the registry's API shows, if it has one.
func (p *page) listed(ctx context.Context) (listing, *halted) {
	const mostPages, mostEntries = 100, 10_000
	var all listing
	path := p.api()
	for at, n := path, 0; at != "" && n < mostPages && len(all) < mostEntries; n++ {
		a, err := p.r.Ask(ctx, http.MethodGet, at, http.Header{"Accept": {ocispec.MediaTypeImageIndex}}, nil)
		switch {
		case err != nil:
			return nil, errUnread
		case a.Status == http.StatusTooManyRequests, a.Status >= 500 && a.Status != http.StatusNotImplemented:
			return nil, &halted{given: a}
		case a.Status != http.StatusOK:
			return all, nil // no API; who may not pull was told already
		}
		list, ok := parseList(a.Body, false)
		if !ok {
			return all, nil // a page of the web site, perhaps
		}
		all = append(all, list...)
		at = nextPage(path, a.Header.Get("Link"))
	}
	return all, nil
}

// nextPage is where Link leads, if that is the same list.
func nextPage(path, link string) string {
	target, rel, ok := strings.Cut(link, ">")
	if !ok || !strings.HasPrefix(target, "<") || !strings.Contains(strings.ToLower(rel), "next") {
		return ""
	}
	base := url.URL{Path: path}
	u, err := base.Parse(target[1:])
	if err != nil || u.Path != path {
		return ""
	}
	return u.RequestURI()
}

// known adds what is known to be placed, from an entry on, and in none of the
// registry's lists. Where nobody knows, those lists are all there is.
func (p *page) known(ctx context.Context, list listing, from, skip uint64) *halted {
	seen := map[string]bool{}
	for {
		asking, cancel := context.WithTimeout(ctx, placedTime)
		placements, next, err := p.s.placed.Placements(asking, p.r.Repository, p.subject.String(), from, pageReads)
		cancel()
		if err != nil {
			if ctx.Err() == nil {
				p.s.log.Warn("placements unavailable: listed what the registry lists", "repository", p.r.Repository, "err", err)
			}
			return nil
		}
		var entries []entry
		of, k := uint64(0), uint64(0)
		for i, placement := range placements {
			if i == 0 || placement.Entry != of {
				of, k = placement.Entry, 0
			}
			e := entry{digest: placement.Manifest, at: fmt.Sprintf("entry-%d-%d", of, k), poor: true}
			k++
			_, listed := list.find(e.digest)
			if of == from && k <= skip || listed || seen[e.digest] {
				continue
			}
			if _, err := digest.Parse(e.digest); err != nil {
				continue
			}
			seen[e.digest] = true
			entries = append(entries, e)
		}
		if halt := p.take(ctx, entries); halt != nil || p.next != "" || next == 0 {
			return halt
		}
		from, skip = next, 0
	}
}

// write sends the page.
func (p *page) write(w http.ResponseWriter) {
	entries := p.entries
	if entries == nil {
		entries = []json.RawMessage{}
	}
	body, err := json.Marshal(struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     string            `json:"mediaType"`
		Manifests     []json.RawMessage `json:"manifests"`
	}{2, ocispec.MediaTypeImageIndex, entries})
	if err != nil {
		errUnread.answer(w) // entries were JSON when they were read
		return
	}
	if p.next != "" {
		more := url.Values{"from": {p.next}}
		if n := p.r.HTTP.URL.Query().Get("n"); n != "" {
			more.Set("n", strconv.Itoa(p.most))
		}
		if p.artifactType != "" {
			more.Set("artifactType", p.artifactType)
		}
		w.Header().Set("Link", fmt.Sprintf(`</v2/%s/referrers/%s?%s>; rel="next"`, p.r.Repository, p.subject, more.Encode()))
	}
	// SPEC OCI distribution 1.1, listing referrers: a registry that filters MUST
	// say so.
	if p.artifactType != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(http.StatusOK)
	if p.r.HTTP.Method != http.MethodHead {
		_, _ = w.Write(body)
	}
}
