package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"time"

	"github.com/scittd/scittd/internal/detcbor"
)

// What goes into one request: well below what the service takes, so that
// progress shows and a lost answer costs little.
const (
	bulkItems = 100
	bulkSize  = 4 << 20
)

const sequenceType = "application/cbor-seq"

// SubmitAll submits many encoded Signed Statements, a hundred to a request, and
// calls done once for each, in their order, with what Submit would have
// returned; n counts them from 0. What one is refused for concerns none of the
// others. It holds no more of them at a time than one request takes.
//
// What the service was too busy for is sent again, as a whole request would be.
// When a request fails as such, so does everything behind it, unsent. A service
// that has no bulk registration is asked for one after the other.
func (c *Client) SubmitAll(ctx context.Context, signed iter.Seq[[]byte], done func(n int, r Registration, err error)) {
	c.all(ctx, signed, &bulk{Client: c, one: c.Submit}, done)
}

// RegisterAll is SubmitAll that waits for the receipts until ctx ends, as
// Register does.
func (c *Client) RegisterAll(ctx context.Context, signed iter.Seq[[]byte], done func(n int, r Registration, err error)) {
	c.all(ctx, signed, &bulk{Client: c, one: c.Register, wait: true}, done)
}

func (c *Client) all(ctx context.Context, signed iter.Seq[[]byte], b *bulk, done func(n int, r Registration, err error)) {
	b.size = bulkItems
	n := 0
	send := func(batch []*bulkItem) {
		b.register(ctx, batch)
		for _, i := range batch {
			done(n, i.reg, i.err)
			n++
		}
	}
	var batch []*bulkItem
	size := 0
	for s := range signed {
		if len(batch) == bulkItems || size+len(s) > bulkSize {
			send(batch)
			batch, size = nil, 0
		}
		batch, size = append(batch, &bulkItem{signed: s}), size+len(s)
	}
	send(batch)
}

// bulkItem is one statement, and what became of it so far.
type bulkItem struct {
	signed []byte
	reg    Registration
	err    error
}

// bulk registers one batch after the other, and remembers what it learns of the
// service on the way.
type bulk struct {
	*Client
	one  func(ctx context.Context, signed []byte, repository string) (Registration, error)
	wait bool // for the receipts of what is pending

	size   int   // statements of one request
	single bool  // there is no bulk registration
	broken error // of a request as such: the next would fail, too
}

// register sends batch until each of it has its outcome.
func (b *bulk) register(ctx context.Context, batch []*bulkItem) {
	var open []*bulkItem
	for _, i := range batch {
		if i.reg, i.err = b.registration(i.signed); i.err == nil {
			open = append(open, i)
		}
	}
	for try := 1; len(open) > 0; {
		if b.single || b.broken != nil {
			b.alone(ctx, open)
			break
		}
		part := open[:min(b.size, len(open))]
		outcomes, after, err := b.post(ctx, part)
		p := (*Problem)(nil)
		switch {
		case err == nil:
		case !errors.As(err, &p):
			b.broken = err
			continue
		case p.Status == http.StatusNotFound, p.Status == http.StatusMethodNotAllowed, p.Status == http.StatusNotImplemented:
			b.single = true
			continue
		case p.Status == http.StatusRequestEntityTooLarge: // what stands before the service takes less than it
			if b.size = max(1, len(part)/2); len(part) == 1 {
				part[0].err, open = err, open[1:]
			}
			continue
		default:
			b.broken = err
			continue
		}
		left, busy := b.take(part, outcomes, after, try == maxTries)
		open = append(left, open[len(part):]...)
		if busy {
			errors.As(left[0].err, &p)
			if !b.again(ctx, try, after, p) {
				b.broken = left[0].err
			}
			try++
		}
	}
	for _, i := range batch {
		if i.reg.Pending && i.err == nil && b.wait {
			b.settle(ctx, i)
		}
	}
}

// alone registers open one by one, or not at all when that would not help.
func (b *bulk) alone(ctx context.Context, open []*bulkItem) {
	for _, i := range open {
		if i.err = b.broken; i.err == nil {
			i.reg, i.err = b.one(ctx, i.signed, "")
		}
	}
}

// settle waits for the receipt of what is pending.
func (b *bulk) settle(ctx context.Context, i *bulkItem) {
	if i.reg.Receipt, i.err = b.await(ctx, i.reg); forgotten(i.err) {
		i.reg, i.err = b.one(ctx, i.signed, "")
		return
	}
	i.reg.Pending = i.err != nil
}

// take gives the items of part their outcomes. left are those to be sent again:
// what the service was too busy for, unless this was the last try, and what it
// did not come to because the answer ended early.
func (b *bulk) take(part []*bulkItem, outcomes []outcome, after time.Duration, last bool) (left []*bulkItem, busy bool) {
	early := len(outcomes) < len(part)
	for n, o := range outcomes {
		i := part[n]
		i.err = nil
		switch o.status {
		case http.StatusCreated:
			i.reg.Receipt = o.content
			continue
		case http.StatusAccepted:
			i.reg.Pending, i.reg.retryAfter = true, after
			continue
		}
		a := answer{o.status, conciseType, o.content, after}
		i.err = b.unexpected(a)
		switch {
		case a.temporary() && !last:
			left, busy = append(left, i), true
		case early && n == len(outcomes)-1 && n > 0:
			left = append(left, i) // it may be about the request so far, and not about i
		}
	}
	for _, i := range part[len(outcomes):] {
		i.err = part[len(outcomes)-1].err
		left = append(left, i)
	}
	return left, busy
}

// outcome is one item of the answer.
type outcome struct {
	status  int
	content []byte // a receipt, nothing, or concise problem details
}

// post sends part in one request. The answer has at least one outcome, and one
// for each unless it ended early.
func (b *bulk) post(ctx context.Context, part []*bulkItem) (outcomes []outcome, after time.Duration, err error) {
	var body bytes.Buffer
	for _, i := range part {
		body.Write(i.signed)
	}
	const path = "/v1/entries:batch"
	answer, err := b.do(ctx, request{method: http.MethodPost, path: path, body: body.Bytes(),
		header: http.Header{"Content-Type": {sequenceType}, "Accept": {sequenceType}}})
	switch {
	case err != nil:
		return nil, 0, err
	case answer.status != http.StatusOK:
		return nil, 0, b.unexpected(answer)
	case answer.mediaType != sequenceType:
		return nil, 0, fmt.Errorf("POST %s%s: the answer is %q, not %s", b.base, path, answer.mediaType, sequenceType)
	}
	outcomes, err = readOutcomes(answer.body)
	if err == nil && (len(outcomes) == 0 || len(outcomes) > len(part)) {
		err = fmt.Errorf("%d outcomes for %d statements", len(outcomes), len(part))
	}
	if err != nil {
		return nil, 0, fmt.Errorf("POST %s%s: %w", b.base, path, err)
	}
	return outcomes, answer.retryAfter, nil
}

// readOutcomes reads a sequence of [n, status, bstr], with n from 0.
func readOutcomes(body []byte) ([]outcome, error) {
	var all []outcome
	for sequence := detcbor.NewSequence(bytes.NewReader(body), len(body)); ; {
		raw, err := sequence.Next()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("the answer is broken: %w", err)
		}
		r := detcbor.NewReader(raw)
		size, arrayErr := r.Array()
		n, placeErr := r.Int()
		status, statusErr := r.Int()
		content, contentErr := r.Bytes()
		if err := errors.Join(arrayErr, placeErr, statusErr, contentErr, r.End()); err != nil || size != 3 {
			return nil, fmt.Errorf("outcome %d is not [n, status, bytes]", len(all))
		}
		if n != int64(len(all)) || status < 200 || status > 599 {
			return nil, fmt.Errorf("outcome %d says that it is number %d with status %d", len(all), n, status)
		}
		all = append(all, outcome{int(status), content})
	}
}
