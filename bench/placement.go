package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/scittd/scittd/bench/site"
	"github.com/scittd/scittd/internal/testenv"
	"github.com/scittd/scittd/statement"
)

const (
	placementRate = 10 // registrations a second
	repository    = "bench/app"
	placedType    = "application/scitt-receipt+cose" // of the referrer that is waited for
	lookEvery     = 2 * time.Millisecond             // and at an external registry, which pays for it itself:
	lookOutside   = 50 * time.Millisecond
)

// placement measures the embedded registry, and one without the referrers API.
func (m *measurement) placement(ctx context.Context) (err error) {
	if err := m.placed(ctx, "", "embedded registry", 250); err != nil {
		return err
	}
	host, _, stop, err := testenv.LaunchRegistry("docker-registry", "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	return m.placed(ctx, host, "docker-registry, which lists by the tag schema", 2000)
}

// placed registers a claim about another image every tenth of a second, with
// a registry ("" is the embedded one), and waits until the image's referrers list
// its receipt. most is the goal, in milliseconds.
func (m *measurement) placed(ctx context.Context, registry, name string, most float64) (err error) {
	p, err := m.bench.startPlacing(ctx, m.scittd, registry)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, site.End(p.server)) }()
	count := max(10, int(float64(m.repeats)*m.window.Seconds()*placementRate))
	images := make([]string, count)
	if err := p.pushConfig(ctx); err != nil {
		return err
	}
	for n := range images {
		if images[n], err = p.pushImage(ctx, n); err != nil {
			return err
		}
	}
	took, errs := make([]time.Duration, count), make([]error, count)
	var waiting sync.WaitGroup
	tick := time.NewTicker(time.Second / placementRate)
	defer tick.Stop()
	for n := range images {
		waiting.Go(func() { took[n], errs[n] = p.place(ctx, n, images[n]) })
		<-tick.C
	}
	waiting.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	p50, p99 := quantile(took, 0.5), quantile(took, 0.99)
	m.printf("## Placement: %s, SQLite, %d registrations a second, %d in all\n\nFrom 201 until the receipt is listed: p50 %s, p99 %s.\n\n",
		name, placementRate, count, micros(p50), micros(p99))
	m.atMost("W3", p99.Seconds()*1000, most, 0, "p99 in ms from 201 to listed in the %s, %d registrations a second", name, placementRate)
	return nil
}

// placing is a scittd on SQLite.
type placing struct {
	server *exec.Cmd
	url    string
	images string // where the registry is: the same, or another URL
	token  string
	key    crypto.Signer // of issuer 0
}

// startPlacing starts one under the same policy.
func (b *bench) startPlacing(ctx context.Context, scittd, registry string) (*placing, error) {
	address, err := site.Address()
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(b.key)
	if err != nil {
		return nil, err
	}
	p := &placing{url: "http://" + address, images: "http://" + address, key: parsed.(crypto.Signer)}
	dir, external := filepath.Join(b.Dir, "placing"), ""
	if registry != "" {
		p.images, dir = "http://"+registry, dir+"-beside"
		external = fmt.Sprintf("registry: {host: %s, plain_http: true}\n", registry)
	}
	config := dir + ".yaml"
	err = os.WriteFile(config, fmt.Appendf(nil, `url: %s
listen: %s
data: {dir: %s}
keys: {operator: %s}
limits: {caller_rate: 0, address_rate: 0}
log: {level: error}
%s`, p.url, address, dir, filepath.Join(b.Dir, "operator.pem"), external), 0o600)
	if err != nil {
		return nil, err
	}
	if p.token, err = site.Init(ctx, scittd, config, filepath.Join(b.Dir, "policy.yaml")); err != nil {
		return nil, err
	}
	p.server, err = site.Serve(ctx, scittd, config, p.url)
	return p, err
}

// do sends one request about the repository and returns the answer to it.
func (p *placing) do(ctx context.Context, method, path, contentType string, body []byte, want int) (http.Header, []byte, error) {
	target := path
	switch {
	case strings.Contains(path, "/_scitt/"):
		target = p.url + path
	case strings.HasPrefix(path, "/"):
		target = p.images + path
	}
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	if strings.HasPrefix(target, p.url) {
		req.Header.Set("Authorization", "Bearer "+p.token)
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != want {
		err = fmt.Errorf("%s %s: %s %q", method, path, resp.Status, answer)
	}
	return resp.Header, answer, err
}

const emptyDigest = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a" // of {}

// pushConfig pushes the one blob that all images consist of.
func (p *placing) pushConfig(ctx context.Context) error {
	header, _, err := p.do(ctx, http.MethodPost, "/v2/"+repository+"/blobs/uploads/", "", nil, http.StatusAccepted)
	if err != nil {
		return err
	}
	location := header.Get("Location")
	if strings.Contains(location, "?") {
		location += "&"
	} else {
		location += "?"
	}
	_, _, err = p.do(ctx, http.MethodPut, location+"digest="+emptyDigest, "application/octet-stream", []byte("{}"), http.StatusCreated)
	return err
}

// pushImage pushes image n and returns its digest.
func (p *placing) pushImage(ctx context.Context, n int) (digest string, err error) {
	const manifestType = "application/vnd.oci.image.manifest.v1+json"
	manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":2},"layers":[],"annotations":{"n":"%d"}}`,
		manifestType, emptyDigest, n)
	digest = fmt.Sprintf("sha256:%x", sha256.Sum256(manifest))
	_, _, err = p.do(ctx, http.MethodPut, "/v2/"+repository+"/manifests/"+digest, manifestType, manifest, http.StatusCreated)
	return digest, err
}

// place registers claim n, about image, and returns how long after the answer
// its receipt was listed.
func (p *placing) place(ctx context.Context, n int, image string) (time.Duration, error) {
	signed, err := statement.Sign(statement.Template{
		Issuer: issuerName(0), Subject: "pkg:oci/app@" + image, ContentType: mediaTypeName(0), Payload: fmt.Appendf(nil, `{"n":%d}`, n),
	}, p.key)
	if err != nil {
		return 0, err
	}
	if _, _, err := p.do(ctx, http.MethodPost, "/v2/"+repository+"/_scitt/entries/register", "application/cose", signed, http.StatusCreated); err != nil {
		return 0, err
	}
	pause := lookEvery
	if p.images != p.url {
		pause = lookOutside
	}
	for begin := time.Now(); ; time.Sleep(pause) {
		listed, err := p.lists(ctx, image)
		if err != nil || listed {
			return time.Since(begin), err
		}
		if time.Since(begin) > time.Minute {
			return 0, fmt.Errorf("the receipt about %s is not listed after a minute", image)
		}
	}
}

// lists looks whether the referrers of image show a receipt: those of the API, or
// of the tag where there is none.
func (p *placing) lists(ctx context.Context, image string) (bool, error) {
	path := "/v2/" + repository + "/referrers/" + image
	if p.images != p.url {
		path = "/v2/" + repository + "/manifests/" + strings.Replace(image, ":", "-", 1)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.images+path, nil)
	if err != nil {
		return false, err
	}
	req.Header.Set("Accept", "application/vnd.oci.image.index.v1+json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	var index struct {
		Manifests []struct{ ArtifactType string }
	}
	answer, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return false, err
	case resp.StatusCode == http.StatusNotFound && p.images != p.url,
		resp.StatusCode == http.StatusInternalServerError && p.images != p.url:
		return false, nil // no tag yet, or one that is being written
	case resp.StatusCode != http.StatusOK:
		return false, fmt.Errorf("GET %s: %s %q", path, resp.Status, answer)
	case json.Unmarshal(answer, &index) != nil:
		return false, fmt.Errorf("GET %s: no list: %.200q", path, answer)
	}
	for _, d := range index.Manifests {
		if d.ArtifactType == placedType {
			return true, nil
		}
	}
	return false, nil
}
