package ledger

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

// Reign is a policy statement's place in the log. The policy that it puts in
// force judges what lies behind it, up to and including the next policy.
type Reign struct {
	Policy *policy.Policy
	Index  uint64
	At     time.Time // registration time
	Signed []Entry   // statements of operators under the same document that count with it, itself the last
	Needed int       // operators who have to sign it: the Threshold of the policy that it replaces

	InForce bool         // it came into force; else it waits for other operators, or did in vain
	Next    statement.ID // that replaced it, or came into force instead; zero = none yet
	Until   time.Time    // when that was
}

// PolicyAt is the one that judges the entry at index, which may be the next one.
// ErrNotFound: the log ends before.
func (l *Ledger) PolicyAt(ctx context.Context, index uint64) (Reign, error) {
	h, err := l.Head(ctx)
	switch {
	case err != nil:
		return Reign{}, err
	case index > h.Size:
		return Reign{}, fmt.Errorf("policy at %d: %w: the log has %d entries", index, ErrNotFound, h.Size)
	case index < h.Size:
		if h, err = l.store.HeadFor(ctx, index); err == nil && h.PrevSize > 0 {
			// A batch is judged by what was in force before it; the first one by leaf 0.
			h, err = l.store.HeadFor(ctx, h.PrevSize-1)
		}
		if err != nil {
			return Reign{}, fmt.Errorf("policy at %d: %w", index, err)
		}
	}
	ids, err := l.store.Leaves(ctx, h.Policy, h.Policy+1)
	if err == nil && len(ids) != 1 {
		err = fmt.Errorf("%w: no policy entry %d", ErrCorrupt, h.Policy)
	}
	if err != nil {
		return Reign{}, err
	}
	return l.PolicyOf(ctx, ids[0])
}

// reigns are those that were read since the newest policy statement of the log, on
// which alone they depend. Safe for concurrent use.
type reigns struct {
	mu     sync.Mutex
	newest uint64
	of     map[statement.ID]Reign
}

// maxReigns is how many are kept: who reads a history goes through all once.
const maxReigns = 64

func (k *reigns) get(newest uint64, id statement.ID) (Reign, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	r, ok := k.of[id]
	return r, ok && k.newest == newest
}

func (k *reigns) put(newest uint64, r Reign) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if newest < k.newest {
		return
	}
	if newest > k.newest || len(k.of) == maxReigns || k.of == nil {
		k.newest, k.of = newest, map[statement.ID]Reign{}
	}
	k.of[r.Policy.Entry] = r
}

// PolicyOf is the policy that an entry carries, for reading. ErrNotFound: there is
// no such entry, or it is about something else.
func (l *Ledger) PolicyOf(ctx context.Context, id statement.ID) (Reign, error) {
	newest, err := l.store.Find(ctx, Query{Scope: All, MediaTypes: []string{policy.MediaType}, Limit: 1})
	if err != nil {
		return Reign{}, fmt.Errorf("find the newest policy statement: %w", err)
	}
	if len(newest) == 0 {
		return Reign{}, fmt.Errorf("%w: no policy statement", ErrCorrupt)
	}
	if r, ok := l.reigns.get(newest[0].Index, id); ok {
		return r, nil
	}
	r, err := l.readReign(ctx, id)
	if err == nil {
		l.reigns.put(newest[0].Index, r)
	}
	return r, err
}

func (l *Ledger) readReign(ctx context.Context, id statement.ID) (Reign, error) {
	e, err := l.Entry(ctx, id, Public)
	if err != nil {
		return Reign{}, err
	}
	if e.MediaType != policy.MediaType {
		return Reign{}, fmt.Errorf("entry %s carries no policy: %w", id, ErrNotFound)
	}
	s, err := loadStatement(ctx, l.store, id)
	if err != nil {
		return Reign{}, err
	}
	r := Reign{Index: e.Index, At: e.RegisteredAt}
	if r.Policy, err = policy.FromStatement(s); err != nil {
		return Reign{}, fmt.Errorf("%w: entry %d: %v", ErrCorrupt, e.Index, err)
	}
	// A policy statement closes its batch, and the head over it tells whether it
	// took effect.
	if r.InForce, err = l.effective(ctx, e.Index); err != nil {
		return Reign{}, err
	}
	newest, err := l.store.Head(ctx)
	if err != nil {
		return Reign{}, err
	}
	later, err := policyEntries(ctx, l.store, e.Index+1, newest.Size)
	if err != nil {
		return Reign{}, err
	}
	for _, other := range later {
		if effective, err := l.effective(ctx, other.Index); err != nil || effective {
			r.Next, r.Until = other.ID, other.RegisteredAt
			if err != nil {
				return Reign{}, err
			}
			break
		}
	}
	return r, l.count(ctx, &r, e)
}

func (l *Ledger) effective(ctx context.Context, index uint64) (bool, error) {
	h, err := l.store.HeadFor(ctx, index)
	if err != nil {
		return false, fmt.Errorf("read the head of entry %d: %w", index, err)
	}
	return h.Policy == index, nil
}

// count finds who signed the document of r, of entry e, since the policy that it
// replaces, and how many have to.
func (l *Ledger) count(ctx context.Context, r *Reign, e Entry) error {
	r.Needed = 1
	from := uint64(0)
	if id := r.Policy.Previous; id != nil {
		s, err := loadStatement(ctx, l.store, *id)
		if err != nil {
			return err
		}
		previous, err := policy.FromStatement(s)
		if err != nil {
			return fmt.Errorf("%w: policy %s: %v", ErrCorrupt, *id, err)
		}
		at, err := l.index(ctx, *id, Public)
		if err != nil {
			return err
		}
		r.Needed, from = previous.Threshold, at+1
	}
	found, err := l.store.Find(ctx, Query{Evidence: []statement.Digest{e.Evidence}, MediaTypes: []string{policy.MediaType}, Before: e.Index + 1, Limit: MaxPage})
	if err != nil {
		return fmt.Errorf("find who signed policy %s: %w", e.ID, err)
	}
	for i := len(found) - 1; i >= 0; i-- {
		if found[i].Index >= from {
			r.Signed = append(r.Signed, found[i])
		}
	}
	return nil
}

// Proposals are the policies that operators have signed and that wait for others,
// the oldest first: the newest statement under each document.
func (l *Ledger) Proposals(ctx context.Context) ([]Reign, error) {
	if err := l.Refresh(ctx); err != nil { // see what others have signed
		return nil, err
	}
	newest := map[statement.Digest]statement.ID{}
	var order []statement.Digest
	for _, a := range l.current.Load().signed.Approvals() {
		if _, ok := newest[a.Document]; !ok {
			order = append(order, a.Document)
		}
		newest[a.Document] = a.Entry
	}
	var all []Reign
	for _, document := range order {
		r, err := l.PolicyOf(ctx, newest[document])
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}
