package front_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/storage/front"
)

func TestEveryLocationLeadsToTheHostThatTheClientAsked(t *testing.T) {
	var header, value string
	var code int
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(header, strings.ReplaceAll(value, "CLIENT", r.Host))
		w.WriteHeader(code)
	}))
	t.Cleanup(s.Close)
	self := hostOf(s.URL)
	url := before(t, self, func(_ *front.UpstreamConfig, c *front.Config) { c.PublicURL = "https://images.example" })
	query := "?_state=AbC%2B%2f==&x=a+b%20c;d"
	for _, c := range []struct{ header, value, want string }{
		{"Location", "/v2/a/blobs/uploads/1" + query, "/v2/a/blobs/uploads/1" + query},
		{"Location", "uploads/1" + query, "uploads/1" + query},
		{"Location", "http://" + self + "/v2/a/blobs/uploads/1" + query, "CLIENT/v2/a/blobs/uploads/1" + query},
		{"Location", "https://" + self + "/v2/a/blobs/uploads/1" + query, "CLIENT/v2/a/blobs/uploads/1" + query},
		{"Location", "http://CLIENT/v2/a/manifests/sha256:00", "CLIENT/v2/a/manifests/sha256:00"},
		{"Location", "//CLIENT/v2/a/blobs/sha256%3A00", "CLIENT/v2/a/blobs/sha256%3A00"},
		{"Location", "https://" + self + "/artifacts-uploads/namespaces/p/uploads/1" + query, "CLIENT/artifacts-uploads/namespaces/p/uploads/1" + query},
		{"Link", "<http://" + self + "/v2/a/tags/list?n=1&last=a%2B>; rel=\"next\"", "</v2/a/tags/list?n=1&last=a%2B>; rel=\"next\""},
		{"Link", "</v2/a/tags/list?n=1&last=a>;rel=next", "</v2/a/tags/list?n=1&last=a>;rel=next"},
		{"Link", "<?n=1&last=a>; rel=\"next\"", "<?n=1&last=a>; rel=\"next\""},
	} {
		header, value = c.header, c.value
		for host, origin := range map[string]string{hostOf(url): url, "images.example": "https://images.example"} {
			for _, code = range []int{201, 202, 307} {
				if code == 307 && c.header == "Link" {
					continue
				}
				req, err := http.NewRequest("POST", url+"/v2/a/blobs/uploads/", nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Host = host
				resp, err := http.DefaultTransport.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if got, want := resp.Header.Get(c.header), strings.ReplaceAll(c.want, "CLIENT", origin); got != want || resp.StatusCode != code {
					t.Errorf("%s %d %s: got %d %q, want %q", host, code, c.value, resp.StatusCode, got, want)
				}
			}
		}
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

// A bucket that is reached by redirect, as registries in clouds have it.
func TestRedirectsToBlobsArePassedOrFollowed(t *testing.T) {
	var asked *http.Request
	bucket := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r
		if r.URL.Query().Get("signature") != "a+b/==" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		w.Header().Set("Set-Cookie", "bucket=1")
		w.Header().Set("Etag", `"blob"`)
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader("the bytes of a blob"))
	}))
	bucket = strings.Replace(bucket, "127.0.0.1", "localhost", 1)
	expired := digestOf([]byte("expired"))
	location := bucket + "/blob?signature=a%2Bb%2F%3D%3D"
	registry := hostOf(listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/a/blobs/"+expired {
			location = bucket + "/blob"
		}
		w.Header().Set("Docker-Content-Digest", "sha256:00")
		http.Redirect(w, r, location, http.StatusTemporaryRedirect)
	})))
	get := func(url, method string, headers ...string) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequest(method, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", credentials)
		for _, h := range headers {
			name, value, _ := strings.Cut(h, ": ")
			req.Header.Set(name, value)
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(body)
	}
	passing := before(t, registry, nil)
	if resp, _ := get(passing+"/v2/a/blobs/"+zero, "GET"); resp.StatusCode != 307 || resp.Header.Get("Location") != location {
		t.Errorf("pass: %d %s", resp.StatusCode, resp.Header.Get("Location"))
	}
	following := before(t, registry, func(u *front.UpstreamConfig, _ *front.Config) { u.FollowRedirects = true })
	for _, c := range []struct {
		method, headers, body, length string
		status                        int
	}{
		{"GET", "Accept: */*", "the bytes of a blob", "19", 200},
		{"HEAD", "Accept: */*", "", "19", 200},
		{"GET", "Range: bytes=4-8", "bytes", "5", 206},
		{"GET", `If-None-Match: "blob"`, "", "", 304},
		{"GET", "Range: bytes=100-", "", "", 416},
	} {
		resp, body := get(following+"/v2/a/blobs/"+zero, c.method, c.headers)
		if resp.StatusCode != c.status || c.status < 300 && (body != c.body || resp.Header.Get("Content-Length") != c.length) ||
			resp.Header.Get("Docker-Content-Digest") != "sha256:00" || resp.Header.Get("Set-Cookie") != "" {
			t.Errorf("follow: %s %s: %d %q %v", c.method, c.headers, resp.StatusCode, body, resp.Header)
		}
		for _, name := range []string{"Authorization", "X-Forwarded-For", "X-Forwarded-Host"} {
			if v := asked.Header.Get(name); v != "" {
				t.Errorf("the bucket was told %s: %s", name, v)
			}
		}
	}
	// Clients of 127.0.0.1 would show their credentials to its other ports, too.
	location = strings.Replace(location, "localhost", "127.0.0.1", 1)
	if resp, body := get(passing+"/v2/a/blobs/"+zero, "GET"); resp.StatusCode != 200 || body != "the bytes of a blob" || asked.Header.Get("Authorization") != "" {
		t.Errorf("to a port of the same host: %d %q", resp.StatusCode, body)
	}
	if resp, body := get(following+"/v2/a/blobs/"+expired, "GET"); resp.StatusCode != 502 || !strings.Contains(body, "answers 403") {
		t.Errorf("expired: %d %s", resp.StatusCode, body)
	}
	for _, metadata := range []string{"http://169.254.169.254/latest/meta-data", "http://[fe80::1]/", "http://0.0.0.0/"} {
		location = metadata
		if resp, _ := get(following+"/v2/a/blobs/"+zero, "GET"); resp.StatusCode != 502 {
			t.Errorf("%s: %d", metadata, resp.StatusCode)
		}
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}
