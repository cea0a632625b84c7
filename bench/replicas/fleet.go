package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/scittd/scittd/internal/testenv"
)

// bench is a log in a throw-away PostgreSQL.
type bench struct {
	options
	dir      string
	postgres *testenv.Postgres
	dsn      string
	config   string
	token    string
	key      *ecdsa.PrivateKey // of every issuer
	signed   int               // statements so far
	http     *http.Client

	server, durability string // of PostgreSQL
}

func start(ctx context.Context, o options) (_ *bench, err error) {
	b := &bench{options: o, http: &http.Client{
		Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: o.clients},
	}}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if b.dir, err = os.MkdirTemp("", "scittd-replicas-"); err != nil {
		return nil, err
	}
	if b.postgres, err = testenv.Launch("shared_buffers=512MB"); err != nil {
		return nil, err
	}
	database, err := b.postgres.CreateDatabase()
	if err != nil {
		return nil, err
	}
	b.dsn = b.postgres.DSN(database)
	err = b.query(ctx, `SELECT 'PostgreSQL ' || current_setting('server_version'), current_setting('synchronous_commit')`, &b.server, &b.durability)
	if err != nil {
		return nil, err
	}
	if b.durability == "off" {
		return nil, errors.New("PostgreSQL has synchronous_commit off: its figures would mean nothing")
	}
	if err := b.configure(); err != nil {
		return nil, err
	}
	if _, err := b.command(ctx, "init", "--config", b.config, "--policy", filepath.Join(b.dir, "policy.yaml")); err != nil {
		return nil, err
	}
	b.token, err = b.command(ctx, "token", "create", "bench", "--scope", "publish", "--expires", "24h", "--config", b.config)
	return b, err
}

// query reads one row, on a connection of its own.
func (b *bench) query(ctx context.Context, sql string, into ...any) error {
	c, err := pgx.Connect(ctx, b.dsn)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	return c.QueryRow(ctx, sql).Scan(into...)
}

// configure writes keys, policy and configuration.
func (b *bench) configure() (err error) {
	for _, name := range []string{"operator", "issuer"} {
		if b.key, err = b.newKey(name); err != nil {
			return err
		}
	}
	var policy strings.Builder
	policy.WriteString("version: 1\nprevious: null\noperators: [{key: operator.pub}]\nthreshold: 1\nsubjects: [intoto, sub]\nvisibility: public\nissuers:\n")
	for n := range issuers {
		fmt.Fprintf(&policy, "  - {iss: %q, key: issuer.pub}\n", issuerName(n))
	}
	settings := fmt.Sprintf(`url: http://scitt.example
data: {dir: %s}
database: {url_file: %s}
registry: {"off": true}
keys: {operator: %s}
limits: {caller_rate: 0, address_rate: 0}
log: {level: error}
`, filepath.Join(b.dir, "data"), filepath.Join(b.dir, "dsn"), filepath.Join(b.dir, "operator.pem"))
	b.config = filepath.Join(b.dir, "scittd.yaml")
	for name, text := range map[string]string{"policy.yaml": policy.String(), "dsn": b.dsn, "scittd.yaml": settings} {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// newKey writes name.pem and name.pub.
func (b *bench) newKey(name string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	for file, block := range map[string]*pem.Block{
		name + ".pem": {Type: "PRIVATE KEY", Bytes: private},
		name + ".pub": {Type: "PUBLIC KEY", Bytes: public},
	} {
		if err := os.WriteFile(filepath.Join(b.dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			return nil, err
		}
	}
	return key, nil
}

// command runs a verb of scittd and returns what it prints.
func (b *bench) command(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, b.scittd, args...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", b.scittd, args[0], err, errs.String())
	}
	return strings.TrimSpace(string(out)), nil
}

func (b *bench) close() error {
	var err error
	if b.postgres != nil {
		err = b.postgres.Close()
	}
	return errors.Join(err, os.RemoveAll(b.dir))
}

// replica is one running scittd.
type replica struct {
	*exec.Cmd
	name     string // of its sessions in PostgreSQL
	url, ops string
}

// fleet starts n of them; stop ends them.
func (b *bench) fleet(ctx context.Context, n int) (all []*replica, stop func() error, err error) {
	stop = func() error {
		var errs []error
		for _, r := range all {
			errs = append(errs, r.Process.Signal(syscall.SIGTERM), r.Wait())
		}
		return errors.Join(errs...)
	}
	for i := range n {
		r, err := b.replica(ctx, fmt.Sprintf("replica%d", i))
		if err != nil {
			return nil, nil, errors.Join(err, stop())
		}
		all = append(all, r)
	}
	return all, stop, nil
}

func (b *bench) replica(ctx context.Context, name string) (*replica, error) {
	dsn := filepath.Join(b.dir, name)
	if err := os.WriteFile(dsn, []byte(b.dsn+"&application_name="+name), 0o600); err != nil {
		return nil, err
	}
	listen, err := freeAddress()
	if err != nil {
		return nil, err
	}
	ops, err := freeAddress()
	if err != nil {
		return nil, err
	}
	r := &replica{
		name: name, url: "http://" + listen, ops: "http://" + ops,
		Cmd: exec.Command(b.scittd, "serve", "--config", b.config, "--listen", listen, "--ops-listen", ops, "--database-url-file", dsn),
	}
	r.Stderr = os.Stderr
	if err := r.Start(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get(r.url + "/readyz/write")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return r, nil
			}
			err = errors.New(resp.Status)
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return nil, errors.Join(fmt.Errorf("scittd is not ready: %w", err), r.Process.Kill(), r.Wait())
		}
	}
}

// freeAddress was free a moment ago.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// figures reads the counters of the operations listener.
func (r *replica) figures() (map[string]int, error) {
	resp, err := http.Get(r.ops + "/metrics")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	all := map[string]int{}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		name, value, ok := strings.Cut(lines.Text(), " ")
		if n, err := strconv.Atoi(value); ok && err == nil {
			all[name] = n
		}
	}
	if _, ok := all["scittd_batches_committed_total"]; !ok {
		return nil, fmt.Errorf("%s/metrics shows no batches", r.ops)
	}
	return all, nil
}

// holds says whether all others wait for r, which has the newest head locked and
// is silent.
func (b *bench) holds(ctx context.Context, r *replica) (held bool, err error) {
	err = b.query(ctx, fmt.Sprintf(`
		SELECT count(*) FILTER (WHERE application_name = '%[1]s' AND state = 'idle in transaction') = 1
		   AND count(*) FILTER (WHERE application_name <> '%[1]s' AND wait_event_type = 'Lock') = %[2]d
		FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'replica%%'`, r.name, b.replicas-1), &held)
	return held, err
}
