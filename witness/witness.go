// Package witness gets the log's checkpoints cosigned.
//
// A witness is somebody else's service that remembers the last checkpoint it
// saw of each log and cosigns a newer one only when a proof shows that it
// continues the old one. A checkpoint with the cosignatures of enough witnesses
// cannot be one of two views of the log, and a log that was rolled back cannot
// get one.
//
//   - A Policy (ParsePolicy) names witnesses and says whose cosignatures are a
//     quorum. It is a C2SP tlog-policy file: the one that verifiers use too.
//   - A Witness is one of them as a client sees it: Cosign asks for a
//     cosignature, Size and Latest for what it remembers.
//   - A Cosigner does so in the background at the cadence of the log, and keeps
//     the newest checkpoint that has its quorum.
//
// What it promises: nobody waits for a witness, whatever it does. An answer
// that is slow, oversized, redirected, of another key or about another text
// costs one cosignature and nothing else, and what is called cosigned was
// verified against the key in the policy. A witness that knows more of the log
// than the log itself (AheadError), or another history (ErrFork), is reported
// as that and asked again at the longest interval only.
//
// It knows neither the ledger (Log is all it asks of it) nor who serves what it
// keeps. Source: https://c2sp.org/tlog-witness, tlog-cosignature, tlog-policy.
package witness

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	cosignature "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	format "github.com/scittd/scittd/internal/checkpoint"
)

// ErrFork: the witness has cosigned a history of this log which the checkpoint
// does not continue.
var ErrFork = errors.New("the checkpoint does not continue what the witness has cosigned")

// AheadError: the witness has cosigned a larger tree than it was shown, and the
// log does not prove that it grew to that size. Another replica may be ahead; a
// log whose newest checkpoint is smaller was rolled back.
type AheadError struct {
	Size uint64 // that the witness remembers
}

func (e *AheadError) Error() string {
	return fmt.Sprintf("the witness has already cosigned this log at size %d", e.Size)
}

// errOvertaken: another replica has shown the witness a newer checkpoint of the
// same log in the meantime.
var errOvertaken = errors.New("a newer checkpoint of this log was cosigned first")

// Log is what witnesses are told about.
type Log interface {
	// Checkpoint returns the newest checkpoint: a signed note without
	// cosignatures. Sizes never go back.
	Checkpoint(ctx context.Context) ([]byte, error)
	// Consistency returns the hashes that prove that the tree of size to
	// continues that of size from (RFC 6962 §2.1.2); 0 < from < to. ErrFork: the
	// log never had a checkpoint of size from.
	Consistency(ctx context.Context, from, to uint64) ([][]byte, error)
}

// Limits of what is taken from a witness, and of what is sent.
const (
	maxAnswer   = 64 << 10         // bytes; an ML-DSA-44 cosignature has 3.3 KB
	maxProof    = 63               // lines of hashes
	requestTime = 10 * time.Second // for one request, whatever the context allows
	maxAttempts = 4                // of one Cosign: replicas move the same witness
)

// Witness is a client of one witness. It is safe for concurrent use.
type Witness struct {
	name     string // in the policy
	url      string // submission prefix; "": it can be verified, not asked
	verifier note.Verifier
	client   *http.Client
	size     atomic.Uint64 // that it cosigned last, as far as this process knows: a guess
}

// New returns the witness of a verifier key: a cosignature key, of type 4
// (Ed25519) or 6 (ML-DSA-44). prefix is the http(s) URL it takes checkpoints
// at, without the add-checkpoint; "" for one that is only verified.
func New(name, vkey, prefix string) (*Witness, error) {
	verifier, _, err := parseKey(vkey)
	if err != nil {
		return nil, err
	}
	if u, err := url.Parse(prefix); prefix != "" && (err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.RawQuery != "" || u.Fragment != "") {
		return nil, fmt.Errorf("%q is not an http(s) URL", prefix)
	}
	return &Witness{
		name: name, url: strings.TrimSuffix(prefix, "/"), verifier: verifier,
		client: &http.Client{
			Timeout: requestTime,
			// A witness is where the policy says, and nowhere else.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// parseKey reads a vkey and returns the public key in it too.
//
// SPEC C2SP tlog-cosignature: the key ID is computed with type 0x04 or 0x06. A
// plain Ed25519 key (0x01) is another key with another ID.
func parseKey(vkey string) (note.Verifier, string, error) {
	_, rest, _ := strings.Cut(vkey, "+")
	id, encoded, _ := strings.Cut(rest, "+")
	key, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(key) == 0 {
		return nil, "", fmt.Errorf("%.80q is not a verifier key (name+id+key)", vkey)
	}
	if kind := key[0]; kind != 4 && kind != 6 {
		return nil, "", fmt.Errorf("key %.80s is of type %d: a witness cosigns with type 4 (Ed25519) or 6 (ML-DSA-44)", vkey, kind)
	}
	verifier, err := cosignature.NewVerifierForCosignatureV1(vkey)
	if err != nil {
		return nil, "", fmt.Errorf("key %.80s: %w", vkey, err)
	}
	if id != fmt.Sprintf("%08x", verifier.KeyHash()) {
		return nil, "", fmt.Errorf("key %.80s: its ID should be %08x", vkey, verifier.KeyHash())
	}
	return verifier, string(key[1:]), nil
}

// Name is what the policy calls w.
func (w *Witness) Name() string { return w.name }

// Cosign asks w to cosign a checkpoint of l and returns its signature line, which
// holds for exactly that checkpoint. What w has cosigned before is asked of w,
// and the proof from there taken from l.
//
// *AheadError: w remembers a larger tree. ErrFork: it remembers another one.
// Any other error says why there is no cosignature this time.
func (w *Witness) Cosign(ctx context.Context, l Log, signed []byte) (string, error) {
	line, err := w.cosign(ctx, l, signed)
	if err != nil {
		return "", fmt.Errorf("witness %s: %w", w.name, err)
	}
	return line, nil
}

func (w *Witness) cosign(ctx context.Context, l Log, signed []byte) (string, error) {
	cp, err := parseCheckpoint(signed)
	if err != nil {
		return "", err
	}
	// SPEC C2SP tlog-witness: without information on the latest cosigned
	// checkpoint, a client MAY send an old size of zero to obtain it.
	old := w.size.Load()
	for range maxAttempts {
		if old > cp.size {
			if _, err := l.Consistency(ctx, cp.size, old); err == nil {
				return "", errOvertaken
			}
			return "", &AheadError{old}
		}
		var proof [][]byte // SPEC: it MUST be empty if the old size is zero
		if 0 < old && old < cp.size {
			if proof, err = l.Consistency(ctx, old, cp.size); err != nil {
				return "", fmt.Errorf("prove size %d from the %d that it has cosigned: %w", cp.size, old, err)
			}
		}
		line, err := w.add(ctx, old, proof, cp)
		if err == nil {
			w.size.Store(cp.size)
			return line, nil
		}
		stale := (*staleError)(nil)
		if !errors.As(err, &stale) {
			w.size.Store(0) // whatever it was, ask afresh
			return "", err
		}
		if stale.size == old {
			return "", fmt.Errorf("it refuses size %d as the old one and names the same", old)
		}
		old = stale.size
	}
	return "", errors.New("its checkpoint moves faster than proofs can be made")
}

// Size asks w which size of the log it has cosigned last; 0: it never did. The
// checkpoint is a current one, signed by the log, for a witness listens to
// nothing else. It is the log's external memory: a size above that of the
// newest checkpoint means that the log was rolled back.
//
// The old size claimed is that of the checkpoint itself, so that w answers from
// memory and remembers nothing new, except that a checkpoint of the very size
// it knows may be cosigned once more. ErrFork: at that size it knows another
// root. Whether a smaller tree that it knows is part of this log is what Cosign
// finds out.
func (w *Witness) Size(ctx context.Context, signed []byte) (uint64, error) {
	cp, err := parseCheckpoint(signed)
	if err == nil {
		_, err = w.add(ctx, cp.size, nil, cp)
	}
	if stale := (*staleError)(nil); errors.As(err, &stale) {
		return stale.size, nil
	}
	if err != nil {
		return 0, fmt.Errorf("witness %s: %w", w.name, err)
	}
	return cp.size, nil
}

// Latest fetches the checkpoint that w cosigned last, where w offers it below
// the same URL, and verifies it: signed by the log and by w. Many witnesses do
// not offer it.
func (w *Witness) Latest(ctx context.Context, log note.Verifier) ([]byte, error) {
	a, err := w.do(ctx, http.MethodGet, fmt.Sprintf("/%x/checkpoint", sha256.Sum256([]byte(log.Name()))), nil)
	if err == nil && a.status != http.StatusOK {
		err = fmt.Errorf("it offers no checkpoint of %s: status %d", log.Name(), a.status)
	}
	if err == nil {
		err = signedBy(a.body, log, w.verifier)
	}
	if err != nil {
		return nil, fmt.Errorf("witness %s: %w", w.name, err)
	}
	return a.body, nil
}

// signedBy verifies one signature of each of the keys on a checkpoint whose
// origin is the name of the first.
func signedBy(signed []byte, log note.Verifier, others ...note.Verifier) error {
	cp, err := parseCheckpoint(signed)
	if err != nil {
		return err
	}
	if cp.origin != log.Name() {
		return fmt.Errorf("it is a checkpoint of %.80q", cp.origin)
	}
	for _, v := range append(others, log) {
		if _, err := note.Open(signed, note.VerifierList(v)); err != nil {
			return fmt.Errorf("signature of %s: %w", v.Name(), err)
		}
	}
	return nil
}

// staleError: the old size was not what the witness remembers.
type staleError struct{ size uint64 }

func (e *staleError) Error() string { return fmt.Sprintf("it has cosigned size %d", e.size) }

// add is one add-checkpoint request. The line that it returns is verified.
func (w *Witness) add(ctx context.Context, old uint64, proof [][]byte, cp checkpoint) (string, error) {
	// SPEC C2SP tlog-witness: the client MUST NOT send more than 63 consistency
	// proof lines.
	if len(proof) > maxProof {
		return "", fmt.Errorf("a proof of %d hashes is too long", len(proof))
	}
	// SPEC: an old size line, zero or more proof lines, an empty line, and the
	// checkpoint; each line MUST terminate in a newline.
	var body bytes.Buffer
	fmt.Fprintf(&body, "old %d\n", old)
	for _, hash := range proof {
		body.WriteString(base64.StdEncoding.EncodeToString(hash) + "\n")
	}
	body.WriteByte('\n')
	body.Write(cp.signed)

	a, err := w.do(ctx, http.MethodPost, "/add-checkpoint", body.Bytes())
	if err != nil {
		return "", err
	}
	switch a.status {
	case http.StatusOK:
		return w.line(cp, a.body)
	case http.StatusConflict:
		if size, ok := a.size(); ok {
			return "", &staleError{size}
		}
		// SPEC: the same size with another root was a 409 without a size in the
		// protocol's first version; today it is a 422.
		return "", fmt.Errorf("%w: size %d with another root", ErrFork, cp.size)
	case http.StatusUnprocessableEntity:
		return "", fmt.Errorf("%w: size %d after %d", ErrFork, cp.size, old)
	case http.StatusNotFound:
		return "", fmt.Errorf("it does not know the log %s: its operator has to add it", cp.origin)
	case http.StatusForbidden:
		return "", fmt.Errorf("it does not know the key that signs checkpoints of %s: its operator has to add it", cp.origin)
	case http.StatusTooManyRequests:
		return "", errors.New("it is asked too often")
	}
	return "", fmt.Errorf("unexpected status %d", a.status)
}

// line takes w's cosignature out of an answer.
//
// SPEC C2SP tlog-witness: the client MUST ignore cosignatures from unknown keys,
// and MAY concatenate the answer to the checkpoint to verify it as a note. Then
// the text must still be the checkpoint's: an answer that brings an empty line
// of its own would move the border between text and signatures.
func (w *Witness) line(cp checkpoint, answer []byte) (string, error) {
	n, err := note.Open(append(bytes.Clone(cp.signed), answer...), note.VerifierList(w.verifier))
	if err != nil {
		return "", fmt.Errorf("its answer is not a cosignature of %s: %w", w.verifier.Name(), err)
	}
	if n.Text != cp.text {
		return "", errors.New("its answer is about another text")
	}
	return fmt.Sprintf("— %s %s\n", n.Sigs[0].Name, n.Sigs[0].Base64), nil
}

// answer is an HTTP response within limits.
type answer struct {
	status int
	kind   string // Content-Type
	body   []byte
}

// size reads the body of a 409.
//
// SPEC C2SP tlog-witness: the size in decimal, followed by a newline, as
// text/x.tlog.size.
func (a answer) size() (uint64, bool) {
	kind, _, err := mime.ParseMediaType(a.kind)
	if err != nil || kind != "text/x.tlog.size" {
		return 0, false
	}
	text := strings.TrimSuffix(string(a.body), "\n")
	n, err := strconv.ParseUint(text, 10, 63) // a tree of 2^63 leaves is a lie
	return n, err == nil && strconv.FormatUint(n, 10) == text
}

// do sends one request and reads the answer, both within limits.
func (w *Witness) do(ctx context.Context, method, path string, body []byte) (answer, error) {
	if w.url == "" {
		return answer{}, errors.New("the policy has no URL for it")
	}
	req, err := http.NewRequestWithContext(ctx, method, w.url+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	a := answer{status: resp.StatusCode, kind: resp.Header.Get("Content-Type")}
	a.body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return a, fmt.Errorf("read its answer: %w", err)
	}
	if len(a.body) > maxAnswer {
		return a, fmt.Errorf("its answer has more than %d bytes", maxAnswer)
	}
	return a, nil
}

// checkpoint is a signed note of a tree.
type checkpoint struct {
	signed []byte
	text   string // what is signed
	origin string
	size   uint64
	root   [32]byte
}

// parseCheckpoint reads a note without verifying it.
func parseCheckpoint(signed []byte) (checkpoint, error) {
	c, err := format.Parse(signed)
	return checkpoint{signed: signed, text: c.Text, origin: c.Origin, size: c.Size, root: c.Root}, err
}
