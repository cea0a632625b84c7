package fetch_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/scittd/scittd/internal/fetch"
)

// editions answers with a new document each time: 1, 2, 3.
func editions() http.HandlerFunc {
	var n atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) { answering(fmt.Sprint(n.Add(1)))(w, r) }
}

func TestADocumentIsRememberedForItsAge(t *testing.T) {
	w := open(t, editions(), func(o *fetch.Options) { o.MaxAge = time.Minute })
	for _, step := range []struct {
		after time.Duration
		want  string
	}{{0, "1"}, {59 * time.Second, "1"}, {time.Second, "2"}, {time.Minute, "3"}} {
		w.clock.advance(step.after)
		if page, err := w.get(t, "/x"); err != nil || string(page.Body) != step.want {
			t.Errorf("after %s: %q, %v; want %q", step.after, page.Body, err, step.want)
		}
	}
}

func TestAFailureIsRememberedForHalfAMinute(t *testing.T) {
	var up atomic.Bool
	w := open(t, func(rw http.ResponseWriter, r *http.Request) {
		if !up.Load() {
			rw.WriteHeader(http.StatusNotFound)
			return
		}
		answering("{}")(rw, r)
	}, nil)
	for range 100 {
		if _, err := w.get(t, "/x"); !errors.Is(err, fetch.ErrAnswer) {
			t.Fatalf("%v, want ErrAnswer", err)
		}
	}
	up.Store(true)
	w.clock.advance(29 * time.Second)
	if _, err := w.get(t, "/x"); !errors.Is(err, fetch.ErrAnswer) {
		t.Errorf("after 29 s: %v, want ErrAnswer", err)
	}
	w.clock.advance(time.Second)
	if _, err := w.get(t, "/x"); err != nil {
		t.Errorf("after 30 s: %v", err)
	}
	if n := w.hits.Load(); n != 2 {
		t.Errorf("%d requests, want 2", n)
	}
}

func TestWhatWasLackingIsAskedForOnceMoreAndThenNotForHalfAMinute(t *testing.T) {
	w := open(t, editions(), func(o *fetch.Options) { o.MaxAge = time.Hour })
	seen, err := w.get(t, "/x")
	if err != nil {
		t.Fatal(err)
	}
	again := func(want string) fetch.Page {
		t.Helper()
		page, err := w.fetcher.Again(t.Context(), seen, w.url+"/x", "application/json")
		if err != nil || string(page.Body) != want {
			t.Errorf("again after edition %s: %q, %v; want %q", seen.Body, page.Body, err, want)
		}
		return page
	}
	w.clock.advance(time.Second)
	newer := again("2")
	again("2") // who has the old one is given what is there by now
	seen = newer
	for range 100 {
		again("2") // no key that is asked for makes it ask more often
	}
	w.clock.advance(30 * time.Second)
	again("3")
	if n := w.hits.Load(); n != 3 {
		t.Errorf("%d requests, want 3", n)
	}
}

func TestAFailedRefreshSaysSoAndLeavesWhatIsRemembered(t *testing.T) {
	var down atomic.Bool
	serve := editions()
	w := open(t, func(rw http.ResponseWriter, r *http.Request) {
		if down.Load() {
			rw.WriteHeader(http.StatusBadGateway)
			return
		}
		serve(rw, r)
	}, nil)
	seen, err := w.get(t, "/x")
	if err != nil {
		t.Fatal(err)
	}
	down.Store(true)
	w.clock.advance(time.Second)
	for range 3 {
		if _, err := w.fetcher.Again(t.Context(), seen, w.url+"/x", "application/json"); !errors.Is(err, fetch.ErrUnavailable) {
			t.Errorf("again: %v, want ErrUnavailable", err)
		}
	}
	if page, err := w.get(t, "/x"); err != nil || string(page.Body) != "1" {
		t.Errorf("%q, %v; want what is remembered", page.Body, err)
	}
	if n := w.hits.Load(); n != 2 {
		t.Errorf("%d requests, want 2", n)
	}
}

func TestManyWhoWaitForOneURLMakeOneRequest(t *testing.T) {
	release := make(chan struct{})
	w := open(t, func(rw http.ResponseWriter, r *http.Request) {
		<-release
		answering("{}")(rw, r)
	}, nil)
	// One gives up; the request it began goes on for the others.
	gone, leave := context.WithCancel(t.Context())
	leave()
	if _, err := w.fetcher.Get(gone, w.url+"/x", "application/json"); !errors.Is(err, fetch.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("who gave up: %v", err)
	}
	var waiting sync.WaitGroup
	for range 50 {
		waiting.Go(func() {
			if page, err := w.get(t, "/x"); err != nil || string(page.Body) != "{}" {
				t.Errorf("%q, %v", page.Body, err)
			}
		})
	}
	close(release)
	waiting.Wait()
	if n := w.hits.Load(); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}

func TestASlowHostDoesNotDelayAnother(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	w := open(t, func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			select {
			case <-hang:
			case <-r.Context().Done():
			}
			return
		}
		answering("{}")(rw, r)
	}, nil)
	slow, leave := context.WithCancel(t.Context())
	leave()
	w.fetcher.Get(slow, w.url+"/slow", "application/json")
	if _, err := w.get(t, "/quick"); err != nil {
		t.Error(err)
	}
}

func TestWhatIsRememberedIsBounded(t *testing.T) {
	w := open(t, answering("{}"), func(o *fetch.Options) { o.MaxAge = 24 * time.Hour })
	first := "/0"
	if _, err := w.get(t, first); err != nil {
		t.Fatal(err)
	}
	// URLs that are never asked for want of a host cost nothing.
	for i := range 5000 {
		w.fetcher.Get(t.Context(), fmt.Sprintf("https://host-%d.example.com:9/", i), "application/json")
	}
	before := w.hits.Load()
	if _, err := w.get(t, first); err != nil || w.hits.Load() != before {
		t.Errorf("forgotten for URLs that were not asked: %v", err)
	}
	w.clock.advance(time.Minute)
	for i := range 1024 { // one more than there are places
		if _, err := w.get(t, fmt.Sprintf("/%d", i+1)); err != nil {
			t.Fatal(err)
		}
	}
	before = w.hits.Load()
	if _, err := w.get(t, first); err != nil || w.hits.Load() != before+1 {
		t.Errorf("%v, %d more requests; want the oldest to be forgotten", err, w.hits.Load()-before)
	}
}
