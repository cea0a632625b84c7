package ledger

import (
	"context"
	"errors"
	"fmt"

	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// state is the log as of one head, and what its entries say about the log
// itself. It is immutable: the sequencer makes a new one for every head.
type state struct {
	head      Head
	policy    *policy.Policy
	announced []Service // newest first; the last is leaf 1
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
	if st.policy, err = loadPolicy(ctx, s, h.Policy); err != nil {
		return nil, nil, err
	}
	if st.announced, err = loadServices(ctx, s); err != nil {
		return nil, nil, err
	}
	if st.keys, err = keysOf(st.announced); err != nil {
		return nil, nil, fmt.Errorf("%w: %v", ErrCorrupt, err)
	}
	if err := verifyHead(h, st.keys); err != nil {
		return nil, nil, err
	}
	e, err := loadEdge(ctx, s, h)
	if err != nil {
		return nil, nil, fmt.Errorf("read the tree of size %d: %w", h.Size, err)
	}
	return st, e, nil
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

// loadPolicy reads the policy at index, which the head names as in force.
func loadPolicy(ctx context.Context, s Store, index uint64) (*policy.Policy, error) {
	ids, err := s.Leaves(ctx, index, index+1)
	if err != nil {
		return nil, fmt.Errorf("read policy entry %d: %w", index, err)
	}
	if len(ids) != 1 {
		return nil, fmt.Errorf("%w: no policy entry %d", ErrCorrupt, index)
	}
	stmt, err := loadStatement(ctx, s, ids[0])
	if err != nil {
		return nil, err
	}
	p, err := policy.FromStatement(stmt)
	if err != nil {
		return nil, fmt.Errorf("%w: policy entry %d: %v", ErrCorrupt, index, err)
	}
	return p, nil
}

// loadServices reads every announcement, newest first.
func loadServices(ctx context.Context, s Store) ([]Service, error) {
	var services []Service
	q := Query{Scope: All, MediaTypes: []string{policy.ServiceMediaType}, Limit: MaxPage}
	for {
		page, err := s.Find(ctx, q)
		if err != nil {
			return nil, fmt.Errorf("find service statements: %w", err)
		}
		for _, e := range page {
			stmt, err := loadStatement(ctx, s, e.ID)
			if err != nil {
				return nil, err
			}
			svc, err := serviceOf(stmt)
			if err != nil {
				return nil, fmt.Errorf("%w: entry %d: %v", ErrCorrupt, e.Index, err)
			}
			services = append(services, svc)
			q.Before = e.Index
		}
		if len(page) < MaxPage {
			break
		}
	}
	if len(services) == 0 {
		return nil, fmt.Errorf("%w: no service statement", ErrCorrupt)
	}
	return services, nil
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
	stmt, err := statement.Parse(r.Canonical)
	if err != nil {
		return nil, fmt.Errorf("%w: statement %s: %v", ErrCorrupt, id, err)
	}
	if stmt.ID() != id {
		return nil, fmt.Errorf("%w: the bytes of statement %s are %s", ErrCorrupt, id, stmt.ID())
	}
	return stmt, nil
}
