package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/scittd/scittd/client"
	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/receipts"
)

func devCommand(p process) *cobra.Command {
	var dir, listenOn, issuer string
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Try it: ledger, registry and a publisher's key in one process on loopback",
		Long: `Run a throw-away service on loopback: a SQLite ledger, a registry at /v2 of the
same port, and a policy that admits one publisher, whose key is made here too.
Anyone on this machine may write. Without --dir everything is gone at the end.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if !loopback(listenOn) {
				return fmt.Errorf("%w: dev is open to every caller, so --listen must be a loopback address, not %s", errUsage, listenOn)
			}
			if dir == "" {
				if dir, err = os.MkdirTemp("", "scittd-dev-"); err != nil {
					return err
				}
				defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
			}
			if dir, err = filepath.Abs(dir); err != nil {
				return err
			}
			return dev(cmd.Context(), p, dir, listenOn, issuer)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "folder to keep; a second run continues it (default: a temporary one, removed at the end)")
	cmd.Flags().StringVar(&listenOn, "listen", "127.0.0.1:8080", "loopback address; port 0 picks a free one")
	cmd.Flags().StringVar(&issuer, "issuer", "https://publisher.example", "iss of the publisher that the policy admits")
	return cmd
}

// dev runs a service in dir, initialising it first when it is new.
func dev(ctx context.Context, p process, dir, listenOn, issuer string) error {
	c := defaults()
	_, err := os.Stat(filepath.Join(dir, markerName))
	known := err == nil
	if known {
		if _, err := os.Stat(filepath.Join(dir, "client", "client.yaml")); err != nil {
			return fmt.Errorf("%w: %s was made by init, and dev lets everybody write: use serve", errConfig, dir)
		}
		// The log's URL is fixed, so a second run listens where the first did.
		noEnv := func(string) string { return "" }
		if c, err = loadConfig(filepath.Join(dir, configName), noEnv, &pflag.FlagSet{}); err != nil {
			return fmt.Errorf("%w: %w", errConfig, err)
		}
		if !loopback(c.Listen) {
			return fmt.Errorf("%w: dev is open to every caller, but %s listens on %s", errConfig, configName, c.Listen)
		}
		listenOn = c.Listen
	}
	listener, err := net.Listen("tcp", listenOn)
	if err != nil {
		return err
	}
	c.Data.Dir = dir
	if !known {
		c.Listen = listener.Addr().String()
		_, port, err := net.SplitHostPort(c.Listen)
		if err != nil {
			listener.Close()
			return err
		}
		c.URL = "http://localhost:" + port
	}
	if err = c.complete(); err == nil && !known {
		err = devInit(ctx, c, issuer)
	}
	if err != nil {
		listener.Close()
		return err
	}
	s, err := openService(ctx, c, newLog(LogConfig{Level: "warn"}, p.stderr), true)
	if err != nil {
		listener.Close()
		return err
	}
	fmt.Fprintf(p.stdout, `scittd dev: everything here is for trying out, nothing is protected
Service    %s  (registry at the same host, queries at /v1/entries)
Folder     %s
Publisher  %s  (key and trust are in client.yaml)

In another terminal:
  export SCITT_CONFIG=%s
  scitt attach %s/REPOSITORY:TAG --evidence FILE
`, c.URL, dir, issuer, filepath.Join(dir, "client", "client.yaml"), c.registryHost())
	return s.run(ctx, c, listener)
}

// devInit makes the publisher, the log and a client configuration that fits.
func devInit(ctx context.Context, c Config, issuer string) error {
	folder := filepath.Join(c.Data.Dir, "client")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	publisher, err := keyFile(filepath.Join(folder, "publisher.pem"), newECKey)
	if err != nil {
		return err
	}
	pem, err := cose.MarshalPublicPEM(publisher.Public())
	if err != nil {
		return err
	}
	public := filepath.Join(folder, "publisher.pub")
	if err := os.WriteFile(public, pem, 0o644); err != nil {
		return err
	}
	if _, err := initialise(ctx, c, initPolicy{issuer: issuer, issuerKey: public}, true); err != nil {
		return err
	}
	receiptIssuer, err := openIssuer(c)
	if err != nil {
		return err
	}
	var trust client.Trust
	key := cose.Key{ID: receiptIssuer.KeyID(), Alg: cose.ES256, Public: receiptIssuer.Public()}
	if err := trust.Pin(c.URL, receipts.KeySet{key}, time.Now()); err != nil {
		return err
	}
	if err := trust.TrustIssuer(client.TrustedIssuer{Issuer: issuer, Key: string(pem)}); err != nil {
		return err
	}
	if err := trust.Write(filepath.Join(folder, "trust.yaml")); err != nil {
		return err
	}
	return client.Config{Current: "dev", Contexts: map[string]client.Context{"dev": {
		Service: c.URL, Trust: "trust.yaml", Key: "publisher.pem", Issuer: issuer,
		Issuers: []client.IssuerScope{{Issuer: issuer}},
	}}}.Write(filepath.Join(folder, "client.yaml"))
}
