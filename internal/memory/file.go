package memory

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/scittd/scittd/receipts"
)

// File remembers in a file, which should lie on another volume than the
// database, and must not be restored together with it. One process writes to it,
// which holds it.
type File struct {
	Path string
	lock *os.File // nil: not held
}

var _ Keeper = (*File)(nil)

// Name is the file's.
func (f *File) Name() string { return "file " + f.Path }

// Last reads the file. One that is there and cannot be understood is an error:
// whatever it said, it may have been a veto.
func (f *File) Last(context.Context) (Remembered, error) {
	in, err := os.Open(f.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return Remembered{}, ErrNothing
	}
	if err != nil {
		return Remembered{}, err
	}
	defer in.Close()
	b, err := io.ReadAll(io.LimitReader(in, maxDocument))
	if err != nil {
		return Remembered{}, err
	}
	return decode(b)
}

// Keep replaces the file: a crash leaves the old head or the new one.
func (f *File) Keep(_ context.Context, h receipts.SignedHead) (err error) {
	folder := filepath.Dir(f.Path)
	out, err := os.CreateTemp(folder, "."+filepath.Base(f.Path)+"-*")
	if err != nil {
		return fmt.Errorf("remember size %d: %w", h.Size, err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("remember size %d: %w", h.Size, errors.Join(err, os.Remove(out.Name())))
		}
	}()
	_, err = out.Write(encode(h))
	if err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	if err = os.Rename(out.Name(), f.Path); err != nil {
		return err
	}
	in, err := os.Open(folder)
	if err != nil {
		return err
	}
	return errors.Join(in.Sync(), in.Close())
}

// Shelf is a place elsewhere for one small document, such as a tag in a registry.
type Shelf interface {
	Name() string
	// Get returns the document; ErrNothing when the place is empty.
	Get(ctx context.Context) ([]byte, error)
	Put(ctx context.Context, document []byte) error
}

// Shelved remembers on a Shelf, which replicas may share: see Guard.
type Shelved struct{ Shelf }

var _ Keeper = Shelved{}

// Last reads the shelf.
func (s Shelved) Last(ctx context.Context) (Remembered, error) {
	b, err := s.Get(ctx)
	if err != nil {
		return Remembered{}, err
	}
	return decode(b)
}

// Keep writes it.
func (s Shelved) Keep(ctx context.Context, h receipts.SignedHead) error { return s.Put(ctx, encode(h)) }
