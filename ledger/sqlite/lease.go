package sqlite

import (
	"context"
	"sync"
	"time"
)

// leases are kept in memory: a file belongs to one process, with which they end.
type leases struct {
	mu    sync.Mutex
	given map[string]lease // by work
}

type lease struct {
	owner string
	until time.Time
}

// Lease gives work to owner unless another one has it.
func (s *Store) Lease(_ context.Context, work, owner string, d time.Duration) (bool, error) {
	s.leases.mu.Lock()
	defer s.leases.mu.Unlock()
	now := time.Now()
	if l := s.leases.given[work]; l.owner != owner && now.Before(l.until) {
		return false, nil
	}
	if s.leases.given == nil {
		s.leases.given = map[string]lease{}
	}
	s.leases.given[work] = lease{owner, now.Add(d)}
	return true, nil
}
