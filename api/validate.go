package api

import (
	"net/http"

	"github.com/scittd/scittd/api/apitype"
)

// validate is a dry run of register.
func (a *API) validate(w http.ResponseWriter, r *http.Request, c Caller) error {
	return a.validateIn(w, r, c, "")
}

// validateIn says what registering a statement would decide, and changes
// nothing: a refusal is a good answer here. What is no Signed Statement at all
// is refused as it would be there. To name staged evidence, whose reading costs,
// takes a caller who may stage some.
func (a *API) validateIn(w http.ResponseWriter, r *http.Request, c Caller, repository string) error {
	if a.Judge == nil {
		return &fault{code: "not-found", detail: "There are no dry runs here."}
	}
	if err := acceptStatement(r.Header); err != nil {
		return err
	}
	with, err := circumstances(r, c, repository)
	if err != nil {
		return err
	}
	if with.Evidence != "" {
		if err := a.mayPublish(c); err != nil {
			return err
		}
	}
	quick.set(w)
	body, err := readBody(w, r, a.Limits.Statement)
	if err != nil {
		return err
	}
	s, d, err := a.Judge.Judge(r.Context(), body, with)
	if err != nil {
		return err
	}
	judged := apitype.Judged{
		Decision: "allow", Rule: d.Rule, PolicyEntry: d.Policy.String(), EntryID: s.ID().String(), Artifacts: texts(d.Artifacts),
		Visibility: visibility(d.Private),
	}
	if who := d.EvidenceSigner; who.Kind != "" {
		judged.EvidenceSigner = &apitype.Identity{Kind: who.Kind, Issuer: who.Issuer, Thumbprint: who.Thumbprint, Name: who.Name}
	}
	if refusal := d.Refusal; refusal != nil {
		judged.Decision, judged.Visibility = "deny", ""
		judged.Rule, judged.Reason, judged.Code, judged.Hint = refusal.Rule, bounded(refusal.Reason), refused(refusal).code, bounded(refusal.Hint)
	}
	w.Header().Set("Cache-Control", "no-store")
	send(w, http.StatusOK, jsonType, marshalJSON(judged))
	return nil
}

func visibility(private bool) string {
	if private {
		return "private"
	}
	return "public"
}
