package front

import (
	"context"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// origin is where a client believes to be: what URLs that it is given begin
// with.
type origin struct {
	scheme string // "http" or "https"
	host   string // with its port, as the client wrote it
}

func (o origin) String() string { return o.scheme + "://" + o.host }

// origins tells where clients believe to be. TLS may end in front of us.
type origins struct {
	public  url.URL        // of the service
	proxies []netip.Prefix // whose X-Forwarded-Proto and -Host are believed
}

func (s *origins) of(r *http.Request) origin {
	o := origin{"http", r.Host}
	if s.believes(r.RemoteAddr) {
		if host := r.Header.Get("X-Forwarded-Host"); host != "" && !strings.ContainsAny(host, ",/\\@?# \"") {
			o.host = host
		}
		if scheme := r.Header.Get("X-Forwarded-Proto"); scheme == "https" || scheme == "http" {
			o.scheme = scheme
			return o
		}
	}
	switch {
	case r.TLS != nil:
		o.scheme = "https"
	case s.public.Scheme != "" && strings.EqualFold(o.host, s.public.Host):
		o.scheme = s.public.Scheme
	}
	return o
}

func (s *origins) believes(address string) bool {
	peer, err := netip.ParseAddrPort(address)
	if err != nil {
		return false
	}
	for _, p := range s.proxies {
		if p.Contains(peer.Addr().Unmap()) {
			return true
		}
	}
	return false
}

type originKey struct{}

func withOrigin(ctx context.Context, o origin) context.Context {
	return context.WithValue(ctx, originKey{}, o)
}

// originOf is the origin that the front found; a handler that stands alone has
// the request itself.
func originOf(r *http.Request) origin {
	if o, ok := r.Context().Value(originKey{}).(origin); ok {
		return o
	}
	return (&origins{}).of(r)
}
