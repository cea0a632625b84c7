package ledgertest

import (
	"bytes"
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sort"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/internal/detcbor"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/fsck"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// CheckLog recomputes a whole log from its statements and compares everything
// the store says with that: leaves, tiles, the root and signature of every head,
// a receipt for every entry, every decision, every index row and query, every
// delivery. It shares no code with the sequencer, and reads the store only
// through its interface. nil means that the log is sound; the error names the
// first thing that is not.
//
// Heads must be signed by a key that the log announced before. With keys, it
// must be one of those too: what the caller trusts from elsewhere. A log that
// was never initialised is sound.
func CheckLog(ctx context.Context, s ledger.Store, keys ...crypto.PublicKey) error {
	c := newChecker(ctx, s, keys...)
	for _, step := range []func() error{
		c.readHeads, c.readLeaves, c.checkRoots, c.checkTiles, c.readRecords, c.checkPolicies,
		c.checkSignatures, c.checkReceipts, c.checkEntries, c.checkQueries, c.checkScope, c.checkDeliveries,
	} {
		if err := step(); err != nil {
			return err
		}
		if len(c.heads) == 0 {
			return nil
		}
	}
	return c.checkTwin()
}

// checkTwin asks the checker that operators run, which is another one on
// purpose: it reads a log in a stream and judges nothing again, this one holds
// all of it and does. Where both find nothing, an error of either has to be
// shared by the other.
func (c *checker) checkTwin() error {
	s, ok := c.store.(fsck.Store)
	if !ok {
		return nil // a store that breaks on command
	}
	var found []fsck.Finding
	if _, err := fsck.Check(c.ctx, s, func(f fsck.Finding) { found = append(found, f) }); err != nil {
		return fmt.Errorf("fsck: %w", err)
	}
	if len(found) > 0 {
		return fmt.Errorf("fsck finds in a sound log: %v", found)
	}
	return nil
}

type checker struct {
	ctx    context.Context
	store  ledger.Store
	pinned []crypto.PublicKey

	heads   []ledger.Head // oldest first
	leaves  []statement.ID
	tree    *tree
	records []ledger.Record // by index
	parsed  []*statement.Statement
	// Policies by index of the entry that put them in force.
	policies map[uint64]*policy.Policy
}

func newChecker(ctx context.Context, s ledger.Store, keys ...crypto.PublicKey) *checker {
	return &checker{ctx: ctx, store: s, pinned: keys, policies: map[uint64]*policy.Policy{}}
}

func (c *checker) size() uint64 { return uint64(len(c.leaves)) }

// readHeads walks the chain of heads.
func (c *checker) readHeads() error {
	newest, err := c.store.Head(c.ctx)
	if errors.Is(err, ledger.ErrEmpty) {
		ids, err := c.store.Leaves(c.ctx, 0, 1)
		if err == nil && len(ids) > 0 {
			err = errors.New("no head, but a leaf")
		}
		return err
	}
	if err != nil {
		return fmt.Errorf("head: %w", err)
	}
	for at := uint64(0); ; {
		h, err := c.store.HeadFor(c.ctx, at)
		if errors.Is(err, ledger.ErrNotFound) {
			break
		}
		switch {
		case err != nil:
			return fmt.Errorf("head for %d: %w", at, err)
		case h.PrevSize != at:
			return fmt.Errorf("head of size %d follows size %d, want %d", h.Size, h.PrevSize, at)
		case h.Size <= at:
			return fmt.Errorf("head for %d has size %d", at, h.Size)
		case h.Size == 1:
			return errors.New("a head of size 1 was signed")
		case len(c.heads) > 0 && h.Time.Before(c.heads[len(c.heads)-1].Time):
			return fmt.Errorf("head of size %d: time %v is before its predecessor's", h.Size, h.Time)
		}
		c.heads = append(c.heads, h)
		at = h.Size
	}
	if len(c.heads) == 0 || !reflect.DeepEqual(c.heads[len(c.heads)-1], newest) {
		return fmt.Errorf("newest head, of size %d, does not end the chain of %d heads", newest.Size, len(c.heads))
	}
	return nil
}

func (c *checker) readLeaves() error {
	size := c.heads[len(c.heads)-1].Size
	for at := uint64(0); at < size; at += 1000 {
		ids, err := c.store.Leaves(c.ctx, at, min(at+1000, size))
		if err != nil {
			return fmt.Errorf("leaves from %d: %w", at, err)
		}
		c.leaves = append(c.leaves, ids...)
	}
	if c.size() != size {
		return fmt.Errorf("%d leaves under a head of size %d", c.size(), size)
	}
	if more, err := c.store.Leaves(c.ctx, size, size+1); err != nil || len(more) > 0 {
		return fmt.Errorf("%d leaves beyond size %d, error %v", len(more), size, err)
	}
	return nil
}

// tree has every node of a Merkle tree, by transparency-dev/merkle.
type tree struct {
	border *compact.Range
	nodes  map[compact.NodeID][]byte
}

func newTree() *tree {
	f := compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}
	return &tree{border: f.NewEmptyRange(0), nodes: map[compact.NodeID][]byte{}}
}

func (t *tree) add(id statement.ID) error {
	return t.border.Append(rfc6962.DefaultHasher.HashLeaf(id[:]), func(n compact.NodeID, h []byte) { t.nodes[n] = h })
}

func (t *tree) root() ([32]byte, error) {
	h, err := t.border.GetRootHash(nil)
	if err != nil || len(h) != 32 {
		return [32]byte{}, fmt.Errorf("root of size %d: %d bytes, %v", t.border.End(), len(h), err)
	}
	return [32]byte(h), nil
}

// tile is the full tile id, if the tree has it.
func (t *tree) tile(id ledger.TileID) (ledger.Tile, bool) {
	tile := ledger.Tile{TileID: id}
	level := 8 * uint(id.Level)
	root, ok := t.nodes[compact.NewNodeID(level+8, id.N)]
	if !ok {
		return tile, false
	}
	tile.Root = [32]byte(root)
	for i := id.N * 256; i < (id.N+1)*256; i++ {
		tile.Data = append(tile.Data, t.nodes[compact.NewNodeID(level, i)]...)
	}
	return tile, true
}

// path of a leaf in the tree as it was at size.
func (t *tree) path(index, size uint64) ([][]byte, error) {
	p, err := proof.Inclusion(index, size)
	if err != nil {
		return nil, err
	}
	hashes := make([][]byte, len(p.IDs))
	for i, id := range p.IDs {
		hashes[i] = t.nodes[id]
	}
	return p.Rehash(hashes, rfc6962.DefaultHasher.HashChildren)
}

func (c *checker) checkRoots() error {
	c.tree = newTree()
	next := 0
	for i, id := range c.leaves {
		if err := c.tree.add(id); err != nil {
			return err
		}
		if h := c.heads[next]; h.Size == uint64(i)+1 {
			root, err := c.tree.root()
			if err != nil {
				return err
			}
			if root != h.Root {
				return fmt.Errorf("head of size %d: root %x, the leaves give %x", h.Size, h.Root, root)
			}
			next++
		}
	}
	return nil
}

func (c *checker) checkTiles() error {
	for level := uint8(0); level < 8; level++ {
		for n := uint64(0); ; n++ {
			id := ledger.TileID{Level: level, N: n}
			got, err := c.store.Tiles(c.ctx, []ledger.TileID{id})
			if err != nil {
				return fmt.Errorf("tile %v: %w", id, err)
			}
			roots, err := c.store.Roots(c.ctx, level, n, n+1)
			if err != nil {
				return fmt.Errorf("root of tile %v: %w", id, err)
			}
			want, full := c.tree.tile(id)
			if !full {
				if len(got) > 0 || len(roots) > 0 {
					return fmt.Errorf("tile %v is stored, but not full at size %d", id, c.size())
				}
				break
			}
			if len(got) != 1 || got[0].TileID != id || !bytes.Equal(got[0].Data, want.Data) || got[0].Root != want.Root {
				return fmt.Errorf("tile %v is not what the leaves give", id)
			}
			if len(roots) != 1 || roots[0] != want.Root {
				return fmt.Errorf("root of tile %v is not what the leaves give", id)
			}
		}
	}
	return nil
}

// readRecords reads the bytes of every entry and checks that they are its.
func (c *checker) readRecords() error {
	for i, id := range c.leaves {
		r, err := c.store.Record(c.ctx, id, ledger.All)
		if err != nil {
			return fmt.Errorf("record of entry %d: %w", i, err)
		}
		s, err := statement.Parse(r.Canonical)
		if err != nil {
			return fmt.Errorf("statement of entry %d: %w", i, err)
		}
		if s.ID() != id || r.ID != id || r.Index != uint64(i) || !bytes.Equal(s.Canonical(), r.Canonical) {
			return fmt.Errorf("entry %d, %s: record of %d, %s, holds the bytes of %s", i, id, r.Index, r.ID, s.ID())
		}
		c.records = append(c.records, r)
		c.parsed = append(c.parsed, s)
	}
	return nil
}

// checkPolicies follows the chain of policies: each replaces the one before,
// closes its batch, and is what the heads from there on name, once enough
// operators have signed it.
func (c *checker) checkPolicies() error {
	first, err := policy.Bootstrap(c.parsed[0])
	if err != nil {
		return fmt.Errorf("leaf 0: %w", err)
	}
	c.policies[0] = first
	last := uint64(0)
	signed := map[string]map[string]bool{} // document -> operators, since last
	for _, h := range c.heads {
		for i := h.PrevSize; i < h.Size; i++ {
			if i == 0 || c.parsed[i].MediaType() != policy.MediaType {
				continue
			}
			p, err := policy.FromStatement(c.parsed[i])
			if err != nil {
				return fmt.Errorf("policy entry %d: %w", i, err)
			}
			if i != h.Size-1 {
				return fmt.Errorf("policy entry %d does not close its batch of size %d", i, h.Size)
			}
			if p.Previous == nil || *p.Previous != c.leaves[last] {
				return fmt.Errorf("policy entry %d does not replace entry %d", i, last)
			}
			document, operator := string(c.parsed[i].Payload), c.records[i].Identity.Thumbprint
			if signed[document] == nil {
				signed[document] = map[string]bool{}
			}
			if signed[document][operator] {
				return fmt.Errorf("policy entry %d is signed by an operator who signed the same document before", i)
			}
			signed[document][operator] = true
			if len(signed[document]) == c.policies[last].Threshold {
				c.policies[i], last = p, i
				clear(signed)
			}
		}
		if h.Policy != last {
			return fmt.Errorf("head of size %d names policy entry %d, in force is %d", h.Size, h.Policy, last)
		}
	}
	if c.parsed[1].MediaType() != policy.ServiceMediaType {
		return errors.New("leaf 1 is no service statement")
	}
	return nil
}

// inForce is the policy that judged entry i, and its head.
func (c *checker) inForce(i uint64) (*policy.Policy, ledger.Head) {
	at := sort.Search(len(c.heads), func(k int) bool { return c.heads[k].Size > i })
	if at == 0 {
		return c.policies[0], c.heads[0]
	}
	return c.policies[c.heads[at-1].Policy], c.heads[at]
}

// checkSignatures verifies every head under a key that was announced before it.
func (c *checker) checkSignatures() error {
	var announced []crypto.PublicKey
	next := uint64(0)
	for _, h := range c.heads {
		until := h.PrevSize
		if until == 0 {
			until = h.Size // leaf 1 announces the key that signs it
		}
		for ; next < until; next++ {
			if c.parsed[next].MediaType() != policy.ServiceMediaType {
				continue
			}
			var svc ledger.Service
			if err := json.Unmarshal(c.parsed[next].Payload, &svc); err != nil {
				return fmt.Errorf("service statement %d: %w", next, err)
			}
			for _, b := range svc.ReceiptKeys {
				k, err := cose.ParseKey(b)
				if err != nil {
					return fmt.Errorf("service statement %d: %w", next, err)
				}
				announced = append(announced, k.Public)
			}
		}
		key, err := signer(h, announced)
		if err != nil {
			return err
		}
		if len(c.pinned) > 0 && !slices.ContainsFunc(c.pinned, func(p crypto.PublicKey) bool { return equal(p, key) }) {
			return fmt.Errorf("head of size %d is signed by a key that is announced, but not trusted", h.Size)
		}
	}
	return nil
}

func signer(h ledger.Head, keys []crypto.PublicKey) (crypto.PublicKey, error) {
	for _, k := range keys {
		if receipts.VerifyHead(h.SignedHead, k) == nil {
			return k, nil
		}
	}
	return nil, fmt.Errorf("head of size %d: its signature verifies under none of %d announced keys", h.Size, len(keys))
}

func equal(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

// checkReceipts mints and parses a receipt for every entry. Their root is the
// head's; one of each batch is verified in full, as all share one signature.
func (c *checker) checkReceipts() error {
	for i, id := range c.leaves {
		_, h := c.inForce(uint64(i))
		path, err := c.tree.path(uint64(i), h.Size)
		if err != nil {
			return fmt.Errorf("path of entry %d: %w", i, err)
		}
		b, err := receipts.Mint(h.SignedHead, uint64(i), path)
		if err != nil {
			return fmt.Errorf("receipt of entry %d: %w", i, err)
		}
		r, err := receipts.Parse(b)
		if err != nil {
			return fmt.Errorf("receipt of entry %d: %w", i, err)
		}
		root, err := r.Root(id[:])
		if err != nil || root != h.Root {
			return fmt.Errorf("receipt of entry %d: root %x, head %x, error %v", i, root, h.Root, err)
		}
		if uint64(i) == h.Size-1 {
			if err := c.verify(r, id); err != nil {
				return fmt.Errorf("receipt of entry %d: %w", i, err)
			}
		}
	}
	return nil
}

func (c *checker) verify(r *receipts.Receipt, id statement.ID) error {
	for _, s := range c.parsed {
		if s.MediaType() != policy.ServiceMediaType {
			continue
		}
		var svc ledger.Service
		if err := json.Unmarshal(s.Payload, &svc); err != nil {
			return err
		}
		for _, b := range svc.ReceiptKeys {
			k, err := cose.ParseKey(b)
			if err != nil {
				return err
			}
			if r.Verify(id[:], k.Public, receipts.Strict) == nil {
				return nil
			}
		}
	}
	return errors.New("verifies under no announced key")
}

// checkEntries repeats every decision and derives every index row again.
func (c *checker) checkEntries() error {
	for i, r := range c.records {
		p, h := c.inForce(uint64(i))
		s, chain, materials, err := whole(c.parsed[i], r)
		if err != nil {
			return fmt.Errorf("collateral of entry %d: %w", i, err)
		}
		// A detached payload is not in the log, and neither is evidence: what is left
		// is a record of the decision.
		gone := s.Detached() || slices.ContainsFunc(materials, func(m policy.Material) bool { return m.Kind == policy.EvidenceDocument })
		var d policy.Decision
		if gone {
			d, err = p.Recorded(s, r.Rule, r.Identity, materials...)
		} else if d = p.Evaluate(s, h.Time, materials...); d.Refusal != nil {
			err = d.Refusal
		}
		if err == nil && d.Conditional {
			var refusal *policy.Refusal
			if refusal, err = p.Settle(c.ctx, s, d, before{c, uint64(i)}); refusal != nil {
				err = refusal
			}
		}
		if err != nil {
			return fmt.Errorf("entry %d would be refused: %w", i, err)
		}
		if !reflect.DeepEqual(d.Chain, chain) {
			return fmt.Errorf("entry %d: chain of %d certificates is kept, %d were validated", i, len(chain), len(d.Chain))
		}
		if !gone && !slices.EqualFunc(d.Materials, materials, func(a, b policy.Material) bool { return reflect.DeepEqual(a, b) }) {
			return fmt.Errorf("entry %d: materials %+v are kept, %+v were used", i, materials, d.Materials)
		}
		want := ledger.Entry{
			Index: uint64(i), ID: c.leaves[i], Issuer: s.Issuer, Subject: s.Subject,
			MediaType: s.MediaType(), PredicateType: s.PredicateType(), Evidence: s.Evidence(),
			Artifacts: d.Artifacts, Private: d.Private, RegisteredAt: h.Time.UTC(),
			Policy: p.Entry, Rule: d.Rule, Identity: d.Identity,
		}
		if len(want.Artifacts) == 0 {
			want.Artifacts = nil
		}
		if r.Identity.Name == "" {
			want.Identity.Name = "" // older releases kept none
		}
		if !reflect.DeepEqual(r.Entry, want) {
			return fmt.Errorf("entry %d is\n%+v, the statement gives\n%+v", i, r.Entry, want)
		}
	}
	return nil
}

// whole is s, the statement of r, with its collateral: the chain, which is also
// returned alone, the digest of a detached payload, and what was looked up.
func whole(s *statement.Statement, r ledger.Record) (_ *statement.Statement, chain [][]byte, materials []policy.Material, err error) {
	for _, c := range r.Collateral {
		switch {
		case c.Kind == ledger.ChainCollateral && chain == nil:
			if err = detcbor.Unmarshal(c.Data, &chain); err == nil {
				s, err = s.WithChain(chain)
			}
		case c.Kind == ledger.PayloadCollateral && s.Evidence() == "":
			s, err = s.WithEvidence(statement.Digest(c.Data))
		case c.Kind == policy.EvidenceDocument:
			materials = append(materials, policy.Material{Kind: c.Kind, Source: string(c.Data)})
		case c.Kind == policy.DIDDocument || c.Kind == policy.KeySetDocument || c.Kind == policy.TimestampToken:
			var kept []any
			if err = detcbor.Unmarshal(c.Data, &kept); err == nil && len(kept) == 2 {
				materials = append(materials, policy.Material{Kind: c.Kind, Source: kept[0].(string), Body: kept[1].([]byte)})
			}
		default:
			err = errors.New("unexpected")
		}
		if err != nil {
			return nil, nil, nil, fmt.Errorf("collateral %q: %w", c.Kind, err)
		}
	}
	if s.Detached() && s.Evidence() == "" {
		return nil, nil, nil, errors.New("the digest of the detached payload is not kept")
	}
	return s, chain, materials, nil
}

// before is the policy.History of one entry: all below it, looked through one by
// one.
type before struct {
	*checker
	index uint64
}

func (b before) Past(_ context.Context, q policy.PastQuery, limit int) ([]policy.Past, error) {
	var found []policy.Past
	for i := b.index; i > 0 && len(found) < limit; i-- {
		e, s := b.records[i-1].Entry, b.parsed[i-1]
		if q.Issuer != "" && q.Issuer != s.Issuer || q.Subject != "" && q.Subject != s.Subject ||
			q.MediaType != "" && q.MediaType != s.MediaType() || q.PredicateType != "" && q.PredicateType != s.PredicateType() ||
			q.Evidence != "" && q.Evidence != e.Evidence || q.Artifact != "" && !slices.Contains(e.Artifacts, q.Artifact) {
			continue
		}
		found = append(found, policy.Past{Index: i - 1, Private: e.Private, Statement: s})
	}
	return found, nil
}

// checkQueries asks for every value that occurs, and for everything.
func (c *checker) checkQueries() error {
	type facet struct {
		name string
		of   func(ledger.Entry) []string
		ask  func(*ledger.Query, string)
	}
	one := func(s string) []string {
		if s == "" {
			return nil
		}
		return []string{s}
	}
	for _, f := range []facet{
		{"everything", func(ledger.Entry) []string { return []string{""} }, func(*ledger.Query, string) {}},
		{"issuer", func(e ledger.Entry) []string { return one(e.Issuer) },
			func(q *ledger.Query, v string) { q.Issuers = []string{v} }},
		{"media type", func(e ledger.Entry) []string { return one(e.MediaType) },
			func(q *ledger.Query, v string) { q.MediaTypes = []string{v} }},
		{"predicate type", func(e ledger.Entry) []string { return one(e.PredicateType) },
			func(q *ledger.Query, v string) { q.PredicateTypes = []string{v} }},
		{"evidence", func(e ledger.Entry) []string { return one(string(e.Evidence)) },
			func(q *ledger.Query, v string) { q.Evidence = []statement.Digest{statement.Digest(v)} }},
		{"artifact", func(e ledger.Entry) []string {
			var all []string
			for _, a := range e.Artifacts {
				all = append(all, string(a))
			}
			return all
		}, func(q *ledger.Query, v string) { q.Artifacts = []statement.Digest{statement.Digest(v)} }},
	} {
		want := map[string][]uint64{}
		for i := len(c.records) - 1; i >= 0; i-- {
			for _, v := range f.of(c.records[i].Entry) {
				want[v] = append(want[v], uint64(i))
			}
		}
		for v, indexes := range want {
			q := ledger.Query{Scope: ledger.All}
			f.ask(&q, v)
			got, err := c.find(q)
			if err != nil {
				return fmt.Errorf("find by %s %q: %w", f.name, v, err)
			}
			if !slices.Equal(got, indexes) {
				return fmt.Errorf("find by %s %q: entries %v, want %v", f.name, v, got, indexes)
			}
		}
	}
	return c.checkRepositories()
}

// checkRepositories asks for the claims of every repository that has any.
func (c *checker) checkRepositories() error {
	want := map[string][]uint64{"no/such": nil}
	for i := len(c.records) - 1; i >= 0; i-- {
		places, err := c.places(i)
		if err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
		for _, at := range places {
			if known := want[at.repository]; !slices.Contains(known, uint64(i)) {
				want[at.repository] = append(known, uint64(i))
			}
		}
	}
	for name, indexes := range want {
		q := ledger.Query{Scope: ledger.All, Repository: name}
		got, err := c.find(q)
		if err != nil {
			return fmt.Errorf("find by repository %q: %w", name, err)
		}
		if !slices.Equal(got, indexes) {
			return fmt.Errorf("find by repository %q: entries %v, want %v", name, got, indexes)
		}
		if len(indexes) == 0 {
			continue
		}
		newest := c.records[indexes[0]]
		q.Issuers, q.Artifacts = []string{newest.Issuer}, newest.Artifacts
		if got, err = c.find(q); err != nil || !slices.Contains(got, indexes[0]) {
			return fmt.Errorf("find by repository %q and issuer and artifacts of entry %d: entries %v, error %v", name, indexes[0], got, err)
		}
	}
	return nil
}

// find reads all pages of q; each row must be the record's.
func (c *checker) find(q ledger.Query) ([]uint64, error) {
	q.Limit = ledger.MaxPage
	var all []uint64
	for {
		page, err := c.store.Find(c.ctx, q)
		if err != nil {
			return nil, err
		}
		for _, e := range page {
			if e.Index >= c.size() || !reflect.DeepEqual(e, c.records[e.Index].Entry) {
				return nil, fmt.Errorf("entry %d differs from its record", e.Index)
			}
			all = append(all, e.Index)
		}
		if len(page) < q.Limit || page[len(page)-1].Index == 0 {
			return all, nil
		}
		q.Before = page[len(page)-1].Index
	}
}

// checkScope looks at every entry with public eyes.
func (c *checker) checkScope() error {
	all, err := c.store.Indexes(c.ctx, c.leaves, ledger.All)
	if err != nil || uint64(len(all)) != c.size() {
		return fmt.Errorf("%d of %d entries are found by ID, error %v", len(all), c.size(), err)
	}
	public, err := c.store.Indexes(c.ctx, c.leaves, ledger.Public)
	if err != nil {
		return err
	}
	var want []uint64
	for i := len(c.records) - 1; i >= 0; i-- {
		r := c.records[i]
		if at, ok := all[r.ID]; !ok || at != r.Index {
			return fmt.Errorf("entry %d is found by ID as %d, %v", i, at, ok)
		}
		if at, ok := public[r.ID]; ok == r.Private || ok && at != r.Index {
			return fmt.Errorf("entry %d, private %v, is found in public as %d, %v", i, r.Private, at, ok)
		}
		if !r.Private {
			want = append(want, r.Index)
			continue
		}
		if _, err := c.store.Record(c.ctx, r.ID, ledger.Public); !errors.Is(err, ledger.ErrNotFound) {
			return fmt.Errorf("record of private entry %d in public: %v", i, err)
		}
		if _, err := c.store.Deliveries(c.ctx, r.ID, ledger.Public); !errors.Is(err, ledger.ErrNotFound) {
			return fmt.Errorf("deliveries of private entry %d in public: %v", i, err)
		}
	}
	got, err := c.find(ledger.Query{Scope: ledger.Public})
	if err != nil || !slices.Equal(got, want) {
		return fmt.Errorf("public entries %v, want %v, error %v", got, want, err)
	}
	return nil
}

// checkDeliveries derives again what is to be placed where.
func (c *checker) checkDeliveries() error {
	for i, r := range c.records {
		got, err := c.store.Deliveries(c.ctx, r.ID, ledger.All)
		if err != nil {
			return fmt.Errorf("deliveries of entry %d: %w", i, err)
		}
		want, err := c.places(i)
		if err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
		var places []place
		archived := false
		for _, d := range got {
			if d.Entry != uint64(i) || d.EntryID != r.ID {
				return fmt.Errorf("a delivery of entry %d is listed for entry %d", d.Entry, i)
			}
			sound := d.State == ledger.Queued || d.State == ledger.Refused || d.State == ledger.Done || d.State == ledger.Dropped
			if !sound || (d.State == ledger.Done) != (d.Manifest != "") || d.Tries < 0 {
				return fmt.Errorf("delivery of entry %d: state %q, manifest %q, %d tries", i, d.State, d.Manifest, d.Tries)
			}
			// Where the archive was is nowhere said; what is placed may be there, once.
			if d.Artifact == ledger.ArchiveArtifact && !archived && len(want) > 0 && d.Registry == want[0].registry {
				archived = true
				continue
			}
			places = append(places, place{d.Registry, d.Repository, d.Subject, d.Artifact})
		}
		if !slices.Equal(places, want) {
			return fmt.Errorf("deliveries of entry %d: %v, want %v", i, places, want)
		}
	}
	return nil
}

type place struct {
	registry, repository string
	subject              statement.Digest
	artifact             string
}

// placesOf derives where r, of statement s, is to be placed under p.
func placesOf(p *policy.Policy, s *statement.Statement, r ledger.Record) ([]place, error) {
	if r.Private || r.Registry == "" || s.MediaType() == policy.MediaType || s.MediaType() == policy.ServiceMediaType || s.MediaType() == policy.PurgeMediaType {
		return nil, nil
	}
	s, _, _, err := whole(s, r)
	if err != nil {
		return nil, err
	}
	if err := p.Concerns(r.Artifacts, r.Image); err != nil {
		return nil, fmt.Errorf("should have been refused: %w", err)
	}
	names, err := p.Repositories(s, r.Repository, r.Registry)
	if err != nil {
		return nil, fmt.Errorf("should have been refused: %w", err)
	}
	subjects := r.Artifacts
	if len(subjects) == 0 && r.Image != "" {
		subjects = []statement.Digest{r.Image}
	}
	set := map[place]bool{}
	for _, name := range names {
		for _, a := range subjects {
			set[place{r.Registry, name, a, ledger.TransparencyArtifact}] = true
			if r.Evidence != "" {
				set[place{r.Registry, name, a, ledger.EvidenceArtifact}] = true
			}
		}
	}
	return slices.SortedFunc(maps.Keys(set), place.compare), nil
}

func (a place) compare(b place) int {
	return slices.Compare(
		[]string{a.registry, a.repository, string(a.subject), a.artifact},
		[]string{b.registry, b.repository, string(b.subject), b.artifact})
}

// places are where record i is to be placed: as it asked for, and as was added
// since.
func (c *checker) places(i int) ([]place, error) {
	p, _ := c.inForce(uint64(i))
	want, err := placesOf(p, c.parsed[i], c.records[i])
	if err != nil {
		return nil, err
	}
	return c.withLater(want, c.records[i])
}

// withLater adds to want what was added to r since, by the record of who asked
// for it; of what is private nothing can have been.
func (c *checker) withLater(want []place, r ledger.Record) ([]place, error) {
	audit, ok := c.store.(ledger.Audit)
	if !ok || r.Private {
		return want, nil
	}
	dossiers, err := audit.Dossiers(c.ctx, r.Index, 1)
	if err != nil {
		return nil, err
	}
	for _, d := range dossiers {
		for _, v := range d.Later {
			if v.Artifact != ledger.ArchiveArtifact {
				want = append(want, place{v.Registry, v.Repository, v.Subject, v.Artifact})
			}
		}
	}
	slices.SortFunc(want, place.compare)
	return want, nil
}
