package embedded

import (
	"context"
	"time"
)

// OpenAt is Open with the tests' clock.
func OpenAt(dir string, now func() time.Time) (*Registry, error) { return open(dir, now) }

// LosePatience sets how long a body may stand still. Before the first request.
func (r *Registry) LosePatience(after time.Duration) { r.patience = after }

// Sweep collects garbage now.
func (r *Registry) Sweep(ctx context.Context) error { return r.sweep(ctx) }
