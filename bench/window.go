package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
	"unicode"
)

// usage is CPU time by process; the peer has no PostgreSQL.
type usage struct{ server, postgres time.Duration }

// side is one of the two services that are held against each other.
type side struct {
	name     string
	url      string
	verifier string // see order
	cpu      func() (usage, error)
	batches  func() (int, error)
	sent     int    // statements so far, about: the next one has this number
	ops      string // URL of the operations listener
	profiles string // folder for profiles; "": none
	rate     map[string]float64
}

// shape is a way of loading a side.
type shape struct {
	Clients int           `json:"clients"`
	Bulk    int           `json:"perRequest,omitempty"` // statements
	Rate    float64       `json:"offered,omitempty"`    // statements a second
	Slow    time.Duration `json:"flushDelay,omitempty"` // of each flush of PostgreSQL's log
	Fault   fault         `json:"fault,omitempty"`
}

func (s shape) String() string {
	text := fmt.Sprint(s.Clients)
	if s.Bulk > 0 {
		text += fmt.Sprintf(", %d to a request", s.Bulk)
	}
	if s.Rate > 0 {
		text = fmt.Sprintf("%.0f/s offered", s.Rate)
	}
	if s.Slow > 0 {
		text += fmt.Sprintf(", log flushes %s longer", micros(s.Slow))
	}
	if s.Fault != "" {
		text += fmt.Sprintf(", 1 in %d %s", faulty, s.Fault)
	}
	return text
}

// window is one measurement.
type window struct {
	outcome
	Server    time.Duration // CPU used meanwhile
	Postgres  time.Duration
	Fdatasync time.Duration // just before, with nothing else going on; and what a delay of flushes then took
	Batches   int           // committed
}

// rate is registrations a second.
func (w window) rate() float64 { return float64(w.Done) / w.Elapsed.Seconds() }

// server, postgres and total are CPU for one registration.
func (w window) server() time.Duration   { return w.Server / time.Duration(max(w.Done, 1)) }
func (w window) postgres() time.Duration { return w.Postgres / time.Duration(max(w.Done, 1)) }
func (w window) total() time.Duration    { return (w.Server + w.Postgres) / time.Duration(max(w.Done, 1)) }

// loader is CPU of the load generator for one registration.
func (w window) loader() time.Duration { return w.CPU / time.Duration(max(w.Done, 1)) }

// syncs is p50 in fdatasyncs.
func (w window) syncs() float64 { return float64(w.P50) / float64(w.Fdatasync) }

// verifyShare is how much of what a registration costs is one hot verification.
func (w window) verifyShare() float64 { return float64(w.Verify) / float64(w.total()) }

func (w window) perBatch() float64 { return float64(w.Done) / float64(max(w.Batches, 1)) }

// warmUp is how long a side is loaded before a window begins, as far as its rate
// is known.
func (o options) warmUp() time.Duration { return min(o.window/5, time.Second) }

// window loads s in shape for the length of a window.
func (b *bench) window(ctx context.Context, o options, s *side, shape shape) (window, error) {
	kind := shape
	kind.Rate, kind.Slow, kind.Fault = 0, 0, ""
	rate := shape.Rate
	if rate == 0 {
		// How many to sign: from the last window like this one; before the first,
		// from one that does not count.
		if s.rate[kind.String()] == 0 {
			size := max(1, shape.Bulk)
			w, err := b.load(ctx, s, shape, max(20, 4*shape.Clients*size), shape.Clients*size, o.window/2)
			if err != nil {
				return window{}, err
			}
			s.rate[kind.String()] = w.rate()
		}
		rate = 1.5 * s.rate[kind.String()] // it may be faster this time
	}
	warm := int(rate * o.warmUp().Seconds())
	least := max(1, shape.Clients*max(1, shape.Bulk))
	if shape.Rate > 0 {
		least = 256
	}
	warm = max(warm, least)
	w, err := b.load(ctx, s, shape, warm+max(least, int(rate*o.window.Seconds())), warm, o.window)
	if err == nil && shape.Rate == 0 {
		s.rate[kind.String()] = w.rate()
	}
	return w, err
}

// load signs count statements, registers warm of them as warm-up, and then the
// others for as long as length says (0: all), from a process of its own.
func (b *bench) load(ctx context.Context, s *side, shape shape, count, warm int, length time.Duration) (w window, err error) {
	if shape.Slow > 0 {
		if err := b.delayFlushes(ctx, shape.Slow); err != nil {
			return w, err
		}
		defer func() { err = errors.Join(err, b.delayFlushes(ctx, 0)) }()
	}
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
			err = errors.Join(fmt.Errorf("%s, clients %s: %w", s.name, shape, err), in.Close(), cmd.Wait())
		}
	}()
	out := bufio.NewReader(outPipe)
	o := order{
		URL: s.url, Token: b.Token, Verifier: s.verifier, Key: b.key, Key384: b.key384,
		First: s.sent, Count: count, Warm: warm, Length: length,
		Clients: shape.Clients, Bulk: shape.Bulk, Rate: shape.Rate, Fault: shape.Fault,
	}
	if err := json.NewEncoder(in).Encode(o); err != nil {
		return w, err
	}
	if _, err := out.ReadString('\n'); err != nil { // the corpus is signed
		return w, fmt.Errorf("load generator: %w", err)
	}
	if w.Fdatasync, err = fdatasync(b.Postgres.Dir()); err != nil {
		return w, err
	}
	if shape.Slow > 0 {
		slept, err := sleep(shape.Slow)
		if err != nil {
			return w, err
		}
		w.Fdatasync += slept
	}
	if _, err := io.WriteString(in, "warm up\n"); err != nil {
		return w, err
	}
	if _, err := out.ReadString('\n'); err != nil {
		return w, fmt.Errorf("load generator: %w", err)
	}
	before, beforeBatches, err := s.figures()
	if err != nil {
		return w, err
	}
	if _, err := io.WriteString(in, "go\n"); err != nil {
		return w, err
	}
	profiled := make(chan error, 1)
	go func() { profiled <- s.profile(ctx, shape, length) }()
	if err := json.NewDecoder(out).Decode(&w.outcome); err != nil {
		return w, fmt.Errorf("load generator: %w", err)
	}
	// Each client may have taken one more when its time was up; the others were
	// signed in vain.
	s.sent += min(count, warm+w.Done+w.Refused+shape.Clients*max(1, shape.Bulk))
	after, afterBatches, err := s.figures()
	if err != nil {
		return w, err
	}
	if err := <-profiled; err != nil {
		return w, fmt.Errorf("profile: %w", err)
	}
	w.Server, w.Postgres, w.Batches = after.server-before.server, after.postgres-before.postgres, afterBatches-beforeBatches
	return w, cmd.Wait()
}

func (s *side) figures() (used usage, batches int, err error) {
	if s.batches != nil {
		if batches, err = s.batches(); err != nil {
			return used, 0, err
		}
	}
	used, err = s.cpu()
	return used, batches, err
}

// profile keeps the CPU profile of a window, the last of its shape, where
// profiles are asked for.
func (s *side) profile(ctx context.Context, shape shape, length time.Duration) (err error) {
	if s.profiles == "" || length < time.Second {
		return nil
	}
	url := fmt.Sprintf("%s/debug/pprof/profile?seconds=%d", s.ops, int(length.Seconds()))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	f, err := os.Create(filepath.Join(s.profiles, strings.Map(fileName, shape.String())+".pprof"))
	if err != nil {
		return err
	}
	_, err = io.Copy(f, resp.Body)
	return errors.Join(err, f.Close())
}

// fileName keeps what is harmless in the name of a file.
func fileName(r rune) rune {
	if unicode.IsLetter(r) || unicode.IsDigit(r) {
		return r
	}
	return '-'
}
