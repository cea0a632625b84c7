// Command bench measures what a registration costs: the scittd binary on a
// throw-away PostgreSQL, loaded over HTTP by a third process. It prints
// Markdown. README.md says what is measured how, and why so.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options of a run. Sizes are in registrations, not seconds, so that two runs
// put the same load on the same log.
type options struct {
	scittd  string
	repeats int
	single  int // registrations of a window with one client
	many    int // of a window with 64, and of one with bulk registration
	small   int // entries in the log when memory is read first
	large   int // and when it is read last
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout io.Writer) error {
	if len(args) == 1 && args[0] == "load" { // the other process
		return load(stdin, stdout)
	}
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&o.scittd, "scittd", "../bin/scittd", "server `binary`")
	flags.IntVar(&o.repeats, "repeats", 3, "windows of each kind; medians are printed")
	flags.IntVar(&o.single, "single", 1500, "registrations in a window with 1 client")
	flags.IntVar(&o.many, "many", 20000, "registrations in a window with 64 clients, and in one with bulk registration")
	flags.IntVar(&o.small, "small", 10000, "entries in the log when memory is read first")
	flags.IntVar(&o.large, "large", 100000, "entries in the log when memory is read last")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if o.repeats < 1 || o.single < 1 || o.many < 64 || o.small < 1 || o.large <= o.small {
		return errors.New("repeats, single and small must be at least 1, many at least 64, large more than small")
	}
	return measure(ctx, o, stdout)
}
