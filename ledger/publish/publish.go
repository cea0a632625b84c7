// Package publish copies the public log into a bucket, from where a plain file
// server or a CDN shows it to auditors, also while the service is down.
//
// What is in the bucket, under the paths of C2SP tlog-tiles and beside them:
//
//	checkpoint                    signed note
//	tile/<L>/<N>[.p/<W>]          hashes
//	tile/entries/<N>[.p/<W>]      the IDs under them
//	statements/<N>[.p/<W>]        CBOR sequence of [leaf index, bytes of the statement, or null where it is private]
//	heads/<N>[.p/<W>]             CBOR sequence of signed heads, by size: [size, previous size, root, iat, policy index, protected, signature]
//	scitt-keys                    COSE_KeySet that verifies heads and receipts
//
// <N> counts groups of 256 leaves, so that statements/<N> are those of the leaves
// under tile/0/<N>, and heads/<N> those of sizes 256N+1 to 256N+256. Partial
// files are there for the sizes that were published. A partial file of statements
// has only what the one before lacks: when its first leaf is 256N+i and i is not
// 0, then <N>.p/<i> is the file that goes before it. Once a group is full,
// partial files are deleted.
//
// What it promises:
//
//   - A checkpoint is written when everything that it covers is there, so that
//     the bucket is a whole log at any moment. In a folder that holds across a
//     power cut too: files and folders are synced before the checkpoint is.
//   - What is left to do is in the bucket and nowhere else: whatever the log has
//     beyond the checkpoint there. Crashes and outages cost time, an empty bucket
//     is filled, and nothing else waits for it.
//   - The checkpoint does not go back, whichever process writes it: those with one
//     store take a lease, and whoever has it looks before it writes.
//   - Where the bucket's checkpoint is not one of this log's, or of a size that the
//     log does not have any more, nothing is written.
//
// It does not verify signatures, and it does not know HTTP, databases or keys.
package publish

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/receipts"
)

// Log is what is published. *ledger.Ledger is one.
type Log interface {
	Head(ctx context.Context) (ledger.Head, error)
	Keys() receipts.KeySet
	Tile(ctx context.Context, id ledger.TileID, width int) ([]byte, error)
	EntryBundle(ctx context.Context, n uint64, width int) ([]byte, error)
	Heads(ctx context.Context, after uint64, limit int) ([]ledger.Head, error)
	Statements(ctx context.Context, from uint64, limit int, scope ledger.Scope) ([]ledger.Leaf, error)
}

var _ Log = (*ledger.Ledger)(nil)

// ErrForeign: the bucket shows what this log cannot continue.
var ErrForeign = errors.New("the bucket has another log")

const (
	leaseTime = 20 * time.Second
	// lookAgain is how long the bucket is taken to have what was seen there.
	lookAgain = time.Minute
	maxDelay  = time.Minute // between attempts
	// finishTime is how long the newest entries have to get out at the end.
	finishTime = 3 * time.Second
)

// Options of New.
type Options struct {
	// Checkpoint returns the newest checkpoint of the Log that may be shown, with
	// whatever cosignatures it has; nil: there is none yet.
	Checkpoint func(context.Context) ([]byte, error)
	Every      time.Duration // how often to look for a newer one; 0: 1 s
	Keep       time.Duration // how long partial files stay behind full ones, for audits under way; 0: 10 min
	Log        *slog.Logger  // nil: silent
}

// Publisher keeps one bucket up to date. Start it with Run.
type Publisher struct {
	log    Log
	leases ledger.Leases
	bucket *bucket
	owner  string // this Publisher, among those with the same leases
	o      Options

	// Of Publish, which runs once at a time.
	held   bool
	last   []byte    // the checkpoint that the bucket was seen to have, or a newer one
	looked time.Time // when it was seen
	size   uint64    // of the tree that this process published
	copied uint64    // what full tiles are over, up to here, is in the bucket
	stale  []stale
}

// stale are partial files that the full one has replaced.
type stale struct {
	prefix string
	since  time.Time
}

// New returns a Publisher to the bucket of a URL: file:///folder, which is made
// if need be, or what else is linked. It does not look whether it is there.
func New(url string, l Log, leases ledger.Leases, o Options) (*Publisher, error) {
	b, err := newBucket(url)
	if err != nil {
		return nil, err
	}
	if o.Every <= 0 {
		o.Every = time.Second
	}
	if o.Keep <= 0 {
		o.Keep = 10 * time.Minute
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Publisher{log: l, leases: leases, bucket: b, owner: rand.Text(), o: o}, nil
}

// Close gives the bucket back. Run must have ended.
func (p *Publisher) Close() error { return p.bucket.Close() }

// Run publishes until ctx ends, and then what came last.
func (p *Publisher) Run(ctx context.Context) {
	delay := p.o.Every
	for {
		err := p.Publish(ctx)
		switch {
		case ctx.Err() != nil:
			p.finish(context.WithoutCancel(ctx))
			return
		case err != nil:
			delay = min(2*delay, maxDelay)
			level := slog.LevelWarn
			if errors.Is(err, ErrForeign) || errors.Is(err, ledger.ErrCorrupt) {
				level = slog.LevelError
			}
			p.o.Log.Log(ctx, level, "log not published", "err", err, "published", p.size, "again", delay)
		case delay > p.o.Every:
			delay = p.o.Every
			p.o.Log.InfoContext(ctx, "log published again", "size", p.size)
		}
		select {
		case <-ctx.Done():
		case <-time.After(delay):
		}
	}
}

// finish publishes up to the head, whose checkpoint may be a moment away, and
// lets another process take over.
func (p *Publisher) finish(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, finishTime)
	defer cancel()
	for limited.Err() == nil {
		if err := p.Publish(limited); err != nil {
			p.o.Log.WarnContext(ctx, "log not published at the end", "err", err, "published", p.size)
			break
		}
		head, err := p.log.Head(limited)
		if err != nil || !p.held || p.size >= head.Size {
			break
		}
		select {
		case <-limited.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
	if p.held {
		release, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if _, err := p.leases.Lease(release, p.work(), p.owner, 0); err != nil {
			p.o.Log.WarnContext(ctx, "lease on publishing not given back", "err", err)
		}
	}
}

// work names what processes with the same bucket take turns at.
func (p *Publisher) work() string { return "publish " + p.bucket.name }

// lease makes this process the one that publishes, or says that it is not.
func (p *Publisher) lease(ctx context.Context) (err error) {
	p.held, err = p.leases.Lease(ctx, p.work(), p.owner, leaseTime)
	return err
}

// Publish brings the bucket up to the newest checkpoint. It has nothing to do
// when another process does it.
func (p *Publisher) Publish(ctx context.Context) error {
	p.sweep(ctx)
	signed, err := p.o.Checkpoint(ctx)
	if err != nil || signed == nil {
		return err
	}
	if bytes.Equal(signed, p.last) && time.Since(p.looked) < lookAgain {
		return nil
	}
	next, err := parseCheckpoint(signed)
	if err != nil {
		return err
	}
	if err := p.lease(ctx); err != nil || !p.held {
		return err
	}
	if err := p.bucket.open(ctx); err != nil {
		return err
	}
	at, err := p.published(ctx, next.origin)
	if err != nil {
		return err
	}
	if at.covers(next) {
		p.see(next)
		return nil
	}
	from := at.size
	switch {
	case at.damaged:
		from = p.size
	case at.size < p.size:
		p.o.Log.WarnContext(ctx, "the bucket has lost what was published", "published", p.size, "found", at.size)
		p.size, p.copied = 0, 0
	}
	if err := p.copy(ctx, from, next.size); err != nil || !p.held {
		return err
	}
	return p.show(ctx, at, next)
}

// published is the checkpoint in the bucket, which must be one of this log's. One
// that cannot be read counts as none; but who has seen the bucket with a sound one
// does not take this damage for the loss of all that it covered.
func (p *Publisher) published(ctx context.Context, origin string) (checkpoint, error) {
	b, err := p.bucket.read(ctx, checkpointKey, maxCheckpoint)
	if err != nil || b == nil {
		return checkpoint{}, err
	}
	at, err := parseCheckpoint(b)
	if err != nil {
		p.o.Log.WarnContext(ctx, "the bucket's checkpoint is damaged, and written again", "err", err, "published", p.size)
		return checkpoint{damaged: true}, nil
	}
	if at.origin != origin {
		return checkpoint{}, fmt.Errorf("%w: its checkpoint is of %.80q, this log's are of %q", ErrForeign, at.origin, origin)
	}
	return at, p.continues(ctx, at)
}

// continues refuses to write over what this log cannot continue: then it was
// rolled back, or the bucket is another's.
func (p *Publisher) continues(ctx context.Context, at checkpoint) error {
	if at.size == 0 {
		return nil
	}
	heads, err := p.log.Heads(ctx, at.size-1, 1)
	switch {
	case err != nil:
		return err
	case len(heads) == 0:
		return fmt.Errorf("%w: its checkpoint is of size %d, which this log does not reach: was the database restored from a backup?", ErrForeign, at.size)
	case heads[0].Size != at.size || heads[0].Root != at.root:
		return fmt.Errorf("%w: its checkpoint is of size %d with root %x, which was not signed here", ErrForeign, at.size, at.root)
	}
	return nil
}

// show writes the checkpoint, everything under it being there.
//
// Before it looks whether another process has come between: this one may have
// been stopped for longer than its lease. What is left is a write that takes
// longer than the rest of the lease, so it is given less.
func (p *Publisher) show(ctx context.Context, at, next checkpoint) error {
	if err := p.bucket.settle(); err != nil {
		return err
	}
	if err := p.lease(ctx); err != nil || !p.held {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, leaseTime/2)
	defer cancel()
	if again, err := p.published(ctx, next.origin); err != nil || !bytes.Equal(again.signed, at.signed) {
		return err // the next time goes on from there
	}
	keys, err := p.log.Keys().Marshal()
	if err != nil {
		return err
	}
	if err := p.bucket.write(ctx, keysKey, mutable("application/cbor"), content(keys)); err != nil {
		return err
	}
	if err := p.bucket.write(ctx, checkpointKey, mutable("text/plain; charset=utf-8"), content(next.signed)); err != nil {
		return err
	}
	if err := p.bucket.settle(); err != nil {
		return err
	}
	p.see(next)
	p.replaced(at.size, next.size)
	return nil
}

// see remembers that the bucket has next, or a newer one.
func (p *Publisher) see(next checkpoint) {
	p.last, p.looked, p.size = next.signed, time.Now(), next.size
}
