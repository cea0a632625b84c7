package ledger

import (
	"context"
	"time"

	"github.com/scittd/scittd/internal/detcbor"
	"github.com/scittd/scittd/statement"
)

// Scope is what a caller may see. It travels in every lookup, and the store
// enforces it in the SQL of that lookup: there is no reading first and hiding
// later.
type Scope int

const (
	Public Scope = iota // private entries answer as unknown ones
	All
)

// Index is the part of a Store that answers questions about entries.
type Index interface {
	// Indexes maps those of ids that are registered and visible in scope to
	// their index, in one query however many are asked. Repeats are fine.
	Indexes(ctx context.Context, ids []statement.ID, scope Scope) (map[statement.ID]uint64, error)

	// Record returns everything kept of one visible entry; ErrNotFound.
	Record(ctx context.Context, id statement.ID, scope Scope) (Record, error)

	// Find returns the entries that match q, newest first, at most q.Limit.
	Find(ctx context.Context, q Query) ([]Entry, error)

	// Statements returns the leaves from index from on, in order, at most limit,
	// which is 1..MaxPage; a store refuses others. It stops before the leaf
	// whose predecessors have PageBytes already; what scope hides counts nothing,
	// so that a page's length tells nothing about it.
	Statements(ctx context.Context, from uint64, limit int, scope Scope) ([]Leaf, error)
}

// PageBytes is how many bytes of statements a page has, but for its last one.
const PageBytes = 1 << 20

// Leaf is an entry as the tree has it, and its bytes.
type Leaf struct {
	Index     uint64
	ID        statement.ID
	Private   bool
	Canonical []byte // nil where the scope does not show it
}

// AppendCBOR appends the leaf as auditors read it: [index, bytes or null].
func (l Leaf) AppendCBOR(dst []byte) []byte {
	const pair, null = 0x82, 0xf6
	dst = detcbor.AppendHead(append(dst, pair), detcbor.KindUint, l.Index)
	if l.Canonical == nil {
		return append(dst, null)
	}
	return detcbor.AppendBytes(dst, l.Canonical)
}

// Record is what an auditor needs of one entry. Registry, Repository and Image
// are those of NewEntry.
type Record struct {
	Entry
	Canonical  []byte
	Collateral []Collateral // in the order given to Commit
	Registry   string
	Repository string
	Image      statement.Digest
}

// MaxPage is the largest Query.Limit.
const MaxPage = 500

// Query selects entries: values of one field are OR-ed, fields are AND-ed, an
// empty field admits everything. Strings compare exactly, byte for byte.
//
// Paging is by key, never by offset: ask again with Before set to the last
// index received. Over a growing log no entry is skipped or repeated.
type Query struct {
	Scope          Scope
	IDs            []statement.ID
	Artifacts      []statement.Digest // any of the entry's artifacts
	Evidence       []statement.Digest
	Issuers        []string
	IssuerPrefixes []statement.IssuerPrefix // the issuer is covered by one of them
	MediaTypes     []string
	PredicateTypes []string
	Subject        string    // SCITT's (sub); with Issuers, Artifacts or Evidence, for it has no index of its own (see Series)
	Repository     string    // that the entry's claim is or will be placed in, at whatever registry
	Since, Until   time.Time // registration time in [Since, Until); zero: open
	Before         uint64    // index < Before; 0: from the newest
	Limit          int       // 1..MaxPage; a store refuses others
}
