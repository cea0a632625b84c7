package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/scittd/scittd/api"
	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/internal/fetch"
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
	ledger.Backlog
	ledger.Placements
	ledger.Evidences
	ledger.Claims
	ledger.Refusals
	ledger.Projection
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
	handler  http.Handler
	registry *embedded.Registry // nil unless embedded
	upstream *front.Upstream    // nil unless scittd is in front of a registry, or behind its proxy
	remote   *storage.Remote    // nil unless there is an external registry
	known    known              // of that registry, while the log is open
	owner    string             // this process, in leases
	waits    error              // why the log is not open yet; nil: it is

	// What follows is there once api is.
	api      atomic.Pointer[api.API]
	db       database
	ledger   *ledger.Ledger
	courier  *registrar.Courier   // nil when nothing is placed
	public   *publiclog.Publisher // nil unless configured
	cosigner *witness.Cosigner    // nil unless configured
	fetcher  *fetch.Fetcher       // asks for what the policy names
	refusals *ledger.RefusalTally // there before api is
	outside  *outside             // nil for readers

	custodian atomic.Pointer[registrar.Custodian] // there before api is
	pushes    atomic.Pointer[pushes]              // likewise
}

// openService opens every part and wires them. openWrites lets anonymous
// callers write; only dev on loopback asks for that. A service that has a
// registry to serve starts without its database, too, if that is only away: see
// await.
func openService(ctx context.Context, c Config, log *slog.Logger, openWrites bool) (_ *service, err error) {
	s := &service{log: log}
	defer func() {
		if err != nil {
			s.close(context.WithoutCancel(ctx))
		}
	}()
	if err = s.openLog(ctx, c); err != nil && !(errors.Is(err, ledger.ErrUnavailable) && c.servesRegistry()) {
		return nil, err
	}
	if s.waits = err; err != nil {
		if err = s.closeLog(ctx); err != nil {
			return nil, err
		}
	}
	if s.fetcher, err = openFetcher(c.Lookup); err != nil {
		return nil, err
	}
	if err = s.openRegistry(c); err != nil {
		return nil, err
	}
	if err = s.openFront(c); err != nil {
		return nil, err
	}
	if s.waits == nil {
		err = s.openAPI(c, openWrites)
	}
	return s, err
}

// openLog opens the log and what keeps watch over it.
func (s *service) openLog(ctx context.Context, c Config) error {
	if c.ReadOnly {
		return s.openReader(ctx, c)
	}
	issuer, err := openIssuer(c)
	if err != nil {
		return fmt.Errorf("%w: %w", errConfig, err)
	}
	checkpoint, err := openCheckpointKey(c)
	if err != nil {
		return fmt.Errorf("%w: %w", errConfig, err)
	}
	if s.db, err = openDatabase(ctx, c); err != nil {
		return err
	}
	if s.outside, err = openOutside(c, checkpoint, s.log); err != nil {
		return err
	}
	if s.ledger, err = openLedger(ctx, c, s.db, issuer, checkpoint, s.outside.remember, s.log); err != nil {
		return err
	}
	if err = s.outside.check(ctx, s.ledger); err != nil {
		return err
	}
	if err = s.outside.begin(ctx); err != nil {
		return err
	}
	if err = s.openCosigner(c, checkpoint); err != nil {
		return err
	}
	return s.openPublisher(c)
}

// openLedger opens the log for a service, and refuses to continue it under a
// configuration that it contradicts.
func openLedger(ctx context.Context, c Config, db database, issuer *receipts.Issuer, checkpoint crypto.Signer, remember func(context.Context, ledger.Head) error, log *slog.Logger) (*ledger.Ledger, error) {
	l, err := ledger.Open(ctx, db, ledger.Options{
		Issuer: issuer, Checkpoint: checkpoint, Cadence: c.Cadence, Registry: c.registryHost(), Archive: c.Registry.Archive, Log: log, Remember: remember,
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

// openRegistry opens the registry that this process keeps, or that it stands
// before. It needs no log.
func (s *service) openRegistry(c Config) (err error) {
	switch {
	case c.embeddedRegistry() && c.ReadOnly: // it is kept by another process
	case c.embeddedRegistry():
		if s.registry, err = embedded.Open(filepath.Join(c.Data.Dir, "registry")); err != nil {
			return err
		}
		s.registry.LogTo(s.log)
		s.registry.Limit(embedded.Limits{Quota: c.Registry.Quota, FreeSpace: c.Registry.FreeSpace})
	case c.Registry.Front != beside && !c.Registry.Off:
		s.upstream, err = openUpstream(c, s.log)
	}
	if err == nil && c.Registry.Host != "" && !c.Registry.Off && (!c.ReadOnly || c.Registry.Front == inFront) {
		err = s.openRemote(c)
	}
	return err
}

// openCourier prepares placing claims in the registry.
func (s *service) openCourier(c Config) error {
	owner, err := os.Hostname()
	if err != nil {
		return err
	}
	// In containers neither name nor number tells two processes apart.
	owner = fmt.Sprintf("%s/%d/%08x", owner, os.Getpid(), rand.Uint32())
	if c.registryHost() == "" || c.ReadOnly {
		s.openCustodian(c, nil, owner)
		return nil
	}
	var target storage.Registry = s.registry
	lease := 5 * time.Second // one process: nobody else could take over sooner
	if s.registry == nil {
		target, lease = s.remote, time.Minute
	}
	find := findRegistry(c, target)
	s.owner = owner
	s.openCustodian(c, find, owner)
	s.courier = registrar.NewCourier(s.ledger, s.db, find, registrar.CourierOptions{
		Owner: owner, Lease: lease, Log: s.log, Custodian: s.custodian.Load(), Gone: s.custodian.Load().Gone,
	})
	return nil
}

func remoteRegistry(c Config, memo storage.Memo) (*storage.Remote, error) {
	r, err := storage.OpenRemote(c.Registry.Host, storage.RemoteOptions{
		PlainHTTP: c.Registry.PlainHTTP || storage.PlainHTTP(c.Registry.Host), CAFile: c.Registry.CAFile, DockerConfig: c.Registry.Config,
		TokenHosts: c.Registry.TokenHosts, UserAgent: "scittd/" + version(), Profiles: c.Registry.Profiles, Memo: memo,
	})
	if err != nil {
		return nil, fmt.Errorf("%w: registry: %w", errConfig, err)
	}
	return r, nil
}

// openAPI opens what needs the log, and lets callers to it.
func (s *service) openAPI(c Config, openWrites bool) error {
	proxies, err := c.Limits.proxies()
	if err != nil {
		return fmt.Errorf("%w: %w", errConfig, err)
	}
	s.known.open(s.db)
	if err := s.openCourier(c); err != nil {
		return err
	}
	s.refusals = ledger.NewRefusalTally(s.db, s.log)
	wake := func() {}
	if s.courier != nil {
		wake = s.courier.Wake
	}
	var blobs storage.Registry // nil, unless there is a registry
	switch {
	case s.registry != nil:
		blobs = s.registry
	case s.remote != nil:
		blobs = s.remote
	}
	r := registrar.New(s.ledger, registrar.Options{
		Registry: c.registryHost(), Archive: c.Registry.Archive, Further: s.db, Staging: s.db, Blobs: blobs, Lookup: s.fetcher, Wake: wake, Log: s.log, Refused: s.noteRefusal,
	})
	a := api.New(api.Config{
		Ledger: s.ledger, Registrar: r, Judge: r, Refusals: s.db, Decisions: ledger.Decisions{Store: s.db},
		Staging: s.db, Tokens: s.db, ReadOnly: c.ReadOnly, OpenWrites: openWrites, Custodian: s.custodian.Load(),
		OpenPulls:    c.embeddedRegistry(),
		EvidenceHere: openWrites || c.embeddedRegistry() || c.EvidenceDownload == streamed,
		PublicURL:    c.URL, Registry: c.registryHost(), RegisterWait: c.RegisterWait, Limits: c.Limits.forAPI(),
		TrustedProxies: proxies, Log: s.log, Ready: s.ledger.Ready, Witnesses: s.witnesses(),
	})
	p := &pushes{
		ledger: s.ledger, registrar: r, refusals: s.db, refused: s.noteRefusal, api: a, readOnly: c.ReadOnly, placed: s.courier != nil, wait: c.RegisterWait,
	}
	if s.upstream != nil {
		p.host = c.Registry.Host
	}
	s.pushes.Store(p)
	s.api.Store(a)
	return nil
}

// close stops what openService started.
func (s *service) close(ctx context.Context) error {
	err := s.closeLog(ctx)
	if s.registry != nil {
		err = errors.Join(err, s.registry.Close())
	}
	if s.upstream != nil {
		s.upstream.Close()
	}
	if s.fetcher != nil {
		s.fetcher.Close()
	}
	if s.remote != nil {
		s.remote.Close()
	}
	return err
}

// closeLog undoes openLog, however far that came: the database last, for the
// ledger writes to it.
func (s *service) closeLog(ctx context.Context) error {
	var err error
	s.known.close()
	if s.public != nil {
		err = errors.Join(err, s.public.Close())
	}
	if s.ledger != nil {
		err = errors.Join(err, s.ledger.Close(ctx))
	}
	err = errors.Join(err, s.outside.close())
	if s.db != nil {
		err = errors.Join(err, s.db.Close())
	}
	s.public, s.ledger, s.db, s.outside, s.cosigner = nil, nil, nil, nil, nil
	return err
}
