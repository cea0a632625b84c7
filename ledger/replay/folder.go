package replay

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"

	"github.com/scittd/scittd/internal/detcbor"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

// A folder that was downloaded has these files. Those of CBOR sequences (RFC
// 8742) are only ever added to; an item that an interruption cut off at the end
// is dropped when the download goes on.
//
//	log              the format, and the URL that it came from
//	heads.cbor       signed heads, by size: [size, previous size, root, iat, policy index, protected, signature]
//	statements.cbor  what GET /v1/statements answered: [index, bytes or null]
//	decisions.cbor   what GET /v1/decisions answered
//	receipts.cbor    receipts of some entries: [index, receipt]
//	evidence/<alg>-<hex>  payloads and envelopes that decisions were made over
const (
	logFile        = "log"
	headsFile      = "heads.cbor"
	statementsFile = "statements.cbor"
	decisionsFile  = "decisions.cbor"
	receiptsFile   = "receipts.cbor"
	evidenceFolder = "evidence"
)

// format is the first line of the log file.
const format = "scittd replay 1"

// maxItem bounds one item of a file: a document that was looked up is larger than
// any statement.
const maxItem = 16 << 20

// maxEvidence bounds one file of evidence: as much as a download keeps; maxLog the
// log file.
const (
	maxEvidence = 32 << 20
	maxLog      = 64 << 10
)

// ErrFolder: a folder is none of a download, or is damaged.
var ErrFolder = errors.New("no folder that a log was downloaded to")

// ErrIncomplete: the download has not come to the newest head that it knows.
var ErrIncomplete = errors.New("the download is not complete")

// Folder is a log that was downloaded, as a Source. Nothing of it is believed
// before Run has seen it.
type Folder struct {
	dir        string
	url        string
	head       ledger.Head // the newest
	heads      int64       // bytes of the file that are whole items, as are the following
	receipts   int64
	decided    decisions
	decisions  int64
	statements []int64  // where each begins, and where the last one ends
	file       *os.File // of statements, once one was asked for
	wanted     []Wanted
}

// Wanted are bytes that a decision was made over and the log has only the digest
// of.
type Wanted struct {
	Index  uint64
	ID     statement.ID
	Digest statement.Digest
}

var _ Source = (*Folder)(nil)

// OpenFolder opens a download for reading. ErrIncomplete: it has to go on first.
func OpenFolder(dir string) (*Folder, error) {
	f, err := scanFolder(dir)
	if err != nil {
		return nil, err
	}
	if f.head.Size == 0 || f.Statements() != f.head.Size || f.decided.next != f.head.Size {
		return nil, errors.Join(fmt.Errorf("%w: %s has %d statements and %d decisions of %d", ErrIncomplete, dir, f.Statements(), f.decided.next, f.head.Size), f.Close())
	}
	return f, nil
}

// openFile opens a file of a folder, which may be somebody else's making: a link
// leads out of it, and reading of a device does not end.
func openFile(name string) (*os.File, int64, error) {
	info, err := os.Lstat(name)
	if err != nil {
		return nil, 0, err
	}
	if !info.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%w: %s is no regular file", ErrFolder, name)
	}
	file, err := os.Open(name)
	return file, info.Size(), err
}

// readFile reads one of at most limit bytes whole.
func readFile(name string, limit int64) ([]byte, error) {
	file, size, err := openFile(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if size > limit {
		return nil, fmt.Errorf("%w: %s has %d bytes, of which at most %d are read", ErrFolder, name, size, limit)
	}
	return io.ReadAll(io.LimitReader(file, limit))
}

// scanFolder finds how far a download has come.
func scanFolder(dir string) (*Folder, error) {
	text, err := readFile(filepath.Join(dir, logFile), maxLog)
	first, url, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: %s has no file named %s", ErrFolder, dir, logFile)
	case err != nil:
		return nil, err
	case first != format:
		return nil, fmt.Errorf("%w: %s begins with %.40q, not with %q", ErrFolder, filepath.Join(dir, logFile), first, format)
	}
	f := &Folder{dir: dir, url: url, statements: []int64{0}}
	if f.heads, err = f.scan(headsFile, func(item []byte, _ int64) error {
		f.head, err = readHead(item)
		return err
	}); err != nil {
		return nil, err
	}
	if f.decisions, err = f.scan(decisionsFile, func(item []byte, _ int64) error {
		e, whole, err := f.decided.read(item)
		if whole {
			f.want(e)
		}
		return err
	}); err != nil {
		return nil, err
	}
	if _, err = f.scan(statementsFile, func(item []byte, end int64) error {
		index, _, err := readStatement(item)
		if err == nil && index != f.Statements() {
			err = fmt.Errorf("statement %d stands where %d belongs", index, f.Statements())
		}
		f.statements = append(f.statements, end)
		return err
	}); err != nil {
		return nil, err
	}
	f.receipts, err = f.scan(receiptsFile, func([]byte, int64) error { return nil })
	return f, err
}

// Close ends reading.
func (f *Folder) Close() error {
	if f.file == nil {
		return nil
	}
	return f.file.Close()
}

// URL is where it came from.
func (f *Folder) URL() string { return f.url }

// Statements is how many there are, and Decided how many decisions.
func (f *Folder) Statements() uint64 { return uint64(len(f.statements) - 1) }
func (f *Folder) Decided() uint64    { return f.decided.next }

// Head is the newest; of size 0, when there is none.
func (f *Folder) Head() ledger.Head { return f.head }

// want notes what e was decided over, if the log has only its digest.
func (f *Folder) want(e ledger.Decided) {
	for _, c := range e.Collateral {
		if c.Kind == ledger.PayloadCollateral || c.Kind == policy.EvidenceDocument {
			f.wanted = append(f.wanted, Wanted{e.Index, e.ID, statement.Digest(c.Data)})
		}
	}
}

// scan calls each for every whole item of a file, with the place behind it. What
// an interruption left at the end is not one.
func (f *Folder) scan(name string, each func(item []byte, end int64) error) (end int64, err error) {
	file, size, err := openFile(filepath.Join(f.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer file.Close()
	sequence := detcbor.NewSequence(bufio.NewReaderSize(file, 1<<20), maxItem)
	for {
		item, err := sequence.Next()
		switch {
		case err == io.EOF:
			return end, nil
		case errors.Is(err, detcbor.ErrSequence) && size-end <= maxItem:
			return end, nil
		case err != nil:
			return end, fmt.Errorf("%w: %s: %w", ErrFolder, file.Name(), err)
		}
		end += int64(len(item))
		if err := each(item, end); err != nil {
			return end, fmt.Errorf("%w: %s before byte %d: %w", ErrFolder, file.Name(), end, err)
		}
	}
}

// items are the items of a file, as far as it was scanned.
func (f *Folder) items(name string, size int64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		if size == 0 {
			return
		}
		file, _, err := openFile(filepath.Join(f.dir, name))
		if err != nil {
			yield(nil, err)
			return
		}
		defer file.Close()
		sequence := detcbor.NewSequence(bufio.NewReaderSize(io.LimitReader(file, size), 1<<20), maxItem)
		for {
			item, err := sequence.Next()
			if err == io.EOF || !yield(item, err) || err != nil {
				return
			}
		}
	}
}

// Size is that of the newest head.
func (f *Folder) Size() uint64 { return f.head.Size }

// Heads are all heads.
func (f *Folder) Heads() iter.Seq2[ledger.Head, error] {
	return func(yield func(ledger.Head, error) bool) {
		for item, err := range f.items(headsFile, f.heads) {
			var h ledger.Head
			if err == nil {
				h, err = readHead(item)
			}
			if !yield(h, err) || err != nil {
				return
			}
		}
	}
}

// Entries are those that the newest head covers.
func (f *Folder) Entries() iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		next, stop := iter.Pull2(f.items(statementsFile, f.statements[len(f.statements)-1]))
		defer stop()
		var d decisions
		for item, err := range f.items(decisionsFile, f.decisions) {
			if d.next == f.head.Size {
				return
			}
			var e Entry
			whole := false
			if err == nil {
				e.Decided, whole, err = d.read(item)
			}
			if err == nil && whole {
				e.Canonical, err = nextStatement(next, e.Index)
			}
			if (whole || err != nil) && !yield(e, err) || err != nil {
				return
			}
		}
	}
}

func nextStatement(next func() ([]byte, error, bool), want uint64) ([]byte, error) {
	item, err, ok := next()
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("%w: statement %d is missing", ErrFolder, want)
	}
	index, canonical, err := readStatement(item)
	if err == nil && index != want {
		err = fmt.Errorf("%w: statement %d stands where %d belongs", ErrFolder, index, want)
	}
	return canonical, err
}

// Statement is that of one entry.
func (f *Folder) Statement(index uint64) ([]byte, error) {
	if index >= f.Statements() {
		return nil, fmt.Errorf("%w: statement %d is missing", ErrFolder, index)
	}
	if f.file == nil {
		var err error
		if f.file, _, err = openFile(filepath.Join(f.dir, statementsFile)); err != nil {
			return nil, err
		}
	}
	item := make([]byte, f.statements[index+1]-f.statements[index])
	if _, err := f.file.ReadAt(item, f.statements[index]); err != nil {
		return nil, err
	}
	_, canonical, err := readStatement(item)
	return canonical, err
}

// Receipts are those that were downloaded.
func (f *Folder) Receipts() (map[uint64][]byte, error) {
	all := map[uint64][]byte{}
	for item, err := range f.items(receiptsFile, f.receipts) {
		if err != nil {
			return nil, err
		}
		index, receipt, err := readStatement(item)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrFolder, receiptsFile, err)
		}
		if index < f.head.Size {
			all[index] = receipt
		}
	}
	return all, nil
}

// Evidence are bytes that were downloaded.
func (f *Folder) Evidence(d statement.Digest) ([]byte, error) {
	b, err := readFile(f.evidence(d), maxEvidence)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

func (f *Folder) evidence(d statement.Digest) string {
	return filepath.Join(f.dir, evidenceFolder, strings.Replace(string(d), ":", "-", 1))
}
