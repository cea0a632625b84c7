package registrar

import (
	"context"
	"fmt"
	"path"
	"slices"
	"time"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

// RetentionRule says which evidence has been kept for long enough. All of its
// conditions must hold.
type RetentionRule struct {
	Name         string
	Reason       string
	OlderThan    time.Duration // since the claim was registered; never 0
	Repositories []string      // patterns of path.Match, one of which every place of it fits; none: it may be anywhere
	MediaTypes   []string      // none: any
}

// Expiry is evidence that a rule lets go.
type Expiry struct {
	Rule    *RetentionRule
	Entry   ledger.Entry
	Size    int64          // 0: not known
	Places  []ledger.Place // where it is
	Sharing int            // further entries that speak of the same bytes; the rule lets each of them go
	// HeldBy is a repository that the rule does not cover and that has it, too: the
	// evidence stays, for that alone. "": it goes.
	HeldBy string
}

// Expired tells found of all evidence that rules let go at a time, the newest
// first for each rule, and each evidence once. Bytes that several claims speak of
// go only when the rule holds for every one of them; what stays only for being in
// a further repository is told of, too. What is purged already is passed over.
func (c *Custodian) Expired(ctx context.Context, rules []RetentionRule, now time.Time, found func(Expiry) error) error {
	gone := map[statement.Digest]bool{}
	for i := range rules {
		rule, kept := &rules[i], map[statement.Digest]bool{}
		q := ledger.Query{Scope: ledger.All, MediaTypes: rule.MediaTypes, Until: now.Add(-rule.OlderThan), Limit: ledger.MaxPage}
		for {
			page, err := c.evidences.Claims(ctx, q, false)
			if err != nil {
				return err
			}
			for _, claim := range page {
				q.Before = claim.Index
				if !there(claim) || gone[claim.Evidence] || kept[claim.Evidence] {
					continue
				}
				e, goes, err := c.expiry(ctx, rule, claim, q.Until)
				if err != nil {
					return fmt.Errorf("evidence of entry %s: %w", claim.ID, err)
				}
				if !goes {
					kept[claim.Evidence] = true // by this rule, whichever claim leads there
				} else {
					gone[claim.Evidence] = true
				}
				if !goes && e.HeldBy == "" {
					continue
				}
				if err := found(e); err != nil {
					return err
				}
			}
			if len(page) < q.Limit || q.Before == 0 {
				break
			}
		}
	}
	return nil
}

// there: it can be removed from somewhere.
func there(claim ledger.Claim) bool {
	return claim.EvidenceState == ledger.EvidencePlaced || claim.EvidenceState == ledger.EvidenceStaged
}

// expiry holds a rule against all that speak of the evidence of a claim.
func (c *Custodian) expiry(ctx context.Context, rule *RetentionRule, claim ledger.Claim, until time.Time) (Expiry, bool, error) {
	e := Expiry{Rule: rule, Entry: claim.Entry, Sharing: -1}
	other := "" // a repository that the rule does not cover
	q := ledger.Query{Scope: ledger.All, Evidence: []statement.Digest{claim.Evidence}, Limit: ledger.MaxPage}
	for {
		page, err := c.evidences.Claims(ctx, q, false)
		if err != nil {
			return e, false, err
		}
		for _, sharing := range page {
			q.Before = sharing.Index
			if !sharing.RegisteredAt.Before(until) || len(rule.MediaTypes) > 0 && !slices.Contains(rule.MediaTypes, sharing.MediaType) {
				return e, false, nil
			}
			deliveries, err := c.ledger.Deliveries(ctx, sharing.ID, ledger.All)
			if err != nil {
				return e, false, err
			}
			placed := false
			for _, d := range deliveries {
				if d.Artifact != ledger.EvidenceArtifact || d.State == ledger.Dropped {
					continue
				}
				if !rule.admits(d.Repository) {
					placed, other = true, d.Repository
					continue
				}
				placed, e.Size = true, max(e.Size, d.Size)
				if !slices.Contains(e.Places, d.Place()) {
					e.Places = append(e.Places, d.Place())
				}
			}
			if len(rule.Repositories) > 0 && !placed {
				return e, false, nil
			}
			e.Sharing++
		}
		if len(page) < q.Limit {
			if len(e.Places) > 0 {
				e.HeldBy = other
			}
			return e, other == "", nil
		}
	}
}

func (r *RetentionRule) admits(repository string) bool {
	return len(r.Repositories) == 0 || slices.ContainsFunc(r.Repositories, func(pattern string) bool {
		ok, _ := path.Match(pattern, repository)
		return ok
	})
}
