package fsck

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/scittd/scittd/internal/detcbor"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

// checkIndex derives the index row of entry i, and what is kept beside it, from
// statement s, the head over it and the policy in force.
func (c *Checker) checkIndex(i uint64, s *statement.Statement, p *page) {
	object := fmt.Sprintf("entry %d", i)
	dossier := p.dossiers[i]
	row, there := p.rows[i]
	if !dossier.Audited {
		c.report(Kept, object, "has no audit row: who brought it, and where it was to go, is lost")
		if !there {
			return
		}
	}
	judged := c.policy
	if judged == nil {
		return // steer has said so
	}
	whole, materials, err := withCollateral(s, dossier.Collateral)
	if err != nil {
		c.report(Kept, object, "its collateral is damaged: "+err.Error())
	}
	want := ledger.Entry{
		Index: i, ID: s.ID(), Issuer: s.Issuer, Subject: s.Subject, MediaType: s.MediaType(), PredicateType: s.PredicateType(),
		Evidence: whole.Evidence(), RegisteredAt: c.head.Time.UTC(), Policy: judged.Entry,
	}
	if i < c.blind {
		want.RegisteredAt = row.RegisteredAt
	}
	if s.Detached() {
		c.detached++ // its payload is not in the log, so the signature cannot be verified again from it
		if want.Evidence == "" {
			want.Evidence = row.Evidence // lost with the collateral, which was reported
		}
	}
	d, bad := judged.Recorded(whole, row.Rule, row.Identity, materials...)
	if bad != nil || !there {
		// Not such a decision's record: judge again, to say what it should be.
		d = judged.Evaluate(whole, want.RegisteredAt, materials...)
		if d.Refusal != nil {
			if bad == nil {
				bad = d.Refusal
			}
			c.report(Kept, object, fmt.Sprintf("the record of its decision under policy entry %d cannot be one: %v", c.policyIndex, bad))
			if !there {
				c.report(Index, object, "has no index row, or one that names rows which are missing")
			}
			return
		}
	}
	want.Artifacts, want.Private, want.Rule, want.Identity = d.Artifacts, d.Private, d.Rule, d.Identity
	if (d.Chain != nil) != slices.ContainsFunc(dossier.Collateral, func(k ledger.Collateral) bool { return k.Kind == ledger.ChainCollateral }) {
		c.report(Kept, object, "certificates are kept that its decision did not need")
	}
	if !there {
		c.report(Index, object, "has no index row, or one that names rows which are missing")
		c.stale = append(c.stale, want)
	} else if c.compare(object, row, want) {
		c.stale = append(c.stale, want)
	}
	c.checkDeliveries(object, dossier, judged, whole, want)
}

// compare reports every fact in which the stored row differs.
func (c *Checker) compare(object string, got, want ledger.Entry) (differs bool) {
	fact := func(name string, same bool, got, want func() string) {
		if !same {
			differs = true
			c.differs(Index, object, name+" in the index is not what statement, policy and head give", got(), want())
		}
	}
	text := func(name, got, want string) {
		fact(name, got == want, func() string { return quoted(got) }, func() string { return quoted(want) })
	}
	text("issuer", got.Issuer, want.Issuer)
	text("sub", got.Subject, want.Subject)
	text("media type", got.MediaType, want.MediaType)
	text("predicate type", got.PredicateType, want.PredicateType)
	text("evidence", string(got.Evidence), string(want.Evidence))
	text("rule", got.Rule, want.Rule)
	fact("list of subjects", slices.Equal(got.Artifacts, want.Artifacts), printed(got.Artifacts), printed(want.Artifacts))
	fact("visibility", got.Private == want.Private, visibility(got), visibility(want))
	fact("registration time", got.RegisteredAt.Equal(want.RegisteredAt), printed(got.RegisteredAt), printed(want.RegisteredAt))
	fact("policy", got.Policy == want.Policy, got.Policy.String, want.Policy.String)
	fact("identity", got.Identity == want.Identity, printed(got.Identity), printed(want.Identity))
	return differs
}

func quoted(s string) string { return fmt.Sprintf("%.300q", s) }

func printed[T any](v T) func() string { return func() string { return fmt.Sprintf("%+v", v) } }

func visibility(e ledger.Entry) func() string {
	return func() string {
		if e.Private {
			return string(policy.Private)
		}
		return string(policy.Public)
	}
}

// withCollateral is s with what is kept beside it, its chain and the digest of a
// detached payload, and the materials of its decision. With an error it is what
// could be used.
func withCollateral(s *statement.Statement, kept []ledger.Collateral) (*statement.Statement, []policy.Material, error) {
	var all error
	var materials []policy.Material
	seen := map[string]bool{}
	for _, k := range kept {
		with, m, err := withPiece(s, k)
		piece := k.Kind + " " + m.Source // of one kind there may be several, of several sources
		switch {
		case seen[piece]:
			err = fmt.Errorf("there is more than one %q", k.Kind)
		case k.Data == nil:
			err = fmt.Errorf("the content of its %s is missing", k.Kind)
		}
		seen[piece], seen[k.Kind] = true, true
		switch {
		case err == nil && with != nil:
			s = with
		case err == nil:
			materials = append(materials, m)
		}
		all = errors.Join(all, err)
	}
	if s.Detached() && !seen[ledger.PayloadCollateral] {
		all = errors.Join(all, errors.New("the digest of its payload, which is detached, is not kept"))
	}
	return s, materials, all
}

// withPiece is s with one piece, or the material that this is.
func withPiece(s *statement.Statement, k ledger.Collateral) (*statement.Statement, policy.Material, error) {
	m := policy.Material{Kind: k.Kind}
	switch k.Kind {
	case ledger.ChainCollateral:
		var chain [][]byte
		if err := detcbor.Unmarshal(k.Data, &chain); err != nil {
			return nil, m, err
		}
		with, err := s.WithChain(chain)
		return with, m, err
	case ledger.PayloadCollateral:
		with, err := s.WithEvidence(statement.Digest(k.Data))
		return with, m, err
	case policy.EvidenceDocument:
		var err error
		m.Source = string(k.Data)
		if k.Data != nil {
			_, err = statement.ParseDigest(m.Source)
		}
		return nil, m, err
	case policy.DIDDocument, policy.KeySetDocument, policy.TimestampToken:
		var kept struct {
			_      struct{} `cbor:",toarray"`
			Source string
			Body   []byte
		}
		err := detcbor.Unmarshal(k.Data, &kept)
		m.Source, m.Body = kept.Source, kept.Body
		return nil, m, err
	}
	return nil, m, fmt.Errorf("kind %q is none there is", k.Kind)
}

// place is where something is to be placed.
type place struct {
	registry, repository string
	subject              statement.Digest
	artifact             string
}

func (p place) String() string {
	return fmt.Sprintf("%s of %s/%s@%s", p.artifact, p.registry, p.repository, p.subject)
}

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.registry, q.registry), cmp.Compare(p.repository, q.repository),
		cmp.Compare(p.subject, q.subject), cmp.Compare(p.artifact, q.artifact))
}

// checkDeliveries derives again what is to be placed where. How far each has
// come is the Courier's to say. Whether there was an archive at that time is
// nowhere said: what is placed may be archived, once.
func (c *Checker) checkDeliveries(object string, d ledger.Dossier, p *policy.Policy, s *statement.Statement, e ledger.Entry) {
	want, err := places(p, s, d, e)
	if err != nil {
		c.report(Kept, object, "should have been refused, for where it was to go: "+err.Error())
		return
	}
	want = withLater(want, d, e)
	got := make([]place, 0, len(d.Deliveries))
	archived := false
	for _, v := range d.Deliveries {
		at := place{v.Registry, v.Repository, v.Subject, v.Artifact}
		if v.Artifact == ledger.ArchiveArtifact && !archived && len(want) > 0 && v.Registry == want[0].registry {
			archived = true
		} else {
			got = append(got, at)
		}
		known := v.State == ledger.Queued || v.State == ledger.Refused || v.State == ledger.Done || v.State == ledger.Dropped
		if !known || (v.State == ledger.Done) != (v.Manifest != "") || v.Tries < 0 {
			c.report(Kept, object, fmt.Sprintf("delivery %v is in no state there is: %q, manifest %q, %d tries", at, v.State, v.Manifest, v.Tries))
		}
	}
	slices.SortFunc(got, place.compare)
	for _, at := range want {
		if _, ok := slices.BinarySearchFunc(got, at, place.compare); !ok {
			c.report(Kept, object, fmt.Sprintf("delivery %v is missing", at))
		}
	}
	for i, at := range got {
		if _, ok := slices.BinarySearchFunc(want, at, place.compare); !ok || i > 0 && got[i-1] == at {
			c.report(Kept, object, fmt.Sprintf("delivery %v is none that it asked for", at))
		}
	}
}

// withLater adds to want what was asked for after the registration. Nobody may
// ask for what the log keeps private.
func withLater(want []place, d ledger.Dossier, e ledger.Entry) []place {
	if e.Private {
		return want
	}
	for _, v := range d.Later {
		if v.Artifact != ledger.ArchiveArtifact {
			want = append(want, place{v.Registry, v.Repository, v.Subject, v.Artifact})
		}
	}
	slices.SortFunc(want, place.compare)
	return slices.Compact(want)
}

func places(p *policy.Policy, s *statement.Statement, d ledger.Dossier, e ledger.Entry) ([]place, error) {
	if e.Private || d.Registry == "" || e.MediaType == policy.MediaType || e.MediaType == policy.ServiceMediaType || e.MediaType == policy.PurgeMediaType {
		return nil, nil
	}
	if err := p.Concerns(e.Artifacts, d.Image); err != nil {
		return nil, err
	}
	names, err := p.Repositories(s, d.Repository, d.Registry)
	if err != nil {
		return nil, err
	}
	subjects := e.Artifacts
	if len(subjects) == 0 && d.Image != "" {
		subjects = []statement.Digest{d.Image}
	}
	var all []place
	for _, name := range names {
		for _, subject := range subjects {
			all = append(all, place{d.Registry, name, subject, ledger.TransparencyArtifact})
			if e.Evidence != "" {
				all = append(all, place{d.Registry, name, subject, ledger.EvidenceArtifact})
			}
		}
	}
	slices.SortFunc(all, place.compare)
	return slices.Compact(all), nil
}
