package interop

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// Docker and containerd need a daemon, so their requests are made here: the same
// ones in the same order, with the headers that registries look at.

var docker = client{"docker (its requests)", "", []step{
	{"login", func(v *visit) error { _, err := v.login(); return err }},
	{"push", func(v *visit) error {
		w, err := v.login()
		if err != nil {
			return err
		}
		for _, digest := range append(v.layers, v.config) {
			if err := w.pushBlob(digest); err != nil {
				return err
			}
		}
		manifest, err := blob(v.image, v.imageDigest)
		if err != nil {
			return err
		}
		a, err := w.ask("push,pull", http.MethodPut, "/manifests/v1", manifest, "Content-Type: "+imageType)
		if err != nil {
			return err
		}
		if got := a.header.Get("Docker-Content-Digest"); got != v.imageDigest {
			return fmt.Errorf("the manifest was pushed as %q, is %s", got, v.imageDigest)
		}
		return a.is(http.StatusCreated)
	}},
	{"mount", func(v *visit) error {
		w, err := v.login()
		if err != nil {
			return err
		}
		from := w.repository
		w.repository += "-copy"
		a, err := w.ask("push,pull repository:"+from+":pull", http.MethodPost, "/blobs/uploads/?mount="+v.layers[0]+"&from="+url.QueryEscape(from), nil)
		if err != nil {
			return err
		}
		if a.status == http.StatusAccepted { // allowed: then it is pushed
			return w.pushBlob(v.layers[0])
		}
		return a.is(http.StatusCreated)
	}},
	{"pull", func(v *visit) error {
		w, err := v.login()
		if err != nil {
			return err
		}
		head, err := w.ask("pull", http.MethodHead, "/manifests/v1", nil, dockerAccepts...)
		if err != nil {
			return err
		}
		if got := head.header.Get("Docker-Content-Digest"); got != v.imageDigest {
			return fmt.Errorf("HEAD says v1 is %q, pushed was %s", got, v.imageDigest)
		}
		return w.pull(v, "", dockerAccepts...)
	}},
	{"pull without a login", func(v *visit) error {
		w := v.wire()
		ping, err := w.send(http.MethodGet, "/v2/", nil)
		if err != nil {
			return err
		}
		w.challenge = ping.header.Get("WWW-Authenticate")
		if strings.HasPrefix(w.challenge, "Basic") {
			return errors.New("docker gives up: the registry wants a login by " + w.challenge)
		}
		return w.pull(v, "", dockerAccepts...)
	}},
}}

var containerd = client{"containerd (its requests)", "", []step{
	{"push", pushImage},
	{"pull with ns=", func(v *visit) error {
		if err := v.after("push"); err != nil {
			return err
		}
		w, ns := v.wire(), "?ns="+url.QueryEscape("registry.example")
		// containerd asks without credentials first, and keeps what it was
		// challenged with.
		head, err := w.send(http.MethodHead, w.path("/manifests/v1"+ns), nil, containerdAccepts)
		if err != nil {
			return err
		}
		if head.status == http.StatusUnauthorized {
			w.challenge, w.user, w.password = head.header.Get("WWW-Authenticate"), v.site.user, v.site.password
			if head, err = w.ask("pull", http.MethodHead, "/manifests/v1"+ns, nil, containerdAccepts); err != nil {
				return err
			}
		}
		if got := head.header.Get("Docker-Content-Digest"); got != v.imageDigest {
			return fmt.Errorf("HEAD says v1 is %q, pushed was %s", got, v.imageDigest)
		}
		return w.pull(v, ns, containerdAccepts)
	}},
	{"resume a layer", func(v *visit) error {
		if err := v.after("push"); err != nil {
			return err
		}
		w, err := v.login()
		if err != nil {
			return err
		}
		want, err := blob(v.image, v.layers[0])
		if err != nil {
			return err
		}
		a, err := w.ask("pull", http.MethodGet, "/blobs/"+v.layers[0]+"?ns=registry.example", nil, "Range: bytes=1000-")
		if err != nil {
			return err
		}
		if err := a.is(http.StatusPartialContent); err != nil {
			return err
		}
		if !bytes.Equal(a.body, want[1000:]) {
			return fmt.Errorf("the rest has %d bytes, or others than were pushed; want %d", len(a.body), len(want)-1000)
		}
		return nil
	}},
}}

const imageType = "application/vnd.oci.image.manifest.v1+json"

var (
	dockerAccepts = []string{
		"Accept: application/vnd.docker.distribution.manifest.v2+json", "Accept: application/vnd.docker.distribution.manifest.list.v2+json",
		"Accept: application/vnd.oci.image.index.v1+json", "Accept: " + imageType,
		"Accept: application/vnd.docker.distribution.manifest.v1+prettyjws", "Accept: application/json",
	}
	containerdAccepts = "Accept: application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json, " +
		imageType + ", application/vnd.oci.image.index.v1+json, */*"
)

// wire is a client that does by hand what the daemons do.
type wire struct {
	visit          *visit
	client         *http.Client
	repository     string
	challenge      string // of the registry; "" if it has none
	user, password string
}

func (v *visit) wire() *wire {
	return &wire{visit: v, client: &http.Client{Transport: unpooled}, repository: strings.TrimPrefix(v.repo, v.site.host+"/")}
}

// login asks GET /v2/ how to authenticate, as docker does before everything else,
// and believes it.
func (v *visit) login() (*wire, error) {
	w := v.wire()
	a, err := w.send(http.MethodGet, "/v2/", nil)
	if err != nil {
		return nil, err
	}
	w.challenge = a.header.Get("WWW-Authenticate")
	w.user, w.password = v.site.user, v.site.password
	if (a.status == http.StatusUnauthorized) != (w.challenge != "") {
		return nil, fmt.Errorf("GET /v2/: %d with challenge %q", a.status, w.challenge)
	}
	if v.site.user != "" && w.challenge == "" {
		return nil, errors.New("GET /v2/ challenges nobody, so docker would never send its login")
	}
	return w, nil
}

func (w *wire) path(rest string) string { return "/v2/" + w.repository + rest }

// ask sends a request about the repository, authenticated as the challenge wants.
func (w *wire) ask(actions, method, rest string, body []byte, headers ...string) (answered, error) {
	target := rest
	if !strings.Contains(rest, "://") {
		target = w.path(rest)
	}
	authorization, err := w.authorization(actions)
	if err != nil {
		return answered{}, err
	}
	if authorization != "" {
		headers = append(headers, "Authorization: "+authorization)
	}
	return w.send(method, target, body, headers...)
}

var parameter = regexp.MustCompile(`(\w+)="([^"]*)"`)

// authorization is what the challenge asks for. A token's realm has to be on the
// registry's own host: that is what strict clients insist on for private ones.
func (w *wire) authorization(actions string) (string, error) {
	scheme, rest, _ := strings.Cut(w.challenge, " ")
	switch strings.ToLower(scheme) {
	case "":
		return "", nil
	case "basic":
		r := http.Request{Header: http.Header{}}
		r.SetBasicAuth(w.user, w.password)
		return r.Header.Get("Authorization"), nil
	case "bearer":
	default:
		return "", fmt.Errorf("challenge %q", w.challenge)
	}
	said := map[string]string{}
	for _, p := range parameter.FindAllStringSubmatch(rest, -1) {
		said[p[1]] = p[2]
	}
	realm, err := url.Parse(said["realm"])
	if err != nil || realm.Host != w.visit.site.host {
		return "", fmt.Errorf("the token's realm is %q, not on %s", said["realm"], w.visit.site.host)
	}
	query := realm.Query()
	query.Set("service", said["service"])
	for _, scope := range strings.Fields("repository:" + w.repository + ":" + actions) {
		query.Add("scope", scope)
	}
	realm.RawQuery = query.Encode()
	req, err := http.NewRequest(http.MethodGet, realm.String(), nil)
	if err != nil {
		return "", err
	}
	if w.user != "" {
		req.SetBasicAuth(w.user, w.password)
	}
	a, err := w.do(req)
	if err != nil {
		return "", err
	}
	var doc struct {
		Token       string
		AccessToken string `json:"access_token"`
	}
	if err := errors.Join(a.is(http.StatusOK), json.Unmarshal(a.body, &doc)); err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	if doc.Token == "" {
		doc.Token = doc.AccessToken
	}
	return "Bearer " + doc.Token, nil
}

// send sends one request, to a path or a whole URL.
func (w *wire) send(method, target string, body []byte, headers ...string) (answered, error) {
	if strings.HasPrefix(target, "/") {
		target = "http://" + w.visit.site.host + target
	}
	req, err := http.NewRequest(method, target, bytes.NewReader(body))
	if err != nil {
		return answered{}, err
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	return w.do(req)
}

func (w *wire) do(req *http.Request) (answered, error) {
	resp, err := w.client.Do(req)
	if err != nil {
		return answered{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answered{req.Method + " " + req.URL.Path, resp.StatusCode, resp.Header, body}, err
}

type answered struct {
	question string
	status   int
	header   http.Header
	body     []byte
}

// is an error unless the status is as wanted.
func (a answered) is(status int) error {
	if a.status != status {
		return fmt.Errorf("%s: %d %s, want %d", a.question, a.status, a.body, status)
	}
	return nil
}

// pushBlob pushes as docker does: HEAD, POST, one PATCH that streams, PUT.
func (w *wire) pushBlob(digest string) error {
	content, err := blob(w.visit.image, digest)
	if err != nil {
		return err
	}
	a, err := w.ask("push,pull", http.MethodHead, "/blobs/"+digest, nil)
	if err != nil || a.status == http.StatusOK {
		return err
	}
	if err := a.is(http.StatusNotFound); err != nil {
		return err
	}
	if a, err = w.ask("push,pull", http.MethodPost, "/blobs/uploads/", nil); err != nil {
		return err
	}
	location, err := w.location(a, http.StatusAccepted)
	if err != nil {
		return err
	}
	if a, err = w.ask("push,pull", http.MethodPatch, location, content, "Content-Type: application/octet-stream"); err != nil {
		return err
	}
	if location, err = w.location(a, http.StatusAccepted); err != nil {
		return err
	}
	done, err := url.Parse(location)
	if err != nil {
		return err
	}
	query := done.Query()
	query.Set("digest", digest)
	done.RawQuery = query.Encode()
	if a, err = w.ask("push,pull", http.MethodPut, done.String(), nil); err != nil {
		return err
	}
	return a.is(http.StatusCreated)
}

// location is where an answer says to go on: on the host that was asked, or the
// client would take its login elsewhere.
func (w *wire) location(a answered, status int) (string, error) {
	if err := a.is(status); err != nil {
		return "", err
	}
	base, err := url.Parse("http://" + w.visit.site.host)
	if err != nil {
		return "", err
	}
	to, err := base.Parse(a.header.Get("Location"))
	if err != nil || to.Host != base.Host || to.Scheme != base.Scheme {
		return "", fmt.Errorf("%s: Location %q is not on %s", a.question, a.header.Get("Location"), base)
	}
	return to.String(), nil
}

// pull reads the image by digest, then all its blobs, and compares.
func (w *wire) pull(v *visit, query string, accepts ...string) error {
	for _, part := range append([]string{v.imageDigest, v.config}, v.layers...) {
		kind := "/blobs/"
		if part == v.imageDigest {
			kind = "/manifests/"
		}
		a, err := w.ask("pull", http.MethodGet, kind+part+query, nil, accepts...)
		if err != nil {
			return err
		}
		if err := a.is(http.StatusOK); err != nil {
			return err
		}
		want, err := blob(v.image, part)
		if err != nil {
			return err
		}
		if !bytes.Equal(a.body, want) {
			return fmt.Errorf("%s was pulled with other bytes", part)
		}
	}
	return nil
}
