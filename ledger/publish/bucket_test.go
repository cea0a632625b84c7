package publish_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"gocloud.dev/blob"
	"gocloud.dev/blob/driver"
	"gocloud.dev/gcerrors"

	"github.com/scittd/scittd/ledger/ledgertest"
)

// fated is a bucket in a folder that fails on command. Its URL is fated:// and the
// name that fates has it under.
type fated struct {
	driver.Bucket // what nobody asks for
	folder        string
	fate          *fate
}

// fate decides over what is written to a bucket, in the order of coming.
type fate struct {
	folder string

	mu    sync.Mutex
	call  int // that ends as by says; 0: none
	by    ledgertest.Fault
	calls []string
}

// begin counts anew.
func (f *fate) begin(call int, by ledgertest.Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.call, f.by, f.calls = call, by, nil
}

var fates sync.Map // by name

func init() { blob.DefaultURLMux().RegisterBucket("fated", opener{}) }

type opener struct{}

func (opener) OpenBucketURL(_ context.Context, u *url.URL) (*blob.Bucket, error) {
	f, ok := fates.Load(u.Host)
	if !ok {
		return nil, errors.New("no such bucket")
	}
	return blob.NewBucket(fated{folder: f.(*fate).folder, fate: f.(*fate)}), nil
}

// run lets do happen, or not, and says so or not.
func (f *fate) run(call string, do func() error) error {
	f.mu.Lock()
	f.calls = append(f.calls, call)
	fault := ledgertest.None
	if len(f.calls) == f.call {
		fault = f.by
	}
	f.mu.Unlock()
	switch fault {
	case ledgertest.NotApplied:
		return ledgertest.ErrFault
	case ledgertest.Applied:
		return errors.Join(ledgertest.ErrFault, do())
	}
	return do()
}

func (b fated) path(key string) string { return filepath.Join(b.folder, filepath.FromSlash(key)) }

// NewTypedWriter writes a file that is whole or not there.
func (b fated) NewTypedWriter(ctx context.Context, key, _ string, _ *driver.WriterOptions) (driver.Writer, error) {
	return &fatedWriter{b: b, ctx: ctx, key: key}, nil
}

type fatedWriter struct {
	bytes.Buffer
	b   fated
	ctx context.Context
	key string
}

func (w *fatedWriter) Close() error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	return w.b.fate.run("write "+w.key, func() error {
		path := w.b.path(w.key)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		return os.WriteFile(path, w.Bytes(), 0o600)
	})
}

func (b fated) Delete(_ context.Context, key string, _ *driver.DeleteOptions) error {
	return b.fate.run("delete "+key, func() error { return os.Remove(b.path(key)) })
}

func (b fated) NewRangeReader(_ context.Context, key string, offset, length int64, _ *driver.ReaderOptions) (driver.Reader, error) {
	content, err := os.ReadFile(b.path(key))
	if err != nil {
		return nil, err
	}
	size := int64(len(content))
	return fatedReader{io.NewSectionReader(bytes.NewReader(content), offset, min(length, size-offset)), size}, nil
}

type fatedReader struct {
	io.Reader
	size int64
}

func (r fatedReader) Close() error { return nil }
func (r fatedReader) As(any) bool  { return false }
func (r fatedReader) Attributes() *driver.ReaderAttributes {
	return &driver.ReaderAttributes{Size: r.size}
}

// ListPaged lists everything in one page.
func (b fated) ListPaged(_ context.Context, o *driver.ListOptions) (*driver.ListPage, error) {
	page := &driver.ListPage{}
	err := filepath.WalkDir(b.folder, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(b.folder, path)
		if key := filepath.ToSlash(name); strings.HasPrefix(key, o.Prefix) {
			page.Objects = append(page.Objects, &driver.ListObject{Key: key})
		}
		return err
	})
	return page, err
}

func (b fated) ErrorCode(err error) gcerrors.ErrorCode {
	if errors.Is(err, os.ErrNotExist) {
		return gcerrors.NotFound
	}
	return gcerrors.Unknown
}

func (b fated) As(any) bool             { return false }
func (b fated) ErrorAs(error, any) bool { return false }
func (b fated) Close() error            { return nil }
