//go:build unix

package memory

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// ErrShared: another process remembers in the same file. Two would take turns at
// overwriting each other, and what the file says would be neither's newest.
var ErrShared = errors.New("another process remembers in it")

// Hold keeps other processes from the file until Release, or the end of this one
// however it ends. What is locked lies beside the file, which is replaced by every
// write.
func (f *File) Hold() error {
	lock, err := os.OpenFile(f.Path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrShared
		}
		return errors.Join(fmt.Errorf("%s: %w", f.Name(), err), lock.Close())
	}
	f.lock = lock
	return nil
}

// Release ends Hold.
func (f *File) Release() error {
	if f.lock == nil {
		return nil
	}
	err := f.lock.Close()
	f.lock = nil
	return err
}
