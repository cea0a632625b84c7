// Package registrar tells the service's story: Register turns bytes into a
// receipt, and the Courier turns a receipt into referrers in a registry. It is
// the only room that holds keys to both ledger and registry. The two halves
// meet in the ledger's deliveries alone, so a registry's trouble never delays
// or fails a registration, but for one whose evidence the policy wants to see and
// only the registry has. It knows no HTTP and keeps no state of its own.
package registrar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/scittd/scittd/internal/failpoint"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
	"github.com/scittd/scittd/storage"
)

// Registrar registers Signed Statements. Safe for concurrent use.
type Registrar struct {
	ledger   *ledger.Ledger
	staging  ledger.Staging
	further  ledger.Placements
	registry string
	archive  string
	wake     func()
	log      *slog.Logger
	clock    func() time.Time
	told     func(*statement.Statement, error) // Options.Refused
	fetcher  Fetcher
	blobs    storage.Registry // Options.Blobs

	// verifying bounds signature checks, weighted by what an algorithm costs,
	// so that a flood of expensive ones cannot take every core.
	verifying *semaphore.Weighted
	capacity  int64

	payloads *semaphore.Weighted // in bytes, of detached statements in hand
}

// Options of New.
type Options struct {
	Registry string            // host of the registry that claims are placed in; "" places none
	Archive  string            // repository of it, as the ledger has it; "": none
	Further  ledger.Placements // gives what is registered already another place; nil: nothing does
	Staging  ledger.Staging    // where payloads of detached statements are; nil: nowhere
	Blobs    storage.Registry  // that registry, to read evidence from which a publisher pushed there; nil: none is
	Lookup   Fetcher           // brings what the policy's Lookups ask for; nil: nothing is asked for anywhere
	Wake     func()            // told of every new entry, so that the Courier need not poll; may be nil
	Clock    func() time.Time  // nil: time.Now
	Log      *slog.Logger      // nil: silent

	// Refused is told of everything that Register refuses, and why; of what is no
	// statement with a nil one. nil: nobody is.
	Refused func(s *statement.Statement, why error)
}

// New returns a Registrar for l.
func New(l *ledger.Ledger, o Options) *Registrar {
	if o.Wake == nil {
		o.Wake = func() {}
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Lookup == nil {
		o.Lookup = offline{}
	}
	if o.Refused == nil {
		o.Refused = func(*statement.Statement, error) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	// ES384 weighs 8: at least one of any algorithm must fit.
	capacity := max(16, int64(2*runtime.GOMAXPROCS(0)))
	return &Registrar{
		ledger: l, staging: o.Staging, further: o.Further, registry: o.Registry, archive: o.Archive, wake: o.Wake, log: o.Log, clock: o.Clock, told: o.Refused, fetcher: o.Lookup, blobs: o.Blobs,
		verifying: semaphore.NewWeighted(capacity), capacity: capacity,
		payloads: semaphore.NewWeighted(payloadRoom),
	}
}

// Register registers the Signed Statement in body and answers with its entry
// and batch receipt. The same bytes get the same answer for ever.
//
// What comes with it only picks where the claim is placed and where a detached
// payload is found; see ledger.Circumstances. What is registered already is placed
// in a repository that is named, too: the caller says that it may be written
// there. Without one, a resubmission changes nothing. A private entry is judged anew for
// callers who may not see it, so that resubmission tells them nothing.
//
// Errors: those of statement.Parse, a *policy.Refusal, policy.ErrLookup, those of
// ledger.Append. When ctx ends first the statement may still be committed.
func (r *Registrar) Register(ctx context.Context, body []byte, with ledger.Circumstances) (ledger.Registered, error) {
	s, err := statement.Parse(body)
	if err != nil {
		r.told(nil, err)
		return ledger.Registered{}, err
	}
	// Past capacity no core is spent on what could not be taken in.
	if err := r.ledger.Room(); err != nil {
		return ledger.Registered{}, err
	}
	s, release, err := r.whole(ctx, s, with)
	if err != nil {
		r.refused(ctx, s, err, with.Caller)
		return ledger.Registered{}, err
	}
	defer release()
	// One snapshot of the policy serves the whole request; should a newer one be
	// committed meanwhile, Append judges again.
	p := r.ledger.Policy()
	d, materials, done, err := r.decide(ctx, p, s, with, with.Repository != "")
	defer done()
	if err != nil && !errors.Is(err, policy.ErrLookup) {
		return ledger.Registered{}, err
	}
	if doubt := err; doubt != nil || d.Refusal != nil {
		// What is committed keeps its receipt under any later policy. Looked for
		// here only: what is admitted, Append finds with one query for its batch.
		known, err := r.known(ctx, s.ID(), with.Scope)
		if doubt != nil && err != nil {
			return ledger.Registered{}, doubt
		}
		if err == nil || !errors.Is(err, ledger.ErrNotFound) {
			return known, err
		}
		r.refused(ctx, s, d.Refusal, with.Caller)
		return ledger.Registered{}, d.Refusal
	}
	if err := r.fits(p, s, d, with); err != nil {
		r.refused(ctx, s, err, with.Caller)
		return ledger.Registered{}, err
	}

	failpoint.Hit(failpoint.Judged)
	reg, err := r.ledger.Append(ctx, ledger.Submission{
		Statement: s, Decision: d, Materials: materials, Repository: with.Repository, Image: with.Image, Caller: with.Caller,
	})
	if err != nil {
		r.refused(ctx, s, err, with.Caller)
		return ledger.Registered{}, err
	}
	if reg.New {
		r.log.InfoContext(ctx, "registered", "entry", reg.Entry.ID, "index", reg.Entry.Index,
			"issuer", reg.Entry.Issuer, "mediaType", reg.Entry.MediaType, "rule", reg.Entry.Rule, "caller", with.Caller)
		r.wake()
		return reg, nil
	}
	return reg, r.placeAlso(ctx, p, s, reg.Entry, with)
}

// Judge says what Register would, and changes nothing: a Decision with its
// Refusal, or that of the entry that is there already. Errors are those of
// statement.Parse, policy.ErrLookup, and those of looking for that entry.
func (r *Registrar) Judge(ctx context.Context, body []byte, with ledger.Circumstances) (*statement.Statement, policy.Decision, error) {
	s, err := statement.Parse(body)
	if err != nil {
		return nil, policy.Decision{}, err
	}
	s, release, err := r.whole(ctx, s, with)
	if err != nil {
		return nil, policy.Decision{}, err
	}
	defer release()
	p := r.ledger.Policy()
	d, _, done, err := r.decide(ctx, p, s, with, false)
	defer done()
	doubt := err
	if err != nil && !errors.Is(err, policy.ErrLookup) {
		return s, d, err
	}
	if doubt == nil && d.Refusal == nil && d.Conditional {
		if d.Refusal, err = r.ledger.Standing(ctx, s, d); err != nil {
			return s, d, err
		}
	}
	if doubt == nil && d.Refusal == nil {
		if err = r.fits(p, s, d, with); errors.As(err, &d.Refusal) {
			err = nil
		}
		return s, d, err
	}
	e, err := r.ledger.Entry(ctx, s.ID(), with.Scope)
	switch {
	case errors.Is(err, ledger.ErrNotFound):
		return s, d, doubt
	case err != nil:
		return s, d, err
	}
	return s, policy.Decision{Policy: e.Policy, Rule: e.Rule, Identity: e.Identity, Artifacts: e.Artifacts, Private: e.Private}, nil
}

// fits refuses a claim that came for a place which its signed bytes exclude.
func (r *Registrar) fits(p *policy.Policy, s *statement.Statement, d policy.Decision, with ledger.Circumstances) error {
	if err := p.Concerns(d.Artifacts, with.Image); err != nil {
		return err
	}
	_, err := p.Repositories(s, with.Repository, r.registry)
	return err
}

// known answers for a statement that is already registered and visible. A
// refused one seldom is, so the receipt comes first: its miss is one look into
// one index.
func (r *Registrar) known(ctx context.Context, id statement.ID, scope ledger.Scope) (ledger.Registered, error) {
	receipt, err := r.ledger.Receipt(ctx, id, scope)
	if err != nil {
		return ledger.Registered{}, err
	}
	e, err := r.ledger.Entry(ctx, id, scope)
	return ledger.Registered{Entry: e, Receipt: receipt}, err
}

// evaluate asks the eNotary, under the limit on parallel verifications.
func (r *Registrar) evaluate(ctx context.Context, p *policy.Policy, s *statement.Statement, with ...policy.Material) (policy.Decision, error) {
	weight := min(int64(s.Alg.Weight()), r.capacity)
	if err := r.verifying.Acquire(ctx, weight); err != nil {
		return policy.Decision{}, fmt.Errorf("wait for a verification slot: %w", err)
	}
	defer r.verifying.Release(weight)
	return p.Evaluate(s, r.clock(), with...), nil
}

// refused notes an error that is a refusal.
func (r *Registrar) refused(ctx context.Context, s *statement.Statement, why error, caller string) {
	var refusal *policy.Refusal
	if !errors.As(why, &refusal) {
		return
	}
	r.told(s, refusal)
	r.log.InfoContext(ctx, "refused", "entry", s.ID(), "issuer", s.Issuer, "code", refusal.Code,
		"rule", refusal.Rule, "policy", refusal.Policy, "caller", caller)
}
