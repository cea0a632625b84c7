package replay

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

// Why an entry is a Gap.
const (
	GapHidden    = "private: not shown without a token that may read"
	GapPayload   = "the payload is detached and not at hand: the issuer's signature cannot be verified again"
	GapEvidence  = "the evidence whose signer was judged is not at hand"
	GapBefore    = "its rule depends on entries before it that are not shown"
	GapBytes     = "the statement cannot be read"
	GapWithheld  = "the decision is there, but its statement is not" // a deviation already, as the next
	GapUndecided = "no decision is recorded"
)

// verdict is what came of judging an entry again.
type verdict struct {
	d     policy.Decision
	whole *statement.Statement // with its collateral
	gap   string               // why it was not judged
	err   error                // of the Source
}

// judge makes the decision about an entry again, and compares it with the
// recorded one.
func (r *run) judge(j *job) {
	v := &j.verdict
	e := &j.entry
	switch {
	case r.passes(j):
		return
	case j.bad != nil:
		v.gap = GapBytes // which is a deviation already
		return
	case j.s == nil && e.Hidden:
		if v.gap = GapHidden; !j.policy.Hides() {
			j.deviates(Decision, "is not shown, but the policy in force makes no entry private")
		}
		return
	case j.s == nil:
		j.deviates(Decision, "its decision is shown, but not its statement")
		v.gap = GapWithheld
		return
	case e.Hidden:
		j.deviates(Decision, "its statement is shown, but no decision is recorded")
		v.gap = GapUndecided
		return
	}
	materials, gap, err := r.whole(j)
	if v.err = err; err != nil {
		return
	}
	if v.gap = gap; gap == "" {
		v.d = j.policy.Evaluate(v.whole, j.at, materials...)
		if v.d.Refusal != nil {
			j.refused(v.d.Refusal)
			return
		}
	} else if v.d, err = j.policy.Recorded(v.whole, e.Rule, j.identity(), materials...); err != nil {
		j.deviates(Decision, "its record cannot be that of a decision: "+err.Error())
		return
	}
	j.compare(v.d)
}

// passes says whether j is not to be judged: it lies below where that begins, and
// says nothing about the log itself, on which everything behind it stands.
func (r *run) passes(j *job) bool {
	return j.entry.Index < r.o.From && (j.s == nil || j.s.MediaType() != policy.MediaType && j.s.MediaType() != policy.ServiceMediaType)
}

// refused notes that the entry is there against its policy's word.
func (j *job) refused(refusal *policy.Refusal) {
	j.found = append(j.found, Deviation{
		Kind: Decision, Object: j.object(), Entry: j.entry.ID, Rule: refusal.Rule,
		What:     "is in the log, but the policy in force refuses it: " + refusal.Reason,
		Recorded: "admitted by " + quoted(j.entry.Rule), Replayed: "refused (" + refusal.Code + ")",
	})
}

// identity is the recorded one.
func (j *job) identity() policy.Identity {
	id := j.entry.Identity
	id.Issuer = j.s.Issuer
	return id
}

// compare reports everything in which the record is not what replay finds.
func (j *job) compare(d policy.Decision) {
	e := &j.entry
	differs := func(what, recorded, replayed string) {
		j.found = append(j.found, Deviation{
			Kind: Decision, Object: j.object(), Entry: e.ID, Rule: d.Rule,
			What: what + " is recorded otherwise", Recorded: recorded, Replayed: replayed,
		})
	}
	if e.Policy != d.Policy {
		differs("the policy that it was judged by", e.Policy.String(), d.Policy.String())
	}
	if e.Rule != d.Rule {
		differs("the rule that admitted it", quoted(e.Rule), quoted(d.Rule))
	}
	recorded := j.identity()
	if recorded.Name == "" { // names were not kept from the first version on
		recorded.Name = d.Identity.Name
	}
	if recorded != d.Identity {
		differs("the identity of its signer", shown(recorded), shown(d.Identity))
	}
	if !slices.Equal(e.Artifacts, d.Artifacts) {
		differs("the list of its artifacts", fmt.Sprintf("%.600q", e.Artifacts), fmt.Sprintf("%.600q", d.Artifacts))
	}
	if e.Private != d.Private {
		differs("its visibility", visibility(e.Private), visibility(d.Private))
	}
	if !e.RegisteredAt.Equal(j.at) {
		differs("the time of its registration", e.RegisteredAt.UTC().String(), j.at.UTC().String())
	}
	kept, err := ledger.Kept(j.verdict.whole, d)
	if err != nil || !slices.EqualFunc(e.Collateral, kept, sameCollateral) {
		differs("what was kept beside it", kinds(e.Collateral), kinds(kept))
	}
}

func sameCollateral(a, b ledger.Collateral) bool {
	return a.Kind == b.Kind && bytes.Equal(a.Data, b.Data)
}

// kinds shows collateral so that what differs shows.
func kinds(all []ledger.Collateral) string {
	names := []string{}
	for _, c := range all {
		names = append(names, fmt.Sprintf("%s of %d bytes, sha256 %x", c.Kind, len(c.Data), sha256.Sum256(c.Data)))
	}
	return fmt.Sprintf("%q", names)
}

func shown(id policy.Identity) string {
	return fmt.Sprintf("%.40q %.300q %.300q", id.Kind, id.Thumbprint, id.Name)
}

func quoted(s string) string { return fmt.Sprintf("%.300q", s) }

func visibility(private bool) string {
	if private {
		return string(policy.Private)
	}
	return string(policy.Public)
}

// whole puts a statement and its collateral together, with the bytes of what is
// kept as a digest alone; gap says that those are not at hand. Collateral that is
// damaged is reported and left out: what follows from it will be missing.
func (r *run) whole(j *job) (materials []policy.Material, gap string, err error) {
	v := &j.verdict
	if v.whole, materials, err = ledger.Whole(j.s, j.entry.Collateral); err != nil {
		j.deviates(Decision, "its collateral is damaged: "+err.Error())
		v.whole = j.s
		materials = nil
	}
	if j.s.Detached() {
		digest := v.whole.Evidence()
		payload, err := r.evidence(digest)
		switch {
		case err != nil:
			return nil, "", err
		case payload == nil:
			gap = GapPayload
		default:
			if v.whole, err = v.whole.WithPayload(digest, payload); err != nil {
				return nil, "", fmt.Errorf("%w: entry %d: %w", errSource, j.entry.Index, err)
			}
		}
	}
	for i := range materials {
		if m := &materials[i]; m.Kind == ledger.EvidenceCollateral {
			if m.Body, err = r.evidence(statement.Digest(m.Source)); err != nil {
				return nil, "", err
			}
			if m.Body == nil {
				gap = GapEvidence
			}
		}
	}
	return materials, gap, nil
}

// evidence are the bytes of that digest; nil: they are not at hand.
func (r *run) evidence(digest statement.Digest) ([]byte, error) {
	if _, err := statement.ParseDigest(string(digest)); err != nil {
		return nil, nil // nothing has such a digest
	}
	b, err := r.src.Evidence(digest)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errSource, digest, err)
	}
	if b != nil && !digest.Matches(b) {
		return nil, fmt.Errorf("%w: the bytes kept as %s have another digest", errSource, digest)
	}
	return b, nil
}
