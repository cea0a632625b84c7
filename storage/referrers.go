package storage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
)

// listing is how a repository's referrers are kept and found. Registries and
// the proxies before them answer /referrers in every possible way, so only one
// thing decides: was something that we pushed in the list?
type listing int

const (
	undecided listing = iota // nothing pushed yet: read API and tag; the next push finds out
	byAPI                    // the API lists what we push
	byTag                    // there is no API: we keep the tag
	byBoth                   // the API answers but does not list: we keep the tag, and read both
	nowhere                  // by order: nothing lists what we push
)

// listings are their names, in a Memo and for whoever asks.
var listings = [...]string{undecided: "", byAPI: "api", byTag: "tags", byBoth: "both", nowhere: "off"}

// listingHolds is how long such a decision is good for: registries are
// upgraded, and moved.
const listingHolds = 24 * time.Hour

// known is what this process knows already.
func (r *repository) known() listing {
	switch r.remote.profile.Referrers {
	case ReferrersAPI:
		return byAPI
	case ReferrersTags:
		return byTag
	case ReferrersOff:
		return nowhere
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.listing != undecided && r.remote.now().Sub(r.decided) > listingHolds {
		r.listing = undecided
	}
	return r.listing
}

// listed is known, with what other processes know.
func (r *repository) listed(ctx context.Context) listing {
	l := r.known()
	if l == undecided {
		r.recall(ctx)
		l = r.known()
	}
	return l
}

// pushReferrer pushes a manifest with a subject and sees to it that it is listed.
func (r *repository) pushReferrer(ctx context.Context, desc ocispec.Descriptor, body []byte, ref string, m referrer) error {
	watch := &subjectWatch{Client: r.remote.client}
	if err := r.open(watch).PushReference(ctx, desc, bytes.NewReader(body), ref); err != nil {
		return err
	}
	return r.list(ctx, m.Subject.Digest, m.describe(fromOCI(desc)), watch.seen)
}

// list sees to it that d, which was just pushed, is in the list of subject.
// promised: the registry said so by OCI-Subject.
//
// SPEC OCI distribution 1.1: a client that pushes a manifest with a subject MUST
// verify that the referrers API is available, or else keep the referrers tag.
func (r *repository) list(ctx context.Context, subject digest.Digest, d Descriptor, promised bool) error {
	switch r.listed(ctx) {
	case byAPI, nowhere:
		return nil
	case byTag, byBoth:
		return r.tag(ctx, subject, d)
	}
	found, err := r.byAPI(ctx, subject)
	switch {
	case err == nil && contains(found, d.Digest):
		r.decide(ctx, byAPI)
		return nil
	case err == nil && promised:
		return nil // perhaps under way; who reads back decides, with keepListed
	case err == nil:
		r.decide(ctx, byBoth)
	case noAPI(err):
		// If it was the credentials, they do not write the tag either, and nothing
		// is known of the registry.
		if err := r.tag(ctx, subject, d); err != nil {
			return err
		}
		r.decide(ctx, byTag)
		return nil
	default:
		return err
	}
	return r.tag(ctx, subject, d)
}

// keepListed implements listKeeper.
func (r *repository) keepListed(ctx context.Context, subject string, manifest Descriptor) error {
	if l := r.listed(ctx); l == undecided || l == byAPI {
		r.decide(ctx, byBoth)
	}
	return r.failure("push to", fmt.Sprintf("list manifest %s in %s", manifest.Digest, r.name()),
		r.tag(ctx, digest.Digest(subject), manifest))
}

// Referrers implements Repository. The list is never filtered by the registry:
// some filter by a type they got wrong.
func (r *repository) Referrers(ctx context.Context, subject, artifactType string) ([]Descriptor, error) {
	attempt := fmt.Sprintf("list referrers of %s in %s", subject, r.name())
	if err := validDigest(subject); err != nil {
		return nil, fmt.Errorf("%s: %w", attempt, err)
	}
	found, err := r.find(ctx, digest.Digest(subject))
	if err != nil {
		return nil, r.failure("pull from", attempt, err)
	}
	if artifactType != "" {
		found = slices.DeleteFunc(found, func(d Descriptor) bool { return d.ArtifactType != artifactType })
	}
	return found, nil
}

// find reads the list, or both lists, into one without duplicates.
func (r *repository) find(ctx context.Context, subject digest.Digest) ([]Descriptor, error) {
	how := r.listed(ctx)
	var found []Descriptor
	if how != byTag {
		listed, err := r.byAPI(ctx, subject)
		if err != nil && !noAPI(err) {
			return nil, err
		}
		for _, d := range listed {
			if d, err = r.complete(ctx, d, false); err != nil {
				return nil, err
			}
			found = append(found, d)
		}
		if how == byAPI && err == nil {
			return found, nil
		}
		if how == byAPI && r.remote.profile.Referrers == ReferrersAPI {
			return nil, err
		}
		if how == byAPI {
			r.decide(ctx, undecided) // the API is gone: look at the tag, ask again at the next push
		}
	}
	tagged, err := r.byTag(ctx, subject)
	if err != nil {
		return nil, err
	}
	for _, d := range tagged {
		if contains(found, d.Digest) {
			continue
		}
		if d, err = r.complete(ctx, d, d.Annotations == nil); err != nil {
			return nil, err
		}
		found = append(found, d)
	}
	return found, nil
}

func (r *repository) byAPI(ctx context.Context, subject digest.Digest) ([]Descriptor, error) {
	var found []Descriptor
	err := r.api.Referrers(ctx, ocispec.Descriptor{Digest: subject}, "", func(page []ocispec.Descriptor) error {
		found = append(found, distinct(page)...)
		if len(found) > maxReferrers {
			return fmt.Errorf("more than %d referrers", maxReferrers)
		}
		return nil
	})
	return found, err
}

func (r *repository) byTag(ctx context.Context, subject digest.Digest) ([]Descriptor, error) {
	list, _, err := r.tagged(ctx, subject)
	return distinct(list.descriptors()), err
}

// distinct drops what is no digest, and so no referrer: a list is pushed by
// anybody.
func distinct(list []ocispec.Descriptor) []Descriptor {
	var found []Descriptor
	seen := map[digest.Digest]bool{}
	for _, d := range list {
		if d.Digest.Validate() == nil && !seen[d.Digest] {
			seen[d.Digest] = true
			found = append(found, fromOCI(d))
		}
	}
	return found
}

// noAPI tells a registry without the referrers API from one in trouble.
func noAPI(err error) bool {
	switch status(err) {
	case http.StatusUnauthorized, http.StatusForbidden: // if it is the credentials, the tag will say so
		return true
	case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusGone, http.StatusNotImplemented:
		return true
	}
	return errors.Is(err, errdef.ErrUnsupported) // 404, or 200 with a page that is no list
}

// complete fills in what a list left out, from the manifest: a list may lack
// type or annotations (cosign's tag), or show the config's media type although
// the manifest has an artifactType (go-containerregistry). An entry that cannot
// be completed stays as it is, and harms no other.
func (r *repository) complete(ctx context.Context, d Descriptor, poor bool) (Descriptor, error) {
	switch d.ArtifactType {
	case "", ocispec.MediaTypeEmptyJSON, ocispec.MediaTypeImageConfig:
		poor = true
	}
	if !poor {
		return d, nil
	}
	r.mu.Lock()
	known, ok := r.described[d.Digest]
	r.mu.Unlock()
	if ok {
		known.Annotations = maps.Clone(known.Annotations)
		return known, nil
	}
	desc, body, err := r.Manifest(ctx, d.Digest)
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrOtherBytes) {
		return d, nil // listed, but swept or spoilt
	}
	if err != nil {
		return d, err
	}
	var m referrer
	if json.Unmarshal(body, &m) != nil {
		return d, nil
	}
	described := m.describe(desc)
	r.remember(described)
	return described, nil
}

// remember keeps what a manifest says of itself; digests never change meaning.
func (r *repository) remember(d Descriptor) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.described) >= describedAtOnce {
		clear(r.described)
	}
	d.Annotations = maps.Clone(d.Annotations)
	r.described[d.Digest] = d
}

func contains(list []Descriptor, digest string) bool {
	return slices.ContainsFunc(list, func(d Descriptor) bool { return d.Digest == digest })
}
