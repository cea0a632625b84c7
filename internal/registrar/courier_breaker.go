package registrar

import (
	"math/rand/v2"
	"sync"
	"time"
)

// A breaker opens after so much trouble in a row, with no answer in between.
// Then one delivery at a time is a probe, after firstProbe doubling to maxProbe,
// with full jitter.
const (
	breaksAt   = 10
	firstProbe = time.Second
	maxProbe   = 30 * time.Second
)

// breaker keeps a registry in trouble from eating work, and work from keeping it
// there. The zero value is closed.
//
//	           breaksAt in a row              the time has come
//	closed ──────────────────────> open ──────────────────────────> probing
//	   ^                            ^  │          trouble              │ │
//	   │                            └──┼───────────────────────────────┘ │
//	   └───────────────────────────────┴─────────────────────────────────┘
//	                        an answer, of whatever kind
//
// A registry that says when to come back is not asked before, open or not.
type breaker struct {
	mu       sync.Mutex
	troubles int       // in a row
	until    time.Time // nothing begins before
}

// admits says for how many images work may begin now, and with how many
// deliveries of each, beside those that are worked on.
func (b *breaker) admits(now time.Time, workers, busy int) (places, each int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case now.Before(b.until):
		return 0, 0
	case b.troubles < breaksAt:
		return workers - busy, perTurn
	case busy > 0:
		return 0, 0
	}
	return 1, 1
}

// passes says whether a delivery that was taken may begin now.
func (b *breaker) passes(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !now.Before(b.until)
}

// answered: the registry is there.
func (b *breaker) answered() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.troubles >= breaksAt {
		b.until = time.Time{}
	}
	b.troubles = 0
}

// trouble: what began then met with no answer, or with one that says to come back
// after some time (else 0).
func (b *breaker) trouble(begun, now time.Time, after time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if after > 0 {
		if until := now.Add(min(after, maxDelay)); until.After(b.until) {
			b.until = until
		}
	}
	if begun.Before(b.until) && b.troubles >= breaksAt {
		return // it began before the breaker opened, and is no probe
	}
	b.troubles++
	if b.troubles < breaksAt || after > 0 {
		return
	}
	limit := maxProbe
	if shift := b.troubles - breaksAt; shift < 5 { // beyond, it exceeds maxProbe anyway
		limit = min(maxProbe, firstProbe<<shift)
	}
	if until := now.Add(rand.N(limit) + 1); until.After(b.until) {
		b.until = until
	}
}

// open says whether only probes pass.
func (b *breaker) open() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.troubles >= breaksAt
}
