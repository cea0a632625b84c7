// Package ledgertest holds the promises of ledger.Store and of what is kept
// beside it (ledger.Staging, Tokens, Leases, Evidences and Claims) as one suite
// that every store runs, and those of ledger.Ledger on top of it (Run). CheckLog
// recomputes a whole log from its statements, and the suite calls it after every
// step. Faulty breaks a store on command. The builders make keys, policies and
// statements for tests of any room.
package ledgertest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// Store is what a database for one log provides.
type Store interface {
	ledger.Store
	ledger.Staging
	ledger.Tokens
	ledger.Leases
	ledger.Backlog
	ledger.Placements
	ledger.Evidences
	ledger.Claims
	ledger.Refusals
	ledger.Projection
}

// Opener opens one and the same database every time it is called. The suite
// closes what it opened before it opens again: what was promised durable must
// still be there.
type Opener func(t testing.TB) Store

// Factory makes a fresh, empty, migrated database and returns its Opener. What
// it has to clean up it registers with t.Cleanup.
type Factory func(t testing.TB) Opener

// Run holds a store to every promise of its interfaces, and the Ledger on top
// of it to its own.
func Run(t *testing.T, fresh Factory) {
	for _, group := range []struct {
		name  string
		tests []test
	}{
		{"log", logTests}, {"turn", turnTests}, {"index", indexTests}, {"outbox", outboxTests}, {"backlog", backlogTests}, {"placements", placementTests},
		{"staging", stagingTests}, {"tokens", tokenTests}, {"leases", leaseTests}, {"ledger", ledgerTests}, {"detached", detachedTests}, {"conditions", conditionTests}, {"operators", operatorTests}, {"refusals", refusalTests}, {"public", publicTests}, {"faults", faultTests},
		{"halt", haltTests}, {"evidence", evidenceTests}, {"projection", projectionTests},
	} {
		t.Run(group.name, func(t *testing.T) {
			for _, test := range group.tests {
				t.Run(test.name, func(t *testing.T) { test.run(newWorld(t, fresh)) })
			}
		})
	}
}

// test is one promise; its name is the sentence that says it.
type test struct {
	name string
	run  func(*world)
}

// registry is the host that deliveries of the suite go to.
const registry = "registry.example"

// world is a database with a log in it, and the people around it.
type world struct {
	*testing.T
	ctx   context.Context
	open  Opener
	store Store // the one that is open

	operator *Operator
	wabbit   *Publisher // a pinned key
	acme     *Publisher // certificates, unprotected
	secret   *Publisher // a pinned key; all claims private
}

// newWorld makes an empty database and its people; init makes the log.
func newWorld(t *testing.T, fresh Factory) *world {
	w := &world{
		T: t, ctx: t.Context(), open: fresh(t), operator: NewOperator(t),
		wabbit: NewPublisher(t, "https://wabbit.example"),
		acme:   NewCertifiedPublisher(t, "https://acme.example"),
		secret: NewPublisher(t, "https://secret.example"),
	}
	w.secret.Rule.Visibility = "private"
	w.store = w.open(t)
	t.Cleanup(func() {
		if err := w.store.Close(); err != nil {
			t.Errorf("close store: %v", err)
		}
	})
	return w
}

func (w *world) publishers() []*Publisher { return []*Publisher{w.wabbit, w.acme, w.secret} }

// init makes the log.
func (w *world) init() {
	w.Helper()
	w.operator.Init(w, w.store, w.publishers()...)
	w.check()
}

// check recomputes the log.
func (w *world) check() {
	w.Helper()
	if err := CheckLog(context.Background(), w.store); err != nil {
		w.Fatalf("log is not sound: %v", err)
	}
}

// reopen closes the database and opens it again.
func (w *world) reopen() {
	w.Helper()
	if err := w.store.Close(); err != nil {
		w.Fatalf("close store: %v", err)
	}
	w.store = w.open(w)
}

// options of a ledger that signs and places.
func (w *world) options() ledger.Options {
	return ledger.Options{Issuer: w.operator.Issuer(w), Registry: registry}
}

// ledger opens the log of s; the test closes it at its end, if not before.
func (w *world) ledger(s ledger.Store, o ledger.Options) *ledger.Ledger {
	w.Helper()
	l, err := ledger.Open(w.ctx, s, o)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { w.close(l) })
	return l
}

func (w *world) close(l *ledger.Ledger) {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := l.Close(ctx); err != nil {
		w.Errorf("close ledger: %v", err)
	}
}

func (w *world) size() uint64 {
	w.Helper()
	h, err := w.store.Head(w.ctx)
	if errors.Is(err, ledger.ErrEmpty) {
		return 0
	}
	if err != nil {
		w.Fatal(err)
	}
	return h.Size
}

// commit appends statements in one batch, without a Ledger.
func (w *world) commit(statements ...*statement.Statement) *ledger.Batch {
	w.Helper()
	b := w.batch(statements...)
	if err := w.store.Commit(w.ctx, b); err != nil {
		w.Fatalf("commit %d entries at size %d: %v", len(b.Entries), b.Head.PrevSize, err)
	}
	return b
}

// batch computes what a commit of statements on the newest head is, by means
// of the checker: it shares nothing with the sequencer.
func (w *world) batch(statements ...*statement.Statement) *ledger.Batch {
	w.Helper()
	c := readLog(w.T, w.store)
	last := c.heads[len(c.heads)-1]
	p := c.policies[last.Policy]
	now := time.Now().UTC().Truncate(time.Second)
	if now.Before(last.Time) {
		now = last.Time
	}
	b := &ledger.Batch{Head: ledger.Head{PrevSize: last.Size, Policy: last.Policy}}
	for i, s := range statements {
		d := p.Evaluate(s, now)
		if d.Refusal != nil {
			w.Fatalf("statement %d: %v", i, d.Refusal)
		}
		e := ledger.NewEntry{
			Entry: ledger.Entry{
				Index: last.Size + uint64(i), ID: s.ID(), Issuer: s.Issuer, Subject: s.Subject,
				MediaType: s.MediaType(), PredicateType: s.PredicateType(), Evidence: s.Evidence(),
				Artifacts: d.Artifacts, Private: d.Private, RegisteredAt: now,
				Policy: p.Entry, Rule: d.Rule, Identity: d.Identity,
			},
			Canonical: s.Canonical(), Collateral: collateralOf(w.T, d.Chain),
			Caller: "ledgertest", Registry: registry,
		}
		c.leaves = append(c.leaves, s.ID())
		places, err := placesOf(p, s, ledger.Record{Entry: e.Entry, Collateral: e.Collateral, Registry: registry})
		if err != nil {
			w.Fatal(err)
		}
		for _, at := range places {
			e.Deliveries = append(e.Deliveries, ledger.Delivery{
				Entry: e.Index, EntryID: e.ID, Registry: at.registry, Repository: at.repository,
				Subject: at.subject, Artifact: at.artifact, State: ledger.Queued, NextAt: now, Since: now,
			})
		}
		if err := c.tree.add(s.ID()); err != nil {
			w.Fatal(err)
		}
		b.Entries = append(b.Entries, e)
	}
	for level := uint8(0); level < 8; level++ {
		for n := last.Size >> (8 * (uint(level) + 1)); ; n++ {
			tile, full := c.tree.tile(ledger.TileID{Level: level, N: n})
			if !full {
				break
			}
			b.Tiles = append(b.Tiles, tile)
		}
	}
	root, err := c.tree.root()
	if err != nil {
		w.Fatal(err)
	}
	b.Head.SignedHead, err = w.operator.Issuer(w).Sign(receipts.Head{Size: c.size(), Root: root, Time: now})
	if err != nil {
		w.Fatal(err)
	}
	return b
}

// readLog reads a sound log.
func readLog(t *testing.T, s ledger.Store) *checker {
	t.Helper()
	c := newChecker(context.Background(), s)
	for _, step := range []func() error{c.readHeads, c.readLeaves, c.checkRoots, c.readRecords, c.checkPolicies} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func ids(statements []*statement.Statement) []statement.ID {
	var all []statement.ID
	for _, s := range statements {
		all = append(all, s.ID())
	}
	return all
}

func indexes(entries []ledger.Entry) []uint64 {
	all := []uint64{}
	for _, e := range entries {
		all = append(all, e.Index)
	}
	return all
}
