package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"
)

// sized is a log of one size, as growth -json describes it.
type sized struct {
	Entries        uint64
	AllIn, Bounded float64 // bytes
	P50, P99       map[string]time.Duration
}

// growth runs the program of that name, which asks the store itself, and draws
// the ratios of its largest log over its smallest.
func (m *measurement) growth(ctx context.Context) error {
	file := filepath.Join(m.bench.Dir, "growth.json")
	cmd := exec.CommandContext(ctx, "go", "run", "./growth", "-sizes", m.sizes, "-json", file)
	cmd.Stderr = os.Stderr
	printed, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("go run ./growth: %w", err)
	}
	m.printf("#%s\n", printed) // one level further down
	if m.Growth, err = os.ReadFile(file); err != nil {
		return err
	}
	var at []sized
	if err := json.Unmarshal(m.Growth, &at); err != nil {
		return err
	}
	small, large := at[0], at[len(at)-1]
	over := func(p func(sized) map[string]time.Duration, what ...string) (most float64) {
		for _, w := range what {
			most = max(most, ratio(p(large)[w], p(small)[w]))
		}
		return most
	}
	var pages []string
	for what := range small.P50 {
		if !slices.Contains([]string{"record", "inclusion proof", "start-up"}, what) {
			pages = append(pages, what)
		}
	}
	p50 := func(s sized) map[string]time.Duration { return s.P50 }
	p99 := func(s sized) map[string]time.Duration { return s.P99 }
	sizes := fmt.Sprintf("%d entries over %d", large.Entries, small.Entries)
	if m.wants("p7") {
		m.atMost("P7", large.Bounded, 700, 500, "bytes an entry beyond its statement at %d entries, without deliveries and audit (all in: %.0f)", large.Entries, large.AllIn)
	}
	if m.wants("p8") {
		m.atMost("P8", over(p50, pages...), 3, 0, "p50 of a page of entries, worst kind, %s", sizes)
		m.atMost("P8", over(p99, pages...), 0, 3, "p99 of the same")
	}
	if m.wants("p9") {
		m.atMost("P9", over(p50, "inclusion proof"), 2.5, 1.5, "p50 of an inclusion proof (%s), %s", micros(large.P50["inclusion proof"]), sizes)
	}
	if m.wants("p10") {
		m.atMost("P10", over(p50, "start-up"), 2, 0, "start-up, %s", sizes)
		m.atMost("P10", float64(large.P50["start-up"].Microseconds())/1000, 0, 100, "start-up in ms at %d entries", large.Entries)
	}
	return nil
}
