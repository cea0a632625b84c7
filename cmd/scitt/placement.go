package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/client"
	"github.com/scittd/scittd/statement"
)

// awaitPlacement reads the deliveries of an entry; until none is queued, when
// they are to be placed.
func awaitPlacement(ctx context.Context, service *client.Client, id statement.ID, placed bool) ([]apitype.Delivery, error) {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		deliveries, err := service.Deliveries(ctx, id)
		if err != nil {
			return nil, timedOut(ctx, err, id)
		}
		if !placed || count(deliveries, "queued") == 0 {
			return deliveries, nil
		}
		if err := pause(ctx, wait); err != nil {
			return nil, notPlaced(timedOut(ctx, err, id), deliveries)
		}
	}
}

// notPlaced adds what keeps deliveries in the queue.
func notPlaced(err error, deliveries []apitype.Delivery) error {
	f := (*failure)(nil)
	if !errors.As(err, &f) {
		return err
	}
	for _, d := range deliveries {
		if d.State == "queued" && d.LastError != "" {
			f = f.line("Queued", "%s: %s", d.Artifact, d.LastError)
		}
	}
	return f
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func count(deliveries []apitype.Delivery, state string) int {
	n := 0
	for _, d := range deliveries {
		if d.State == state {
			n++
		}
	}
	return n
}

func placementText(w io.Writer, deliveries []apitype.Delivery) {
	if len(deliveries) == 0 {
		fmt.Fprintln(w, "Placement   none: the claim is only in the ledger")
	}
	for _, d := range deliveries {
		what := d.Manifest
		switch {
		case d.State == "queued" && d.LastError == "":
			what = "queued"
		case d.State == "queued":
			what = fmt.Sprintf("queued, try %d: %s", d.Tries, d.LastError)
		case d.State != "done":
			what = d.State + ": " + d.LastError
		}
		fmt.Fprintf(w, "Placement   %s\n", clean(fmt.Sprintf("%-12s  %s/%s  %s", d.Artifact, d.Registry, d.Repository, what)))
	}
}
