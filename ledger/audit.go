package ledger

import (
	"cmp"
	"context"
	"slices"

	"github.com/scittd/scittd/statement"
)

// Audit is the part of a database that checking a log needs beside Log and
// Index, and the only one that repairs: what stands in it follows from the
// statements, or is reported and left alone. ledger/fsck is its caller.
type Audit interface {
	// Dossiers returns what is kept beside the entries [from, from+limit), in
	// index order, as the rows say it: also of an index that has no entry. An
	// index without any row is left out. limit is 1..MaxPage; a store refuses
	// others.
	Dossiers(ctx context.Context, from uint64, limit int) ([]Dossier, error)

	// Flaws returns what the database can tell by itself, at most MaxFlaws of each
	// kind: rows beyond the newest head, texts and collateral that are
	// not what their hash says, tiles that cannot be full. thorough asks for
	// everything else that the engine can check, which may read all of it.
	Flaws(ctx context.Context, thorough bool) ([]Flaw, error)

	// Reindex makes the index rows say what entries say, replaces or adds tiles,
	// and sets right every dictionary text whose hash is not its own, in one
	// transaction. An entry is found by its Index. What no statement tells (who
	// brought it, deliveries) and the statements themselves are never made or
	// changed. Where several processes can share the store, it may run beside
	// services.
	Reindex(ctx context.Context, entries []Entry, tiles []Tile) error

	// Tables says what the database holds and how much room it takes.
	Tables(ctx context.Context) ([]Table, error)
}

// Dossier is what is kept beside one entry.
type Dossier struct {
	Index                uint64
	Audited              bool   // there is an audit row, which has the next three
	Registry, Repository string // as in NewEntry
	Image                statement.Digest
	Collateral           []Collateral // in order; without Data where the content is missing
	Deliveries           []Delivery   // without EntryID
	Later                []Delivery   // those that were added since (see Placements), as the record of it names them
}

// Dossiers are some that are put together, by index, table by table.
type Dossiers map[uint64]*Dossier

// Of is the one of an index, which is there from now on.
func (all Dossiers) Of(index uint64) *Dossier {
	d := all[index]
	if d == nil {
		d = &Dossier{Index: index}
		all[index] = d
	}
	return d
}

// Sorted are they in index order.
func (all Dossiers) Sorted() []Dossier {
	sorted := make([]Dossier, 0, len(all))
	for _, d := range all {
		sorted = append(sorted, *d)
	}
	slices.SortFunc(sorted, func(a, b Dossier) int { return cmp.Compare(a.Index, b.Index) })
	return sorted
}

// MaxFlaws bounds what Flaws returns of one kind.
const MaxFlaws = 100

// Flaw is something that cannot be as it is stored.
type Flaw struct {
	Object string // "issuers row 3", "entry 17"
	What   string
}

// Table is a table or index of the database.
type Table struct {
	Name  string `json:"name"`
	Rows  int64  `json:"rows"` // an estimate where counting would read the table; -1: unknown
	Bytes int64  `json:"bytes"`
}
