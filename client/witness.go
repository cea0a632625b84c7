package client

import (
	"context"
	"fmt"
	"strings"

	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
	"github.com/scittd/scittd/witness"
)

// Checkpoint fetches the checkpoint that the log publishes, unverified: cosigned
// where it has witnesses.
func (c *Client) Checkpoint(ctx context.Context) ([]byte, error) {
	return c.get(ctx, "/log/checkpoint", "text/plain")
}

// ReceiptAt fetches the receipt of an entry under the signed head of that size,
// unverified.
func (c *Client) ReceiptAt(ctx context.Context, id statement.ID, size uint64) ([]byte, error) {
	return c.get(ctx, fmt.Sprintf("/log/inclusion/%s?size=%d", id, size), "application/cose")
}

// Witnessed is what shows that statements are in a tree that witnesses have
// cosigned: a Checkpoint, which names a log and a quorum of the witnesses that
// Policy trusts have signed, and for each statement an inclusion proof that leads
// to its root. Nothing else is believed, the service least of all.
type Witnessed struct {
	Policy     *witness.Policy
	Least      int // cosignatures by witnesses of Policy, besides its quorum
	Checkpoint []byte
	Receipts   map[statement.ID][]byte // under the Checkpoint's size; none for what is not in its tree
}

// check judges one statement.
func (w *Witnessed) check(id statement.ID) Check {
	const name = "witnesses"
	cp, err := w.Policy.Open(w.Checkpoint, nil)
	if err != nil {
		return failed(name, FailUntrusted, err.Error())
	}
	if n := len(cp.Witnesses); n < w.Least {
		return failed(name, FailUnmet, fmt.Sprintf("the checkpoint of size %d has too few cosignatures", cp.Size)).
			against(fmt.Sprintf("at least %d", w.Least), fmt.Sprint(n))
	}
	raw := w.Receipts[id]
	if raw == nil {
		return failed(name, FailUnmet, fmt.Sprintf("not in the cosigned tree of size %d of %s", cp.Size, cp.Origin))
	}
	r, err := receipts.Parse(raw)
	if err != nil {
		return failed(name, FailInvalid, err.Error())
	}
	root, err := r.Root(id[:])
	switch {
	case err != nil:
		return failed(name, FailInvalid, err.Error())
	case r.Proofs[0].TreeSize != cp.Size || root != cp.Root:
		return failed(name, FailInvalid, fmt.Sprintf("the proof does not lead to the cosigned root of size %d", cp.Size))
	}
	return ok(name, fmt.Sprintf("in the tree of size %d of %s, cosigned by %s", cp.Size, cp.Origin, strings.Join(cp.Witnesses, ", ")))
}
