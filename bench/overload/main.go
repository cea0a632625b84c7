// Command overload offers one scittd on PostgreSQL more than it can take, and
// measures what the others are told and what those who got in wait for: how
// fast a refusal comes, what accepted work waits for against a load of 80 % of
// capacity, and the service's memory before, during and after.
//
// The load is an open loop: requests are due at moments that are drawn before
// the window begins, whatever becomes of those before. Each is timed twice, from
// when it was due and from when it was sent; the difference is the generator's
// own. It speaks HTTP/1.1 by hand over connections that stay, since it has to
// make ten times the load on the cores that it shares with scittd and
// PostgreSQL. What is refused is sent again later, and an answer that is neither
// a registration nor a refusal with Retry-After voids the run.
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
	"strings"
	"time"
)

// Goals.
const (
	refusedWithin = 50 * time.Millisecond // p99, from when it was sent
	memoryAtMost  = 512 << 20
	goodputLeast  = 0.9 // of capacity
)

type options struct {
	scittd      string
	window      time.Duration
	clients     int // of the closed loop that measures capacity
	bulk        int // statements of one request
	bulkClients int
	factors     []float64
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	o := options{factors: []float64{2, 10}}
	flag.StringVar(&o.scittd, "scittd", "../bin/scittd", "binary under test")
	flag.DurationVar(&o.window, "window", 8*time.Second, "length of a measurement")
	flag.IntVar(&o.clients, "clients", 256, "requests in flight while capacity is measured")
	flag.IntVar(&o.bulk, "bulk", 64, "statements of a request of bulk registration")
	flag.IntVar(&o.bulkClients, "bulk-clients", 16, "such requests in flight while capacity is measured")
	flag.Parse()
	if err := run(ctx, o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "overload:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options, out io.Writer) (err error) {
	if o.window < 100*time.Millisecond || o.clients < 1 || o.bulk < 2 || o.bulkClients < 1 {
		return errors.New("a measurement needs time, clients, and a bulk of two")
	}
	s, err := start(ctx, o.scittd)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	fmt.Fprintf(out, "# Overload\n\n%d cores for scittd, PostgreSQL and the load generator, load average %s, %s, %s, synchronous_commit=%s; windows of %s, statements of %d bytes.\n",
		runtime.NumCPU(), loadAverage(), runtime.Version(), "PostgreSQL "+s.Setting("server_version"), s.Setting("synchronous_commit"), o.window, statementB)
	for _, shape := range []struct{ items, clients int }{{1, o.clients}, {o.bulk, o.bulkClients}} {
		if err := measure(ctx, s, o, shape.items, shape.clients, out); err != nil {
			return err
		}
	}
	return nil
}

// measure is one table: capacity, 80 % of it, more than it, and 80 % again.
func measure(ctx context.Context, s *service, o options, items, clients int, out io.Writer) error {
	fmt.Fprintf(out, "\n## %d statement(s) a request\n\n%s", items, tableHead)
	show := func(name string, w *window, base *window) {
		fmt.Fprintf(out, "| %s | %s |\n", name, strings.Join(w.cells(base), " | "))
	}
	guess, err := s.closedLoop(ctx, items, clients, o.window/4, 4000)
	if err != nil {
		return err
	}
	most, err := s.closedLoop(ctx, items, clients, o.window, guess.accepted())
	if err != nil {
		return err
	}
	capacity := most.accepted()
	show(fmt.Sprintf("%d clients", clients), most, nil)
	base, err := s.openLoop(ctx, items, 0.8*capacity, o.window, capacity)
	if err != nil {
		return err
	}
	show("80 %", base, nil)
	var over []*window
	for _, f := range o.factors {
		w, err := s.openLoop(ctx, items, f*capacity, o.window, capacity)
		if err != nil {
			return err
		}
		over = append(over, w)
		show(fmt.Sprintf("%.0f ×", f), w, base)
	}
	after, err := s.openLoop(ctx, items, 0.8*capacity, o.window, capacity)
	if err != nil {
		return err
	}
	show("80 % after", after, base)

	last := over[len(over)-1]
	registering := base.serverCPU.Seconds() / float64(len(base.acceptedSent)+len(base.refusedSent))
	refusing := (last.serverCPU.Seconds() - registering*float64(len(last.acceptedSent))) / float64(max(1, len(last.refusedSent)))
	fmt.Fprintf(out, "\nOf scittd's CPU a request that is registered takes %.0f µs, one that is refused at %.0f × %.0f µs.\n",
		1e6*registering, o.factors[len(over)-1], 1e6*refusing)
	fmt.Fprintln(out, "\n| goal | measured | |\n|---|---|---|")
	for i, w := range over {
		goal(out, len(w.refusedSent) > 0 && quantile(w.refusedSent, 0.99) <= refusedWithin,
			fmt.Sprintf("refusals at %.0f ×, p99 from when they were sent ≤ %s", o.factors[i], refusedWithin), round(quantile(w.refusedSent, 0.99)))
		goal(out, w.accepted() >= goodputLeast*capacity,
			fmt.Sprintf("accepted at %.0f × ≥ %.1f of capacity", o.factors[i], goodputLeast), fmt.Sprintf("%.2f", w.accepted()/capacity))
		goal(out, w.memory.most <= memoryAtMost,
			fmt.Sprintf("memory at %.0f × ≤ %d MiB", o.factors[i], memoryAtMost>>20), fmt.Sprintf("%d MiB", w.memory.most>>20))
	}
	return nil
}

func goal(out io.Writer, reached bool, asked, measured string) {
	verdict := "MISS"
	if reached {
		verdict = "PASS"
	}
	fmt.Fprintf(out, "| %s | %s | %s |\n", asked, measured, verdict)
}

const tableHead = `| load | due/s | sent/s | accepted/s | refused/s | refusal p50, p99 from due | from sent | accepted p50, p99 from due | from sent | p99 over 80 % | memory median, most | scittd CPU | generator CPU |
|---|---|---|---|---|---|---|---|---|---|---|---|---|
`

// cells are a row: rates count statements, times are those of requests. base is
// the window whose accepted work p99 is held against; nil: none.
func (w *window) cells(base *window) []string {
	over := "-"
	if base != nil {
		over = fmt.Sprintf("%.1f", float64(quantile(w.acceptedDue, 0.99))/float64(quantile(base.acceptedDue, 0.99)))
	}
	due := "-"
	if w.due > 0 {
		due = fmt.Sprintf("%.0f", w.due)
	}
	per := func(n int) string { return fmt.Sprintf("%.0f", float64(n)/w.took.Seconds()) }
	return []string{
		due, per(w.sent), per(w.registered), per(w.refused),
		pair(w.refusedDue), pair(w.refusedSent), pair(w.acceptedDue), pair(w.acceptedSent), over,
		fmt.Sprintf("%d, %d MiB", w.memory.median>>20, w.memory.most>>20),
		fmt.Sprintf("%.2f", w.serverCPU.Seconds()/w.took.Seconds()), fmt.Sprintf("%.2f", w.ownCPU.Seconds()/w.took.Seconds()),
	}
}

func pair(v []time.Duration) string {
	if len(v) == 0 {
		return "-"
	}
	return round(quantile(v, 0.50)) + ", " + round(quantile(v, 0.99))
}

func round(d time.Duration) string { return d.Round(100 * time.Microsecond).String() }
