package embedded

import (
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
)

// maxTags bounds a page of tags, whatever n asks for.
const maxTags = 1000

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
		_, _ = x.w.Write(m.body)
	}
	return nil
}

func (x exchange) putManifest() error {
	ref, err := parseReference(x.item)
	if err != nil {
		return err
	}
	mediaType, _, err := mime.ParseMediaType(x.r.Header.Get("Content-Type"))
	if err != nil {
		return manifestInvalid("the push has no readable Content-Type")
	}
	body, err := x.manifestBody()
	if err != nil {
		return err
	}
	m, err := x.Registry.putManifest(x.r.Context(), x.repository, ref, mediaType, body)
	if err != nil {
		return err
	}
	x.w.Header().Set("Location", x.location("manifests/"+string(m.digest)))
	x.w.Header().Set("Docker-Content-Digest", string(m.digest))
	// SPEC distribution-spec 1.1, "Pushing Manifests with Subject": a registry
	// with the referrers API MUST answer OCI-Subject.
	if m.subject != "" {
		x.w.Header().Set("OCI-Subject", string(m.subject))
	}
	return x.empty(http.StatusCreated)
}

func (x exchange) manifestBody() ([]byte, error) {
	if x.r.ContentLength > MaxManifest {
		return nil, manifestTooLarge()
	}
	body, err := io.ReadAll(io.LimitReader(x.r.Body, MaxManifest+1))
	if err != nil {
		return nil, brokenOff("MANIFEST_INVALID", int64(len(body)), err)
	}
	if len(body) > MaxManifest {
		return nil, manifestTooLarge()
	}
	return body, nil
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
	page, err := x.Registry.listReferrers(x.r.Context(), x.repository, subject, artifactType, after)
	if err != nil {
		return err
	}
	// SPEC distribution-spec 1.1, "Listing Referrers": when filtering was
	// applied, the response MUST say so.
	if artifactType != "" {
		x.w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	if page.next != "" {
		next := url.Values{"last": {string(page.next)}}
		if artifactType != "" {
			next.Set("artifactType", artifactType)
		}
		x.link("referrers/"+string(subject), next)
	}
	return x.json(http.StatusOK, ociIndex, struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     string            `json:"mediaType"`
		Manifests     []json.RawMessage `json:"manifests"`
	}{2, ociIndex, page.manifests})
}
