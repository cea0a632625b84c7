package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"
)

// maxChains bounds the cache: some 2 KiB each.
const maxChains = 4096

// chainCache remembers chains that were valid under a rule of its policy, for
// each certificate costs a signature check of its own. Failures and the
// signatures of statements are never remembered. It belongs to one Policy, so
// nothing outlives the roots it was checked against.
//
// Only who holds a certificate under a listed root can fill it. So when it is
// full, any entry may go: the order of use is not worth a list.
type chainCache struct {
	mu     sync.Mutex
	leaves map[chainSlot]*leaf
}

type chainSlot struct {
	rule  string
	chain [32]byte
}

func newChainCache() *chainCache { return &chainCache{leaves: map[chainSlot]*leaf{}} }

func (c *chainCache) slot(rule string, chain [][]byte) chainSlot {
	h := sha256.New()
	for _, der := range chain {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(der))))
		h.Write(der)
	}
	return chainSlot{rule, [32]byte(h.Sum(nil))}
}

// get returns what is known of a chain, if that still holds at now.
func (c *chainCache) get(slot chainSlot, now time.Time) (*leaf, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l, ok := c.leaves[slot]
	return l, ok && l.holdsAt(now)
}

func (c *chainCache) put(slot chainSlot, l *leaf) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.leaves) >= maxChains {
		for some := range c.leaves {
			delete(c.leaves, some)
			break
		}
	}
	c.leaves[slot] = l
}
