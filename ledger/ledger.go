// Package ledger is the append-only log of registered statements and its index.
//
// A Ledger admits what the Registration Policy in force admits, puts it in
// order, and answers with COSE Receipts; the log keeps the policy too, as leaf
// 0 and later entries, and says about itself (URL, origin, keys) in leaf 1 and
// later service statements. A Store keeps everything durably; sqlite and
// postgres implement it, ledgertest holds them to it.
//
// What it promises:
//
//   - No receipt leaves before the commit of its batch is known to have
//     succeeded, and what is committed stays: same bytes, same entry, same
//     receipt bytes, across crashes, restarts, replicas and later policies.
//   - One root per size, for ever. Of all processes on one store, the insert of
//     a head decides who continues the log; signed roots that lost are dropped.
//   - Nothing enters that the policy in force at its index did not admit.
//   - Head times never decrease, and nothing is signed while the clocks differ.
//   - The checkpoints of a process never go back; each is proven to continue the
//     one before. What an auditor is shown of the log is held against what was
//     signed.
//   - Index, collateral and deliveries of an entry are in its own transaction.
//
// It does not know HTTP, registries or who the callers are, and it never looks
// at evidence. Evidence in transit (Staging) and what became of it (Evidences), what
// image indexes list (Claims), callers' tokens (Tokens) and who does what beside
// the log (Leases) only share the database with it.
package ledger

import (
	"context"
	"crypto"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/scittd/scittd/internal/failpoint"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// Options of Open. The zero value reads a log.
type Options struct {
	// Issuer signs heads; nil: read-only, Append answers ErrReadOnly.
	Issuer *receipts.Issuer
	// Checkpoint signs checkpoints, Ed25519; nil: this process publishes none.
	// Cadence is how often at most; 0: once a second.
	Checkpoint crypto.Signer
	Cadence    time.Duration
	// Registry is the host that deliveries go to; "": claims are only in the
	// ledger. Archive is a repository of it that keeps the transparency artifact of
	// every claim that is placed once more; "": none does.
	Registry string
	Archive  string
	// Clock is the wall clock; nil: time.Now. Steady is the time since some
	// fixed moment, which nobody sets; nil: the monotonic reading of Clock.
	Clock  func() time.Time
	Steady func() time.Duration
	// Log receives what an operator must know; nil: nothing.
	Log *slog.Logger
	// Queue is how many submissions may wait; 0: 4096.
	Queue int
	// Remember is told of every head that is known to be committed, also of
	// those of other processes, before a registration is answered or a checkpoint
	// made under it; of a smaller one perhaps after a larger one. An error keeps
	// both back, and it is told again; nil: nobody is.
	Remember func(context.Context, Head) error
}

// Registered is Append's answer: the entry and its batch receipt, which is the
// same bytes for ever.
type Registered struct {
	Entry   Entry
	Receipt []byte
	New     bool // false: it was already there
}

// Ledger is one log, opened. It is safe for concurrent use.
type Ledger struct {
	store   Store
	clocks  *clocks
	issuer  *receipts.Issuer
	queue   *queue
	prover  *prover
	heads   lru[headKey, struct{}] // whose signature was verified
	done    chan struct{}          // closed when the sequencer has ended
	current atomic.Pointer[state]
	counts  counts
	halt    halt
	series  *follower
	reigns  reigns

	remember    func(context.Context, Head) error
	checkpoints *checkpoints // nil: without the key
}

// Open loads the newest head and what stands on it, and starts the sequencer.
// It refuses a log that it should not continue: ErrEmpty when Init was never
// run; ErrCorrupt when the head is not signed by a key that the log announced,
// or its root does not follow from leaves and tiles; another error when the
// Issuer's key, service URL or origin, or the checkpoint key, are not those
// that the log announced.
//
// The store stays the caller's, who closes it after the Ledger.
func Open(ctx context.Context, s Store, o Options) (*Ledger, error) {
	st, edge, err := load(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	if o.Issuer != nil {
		if err := announced(o.Issuer, st); err != nil {
			return nil, fmt.Errorf("open ledger: %w", err)
		}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Remember == nil {
		o.Remember = func(context.Context, Head) error { return nil }
	}
	l := &Ledger{
		store: s, issuer: o.Issuer, clocks: newClocks(s.Now, o),
		prover: newProver(s), heads: lru[headKey, struct{}]{limit: cachedHeads}, done: make(chan struct{}),
		remember: o.Remember, series: newFollower(s),
	}
	if o.Checkpoint != nil {
		if l.checkpoints, err = newCheckpoints(o, st, l.clocks.steady); err != nil {
			return nil, fmt.Errorf("open ledger: %w", err)
		}
	}
	l.current.Store(st)
	l.queue = newQueue(o.Queue, l.clocks.wall)
	if o.Issuer == nil {
		close(l.done)
		return l, nil
	}
	q := &sequencer{
		store: s, issuer: o.Issuer, registry: o.Registry, archive: o.Archive, clocks: l.clocks, queue: l.queue,
		log: o.Log, done: l.done, state: st, edge: edge, turns: 1, current: &l.current, counts: &l.counts,
		halt: &l.halt, remember: o.Remember,
	}
	go q.run()
	return l, nil
}

// announced checks an Issuer against what the log says about itself.
func announced(i *receipts.Issuer, st *state) error {
	if svc := st.service(); i.Service() != svc.URL || i.Origin() != svc.Origin {
		return fmt.Errorf("configured as %s (%s), but the log was made by %s (%s)", i.Service(), i.Origin(), svc.URL, svc.Origin)
	}
	if _, ok := st.keys.Find(i.KeyID()); !ok {
		return fmt.Errorf("receipt key %x is not announced in the log: publish a service statement that names it first", i.KeyID())
	}
	return nil
}

// Append registers a statement, or finds it registered, and returns its entry
// and receipt.
//
// No receipt leaves before Commit is known to have succeeded. ctx bounds the
// waiting only: after it ends the statement may still be registered, and
// submitting again tells. Errors: *policy.Refusal, a decision and final under
// this policy; ErrOverloaded, ErrUnavailable, ErrClock, ErrClosed, ErrHalted and
// ErrCorrupt, after which nothing is promised and trying again is right;
// ErrReadOnly; that of ctx.
func (l *Ledger) Append(ctx context.Context, sub Submission) (Registered, error) {
	if l.issuer == nil {
		return Registered{}, ErrReadOnly
	}
	if err := l.halt.err(); err != nil {
		return Registered{}, err
	}
	if err := ctx.Err(); err != nil {
		return Registered{}, err
	}
	if l.Policy().Serial(sub.Decision) {
		l.series.ahead(ctx, sub.Statement.Issuer, l.Seen().Size)
	}
	w, err := l.queue.put(sub)
	if err != nil {
		return Registered{}, err
	}
	failpoint.Hit(failpoint.Enqueued)
	select {
	case o := <-w.answer:
		return l.registered(ctx, o)
	case <-ctx.Done():
		return Registered{}, ctx.Err()
	}
}

// Room says that Append would take a submission now: what it would not take need
// not be judged. ErrOverloaded, ErrClosed, ErrReadOnly.
func (l *Ledger) Room() error {
	if l.issuer == nil {
		return ErrReadOnly
	}
	return l.queue.enter()
}

// registered turns the sequencer's answer into the caller's.
func (l *Ledger) registered(ctx context.Context, o outcome) (Registered, error) {
	if o.err != nil {
		return Registered{}, o.err
	}
	r := Registered{Entry: o.entry, New: o.fresh}
	var err error
	if o.batch == nil {
		if r.Entry, err = l.Entry(ctx, o.entry.ID, All); err != nil {
			return Registered{}, fmt.Errorf("read entry %s back: %w", o.entry.ID, err)
		}
		r.Receipt, err = l.batchReceipt(ctx, r.Entry.ID, r.Entry.Index)
	} else {
		r.Receipt, err = o.batch.receipt(o.entry)
	}
	if err != nil {
		return Registered{}, err
	}
	failpoint.Hit(failpoint.Minted)
	return r, nil
}

func (s *sealed) receipt(e Entry) ([]byte, error) {
	path, err := s.growth.path(e.Index)
	if err != nil {
		return nil, err
	}
	return mint(s.head.SignedHead, e.Index, e.ID, path)
}

// Policy is the one in force, as far as this process has seen the log.
func (l *Ledger) Policy() *policy.Policy { return l.current.Load().policy }

// Service is the newest announcement in the log.
func (l *Ledger) Service() Service { return l.current.Load().service() }

// Keys are the receipt keys announced in the log: current, then retired.
func (l *Ledger) Keys() receipts.KeySet { return l.current.Load().keys }

// CheckpointKeys are the verifier keys of checkpoints announced in the log:
// current, then retired.
func (l *Ledger) CheckpointKeys() []string {
	var keys []string
	for _, svc := range l.current.Load().announced {
		for _, vkey := range svc.CheckpointKeys {
			if !slices.Contains(keys, vkey) {
				keys = append(keys, vkey)
			}
		}
	}
	return keys
}

// Head returns the newest signed head. A policy that it brings into force is in
// force here too, from now on.
func (l *Ledger) Head(ctx context.Context) (Head, error) {
	h, err := l.store.Head(ctx)
	if err == nil && h.Policy > l.current.Load().head.Policy {
		err = l.see(ctx, h)
	}
	return h, err
}

// Seen is the newest head that this process knows of, without asking: of its own
// commits, and of what it has looked at with Refresh.
func (l *Ledger) Seen() Head { return l.current.Load().head }

// Entry returns the index row of one visible entry; ErrNotFound.
func (l *Ledger) Entry(ctx context.Context, id statement.ID, scope Scope) (Entry, error) {
	found, err := l.store.Find(ctx, Query{Scope: scope, IDs: []statement.ID{id}, Limit: 1})
	if err != nil {
		return Entry{}, err
	}
	if len(found) == 0 {
		return Entry{}, fmt.Errorf("entry %s: %w", id, ErrNotFound)
	}
	return found[0], nil
}

// Record returns everything kept of one visible entry; ErrNotFound. Bytes that
// are not the entry's any more are ErrCorrupt.
func (l *Ledger) Record(ctx context.Context, id statement.ID, scope Scope) (Record, error) {
	r, err := l.store.Record(ctx, id, scope)
	if err != nil {
		return Record{}, err
	}
	if r.ID != id || statement.ID(sha256.Sum256(r.Canonical)) != id {
		return Record{}, fmt.Errorf("%w: the bytes of entry %s", ErrCorrupt, id)
	}
	return r, nil
}

// Receipt returns the receipt of one visible entry under its batch's head: the
// bytes that Append answered. ErrNotFound.
func (l *Ledger) Receipt(ctx context.Context, id statement.ID, scope Scope) ([]byte, error) {
	index, err := l.index(ctx, id, scope)
	if err != nil {
		return nil, err
	}
	return l.batchReceipt(ctx, id, index)
}

// ReceiptAt returns the receipt of one visible entry under the stored head of
// the given size. ErrNotFound: no such entry, no such head, or it is older.
func (l *Ledger) ReceiptAt(ctx context.Context, id statement.ID, size uint64, scope Scope) ([]byte, error) {
	index, err := l.index(ctx, id, scope)
	if err != nil {
		return nil, err
	}
	if size <= index {
		return nil, fmt.Errorf("%w: entry %d is not in the tree of size %d", ErrNotFound, index, size)
	}
	h, err := l.headAt(ctx, size)
	if err != nil {
		return nil, err
	}
	return l.receipt(ctx, h, id, index)
}

func (l *Ledger) index(ctx context.Context, id statement.ID, scope Scope) (uint64, error) {
	found, err := l.store.Indexes(ctx, []statement.ID{id}, scope)
	if err != nil {
		return 0, err
	}
	index, ok := found[id]
	if !ok {
		return 0, fmt.Errorf("entry %s: %w", id, ErrNotFound)
	}
	return index, nil
}

func (l *Ledger) batchReceipt(ctx context.Context, id statement.ID, index uint64) ([]byte, error) {
	h, err := l.store.HeadFor(ctx, index)
	if err != nil {
		return nil, fmt.Errorf("find the head of entry %d: %w", index, err)
	}
	return l.receipt(ctx, h, id, index)
}

func (l *Ledger) receipt(ctx context.Context, h Head, id statement.ID, index uint64) ([]byte, error) {
	if err := l.trust(ctx, h); err != nil {
		return nil, err
	}
	path, err := l.prover.path(ctx, index, h.Size)
	if err != nil {
		return nil, fmt.Errorf("prove entry %d in size %d: %w", index, h.Size, err)
	}
	return mint(h.SignedHead, index, id, path)
}

// headKey is all that a head's signature depends on.
type headKey struct {
	size                 uint64
	root                 [32]byte
	time                 int64
	protected, signature string
}

// trust verifies the signature of a stored head before anything is minted from
// it. The key may have been announced by another process meanwhile.
func (l *Ledger) trust(ctx context.Context, h Head) error {
	key := headKey{h.Size, h.Root, h.Time.Unix(), string(h.Protected), string(h.Signature)}
	if _, ok := l.heads.get(key); ok {
		return nil
	}
	if verifyHead(h, l.Keys()) != nil {
		if err := l.Refresh(ctx); err != nil {
			return err
		}
		if err := verifyHead(h, l.Keys()); err != nil {
			return err
		}
	}
	l.heads.put(key, struct{}{})
	return nil
}

// Transparent returns the Transparent Statement of one visible entry: its
// canonical bytes with the batch receipt (label 394) and, only if it came
// unprotected, the validated chain (label 33). Always the same bytes.
func (l *Ledger) Transparent(ctx context.Context, id statement.ID, scope Scope) ([]byte, error) {
	r, err := l.Record(ctx, id, scope)
	if err != nil {
		return nil, err
	}
	chain, err := chainOf(r.Collateral)
	if err != nil {
		return nil, err
	}
	receipt, err := l.batchReceipt(ctx, id, r.Index)
	if err != nil {
		return nil, err
	}
	return receipts.BuildTransparent(r.Canonical, chain, receipt)
}

// Find returns visible entries that match q, newest first.
func (l *Ledger) Find(ctx context.Context, q Query) ([]Entry, error) { return l.store.Find(ctx, q) }

// Deliveries of one visible entry; ErrNotFound.
func (l *Ledger) Deliveries(ctx context.Context, id statement.ID, scope Scope) ([]Delivery, error) {
	return l.store.Deliveries(ctx, id, scope)
}

// Waiting returns the registries that something is due for; see Outbox.
func (l *Ledger) Waiting(ctx context.Context) ([]string, error) {
	return l.store.Waiting(ctx, l.clocks.wall())
}

// Due leases deliveries whose time has come; see Outbox.
func (l *Ledger) Due(ctx context.Context, p Pickup) ([]Delivery, error) {
	return l.store.Due(ctx, p, l.clocks.wall())
}

// Renew lets a lease run for d from now on, 0 gives it back; see Outbox.
func (l *Ledger) Renew(ctx context.Context, owner string, at Place, d time.Duration) (bool, error) {
	now := l.clocks.wall()
	return l.store.Renew(ctx, owner, at, now, now.Add(d))
}

// Settle records what became of a delivery; see Outbox.
func (l *Ledger) Settle(ctx context.Context, owner string, d Delivery) error {
	return l.store.Settle(ctx, owner, d)
}

// Pending says that the statement is queued in this process and not decided
// yet. It is memory only: after a restart it is false, and submitting again is
// right.
func (l *Ledger) Pending(id statement.ID) bool { return l.queue.has(id) }

// Ready says why a registration would not be accepted now; nil when it would:
// there is room, the store answers, the clocks agree, the key signs.
func (l *Ledger) Ready(ctx context.Context) error {
	if l.issuer == nil {
		return ErrReadOnly
	}
	if err := l.halt.err(); err != nil {
		return err
	}
	if err := l.queue.room(); err != nil {
		return err
	}
	h, err := l.store.Head(ctx)
	if err != nil {
		return err
	}
	if _, err := l.clocks.now(ctx, h.Time); err != nil {
		return err
	}
	if _, err := l.issuer.Sign(h.Head); err != nil { // the same head again: no new promise
		return fmt.Errorf("%w: the receipt key does not sign: %w", ErrUnavailable, err)
	}
	return nil
}

// Close refuses new submissions, answers the queued ones with ErrClosed, and
// waits until the batch in hand is finished, or for ctx. It does not close the
// store.
func (l *Ledger) Close(ctx context.Context) error {
	l.queue.close()
	select {
	case <-l.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("close ledger: the batch in hand is not finished: %w", ctx.Err())
	}
}
