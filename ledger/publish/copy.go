package publish

import (
	"context"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/scittd/scittd/internal/detcbor"
	"github.com/scittd/scittd/ledger"
)

const (
	groupSize   = 256     // leaves
	groupHeight = 8       // of a tile in the tree
	window      = 1 << 14 // leaves that are copied between two looks at the lease
	workers     = 4       // groups that are copied at once
	sequence    = "application/cbor-seq"
	octets      = "application/octet-stream"
)

// copy puts everything into the bucket that a tree of size to has and one of size
// from, which the bucket shows, has not. When it loses the lease it stops.
func (p *Publisher) copy(ctx context.Context, from, to uint64) error {
	for at := max(from, p.copied); at < to; at = p.copied {
		next := min(to, (at/window+1)*window)
		if err := p.full(ctx, at, next); err != nil {
			return err
		}
		p.copied = next
		if err := p.lease(ctx); err != nil || !p.held {
			return err
		}
	}
	return p.partial(ctx, from, to)
}

// full copies the groups and tiles that are completed between two sizes.
func (p *Publisher) full(ctx context.Context, from, to uint64) error {
	jobs, ctx := errgroup.WithContext(ctx)
	jobs.SetLimit(workers)
	for n := from / groupSize; n < to/groupSize; n++ {
		jobs.Go(func() error { return p.group(ctx, n, groupSize, n*groupSize) })
	}
	for level := uint8(0); to>>height(level) > 0; level++ {
		for n := from >> height(level+1); n < to>>height(level+1); n++ {
			jobs.Go(func() error { return p.tile(ctx, ledger.TileID{Level: level, N: n}, groupSize) })
		}
	}
	return jobs.Wait()
}

// partial copies the groups and tiles at the right edge of a tree of size to, but
// for those that it has in common with one of size from.
func (p *Publisher) partial(ctx context.Context, from, to uint64) error {
	for level := uint8(0); to>>height(level) > from>>height(level); level++ {
		n, width := to>>height(level+1), int(to>>height(level)%groupSize)
		if width == 0 {
			continue
		}
		if err := p.tile(ctx, ledger.TileID{Level: level, N: n}, width); err != nil {
			return err
		}
		if level > 0 {
			continue
		}
		if err := p.group(ctx, n, width, max(from, n*groupSize)); err != nil {
			return err
		}
	}
	return nil
}

// height is how far above the leaves the hashes in tiles of a level are.
func height(level uint8) uint { return groupHeight * uint(level) }

func (p *Publisher) tile(ctx context.Context, id ledger.TileID, width int) error {
	b, err := p.log.Tile(ctx, id, width)
	if err != nil {
		return fmt.Errorf("tile %d/%d of width %d: %w", id.Level, id.N, width, err)
	}
	return p.bucket.write(ctx, fmt.Sprintf("tile/%d/%s", id.Level, ledger.TileNumber(id.N, width)), immutable(octets), content(b))
}

// group copies what is kept of the first width leaves of group n: statements from
// leaf first on.
func (p *Publisher) group(ctx context.Context, n uint64, width int, first uint64) error {
	number, end := ledger.TileNumber(n, width), n*groupSize+uint64(width)
	bundle, err := p.log.EntryBundle(ctx, n, width)
	if err != nil {
		return fmt.Errorf("entries %d of width %d: %w", n, width, err)
	}
	if err := p.bucket.write(ctx, "tile/entries/"+number, immutable(octets), content(bundle)); err != nil {
		return err
	}
	heads, err := p.heads(ctx, n*groupSize, end)
	if err != nil {
		return err
	}
	if err := p.bucket.write(ctx, "heads/"+number, immutable(sequence), content(heads)); err != nil {
		return err
	}
	return p.bucket.write(ctx, "statements/"+number, immutable(sequence), func(w io.Writer) error {
		return p.statements(ctx, w, first, end)
	})
}

// statements streams them: a group may have 256 MiB.
func (p *Publisher) statements(ctx context.Context, w io.Writer, from, to uint64) error {
	for from < to {
		leaves, err := p.log.Statements(ctx, from, int(to-from), ledger.Public)
		if err != nil {
			return err
		}
		if len(leaves) == 0 {
			return fmt.Errorf("%w: no statement %d", ledger.ErrCorrupt, from)
		}
		for _, leaf := range leaves {
			if _, err := w.Write(leaf.AppendCBOR(nil)); err != nil {
				return err
			}
		}
		from += uint64(len(leaves))
	}
	return nil
}

// heads is the sequence of those of a size above after, up to last.
func (p *Publisher) heads(ctx context.Context, after, last uint64) ([]byte, error) {
	heads, err := p.log.Heads(ctx, after, int(last-after))
	if err != nil {
		return nil, err
	}
	var all []byte
	for _, h := range heads {
		if h.Size > last {
			break
		}
		all = detcbor.AppendHead(all, detcbor.KindArray, 7)
		all = detcbor.AppendHead(all, detcbor.KindUint, h.Size)
		all = detcbor.AppendHead(all, detcbor.KindUint, h.PrevSize)
		all = detcbor.AppendBytes(all, h.Root[:])
		all = detcbor.AppendHead(all, detcbor.KindUint, uint64(h.Time.Unix()))
		all = detcbor.AppendHead(all, detcbor.KindUint, h.Policy)
		all = detcbor.AppendBytes(all, h.Protected)
		all = detcbor.AppendBytes(all, h.Signature)
	}
	return all, nil
}

// replaced notes which partial files of size from the tree of size to has full
// ones for. Others of these tiles have the same folder.
func (p *Publisher) replaced(from, to uint64) {
	note := func(prefix string) { p.stale = append(p.stale, stale{prefix + ".p/", time.Now()}) }
	for level := uint8(0); from>>height(level) > 0; level++ {
		n, width := from>>height(level+1), from>>height(level)%groupSize
		if width == 0 || to>>height(level+1) == n {
			continue
		}
		number := ledger.TileNumber(n, groupSize)
		note(fmt.Sprintf("tile/%d/%s", level, number))
		if level == 0 {
			note("tile/entries/" + number)
			note("heads/" + number)
			note("statements/" + number)
		}
	}
}

// sweepTime is how long newer entries may wait for partial files to go.
const sweepTime = 2 * time.Second

// sweep deletes partial files whose time has come, as far as it gets. What cannot
// be deleted, or is left by a process that ended before, takes room and nothing
// else.
func (p *Publisher) sweep(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, sweepTime)
	defer cancel()
	for len(p.stale) > 0 && time.Since(p.stale[0].since) >= p.o.Keep {
		err := p.bucket.delete(ctx, p.stale[0].prefix, groupSize)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			p.o.Log.WarnContext(ctx, "partial files stay published", "err", err)
		}
		p.stale = p.stale[1:]
	}
}
