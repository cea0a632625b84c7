package memory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/scittd/scittd/receipts"
)

// Options of NewGuard.
type Options struct {
	File *File // nil: none
	Sync bool  // Remember waits for File
	// Shelf is shared with other replicas; nil: none.
	Shelf Shelf
	// Pace is the least time between two writes to Shelf; 0: a second.
	Pace time.Duration
	// Veto is told once what Shelf remembers and the log does not hold. It must
	// stop the signing.
	Veto func(error)
	Log  *slog.Logger
}

// Guard tells memories of every head that is committed. It writes the newest
// only: what was committed during a write goes into the next one.
//
// Before it writes to the shelf it reads what is there. Another replica may be
// ahead, and a log that does not hold what that one committed has lost it.
type Guard struct {
	log   Log
	o     Options
	lanes []*lane

	mu     sync.Mutex // held while File is written in sync mode
	kept   uint64     // by File then
	vetoed sync.Once
}

// lane writes to one memory.
type lane struct {
	Keeper
	shared bool
	pace   time.Duration
	news   chan struct{} // holds one element while there is something to write

	mu     sync.Mutex // guards the two; never held during a write
	newest receipts.SignedHead
	kept   uint64
}

// NewGuard makes a Guard; Run has to run for it to write what is not in sync.
func NewGuard(l Log, o Options) *Guard {
	g := &Guard{log: l, o: o}
	if o.Pace == 0 {
		o.Pace = time.Second
	}
	if o.File != nil && !o.Sync {
		g.lanes = append(g.lanes, &lane{Keeper: o.File, news: make(chan struct{}, 1)})
	}
	if o.Shelf != nil {
		g.lanes = append(g.lanes, &lane{Keeper: Shelved{o.Shelf}, shared: true, pace: o.Pace, news: make(chan struct{}, 1)})
	}
	return g
}

// Remember notes a head that is known to be committed; heads come in order of
// size. In sync mode it returns once the file has it, and an error means that
// nothing may be acknowledged under it; otherwise it waits for nothing.
func (g *Guard) Remember(ctx context.Context, h receipts.SignedHead) error {
	for _, l := range g.lanes {
		l.note(h)
	}
	if !g.o.Sync || g.o.File == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if h.Size <= g.kept {
		return nil
	}
	if err := g.o.File.Keep(ctx, h); err != nil {
		return fmt.Errorf("%s: %w", g.o.File.Name(), err)
	}
	g.kept = h.Size
	return nil
}

func (l *lane) note(h receipts.SignedHead) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h.Size <= l.newest.Size {
		return
	}
	l.newest = h
	select {
	case l.news <- struct{}{}:
	default:
	}
}

// Lag is how many entries the memory that is furthest behind does not know of.
func (g *Guard) Lag() (entries uint64) {
	for _, l := range g.lanes {
		l.mu.Lock()
		entries = max(entries, l.newest.Size-min(l.kept, l.newest.Size))
		l.mu.Unlock()
	}
	return entries
}

// flushTime is how long the last head may take when Run ends.
const flushTime = 5 * time.Second

// Run writes until ctx ends, and then what is left.
func (g *Guard) Run(ctx context.Context) {
	var all sync.WaitGroup
	for _, l := range g.lanes {
		all.Go(func() { g.serve(ctx, l) })
	}
	all.Wait()
}

func (g *Guard) serve(ctx context.Context, l *lane) {
	pause := l.pace
	for failing := false; ; {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTime)
			defer cancel()
			if err := g.write(last, l); err != nil {
				g.o.Log.Warn("external memory not written", "memory", l.Name(), "err", err)
			}
			return
		case <-l.news:
		}
		err := g.write(ctx, l)
		switch {
		case ctx.Err() != nil:
			continue
		case err == nil && failing:
			g.o.Log.Info("external memory written again", "memory", l.Name())
		case err != nil && !failing:
			g.o.Log.Error("external memory not written", "memory", l.Name(), "err", err)
		}
		if failing = err != nil; failing {
			pause = min(max(2*pause, time.Second), time.Minute)
			select {
			case l.news <- struct{}{}:
			default:
			}
		} else {
			pause = l.pace
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
		case <-timer.C:
		}
	}
}

// write makes the memory of l remember the newest head, unless it knows a later
// one of this log.
func (g *Guard) write(ctx context.Context, l *lane) error {
	l.mu.Lock()
	h, kept := l.newest, l.kept
	l.mu.Unlock()
	if h.Size <= kept {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	if l.shared {
		there, err := l.Last(ctx)
		if err == nil {
			err = agree(ctx, g.log, l.Name(), there)
		}
		switch {
		case errors.Is(err, ErrRollback):
			g.vetoed.Do(func() { g.o.Veto(err) })
			return err
		case err == nil && there.Size >= h.Size:
			l.has(there.Size)
			return nil
		case err != nil && !errors.Is(err, ErrNothing):
			return err
		}
	}
	if err := l.Keep(ctx, h); err != nil {
		return err
	}
	l.has(h.Size)
	return nil
}

func (l *lane) has(size uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept = size
}
