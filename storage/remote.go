package storage

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/retry"
)

// RemoteOptions say how to reach a registry. The zero value is HTTPS, the
// system's roots, and the credentials of the docker config.
type RemoteOptions struct {
	PlainHTTP         bool        // http instead of https
	CAFile            string      // PEM: trust these roots instead of the system's
	CertFile, KeyFile string      // PEM: client certificate
	TLS               *tls.Config // instead of the files

	// DockerConfig is the file (or its folder) to take credentials from, helpers
	// included; "" is $DOCKER_CONFIG, else ~/.docker. Credentials replaces it.
	DockerConfig string
	Credentials  func(ctx context.Context, host string) (Credential, error)

	// TokenHosts may be sent the credentials besides the registry itself, for
	// registries whose token service (the realm) is another host.
	TokenHosts []string

	// Profiles are rules for particular registries, see ProfileOf.
	Profiles []string
	// Memo is asked, and told, how repositories list referrers. nil: every
	// process finds out for itself.
	Memo Memo

	Header    http.Header // sent to the registry with every request
	UserAgent string      // "scittd" if empty
}

// Remote is an external registry. One value should serve a whole process: inside
// it, updates of a referrers tag are merged; between two, they can only be read
// back and repeated.
type Remote struct {
	host    string // as in references
	plain   bool
	profile Profile
	memo    Memo
	client  *auth.Client
	pool    *http.Transport
	now     func() time.Time

	mu    sync.Mutex
	repos map[string]*repository // by name, for good: each knows its registry
}

var _ Registry = (*Remote)(nil)

// OpenRemote prepares to talk to the registry at host (name, optionally :port);
// it does not connect. Deadlines are the caller's, by context: a blob may take
// as long as it takes.
func OpenRemote(host string, o RemoteOptions) (*Remote, error) {
	ref := registry.Reference{Registry: host}
	if err := ref.ValidateRegistry(); err != nil {
		return nil, fmt.Errorf("registry host %q: want name or name:port", host)
	}
	profile, err := ProfileOf(host, o.Profiles)
	if err != nil {
		return nil, fmt.Errorf("registry %s: %w", host, err)
	}
	config, err := o.tls()
	if err != nil {
		return nil, fmt.Errorf("registry %s: %w", host, err)
	}
	asks := o.Credentials
	var credential auth.CredentialFunc
	if asks != nil {
		credential = orasCredentials(ref.Host(), asks)
	} else if credential, err = dockerCredentials(o.DockerConfig); err != nil {
		return nil, fmt.Errorf("registry %s: docker config: %w", host, err)
	}

	r := &Remote{host: host, plain: o.PlainHTTP, profile: profile, memo: o.Memo, now: time.Now, repos: map[string]*repository{}}
	r.pool = &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    10 * time.Second,
		ResponseHeaderTimeout:  2 * time.Minute, // a registry hashes a big blob before it answers
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConnsPerHost:    16,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true, // digests are of the bytes on the wire
		ForceAttemptHTTP2:      true,
	}
	trusts := map[string]bool{ref.Host(): true}
	for _, h := range append([]string{tokenHosts[ref.Host()]}, o.TokenHosts...) {
		trusts[h] = h != ""
	}
	header := http.Header{}
	for name, values := range o.Header {
		header[http.CanonicalHeaderKey(name)] = values
	}
	r.client = &auth.Client{
		Client: &http.Client{Transport: &retry.Transport{
			Base:   &transport{base: r.pool, trusts: trusts, plain: o.PlainHTTP, header: header, now: func() time.Time { return r.now() }},
			Policy: func() retry.Policy { return persistent },
		}},
		Credential: credential,
		Cache:      auth.NewCache(),
		ClientID:   "scittd",
	}
	agent := o.UserAgent
	if agent == "" {
		agent = "scittd"
	}
	r.client.SetUserAgent(agent)
	return r, nil
}

// Host is the registry's, as in references.
func (r *Remote) Host() string { return r.host }

// Profile is what is particular about the registry.
func (r *Remote) Profile() Profile { return r.profile }

// Repository opens name. It returns the same value for the same name.
func (r *Remote) Repository(name string) (Repository, error) {
	ref := registry.Reference{Registry: r.host, Repository: name}
	if err := ref.ValidateRepository(); err != nil {
		return nil, fmt.Errorf("repository %q: want lower-case path components such as team/app", name)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	repo, open := r.repos[name]
	if !open {
		repo = newRepository(r, ref)
		r.repos[name] = repo
	}
	return repo, nil
}

// Close lets go of idle connections. A Remote in use opens new ones.
func (r *Remote) Close() { r.pool.CloseIdleConnections() }

// tls builds the configuration of the connection.
func (o RemoteOptions) tls() (*tls.Config, error) {
	if o.TLS != nil {
		return o.TLS.Clone(), nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no PEM certificate", o.CAFile)
		}
	}
	if o.CertFile != "" || o.KeyFile != "" {
		pair, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// PlainHTTP says whether to speak plain http to host where nobody said: https
// everywhere, but on this machine only where a TLS handshake gets an answer.
func PlainHTTP(host string) bool {
	if !Loopback(host) {
		return false
	}
	address := host
	if _, _, err := net.SplitHostPort(host); err != nil {
		address = net.JoinHostPort(strings.Trim(host, "[]"), "443")
	}
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: time.Second}, "tcp", address, nil)
	if err == nil {
		conn.Close()
		return false
	}
	// A certificate that is not believed is TLS all the same.
	return errors.As(err, new(tls.RecordHeaderError)) || isDial(err)
}

func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// Loopback tells whether host (name, optionally :port) is this machine, where
// registries usually speak plain http.
func Loopback(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.Trim(name, "[]")
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return true
	}
	addr, err := netip.ParseAddr(name)
	return err == nil && addr.IsLoopback()
}
