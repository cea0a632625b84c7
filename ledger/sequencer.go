package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/scittd/scittd/internal/failpoint"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// A round's reads and its commit each have commitTime, whatever the clients'
// patience. A batch survives maxFaults rounds that end in an error, and
// maxConflicts lost swaps: those cost little and say that the log moves.
const (
	commitTime   = 10 * time.Second
	maxFaults    = 3
	maxConflicts = 64
)

// composure is how many turns in a row must find the log as this process left
// it before commits go without a turn again. Only a commit without one is
// beaten, so that of a replica's batches one in composure is discarded at the
// worst, whatever the others do; and who is alone soon saves the round trip.
const composure = 128

// wariness is how many rounds look for known statements before they commit, once
// there was reason to: one was met, or an error left open what is there. Others
// trust the commit to fail for it, for nearly every statement is new and looking
// costs them a round trip.
const wariness = 128

// sequencer puts submissions in order: the one goroutine that grows the tree.
//
// It takes whatever queued during the previous commit (natural group commit, no
// timer) and commits it in rounds until every submission is answered. A round
// is the whole story of a commit, in run order: known ones first, judge, grow a
// copy of the tree, sign once, commit, and only then believe it. After any
// error the next round begins with load, as Open does; whether an entry of a
// doubtful commit is there is then answered by the same lookup that finds
// duplicates. Hence there is no recovery code. Without such a reason nobody looks:
// entry IDs are unique in the store, so that a batch with a known one fails.
//
// It commits without asking while the log's last commit was its own. Once
// another process has grown the log, batches are built in turn, at the newest
// head with all others waiting, and whatever queued during the wait comes along.
// One batch is one turn: the more of them wait, the more each brings.
type sequencer struct {
	store    Store
	issuer   *receipts.Issuer
	registry string
	archive  string
	clocks   *clocks
	queue    *queue
	log      *slog.Logger
	done     chan struct{} // closed when run has ended

	// Owned by run. State and edge are of the last head known to be committed;
	// what is loaded in their place has to continue them.
	state *state
	edge  *edge
	doubt bool // a round ended in an error: to be loaded
	turns int  // how many more batches are built in turn; the first one is
	wary  int  // how many more rounds look for known statements first

	// The last state that is known to be committed, for everybody else. Others
	// may know more of it than this process committed.
	current *atomic.Pointer[state]
	counts  *counts

	halt     *halt
	remember func(context.Context, Head) error
}

// counts are what Stats shows.
type counts struct{ committed, discarded, turns atomic.Uint64 }

func (q *sequencer) run() {
	defer close(q.done)
	for batch := q.queue.take(); batch != nil; batch = q.queue.take() {
		q.sequence(batch)
	}
}

// sequence answers every submission of batch.
func (q *sequencer) sequence(batch []*waiting) {
	faults, conflicts := 0, 0
	for len(batch) > 0 {
		look := q.wary > 0
		left, err := q.round(batch, look)
		batch, q.wary = left, max(0, q.wary-1)
		switch {
		case err == nil:
			faults, conflicts = 0, 0
			continue
		case errors.Is(err, ErrConflict):
			conflicts++
			q.turns = composure
			q.counts.discarded.Add(1)
		case errors.Is(err, ErrUnfit) && !look:
			q.wary = wariness // most likely one of them is there already
			continue
		case errors.Is(err, errMoved):
			q.halt.set(err)
			err = q.halt.err()
		default:
			faults++
			q.doubt, q.wary = true, wariness
			q.log.Error("commit round failed", "waiting", len(left), "try", faults, "err", err)
		}
		if errors.Is(err, ErrUnfit) && len(left) > 1 {
			// One of them is to blame, and must not take its neighbours along. What
			// joins the first half must not be written over the second.
			half := len(left) / 2
			q.sequence(left[:half:half])
			q.sequence(left[half:])
			return
		}
		if errors.Is(err, ErrUnfit) || errors.Is(err, ErrClock) || errors.Is(err, ErrHalted) || faults == maxFaults || conflicts == maxConflicts {
			for _, w := range left {
				q.queue.tell(w, outcome{err: refusable(err)})
			}
			return
		}
	}
}

// refusable is err as a waiter may see it: nothing is known to be registered,
// and trying again is right, except after ErrUnfit, which is a bug of ours: what
// a store cannot hold should have been refused before.
func refusable(err error) error {
	if errors.Is(err, ErrClock) || errors.Is(err, ErrMeanwhile) || errors.Is(err, ErrUnavailable) || errors.Is(err, ErrCorrupt) || errors.Is(err, ErrUnfit) || errors.Is(err, ErrHalted) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// round makes at most one commit out of batch, and looks for known ones before it
// if so told. It returns what is not answered yet: with nil the rest behind a
// policy statement, with an error everything whose fate is open.
func (q *sequencer) round(batch []*waiting, look bool) (left []*waiting, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), commitTime)
	defer cancel()

	// 1. The newest head and its edge: those that the last round left, or what
	// is there now that it is our turn.
	commit := q.store.Commit
	if q.current.Load().head.Size > q.edge.size() {
		q.turns = composure // somebody else commits too
	}
	if q.turns > 0 {
		turn, err := q.store.Turn(ctx)
		if err != nil {
			return batch, err
		}
		defer turn.Release()
		q.counts.turns.Add(1)
		failpoint.Hit(failpoint.InTurn)
		commit = turn.Commit
		if q.turns--; turn.Head().Size != q.edge.size() {
			q.turns = composure
		}
		if !q.doubt {
			if q.state, q.edge, err = follow(ctx, q.store, q.state, q.edge, turn.Head()); err != nil {
				return batch, err
			}
		}
		batch = q.queue.join(batch)
	}
	if q.doubt {
		if q.state, q.edge, err = reload(ctx, q.store, q.state, q.edge); err != nil {
			return batch, err
		}
		q.doubt = false
	}
	publish(q.current, q.state)
	if err := q.remember(ctx, q.state.head); err != nil {
		return batch, fmt.Errorf("remember the head of size %d: %w", q.state.head.Size, err)
	}

	// 2. What is there already keeps its entry, also when it is there because a
	// commit of ours got through whose answer did not, or while no clock can be
	// trusted.
	now, untimely := q.clocks.now(ctx, q.state.head.Time)
	open := batch
	if look || untimely != nil {
		if open, err = q.known(ctx, batch); err != nil {
			return batch, err
		}
	}
	if untimely != nil && len(open) > 0 {
		return open, untimely
	}

	failpoint.Hit(failpoint.Opened)

	// 3. Judge the others and write their rows. Nobody is refused whose bytes are
	// committed, so for those somebody looks now at the latest.
	b := q.draft(ctx, open, now)
	refused := b.refused
	if !look && len(refused) > 0 {
		if refused, err = q.known(ctx, refused); err != nil {
			return append(b.open(), b.refused...), err
		}
	}
	for _, w := range refused {
		q.queue.tell(w, outcome{err: w.refusal})
	}
	if len(b.entries) == 0 {
		return b.left, nil
	}

	failpoint.Hit(failpoint.Indexed)

	// 4. A copy of the edge grows; its root is signed once. Sign verifies its
	// own signature. Until the commit is known, nobody may see either.
	ids := make([]statement.ID, len(b.entries))
	for i, e := range b.entries {
		ids[i] = e.ID
	}
	growth, err := q.edge.grow(ids)
	if err != nil {
		return b.open(), err
	}
	failpoint.Hit(failpoint.Grown)
	if err := q.halt.err(); err != nil {
		return b.open(), err
	}
	signed, err := q.issuer.Sign(receipts.Head{Size: growth.edge.size(), Root: growth.root, Time: now})
	if err != nil {
		return b.open(), fmt.Errorf("sign a head of size %d: %w", growth.edge.size(), err)
	}
	failpoint.Hit(failpoint.Signed)
	head := Head{SignedHead: signed, PrevSize: q.edge.size(), Policy: q.state.head.Policy}
	if b.policy != nil {
		head.Policy = head.Size - 1 // it closed the batch
	}

	// 5. The one durable point. The time is the sequencer's: no client hanging
	// up can leave a commit in doubt.
	ctx, cancel = context.WithTimeout(context.Background(), commitTime)
	defer cancel()
	err = commit(ctx, &Batch{Head: head, Entries: b.entries, Tiles: growth.tiles})
	if err != nil {
		if !errors.Is(err, ErrConflict) && !errors.Is(err, ErrUnfit) {
			for _, w := range b.admitted {
				w.sent = true
			}
		}
		return b.open(), fmt.Errorf("commit at size %d: %w", head.PrevSize, err)
	}

	failpoint.Hit(failpoint.Committed)

	// 6. Known to be committed: believe it, then answer.
	q.edge = growth.edge
	q.state = b.next(q.state, head)
	publish(q.current, q.state)
	q.counts.committed.Add(1)
	if err := q.remember(ctx, head); err != nil {
		for _, w := range b.admitted {
			w.sent = true
		}
		return b.open(), fmt.Errorf("remember the head of size %d: %w", head.Size, err)
	}
	failpoint.Hit(failpoint.Released)
	batchSeal := &sealed{head: head, growth: growth}
	for i, w := range b.admitted {
		q.queue.tell(w, outcome{batch: batchSeal, entry: b.entries[i].Entry, fresh: true})
	}
	for _, t := range b.twins {
		q.queue.tell(t.waiting, outcome{batch: batchSeal, entry: b.entries[t.of].Entry})
	}
	return b.left, nil
}

// known answers what is registered already with the original entry and returns
// the rest. Bytes that are committed keep their receipt under any later policy.
func (q *sequencer) known(ctx context.Context, batch []*waiting) (open []*waiting, err error) {
	ids := make([]statement.ID, 0, len(batch))
	for _, w := range batch {
		ids = append(ids, w.Statement.ID())
	}
	found, err := q.store.Indexes(ctx, ids, All)
	if err != nil {
		return nil, fmt.Errorf("look up %d entries: %w", len(ids), err)
	}
	if len(found) == 0 {
		return batch, nil
	}
	public, err := q.store.Indexes(ctx, slices.Collect(maps.Keys(found)), Public)
	if err != nil {
		return nil, fmt.Errorf("look up %d entries: %w", len(found), err)
	}
	for _, w := range batch {
		id := w.Statement.ID()
		if _, ok := found[id]; !ok {
			open = append(open, w)
			continue
		}
		if _, ok := public[id]; !ok && !w.sent {
			// A private entry must not show by being answered where fresh bytes
			// would be refused.
			d, err := q.judge(w, q.clocks.wall())
			if err == nil && d.Refusal != nil {
				err = d.Refusal
			}
			if err != nil {
				q.queue.tell(w, outcome{err: err})
				continue
			}
		}
		q.queue.tell(w, outcome{entry: Entry{ID: id}, fresh: w.sent})
	}
	return open, nil
}

// judge returns w's decision as it stands at t under the policy in force.
// ErrMeanwhile: that one asks for a lookup which the policy it came under did not.
func (q *sequencer) judge(w *waiting, t time.Time) (policy.Decision, error) {
	p := q.state.policy
	if holds(w.Decision, p, t) {
		return w.Decision, nil
	}
	for _, l := range p.Lookups(w.Statement) {
		if !slices.ContainsFunc(w.Materials, func(m policy.Material) bool { return m.Kind == l.Kind && m.Source == l.URL }) {
			return policy.Decision{}, fmt.Errorf("%w: policy %s asks for %s", ErrMeanwhile, p.Entry, l.URL)
		}
	}
	if digest, needed := p.NeedsEvidence(w.Statement); needed &&
		!slices.ContainsFunc(w.Materials, func(m policy.Material) bool { return m.Kind == policy.EvidenceDocument }) {
		return policy.Decision{}, fmt.Errorf("%w: policy %s asks who signed %s", ErrMeanwhile, p.Entry, digest)
	}
	return p.Evaluate(w.Statement, t, w.Materials...), nil
}

// drafted is a batch before it is signed.
type drafted struct {
	entries  []NewEntry
	admitted []*waiting // of entries
	twins    []twin
	refused  []*waiting
	closed   bool              // by a policy statement
	policy   *policy.Policy    // that the last entry put in force; else nil
	signed   policy.Succession // of the policy in force behind the batch
	services []Service         // announced by entries, newest first
	left     []*waiting        // behind what closed the batch
	past     *past             // of the next entry
	settled  int               // how many entries had their history looked at
}

// maxSettled is how many entries of a batch may have their history looked at:
// each costs the store a query or two, while others wait. Some conditions ask more,
// and maxAsked is how many questions end a batch.
const (
	maxSettled = 256
	maxAsked   = 4 * maxSettled
)

// twin is a submission of the same bytes as entries[of].
type twin struct {
	*waiting
	of int
}

// draft judges what is open and makes the rows of what is admitted. A policy
// statement closes the batch, because it may judge everything behind it.
func (q *sequencer) draft(ctx context.Context, open []*waiting, now time.Time) *drafted {
	b := &drafted{signed: q.state.signed}
	b.past = &past{store: q.store, size: q.edge.size(), follows: true, drafted: b, followed: map[string]error{}}
	at := map[statement.ID]int{}
	for i, w := range open {
		d, err := q.judge(w, now)
		if w.refusal = err; err != nil {
			b.refused = append(b.refused, w)
			continue
		}
		id := w.Statement.ID()
		if first, ok := at[id]; ok && (d.Refusal == nil || !b.entries[first].Private) {
			b.twins = append(b.twins, twin{w, first})
			continue
		}
		if w.refusal = q.admit(ctx, b, w, d, now); w.refusal != nil {
			b.refused = append(b.refused, w)
		} else {
			at[id] = len(b.entries) - 1
		}
		if b.closed || b.settled == maxSettled || b.past.asked >= maxAsked {
			b.left = open[i+1:]
			break
		}
	}
	return b
}

// admit adds w to b, or says why not.
func (q *sequencer) admit(ctx context.Context, b *drafted, w *waiting, d policy.Decision, now time.Time) error {
	if d.Refusal != nil {
		return d.Refusal
	}
	s := w.Statement
	if d.Conditional {
		b.settled++
		refusal, err := settle(ctx, q.state.policy, s, d, b.past)
		if err != nil {
			return refusable(fmt.Errorf("settle %s: %w", s.ID(), err))
		}
		if refusal != nil {
			return refusal
		}
	}
	n, err := draft(s, d, q.edge.size()+uint64(len(b.entries)), now)
	if err != nil {
		return err
	}
	n.Caller = w.Caller
	n.Registry, n.Repository, n.Image = q.registry, w.Repository, w.Image
	if err := n.deliver(s, q.state.policy, q.archive); err != nil {
		return err
	}
	switch {
	case carries(s, policy.MediaType):
		if refusal := b.signed.Repeated(s); refusal != nil {
			return refusal
		}
		if b.signed, b.policy, err = b.signed.Add(s); err != nil {
			return unfit(d, "policy", err)
		}
		b.closed = true
	case carries(s, policy.ServiceMediaType):
		svc, err := serviceOf(s)
		if err == nil {
			err = svc.succeeds(q.state.service())
		}
		if err != nil {
			return unfit(d, "service", err)
		}
		b.services = append([]Service{svc}, b.services...)
	}
	b.entries = append(b.entries, n)
	b.admitted = append(b.admitted, w)
	return nil
}

// unfit refuses an operator's statement that the ledger could not follow.
func unfit(d policy.Decision, rule string, err error) *policy.Refusal {
	return &policy.Refusal{
		Code: policy.CodeRejected, Rule: rule, Reason: err.Error(), Policy: d.Policy,
		Hint: "correct the " + rule + " statement and sign it again",
	}
}

// open is everything in b, but for the refused, that has no answer yet.
func (b *drafted) open() []*waiting {
	all := slices.Clone(b.admitted)
	for _, t := range b.twins {
		all = append(all, t.waiting)
	}
	return append(all, b.left...)
}

// next is the state once b is committed under head.
func (b *drafted) next(last *state, head Head) *state {
	st := &state{head: head, policy: last.policy, signed: b.signed, announced: last.announced, keys: last.keys}
	if b.policy != nil {
		st.policy = b.policy
	}
	if b.services != nil {
		st.announced = append(slices.Clone(b.services), last.announced...)
		keys, err := keysOf(st.announced)
		if err != nil {
			panic(err) // each announcement was read by serviceOf, which reads its keys
		}
		st.keys = keys
	}
	return st
}
