package ledger

import (
	"context"
	"time"

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
}

// Record is what an auditor needs of one entry. Registry and Repository are
// those of NewEntry.
type Record struct {
	Entry
	Canonical  []byte
	Collateral []Collateral // in the order given to Commit
	Registry   string
	Repository string
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
	Since, Until   time.Time // registration time in [Since, Until); zero: open
	Before         uint64    // index < Before; 0: from the newest
	Limit          int       // 1..MaxPage; a store refuses others
}
