package storage

import (
	"context"
	"slices"
	"time"
)

// Memo remembers how repositories list referrers, beyond this process and for
// all that share it. What it says was found out by attaching and listing; it
// saves doing so again, and nothing depends on it: every placement is read back.
type Memo interface {
	// Capability returns what was last remembered of a repository, and when it
	// was found out; "" is nothing.
	Capability(ctx context.Context, registry, repository string) (capability string, at time.Time, err error)
	// SetCapability remembers it. The newer of two findings stays.
	SetCapability(ctx context.Context, registry, repository, capability string, at time.Time) error
}

// How long a Memo may take, and how soon one that knew nothing is asked again.
const (
	memoPatience = 2 * time.Second
	memoAgain    = 10 * time.Second
)

// recall asks the memo what other processes have found out. One that cannot be
// asked knows nothing.
func (r *repository) recall(ctx context.Context) {
	memo := r.remote.memo
	r.mu.Lock()
	now := r.remote.now()
	ask := memo != nil && r.listing == undecided && now.Sub(r.asked) > memoAgain
	if ask {
		r.asked = now
	}
	r.mu.Unlock()
	if !ask {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, memoPatience)
	defer cancel()
	said, at, err := memo.Capability(ctx, r.remote.host, r.name())
	if err != nil || now.Sub(at) > listingHolds {
		return
	}
	l := listing(slices.Index(listings[:], said))
	if l != byAPI && l != byTag && l != byBoth {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.listing == undecided {
		r.listing, r.decided = l, at
	}
}

// decide keeps what was found out, for this process and for others.
func (r *repository) decide(ctx context.Context, l listing) {
	r.mu.Lock()
	at := r.remote.now()
	known := r.listing == l && at.Sub(r.decided) <= listingHolds
	if !known {
		r.listing, r.decided, r.asked = l, at, at
	}
	r.mu.Unlock()
	if known || r.remote.memo == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), memoPatience)
	defer cancel()
	// Without it others find out for themselves.
	_ = r.remote.memo.SetCapability(ctx, r.remote.host, r.name(), listings[l], at)
}
