// Command fsck audits a log with other people's tools: Tessera's client and
// fsck read checkpoint, tiles and entry bundles, and none of our code does.
//
//	go run ./fsck -url https://scitt.example/log -key 'scitt.example/log+1a2b3c4d+AUV...'
//
// The key is a C2SP verifier key as the log announced it; /v1/service lists it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"

	"github.com/transparency-dev/formats/log"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"golang.org/x/mod/sumdb/note"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "fsck:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("fsck", flag.ContinueOnError)
	address := flags.String("url", "", "`URL` of the log, /log included")
	key := flags.String("key", "", "verifier `key` of the log")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	a, err := newAuditor(*address, *key)
	if err != nil {
		return err
	}
	checkpoint, err := a.audit(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "OK    %s\nsize  %d\nroot  %x\n", checkpoint.Origin, checkpoint.Size, checkpoint.Hash)
	return nil
}

// workers is how many resources are fetched at once.
const workers = 4

// auditor holds one log's address and key.
type auditor struct {
	verifier note.Verifier
	fetcher  *client.HTTPFetcher
}

func newAuditor(address, key string) (*auditor, error) {
	root, err := url.Parse(address)
	if err != nil || root.Host == "" {
		return nil, fmt.Errorf("-url %q is no URL", address)
	}
	verifier, err := note.NewVerifier(key)
	if err != nil {
		return nil, fmt.Errorf("-key: %w", err)
	}
	fetcher, err := client.NewHTTPFetcher(root, nil)
	if err != nil {
		return nil, err
	}
	return &auditor{verifier: verifier, fetcher: fetcher}, nil
}

// checkpoint fetches the published checkpoint. A log's origin is its key's name.
func (a *auditor) checkpoint(ctx context.Context) (*log.Checkpoint, error) {
	c, _, _, err := client.FetchCheckpoint(ctx, a.fetcher.ReadCheckpoint, a.verifier, a.verifier.Name())
	return c, err
}

// audit recomputes every tile from the entry bundles and compares, then proves
// some entries the way a monitor does.
func (a *auditor) audit(ctx context.Context) (*log.Checkpoint, error) {
	if err := fsck.New(a.verifier.Name(), a.verifier, a.fetcher, leafHashes, fsck.Opts{N: workers}).Check(ctx); err != nil {
		return nil, err
	}
	c, err := a.checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	return c, a.proveSome(ctx, c)
}

// proveSome proves the first and the last entry, and some between, if there are any.
func (a *auditor) proveSome(ctx context.Context, c *log.Checkpoint) error {
	if c.Size == 0 {
		return nil
	}
	builder, err := client.NewProofBuilder(ctx, c.Size, a.fetcher.ReadTile)
	if err != nil {
		return err
	}
	const bundle = 256
	for _, i := range []uint64{0, c.Size / 3, c.Size / 2, c.Size - 1} {
		entries, err := client.GetEntryBundle(ctx, a.fetcher.ReadEntryBundle, i/bundle, c.Size)
		if err != nil {
			return fmt.Errorf("entry %d of %d: %w", i, c.Size, err)
		}
		if len(entries.Entries) <= int(i%bundle) {
			return fmt.Errorf("entry %d of %d: its bundle has %d", i, c.Size, len(entries.Entries))
		}
		path, err := builder.InclusionProof(ctx, i)
		if err != nil {
			return fmt.Errorf("entry %d of %d: %w", i, c.Size, err)
		}
		leaf := rfc6962.DefaultHasher.HashLeaf(entries.Entries[i%bundle])
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, i, c.Size, leaf, path, c.Hash); err != nil {
			return fmt.Errorf("entry %d of %d: %w", i, c.Size, err)
		}
	}
	return nil
}

// leafHashes hashes the entries of a bundle.
func leafHashes(bundle []byte) ([][]byte, error) {
	var b api.EntryBundle
	if err := b.UnmarshalText(bundle); err != nil {
		return nil, err
	}
	hashes := make([][]byte, len(b.Entries))
	for i, e := range b.Entries {
		hashes[i] = rfc6962.DefaultHasher.HashLeaf(e)
	}
	return hashes, nil
}
