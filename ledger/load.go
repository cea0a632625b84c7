package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// state is the log as of one head, and what its entries say about the log
// itself. It is immutable: the sequencer makes a new one for every head.
type state struct {
	head      Head
	policy    *policy.Policy
	signed    policy.Succession // of policy: what operators have signed since
	announced []Service         // newest first; the last is leaf 1
	keys      receipts.KeySet
}

func (s *state) service() Service { return s.announced[0] }

// load reads the newest head with everything that stands on it, and checks it:
// the head's signature under a key that the log announced, and its root against
// leaves and tiles. Start, a lost swap and every error come through here, so
// that the way back is walked every day.
func load(ctx context.Context, s Store) (*state, *edge, error) {
	h, err := s.Head(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("read the newest head: %w", err)
	}
	st := &state{head: h}
	if st.policy, st.signed, err = loadPolicy(ctx, s, h); err != nil {
		return nil, nil, err
	}
	if err := st.loadServices(ctx, s); err != nil {
		return nil, nil, err
	}
	e, err := loadEdge(ctx, s, h)
	if err != nil {
		return nil, nil, fmt.Errorf("read the tree of size %d: %w", h.Size, err)
	}
	return st, e, nil
}

// publish puts st in the place of an older state. Who saw more of the log than
// st says is right.
func publish(current *atomic.Pointer[state], st *state) {
	for {
		old := current.Load()
		if old != nil && old.head.Size >= st.head.Size || current.CompareAndSwap(old, st) {
			return
		}
	}
}

// maxFollowed is how many leaves are read one by one; beyond, loading the tree's
// edge is less work.
const maxFollowed = 1 << 14

// follow brings what a process knows of the log to h, the newest head, by the
// leaves that others added. They must give its root. With an error st and e
// come back as they were, and so they do from reload.
func follow(ctx context.Context, s Store, st *state, e *edge, h Head) (*state, *edge, error) {
	switch {
	case h.Size == st.head.Size && h.Root == st.head.Root:
		return st, e, nil
	case h.Size <= st.head.Size:
		return st, e, moved(st.head, h)
	case h.Size-st.head.Size > maxFollowed:
		return reload(ctx, s, st, e)
	}
	// Others wait meanwhile: what does not depend on each other is read at once.
	type answer struct {
		st  *state
		err error
	}
	advanced := make(chan answer, 1)
	go func() {
		next, err := advance(ctx, s, st, h)
		advanced <- answer{next, err}
	}()
	ids, err := s.Leaves(ctx, st.head.Size, h.Size)
	next := <-advanced
	if err != nil {
		return st, e, fmt.Errorf("read %d new leaves: %w", h.Size-st.head.Size, err)
	}
	growth, err := e.grow(ids)
	if err != nil {
		return st, e, err
	}
	if growth.edge.size() != h.Size || growth.root != h.Root {
		return st, e, moved(st.head, h)
	}
	if next.err != nil {
		return st, e, next.err
	}
	return next.st, growth.edge, nil
}

// reload is load for a process that has seen the log: it must continue what was
// committed before its eyes.
func reload(ctx context.Context, s Store, st *state, e *edge) (*state, *edge, error) {
	next, edge, err := load(ctx, s)
	if err != nil {
		return st, e, err
	}
	if err := continues(ctx, s, st.head, next.head); err != nil {
		return st, e, err
	}
	return next, edge, nil
}

// continues looks for a known head under the newest one.
func continues(ctx context.Context, s Store, known, newest Head) error {
	switch h, err := s.HeadFor(ctx, known.Size-1); {
	case err != nil && !errors.Is(err, ErrNotFound):
		return fmt.Errorf("read the head of size %d: %w", known.Size, err)
	case err != nil || h.Size != known.Size || h.Root != known.Root:
		return moved(known, newest)
	}
	return nil
}

// errMoved: what this process has seen of the log is not in it any more. Whoever
// signs on would fork it.
var errMoved = fmt.Errorf("%w: the log is not what it was", ErrCorrupt)

func moved(known, newest Head) error {
	return fmt.Errorf("%w: that of size %d does not continue the one of size %d that this process knows", errMoved, newest.Size, known.Size)
}

// advance is st as of the later head h: what others have said about the log
// since is read, and little else.
func advance(ctx context.Context, s Store, st *state, h Head) (*state, error) {
	next := &state{head: h, policy: st.policy, signed: st.signed, announced: st.announced, keys: st.keys}
	var err error
	switch {
	case h.Policy != st.head.Policy:
		if next.policy, next.signed, err = loadPolicy(ctx, s, h); err != nil {
			return nil, err
		}
	case st.policy.Threshold > 1:
		if next.signed, err = addSigned(ctx, s, st.signed, st.head.Size, h); err != nil {
			return nil, err
		}
	}
	newest, err := s.Find(ctx, Query{Scope: All, MediaTypes: []string{policy.ServiceMediaType}, Limit: 1})
	if err != nil {
		return nil, fmt.Errorf("find service statements: %w", err)
	}
	if len(newest) > 0 && newest[0].Index >= st.head.Size {
		return next, next.loadServices(ctx, s)
	}
	return next, verifyHead(h, next.keys)
}

// verifyHead tries every key that the log announced, the current one first.
func verifyHead(h Head, keys receipts.KeySet) error {
	for _, k := range keys {
		if receipts.VerifyHead(h.SignedHead, k.Public) == nil {
			return nil
		}
	}
	return fmt.Errorf("%w: the head of size %d is signed by no key that the log announced", ErrCorrupt, h.Size)
}

// loadPolicy reads the policy that h names as in force, and what operators have
// signed since.
func loadPolicy(ctx context.Context, s Store, h Head) (p *policy.Policy, signed policy.Succession, err error) {
	ids, err := s.Leaves(ctx, h.Policy, h.Policy+1)
	if err != nil {
		return nil, signed, fmt.Errorf("read policy entry %d: %w", h.Policy, err)
	}
	if len(ids) != 1 {
		return nil, signed, fmt.Errorf("%w: no policy entry %d", ErrCorrupt, h.Policy)
	}
	stmt, err := loadStatement(ctx, s, ids[0])
	if err != nil {
		return nil, signed, err
	}
	if p, err = policy.FromStatement(stmt); err != nil {
		return nil, signed, fmt.Errorf("%w: policy entry %d: %v", ErrCorrupt, h.Policy, err)
	}
	if p.Threshold == 1 {
		return p, p.Succession(), nil // none that wait for others
	}
	signed, err = addSigned(ctx, s, p.Succession(), h.Policy+1, h)
	return p, signed, err
}

// addSigned counts the operators' signatures that the log has from an index on up to
// h, under what is to replace the policy in force.
func addSigned(ctx context.Context, s Store, signed policy.Succession, from uint64, h Head) (policy.Succession, error) {
	entries, err := policyEntries(ctx, s, from, h.Size)
	if err != nil {
		return signed, err
	}
	for _, e := range entries {
		stmt, err := loadStatement(ctx, s, e.ID)
		if err != nil {
			return signed, err
		}
		next, completed, err := signed.Add(stmt)
		if err == nil && completed != nil {
			err = fmt.Errorf("it has enough signatures, but entry %d is in force", h.Policy)
		}
		if err != nil {
			return signed, fmt.Errorf("%w: policy entry %d: %v", ErrCorrupt, e.Index, err)
		}
		signed = next
	}
	return signed, nil
}

// policyEntries are the policy statements [from, to), the oldest first.
func policyEntries(ctx context.Context, s Index, from, to uint64) ([]Entry, error) {
	var all []Entry
	q := Query{Scope: All, MediaTypes: []string{policy.MediaType}, Before: to, Limit: MaxPage}
	for more := from < to; more; {
		page, err := s.Find(ctx, q)
		if err != nil {
			return nil, fmt.Errorf("find policy statements: %w", err)
		}
		more = len(page) == MaxPage
		for _, e := range page {
			if q.Before = e.Index; e.Index < from {
				more = false
				break
			}
			all = append(all, e)
		}
	}
	slices.Reverse(all)
	return all, nil
}

// loadServices reads every announcement, newest first, and verifies the head under
// a key that was announced before its batch: whoever could announce a key in the
// batch that it signs would need no announcement. Leaf 1 announces the first one.
func (st *state) loadServices(ctx context.Context, s Store) error {
	st.announced = nil
	var before []Service
	q := Query{Scope: All, MediaTypes: []string{policy.ServiceMediaType}, Limit: MaxPage}
	for more := true; more; {
		page, err := s.Find(ctx, q)
		if err != nil {
			return fmt.Errorf("find service statements: %w", err)
		}
		for _, e := range page {
			stmt, err := loadStatement(ctx, s, e.ID)
			if err != nil {
				return err
			}
			svc, err := serviceOf(stmt)
			if err != nil {
				return fmt.Errorf("%w: entry %d: %v", ErrCorrupt, e.Index, err)
			}
			st.announced = append(st.announced, svc)
			if e.Index < st.head.PrevSize || st.head.PrevSize == 0 {
				before = append(before, svc)
			}
			q.Before = e.Index
		}
		more = len(page) == MaxPage
	}
	if len(st.announced) == 0 {
		return fmt.Errorf("%w: no service statement", ErrCorrupt)
	}
	var err error
	if st.keys, err = keysOf(st.announced); err != nil {
		return fmt.Errorf("%w: %v", ErrCorrupt, err)
	}
	keys, err := keysOf(before)
	if err != nil {
		return fmt.Errorf("%w: %v", ErrCorrupt, err)
	}
	return verifyHead(st.head, keys)
}

// loadStatement reads the bytes of one entry back and checks that they are its.
func loadStatement(ctx context.Context, s Index, id statement.ID) (*statement.Statement, error) {
	r, err := s.Record(ctx, id, All)
	if errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("%w: statement %s is missing", ErrCorrupt, id)
	}
	if err != nil {
		return nil, fmt.Errorf("read statement %s: %w", id, err)
	}
	return parsed(r.Canonical, id)
}

// parsed reads the bytes of the entry id.
func parsed(canonical []byte, id statement.ID) (*statement.Statement, error) {
	stmt, err := statement.Parse(canonical)
	if err != nil {
		return nil, fmt.Errorf("%w: statement %s: %v", ErrCorrupt, id, err)
	}
	if stmt.ID() != id {
		return nil, fmt.Errorf("%w: the bytes of statement %s are %s", ErrCorrupt, id, stmt.ID())
	}
	return stmt, nil
}
