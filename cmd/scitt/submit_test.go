package main

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/scittd/scittd/client"
)

func TestTheExitCodeOfManyIsThatOfTheWorst(t *testing.T) {
	problem := func(status int, title string) error {
		p := &client.Problem{}
		p.Status, p.Title = status, title
		return p
	}
	lost, timeout, wrong := errors.New("connection reset"), fail(exitTimeout, "time ran out"), usage("no statement")
	refused, denied, invalid := problem(400, "Rejected"), problem(403, "Forbidden"), fail(exitInvalid, "bad receipt")
	for _, c := range []struct {
		failures []error
		want     int
	}{
		{[]error{lost}, 1},
		{[]error{lost, timeout}, 17},
		{[]error{timeout, wrong, lost}, 2},
		{[]error{wrong, denied}, 4},
		{[]error{denied, invalid, wrong}, 12},
		{[]error{invalid, refused, lost}, 16},
	} {
		for range c.failures { // in any order
			c.failures = append(c.failures[1:], c.failures[0])
			if got := worst(c.failures); got != c.want {
				t.Errorf("%v: exit code %d, want %d", c.failures, got, c.want)
			}
		}
	}
}

func TestManyFilesShowHowManyAreDone(t *testing.T) {
	clock := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	var lines []string
	cleared := 0
	c := &counter{
		total: 40, every: 10 * time.Second, line: func(text string) { lines = append(lines, text) }, clear: func() { cleared++ },
		now: func() time.Time { return clock }, started: clock,
	}
	c.show(0)
	for n := range 40 { // one a second
		clock = clock.Add(time.Second)
		c.add(n != 10)
	}
	c.close()
	want := []string{
		"0 of 40 statements",
		"10 of 40 statements  1/s  30s left",
		"20 of 40 statements, 1 failed  1/s  20s left",
		"30 of 40 statements, 1 failed  1/s  10s left",
		"40 of 40 statements, 1 failed  1/s  0s left",
		"40 of 40 statements, 1 failed  1/s  0s left",
	}
	if !slices.Equal(lines, want) || cleared != 1 {
		t.Errorf("showed %q and cleared %d times, want %q, once", lines, cleared, want)
	}
	(&counter{total: 1, now: time.Now, clear: func() {}}).close() // shows nothing, and survives it
}
