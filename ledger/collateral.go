package ledger

import (
	"fmt"

	"github.com/scittd/scittd/internal/detcbor"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

// The kinds of Collateral. An x5chain that came unprotected is a CBOR array of
// DER certificates, leaf first. The payload of a detached statement is kept as
// its digest alone, in text: what was decided over it can be traced, and
// repeated by whoever has the payload still; so is evidence that the eNotary has
// read. Any other kind is one of policy.Material, a CBOR array of its source and
// its bytes.
const (
	ChainCollateral    = "x5chain"
	PayloadCollateral  = "payload"
	EvidenceCollateral = policy.EvidenceDocument
)

// Collateral is what authenticated a statement besides its own bytes, kept so
// that the decision can be replayed. It is content-addressed.
type Collateral struct {
	Kind string
	Data []byte
}

// keep is the collateral of decision d about s.
func keep(s *statement.Statement, d policy.Decision) ([]Collateral, error) {
	var kept []Collateral
	if d.Chain != nil {
		data, err := detcbor.Marshal(d.Chain)
		if err != nil {
			return nil, fmt.Errorf("keep the chain of %s: %w", s.ID(), err)
		}
		kept = append(kept, Collateral{Kind: ChainCollateral, Data: data})
	}
	if s.Detached() {
		kept = append(kept, Collateral{Kind: PayloadCollateral, Data: []byte(s.Evidence())})
	}
	for _, m := range d.Materials {
		if m.Kind == policy.EvidenceDocument {
			kept = append(kept, Collateral{Kind: EvidenceCollateral, Data: []byte(m.Source)})
			continue
		}
		data, err := detcbor.Marshal(material{Source: m.Source, Body: m.Body})
		if err != nil {
			return nil, fmt.Errorf("keep %s %s for %s: %w", m.Kind, m.Source, s.ID(), err)
		}
		kept = append(kept, Collateral{Kind: m.Kind, Data: data})
	}
	return kept, nil
}

// material is a policy.Material as it is kept.
type material struct {
	_      struct{} `cbor:",toarray"`
	Source string
	Body   []byte
}

// Whole gives s what was kept beside it, so that the decision about it can be
// repeated: its chain and, of a detached payload, the digest; and the materials
// for policy.Evaluate. Of evidence there is no more than the digest: what has no
// Body can be repeated only by whoever has the bytes.
func Whole(s *statement.Statement, kept []Collateral) (*statement.Statement, []policy.Material, error) {
	var materials []policy.Material
	for _, c := range kept {
		var err error
		switch c.Kind {
		case ChainCollateral:
			var chain [][]byte
			if err = detcbor.Unmarshal(c.Data, &chain); err == nil {
				s, err = s.WithChain(chain)
			}
		case PayloadCollateral:
			s, err = s.WithEvidence(statement.Digest(c.Data))
		case EvidenceCollateral:
			materials = append(materials, policy.Material{Kind: c.Kind, Source: string(c.Data)})
		default:
			var m material
			if err = detcbor.Unmarshal(c.Data, &m); err == nil {
				materials = append(materials, policy.Material{Kind: c.Kind, Source: m.Source, Body: m.Body})
			}
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%w: kept %s: %v", ErrCorrupt, c.Kind, err)
		}
	}
	return s, materials, nil
}

// chainOf finds the chain that was kept; nil when there was none.
func chainOf(kept []Collateral) ([][]byte, error) {
	for _, c := range kept {
		if c.Kind != ChainCollateral {
			continue
		}
		var chain [][]byte
		if err := detcbor.Unmarshal(c.Data, &chain); err != nil {
			return nil, fmt.Errorf("%w: kept chain: %v", ErrCorrupt, err)
		}
		return chain, nil
	}
	return nil, nil
}

// Source is where c came from: the URL of what was looked up, the digest of what
// is kept as a digest alone; "" where the data speaks for itself.
func (c Collateral) Source() string {
	switch c.Kind {
	case ChainCollateral:
		return ""
	case PayloadCollateral, EvidenceCollateral:
		return string(c.Data)
	}
	var m material
	if err := detcbor.Unmarshal(c.Data, &m); err != nil {
		return ""
	}
	return m.Source
}
