package client

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/statement"
)

// Policy fetches the registration policy in force.
func (c *Client) Policy(ctx context.Context) (apitype.Policy, error) {
	var p apitype.Policy
	return p, c.json(ctx, "/v1/policy", &p)
}

// PolicyOf fetches the policy that an entry carries, whether or not it is in force.
func (c *Client) PolicyOf(ctx context.Context, id statement.ID) (apitype.Policy, error) {
	var p apitype.Policy
	if err := c.json(ctx, "/v1/policy?entry="+id.String(), &p); err != nil {
		return p, err
	}
	if p.Entry != id.String() {
		return p, fmt.Errorf("%s answered policy %q instead of %s", c.base, p.Entry, id)
	}
	return p, nil
}

// Refusals fetches how often which rule refused whom, the most frequent first: at
// most limit, of those since then; the zero time: of all.
func (c *Client) Refusals(ctx context.Context, since time.Time, limit int) (apitype.RefusalCounts, error) {
	query := url.Values{"limit": {strconv.Itoa(limit)}}
	if !since.IsZero() {
		query.Set("since", since.UTC().Format(time.RFC3339))
	}
	var list apitype.RefusalCounts
	return list, c.json(ctx, "/v1/policy/refusals?"+query.Encode(), &list)
}
