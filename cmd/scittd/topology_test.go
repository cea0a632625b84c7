package main

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/internal/testenv"
	"github.com/scittd/scittd/statement"
)

const topologyPolicy = `
version: 1
operators:
  - key: service/keys/operator.pub
issuers:
  - iss: https://tests.wabbit.example
    key: tester.pub
    repositories: ["wabbit/*"]
subjects: [sub]
visibility: public
`

// wabbit may do everything at the registry of these tests.
var wabbit = authn.Basic{Username: "wabbit", Password: "secret"}

const wabbitHash = "wabbit:$2a$04$QWNahbDwNvTJCCCxsjy1SeOuc9JjMrrXeUvEwa0V8tEp5KqLjoN5K\n"

// lockedRegistry shows nothing to anybody but wabbit.
func lockedRegistry(t *testing.T) (host string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(file, []byte(wabbitHash), 0o644); err != nil {
		t.Fatal(err)
	}
	for dir := filepath.Dir(file); dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil { // the registry is another user
			t.Fatal(err)
		}
	}
	return testenv.RegistryOf(t, "docker-registry", fmt.Sprintf("auth:\n  htpasswd: {realm: test, path: %q}\n", file))
}

// adapted is an example of deploy/config with other addresses, all of which
// have to stand in it. What is between these tests and TLS is left out.
func adapted(t *testing.T, file string, addresses ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../../deploy/config", file))
	if err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`(?m)^(tls:\n  cert: .*\n  key: .*|  ca_file: .*|.*ssl_.*)\n`).ReplaceAllString(string(b), "")
	for i := 0; i < len(addresses); i += 2 {
		if !strings.Contains(text, addresses[i]) {
			t.Fatalf("%s has no %q", file, addresses[i])
		}
		text = strings.ReplaceAll(text, addresses[i], addresses[i+1])
	}
	return text
}

// login makes a docker config.
func login(host string) string {
	return fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, host, base64.StdEncoding.EncodeToString([]byte(wabbit.Username+":"+wabbit.Password)))
}

// standing is a service set up as an example says, before registry.
func standing(t *testing.T, example, registry, dsn string) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir(), listen: freeAddress(t), http: &http.Client{Transport: &http.Transport{}, Timeout: patience}}
	t.Cleanup(s.http.CloseIdleConnections)
	s.url = "http://" + s.listen
	common := []string{
		"ops_listen: 127.0.0.1:9090", "ops_listen: " + freeAddress(t), "/var/lib/scittd-memory", s.path("memory"), "/var/lib/scittd", s.path("service"),
	}
	var text string
	switch example {
	case "beside":
		s.registry = registry
		text = adapted(t, "beside.yaml", append(common, "https://scitt.example", s.url, "0.0.0.0:8443", s.listen, "host: registry.example", "host: "+registry+"\n  plain_http: true")...)
	case "path-routed":
		s.registry = freeAddress(t)
		text = adapted(t, "path-routed.yaml", append(common, "https://scitt.example", s.url, "0.0.0.0:8080", s.listen,
			"registry.internal:5000", registry+"\n  plain_http: true", "registry.example", s.registry, "10.0.0.0/8", "127.0.0.0/8")...)
		testenv.Nginx(t, adapted(t, "path-routed.nginx.conf", "443 ssl", s.registry, "registry.internal:5000", registry, "scittd.internal:8080", s.listen, "https://registry", "http://registry"), s.registry)
	case "in-front":
		s.registry = s.listen
		text = adapted(t, "in-front.yaml", append(common, "https://images.example", s.url, "0.0.0.0:8443", s.listen, "registry.internal:5000", registry+"\n  plain_http: true")...)
	}
	for _, dir := range []string{"service/keys", "memory"} {
		if err := os.MkdirAll(s.path(dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s.keyPair("tester")
	s.keyPair("service/keys/operator")
	s.write("service/scittd.yaml", text)
	s.write("service/database.url", dsn)
	s.write("service/registry/config.json", login(registry))
	s.write("docker/config.json", login(s.registry))
	s.write("policy.yaml", topologyPolicy)
	s.run("scittd", "init", "--config", "service/scittd.yaml", "--policy", "policy.yaml")
	return s
}

// claimed is a statement about an image.
func (s *site) claimed(image string) []byte {
	s.t.Helper()
	key, err := cose.ParsePrivatePEM(s.read("tester.pem"))
	if err != nil {
		s.t.Fatal(err)
	}
	body, err := statement.Sign(statement.Template{
		Issuer: "https://tests.wabbit.example", Subject: image, ContentType: "application/json", Payload: []byte(`{"passed": true}`),
	}, key)
	if err != nil {
		s.t.Fatal(err)
	}
	return body
}

// registerAt posts a statement to a repository's extension.
func (s *site) registerAt(host, authorization string, body []byte) (status int, header http.Header) {
	s.t.Helper()
	req, err := http.NewRequest("POST", "http://"+host+"/v2/wabbit/net-monitor/_scitt/entries/register", strings.NewReader(string(body)))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/cose")
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode, resp.Header
}

func basicAuth(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// receiptsOf counts the transparency artifacts of an image, as wabbit sees it.
func (s *site) receiptsOf(image name.Digest) (n int) {
	s.t.Helper()
	index, err := remote.Referrers(image, remote.WithAuth(&wabbit), remote.WithTransport(s.http.Transport))
	if err != nil {
		s.t.Fatal(err)
	}
	list, err := index.IndexManifest()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, d := range list.Manifests {
		if d.ArtifactType == receiptType {
			n++
		}
	}
	return n
}

func TestEachTopologyWorksAsItsExampleSays(t *testing.T) {
	t.Parallel()
	for _, example := range []string{"beside", "path-routed", "in-front"} {
		t.Run(example, func(t *testing.T) {
			t.Parallel()
			s := standing(t, example, lockedRegistry(t), testenv.Database(t))
			running := s.serve()

			digest := s.image("wabbit/net-monitor:v1")
			image, err := name.NewDigest(s.registry+"/wabbit/net-monitor@"+digest, name.Insecure)
			if err != nil {
				t.Fatal(err)
			}
			// Where the registry's own credentials count, those of the service do, too.
			host, authorization := s.registry, basicAuth("wabbit", "secret")
			if example == "beside" {
				host, authorization = s.listen, basicAuth("ci", s.token("ci", "publish"))
			}
			claim := s.claimed(image.String())
			for who, wrong := range map[string]string{"nobody": "", "somebody else": basicAuth("wabbit", "wrong")} {
				if status, header := s.registerAt(host, wrong, claim); status != http.StatusUnauthorized || header.Get("WWW-Authenticate") == "" {
					t.Errorf("%s registers: %d %v", who, status, header)
				}
			}
			if status, header := s.registerAt(host, authorization, claim); status != http.StatusCreated {
				t.Fatalf("register: %d %v", status, header)
			}
			running.await("to place the claim", func() bool { return s.receiptsOf(image) == 1 })

			d, err := remote.Get(image, remote.WithAuth(&wabbit), remote.WithTransport(s.http.Transport))
			if err != nil || d.Digest.String() != digest {
				t.Errorf("pull: %v, %v", d, err)
			}
			if _, err := remote.Get(image, remote.WithAuth(authn.Anonymous), remote.WithTransport(s.http.Transport)); err == nil {
				t.Error("the registry's images are shown to everybody")
			}
			var discovery struct{ Extensions []struct{ Name string } }
			s.getJSON("/v2/_oci/ext/discover", "", &discovery)
			if len(discovery.Extensions) != 1 || discovery.Extensions[0].Name != "_scitt" {
				t.Errorf("discovery lists %v", discovery)
			}
			running.stop()
			if example == "in-front" {
				return
			}
			// Pulls never touch the service.
			if _, err := remote.Get(image, remote.WithAuth(&wabbit), remote.WithTransport(s.http.Transport)); err != nil {
				t.Errorf("pull without the service: %v", err)
			}
		})
	}
}
