package ledger

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// What a token may allow.
const (
	ScopeRead    = "read"    // sees private entries
	ScopePublish = "publish" // may write: statements, evidence, pushes to /v2
	ScopePurge   = "purge"   // may declare evidence purged, which removes it
)

// TokenScopes lists what a token may allow.
func TokenScopes() []string { return []string{ScopeRead, ScopePublish, ScopePurge} }

// Token is a caller's static bearer token. The token itself is shown once, when
// it is made; only its SHA-256 is kept.
type Token struct {
	ID      string // short public name
	Name    string // for people
	Hash    [32]byte
	Scopes  []string // of TokenScopes()
	Created time.Time
	Expires time.Time // mandatory
	Revoked time.Time // zero: not revoked
}

// Check says why no store keeps t; nil when one may.
func (t Token) Check() error {
	switch {
	case t.ID == "" || !text(t.ID) || !text(t.Name):
		return fmt.Errorf("token %.80q: id or name is empty or not text", t.ID)
	case t.Expires.IsZero():
		return fmt.Errorf("token %s: it never expires", t.ID)
	case len(t.Scopes) == 0:
		return fmt.Errorf("token %s: it has no scopes", t.ID)
	}
	for _, scope := range t.Scopes {
		switch scope {
		case ScopeRead, ScopePublish, ScopePurge:
		default:
			return fmt.Errorf("token %s: no scope %.80q (there are %s)", t.ID, scope, strings.Join(TokenScopes(), ", "))
		}
	}
	return nil
}

// text is what any database keeps as it is.
func text(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

// Tokens keeps callers' tokens beside the log. They are no part of it: tokens
// say who may use the API, never what may be registered. Each call is durable
// when it returns nil.
type Tokens interface {
	// AddToken refuses a token that fails its Check, and an ID or hash that is
	// already there.
	AddToken(ctx context.Context, t Token) error
	// RevokeToken sets the revocation time once; later calls keep the first.
	// ErrNotFound.
	RevokeToken(ctx context.Context, id string, at time.Time) error
	// ListTokens returns all, revoked and expired ones too, oldest first.
	ListTokens(ctx context.Context) ([]Token, error)
	// FindToken finds by hash, also a revoked or expired one: the caller looks.
	// ErrNotFound.
	FindToken(ctx context.Context, hash [32]byte) (Token, error)
}
