package front

import (
	"errors"
	"net/http"
	"strings"
)

const (
	tokenPath = "/v2/_token"
	anonymous = "anonymous" // the token of those who have none; never a valid one, which has 32 bytes at least
)

// challenge sends the client to the token realm.
func (f *front) challenge(w http.ResponseWriter, r *http.Request) {
	realm := originOf(r).String() + tokenPath
	// Host is the client's own word, but a quote in it would end the parameter.
	if strings.ContainsAny(realm, "\"\\") {
		answer(w, http.StatusBadRequest, "UNSUPPORTED", "the Host header is malformed")
		return
	}
	w.Header().Set("WWW-Authenticate", `Bearer realm="`+realm+`",service="scittd"`)
	w.Header().Set("Cache-Control", "no-store")
	answer(w, http.StatusUnauthorized, "UNAUTHORIZED", "writing needs a token; reading does not")
}

// token answers the handshake (distribution's "token" endpoint). The token is
// the caller's own, checked; scopes are decided at each request anyway.
func (f *front) token(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if r.Method != http.MethodGet {
		// Clients that try OAuth2's POST first go on with GET after a 405.
		w.Header().Set("Allow", "GET")
		answer(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "a token is asked for with GET")
		return
	}
	token := anonymous
	if r.Header.Get("Authorization") != "" {
		_, password, ok := r.BasicAuth()
		err := f.authorize(r, "", true)
		if !ok {
			err = ErrUnauthenticated
		}
		if err != nil && !errors.Is(err, ErrDenied) {
			f.refuse(w, err)
			return
		}
		token = password
	}
	writeJSON(w, http.StatusOK, map[string]any{"token": token, "access_token": token, "expires_in": 3600})
}

// withoutAnonymous takes off what stands for "no credentials": our anonymous
// token, and the empty Basic pair that podman and skopeo send.
func withoutAnonymous(r *http.Request) *http.Request {
	header := r.Header.Get("Authorization")
	user, password, basic := r.BasicAuth()
	if header != "Bearer "+anonymous && (!basic || user != "" || password != "") {
		return r
	}
	r = r.Clone(r.Context())
	r.Header.Del("Authorization")
	return r
}
