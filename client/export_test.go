package client

import (
	"context"
	"time"
)

// Sleeping replaces how c waits.
func (c *Client) Sleeping(sleep func(context.Context, time.Duration) error) { c.sleep = sleep }
