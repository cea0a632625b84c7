package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// slowFlush is added to every flush of PostgreSQL's log for the windows that
// show what one client waits for on a disk whose sync takes time. Where it
// takes a tenth of a millisecond, p50 counts CPU, not syncs.
const slowFlush = 1200 * time.Microsecond

// perRequest is how many statements a request of bulk registration has; with
// many clients fewer, for all of them together wait for the same room.
const perRequest = 64

// measurement is one run: both sides, and what came of it.
type measurement struct {
	options
	*report
	bench *bench
	ours  *side
	peer  *side // nil unless a goal needs it
}

func measure(ctx context.Context, o options, out io.Writer) (err error) {
	b, err := start(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	m := &measurement{
		options: o, report: newReport(o, b, out), bench: b,
		ours: &side{name: "scittd", url: b.url, cpu: b.cpu, batches: b.batches, ops: b.ops, profiles: o.profiles, rate: map[string]float64{}},
	}
	if o.wants("p3") {
		p, err := b.startPeer(o.peerBatch)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, p.close()) }()
		m.peer = &side{name: "Tessera", url: p.url, verifier: p.verifier, cpu: p.cpu, rate: map[string]float64{}}
	}
	for _, part := range []struct {
		goals []string
		run   func(context.Context) error
	}{
		{[]string{"mem"}, m.memory}, // first: it fills the log for the others
		{[]string{"p1", "p2", "p3", "p5", "p6"}, m.matrix},
		{[]string{"p3"}, m.saturation},
		{[]string{"p11"}, m.faults},
		{[]string{"r1"}, m.queries},
		{[]string{"w3"}, m.placement},
		{[]string{"e1"}, m.replay},
		{[]string{"e2", "e3"}, m.judging},
		{[]string{"p7", "p8", "p9", "p10"}, m.growth},
	} {
		if o.wants(part.goals...) {
			if err := part.run(ctx); err != nil {
				return err
			}
		}
	}
	return m.finish(o.json)
}

// memory reads the server's resident memory after the same load at two sizes.
func (m *measurement) memory(ctx context.Context) error {
	var bytes [2]int64
	for i, entries := range []int{m.small, m.large} {
		if _, err := m.bench.load(ctx, m.ours, shape{Clients: 64}, entries-m.ours.sent, 0, 0); err != nil {
			return err
		}
		var err error
		if bytes[i], err = rss(m.bench.server.Process.Pid); err != nil {
			return err
		}
	}
	m.atMost("mem", float64(bytes[1])/float64(bytes[0]), 1.2, 0, "server memory at %d entries (%s) over that at %d (%s)",
		m.large, mebi(bytes[1]), m.small, mebi(bytes[0]))
	return nil
}

// matrix loads both sides in every shape, taking turns: what else the machine
// does meets all of them.
func (m *measurement) matrix(ctx context.Context) error {
	var all []*series // without a goal of their own they are for a whole run only
	add := func(s *side, shape shape, goals ...string) *series {
		one := &series{Side: s.name, Shape: shape, side: s, goals: goals}
		if len(m.only) == len(goalNames) || m.wants(goals...) {
			all = append(all, one)
		}
		return one
	}
	single := add(m.ours, shape{Clients: 1}, "p5", "p6")
	slow := add(m.ours, shape{Clients: 1, Slow: slowFlush}, "p5")
	add(m.ours, shape{Clients: 16})
	add(m.ours, shape{Clients: 64})
	many := add(m.ours, shape{Clients: 256}, "p1", "p3", "p6")
	add(m.ours, shape{Clients: 1, Bulk: perRequest})
	bulk := add(m.ours, shape{Clients: 16, Bulk: perRequest}, "p2")
	add(m.ours, shape{Clients: 64, Bulk: perRequest})
	add(m.ours, shape{Clients: 256, Bulk: perRequest / 4})
	var peer *series
	if m.peer != nil {
		add(m.peer, shape{Clients: 1})
		add(m.peer, shape{Clients: 16})
		add(m.peer, shape{Clients: 64})
		peer = add(m.peer, shape{Clients: 256}, "p3")
	}
	for range m.repeats {
		for _, s := range all {
			w, err := m.bench.window(ctx, m.options, s.side, s.Shape)
			if err != nil {
				return err
			}
			s.Windows = append(s.Windows, w)
		}
	}
	m.table("Closed loop: every client waits for its answer", all)

	if m.wants("p1") {
		m.atLeast("P1", of(many.Windows, window.verifyShare), 0.35, 0.60, "one hot verification ÷ CPU of scittd and PostgreSQL for a registration, %s clients", many.Shape)
	}
	if m.wants("p2") {
		m.atLeast("P2", of(bulk.Windows, window.verifyShare), 0.50, 1, "the same, clients: %s", bulk.Shape)
	}
	if m.wants("p3") {
		m.versusPeer(many.Windows, peer.Windows, "closed loop of %s clients", many.Shape)
	}
	if m.wants("p5") {
		sync := func(w window) time.Duration { return w.Fdatasync }
		m.atMost("P5", of(single.Windows, window.syncs), 2, 1.3, "p50 with 1 client in fdatasyncs, on this disk (8 KB: %s)", micros(of(single.Windows, sync)))
		m.atMost("P5", of(slow.Windows, window.syncs), 2, 1.3, "the same, a sleep of %s before every flush of the log (as measured, with the fdatasync: %s)", micros(slowFlush), micros(of(slow.Windows, sync)))
	}
	if m.wants("p6") {
		m.atMost("P6", ratio(of(single.Windows, window.total), of(many.Windows, window.total)), 4, 2, "CPU for a registration, 1 client over %s", many.Shape)
	}
	return nil
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(b) }

// latest is the p99 that a side is loaded up to, and bearable what it bears.
const latest = time.Second

func bearable(w window) bool { return w.P99 <= latest && w.Refused == 0 }

// openClients bounds the requests that are under way while nobody waits; what is
// due beyond waits for its turn, and the wait counts.
const openClients = 2048

// saturation raises the rate that is offered to each side until its p99 passes
// latest, whoever is to blame: requests come when they are due, whatever became
// of those before.
func (m *measurement) saturation(ctx context.Context) error {
	sides := []*series{
		{Side: m.ours.name, Shape: shape{Clients: openClients}, side: m.ours},
		{Side: m.peer.name, Shape: shape{Clients: openClients}, side: m.peer},
	}
	for repeat := range m.repeats {
		for _, s := range sides {
			from, step := s.side.rate[shape{Clients: 256}.String()]/2, 1.5
			if repeat > 0 {
				from, step = 0.8*s.Windows[repeat-1].rate(), 1.1
			}
			w, err := m.saturate(ctx, s.side, from, step)
			if err != nil {
				return err
			}
			s.Windows = append(s.Windows, w)
		}
	}
	for _, s := range sides {
		s.Shape.Rate = of(s.Windows, window.rate)
	}
	m.table("Open loop: the highest rate with p99 within "+latest.String(), sides)
	m.versusPeer(sides[0].Windows, sides[1].Windows, "open loop, each at its own saturation")
	return nil
}

// versusPeer adds the two ratios that make P3.
func (m *measurement) versusPeer(ours, theirs []window, how string, args ...any) {
	how = fmt.Sprintf(how, args...)
	m.atLeast("P3", of(ours, window.rate)/of(theirs, window.rate), 2, 4, "sustained rate over Tessera's, %s", how)
	m.atMost("P3", ratio(of(ours, window.total), of(theirs, window.total)), 0.8, 0.6, "CPU for a registration over Tessera's, %s", how)
}

// saturate returns the last window that s could bear. It goes down first where
// the rate to begin with is too much already.
func (m *measurement) saturate(ctx context.Context, s *side, rate, step float64) (window, error) {
	at := func(rate float64) (window, error) {
		return m.bench.window(ctx, m.options, s, shape{Clients: openClients, Rate: rate})
	}
	w, err := at(rate)
	for ; err == nil && !bearable(w) && rate > 1; w, err = at(rate) {
		rate /= step * step
	}
	for err == nil {
		rate *= step
		next, err := at(rate)
		if err != nil || !bearable(next) {
			return w, err
		}
		w = next
	}
	return w, err
}

// faults compares what good clients wait for while one request in ten is
// something else with what they wait for without.
func (m *measurement) faults(ctx context.Context) error {
	all := []*series{{Side: m.ours.name, Shape: shape{Clients: 64}, side: m.ours}}
	for _, f := range faults {
		all = append(all, &series{Side: m.ours.name, Shape: shape{Clients: 64, Fault: f}, side: m.ours})
	}
	for range m.repeats {
		for _, s := range all {
			w, err := m.bench.window(ctx, m.options, s.side, s.Shape)
			if err != nil {
				return err
			}
			s.Windows = append(s.Windows, w)
		}
	}
	m.table("Faults among the good: p50 and p99 are those of good requests", all)
	p99 := func(w window) time.Duration { return w.P99 }
	for _, s := range all[1:] {
		m.atMost("P11", ratio(of(s.Windows, p99), of(all[0].Windows, p99)), 2, 1.2, "p99 of good requests, 1 in %d %s, over that without", faulty, s.Shape.Fault)
	}
	return nil
}
