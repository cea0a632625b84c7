package witnesstest

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"sync"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Log is a log in memory, as a witness.Log, which keeps no promise that it is
// not told to keep.
type Log struct {
	Verifier note.Verifier // its name is the origin

	signer note.Signer

	mu     sync.Mutex
	size   int64
	hashes []tlog.Hash // as tlog stores them
}

// NewLog returns an empty log.
func NewLog(t testing.TB, origin string) *Log {
	t.Helper()
	skey, vkey, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		t.Fatal(err)
	}
	l := &Log{}
	if l.signer, err = note.NewSigner(skey); err != nil {
		t.Fatal(err)
	}
	if l.Verifier, err = note.NewVerifier(vkey); err != nil {
		t.Fatal(err)
	}
	return l
}

// Grow adds n leaves, which the story makes those of this log: the same story
// tells the same leaves.
func (l *Log) Grow(n int, story string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for range n {
		leaf := fmt.Appendf(nil, "%s %d", story, l.size)
		stored, err := tlog.StoredHashes(l.size, leaf, l)
		if err != nil {
			panic(err) // every hash is in memory
		}
		l.hashes = append(l.hashes, stored...)
		l.size++
	}
}

// Rollback cuts the log back to a size, as an old backup does.
func (l *Log) Rollback(size int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.size, l.hashes = size, l.hashes[:tlog.StoredHashCount(size)]
}

// ReadHashes is for tlog.
func (l *Log) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	found := make([]tlog.Hash, len(indexes))
	for i, at := range indexes {
		found[i] = l.hashes[at]
	}
	return found, nil
}

// Checkpoint is the newest one.
func (l *Log) Checkpoint(context.Context) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	root, err := tlog.TreeHash(l.size, l)
	if err != nil {
		return nil, err
	}
	text := fmt.Sprintf("%s\n%d\n%s\n", l.Verifier.Name(), l.size, base64.StdEncoding.EncodeToString(root[:]))
	return note.Sign(&note.Note{Text: text}, l.signer)
}

// Consistency proves growth.
func (l *Log) Consistency(_ context.Context, from, to uint64) ([][]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if from == 0 || from >= to || to > uint64(l.size) {
		return nil, fmt.Errorf("no growth from %d to %d in a log of size %d", from, to, l.size)
	}
	proof, err := tlog.ProveTree(int64(to), int64(from), l)
	if err != nil {
		return nil, err
	}
	hashes := make([][]byte, len(proof))
	for i := range proof {
		hashes[i] = proof[i][:]
	}
	return hashes, nil
}
