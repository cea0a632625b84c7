package front

import (
	"net/url"
	"strings"
	"testing"
)

// No path is the extension's and a repository's at once, and what is read out
// of a path stands in it.
func FuzzPath(f *testing.F) {
	for _, path := range []string{
		"/v2/", "/v2", "/v2/_oci/ext/discover", "/v2/a/_oci/ext/discover", "/v2/a/_scitt/entries/register", "/v2/_scitt/receipts/1",
		"/v2/a/manifests/_x", "/v2/a/blobs/uploads/", "/v2/blobs/uploads/blobs/uploads", "/v2/a%2F_scitt/x", "/v2/a/../_scitt/x", "/v2//_scitt",
		"/v2/manifests/_x", "/v2/tags/list", "_", "",
	} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		e, extension := parseExtension(path)
		if extension {
			whole := "/v2/" + strings.TrimPrefix(e.repository+"/"+e.name, "/")
			if !strings.HasPrefix(e.name, "_") || path != whole && path != whole+"/"+e.path && !strings.HasPrefix(path, "/v2//") {
				t.Errorf("%q is read as %+v", path, e)
			}
			return
		}
		name := repositoryOf(path)
		if name == "" || !strings.HasPrefix(path, "/v2/") {
			return
		}
		if !strings.HasPrefix(path, "/v2/"+name+"/") {
			t.Errorf("%q names %q", path, name)
		}
		for _, segment := range strings.Split(name, "/") {
			if strings.HasPrefix(segment, "_") {
				t.Errorf("%q names %q", path, name)
			}
		}
	})
}

// Wherever a registry says that something is, the client looks for it at the
// host that it asked, or we know that it is elsewhere.
func FuzzLocation(f *testing.F) {
	for _, text := range []string{
		"/v2/a/blobs/uploads/1?_state=a%2Bb", "uploads/1", "?n=1", "http://registry.internal:5000/v2/", "https://images.example/v2/x", "//images.example/x", "//evil.example/x",
		"http://registry.internal:5000//evil.example/", "http://images.example@evil.example/", "http:///x", "http:x", "/\\evil.example", "///evil.example", "ftp://images.example/", "",
		"http://images.example?//evil.example/", "http://images.example#//evil.example/", "HTTP://IMAGES.EXAMPLE/v2/", "http://images.example:80/x", "/.//evil.example/",
	} {
		f.Add(text)
	}
	u := &Upstream{base: url.URL{Scheme: "http", Host: "registry.internal:5000"}}
	o := origin{"https", "images.example"}
	asked, err := url.Parse(o.String() + "/v2/a/blobs/uploads/")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		path, elsewhere, err := u.ours(text, o)
		if err != nil || elsewhere != nil {
			return
		}
		if strings.ContainsAny(path, "\\ \t\r\n\"") {
			t.Errorf("%q became %q", text, path)
		}
		if at, err := asked.Parse(path); err != nil || at.Host != o.host || at.Scheme != o.scheme || at.User != nil {
			t.Errorf("%q became %q, which leads to %v (%v)", text, path, at, err)
		}
	})
}

// However a challenge is written, what is left of it has the realm that it is
// given, once, and service and scope as they were.
func FuzzChallenge(f *testing.F) {
	for _, text := range []string{
		`Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a:pull,push"`, `Basic realm="x"`, `bearer Realm=x, realm="y"`,
		`Basic realm="a, Bearer realm=b", Bearer scope="a\"b"`, `Negotiate abc==`, `,,`, `Bearer`, `Bearer realm*=UTF-8''x`, `Bearer realm="\\",service=x`, `Bearer service="unclosed`, `" sCope`,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, c := range parseChallenges(text) {
			if strings.TrimSpace(c.scheme) == "" {
				t.Errorf("%q has a challenge without a scheme: %q", text, c)
			}
			again := parseChallenges(c.withRealm("https://images.example/token").String())
			if len(again) == 0 || again[0].realm() != "https://images.example/token" {
				t.Errorf("%q became %q", text, again)
			}
			for _, p := range again[0].params[1:] {
				if name, _, _ := strings.Cut(p, "="); strings.EqualFold(strings.TrimSpace(name), "realm") {
					t.Errorf("%q has another realm: %q", text, again)
				}
			}
		}
	})
}
