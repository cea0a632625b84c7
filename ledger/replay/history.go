package replay

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math"
	"slices"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

// settle judges what depends on the entries before: in order, one at a time.
func (r *run) settle(j *job) error {
	v := &j.verdict
	switch {
	case v.err != nil:
		return v.err
	case v.d.Conditional && v.d.Refusal == nil && v.gap == "":
		if err := r.remember(j.entry.Index); err != nil {
			return err
		}
		refusal, err := j.policy.Settle(r.ctx, v.whole, v.d, r.history)
		if err != nil {
			return fmt.Errorf("%w: entry %d: %w", errSource, j.entry.Index, err)
		}
		switch {
		// What is hidden may be what was needed, and what should have refused.
		case r.history.hidden > 0 && (refusal != nil || !j.policy.Needs(v.d)):
			v.gap = GapBefore
		case refusal != nil:
			j.refused(refusal)
		}
	}
	if r.history != nil {
		r.history.add(j.entry, j.s)
	}
	return nil
}

// remember makes the history of what lies below index. Most logs never ask for
// one; the first decision that does pays for reading them once more.
func (r *run) remember(index uint64) error {
	if r.history != nil {
		return nil
	}
	r.history = &history{src: r.src, by: map[fact][]uint64{}, digests: map[uint64]statement.Digest{}}
	for e, err := range r.src.Entries() {
		if err != nil {
			return fmt.Errorf("%w: %w", errSource, err)
		}
		if e.Index == index {
			return nil
		}
		j := job{entry: e}
		j.read()
		r.history.add(e, j.s)
		if err := r.ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// history answers about the entries below size: policy.History.
type history struct {
	src     Source
	size    uint64
	by      map[fact][]uint64 // indexes, ascending
	private []uint64          // ascending
	hidden  uint64            // how many are not shown

	// Of detached payloads, which the statements do not have.
	digests map[uint64]statement.Digest
}

var _ policy.History = (*history)(nil)

// fact is the hash of something that entries are found by.
type fact [16]byte

func factOf(name, value string) fact {
	sum := sha256.Sum256([]byte(name + "\x00" + value))
	return fact(sum[:16])
}

// add notes the next entry; s is nil where it is not shown.
func (h *history) add(e Entry, s *statement.Statement) {
	h.size = e.Index + 1
	if s == nil {
		h.hidden++
		return
	}
	if e.Private {
		h.private = append(h.private, e.Index)
	}
	for _, c := range e.Collateral {
		if c.Kind == ledger.PayloadCollateral {
			h.digests[e.Index] = statement.Digest(c.Data)
			s = h.whole(e.Index, s)
		}
	}
	for _, f := range facts(s.Issuer, s.Subject, s.MediaType(), s.PredicateType(), s.Evidence()) {
		h.by[f] = append(h.by[f], e.Index)
	}
	for _, a := range e.Artifacts {
		f := factOf("artifact", string(a))
		h.by[f] = append(h.by[f], e.Index)
	}
}

// facts leaves out what is not said.
func facts(issuer, subject, mediaType, predicateType string, evidence statement.Digest) []fact {
	var all []fact
	for _, f := range [][2]string{{"issuer", issuer}, {"subject", subject}, {"media type", mediaType}, {"predicate type", predicateType}, {"evidence", string(evidence)}} {
		if f[1] != "" {
			all = append(all, factOf(f[0], f[1]))
		}
	}
	return all
}

// Past goes through the rarest fact's entries, newest first.
func (h *history) Past(ctx context.Context, q policy.PastQuery, limit int) ([]policy.Past, error) {
	asked := facts(q.Issuer, q.Subject, q.MediaType, q.PredicateType, q.Evidence)
	if q.Artifact != "" {
		asked = append(asked, factOf("artifact", string(q.Artifact)))
	}
	lists := make([][]uint64, len(asked))
	for i, f := range asked {
		lists[i] = h.by[f]
	}
	slices.SortFunc(lists, func(a, b []uint64) int { return len(a) - len(b) })
	var found []policy.Past
	for index := range h.candidates(lists) {
		if len(found) == limit || ctx.Err() != nil {
			break
		}
		p, err := h.past(index)
		if err != nil {
			return nil, err
		}
		if p.Statement != nil {
			found = append(found, p)
		}
	}
	return found, ctx.Err()
}

// candidates are the indexes in all lists, the largest first; without lists, all.
func (h *history) candidates(lists [][]uint64) func(yield func(uint64) bool) {
	return func(yield func(uint64) bool) {
		if len(lists) == 0 {
			for i := h.size; i > 0 && yield(i-1); i-- {
			}
			return
		}
		below := uint64(math.MaxUint64)
	next:
		for _, index := range slices.Backward(lists[0]) {
			if index >= below {
				continue
			}
			for _, other := range lists[1:] {
				if _, in := slices.BinarySearch(other, index); !in {
					continue next
				}
			}
			if below = index; !yield(index) {
				return
			}
		}
	}
}

func (h *history) past(index uint64) (policy.Past, error) {
	b, err := h.src.Statement(index)
	if err != nil || b == nil {
		return policy.Past{}, err
	}
	s, err := statement.Parse(b)
	if err != nil {
		return policy.Past{}, nil // a deviation of its own
	}
	_, private := slices.BinarySearch(h.private, index)
	return policy.Past{Index: index, Private: private, Statement: h.whole(index, s)}, nil
}

// whole gives a detached statement the digest of its payload.
func (h *history) whole(index uint64, s *statement.Statement) *statement.Statement {
	if d, there := h.digests[index]; there {
		if whole, err := s.WithEvidence(d); err == nil {
			return whole
		}
	}
	return s
}
