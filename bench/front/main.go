// Command front measures what scittd costs where it stands in front of a
// registry, and how soon a claim's receipt is listed there:
//
//   - pull: CPU of a pull, of registry, scittd and client together, through the
//     front over without it, by a client that does the least and by one that
//     unpacks as container engines do; and the latency of a manifest;
//   - blob: a big blob pushed and pulled through the front, and what that does to
//     scittd's memory; the same with the embedded registry;
//   - lag: ten registrations a second, from 201 until the registry lists the
//     receipt.
//
// Registry, scittd and client share the cores, and everything is on loopback,
// where bytes cost nothing but CPU. Windows with and without the front take
// turns, and each turn begins with the other one.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

type options struct {
	scittd   string
	registry string // program of CNCF distribution
	only     string

	layers         int // of the image that is pulled
	rounds, pulls  int // windows of each kind, and pulls in one
	manifests      int // requests of each kind
	blob           int // MiB
	rate, register int // registrations a second, and in all
}

// Goals.
const (
	cpuAtMost      = 1.15                 // of a pull, over one without the front
	manifestWithin = time.Millisecond     // p50 over p50 without the front
	memoryAtMost   = 64 << 20             // growth
	listedWithin   = 2 * time.Second      // p99
	patience       = 30 * time.Second     // for a process to answer
	lookEvery      = 5 * time.Millisecond // whether a receipt is listed
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var o options
	flag.StringVar(&o.scittd, "scittd", "../bin/scittd", "binary under test")
	flag.StringVar(&o.registry, "registry", "docker-registry", "registry behind it: a program of CNCF distribution in PATH (registry is what v3 calls itself)")
	flag.StringVar(&o.only, "only", "pull,blob,lag", "what to measure")
	flag.IntVar(&o.layers, "layers", 5, "layers of the image that is pulled, each with the binary under test")
	flag.IntVar(&o.rounds, "rounds", 5, "windows of each kind")
	flag.IntVar(&o.pulls, "pulls", 8, "pulls in a window")
	flag.IntVar(&o.manifests, "manifests", 4000, "manifests of each kind")
	flag.IntVar(&o.blob, "blob", 300, "MiB of the big blob")
	flag.IntVar(&o.rate, "rate", 10, "registrations a second")
	flag.IntVar(&o.register, "register", 600, "registrations in all")
	flag.Parse()
	if err := run(ctx, o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "front:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options, out io.Writer) (err error) {
	if min(o.layers, o.rounds, o.pulls, o.manifests, o.blob, o.rate, o.register) < 1 {
		return errors.New("there is nothing to measure in none of it")
	}
	if o.scittd, err = filepath.Abs(o.scittd); err != nil {
		return err
	}
	b, err := start(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	fmt.Fprintf(out, "# In front of %s\n\n%d cores, load average %s, %s, on %s.\n",
		b.version, runtime.NumCPU(), loadAverage(), runtime.Version(), time.Now().UTC().Format(time.DateOnly))
	for _, part := range []struct {
		name string
		run  func(context.Context, io.Writer) error
	}{{"pull", b.measurePulls}, {"blob", b.measureBlobs}, {"lag", b.measureLag}} {
		if strings.Contains(o.only, part.name) {
			if err := part.run(ctx, out); err != nil {
				return fmt.Errorf("%s: %w", part.name, err)
			}
		}
	}
	fmt.Fprintf(out, "\n| goal | measured | |\n|---|---|---|\n%s", b.goals.String())
	if b.missed {
		return errors.New("a goal was missed")
	}
	return nil
}

// goal notes whether one was reached.
func (b *bench) goal(reached bool, asked, measured string, args ...any) {
	verdict := "PASS"
	if !reached {
		verdict, b.missed = "MISS", true
	}
	fmt.Fprintf(&b.goals, "| %s | %s | %s |\n", asked, fmt.Sprintf(measured, args...), verdict)
}

func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err.Error()
	}
	first, _, _ := strings.Cut(string(text), " ")
	return first
}
