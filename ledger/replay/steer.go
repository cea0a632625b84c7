package replay

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// steering is what the entries so far say about the log itself.
type steering struct {
	nextHead func() (ledger.Head, error, bool)
	head     ledger.Head // over the entry at hand

	policy      *policy.Policy // in force
	policyIndex uint64
	succession  policy.Succession

	keys      []crypto.PublicKey // announced before the head at hand
	announced []crypto.PublicKey // since
	minted    []minted           // receipts of entries below the head at hand

	roots, policies row // of heads that are wrong

	places map[[16]byte]uint64 // index by the first bytes of the ID
}

// row is a row of heads with one thing wrong: the first is told, the others are
// counted.
type row struct {
	wrong bool
	more  uint64
}

// note says whether this head begins a row.
func (r *row) note(wrong bool) (first bool) {
	first = wrong && !r.wrong
	if wrong && r.wrong {
		r.more++
	}
	r.wrong = wrong
	return first
}

// place is where an entry stands: what it was to be judged by.
type place struct {
	policy *policy.Policy
	at     time.Time
}

// headJob is a signed head, with what it has to be.
type headJob struct {
	ledger.Head
	keys     []crypto.PublicKey
	receipts []minted
	found    []Deviation

	service, origin string // as the log announced them; origin "" when it did not
}

// minted is a receipt that the service gave away, and the entry it is of.
type minted struct {
	index uint64
	id    statement.ID
	bytes []byte
}

func (h *headJob) deviates(kind, what string, recorded, replayed any) {
	d := Deviation{Kind: kind, Object: fmt.Sprintf("head of size %d", h.Size), What: what}
	if recorded != nil {
		d.Recorded, d.Replayed = fmt.Sprint(recorded), fmt.Sprint(replayed)
	}
	h.found = append(h.found, d)
}

// read checks the bytes of an entry, and reads them.
func (j *job) read() {
	if j.entry.Canonical == nil {
		return
	}
	if sum := sha256.Sum256(j.entry.Canonical); statement.ID(sum) != j.entry.ID {
		j.bad = fmt.Errorf("its bytes are those of %s", statement.ID(sum))
		return
	}
	if j.s, j.bad = statement.Parse(j.entry.Canonical); j.bad != nil {
		j.bad = fmt.Errorf("it is no Signed Statement: %w", j.bad)
	} else if !bytes.Equal(j.s.Canonical(), j.entry.Canonical) {
		j.s, j.bad = nil, errors.New("its bytes are not the canonical ones")
	}
}

// steer finds where an entry stands, and follows what it says about the log. An
// error ends the replay.
func (r *run) steer(j *job) error {
	i := j.entry.Index
	if i >= r.head.Size {
		h, err, ok := r.nextHead()
		if err != nil {
			return fmt.Errorf("%w: heads: %w", errSource, err)
		}
		if !ok {
			return fmt.Errorf("%w: there is no head over entry %d", errSource, i)
		}
		last := r.head
		r.head = h
		j.follows(last, h)
	}
	if j.bad != nil {
		j.deviates(Log, j.bad.Error())
	}
	if at, twice := r.places[[16]byte(j.entry.ID[:16])]; twice {
		j.deviates(Log, fmt.Sprintf("is in the log twice: it is entry %d, too", at))
	} else {
		r.places[[16]byte(j.entry.ID[:16])] = i
	}
	if b, ok := r.receipts[i]; ok {
		r.minted = append(r.minted, minted{i, j.entry.ID, b})
		r.report.Receipts++
		delete(r.receipts, i)
	}
	if err := r.tree.Append(hasher.HashLeaf(j.entry.ID[:]), nil); err != nil {
		panic(err) // a range that starts at 0 takes every leaf
	}
	if i == 0 {
		if err := r.begin(j); err != nil {
			return err
		}
	}
	j.place = place{r.policy, r.head.Time}
	switch {
	case i == 0 || j.s == nil:
	case j.s.MediaType() == policy.MediaType:
		r.succeed(j)
	case j.s.MediaType() == policy.ServiceMediaType:
		r.announce(j)
	}
	if i == 1 && (j.s == nil || j.s.MediaType() != policy.ServiceMediaType) {
		j.deviates(Log, "is no service statement, which leaf 1 has to be")
	}
	root := r.root(i + 1)
	if i+1 == r.head.Size {
		r.close(j, root())
	}
	return nil
}

// root is that of the tree so far, computed where somebody wants it.
func (r *run) root(size uint64) func() [32]byte {
	root := func() [32]byte {
		b, err := r.tree.GetRootHash(nil)
		if err != nil {
			panic(err) // a range that starts at 0 has a root
		}
		return [32]byte(b)
	}
	if slices.Contains(r.o.Roots, size) {
		r.report.Roots[size] = root()
	}
	return root
}

// follows checks what one head says of the one before, on behalf of the first
// entry between them.
func (j *job) follows(last, h ledger.Head) {
	wrong := func(what string, recorded, replayed any) {
		j.found = append(j.found, Deviation{Kind: Log, Object: fmt.Sprintf("head of size %d", h.Size), What: what,
			Recorded: fmt.Sprint(recorded), Replayed: fmt.Sprint(replayed)})
	}
	if h.PrevSize != last.Size || h.Size <= j.entry.Index {
		wrong("does not follow the head before it", fmt.Sprintf("size %d behind %d", h.Size, h.PrevSize), fmt.Sprintf("behind %d", last.Size))
	}
	if h.Time.Before(last.Time) {
		wrong("is older than the head before it", h.Time.UTC(), "no earlier than "+last.Time.UTC().String())
	}
}

// begin reads leaf 0. Without a first policy nothing can be judged.
func (r *run) begin(j *job) error {
	if j.s == nil {
		return fmt.Errorf("%w: entry 0 is not shown, or cannot be read", ErrNoPolicy)
	}
	p, err := policy.Bootstrap(j.s)
	if err != nil {
		return fmt.Errorf("%w: entry 0: %w", ErrNoPolicy, err)
	}
	r.follow(p, 0)
	r.report.Service = p.Service
	r.report.Operator = p.Evaluate(j.s, r.head.Time).Identity.Thumbprint
	return nil
}

// ErrNoPolicy: leaf 0 is no policy that a log could begin with.
var ErrNoPolicy = errors.New("the log has no first policy")

func (r *run) follow(p *policy.Policy, index uint64) {
	r.policy, r.policyIndex, r.succession = p, index, p.Succession()
	r.report.Policies++
}

// succeed counts a policy statement. Whether its operator may sign one is for the
// policy in force to judge, like everything.
func (r *run) succeed(j *job) {
	after, next, err := r.succession.Add(j.s)
	if err != nil {
		return // so the policy in force will refuse it
	}
	if refusal := r.succession.Repeated(j.s); refusal != nil {
		j.refused(refusal)
	}
	if r.succession = after; next == nil {
		return
	}
	if j.entry.Index+1 != r.head.Size {
		j.deviates(Log, fmt.Sprintf("puts a policy in force inside a batch, which ends at size %d", r.head.Size))
	}
	r.follow(next, j.entry.Index)
}

// announce notes the keys that a service statement names.
func (r *run) announce(j *job) {
	var svc ledger.Service
	err := json.Unmarshal(j.s.Payload, &svc)
	var named []crypto.PublicKey
	for _, b := range svc.ReceiptKeys {
		k, bad := cose.ParseKey(b)
		err = errors.Join(err, bad)
		named = append(named, k.Public)
	}
	switch {
	case err != nil:
		j.deviates(Log, "is no service statement: "+err.Error())
		return
	case svc.URL != r.report.Service || svc.LeafRule != ledger.LeafRule || len(r.report.Announced) > 0 && svc.Origin != r.report.Announced[0].Origin:
		j.deviates(Log, fmt.Sprintf("announces another log: %.300q (%.300q), leaves by %.300q", svc.URL, svc.Origin, svc.LeafRule))
		return
	}
	r.announced = append(r.announced, named...)
	r.report.Announced = append(r.report.Announced, svc)
}

// close compares the head that ends behind j, but for its signature.
func (r *run) close(j *job, root [32]byte) {
	h := &headJob{Head: r.head, service: r.report.Service}
	if len(r.report.Announced) > 0 {
		h.origin = r.report.Announced[0].Origin
	}
	j.head = h
	r.report.Heads++
	r.report.Root = root
	// Where one is wrong, so is most likely every one behind it.
	if wrong := h.Root != root; r.roots.note(wrong) {
		h.deviates(Log, "its root is not what the leaves give", fmt.Sprintf("%x", h.Root), fmt.Sprintf("%x", root))
	}
	if wrong := h.Policy != r.policyIndex; r.policies.note(wrong) {
		h.deviates(Log, "names another policy as in force", fmt.Sprintf("entry %d", h.Policy), fmt.Sprintf("entry %d", r.policyIndex))
	}
	// SPEC RFC 9943 §9.4: a key is used after it was announced; leaf 1 announces
	// the one under the head that covers itself.
	if h.PrevSize == 0 {
		r.adopt()
	}
	h.keys, h.receipts = slices.Clip(r.keys), r.minted
	r.minted = nil
	r.adopt()
}

func (r *run) adopt() { r.keys, r.announced = append(r.keys, r.announced...), nil }

// verify checks a head's signature, and receipts that were minted from it.
func (h *headJob) verify() {
	// The newest key is most likely the one that signs.
	err := errors.New("the log announced no key before it")
	for _, k := range slices.Backward(h.keys) {
		if err = receipts.VerifyHead(h.SignedHead, k); err != nil {
			continue
		}
		// SPEC RFC 9943 §6.1: a receipt names its issuer in iss; every receipt under
		// this head has its names.
		if service, origin := h.Names(); service != h.service || h.origin != "" && origin != h.origin {
			h.deviates(Log, "is signed in the name of another log", quoted(service)+" "+quoted(origin), quoted(h.service)+" "+quoted(h.origin))
		}
		for _, m := range h.receipts {
			if err := m.verify(h, k); err != nil {
				h.found = append(h.found, Deviation{Kind: Receipt, Object: fmt.Sprintf("receipt of entry %d", m.index), Entry: m.id, What: err.Error()})
			}
		}
		return
	}
	h.deviates(Log, "is signed by no key that the log announced before: "+err.Error(), nil, nil)
}

// verify checks that a receipt proves its entry under h.
func (m minted) verify(h *headJob, signer crypto.PublicKey) error {
	r, err := receipts.Parse(m.bytes)
	if err != nil {
		return err
	}
	if err := r.Verify(m.id[:], signer, receipts.Strict); err != nil {
		return err
	}
	root, err := r.Root(m.id[:])
	if err != nil {
		return err
	}
	if p := r.Proofs[0]; root != h.Root || p.TreeSize != h.Size || p.LeafIndex != m.index || !r.IssuedAt.Equal(h.Time) {
		return fmt.Errorf("it proves leaf %d of a tree of size %d with root %x, not leaf %d under the head of size %d", p.LeafIndex, p.TreeSize, root, m.index, h.Size)
	}
	return nil
}
