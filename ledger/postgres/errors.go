package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/scittd/scittd/ledger"
)

// SQLSTATEs that we branch on (PostgreSQL manual, appendix A).
const (
	uniqueViolation      = "23505"
	checkViolation       = "23514"
	undefinedTable       = "42P01"
	serializationFailure = "40001"
	deadlockDetected     = "40P01"
	resultUnknown        = "40003"
	resolutionUnknown    = "08007"
	readOnlyTransaction  = "25006"
	lockNotAvailable     = "55P03"
	substringError       = "22011"
	dataCorrupted        = "XX001"
	indexCorrupted       = "XX002"
)

// passingStates are those, or classes of those, that say nothing against the
// request: later or elsewhere it may succeed.
var passingStates = []string{
	"08",                // connection exceptions
	readOnlyTransaction, // a primary that has become a replica
	"25P03",             // idle in transaction timeout
	"40",                // serialization failure, deadlock
	"53",                // out of disk, memory, connections
	"55P03",             // lock timeout
	"57",                // shut down, starting up, cancelled by statement_timeout
	"58030",             // I/O error
}

// unfit: the server rolled back for what the rows are, and would again: data
// exceptions (22), integrity constraints (23), program limits (54), such as an
// index row that is too large.
func unfit(state string) bool {
	switch state[:2] {
	case "22", "23", "54":
		return true
	}
	return false
}

func passing(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return false
	}
	for _, state := range passingStates {
		if strings.HasPrefix(pg.Code, state) {
			return true
		}
	}
	return false
}

// undecided: an engine that is spread over machines may not know itself whether
// it has committed; it says so by a state of class 40 or 08.
func undecided(err error) bool {
	return hasState(err, resultUnknown) || hasState(err, resolutionUnknown)
}

// yielded: the server rolled the transaction back for the sake of another one.
// At COMMIT it means the same.
func yielded(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Severity == "ERROR" && (pg.Code == serializationFailure || pg.Code == deadlockDetected)
}

// attempts is how often a transaction begins, at most, that keeps yielding.
const attempts = 5

// again runs f, which is whole transactions that do no harm when repeated, and
// runs it anew when it had to yield: a little later each time, and not at the
// moment that the others choose.
func again(ctx context.Context, f func() error) error {
	for n := 1; ; n++ {
		err := f()
		if n == attempts || ctx.Err() != nil || !yielded(err) {
			return err
		}
		time.Sleep(rand.N(time.Millisecond << (2 * n)))
	}
}

// damaged marks an error that a read has met for what is stored: pages that the
// server finds broken, a place in a piece that is none, a value that its column
// would not take. No question can be the reason.
func damaged(err error) error {
	var scan pgx.ScanArgError
	if errors.As(err, &scan) || hasState(err, dataCorrupted) || hasState(err, indexCorrupted) || hasState(err, substringError) {
		return fmt.Errorf("%w: %w", ledger.ErrCorrupt, err)
	}
	return err
}

func unavailable(err error) error { return fmt.Errorf("%w: %w", ledger.ErrUnavailable, err) }

// violated returns the name of the constraint that err is about, "" when it is
// about none.
func violated(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && (pg.Code == uniqueViolation || pg.Code == checkViolation) {
		return pg.ConstraintName
	}
	return ""
}

func hasState(err error, state string) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == state
}

// refusal is a server that we do not work with, however often it is asked.
type refusal struct{ reason string }

func (r *refusal) Error() string { return r.reason }

// storable says whether PostgreSQL's text can hold s: it has no NUL, and refuses
// what is not UTF-8. What statements bring was checked when they were parsed;
// this keeps a mistake elsewhere from becoming a failed transaction.
func storable(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

// legible makes foreign text (a registry's error message) storable, and short.
func legible(s string) string {
	const limit = 2000
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}

// notNil keeps an empty byte string from binding as NULL.
func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
