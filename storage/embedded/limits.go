package embedded

import (
	"fmt"
	"io"
	"sync/atomic"
	"syscall"
)

// Limits bound what callers may leave here. The zero value bounds only uploads.
type Limits struct {
	// Quota is how many bytes of blobs, manifests and unfinished uploads clients
	// may fill over HTTP; beyond, they are answered 403 DENIED. What the service
	// places itself counts, but is never held up by it. 0: no quota.
	Quota int64

	// FreeSpace is what must be left on the volume; below, every push is
	// answered 507 and fails in process, too. 0: any.
	FreeSpace int64

	// Uploads is how many uploads may be open, and RepositoryUploads how many of
	// one repository. Where there are that many, the oldest that nobody touched
	// for an hour make room; else 429 TOOMANYREQUESTS. 0: 10,000 and 1,000.
	Uploads, RepositoryUploads int
}

// Limit sets the limits. Before the first request.
func (r *Registry) Limit(l Limits) {
	if l.Uploads <= 0 {
		l.Uploads = 10_000
	}
	if l.RepositoryUploads <= 0 {
		l.RepositoryUploads = 1_000
	}
	r.limits = l
}

// Usage is how many bytes blobs, manifests and unfinished uploads have.
func (r *Registry) Usage() int64 { return r.used.Load() }

// roomOnDisk refuses a push when the volume is about to be full: the ledger
// may lie on the same one, and SQLite needs space to delete.
func (r *Registry) roomOnDisk() error {
	if r.limits.FreeSpace == 0 {
		return nil
	}
	free, err := r.free(r.dir)
	if err != nil {
		return fmt.Errorf("look for free space: %w", err)
	}
	if free < r.limits.FreeSpace {
		return refuse(507, "DENIED", "the registry's disk is almost full: %d bytes are free, %d must be", free, r.limits.FreeSpace)
	}
	return nil
}

// freeSpace is what a volume has left for those who are not root.
func freeSpace(dir string) (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return int64(s.Bavail) * int64(s.Bsize), nil
}

// claim is what one request takes of the quota while its bytes have no row yet.
// Without it many requests at once could all take the last bytes.
type claim struct {
	of    *Registry
	bytes int64
}

// take counts n bytes more, or refuses them. What is refused does not count, so
// it is not in the way of others.
func (c *claim) take(n int64) error {
	quota := c.of.limits.Quota
	if quota == 0 || n == 0 {
		return nil
	}
	if claimed := c.of.claimed.Add(n); c.of.used.Load()+claimed > quota {
		c.of.claimed.Add(-n)
		return refuse(403, "DENIED", "the registry is full: its quota is %d bytes", quota)
	}
	c.bytes += n
	return nil
}

// fits refuses what is announced to be too much, and what comes when the quota
// is full already. It takes nothing: who only announces must not be in the way.
func (c *claim) fits(announced int64) error {
	quota := c.of.limits.Quota
	if quota > 0 && max(announced, 1) > quota-c.of.used.Load()-c.of.claimed.Load() {
		return refuse(403, "DENIED", "the registry is full: its quota is %d bytes", quota)
	}
	return nil
}

// release ends the request.
func (c *claim) release() {
	c.of.claimed.Add(-c.bytes)
	c.bytes = 0
}

// claiming is a body whose bytes are counted as they come.
type claiming struct {
	io.Reader
	claim *claim
}

func (b claiming) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if refused := b.claim.take(int64(n)); refused != nil {
		return 0, refused
	}
	return n, err
}

// counters are what limits are held against.
type counters struct {
	used    atomic.Int64 // bytes with a row; set by the writer
	claimed atomic.Int64 // bytes of requests under way
}
