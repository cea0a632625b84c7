package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/scittd/scittd/api"
)

// After SIGTERM requests in hand may take drainTime, and everything together
// shutdownTime, below the 30 s that Kubernetes grants.
const (
	drainTime    = 20 * time.Second
	shutdownTime = 25 * time.Second
)

// softMemory is where garbage is collected sooner: thousands of connections make
// the heap one that is not small.
const softMemory = 400 << 20

func serveCommand(p process) *cobra.Command {
	var dir, file string
	cmd := &cobra.Command{
		Use:   "serve [--dir DIR | --config FILE]",
		Short: "Run the service on a log that init has made",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := serveConfig(cmd, p, dir, file)
			if err != nil {
				return err
			}
			if p.env("GOGC") == "" {
				debug.SetGCPercent(400) // registrations make short-lived garbage beside a small heap
			}
			if p.env("GOMEMLIMIT") == "" {
				debug.SetMemoryLimit(softMemory)
			}
			log := newLog(c.Log, p.stderr)
			listener, err := listen(c)
			if err != nil {
				return err
			}
			s, err := openService(cmd.Context(), c, log, false)
			if err != nil {
				listener.Close()
				return err
			}
			return s.run(cmd.Context(), c, listener)
		},
	}
	addLocationFlags(cmd, &dir, &file)
	return cmd
}

// addLocationFlags adds --dir and --config and one flag per setting.
func addLocationFlags(cmd *cobra.Command, dir, file *string) {
	cmd.Flags().StringVar(dir, "dir", "", "folder that init made (default ./scittd-data unless --config is given)")
	cmd.Flags().StringVar(file, "config", "", "configuration file")
	addConfigFlags(cmd.Flags())
	if cmd.Name() == "serve" {
		return
	}
	// Every setting is a flag of every verb, so that one environment and one set of
	// flags serve all; who looks for a verb's own must find them.
	c := defaults()
	for _, s := range settings(&c) {
		cmd.Flags().Lookup(s.flag()).Hidden = !slices.Contains(shownSettings, s.path)
	}
	if cmd.Long == "" {
		cmd.Long = cmd.Short
	}
	cmd.Long += "\n\nWhat else can be configured is a flag here, too: see scittd serve --help."
}

// shownSettings are those that lead an operator's verb to the log and the service.
var shownSettings = []string{"url", "database.url", "database.url_file", "data.dir"}

// configFile is the configuration that --dir and --config lead to.
func configFile(dir, file string) (string, error) {
	switch {
	case file != "" && dir != "":
		return "", fmt.Errorf("%w: --dir and --config exclude each other", errUsage)
	case file != "":
		return file, nil
	case dir == "":
		dir = defaultFolder
	}
	return filepath.Join(dir, configName), nil
}

// serveConfig loads the configuration of an initialised log.
func serveConfig(cmd *cobra.Command, p process, dir, file string) (Config, error) {
	file, err := configFile(dir, file)
	if err != nil {
		return Config{}, err
	}
	c, err := loadConfig(file, p.env, cmd.Flags())
	if errors.Is(err, fs.ErrNotExist) {
		try := "scittd init"
		if cmd.Name() != "serve" {
			try = cmd.CommandPath() + " with --dir or --config of the service; scittd init makes a new one"
		}
		return c, fmt.Errorf("%w: %w\nTry:   %s", errConfig, err, try)
	}
	if err != nil {
		return c, fmt.Errorf("%w: %w", errConfig, err)
	}
	if c.ReadOnly {
		return c, nil // it makes nothing: a mistyped path finds no log
	}
	if _, err := os.Stat(filepath.Join(c.Data.Dir, markerName)); err != nil {
		return c, fmt.Errorf("%w: %s was not made by init (no %s in it)\nTry:   scittd init --config %s", errConfig, c.Data.Dir, markerName, file)
	}
	return c, nil
}

// protection is how traffic is kept from the network: TLS, or nil for plain HTTP
// on loopback and behind a proxy. It refuses listeners that would show it.
func protection(c Config) (*tls.Config, error) {
	if c.TLS.Cert == "" && !loopback(c.Listen) && !c.InsecureListen {
		return nil, fmt.Errorf("%w: listen: %s is not a loopback address and there is no TLS certificate: set tls.cert and tls.key, or insecure_listen behind a proxy that ends TLS", errConfig, c.Listen)
	}
	if c.OpsListen != "" && !loopback(c.OpsListen) && !c.InsecureListen {
		return nil, fmt.Errorf("%w: ops_listen: %s is not a loopback address: health checks and profiles are plain HTTP; set insecure_listen if that network is private", errConfig, c.OpsListen)
	}
	if c.TLS.Cert == "" {
		return nil, nil
	}
	chain, err := os.ReadFile(c.TLS.Cert)
	if err != nil {
		return nil, fmt.Errorf("%w: tls.cert: %w", errConfig, err)
	}
	key, err := readSecret(c.TLS.Key)
	if err != nil {
		return nil, fmt.Errorf("%w: tls.key: %w", errConfig, err)
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, fmt.Errorf("%w: tls: %w", errConfig, err)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"},
	}, nil
}

// listen opens the public listener.
func listen(c Config) (net.Listener, error) {
	protected, err := protection(c)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil || protected == nil {
		return listener, err
	}
	return tls.NewListener(listener, protected), nil
}

// run serves until ctx ends, then stops in this order: listener and requests in
// hand, the sequencer, Courier, and what openService opened.
func (s *service) run(ctx context.Context, c Config, listener net.Listener) error {
	var ops net.Listener // nil: none is configured
	if c.OpsListen != "" {
		var err error
		if ops, err = net.Listen("tcp", c.OpsListen); err != nil {
			return errors.Join(err, listener.Close(), s.close(ctx))
		}
	}
	var background sync.WaitGroup
	server := s.server(s.handler)
	failed := make(chan error, 2)
	background.Go(func() { failed <- server.Serve(listener) })
	operations := s.server(s.operations())
	if ops != nil {
		background.Go(func() { failed <- operations.Serve(ops) })
	}

	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	witnessed, stopCosigner := context.WithCancel(context.WithoutCancel(ctx))
	defer stopCosigner()
	var cosigning sync.WaitGroup
	var err error
	if s.waits != nil {
		err = s.await(ctx, c, failed)
	}
	if s.api.Load() != nil {
		s.begin(work, c, &background)
		if s.cosigner != nil {
			cosigning.Go(func() { s.cosigner.Run(witnessed) })
		}
		s.log.Info("serving", "url", c.URL, "listen", listener.Addr().String(), "size", s.size(ctx), "policy", s.ledger.Policy().Entry)
	}
	if err == nil {
		select {
		case <-ctx.Done():
		case err = <-failed:
		}
	}

	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer cancel()
	err = errors.Join(err, s.drain(stop, server))
	// What was answered 202 may still be committed; memories, bucket and witnesses
	// are to hear of it.
	if s.ledger != nil {
		err = errors.Join(err, s.ledger.Close(stop))
	}
	if ops != nil {
		err = errors.Join(err, operations.Close())
	}
	stopWork()
	background.Wait()
	stopCosigner() // the last thing that is published may have to be cosigned
	cosigning.Wait()
	err = errors.Join(err, s.close(stop))
	s.log.Info("stopped")
	return err
}

// begin starts what works on the log beside its callers.
func (s *service) begin(work context.Context, c Config, background *sync.WaitGroup) {
	if s.courier != nil {
		background.Go(func() { s.courier.Run(work) })
	}
	if s.courier != nil && c.Registry.Reconcile > 0 {
		background.Go(func() { s.reconcile(work, c) })
	}
	if s.public != nil {
		background.Go(func() { s.public.Run(work) })
	}
	if custodian := s.custodian.Load(); custodian != nil && s.courier != nil {
		background.Go(func() { custodian.Run(work) })
	}
	if !c.ReadOnly {
		background.Go(func() { s.sweep(work) })
		background.Go(func() { s.refusals.Run(work) })
	}
	if s.outside != nil {
		background.Go(func() { s.outside.guard.Run(work) })
		if c.Scrub > 0 {
			background.Go(func() { s.scrub(work, c.Scrub) })
		}
	}
	background.Go(func() { s.refresh(work) })
}

// server is an HTTP server that logs as the service does.
func (s *service) server(h http.Handler) *http.Server {
	server := api.NewServer(h)
	server.Protocols = new(http.Protocols)
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetHTTP2(true)
	server.Protocols.SetUnencryptedHTTP2(true) // for proxies that end TLS
	server.ErrorLog = slog.NewLogLogger(s.log.Handler(), slog.LevelWarn)
	return server
}

// drain lets requests in hand end, and cuts off those that take too long.
func (s *service) drain(ctx context.Context, server *http.Server) error {
	wait, cancel := context.WithTimeout(ctx, drainTime)
	defer cancel()
	err := server.Shutdown(wait)
	if errors.Is(err, context.DeadlineExceeded) {
		s.log.Warn("requests cut off", "after", drainTime)
		return server.Close()
	}
	return err
}

// size is the tree size for the log line at start; 0 when it cannot be read.
func (s *service) size(ctx context.Context) uint64 {
	head, err := s.ledger.Head(ctx)
	if err != nil {
		return 0
	}
	return head.Size
}

// sweep removes staged evidence that expired or was placed, every minute.
func (s *service) sweep(ctx context.Context) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if err := s.db.Sweep(ctx, now); err != nil && ctx.Err() == nil {
				s.log.Warn("staged evidence not swept", "err", err)
			}
		}
	}
}

// operations is what the operations listener serves: health, figures, profiles. The
// command line is left out, for flags may hold a connection URL.
func (s *service) operations() http.Handler {
	mux := http.NewServeMux()
	for _, path := range []string{"/healthz", "/readyz", "/readyz/write"} {
		mux.Handle(path, s.handler)
	}
	mux.HandleFunc("/metrics", s.metrics)
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

// newLog writes log lines to w.
func newLog(c LogConfig, w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		level = slog.LevelInfo // complete has checked it
	}
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}
