package witness

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// Backoff of a witness that does not cosign: firstDelay doubling to maxDelay,
// with full jitter, so that many logs do not come back at once.
const (
	firstDelay = time.Second
	maxDelay   = time.Minute
)

// CosignerOptions are settings of NewCosigner; zero values take the default.
type CosignerOptions struct {
	Every   time.Duration    // about how often to look for a newer checkpoint; 1 s
	Timeout time.Duration    // for all that one cosignature takes; 10 s
	Refresh time.Duration    // how old the cosignatures of an idle log may become; 10 min
	File    string           // keeps the newest cosigned checkpoint across restarts; "": nothing does
	Clock   func() time.Time // time.Now
	Log     *slog.Logger
}

// Cosigner has the newest checkpoints cosigned, one after the other, and keeps
// the newest that has the quorum of its policy. Start it with Run; the other
// methods are safe for concurrent use and wait for nobody.
//
// It works on one checkpoint at a time, for a quorum is one of cosignatures on
// the same checkpoint. All witnesses are asked at once. The next checkpoint's
// turn comes when the quorum is there, or nobody is left who might bring it; a
// witness that is still thinking then joins again when it has answered.
//
// Every replica of a log may run one: witnesses decide what they cosign, and
// answer again when they are asked again. So a Cosigner that lost its memory
// has it back with its first answers.
type Cosigner struct {
	log    Log
	policy *Policy
	o      CosignerOptions

	shown atomic.Pointer[cosigned] // the newest with its quorum; nil: none yet

	// Owned by Run.
	current *candidate
	peers   []*peer
	answers chan reply // has room for all peers, so that no worker waits for Run
	lacking bool       // the last candidate went without its quorum
	blind   bool       // the log showed no checkpoint the last time

	mu     sync.Mutex // held for a copy, never across a request
	states []WitnessStatus
}

// cosigned is a checkpoint with its quorum. It never changes.
type cosigned struct {
	of    *candidate // nil: read from the file
	size  uint64
	bytes []byte
}

// candidate is a checkpoint that collects cosignatures.
type candidate struct {
	checkpoint
	begun     time.Time
	pending   int                 // requests under way
	lines     map[*Witness]string // verified cosignatures
	overtaken bool                // by one that another replica had cosigned
}

func (c *candidate) has(w *Witness) bool { return c.lines[w] != "" }

// peer is a witness as the Cosigner deals with it.
type peer struct {
	*Witness
	at       int // its place in states
	busy     bool
	failures int // in a row
	next     time.Time
}

// reply is what became of one request.
type reply struct {
	from *peer
	to   *candidate
	line string
	err  error
}

// The states of a witness.
const (
	Unknown = "unknown" // it has not answered yet
	Cosigns = "cosigns"
	Failing = "failing" // no cosignature this time; it is asked again
	Ahead   = "ahead"   // it knows a larger tree: the log was rolled back
	Forked  = "forked"  // it knows another history
)

// Status is what an operator wants to know.
type Status struct {
	Size      uint64 // of the newest checkpoint that has its quorum; 0: none has
	Witnesses []WitnessStatus
}

// WitnessStatus is how one witness stands.
type WitnessStatus struct {
	Name  string
	State string
	Size  uint64    // that it cosigned last for this process, or names as Ahead
	Since time.Time // of State
	Err   error     // why it does not cosign
}

// NewCosigner returns a Cosigner of the log whose checkpoints key verifies.
// Witnesses without a URL are not asked; those with one must be able to make a
// quorum. What CosignerOptions.File holds is shown at once if it satisfies the
// policy, and forgotten otherwise.
func NewCosigner(l Log, key note.Verifier, p *Policy, o CosignerOptions) (*Cosigner, error) {
	if o.Every <= 0 {
		o.Every = time.Second
	}
	if o.Timeout <= 0 {
		o.Timeout = 10 * time.Second
	}
	if o.Refresh <= 0 {
		o.Refresh = 10 * time.Minute
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if !p.quorum.met(func(w *Witness) bool { return w.url != "" }) {
		return nil, errors.New("witness policy: the witnesses with a URL cannot make a quorum")
	}
	c := &Cosigner{log: l, policy: p, o: o}
	for i, w := range p.Asked() {
		c.peers = append(c.peers, &peer{Witness: w, at: i})
		c.states = append(c.states, WitnessStatus{Name: w.name, State: Unknown, Since: o.Clock()})
	}
	c.answers = make(chan reply, len(c.peers))
	c.load(key)
	return c, nil
}

// Checkpoint returns the newest checkpoint that has its quorum, with all the
// cosignatures that came for it; nil: none has. Sizes never go back. Where the
// policy asks for no cosignature, that is the newest checkpoint there is, with
// those that it has.
func (c *Cosigner) Checkpoint(ctx context.Context) ([]byte, error) {
	var signed []byte
	if shown := c.shown.Load(); shown != nil {
		signed = shown.bytes
	}
	if !c.policy.None() {
		return signed, nil
	}
	newest, err := c.log.Checkpoint(ctx)
	if err == nil && bytes.HasPrefix(signed, newest) {
		return signed, nil
	}
	return newest, err
}

// Status tells how the witnesses stand.
func (c *Cosigner) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Status{Witnesses: slices.Clone(c.states)}
	if shown := c.shown.Load(); shown != nil {
		s.Size = shown.size
	}
	return s
}

// Run works until ctx ends, then waits for the requests under way, which end
// with it.
func (c *Cosigner) Run(ctx context.Context) {
	tick := time.NewTimer(0)
	defer tick.Stop()
	for {
		select {
		case r := <-c.answers:
			c.take(r)
		case <-tick.C:
			c.ask(ctx)
			// In step with each other, one replica would overtake another for ever.
			tick.Reset(c.o.Every/2 + rand.N(c.o.Every))
		case <-ctx.Done():
			for c.underWay() {
				r := <-c.answers
				r.from.busy = false
			}
			return
		}
	}
}

func (c *Cosigner) underWay() bool {
	return slices.ContainsFunc(c.peers, func(p *peer) bool { return p.busy })
}

// ask sends the current candidate to every witness that is free, is due, and
// has not cosigned it.
func (c *Cosigner) ask(ctx context.Context) {
	c.follow(ctx)
	cand := c.current
	if cand == nil {
		return
	}
	for _, p := range c.peers {
		if p.busy || cand.has(p.Witness) || c.o.Clock().Before(p.next) {
			continue
		}
		p.busy = true
		cand.pending++
		go func() {
			ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
			defer cancel()
			line, err := p.Cosign(ctx, c.log, cand.signed)
			c.answers <- reply{p, cand, line, err}
		}()
	}
}

// follow replaces a candidate that is settled by the newest checkpoint, or by
// the same once its cosignatures are old.
//
// SPEC C2SP tlog-cosignature: a cosignature says what was the largest tree at
// its time, so that an idle log needs new ones too.
func (c *Cosigner) follow(ctx context.Context) {
	last := c.current
	if last != nil && last.pending > 0 && !c.policy.quorum.met(last.has) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	signed, err := c.log.Checkpoint(ctx)
	var cp checkpoint
	if err == nil {
		cp, err = parseCheckpoint(signed)
	}
	if err != nil {
		if !c.blind && ctx.Err() == nil {
			c.o.Log.Warn("no checkpoint for witnesses", "err", err)
		}
		c.blind = true
		return
	}
	c.blind = false
	now := c.o.Clock()
	if last != nil && last.text == cp.text && now.Sub(last.begun) < c.o.Refresh {
		return
	}
	if last != nil {
		c.judge(last)
	}
	c.current = &candidate{checkpoint: cp, begun: now, lines: map[*Witness]string{}}
}

// judge says once that checkpoints go without their quorum, and once that they
// have it again. Where replicas overtake each other, one of them has it.
func (c *Cosigner) judge(last *candidate) {
	lacks := !c.policy.quorum.met(last.has)
	if lacks == c.lacking || lacks && last.overtaken {
		return
	}
	c.lacking = lacks
	if lacks {
		c.o.Log.Warn("checkpoints have no quorum of witnesses", "size", last.size, "cosignatures", len(last.lines))
	} else {
		c.o.Log.Info("checkpoints have their quorum of witnesses again", "size", last.size)
	}
}

// take notes what became of a request, and shows a checkpoint that has its
// quorum now, or one more cosignature.
func (c *Cosigner) take(r reply) {
	r.from.busy = false
	r.to.pending--
	if errors.Is(r.err, errOvertaken) {
		r.to.overtaken = true
		r.from.failures, r.from.next = 0, time.Time{}
		return // the next checkpoint may come first
	}
	if r.err != nil {
		c.put(r.from, r.err)
		return
	}
	r.from.failures, r.from.next = 0, time.Time{}
	c.state(r.from, WitnessStatus{State: Cosigns, Size: r.to.size})
	r.to.lines[r.from.Witness] = r.line

	shown := c.shown.Load()
	if shown != nil && shown.of != r.to && shown.size > r.to.size || !c.policy.quorum.met(r.to.has) {
		return // a larger one took its place, or it is not there yet
	}
	next := &cosigned{of: r.to, size: r.to.size, bytes: bytes.Clone(r.to.signed)}
	for _, w := range c.policy.Witnesses {
		next.bytes = append(next.bytes, r.to.lines[w]...)
	}
	c.shown.Store(next)
	if c.o.File != "" {
		if err := writeFile(c.o.File, next.bytes); err != nil {
			c.o.Log.Warn("cosigned checkpoint not kept", "err", err)
		}
	}
}

// put puts off a witness that did not cosign.
//
// One that is ahead may have heard from another replica, so the next try, with
// a checkpoint that was looked for afterwards, decides. Then, and when there is
// another history, nothing that this process does can change the answer: it is
// asked at the longest interval, in case somebody repairs the log.
func (c *Cosigner) put(p *peer, err error) {
	p.failures++
	state, delay := WitnessStatus{State: Failing, Err: err}, backoff(p.failures)
	if ahead := (*AheadError)(nil); errors.As(err, &ahead) {
		state.Size = ahead.Size
		if delay = 2 * c.o.Every; p.failures > 1 {
			state.State, delay = Ahead, maxDelay
		}
	}
	if errors.Is(err, ErrFork) {
		state.State, delay = Forked, maxDelay
	}
	p.next = c.o.Clock().Add(delay)
	c.state(p, state)
}

// backoff is exponential with full jitter.
func backoff(failures int) time.Duration {
	limit := maxDelay
	if failures < 8 { // beyond, the shift exceeds maxDelay anyway
		limit = min(maxDelay, firstDelay<<(failures-1))
	}
	return rand.N(limit) + 1
}

// state records how a witness stands, and logs when that changed.
func (c *Cosigner) state(p *peer, s WitnessStatus) {
	c.mu.Lock()
	old := c.states[p.at]
	s.Name, s.Since = old.Name, old.Since
	if s.State != old.State {
		s.Since = c.o.Clock()
	}
	if s.Size == 0 {
		s.Size = old.Size
	}
	c.states[p.at] = s
	c.mu.Unlock()

	if s.State == old.State {
		return
	}
	switch s.State {
	case Ahead:
		c.o.Log.Error("a witness knows more of this log than the log itself: it was rolled back", "witness", s.Name, "cosigned", s.Size, "err", s.Err)
	case Forked:
		c.o.Log.Error("a witness knows another history of this log", "witness", s.Name, "err", s.Err)
	case Failing:
		c.o.Log.Warn("witness does not cosign", "witness", s.Name, "err", s.Err)
	case Cosigns:
		c.o.Log.Info("witness cosigns", "witness", s.Name, "size", s.Size)
	}
}

// load shows what the file holds, after a restart.
func (c *Cosigner) load(key note.Verifier) {
	if c.o.File == "" {
		return
	}
	signed, err := os.ReadFile(c.o.File)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var cp Checkpoint
	if err == nil {
		cp, err = c.policy.Open(signed, key)
	}
	if err != nil {
		c.o.Log.Warn("kept checkpoint is no use any more", "file", c.o.File, "err", err)
		return
	}
	c.shown.Store(&cosigned{size: cp.Size, bytes: signed})
}

// writeFile replaces a file. It is not synced: who reads it verifies it, and
// after a power cut the witnesses can be asked again.
func writeFile(file string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
