package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/scittd/scittd/statement"
)

// Registration is a registered statement, or one on its way.
type Registration struct {
	EntryID statement.ID
	Receipt []byte // an encoded Receipt, not verified yet; nil while Pending
	URL     string // of the Receipt resource

	// Pending: the service has not finished. Ask for the Receipt later; where
	// it is then not found, submit again.
	Pending bool

	retryAfter time.Duration
}

// Submit asks once for the registration of one encoded Signed Statement, and
// returns whatever stands then: its receipt, or that it is pending. repository,
// when not empty, asks for placement in that repository of the service's
// registry. A *Problem says why it was refused.
// Source: draft-ietf-scitt-scrapi-11 §2.3.
func (c *Client) Submit(ctx context.Context, signed []byte, repository string) (Registration, error) {
	return c.SubmitBeside(ctx, signed, Beside{Repository: repository})
}

// Beside is what goes with a statement and is not in it.
type Beside struct {
	Repository string           // where to place the claim; "": the service's policy says
	Image      statement.Digest // in it, where the statement names no artifact; "": nowhere then
	Evidence   statement.Digest // staged before: the payload of a detached statement; "" for all others
}

// path is path, or that of the module of b's repository, with what else there is
// to say.
func (b Beside) path(path, module string) string {
	query := url.Values{}
	if b.Repository != "" {
		path = "/v2/" + b.Repository + "/_scitt/entries/" + module
		if b.Image != "" {
			query.Set("subject", string(b.Image))
		}
	}
	if b.Evidence != "" {
		query.Set("evidence", string(b.Evidence))
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return path
}

// SubmitBeside is Submit for a statement that something goes with.
func (c *Client) SubmitBeside(ctx context.Context, signed []byte, with Beside) (Registration, error) {
	reg, err := c.registration(signed)
	if err != nil {
		return reg, err
	}
	path := with.path("/entries", "register")
	answer, err := c.do(ctx, request{method: http.MethodPost, path: path, body: signed,
		header: http.Header{"Content-Type": {"application/cose"}, "Accept": {"application/cose"}}})
	switch {
	case err != nil:
		return reg, err
	case answer.status == http.StatusCreated:
		reg.Receipt = answer.body
		return reg, nil
	case answer.status == http.StatusAccepted:
		reg.Pending, reg.retryAfter = true, answer.retryAfter
		return reg, nil
	}
	return reg, c.unexpected(answer)
}

// KeepIndex tells the service which images an image index lists, so that claims
// about it are found for them; it compares the digest. A *Problem says why it
// does not keep it.
func (c *Client) KeepIndex(ctx context.Context, digest statement.Digest, index []byte) error {
	answer, err := c.do(ctx, request{method: http.MethodPut, path: "/v1/indexes/" + string(digest), body: index})
	if err == nil && answer.status != http.StatusNoContent {
		err = c.unexpected(answer)
	}
	return err
}

// registration is what is known of one before it is asked for.
func (c *Client) registration(signed []byte) (Registration, error) {
	s, err := statement.Parse(signed)
	if err != nil {
		return Registration{}, fmt.Errorf("not a Signed Statement: %w", err)
	}
	return Registration{EntryID: s.ID(), URL: c.base + "/entries/" + s.ID().String()}, nil
}

// Register is Submit that waits for the receipt until ctx ends.
//
// SPEC draft-ietf-scitt-scrapi-11 §2.4: after a 202 the Receipt resource answers
// 204 until it is there. Pending is the memory of one replica: where it is then
// not found, the statement is submitted again.
func (c *Client) Register(ctx context.Context, signed []byte, repository string) (Registration, error) {
	return c.RegisterBeside(ctx, signed, Beside{Repository: repository})
}

// RegisterBeside is Register for a statement that something goes with.
func (c *Client) RegisterBeside(ctx context.Context, signed []byte, with Beside) (Registration, error) {
	for {
		reg, err := c.SubmitBeside(ctx, signed, with)
		if err != nil || !reg.Pending {
			return reg, err
		}
		reg.Receipt, err = c.await(ctx, reg)
		if !forgotten(err) {
			reg.Pending = err != nil
			return reg, err
		}
	}
}

// await polls the receipt of a pending registration.
func (c *Client) await(ctx context.Context, reg Registration) ([]byte, error) {
	for wait := reg.retryAfter; ; {
		if err := c.sleep(ctx, max(wait, 100*time.Millisecond)); err != nil {
			return nil, err
		}
		answer, err := c.do(ctx, request{method: http.MethodGet, path: "/entries/" + reg.EntryID.String(),
			header: http.Header{"Accept": {"application/cose"}}})
		switch {
		case err != nil:
			return nil, err
		case answer.status == http.StatusOK:
			return answer.body, nil
		case answer.status != http.StatusNoContent:
			return nil, c.unexpected(answer)
		}
		wait = answer.retryAfter
	}
}

// forgotten: a pending registration that the service knows nothing of any more,
// which is not one that failed.
func forgotten(err error) bool {
	p := (*Problem)(nil)
	return errors.As(err, &p) && p.Status == http.StatusNotFound && p.Title != "Registration Failed"
}

// StageEvidence uploads evidence for a hash envelope or a detached statement that
// is registered within a day. open is called once per try.
func (c *Client) StageEvidence(ctx context.Context, digest statement.Digest, size int64, open func() (io.ReadCloser, error)) error {
	answer, err := c.do(ctx, request{method: http.MethodPut, path: "/v1/evidence/" + string(digest), open: open, size: size,
		header: http.Header{"Content-Type": {"application/octet-stream"}}})
	if err != nil {
		return err
	}
	if answer.status != http.StatusOK && answer.status != http.StatusCreated {
		return c.unexpected(answer)
	}
	return nil
}
