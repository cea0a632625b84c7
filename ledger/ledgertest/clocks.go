package ledgertest

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

func clocksDisagree(w *world) {
	w.init()
	for _, c := range []struct {
		name                string
		wall, steady, store time.Duration // after the start
		signs               bool
	}{
		{"all go", time.Minute, time.Minute, time.Minute, true},
		{"the wall clock is 9 s off", 69 * time.Second, time.Minute, 69 * time.Second, true},
		{"the wall clock jumps 11 s ahead", 71 * time.Second, time.Minute, 71 * time.Second, false},
		{"the wall clock is frozen", 0, time.Minute, 0, false},
		{"the wall clock jumps back an hour", -time.Hour, time.Second, -time.Hour, false},
		{"the wall clock jumps ten years", 87600 * time.Hour, time.Second, 87600 * time.Hour, false},
		{"the store's clock is 9 s behind", time.Minute, time.Minute, 51 * time.Second, true},
		{"the store's clock is 11 s behind", time.Minute, time.Minute, 49 * time.Second, false},
		{"the store's clock is 11 s ahead", time.Minute, time.Minute, 71 * time.Second, false},
		{"the store's clock is a year ahead", time.Minute, time.Minute, 8760 * time.Hour, false},
	} {
		start := time.Now().Round(0)
		var passed, steady, store time.Duration
		var mu sync.Mutex
		read := func(d *time.Duration) time.Duration {
			mu.Lock()
			defer mu.Unlock()
			return *d
		}
		o := w.options()
		o.Clock = func() time.Time { return start.Add(read(&passed)) }
		o.Steady = func() time.Duration { return time.Hour + read(&steady) }
		l := w.ledger(Clocked(w.store, func() time.Time { return start.Add(read(&store)) }), o)
		mu.Lock()
		passed, steady, store = c.wall, c.steady, c.store
		mu.Unlock()
		s := w.wabbit.Claim(w, Image(1), SBOM, []byte(c.name))
		before := w.size()
		_, err := l.Append(w.ctx, Submission(l, s))
		if c.signs && err != nil || !c.signs && !errors.Is(err, ledger.ErrClock) {
			w.Errorf("%s: %v", c.name, err)
		}
		if ready := l.Ready(w.ctx); c.signs != (ready == nil) {
			w.Errorf("%s: ready %v", c.name, ready)
		}
		if size := w.size(); c.signs != (size == before+1) {
			w.Errorf("%s: size went from %d to %d", c.name, before, size)
		}
		if known := w.commitEarlier(l); known != nil {
			w.Errorf("%s: what is registered is not answered: %v", c.name, known)
		}
		w.close(l)
	}
	w.check()
}

// commitEarlier submits leaf 0 again: no clock is needed to answer it.
func (w *world) commitEarlier(l *ledger.Ledger) error {
	w.Helper()
	leaf0, err := w.store.Leaves(w.ctx, 0, 1)
	if err != nil {
		w.Fatal(err)
	}
	r, err := w.store.Record(w.ctx, leaf0[0], ledger.All)
	if err != nil {
		w.Fatal(err)
	}
	s, err := statement.Parse(r.Canonical)
	if err != nil {
		w.Fatal(err)
	}
	_, err = l.Append(w.ctx, ledger.Submission{Statement: s})
	return err
}

func timesNeverDecrease(w *world) {
	w.init()
	start := time.Now().UTC().Truncate(time.Second)
	var last time.Time
	// Each restart finds the clock somewhere else; up to 10 s back is tolerated.
	for i, at := range []time.Duration{time.Second, 8 * time.Second, 2 * time.Second, 9 * time.Second, 0} {
		clock := func() time.Time { return start.Add(at + 300*time.Millisecond) }
		o := w.options()
		o.Clock = clock
		l := w.ledger(Clocked(w.store, clock), o)
		r := Append(w, l, w.wabbit.Claim(w, Image(1), SBOM, fmt.Append(nil, i)))
		if r.Entry.RegisteredAt.Before(last) || r.Entry.RegisteredAt.Nanosecond() != 0 {
			w.Errorf("entry %d at %v, after one at %v", r.Entry.Index, r.Entry.RegisteredAt, last)
		}
		last = r.Entry.RegisteredAt
		w.close(l)
	}
	if want := start.Add(9 * time.Second); !last.Equal(want) {
		w.Errorf("last time %v, want %v", last, want)
	}
	clock := func() time.Time { return start.Add(-2 * time.Second) }
	o := w.options()
	o.Clock = clock
	l := w.ledger(Clocked(w.store, clock), o)
	if _, err := l.Append(w.ctx, Submission(l, w.wabbit.Claim(w, Image(1), SBOM, []byte("late")))); !errors.Is(err, ledger.ErrClock) {
		w.Errorf("11 s behind the last head: %v, want ErrClock", err)
	}
	w.check()
}
