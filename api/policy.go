package api

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

// policy shows a registration policy and where it stands in the log: the one in
// force, ?entry= that of an entry, ?at= the one that judges the entry at an index.
func (a *API) policy(w http.ResponseWriter, r *http.Request) error {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return &fault{code: "bad-filter", detail: "The query string is not well formed.", cause: err}
	}
	for _, name := range sortedNames(values) {
		switch {
		case name != "entry" && name != "at":
			return badFilter(name, "there is no such parameter; there are entry and at")
		case len(values) > 1 || len(values[name]) > 1:
			return badFilter(name, "it is about one policy: give one entry or one index")
		}
	}
	var reign ledger.Reign
	switch {
	case values.Has("entry"):
		id, err := statement.ParseID(values.Get("entry"))
		if err != nil {
			return &fault{code: "invalid-locator", cause: err}
		}
		reign, err = a.Ledger.PolicyOf(r.Context(), id)
		if err != nil {
			return err
		}
	case values.Has("at"):
		at, err := strconv.ParseUint(values.Get("at"), 10, 63)
		if err != nil {
			return badFilter("at", "it is an index of the log")
		}
		if reign, err = a.Ledger.PolicyAt(r.Context(), at); err != nil {
			return err
		}
	default:
		return a.policyInForce(w, r)
	}
	shown, err := DescribePolicy(reign)
	if err != nil {
		return err
	}
	a.sendJSON(w, Caller{}, shown)
	return nil
}

// policyInForce shows also what operators have signed to replace it.
func (a *API) policyInForce(w http.ResponseWriter, r *http.Request) error {
	proposals, err := a.Ledger.Proposals(r.Context())
	if err != nil {
		return err
	}
	shown, err := a.inForce(r.Context())
	if err != nil {
		return err
	}
	for _, p := range proposals {
		proposed, err := DescribePolicy(p)
		if err != nil {
			return err
		}
		shown.Proposed = append(shown.Proposed, proposed)
	}
	a.sendJSON(w, Caller{}, shown)
	return nil
}

func (a *API) inForce(ctx context.Context) (apitype.Policy, error) {
	reign, err := a.Ledger.PolicyOf(ctx, a.Ledger.Policy().Entry)
	if err != nil {
		return apitype.Policy{}, err
	}
	return DescribePolicy(reign)
}

// DescribePolicy shows a policy.
func DescribePolicy(r ledger.Reign) (apitype.Policy, error) {
	document, err := r.Policy.JSON()
	if err != nil {
		return apitype.Policy{}, fmt.Errorf("write policy %s: %w", r.Policy.Entry, err)
	}
	id := r.Policy.Entry.String()
	shown := apitype.Policy{
		Entry: id, Index: r.Index, Signers: []apitype.PolicySigner{}, Threshold: r.Needed, Policy: document,
		Links: apitype.PolicyLinks{Self: "/v1/policy?entry=" + id, Statement: "/v1/entries/" + id + "/statement"},
	}
	replaced := r.Next != (statement.ID{})
	switch {
	case r.InForce && !replaced:
		shown.State = "in-force"
	case r.InForce:
		shown.State = "replaced"
	case replaced:
		shown.State = "lapsed"
	default:
		shown.State = "proposed"
	}
	if r.InForce {
		from := r.At.UTC().Truncate(time.Second)
		shown.From = &from
	}
	if r.InForce && replaced {
		until := r.Until.UTC().Truncate(time.Second)
		shown.Until, shown.Next = &until, r.Next.String()
	}
	for _, e := range r.Signed {
		shown.Signers = append(shown.Signers, apitype.PolicySigner{
			Entry: e.ID.String(), Index: e.Index, Rule: e.Rule, Thumbprint: e.Identity.Thumbprint, At: e.RegisteredAt.UTC().Truncate(time.Second),
		})
	}
	if p := r.Policy.Previous; p != nil {
		shown.Links.Previous = "/v1/policy?entry=" + p.String()
	}
	return shown, nil
}

// refusalCounts says how often which rule refused whom: ?since=&limit=. It is for
// operators, whose tokens see everything.
func (a *API) refusalCounts(w http.ResponseWriter, r *http.Request, c Caller) error {
	const detail = "What was refused is shown with a token of scope read."
	switch {
	case a.Refusals == nil:
		return &fault{code: "not-found"}
	case c.anonymous() && !a.OpenWrites:
		return &fault{code: "unauthenticated", detail: detail, hint: "send it as Authorization: Bearer <token>"}
	case !c.Read && !a.OpenWrites:
		return &fault{code: "forbidden", detail: detail}
	}
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return &fault{code: "bad-filter", detail: "The query string is not well formed.", cause: err}
	}
	limit, since := defaultPage, time.Time{}
	for _, name := range sortedNames(values) {
		value := values.Get(name)
		switch {
		case len(values[name]) != 1:
			return badFilter(name, "it is given more than once")
		case name == "since":
			if since, err = time.Parse(time.RFC3339, value); err != nil {
				return badFilter(name, "it is a time such as 2026-11-03T09:12:44Z")
			}
		case name == "limit":
			if limit, err = strconv.Atoi(value); err != nil || limit < 1 || limit > maxPage {
				return badFilter(name, "it is one number from 1 to %d", maxPage)
			}
		default:
			return badFilter(name, "there is no such parameter; there are since and limit")
		}
	}
	found, err := a.Refusals.CountedRefusals(r.Context(), since, limit)
	if err != nil {
		return err
	}
	a.sendJSON(w, c, DescribeRefusalCounts(found))
	return nil
}

// DescribeRefusalCounts shows them.
func DescribeRefusalCounts(found []ledger.RefusalCount) apitype.RefusalCounts {
	list := apitype.RefusalCounts{Refusals: make([]apitype.RefusalCount, 0, len(found))}
	for _, c := range found {
		shown := apitype.RefusalCount{
			Code: c.Code, Rule: c.Rule, Issuer: bounded(c.Issuer), Count: c.Count, First: c.First.UTC(), Last: c.Last.UTC(),
			Reason: bounded(c.Reason), Hint: bounded(c.Hint),
		}
		if c.Policy != (statement.ID{}) {
			shown.PolicyEntry = c.Policy.String()
		}
		list.Refusals = append(list.Refusals, shown)
	}
	return list
}
