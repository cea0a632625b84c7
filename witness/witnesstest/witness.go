// Package witnesstest is the other side of the witness protocol, for tests: a
// witness that follows https://c2sp.org/tlog-witness to the letter, and a small
// log for it to watch, which can be told to misbehave.
//
// The witness keeps what it cosigned in memory. It does not know the client's
// code, and takes its cryptography and its tree arithmetic from libraries.
package witnesstest

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/transparency-dev/formats/log"
	cosignature "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"
)

// Witness is a conforming witness behind a real listener.
type Witness struct {
	VKey string // its cosignature key, type 4
	URL  string // submission and monitoring prefix

	signer note.Signer
	logs   map[string]note.Verifier // by origin

	mu     sync.Mutex // makes check and write of an update one step
	seen   map[string][]byte
	broken http.Handler // answers instead, when set
	asked  int
}

// New starts a witness of the given key name that watches these logs, and stops
// it with the test.
func New(t testing.TB, name string, logs ...note.Verifier) *Witness {
	t.Helper()
	skey, vkey, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		t.Fatal(err)
	}
	w := &Witness{logs: map[string]note.Verifier{}, seen: map[string][]byte{}}
	if w.signer, err = cosignature.NewSignerForCosignatureV1(skey); err != nil {
		t.Fatal(err)
	}
	if w.VKey, err = cosignature.VKeyToCosignatureV1(vkey); err != nil {
		t.Fatal(err)
	}
	for _, v := range logs {
		w.logs[v.Name()] = v
	}
	server := httptest.NewServer(w)
	t.Cleanup(server.Close)
	w.URL = server.URL
	return w
}

// Policy lists witnesses w1, w2, … of which any k are the quorum; 0: none.
func Policy(k int, witnesses ...*Witness) string {
	var text strings.Builder
	names := ""
	for i, w := range witnesses {
		fmt.Fprintf(&text, "witness w%d %s %s\n", i+1, w.VKey, w.URL)
		names += fmt.Sprintf(" w%d", i+1)
	}
	if k == 0 {
		return text.String() + "quorum none\n"
	}
	return text.String() + fmt.Sprintf("group some %d%s\nquorum some\n", k, names)
}

// Break makes h answer every request until it is nil again.
func (w *Witness) Break(h http.HandlerFunc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken = nil; h != nil {
		w.broken = h
	}
}

// Asked counts the requests so far.
func (w *Witness) Asked() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked
}

// Seen is the size that w has cosigned last of a log; 0: none.
func (w *Witness) Seen(origin string) uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.latest(origin).Size
}

// Forget makes w one that has never seen a log.
func (w *Witness) Forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.seen)
}

func (w *Witness) latest(origin string) log.Checkpoint {
	var cp log.Checkpoint
	if signed, ok := w.seen[origin]; ok {
		if _, err := cp.Unmarshal(signed); err != nil {
			panic(err) // it was parsed when it came
		}
	}
	return cp
}

func (w *Witness) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	w.asked++
	broken := w.broken
	w.mu.Unlock()
	switch {
	case broken != nil:
		broken.ServeHTTP(rw, r)
	case r.Method == http.MethodPost && r.URL.Path == "/add-checkpoint":
		body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, 64<<10))
		if err != nil {
			http.Error(rw, err.Error(), http.StatusBadRequest)
			return
		}
		status, kind, answer := w.add(string(body))
		rw.Header().Set("Content-Type", kind)
		rw.WriteHeader(status)
		io.WriteString(rw, answer)
	case r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/checkpoint"):
		w.show(rw, strings.TrimSuffix(r.URL.Path[1:], "/checkpoint"))
	default:
		http.NotFound(rw, r)
	}
}

// show answers with the checkpoint whose origin has this SHA-256.
func (w *Witness) show(rw http.ResponseWriter, hash string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for origin, signed := range w.seen {
		if hash == fmt.Sprintf("%x", sha256.Sum256([]byte(origin))) {
			rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
			rw.Write(signed)
			return
		}
	}
	rw.WriteHeader(http.StatusNotFound)
}

// add answers an add-checkpoint request, in the order of the specification.
func (w *Witness) add(body string) (status int, kind, answer string) {
	const plain = "text/plain; charset=utf-8"
	refuse := func(status int, why string) (int, string, string) { return status, plain, why + "\n" }

	// SPEC: The request body MUST be a sequence of an old size line, zero or more
	// consistency proof lines, and an empty line, followed by a checkpoint.
	head, signed, ok := strings.Cut(body, "\n\n")
	lines := strings.Split(head, "\n")
	size, isOld := strings.CutPrefix(lines[0], "old ")
	old, err := strconv.ParseUint(size, 10, 64)
	if !ok || !isOld || err != nil || strconv.FormatUint(old, 10) != size {
		return refuse(http.StatusBadRequest, "malformed request")
	}
	// SPEC: The client MUST NOT send more than 63 consistency proof lines.
	if len(lines) > 1+63 {
		return refuse(http.StatusBadRequest, "too many proof lines")
	}
	var hashes [][]byte
	for _, line := range lines[1:] {
		hash, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(hash) != sha256.Size {
			return refuse(http.StatusBadRequest, "malformed proof line")
		}
		hashes = append(hashes, hash)
	}
	// SPEC: If the checkpoint origin is unknown, the witness MUST respond with 404.
	origin, _, _ := strings.Cut(signed, "\n")
	key, ok := w.logs[origin]
	if !ok {
		return refuse(http.StatusNotFound, "unknown log")
	}
	// SPEC: If none of the signatures verify against a trusted public key, 403.
	n, err := note.Open([]byte(signed), note.VerifierList(key))
	if err != nil {
		return refuse(http.StatusForbidden, "no signature of the log")
	}
	var cp log.Checkpoint
	if _, err := cp.Unmarshal([]byte(n.Text)); err != nil {
		return refuse(http.StatusBadRequest, "malformed checkpoint")
	}
	// SPEC: The old size MUST be equal to or lower than the checkpoint size. Otherwise 400.
	if old > cp.Size {
		return refuse(http.StatusBadRequest, "old size above that of the checkpoint")
	}

	// SPEC: Checking the old size against the latest checkpoint and persisting the
	// new checkpoint must be performed atomically.
	w.mu.Lock()
	defer w.mu.Unlock()
	latest := w.latest(origin)
	// SPEC: If the old size does not match the latest cosigned, 409 with that size.
	if old != latest.Size {
		return http.StatusConflict, "text/x.tlog.size", fmt.Sprintf("%d\n", latest.Size)
	}
	// SPEC: If the old size matches the checkpoint size, the root hashes MUST be
	// identical; the proof MUST be empty if the old size is zero, and verify. 422.
	if old == 0 {
		if len(hashes) > 0 {
			return refuse(http.StatusUnprocessableEntity, "proof from nothing")
		}
	} else if err := proof.VerifyConsistency(rfc6962.DefaultHasher, old, cp.Size, hashes, latest.Hash, cp.Hash); err != nil {
		return refuse(http.StatusUnprocessableEntity, "not consistent")
	}
	// SPEC: The witness MUST persist the new checkpoint before responding.
	cosigned, err := note.Sign(n, w.signer)
	if err != nil {
		return refuse(http.StatusInternalServerError, err.Error())
	}
	w.seen[origin] = cosigned
	for line := range strings.Lines(string(cosigned)) {
		if strings.HasPrefix(line, "— "+w.signer.Name()+" ") {
			answer += line
		}
	}
	return http.StatusOK, plain, answer
}
