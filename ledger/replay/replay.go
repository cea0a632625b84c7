// Package replay repeats every decision of a log, with nothing but what an
// auditor can download: statements, recorded decisions with their collateral,
// signed heads. A Folder keeps these; Run goes through them without network,
// database or clock.
//
// It holds against each other:
//
//   - Every statement and its leaf, the leaves and the root of every signed head,
//     the head's signature and a key that the log announced before, the time of
//     one head and that of the next, the names that heads are signed in, and that
//     no entry is there twice. What a receipt proves follows: a signed root,
//     and the arithmetic that leads to it. Receipts that were downloaded have to
//     say the same.
//   - The policy that a head names and the one that replay finds in force: the
//     first by policy.Bootstrap, the others by log order and the number of
//     operators who signed them.
//   - Every recorded decision and the one that replay makes of the statement, the
//     policy in force at its place, the time of its head and the collateral:
//     whether it is admitted at all, policy, rule, identity, artifacts,
//     visibility, time, and what was kept. Where the log itself had a say,
//     policy.Settle is asked with the entries before.
//
// What differs is a Deviation. What cannot be judged again, because the caller
// may not see it or its payload is gone, is a Gap: counted, named, and never
// taken for right. Of it only its leaf was checked and, where it shows, that its
// record could be such a decision's.
//
// It shares no code with the sequencer. It does not know whose operator key the
// first policy has to name: Report.Operator is for comparing with one that was
// obtained elsewhere.
package replay

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

// Source is what an auditor has of a log. It is asked from one goroutine, but for
// Evidence. What it returns is the caller's to keep.
type Source interface {
	// Size is how many entries there are: as many as the newest head covers.
	Size() uint64
	// Heads are all signed heads, smallest first.
	Heads() iter.Seq2[ledger.Head, error]
	// Entries are all of them, from index 0 on. It may be asked again.
	Entries() iter.Seq2[Entry, error]
	// Statement is that of one entry; nil where it is not shown.
	Statement(index uint64) ([]byte, error)
	// Receipts are those that the service gave away for some entries, by index.
	Receipts() (map[uint64][]byte, error)
	// Evidence are the bytes of that digest; nil: they are not at hand. It is safe
	// for concurrent use.
	Evidence(d statement.Digest) ([]byte, error)
}

// Entry is one leaf with what is shown of it.
type Entry struct {
	ledger.Decided
	Canonical []byte // nil where it is not shown
}

// Options of Run; the zero value judges everything on all cores.
type Options struct {
	From     uint64                // judge the entries from here on; those below are only in the tree, but for policies and announcements
	Workers  int                   // 0: as many as there are cores
	Found    func(Deviation)       // nil: they are only counted
	Progress func(at, size uint64) // nil: nobody is told
	Roots    []uint64              // sizes whose root Report.Roots is to have
}

// The kinds of Deviation.
const (
	Log      = "log"      // the tree, its heads, or what steers them is not what was signed
	Receipt  = "receipt"  // a receipt proves something else, or nothing
	Decision = "decision" // recorded, but not what replay finds
)

// Deviation is one thing that is recorded otherwise than replay finds it.
type Deviation struct {
	Kind     string       `json:"kind"`
	Object   string       `json:"object"`         // "entry 3", "head of size 101"
	Entry    statement.ID `json:"entry,omitzero"` // of an entry
	Rule     string       `json:"rule,omitempty"` // that decided, as replay finds it
	What     string       `json:"what"`
	Recorded string       `json:"recorded,omitempty"`
	Replayed string       `json:"replayed,omitempty"`
}

func (d Deviation) String() string {
	s := d.Object
	if d.Entry != (statement.ID{}) {
		s += " (" + d.Entry.String() + ")"
	}
	s += ": " + d.What
	if d.Recorded != "" || d.Replayed != "" {
		s += fmt.Sprintf(": recorded %s, replayed %s", d.Recorded, d.Replayed)
	}
	if d.Rule != "" {
		s += "; rule " + d.Rule
	}
	return s
}

// Gap are entries that could not be judged again, for one reason.
type Gap struct {
	Why     string   `json:"why"`
	Count   uint64   `json:"count"`
	Entries []uint64 `json:"entries"` // the first of them
}

// maxNamed is how many entries of a Gap are named.
const maxNamed = 100

// Report is what Run went through.
type Report struct {
	Size       uint64              `json:"size"`
	Root       [32]byte            `json:"-"`
	Heads      uint64              `json:"heads"`
	Policies   uint64              `json:"policies"` // that were in force
	Replayed   uint64              `json:"replayed"` // decisions that were made again
	Receipts   uint64              `json:"receipts"` // that were looked at
	Gaps       []Gap               `json:"gaps"`
	Deviations map[string]uint64   `json:"deviations"` // by kind
	Operator   string              `json:"operator"`   // RFC 9679 thumbprint of the key under the first policy, hex
	Service    string              `json:"service"`    // URL that the log says it is of
	Roots      map[uint64][32]byte `json:"-"`
	Announced  []ledger.Service    `json:"-"` // by service statements, oldest first
}

// Deviating is how many deviations there are.
func (r Report) Deviating() (n uint64) {
	for _, of := range r.Deviations {
		n += of
	}
	return n
}

// Missing is how many entries could not be judged again.
func (r Report) Missing() (n uint64) {
	for _, g := range r.Gaps {
		n += g.Count
	}
	return n
}

// What is judged at once: enough to keep all cores busy.
const (
	chunk      = 1024     // entries
	chunkBytes = 16 << 20 // of statements
)

var hasher = rfc6962.DefaultHasher

// errSource is the Source's failure, and no deviation.
var errSource = errors.New("read what was downloaded")

// Run replays a log. An error is the Source's, or that of ctx: nothing follows
// for the log. What is wrong with the log is told to o.Found, in log order.
func Run(ctx context.Context, src Source, o Options) (Report, error) {
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	r := &run{
		ctx: ctx, src: src, o: o, report: Report{Size: src.Size(), Deviations: map[string]uint64{}, Roots: map[uint64][32]byte{}, Gaps: []Gap{}},
		tree: (&compact.RangeFactory{Hash: hasher.HashChildren}).NewEmptyRange(0), steering: steering{places: map[[16]byte]uint64{}},
	}
	var stop func()
	r.nextHead, stop = iter.Pull2(src.Heads())
	defer stop()
	var err error
	if r.receipts, err = src.Receipts(); err != nil {
		return r.report, fmt.Errorf("%w: receipts: %w", errSource, err)
	}
	var page []*job
	size := 0
	for e, err := range src.Entries() {
		if err != nil {
			return r.report, fmt.Errorf("%w: entry %d: %w", errSource, r.at+uint64(len(page)), err)
		}
		page, size = append(page, &job{entry: e}), size+len(e.Canonical)
		if len(page) == chunk || size > chunkBytes {
			if err := r.replay(page); err != nil {
				return r.report, err
			}
			page, size = nil, 0
		}
	}
	if len(page) > 0 {
		if err := r.replay(page); err != nil {
			return r.report, err
		}
	}
	return r.report, r.finish()
}

// run is one replay under way. Its fields belong to the goroutine of Run; jobs
// are shared out among workers and come back.
type run struct {
	ctx      context.Context
	src      Source
	o        Options
	report   Report
	at       uint64 // entries below are done
	tree     *compact.Range
	receipts map[uint64][]byte
	steering
	history *history // nil until a decision asks for it
}

// job is one entry on its way through a replay.
type job struct {
	entry Entry
	s     *statement.Statement // nil: not shown, or no statement
	bad   error                // why it is no statement
	place
	head    *headJob // that closes behind it
	verdict verdict
	found   []Deviation
}

func (j *job) object() string { return fmt.Sprintf("entry %d", j.entry.Index) }

func (j *job) deviates(kind, what string) {
	j.found = append(j.found, Deviation{Kind: kind, Object: j.object(), Entry: j.entry.ID, What: what})
}

// replay goes through the entries of one page: reading is for everybody, where
// each stands is for one, judging for everybody again, and what depends on the
// order of the log for one.
func (r *run) replay(page []*job) error {
	if err := r.spread(len(page), func(i int) { page[i].read() }); err != nil {
		return err
	}
	var heads []*headJob
	for _, j := range page {
		if err := r.steer(j); err != nil {
			return err
		}
		if j.head != nil {
			heads = append(heads, j.head)
		}
	}
	err := r.spread(len(page)+len(heads), func(i int) {
		if i < len(page) {
			r.judge(page[i])
		} else {
			heads[i-len(page)].verify()
		}
	})
	if err != nil {
		return err
	}
	for _, j := range page {
		if err := r.settle(j); err != nil {
			return err
		}
		r.tell(j)
	}
	r.at += uint64(len(page))
	if r.o.Progress != nil {
		r.o.Progress(r.at, r.report.Size)
	}
	return nil
}

// spread calls f for 0 to n-1, on all workers, unless ctx ends.
func (r *run) spread(n int, f func(i int)) error {
	var next atomic.Int64
	var done sync.WaitGroup
	for range min(r.o.Workers, n) {
		done.Go(func() {
			for i := next.Add(1) - 1; i < int64(n) && r.ctx.Err() == nil; i = next.Add(1) - 1 {
				f(int(i))
			}
		})
	}
	done.Wait()
	return r.ctx.Err()
}

// tell passes on what was found of an entry, and of the head behind it.
func (r *run) tell(j *job) {
	found := j.found
	if j.head != nil {
		found = append(found, j.head.found...)
	}
	for _, d := range found {
		if d.Rule == "" && d.Kind == Decision {
			d.Rule = j.verdict.d.Rule
		}
		r.found(d)
	}
	switch {
	case r.passes(j):
	case j.verdict.gap != "":
		r.gap(j.verdict.gap, j.entry.Index)
	default:
		r.report.Replayed++
	}
}

func (r *run) found(d Deviation) {
	r.report.Deviations[d.Kind]++
	if r.o.Found != nil {
		r.o.Found(d)
	}
}

func (r *run) gap(why string, index uint64) {
	i := slices.IndexFunc(r.report.Gaps, func(g Gap) bool { return g.Why == why })
	if i < 0 {
		i = len(r.report.Gaps)
		r.report.Gaps = append(r.report.Gaps, Gap{Why: why, Entries: []uint64{}})
	}
	g := &r.report.Gaps[i]
	if g.Count++; g.Count <= maxNamed {
		g.Entries = append(g.Entries, index)
	}
}

// finish looks at what is left when all entries are done.
func (r *run) finish() error {
	if r.at != r.report.Size {
		return fmt.Errorf("%w: it ends at entry %d of %d", errSource, r.at, r.report.Size)
	}
	if r.head.Size != r.report.Size {
		return fmt.Errorf("%w: the newest head is of size %d, and there are %d entries", errSource, r.head.Size, r.report.Size)
	}
	for _, of := range []struct {
		what string
		row
	}{{"root", r.roots}, {"policy", r.policies}} {
		if of.more > 0 {
			r.found(Deviation{Kind: Log, Object: "heads", What: fmt.Sprintf("the %s of %d more is wrong, too", of.what, of.more)})
		}
	}
	for index := range r.receipts {
		return fmt.Errorf("%w: a receipt of entry %d, which is not there", errSource, index)
	}
	return nil
}
