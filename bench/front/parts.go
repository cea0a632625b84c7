package main

import (
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

	"github.com/scittd/scittd/internal/testenv"
)

const (
	issuer     = "https://issuer.example"
	repository = "bench/app"
)

// bench is a registry, and what is begun before it.
type bench struct {
	options
	dir      string
	key      *ecdsa.PrivateKey // of the issuer
	upstream string            // the registry's host:port
	version  string            // what it says of itself
	watcher  int               // pid of the registry's parent
	stop     func() error
	started  []*exec.Cmd
	packed   int // bytes of the image that is pulled

	goals  strings.Builder
	missed bool
}

func start(ctx context.Context, o options) (_ *bench, err error) {
	b := &bench{options: o}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if b.dir, err = os.MkdirTemp("", "scittd-front-"); err != nil {
		return nil, err
	}
	if b.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(b.key.Public())
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(b.path("issuer.pub"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), 0o600); err != nil {
		return nil, err
	}
	if b.version, err = command(ctx, b.dir, o.registry, "--version"); err != nil {
		return nil, err
	}
	b.upstream, b.watcher, b.stop, err = testenv.LaunchRegistry(o.registry, "")
	return b, err
}

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

func (b *bench) close() error {
	var err error
	for _, cmd := range b.started {
		if signalErr := cmd.Process.Signal(os.Interrupt); !errors.Is(signalErr, os.ErrProcessDone) {
			err = errors.Join(err, signalErr, cmd.Wait())
		}
	}
	if b.stop != nil {
		err = errors.Join(err, b.stop())
	}
	return errors.Join(err, os.RemoveAll(b.dir))
}

// command runs a program to its end and returns what it printed.
func command(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("%s %s: %w: %s", name, args[0], err, exit.Stderr)
	}
	return strings.TrimSpace(string(out)), err
}

// service is one scittd.
type service struct {
	url   string
	pid   int
	token string // that may register
}

// serve begins a scittd with a log of its own in the folder name.
func (b *bench) serve(ctx context.Context, name string, settings ...string) (*service, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		return nil, err
	}
	s := &service{url: "http://" + address}
	_, err = command(ctx, b.dir, b.scittd, append([]string{"init", "--dir", name, "--url", s.url, "--listen", address, "--issuer", issuer, "--issuer-key", "issuer.pub",
		"--limits-caller-rate", "0", "--limits-address-rate", "0", "--log-level", "error"}, settings...)...)
	if err != nil {
		return nil, err
	}
	if s.token, err = command(ctx, b.dir, b.scittd, "token", "create", "bench", "--scope", "publish", "--expires", "24h", "--dir", name); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, b.scittd, "serve", "--dir", name)
	cmd.Dir, cmd.Stderr = b.dir, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	b.started = append(b.started, cmd)
	s.pid = cmd.Process.Pid
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		resp, err := http.Get(s.url + "/readyz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return s, nil
			}
		}
		if time.Since(begin) > patience {
			return nil, fmt.Errorf("scittd does not answer: %w", err)
		}
	}
}

// inFront begins a scittd in front of the registry.
func (b *bench) inFront(ctx context.Context, name string) (*service, error) {
	return b.serve(ctx, name, "--registry-host", b.upstream, "--registry-plain-http", "--registry-front", "in-front")
}

// tick is the unit of CPU times in /proc (USER_HZ, 100 on every Linux).
const tick = 10 * time.Millisecond

// cpu is what process pid has used so far.
func cpu(pid int) (time.Duration, error) {
	f, err := stat(pid)
	if err != nil {
		return 0, err
	}
	var ticks int64
	for _, field := range f[11:13] { // utime and stime
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * tick, nil
}

// stat are the fields of /proc/pid/stat behind the name (proc(5)).
func stat(pid int) ([]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	_, after, _ := bytes.Cut(text, []byte(") ")) // the name may hold spaces
	fields := strings.Fields(string(after))
	if len(fields) < 15 {
		return nil, fmt.Errorf("/proc/%d/stat: %q", pid, text)
	}
	return fields, nil
}

// child is the one child of process pid.
func child(pid int) (int, error) {
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, p := range all {
		n, err := strconv.Atoi(filepath.Base(p))
		if err != nil {
			return 0, err
		}
		if f, err := stat(n); err == nil && f[1] == strconv.Itoa(pid) { // others may end meanwhile
			return n, nil
		}
	}
	return 0, fmt.Errorf("process %d has no child", pid)
}

// resident is the memory of process pid in bytes.
func resident(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0, fmt.Errorf("/proc/%d/statm: %q", pid, text)
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}
