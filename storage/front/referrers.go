package front

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/scittd/scittd/storage"
)

// Lists are those that an upstream registry keeps of what refers to an image, or
// that are kept for it under the referrers tag. *storage.Remote is one, and the
// one that placements go through should be: then the two never overwrite each
// other's lists.
type Lists interface {
	// Capability says how a repository lists referrers: "api" if the registry's
	// own answer is the whole list; anything else if it is not, or nobody knows.
	Capability(ctx context.Context, repository string) (string, error)
	// List sees to it that a manifest that was pushed is in its subject's list,
	// and returns nil once it was read there. promised: by OCI-Subject.
	List(ctx context.Context, repository string, manifest storage.Descriptor, body []byte, promised bool) error
	// Subject of a manifest, "" if it has none.
	Subject(ctx context.Context, repository, manifest string) (string, error)
	// Unlist takes off one that was deleted.
	Unlist(ctx context.Context, repository, subject, manifest string) error
}

// Placement is a manifest that is known to have been placed beside an image.
type Placement struct {
	Entry    uint64 // in the order of which they are listed
	Manifest string // digest
}

// Placements are what is known from elsewhere.
type Placements interface {
	// Placements beside an image, of at most n entries from one on, and the entry
	// to go on from; 0 at the end.
	Placements(ctx context.Context, repository, subject string, from uint64, n int) ([]Placement, uint64, error)
}

// Synthesis answers the referrers API for repositories whose registry has none,
// or has one that does not list what it accepts: from the list under the
// referrers tag and from the placements that are known, together and without
// duplicates. What a list leaves out of an entry is read from the manifest; so are
// the types that a registry lists wrongly, and filters by.
//
// Everything is read with the caller's credentials: who may not pull learns
// nothing. Clients that push or delete through the front need not keep the tag
// (they are told that the API is there), so it is kept for them, and clients
// that go to the registry directly find the same.
type Synthesis struct {
	lists  Lists
	placed Placements
	log    *slog.Logger

	read      cache[listing]   // by digest of an index
	described cache[described] // by repository and digest of a manifest
}

// Bounds on what is kept in memory, in bytes, and how long a manifest is taken
// to be there once it was.
const (
	listsKept      = 12 << 20
	describedKept  = 8 << 20
	describedHolds = 5 * time.Minute
)

// listingTime is how long a client waits at most for its manifest to be listed.
const listingTime = 20 * time.Second

// NewSynthesis answers from lists and placed, which may be nil, and log.
func NewSynthesis(lists Lists, placed Placements, log *slog.Logger) *Synthesis {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Synthesis{lists: lists, placed: placed, log: log, read: cache[listing]{limit: listsKept}, described: cache[described]{limit: describedKept}}
}

// keptBy says how what refers to images of a repository is listed: by "registry",
// or by us, "synthesised".
func (s *Synthesis) keptBy(ctx context.Context, repository string) string {
	if capability, err := s.lists.Capability(ctx, repository); err != nil || capability != "api" {
		return "synthesised"
	}
	return "registry"
}

// listed is a Hook of Config.Referrers.
func (s *Synthesis) listed(w http.ResponseWriter, r *Request, next func(http.ResponseWriter)) {
	ctx := r.HTTP.Context()
	// SPEC OCI distribution 1.1, listing referrers: 400 when the digest is not one.
	subject, err := digest.Parse(r.Reference)
	if err != nil {
		answer(w, http.StatusBadRequest, "DIGEST_INVALID", "this is no digest")
		return
	}
	query := r.HTTP.URL.Query()
	p := &page{s: s, r: r, subject: subject, artifactType: query.Get("artifactType"), most: pageEntries, reads: pageReads}
	if s.keptBy(ctx, r.Repository) == "registry" {
		if p.theirs(ctx, w, next) {
			return
		}
		p.whole = true
	}
	if n, err := strconv.Atoi(query.Get("n")); err == nil && n > 0 {
		p.most = min(n, pageEntries)
	}
	if err := p.fill(ctx, query.Get("from")); err != nil {
		err.answer(w)
		return
	}
	p.write(w)
}

// pushed is a Hook of Config.ManifestPut.
//
// SPEC OCI distribution 1.1, pushing manifests with subject: a registry with the
// referrers API MUST answer OCI-Subject; without it the client MUST keep the
// referrers tag itself. So the header is given for what was read in the list, and
// taken away from what was not.
func (s *Synthesis) pushed(w http.ResponseWriter, r *Request, next func(http.ResponseWriter)) {
	subject := subjectOf(r.Manifest)
	if subject == "" || s.keptBy(r.HTTP.Context(), r.Repository) == "registry" {
		next(w)
		return
	}
	held, err := Hold(next)
	if err != nil {
		s.log.Warn("registry's answer to a push is not one", "repository", r.Repository, "err", err)
		answer(w, http.StatusBadGateway, "UNKNOWN", "the registry's answer broke off, try again")
		return
	}
	if held.Status != http.StatusCreated {
		held.Release(w)
		return
	}
	// It is stored: list it, though the client may be gone.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.HTTP.Context()), listingTime)
	defer cancel()
	manifest := storage.Descriptor{
		MediaType: r.HTTP.Header.Get("Content-Type"), Digest: digestOf(r.Reference, r.Manifest), Size: int64(len(r.Manifest)),
	}
	err = s.lists.List(ctx, r.Repository, manifest, r.Manifest, held.Header.Get("OCI-Subject") != "")
	if err == nil {
		held.Header.Set("OCI-Subject", subject)
	} else {
		s.log.Warn("referrer not listed; the client is to do it", "repository", r.Repository, "manifest", manifest.Digest, "err", err)
		held.Header.Del("OCI-Subject")
	}
	held.Release(w)
}

// deleted is a Hook of Config.Delete.
//
// SPEC OCI distribution 1.1, deleting manifests: where the referrers API is
// missing, clients SHOULD take what they delete off the referrers tag. Ours do
// not know that it is.
func (s *Synthesis) deleted(w http.ResponseWriter, r *Request, next func(http.ResponseWriter)) {
	ctx := r.HTTP.Context()
	manifest, err := digest.Parse(r.Reference)
	if err != nil || r.Blob {
		next(w)
		return
	}
	// Whatever comes of it, the manifest is looked for again by the next page.
	key := r.Repository + "@" + manifest.String()
	s.described.drop(key)
	defer s.described.drop(key)
	if s.keptBy(ctx, r.Repository) == "registry" {
		next(w)
		return
	}
	was, err := r.Ask(ctx, http.MethodGet, "/v2/"+r.Repository+"/manifests/"+manifest.String(), http.Header{"Accept": manifestTypes}, nil)
	subject := ""
	switch {
	case err != nil:
	case was.Status == http.StatusUnauthorized || was.Status == http.StatusForbidden:
		// Who may delete need not have asked to read: oras has a token for that
		// alone. What is read in its place, it does not see.
		if subject, err = s.lists.Subject(ctx, r.Repository, manifest.String()); err != nil {
			s.log.Warn("manifest not read before its deletion", "repository", r.Repository, "manifest", manifest.String(), "err", err)
		}
	case was.Status == http.StatusOK && manifest.Algorithm().FromBytes(was.Body) == manifest:
		subject = subjectOf(was.Body)
	}
	if subject == "" {
		next(w)
		return
	}
	held, err := Hold(next)
	if err != nil {
		answer(w, http.StatusBadGateway, "UNKNOWN", "the registry's answer broke off, try again")
		return
	}
	if held.Status/100 == 2 {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), listingTime)
		defer cancel()
		if err := s.lists.Unlist(ctx, r.Repository, subject, manifest.String()); err != nil {
			s.log.Warn("deleted referrer still listed", "repository", r.Repository, "manifest", manifest.String(), "err", err)
		}
	}
	held.Release(w)
}

// manifestTypes are all that a registry may have under a digest or a tag: one
// that is not asked for it may convert it.
var manifestTypes = []string{strings.Join([]string{
	ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest,
	"application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.docker.distribution.manifest.v2+json", "*/*",
}, ", ")}

// subjectOf a manifest, "" if it refers to nothing.
func subjectOf(manifest []byte) string {
	var m struct {
		Subject *ocispec.Descriptor `json:"subject"`
	}
	if json.Unmarshal(manifest, &m) != nil || m.Subject == nil || m.Subject.Digest.Validate() != nil {
		return ""
	}
	return m.Subject.Digest.String()
}

// digestOf what was pushed under a reference.
func digestOf(reference string, manifest []byte) string {
	if d, err := digest.Parse(reference); err == nil {
		return d.Algorithm().FromBytes(manifest).String()
	}
	return digest.FromBytes(manifest).String()
}
