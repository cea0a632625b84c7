package storage_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/scittd/scittd/storage"
)

// liar stands before a sound registry. lie answers, or returns false to let the
// request through. The image of the test is pushed before it starts to lie.
type liar struct {
	honest http.Handler
	lying  atomic.Bool
	lie    func(w http.ResponseWriter, r *http.Request, honest http.Handler) bool
}

func (l *liar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if l.lying.Load() && l.lie(w, r, l.honest) {
		return
	}
	l.honest.ServeHTTP(w, r)
}

type lie = func(w http.ResponseWriter, r *http.Request, honest http.Handler) bool

func startLiar(t *testing.T, referrers bool, tell lie) (host, subject string) {
	t.Helper()
	l := &liar{honest: inRAM(referrers), lie: tell}
	host = serve(t, l)
	subject = pushImage(t, host)
	l.lying.Store(true)
	return host, subject
}

func isReferrers(r *http.Request) bool { return strings.Contains(r.URL.Path, "/referrers/") }
func isManifest(r *http.Request, method string) bool {
	return r.Method == method && strings.Contains(r.URL.Path, "/manifests/")
}
func isTagList(r *http.Request) bool  { return strings.Contains(r.URL.Path, "/manifests/sha256-") }
func isReferrer(r *http.Request) bool { return isManifest(r, http.MethodPut) && !isTagList(r) }
func isUpload(r *http.Request) bool {
	return strings.Contains(r.URL.Path, "/blobs/uploads/") && r.Method != http.MethodGet
}

// answer writes an answer as registries do.
func answer(w http.ResponseWriter, code int, body string) bool {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	io.WriteString(w, body)
	return true
}

func emptyIndex(w http.ResponseWriter) bool {
	w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
	io.WriteString(w, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`)
	return true
}

func html(w http.ResponseWriter, code int) bool {
	w.Header().Set("Content-Type", "text/html")
	w.WriteHeader(code)
	io.WriteString(w, "<html>not here</html>")
	return true
}

// claimsSubject adds the header that promises a listing.
func claimsSubject(w http.ResponseWriter, r *http.Request, honest http.Handler) bool {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	var m ocispec.Manifest
	if json.Unmarshal(body, &m) == nil && m.Subject != nil {
		w.Header().Set("OCI-Subject", m.Subject.Digest.String())
	}
	honest.ServeHTTP(w, r)
	return true
}

func TestNothingIsLostAtRegistriesThatMislead(t *testing.T) {
	away := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { html(w, http.StatusNotFound) }))
	for _, tt := range []struct {
		name  string
		api   bool // where the artifact must be listed in the end
		waits []time.Duration
		lie   func() lie
	}{
		{"promises by OCI-Subject and never lists", false, patience, func() lie {
			return func(w http.ResponseWriter, r *http.Request, honest http.Handler) bool {
				return isReferrers(r) && emptyIndex(w) || isReferrer(r) && claimsSubject(w, r, honest)
			}
		}},
		{"promises nothing and never lists", false, nil, func() lie {
			return func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
				return isReferrers(r) && emptyIndex(w)
			}
		}},
		{"promises and lists at the fourth look", true, patience[:2], func() lie {
			var looks atomic.Int32
			return func(w http.ResponseWriter, r *http.Request, honest http.Handler) bool {
				// 1: is it there already? 2: the probe. 3 and 4: read back, and again.
				return isReferrers(r) && looks.Add(1) <= 4 && emptyIndex(w) || isReferrer(r) && claimsSubject(w, r, honest)
			}
		}},
		{"promises by OCI-Subject without an API", false, nil, func() lie {
			return func(w http.ResponseWriter, r *http.Request, honest http.Handler) bool {
				return isReferrers(r) && html(w, http.StatusNotFound) || isReferrer(r) && claimsSubject(w, r, honest)
			}
		}},
		{"404 in HTML", false, nil, func() lie {
			return func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
				return isReferrers(r) && html(w, http.StatusNotFound)
			}
		}},
		{"login page with 200", false, nil, func() lie {
			return func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
				return isReferrers(r) && html(w, http.StatusOK)
			}
		}},
		{"redirect to a page elsewhere", false, nil, func() lie {
			return func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
				if isReferrers(r) {
					http.Redirect(w, r, "http://"+away+"/", http.StatusTemporaryRedirect)
				}
				return isReferrers(r)
			}
		}},
		{"405", false, nil, func() lie {
			return func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
				return isReferrers(r) && answer(w, http.StatusMethodNotAllowed, `{}`)
			}
		}},
		{"403 for what it does not know", false, nil, func() lie {
			return func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
				return isReferrers(r) && answer(w, http.StatusForbidden, `{}`)
			}
		}},
		{"tag leads to the image itself", false, nil, func() lie {
			var tagged atomic.Bool
			return func(w http.ResponseWriter, r *http.Request, honest http.Handler) bool {
				if isReferrers(r) {
					return html(w, http.StatusNotFound)
				}
				if isTagList(r) && r.Method == http.MethodPut {
					tagged.Store(true)
				} else if isTagList(r) && !tagged.Load() {
					r.URL.Path = strings.Replace(r.URL.Path, "sha256-", "sha256:", 1)
				}
				return false
			}
		}},
		{"no right to delete", false, nil, func() lie {
			return func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
				return isReferrers(r) && html(w, http.StatusNotFound) || r.Method == http.MethodDelete && answer(w, http.StatusForbidden, `{}`)
			}
		}},
		{"answer to the push is lost", true, nil, func() lie {
			var cut atomic.Bool
			return func(_ http.ResponseWriter, r *http.Request, honest http.Handler) bool {
				if isReferrer(r) && cut.CompareAndSwap(false, true) {
					honest.ServeHTTP(httptest.NewRecorder(), r)
					panic(http.ErrAbortHandler)
				}
				return false
			}
		}},
		{"every second request fails", true, nil, func() lie {
			var n atomic.Int32
			return func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
				return n.Add(1)%2 == 0 && answer(w, http.StatusBadGateway, "")
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			host, subject := startLiar(t, true, tt.lie())
			repo := open(t, host, storage.RemoteOptions{})
			var p impatient
			dig, err := p.placer().Evidence(t.Context(), repo, subject, evidence("sbom"))
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(p.waits, tt.waits) {
				t.Errorf("waited %v, want %v", p.waits, tt.waits)
			}
			if tagged := slices.Contains(digests(tagListsOrNone(t, host, subject)), dig); tagged == tt.api {
				t.Errorf("listed under the tag: %v, want %v", tagged, !tt.api)
			}
			// The next ones know how this registry is, and wait for nothing.
			p.waits = nil
			proof, err := p.placer().Transparency(t.Context(), repo, subject, transparency("e1"))
			if err != nil {
				t.Fatal(err)
			}
			if len(p.waits) != 0 {
				t.Errorf("waited %v for the second artifact", p.waits)
			}
			// Another process finds both, by whichever list.
			list, err := open(t, host, storage.RemoteOptions{}).Referrers(t.Context(), subject, "")
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{dig, proof} {
				if !slices.ContainsFunc(list, func(d storage.Descriptor) bool { return d.Digest == want }) {
					t.Errorf("%s is not found by another process: %+v", want, list)
				}
			}
		})
	}
}

// tagListsOrNone survives a liar's non-list.
func tagListsOrNone(t *testing.T, host, subject string) []ocispec.Descriptor {
	t.Helper()
	for range 3 {
		code, body := get(t, "http://"+host+"/v2/"+repoName+"/manifests/"+strings.Replace(subject, ":", "-", 1))
		if code >= 500 {
			continue
		}
		var list ocispec.Index
		if json.Unmarshal(body, &list) != nil {
			return nil
		}
		return list.Manifests
	}
	return nil
}

func TestRegistryThatForgetsIsNotBelieved(t *testing.T) {
	for _, tt := range []struct {
		name  string
		waits []time.Duration
		lie   lie
	}{
		{"drops the referrers tag", nil, func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			return isReferrers(r) && html(w, http.StatusNotFound) || isTagList(r) && r.Method == http.MethodPut && answer(w, http.StatusCreated, "")
		}},
		{"lists neither by API nor tag", patience, func(w http.ResponseWriter, r *http.Request, honest http.Handler) bool {
			return isReferrers(r) && emptyIndex(w) || isReferrer(r) && claimsSubject(w, r, honest) ||
				isTagList(r) && r.Method == http.MethodPut && answer(w, http.StatusCreated, "")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			host, subject := startLiar(t, true, tt.lie)
			var p impatient
			dig, err := p.placer().Transparency(t.Context(), open(t, host, storage.RemoteOptions{}), subject, transparency("e1"))
			if !errors.Is(err, storage.ErrNotListed) {
				t.Fatalf("%s, %v; want ErrNotListed", dig, err)
			}
			if !slices.Equal(p.waits, tt.waits) {
				t.Errorf("waited %v, want %v", p.waits, tt.waits)
			}
		})
	}
}

func TestErrorsSayWhetherToComeBack(t *testing.T) {
	denied := `{"errors":[{"code":"DENIED","message":"requested access\u001b[31m to the resource is denied"}]}`
	for _, tt := range []struct {
		name    string
		at      func(*http.Request) bool
		code    int
		header  string // Retry-After
		body    string
		is      error
		after   time.Duration
		says    string
		refused bool
	}{
		{name: "seconds", at: isUpload, code: 429, header: "7", after: 7 * time.Second, says: "answered 429"},
		{name: "a date", at: isReferrer, code: 503, header: "2min", after: 2 * time.Minute, says: "answered 503"},
		{name: "an hour", at: isReferrer, code: 429, header: "3600", after: 5 * time.Minute},
		{name: "a billion years", at: isReferrer, code: 429, header: "18446744073709551615", after: 5 * time.Minute},
		{name: "429 without a time", at: isReferrer, code: 429, says: "answered 429"},
		{name: "503 without a time", at: isReferrer, code: 503, says: "answered 503"},
		{name: "500 for ever", at: isReferrer, code: 500, says: "answered 500"},
		{name: "500 on uploads", at: isUpload, code: 500, says: "answered 500"},
		{name: "507 quota", at: isUpload, code: 507, says: "answered 507"},
		{name: "500 on the list", at: isReferrers, code: 500, says: "answered 500"},
		{name: "400", at: isReferrer, code: 400, body: `{"errors":[{"code":"MANIFEST_INVALID","message":"no artifacts here"}]}`, is: storage.ErrRefused, says: "no artifacts here"},
		{name: "405", at: isReferrer, code: 405, is: storage.ErrRefused},
		{name: "413", at: isUpload, code: 413, is: storage.ErrRefused},
		{name: "415", at: isReferrer, code: 415, is: storage.ErrRefused},
		{name: "400 for a swept blob", at: isReferrer, code: 400, body: `{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"blob unknown"}]}`, is: storage.ErrNotFound},
		{name: "403 on push", at: isUpload, code: 403, body: denied, says: "push to repository wabbit/net-monitor was denied: the registry answered 403 (denied: requested access [31m to"},
		{name: "401 on push", at: isReferrer, code: 401, says: "push to repository wabbit/net-monitor was denied"},
		{name: "403 on pull", at: func(r *http.Request) bool { return isManifest(r, http.MethodGet) }, code: 403, says: "pull from repository wabbit/net-monitor was denied"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			host, subject := startLiar(t, true, func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
				if !tt.at(r) {
					return false
				}
				header := tt.header
				if header == "2min" {
					header = time.Now().Add(2 * time.Minute).UTC().Format(http.TimeFormat)
				}
				if header != "" {
					w.Header().Set("Retry-After", header)
				}
				return answer(w, tt.code, tt.body)
			})
			var p impatient
			dig, err := p.placer().Evidence(t.Context(), open(t, host, storage.RemoteOptions{}), subject, evidence("sbom"))
			if err == nil {
				t.Fatalf("placed as %s", dig)
			}
			var retry *storage.RetryError
			if got := errors.As(err, &retry); got != (tt.after > 0) || got && (retry.After > tt.after || retry.After < tt.after-3*time.Second) {
				t.Errorf("%v; want to be told to wait %v", err, tt.after)
			}
			for _, class := range []error{storage.ErrRefused, storage.ErrNotFound, storage.ErrNotListed, storage.ErrSubjectAbsent, storage.ErrEvidenceAbsent} {
				if errors.Is(err, class) != (class == tt.is) {
					t.Errorf("%v; is %q: %v", err, class, errors.Is(err, class))
				}
			}
			if trouble := tt.code == 429 || tt.code >= 500; errors.Is(err, storage.ErrTrouble) != trouble {
				t.Errorf("%v; is trouble of the whole registry: %v, want %v", err, !trouble, trouble)
			}
			if !strings.Contains(err.Error(), tt.says) || strings.ContainsAny(err.Error(), "\x1b\r\n") {
				t.Errorf("%q does not say %q in clean text", err, tt.says)
			}
		})
	}
}

func TestWrongBytesAndDigestsAreNoticed(t *testing.T) {
	wrong := digest.FromString("something else").String()
	flip := func(w http.ResponseWriter, r *http.Request, honest http.Handler) bool {
		rec := httptest.NewRecorder()
		honest.ServeHTTP(rec, r)
		body := rec.Body.Bytes()
		if len(body) > 0 {
			body[len(body)/2] ^= 1
		}
		for name, v := range rec.Header() {
			w.Header()[name] = v
		}
		w.WriteHeader(rec.Code)
		w.Write(body)
		return true
	}
	for _, tt := range []struct {
		name string
		lie  lie
	}{
		{"the image's bytes", func(w http.ResponseWriter, r *http.Request, honest http.Handler) bool {
			return isManifest(r, http.MethodGet) && !isTagList(r) && flip(w, r, honest)
		}},
		{"the image's digest header", func(w http.ResponseWriter, r *http.Request, honest http.Handler) bool {
			if !isManifest(r, http.MethodGet) {
				return false
			}
			rec := httptest.NewRecorder()
			honest.ServeHTTP(rec, r)
			for name, v := range rec.Header() {
				w.Header()[name] = v
			}
			w.Header().Set("Docker-Content-Digest", wrong)
			w.WriteHeader(rec.Code)
			w.Write(rec.Body.Bytes())
			return true
		}},
		{"the digest of what was pushed", func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			if !isReferrer(r) {
				return false
			}
			w.Header().Set("Docker-Content-Digest", wrong)
			return answer(w, http.StatusCreated, "")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			host, subject := startLiar(t, true, tt.lie)
			if dig, err := storage.PlaceTransparency(t.Context(), open(t, host, storage.RemoteOptions{}), subject, transparency("e1")); err == nil {
				t.Errorf("placed as %s", dig)
			}
		})
	}

	host, subject := startLiar(t, true, func(w http.ResponseWriter, r *http.Request, honest http.Handler) bool {
		return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") && flip(w, r, honest)
	})
	repo := open(t, host, storage.RemoteOptions{})
	mustPlace(t, repo, subject)
	rc, _, err := repo.Blob(t.Context(), digest.FromString("sbom").String())
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if got, err := io.ReadAll(rc); err == nil {
		t.Errorf("blob read as %q without an error", got)
	}
}

func TestOversizedAnswersAreRefused(t *testing.T) {
	var wide atomic.Bool
	host, subject := startLiar(t, true, func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		switch {
		case isReferrers(r) && wide.Load(): // endless pages
			w.Header().Set("Link", fmt.Sprintf(`<%s?page=%d>; rel="next"`, r.URL.Path, time.Now().UnixNano()))
			return emptyIndex(w)
		case isReferrers(r) || isManifest(r, http.MethodGet) && strings.HasSuffix(r.URL.Path, "/big"):
			w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
			w.Header().Set("Docker-Content-Digest", digest.FromString("big").String())
			w.Header().Set("Content-Length", fmt.Sprint(6<<20))
			io.WriteString(w, `{"schemaVersion":2,"manifests":[`+strings.Repeat(" ", 6<<20))
			return true
		}
		return false
	})
	repo := open(t, host, storage.RemoteOptions{})
	if _, _, err := repo.Manifest(t.Context(), "big"); err == nil {
		t.Error("a manifest of 6 MiB was read")
	}
	if list, err := repo.Referrers(t.Context(), subject, ""); err == nil {
		t.Errorf("a list of 6 MiB was read: %v", list)
	}
	wide.Store(true)
	if list, err := repo.Referrers(t.Context(), subject, ""); err == nil {
		t.Errorf("an endless list was read: %v", list)
	}
}

// canary is the password that must reach nobody but the registry.
const canary = "canary-2b1c"

func canaryOptions() storage.RemoteOptions {
	return storage.RemoteOptions{Credentials: func(context.Context, string) (storage.Credential, error) {
		return storage.Credential{Username: "courier", Password: canary}, nil
	}}
}

// spy fails the test when a request brings a secret.
type spy struct{ t *testing.T }

func (s spy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	if r.Header.Get("Authorization") != "" || r.Header.Get("X-Secret") != "" || bytes.Contains(body, []byte(canary)) {
		s.t.Errorf("%s %s brought the credentials along: %v %s", r.Method, r.URL, r.Header, body)
	}
	http.NotFound(w, r)
}

func TestCredentialsStayAtTheRegistry(t *testing.T) {
	guard := func(w http.ResponseWriter, r *http.Request) bool {
		if _, password, ok := r.BasicAuth(); ok && password == canary {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
		return answer(w, http.StatusUnauthorized, `{"errors":[{"code":"UNAUTHORIZED"}]}`)
	}
	redirect := func(at func(*http.Request) bool, code int) func(away string) lie {
		return func(away string) lie {
			return func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
				if guard(w, r) {
					return true
				}
				if at(r) {
					http.Redirect(w, r, "http://"+away+r.URL.Path, code)
				}
				return at(r)
			}
		}
	}
	bearer := func(realm func(away string) string) func(away string) lie {
		return func(away string) lie {
			return func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="registry"`, realm(away)))
				return answer(w, http.StatusUnauthorized, `{}`)
			}
		}
	}
	for _, tt := range []struct {
		name string
		lie  func(away string) lie
	}{
		{"upload Location on another host", func(away string) lie {
			return func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
				if guard(w, r) {
					return true
				}
				if r.Method == http.MethodPost {
					w.Header().Set("Location", "http://"+away+"/upload?_state=x")
					return answer(w, http.StatusAccepted, "")
				}
				return false
			}
		}},
		{"upload redirected", redirect(func(r *http.Request) bool { return r.Method == http.MethodPut }, http.StatusTemporaryRedirect)},
		{"upload session redirected", redirect(func(r *http.Request) bool { return r.Method == http.MethodPost }, http.StatusPermanentRedirect)},
		{"manifest redirected", redirect(func(r *http.Request) bool { return isManifest(r, http.MethodGet) }, http.StatusFound)},
		{"list redirected", redirect(isReferrers, http.StatusMovedPermanently)},
		{"token realm on another host", bearer(func(away string) string { return "http://" + away + "/token" })},
		{"token realm under another name", bearer(func(away string) string {
			return "http://token.example:" + away[strings.LastIndex(away, ":")+1:] + "/token"
		})},
		{"token realm without TLS tricks", bearer(func(away string) string { return "ftp://" + away + "/token" })},
		{"challenge by the other host", func(away string) lie {
			return func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
				http.Redirect(w, r, "http://"+away+"/challenge", http.StatusTemporaryRedirect)
				return true
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			away := serve(t, spy{t})
			var p impatient
			host, subject := startLiar(t, true, tt.lie(away))
			o := canaryOptions()
			o.Header = http.Header{"X-Secret": {canary}}
			dig, err := p.placer().Evidence(t.Context(), open(t, host, o), subject, evidence("sbom"))
			if err == nil && tt.name != "list redirected" { // that one has no API, and a tag
				t.Errorf("placed as %s", dig)
			}
			if err != nil && strings.Contains(err.Error(), canary) {
				t.Errorf("the error tells the password: %v", err)
			}
		})
	}
}

func TestBlobsMayComeFromAnotherHostWithoutCredentials(t *testing.T) {
	store := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Errorf("the blob store was sent %q", r.Header.Get("Authorization"))
		}
		io.WriteString(w, "sbom")
	}))
	host, _ := startLiar(t, true, func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if _, password, ok := r.BasicAuth(); !ok || password != canary {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			return answer(w, http.StatusUnauthorized, `{}`)
		}
		http.Redirect(w, r, "http://"+store+"/signed?x=1", http.StatusTemporaryRedirect)
		return true
	})
	if got := readBlob(t, open(t, host, canaryOptions()), digest.FromString("sbom").String()); string(got) != "sbom" {
		t.Errorf("read %q", got)
	}
}

func TestARegistryMayLoseItsAPI(t *testing.T) {
	var gone atomic.Bool
	host, subject := startLiar(t, true, func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		return isReferrers(r) && gone.Load() && html(w, http.StatusNotFound)
	})
	repo := open(t, host, storage.RemoteOptions{})
	mustPlace(t, repo, subject)
	if tagLists(t, host, subject) != nil {
		t.Fatal("a tag was written although the API lists")
	}
	gone.Store(true)
	sbom, proof := mustPlace(t, repo, subject) // as reconciliation would
	want := []string{sbom, proof}
	slices.Sort(want)
	if got := digests(tagLists(t, host, subject)); !slices.Equal(got, want) {
		t.Errorf("the tag lists %v, want %v", got, want)
	}
}
