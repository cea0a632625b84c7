package registrar

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
	"github.com/scittd/scittd/storage"
)

// imageIndexes are those that have come by, on their way to the ledger.
type imageIndexes struct {
	queue chan imageIndex

	mu   sync.Mutex
	kept map[statement.Digest]bool // lately, and so need not be kept again; true: when it was claimed
}

// imageIndex is what one lists.
type imageIndex struct {
	digest    statement.Digest
	manifests []statement.Digest
}

const (
	queuedIndexes     = 64
	rememberedIndexes = 4096
)

func newImageIndexes() imageIndexes {
	return imageIndexes{queue: make(chan imageIndex, queuedIndexes), kept: map[statement.Digest]bool{}}
}

// readIndex reads an image index, which must have the digest.
func readIndex(digest statement.Digest, body []byte) (imageIndex, error) {
	index := imageIndex{digest: digest}
	for _, text := range storage.Listed(body) {
		if d, err := statement.ParseDigest(text); err == nil && d != digest {
			index.manifests = append(index.manifests, d)
		}
	}
	if len(index.manifests) == 0 {
		return imageIndex{}, fmt.Errorf("%w: %s lists no manifest", ledger.ErrNoIndex, digest)
	}
	// SPEC OCI image-spec 1.1 "Verification": content fetched from untrusted
	// sources SHOULD be verified against the digest before it is used.
	if !digest.Matches(body) {
		return imageIndex{}, fmt.Errorf("%w: these bytes do not have digest %s", ledger.ErrNoIndex, digest)
	}
	return index, nil
}

// KeepIndex remembers what the image index of that digest lists. ledger.ErrNoIndex;
// ledger.ErrTooLarge, when it lists more than is kept.
func (c *Custodian) KeepIndex(ctx context.Context, digest statement.Digest, body []byte) error {
	index, err := readIndex(digest, body)
	if err != nil {
		return err
	}
	return c.keep(ctx, index, false)
}

// keep keeps an index. One that is not claimed yet may be one too many, and counts
// once it is: so it is kept again then.
func (c *Custodian) keep(ctx context.Context, index imageIndex, claimed bool) error {
	err := c.evidences.KeepIndex(ctx, index.digest, index.manifests)
	if err == nil || errors.Is(err, ledger.ErrTooLarge) { // which it will be for ever
		c.images.add(index.digest, claimed)
	}
	return err
}

// SawIndex is KeepIndex for those who cannot wait, and whose work does not depend
// on it: when there is too much, or no database, it forgets.
func (c *Custodian) SawIndex(digest statement.Digest, body []byte) {
	if c.Knows(digest) {
		return
	}
	index, err := readIndex(digest, body)
	if err != nil || len(index.manifests) > ledger.MaxListed {
		return
	}
	select {
	case c.images.queue <- index:
	default:
	}
}

// sawImage is KeepIndex for an image that a claim is hung on, which may be no index
// at all.
func (c *Custodian) sawImage(ctx context.Context, digest statement.Digest, body []byte) {
	if c == nil {
		return
	}
	if _, claimed := c.images.has(digest); claimed {
		return
	}
	index, err := readIndex(digest, body)
	if err == nil {
		err = c.keep(ctx, index, true)
	}
	if err != nil && !errors.Is(err, ledger.ErrNoIndex) && ctx.Err() == nil {
		c.o.Log.WarnContext(ctx, "image index not kept", "index", digest, "err", err)
	}
}

// Knows says that an image index was kept lately, so that it need not be read.
func (c *Custodian) Knows(digest statement.Digest) bool {
	kept, _ := c.images.has(digest)
	return kept
}

// keepIndexes keeps what SawIndex has queued.
func (c *Custodian) keepIndexes(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case index := <-c.images.queue:
			if err := c.keep(ctx, index, false); err != nil && ctx.Err() == nil {
				c.o.Log.WarnContext(ctx, "image index not kept", "index", index.digest, "err", err)
			}
		}
	}
}

func (i *imageIndexes) has(d statement.Digest) (kept, claimed bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	claimed, kept = i.kept[d]
	return kept, claimed
}

func (i *imageIndexes) add(d statement.Digest, claimed bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.kept) >= rememberedIndexes {
		clear(i.kept)
	}
	i.kept[d] = claimed || i.kept[d]
}
