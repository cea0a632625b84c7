package main

import (
	"bufio"
	"context"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/note"

	"github.com/scittd/scittd/bench/site"
)

// inFlight is how many requests either service takes at once. The default is
// below what one client that never waits may have under way.
const inFlight = 8192

// bench is scittd on its PostgreSQL.
type bench struct {
	*site.Site
	url    string
	ops    string // URL of the operations listener
	key    []byte // the issuers', PKCS #8
	key384 []byte // of the one that signs with ES384
	server *exec.Cmd
}

// start brings up PostgreSQL and scittd, in processes of their own.
func start(ctx context.Context, o options) (_ *bench, err error) {
	b := &bench{}
	if b.Site, err = site.New(ctx, o.scittd, "bench", "shared_buffers=1GB", "min_wal_size=1GB"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if err := b.age(ctx); err != nil {
		return nil, err
	}
	if err := b.configure(ctx); err != nil {
		return nil, err
	}
	b.server, err = b.Serve(ctx, b.url)
	return b, err
}

// configure makes the log: every issuer of the corpus is admitted by a pinned key.
func (b *bench) configure(ctx context.Context) (err error) {
	for _, k := range []struct {
		name  string
		curve elliptic.Curve
		into  *[]byte
	}{{"issuer", elliptic.P256(), &b.key}, {"issuer384", elliptic.P384(), &b.key384}} {
		key, err := b.Key(k.name, k.curve)
		if err != nil {
			return err
		}
		if *k.into, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
			return err
		}
	}
	var addresses [2]string
	for i := range addresses {
		if addresses[i], err = site.Address(); err != nil {
			return err
		}
	}
	b.url, b.ops = "http://"+addresses[0], "http://"+addresses[1]
	var admitted []site.Issuer
	for n := range issuers {
		admitted = append(admitted, site.Issuer{Name: issuerName(n), Key: "issuer"})
	}
	admitted = append(admitted, site.Issuer{Name: issuer384, Key: "issuer384"})
	return b.Init(ctx, b.url, fmt.Sprintf("listen: %s\nops_listen: %s\nlimits: {caller_rate: 0, address_rate: 0, in_flight: %d}\n",
		addresses[0], addresses[1], inFlight), admitted...)
}

// cpu is what scittd and PostgreSQL have used so far.
func (b *bench) cpu() (used usage, err error) {
	if used.server, err = cpu(b.server.Process.Pid); err != nil {
		return used, err
	}
	postmaster, err := b.Postgres.PID()
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

// age gives PostgreSQL what any server has that did not start a minute ago.
//
// Log files of the past, to be written over: a new one makes and zeroes each file
// first, which would cost as much CPU as a fifth of everything else it does.
//
// Shared buffers that have been used: the kernel clears each page of them when it
// is touched first, which was an eighth of PostgreSQL's CPU while a bulk window
// filled a new one. So a table as large as all of them is written, one row to a
// page, and dropped. INSERT goes through all buffers; COPY and CREATE TABLE AS
// would go round in a few.
func (b *bench) age(ctx context.Context) error {
	c, err := pgx.Connect(ctx, b.DSN)
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
	for _, sql := range []string{
		`CREATE UNLOGGED TABLE filler (page text)`,
		`ALTER TABLE filler ALTER page SET STORAGE PLAIN`, // neither compressed nor elsewhere
		`INSERT INTO filler SELECT repeat('x', 8000) FROM generate_series(1, (SELECT setting::int FROM pg_settings WHERE name = 'shared_buffers'))`,
		`DROP TABLE filler`,
		`CHECKPOINT`,
	} {
		if _, err := c.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

// delayFlushes makes each flush of PostgreSQL's log take that much longer:
// commit_delay waits before a flush, and with commit_siblings 0 before every one.
func (b *bench) delayFlushes(ctx context.Context, flush time.Duration) error {
	return b.set(ctx, [2]string{"commit_siblings", "0"}, [2]string{"commit_delay", fmt.Sprint(flush.Microseconds())})
}

// set changes settings of PostgreSQL for all sessions.
func (b *bench) set(ctx context.Context, settings ...[2]string) error {
	c, err := pgx.Connect(ctx, b.DSN)
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
		err = site.End(b.server)
	}
	return errors.Join(err, b.Close())
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
	address, err := site.Address()
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
		Dir: filepath.Join(b.Dir, "peer"), Address: address, Policy: filepath.Join(b.Dir, "policy.yaml"), Token: b.Token,
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
