package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"
)

// The goals of this stage.
const (
	minVerifyShare = 0.30 // of the CPU of a registration, 64 clients
	minBulkShare   = 0.50 // the same, bulk registration
	maxFdatasyncs  = 3.0  // p50 of a registration, 1 client
	maxGrowth      = 1.2  // resident memory, large log over small log
)

// slowFlush is added to every flush of PostgreSQL's log for the windows that
// show what one client waits for on a disk whose sync takes time. Where it
// takes a tenth of a millisecond, p50 counts CPU, not syncs.
const slowFlush = 1200 * time.Microsecond

// Bulk registration is measured with so many clients, and so many statements to
// a request.
const (
	bulkClients = 8
	perRequest  = 64
)

func measure(ctx context.Context, o options, out io.Writer) (err error) {
	b, err := start(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	header(out, b)

	// Up to the small log, as warm-up: with the load that later fills the
	// large one, so that both readings see a heap that has worked as hard.
	if _, err := b.load(ctx, 64, 0, max(64, o.small-b.entries)); err != nil {
		return err
	}
	small, smallAt, err := b.memory()
	if err != nil {
		return err
	}
	var single, slow, many, bulk []window
	for range o.repeats { // interleaved: what else the machine does meets both
		w, err := b.load(ctx, 1, 0, o.single)
		if err != nil {
			return err
		}
		single = append(single, w)
		if w, err = b.loadSlowly(ctx, slowFlush, o.single); err != nil {
			return err
		}
		slow = append(slow, w)
		if w, err = b.load(ctx, 64, 0, o.many); err != nil {
			return err
		}
		many = append(many, w)
	}
	if b.entries < o.large {
		if _, err := b.load(ctx, 64, 0, o.large-b.entries); err != nil {
			return err
		}
	}
	large, largeAt, err := b.memory()
	if err != nil {
		return err
	}
	// Batches last: their larger heap says nothing about the size of the log.
	for range o.repeats {
		w, err := b.load(ctx, bulkClients, perRequest, o.many)
		if err != nil {
			return err
		}
		bulk = append(bulk, w)
	}

	fmt.Fprintf(out, "| clients | registrations/s | p50 | p99 | server CPU | PostgreSQL CPU | hot ES256 verify | share of verification |\n")
	fmt.Fprintf(out, "|---|---|---|---|---|---|---|---|\n")
	row(out, "1", single)
	row(out, fmt.Sprintf("1, log flushes %s longer", micros(slowFlush)), slow)
	row(out, "64", many)
	row(out, fmt.Sprintf("%d, %d to a request", bulkClients, perRequest), bulk)
	fmt.Fprintf(out, "\nMedians of %d windows each: %d registrations with 1 client, %d with more. CPU is per registration, p50 and p99 are of a request.\n\n",
		o.repeats, o.single, o.many)

	share := of(many, window.verifyShare)
	syncs, slowSyncs := of(single, window.syncs), of(slow, window.syncs)
	growth := float64(large) / float64(small)
	fmt.Fprintf(out, "| goal | is | must | |\n|---|---|---|---|\n")
	goal(out, "share of verification in the CPU of a registration, 64 clients", share, "≥", minVerifyShare, share >= minVerifyShare)
	bulkShare := of(bulk, window.verifyShare)
	goal(out, fmt.Sprintf("the same, %d clients with %d to a request", bulkClients, perRequest), bulkShare, "≥", minBulkShare, bulkShare >= minBulkShare)
	goal(out, fmt.Sprintf("p50 with 1 client, in fdatasyncs (8 KB: %s)", micros(of(single, func(w window) time.Duration { return w.fdatasync }))),
		syncs, "≤", maxFdatasyncs, syncs <= maxFdatasyncs)
	goal(out, fmt.Sprintf("the same, log flushes %s longer (%s)", micros(slowFlush), micros(of(slow, func(w window) time.Duration { return w.fdatasync }))),
		slowSyncs, "≤", maxFdatasyncs, slowSyncs <= maxFdatasyncs)
	goal(out, fmt.Sprintf("server memory at %d entries (%s) over that at %d (%s)", largeAt, mebi(large), smallAt, mebi(small)),
		growth, "≤", maxGrowth, growth <= maxGrowth)
	return nil
}

// memory is the server's resident memory now, and how long the log is.
func (b *bench) memory() (bytes int64, entries int, err error) {
	bytes, err = rss(b.server.Process.Pid)
	return bytes, b.entries, err
}

func header(out io.Writer, b *bench) {
	fmt.Fprintf(out, "# scittd bench, %s\n\n", time.Now().UTC().Format(time.RFC3339))
	fmt.Fprintf(out, "- CPU: %s, %d cores, load average %s\n", cpuModel(), runtime.NumCPU(), loadAverage())
	fmt.Fprintf(out, "- %s %s/%s, kernel %s\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, firstLine("/proc/sys/kernel/osrelease"))
	var settings []string
	for _, s := range b.settings {
		settings = append(settings, s[0]+"="+s[1])
	}
	fmt.Fprintf(out, "- PostgreSQL on loopback: %s\n", strings.Join(settings, ", "))
	fmt.Fprintf(out, "- statements of %d bytes, attached, ES256; %d issuers with pinned keys, %d statements a subject, %d media types; a policy in force, one bearer token, nothing placed\n\n",
		statementB, issuers, perSubject, mediaTypes)
}

func row(out io.Writer, clients string, w []window) {
	fmt.Fprintf(out, "| %s | %.0f | %s | %s | %s | %s | %s | %.2f |\n", clients, of(w, window.rate),
		micros(of(w, func(w window) time.Duration { return w.P50 })),
		micros(of(w, func(w window) time.Duration { return w.P99 })),
		micros(of(w, func(w window) time.Duration { return w.perEntry(w.server) })),
		micros(of(w, func(w window) time.Duration { return w.perEntry(w.postgres) })),
		micros(of(w, func(w window) time.Duration { return w.Verify })),
		of(w, window.verifyShare))
}

func goal(out io.Writer, what string, is float64, relation string, must float64, met bool) {
	verdict := "PASS"
	if !met {
		verdict = "MISS"
	}
	fmt.Fprintf(out, "| %s | %.2f | %s %.2f | %s |\n", what, is, relation, must, verdict)
}

// of is the median over windows.
func of[T time.Duration | float64](windows []window, f func(window) T) T {
	var all []T
	for _, w := range windows {
		all = append(all, f(w))
	}
	return median(all)
}

func micros(d time.Duration) string {
	if d >= 10*time.Millisecond {
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	}
	return fmt.Sprintf("%d µs", d.Microseconds())
}

func mebi(bytes int64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }

func firstLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return line
}

func loadAverage() string {
	return strings.Join(strings.Fields(firstLine("/proc/loadavg"))[:1], "")
}

func cpuModel() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}
