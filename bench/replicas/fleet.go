package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/scittd/scittd/bench/site"
)

// bench is a log in a throw-away PostgreSQL.
type bench struct {
	options
	*site.Site
	key    *ecdsa.PrivateKey // of every issuer
	signed int               // statements so far
	http   *http.Client
}

func start(ctx context.Context, o options) (_ *bench, err error) {
	b := &bench{options: o, http: &http.Client{
		Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: o.clients},
	}}
	if b.Site, err = site.New(ctx, o.scittd, "replicas", "shared_buffers=512MB"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
		}
	}()
	if b.key, err = b.Key("issuer", elliptic.P256()); err != nil {
		return nil, err
	}
	var admitted []site.Issuer
	for n := range issuers {
		admitted = append(admitted, site.Issuer{Name: issuerName(n), Key: "issuer"})
	}
	return b, b.Init(ctx, "http://scitt.example", "limits: {caller_rate: 0, address_rate: 0}\n", admitted...)
}

// query reads one row, on a connection of its own.
func (b *bench) query(ctx context.Context, sql string, into ...any) error {
	c, err := pgx.Connect(ctx, b.DSN)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	return c.QueryRow(ctx, sql).Scan(into...)
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
			errs = append(errs, site.End(r.Cmd))
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
	if err := b.Write(name, b.DSN+"&application_name="+name); err != nil {
		return nil, err
	}
	listen, err := site.Address()
	if err != nil {
		return nil, err
	}
	ops, err := site.Address()
	if err != nil {
		return nil, err
	}
	r := &replica{name: name, url: "http://" + listen, ops: "http://" + ops}
	r.Cmd, err = b.Serve(ctx, r.url, "--listen", listen, "--ops-listen", ops, "--database-url-file", filepath.Join(b.Dir, name))
	return r, err
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
