package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/scittd/scittd/internal/detcbor"
	"github.com/scittd/scittd/statement"
)

const (
	statementB = 2000 // bytes of one statement

	// The generator has so many connections at most, fewer when requests are
	// large. What is due while none is free waits, and that counts from when it
	// was due.
	minConnections = 512
	maxConnections = 4096
)

// window is one measurement. Times are of requests, counts of statements.
type window struct {
	due  float64 // statements a second, as intended; 0: a closed loop
	took time.Duration

	sent, registered, refused int
	acceptedDue, acceptedSent []time.Duration
	refusedDue, refusedSent   []time.Duration

	memory            memory
	serverCPU, ownCPU time.Duration
}

// accepted is statements a second.
func (w *window) accepted() float64 { return float64(w.registered) / w.took.Seconds() }

// closedLoop has clients that each wait for their answer. expected is about how
// many statements a second will be needed.
func (s *service) closedLoop(ctx context.Context, items, clients int, length time.Duration, expected float64) (*window, error) {
	return s.window(ctx, items, length, expected, func(g *generator) float64 {
		var working sync.WaitGroup
		for range clients {
			working.Go(func() {
				c := &conn{address: s.address}
				defer c.close()
				for time.Since(g.begin) < length && g.ok() {
					g.do(c, time.Now())
				}
			})
		}
		working.Wait()
		return 0
	})
}

// openLoop makes rate statements a second due, at random moments as many
// independent callers would. capacity bounds what can be registered of them.
func (s *service) openLoop(ctx context.Context, items int, rate float64, length time.Duration, capacity float64) (*window, error) {
	return s.window(ctx, items, length, capacity, func(g *generator) float64 {
		chance := rand.New(rand.NewPCG(1, uint64(rate)))
		between := func() time.Duration {
			return time.Duration(chance.ExpFloat64() / rate * float64(items) * float64(time.Second))
		}
		for due := between(); due < length && g.ok(); due += between() {
			if ahead := due - time.Since(g.begin); ahead > 0 {
				time.Sleep(ahead)
			}
			g.dispatch(g.begin.Add(due))
		}
		g.drain()
		return rate
	})
}

// window signs what offer will need, and measures while it runs.
func (s *service) window(ctx context.Context, items int, length time.Duration, expected float64, offer func(*generator) (due float64)) (*window, error) {
	// What is refused comes back, so little more is used than is registered.
	limit := max(minConnections, maxConnections/items)
	corpus, err := s.requests(int(1.5*expected*length.Seconds())/items+limit, items)
	if err != nil {
		return nil, err
	}
	g := &generator{address: s.address, items: items, limit: limit, corpus: corpus}
	runtime.GC() // not while it counts
	sampling, stop := context.WithCancel(ctx)
	memory := make(chan memory, 1)
	go func() { memory <- s.watchMemory(sampling) }()
	server, own, err := s.cpu()
	if err == nil {
		g.begin = time.Now()
		g.w.due = offer(g)
		g.w.took = time.Since(g.begin)
		var serverAfter, ownAfter time.Duration
		serverAfter, ownAfter, err = s.cpu()
		g.w.serverCPU, g.w.ownCPU = serverAfter-server, ownAfter-own
	}
	stop()
	g.w.memory = <-memory
	if err := errors.Join(err, g.err, ctx.Err()); err != nil {
		return nil, err
	}
	if g.w.registered == 0 {
		return nil, errors.New("nothing was registered")
	}
	return &g.w, nil
}

// requests signs n requests of so many statements each, on all cores.
func (s *service) requests(n, items int) ([][]byte, error) {
	path, media := "/entries", "application/cose"
	if items > 1 {
		path, media = "/v1/entries:batch", "application/cbor-seq"
	}
	all, first := make([][]byte, n), s.signed
	s.signed += n * items
	errs := make([]error, runtime.GOMAXPROCS(0))
	var next atomic.Int64
	var signing sync.WaitGroup
	for worker := range errs {
		signing.Go(func() {
			for i := int(next.Add(1) - 1); i < n && errs[worker] == nil; i = int(next.Add(1) - 1) {
				var body []byte
				for k := range items {
					var signed []byte
					signed, errs[worker] = s.sign(first + i*items + k)
					body = append(body, signed...)
				}
				head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n",
					path, s.address, s.Token, media, len(body))
				all[i] = append([]byte(head), body...)
			}
		})
	}
	signing.Wait()
	return all, errors.Join(errs...)
}

func (s *service) sign(n int) ([]byte, error) {
	const overhead = 330 // headers and signature, within a few bytes
	return statement.Sign(statement.Template{
		Issuer: issuer, Subject: fmt.Sprintf("pkg:oci/image@sha256:%x", sha256.Sum256(fmt.Append(nil, "image ", n/10))),
		ContentType: "application/vnd.bench+json",
		Payload:     fmt.Appendf(nil, `{"n":%d,"fill":"%s"}`, n, bytes.Repeat([]byte("x"), statementB-overhead)),
	}, s.key)
}

// generator sends requests and keeps the account.
type generator struct {
	address string
	items   int
	limit   int // of connections
	begin   time.Time

	working sync.WaitGroup
	mu      sync.Mutex // guards what follows
	corpus  [][]byte   // not registered; the last is next
	idle    []*conn
	open    int
	backlog []time.Time // due, and no connection was free
	w       window
	err     error
}

func (g *generator) ok() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err == nil
}

// dispatch sends a request on a free connection, or on a new one.
func (g *generator) dispatch(due time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch n := len(g.idle); {
	case n > 0:
		c := g.idle[n-1]
		g.idle = g.idle[:n-1]
		c.next <- due
	case g.open < g.limit:
		g.open++
		c := &conn{address: g.address, next: make(chan time.Time, 1)}
		c.next <- due
		g.working.Go(func() { g.serve(c) })
	default:
		g.backlog = append(g.backlog, due)
	}
}

// serve sends what c is given until there is no more.
func (g *generator) serve(c *conn) {
	defer c.close()
	for due := range c.next {
		for more := true; more; {
			g.do(c, due)
			g.mu.Lock()
			if more = len(g.backlog) > 0 && g.err == nil; more {
				due, g.backlog = g.backlog[0], g.backlog[1:]
			} else {
				g.idle = append(g.idle, c)
			}
			g.mu.Unlock()
		}
	}
}

// drain waits for every answer.
func (g *generator) drain() {
	for closed := 0; ; time.Sleep(5 * time.Millisecond) {
		g.mu.Lock()
		for _, c := range g.idle {
			close(c.next)
		}
		closed += len(g.idle)
		g.idle = nil
		all := closed == g.open
		g.mu.Unlock()
		if all {
			break
		}
	}
	g.working.Wait()
}

// do sends the next request on c and notes what becomes of it.
func (g *generator) do(c *conn, due time.Time) {
	g.mu.Lock()
	n := len(g.corpus)
	if n == 0 {
		g.err = errors.Join(g.err, errors.New("more was registered than was signed"))
		g.mu.Unlock()
		return
	}
	request := g.corpus[n-1]
	g.corpus = g.corpus[:n-1]
	g.mu.Unlock()

	sent := time.Now()
	registered, refused, err := c.roundTrip(request, g.items)
	now := time.Now()

	g.mu.Lock()
	defer g.mu.Unlock()
	w := &g.w
	w.sent += g.items
	w.registered += registered
	w.refused += refused
	switch {
	case err != nil:
		if g.err == nil {
			g.err = fmt.Errorf("%w: the run is void", err)
		}
	case registered == 0:
		w.refusedDue, w.refusedSent = append(w.refusedDue, now.Sub(due)), append(w.refusedSent, now.Sub(sent))
		g.corpus = append(g.corpus, request)
	default: // all of it, or what there was room for
		w.acceptedDue, w.acceptedSent = append(w.acceptedDue, now.Sub(due)), append(w.acceptedSent, now.Sub(sent))
	}
}

// conn is a connection that stays; it belongs to one goroutine.
type conn struct {
	address string
	next    chan time.Time // of the open loop
	net.Conn
	in *bufio.Reader
}

func (c *conn) close() {
	if c.Conn != nil {
		c.Conn.Close()
		c.Conn = nil
	}
}

// roundTrip sends a request and counts what the answer says of its statements.
func (c *conn) roundTrip(request []byte, items int) (registered, refused int, err error) {
	if c.Conn == nil {
		if c.Conn, err = net.Dial("tcp", c.address); err != nil {
			return 0, 0, err
		}
		c.in = bufio.NewReader(c.Conn)
	}
	_, writeErr := c.Write(request) // an answer may be there although it was not read to its end
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		c.close()
		return 0, 0, errors.Join(writeErr, err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.Close || writeErr != nil {
		c.close()
	}
	if err != nil {
		return 0, 0, err
	}
	switch resp.StatusCode {
	case http.StatusCreated:
		return 1, 0, nil
	case http.StatusOK:
		return countItems(body, items)
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		if resp.Header.Get("Retry-After") != "" {
			return 0, items, nil
		}
	}
	return 0, 0, fmt.Errorf("%s, Retry-After %q: %q", resp.Status, resp.Header.Get("Retry-After"), body)
}

// countItems reads the answer to a batch: an array [n, status, content] for each.
func countItems(answer []byte, items int) (registered, refused int, err error) {
	sequence := detcbor.NewSequence(bytes.NewReader(answer), len(answer))
	for {
		raw, err := sequence.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return 0, 0, err
		}
		var got struct {
			_       struct{} `cbor:",toarray"`
			N       int
			Status  int
			Content []byte
		}
		if err := detcbor.Unmarshal(raw, &got); err != nil {
			return 0, 0, err
		}
		switch got.Status {
		case http.StatusCreated:
			registered++
		case http.StatusTooManyRequests, http.StatusServiceUnavailable:
			refused++
		default:
			return 0, 0, fmt.Errorf("item %d: %d %q", got.N, got.Status, got.Content)
		}
	}
	// The last item may say why the rest was not looked at.
	if registered+refused < items && refused == 0 {
		return 0, 0, fmt.Errorf("%d of %d items are answered", registered, items)
	}
	return registered, items - registered, nil
}

// quantile sorts v; 0 of nothing.
func quantile(v []time.Duration, q float64) time.Duration {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return v[min(int(q*float64(len(v))), len(v)-1)]
}
