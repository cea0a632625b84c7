package publish_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/ledger/publish"
)

var pairs = flag.Int("pairs", 60, "pairs of faults to try, drawn by lot; 0: all there are")

// trouble is what becomes of one write, and who goes on after it: the process that
// met it, or one that knows nothing.
type trouble struct {
	call    int // 0: none
	by      ledgertest.Fault
	another bool
}

func (f trouble) String() string {
	if f.call == 0 {
		return "no fault"
	}
	return fmt.Sprintf("write %d %s, another process %v", f.call, f.by, f.another)
}

// site is a log that was published up to one size and has grown over the edge of
// a group: full files replace partial ones, which are deleted.
type site struct {
	*world
	before string // the folder as it was
	fate   *fate
}

const (
	shown = 254
	grown = 258
)

func newSite(t *testing.T) *site {
	w := newWorld(t)
	w.growTo(shown)
	w.publish(w.fresh())
	s := &site{world: w, before: t.TempDir(), fate: &fate{folder: w.folder}}
	if err := os.CopyFS(s.before, os.DirFS(w.folder)); err != nil {
		t.Fatal(err)
	}
	w.growTo(grown)
	fates.Store("site", s.fate)
	return s
}

// publisher of the folder, which fate rules over.
func (s *site) publisher() *publish.Publisher {
	return s.world.publisher(func(p *parts) { p.url, p.leases, p.o.Keep = "fated://site", always{}, time.Nanosecond })
}

// suffer publishes with the first fault, goes on with the second, and then with
// nothing in the way. After each, all that the folder shows is recomputed. It
// returns what was written each time.
func (s *site) suffer(first, second trouble) (calls [3][]string) {
	s.Helper()
	if err := errors.Join(os.RemoveAll(s.folder), os.CopyFS(s.folder, os.DirFS(s.before))); err != nil {
		s.Fatal(err)
	}
	p, at := s.publisher(), uint64(shown)
	for i, f := range []trouble{first, second, {}} {
		s.fate.begin(f.call, f.by)
		err := p.Publish(s.ctx)
		calls[i] = s.fate.calls
		hit := f.call > 0 && f.call <= len(calls[i])
		if write := hit && strings.HasPrefix(calls[i][f.call-1], "write "); (err != nil) != write {
			s.Errorf("%v; %v: attempt %d: %v", first, second, i, err)
		}
		size := s.audit()
		if size != grown && (size != shown || err == nil) || size < at {
			s.Errorf("%v; %v: attempt %d: published up to %d after %d", first, second, i, size, at)
		}
		if at = size; f.another {
			p = s.publisher()
		}
	}
	return calls
}

// troubles are what may become of so many calls.
func troubles(calls int) (all []trouble) {
	for n := range calls {
		for _, by := range []ledgertest.Fault{ledgertest.NotApplied, ledgertest.Applied} {
			all = append(all, trouble{n + 1, by, false}, trouble{n + 1, by, true})
		}
	}
	return all
}

func TestWhateverBecomesOfAWriteTheFolderIsAWholeLogAndTheRestFollows(t *testing.T) {
	s := newSite(t)
	calls := s.suffer(trouble{}, trouble{})
	written, deleted := calls[0], calls[1]
	if len(written) < 10 || len(deleted) < 3 || slices.Index(written, "write checkpoint") != len(written)-1 {
		t.Fatalf("written %q, then %q", written, deleted)
	}
	type pair struct{ first, second trouble }
	var all []pair
	for _, second := range troubles(len(deleted)) {
		s.suffer(trouble{}, second)
	}
	for _, first := range troubles(len(written)) {
		again := s.suffer(first, trouble{})[1]
		for _, second := range troubles(len(again)) {
			all = append(all, pair{first, second})
		}
	}
	tried := len(all)
	if *pairs > 0 && *pairs < tried {
		rand.Shuffle(tried, func(i, j int) { all[i], all[j] = all[j], all[i] })
		tried = *pairs
	}
	for _, p := range all[:tried] {
		s.suffer(p.first, p.second)
	}
	t.Logf("%d writes, %d deletions, %d of %d pairs of faults", len(written), len(deleted), tried, len(all))
}

func TestADamagedCheckpointIsWrittenAgainAndNotAllThatItCovered(t *testing.T) {
	s := newSite(t)
	p := s.publisher()
	s.publish(p)
	size := uint64(grown)
	for _, damage := range []string{"", "half a note\n", strings.Repeat("x", 1<<20)} {
		if err := os.WriteFile(filepath.Join(s.folder, "checkpoint"), []byte(damage), 0o600); err != nil {
			t.Fatal(err)
		}
		size++
		s.growTo(size)
		s.fate.begin(0, ledgertest.None)
		s.publish(p)
		if got := s.audit(); got != size {
			t.Errorf("published up to %d, want %d", got, size)
		}
		wrote := slices.DeleteFunc(s.fate.calls, func(c string) bool { return strings.HasPrefix(c, "delete ") })
		if len(wrote) > 7 { // tiles of two levels, entries, heads, statements, keys, checkpoint
			t.Errorf("for one entry more, written again: %q", wrote)
		}
	}
	if err := os.WriteFile(filepath.Join(s.folder, "checkpoint"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.fate.begin(0, ledgertest.None)
	s.publish(s.publisher())
	if !slices.Contains(s.fate.calls, "write tile/0/000") {
		t.Errorf("who knows nothing of the bucket wrote %q, want everything", s.fate.calls)
	}
	s.audit()
}

func TestFilesThatNobodyPublishedAreNotListedForEver(t *testing.T) {
	s := newSite(t)
	p := s.publisher()
	s.publish(p)
	foreign := filepath.Join(s.folder, "tile", "0", "000.p")
	for n := range 600 {
		if err := os.WriteFile(filepath.Join(foreign, fmt.Sprintf("x%d", n)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.fate.begin(0, ledgertest.None)
	s.publish(p)
	left, err := os.ReadDir(foreign)
	if err != nil || len(left) < 600-256 {
		t.Errorf("of 600 files that are not ours %d are left: %v", len(left), err)
	}
	s.audit()
}
