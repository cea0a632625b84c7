package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/scittd/scittd/api/apitype"
)

// Validate asks what registering a statement would decide; nothing is changed.
// A refusal is no error here, only what is no Signed Statement at all is one.
func (c *Client) Validate(ctx context.Context, signed []byte, with Beside) (apitype.Judged, error) {
	var judged apitype.Judged
	path := with.path("/v1/entries:validate", "validate")
	err := c.ask(ctx, request{method: http.MethodPost, path: path, body: signed,
		header: http.Header{"Content-Type": {"application/cose"}, "Accept": {"application/json"}}}, &judged)
	return judged, err
}

// Check asks whether an artifact has the claims that are required.
func (c *Client) Check(ctx context.Context, asked apitype.Check) (apitype.Checked, error) {
	var checked apitype.Checked
	body, err := json.Marshal(asked)
	if err != nil {
		return checked, err
	}
	err = c.ask(ctx, request{method: http.MethodPost, path: "/v1/check", body: body,
		header: http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json"}}}, &checked)
	return checked, err
}

// ask sends r and reads a JSON answer.
func (c *Client) ask(ctx context.Context, r request, into any) error {
	answer, err := c.do(ctx, r)
	switch {
	case err != nil:
		return err
	case answer.status != http.StatusOK:
		return c.unexpected(answer)
	}
	if err := json.Unmarshal(answer.body, into); err != nil {
		return fmt.Errorf("%s %s%s: %w", r.method, c.base, r.path, err)
	}
	return nil
}
