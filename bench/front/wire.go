package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
)

const manifestType = "application/vnd.oci.image.manifest.v1+json"

// door is a way to a registry.
type door struct {
	url    string
	token  string // "": nobody is asked
	client *http.Client
}

func newDoor(url, token string) *door {
	return &door{url, token, &http.Client{Transport: &http.Transport{DisableCompression: true, ReadBufferSize: 64 << 10}}}
}

// ask sends a request, to a path or a URL. The caller closes the answer, which has
// the wanted status.
func (d *door) ask(ctx context.Context, method, target string, body io.Reader, size int64, want int, headers ...string) (*http.Response, error) {
	base, err := url.Parse(d.url)
	if err != nil {
		return nil, err
	}
	u, err := base.Parse(target)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	req.ContentLength = size
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	if d.token != "" {
		req.Header.Set("Authorization", "Bearer "+d.token)
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != want {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return nil, fmt.Errorf("%s %s: %s %q", method, target, resp.Status, text)
	}
	return resp, nil
}

// send sends a request whose answer is of no further interest, and returns its
// Location.
func (d *door) send(ctx context.Context, method, target string, body io.Reader, size int64, want int, headers ...string) (string, error) {
	resp, err := d.ask(ctx, method, target, body, size, want, headers...)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.Header.Get("Location"), err
}

// noise is a blob: the same bytes for the same seed.
func noise(seed uint64, size int) io.Reader {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	return io.LimitReader(rand.NewChaCha8(key), int64(size))
}

// pushNoise pushes a blob and returns its digest.
func (d *door) pushNoise(ctx context.Context, seed uint64, size int) (digest string, err error) {
	sum := sha256.New()
	err = d.push(ctx, io.TeeReader(noise(seed, size), sum), size, func() string { digest = digestOf(sum); return digest })
	return digest, err
}

// push pushes a blob as docker does: POST, one PATCH that streams, PUT. digest is
// asked for when all has been read.
func (d *door) push(ctx context.Context, content io.Reader, size int, digest func() string) error {
	location, err := d.send(ctx, http.MethodPost, "/v2/"+repository+"/blobs/uploads/", nil, 0, http.StatusAccepted)
	if err != nil {
		return err
	}
	location, err = d.send(ctx, http.MethodPatch, location, content, int64(size), http.StatusAccepted, "Content-Type: application/octet-stream")
	if err != nil {
		return err
	}
	u, err := url.Parse(location)
	if err != nil {
		return err
	}
	query := u.Query()
	query.Set("digest", digest())
	u.RawQuery = query.Encode()
	_, err = d.send(ctx, http.MethodPut, u.String(), nil, 0, http.StatusCreated)
	return err
}

// pushManifest pushes an image by tag or digest, and returns its digest.
func (d *door) pushManifest(ctx context.Context, reference string, manifest []byte) (string, error) {
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(manifest))
	if reference == "" {
		reference = digest
	}
	_, err := d.send(ctx, http.MethodPut, "/v2/"+repository+"/manifests/"+reference, bytes.NewReader(manifest), int64(len(manifest)), http.StatusCreated, "Content-Type: "+manifestType)
	return digest, err
}

// blob reads one blob into w and compares its digest, which is the least that any
// client does. It is copied through buffer.
func (d *door) blob(ctx context.Context, w io.Writer, buffer []byte, digest string) error {
	resp, err := d.ask(ctx, http.MethodGet, "/v2/"+repository+"/blobs/"+digest, nil, 0, http.StatusOK)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	sum := sha256.New()
	if _, err := io.CopyBuffer(io.MultiWriter(sum, w), struct{ io.Reader }{resp.Body}, buffer); err != nil {
		return err
	}
	if got := digestOf(sum); got != digest {
		return fmt.Errorf("pulled %s, got %s", digest, got)
	}
	return nil
}

// manifest reads the image's manifest by its tag.
func (d *door) manifest(ctx context.Context) error {
	_, err := d.send(ctx, http.MethodGet, "/v2/"+repository+"/manifests/v1", nil, 0, http.StatusOK, "Accept: "+manifestType)
	return err
}

func digestOf(h hash.Hash) string { return fmt.Sprintf("sha256:%x", h.Sum(nil)) }
