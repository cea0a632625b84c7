package ledger

import (
	"context"
	"time"

	"github.com/scittd/scittd/statement"
)

// Projection is what the ledger knows of registries: what was placed there, to
// be held against what they list, and how they list it. A registry is a
// projection of the ledger that can always be made again.
type Projection interface {
	// Placed returns deliveries to a registry that are done, image by image, of at
	// most n pairs of image and entry behind a mark, and the mark to go on from:
	// the zero one at the end. A page may be empty and not the last. All
	// deliveries of one image follow each other, over several pages perhaps.
	Placed(ctx context.Context, registry string, after PlacedMark, n int) ([]Delivery, PlacedMark, error)

	// PlacedAt returns the deliveries to one place that are done, in order of
	// entry, of at most n entries from an index on, and the index to go on from: 0
	// at the end.
	PlacedAt(ctx context.Context, at Place, from uint64, n int) ([]Delivery, uint64, error)

	// Capability returns what was last found out about how a repository lists
	// referrers, and when; "" is nothing.
	Capability(ctx context.Context, registry, repository string) (capability string, at time.Time, err error)

	// SetCapability remembers it, at most 16 bytes. Of two findings the newer one
	// stays.
	SetCapability(ctx context.Context, registry, repository, capability string, at time.Time) error
}

// PlacedMark is a place in the order of Placed: behind this image and entry.
type PlacedMark struct {
	Subject statement.Digest
	Entry   uint64
}
