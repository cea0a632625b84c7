package api

import "container/list"

// lru is a map of bounded size: the entry that was used longest ago makes room.
// It is not safe for concurrent use.
type lru[K comparable, V any] struct {
	max   int
	order *list.List // of slot, most recently used first
	slots map[K]*list.Element
}

type slot[K comparable, V any] struct {
	key   K
	value V
}

func newLRU[K comparable, V any](max int) *lru[K, V] {
	return &lru[K, V]{max: max, order: list.New(), slots: map[K]*list.Element{}}
}

func (c *lru[K, V]) get(key K) (value V, ok bool) {
	e, ok := c.slots[key]
	if !ok {
		return value, false
	}
	c.order.MoveToFront(e)
	return e.Value.(slot[K, V]).value, true
}

func (c *lru[K, V]) put(key K, value V) {
	if e, ok := c.slots[key]; ok {
		e.Value = slot[K, V]{key, value}
		c.order.MoveToFront(e)
		return
	}
	c.slots[key] = c.order.PushFront(slot[K, V]{key, value})
	if oldest := c.order.Back(); c.order.Len() > c.max {
		delete(c.slots, c.order.Remove(oldest).(slot[K, V]).key)
	}
}
