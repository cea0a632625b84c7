package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

// Series is the part of a Store that finds entries by issuer and SCITT's Subject
// together (Query.Subject).
//
// Few logs have a policy that asks for that, so there is no index of all entries.
// An issuer's own is begun when it is asked for first, and made longer when it has
// fallen behind; what it does not reach yet is read one by one.
type Series interface {
	// Follow makes sure that the newest entries of an issuer below size, which
	// must be committed, that lie outside of its index are few, and adds at most
	// so many: more says that this was not enough. It writes only where there is
	// something to add, and nothing that could not be made anew.
	Follow(ctx context.Context, issuer string, size uint64, most int) (more bool, err error)
}

// SeriesGap is how many entries of an issuer may lie outside of its index: reading
// one by one costs some 20 µs each. SeriesStep is how many are added at a time
// before a submission waits, a second of work, and SeriesSlice while others wait
// for it, a tenth of one.
const (
	SeriesGap   = 100
	SeriesStep  = 20_000
	SeriesSlice = 2_000
)

// follower adds to issuers' indexes what the sequencer will look for, before
// submissions queue, so that others do not wait for it. Safe for concurrent use.
type follower struct {
	store Series
	turn  chan struct{} // of one at a time

	mu      sync.Mutex
	reached map[string]uint64 // size of the log up to which an issuer's index lacks few
}

// maxReached is how many issuers a follower remembers.
const maxReached = 10_000

func newFollower(s Series) *follower {
	return &follower{store: s, turn: make(chan struct{}, 1), reached: map[string]uint64{}}
}

// ahead follows an issuer up to size, however long that takes, until ctx ends. What
// cannot be done here is for the sequencer to find out, who knows what is
// registered already.
func (f *follower) ahead(ctx context.Context, issuer string, size uint64) {
	if f.near(issuer, size) {
		return
	}
	select {
	case f.turn <- struct{}{}:
		defer func() { <-f.turn }()
	case <-ctx.Done():
		return
	}
	if f.near(issuer, size) {
		return // while this waited
	}
	for more := true; more; {
		var err error
		if more, err = f.store.Follow(ctx, issuer, size, SeriesStep); err != nil || ctx.Err() != nil {
			return
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.reached) == maxReached {
		clear(f.reached)
	}
	f.reached[issuer] = size
}

// near says that the log has hardly grown since an issuer's index was looked at.
func (f *follower) near(issuer string, size uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	reached, known := f.reached[issuer]
	return known && size <= reached+SeriesGap/2
}

// past is the policy.History of one place in the log: what lies below a head,
// and what is drafted behind it. It has one user.
type past struct {
	store    Store
	size     uint64
	follows  bool // this process may write
	drafted  *drafted
	asked    int              // questions that the store was asked
	followed map[string]error // what came of following an issuer, who is followed once
}

var _ policy.History = (*past)(nil)

// Past looks in the draft first, for it is the newest.
func (h *past) Past(ctx context.Context, q policy.PastQuery, limit int) ([]policy.Past, error) {
	if limit < 1 {
		return nil, nil
	}
	var found []policy.Past
	if h.drafted != nil {
		for i := len(h.drafted.entries) - 1; i >= 0 && len(found) < limit; i-- {
			if e := h.drafted.entries[i]; matches(q, e.Entry) {
				found = append(found, policy.Past{Index: e.Index, Private: e.Private, Statement: h.drafted.admitted[i].Statement})
			}
		}
	}
	if len(found) == limit || h.size == 0 {
		return found, nil
	}
	entries, err := h.stored(ctx, q, limit-len(found))
	if err != nil {
		return nil, fmt.Errorf("look back from %d: %w", h.size, err)
	}
	h.asked += len(entries)
	for _, e := range entries {
		r, err := h.store.Record(ctx, e.ID, All)
		if errors.Is(err, ErrNotFound) {
			return nil, fmt.Errorf("%w: statement %s is missing", ErrCorrupt, e.ID)
		}
		if err != nil {
			return nil, fmt.Errorf("look back at entry %d: %w", e.Index, err)
		}
		s, err := parsed(r.Canonical, e.ID)
		if err != nil {
			return nil, err
		}
		if s, _, err = Whole(s, r.Collateral); err != nil {
			return nil, err
		}
		found = append(found, policy.Past{Index: e.Index, Private: e.Private, Statement: s})
	}
	return found, nil
}

// stored are the newest entries of the store that match q. What names a sub
// needs an issuer, artifact or evidence too: there is no index of subs alone.
func (h *past) stored(ctx context.Context, q policy.PastQuery, limit int) ([]Entry, error) {
	if q.Subject != "" && q.Issuer == "" && q.Artifact == "" && q.Evidence == "" {
		return nil, fmt.Errorf("entries are found by sub %.80q only with an issuer, an artifact or evidence", q.Subject)
	}
	query := Query{Scope: All, Before: h.size, Subject: q.Subject, Limit: min(limit, MaxPage)}
	set(&query.Issuers, q.Issuer)
	set(&query.MediaTypes, q.MediaType)
	set(&query.PredicateTypes, q.PredicateType)
	set(&query.Artifacts, q.Artifact)
	set(&query.Evidence, q.Evidence)
	if q.Subject != "" && q.Issuer != "" && q.Artifact == "" && q.Evidence == "" && h.follows {
		if err := h.follow(ctx, q.Issuer); err != nil {
			return nil, err
		}
	}
	h.asked++
	return h.store.Find(ctx, query)
}

// follow is for what a follower has not done before: under another policy, perhaps,
// nobody asked for it.
func (h *past) follow(ctx context.Context, issuer string) error {
	err, known := h.followed[issuer]
	if !known {
		var more bool
		if more, err = h.store.Follow(ctx, issuer, h.size, SeriesSlice); err == nil && more {
			err = fmt.Errorf("%w: the entries of issuer %.80q are being indexed by sub", ErrUnavailable, issuer)
		}
		h.followed[issuer] = err
	}
	return err
}

func set[T ~string](values *[]T, value T) {
	if value != "" {
		*values = []T{value}
	}
}

// matches compares what a query selects by.
func matches(q policy.PastQuery, e Entry) bool {
	return (q.Issuer == "" || q.Issuer == e.Issuer) && (q.Subject == "" || q.Subject == e.Subject) &&
		(q.MediaType == "" || q.MediaType == e.MediaType) && (q.PredicateType == "" || q.PredicateType == e.PredicateType) &&
		(q.Evidence == "" || q.Evidence == e.Evidence) && (q.Artifact == "" || slices.Contains(e.Artifacts, q.Artifact))
}

// Standing is what policy.Settle would say of a Conditional decision if s were
// the next entry, as the log is now: for a dry run. It changes nothing.
func (l *Ledger) Standing(ctx context.Context, s *statement.Statement, d policy.Decision) (*policy.Refusal, error) {
	h, err := l.Head(ctx)
	if err != nil {
		return nil, err
	}
	p := l.Policy()
	if p.Entry != d.Policy {
		return nil, fmt.Errorf("%w: %s judged, and %s is in force", ErrMeanwhile, d.Policy, p.Entry)
	}
	return settle(ctx, p, s, d, &past{store: l.store, size: h.Size})
}

// settle asks p about the place that h is the history of.
func settle(ctx context.Context, p *policy.Policy, s *statement.Statement, d policy.Decision, h policy.History) (*policy.Refusal, error) {
	refusal, err := p.Settle(ctx, s, d, h)
	if refusal != nil && refusal.Policy == (statement.ID{}) {
		named := *refusal
		named.Policy = d.Policy
		refusal = &named
	}
	return refusal, err
}
