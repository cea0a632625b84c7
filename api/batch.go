package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"sync"
	"time"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/internal/detcbor"
	"github.com/scittd/scittd/ledger"
)

const (
	sequenceType = "application/cbor-seq"

	maxBatchItems = 1000
	maxBatchSize  = 16 << 20

	// batchRoom is how many bytes of statements all batches together may have
	// under way, each counting for at least leastRoom: so at most 512 of them,
	// which fills the ledger's commits and leaves its queue, and the patience of
	// who sends one statement, for others.
	batchRoom = 32 << 20
	leastRoom = batchRoom / 512

	// maxCrowd is how many bytes of batches may wait for room before others are
	// turned away: they take turns, one statement each, so that the last to come
	// waits for all of them. Who only sends slowly is not in the crowd.
	maxCrowd = 8 << 20
)

// registerBatch registers each Signed Statement of a CBOR sequence, as if it
// had come alone: in parallel, from the moment it has arrived. What becomes of
// one touches none of the others, and nothing is undone. The answer has an item
// for each, in order: [n, status, bstr] with n from 0 and in bstr the receipt
// (201), nothing (202) or concise problem details. A body that breaks off, goes
// on with no CBOR, or exceeds a limit ends the answer with the problem of that;
// what came before it stands, what comes behind it was not looked at.
//
// Retry-After tells when to send again what is still open: the items with 202,
// 429 and 503.
func (a *API) registerBatch(w http.ResponseWriter, r *http.Request, c Caller) error {
	if err := acceptSequence(r.Header); err != nil {
		return err
	}
	if r.ContentLength > maxBatchSize {
		return batchTooLarge(fmt.Sprintf("%d bytes", maxBatchSize))
	}
	crowded := &fault{code: "overloaded", detail: "As many batches as the service takes at once are under way."}
	if a.crowd.Load() >= maxCrowd {
		return crowded
	}
	leave, ok := enter(a.batches)
	if !ok {
		return crowded
	}
	defer leave()

	items, ended := a.registerItems(w, r, c)
	if r.Context().Err() != nil {
		return context.Canceled
	}
	if len(items) == 0 {
		return &fault{code: "malformed-request", detail: "The body is empty: a batch has at least one Signed Statement."}
	}
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	if ended {
		h.Set("Connection", "close") // rather than read the rest of the body
	}
	if after := retryOf(items); after > 0 {
		h.Set("Retry-After", seconds(after))
	}
	bulk.set(w)
	if wantsJSON(r.Header) {
		send(w, http.StatusOK, jsonType, marshalJSON(a.batchJSON(r, items)))
	} else {
		send(w, http.StatusOK, sequenceType, a.batchSequence(r, items))
	}
	return nil
}

// crew is goroutines that items are done by, one each. Who is done waits a moment
// for the next item: a stack that has grown for one signature check is good for
// another, and growing it costs as much as a tenth of the check.
type crew chan func()

// leisure is how long who is done waits.
const leisure = 100 * time.Millisecond

func (c crew) do(work func()) {
	select {
	case c <- work: // somebody waits
	default:
		go c.labour(work)
	}
}

func (c crew) labour(work func()) {
	patience := time.NewTimer(leisure)
	defer patience.Stop()
	for {
		work()
		patience.Reset(leisure)
		select {
		case work = <-c:
		case <-patience.C:
			return
		}
	}
}

// batchItem is what became of one item. Its goroutine owns it until it is done.
type batchItem struct {
	submitted
	fault *fault // nil: submitted says what
}

// registerItems registers what the body of r holds and waits for all of it.
// ended: the last item is not one of the body but says why its rest was not read.
func (a *API) registerItems(w http.ResponseWriter, r *http.Request, c Caller) (items []*batchItem, ended bool) {
	// Waiting for room is a part of reading: the client is held up by it alike.
	reading, stop := context.WithTimeout(r.Context(), bulk.read)
	defer stop()
	whole := r.ContentLength
	if whole < 0 {
		whole = maxBatchSize // it may be
	}
	var working sync.WaitGroup
	sequence := detcbor.NewSequence(http.MaxBytesReader(w, r.Body, maxBatchSize), int(a.Limits.Statement))
	for {
		body, err := sequence.Next()
		if err == io.EOF {
			break
		}
		item := &batchItem{}
		items = append(items, item)
		tooLong := errors.Is(err, detcbor.ErrTooLong)
		switch {
		case len(items) > maxBatchItems:
			item.fault = batchTooLarge(fmt.Sprintf("%d statements", maxBatchItems))
		case err != nil && !tooLong:
			item.fault = sequenceFault(err)
		}
		if ended = item.fault != nil; ended {
			break
		}
		if len(items) > 1 { // the request itself was counted when it was admitted
			a.byCaller.owe(c.token, a.Clock())
		}
		if tooLong {
			item.fault = tooLarge(a.Limits.Statement)
			item.fault.detail = fmt.Sprintf("The statement exceeds the limit of %d bytes.", a.Limits.Statement)
			continue
		}
		weight := max(leastRoom, int64(len(body)))
		if !a.batchRoom.TryAcquire(weight) && a.wait(reading, weight, whole) != nil {
			item.fault, ended = &fault{code: "overloaded"}, true
			break
		}
		working.Add(1)
		a.crew.do(func() {
			defer working.Done()
			defer a.batchRoom.Release(weight)
			a.registerItem(r, c, body, item)
		})
	}
	// The body is there: how long the outcome takes is bounded by RegisterWait,
	// and a deadline for reading that passes meanwhile would cancel r's context.
	bulk.set(w)
	working.Wait()
	return items, ended
}

// wait waits in the crowd for room, with a batch of so many bytes.
func (a *API) wait(ctx context.Context, weight, whole int64) error {
	a.crowd.Add(whole)
	defer a.crowd.Add(-whole)
	return a.batchRoom.Acquire(ctx, weight)
}

// registerItem registers one item. A panic is its own fault, as anywhere else.
func (a *API) registerItem(r *http.Request, c Caller, body []byte, item *batchItem) {
	defer func() {
		if p := recover(); p != nil {
			item.fault = panicked(p)
		}
	}()
	var err error
	if item.submitted, err = a.submit(r.Context(), body, ledger.Circumstances{Caller: c.Name, Scope: c.Scope()}); err != nil {
		item.fault = a.faultFor(r, err)
	}
}

// sequenceFault says why a batch could not be read on.
func sequenceFault(err error) *fault {
	switch {
	case errors.Is(err, detcbor.ErrSequence):
		return &fault{
			code: "malformed-request", detail: err.Error(),
			hint: "nothing from here on was read; send it again as a sequence of COSE_Sign1 in tag 18",
		}
	case errors.As(err, new(*http.MaxBytesError)):
		return batchTooLarge(fmt.Sprintf("%d bytes", maxBatchSize))
	}
	return faultOf(bodyError(err))
}

func batchTooLarge(limit string) *fault {
	return &fault{
		code: "too-large", detail: "A batch has at most " + limit + ".",
		hint: "send the rest in another batch",
	}
}

// acceptSequence checks that a body is announced as a CBOR sequence, plain.
func acceptSequence(h http.Header) error {
	if err := acceptPlain(h); err != nil {
		return err
	}
	types := h.Values("Content-Type")
	if len(types) == 1 {
		if mediaType, _, err := mime.ParseMediaType(types[0]); err == nil && mediaType == sequenceType {
			return nil
		}
	}
	return &fault{
		code: "unsupported-media-type", detail: "A batch is a CBOR sequence of Signed Statements.",
		accept: []string{sequenceType}, hint: "send Content-Type: " + sequenceType,
	}
}

// wantsJSON: Accept lists JSON, and prefers nothing that we would rather send.
func wantsJSON(h http.Header) bool {
	json, listed := quality(h, jsonType)
	sequence, _ := quality(h, sequenceType)
	return listed && json > 0 && json >= sequence
}

func (i *batchItem) status() int {
	switch {
	case i.fault != nil:
		return problem(i.fault.code).Status
	case i.pending:
		return http.StatusAccepted
	}
	return http.StatusCreated
}

// retryOf is when to send again what items leave open; 0: nothing is.
func retryOf(items []*batchItem) (after time.Duration) {
	for _, i := range items {
		switch {
		case i.fault != nil:
			after = max(after, i.fault.retry())
		case i.pending:
			after = max(after, time.Second)
		}
	}
	return after
}

// batchSequence is the answer as a CBOR sequence.
func (a *API) batchSequence(r *http.Request, items []*batchItem) []byte {
	var b []byte
	for n, i := range items {
		content := i.Receipt
		if i.fault != nil {
			content = conciseProblem(a.document(r, i.fault))
		}
		b = detcbor.AppendHead(b, detcbor.KindArray, 3)
		b = detcbor.AppendHead(b, detcbor.KindUint, uint64(n))
		b = detcbor.AppendHead(b, detcbor.KindUint, uint64(i.status()))
		b = detcbor.AppendBytes(b, content)
	}
	return b
}

// batchJSON is the answer for those who would rather not read CBOR. It has no
// receipts: GET /entries/{id} does.
func (a *API) batchJSON(r *http.Request, items []*batchItem) apitype.Batch {
	batch := apitype.Batch{Items: make([]apitype.BatchItem, 0, len(items))}
	for n, i := range items {
		shown := apitype.BatchItem{N: n, Status: i.status()}
		if i.fault != nil {
			doc := a.document(r, i.fault)
			shown.Problem = &doc
		} else if shown.EntryID = i.Entry.ID.String(); !i.pending {
			index := i.Entry.Index
			shown.Index = &index
		}
		batch.Items = append(batch.Items, shown)
	}
	return batch
}
