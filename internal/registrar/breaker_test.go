package registrar

import (
	"testing"
	"time"
)

// start is when the breaker's clock begins.
var start = time.Date(2026, 11, 3, 12, 0, 0, 0, time.UTC)

// broken opens b by work that all began at the start.
func broken(b *breaker, extra int) {
	for range breaksAt + extra {
		b.trouble(start, start.Add(time.Second), 0)
	}
}

func TestABreakerOpensAfterTroubleInARowAndForAnAnswerCloses(t *testing.T) {
	var b breaker
	for range breaksAt - 1 {
		b.trouble(start, start, 0)
	}
	b.answered()
	for range breaksAt - 1 {
		b.trouble(start, start, 0)
	}
	if places, each := b.admits(start, 16, 3); places != 13 || each != perTurn || b.open() {
		t.Fatalf("with an answer in between it admits %d of %d, open %v", places, each, b.open())
	}
	b.trouble(start, start, 0)
	if places, _ := b.admits(start, 16, 0); places != 0 || !b.open() || b.passes(start) {
		t.Fatalf("after %d in a row it admits %d", breaksAt, places)
	}
	later := start.Add(maxProbe)
	if places, each := b.admits(later, 16, 0); places != 1 || each != 1 || !b.passes(later) {
		t.Errorf("as a probe it admits %d of %d", places, each)
	}
	if places, _ := b.admits(later, 16, 1); places != 0 {
		t.Errorf("beside a probe it admits %d", places)
	}
	b.answered()
	if places, _ := b.admits(start, 16, 0); places != 16 {
		t.Errorf("once it has an answer it admits %d", places)
	}
}

func TestWhatWasUnderWayWhenABreakerOpenedIsNoProbe(t *testing.T) {
	var b breaker
	broken(&b, 200)
	if b.troubles != breaksAt || b.until.After(start.Add(time.Second+firstProbe)) {
		t.Fatalf("after %d troubles it waits until %s", b.troubles, b.until)
	}
	for range 100 { // probes
		last := b.until
		b.trouble(last, last, 0)
		if wait := b.until.Sub(last); wait <= 0 || wait > maxProbe {
			t.Fatalf("the next probe comes after %s", wait)
		}
	}
}

func TestARegistryThatSaysWhenIsNotAskedBefore(t *testing.T) {
	for _, tt := range []struct{ asked, want time.Duration }{{7 * time.Second, 7 * time.Second}, {time.Hour, maxDelay}} {
		var b breaker
		b.trouble(start, start, tt.asked)
		b.answered() // by what was under way
		before, after := start.Add(tt.want-1), start.Add(tt.want)
		if places, _ := b.admits(before, 16, 0); places != 0 || b.passes(before) {
			t.Errorf("asked to come back after %s it admits %d sooner", tt.asked, places)
		}
		if places, _ := b.admits(after, 16, 0); places != 16 || !b.passes(after) {
			t.Errorf("asked to come back after %s it admits %d then", tt.asked, places)
		}
	}
}
