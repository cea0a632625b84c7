package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net/http"
	"strconv"
	"time"
)

// maxAnswer bounds what is read of one answer, in bytes.
const maxAnswer = 8 << 20

// request is one request; body or open gives its content, anew for every try.
type request struct {
	method, path string
	header       http.Header
	body         []byte
	open         func() (io.ReadCloser, error)
	size         int64
}

// answer is what came back, read whole.
type answer struct {
	status     int
	mediaType  string
	body       []byte
	retryAfter time.Duration
}

// temporary: the service, or what stands before it, asks to come back.
func (a answer) temporary() bool {
	switch a.status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// lostError: no whole answer came. The service may or may not have acted.
type lostError struct{ error }

func (e *lostError) Unwrap() error { return e.error }

// How often, and at what longest distance, a request is repeated. A host that
// cannot be reached is given up earlier than one that asks for patience.
const (
	maxTries      = 6
	maxLostTries  = 3
	maxBackoff    = 30 * time.Second
	maxRetryAfter = 5 * time.Minute
)

// do sends r until there is an answer to go by, at most maxTries times.
//
// SPEC draft-ietf-scitt-scrapi-11 §5.1: clients SHOULD honour Retry-After;
// without it they back off exponentially, with jitter.
func (c *Client) do(ctx context.Context, r request) (answer, error) {
	for try := 1; ; try++ {
		a, err := c.once(ctx, r)
		tries := 1
		var asked *Problem // to come back
		var lost *lostError
		var untrusted *tls.CertificateVerificationError
		switch {
		case err == nil && a.temporary():
			// A log that is damaged is repaired by people, not within minutes.
			if errors.As(c.unexpected(a), &asked); asked.Code != "log-damaged" {
				tries = maxTries
			}
		case errors.As(err, &lost) && !errors.As(err, &untrusted):
			tries = maxLostTries
		}
		if try >= tries || ctx.Err() != nil {
			return a, err
		}
		if !c.again(ctx, try, a.retryAfter, asked) {
			return a, err
		}
	}
}

// again waits until a request may be repeated: as long as the service asked for,
// if it did; asked is its answer, nil when none came. false: there is no time left
// for that.
func (c *Client) again(ctx context.Context, try int, wait time.Duration, asked *Problem) bool {
	if wait == 0 {
		longest := min(maxBackoff, 200*time.Millisecond<<try)
		wait = longest/2 + rand.N(longest/2)
	}
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < wait {
		return false // waiting would only turn a reason into a timeout
	}
	if asked != nil && c.o.Waiting != nil {
		c.o.Waiting(asked, wait)
	}
	return c.sleep(ctx, wait) == nil
}

func (c *Client) once(ctx context.Context, r request) (answer, error) {
	req, err := c.newRequest(ctx, r)
	if err != nil {
		return answer{}, fmt.Errorf("%s %s%s: %w", r.method, c.base, r.path, err)
	}
	a, err := c.exchange(req)
	if err != nil {
		err = fmt.Errorf("%s %s%s: %w", r.method, c.base, r.path, err)
		c.trace("%v", err)
	}
	return a, err
}

func (c *Client) newRequest(ctx context.Context, r request) (*http.Request, error) {
	var content io.Reader
	size := r.size
	switch {
	case r.body != nil:
		content, size = bytes.NewReader(r.body), int64(len(r.body))
	case r.open != nil:
		body, err := r.open() // the transport closes it
		if err != nil {
			return nil, err
		}
		content = body
	}
	req, err := http.NewRequestWithContext(ctx, r.method, c.base+r.path, content)
	if err != nil {
		return nil, err
	}
	req.ContentLength = size
	for name, values := range r.header {
		req.Header[name] = values
	}
	if c.o.UserAgent != "" {
		req.Header.Set("User-Agent", c.o.UserAgent)
	}
	if c.o.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.o.Token)
	}
	return req, nil
}

// exchange uses RoundTrip, which follows no redirects: the token stays here.
func (c *Client) exchange(req *http.Request) (answer, error) {
	resp, err := c.o.Transport.RoundTrip(req)
	if err != nil {
		return answer{}, &lostError{err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return answer{}, &lostError{err}
	}
	if len(body) > maxAnswer {
		return answer{}, fmt.Errorf("the answer exceeds %d bytes", maxAnswer)
	}
	c.trace("%s %s: %s, %d bytes", req.Method, req.URL, resp.Status, len(body))
	mediaType, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		mediaType = ""
	}
	return answer{resp.StatusCode, mediaType, body, retryAfter(resp.Header.Get("Retry-After"), time.Now())}, nil
}

func (c *Client) trace(format string, args ...any) {
	if c.o.Trace != nil {
		c.o.Trace(fmt.Sprintf(format, args...))
	}
}

// retryAfter reads seconds or a date (RFC 9110 §10.2.3), of which at most
// maxRetryAfter is honoured; 0 when there is neither.
func retryAfter(text string, now time.Time) time.Duration {
	wait := time.Duration(0)
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		wait = time.Duration(seconds) * time.Second
	} else if date, err := http.ParseTime(text); err == nil {
		wait = date.Sub(now)
	}
	return min(max(wait, 0), maxRetryAfter)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
