package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// wires are the connections to one service, for requests that are timed. An
// http.Client hands every request to a goroutine that writes and waits for
// another that reads. Where little else runs each hand-over wakes up a thread,
// and that would be counted as the service's time. Here the goroutine that asks
// writes the request at once and reads the answer itself. There are as many
// connections as requests were ever under way.
type wires struct {
	address string // host:port; never TLS
	headers string // lines that every request has

	mu   sync.Mutex // guards idle
	idle []*wire    // the one used last is last, and used next
}

// wire is one connection. It belongs to the goroutine that took it.
type wire struct {
	conn     net.Conn
	in       *bufio.Reader
	out      []byte    // the request, kept for its room
	used     time.Time // when a request began last
	deadline time.Time // of conn
}

const (
	// patience is how long an answer may take at least. Deadlines are moved when
	// less is left, and then by slack more, so that few requests pay for that.
	patience = time.Minute
	slack    = 10 * time.Second

	// stale is a connection that waited so long: the service may be about to
	// close it.
	stale = 30 * time.Second
)

// newWires dials when there is something to send. url is http://host:port; a
// token of "" is not shown.
func newWires(url, token string) *wires {
	address := strings.TrimPrefix(url, "http://")
	headers := "Host: " + address + "\r\n"
	if token != "" {
		headers += "Authorization: Bearer " + token + "\r\n"
	}
	return &wires{address: address, headers: headers}
}

// exchange sends a request and returns the answer's status and body. The
// request's body is in parts, or there is none. Nothing is tried twice.
func (ws *wires) exchange(method, path, contentType string, body ...[]byte) (status int, answer []byte, err error) {
	w, err := ws.take(time.Now())
	if err != nil {
		return 0, nil, err
	}
	w.compose(method, path, ws.headers, contentType, body)
	status, answer, last, err := w.exchange()
	if err != nil || last {
		return status, answer, errors.Join(err, w.conn.Close())
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.idle = append(ws.idle, w)
	return status, answer, nil
}

// take returns a connection that nobody uses.
func (ws *wires) take(now time.Time) (*wire, error) {
	ws.mu.Lock()
	var w *wire
	if last := len(ws.idle) - 1; last >= 0 {
		w, ws.idle = ws.idle[last], ws.idle[:last]
	}
	ws.mu.Unlock()
	if w != nil && now.Sub(w.used) > stale {
		if err := w.conn.Close(); err != nil {
			return nil, err
		}
		w = nil
	}
	if w == nil {
		conn, err := net.DialTimeout("tcp", ws.address, patience)
		if err != nil {
			return nil, err
		}
		w = &wire{conn: conn, in: bufio.NewReader(conn)}
	}
	w.used = now
	if w.deadline.Sub(now) < patience {
		w.deadline = now.Add(patience + slack)
		if err := w.conn.SetDeadline(w.deadline); err != nil {
			return nil, errors.Join(err, w.conn.Close())
		}
	}
	return w, nil
}

// compose writes the request down, for all of it to be sent at once.
func (w *wire) compose(method, path, headers, contentType string, body [][]byte) {
	w.out = fmt.Appendf(w.out[:0], "%s %s HTTP/1.1\r\n%s", method, path, headers)
	if body != nil {
		length := 0
		for _, part := range body {
			length += len(part)
		}
		w.out = fmt.Appendf(w.out, "Content-Type: %s\r\nContent-Length: %d\r\n", contentType, length)
	}
	w.out = append(w.out, "\r\n"...)
	for _, part := range body {
		w.out = append(w.out, part...)
	}
}

// exchange sends what has been composed, and says besides whether the service
// ends the connection with its answer.
func (w *wire) exchange() (status int, answer []byte, last bool, err error) {
	if _, err := w.conn.Write(w.out); err != nil {
		return 0, nil, true, err
	}
	resp, err := http.ReadResponse(w.in, nil)
	if err != nil {
		return 0, nil, true, err
	}
	answer, err = io.ReadAll(resp.Body)
	if err == nil && w.in.Buffered() > 0 {
		err = fmt.Errorf("%d bytes behind the answer", w.in.Buffered())
	}
	return resp.StatusCode, answer, resp.Close, err
}

// close ends all connections. None is in use.
func (ws *wires) close() (err error) {
	for _, w := range ws.idle {
		err = errors.Join(err, w.conn.Close())
	}
	return err
}
