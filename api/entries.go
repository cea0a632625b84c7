package api

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

const jsonType = "application/json"

// find lists entries, newest first: all, or those whose claims are placed in
// repository.
func (a *API) find(w http.ResponseWriter, r *http.Request, c Caller, repository string) error {
	f, err := parseFilter(r.URL.RawQuery)
	if err != nil {
		return err
	}
	// Taken first: what is committed while the index is searched is a surplus. It
	// may trail the log by what other processes committed a moment ago, which
	// asking for the newest head at each query is not worth.
	through := a.Ledger.Seen().Size
	// One more than asked for tells whether there is a next page; the store
	// gives no more than maxPage, and after so many there may be one.
	q := f.query
	q.Scope, q.Repository, q.Limit = c.Scope(), repository, min(f.limit+1, maxPage)
	entries, err := a.Custodian.Claims(r.Context(), q, f.instances)
	if err != nil {
		return err
	}
	more := len(entries) > f.limit || len(entries) == maxPage
	entries = entries[:min(len(entries), f.limit)]
	if more {
		more = entries[len(entries)-1].Index > 0 // below the first entry there is nothing
	}

	if len(entries) > 0 {
		through = max(through, entries[0].Index+1)
	}
	page := apitype.EntryList{IndexedThrough: through}
	if page.Entries, err = a.describeAll(r.Context(), c, entries); err != nil {
		return err
	}
	if more {
		page.Next = f.cursor(entries[len(entries)-1].Index)
		w.Header().Set("Link", "<"+r.URL.EscapedPath()+"?"+f.with(page.Next)+`>; rel="next"`)
	}
	if len(entries) == 0 && len(q.Artifacts) > 0 && q.Before == 0 {
		if page.Found, err = a.found(r, q, f.instances); err != nil {
			return err
		}
	}
	a.sendJSON(w, c, page)
	return nil
}

// found tells what does exist for the subjects of a query that found nothing,
// since "no claim" and "no claim of this kind" are different answers.
func (a *API) found(r *http.Request, q ledger.Query, instances bool) (*apitype.Found, error) {
	entries, err := a.Custodian.Claims(r.Context(), ledger.Query{Scope: q.Scope, Repository: q.Repository, Artifacts: q.Artifacts, Limit: maxPage}, instances)
	if err != nil {
		return nil, err
	}
	f := &apitype.Found{Issuers: []string{}, MediaTypes: []string{}}
	for _, e := range entries {
		f.Issuers = append(f.Issuers, e.Issuer)
		if e.MediaType != "" {
			f.MediaTypes = append(f.MediaTypes, e.MediaType)
		}
	}
	slices.Sort(f.Issuers)
	slices.Sort(f.MediaTypes)
	f.Issuers, f.MediaTypes = slices.Compact(f.Issuers), slices.Compact(f.MediaTypes)
	return f, nil
}

func (a *API) entry(w http.ResponseWriter, r *http.Request, c Caller) error {
	claim, err := a.claim(r, c)
	if err != nil {
		return err
	}
	shown, err := a.describeAll(r.Context(), c, []ledger.Claim{claim})
	if err != nil {
		return err
	}
	record, err := a.Ledger.Record(r.Context(), claim.ID, c.Scope())
	if err != nil {
		return err
	}
	for _, k := range record.Collateral {
		sum := sha256.Sum256(k.Data)
		shown[0].Collateral = append(shown[0].Collateral, apitype.CollateralRef{Kind: k.Kind, SHA256: hex.EncodeToString(sum[:]), Size: len(k.Data)})
	}
	a.sendJSON(w, c, shown[0])
	return nil
}

// statement answers with the canonical bytes: those whose SHA-256 is the id.
func (a *API) statement(w http.ResponseWriter, r *http.Request, c Caller) error {
	id, err := entryID(r)
	if err != nil {
		return err
	}
	record, err := a.Ledger.Record(r.Context(), id, c.Scope())
	if err != nil {
		return err
	}
	sendImmutable(w, r, c, statementType, id.String(), record.Canonical)
	return nil
}

func (a *API) receipt(w http.ResponseWriter, r *http.Request, c Caller) error {
	id, err := entryID(r)
	if err != nil {
		return err
	}
	newest, err := wantsFresh(r)
	if err != nil {
		return err
	}
	read := a.Ledger.Receipt
	if newest {
		read = a.Ledger.Fresh
	}
	receipt, err := read(r.Context(), id, c.Scope())
	if err != nil {
		return err
	}
	sendReceipt(w, r, c, newest, receiptType, id, receipt)
	return nil
}

func (a *API) transparent(w http.ResponseWriter, r *http.Request, c Caller) error {
	id, err := entryID(r)
	if err != nil {
		return err
	}
	b, err := a.Ledger.Transparent(r.Context(), id, c.Scope())
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", fresh(c))
	send(w, http.StatusOK, statementType, b)
	return nil
}

func (a *API) collateral(w http.ResponseWriter, r *http.Request, c Caller) error {
	id, err := entryID(r)
	if err != nil {
		return err
	}
	record, err := a.Ledger.Record(r.Context(), id, c.Scope())
	if err != nil {
		return err
	}
	list := apitype.CollateralList{Collateral: []apitype.Collateral{}}
	for _, item := range record.Collateral {
		list.Collateral = append(list.Collateral, apitype.Collateral{Kind: item.Kind, Data: item.Data, Source: item.Source()})
	}
	a.sendJSON(w, c, list)
	return nil
}

func (a *API) deliveries(w http.ResponseWriter, r *http.Request, c Caller) error {
	id, err := entryID(r)
	if err != nil {
		return err
	}
	deliveries, err := a.Ledger.Deliveries(r.Context(), id, c.Scope())
	if err != nil {
		return err
	}
	list := apitype.Deliveries{Deliveries: []apitype.Delivery{}}
	for _, d := range deliveries {
		shown := apitype.Delivery{
			Registry: d.Registry, Repository: d.Repository, Subject: string(d.Subject), Artifact: d.Artifact,
			State: d.State, Tries: d.Tries, LastError: d.LastError, Manifest: string(d.Manifest),
		}
		if d.State == ledger.Queued && !d.NextAt.IsZero() {
			next := d.NextAt.UTC()
			shown.NextAt = &next
		}
		list.Deliveries = append(list.Deliveries, shown)
	}
	a.sendJSON(w, c, list)
	return nil
}

// describe shows an entry.
func describe(e ledger.Entry) apitype.Entry {
	path := "/v1/entries/" + e.ID.String()
	return apitype.Entry{
		EntryID: e.ID.String(), Index: e.Index, RegisteredAt: e.RegisteredAt.UTC().Truncate(time.Second),
		Issuer: e.Issuer, Subject: e.Subject, Artifacts: texts(e.Artifacts),
		MediaType: e.MediaType, PredicateType: e.PredicateType, Evidence: apitype.Evidence{Digest: string(e.Evidence)},
		Visibility: visibility(e.Private),
		Policy:     apitype.Judgement{Entry: e.Policy.String(), Rule: e.Rule},
		Identity:   apitype.Identity{Kind: e.Identity.Kind, Issuer: e.Identity.Issuer, Thumbprint: e.Identity.Thumbprint, Name: e.Identity.Name},
		Links: apitype.Links{
			Self: path, Statement: path + "/statement", Receipt: entryPath(e.ID),
			Transparent: path + "/transparent", Deliveries: path + "/deliveries", Collateral: path + "/collateral",
		},
	}
}

func texts(digests []statement.Digest) []string {
	all := make([]string, 0, len(digests))
	for _, d := range digests {
		all = append(all, string(d))
	}
	return all
}

func (a *API) sendJSON(w http.ResponseWriter, c Caller, v any) {
	w.Header().Set("Cache-Control", fresh(c))
	send(w, http.StatusOK, jsonType, marshalJSON(v))
}

// fresh is the Cache-Control of what may change under its path.
func fresh(c Caller) string {
	if c.Scope() != ledger.Public {
		return "private, no-cache"
	}
	return "no-cache"
}

// pathValue is a {name} of the route, unescaped; "" when its escapes are bad.
func pathValue(r *http.Request, name string) string {
	value, err := url.PathUnescape(r.PathValue(name))
	if err != nil {
		return ""
	}
	return value
}
