//go:build unix

// Package filelock says whose a file or a folder is: one process at a time holds
// the lock. The kernel drops it when the process ends, however it ends; the file
// stays, empty, and means nothing by itself.
package filelock

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// Take takes the lock on the file at path, which it makes when it is not there,
// or refuses at once because somebody holds it, perhaps this process. Closing
// the file lets go of it.
func Take(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = errors.New("another process holds it: stop that one first")
		}
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return f, nil
}
