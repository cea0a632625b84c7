package storagetest

import (
	"io"
	"log"
	"net/http"
	"strconv"
	"strings"

	"cuelabs.dev/go/oci/ociregistry/ociserver"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Double is a registry that can be started as often as a test likes.
type Double struct {
	Name    string
	Profile string // the row that is meant for it, as like= names it; "" for none
	Host    string // what such a registry is called; "" where everybody runs his own
	// Lists is by which list placed artifacts are found in the end: "api" or
	// "tags".
	Lists string
	Start func() *Registry
}

var discard = log.New(io.Discard, "", 0)

// Doubles are all of them.
func Doubles() []Double {
	api, none := ociserver.Options{}, ociserver.Options{DisableReferrersAPI: true}
	return []Double{
		{"Azure", "acr", "wabbit.azurecr.io", "api", func() *Registry {
			return build(soundRegistry(api), pages(100), goneWithSubject)
		}},
		{"Harbor", "harbor", "", "api", func() *Registry {
			return build(soundRegistry(api), goneWithSubject)
		}},
		{"Zot", "zot", "", "api", func() *Registry {
			return build(soundRegistry(api), promises, deletesWithAnError)
		}},
		{"distribution v3", "distribution", "", "tags", func() *Registry {
			return build(soundRegistry(ociserver.Options{DisableReferrersAPI: true, DisableSinglePostUpload: true}), onlySHA256, silent)
		}},
		{"go-containerregistry", "", "", "api", func() *Registry { return build(configTypes()) }},
		{"GHCR", "ghcr", "ghcr.io", "tags", func() *Registry {
			return build(soundRegistry(none), redirectsToAPage, silent)
		}},
		{"ECR", "ecr", "123456789012.dkr.ecr.eu-central-1.amazonaws.com", "tags", func() *Registry {
			return build(soundRegistry(ociserver.Options{DisableReferrersAPI: true, OmitDigestFromTagGetResponse: true}), promises, refusesPages(1000))
		}},
		{"ECR with the API", "ecr", "123456789012.dkr.ecr.us-east-1.amazonaws.com", "api", func() *Registry {
			return build(soundRegistry(ociserver.Options{OmitDigestFromTagGetResponse: true}), promises, refusesPages(1000), pages(50))
		}},
		{"GitLab", "gitlab", "registry.gitlab.com", "tags", func() *Registry {
			return build(soundRegistry(none), tagIsTheSubject, silent)
		}},
		{"Quay", "quay", "quay.io", "tags", func() *Registry {
			return build(soundRegistry(none), promises, listsNothing)
		}},
		{"Docker Hub", "dockerhub", "registry-1.docker.io", "tags", func() *Registry {
			return build(soundRegistry(none), noAPI(http.StatusNotFound, "text/plain", "404 page not found"), silent)
		}},
		{"Google", "google", "europe-docker.pkg.dev", "tags", func() *Registry {
			return build(soundRegistry(none), noAPI(http.StatusNotFound, "text/html", "<html><title>Error 404 (Not Found)!!1</title></html>"), silent)
		}},
		{"Artifactory", "artifactory", "wabbit.jfrog.io", "tags", func() *Registry {
			return build(soundRegistry(none), noAPI(http.StatusNotFound, "application/json", `{"errors":[{"status":404,"message":"Not Found"}]}`), silent)
		}},
		{"DigitalOcean", "digitalocean", "registry.digitalocean.com", "tags", func() *Registry {
			return build(soundRegistry(none), noAPI(http.StatusMethodNotAllowed, "application/json", `{"errors":[{"code":"UNSUPPORTED","message":"unsupported"}]}`), silent)
		}},
		{"Alibaba", "alibaba", "registry.cn-hangzhou.aliyuncs.com", "tags", func() *Registry {
			return build(soundRegistry(none), noEmptyConfig, silent)
		}},
		{"CloudSmith", "cloudsmith", "docker.cloudsmith.io", "tags", func() *Registry {
			return build(soundRegistry(none), needsPlatform, silent)
		}},
	}
}

// ByName is the double of that name.
func ByName(name string) Double {
	for _, d := range Doubles() {
		if d.Name == name {
			return d
		}
	}
	panic("no double is called " + name)
}

// ImmutableTags is a registry without the API whose tags never move. answer is
// the status it says so with: ECR 400, Harbor 412, others 403 or 409.
func ImmutableTags(answer int, message string) *Registry {
	return build(soundRegistry(ociserver.Options{DisableReferrersAPI: true}), func(r *Registry, w http.ResponseWriter, q *request) bool {
		if !q.pushes() || strings.Contains(q.reference, ":") {
			return false
		}
		r.mu.Lock()
		at, taken := r.tags[q.repository+":"+q.reference]
		r.mu.Unlock()
		return taken && at != digest.FromBytes(q.body) && say(w, answer, "TAG_INVALID", message)
	})
}

// NoSubjects refuses manifests with a subject, as ECR (405) and Docker Hub (404)
// were seen to.
func NoSubjects(code int, errorCode, message string) *Registry {
	return build(soundRegistry(ociserver.Options{DisableReferrersAPI: true}), func(_ *Registry, w http.ResponseWriter, q *request) bool {
		return q.pushes() && q.Subject != nil && say(w, code, errorCode, message)
	})
}

// SmallBodies stands behind a proxy that takes no body above most bytes.
func SmallBodies(most int64, leastPiece int) *Registry {
	return build(soundRegistry(ociserver.Options{}), func(r *Registry, w http.ResponseWriter, q *request) bool {
		if q.kind == "uploads" && q.Method == http.MethodPost && leastPiece > 0 {
			rec := r.held(q)
			rec.Header().Set("OCI-Chunk-Min-Length", strconv.Itoa(leastPiece))
			return release(w, rec)
		}
		return q.ContentLength > most && r.refuse(w, q, http.StatusRequestEntityTooLarge, "SIZE_INVALID", "the body is too large")
	})
}

// noAPI answers the referrers API with something else.
func noAPI(code int, contentType, body string) quirk {
	return func(_ *Registry, w http.ResponseWriter, q *request) bool {
		if q.kind != "referrers" {
			return false
		}
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
		return true
	}
}

// redirectsToAPage sends those who ask for referrers to a page of the web site.
func redirectsToAPage(_ *Registry, w http.ResponseWriter, q *request) bool {
	switch {
	case q.kind == "referrers":
		http.Redirect(w, q.Request, "/web/not-found", http.StatusSeeOther)
	case strings.HasPrefix(q.URL.Path, "/web/"):
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, "<html>This is not the page you are looking for</html>")
	default:
		return false
	}
	return true
}

// silent leaves OCI-Subject out, which the registry beneath always answers.
func silent(r *Registry, w http.ResponseWriter, q *request) bool {
	if !q.pushes() || q.Subject == nil {
		return false
	}
	rec := r.held(q)
	rec.Header().Del("OCI-Subject")
	return release(w, rec)
}

// promises answers OCI-Subject, whatever becomes of it.
func promises(_ *Registry, w http.ResponseWriter, q *request) bool {
	if q.pushes() && q.Subject != nil {
		w.Header().Set("OCI-Subject", q.Subject.Digest.String())
	}
	return false
}

// listsNothing has an API with nothing in it.
func listsNothing(_ *Registry, w http.ResponseWriter, q *request) bool {
	if q.kind != "referrers" {
		return false
	}
	w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
	_, _ = io.WriteString(w, `{"schemaVersion":2,"mediaType":"`+ocispec.MediaTypeImageIndex+`","manifests":[]}`)
	return true
}

// pages lists most entries at a time.
func pages(most int) quirk {
	return func(r *Registry, w http.ResponseWriter, q *request) bool {
		if q.kind != "referrers" {
			return false
		}
		n, err := strconv.Atoi(q.URL.Query().Get("n"))
		if err != nil || n > most {
			n = most
		}
		rec := r.held(q)
		if rec.Code != http.StatusOK {
			return release(w, rec)
		}
		return page(w, rec, q, n)
	}
}

// refusesPages takes no n above most.
func refusesPages(most int) quirk {
	return func(r *Registry, w http.ResponseWriter, q *request) bool {
		n, err := strconv.Atoi(q.URL.Query().Get("n"))
		return err == nil && n > most && r.refuse(w, q, http.StatusBadRequest, "UNSUPPORTED", "the page is too large")
	}
}

// goneWithSubject deletes what refers to an image together with it.
func goneWithSubject(r *Registry, w http.ResponseWriter, q *request) bool {
	if q.kind != "manifests" || q.Method != http.MethodDelete {
		return false
	}
	r.mu.Lock()
	var with []digest.Digest
	for d, m := range r.pushed[q.repository] {
		if m.subject.String() == q.reference {
			with = append(with, d)
		}
	}
	r.mu.Unlock()
	r.pass(w, q)
	for _, d := range with {
		r.remove(q.repository, d)
	}
	return true
}

// deletesWithAnError deletes, and says that it failed.
func deletesWithAnError(r *Registry, w http.ResponseWriter, q *request) bool {
	if q.kind != "manifests" || q.Method != http.MethodDelete {
		return false
	}
	if rec := r.held(q); rec.Code/100 != 2 {
		return release(w, rec)
	}
	return say(w, http.StatusInternalServerError, "UNKNOWN", "internal error")
}

// onlySHA256 has no other digests.
func onlySHA256(r *Registry, w http.ResponseWriter, q *request) bool {
	return strings.HasPrefix(q.reference, "sha512:") && r.refuse(w, q, http.StatusBadRequest, "DIGEST_INVALID", "invalid digest")
}

// tagIsTheSubject resolves the referrers tag to the image, as long as nobody has
// written it, and so deletes the image for who deletes "the old list".
func tagIsTheSubject(r *Registry, w http.ResponseWriter, q *request) bool {
	hex, list := strings.CutPrefix(q.reference, "sha256-")
	if q.kind != "manifests" || q.Method == http.MethodPut {
		return false
	}
	if q.Method == http.MethodDelete {
		return r.refuse(w, q, http.StatusAccepted, "UNKNOWN", "and the image is gone")
	}
	r.mu.Lock()
	_, written := r.tags[q.repository+":"+q.reference]
	r.mu.Unlock()
	if !list || written {
		return false
	}
	q.URL.Path = "/v2/" + q.repository + "/manifests/sha256:" + hex
	return release(w, r.held(q))
}

// noEmptyConfig refuses the type that artifacts have for want of a config.
func noEmptyConfig(r *Registry, w http.ResponseWriter, q *request) bool {
	return q.pushes() && q.Config.MediaType == ocispec.MediaTypeEmptyJSON &&
		r.refuse(w, q, http.StatusBadRequest, "MANIFEST_INVALID", "config media type "+q.Config.MediaType+" is not supported")
}

// needsPlatform refuses index entries without one.
func needsPlatform(r *Registry, w http.ResponseWriter, q *request) bool {
	if !q.pushes() {
		return false
	}
	for _, d := range q.Manifests {
		if d.Platform == nil || d.Platform.OS == "" || d.Platform.Architecture == "" {
			return r.refuse(w, q, http.StatusBadRequest, "MANIFEST_INVALID", "an entry of the index has no platform")
		}
	}
	return false
}
