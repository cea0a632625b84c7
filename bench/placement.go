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
	"github.com/scittd/scittd/statement"
)

const (
	placementRate = 10 // registrations a second
	repository    = "bench/app"
	placedType    = "application/scitt-receipt+cose" // of the referrer that is waited for
	lookEvery     = 2 * time.Millisecond
)

// placement registers a claim about another image every tenth of a second, with
// the embedded registry, and waits until the image's referrers list its receipt.
func (m *measurement) placement(ctx context.Context) (err error) {
	p, err := m.bench.startPlacing(ctx, m.scittd)
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
	m.printf("## Placement: embedded registry, SQLite, %d registrations a second, %d in all\n\nFrom 201 until the receipt is listed: p50 %s, p99 %s.\n\n",
		placementRate, count, micros(p50), micros(p99))
	m.atMost("W3", p99.Seconds()*1000, 250, 0, "p99 in ms from 201 to listed in the embedded registry, %d registrations a second", placementRate)
	return nil
}

// placing is a scittd of the embedded kind.
type placing struct {
	server *exec.Cmd
	url    string
	token  string
	key    crypto.Signer // of issuer 0
}

// startPlacing starts one under the same policy.
func (b *bench) startPlacing(ctx context.Context, scittd string) (*placing, error) {
	address, err := site.Address()
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(b.key)
	if err != nil {
		return nil, err
	}
	p := &placing{url: "http://" + address, key: parsed.(crypto.Signer)}
	config := filepath.Join(b.Dir, "placing.yaml")
	err = os.WriteFile(config, fmt.Appendf(nil, `url: %s
listen: %s
data: {dir: %s}
keys: {operator: %s}
limits: {caller_rate: 0, address_rate: 0}
log: {level: error}
`, p.url, address, filepath.Join(b.Dir, "placing"), filepath.Join(b.Dir, "operator.pem")), 0o600)
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
	if strings.HasPrefix(path, "/") {
		target = p.url + path
	}
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+p.token)
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
	for begin := time.Now(); ; time.Sleep(lookEvery) {
		_, answer, err := p.do(ctx, http.MethodGet, "/v2/"+repository+"/referrers/"+image, "", nil, http.StatusOK)
		if err != nil {
			return 0, err
		}
		var index struct {
			Manifests []struct{ ArtifactType string }
		}
		if err := json.Unmarshal(answer, &index); err != nil {
			return 0, err
		}
		for _, d := range index.Manifests {
			if d.ArtifactType == placedType {
				return time.Since(begin), nil
			}
		}
		if time.Since(begin) > time.Minute {
			return 0, fmt.Errorf("the receipt about %s is not listed after a minute", image)
		}
	}
}
