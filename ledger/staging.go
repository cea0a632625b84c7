package ledger

import (
	"context"
	"io"
	"time"

	"github.com/scittd/scittd/statement"
)

// Staging keeps evidence in transit: uploaded before its statement is
// registered, until it has been placed in the registry. It lives beside the
// log, in the same database, so that Commit can claim what an entry needs.
//
// Content stays until its time is over, unless a queued evidence delivery needs
// it: that keeps it for as long as it takes. A claim at Commit says that its
// purpose is fulfilled once no such delivery is left; Sweep then removes it
// without waiting for the time. Staging again begins a new,
// unclaimed stay once all bytes have come and are those of the digest.
type Staging interface {
	// Stage stores r under digest and is durable on nil. What is stored under
	// the same digest already stays as it is and gets a new time; r is then
	// still read and checked. Nothing of a failed call stays visible, and at
	// most a small constant of r is in memory at a time. A slow r never holds
	// up a Commit. ErrDigest: r is not what digest says. ErrTooLarge: r exceeds
	// limits.MaxSize. ErrQuota: all staged bytes would exceed limits.Quota,
	// uploads in progress included.
	Stage(ctx context.Context, digest statement.Digest, r io.Reader, limits StagingLimits) (size int64, err error)

	// Staged opens staged content and tells its size; ErrNotFound. The caller
	// closes it. A reader whose content is swept fails rather than ends early.
	Staged(ctx context.Context, digest statement.Digest) (io.ReadCloser, int64, error)

	// Sweep removes what nobody needs at time now: unclaimed content (and
	// uploads that died) past its time, claimed content whose evidence
	// deliveries are all settled.
	Sweep(ctx context.Context, now time.Time) error
}

// StagingLimits bound one Stage call.
type StagingLimits struct {
	MaxSize int64         // of one piece
	Quota   int64         // of all pieces together
	Keep    time.Duration // how long content stays unclaimed
}
