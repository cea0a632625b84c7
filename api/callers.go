package api

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/scittd/scittd/ledger"
)

// Caller is who uses the API. It is not the issuer of what is sent: the caller
// decides about rates and scopes, goes into the audit row, and never enters a
// registration decision.
type Caller struct {
	Name    string // for the audit row: "anonymous", or the token's name and id
	Read    bool   // sees private entries
	Publish bool   // may write
	Purge   bool   // may declare evidence purged

	token [32]byte // hash of the token; zero when anonymous
}

// Scope is what the caller may see.
func (c Caller) Scope() ledger.Scope {
	if c.Read {
		return ledger.All
	}
	return ledger.Public
}

func (c Caller) anonymous() bool { return c.token == [32]byte{} }

const (
	// maxAuthorization is the longest Authorization header that is looked at.
	maxAuthorization = 1024

	// recallTime is how long a token is known without asking the store, and so
	// how long a revoked one may still work.
	recallTime = time.Second

	// outageTime is how much longer one is known while the store is away: what
	// needs only to know the caller, such as a push to the registry, goes on.
	outageTime = 15 * time.Minute
)

// Callers knows callers by their static tokens. Of a token only the SHA-256 of
// its text is compared, stored or remembered. Safe for concurrent use.
type Callers struct {
	tokens ledger.Tokens
	clock  func() time.Time

	mu   sync.Mutex // guards seen
	seen *lru[[32]byte, sighting]
}

// sighting is a token as the store had it, good until stale.
type sighting struct {
	token ledger.Token
	stale time.Time
}

// NewCallers returns Callers for the tokens of one store; nil tokens means that
// there are none. A nil clock is time.Now.
func NewCallers(tokens ledger.Tokens, clock func() time.Time) *Callers {
	if clock == nil {
		clock = time.Now
	}
	return &Callers{tokens: tokens, clock: clock, seen: newLRU[[32]byte, sighting](maxBuckets)}
}

// Identify tells who sends r: a bearer token, or the same token as basic-auth
// password. A request without Authorization is the anonymous caller's, which is
// no error. ErrUnauthenticated: the header is garbled, or its token unknown,
// expired or revoked. Other errors are the store's.
func (c *Callers) Identify(r *http.Request) (Caller, error) {
	hash, ok, err := credential(r)
	if err != nil || !ok {
		return Caller{Name: "anonymous"}, err
	}
	t, seen := c.recall(hash)
	if !seen {
		if t, err = c.lookup(r.Context(), hash); err != nil {
			return Caller{}, err
		}
	}
	return c.caller(t)
}

// credential reads the hash of the token that r presents; ok is false when it
// presents none. Its cost is bounded by maxAuthorization, whatever is sent.
func credential(r *http.Request) (hash [32]byte, ok bool, err error) {
	values := r.Header.Values("Authorization")
	if len(values) == 0 {
		return hash, false, nil
	}
	garbled := &fault{code: "unauthenticated", detail: "Authorization is neither a bearer token nor basic-auth credentials."}
	if len(values) > 1 || len(values[0]) > maxAuthorization {
		return hash, false, garbled
	}
	scheme, rest, _ := strings.Cut(values[0], " ")
	token := strings.Trim(rest, " ")
	switch {
	case strings.EqualFold(scheme, "Bearer"):
	case strings.EqualFold(scheme, "Basic"):
		plain, err := base64.StdEncoding.DecodeString(token)
		if err != nil {
			return hash, false, garbled
		}
		_, token, _ = strings.Cut(string(plain), ":")
	default:
		return hash, false, garbled
	}
	if token == "" {
		return hash, false, garbled
	}
	return sha256.Sum256([]byte(token)), true, nil
}

// recall returns a token that was looked up a moment ago.
func (c *Callers) recall(hash [32]byte) (ledger.Token, bool) { return c.recallWithin(hash, 0) }

// recallWithin returns one that has been stale for no longer than that.
func (c *Callers) recallWithin(hash [32]byte, stale time.Duration) (ledger.Token, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.seen.get(hash)
	return s.token, ok && c.clock().Before(s.stale.Add(stale))
}

// sawLately: r presents a token that is known without asking the store.
func (c *Callers) sawLately(r *http.Request) bool {
	hash, ok, err := credential(r)
	if err != nil || !ok {
		return false
	}
	_, seen := c.recall(hash)
	return seen
}

// lookup asks the store. Only tokens that exist are remembered: a new one works
// at once, and a flood of invented ones pushes nobody out.
func (c *Callers) lookup(ctx context.Context, hash [32]byte) (ledger.Token, error) {
	unknown := &fault{code: "unauthenticated", detail: "The token is not known here."}
	if c.tokens == nil {
		return ledger.Token{}, unknown
	}
	t, err := c.tokens.FindToken(ctx, hash)
	switch {
	case errors.Is(err, ledger.ErrNotFound):
		return t, unknown
	case err != nil:
		if t, known := c.recallWithin(hash, outageTime); known && ctx.Err() == nil {
			return t, nil
		}
		return t, fmt.Errorf("find token: %w", err)
	case subtle.ConstantTimeCompare(t.Hash[:], hash[:]) != 1:
		return t, unknown
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen.put(hash, sighting{t, c.clock().Add(recallTime)})
	return t, nil
}

// caller judges a token as of now.
func (c *Callers) caller(t ledger.Token) (Caller, error) {
	now := c.clock()
	switch {
	case !t.Revoked.IsZero() && !now.Before(t.Revoked):
		return Caller{}, &fault{code: "unauthenticated", detail: "The token was revoked."}
	case !now.Before(t.Expires):
		return Caller{}, &fault{code: "unauthenticated", detail: "The token expired on " + t.Expires.UTC().Format(time.RFC3339) + "."}
	}
	return Caller{
		Name:    fmt.Sprintf("%s (%s)", t.Name, t.ID),
		Read:    slices.Contains(t.Scopes, ledger.ScopeRead),
		Publish: slices.Contains(t.Scopes, ledger.ScopePublish),
		Purge:   slices.Contains(t.Scopes, ledger.ScopePurge),
		token:   t.Hash,
	}, nil
}
