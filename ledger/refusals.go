package ledger

import (
	"context"
	"time"

	"github.com/scittd/scittd/statement"
)

// PushRefusal is a statement that a client pushed into a repository, and that
// was stored there without being registered.
type PushRefusal struct {
	Repository string
	Manifest   statement.Digest // that it came in
	Image      statement.Digest // OCI's subject; "" = none
	Entry      statement.ID     // that it would have become; zero = it is no statement
	Issuer     string           // as it says itself: nobody has verified it
	Code       string           // of a policy.Refusal, as are the following
	Rule       string
	Reason     string
	Hint       string
	Policy     statement.ID
	Caller     string
	At         time.Time
}

// MaxRefusals is how many PushRefusals are kept; the oldest go first.
const MaxRefusals = 10_000

// Refusals keeps what became of pushed statements that were not registered, and
// counts all that were refused however they came (see RefusalTally), so that publishers
// and operators can see it. It only shares the database with the log, and what is
// kept proves nothing.
type Refusals interface {
	// NoteRefusal keeps r in the place of what was noted of the same manifest in
	// the same repository.
	NoteRefusal(ctx context.Context, r PushRefusal) error
	// DropRefusal forgets it: it was registered after all.
	DropRefusal(ctx context.Context, repository string, manifest statement.Digest) error
	// FindRefusals returns the newest, at most limit, of a repository and of an
	// image; "" means any.
	FindRefusals(ctx context.Context, repository string, image statement.Digest, limit int) ([]PushRefusal, error)

	// CountRefusals adds counts, in the order given, to those that are there. No
	// more than MaxRefusalCounts are kept.
	CountRefusals(ctx context.Context, counts []RefusalCount) error
	// CountedRefusals returns those of which the last one was not before since, the
	// most frequent first, at most limit.
	CountedRefusals(ctx context.Context, since time.Time, limit int) ([]RefusalCount, error)
}
