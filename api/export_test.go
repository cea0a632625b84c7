package api

import (
	"net/http"

	"github.com/go-chi/chi/v5"

	"github.com/scittd/scittd/ledger"
)

// Fail answers with the problem of code, for tests of the whole table.
func Fail(a *API, w http.ResponseWriter, r *http.Request, code string) {
	a.fail(w, r, &fault{code: code})
}

// Crowd is how many bytes of batches wait for room.
func Crowd(a *API) int64 { return a.crowd.Load() }

// ParseTile says which tile path names, and at what width; for fuzzing.
func ParseTile(path string) (id ledger.TileID, entries bool, width int, err error) {
	t, err := parseTile(path)
	return t.TileID, t.entries, t.width, err
}

// Routes lists every route of a as "METHOD /pattern".
func Routes(a *API) (all []string) {
	chi.Walk(a.router, func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		all = append(all, method+" "+route)
		return nil
	})
	return all
}
