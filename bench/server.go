package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/scittd/scittd/internal/testenv"
)

// bench is the two servers under load.
type bench struct {
	dir      string
	url      string
	token    string
	key      []byte // the issuers', PKCS #8
	postgres *testenv.Postgres
	dsn      string
	settings [][2]string // of PostgreSQL
	server   *exec.Cmd
	entries  int // registered so far; 2 of them by init
}

// start brings up PostgreSQL and scittd, in processes of their own.
func start(ctx context.Context, o options) (_ *bench, err error) {
	b := &bench{entries: 2}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if b.dir, err = os.MkdirTemp("", "scittd-bench-"); err != nil {
		return nil, err
	}
	if b.postgres, err = testenv.Launch("shared_buffers=1GB"); err != nil {
		return nil, err
	}
	database, err := b.postgres.CreateDatabase()
	if err != nil {
		return nil, err
	}
	b.dsn = b.postgres.DSN(database)
	if b.settings, err = readSettings(ctx, b.dsn); err != nil {
		return nil, err
	}
	config, err := b.configure()
	if err != nil {
		return nil, err
	}
	if _, err := command(ctx, o.scittd, "init", "--config", config, "--policy", filepath.Join(b.dir, "policy.yaml")); err != nil {
		return nil, err
	}
	if b.token, err = command(ctx, o.scittd, "token", "create", "bench", "--scope", "publish", "--expires", "24h", "--config", config); err != nil {
		return nil, err
	}
	return b, b.serve(ctx, o.scittd, config)
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

// configure writes keys, policy and configuration: every issuer of the corpus
// is admitted by a pinned key, nothing is placed, nobody is slowed down.
func (b *bench) configure() (config string, err error) {
	issuer, err := b.newKey("issuer")
	if err != nil {
		return "", err
	}
	if b.key, err = x509.MarshalPKCS8PrivateKey(issuer); err != nil {
		return "", err
	}
	if _, err := b.newKey("operator"); err != nil {
		return "", err
	}
	var policy strings.Builder
	policy.WriteString("version: 1\nprevious: null\noperators: [{key: operator.pub}]\nthreshold: 1\nsubjects: [intoto, sub]\nvisibility: public\nissuers:\n")
	for n := range issuers {
		fmt.Fprintf(&policy, "  - {iss: %q, key: issuer.pub}\n", issuerName(n))
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0") // a port that was free a moment ago
	if err != nil {
		return "", err
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		return "", err
	}
	b.url = "http://" + address
	settings := fmt.Sprintf(`url: %s
listen: %s
data: {dir: %s}
database: {url_file: %s}
registry: {"off": true}
keys: {operator: %s}
limits: {caller_rate: 0, address_rate: 0}
log: {level: error}
`, b.url, address, filepath.Join(b.dir, "data"), filepath.Join(b.dir, "dsn"), filepath.Join(b.dir, "operator.pem"))
	config = filepath.Join(b.dir, "scittd.yaml")
	for name, text := range map[string]string{"policy.yaml": policy.String(), "dsn": b.dsn, "scittd.yaml": settings} {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	return config, nil
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

// command runs a command of the server's binary and returns what it prints.
func command(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var errors strings.Builder
	cmd.Stderr = &errors
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, args[0], err, errors.String())
	}
	return strings.TrimSpace(string(out)), nil
}

func (b *bench) serve(ctx context.Context, scittd, config string) error {
	b.server = exec.Command(scittd, "serve", "--config", config)
	b.server.Stderr = os.Stderr
	if err := b.server.Start(); err != nil {
		return err
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		resp, err := http.Get(b.url + "/readyz/write")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			err = errors.New(resp.Status)
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("scittd is not ready: %w", err)
		}
	}
}

// close ends both servers and removes everything.
func (b *bench) close() error {
	var err error
	if b.server != nil && b.server.Process != nil {
		err = errors.Join(b.server.Process.Signal(syscall.SIGTERM), b.server.Wait())
	}
	if b.postgres != nil {
		err = errors.Join(err, b.postgres.Close())
	}
	return errors.Join(err, os.RemoveAll(b.dir))
}

// window is one measurement.
type window struct {
	outcome
	count            int
	server, postgres time.Duration // CPU used meanwhile
	fdatasync        time.Duration // just before, with nothing else going on
}

func (w window) rate() float64 { return float64(w.count) / w.Elapsed.Seconds() }
func (w window) perEntry(d time.Duration) time.Duration {
	return d / time.Duration(w.count)
}

// syncs is p50 in fdatasyncs.
func (w window) syncs() float64 { return float64(w.P50) / float64(w.fdatasync) }

// verifyShare is how much of what a registration costs is one hot verification.
func (w window) verifyShare() float64 {
	return float64(w.Verify) / float64(w.perEntry(w.server+w.postgres))
}

// load registers count new statements with so many clients, each alone or bulk
// to a request, from a process of its own.
func (b *bench) load(ctx context.Context, clients, bulk, count int) (w window, err error) {
	self, err := os.Executable()
	if err != nil {
		return w, err
	}
	cmd := exec.CommandContext(ctx, self, "load")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return w, err
	}
	outPipe, err := cmd.StdoutPipe()
	if err != nil {
		return w, err
	}
	if err := cmd.Start(); err != nil {
		return w, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, in.Close(), cmd.Wait())
		}
	}()
	out := bufio.NewReader(outPipe)
	o := order{URL: b.url, Token: b.token, Key: b.key, First: b.entries, Count: count, Clients: clients, Bulk: bulk}
	if err := json.NewEncoder(in).Encode(o); err != nil {
		return w, err
	}
	if _, err := out.ReadString('\n'); err != nil { // the corpus is signed
		return w, fmt.Errorf("load generator: %w", err)
	}
	w.count = count
	if w.fdatasync, err = fdatasync(b.postgres.Dir()); err != nil {
		return w, err
	}
	before, err := b.cpu()
	if err != nil {
		return w, err
	}
	if _, err := io.WriteString(in, "go\n"); err != nil {
		return w, err
	}
	if err := json.NewDecoder(out).Decode(&w.outcome); err != nil {
		return w, fmt.Errorf("load generator: %w", err)
	}
	after, err := b.cpu()
	if err != nil {
		return w, err
	}
	w.server, w.postgres = after[0]-before[0], after[1]-before[1]
	b.entries += count
	return w, cmd.Wait()
}

// loadSlowly is load with one client, each flush of PostgreSQL's log taking
// that much longer: commit_delay waits before a flush, and with
// commit_siblings 0 before every one.
func (b *bench) loadSlowly(ctx context.Context, flush time.Duration, count int) (w window, err error) {
	if err := b.delayFlushes(ctx, flush); err != nil {
		return w, err
	}
	defer func() { err = errors.Join(err, b.delayFlushes(ctx, 0)) }()
	w, err = b.load(ctx, 1, 0, count)
	w.fdatasync += flush
	return w, err
}

func (b *bench) delayFlushes(ctx context.Context, flush time.Duration) error {
	c, err := pgx.Connect(ctx, b.dsn)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	for _, sql := range []string{
		fmt.Sprintf(`ALTER SYSTEM SET commit_delay = %d`, flush.Microseconds()),
		`ALTER SYSTEM SET commit_siblings = 0`,
		`SELECT pg_reload_conf()`,
	} {
		if _, err := c.Exec(ctx, sql); err != nil {
			return err
		}
	}
	// Every backend reads its settings anew before its next statement, once
	// the postmaster has passed the word on; this session is one of them.
	for {
		var now string
		if err := c.QueryRow(ctx, `SELECT setting FROM pg_settings WHERE name = 'commit_delay'`).Scan(&now); err != nil {
			return err
		}
		if now == fmt.Sprint(flush.Microseconds()) {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// cpu is what scittd and PostgreSQL have used so far.
func (b *bench) cpu() (used [2]time.Duration, err error) {
	if used[0], err = cpu(b.server.Process.Pid); err != nil {
		return used, err
	}
	postmaster, err := b.postgres.PID()
	if err != nil {
		return used, err
	}
	used[1], err = familyCPU(postmaster)
	return used, err
}
