package front

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// foreign are headers by which an answer would act on more than the exchange it
// belongs to: on this host, which has other pages, or on the next connection.
var foreign = []string{
	"Alt-Svc", "Clear-Site-Data", "Content-Location", "Nel", "Proxy-Authenticate", "Public-Key-Pins", "Refresh", "Report-To",
	"Reporting-Endpoints", "Set-Cookie", "Strict-Transport-Security",
}

// modify makes an answer of the registry one of this host: what leads somewhere
// leads back here, or the answer is withheld. Everything else stays as it came.
func (u *Upstream) modify(resp *http.Response) error {
	h, o := resp.Header, originOf(resp.Request)
	for _, name := range foreign {
		h.Del(name)
	}
	// What people push must not become pages of this host.
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'")
	if err := u.location(resp, o); err != nil {
		return err
	}
	if err := u.links(h, o); err != nil {
		return err
	}
	if err := u.challenges(resp, o); err != nil {
		return err
	}
	if stall := stallOf(resp.Request); stall != nil {
		stall.moves()
		resp.Body = &movingBody{ReadCloser: resp.Body, stall: stall}
	}
	return nil
}

// location makes Location one of the host that the client asked. Clients send
// their credentials there, except when they are redirected to another host.
func (u *Upstream) location(resp *http.Response, o origin) error {
	values := resp.Header.Values("Location")
	if len(values) == 0 {
		return nil
	}
	if len(values) > 1 {
		return &misleads{"it has several Locations"}
	}
	path, target, err := u.ours(values[0], o)
	switch {
	case err != nil:
		return &misleads{"its Location " + err.Error()}
	case target == nil && path == values[0]: // relative, and so it stays
	case target == nil && Serves(pathOf(path)):
		resp.Header.Set("Location", o.String()+path)
	case target == nil:
		return &misleads{"its Location is not a path of registries"}
	case !isRedirect(resp.StatusCode) || !readsContent(resp.Request):
		return &misleads{fmt.Sprintf("its Location leads to %s, where credentials and uploads do not go", target.Host)}
	case target.Scheme != "https" && u.base.Scheme == "https":
		return &misleads{fmt.Sprintf("it redirects to %s without TLS", target.Host)}
	}
	return nil
}

// links makes every Link relative: it is the next page of this list.
func (u *Upstream) links(h http.Header, o origin) error {
	values := h.Values("Link")
	for i, v := range values {
		open, rest, ok := strings.Cut(v, "<")
		target, params, closed := strings.Cut(rest, ">")
		if !ok || !closed || strings.TrimSpace(open) != "" || strings.Contains(params, "<") {
			return &misleads{"its Link is malformed"}
		}
		path, elsewhere, err := u.ours(target, o)
		if err != nil {
			return &misleads{"its Link " + err.Error()}
		}
		if elsewhere != nil {
			return &misleads{fmt.Sprintf("its Link leads to %s, where credentials do not go", elsewhere.Host)}
		}
		values[i] = "<" + path + ">" + params
	}
	return nil
}

// ours cuts scheme and host off a URL that leads to the registry, whichever of
// its names that has, and leaves every byte behind them. A relative one is
// returned whole, one that leads elsewhere parsed.
func (u *Upstream) ours(text string, o origin) (path string, elsewhere *url.URL, err error) {
	target, err := url.Parse(text)
	if err != nil || strings.ContainsAny(text, "\\ \t\"") {
		return "", nil, fmt.Errorf("is malformed")
	}
	switch {
	case target.Host == "" && target.Scheme == "" && !strings.HasPrefix(text, "//"):
		return text, nil, nil
	case target.Scheme != "http" && target.Scheme != "https" && target.Scheme != "" || target.Host == "" || target.User != nil:
		return "", nil, fmt.Errorf("is no URL of a registry")
	case !u.itself(target, o):
		if target.Scheme == "" {
			target.Scheme = o.scheme
		}
		return "", target, nil
	}
	_, behind, _ := strings.Cut(text, "//")
	if i := strings.IndexAny(behind, "/?#"); i >= 0 {
		behind = behind[i:]
	} else {
		behind = ""
	}
	switch {
	case strings.HasPrefix(behind, "//"): // alone it would name a host
		return "", nil, fmt.Errorf("is malformed")
	case !strings.HasPrefix(behind, "/"):
		behind = "/" + behind
	}
	return behind, nil, nil
}

// itself: the registry calls itself by the name that it was asked by, or by its
// own. It may be mistaken about TLS, which may end in front of it or of us.
func (u *Upstream) itself(target *url.URL, o origin) bool {
	return sameHost(target, o.host) || sameHost(target, u.base.Host)
}

// sameHost compares a URL's host with one that may lack its scheme's port.
func sameHost(target *url.URL, host string) bool {
	if strings.EqualFold(target.Host, host) {
		return true
	}
	name, port := target.Hostname(), target.Port()
	if port == "" || port == "80" || port == "443" {
		bare := &url.URL{Host: host}
		return strings.EqualFold(bare.Hostname(), name) && (bare.Port() == "" || bare.Port() == "80" || bare.Port() == "443")
	}
	return false
}

// pathOf is what of a request target stands before its query.
func pathOf(target string) string {
	if i := strings.IndexAny(target, "?#"); i >= 0 {
		return target[:i]
	}
	return target
}

func isRedirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// readsContent: r asks for what registries keep in other places.
func readsContent(r *http.Request) bool {
	path := r.URL.EscapedPath()
	return (r.Method == http.MethodGet || r.Method == http.MethodHead) && (repositoryOf(path) != "" || isElsewhere(path))
}
