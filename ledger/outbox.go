package ledger

import (
	"context"
	"time"

	"github.com/scittd/scittd/statement"
)

// What a Delivery places.
const (
	EvidenceArtifact     = "evidence"
	TransparencyArtifact = "transparency"
)

// The states of a Delivery, as in the SQL CHECK:
//
//	queued ──> done
//	queued ──> queued   later, one try more
//	queued ──> refused
//
// done and refused are final.
const (
	Queued  = "queued"
	Done    = "done"
	Refused = "refused"
)

// Delivery is one thing to place beside an image. Deliveries are fixed in the
// transaction that registers their entry, and unique per (Entry, Registry,
// Repository, Subject, Artifact): a resubmission never adds one.
type Delivery struct {
	Entry      uint64 // index
	EntryID    statement.ID
	Registry   string // host
	Repository string
	Subject    statement.Digest // OCI's subject: the image
	Artifact   string           // EvidenceArtifact or TransparencyArtifact
	State      string
	Tries      int
	NextAt     time.Time
	LastError  string
	Manifest   statement.Digest // what was placed, once done; else ""
}

// Outbox is the part of a Store that remembers what is still to be placed.
type Outbox interface {
	// Deliveries of one visible entry, by registry, repository, subject and
	// then evidence before transparency; none is an empty answer, ErrNotFound
	// an unknown entry.
	Deliveries(ctx context.Context, id statement.ID, scope Scope) ([]Delivery, error)

	// Due leases queued deliveries with NextAt <= now to owner until now+lease
	// and returns them: whole (registry, repository, subject) groups, those
	// with the oldest entry first, each in order of entry and evidence before
	// transparency, at most n in all. A group in which any lease is still
	// running is left out, whoever holds it, so that no two calls ever work on
	// one subject at a time; a first group larger than n is cut to its oldest n
	// and the rest waits for those. Concurrent calls never get the same row.
	// A lease saves work; nothing depends on it for correctness.
	Due(ctx context.Context, owner string, now time.Time, lease time.Duration, n int) ([]Delivery, error)

	// Settle records the outcome of d (State, Tries, NextAt, LastError,
	// Manifest) and ends its lease. Settling what is done or refused already
	// changes nothing. ErrNotFound: there is no such delivery.
	Settle(ctx context.Context, d Delivery) error
}
