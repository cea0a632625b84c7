package storage

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"syscall"
	"time"

	"oras.land/oras-go/v2/registry/remote/retry"
)

// transport is the only way out to a registry. It keeps secrets at the hosts
// they belong to, and turns "come back later" into a *RetryError.
//
// oras-go already drops Authorization when a redirect leaves the origin and
// refuses upload Locations elsewhere. What it leaves to us is the token realm:
// a registry may name any public host there and would be sent the password.
type transport struct {
	base   http.RoundTripper
	trusts map[string]bool // hosts that may see credentials, our headers and uploads
	plain  bool            // http allowed
	header http.Header     // extra headers, for trusted hosts only
	now    func() time.Time
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := t.mayLeave(req); err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	if len(t.header) > 0 && t.trusts[req.URL.Host] {
		req = req.Clone(req.Context())
		for name, values := range t.header {
			req.Header[name] = values
		}
	}
	resp, err := t.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable {
		if after, said := retryAfter(resp.Header.Get("Retry-After"), t.now()); said {
			io.CopyN(io.Discard, resp.Body, 8<<10) // so that the connection can be used again
			resp.Body.Close()
			return nil, &RetryError{After: after, Err: fmt.Errorf("the registry answered %d", resp.StatusCode)}
		}
	}
	return resp, nil
}

// mayLeave: anything may be read from anywhere, since blob stores are reached
// by redirect and digests are checked. Credentials and uploads stay.
func (t *transport) mayLeave(req *http.Request) error {
	if req.URL.Scheme != "https" && !t.plain {
		return fmt.Errorf("the registry sends us to %s over %s, without TLS", req.URL.Host, req.URL.Scheme)
	}
	reads := req.Method == http.MethodGet || req.Method == http.MethodHead
	if t.trusts[req.URL.Host] || reads && req.Header.Get("Authorization") == "" {
		return nil
	}
	return fmt.Errorf("the registry sends credentials or uploads to %s, which is not among its token hosts", req.URL.Host)
}

// tokenHosts are the realms of registries that keep theirs on another host.
var tokenHosts = map[string]string{
	"registry-1.docker.io": "auth.docker.io",
	"registry.gitlab.com":  "gitlab.com",
}

// persistent repeats a request that failed by chance, twice, within a second.
// More patience is the caller's, who also knows about other work to do. 429 is
// no chance: it goes back at once, as a *RetryError when the registry said how
// long.
var persistent retry.Policy = &retry.GenericPolicy{
	Retryable: func(resp *http.Response, err error) (bool, error) {
		if err != nil {
			if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
				return true, nil
			}
			return false, err
		}
		return resp.StatusCode >= 500 || resp.StatusCode == http.StatusRequestTimeout, nil
	},
	Backoff:  retry.ExponentialBackoff(100*time.Millisecond, 3, 0.3),
	MinWait:  50 * time.Millisecond,
	MaxWait:  time.Second,
	MaxRetry: 2,
}
