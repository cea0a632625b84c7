package ledger

import (
	"context"
	"time"
)

// TokenScopes are what a token may allow: "read" sees private entries, "publish"
// may write.
var TokenScopes = []string{"read", "publish"}

// Token is a caller's static bearer token. The token itself is shown once, when
// it is made; only its SHA-256 is kept.
type Token struct {
	ID      string // short public name
	Name    string // for people
	Hash    [32]byte
	Scopes  []string // of TokenScopes
	Created time.Time
	Expires time.Time // mandatory
	Revoked time.Time // zero: not revoked
}

// Tokens keeps callers' tokens beside the log. They are no part of it: tokens
// say who may use the API, never what may be registered. Each call is durable
// when it returns nil.
type Tokens interface {
	// AddToken refuses a token without scopes or expiry, and an ID or hash that
	// is already there.
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
