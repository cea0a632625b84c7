package ledger

import (
	"slices"
	"time"

	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

// holds says whether d may be used at time t under p without judging again.
func holds(d policy.Decision, p *policy.Policy, t time.Time) bool {
	return d.Policy == p.Entry &&
		(d.NotBefore.IsZero() || !t.Before(d.NotBefore)) &&
		(d.NotAfter.IsZero() || !t.After(d.NotAfter))
}

// draft makes the rows of s at index, registered at t by decision d.
func draft(s *statement.Statement, d policy.Decision, index uint64, t time.Time) (NewEntry, error) {
	n := NewEntry{
		Entry: Entry{
			Index:         index,
			ID:            s.ID(),
			Issuer:        s.Issuer,
			Subject:       s.Subject,
			MediaType:     s.MediaType(),
			PredicateType: s.PredicateType(),
			Evidence:      s.Evidence(),
			Artifacts:     d.Artifacts,
			Private:       d.Private,
			RegisteredAt:  t,
			Policy:        d.Policy,
			Rule:          d.Rule,
			Identity:      d.Identity,
		},
		Canonical: s.Canonical(),
	}
	var err error
	n.Collateral, err = keep(s, d)
	return n, err
}

// deliver fixes where n will be placed: for every artifact in every repository
// that policy and path name, the evidence and the transparency artifact. The
// artifacts are those that are signed; where none is, the image that n came for.
// What is private, or steers the ledger itself, is never placed. What is placed
// is archived, too, where there is a repository for that.
func (n *NewEntry) deliver(s *statement.Statement, p *policy.Policy, archive string) error {
	if err := p.Concerns(n.Artifacts, n.Image); err != nil {
		return err
	}
	if n.Registry == "" || n.Private || steers(s) {
		return nil
	}
	repositories, err := p.Repositories(s, n.Repository, n.Registry)
	if err != nil {
		return err
	}
	subjects := n.Artifacts
	if len(subjects) == 0 && n.Image != "" {
		subjects = []statement.Digest{n.Image}
	}
	repositories = slices.Compact(slices.Sorted(slices.Values(repositories)))
	artifacts := []string{TransparencyArtifact}
	if n.Evidence != "" {
		artifacts = []string{EvidenceArtifact, TransparencyArtifact}
	}
	queue := func(repository string, subject statement.Digest, artifact string) {
		n.Deliveries = append(n.Deliveries, Delivery{
			Entry: n.Index, EntryID: n.ID,
			Registry: n.Registry, Repository: repository, Subject: subject, Artifact: artifact,
			State: Queued, NextAt: n.RegisteredAt, Since: n.RegisteredAt,
		})
	}
	for _, repository := range repositories {
		for _, subject := range subjects {
			for _, artifact := range artifacts {
				queue(repository, subject, artifact)
			}
		}
	}
	if archive != "" && len(n.Deliveries) > 0 {
		queue(archive, subjects[0], ArchiveArtifact)
	}
	return nil
}
