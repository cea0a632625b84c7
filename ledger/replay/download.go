package replay

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/scittd/scittd/internal/detcbor"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

// Download is a Folder that is being filled: what comes is added behind what is
// there. It has one owner, and reads nothing from a network itself.
type Download struct{ Folder }

// NewDownload makes a folder for what comes from url, or goes on with one.
// ErrFolder: it is there, and of another log or of none.
func NewDownload(dir, url string) (*Download, error) {
	name := filepath.Join(dir, logFile)
	if _, err := os.Stat(name); errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(filepath.Join(dir, evidenceFolder), 0o755); err != nil {
			return nil, err
		}
		if others, err := os.ReadDir(dir); err != nil {
			return nil, err
		} else if len(others) > 1 {
			return nil, fmt.Errorf("%w: %s is not empty", ErrFolder, dir)
		}
		if err := os.WriteFile(name, []byte(format+"\n"+url+"\n"), 0o644); err != nil {
			return nil, err
		}
	}
	f, err := scanFolder(dir)
	if err != nil {
		return nil, err
	}
	d := &Download{Folder: *f}
	if d.url != url {
		return nil, errors.Join(fmt.Errorf("%w: %s is of %s", ErrFolder, dir, d.url), d.Close())
	}
	// Where a run was cut off inside an item, the next one begins at its place.
	for file, size := range map[string]int64{
		headsFile: d.heads, decisionsFile: d.decisions, receiptsFile: d.receipts, statementsFile: d.statements[len(d.statements)-1],
	} {
		err := os.Truncate(filepath.Join(dir, file), size)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, errors.Join(err, d.Close())
		}
	}
	return d, nil
}

// AddHeads adds heads behind the newest one.
func (d *Download) AddHeads(heads []ledger.Head) error {
	var b []byte
	var err error
	for _, h := range heads {
		if h.PrevSize != d.head.Size || h.Size <= h.PrevSize {
			return fmt.Errorf("a head of size %d behind %d was sent where one behind %d belongs", h.Size, h.PrevSize, d.head.Size)
		}
		if b, err = appendHead(b, h); err != nil {
			return err
		}
		d.head = h
	}
	d.heads += int64(len(b))
	return d.append(headsFile, b)
}

// AddStatements adds a page that GET /v1/statements answered, and says how many
// statements it had.
func (d *Download) AddStatements(page []byte) (n int, err error) {
	end := d.statements[len(d.statements)-1]
	for item, err := range itemsOf(page) {
		if err != nil {
			return n, err
		}
		index, _, err := readStatement(item)
		if err != nil {
			return n, err
		}
		if index != d.Statements() {
			return n, fmt.Errorf("statement %d was sent where %d belongs", index, d.Statements())
		}
		end += int64(len(item))
		d.statements = append(d.statements, end)
		n++
	}
	return n, d.append(statementsFile, page)
}

// AddDecisions adds a page that GET /v1/decisions answered, and says how many
// decisions it had.
func (d *Download) AddDecisions(page []byte) (n int, err error) {
	for item, err := range itemsOf(page) {
		if err != nil {
			return n, err
		}
		e, whole, err := d.decided.read(item)
		if err != nil {
			return n, err
		}
		if whole {
			n++
			d.want(e)
		}
	}
	d.decisions += int64(len(page))
	return n, d.append(decisionsFile, page)
}

// Wanted are those bytes that are not there yet.
func (d *Download) Wanted() []Wanted {
	var left []Wanted
	for _, w := range d.wanted {
		if _, err := statement.ParseDigest(string(w.Digest)); err != nil {
			continue // replay will say so
		}
		if _, err := os.Stat(d.evidence(w.Digest)); err != nil {
			left = append(left, w)
		}
	}
	return left
}

// AddEvidence keeps bytes, unless they have another digest.
func (d *Download) AddEvidence(digest statement.Digest, content []byte) error {
	if !digest.Matches(content) {
		return fmt.Errorf("other bytes were sent than those of %s", digest)
	}
	half := d.evidence(digest) + ".part"
	// What an interruption left there, or somebody else: a link would be followed.
	if err := os.Remove(half); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(half, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(half, d.evidence(digest))
}

// AddReceipt keeps the receipt of an entry.
func (d *Download) AddReceipt(index uint64, receipt []byte) error {
	item := appendPair(nil, index, receipt)
	d.receipts += int64(len(item))
	return d.append(receiptsFile, item)
}

func (d *Download) append(name string, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	f, err := os.OpenFile(filepath.Join(d.dir, name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}

// itemsOf are the items of a page.
func itemsOf(page []byte) func(yield func([]byte, error) bool) {
	return func(yield func([]byte, error) bool) {
		sequence := detcbor.NewSequence(bytes.NewReader(page), maxItem)
		for {
			item, err := sequence.Next()
			if err == io.EOF || !yield(item, err) || err != nil {
				return
			}
		}
	}
}
