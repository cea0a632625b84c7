package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/scittd/scittd/api"
	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/internal/registrar"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/postgres"
	publiclog "github.com/scittd/scittd/ledger/publish"
	"github.com/scittd/scittd/ledger/sqlite"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/storage"
	"github.com/scittd/scittd/storage/embedded"
	"github.com/scittd/scittd/storage/front"
	"github.com/scittd/scittd/witness"
)

// errConfig marks a start that the configuration forbids: exit code 2.
var errConfig = errors.New("configuration")

// database is a store with everything that is kept beside the log.
type database interface {
	ledger.Store
	ledger.Staging
	ledger.Tokens
	ledger.Leases
	ledger.Audit
}

// openDatabase opens the configured store for a service, migrating it or
// refusing its schema as database.migrate says.
func openDatabase(ctx context.Context, c Config) (database, error) {
	dsn, err := c.postgresURL()
	if err != nil {
		return nil, err
	}
	if dsn == "" {
		return opened(sqlite.Open(ctx, c.sqliteFile()))
	}
	if c.Database.Migrate == "auto" {
		if err := postgres.Migrate(ctx, dsn); err != nil {
			return nil, err
		}
	}
	return openPostgres(ctx, c, dsn)
}

// openBeside opens the store for a command that may run beside the service: it
// migrates nothing and appends nothing.
func openBeside(ctx context.Context, c Config) (database, error) {
	dsn, err := c.postgresURL()
	if err != nil {
		return nil, err
	}
	if dsn == "" {
		return opened(sqlite.OpenBeside(ctx, c.sqliteFile()))
	}
	return openPostgres(ctx, c, dsn)
}

func openPostgres(ctx context.Context, c Config, dsn string) (database, error) {
	return opened(postgres.Open(ctx, dsn, postgres.Options{
		Managed: c.Database.Durability == "managed", SkipSchemaCheck: c.Database.Migrate == "off",
	}))
}

// opened keeps a store that did not open from looking like one.
func opened[S database](s S, err error) (database, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}

// openIssuer reads the receipt key.
func openIssuer(c Config) (*receipts.Issuer, error) {
	pem, err := readSecret(c.Keys.Receipt)
	if err != nil {
		return nil, fmt.Errorf("receipt key: %w", err)
	}
	key, err := cose.ParsePrivatePEM(pem)
	if err != nil {
		return nil, fmt.Errorf("receipt key %s: %w", c.Keys.Receipt, err)
	}
	return receipts.NewIssuer(key, c.URL, c.Origin)
}

// openCheckpointKey reads the key that signs checkpoints.
func openCheckpointKey(c Config) (crypto.Signer, error) {
	pem, err := readSecret(c.Keys.Checkpoint)
	if err != nil {
		return nil, fmt.Errorf("checkpoint key: %w", err)
	}
	key, err := cose.ParsePrivatePEM(pem)
	if err != nil {
		return nil, fmt.Errorf("checkpoint key %s: %w", c.Keys.Checkpoint, err)
	}
	return key, nil
}

// service is one running scittd: what serve and dev start and stop.
type service struct {
	log      *slog.Logger
	db       database
	ledger   *ledger.Ledger
	registry *embedded.Registry   // nil unless embedded
	courier  *registrar.Courier   // nil when nothing is placed
	public   *publiclog.Publisher // nil unless configured
	cosigner *witness.Cosigner    // nil unless configured
	outside  *outside             // nil for readers
	handler  http.Handler
}

// openService opens every part and wires them. openWrites lets anonymous
// callers write; only dev on loopback asks for that.
func openService(ctx context.Context, c Config, log *slog.Logger, openWrites bool) (_ *service, err error) {
	s := &service{log: log}
	defer func() {
		if err != nil {
			s.close(context.WithoutCancel(ctx))
		}
	}()
	if c.ReadOnly {
		if err = s.openReader(ctx, c); err != nil {
			return nil, err
		}
		return s, s.openHandler(c, openWrites)
	}
	issuer, err := openIssuer(c)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errConfig, err)
	}
	checkpoint, err := openCheckpointKey(c)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errConfig, err)
	}
	if s.db, err = openDatabase(ctx, c); err != nil {
		return nil, err
	}
	if s.outside, err = openOutside(c, checkpoint, log); err != nil {
		return nil, err
	}
	if s.ledger, err = openLedger(ctx, c, s.db, issuer, checkpoint, s.outside.remember, log); err != nil {
		return nil, err
	}
	if err = s.outside.check(ctx, s.ledger); err != nil {
		return nil, err
	}
	if err = s.outside.begin(ctx); err != nil {
		return nil, err
	}
	if err = s.openCosigner(c, checkpoint); err != nil {
		return nil, err
	}
	if err = s.openPublisher(c); err != nil {
		return nil, err
	}
	if err = s.openRegistry(c); err != nil {
		return nil, err
	}
	return s, s.openHandler(c, openWrites)
}

// openLedger opens the log for a service, and refuses to continue it under a
// configuration that it contradicts.
func openLedger(ctx context.Context, c Config, db database, issuer *receipts.Issuer, checkpoint crypto.Signer, remember func(context.Context, ledger.Head) error, log *slog.Logger) (*ledger.Ledger, error) {
	l, err := ledger.Open(ctx, db, ledger.Options{
		Issuer: issuer, Checkpoint: checkpoint, Cadence: c.Cadence, Registry: c.registryHost(), Log: log, Remember: remember,
	})
	switch {
	case errors.Is(err, ledger.ErrEmpty):
		return nil, fmt.Errorf("%w: %w\nTry:   scittd init", errConfig, err)
	case err != nil:
		// A log that opens for reading is sound: then it is a key, the URL or
		// the origin that does not fit it.
		if reader, readErr := ledger.Open(ctx, db, ledger.Options{}); readErr == nil {
			return nil, errors.Join(fmt.Errorf("%w: %w\nTry:   set url, origin, keys.receipt and keys.checkpoint to those that init reported, or run init in an empty folder and database to begin another log", errConfig, err), reader.Close(ctx))
		}
		return nil, err
	}
	if l.Policy().AllowsAnyIssuer() && !c.AllowAnyIssuer {
		return nil, errors.Join(fmt.Errorf("%w: the policy in force (entry %s) admits any issuer: publish a stricter one, or start with --allow-any-issuer", errConfig, l.Policy().Entry), l.Close(ctx))
	}
	return l, nil
}

// openPublisher prepares copying the public log to a bucket.
func (s *service) openPublisher(c Config) (err error) {
	if c.Log.Publish == "" {
		return nil
	}
	s.public, err = publiclog.New(c.Log.Publish, s.ledger, s.db, publiclog.Options{
		Checkpoint: s.checkpoint(), Every: c.Cadence, Log: s.log,
	})
	if err != nil {
		return fmt.Errorf("%w: log.publish: %w", errConfig, err)
	}
	return nil
}

// openRegistry opens the registry that claims are placed in, and its Courier.
func (s *service) openRegistry(c Config) error {
	if c.registryHost() == "" {
		return nil
	}
	var target storage.Registry
	lease := time.Minute
	if c.embeddedRegistry() {
		registry, err := embedded.Open(filepath.Join(c.Data.Dir, "registry"))
		if err != nil {
			return err
		}
		registry.LogTo(s.log)
		s.registry, target = registry, registry
		lease = 5 * time.Second // one process: nobody else could take over sooner
	} else {
		remote, err := remoteRegistry(c)
		if err != nil {
			return err
		}
		target = remote
	}
	host := c.registryHost()
	owner, err := os.Hostname()
	if err != nil {
		return err
	}
	s.courier = registrar.NewCourier(s.ledger, s.db, func(h string) (storage.Registry, error) {
		if h != host {
			return nil, fmt.Errorf("registry %s is not configured here (only %s is)", h, host)
		}
		return target, nil
	}, registrar.CourierOptions{Owner: fmt.Sprintf("%s/%d", owner, os.Getpid()), Lease: lease, Log: s.log})
	return nil
}

func remoteRegistry(c Config) (*storage.Remote, error) {
	r, err := storage.OpenRemote(c.Registry.Host, storage.RemoteOptions{
		PlainHTTP: c.Registry.PlainHTTP || storage.PlainHTTP(c.Registry.Host), CAFile: c.Registry.CAFile, DockerConfig: c.Registry.Config,
		UserAgent: "scittd/" + version(),
	})
	if err != nil {
		return nil, fmt.Errorf("%w: registry: %w", errConfig, err)
	}
	return r, nil
}

// openHandler builds the one public handler: /v2 is the front's, the rest the API's.
func (s *service) openHandler(c Config, openWrites bool) error {
	proxies, err := c.Limits.proxies()
	if err != nil {
		return fmt.Errorf("%w: %w", errConfig, err)
	}
	wake := func() {}
	if s.courier != nil {
		wake = s.courier.Wake
	}
	a := api.New(api.Config{
		Ledger: s.ledger,
		Registrar: registrar.New(s.ledger, registrar.Options{
			Registry: c.registryHost(), Wake: wake, Log: s.log,
		}),
		Staging: s.db, Tokens: s.db, ReadOnly: c.ReadOnly, OpenWrites: openWrites,
		PublicURL: c.URL, Registry: c.registryHost(), RegisterWait: c.RegisterWait, Limits: c.Limits.forAPI(),
		TrustedProxies: proxies, Log: s.log, Ready: s.ledger.Ready, Witnesses: s.witnesses(),
	})
	var backend http.Handler
	if s.registry != nil {
		backend = s.registry.Handler()
	}
	v2 := front.New(front.Config{
		Backend: backend, Extension: a.Extension, ExtensionEndpoints: extensionEndpoints,
		Authorize: authorizer(a), PublicURL: c.URL, Log: s.log,
	})
	s.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2" || strings.HasPrefix(r.URL.Path, "/v2/") {
			v2.ServeHTTP(w, r)
			return
		}
		a.ServeHTTP(w, r)
	})
	return nil
}

// extensionEndpoints are what discovery lists of _scitt.
var extensionEndpoints = []front.Endpoint{{Path: "entries/register", InRepository: true}}

// close stops what openService started: the database last, for the ledger writes to it.
func (s *service) close(ctx context.Context) error {
	var err error
	if s.public != nil {
		err = errors.Join(err, s.public.Close())
	}
	if s.ledger != nil {
		err = errors.Join(err, s.ledger.Close(ctx))
	}
	err = errors.Join(err, s.outside.close())
	if s.registry != nil {
		err = errors.Join(err, s.registry.Close())
	}
	if s.db != nil {
		err = errors.Join(err, s.db.Close())
	}
	return err
}

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
