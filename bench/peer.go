package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/sync/semaphore"

	"github.com/scittd/scittd/api"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

// What Tessera is told, and is printed with its figures. The checkpoint interval
// is the least it allows.
const (
	tesseraVersion   = "v1.0.4"
	peerBatch        = 1024
	peerCheckpoints  = 100 * time.Millisecond
	peerPublications = 50 * time.Millisecond // how often waiters look for a checkpoint
)

// peerOrder is what the peer is told, one JSON line on its input.
type peerOrder struct {
	Dir, Address  string
	Policy, Token string
	Signer        string // note key
	BatchAge      time.Duration
	InFlight      int
}

// peer serves Tessera on a file system behind the HTTP and the verification that
// scittd has: its API with another Registrar. It ends with its input.
func peer(stdin io.Reader, stdout io.Writer) (err error) {
	debug.SetGCPercent(200) // as scittd does
	in := bufio.NewReader(stdin)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return err
	}
	var o peerOrder
	if err := json.Unmarshal(line, &o); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	p := &tesseraRegistrar{capacity: max(16, int64(2*runtime.GOMAXPROCS(0)))}
	p.verifying = semaphore.NewWeighted(p.capacity)
	if p.policy, err = policy.ReadYAML(o.Policy); err != nil {
		return err
	}
	signer, err := note.NewSigner(o.Signer)
	if err != nil {
		return err
	}
	driver, err := posix.New(ctx, posix.Config{Path: o.Dir})
	if err != nil {
		return err
	}
	log, shutdown, reader, err := tessera.NewAppender(ctx, driver, tessera.NewAppendOptions().
		WithCheckpointSigner(signer).WithCheckpointInterval(peerCheckpoints).WithBatching(peerBatch, o.BatchAge))
	if err != nil {
		return err
	}
	p.log, p.awaiter = log, tessera.NewPublicationAwaiter(ctx, reader.ReadCheckpoint, peerPublications)

	listener, err := net.Listen("tcp", o.Address)
	if err != nil {
		return err
	}
	server := api.NewServer(api.New(api.Config{
		Ledger: nothing{}, Registrar: p, Tokens: oneToken{hash: sha256.Sum256([]byte(o.Token))},
		PublicURL: "http://" + o.Address, Limits: api.Limits{InFlight: o.InFlight},
	}))
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	fmt.Fprintln(stdout, "ready")
	if _, err := io.Copy(io.Discard, in); err != nil {
		return err
	}
	err = errors.Join(server.Close(), shutdown(ctx))
	if e := <-served; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return err
}

// tesseraRegistrar is registrar.Registrar as far as the ledger. What it answers
// with is the first checkpoint that covers the statement: an inclusion proof, a
// look for duplicates and an index are not done and not charged.
type tesseraRegistrar struct {
	policy    *policy.Policy
	verifying *semaphore.Weighted
	capacity  int64
	log       *tessera.Appender
	awaiter   *tessera.PublicationAwaiter
}

var _ api.Registrar = (*tesseraRegistrar)(nil)

func (p *tesseraRegistrar) Register(ctx context.Context, body []byte, _ ledger.Circumstances) (ledger.Registered, error) {
	s, err := statement.Parse(body)
	if err != nil {
		return ledger.Registered{}, err
	}
	d, err := p.evaluate(ctx, s)
	if err != nil {
		return ledger.Registered{}, err
	}
	if d.Refusal != nil {
		return ledger.Registered{}, d.Refusal
	}
	index, checkpoint, err := p.awaiter.Await(ctx, p.log.Add(ctx, tessera.NewEntry(s.Canonical())))
	if errors.Is(err, tessera.ErrPushback) {
		return ledger.Registered{}, fmt.Errorf("%w: %w", ledger.ErrOverloaded, err)
	}
	return ledger.Registered{Entry: ledger.Entry{ID: s.ID(), Index: index.Index}, Receipt: checkpoint, New: true}, err
}

func (p *tesseraRegistrar) evaluate(ctx context.Context, s *statement.Statement) (policy.Decision, error) {
	weight := min(int64(s.Alg.Weight()), p.capacity)
	if err := p.verifying.Acquire(ctx, weight); err != nil {
		return policy.Decision{}, err
	}
	defer p.verifying.Release(weight)
	return p.policy.Evaluate(s, time.Now()), nil
}

// nothing is read of the peer.
type nothing struct{ api.Ledger }

// oneToken may publish.
type oneToken struct {
	ledger.Tokens
	hash [32]byte
}

func (t oneToken) FindToken(_ context.Context, hash [32]byte) (ledger.Token, error) {
	if hash != t.hash {
		return ledger.Token{}, ledger.ErrNotFound
	}
	return ledger.Token{ID: "bench", Hash: hash, Scopes: []string{ledger.ScopePublish}, Expires: time.Now().Add(time.Hour)}, nil
}
