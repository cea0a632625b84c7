// Package client speaks to a SCITT transparency service: SCRAPI (registration
// and receipts), /v1 (queries, bulk registration) and the registry's extension
// discovery. Start with New and Register, or RegisterAll for many statements.
//
// It believes nothing it can check: statements are hashed against the entry ID
// that was asked for, and a receipt is only as good as a Verifier says under
// keys that the caller pinned (Trust). It follows no redirects, so a token
// never reaches another host; it honours Retry-After, and repeats registrations
// freely, for they are idempotent. What a service refuses is a *Problem.
//
// A Verifier needs no Client: it judges Transparent Statements from bytes alone.
//
// The package knows no registry. What a verdict leaves open it names together
// with the flag of scitt that closes it.
package client

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Client talks to one service. Safe for concurrent use.
type Client struct {
	base  string // service URL without trailing slash
	o     Options
	sleep func(context.Context, time.Duration) error
}

// Options of New; the zero value suits an anonymous reader.
type Options struct {
	Token     string      // the caller's bearer token
	TLS       *tls.Config // further CA or client certificates
	UserAgent string
	Trace     func(line string)                 // told of every request and answer, without secrets; may be nil
	Waiting   func(p *Problem, d time.Duration) // told before it waits because the service asks to come back; may be nil
	Transport http.RoundTripper                 // nil: HTTP over TLS as above
}

// New returns a client of the service at that http or https URL.
func New(service string, o Options) (*Client, error) {
	u, err := url.Parse(service)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("service %q is not the http(s) URL of a service", service)
	}
	if o.Transport == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.TLSClientConfig = o.TLS
		o.Transport = t
	}
	return &Client{base: strings.TrimRight(service, "/"), o: o, sleep: sleep}, nil
}

// URL is the service URL, without trailing slash.
func (c *Client) URL() string { return c.base }
