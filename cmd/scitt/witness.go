package main

import (
	"context"
	"os"

	"github.com/scittd/scittd/client"
	"github.com/scittd/scittd/statement"
	"github.com/scittd/scittd/witness"
)

// checkWitnesses refuses flags that cannot go together, before anything is asked.
func (v verification) checkWitnesses() error {
	switch {
	case v.witnesses == "" && v.minWitnesses != 0:
		return usage("--min-witnesses counts those of --witnesses FILE")
	case v.witnesses != "" && v.offline:
		return usage("--witnesses asks the service for its cosigned checkpoint, which --offline forbids")
	case v.minWitnesses < 0:
		return usage("--min-witnesses %d is below 0", v.minWitnesses)
	}
	return nil
}

// witnessed fetches what shows that the claims are in a cosigned tree; nil when
// nobody asks. What does not hold, or is not there, the verdict on each claim says.
func (a *app) witnessed(ctx context.Context, v verification, about subject, claims []claim) (*client.Witnessed, error) {
	if v.witnesses == "" {
		return nil, nil
	}
	text, err := os.ReadFile(v.witnesses)
	if err != nil {
		return nil, usage("--witnesses: %w", err)
	}
	w := &client.Witnessed{Least: v.minWitnesses, Receipts: map[statement.ID][]byte{}}
	if w.Policy, err = witness.ParsePolicy(text); err != nil {
		return nil, usage("--witnesses %s: %w", v.witnesses, err)
	}
	service, err := a.serviceFor(ctx, about)
	if err != nil {
		return nil, err
	}
	if w.Checkpoint, err = service.Checkpoint(ctx); err != nil {
		return nil, err
	}
	cp, err := w.Policy.Open(w.Checkpoint, nil)
	if err != nil {
		return w, nil
	}
	for _, c := range claims {
		s, err := statement.Parse(c.raw)
		if err != nil {
			continue
		}
		receipt, err := service.ReceiptAt(ctx, s.ID(), cp.Size)
		if client.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		w.Receipts[s.ID()] = receipt
	}
	return w, nil
}
