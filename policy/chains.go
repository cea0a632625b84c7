package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"
)

// maxChains bounds the cache: some 4 KiB each.
const maxChains = 4096

// chainCache remembers chains that were valid under a rule of its policy, for
// each certificate costs a signature check of its own. It belongs to one Policy,
// so nothing outlives the roots and revocation lists it was checked against.
//
// The signatures of statements are never remembered. Failures are not, either:
// what they say depends on the time, and whoever wants to cost us a signature
// check changes one byte and has a new chain.
//
// Only who holds a certificate under a listed root can fill it. So when it is
// full, any entry may go: the order of use is not worth a list.
type chainCache struct {
	mu     sync.Mutex
	leaves map[chainSlot]*leaf
	busy   map[chainSlot]chan struct{} // closed when who validates that chain is done
}

type chainSlot struct {
	rule  string
	chain [32]byte
}

func newChainCache() *chainCache {
	return &chainCache{leaves: map[chainSlot]*leaf{}, busy: map[chainSlot]chan struct{}{}}
}

func (c *chainCache) slot(rule string, chain [][]byte) chainSlot {
	h := sha256.New()
	for _, der := range chain {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(der))))
		h.Write(der)
	}
	return chainSlot{rule, [32]byte(h.Sum(nil))}
}

// find returns what is known of a chain, if that holds at now; else what validate
// says, and remembers that. Of many who ask at the same time one validates while
// the others wait; when it fails, each of them finds out by itself.
func (c *chainCache) find(slot chainSlot, now time.Time, validate func() (*leaf, *Refusal)) (l *leaf, known bool, refusal *Refusal) {
	l, wait := c.get(slot, now)
	if wait != nil {
		<-wait
		l, wait = c.get(slot, now)
	}
	if l != nil {
		return l, true, nil
	}
	if wait == nil {
		defer c.done(slot)
	}
	if l, refusal = validate(); refusal == nil {
		c.put(slot, l)
	}
	return l, false, refusal
}

// get returns what is known of a chain, if that still holds at now. Else, when
// somebody is finding out, it returns what is closed then. When nobody is, both
// are nil: it is the caller who finds out, and says so with done.
func (c *chainCache) get(slot chainSlot, now time.Time) (*leaf, chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l, ok := c.leaves[slot]; ok && l.holdsAt(now) {
		return l, nil
	}
	wait := c.busy[slot]
	if wait == nil {
		c.busy[slot] = make(chan struct{})
	}
	return nil, wait
}

func (c *chainCache) done(slot chainSlot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if wait := c.busy[slot]; wait != nil {
		delete(c.busy, slot)
		close(wait)
	}
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
