package api

import (
	"net/http"
	"net/url"
	"strconv"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

// refusals lists pushed statements that were stored in a registry without being
// registered, and why, the newest first: ?repository=&subject=&limit=. They are
// for those who may see what was pushed: everybody where pulls are open, callers
// for whom the registry vouches in their repository, and who may see everything.
func (a *API) refusals(w http.ResponseWriter, r *http.Request, c Caller) error {
	return a.refusalsIn(w, r, c, "")
}

func (a *API) refusalsIn(w http.ResponseWriter, r *http.Request, c Caller, repository string) error {
	if a.Refusals == nil {
		return &fault{code: "not-found"}
	}
	if _, pulls := vouched(r); !pulls && !a.OpenPulls && !c.Read {
		return mayNotRead(c)
	}
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return &fault{code: "bad-filter", detail: "The query string is not well formed.", cause: err}
	}
	limit, image := defaultPage, statement.Digest("")
	for _, name := range sortedNames(values) {
		if len(values[name]) != 1 {
			return badFilter(name, "it is given more than once")
		}
		switch value := values.Get(name); {
		case name == "repository" && repository == "":
			if !policy.ValidRepository(value) {
				return badFilter(name, "it is no repository name")
			}
			repository = value
		case name == "subject":
			found, err := digests(name, values[name])
			if err != nil {
				return err
			}
			image = found[0]
		case name == "limit":
			if limit, err = strconv.Atoi(value); err != nil || limit < 1 || limit > maxPage {
				return badFilter(name, "it is one number from 1 to %d", maxPage)
			}
		default:
			return badFilter(name, "there is no such parameter here")
		}
	}
	found, err := a.Refusals.FindRefusals(r.Context(), repository, image, limit)
	if err != nil {
		return err
	}
	a.sendJSON(w, c, DescribeRefusals(found))
	return nil
}

func mayNotRead(c Caller) error {
	const detail = "What was pushed to a registry that asks for credentials is shown with a token of scope read, or below the repository to who may pull."
	if c.anonymous() {
		return &fault{code: "unauthenticated", detail: detail, hint: "send it as Authorization: Bearer <token>"}
	}
	return &fault{code: "forbidden", detail: detail}
}

// DescribeRefusals shows them.
func DescribeRefusals(found []ledger.PushRefusal) apitype.PushRefusals {
	list := apitype.PushRefusals{Refusals: make([]apitype.PushRefusal, 0, len(found))}
	for _, refused := range found {
		shown := apitype.PushRefusal{
			Repository: refused.Repository, Manifest: string(refused.Manifest), Image: string(refused.Image), Issuer: refused.Issuer,
			Code: refused.Code, Rule: refused.Rule, Reason: bounded(refused.Reason), Hint: bounded(refused.Hint), At: refused.At.UTC(),
		}
		if refused.Entry != (statement.ID{}) {
			shown.EntryID = refused.Entry.String()
		}
		if refused.Policy != (statement.ID{}) {
			shown.PolicyEntry = refused.Policy.String()
		}
		list.Refusals = append(list.Refusals, shown)
	}
	return list
}
