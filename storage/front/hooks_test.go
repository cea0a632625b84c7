package front_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/scittd/scittd/storage/front"
)

// image is a manifest of an empty config, which push puts there first.
func push(t *testing.T, url, repo string) string {
	t.Helper()
	config := "{}"
	e := &errand{t: t, url: url}
	up := e.do("POST", "/v2/"+repo+"/blobs/uploads/", "")
	if a := e.do("PUT", with(e.location(up), "digest="+digestOf([]byte(config))), config); a.status != 201 {
		t.Fatalf("push a config: %d %s", a.status, a.body)
	}
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"a/b","digest":%q,"size":2},"layers":[]}`, ociManifest, digestOf([]byte(config)))
}

// hooked is a front with hooks, over the embedded registry or before one.
func hooked(t *testing.T, c front.Config, upstream bool) (url string) {
	t.Helper()
	if !upstream {
		return serve(t, c)
	}
	return before(t, hostOf(serve(t, front.Config{})), func(_ *front.UpstreamConfig, to *front.Config) { *to = c })
}

func TestHooksSeeManifestsOnTheirWay(t *testing.T) {
	for _, upstream := range []bool{false, true} {
		var order []string
		outer := func(w http.ResponseWriter, r *front.Request, next func(http.ResponseWriter)) {
			order = append(order, "outer")
			a, err := front.Hold(next)
			if err != nil {
				t.Error(err)
				return
			}
			a.Header.Set("Scitt-Entry", fmt.Sprint(r.Repository, " ", r.Reference, " ", len(r.Manifest), " ", a.Status))
			a.Release(w)
		}
		inner := func(w http.ResponseWriter, r *front.Request, next func(http.ResponseWriter)) {
			order = append(order, "inner")
			if r.Reference == "refused" {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			blob, err := r.Ask(r.HTTP.Context(), "GET", "/v2/"+r.Repository+"/blobs/"+digestOf([]byte("{}")), http.Header{"Accept": {"*/*"}}, nil)
			if err != nil || blob.Status != 200 || string(blob.Body) != "{}" {
				t.Errorf("upstream %v: ask for a blob: %+v, %v", upstream, blob, err)
			}
			tag, err := r.Ask(r.HTTP.Context(), "PUT", "/v2/"+r.Repository+"/manifests/by-hook", http.Header{"Content-Type": {ociManifest}}, r.Manifest)
			if err != nil || tag.Status != 201 {
				t.Errorf("upstream %v: push a tag: %+v, %v", upstream, tag, err)
			}
			next(w)
		}
		url := hooked(t, front.Config{ManifestPut: []front.Hook{outer, inner}}, upstream)
		manifest := push(t, url, "team/app")
		a := do(t, "PUT", url+"/v2/team/app/manifests/v%31", manifest, "", "Content-Type: "+ociManifest)
		if want := fmt.Sprint("team/app v1 ", len(manifest), " 201"); a.status != 201 || a.header.Get("Scitt-Entry") != want || a.header.Get("Docker-Content-Digest") != digestOf([]byte(manifest)) {
			t.Errorf("upstream %v: %d %v, want %s", upstream, a.status, a.header, want)
		}
		if a := do(t, "PUT", url+"/v2/team/app/manifests/refused", manifest, ""); a.status != 403 {
			t.Errorf("upstream %v: refused by a hook: %d", upstream, a.status)
		}
		if want := "[outer inner outer inner]"; fmt.Sprint(order) != want {
			t.Errorf("upstream %v: %v, want %s", upstream, order, want)
		}
		if a := do(t, "GET", url+"/v2/team/app/tags/list", "", ""); a.body != `{"name":"team/app","tags":["by-hook","v1"]}` {
			t.Errorf("upstream %v: %s", upstream, a.body)
		}
	}
}

func TestManifestsBeforeHooksAreBounded(t *testing.T) {
	for _, upstream := range []bool{false, true} {
		reached := 0
		url := hooked(t, front.Config{ManifestPut: []front.Hook{func(w http.ResponseWriter, r *front.Request, _ func(http.ResponseWriter)) {
			reached++
			w.WriteHeader(299)
		}}}, upstream)
		small := `{"schemaVersion":2}`
		whole := small + strings.Repeat(" ", front.MaxManifest-len(small))
		for _, c := range []struct {
			path, body   string
			status       int
			code, length string
		}{
			{"/v2/a/manifests/v1", whole, 299, "", ""},
			{"/v2/a/manifests/v1", small, 299, "", ""},
			{"/v2/a/manifests/v1", "", 400, "MANIFEST_INVALID", ""},
			{"/v2/a/manifests/v1", whole + " ", 413, "SIZE_INVALID", ""},
			{"/v2/A/manifests/v1", "{}", 400, "NAME_INVALID", ""},
			{"/v2/a%2Fb/manifests/v1", "{}", 400, "NAME_INVALID", ""},
		} {
			if a := do(t, "PUT", url+c.path, c.body, ""); a.status != c.status || a.code() != c.code {
				t.Errorf("%s with %d bytes: %d %s, want %d %s", c.path, len(c.body), a.status, a.body, c.status, c.code)
			}
		}
		if reached != 2 {
			t.Errorf("hooks were reached %d times, want 2", reached)
		}
		// Nothing of that room is still taken.
		for range 16 {
			if a := do(t, "PUT", url+"/v2/a/manifests/v1", whole, ""); a.status != 299 {
				t.Fatalf("%d %s", a.status, a.body)
			}
		}
	}
}

func TestHooksBeforeReferrersAndDeletion(t *testing.T) {
	for _, upstream := range []bool{false, true} {
		say := func(what string) []front.Hook {
			return []front.Hook{func(w http.ResponseWriter, r *front.Request, _ func(http.ResponseWriter)) {
				fmt.Fprintf(w, "%s %s %s %s %v", what, r.HTTP.Method, r.Repository, r.Reference, r.Blob)
			}}
		}
		url := hooked(t, front.Config{Referrers: say("referrers"), Delete: say("delete")}, upstream)
		for _, c := range []struct{ method, path, want string }{
			{"GET", "/v2/a/b/referrers/sha256%3A00?artifactType=x", "referrers GET a/b sha256:00 false"},
			{"DELETE", "/v2/a/manifests/v1", "delete DELETE a v1 false"},
			{"DELETE", "/v2/a/blobs/sha256:00", "delete DELETE a sha256:00 true"},
		} {
			if a := do(t, c.method, url+c.path, "", ""); a.body != c.want {
				t.Errorf("%s %s: %d %q, want %q", c.method, c.path, a.status, a.body, c.want)
			}
		}
		if a := do(t, "DELETE", url+"/v2/a/blobs/uploads/1", "", ""); a.status == 200 {
			t.Errorf("an upload's end came to a hook: %s", a.body)
		}
	}
}

func TestHeldAnswersAreWholeOrErrors(t *testing.T) {
	for _, c := range []struct {
		name string
		next func(w http.ResponseWriter)
		want string
	}{
		{"nothing said", func(http.ResponseWriter) {}, "200 "},
		{"hint, then answer", func(w http.ResponseWriter) { w.WriteHeader(103); w.WriteHeader(404); w.Write([]byte("no")) }, "404 no"},
		{"broken off", func(w http.ResponseWriter) { w.Write([]byte("hal")); panic(http.ErrAbortHandler) }, "error"},
		{"endless", func(w http.ResponseWriter) {
			for {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		}, "error"},
	} {
		a, err := front.Hold(c.next)
		got := "error"
		if err == nil {
			got = fmt.Sprint(a.Status, " ", string(a.Body))
		}
		if got != c.want {
			t.Errorf("%s: %s (%v), want %s", c.name, got, err, c.want)
		}
	}
	defer func() {
		if p := recover(); p == nil || !strings.Contains(fmt.Sprint(p), "on purpose") {
			t.Errorf("a panic became %v", p)
		}
	}()
	front.Hold(func(http.ResponseWriter) { panic(errors.New("on purpose")) })
}
