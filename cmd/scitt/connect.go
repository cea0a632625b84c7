package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/scittd/scittd/client"
	"github.com/scittd/scittd/storage"
)

// open returns a client of the service at url. Only openService and serviceFor
// decide that a host may see the token.
func (a *app) open(url, token string) (*client.Client, error) {
	o := client.Options{UserAgent: "scitt/" + version(), Token: token}
	var err error
	if o.TLS, err = a.tls(); err != nil {
		return nil, err
	}
	if !a.quiet {
		o.Waiting = func(p *client.Problem, d time.Duration) {
			a.tell("%d %s; trying again in %.0f s", p.Status, p.Title, math.Ceil(d.Seconds()))
		}
	}
	if a.debug {
		o.Trace = func(line string) { a.tell("debug: %s", line) }
	}
	c, err := client.New(url, o)
	if err != nil {
		return nil, usage("%w", err)
	}
	return c, nil
}

// openService returns a client of the service that flag or context names.
func (a *app) openService() (*client.Client, error) {
	if a.service == "" {
		return nil, usage("no service is known").
			line("Config", "%s", a.configFile).try("add --service URL, or set SCITT_CONFIG to a configuration")
	}
	token, err := a.token()
	if err != nil {
		return nil, err
	}
	return a.open(a.service, token)
}

// serviceFor is openService; where nothing names a service, it is the one
// behind the host of the subject's registry, if one answers there.
func (a *app) serviceFor(ctx context.Context, about subject) (*client.Client, error) {
	if a.service != "" || about.repo == nil {
		return a.openService()
	}
	host := about.image.Host
	found, err := a.open(a.schemeOf(host)+host, "")
	if err != nil {
		return nil, err
	}
	answers, err := found.HasExtension(ctx, "_scitt")
	if err != nil {
		return nil, err
	}
	if !answers {
		return nil, usage("no transparency service answers on the registry's host %s", host).try("add --service URL")
	}
	a.say("service %s, behind the registry's host", found.URL())
	token, err := a.token()
	if err != nil || token == "" {
		return found, err
	}
	// Nobody named this host as a service: it sees the token if it was pinned.
	trust, err := a.trust()
	if err != nil {
		return nil, err
	}
	pinned := slices.ContainsFunc(trust.Services, func(s client.PinnedService) bool { return sameHost(s.URL, host) })
	if !pinned {
		return nil, fail(exitUntrusted, "no key of a service on %s is pinned, so it is not sent the token", host).
			try("scitt trust init %s, or name it: --service %[1]s", found.URL())
	}
	return a.open(found.URL(), token)
}

func (a *app) token() (string, error) {
	var text []byte
	var err error
	switch {
	case a.tokenStdin:
		text, err = io.ReadAll(io.LimitReader(a.stdin, 4096))
	case a.tokenFile != "":
		text, err = os.ReadFile(a.tokenFile)
	default:
		return "", nil
	}
	if err != nil {
		return "", usage("token: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", usage("what --token-file or --token-stdin gives is no token")
	}
	return token, nil
}

func (a *app) tls() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if a.caFile != "" {
		pem, err := os.ReadFile(a.caFile)
		if err != nil {
			return nil, usage("--ca-file: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, usage("--ca-file %s holds no certificate", a.caFile)
		}
	}
	if a.certFile != "" || a.keyFile != "" {
		pair, err := tls.LoadX509KeyPair(a.certFile, a.keyFile)
		if err != nil {
			return nil, usage("--cert-file with --key-file: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// registry opens the registry at host with the user's credentials.
func (a *app) registry(host string) (*storage.Remote, error) {
	config, err := a.tls()
	if err != nil {
		return nil, err
	}
	header := http.Header{}
	for _, h := range a.headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok {
			return nil, usage("--header %q is not 'Name: value'", h)
		}
		header.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	r, err := storage.OpenRemote(host, storage.RemoteOptions{
		PlainHTTP: a.schemeOf(host) == "http://", TLS: config, Header: header,
		DockerConfig: a.registryConfig, UserAgent: "scitt/" + version(),
	})
	if err != nil {
		return nil, usage("%w", err)
	}
	source := a.registryConfig
	if source == "" {
		source = "the user's docker config"
	}
	a.say("registry %s, credentials from %s", host, source)
	return r, nil
}

func (a *app) schemeOf(host string) string {
	if a.plainHTTP || storage.PlainHTTP(host) {
		return "http://"
	}
	return "https://"
}

// sameHost says whether a URL is on the given registry host.
func sameHost(service, host string) bool {
	u, err := url.Parse(service)
	if err != nil {
		return false
	}
	port := map[string]string{"http": "80", "https": "443"}[u.Scheme]
	return withPort(u.Host, port) == withPort(host, port)
}

func withPort(host, port string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), port)
}
