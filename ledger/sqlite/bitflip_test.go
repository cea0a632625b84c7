package sqlite_test

import (
	"bytes"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/fsck"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/ledger/sqlite"
)

var (
	flips    = flag.Int("corruption.flips", 60, "bits to flip, one at a time")
	flipSeed = flag.Uint64("corruption.seed", 1, "where")
)

// A bit is flipped anywhere in the file. Either the file does not open, or fsck
// finds it, or it is where it changes nothing: CheckLog, which is another
// checker, finds the log sound and receipts are what they were. Whatever the
// damage, no receipt is ever another one.
func TestOneFlippedBitIsFoundOrHarmless(t *testing.T) {
	sound, err := os.ReadFile(soundLog(t, 32))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "flipped.db")
	write := func(content []byte) {
		for _, side := range []string{"-wal", "-shm"} {
			if err := os.Remove(path + side); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(sound)
	s := open(t, path)
	want, _ := receiptsOf(t, s)
	if err := s.Close(); err != nil || len(want) < 60 {
		t.Fatalf("%d receipts of the sound log, %v", len(want), err)
	}
	chance := rand.New(rand.NewPCG(*flipSeed, 0))
	closed, found, harmless, missed := 0, 0, 0, 0
	for range *flips {
		at, bit := chance.IntN(len(sound)), byte(1)<<chance.IntN(8)
		flipped := bytes.Clone(sound)
		flipped[at] ^= bit
		write(flipped)
		s, err := sqlite.Open(t.Context(), path)
		if err != nil {
			closed++
			continue
		}
		findings := 0
		_, err = fsck.Check(t.Context(), s, func(fsck.Finding) { findings++ })
		got, served := receiptsOf(t, s)
		for i, r := range got {
			if !bytes.Equal(r, want[i]) {
				t.Errorf("byte %d, bit %08b: entry %d has another receipt", at, bit, i)
			}
		}
		switch {
		case findings > 0 || err != nil:
			found++
		default:
			if err := ledgertest.CheckLog(t.Context(), s); err != nil || !served {
				t.Errorf("byte %d, bit %08b: fsck finds nothing; receipts served %v, CheckLog: %v", at, bit, served, err)
				missed++
			} else {
				harmless++
			}
		}
		if err := s.Close(); err != nil {
			t.Logf("byte %d, bit %08b: close: %v", at, bit, err)
		}
	}
	t.Logf("%d bits of %d bytes flipped: %d files did not open, %d found by fsck, %d harmless, %d missed",
		*flips, len(sound), closed, found, harmless, missed)
}

// receiptsOf serves the newest receipts, as far as it can; all says that it could.
func receiptsOf(t *testing.T, s *sqlite.Store) (got map[uint64][]byte, all bool) {
	t.Helper()
	got = map[uint64][]byte{}
	l, err := ledger.Open(t.Context(), s, ledger.Options{})
	if err != nil {
		return got, false
	}
	defer l.Close(t.Context())
	found, err := l.Find(t.Context(), ledger.Query{Scope: ledger.All, Limit: 60})
	all = err == nil && len(found) == 60
	for _, e := range found {
		r, err := l.Receipt(t.Context(), e.ID, ledger.All)
		if err != nil {
			all = false
			continue
		}
		got[e.Index] = r
	}
	return got, all
}
