package embedded_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/scittd/scittd/storage/embedded"
)

// The test that kills processes also opens the folder of one that is alive.
func TestAFolderThatIsOpenIsRefusedUntilItIsClosed(t *testing.T) {
	dir := t.TempDir()
	first, err := embedded.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	refused(t, dir)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := embedded.Open(dir)
	if err != nil {
		t.Fatalf("after Close: %v", err)
	}
	defer second.Close()
	if err := first.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
	refused(t, dir)
}

func TestAnOpenThatFailsLetsGoOfTheFolder(t *testing.T) {
	dir := t.TempDir()
	database := filepath.Join(dir, "registry.db")
	if err := os.WriteFile(database, []byte("this is no database at all, but long enough to be asked"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := embedded.Open(dir); err == nil {
		t.Fatal("a broken registry.db was opened")
	}
	if err := os.Remove(database); err != nil {
		t.Fatal(err)
	}
	r, err := embedded.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// refused checks that the folder cannot be opened, and that the error says why.
func refused(t *testing.T, dir string) {
	t.Helper()
	r, err := embedded.Open(dir)
	if err == nil {
		r.Close()
		t.Fatal("a folder that is open was opened again")
	}
	for _, says := range []string{filepath.Join(dir, "lock"), "another process holds it"} {
		if !strings.Contains(err.Error(), says) {
			t.Errorf("error %q does not say %q", err, says)
		}
	}
}
