package policy

import (
	"context"

	"github.com/scittd/scittd/statement"
)

// History answers about the log as it is just before the place of the entry in
// question.
type History interface {
	// Past returns entries that match q, newest first, at most limit.
	Past(ctx context.Context, q PastQuery, limit int) ([]Past, error)
}

// PastQuery selects entries: an empty field admits everything, the others must
// all be equal.
type PastQuery struct {
	Issuer        string
	Subject       string // SCITT's (sub)
	Artifact      statement.Digest
	Evidence      statement.Digest
	MediaType     string
	PredicateType string
}

// Past is an entry that is in the log already.
type Past struct {
	Index     uint64
	Private   bool
	Statement *statement.Statement
}

// Settle judges what depends on the log itself, for a Decision that is
// Conditional: whoever knows the entry's place asks it with the History of that
// place, and admits the entry only when there is no Refusal. An error is the
// History's.
func (p *Policy) Settle(ctx context.Context, s *statement.Statement, d Decision, h History) (*Refusal, error) {
	return nil, nil
}
