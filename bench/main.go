// Command bench measures what a registration costs, what reading costs, and how
// both grow: the scittd binary on a throw-away PostgreSQL, loaded over HTTP by
// another process, beside Tessera behind the same HTTP and verification. It
// prints Markdown. README.md says what is measured how, and why so.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options of a run.
type options struct {
	scittd  string
	repeats int
	window  time.Duration
	only    []string
	sizes   string // of the logs whose growth is measured
	small   int    // entries in the log when memory is read first
	large   int    // and when it is read last

	peerBatch time.Duration // how long Tessera gathers a batch
	json      string        // file
	profiles  string        // folder
}

// goalNames are those of -only, in the order of the report.
var goalNames = []string{"mem", "p1", "p2", "p3", "p5", "p6", "p7", "p8", "p9", "p10", "p11", "r1", "w3", "e1", "e2", "e3"}

// wants says whether one of the goals is asked for.
func (o options) wants(goals ...string) bool {
	return slices.ContainsFunc(goals, func(g string) bool { return slices.Contains(o.only, g) })
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout io.Writer) error {
	if len(args) == 1 { // the other processes
		switch args[0] {
		case "load":
			return load(stdin, stdout)
		case "peer":
			return peer(stdin, stdout)
		}
	}
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&o.scittd, "scittd", "../bin/scittd", "server `binary`")
	flags.IntVar(&o.repeats, "repeats", 5, "windows of each kind; medians are printed")
	flags.DurationVar(&o.window, "window", 5*time.Second, "length of a window, after its warm-up")
	flags.StringVar(&o.sizes, "sizes", "10000,100000,1000000", "entries of the logs whose growth is measured; 10000000 behind them takes an hour and 40 GB")
	flags.IntVar(&o.small, "small", 10000, "entries in the log when memory is read first")
	flags.IntVar(&o.large, "large", 100000, "entries in the log when memory is read last")
	flags.DurationVar(&o.peerBatch, "peer-batch", 5*time.Millisecond, "how long the peer gathers a batch")
	flags.StringVar(&o.json, "json", "", "`file` for every figure as JSON")
	flags.StringVar(&o.profiles, "profiles", "", "`folder` for CPU profiles of scittd, one for each kind of window; they cost a little themselves")
	only := flags.String("only", strings.Join(goalNames, ","), "`goals` to measure")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	o.only = strings.Split(*only, ",")
	for _, g := range o.only {
		if !slices.Contains(goalNames, g) {
			return fmt.Errorf("there is no goal %q, only %s", g, strings.Join(goalNames, ","))
		}
	}
	if o.repeats < 1 || o.window < 100*time.Millisecond || o.small < 64 || o.large <= o.small || flags.NArg() > 0 {
		return errors.New("repeats must be at least 1, a window 100 ms, small 64, large more than small; and flags are all there is")
	}
	return measure(ctx, o, stdout)
}
