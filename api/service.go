package api

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/statement"
)

// service says what a client wants to know before it sends anything.
func (a *API) service(w http.ResponseWriter, r *http.Request) error {
	head, err := a.Ledger.Head(r.Context())
	if err != nil {
		return err
	}
	var cosigned *apitype.Cosigned
	if a.Witnesses != nil {
		c := a.Witnesses.Cosigned()
		cosigned = &c
	}
	s := a.Ledger.Service()
	a.sendJSON(w, Caller{}, apitype.Service{
		URL: s.URL, Origin: s.Origin, LeafRule: s.LeafRule, Registry: a.Registry,
		TreeSize: head.Size, PolicyEntry: a.Ledger.Policy().Entry.String(),
		Limits: apitype.Limits{
			Statement: a.Limits.Statement, Evidence: a.Limits.Evidence,
			PageSize: maxPage, Artifacts: statement.MaxArtifacts,
			BatchItems: maxBatchItems, BatchSize: maxBatchSize,
		},
		CheckpointKeys: append([]string{}, s.CheckpointKeys...), Cosigned: cosigned,
	})
	return nil
}

// problemPage describes one problem: what its type URI leads to.
func (a *API) problemPage(w http.ResponseWriter, r *http.Request) error {
	code := pathValue(r, "code")
	p := problem(code)
	if p.Code != code {
		return &fault{code: "not-found"}
	}
	page := fmt.Sprintf("%s\n\n%s\n\ncode    %s\nstatus  %d %s\n", p.Title, p.About, p.Code, p.Status, http.StatusText(p.Status))
	if p.Retry > 0 {
		page += "retry   the same request may succeed later: see Retry-After\n"
	}
	w.Header().Set("Cache-Control", "max-age=300")
	send(w, http.StatusOK, "text/plain; charset=utf-8", []byte(page))
	return nil
}

// healthy: the process serves. It asks neither database nor registry, since
// what does not need them must stay reachable without them.
func (a *API) healthy(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	send(w, http.StatusOK, "text/plain; charset=utf-8", []byte("ok\n"))
}

// readyToWrite: a registration would be accepted now. It is for alerts and for
// routing writes, not for taking a replica out of service.
//
// Finding out costs a read and a signature, and anybody may ask: the answer
// serves everybody for a moment, and whoever comes meanwhile waits for it.
func (a *API) readyToWrite(w http.ResponseWriter, r *http.Request) {
	a.readiness.Lock()
	defer a.readiness.Unlock()
	if now := a.Clock(); !now.Before(a.readiness.until) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), 2*time.Second)
		defer cancel()
		a.readiness.err, a.readiness.until = a.Ready(ctx), now.Add(time.Second)
	}
	if a.readiness.err != nil {
		a.fail(w, r, a.readiness.err)
		return
	}
	a.healthy(w, r)
}
