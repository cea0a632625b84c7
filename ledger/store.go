package ledger

import (
	"context"
	"time"

	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// Store keeps one log durably. Its parts are what the sequencer, the queries, the
// Courier and the conditions of a policy need of it.
//
// All methods are safe for concurrent use, also from several processes where
// the store can be shared, and honour ctx. What Commit wrote is seen by every
// call that begins after it returned nil, from any process. An error wraps
// ErrUnavailable when trying later may help (unreachable, busy, out of space),
// ErrCorrupt when the database is damaged, another sentinel where the method
// says so; anything else is a bug. Times are kept to the second where they are signed (head and
// registration times) and at least to the millisecond elsewhere, and come back
// in UTC; a zero time comes back zero.
type Store interface {
	Log
	Index
	Outbox
	Series

	// Now is the store's own clock: the database server's where there is one.
	Now(ctx context.Context) (time.Time, error)
	// Close waits for calls in progress and releases everything held.
	Close() error
}

// Log is the part of a Store that the signed tree is made of. Everything in it
// is immutable once committed, so readers need no snapshot.
type Log interface {
	// Head returns the newest signed head; ErrEmpty when there is none.
	Head(ctx context.Context) (Head, error)

	// HeadFor returns the head of the batch that holds index: the one with the
	// smallest size > index. ErrNotFound when no head reaches that far.
	HeadFor(ctx context.Context, index uint64) (Head, error)

	// Heads returns the heads of a size above after, smallest first, at most
	// limit, which is 1..MaxPage; a store refuses others.
	Heads(ctx context.Context, after uint64, limit int) ([]Head, error)

	// Commit writes all of b or nothing, and is durable when it returns nil.
	//
	// Inserting the head is the compare-and-swap: of all commits that name one
	// PrevSize, from any process, exactly one can succeed. ErrConflict means
	// that PrevSize is not the newest head's size (0 when there is none), and
	// that nothing was written. An error that wraps ErrUnavailable means that
	// nothing was written, as far as the store can tell. ErrUnfit means that
	// nothing was written, for what is in b: so does an entry ID that exists
	// already, by which the caller learns of it. After any other error
	// (a timeout, a reset connection, a cancelled ctx) the outcome is unknown:
	// b may be there, may never be, or may still arrive; the caller reads
	// entries back by ID before it does anything else.
	//
	// The store refuses, writing nothing, a batch that breaks an invariant:
	// indexes that are not exactly PrevSize..Size-1 in order, an entry ID or
	// delivery that exists already, a head time before the previous one's.
	// Issuers, media types and predicate types are interned; equal collateral
	// is kept once. Staged content whose digest is the Evidence of an entry
	// with an EvidenceArtifact delivery is claimed (see Staging).
	Commit(ctx context.Context, b *Batch) error

	// Turn waits until nobody is committing and keeps others from it, from any
	// process, until the Turn ends: what is built meanwhile is not built in
	// vain. Who waits is served about in the order of coming.
	//
	// It saves work and promises nothing. A holder that stands still loses its
	// turn after a few seconds, and learns of it from Commit, where inserting
	// the head decides as ever. A store without such a lock gives turns that
	// keep nobody away. ErrEmpty: there is no head to wait at.
	Turn(ctx context.Context) (Turn, error)

	// Tiles returns those full tiles that exist, in the order asked.
	Tiles(ctx context.Context, ids []TileID) ([]Tile, error)

	// Roots returns the roots of the full tiles (level, from) up to but not
	// including (level, to), without reading their data. Fewer than asked means
	// that they do not exist.
	Roots(ctx context.Context, level uint8, from, to uint64) ([][32]byte, error)

	// Leaves returns the entry IDs of indexes [from, to), fewer when the log
	// ends before.
	Leaves(ctx context.Context, from, to uint64) ([]statement.ID, error)
}

// Turn is the place at the newest head. It has one owner, who releases it.
type Turn interface {
	// Head is the newest one, since others wait.
	Head() Head
	// Commit is Log's, and ends the turn whatever comes of it.
	Commit(ctx context.Context, b *Batch) error
	// Release ends the turn; after Commit it does nothing.
	Release()
}

// Head is a signed tree head. Every one is kept: a receipt is a pure function
// of (stored head, tiles).
type Head struct {
	receipts.SignedHead
	PrevSize uint64
	Policy   uint64 // index of the policy entry in force after this batch
}

// TileID names a full tile: 256 consecutive hashes of tree level 8*Level
// (C2SP tlog-tiles numbering), from hash 256*N on.
type TileID struct {
	Level uint8
	N     uint64
}

// Tile is a full tile and the root over its 256 hashes, which is also hash N of
// tile level Level+1.
type Tile struct {
	TileID
	Root [32]byte
	Data []byte // 8192 bytes
}

// Entry is a registered statement's index row.
type Entry struct {
	Index         uint64
	ID            statement.ID
	Issuer        string
	Subject       string // SCITT's Subject (sub), not OCI's
	MediaType     string // "" when the statement names none
	PredicateType string // "" unless it is an attached in-toto statement
	Evidence      statement.Digest
	Artifacts     []statement.Digest // sorted, at most statement.MaxArtifacts
	Private       bool
	RegisteredAt  time.Time    // iat of its batch's head
	Policy        statement.ID // entry ID of the policy it was judged under
	Rule          string
	Identity      policy.Identity
}

// Batch is everything that one commit writes, in one transaction.
type Batch struct {
	Head    Head
	Entries []NewEntry // in index order
	Tiles   []Tile     // those that this batch completes
}

// NewEntry is one registered statement with all its rows.
type NewEntry struct {
	Entry
	Canonical  []byte
	Collateral []Collateral
	Deliveries []Delivery

	// Kept in the audit row, never read for admission: who brought the
	// statement, and where from and to. Registry and Repository are what the
	// Deliveries follow from, together with the statement and its policy.
	Caller     string
	Registry   string           // host that deliveries went to; "" = none configured
	Repository string           // named by the path the statement came by; "" = none
	Image      statement.Digest // likewise: OCI's subject, where the statement names no artifact; "" = none
}
