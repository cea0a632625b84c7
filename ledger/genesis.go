package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// Genesis are the first two leaves of a log.
type Genesis struct {
	Policy  *statement.Statement // leaf 0, signed by an operator that it names
	Service *statement.Statement // leaf 1, from an operator of that policy
}

// Init makes a log of an empty store: both leaves in one batch, so that a tree
// of size 1 is never signed. Leaf 0 is checked by policy.Bootstrap, leaf 1 by
// the policy in leaf 0; both are recorded as judged under it. Leaf 1 must
// announce the issuer's key, service URL and origin. ErrConflict: the store
// has a log already.
func Init(ctx context.Context, s Store, issuer *receipts.Issuer, g Genesis, clock func() time.Time) error {
	if h, err := s.Head(ctx); err == nil {
		return fmt.Errorf("init: %w: there is a log of size %d already", ErrConflict, h.Size)
	} else if !errors.Is(err, ErrEmpty) {
		return fmt.Errorf("init: %w", err)
	}
	now, err := newClocks(s.Now, Options{Clock: clock}).now(ctx, time.Time{})
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	p, err := policy.Bootstrap(g.Policy)
	if err != nil {
		return fmt.Errorf("init: first policy: %w", err)
	}
	first := p.Evaluate(g.Policy, now)
	if first.Refusal != nil {
		return fmt.Errorf("init: first policy: %w", first.Refusal)
	}
	second := p.Evaluate(g.Service, now)
	if second.Refusal != nil {
		return fmt.Errorf("init: service statement: %w", second.Refusal)
	}
	if !carries(g.Service, policy.ServiceMediaType) {
		return fmt.Errorf("init: service statement: media type %q is not %s", g.Service.MediaType(), policy.ServiceMediaType)
	}
	svc, err := serviceOf(g.Service)
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	if svc.URL != p.Service {
		return fmt.Errorf("init: service statement is for %s, policy for %s", svc.URL, p.Service)
	}

	b := &Batch{}
	for i, leaf := range []struct {
		s *statement.Statement
		d policy.Decision
	}{{g.Policy, first}, {g.Service, second}} {
		n, err := draft(leaf.s, leaf.d, uint64(i), now)
		if err != nil {
			return fmt.Errorf("init: %w", err)
		}
		b.Entries = append(b.Entries, n)
	}
	growth, err := emptyEdge().grow([]statement.ID{g.Policy.ID(), g.Service.ID()})
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	signed, err := issuer.Sign(receipts.Head{Size: 2, Root: growth.root, Time: now})
	if err != nil {
		return fmt.Errorf("init: sign the first head: %w", err)
	}
	b.Head = Head{SignedHead: signed}

	st := &state{head: b.Head, policy: p, signed: p.Succession(), announced: []Service{svc}}
	if st.keys, err = keysOf(st.announced); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	if err := announced(issuer, st); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	if err := s.Commit(ctx, b); err != nil {
		return fmt.Errorf("init: commit: %w", err)
	}
	return nil
}
