package api

import (
	"log/slog"
	"net/http"

	"github.com/scittd/scittd/ledger"
)

// Unavailable answers in the place of an API that cannot be there yet, for its
// database is away: 503, but to those who ask whether the process lives.
func Unavailable(publicURL string, log *slog.Logger) http.Handler {
	a := New(Config{PublicURL: publicURL, Log: log})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/healthz", "/readyz":
			a.healthy(w, r)
		default:
			a.fail(w, r, &fault{code: "store-unavailable", cause: ledger.ErrUnavailable})
		}
	})
}
