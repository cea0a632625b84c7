package front

import (
	"net/http"
	"strings"
)

const (
	extensionName = "_scitt"
	extensionURL  = "https://github.com/scittd/scittd"
	extensionText = "Register signed statements about images and fetch their receipts (RFC 9943)"
)

// extensionPath is a path of any extension.
type extensionPath struct {
	repository string // "" for the registry's own
	name       string // with its underscore
	path       string // behind the name
}

// parseExtension finds /v2/_<extension>/... and /v2/<name>/_<extension>/...: no
// part of a repository name starts with an underscore. A tag may, so the last
// segment behind "manifests" is none.
func parseExtension(escaped string) (extensionPath, bool) {
	rest, ok := strings.CutPrefix(escaped, "/v2/")
	if !ok {
		return extensionPath{}, false
	}
	s := strings.Split(rest, "/")
	for i, segment := range s {
		if !strings.HasPrefix(segment, "_") {
			continue
		}
		if i >= 2 && i == len(s)-1 && s[i-1] == "manifests" {
			return extensionPath{}, false
		}
		return extensionPath{strings.Join(s[:i], "/"), segment, strings.Join(s[i+1:], "/")}, true
	}
	return extensionPath{}, false
}

func (f *front) extension(w http.ResponseWriter, r *http.Request, e extensionPath) {
	switch {
	case e.name == "_oci" && e.path == "ext/discover" && e.repository != "" && !validName(e.repository):
		answer(w, http.StatusBadRequest, "NAME_INVALID", "this is not a repository name")
	case e.name == "_oci" && e.path == "ext/discover":
		f.discover(w, r, e.repository)
	case e.name == extensionName && f.Extension != nil:
		if r, ok := f.vouched(w, r, e); ok {
			f.Extension(w, r, e.repository, e.path)
		}
	default:
		answer(w, http.StatusNotFound, "EXTENSION_UNKNOWN", "this registry has no such extension; see /v2/_oci/ext/discover")
	}
}

// discovered is an element of the answer.
// SPEC distribution-spec extensions/_oci.md: name, url and endpoints are
// REQUIRED.
type discovered struct {
	Name        string   `json:"name"`
	URL         string   `json:"url"`
	Description string   `json:"description"`
	Endpoints   []string `json:"endpoints"`
}

// discover lists the endpoints of the registry, or of one repository.
func (f *front) discover(w http.ResponseWriter, r *http.Request, repository string) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		answer(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "discovery is asked for with GET")
		return
	}
	extensions := []discovered{}
	if f.Extension != nil {
		d := discovered{Name: extensionName, URL: extensionURL, Description: extensionText, Endpoints: []string{}}
		for _, e := range f.ExtensionEndpoints {
			switch {
			case e.InRepository && repository != "":
				d.Endpoints = append(d.Endpoints, "/v2/"+repository+"/"+extensionName+"/"+e.Path)
			case e.InRepository:
				d.Endpoints = append(d.Endpoints, "/v2/<name>/"+extensionName+"/"+e.Path)
			case repository == "":
				d.Endpoints = append(d.Endpoints, "/v2/"+extensionName+"/"+e.Path)
			}
		}
		extensions = append(extensions, d)
	}
	if f.Upstream != nil {
		extensions = append(extensions, f.Upstream.extensions(r, repository)...)
	}
	document := map[string]any{"extensions": extensions}
	if f.Synthesis != nil && repository != "" {
		document["referrers"] = f.Synthesis.keptBy(r.Context(), repository)
	}
	writeJSON(w, http.StatusOK, document)
}
