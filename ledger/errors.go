package ledger

import "errors"

// What a caller may branch on, besides Append's *policy.Refusal and the error of
// the caller's own ctx. Any other error of this room or of its stores says what
// was wrong with an argument, or means damage or a bug.
var (
	// ErrNotFound: no such thing, or none that the caller's scope may see;
	// the two are not to be told apart.
	ErrNotFound = errors.New("not found")
	// ErrEmpty: there is no head, Init was never run on this store.
	ErrEmpty = errors.New("ledger is not initialised")
	// ErrConflict: the compare-and-swap was lost; nothing was written.
	ErrConflict = errors.New("ledger has moved")
	// ErrUnavailable: the store cannot be reached, is busy or full. Try later.
	ErrUnavailable = errors.New("store unavailable")
	// ErrUnfit: the store holds no such batch, now or later, for what is in it;
	// nothing was written.
	ErrUnfit = errors.New("store cannot hold it")
	// ErrOverloaded: too much is waiting already. Try later.
	ErrOverloaded = errors.New("registration queue is full")
	// ErrClock: the clocks disagree, so nothing is signed.
	ErrClock = errors.New("clock untrusted")
	// ErrClosed: the ledger is shutting down.
	ErrClosed = errors.New("ledger closed")
	// ErrReadOnly: this ledger was opened without a signing key.
	ErrReadOnly = errors.New("ledger has no signing key")
	// ErrMeanwhile: another policy came into force, under which this cannot be
	// judged with what was brought. Submitting again is right.
	ErrMeanwhile = errors.New("the policy has changed meanwhile")
	// ErrCorrupt: what the store returned contradicts what was signed. It is
	// never repaired silently and never served.
	ErrCorrupt = errors.New("ledger is corrupt")

	// ErrQuota: the staging area is full. ErrDigest: the content is not what
	// its digest says. ErrTooLarge: one piece is over its limit.
	ErrQuota    = errors.New("staging quota exhausted")
	ErrDigest   = errors.New("content does not match its digest")
	ErrTooLarge = errors.New("content is too large")
)
