package ledger

import (
	"context"
	"time"

	"github.com/scittd/scittd/statement"
)

// What a Delivery places. The archived artifact is the transparency artifact once
// more: it refers to nothing, and is tagged with the entry's ID.
const (
	EvidenceArtifact     = "evidence"
	TransparencyArtifact = "transparency"
	ArchiveArtifact      = "archive"
)

// The states of a Delivery, as in the SQL CHECK:
//
//	queued ──> done
//	queued ──> queued   later, one try more
//	queued ──> refused
//
// For the Courier, done and refused are final; an operator may order otherwise,
// or drop what is not done (see Intervention).
const (
	Queued  = "queued"
	Done    = "done"
	Refused = "refused"
	Dropped = "dropped"
)

// Delivery is one thing to place beside an image. Deliveries are fixed in the
// transaction that registers their entry, and unique per (Entry, Registry,
// Repository, Subject, Artifact): a resubmission never adds one.
type Delivery struct {
	Entry      uint64 // index
	EntryID    statement.ID
	Registry   string // host
	Repository string
	Subject    statement.Digest // OCI's subject: the image; of an archived artifact, the first that the claim is about
	Artifact   string           // EvidenceArtifact, TransparencyArtifact or ArchiveArtifact
	Since      time.Time        // registration time of the entry
	State      string
	Tries      int
	NextAt     time.Time
	LastError  string
	Manifest   statement.Digest // what was placed, once done; else ""
	Size       int64            // of the evidence, once done; 0: not known
}

// Place is where d goes.
func (d Delivery) Place() Place { return Place{d.Registry, d.Repository, d.Subject} }

// Outbox is the part of a Store that remembers what is still to be placed.
type Outbox interface {
	// Deliveries of one visible entry, by registry, repository, subject and
	// then artifact; none is an empty answer, ErrNotFound an unknown entry.
	Deliveries(ctx context.Context, id statement.ID, scope Scope) ([]Delivery, error)

	// Waiting returns the registries that something is due for, leased or not.
	Waiting(ctx context.Context, now time.Time) ([]string, error)

	// Due leases queued deliveries with NextAt <= now as p says, and returns them
	// by Place: those first that have been due longest, each in order of entry
	// and evidence before transparency. A Place in which any lease is still running
	// is left out, whoever holds it, so that no two calls ever work on one image at
	// a time. Concurrent calls never get the same row.
	//
	// Each Place has its turn: of one with more than p.Each due the oldest are
	// taken, and the rest goes behind everything else that is due now (of very much, a
	// few thousand a turn). What fails
	// goes behind by its new NextAt. So nothing waits for ever, however much there
	// is of something else.
	//
	// A lease saves work; nothing depends on it for correctness.
	Due(ctx context.Context, p Pickup, now time.Time) ([]Delivery, error)

	// Renew lets owner's leases at a Place run until then; a time that is not after
	// now gives them back. It reports whether there were any: not once all is
	// settled, or another has taken the Place over.
	Renew(ctx context.Context, owner string, at Place, now, until time.Time) (bool, error)

	// Settle records the outcome of d (State, Tries, NextAt, LastError,
	// Manifest, Size) and ends its lease. What is placed is Done whoever says so;
	// other outcomes are owner's to tell, as long as no other holds the lease, and
	// else change nothing, as does settling what is not Queued any more.
	// ErrNotFound: there is no such delivery.
	Settle(ctx context.Context, owner string, d Delivery) error
}

// Pickup says who asks for deliveries, and for how many.
type Pickup struct {
	Owner    string
	Registry string
	Lease    time.Duration
	Places   int // at most
	Each     int // at most, of one Place
}
