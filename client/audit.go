package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/statement"
)

// Heads fetches signed heads of a size above after, smallest first, as many as a
// page has, unverified; none when there are none.
func (c *Client) Heads(ctx context.Context, after uint64) ([]apitype.Head, error) {
	var page apitype.HeadList
	err := c.json(ctx, fmt.Sprintf("/log/heads?after=%d&limit=500", after), &page)
	return page.Heads, err
}

// Statements fetches a page of the log from an index on, at most limit (up to
// 500) leaves and as many bytes as the service sends at once: a CBOR sequence of
// [index, bytes or null], unverified. It is empty where the log ends.
func (c *Client) Statements(ctx context.Context, from uint64, limit int) ([]byte, error) {
	return c.sequence(ctx, "/v1/statements", from, limit)
}

// Decisions fetches what was decided about the entries from an index on, with
// its collateral, likewise: a CBOR sequence, unverified.
func (c *Client) Decisions(ctx context.Context, from uint64, limit int) ([]byte, error) {
	return c.sequence(ctx, "/v1/decisions", from, limit)
}

func (c *Client) sequence(ctx context.Context, path string, from uint64, limit int) ([]byte, error) {
	path = fmt.Sprintf("%s?from=%d&limit=%d", path, from, limit)
	answer, err := c.do(ctx, request{method: http.MethodGet, path: path, header: http.Header{"Accept": {sequenceType}}})
	switch {
	case err != nil:
		return nil, err
	case answer.status != http.StatusOK:
		return nil, c.unexpected(answer)
	case answer.mediaType != sequenceType:
		return nil, fmt.Errorf("GET %s%s: the answer is %q, not %s", c.base, path, answer.mediaType, sequenceType)
	}
	return answer.body, nil
}

// maxEvidence bounds what Evidence reads, in bytes: as much as the largest envelope
// has whose signer is ever judged.
const maxEvidence = 32 << 20

// ErrTooLarge: there is more of something than is read.
var ErrTooLarge = errors.New("larger than what is read")

// Evidence fetches the bytes that an entry speaks for, up to 32 MiB and
// unverified: compare their digest. Where the service sends the caller on, to a
// registry, it goes there once, without the token. A *Problem says why there are
// none; ErrTooLarge.
func (c *Client) Evidence(ctx context.Context, id statement.ID) ([]byte, error) {
	req, err := c.newRequest(ctx, request{method: http.MethodGet, path: entryPath(id, "evidence")})
	if err != nil {
		return nil, err
	}
	resp, err := c.o.Transport.RoundTrip(req)
	if err == nil && resp.StatusCode == http.StatusTemporaryRedirect {
		elsewhere, bad := resp.Location()
		resp.Body.Close()
		if bad != nil {
			return nil, fmt.Errorf("GET %s: %w", req.URL, bad)
		}
		if req, err = http.NewRequestWithContext(ctx, http.MethodGet, elsewhere.String(), nil); err != nil {
			return nil, err
		}
		resp, err = c.o.Transport.RoundTrip(req)
	}
	if err != nil {
		return nil, fmt.Errorf("GET %s: %w", req.URL, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, c.unexpected(answer{status: resp.StatusCode})
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxEvidence+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("GET %s: %w", req.URL, err)
	case len(body) > maxEvidence:
		return nil, fmt.Errorf("GET %s: %w: %d bytes", req.URL, ErrTooLarge, maxEvidence)
	}
	return body, nil
}
