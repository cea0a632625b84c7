package api

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/scittd/scittd/policy"
)

// registerPath is the end of the one path of the extension whose problems are
// SCRAPI's.
const registerPath = "_scitt/entries/register"

// Module is a path of the registry extension: below /v2/<name>/_scitt/, or below
// /v2/_scitt/.
type Module struct {
	Path         string // "entries/register", "receipts/{id}"
	InRepository bool
	Publishes    bool // its caller must be allowed to push there
	methods      []string
	serve        func(a *API, repository string) http.HandlerFunc
}

// modules is the extension: the handlers of SCRAPI, /v1 and /log under the paths
// of a registry. In a repository they see what is placed there.
var modules = []Module{
	{"entries/register", true, true, []string{http.MethodPost}, func(a *API, repository string) http.HandlerFunc {
		return a.writing(quick, func(w http.ResponseWriter, r *http.Request, c Caller) error {
			return a.registerIn(w, r, c, repository)
		})
	}},
	{"entries/list", true, false, reads, func(a *API, repository string) http.HandlerFunc {
		return a.reading(func(w http.ResponseWriter, r *http.Request, c Caller) error {
			return a.find(w, r, c, repository)
		})
	}},
	{"entries/check", true, false, append([]string{http.MethodPost}, reads...), func(a *API, repository string) http.HandlerFunc {
		return a.reading(func(w http.ResponseWriter, r *http.Request, c Caller) error {
			return a.checkIn(w, r, c, repository)
		})
	}},
	{"entries/validate", true, false, []string{http.MethodPost}, func(a *API, repository string) http.HandlerFunc {
		return a.reading(func(w http.ResponseWriter, r *http.Request, c Caller) error {
			return a.validateIn(w, r, c, repository)
		})
	}},
	{"entries/refused", true, false, reads, func(a *API, repository string) http.HandlerFunc {
		return a.reading(func(w http.ResponseWriter, r *http.Request, c Caller) error {
			return a.refusalsIn(w, r, c, repository)
		})
	}},
	{"receipts/{id}", false, false, reads, func(a *API, _ string) http.HandlerFunc { return a.reading(a.receipt) }},
	{"statements/{id}", false, false, reads, func(a *API, _ string) http.HandlerFunc { return a.reading(a.transparent) }},
	{"keys/set", false, false, reads, func(a *API, _ string) http.HandlerFunc { return a.open(a.keySet) }},
	{"log/checkpoint", false, false, reads, func(a *API, _ string) http.HandlerFunc { return a.open(a.checkpoint) }},
}

var reads = []string{http.MethodGet, http.MethodHead}

// Modules is what discovery lists.
func Modules() []Module { return slices.Clone(modules) }

// Extension serves /v2/<repository>/_scitt/<path>, or /v2/_scitt/<path> where
// repository is "". The repository only picks where a claim is placed, goes into
// the audit row, and narrows what is listed; what is admitted is decided by
// signed bytes alone.
//
// SPEC draft-ietf-scitt-scrapi-11 §4.4.2.3: request metadata MUST NOT be an
// authoritative input to the registration decision.
func (a *API) Extension(w http.ResponseWriter, r *http.Request, repository, path string) {
	a.guard(w, r, func(w http.ResponseWriter, r *http.Request) {
		at := slices.IndexFunc(modules, func(m Module) bool {
			item, ok := m.match(path)
			if ok && item != "" {
				r.SetPathValue("id", item)
			}
			return ok && m.InRepository == (repository != "")
		})
		switch {
		case at < 0:
			a.fail(w, r, &fault{code: "not-found", detail: "The extension has no such path.", hint: "see /v2/_oci/ext/discover"})
		case repository != "" && !policy.ValidRepository(repository):
			a.fail(w, r, &fault{code: "malformed-request", detail: fmt.Sprintf("%q is not a repository name.", bounded(repository)),
				hint: "name the repository as in the image's reference: lower case, at most 255 characters"})
		case !slices.Contains(modules[at].methods, r.Method):
			w.Header().Set("Allow", strings.Join(modules[at].methods, ", "))
			a.fail(w, r, &fault{code: "method-not-allowed"})
		default:
			modules[at].serve(a, repository)(w, r)
		}
	})
}

// match says whether path is m's, and what stands in the place of {id}.
func (m Module) match(path string) (item string, ok bool) {
	prefix, _, variable := strings.Cut(m.Path, "{")
	if !variable {
		return "", path == m.Path
	}
	item, ok = strings.CutPrefix(path, prefix)
	return item, ok && item != "" && !strings.Contains(item, "/")
}
