package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/fileblob" // file://
	"gocloud.dev/gcerrors"
)

// Two files change; everything else has one content for ever.
const (
	checkpointKey = "checkpoint"
	keysKey       = "scitt-keys"
)

// bucket is where files are written. In a folder they are made durable: a file
// system may keep the checkpoint over a power cut and lose what was written
// before it.
type bucket struct {
	*blob.Bucket // nil: not open yet
	address      string
	name         string // the address without secrets
	local        bool   // a folder

	mu      sync.Mutex
	folders map[string]bool // with names that are not durable yet
}

// newBucket checks an address. Whether there is something, open finds out.
func newBucket(address string) (*bucket, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme == "" {
		return nil, fmt.Errorf("bucket %q is not a URL such as file:///srv/log", address)
	}
	if schemes := blob.DefaultURLMux(); !schemes.ValidBucketScheme(u.Scheme) {
		return nil, fmt.Errorf("bucket %s: this binary has no bucket of scheme %s, only of %s", u.Redacted(), u.Scheme, strings.Join(schemes.BucketSchemes(), ", "))
	}
	b := &bucket{address: address, name: u.Redacted(), folders: map[string]bool{}}
	if u.Scheme == "file" {
		if u.Host != "" || u.RawQuery != "" || !filepath.IsAbs(u.Path) || filepath.Clean(u.Path) == "/" {
			return nil, fmt.Errorf("bucket %q is not the URL of a folder, such as file:///srv/log", address)
		}
		// Temporary files beside their place, for renaming works in one file
		// system only; and no attributes in files of their own, which a file
		// server would show.
		b.local = true
		b.address += "?create_dir=true&no_tmp_dir=true&metadata=skip"
	}
	return b, nil
}

// open opens the bucket unless it is.
func (b *bucket) open(ctx context.Context) (err error) {
	if b.Bucket == nil {
		b.Bucket, err = blob.OpenBucket(ctx, b.address)
	}
	return err
}

// Close lets go of it.
func (b *bucket) Close() error {
	if b.Bucket == nil {
		return nil
	}
	return b.Bucket.Close()
}

// kind is how a file is served, where the bucket can say so.
type kind struct{ content, cache string }

func immutable(content string) kind { return kind{content, "public, max-age=31536000, immutable"} }

// SPEC C2SP tlog-tiles: a checkpoint is not cached beyond a few seconds.
func mutable(content string) kind { return kind{content, "max-age=5"} }

func content(b []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	}
}

// write makes the file with what fill writes, or leaves what was there. It is
// durable after settle.
func (b *bucket) write(ctx context.Context, key string, k kind, fill func(io.Writer) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var file *os.File // that is written, in a folder
	w, err := b.NewWriter(ctx, key, &blob.WriterOptions{
		ContentType: k.content, CacheControl: k.cache,
		BeforeWrite: func(as func(any) bool) error {
			as(&file)
			return nil
		},
	})
	if err != nil {
		return fmt.Errorf("publish %s: %w", key, err)
	}
	err = fill(w)
	switch {
	case err != nil || !b.local:
	case file == nil:
		err = errors.New("the file cannot be made durable: its bucket does not show it")
	default:
		err = file.Sync()
	}
	if err != nil {
		cancel() // without it Close would put half a file in place
		w.Close()
		return fmt.Errorf("publish %s: %w", key, err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("publish %s: %w", key, err)
	}
	if b.local {
		b.renamed(filepath.Dir(file.Name()), key)
	}
	return nil
}

// renamed remembers the folders that have key's file somewhere below them.
func (b *bucket) renamed(folder, key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for range strings.Count(key, "/") + 1 {
		b.folders[folder] = true
		folder = filepath.Dir(folder)
	}
}

// settle makes durable what was written.
func (b *bucket) settle() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for folder := range b.folders {
		f, err := os.Open(folder)
		if err != nil {
			return fmt.Errorf("publish: %w", err)
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return fmt.Errorf("publish: %w", err)
		}
		delete(b.folders, folder)
	}
	return nil
}

// read returns a small file, nil when it is not there.
func (b *bucket) read(ctx context.Context, key string, limit int64) ([]byte, error) {
	r, err := b.NewRangeReader(ctx, key, 0, limit, nil)
	if gcerrors.Code(err) == gcerrors.NotFound {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read published %s: %w", key, err)
	}
	content, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil {
		return nil, fmt.Errorf("read published %s: %w", key, err)
	}
	return content, nil
}

// delete removes what is under a prefix, up to so many files: what is beyond was
// not published.
func (b *bucket) delete(ctx context.Context, prefix string, limit int) error {
	files := b.List(&blob.ListOptions{Prefix: prefix})
	for range limit {
		f, err := files.Next(ctx)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list published %s: %w", prefix, err)
		}
		if err := b.Delete(ctx, f.Key); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
			return fmt.Errorf("delete published %s: %w", f.Key, err)
		}
	}
	return nil
}
