package embedded

import (
	"bytes"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// maxTags bounds a page of tags, whatever n asks for.
const maxTags = 1000

// maxPushedTags bounds the tags that one push sets.
const maxPushedTags = 100

// A manifest beyond largeManifest, or of unknown size, is one of at most
// maxLarge that are read, parsed and stored at once.
const (
	largeManifest = 64 << 10
	maxLarge      = 16
)

func (x exchange) getManifest() error {
	ref, err := parseReference(x.item)
	if err != nil {
		return err
	}
	get := x.r.Method == http.MethodGet
	m, size, err := x.Registry.getManifest(x.r.Context(), x.repository, ref, get)
	if err != nil {
		return err
	}
	x.w.Header().Set("Content-Type", m.mediaType)
	x.w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	x.w.Header().Set("Docker-Content-Digest", string(m.digest))
	x.w.WriteHeader(http.StatusOK)
	if get {
		x.send(bytes.NewReader(m.body), size)
	}
	return nil
}

func (x exchange) putManifest() error {
	want, tags, err := x.pushedAs()
	if err != nil {
		return err
	}
	mediaType, _, err := mime.ParseMediaType(x.r.Header.Get("Content-Type"))
	if err != nil {
		return manifestInvalid("the push has no readable Content-Type")
	}
	body, done, err := x.manifestBody()
	if err != nil {
		return err
	}
	defer done()
	m, err := x.Registry.putManifest(x.r.Context(), x.repository, want, tags, mediaType, body)
	if err != nil {
		return err
	}
	h := x.w.Header()
	h.Set("Location", x.location("manifests/"+string(m.digest)))
	h.Set("Docker-Content-Digest", string(m.digest))
	// SPEC distribution-spec 1.1, "Pushing Manifests with Subject": a registry
	// with the referrers API MUST answer OCI-Subject.
	if m.subject != "" {
		h.Set("OCI-Subject", string(m.subject))
	}
	// SPEC distribution-spec main, "Pushing Manifests": for each tag of a query
	// the answer MUST include an OCI-Tag header.
	if want != "" {
		for _, tag := range tags {
			h.Add("OCI-Tag", tag)
		}
	}
	// SPEC distribution-spec 1.1, "Warnings": the code MUST be 299 and the agent
	// "-".
	if one, err := x.absent(x.r.Context(), x.repository, m.lists); err == nil && one != "" {
		h.Set("Warning", `299 - "the index lists manifests that this repository does not have, such as `+one+`"`)
	}
	return x.empty(http.StatusCreated)
}

// pushedAs is what a manifest is to be stored under: its tag, or its digest and
// the tags of the query.
func (x exchange) pushedAs() (want digest, tags []string, err error) {
	if !strings.Contains(x.item, ":") {
		return "", []string{x.item}, checkTag(x.item)
	}
	if want, err = parseDigest(x.item); err != nil {
		return "", nil, err
	}
	query, err := url.ParseQuery(x.r.URL.RawQuery)
	if err != nil {
		return "", nil, manifestInvalid("the query does not parse")
	}
	// SPEC distribution-spec main, "Pushing Manifests": at least 10 tags MUST be
	// supported, more MAY be answered with 414.
	if tags = query["tag"]; len(tags) > maxPushedTags {
		return "", nil, refuse(414, "MANIFEST_INVALID", "%d tags at once, at most %d are allowed", len(tags), maxPushedTags)
	}
	for _, tag := range tags {
		if err := checkTag(tag); err != nil {
			return "", nil, err
		}
	}
	return want, tags, nil
}

// manifestBody reads the manifest. The caller calls done when it is through
// with it: of large ones only a few are in memory at once.
func (x exchange) manifestBody() (body []byte, done func(), err error) {
	if x.r.ContentLength > MaxManifest {
		return nil, nil, manifestTooLarge()
	}
	done = func() {}
	if size := x.r.ContentLength; size < 0 || size > largeManifest {
		select {
		case x.large <- struct{}{}:
			done = func() { <-x.large }
		default:
			return nil, nil, busy("%d large manifests are being pushed", maxLarge)
		}
	}
	body, err = io.ReadAll(io.LimitReader(x.body, MaxManifest+1))
	switch {
	case err != nil:
	case len(body) > MaxManifest:
		err = manifestTooLarge()
	default:
		return body, done, nil
	}
	done()
	return nil, nil, err
}

func (x exchange) deleteManifest() error {
	ref, err := parseReference(x.item)
	if err != nil {
		return err
	}
	if err := x.Registry.deleteManifest(x.r.Context(), x.repository, ref); err != nil {
		return err
	}
	return x.empty(http.StatusAccepted)
}

func (x exchange) listTags() error {
	query := x.r.URL.Query()
	n := maxTags
	if query.Has("n") {
		asked, ok := parseOffset(query.Get("n"))
		if !ok {
			return refuse(400, "UNSUPPORTED", "n is %q, not a number", clip(query.Get("n")))
		}
		n = int(min(asked, maxTags))
	}
	tags, more, err := x.Registry.listTags(x.r.Context(), x.repository, n, query.Get("last"))
	if err != nil {
		return err
	}
	if more && n > 0 {
		x.link("tags/list", url.Values{"n": {strconv.Itoa(n)}, "last": {tags[len(tags)-1]}})
	}
	return x.json(http.StatusOK, "application/json", map[string]any{"name": x.repository, "tags": tags})
}

// link names the next page, relative as a Location is.
func (x exchange) link(words string, query url.Values) {
	x.w.Header().Set("Link", "<"+x.location(words)+"?"+query.Encode()+`>; rel="next"`)
}

func (x exchange) listReferrers() error {
	subject, err := parseDigest(x.item)
	if err != nil {
		return err
	}
	query := x.r.URL.Query()
	artifactType := query.Get("artifactType")
	var after digest
	if query.Has("last") {
		if after, err = parseDigest(query.Get("last")); err != nil {
			return err
		}
	}
	page, err := x.Registry.listReferrers(x.r.Context(), listing{x.repository, subject, artifactType, after})
	if err != nil {
		return err
	}
	// SPEC distribution-spec 1.1, "Listing Referrers": when filtering was
	// applied, the response MUST say so.
	if artifactType != "" {
		x.w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	if behind := page.next(); behind != "" {
		next := url.Values{"last": {string(behind)}}
		if artifactType != "" {
			next.Set("artifactType", artifactType)
		}
		x.link("referrers/"+string(subject), next)
	}
	return x.document(http.StatusOK, ociIndex, page.index())
}
