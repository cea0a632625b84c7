package registrar

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/scittd/scittd/internal/fetch"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

// Fetcher gets documents from the network. Its errors are those of package
// fetch; a *fetch.Fetcher is one.
type Fetcher interface {
	Get(ctx context.Context, url string, types ...string) (fetch.Page, error)
	Again(ctx context.Context, seen fetch.Page, url string, types ...string) (fetch.Page, error)
}

var _ Fetcher = (*fetch.Fetcher)(nil)

// types are the media types that a document may have, by the kind of its Lookup.
var types = map[string][]string{
	policy.DIDDocument:    {"application/did+json", "application/did+ld+json", "application/did", "application/json"},
	policy.KeySetDocument: {"application/jwk-set+json", "application/json", "application/cose-key-set", "application/cbor"},
}

// LookUp brings by f what a policy asks for, for who judges without a Registrar.
// Errors are those of f.
func LookUp(ctx context.Context, f Fetcher, l policy.Lookup) (policy.Material, error) {
	page, err := f.Get(ctx, l.URL, types[l.Kind]...)
	return policy.Material{Kind: l.Kind, Source: l.URL, Body: page.Body}, err
}

// brought is what came of a Lookup.
type brought struct {
	policy.Lookup
	page fetch.Page
	err  error // fetch.ErrAnswer, fetch.ErrForbidden: there is nothing to judge by
}

// judge brings what p asks for and asks the eNotary, once more if what was
// remembered of an issuer's keys is no longer true. The materials are those that
// it judged by, those at hand among them. policy.ErrLookup: what the issuer
// publishes is not known now.
//
// Each judgement goes by one edition of a document, and that edition is what is
// kept, whatever is served afterwards.
func (r *Registrar) judge(ctx context.Context, p *policy.Policy, s *statement.Statement, at ...policy.Material) (policy.Decision, []policy.Material, error) {
	all := make([]brought, 0, 1)
	for _, l := range p.Lookups(s) {
		if !slices.ContainsFunc(all, func(b brought) bool { return b.Lookup == l }) {
			all = append(all, brought{Lookup: l})
		}
	}
	err := r.bring(all, func(b *brought) (fetch.Page, error) {
		return r.fetcher.Get(ctx, b.URL, types[b.Kind]...)
	})
	if err != nil {
		return policy.Decision{}, nil, err
	}
	d, err := r.evaluate(ctx, p, s, append(materials(all), at...)...)
	if err == nil && len(all) > 0 && mayBeOld(d.Refusal) {
		seen := slices.Clone(all)
		if err = r.bring(all, func(b *brought) (fetch.Page, error) {
			if b.err != nil {
				return b.page, b.err
			}
			return r.fetcher.Again(ctx, b.page, b.URL, types[b.Kind]...)
		}); err != nil {
			return d, nil, err
		}
		if !slices.EqualFunc(seen, all, func(a, b brought) bool { return a.page.At.Equal(b.page.At) }) {
			d, err = r.evaluate(ctx, p, s, append(materials(all), at...)...)
		}
	}
	if d.Refusal != nil && d.Refusal.Code == policy.CodeLookupFailed {
		for _, b := range all {
			if b.err != nil {
				d.Refusal.Reason += ": " + b.err.Error()
			}
			if errors.Is(b.err, fetch.ErrForbidden) {
				d.Refusal.Hint = "ask the operator of this service to let it look there (lookup.hosts, lookup.private_hosts)"
			}
		}
	}
	return d, append(materials(all), at...), err
}

// mayBeOld says whether a newer edition of a document could make the difference:
// keys that were rotated, or put right.
func mayBeOld(refusal *policy.Refusal) bool {
	if refusal == nil {
		return false
	}
	switch refusal.Code {
	case policy.CodeUnknownIssuerKey, policy.CodeBadSignature, policy.CodeBadAlgorithm, policy.CodeLookupFailed:
		return true
	}
	return false
}

// bring gets all at once. policy.ErrLookup: one of them is not known now.
func (r *Registrar) bring(all []brought, get func(*brought) (fetch.Page, error)) error {
	var wait sync.WaitGroup
	for i := range all {
		b := &all[i]
		wait.Go(func() { b.page, b.err = get(b) })
	}
	wait.Wait()
	var doubts []string
	for _, b := range all {
		if b.err == nil {
			continue
		}
		r.log.Warn("not looked up", "url", b.URL, "err", b.err)
		if !errors.Is(b.err, fetch.ErrAnswer) && !errors.Is(b.err, fetch.ErrForbidden) {
			doubts = append(doubts, b.err.Error())
		}
	}
	if doubts != nil {
		return fmt.Errorf("%w: %s", policy.ErrLookup, strings.Join(doubts, "; "))
	}
	return nil
}

func materials(all []brought) []policy.Material {
	var found []policy.Material
	for _, b := range all {
		if b.err == nil {
			found = append(found, policy.Material{Kind: b.Kind, Source: b.URL, Body: b.page.Body})
		}
	}
	return found
}

// offline is the Fetcher of a service that asks nobody.
type offline struct{}

func (offline) Get(_ context.Context, url string, _ ...string) (fetch.Page, error) {
	return fetch.Page{}, fmt.Errorf("%w: this service does not ask %s", fetch.ErrForbidden, url)
}

func (o offline) Again(ctx context.Context, _ fetch.Page, url string, types ...string) (fetch.Page, error) {
	return o.Get(ctx, url, types...)
}
