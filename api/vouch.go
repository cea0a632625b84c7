package api

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"
)

// Vouched is r with a caller for whom a registry vouches, in a request to the
// extension that came with that registry's credentials, or with none where it
// asks for none. The caller sees what is public, publishes if the registry says
// so, and counts against a rate by the hash of the credentials. They are not
// looked at again.
func Vouched(r *http.Request, registry string, publish bool) *http.Request {
	c := Caller{Name: "anonymous@" + registry, Publish: publish}
	if credentials := r.Header["Authorization"]; len(credentials) > 0 {
		c.token = sha256.Sum256([]byte(registry + "\n" + strings.Join(credentials, "\n")))
		c.Name = fmt.Sprintf("token %x@%s", c.token[:4], registry)
		if user, _, ok := r.BasicAuth(); ok {
			c.Name = fmt.Sprintf("%q@%s", bounded(user), registry)
		}
	}
	return r.WithContext(context.WithValue(r.Context(), vouchedKey{}, c))
}

type vouchedKey struct{}

func vouched(r *http.Request) (Caller, bool) {
	c, ok := r.Context().Value(vouchedKey{}).(Caller)
	return c, ok
}
