package fetch

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
)

// Bounds of what is remembered, and of how often one URL is asked again.
const (
	maxPlaces = 1024
	maxBytes  = 64 << 20
	pause     = 30 * time.Second // after a failure, and between two calls of Again
)

// seat is what is asked for: a URL, and the types that will do.
type seat struct{ url, accept string }

// place is what is known of a seat.
type place struct {
	page      Page      // the last that was got
	err       error     // of the last try; nil: it succeeded
	tried     time.Time // when that ended; zero: there was none
	refreshed time.Time // when Again last made a request
	request   *request  // under way, or nil
}

// request is one under way. page and err are there once done is closed.
type request struct {
	done chan struct{}
	page Page
	err  error
}

// shelf remembers. Its mutex is never held while anything is waited for.
type shelf struct {
	maxAge time.Duration
	mu     sync.Mutex
	seats  map[seat]*place
	bytes  int
}

// Get returns the document at url, whose type is one of types (in lower case,
// without parameters): as it was at most Options.MaxAge ago.
//
// A caller whose ctx ends gets ErrUnavailable; the request it waited for goes on.
func (f *Fetcher) Get(ctx context.Context, url string, types ...string) (Page, error) {
	return f.get(ctx, url, types, func(p *place, now time.Time) (bool, error) {
		switch {
		case !p.page.At.IsZero() && now.Sub(p.page.At) < f.shelf.maxAge:
			return true, nil
		case p.err != nil && now.Sub(p.tried) < pause:
			return true, p.err
		}
		return false, nil
	})
}

// Again returns a document that is newer than seen, a page of Get or Again that
// lacked what was looked for; or seen, when the same URL was asked again for such
// a reason less than half a minute ago.
func (f *Fetcher) Again(ctx context.Context, seen Page, url string, types ...string) (Page, error) {
	page, err := f.get(ctx, url, types, func(p *place, now time.Time) (bool, error) {
		switch {
		case p.page.At.After(seen.At):
			return true, nil
		case p.err != nil && now.Sub(p.tried) < pause:
			return true, p.err
		case !p.refreshed.IsZero() && now.Sub(p.refreshed) < pause:
			return true, nil
		}
		p.refreshed = now
		return false, nil
	})
	if err == nil && !page.At.After(seen.At) {
		return seen, nil
	}
	return page, err
}

// get answers from what is known, if that will do, else with what the one request
// for it brings.
func (f *Fetcher) get(ctx context.Context, url string, types []string, known func(*place, time.Time) (bool, error)) (Page, error) {
	if err := f.admit(url); err != nil {
		return Page{}, err
	}
	s := seat{url, strings.Join(types, ", ")}
	f.shelf.mu.Lock()
	p := f.shelf.at(s)
	r := p.request
	if r == nil {
		if ok, err := known(p, f.clock()); ok {
			defer f.shelf.mu.Unlock()
			if err != nil {
				return Page{}, err
			}
			return p.page, nil
		}
		r = &request{done: make(chan struct{})}
		p.request = r
		f.requests.Go(func() { f.run(s, p, r) })
	}
	f.shelf.mu.Unlock()
	select {
	case <-r.done:
		return r.page, r.err
	case <-ctx.Done():
		return Page{}, &failure{kind: ErrUnavailable, url: url, found: fmt.Sprintf("was not waited for: %v", ctx.Err()), cause: ctx.Err()}
	}
}

// run makes the request and puts what came of it on the shelf.
func (f *Fetcher) run(s seat, p *place, r *request) {
	r.page, r.err = f.ask(f.life, s)
	f.shelf.mu.Lock()
	defer f.shelf.mu.Unlock()
	p.request, p.err, p.tried = nil, r.err, f.clock()
	if r.err == nil {
		f.shelf.bytes += len(r.page.Body) - len(p.page.Body)
		p.page = r.page
		f.shelf.trim(s)
	}
	close(r.done)
}

// at returns the place of s, making room for a new one.
func (sh *shelf) at(s seat) *place {
	p, ok := sh.seats[s]
	if !ok {
		p = &place{}
		sh.seats[s] = p
		sh.trim(s)
	}
	return p
}

// trim forgets what was tried longest ago, until the rest fits. What is under way
// stays, and so does keep.
func (sh *shelf) trim(keep seat) {
	for len(sh.seats) > maxPlaces || sh.bytes > maxBytes {
		var oldest seat
		var since time.Time
		for s, p := range sh.seats {
			if s != keep && p.request == nil && (oldest == seat{} || p.tried.Before(since)) {
				oldest, since = s, p.tried
			}
		}
		if oldest == (seat{}) {
			return
		}
		sh.bytes -= len(sh.seats[oldest].page.Body)
		delete(sh.seats, oldest)
	}
}
