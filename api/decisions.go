package api

import (
	"context"
	"fmt"
	"net/http"

	"github.com/scittd/scittd/ledger"
)

// Decisions reads out what was decided about entries. ledger.Decisions is one.
type Decisions interface {
	Decided(ctx context.Context, from uint64, limit int, scope ledger.Scope) ([]ledger.Decided, error)
}

var _ Decisions = ledger.Decisions{}

// decisions reads out, for every leaf, what was decided and by which collateral:
// what an auditor needs besides the statements to judge again. Of what the caller
// may not see there is the id alone.
func (a *API) decisions(w http.ResponseWriter, r *http.Request, c Caller) error {
	from, limit := uint64(0), uint64(defaultPage)
	err := parseNumbers(r.URL.RawQuery,
		parameter{name: "from", value: &from}, parameter{name: "limit", value: &limit, min: 1, max: maxPage})
	if err != nil {
		return err
	}
	page, err := a.Decisions.Decided(r.Context(), from, int(limit), c.Scope())
	if err != nil {
		return err
	}
	if n := len(page); n > 0 {
		w.Header().Set("Link", fmt.Sprintf(`</v1/decisions?from=%d&limit=%d>; rel="next"`, page[n-1].Index+1, limit))
	}
	w.Header().Set("Cache-Control", fresh(c))
	send(w, http.StatusOK, sequenceType, ledger.AppendDecided(nil, page))
	return nil
}
