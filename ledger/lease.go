package ledger

import (
	"context"
	"time"
)

// Leases agree on which of several processes does what one of them is enough
// for. They save work and keep order, but no promise of the log may hang on
// them: a process that was stopped may go on behind the end of its lease.
type Leases interface {
	// Lease gives the work of that name to owner for d, by the store's clock, and
	// reports whether it did: not while another owner has it. An owner who has it
	// gets it anew; a d of 0 gives it back.
	Lease(ctx context.Context, work, owner string, d time.Duration) (bool, error)
}
