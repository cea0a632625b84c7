// Command replicas measures what it costs to run several scittd on one database:
// the same load once on one process and once spread over several, in turns, on
// the same cores; and how long the others wait when the one that has the log
// locked is stopped. It prints Markdown with the goals and whether they are
// reached. scittd, PostgreSQL and this program, which makes the load, are
// processes of their own.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"time"
)

// Goals.
const (
	discardedAtMost = 0.01 // of all batches
	rateAtLeast     = 0.95 // of one process's
	spreadAtMost    = 2.0  // slowest replica's p99 over the fastest's
	stallAtMost     = 3 * time.Second
)

type options struct {
	scittd   string
	replicas int
	clients  int
	count    int // registrations of a window
	warm     int // registrations before it
	repeats  int
	stops    int
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var o options
	flag.StringVar(&o.scittd, "scittd", "../bin/scittd", "binary under test")
	flag.IntVar(&o.replicas, "replicas", 4, "processes that are held against one")
	flag.IntVar(&o.clients, "clients", 256, "requests in flight, all processes together")
	flag.IntVar(&o.count, "count", 12000, "registrations of a window")
	flag.IntVar(&o.warm, "warm", 1000, "registrations before it")
	flag.IntVar(&o.repeats, "repeats", 3, "windows of either kind")
	flag.IntVar(&o.stops, "stops", 3, "times that the holder of the lock is stopped")
	flag.Parse()
	if err := run(ctx, o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "replicas:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options, out io.Writer) (err error) {
	if o.replicas < 2 || o.clients < o.replicas || o.count < 1 || o.repeats < 1 || o.stops < 0 {
		return errors.New("a comparison needs two replicas, a client for each, and something to do")
	}
	b, err := start(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()

	var one, several []window
	for range o.repeats {
		for _, kind := range []struct {
			replicas int
			windows  *[]window
		}{{1, &one}, {o.replicas, &several}} {
			w, err := b.window(ctx, kind.replicas)
			if err != nil {
				return err
			}
			*kind.windows = append(*kind.windows, w)
		}
	}
	var stalls []time.Duration
	if o.stops > 0 {
		if stalls, err = b.stall(ctx); err != nil {
			return err
		}
	}
	report(out, o, b, one, several, stalls)
	return nil
}

func report(out io.Writer, o options, b *bench, one, several []window, stalls []time.Duration) {
	fmt.Fprintf(out, "# Replicas\n\n%d cores, %s, %s, synchronous_commit=%s. %d clients, %d registrations a window after %d, windows take turns.\n\n",
		runtime.NumCPU(), runtime.Version(), "PostgreSQL "+b.Setting("server_version"), b.Setting("synchronous_commit"), o.clients, o.count, o.warm)
	fmt.Fprintln(out, "| processes | registrations/s | p50 | p99 of each | batches | entries a batch | discarded | in turn |\n|---|---|---|---|---|---|---|---|")
	for i := range one {
		for _, w := range []window{one[i], several[i]} {
			fmt.Fprintf(out, "| %d | %.0f | %s | %s | %d | %.1f | %d | %d |\n", len(w.p99), w.rate, round(w.p50), rounded(w.p99),
				w.committed, w.perBatch(), w.discarded, w.turns)
		}
	}
	fmt.Fprintln(out, "\n| goal | measured | |\n|---|---|---|")
	rate := median(rates(several)) / median(rates(one))
	goal(out, rate >= rateAtLeast, "%d processes' rate ≥ %.2f of one's", "%.2f", o.replicas, rateAtLeast, rate)
	var discarded, batches, spread float64
	for _, w := range several {
		discarded, batches = discarded+float64(w.discarded), batches+float64(w.committed+w.discarded)
	}
	goal(out, discarded/batches <= discardedAtMost, "batches discarded of %.0f ≤ %.0f %%", "%.2f %%", batches, 100*discardedAtMost, 100*discarded/batches)
	var spreads []float64
	for _, w := range several {
		spreads = append(spreads, float64(slices.Max(w.p99))/float64(slices.Min(w.p99)))
	}
	spread = median(spreads)
	goal(out, spread <= spreadAtMost, "p99 of the slowest of %d ≤ %.0f of the fastest's", "%.2f", o.replicas, spreadAtMost, spread)
	if len(stalls) > 0 {
		worst := slices.Max(stalls)
		goal(out, worst <= stallAtMost, "others wait for a stopped holder, worst of %d, ≤ %.0f s", "%.2f s", len(stalls), stallAtMost.Seconds(), worst.Seconds())
	}
}

// goal prints a row: what is asked, with its arguments, and the last one measured.
func goal(out io.Writer, reached bool, asked, measured string, args ...any) {
	verdict := "MISS"
	if reached {
		verdict = "PASS"
	}
	last := len(args) - 1
	fmt.Fprintf(out, "| %s | %s | %s |\n", fmt.Sprintf(asked, args[:last]...), fmt.Sprintf(measured, args[last]), verdict)
}

func rates(windows []window) (all []float64) {
	for _, w := range windows {
		all = append(all, w.rate)
	}
	return all
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

func round(d time.Duration) string { return d.Round(100 * time.Microsecond).String() }

func rounded(all []time.Duration) (text string) {
	for i, d := range all {
		if i > 0 {
			text += ", "
		}
		text += round(d)
	}
	return text
}
