package front_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"oras.land/oras-go/v2"
	orasremote "oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/scittd/scittd/storage/embedded"
	"github.com/scittd/scittd/storage/front"
)

// tokenRegistry is a registry that takes tokens only, and its token service,
// which gives one for one scope to who knows the password.
type tokenRegistry struct {
	registry http.Handler
	realm    string // as announced
	asked    atomic.Pointer[http.Request]
	given    atomic.Int32
}

func (s *tokenRegistry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/auth/realm" {
		s.token(w, r)
		return
	}
	scope := "registry:catalog:*"
	if rest, ok := strings.CutPrefix(r.URL.Path, "/v2/"); ok && rest != "" {
		repository, _, _ := strings.Cut(rest, "/m") // manifests; enough for one-part names
		repository, _, _ = strings.Cut(repository, "/b")
		repository, _, _ = strings.Cut(repository, "/t")
		action := "pull"
		if r.Method != "GET" && r.Method != "HEAD" {
			action = "pull,push"
		}
		scope = "repository:" + repository + ":" + action
	}
	given, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if r.URL.Path == "/v2/" && given != "" || strings.HasPrefix(given, scope) {
		s.registry.ServeHTTP(w, r)
		return
	}
	w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="the, \"registry\"",scope=%q`, s.realm, scope))
	http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}`, http.StatusUnauthorized)
}

func (s *tokenRegistry) token(w http.ResponseWriter, r *http.Request) {
	r.ParseForm()
	s.asked.Store(r)
	user, password, _ := r.BasicAuth()
	if r.Method == "POST" {
		user, password = r.PostForm.Get("username"), r.PostForm.Get("password")
	}
	if user != "somebody" || password != secret {
		w.Header().Set("WWW-Authenticate", `Bearer realm="http://elsewhere.example/"`)
		http.Error(w, `{"details":"no"}`, http.StatusUnauthorized)
		return
	}
	s.given.Add(1)
	w.Header().Set("Set-Cookie", "session=1")
	json.NewEncoder(w).Encode(map[string]any{"token": r.Form.Get("scope"), "access_token": r.Form.Get("scope"), "expires_in": 300})
}

// startTokenRegistry runs one. apart: the token service is another host.
func startTokenRegistry(t *testing.T, apart bool) (s *tokenRegistry, host string) {
	t.Helper()
	r, err := embedded.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	s = &tokenRegistry{registry: r.Handler()}
	url := listen(t, s)
	s.realm = url + "/auth/realm?account=a%2Bb"
	if apart {
		s.realm = listen(t, http.HandlerFunc(s.token)) + "/auth/realm"
	}
	return s, hostOf(url)
}

func TestTokensAreAskedForThroughTheFrontByStrictClients(t *testing.T) {
	for _, apart := range []bool{false, true} {
		t.Run(fmt.Sprint("token service on another host: ", apart), func(t *testing.T) {
			s, registry := startTokenRegistry(t, apart)
			host := hostOf(before(t, registry, func(u *front.UpstreamConfig, _ *front.Config) {
				if apart {
					u.TokenHosts = []string{strings.Split(hostOf(s.realm), "/")[0]}
				}
			}))
			ref, err := name.ParseReference(host + "/app:v1")
			if err != nil {
				t.Fatal(err)
			}
			img, err := random.Image(1000, 2)
			if err != nil {
				t.Fatal(err)
			}
			if err := remote.Write(ref, img, remote.WithAuth(&authn.Basic{Username: "somebody", Password: "wrong"})); err == nil {
				t.Fatal("pushed with a wrong password")
			}
			if err := remote.Write(ref, img, remote.WithAuth(&authn.Basic{Username: "somebody", Password: secret})); err != nil {
				t.Fatal(err)
			}
			if _, err := remote.Image(ref, remote.WithAuth(authn.Anonymous)); err == nil {
				t.Error("pulled without a password")
			}
			repo, err := orasremote.NewRepository(host + "/app")
			if err != nil {
				t.Fatal(err)
			}
			repo.PlainHTTP = true
			repo.Client = &auth.Client{Credential: auth.StaticCredential(host, auth.Credential{Username: "somebody", Password: secret})}
			if _, _, err := oras.FetchBytes(t.Context(), repo, "v1", oras.DefaultFetchBytesOptions); err != nil {
				t.Error(err)
			}
			if s.given.Load() == 0 {
				t.Error("nobody asked for a token")
			}
		})
	}
}

func TestRealmIsOursAndServiceAndScopeAreTheRegistrys(t *testing.T) {
	s, registry := startTokenRegistry(t, false)
	front1 := before(t, registry, func(_ *front.UpstreamConfig, c *front.Config) { c.PublicURL = "https://images.example" })
	for host, realm := range map[string]string{hostOf(front1): front1 + "/token", "images.example": "https://images.example/token"} {
		a := do(t, "GET", front1+"/v2/app/manifests/v1", "", "", "Host: "+host)
		want := `Bearer realm="` + realm + `",service="the, \"registry\"",scope="repository:app:pull"`
		if got := a.header.Get("WWW-Authenticate"); a.status != 401 || got != want || !strings.Contains(a.body, "who are you") {
			t.Errorf("%d %s %s, want %s", a.status, got, a.body, want)
		}
	}

	// A process that has never seen a challenge knows the realm all the same.
	for name, c := range map[string]struct{ method, query, body, authorization string }{
		"GET":  {"GET", "service=the%2C+%22registry%22&scope=repository:app:pull&scope=repository%3Ab%3Apull&account=x", "", basic("somebody", secret)},
		"POST": {"POST", "", "grant_type=password&service=x&username=somebody&password=" + secret + "&scope=repository%3Aapp%3Apull", ""},
	} {
		fresh := before(t, registry, nil)
		a := do(t, c.method, fresh+"/token?"+c.query, c.body, c.authorization, "Content-Type: application/x-www-form-urlencoded")
		asked := s.asked.Load()
		if a.status != 200 || !strings.Contains(a.body, `"token":"repository:app:pull"`) || a.header.Get("Cache-Control") != "no-store" || a.header.Get("Set-Cookie") != "" {
			t.Errorf("%s: %d %s %v", name, a.status, a.body, a.header)
		}
		if want := strings.TrimSuffix("account=a%2Bb&"+c.query, "&"); asked.Method != c.method || asked.URL.RawQuery != want {
			t.Errorf("%s: the realm was asked %s %s, want %s", name, asked.Method, asked.URL.RawQuery, want)
		}
	}
	if a := do(t, "GET", front1+"/token", "", basic("somebody", "wrong")); a.status != 401 || strings.Contains(a.header.Get("WWW-Authenticate"), "elsewhere") || a.body != "{\"details\":\"no\"}\n" {
		t.Errorf("wrong password: %d %v %s", a.status, a.header, a.body)
	}
	if a := do(t, "PUT", front1+"/token", "", ""); a.status != 405 || a.code() != "UNSUPPORTED" {
		t.Errorf("PUT: %d %s", a.status, a.body)
	}
	if a := do(t, "POST", front1+"/token", strings.Repeat("x", 100_000), ""); a.status != 400 || a.code() != "UNSUPPORTED" {
		t.Errorf("a long request: %d %s", a.status, a.body)
	}
	open := before(t, hostOf(serve(t, front.Config{})), nil)
	if a := do(t, "GET", open+"/token", "", ""); a.status != 404 || a.code() != "UNSUPPORTED" {
		t.Errorf("a registry without tokens: %d %s", a.status, a.body)
	}
	// Behind its proxy, clients reach the registry's realm by themselves.
	routed := before(t, registry, func(u *front.UpstreamConfig, c *front.Config) {
		u.PathRouted, c.Extension = true, echo
	})
	if got := do(t, "GET", routed+"/v2/app/_scitt/entries/list", "", "").header.Get("WWW-Authenticate"); !strings.Contains(got, `realm="`+s.realm+`"`) {
		t.Errorf("path-routed: %s", got)
	}
	if a := do(t, "GET", routed+"/v2/app/manifests/v1", "", ""); a.status != 404 || a.code() != "NAME_UNKNOWN" {
		t.Errorf("path-routed, a pull: %d %s", a.status, a.body)
	}
}

func TestUpstreamByTLSIsKnownByItsCA(t *testing.T) {
	var host atomic.Value
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host.Store(r.Host)
		w.Header().Set("Location", "http://"+r.Host+"/v2/a/blobs/uploads/1?_state=a%2Bb%3D%3D+c") // it knows nothing of TLS
		io.WriteString(w, r.Proto)
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	ca := writeCA(t, s)
	h := fronted(t, hostOf(s.URL), func(u *front.UpstreamConfig, _ *front.Config) { u.PlainHTTP, u.CAFile = false, ca })
	server := httptest.NewUnstartedServer(h)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	resp, err := server.Client().Get(server.URL + "/v2/a/blobs/uploads/1")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.Proto != "HTTP/2.0" || string(body) != "HTTP/2.0" {
		t.Errorf("to us by %s, to the registry by %s, %v", resp.Proto, body, err)
	}
	if got, want := resp.Header.Get("Location"), server.URL+"/v2/a/blobs/uploads/1?_state=a%2Bb%3D%3D+c"; got != want {
		t.Errorf("Location %s, want %s", got, want)
	}
	if host.Load() != hostOf(server.URL) {
		t.Errorf("the registry was asked as %v", host.Load())
	}
	// Who is not known is not asked.
	stranger := before(t, hostOf(s.URL), func(u *front.UpstreamConfig, _ *front.Config) { u.PlainHTTP = false })
	if a := do(t, "GET", stranger+"/v2/", "", ""); a.status != 502 {
		t.Errorf("a registry of an unknown CA: %d", a.status)
	}
	for what, c := range map[string]front.UpstreamConfig{
		"no host": {}, "a URL": {Host: "https://registry.example"}, "no such file": {Host: "registry.example", CAFile: ca + "x"},
	} {
		if _, err := front.OpenUpstream(c); err == nil {
			t.Errorf("%s: opened", what)
		}
	}
}
