package front_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/scittd/scittd/storage/front"
)

const secret = "the-password-of-somebody"

var credentials = basic("somebody", secret)

// thief is a host that the registry would like to be shown credentials at. It
// counts their bytes, wherever in a request they are.
type thief struct {
	mu     sync.Mutex
	stolen int
	visits []string
}

func (th *thief) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var whole bytes.Buffer
	fmt.Fprintf(&whole, "%s %s\n", r.Method, r.URL)
	r.Header.Write(&whole)
	whole.Write(body)
	th.mu.Lock()
	defer th.mu.Unlock()
	th.visits = append(th.visits, r.Method+" "+r.URL.String())
	for _, secret := range []string{secret, base64.StdEncoding.EncodeToString([]byte("somebody:" + secret)), "token-for-the-registry"} {
		th.stolen += strings.Count(whole.String(), secret) * len(secret)
	}
	io.WriteString(w, `{"token":"token-for-the-registry"}`)
}

// believer is a client that believes what it is told: it shows credentials
// wherever uploads, lists and realms are said to be. Only redirects take it to
// another host without them, which is what Go's client does.
type believer struct {
	t   *testing.T
	url string
}

func (b *believer) send(method, target, body string) (*http.Response, bool) {
	b.t.Helper()
	base, err := url.Parse(b.url)
	if err != nil {
		b.t.Fatal(err)
	}
	at, err := base.Parse(target)
	if err != nil || at.Host == "" {
		return nil, false
	}
	req, err := http.NewRequest(method, at.String(), strings.NewReader(body))
	if err != nil {
		return nil, false
	}
	req.Header.Set("Authorization", credentials)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, false
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return resp, true
}

// trust does one thing and believes the answer, and the answers to that.
func (b *believer) trust(method, target, body string) {
	b.t.Helper()
	for range 4 {
		resp, ok := b.send(method, target, body)
		if !ok {
			return
		}
		for _, v := range resp.Header.Values("Www-Authenticate") {
			for _, part := range strings.Split(v, "realm=")[1:] {
				realm := strings.Trim(strings.FieldsFunc(part, func(r rune) bool { return r == ',' })[0], `"`)
				b.send("GET", realm, "")
				b.send("POST", realm, "grant_type=password&username=somebody&password="+secret)
			}
			if strings.HasPrefix(v, "Digest") || strings.HasPrefix(v, "Negotiate") {
				b.t.Errorf("a client is asked for %s", v)
			}
		}
		for _, name := range []string{"Content-Location", "Alt-Svc", "Refresh", "Proxy-Authenticate", "Set-Cookie", "Clear-Site-Data", "Strict-Transport-Security"} {
			if v := resp.Header.Values(name); len(v) > 0 {
				b.t.Errorf("%s %s: answered with %s: %s", method, target, name, v)
			}
		}
		next := resp.Header.Values("Location")
		for _, link := range resp.Header.Values("Link") {
			for _, part := range strings.Split(link, "<")[1:] {
				l, _, _ := strings.Cut(part, ">")
				next = append(next, l)
			}
		}
		if len(next) == 0 || isRedirected(resp.StatusCode) {
			return
		}
		for _, l := range next {
			b.send("PATCH", l, body)
			b.send("GET", l, "")
		}
		method, target = "PUT", next[0]
	}
}

func isRedirected(status int) bool { return status >= 300 && status < 400 }

// everything is what clients do of which a registry could make something.
func (b *believer) everything() {
	b.t.Helper()
	digest := digestOf([]byte("x"))
	for _, c := range []struct{ method, path string }{
		{"GET", "/v2/"}, {"GET", "/v2/a/manifests/v1"}, {"HEAD", "/v2/a/manifests/v1"}, {"GET", "/v2/a/blobs/" + digest}, {"GET", "/v2/a/tags/list?n=1"},
		{"GET", "/v2/a/referrers/" + digest}, {"POST", "/v2/a/blobs/uploads/"}, {"POST", "/v2/a/blobs/uploads/?mount=" + digest + "&from=b"},
		{"PATCH", "/v2/a/blobs/uploads/1"}, {"PUT", "/v2/a/blobs/uploads/1?digest=" + digest}, {"GET", "/v2/a/blobs/uploads/1"},
		{"PUT", "/v2/a/manifests/v1"}, {"DELETE", "/v2/a/manifests/v1"}, {"GET", "/token?service=x&scope=y"}, {"POST", "/token"},
		{"GET", "/v2/_catalog"}, {"POST", "/v2/a/_scitt/entries/register"}, {"GET", "/v2/a/_scitt/entries/list"}, {"GET", "/v2/_oci/ext/discover"},
	} {
		body := ""
		if c.method != "GET" && c.method != "HEAD" {
			body = "grant_type=password&username=somebody&password=" + secret
		}
		b.trust(c.method, c.path, body)
	}
}

func TestHostileRegistryIsShownNobodysCredentials(t *testing.T) {
	header := func(status int, headers ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			for _, h := range headers {
				name, value, _ := strings.Cut(h, ": ")
				w.Header().Add(name, value)
			}
			w.WriteHeader(status)
		}
	}
	// THIEF is the thief's host, SELF the registry's, FRONT the host that the
	// client used.
	var tricks []string
	for _, target := range []string{
		"http://THIEF/v2/x", "https://THIEF/v2/x", "//THIEF/v2/x", "HTTP://THIEF/v2/x", "http://SELF@THIEF/v2/x", "http://somebody:x@SELF/v2/x", "http://SELF\\@THIEF/v2/x",
		"http:\\\\THIEF\\v2", "\\\\THIEF/v2", "/\\THIEF/v2/x", "http:///THIEF/v2/x", "http:THIEF/v2", "http://THIEF#@SELF/v2/x", "http://THIEF?@SELF/v2/x", "http://FRONT.THIEF/v2/x",
		"http://FRONT@THIEF/", "ftp://THIEF/v2/x", "http://THIEF:80/x", "http://[::ffff:127.0.0.1]:1/v2/x", "///THIEF/v2", "http://SELF/v2/x http://THIEF/v2/x",
		"http://SELF//THIEF/v2/x", "http://FRONT///THIEF/v2/x", "//SELF//THIEF/v2/x",
	} {
		tricks = append(tricks, "Location: "+target, "Link: <"+target+`>; rel="next"`, `Www-Authenticate: Bearer realm="`+target+`",service="s"`)
	}
	tricks = append(tricks,
		`Link: http://THIEF/v2/; rel="next"`, `Link: </v2/a/tags/list>; rel="prev", <http://THIEF/v2/>; rel="next"`, `Link: < http://THIEF/v2/ >; rel="next"`, `Link: <http://THIEF/v2/`,
		`Www-Authenticate: Bearer realm="http://SELF/token",realm="http://THIEF/token"`, `Www-Authenticate: Bearer REALM="http://THIEF/token"`, `Www-Authenticate: Bearer realm=http://THIEF/token`,
		`Www-Authenticate: Bearer service="a,b",realm="http://THIEF/token"`, `Www-Authenticate: Bearer service="\",realm=",realm="http://THIEF/token"`, `Www-Authenticate: Bearer realm="http://THI\EF/token"`,
		`Www-Authenticate: Basic realm="x", Bearer realm="http://THIEF/token"`, `Www-Authenticate: Bearer realm="http://SELF/t", Bearer realm="http://THIEF/token"`,
		`Www-Authenticate: Digest realm="x", domain="http://THIEF/", nonce="1"`, `Www-Authenticate: Negotiate`, `Www-Authenticate: Bearer`, `Www-Authenticate: Bearer realm=""`,
		`Www-Authenticate: Bearer realm*="http://THIEF/token"`, "Www-Authenticate: Bearer\trealm=\"http://THIEF/token\"", `Www-Authenticate: ,,Bearer ,realm="http://THIEF/token"`,
		"Alt-Svc: h2=\"THIEF\"", "Refresh: 0; url=http://THIEF/", "Content-Location: http://THIEF/", "Proxy-Authenticate: Basic realm=x", "Set-Cookie: a=b", "Clear-Site-Data: \"*\"", "Strict-Transport-Security: max-age=1",
	)
	type trick struct {
		name string
		lie  http.HandlerFunc
	}
	fill := func(s, self, front, away string) string {
		return strings.NewReplacer("THIEF", away, "SELF", self, "FRONT", front).Replace(s)
	}
	for _, follow := range []bool{false, true} {
		th := &thief{}
		away := hostOf(listen(t, th))
		var now trick
		liar := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { now.lie(w, r) }))
		t.Cleanup(liar.Close)
		self := hostOf(liar.URL)
		var url string
		hook := func(w http.ResponseWriter, r *front.Request, next func(http.ResponseWriter)) {
			r.Ask(r.HTTP.Context(), "GET", "/v2/a/blobs/"+digestOf([]byte("x")), nil, nil)
			next(w)
		}
		url = before(t, self, func(u *front.UpstreamConfig, c *front.Config) {
			u.FollowRedirects = follow
			c.Extension, c.ExtensionEndpoints, c.ManifestPut = echo, []front.Endpoint{{Path: "entries/register", InRepository: true, Push: true}}, []front.Hook{hook}
			c.Vouched = func(r *http.Request, _ bool) *http.Request { return r }
		})
		var all []trick
		for _, text := range tricks {
			text = fill(text, self, hostOf(url), away)
			statuses := []int{200, 201, 202, 307}
			if strings.HasPrefix(text, "Www-") {
				statuses = []int{401, 403, 407, 200}
			}
			for _, status := range statuses {
				all = append(all, trick{fmt.Sprintf("%d %s", status, text), header(status, text)})
			}
		}
		both := []string{"Location: /v2/a/blobs/uploads/1", "Location: http://" + away + "/"}
		challenge := `Www-Authenticate: Bearer realm="http://` + self + `/realm",service="s"`
		all = append(all,
			trick{"two Locations", header(202, both...)},
			trick{"two Locations, the other way", header(202, both[1], both[0])},
			trick{"301", header(301, both[1])}, trick{"303", header(303, both[1])}, trick{"308", header(308, both[1])},
			trick{"a realm that redirects", func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/realm" {
					header(307, both[1])(w, r)
					return
				}
				header(401, challenge)(w, r)
			}},
			trick{"a realm that asks for credentials elsewhere", func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/realm" {
					header(401, `Www-Authenticate: Bearer realm="http://`+away+`/"`, both[1])(w, r)
					return
				}
				header(401, challenge)(w, r)
			}},
			trick{"a hint before the answer", func(w http.ResponseWriter, r *http.Request) {
				header(103, both[1], `Link: <http://`+away+`/>; rel="preload"`)(w, r)
				clear(w.Header())
				header(200)(w, r)
			}},
			trick{"a redirect to itself that redirects on", func(w http.ResponseWriter, r *http.Request) {
				if strings.HasPrefix(r.URL.Path, "/hop") {
					header(302, both[1])(w, r)
					return
				}
				header(307, "Location: http://"+self+"/hop")(w, r)
			}},
			trick{"a redirect in circles", func(w http.ResponseWriter, r *http.Request) { header(307, "Location: "+r.URL.Path)(w, r) }},
		)
		if len(all) < 60 {
			t.Fatalf("only %d tricks", len(all))
		}
		http.DefaultClient.CheckRedirect = func(req *http.Request, via []*http.Request) error {
			if len(via) > 3 {
				return http.ErrUseLastResponse
			}
			return nil
		}
		t.Cleanup(func() { http.DefaultClient.CheckRedirect = nil })
		for _, now = range all {
			th.visits, th.stolen = nil, 0
			(&believer{t, url}).everything()
			if th.stolen > 0 {
				t.Errorf("%s (follow %v): %d bytes of credentials were shown at %q", now.name, follow, th.stolen, th.visits)
			}
		}
	}
}
