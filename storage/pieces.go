package storage

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// mostInMemory bounds a piece, whatever the registry asks for: it is kept in
// memory, so that it can be sent again.
const mostInMemory = 64 << 20

// uploadInPieces pushes a blob as several requests, for proxies that bound the
// body of one. oras-go only knows one.
//
// SPEC OCI distribution 1.1, pushing a blob in chunks: chunks MUST be uploaded
// in order, each with Content-Range; only the last may be smaller than
// OCI-Chunk-Min-Length; each next one goes to the Location of the last answer.
func (r *repository) uploadInPieces(ctx context.Context, dig digest.Digest, size int64, piece int, body io.Reader) error {
	ctx = auth.AppendRepositoryScope(ctx, r.ref, auth.ActionPull, auth.ActionPush)
	at := r.url("blobs/uploads/")
	resp, err := r.exchange(ctx, http.MethodPost, at, nil, nil, http.StatusAccepted)
	if err != nil {
		return err
	}
	if least, err := strconv.Atoi(resp.Header.Get("OCI-Chunk-Min-Length")); err == nil && least > piece {
		piece = min(least, mostInMemory)
	}
	buffer := make([]byte, piece)
	for sent := int64(0); sent < size; {
		if at, err = next(resp); err != nil {
			return err
		}
		n, err := io.ReadFull(body, buffer[:min(int64(piece), size-sent)])
		if err != nil {
			return &sourceError{fmt.Errorf("read it: %w", err)}
		}
		header := http.Header{"Content-Type": {"application/octet-stream"}, "Content-Range": {fmt.Sprintf("%d-%d", sent, sent+int64(n)-1)}}
		if resp, err = r.exchange(ctx, http.MethodPatch, at, header, buffer[:n], http.StatusAccepted); err != nil {
			return err
		}
		sent += int64(n)
	}
	if at, err = next(resp); err != nil {
		return err
	}
	query := "digest=" + url.QueryEscape(dig.String())
	if at.RawQuery != "" { // the session's own, byte for byte
		query = at.RawQuery + "&" + query
	}
	at.RawQuery = query
	_, err = r.exchange(ctx, http.MethodPut, at, http.Header{"Content-Type": {"application/octet-stream"}}, nil, http.StatusCreated)
	return err
}

// url of something in the repository.
func (r *repository) url(path string) *url.URL {
	scheme := "https"
	if r.remote.plain {
		scheme = "http"
	}
	return &url.URL{Scheme: scheme, Host: r.ref.Host(), Path: "/v2/" + r.name() + "/" + path}
}

// next is where the upload goes on.
func next(resp *http.Response) (*url.URL, error) {
	location, err := resp.Location()
	if err != nil {
		return nil, fmt.Errorf("the registry does not say where to go on: %w", err)
	}
	return location, nil
}

// exchange sends one small request and returns the answer without its body. A
// status other than want is an error.
func (r *repository) exchange(ctx context.Context, method string, to *url.URL, header http.Header, body []byte, want int) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, to.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for name, values := range header {
		req.Header[name] = values
	}
	resp, err := r.remote.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != want {
		return nil, answered(resp)
	}
	return resp, nil
}

// answered is a refusal in oras-go's terms, so that there is one way to read
// them.
func answered(resp *http.Response) error {
	refused := &errcode.ErrorResponse{Method: resp.Request.Method, URL: resp.Request.URL, StatusCode: resp.StatusCode}
	refused.Errors = registryErrors(resp.Body)
	return refused
}
