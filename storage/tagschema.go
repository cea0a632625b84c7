package storage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"github.com/scittd/scittd/internal/failpoint"
)

// The referrers tag schema: an index under a tag, which every client that
// attaches something reads, extends and writes back, without any protection
// against another that does so at the same moment.
//
// oras-go can do this, but only together with pushing the manifest again. At
// distribution, pushing what is there rewrites a file that readers then see
// empty for a moment, so that another client's list is refused, or an entry
// looks gone. Here a list is rewritten alone.

// tagList is the index, with its entries as they came: others may have put in
// fields that we do not know.
type tagList struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	Manifests     []json.RawMessage `json:"manifests"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

func (l tagList) descriptors() []ocispec.Descriptor {
	list := make([]ocispec.Descriptor, len(l.Manifests))
	for i, raw := range l.Manifests {
		if json.Unmarshal(raw, &list[i]) != nil {
			list[i] = ocispec.Descriptor{} // no descriptor: it has no digest
		}
	}
	return list
}

// with is the list without those that are gone, and with add. Where entries need
// a platform they get one, also those that others have put there: the registry
// would refuse the whole list.
func (l tagList) with(add []Descriptor, gone map[digest.Digest]bool, platform *ocispec.Platform) (tagList, error) {
	next := tagList{SchemaVersion: 2, MediaType: ocispec.MediaTypeImageIndex, Manifests: []json.RawMessage{}, Annotations: l.Annotations}
	there := map[digest.Digest]bool{}
	for i, d := range l.descriptors() {
		if d.Digest.Validate() != nil || there[d.Digest] || gone[d.Digest] {
			continue
		}
		there[d.Digest] = true
		raw := l.Manifests[i]
		if platform != nil && d.Platform == nil {
			var err error
			if raw, err = withPlatform(raw, platform); err != nil {
				return next, err
			}
		}
		next.Manifests = append(next.Manifests, raw)
	}
	for _, d := range add {
		if there[digest.Digest(d.Digest)] || gone[digest.Digest(d.Digest)] {
			continue
		}
		there[digest.Digest(d.Digest)] = true
		raw, err := json.Marshal(struct {
			Descriptor
			Platform *ocispec.Platform `json:"platform,omitempty"`
		}{d, platform})
		if err != nil {
			return next, err
		}
		next.Manifests = append(next.Manifests, raw)
	}
	return next, nil
}

// withPlatform adds one to an entry, and keeps its other fields.
func withPlatform(entry json.RawMessage, platform *ocispec.Platform) (json.RawMessage, error) {
	var fields map[string]any
	if err := json.Unmarshal(entry, &fields); err != nil {
		return nil, err
	}
	fields["platform"] = platform
	return json.Marshal(fields)
}

// referrersTag of a subject.
//
// SPEC OCI distribution 1.1, referrers tag schema: algorithm, "-", encoded, cut
// to 32 and 64 characters.
func referrersTag(subject digest.Digest) string {
	alg, enc := subject.Algorithm().String(), subject.Encoded()
	return alg[:min(len(alg), 32)] + "-" + enc[:min(len(enc), 64)]
}

// tagged reads the list and its digest; an empty list if the tag is not there or
// leads to something else. Some registries resolve it to the image itself, whose
// children are not its referrers.
func (r *repository) tagged(ctx context.Context, subject digest.Digest) (tagList, digest.Digest, error) {
	var list tagList
	desc, raw, err := r.Manifest(ctx, referrersTag(subject))
	if errors.Is(err, ErrNotFound) {
		return list, "", nil
	}
	if err != nil {
		return list, "", err
	}
	if desc.MediaType != ocispec.MediaTypeImageIndex || desc.Digest == subject.String() {
		return list, "", nil
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return list, "", fmt.Errorf("the list under tag %s: %w", referrersTag(subject), err)
	}
	return list, digest.Digest(desc.Digest), nil
}

// tagUpdate is what is to be added to one list at once.
type tagUpdate struct {
	add  []Descriptor
	done chan struct{}
	err  error // read after done
}

// tagState is what a repository knows of one list that it keeps.
type tagState struct {
	turn  sync.Mutex    // held while the list is rewritten
	wrote digest.Digest // the list as we left it; owned by who has the turn

	// Guarded by repository.mu.
	next      *tagUpdate // not begun, and so open for more
	users     int
	recent    []Descriptor // added by us while it is contested
	contested time.Time    // when somebody else was last seen writing
}

// contestHolds is how long another writer is expected to go on after it was seen.
const contestHolds = 30 * time.Second

// firstVisit is how long one is expected where we have not written before.
const firstVisit = 2 * time.Second

// state of the list of subject; r.mu is held. Idle ones are forgotten when there
// are many: then the next update of such a list is a little more careful.
func (r *repository) state(subject digest.Digest) *tagState {
	s := r.tags[subject]
	if s == nil {
		if len(r.tags) >= listsAtOnce {
			maps.DeleteFunc(r.tags, func(_ digest.Digest, s *tagState) bool { return s.users == 0 })
		}
		s = new(tagState)
		r.tags[subject] = s
	}
	return s
}

// contest implements listKeeper. A competitor reads and writes about as fast as
// we do; one that is known to be at work may be slower.
func (r *repository) contest(subject string) time.Duration {
	if l := r.known(); l != byTag && l != byBoth {
		return 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.tags[digest.Digest(subject)]; s != nil && r.remote.now().Sub(s.contested) < contestHolds {
		return min(max(4*r.rewriting, 250*time.Millisecond), 2*time.Second)
	}
	return min(max(2*r.rewriting, 30*time.Millisecond), 2*time.Second)
}

// tag adds d to the list of subject. What is added while another update of the
// same list is under way is added together: the first to come writes for all.
func (r *repository) tag(ctx context.Context, subject digest.Digest, d Descriptor) error {
	r.mu.Lock()
	s := r.state(subject)
	s.users++
	update, follows := s.next, s.next != nil
	if !follows {
		update = &tagUpdate{done: make(chan struct{})}
		s.next = update
	}
	update.add = append(update.add, d)
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		s.users--
	}()

	if !follows {
		s.turn.Lock()
		defer s.turn.Unlock()
		r.mu.Lock()
		s.next = nil // who comes now makes the next one
		if r.remote.now().Sub(s.contested) > contestHolds {
			s.recent = nil
		}
		for _, d := range update.add {
			if !contains(s.recent, d.Digest) {
				s.recent = append(s.recent, d)
			}
		}
		add := slices.Clone(s.recent) // what others overwrote meanwhile comes back
		r.mu.Unlock()
		defer close(update.done)
		update.err = r.rewrite(ctx, s, subject, add)
		return update.err
	}
	select {
	case <-update.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	if errors.Is(update.err, context.Canceled) || errors.Is(update.err, context.DeadlineExceeded) {
		return r.tag(ctx, subject, d) // the other's time was up, not ours
	}
	return update.err
}

// untag takes d off the list of subject.
func (r *repository) untag(ctx context.Context, subject, d digest.Digest) error {
	r.mu.Lock()
	s := r.state(subject)
	s.users++
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		s.users--
	}()
	s.turn.Lock()
	defer s.turn.Unlock()
	r.mu.Lock()
	s.recent = slices.DeleteFunc(s.recent, func(r Descriptor) bool { return r.Digest == d.String() })
	r.mu.Unlock()
	list, _, err := r.tagged(ctx, subject)
	if err != nil || !slices.ContainsFunc(list.descriptors(), func(o ocispec.Descriptor) bool { return o.Digest == d }) {
		return err
	}
	return r.rewrite(ctx, s, subject, nil, d)
}

// rewrite reads the list and writes it with add and without drop. Every try
// reads it again.
//
// A registry that sweeps untagged manifests may refuse a list for naming one,
// and then nothing could ever be added: such entries are dropped. But an entry
// is only gone if it is so twice.
func (r *repository) rewrite(ctx context.Context, s *tagState, subject digest.Digest, add []Descriptor, drop ...digest.Digest) error {
	const tries = 5
	gone := map[digest.Digest]bool{}
	for _, d := range drop {
		gone[d] = true
	}
	for try := 1; ; try++ {
		start := r.remote.now()
		list, read, err := r.tagged(ctx, subject)
		if err != nil {
			return err
		}
		r.notice(s, read)
		next, err := list.with(add, gone, r.profile().platform())
		if err != nil {
			return err
		}
		raw, err := json.Marshal(next)
		if err != nil {
			return err
		}
		if most := r.profile().limit(); len(raw) > most {
			return fmt.Errorf("%w: its list of referrers would have %d bytes, at most %d; with referrers=off in the registry's profile and the list served by the front, there is no such limit", ErrRefused, len(raw), most)
		}
		if old, err := json.Marshal(list); err == nil && bytes.Equal(raw, old) {
			return nil
		}
		if len(next.Manifests) == 0 && len(next.Annotations) == 0 && r.dropList(ctx, read) {
			s.wrote = ""
			return nil
		}
		desc := content.NewDescriptorFromBytes(ocispec.MediaTypeImageIndex, raw)
		err = r.api.PushReference(ctx, desc, bytes.NewReader(raw), referrersTag(subject))
		r.took(r.remote.now().Sub(start))
		if err == nil {
			failpoint.Hit(failpoint.Tagged)
			s.wrote = desc.Digest
		}
		if read != "" && immutable(err) {
			return fmt.Errorf("%w: tag %s cannot be written again, for tags are immutable here%s: exempt sha256-* from that rule, or set referrers=off in the registry's profile and let the front serve the list", ErrRefused, referrersTag(subject), said(err))
		}
		if !blobUnknown(err) || try == tries {
			return err
		}
		missing, err := r.missing(ctx, next.descriptors())
		if err != nil {
			return err
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
		if missing, err = r.missing(ctx, missing); err != nil {
			return err
		}
		for _, d := range missing {
			gone[d.Digest] = true
		}
	}
}

// dropList deletes a list of which nothing would be left, by its digest: what
// somebody else has written under the tag meanwhile stays. It reports false where
// that is not possible; then the list is left empty.
func (r *repository) dropList(ctx context.Context, list digest.Digest) bool {
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: list}
	return list != "" && r.delete(ctx, "delete list "+list.String(), r.api.Manifests(), desc) == nil
}

// notice compares the list with how we left it: who else is writing?
func (r *repository) notice(s *tagState, read digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.wrote == "" { // we have not been here before and cannot tell: careful for a moment
		s.contested = r.remote.now().Add(firstVisit - contestHolds)
	} else if s.wrote != read {
		s.contested = r.remote.now()
	}
	s.wrote = read
}

// missing are those whose manifests are not there.
func (r *repository) missing(ctx context.Context, list []ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	var missing []ocispec.Descriptor
	for _, d := range list {
		_, err := r.api.Manifests().Resolve(ctx, d.Digest.String())
		if errors.Is(err, errdef.ErrNotFound) {
			missing = append(missing, d)
		} else if err != nil {
			return nil, err
		}
	}
	return missing, nil
}

// took remembers how long reading and writing a list takes here; a slow time is
// forgotten slowly.
func (r *repository) took(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rewriting = max(d, r.rewriting*3/4)
}
