package embedded

import (
	"context"
	"time"
)

// OpenAt is Open with the tests' clock.
func OpenAt(dir string, now func() time.Time) (*Registry, error) { return open(dir, now) }

// Sweep collects garbage now.
func (r *Registry) Sweep(ctx context.Context) error { return r.sweep(ctx) }
