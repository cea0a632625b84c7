package main

import (
	"context"
	"crypto"
	"crypto/elliptic"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/scittd/scittd/bench/site"
)

const issuer = "https://issuer.example"

// service is one scittd with its defaults, but for rates of callers, on a
// throw-away PostgreSQL.
type service struct {
	*site.Site
	process *exec.Cmd
	address string
	key     crypto.Signer // of the issuer
	signed  int           // statements so far
}

func start(ctx context.Context, scittd string) (_ *service, err error) {
	s := &service{}
	if s.Site, err = site.New(ctx, scittd, "overload", "shared_buffers=512MB"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.key, err = s.Key("issuer", elliptic.P256()); err != nil {
		return nil, err
	}
	if s.address, err = site.Address(); err != nil {
		return nil, err
	}
	url := "http://" + s.address
	if err := s.Init(ctx, url, "listen: "+s.address+"\nlimits: {caller_rate: 0, address_rate: 0}\n", site.Issuer{Name: issuer, Key: "issuer"}); err != nil {
		return nil, err
	}
	s.process, err = s.Serve(ctx, url)
	return s, err
}

func (s *service) close() error {
	var err error
	if s.process != nil {
		err = site.End(s.process)
	}
	return errors.Join(err, s.Close())
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
