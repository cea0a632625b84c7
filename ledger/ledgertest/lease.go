package ledgertest

import "time"

var leaseTests = []test{
	{"work is leased to one owner at a time, until its time is up or it is given back", oneOwner},
}

func oneOwner(w *world) {
	for _, c := range []struct {
		work, owner string
		d           time.Duration
		want        bool
	}{
		{"sweep", "a", time.Hour, true},
		{"sweep", "b", time.Hour, false},
		{"sweep", "b", 0, false},
		{"bake", "b", time.Hour, true}, // other work
		{"sweep", "a", time.Hour, true},
		{"sweep", "b", time.Hour, false},
		{"sweep", "a", 0, true}, // given back
		{"sweep", "b", time.Nanosecond, true},
		{"sweep", "a", time.Hour, true}, // its time is up
		{"sweep", "b", time.Hour, false},
		{"bake", "a", time.Hour, false},
	} {
		if got, err := w.store.Lease(w.ctx, c.work, c.owner, c.d); err != nil || got != c.want {
			w.Errorf("lease %s to %s for %v: %v, %v; want %v", c.work, c.owner, c.d, got, err, c.want)
		}
	}
}
