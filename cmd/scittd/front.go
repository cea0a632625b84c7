package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/scittd/scittd/api"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/storage"
	"github.com/scittd/scittd/storage/front"
)

// servesRegistry: people pull images through this process, and nothing of a
// pull needs the log.
func (c *Config) servesRegistry() bool {
	return c.Registry.Front == inFront || c.embeddedRegistry() && !c.ReadOnly
}

// openUpstream prepares to stand before the external registry.
func openUpstream(c Config, log *slog.Logger) (*front.Upstream, error) {
	u, err := front.OpenUpstream(front.UpstreamConfig{
		Host: c.Registry.Host, PlainHTTP: c.Registry.PlainHTTP || storage.PlainHTTP(c.Registry.Host), CAFile: c.Registry.CAFile,
		OwnName: c.Registry.HostHeader == "registry", FollowRedirects: c.Registry.BlobRedirects == "follow",
		PathRouted: c.Registry.Front == pathRouted, TokenHosts: c.Registry.TokenHosts, Log: log,
	})
	if err != nil {
		return nil, fmt.Errorf("%w: registry: %w", errConfig, err)
	}
	return u, nil
}

// openFront builds the one public handler: /v2 is the front's, the rest the
// API's. What needs the log is answered 503 until that is open.
func (s *service) openFront(c Config) error {
	proxies, err := c.Limits.proxies()
	if err != nil {
		return fmt.Errorf("%w: %w", errConfig, err)
	}
	unavailable := api.Unavailable(c.URL, s.log)
	config := front.Config{
		Upstream: s.upstream, TokenPrefix: tokenPrefix,
		Vouched: func(r *http.Request, push bool) *http.Request { return api.Vouched(r, c.Registry.Host, push) },

		Extension: func(w http.ResponseWriter, r *http.Request, repository, path string) {
			if a := s.api.Load(); a != nil {
				a.Extension(w, r, repository, path)
				return
			}
			unavailable.ServeHTTP(w, r)
		},
		ExtensionEndpoints: extensionEndpoints,
		Authorize: func(r *http.Request, repository string, write bool) error {
			a := s.api.Load()
			switch {
			case a != nil:
				return authorizer(a)(r, repository, write)
			case write && r.Header.Get("Authorization") == "":
				return front.ErrUnauthenticated
			case write:
				return ledger.ErrUnavailable // it has the tokens
			}
			return nil
		},
		PublicURL: c.URL, TrustedProxies: proxies, Log: s.log,
		ManifestPut: []front.Hook{s.pushHook(c)},
	}
	if s.registry != nil {
		config.Backend = s.registry.HandlerFor(s.callers())
	}
	config.ManifestPut = append(config.ManifestPut, front.PushedIndexes(s))
	config.ManifestGet = append(config.ManifestGet, front.PulledIndexes(s))
	config.Delete = append(config.Delete, front.Deleted(s.deleting))
	config.Synthesis = s.synthesis(c)
	v2 := front.New(config)
	s.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.Path
		switch a := s.api.Load(); {
		case path == "/v2", strings.HasPrefix(path, "/v2/"), c.Registry.Front == inFront && front.Serves(path):
			v2.ServeHTTP(w, r)
		case a != nil:
			a.ServeHTTP(w, r)
		default:
			unavailable.ServeHTTP(w, r)
		}
	})
	return nil
}

// extensionEndpoints are what discovery lists of _scitt.
var extensionEndpoints = func() (all []front.Endpoint) {
	for _, m := range api.Modules() {
		all = append(all, front.Endpoint{Path: m.Path, InRepository: m.InRepository, Push: m.Publishes})
	}
	return all
}()

// authorizer lets the front ask the API who a caller is, in the registry's terms.
func authorizer(a *api.API) func(r *http.Request, repository string, write bool) error {
	return func(r *http.Request, _ string, write bool) error {
		err := a.Authorize(r, write)
		limited := (*api.RateLimited)(nil)
		switch {
		case errors.As(err, &limited):
			return &front.RateLimited{After: limited.After}
		case errors.Is(err, api.ErrUnauthenticated):
			return front.ErrUnauthenticated
		case errors.Is(err, api.ErrForbidden):
			return front.ErrDenied
		}
		return err
	}
}

// How often a database that was away at start is looked for.
const awaited = time.Second

// await opens the log of a service that had to start without it. It ends with
// what keeps a service from starting, when a listener fails, or with ctx.
func (s *service) await(ctx context.Context, c Config, failed <-chan error) error {
	s.log.Warn("serving the registry alone until the database is there", "err", s.waits)
	tick := time.NewTicker(awaited)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case <-tick.C:
		}
		err := s.openLog(ctx, c)
		if err == nil {
			return s.openAPI(c, false)
		}
		if ctx.Err() != nil {
			return nil
		}
		if closing := s.closeLog(context.WithoutCancel(ctx)); !errors.Is(err, ledger.ErrUnavailable) || closing != nil {
			return errors.Join(err, closing)
		}
	}
}
