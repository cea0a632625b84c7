// Package site is where the benchmarks measure: scittd on a throw-away PostgreSQL
// that pays for durability, each in a process of its own, with keys, a policy and
// a configuration in a folder. Nothing is placed, and nobody is slowed down.
package site

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/internal/testenv"
)

// Site is one log, before it is served. Whoever makes one closes it.
type Site struct {
	Dir      string
	Postgres *testenv.Postgres
	DSN      string
	Settings [][2]string // of PostgreSQL: what its figures depend on
	Config   string      // file of scittd's; policy.yaml is beside it
	Token    string      // of a caller who may publish

	scittd string
}

// New starts PostgreSQL with the given settings.
func New(ctx context.Context, scittd, name string, settings ...string) (_ *Site, err error) {
	s := &Site{scittd: scittd}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.Dir, err = os.MkdirTemp("", "scittd-"+name+"-"); err != nil {
		return nil, err
	}
	if s.Postgres, err = testenv.Launch(settings...); err != nil {
		return nil, err
	}
	database, err := s.Postgres.CreateDatabase()
	if err != nil {
		return nil, err
	}
	s.DSN = s.Postgres.DSN(database)
	s.Settings, err = readSettings(ctx, s.DSN)
	return s, err
}

// readSettings refuses a server that does not pay for durability.
func readSettings(ctx context.Context, dsn string) ([][2]string, error) {
	c, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	defer c.Close(ctx)
	var all [][2]string
	for _, name := range []string{"server_version", "fsync", "synchronous_commit", "full_page_writes", "wal_sync_method", "shared_buffers"} {
		var value string
		if err := c.QueryRow(ctx, `SELECT current_setting($1)`, name).Scan(&value); err != nil {
			return nil, err
		}
		if value == "off" {
			return nil, fmt.Errorf("PostgreSQL has %s off: its figures would mean nothing", name)
		}
		all = append(all, [2]string{name, value})
	}
	return all, nil
}

// Setting is one of Settings.
func (s *Site) Setting(name string) string {
	for _, setting := range s.Settings {
		if setting[0] == name {
			return setting[1]
		}
	}
	return ""
}

// Key makes one, and writes name.pem and name.pub.
func (s *Site) Key(name string, curve elliptic.Curve) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		return nil, err
	}
	private, err := cose.MarshalPrivatePEM(key)
	if err != nil {
		return nil, err
	}
	public, err := cose.MarshalPublicPEM(key.Public())
	if err != nil {
		return nil, err
	}
	return key, errors.Join(s.Write(name+".pem", string(private)), s.Write(name+".pub", string(public)))
}

// Write makes a file of the site.
func (s *Site) Write(name, text string) error {
	return os.WriteFile(filepath.Join(s.Dir, name), []byte(text), 0o600)
}

// Issuer is one that the policy admits, and the name of its key.
type Issuer struct{ Name, Key string }

// Init makes the log of a service at url. settings are what its configuration says
// besides, in YAML.
func (s *Site) Init(ctx context.Context, url, settings string, issuers ...Issuer) (err error) {
	if _, err := s.Key("operator", elliptic.P256()); err != nil {
		return err
	}
	var policy strings.Builder
	policy.WriteString("version: 1\nprevious: null\noperators: [{key: operator.pub}]\nthreshold: 1\nsubjects: [intoto, sub]\nvisibility: public\nissuers:\n")
	for _, i := range issuers {
		fmt.Fprintf(&policy, "  - {iss: %q, key: %s.pub}\n", i.Name, i.Key)
	}
	s.Config = filepath.Join(s.Dir, "scittd.yaml")
	for name, text := range map[string]string{
		"policy.yaml": policy.String(), "dsn": s.DSN, "scittd.yaml": fmt.Sprintf(`url: %s
data: {dir: %s}
database: {url_file: %s}
registry: {"off": true}
keys: {operator: %s}
log: {level: error}
%s`, url, filepath.Join(s.Dir, "data"), filepath.Join(s.Dir, "dsn"), filepath.Join(s.Dir, "operator.pem"), settings),
	} {
		if err := s.Write(name, text); err != nil {
			return err
		}
	}
	s.Token, err = Init(ctx, s.scittd, s.Config, filepath.Join(s.Dir, "policy.yaml"))
	return err
}

// Init makes the log that a configuration speaks of, and a token to publish with.
func Init(ctx context.Context, scittd, config, policy string) (token string, err error) {
	if _, err := command(ctx, scittd, "init", "--config", config, "--policy", policy); err != nil {
		return "", err
	}
	return command(ctx, scittd, "token", "create", "bench", "--scope", "publish", "--expires", "24h", "--config", config)
}

// command runs a verb of scittd and returns what it prints.
func command(ctx context.Context, scittd string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, scittd, args...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", scittd, args[0], err, errs.String())
	}
	return strings.TrimSpace(string(out)), nil
}

// Serve serves the site's log at url.
func (s *Site) Serve(ctx context.Context, url string, flags ...string) (*exec.Cmd, error) {
	return Serve(ctx, s.scittd, s.Config, url, flags...)
}

// Serve starts scittd and waits until it takes registrations.
func Serve(ctx context.Context, scittd, config, url string, flags ...string) (*exec.Cmd, error) {
	server := exec.Command(scittd, append([]string{"serve", "--config", config}, flags...)...)
	server.Stderr = os.Stderr
	if err := server.Start(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get(url + "/readyz/write")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return server, nil
			}
			err = errors.New(resp.Status)
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return nil, errors.Join(fmt.Errorf("scittd is not ready: %w", err), server.Process.Kill(), server.Wait())
		}
	}
}

// End asks a server to stop, and waits for it.
func End(server *exec.Cmd) error {
	return errors.Join(server.Process.Signal(syscall.SIGTERM), server.Wait())
}

// Address was free a moment ago.
func Address() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// Close stops PostgreSQL and removes everything. Servers have ended.
func (s *Site) Close() error {
	var err error
	if s.Postgres != nil {
		err = s.Postgres.Close()
	}
	return errors.Join(err, os.RemoveAll(s.Dir))
}
