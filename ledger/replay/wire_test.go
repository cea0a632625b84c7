package replay_test

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/replay"
	"github.com/scittd/scittd/policy"
)

func TestWhatIsWrittenIsReadBack(t *testing.T) {
	w, h := story(t)
	for name, want := range map[string]*held{"all": h, "public": readAll(t, w.db, w.ledger, ledger.Public)} {
		for _, n := range []int{1, 4, 100} {
			dir := filepath.Join(t.TempDir(), "log")
			want.save(t, dir, n)
			f, err := replay.OpenFolder(dir)
			if err != nil {
				t.Fatal(err)
			}
			i := 0
			for got, err := range f.Entries() {
				if err != nil {
					t.Fatal(err)
				}
				e := want.entries[i]
				// The statement says them, and so they are not sent twice.
				e.Issuer, e.Subject, e.MediaType, e.PredicateType, e.Evidence, e.Identity.Issuer = "", "", "", "", "", ""
				if len(e.Artifacts) == 0 {
					e.Artifacts = nil
				}
				if len(e.Collateral) == 0 {
					e.Collateral = nil
				}
				if !reflect.DeepEqual(got, e) {
					t.Errorf("%s, pages of %d: entry %d\n%+v, want\n%+v", name, n, i, got, e)
				}
				i++
			}
			if i != len(want.entries) {
				t.Errorf("%s, pages of %d: %d entries, want %d", name, n, i, len(want.entries))
			}
			f.Close()
		}
	}
}

// What a service sends is no reason to fall over, or to take more than was sent.
func FuzzDecisions(f *testing.F) {
	b, err := os.ReadFile(filepath.Join(recordedLog, "decisions.cbor"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[:4000])
	f.Add([]byte{0x83, 0x00, 0x61, 'k', 0x41, 0x00, 0x82, 0x00, 0x58, 0x20})
	f.Add([]byte{0x83, 0x01, 0x61, 'k', 0x40})
	f.Add([]byte{0x89, 0x00})
	f.Fuzz(func(t *testing.T, page []byte) {
		n, size, err := replay.ReadDecisions(page)
		if n > len(page)/34 || size > len(page) {
			t.Errorf("%d decisions and %d bytes of collateral from %d bytes (%v)", n, size, len(page), err)
		}
	})
}

// A list of numbers costs a byte each, and what they stand for is read each time.
func TestALongListInADecisionIsRefused(t *testing.T) {
	page := ledger.AppendDecided(nil, []ledger.Decided{{Collateral: slices.Repeat([]ledger.Collateral{{Kind: "x5chain", Data: []byte("chain")}}, 5000),
		Entry: ledger.Entry{RegisteredAt: time.Unix(1, 0), Identity: policy.Identity{Kind: policy.PinnedKey}}}})
	if n, _, err := replay.ReadDecisions(page); err == nil || !strings.Contains(err.Error(), "a list of 5000") {
		t.Errorf("%d decisions, %v", n, err)
	}
}
