package main

import (
	"bytes"
	"context"
	"crypto"
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
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/internal/testenv"
)

const issuer = "https://issuer.example"

const policy = `version: 1
previous: null
operators: [{key: operator.pub}]
threshold: 1
subjects: [intoto, sub]
visibility: public
issuers: [{iss: "` + issuer + `", key: issuer.pub}]
`

// service is one scittd with its defaults, but for rates of callers, on a
// throw-away PostgreSQL.
type service struct {
	scittd   string
	dir      string
	postgres *testenv.Postgres
	process  *exec.Cmd
	address  string
	token    string
	key      crypto.Signer // of the issuer
	signed   int           // statements so far

	server, durability string // of PostgreSQL
}

func start(ctx context.Context, scittd string) (_ *service, err error) {
	s := &service{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.scittd, err = filepath.Abs(scittd); err != nil {
		return nil, err
	}
	if s.dir, err = os.MkdirTemp("", "scittd-overload-"); err != nil {
		return nil, err
	}
	if s.postgres, err = testenv.Launch("shared_buffers=512MB"); err != nil {
		return nil, err
	}
	database, err := s.postgres.CreateDatabase()
	if err != nil {
		return nil, err
	}
	dsn := s.postgres.DSN(database)
	if err := s.askPostgres(ctx, dsn); err != nil {
		return nil, err
	}
	if err := s.files(dsn); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.address = l.Addr().String()
	if err := l.Close(); err != nil {
		return nil, err
	}
	if _, err := s.command(ctx, "init", "--dir", "service", "--url", "http://"+s.address, "--listen", s.address, "--policy", "policy.yaml",
		"--keys-operator", "operator.pem", "--database-url-file", "dsn", "--registry-off"); err != nil {
		return nil, err
	}
	if s.token, err = s.command(ctx, "token", "create", "bench", "--scope", "publish", "--expires", "24h", "--dir", "service"); err != nil {
		return nil, err
	}
	return s, s.serve(ctx)
}

func (s *service) askPostgres(ctx context.Context, dsn string) error {
	c, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	err = c.QueryRow(ctx, `SELECT 'PostgreSQL ' || current_setting('server_version'), current_setting('synchronous_commit')`).Scan(&s.server, &s.durability)
	if err == nil && s.durability == "off" {
		err = errors.New("PostgreSQL has synchronous_commit off: its figures would mean nothing")
	}
	return err
}

// files writes policy, keys and where the database is.
func (s *service) files(dsn string) error {
	files := map[string][]byte{"policy.yaml": []byte(policy), "dsn": []byte(dsn)}
	for _, name := range []string{"operator", "issuer"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		if files[name+".pem"], err = cose.MarshalPrivatePEM(key); err != nil {
			return err
		}
		if files[name+".pub"], err = cose.MarshalPublicPEM(key.Public()); err != nil {
			return err
		}
		s.key = key
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(s.dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// command runs a verb of scittd and returns what it prints.
func (s *service) command(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, s.scittd, args...)
	cmd.Dir = s.dir
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", s.scittd, args[0], err, errs.String())
	}
	return strings.TrimSpace(string(out)), nil
}

// serve starts scittd and waits until it would register.
func (s *service) serve(ctx context.Context) error {
	s.process = exec.Command(s.scittd, "serve", "--dir", "service", "--limits-caller-rate", "0", "--limits-address-rate", "0", "--log-level", "error")
	s.process.Dir, s.process.Stderr = s.dir, os.Stderr
	if err := s.process.Start(); err != nil {
		s.process = nil
		return err
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get("http://" + s.address + "/readyz/write")
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

func (s *service) close() error {
	var errs []error
	if s.process != nil {
		errs = append(errs, s.process.Process.Signal(syscall.SIGTERM), s.process.Wait())
	}
	if s.postgres != nil {
		errs = append(errs, s.postgres.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

// memory is what scittd has resident, in bytes.
type memory struct{ median, most int64 }

// watchMemory looks ten times a second, and once at least, until ctx ends.
func (s *service) watchMemory(ctx context.Context) memory {
	var seen []int64
	ticks := time.NewTicker(100 * time.Millisecond)
	defer ticks.Stop()
	for {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", s.process.Process.Pid)); err == nil {
			if fields := strings.Fields(string(b)); len(fields) > 1 {
				pages, _ := strconv.ParseInt(fields[1], 10, 64)
				seen = append(seen, pages*int64(os.Getpagesize()))
			}
		}
		select {
		case <-ticks.C:
		case <-ctx.Done():
			if len(seen) == 0 {
				return memory{}
			}
			slices.Sort(seen)
			return memory{median: seen[len(seen)/2], most: seen[len(seen)-1]}
		}
	}
}

// cpu is what scittd and this process have used so far.
func (s *service) cpu() (server, own time.Duration, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.process.Process.Pid))
	if err != nil {
		return 0, 0, err
	}
	_, after, _ := strings.Cut(string(b), ") ")
	fields := strings.Fields(after) // from the third on (proc(5))
	if len(fields) < 13 {
		return 0, 0, fmt.Errorf("/proc/<scittd>/stat: %q", b)
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux
	for _, field := range fields[11:13] {
		n, err := strconv.Atoi(field)
		if err != nil {
			return 0, 0, err
		}
		server += time.Duration(n) * tick
	}
	var usage unix.Rusage
	err = unix.Getrusage(unix.RUSAGE_SELF, &usage)
	return server, time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), err
}

// loadAverage is that of the last minute.
func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err.Error()
	}
	one, _, _ := strings.Cut(string(b), " ")
	return one
}
