// Package failpoint names the moments of a registration, and of the placement
// that follows it, at which a crash is worth trying. The code calls Hit where
// each of them is.
//
// In the binary that ships Hit is empty and inlined: there is no code, no
// variable and no string of this package in it. Built with the tag chaos, the
// process ends there as by kill -9, or stands still for a while, as the
// environment variable SCITTD_FAILPOINT asks:
//
//	SCITTD_FAILPOINT=signed         dies the first time it is there
//	SCITTD_FAILPOINT=signed:7       the seventh time
//	SCITTD_FAILPOINT=signed:7=50ms  waits from the seventh time on, each time
//
// It knows nothing of what happens at a point. internal/crash drives them all.
package failpoint

// Point is a moment in the code.
type Point string

// The points of a registration, in order, then those of a placement.
const (
	Read      Point = "read"      // a statement's bytes are read
	Judged    Point = "judged"    // the policy admits it
	Enqueued  Point = "enqueued"  // the sequencer may take it
	InTurn    Point = "in-turn"   // other replicas wait for this one
	Opened    Point = "opened"    // a round begins with its batch
	Indexed   Point = "indexed"   // every entry of the batch has its index
	Grown     Point = "grown"     // the tree's copy has its leaves, tiles and root
	Signed    Point = "signed"    // the root is signed
	Sent      Point = "sent"      // the transaction is on its way, its answer is not
	Committed Point = "committed" // it is durable, and nobody was told
	Released  Point = "released"  // this process believes the new head
	Minted    Point = "minted"    // a receipt is made
	Answering Point = "answering" // the status is written, the receipt is not
	Claimed   Point = "claimed"   // deliveries are leased
	Blobs     Point = "blobs"     // the layers of an artifact are in the registry
	Manifest  Point = "manifest"  // and its manifest
	Tagged    Point = "tagged"    // and the list under the referrers tag
	Settled   Point = "settled"   // the delivery's outcome is recorded
)

// Registration, Placement and InTurn, where only replicas come, are all points.
var (
	Registration = []Point{Read, Judged, Enqueued, Opened, Indexed, Grown, Signed, Sent, Committed, Released, Minted, Answering}
	Placement    = []Point{Claimed, Blobs, Manifest, Tagged, Settled}
)
