package ledger

import (
	"sync"
	"time"

	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

// Bounds of what waits and of one batch.
const (
	defaultQueue  = 4096
	maxQueueBytes = 64 << 20
	maxWait       = 5 * time.Second // the oldest waits longer: refuse more
	maxBatch      = 1024
	maxBatchBytes = 16 << 20
)

// Circumstances are what comes with a statement and is not signed. They say where
// a claim is placed, who is answered what, and where the payload of a detached
// statement is found, which its signature then proves; nothing else about them
// enters a decision.
type Circumstances struct {
	Repository string           // named by the path /v2/<name>/…; "" = none
	Image      statement.Digest // OCI's subject in that repository; "" = none
	Evidence   statement.Digest // that the statement speaks for, staged before; "" = not said
	Payload    []byte           // of a detached statement, where the caller has it; nil = not
	Caller     string           // for the audit row
	Scope      Scope            // what the caller may read
}

// Submission is what Append takes. The Decision was made by the caller under
// Policy(), with the Materials; Append judges again what no longer holds, with the
// same. A detached Statement has its payload with it. Repository is the one named by the path /v2/<name>/…, or
// ""; Image, the OCI subject that came with it, or "". Caller goes to the audit
// row only.
type Submission struct {
	Statement  *statement.Statement
	Decision   policy.Decision
	Materials  []policy.Material // what the policy's Lookups brought
	Repository string
	Image      statement.Digest
	Caller     string
}

// size is what of s a commit writes, in bytes: of evidence that came with it only
// the digest.
func (s *Submission) size() int {
	n := len(s.Statement.Canonical())
	for _, m := range s.Materials {
		if m.Kind != policy.EvidenceDocument {
			n += len(m.Body)
		}
	}
	return n
}

// waiting is a Submission on its way through the sequencer.
type waiting struct {
	Submission
	since  time.Time
	answer chan outcome // capacity 1: answering never blocks

	// Owned by the sequencer.
	sent    bool  // a commit with it ended without a known outcome
	refusal error // why the last draft did not admit it
}

// outcome is what the sequencer decided. Receipts are made from it by whoever
// waits, in parallel.
type outcome struct {
	err   error
	batch *sealed // nil: the entry is read from the store
	entry Entry   // with batch; else only its ID
	fresh bool    // this submission registered it
}

// sealed is a known commit, with what the paths of its entries need.
type sealed struct {
	head   Head
	growth *growth
}

// queue holds what has been submitted and not yet taken. Its own lock is held
// for moving pointers only.
type queue struct {
	limit int
	wall  func() time.Time
	wake  chan struct{} // capacity 1: something changed

	mu      sync.Mutex
	list    []*waiting
	bytes   int
	closed  bool
	pending map[statement.ID]int // submissions not answered yet, by ID
	refused uint64               // for want of room
}

func newQueue(limit int, wall func() time.Time) *queue {
	if limit == 0 {
		limit = defaultQueue
	}
	return &queue{limit: limit, wall: wall, wake: make(chan struct{}, 1), pending: map[statement.ID]int{}}
}

// room says why nothing more can be taken in; nil when it can.
func (q *queue) room() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.roomLocked()
}

func (q *queue) roomLocked() error {
	switch {
	case q.closed:
		return ErrClosed
	case len(q.list) >= q.limit, q.bytes >= maxQueueBytes,
		len(q.list) > 0 && q.wall().Sub(q.list[0].since) > maxWait:
		return ErrOverloaded
	}
	return nil
}

// enter is room for somebody who would come in.
func (q *queue) enter() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.enterLocked()
}

func (q *queue) enterLocked() error {
	err := q.roomLocked()
	if err != nil {
		q.refused++
	}
	return err
}

func (q *queue) put(sub Submission) (*waiting, error) {
	w := &waiting{Submission: sub, since: q.wall(), answer: make(chan outcome, 1)}
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.enterLocked(); err != nil {
		return nil, err
	}
	q.list = append(q.list, w)
	q.bytes += sub.size()
	q.pending[sub.Statement.ID()]++
	q.signal()
	return w, nil
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take waits for work and returns a batch of it: whatever queued meanwhile,
// within the bounds. nil: the queue is closed.
func (q *queue) take() []*waiting {
	for {
		if batch, closed := q.tryTake(); closed || len(batch) > 0 {
			return batch
		}
		<-q.wake
	}
}

func (q *queue) tryTake() (batch []*waiting, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return nil, true
	}
	return q.fillLocked(nil), false
}

// join adds to a batch what queued since it was taken, within the bounds.
func (q *queue) join(batch []*waiting) []*waiting {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.fillLocked(batch)
}

func (q *queue) fillLocked(batch []*waiting) []*waiting {
	size := 0
	for _, w := range batch {
		size += w.size()
	}
	n := 0
	for ; n < len(q.list) && len(batch) < maxBatch; n++ {
		bytes := q.list[n].size()
		if len(batch) > 0 && size+bytes > maxBatchBytes {
			break
		}
		batch, size, q.bytes = append(batch, q.list[n]), size+bytes, q.bytes-bytes
	}
	clear(q.list[:n])
	q.list = q.list[n:]
	return batch
}

// close refuses what comes and answers what waits.
func (q *queue) close() {
	q.mu.Lock()
	left := q.list
	q.list, q.bytes, q.closed = nil, 0, true
	q.signal()
	q.mu.Unlock()
	for _, w := range left {
		q.tell(w, outcome{err: ErrClosed})
	}
}

// tell answers w, once.
func (q *queue) tell(w *waiting, o outcome) {
	id := w.Statement.ID()
	q.mu.Lock()
	if q.pending[id]--; q.pending[id] == 0 {
		delete(q.pending, id)
	}
	q.mu.Unlock()
	w.answer <- o
}

// load is how much waits, and how often there was no room.
func (q *queue) load() (waiting, bytes int, refused uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.list), q.bytes, q.refused
}

func (q *queue) has(id statement.ID) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.pending[id] > 0
}
