package filelock_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/scittd/scittd/internal/filelock"
)

// That a killed process lets go is shown where processes are killed: by the
// embedded registry's tests.
func TestLockIsHeldByOneAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := filelock.Take(path)
	if err != nil {
		t.Fatal(err)
	}
	second, err := filelock.Take(path)
	if err == nil {
		second.Close()
		t.Fatal("a lock was taken twice")
	}
	for _, says := range []string{path, "another process holds it"} {
		if !strings.Contains(err.Error(), says) {
			t.Errorf("error %q does not say %q", err, says)
		}
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	third, err := filelock.Take(path)
	if err != nil {
		t.Fatalf("after it was let go: %v", err)
	}
	if err := third.Close(); err != nil {
		t.Error(err)
	}
}
