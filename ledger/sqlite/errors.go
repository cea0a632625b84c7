package sqlite

import (
	"database/sql"
	"errors"
	"fmt"

	"modernc.org/sqlite"
	code "modernc.org/sqlite/lib"

	"github.com/scittd/scittd/ledger"
)

// classify marks what the ledger must tell apart. BUSY, LOCKED and FULL roll
// the transaction back, so nothing of it is there.
func classify(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return ledger.ErrNotFound
	}
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code() & 0xff { // the rest is the extended part
	case code.SQLITE_BUSY, code.SQLITE_LOCKED, code.SQLITE_FULL, code.SQLITE_NOMEM:
		return fmt.Errorf("%w: %w", ledger.ErrUnavailable, err)
	case code.SQLITE_CONSTRAINT, code.SQLITE_TOOBIG, code.SQLITE_MISMATCH:
		return fmt.Errorf("%w: %w", ledger.ErrUnfit, err)
	case code.SQLITE_CORRUPT, code.SQLITE_NOTADB:
		return fmt.Errorf("%w: %w", ledger.ErrCorrupt, err)
	}
	return err
}

// taken says that err is a unique constraint's.
func taken(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) &&
		(e.Code() == code.SQLITE_CONSTRAINT_UNIQUE || e.Code() == code.SQLITE_CONSTRAINT_PRIMARYKEY)
}
