package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/scittd/scittd/statement"
)

const (
	issuers    = 100
	statementB = 2000 // bytes of one statement
)

func issuerName(n int) string { return fmt.Sprintf("https://issuer-%04d.example", n%issuers) }

// sign makes n statements that were not there before, on all cores.
func (b *bench) sign(n int) ([][]byte, error) {
	corpus, first := make([][]byte, n), b.signed
	b.signed += n
	errs := make([]error, runtime.GOMAXPROCS(0))
	var next atomic.Int64
	var all sync.WaitGroup
	for worker := range errs {
		all.Go(func() {
			for i := int(next.Add(1) - 1); i < n && errs[worker] == nil; i = int(next.Add(1) - 1) {
				corpus[i], errs[worker] = b.signOne(first + i)
			}
		})
	}
	all.Wait()
	return corpus, errors.Join(errs...)
}

func (b *bench) signOne(n int) ([]byte, error) {
	const overhead = 370 // headers and signature, within a few bytes
	return statement.Sign(statement.Template{
		Issuer:      issuerName(n),
		Subject:     fmt.Sprintf("pkg:oci/image@sha256:%x", sha256.Sum256(fmt.Append(nil, "image ", n/10))),
		ContentType: "application/vnd.bench+json",
		Payload:     fmt.Appendf(nil, `{"n":%d,"fill":"%s"}`, n, bytes.Repeat([]byte("x"), statementB-overhead)),
	}, b.key)
}

// window is one measurement.
type window struct {
	rate      float64
	p50       time.Duration
	p99       []time.Duration // by replica
	count     int
	committed int // batches, from the start of the processes on, as are these:
	discarded int
	turns     int
}

func (w window) perBatch() float64 { return float64(w.count) / float64(w.committed) }

// window runs the load on n fresh processes.
func (b *bench) window(ctx context.Context, n int) (w window, err error) {
	fleet, stop, err := b.fleet(ctx, n)
	if err != nil {
		return w, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if _, _, err := b.load(ctx, fleet, b.warm); err != nil {
		return w, err
	}
	latencies, took, err := b.load(ctx, fleet, b.count)
	if err != nil {
		return w, err
	}
	w.count, w.rate = b.warm+b.count, float64(b.count)/took.Seconds()
	var all []time.Duration
	for _, of := range latencies {
		slices.Sort(of)
		all = append(all, of...)
		w.p99 = append(w.p99, of[len(of)*99/100])
	}
	slices.Sort(all)
	w.p50 = all[len(all)/2]
	for _, r := range fleet {
		f, err := r.figures()
		if err != nil {
			return w, err
		}
		w.committed += f["scittd_batches_committed_total"]
		w.discarded += f["scittd_batches_discarded_total"]
		w.turns += f["scittd_turns_total"]
	}
	return w, nil
}

// load registers count statements with clients that each keep to one process.
func (b *bench) load(ctx context.Context, fleet []*replica, count int) (latencies [][]time.Duration, took time.Duration, err error) {
	corpus, err := b.sign(count)
	if err != nil {
		return nil, 0, err
	}
	latencies = make([][]time.Duration, len(fleet))
	errs := make([]error, b.clients)
	var mu sync.Mutex // latencies
	var next atomic.Int64
	var all sync.WaitGroup
	begin := time.Now()
	for client := range errs {
		all.Go(func() {
			at := client % len(fleet)
			for i := int(next.Add(1) - 1); i < count && errs[client] == nil && ctx.Err() == nil; i = int(next.Add(1) - 1) {
				sent := time.Now()
				errs[client] = b.post(ctx, fleet[at].url, corpus[i])
				mu.Lock()
				latencies[at] = append(latencies[at], time.Since(sent))
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return latencies, time.Since(begin), errors.Join(append(errs, ctx.Err())...)
}

// post registers one statement; anything but 201 voids the run.
func (b *bench) post(ctx context.Context, url string, signed []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/entries", bytes.NewReader(signed))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/cose")
	req.Header.Set("Authorization", "Bearer "+b.Token)
	resp, err := b.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusCreated {
		err = fmt.Errorf("POST /entries: %s %q: the run is void", resp.Status, answer)
	}
	return err
}

// stall stops the process that has the newest head locked, and measures the
// longest time in which none of the others answers anybody.
func (b *bench) stall(ctx context.Context) (stalls []time.Duration, err error) {
	fleet, stop, err := b.fleet(ctx, b.replicas)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	victim := fleet[0]

	loading, end := context.WithCancel(ctx)
	var answers watch
	var load sync.WaitGroup
	failed := make(chan error, b.clients)
	defer func() {
		end()
		load.Wait()
		select {
		case more := <-failed:
			err = errors.Join(err, more)
		default:
		}
	}()
	corpus, err := b.sign(2 * b.count)
	if err != nil {
		return nil, err
	}
	var next atomic.Int64
	for client := range b.clients {
		load.Go(func() {
			at := client % len(fleet)
			for loading.Err() == nil {
				// Over and over, should there be time: what is known takes a turn too.
				err := b.post(loading, fleet[at].url, corpus[int(next.Add(1)-1)%len(corpus)])
				switch {
				case loading.Err() != nil:
					return
				case at == 0: // its timeouts ran out while it was stopped: 503 is right
				case err != nil:
					failed <- err
					return
				default:
					answers.came()
				}
			}
		})
	}
	for range b.stops {
		if err := b.catch(ctx, victim, answers.begin); err != nil {
			return stalls, err
		}
		time.Sleep(stallAtMost + 2*time.Second)
		stalls = append(stalls, answers.longest())
		if err := victim.Process.Signal(syscall.SIGCONT); err != nil {
			return stalls, err
		}
		time.Sleep(time.Second)
	}
	return stalls, nil
}

// catch stops r at a moment at which it has the newest head locked, and calls
// begin just before.
func (b *bench) catch(ctx context.Context, r *replica, begin func()) error {
	for range 2000 {
		begin()
		if err := r.Process.Signal(syscall.SIGSTOP); err != nil {
			return err
		}
		time.Sleep(50 * time.Millisecond)
		held, err := b.holds(ctx, r)
		if held && err == nil {
			time.Sleep(150 * time.Millisecond) // nothing is on its way any more
			held, err = b.holds(ctx, r)
		}
		if held || err != nil {
			return err
		}
		if err := r.Process.Signal(syscall.SIGCONT); err != nil {
			return err
		}
		time.Sleep(3 * time.Millisecond)
	}
	return errors.New("never caught with the newest head locked")
}

// watch keeps the longest time between two answers.
type watch struct {
	mu   sync.Mutex
	last time.Time
	most time.Duration
}

func (w *watch) came() {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if !w.last.IsZero() {
		w.most = max(w.most, now.Sub(w.last))
	}
	w.last = now
}

func (w *watch) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last, w.most = time.Now(), 0
}

// longest counts also the time since the last answer.
func (w *watch) longest() time.Duration {
	w.came()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.most
}
