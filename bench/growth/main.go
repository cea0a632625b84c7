// Command growth shows what a log's size costs: bytes on disk table by table,
// CPU of a commit, queries, inclusion proofs and start-up at several sizes.
//
// It fills a throw-away PostgreSQL through the real Store.Commit, with entries
// that nobody has verified, and prints Markdown. Times are of one process on an
// idle log: they say how one size compares with another.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"strings"

	"github.com/scittd/scittd/internal/testenv"
	"github.com/scittd/scittd/ledger/postgres"
)

type options struct {
	sizes  []uint64
	batch  int
	bytes  int
	placed bool
	probes int
	json   string
}

func main() {
	var o options
	flag.IntVar(&o.batch, "batch", 30, "entries of a commit")
	flag.IntVar(&o.bytes, "statement", 2000, "bytes of a statement")
	flag.BoolVar(&o.placed, "deliveries", false, "two queued deliveries to every entry")
	flag.IntVar(&o.probes, "probes", 300, "runs of each query and proof, 0: measure bytes and CPU alone")
	flag.StringVar(&o.json, "json", "", "`file` for every figure as JSON")
	sizes := flag.String("sizes", "10000,100000", "sizes to measure at, ascending")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	for _, text := range strings.Split(*sizes, ",") {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil || n < 1000 || len(o.sizes) > 0 && n <= o.sizes[len(o.sizes)-1] {
			slog.Error("sizes ascend, from 1000 on", "given", *sizes)
			os.Exit(2)
		}
		o.sizes = append(o.sizes, n)
	}
	if err := run(ctx, o); err != nil {
		slog.Error("growth", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	pg, err := testenv.Launch("shared_buffers=1GB", "max_wal_size=4GB")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pg.Close()) }()
	database, err := pg.CreateDatabase()
	if err != nil {
		return err
	}
	dsn := pg.DSN(database)
	if err := postgres.Migrate(ctx, dsn); err != nil {
		return err
	}
	s, err := postgres.Open(ctx, dsn, postgres.Options{})
	if err != nil {
		return err
	}
	defer s.Close()
	f, err := newFiller(ctx, s, o.bytes, o.placed)
	if err != nil {
		return err
	}
	var at []figures
	for _, size := range o.sizes {
		got, err := measure(ctx, o, pg, dsn, f, size)
		if err != nil {
			return fmt.Errorf("at %d entries: %w", size, err)
		}
		at = append(at, got)
	}
	fmt.Printf("# Growth: batches of %d, statements of %d bytes\n\n", o.batch, o.bytes)
	report(os.Stdout, o, at)
	if o.json == "" {
		return nil
	}
	return writeJSON(o.json, o, at)
}
