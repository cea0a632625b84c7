package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func checkCommand(p process) *cobra.Command {
	var dir, file string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check configuration, keys and database as serve would, and change nothing",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := serveConfig(cmd, p, dir, file)
			if err != nil {
				return err
			}
			return check(cmd.Context(), p, c)
		},
	}
	addLocationFlags(cmd, &dir, &file)
	return cmd
}

// check prints one line for every part that serve depends on and fails with
// the first that would stop it.
func check(ctx context.Context, p process, c Config) (err error) {
	ok := func(part, format string, args ...any) {
		fmt.Fprintf(p.stdout, "OK    %-9s %s\n", part, fmt.Sprintf(format, args...))
	}
	ok("config", "%s", c.URL)
	protected, err := protection(c)
	if err != nil {
		return err
	}
	if protected == nil {
		ok("listen", "%s, plain HTTP", c.Listen)
	} else {
		ok("listen", "%s, TLS", c.Listen)
	}
	fetcher, err := openFetcher(c.Lookup)
	if err != nil {
		return err
	}
	fetcher.Close()
	ok("lookup", "%s", c.Lookup)
	if c.ReadOnly {
		return checkReader(ctx, c, ok)
	}
	issuer, err := openIssuer(c)
	if err != nil {
		return fmt.Errorf("%w: %w", errConfig, err)
	}
	ok("key", "receipt key %x", issuer.KeyID())
	checkpoint, err := openCheckpointKey(c)
	if err != nil {
		return fmt.Errorf("%w: %w", errConfig, err)
	}
	db, err := openBeside(ctx, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if dsn, _ := c.postgresURL(); dsn == "" { // openBeside has read it
		ok("database", "sqlite, %s", c.sqliteFile())
	} else {
		ok("database", "postgres, durability %s", c.Database.Durability)
	}
	silent := slog.New(slog.DiscardHandler)
	memories, err := openOutside(c, checkpoint, silent)
	if err != nil {
		return err
	}
	l, err := openLedger(ctx, c, db, issuer, checkpoint, nil, silent)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close(ctx)) }()
	head, err := l.Head(ctx)
	if err != nil {
		return err
	}
	ok("key", "checkpoint key of %s, announced in the log", l.Service().Origin)
	ok("ledger", "size %d, root reproduced from its tiles", head.Size)
	if err := memories.check(ctx, l); err != nil {
		return err
	}
	ok("memory", "%s", memories)
	ok("policy", "entry %s", l.Policy().Entry)
	s := &service{db: db, ledger: l, log: silent}
	if err := s.openCosigner(c, checkpoint); err != nil {
		return err
	}
	if s.cosigner != nil {
		ok("witnesses", "%d that are asked to cosign checkpoints", len(s.cosigner.Status().Witnesses))
	}
	if err := s.openPublisher(c); err != nil {
		return err
	}
	if s.public != nil {
		ok("publish", "%s (not asked: only publishing depends on it)", c.Log.Publish)
	}
	switch host := c.registryHost(); {
	case host == "":
		ok("registry", "off: claims are only in the ledger")
	case c.embeddedRegistry():
		ok("registry", "embedded, as %s", host)
	default:
		if _, err := remoteRegistry(c, nil); err != nil {
			return err
		}
		if c.Registry.Front == beside {
			ok("registry", "%s (not asked: registrations never depend on it)", host)
			return nil
		}
		upstream, err := openUpstream(c, slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		upstream.Close()
		ok("registry", "%s, %s of %s (not asked: registrations never depend on it)", host, c.Registry.Front, c.Registry.Host)
	}
	return nil
}

func versionCommand(p process) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			fmt.Fprintln(p.stdout, version())
			return nil
		},
	}
}

// version is the module version that the binary was built from.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
