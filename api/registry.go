package api

import (
	"fmt"
	"net/http"
)

// The registry beside this API has rates of its own: what is much for one is an
// ordinary push for the other.

// admitPush is admit for a write to the registry. Many clients send every
// request without credentials first; refusing that costs nothing and is not
// counted.
func (a *API) admitPush(r *http.Request) (Caller, error) {
	if _, known := vouched(r); !known && r.Header.Get("Authorization") == "" && !a.OpenWrites {
		return a.callers.Identify(r)
	}
	return a.admitBy(r, a.byPusher)
}

// AdmitPull counts a read of the registry against its address: nil or a
// *RateLimited. It asks no database.
func (a *API) AdmitPull(r *http.Request) error {
	return a.pulls.take(a.addresses.client(r), a.Clock())
}

// CallerName says who sends r: the name and id of a token, "" for an anonymous
// caller. ErrUnauthenticated, or an error of the store.
func (a *API) CallerName(r *http.Request) (string, error) {
	c, err := a.callers.Identify(r)
	if err != nil {
		return "", fmt.Errorf("identify the caller: %w", err)
	}
	if c.anonymous() {
		return "", nil
	}
	return c.Name, nil
}
