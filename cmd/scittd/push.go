package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/scittd/scittd/api"
	"github.com/scittd/scittd/internal/registrar"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
	"github.com/scittd/scittd/storage/front"
)

// pushHook registers statements that clients push through the front. It is there
// before the log is, and says until then that the push must be repeated.
func (s *service) pushHook(c Config) front.Hook {
	// Both were read when the configuration was.
	modes, _ := repositoryRules("registry.push_through", c.Registry.PushThrough, front.PushObserve, pushModes)
	foreign, _ := repositoryRules("registry.foreign", c.Registry.Foreign, front.ForeignPass, foreignModes)
	config := front.PushConfig{
		Service: waitingPushes{s}, Mode: modes, Foreign: foreign, MaxStatement: c.Limits.Statement, Log: s.log,
	}
	if s.upstream != nil {
		config.May = func(r *http.Request, repository string, push bool) error {
			if err := s.upstream.May(r, repository, push); err != nil {
				return err
			}
			if a := s.api.Load(); a != nil { // for the rate alone: the registry has judged the caller
				return authorizer(a)(api.Vouched(r, c.Registry.Host, push), repository, push)
			}
			return nil
		}
	}
	return front.Pushes(config)
}

// pushes is front.PushService for a log that is open.
type pushes struct {
	ledger    *ledger.Ledger
	registrar *registrar.Registrar
	refusals  ledger.Refusals
	refused   func(*statement.Statement, error) // told of what Judge refuses, for it is not registered then
	api       *api.API
	host      string // of the registry that vouches for callers; "" when this service knows them
	readOnly  bool
	placed    bool // a Courier of this process places claims
	wait      time.Duration
}

var _ front.PushService = (*pushes)(nil)

func (p *pushes) Detached(b []byte) bool {
	s, err := statement.Parse(b)
	if err != nil || s.Detached() || p == nil {
		return err == nil && s.Detached()
	}
	// Evidence whose own signer has to be known is read along, too.
	_, needed := p.ledger.Policy().NeedsEvidence(s)
	return needed
}

func (p *pushes) Judge(ctx context.Context, in front.Pushed) error {
	if p.readOnly {
		return ledger.ErrReadOnly
	}
	with, err := p.circumstances(in)
	if err != nil {
		return err
	}
	s, d, err := p.registrar.Judge(ctx, in.Statement, with)
	if err == nil && d.Refusal != nil {
		err = d.Refusal
	}
	if err != nil {
		p.refused(s, err)
	}
	return pushRefusal(err)
}

func (p *pushes) Register(ctx context.Context, in front.Pushed) (entry string, err error) {
	with, err := p.circumstances(in)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, p.wait)
	defer cancel()
	reg, err := p.registrar.Register(ctx, in.Statement, with)
	if err != nil {
		return "", pushRefusal(err)
	}
	// What was noted of an earlier try is over. It is a note and no more, so that
	// it does not matter whether this succeeds.
	_ = p.refusals.DropRefusal(ctx, in.Repository, statement.Digest(in.Manifest))
	return reg.Entry.ID.String(), nil
}

func (p *pushes) Refused(ctx context.Context, in front.Pushed, why *front.PushRefusal) error {
	with, err := p.circumstances(in)
	if err != nil {
		return err
	}
	r := ledger.PushRefusal{
		Repository: in.Repository, Manifest: statement.Digest(in.Manifest), Image: with.Image,
		Code: why.Code, Rule: why.Rule, Reason: why.Reason, Hint: why.Hint, Caller: with.Caller, At: time.Now(),
	}
	if s, err := statement.Parse(in.Statement); err == nil {
		r.Entry, r.Issuer = s.ID(), s.Issuer
	}
	if why.Policy != "" {
		if r.Policy, err = statement.ParseID(why.Policy); err != nil {
			return err
		}
	}
	return p.refusals.NoteRefusal(ctx, r)
}

// How often it is looked whether a claim is placed, while a push waits for it.
const placedEvery = 25 * time.Millisecond

func (p *pushes) Placed(ctx context.Context, in front.Pushed, entry string) {
	id, err := statement.ParseID(entry)
	if err != nil || !p.placed {
		return
	}
	tick := time.NewTicker(placedEvery)
	defer tick.Stop()
	for {
		deliveries, err := p.ledger.Deliveries(ctx, id, ledger.All)
		if err != nil || !slices.ContainsFunc(deliveries, func(d ledger.Delivery) bool {
			return d.State == ledger.Queued && d.Repository == in.Repository && string(d.Subject) == in.Image
		}) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// circumstances are what came with a pushed statement.
func (p *pushes) circumstances(in front.Pushed) (with ledger.Circumstances, err error) {
	r := in.Request
	if p.host != "" {
		r = api.Vouched(r, p.host, true)
	}
	caller, err := p.api.Identify(r)
	if err != nil {
		return with, err
	}
	with = ledger.Circumstances{Repository: in.Repository, Payload: in.Payload, Caller: caller.Name, Scope: caller.Scope()}
	if with.Image, err = statement.ParseDigest(in.Image); err != nil {
		return with, &front.PushRefusal{Code: "bad-digest", Reason: "subject: " + err.Error(), Malformed: true}
	}
	if in.Evidence != "" {
		if with.Evidence, err = statement.ParseDigest(in.Evidence); err != nil {
			return with, &front.PushRefusal{Code: "bad-digest", Reason: "evidence: " + err.Error(), Malformed: true}
		}
	}
	return with, nil
}

// pushRefusal makes a refusal in the front's terms of one in the policy's, and of
// what is no statement at all; other errors stay what they are.
func pushRefusal(err error) error {
	var refusal *policy.Refusal
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refusal):
		out := &front.PushRefusal{
			Code: refusal.Code, Rule: refusal.Rule, Reason: refusal.Reason, Hint: refusal.Hint,
			Malformed: refusal.Code == policy.CodeRepositoryMismatch || refusal.Code == policy.CodeSubjectMismatch || refusal.Rule == "evidence",
		}
		if refusal.Policy != (statement.ID{}) {
			out.Policy = refusal.Policy.String()
		}
		return out
	}
	if code, status := api.Code(err); status == http.StatusBadRequest {
		return &front.PushRefusal{Code: code, Reason: err.Error(), Malformed: true}
	}
	return err
}

// waitingPushes is the pushes of a service whose log may not be open yet.
type waitingPushes struct{ *service }

func (w waitingPushes) open() (front.PushService, error) {
	if p := w.pushes.Load(); p != nil {
		return p, nil
	}
	return nil, ledger.ErrUnavailable
}

func (w waitingPushes) Detached(b []byte) bool { return w.pushes.Load().Detached(b) }

func (w waitingPushes) Judge(ctx context.Context, in front.Pushed) error {
	p, err := w.open()
	if err != nil {
		return err
	}
	return p.Judge(ctx, in)
}

func (w waitingPushes) Register(ctx context.Context, in front.Pushed) (string, error) {
	p, err := w.open()
	if err != nil {
		return "", err
	}
	return p.Register(ctx, in)
}

func (w waitingPushes) Refused(ctx context.Context, in front.Pushed, why *front.PushRefusal) error {
	p, err := w.open()
	if err != nil {
		return err
	}
	return p.Refused(ctx, in, why)
}

func (w waitingPushes) Placed(ctx context.Context, in front.Pushed, entry string) {
	if p, err := w.open(); err == nil {
		p.Placed(ctx, in, entry)
	}
}

var (
	pushModes    = []string{front.PushOff, front.PushObserve, front.PushGate}
	foreignModes = []string{front.ForeignPass, front.ForeignDeny, front.ForeignRegister}
)

// repositoryRules reads rules of the form word:pattern, of which the first that
// covers a repository decides. A pattern is a name in which * stands for any part
// of one segment; it covers what it names and everything below.
func repositoryRules(setting string, rules []string, otherwise string, words []string) (func(repository string) string, error) {
	type rule struct{ word, pattern string }
	var all []rule
	for _, text := range rules {
		word, pattern, ok := strings.Cut(text, ":")
		if _, err := path.Match(pattern, ""); !ok || err != nil || pattern == "" || !slices.Contains(words, word) {
			return nil, fmt.Errorf("%s: %q is not of the form %s:PATTERN", setting, text, strings.Join(words, "|"))
		}
		all = append(all, rule{word, strings.TrimSuffix(pattern, "/")})
	}
	return func(repository string) string {
		for _, r := range all {
			if covers(r.pattern, repository) {
				return r.word
			}
		}
		return otherwise
	}, nil
}

// covers compares as many segments of a name as the pattern has.
func covers(pattern, repository string) bool {
	n := strings.Count(pattern, "/") + 1
	segments := strings.SplitN(repository, "/", n+1)
	if len(segments) < n {
		return false
	}
	ok, _ := path.Match(pattern, strings.Join(segments[:n], "/"))
	return ok
}
