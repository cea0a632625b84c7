// Package registrar tells the service's story: Register turns bytes into a
// receipt, and the Courier turns a receipt into referrers in a registry. It is
// the only room that holds keys to both ledger and registry. The two halves
// meet in the ledger's deliveries alone, so a registry's trouble never delays
// or fails a registration. It knows no HTTP and keeps no state of its own.
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
)

// Registrar registers Signed Statements. Safe for concurrent use.
type Registrar struct {
	ledger   *ledger.Ledger
	registry string
	wake     func()
	log      *slog.Logger
	clock    func() time.Time

	// verifying bounds signature checks, weighted by what an algorithm costs,
	// so that a flood of expensive ones cannot take every core.
	verifying *semaphore.Weighted
	capacity  int64
}

// Options of New.
type Options struct {
	Registry string           // host of the registry that claims are placed in; "" places none
	Wake     func()           // told of every new entry, so that the Courier need not poll; may be nil
	Clock    func() time.Time // nil: time.Now
	Log      *slog.Logger     // nil: silent
}

// New returns a Registrar for l.
func New(l *ledger.Ledger, o Options) *Registrar {
	if o.Wake == nil {
		o.Wake = func() {}
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	// ES384 weighs 8: at least one of any algorithm must fit.
	capacity := max(16, int64(2*runtime.GOMAXPROCS(0)))
	return &Registrar{
		ledger: l, registry: o.Registry, wake: o.Wake, log: o.Log, clock: o.Clock,
		verifying: semaphore.NewWeighted(capacity), capacity: capacity,
	}
}

// Register registers the Signed Statement in body and answers with its entry
// and batch receipt. The same bytes get the same answer for ever.
//
// repository is the one a caller named in the request path, "" when it named
// none: it only picks where the claim is placed. caller goes into the audit row;
// neither enters the decision. scope is what the caller may read: a private
// entry is judged anew for callers who may not see it, so that resubmission
// tells them nothing.
//
// Errors: those of statement.Parse, a *policy.Refusal, those of ledger.Append.
// When ctx ends first the statement may still be committed.
func (r *Registrar) Register(ctx context.Context, body []byte, repository, caller string, scope ledger.Scope) (ledger.Registered, error) {
	s, err := statement.Parse(body)
	if err != nil {
		return ledger.Registered{}, err
	}
	// Past capacity no core is spent on what could not be taken in.
	if err := r.ledger.Room(); err != nil {
		return ledger.Registered{}, err
	}
	// One snapshot of the policy serves the whole request; should a newer one be
	// committed meanwhile, Append judges again.
	p := r.ledger.Policy()
	d, err := r.evaluate(ctx, p, s)
	if err != nil {
		return ledger.Registered{}, err
	}
	if d.Refusal != nil {
		// What is committed keeps its receipt under any later policy. Looked for
		// here only: what is admitted, Append finds with one query for its batch.
		known, err := r.known(ctx, s.ID(), scope)
		if err == nil || !errors.Is(err, ledger.ErrNotFound) {
			return known, err
		}
		r.refused(ctx, s, d.Refusal, caller)
		return ledger.Registered{}, d.Refusal
	}
	if _, err := p.Repositories(s, repository, r.registry); err != nil {
		return ledger.Registered{}, err
	}

	failpoint.Hit(failpoint.Judged)
	reg, err := r.ledger.Append(ctx, ledger.Submission{Statement: s, Decision: d, Repository: repository, Caller: caller})
	if refusal := (*policy.Refusal)(nil); errors.As(err, &refusal) {
		r.refused(ctx, s, refusal, caller)
	}
	if err != nil {
		return ledger.Registered{}, err
	}
	if reg.New {
		r.log.InfoContext(ctx, "registered", "entry", reg.Entry.ID, "index", reg.Entry.Index,
			"issuer", reg.Entry.Issuer, "mediaType", reg.Entry.MediaType, "rule", reg.Entry.Rule, "caller", caller)
		r.wake()
	}
	return reg, nil
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
func (r *Registrar) evaluate(ctx context.Context, p *policy.Policy, s *statement.Statement) (policy.Decision, error) {
	weight := min(int64(s.Alg.Weight()), r.capacity)
	if err := r.verifying.Acquire(ctx, weight); err != nil {
		return policy.Decision{}, fmt.Errorf("wait for a verification slot: %w", err)
	}
	defer r.verifying.Release(weight)
	return p.Evaluate(s, r.clock()), nil
}

func (r *Registrar) refused(ctx context.Context, s *statement.Statement, refusal *policy.Refusal, caller string) {
	r.log.InfoContext(ctx, "refused", "entry", s.ID(), "issuer", s.Issuer, "code", refusal.Code,
		"rule", refusal.Rule, "policy", refusal.Policy, "caller", caller)
}
