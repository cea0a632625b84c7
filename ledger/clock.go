package ledger

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Nothing is signed unless wall clock, monotonic clock and the store's clock
// agree within tolerance. The store is asked at most once per storeClockAge.
const (
	tolerance     = 10 * time.Second
	storeClockAge = time.Second
)

// clocks watches the clocks. A registration time is signed and kept for ever,
// so one wrong clock must stop the log rather than date it.
type clocks struct {
	store  func(context.Context) (time.Time, error)
	wall   func() time.Time
	steady func() time.Duration // since some fixed moment; never set back

	start   time.Time // wall time at steady time started
	started time.Duration

	mu      sync.Mutex    // held for field access only
	checked time.Duration // steady time of the last answer of the store; 0: never
	ahead   time.Duration // the least by which the store's clock is off; < 0: behind
}

func newClocks(store func(context.Context) (time.Time, error), o Options) *clocks {
	c := &clocks{store: store, wall: o.Clock, steady: o.Steady}
	if c.wall == nil {
		c.wall = time.Now
	}
	begin := c.wall()
	if c.steady == nil {
		// time.Time carries the monotonic reading; an injected clock without
		// one answers for its own steadiness.
		c.steady = func() time.Duration { return c.wall().Sub(begin) }
	}
	c.start, c.started = begin.Round(0), c.steady()
	return c
}

// now returns the wall clock's whole seconds, or last if that is later. ErrClock
// when, by more than tolerance, the wall clock has moved against the monotonic
// one, the store's clock differs from it, or last lies in its future.
func (c *clocks) now(ctx context.Context, last time.Time) (time.Time, error) {
	if err := c.askStore(ctx); err != nil {
		return time.Time{}, err
	}
	steady, wall := c.steady()-c.started, c.wall().Round(0)
	c.mu.Lock()
	ahead := c.ahead
	c.mu.Unlock()
	if off := wall.Sub(c.start) - steady; off.Abs() > tolerance {
		return time.Time{}, fmt.Errorf("%w: the wall clock moved by %v against the monotonic clock since start", ErrClock, off)
	}
	if ahead.Abs() > tolerance {
		return time.Time{}, fmt.Errorf("%w: the store's clock is off by %v", ErrClock, ahead)
	}
	if off := last.Sub(wall); off > tolerance {
		return time.Time{}, fmt.Errorf("%w: the last head is %v ahead", ErrClock, off)
	}
	if wall = wall.UTC().Truncate(time.Second); wall.Before(last) {
		wall = last
	}
	return wall, nil
}

// askStore compares with the store's clock when the last answer is too old.
func (c *clocks) askStore(ctx context.Context) error {
	c.mu.Lock()
	fresh := c.checked > 0 && c.steady()-c.checked < storeClockAge
	c.mu.Unlock()
	if fresh {
		return nil
	}
	before := c.wall().Round(0)
	t, err := c.store(ctx)
	if err != nil {
		return fmt.Errorf("ask the store's clock: %w", err)
	}
	after := c.wall().Round(0)
	var ahead time.Duration
	switch { // the store read its clock somewhere between before and after
	case t.Before(before):
		ahead = t.Sub(before)
	case t.After(after):
		ahead = t.Sub(after)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.checked, c.ahead = max(c.steady(), 1), ahead
	return nil
}
