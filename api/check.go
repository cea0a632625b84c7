package api

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

const (
	maxCheckBody    = 64 << 10
	maxRequirements = 20
	maxCheckIssuers = maxValues // of all requirements together
	maxShownEntries = 100
	matchAny        = "any"
	matchAll        = "all"
)

// check answers whether an artifact has the claims that are required of it.
func (a *API) check(w http.ResponseWriter, r *http.Request, c Caller) error {
	return a.checkIn(w, r, c, "")
}

// checkIn counts the claims that are placed in repository; "" counts all. What
// is not satisfied is a good answer too.
func (a *API) checkIn(w http.ResponseWriter, r *http.Request, c Caller, repository string) error {
	asked, subject, err := a.readCheck(w, r)
	if err != nil {
		return err
	}
	head, err := a.Ledger.Head(r.Context())
	if err != nil {
		return err
	}
	answer := apitype.Checked{Satisfied: true, Subject: string(subject), Results: []apitype.Satisfied{}, IndexedThrough: head.Size}
	for _, requirement := range asked.Require {
		q := ledger.Query{Scope: c.Scope(), Repository: repository, Artifacts: []statement.Digest{subject}}
		result, err := a.satisfied(r, q, requirement)
		if err != nil {
			return err
		}
		answer.Satisfied = answer.Satisfied && result.Satisfied
		answer.Results = append(answer.Results, result)
	}
	// A replica without the key has no checkpoint: the answer stands without.
	if note, err := a.Ledger.Checkpoint(r.Context()); err == nil {
		answer.Checkpoint = string(note)
	}
	a.sendJSON(w, c, answer)
	return nil
}

// satisfied looks for the claims of one requirement within q.
func (a *API) satisfied(r *http.Request, q ledger.Query, required apitype.Requirement) (apitype.Satisfied, error) {
	result := apitype.Satisfied{Entries: []string{}}
	if required.MediaType != "" {
		q.MediaTypes = []string{indexed(required.MediaType)}
	}
	if required.PredicateType != "" {
		q.PredicateTypes = []string{required.PredicateType}
	}
	q.Limit = maxPage
	entries, err := a.Custodian.Claims(r.Context(), q, false)
	if err != nil {
		return result, err
	}
	have, others := map[string]bool{}, map[string]bool{}
	for _, e := range entries {
		switch {
		case len(required.Issuers) == 0 || slices.Contains(required.Issuers, e.Issuer):
			have[e.Issuer] = true
			count(&result, e)
		default:
			others[e.Issuer] = true
		}
	}
	for _, issuer := range required.Issuers {
		// The newest claims of others may hide an old one of this issuer's.
		if !have[issuer] && len(entries) == maxPage {
			q.Issuers, q.Limit = []string{issuer}, 1
			older, err := a.Custodian.Claims(r.Context(), q, false)
			if err != nil {
				return result, err
			}
			for _, e := range older {
				have[issuer] = true
				count(&result, e)
			}
		}
		if !have[issuer] && !slices.Contains(result.Missing, issuer) {
			result.Missing = append(result.Missing, issuer)
		}
	}
	result.Satisfied = len(result.Entries) > 0
	if required.Match == matchAll {
		result.Satisfied = result.Satisfied && len(result.Missing) == 0
	} else if result.Satisfied {
		result.Missing = nil // one is enough
	}
	if !result.Satisfied {
		result.OtherIssuers = sortedKeys(others)
	}
	return result, nil
}

// count takes a claim that counts, and shows it if there is room.
func count(result *apitype.Satisfied, claim ledger.Claim) {
	if len(result.Entries) == maxShownEntries {
		return
	}
	id := claim.ID.String()
	result.Entries = append(result.Entries, id)
	if claim.Via != "" {
		if result.Via == nil {
			result.Via = map[string]string{}
		}
		result.Via[id] = string(claim.Via)
	}
}

func sortedKeys(set map[string]bool) []string {
	keys := make([]string, 0, len(set))
	for k := range set {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// readCheck reads a Check from the body of a POST or the query of a GET. What is
// unknown in it is refused by name: a condition that were ignored would be
// satisfied too easily.
func (a *API) readCheck(w http.ResponseWriter, r *http.Request) (asked apitype.Check, subject statement.Digest, err error) {
	if r.Method == http.MethodPost {
		asked, err = a.checkFromBody(w, r)
	} else {
		asked, err = checkFromQuery(r.URL.RawQuery)
	}
	if err != nil {
		return asked, "", err
	}
	found, err := digests("subject", []string{asked.Subject})
	if err != nil {
		return asked, "", err
	}
	if n := len(asked.Require); n == 0 || n > maxRequirements {
		return asked, "", badFilter("require", "there are 1 to %d requirements in a check", maxRequirements)
	}
	issuers := 0
	for i := range asked.Require {
		required := &asked.Require[i]
		if required.Match == "" {
			required.Match = matchAny
		}
		if required.Match != matchAny && required.Match != matchAll {
			return asked, "", badFilter("match", "it is %s or %s", matchAny, matchAll)
		}
		if issuers += len(required.Issuers); issuers > maxCheckIssuers {
			return asked, "", badFilter("issuers", "a check names at most %d", maxCheckIssuers)
		}
		for _, text := range []struct {
			name   string
			values []string
			most   int
		}{
			{"issuers", required.Issuers, statement.MaxIssuer},
			{"mediaType", some(required.MediaType), statement.MaxMediaType},
			{"predicateType", some(required.PredicateType), statement.MaxPredicateType},
		} {
			if _, err := plain(text.name, text.values, text.most); err != nil {
				return asked, "", err
			}
		}
	}
	return asked, found[0], nil
}

func some(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

func (a *API) checkFromBody(w http.ResponseWriter, r *http.Request) (asked apitype.Check, err error) {
	if err := acceptPlain(r.Header); err != nil {
		return asked, err
	}
	body, err := readBody(w, r, maxCheckBody)
	if err != nil {
		return asked, err
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&asked); err != nil {
		return asked, &fault{code: "malformed-request", detail: "The body is not the JSON of a check: " + bounded(err.Error()), cause: err}
	}
	if _, err := d.Token(); err != io.EOF {
		return asked, &fault{code: "malformed-request", detail: "There is something behind the JSON of the check."}
	}
	return asked, nil
}

// checkFromQuery reads ?subject=&mediaType=&predicateType=&issuer=&issuer=&match=.
func checkFromQuery(raw string) (asked apitype.Check, err error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return asked, &fault{code: "bad-filter", detail: "The query string is not well formed.", cause: err}
	}
	required := apitype.Requirement{Issuers: values["issuer"]}
	for _, name := range sortedNames(values) {
		into := map[string]*string{
			"subject": &asked.Subject, "mediaType": &required.MediaType, "predicateType": &required.PredicateType, "match": &required.Match,
		}[name]
		switch {
		case name == "issuer":
		case into == nil:
			return asked, badFilter(name, "there is no such parameter; there are subject, mediaType, predicateType, issuer and match")
		case len(values[name]) > 1:
			return asked, badFilter(name, "it is given more than once")
		default:
			*into = values[name][0]
		}
	}
	if asked.Subject == "" {
		return asked, badFilter("subject", "a check is about one artifact, named by its digest")
	}
	asked.Require = []apitype.Requirement{required}
	return asked, nil
}
