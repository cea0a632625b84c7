package crash

import (
	"bytes"
	"fmt"
	"slices"
	"sync"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/internal/failpoint"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// entry is one statement, and what was promised for it.
type entry struct {
	id    statement.ID
	body  []byte
	image string // "": only in the ledger

	// Owned by the journal. nil: nothing was promised.
	receipt []byte
	index   uint64
}

// figures are what a campaign comes to.
type figures struct {
	Kills        int                     // of whatever is killed
	AtPoint      map[failpoint.Point]int // of those, by the process itself at a failpoint
	Acknowledged int
	Unanswered   int // registrations that a kill left without an answer
	Lost         int // acknowledged, and gone
	Duplicated   int // two leaves or two receipts for one statement
	Forked       int // two roots for one size, two entries at one index
}

func (f *figures) add(g figures) {
	f.Kills += g.Kills
	for p, n := range g.AtPoint {
		f.AtPoint[p] += n
	}
	f.Acknowledged += g.Acknowledged
	f.Unanswered += g.Unanswered
	f.Lost += g.Lost
	f.Duplicated += g.Duplicated
	f.Forked += g.Forked
}

func newFigures() figures { return figures{AtPoint: map[failpoint.Point]int{}} }

func (f figures) String() string {
	atPoint := 0
	for _, n := range f.AtPoint {
		atPoint += n
	}
	return fmt.Sprintf("%d kills (%d at failpoints): %d acknowledged, %d left unanswered by a kill; lost %d, duplicated %d, forked %d",
		f.Kills, atPoint, f.Acknowledged, f.Unanswered, f.Lost, f.Duplicated, f.Forked)
}

// journal is what one log has promised. It counts what contradicts it, and says
// what the first ones were.
type journal struct {
	mu       sync.Mutex
	keys     receipts.KeySet // that sign for the log
	figures  figures
	entries  []*entry            // all that were ever submitted
	roots    map[uint64][32]byte // by tree size
	indexes  map[uint64]statement.ID
	findings []string
}

func newJournal(keys ...cose.Key) *journal {
	return &journal{keys: keys, figures: newFigures(), roots: map[uint64][32]byte{}, indexes: map[uint64]statement.ID{}}
}

// find notes what is wrong. mu is held.
func (j *journal) find(count *int, format string, args ...any) {
	*count++
	if len(j.findings) < 20 {
		j.findings = append(j.findings, fmt.Sprintf(format, args...))
	}
}

// promised takes a receipt that was given for e, for the first time or again.
func (j *journal) promised(e *entry, receipt []byte) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if e.receipt != nil {
		if !bytes.Equal(e.receipt, receipt) {
			j.find(&j.figures.Duplicated, "entry %s has two receipts", e.id)
		}
		return
	}
	index, ok := j.proof(e, receipt)
	if !ok {
		return
	}
	e.receipt, e.index = receipt, index
	j.figures.Acknowledged++
	if other, taken := j.indexes[e.index]; taken && other != e.id {
		j.find(&j.figures.Forked, "index %d is that of %s and of %s", e.index, other, e.id)
	}
	j.indexes[e.index] = e.id
}

// proof takes a receipt of e under any head, and returns e's index. mu is held.
func (j *journal) proof(e *entry, receipt []byte) (index uint64, ok bool) {
	r, err := receipts.Parse(receipt)
	if err == nil {
		err = j.keys.Verify(r, e.id[:], receipts.Strict)
	}
	if err != nil {
		j.find(&j.figures.Forked, "the receipt of entry %s: %v", e.id, err)
		return 0, false
	}
	root, err := r.Root(e.id[:])
	if err != nil {
		j.find(&j.figures.Forked, "the receipt of entry %s: %v", e.id, err)
		return 0, false
	}
	j.root(r.Proofs[0].TreeSize, root)
	return r.Proofs[0].LeafIndex, true
}

// root takes a root that was signed. mu is held.
func (j *journal) root(size uint64, root [32]byte) {
	if other, known := j.roots[size]; known && other != root {
		j.find(&j.figures.Forked, "size %d has the roots %x and %x", size, other, root)
	}
	j.roots[size] = root
}

// lost notes that e was acknowledged and is not there.
func (j *journal) lost(e *entry, how string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.find(&j.figures.Lost, "entry %s, acknowledged at index %d: %s", e.id, e.index, how)
}

// open are the entries without a promise, acknowledged those with one.
func (j *journal) open() []*entry { return j.list(func(e *entry) bool { return e.receipt == nil }) }
func (j *journal) acknowledged() []*entry {
	return j.list(func(e *entry) bool { return e.receipt != nil })
}

func (j *journal) list(which func(*entry) bool) []*entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	var all []*entry
	for _, e := range j.entries {
		if which(e) {
			all = append(all, e)
		}
	}
	return slices.Clip(all)
}
