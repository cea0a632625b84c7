package front

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"

	"github.com/scittd/scittd/storage"
)

// maxRedirects is how far a blob may be from its registry.
const maxRedirects = 5

// followRedirects fetches what the registry redirects readers to, if this front
// is to do so, or this request (see Ask), or if the client would take its
// credentials along. They stay at the registry: elsewhere goes nothing of the
// request but what it takes to read.
type followRedirects struct{ *Upstream }

func (f followRedirects) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := f.pool.RoundTrip(req)
	if err != nil || !isRedirect(resp.StatusCode) || !readsContent(req) {
		return resp, err
	}
	first, at, asks := resp.Header, req.URL, req.Context().Value(following{}) != nil
	for range maxRedirects {
		target, err := f.next(resp, at)
		if err != nil {
			discard(resp)
			return nil, err
		}
		here := f.itself(target, originOf(req))
		if !asks && (here || !f.follow && !takesCredentials(req, target)) {
			return resp, nil // the client follows it
		}
		discard(resp)
		if resp, err = f.fetch(req, target, here); err != nil {
			return nil, err
		}
		if !isRedirect(resp.StatusCode) {
			return found(resp, req, first)
		}
		at, asks = target, true
	}
	discard(resp)
	return nil, &misleads{"it redirects for ever"}
}

// fetch reads target, which is here, at the registry itself, or elsewhere.
func (f followRedirects) fetch(req *http.Request, target *url.URL, here bool) (*http.Response, error) {
	names, pool := []string{"Accept", "Accept-Encoding", "Range", "If-Range", "If-None-Match", "If-Modified-Since", "User-Agent"}, f.bucket
	if here {
		pool, names = f.pool, append(names, "Authorization", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto")
		own := *target
		own.Scheme, own.Host = f.base.Scheme, f.base.Host
		target = &own
	}
	to, err := http.NewRequestWithContext(req.Context(), req.Method, target.String(), nil)
	if err != nil {
		return nil, &misleads{"its redirect is malformed"}
	}
	if here {
		to.Host = req.Host
	}
	for _, name := range names {
		if values, ok := req.Header[name]; ok {
			to.Header[name] = values
		}
	}
	return pool.RoundTrip(to)
}

// takesCredentials: Go's client, and so most of those for registries, shows
// Authorization also to another port or a subdomain of the host that it asked.
func takesCredentials(req *http.Request, target *url.URL) bool {
	asked, led := strings.ToLower((&url.URL{Host: originOf(req).host}).Hostname()), strings.ToLower(target.Hostname())
	return len(req.Header["Authorization"]) > 0 && (led == asked || strings.HasSuffix(led, "."+asked))
}

// next is where a redirect leads.
func (f followRedirects) next(resp *http.Response, at *url.URL) (*url.URL, error) {
	target, err := at.Parse(resp.Header.Get("Location"))
	switch {
	case err != nil || target.Host == "" || target.User != nil || target.Scheme != "http" && target.Scheme != "https":
		return nil, &misleads{"its redirect is malformed"}
	case target.Scheme != "https" && f.base.Scheme == "https" && !f.itself(target, originOf(resp.Request)):
		return nil, &misleads{fmt.Sprintf("it redirects to %s without TLS", target.Host)}
	}
	return target, nil
}

// found makes an answer from elsewhere the registry's: only what describes the
// bytes comes along, and a failure there is the registry's failure.
func found(resp *http.Response, asked *http.Request, registry http.Header) (*http.Response, error) {
	switch resp.StatusCode {
	case http.StatusOK, http.StatusPartialContent, http.StatusNotModified, http.StatusNotFound, http.StatusRequestedRangeNotSatisfiable:
	default:
		discard(resp)
		return nil, &misleads{fmt.Sprintf("where it redirects to answers %d", resp.StatusCode)}
	}
	h := http.Header{}
	for _, name := range []string{"Accept-Ranges", "Content-Encoding", "Content-Length", "Content-Range", "Content-Type", "Etag", "Last-Modified"} {
		if values, ok := resp.Header[name]; ok {
			h[name] = values
		}
	}
	for _, name := range []string{"Docker-Content-Digest", "Docker-Distribution-Api-Version"} {
		if values, ok := registry[name]; ok {
			h[name] = values
		}
	}
	resp.Header, resp.Request = h, asked
	return resp, nil
}

// discard lets the connection be used again.
func discard(resp *http.Response) {
	io.CopyN(io.Discard, resp.Body, 8<<10) // an error means only that it cannot
	resp.Body.Close()
}

// mayReach keeps a registry that misleads from reading, through us, what only
// this machine can: its own services and those of its cloud.
func (u *Upstream) mayReach(_, address string, _ syscall.RawConn) error {
	peer, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	ip := peer.Addr().Unmap()
	if ip.IsLinkLocalUnicast() || ip.IsUnspecified() || ip.IsLoopback() && !storage.Loopback(u.base.Host) {
		return &net.AddrError{Err: "the registry redirects to an address that is not its own", Addr: address}
	}
	return nil
}
