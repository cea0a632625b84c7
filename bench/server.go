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
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/note"

	"github.com/scittd/scittd/internal/testenv"
)

// inFlight is how many requests either service takes at once. The default is
// below what one client that never waits may have under way.
const inFlight = 8192

// bench is scittd on its PostgreSQL.
type bench struct {
	dir      string
	url      string
	ops      string // URL of the operations listener
	token    string
	key      []byte // the issuers', PKCS #8
	key384   []byte // of the one that signs with ES384
	postgres *testenv.Postgres
	dsn      string
	settings [][2]string // of PostgreSQL
	server   *exec.Cmd
}

// start brings up PostgreSQL and scittd, in processes of their own.
func start(ctx context.Context, o options) (_ *bench, err error) {
	b := &bench{}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if b.dir, err = os.MkdirTemp("", "scittd-bench-"); err != nil {
		return nil, err
	}
	if b.postgres, err = testenv.Launch("shared_buffers=1GB", "min_wal_size=1GB"); err != nil {
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
	if err := b.age(ctx); err != nil {
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
	b.server, err = serve(ctx, o.scittd, config, b.url)
	return b, err
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
	for _, k := range []struct {
		name  string
		curve elliptic.Curve
		into  *[]byte
	}{{"issuer", elliptic.P256(), &b.key}, {"issuer384", elliptic.P384(), &b.key384}, {"operator", elliptic.P256(), new([]byte)}} {
		if *k.into, err = b.newKey(k.name, k.curve); err != nil {
			return "", err
		}
	}
	var policy strings.Builder
	policy.WriteString("version: 1\nprevious: null\noperators: [{key: operator.pub}]\nthreshold: 1\nsubjects: [intoto, sub]\nvisibility: public\nissuers:\n")
	for n := range issuers {
		fmt.Fprintf(&policy, "  - {iss: %q, key: issuer.pub}\n", issuerName(n))
	}
	fmt.Fprintf(&policy, "  - {iss: %q, key: issuer384.pub}\n", issuer384)
	var addresses [2]string
	for i := range addresses {
		if addresses[i], err = freeAddress(); err != nil {
			return "", err
		}
	}
	b.url, b.ops = "http://"+addresses[0], "http://"+addresses[1]
	settings := fmt.Sprintf(`url: %s
listen: %s
ops_listen: %s
data: {dir: %s}
database: {url_file: %s}
registry: {"off": true}
keys: {operator: %s}
limits: {caller_rate: 0, address_rate: 0, in_flight: %d}
log: {level: error}
`, b.url, addresses[0], addresses[1], filepath.Join(b.dir, "data"), filepath.Join(b.dir, "dsn"), filepath.Join(b.dir, "operator.pem"), inFlight)
	config = filepath.Join(b.dir, "scittd.yaml")
	for name, text := range map[string]string{
		"policy.yaml": policy.String(), "dsn": b.dsn, "scittd.yaml": settings,
	} {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	return config, nil
}

// freeAddress was free a moment ago.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// newKey writes name.pem and name.pub, and returns what is in the first.
func (b *bench) newKey(name string, curve elliptic.Curve) ([]byte, error) {
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
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
	return private, nil
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

// serve starts scittd and waits until it takes registrations.
func serve(ctx context.Context, scittd, config, url string) (*exec.Cmd, error) {
	server := exec.Command(scittd, "serve", "--config", config)
	server.Stderr = os.Stderr
	if err := server.Start(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
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

// end asks a server to stop, and waits for it.
func end(server *exec.Cmd) error {
	return errors.Join(server.Process.Signal(syscall.SIGTERM), server.Wait())
}

// cpu is what scittd and PostgreSQL have used so far.
func (b *bench) cpu() (used usage, err error) {
	if used.server, err = cpu(b.server.Process.Pid); err != nil {
		return used, err
	}
	postmaster, err := b.postgres.PID()
	if err != nil {
		return used, err
	}
	used.postgres, err = familyCPU(postmaster)
	return used, err
}

// batches is how many batches scittd has committed so far.
func (b *bench) batches() (n int, err error) {
	resp, err := http.Get(b.ops + "/metrics")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), "scittd_batches_committed_total "); ok {
			return strconv.Atoi(value)
		}
	}
	return 0, fmt.Errorf("%s/metrics shows no batches", b.ops)
}

// age gives PostgreSQL what any server has that did not start a minute ago: log
// files of the past, to be written over. A new one makes and zeroes each file
// first, which would cost as much CPU as a fifth of everything else it does.
func (b *bench) age(ctx context.Context) error {
	c, err := pgx.Connect(ctx, b.dsn)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	const files = 64 // of 16 MiB: min_wal_size
	for range files {
		if _, err := c.Exec(ctx, `SELECT pg_logical_emit_message(true, 'bench', '')`); err != nil {
			return err
		}
		if _, err := c.Exec(ctx, `SELECT pg_switch_wal()`); err != nil {
			return err
		}
	}
	_, err = c.Exec(ctx, `CHECKPOINT`)
	return err
}

// delayFlushes makes each flush of PostgreSQL's log take that much longer:
// commit_delay waits before a flush, and with commit_siblings 0 before every one.
func (b *bench) delayFlushes(ctx context.Context, flush time.Duration) error {
	return b.set(ctx, [2]string{"commit_siblings", "0"}, [2]string{"commit_delay", fmt.Sprint(flush.Microseconds())})
}

// set changes settings of PostgreSQL for all sessions.
func (b *bench) set(ctx context.Context, settings ...[2]string) error {
	c, err := pgx.Connect(ctx, b.dsn)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	for _, s := range settings {
		if _, err := c.Exec(ctx, `ALTER SYSTEM SET `+s[0]+` = '`+s[1]+`'`); err != nil {
			return err
		}
	}
	if _, err := c.Exec(ctx, `SELECT pg_reload_conf()`); err != nil {
		return err
	}
	// Every backend reads its settings anew before its next statement, once
	// the postmaster has passed the word on; this session is one of them.
	for _, s := range settings {
		for {
			var now string
			if err := c.QueryRow(ctx, `SELECT setting FROM pg_settings WHERE name = $1`, s[0]).Scan(&now); err != nil {
				return err
			}
			if now == s[1] {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	return nil
}

// close ends both servers and removes everything.
func (b *bench) close() error {
	var err error
	if b.server != nil {
		err = end(b.server)
	}
	if b.postgres != nil {
		err = errors.Join(err, b.postgres.Close())
	}
	return errors.Join(err, os.RemoveAll(b.dir))
}

// peerProcess is Tessera, beside it.
type peerProcess struct {
	cmd      *exec.Cmd
	in       io.Closer
	url      string
	verifier string // note key
}

// startPeer runs the peer in a process of its own, under the policy of scittd.
func (b *bench) startPeer(batchAge time.Duration) (_ *peerProcess, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &peerProcess{}
	signer, verifier, err := note.GenerateKey(rand.Reader, "peer.example/log")
	if err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	p.url, p.verifier = "http://"+address, verifier
	p.cmd = exec.Command(self, "peer")
	p.cmd.Stderr = os.Stderr
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	p.in = in
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	err = json.NewEncoder(in).Encode(peerOrder{
		Dir: filepath.Join(b.dir, "peer"), Address: address, Policy: filepath.Join(b.dir, "policy.yaml"), Token: b.token,
		Signer: signer, BatchAge: batchAge, InFlight: inFlight,
	})
	if err == nil {
		_, err = bufio.NewReader(out).ReadString('\n')
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("peer: %w", err), p.close())
	}
	return p, nil
}

func (p *peerProcess) cpu() (used usage, err error) {
	used.server, err = cpu(p.cmd.Process.Pid)
	return used, err
}

func (p *peerProcess) close() error { return errors.Join(p.in.Close(), p.cmd.Wait()) }
