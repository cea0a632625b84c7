package front

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// realmPath is where clients ask for an upstream registry's tokens.
const realmPath = "/token"

const (
	askTime  = 30 * time.Second // for a question of ours, or the token service's answer
	maxForm  = 64 << 10         // of a request for a token
	maxToken = 1 << 20          // of its answer
)

// errNoRealm: the registry was asked and demands no token.
var errNoRealm = errors.New("the registry demands no token")

// token passes a request for a token on to the registry's realm, and the answer
// back. Nothing is minted or kept here; service and scope are the client's.
func (u *Upstream) token(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		w.Header().Set("Allow", "GET, POST")
		answer(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "a token is asked for with GET or POST")
		return
	}
	form, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxForm))
	if err != nil {
		answer(w, http.StatusBadRequest, "UNSUPPORTED", "the request for a token has more than 64 KiB, or broke off")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), askTime)
	defer cancel()
	resp, err := u.askRealm(ctx, r, form)
	var lies *misleads
	switch {
	case errors.Is(err, errNoRealm):
		answer(w, http.StatusNotFound, "UNSUPPORTED", err.Error())
		return
	case err == nil && isRedirect(resp.StatusCode):
		resp.Body.Close()
		u.failed(w, r, &misleads{"its token service redirects, and credentials would follow"})
		return
	case errors.As(err, &lies), err != nil:
		u.failed(w, r, err)
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxToken+1))
	if err != nil || len(body) > maxToken {
		u.failed(w, r, errors.Join(err, errors.New("the token service's answer broke off or has no end")))
		return
	}
	for _, name := range []string{"Content-Type", "Retry-After"} {
		if values, ok := resp.Header[name]; ok {
			w.Header()[name] = values
		}
	}
	if resp.StatusCode == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
	}
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(resp.StatusCode)
	_, _ = w.Write(body)
}

func (u *Upstream) askRealm(ctx context.Context, r *http.Request, form []byte) (*http.Response, error) {
	realm, err := u.findRealm(ctx, r)
	if err != nil {
		return nil, err
	}
	to := *realm
	to.RawQuery = strings.Trim(realm.RawQuery+"&"+r.URL.RawQuery, "&")
	req, err := http.NewRequestWithContext(ctx, r.Method, to.String(), bytes.NewReader(form))
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"Accept", "Authorization", "Content-Type", "User-Agent"} {
		if values, ok := r.Header[name]; ok {
			req.Header[name] = values
		}
	}
	if to.Host == u.base.Host {
		u.address(req, r)
	}
	return u.pool.RoundTrip(req) // which follows no redirect
}

// findRealm is the realm that the registry announced last. A process that has
// heard none, being new or one of several, asks.
func (u *Upstream) findRealm(ctx context.Context, r *http.Request) (*url.URL, error) {
	if realm := u.realm.Load(); realm != nil {
		return realm, nil
	}
	resp, err := u.ask(ctx, r, http.MethodGet, "/v2/", nil)
	if err != nil {
		return nil, err
	}
	discard(resp)
	if err := u.challenges(resp, originOf(r)); err != nil {
		return nil, err
	}
	if realm := u.realm.Load(); realm != nil {
		return realm, nil
	}
	return nil, errNoRealm
}

// ask sends the registry a question of ours, in the name of r's caller, with
// those credentials. target is a path with its query. No redirect is followed.
func (u *Upstream) ask(ctx context.Context, r *http.Request, method, target string, credentials []string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, u.base.String()+target, nil)
	if err != nil {
		return nil, err
	}
	u.address(req, r)
	if len(credentials) > 0 {
		req.Header["Authorization"] = credentials
	}
	req.Header.Set("User-Agent", "scittd")
	return u.pool.RoundTrip(req)
}
