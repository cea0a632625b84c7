// Package fsck recomputes a whole log from the statements in it and says what is
// stored otherwise: every head, leaf, tile and index row, and what is kept
// beside an entry.
//
// A Checker goes through a log once, from leaf 0 to the head that was newest
// when it began, in steps of one page. It needs the same little memory for any
// log and only reads, so that a running service can afford one for ever (the
// scrubber); Check runs one to its end. What it finds are Findings, each with
// the object, what is there and what belongs there. An error is something else:
// the store could not be asked, and nothing follows for the log.
//
// It trusts nothing that is stored. A statement is what its hash says; of a
// leaf, its bytes and its tile, the two that agree. Heads must be signed by keys
// that service statements below them announce, and index rows must be what
// statement, policy in force and head give.
//
// It shares no code with the sequencer. It does not judge again: that a
// signature holds and a certificate path is valid was decided under the policy
// of its day, and only a record that cannot be such a decision's is a finding.
// It does not know whether anything is missing at the end of a log: see
// internal/memory.
package fsck

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// Store is what a Checker reads.
type Store interface {
	ledger.Log
	ledger.Index
	ledger.Audit
}

// The kinds of Finding. Heads, entries and statements are the log itself: what
// is wrong with them comes back from another copy only. Tiles and index follow
// from it, and Reindex rebuilds them. Kept is what follows from nothing stored
// (who brought it, certificates, deliveries); Database is about rows and files.
const (
	Head      = "head"
	Entry     = "entry"
	Statement = "statement"
	Tile      = "tile"
	Index     = "index"
	Kept      = "kept"
	Database  = "database"
)

// Finding is one thing that is not as it should be.
type Finding struct {
	Kind   string `json:"kind"`
	Object string `json:"object"` // "entry 3", "head of size 101", "tile 0/7"
	What   string `json:"what"`
	Got    string `json:"got,omitempty"`  // what is stored
	Want   string `json:"want,omitempty"` // what belongs there
}

func (f Finding) String() string {
	s := f.Object + ": " + f.What
	if f.Got != "" || f.Want != "" {
		s += fmt.Sprintf(": stored %s, recomputed %s", f.Got, f.Want)
	}
	return s
}

// PageSize is how many entries a step checks at most.
const PageSize = ledger.MaxPage

const (
	width     = 256 // hashes of a tile
	perLevel  = 8   // levels of the tree in one of tiles
	maxLevels = 8
)

var hasher = rfc6962.DefaultHasher

// Checker goes through one log once. It is not safe for concurrent use.
type Checker struct {
	store Store
	found func(Finding)

	size uint64 // of the head that was newest at the beginning: where this ends
	at   uint64 // what lies below is checked

	tree  *compact.Range
	open  [maxLevels][][]byte // by tile level: the hashes of its last tile, which is not full
	tiles []ledger.Tile       // completed in this step
	lost  bool                // a leaf is unknown: from here on there is no tree

	ahead []ledger.Head // read, smallest first, and not reached yet
	head  ledger.Head   // over the entry at hand
	last  ledger.Head   // the one before
	blind uint64        // heads over entries below are missing
	roots run           // of heads whose root is wrong
	names run           // of heads whose signature is

	detached uint64 // entries whose payload is detached

	policy      *policy.Policy // in force; nil: its statement cannot be read
	policyIndex uint64
	signed      policy.Succession // what operators have signed since
	next        *policy.Policy    // from the next head on
	nextIndex   uint64
	keys        []crypto.PublicKey // announced before the head at hand
	announced   []crypto.PublicKey // since

	// What Reindex has to write for the page at hand.
	stale  []ledger.Entry
	broken []ledger.Tile
}

// run is a row of findings that most likely have one cause: the first is told
// in full.
type run struct {
	n        int
	from, to uint64
}

// New begins with the newest head; found is told what is wrong, as it is found.
// A store without a head is checked to hold nothing else.
func New(ctx context.Context, s Store, found func(Finding)) (*Checker, error) {
	f := compact.RangeFactory{Hash: hasher.HashChildren}
	c := &Checker{store: s, found: found, tree: f.NewEmptyRange(0)}
	h, err := s.Head(ctx)
	switch {
	case errors.Is(err, ledger.ErrEmpty):
	case err != nil:
		if err = c.unreadable(ctx, Head, "newest head", err); err != nil {
			return nil, err
		}
	}
	c.size = h.Size
	return c, nil
}

// Size is that of the log as this Checker sees it, and At how far it has come.
func (c *Checker) Size() uint64 { return c.size }
func (c *Checker) At() uint64   { return c.at }

// Detached is how many entries so far have a payload that is not in the log.
// Their issuers' signatures were verified at registration, over the payload
// whose digest is kept, and can be verified again by whoever has that; from the
// log alone they cannot. That is no finding.
func (c *Checker) Detached() uint64 { return c.detached }

// Tally is what Check went through.
type Tally struct {
	Size     uint64 // of the log
	Detached uint64 // entries; see Checker.Detached
}

// Check goes through all of a log, and then asks the database itself.
func Check(ctx context.Context, s Store, found func(Finding)) (Tally, error) {
	c, err := New(ctx, s, found)
	if err != nil {
		return Tally{}, err
	}
	for more := true; more; {
		if more, err = c.Step(ctx); err != nil {
			return Tally{c.size, c.detached}, err
		}
	}
	return Tally{c.size, c.detached}, c.Finish(ctx, true)
}

// Step checks the next page. It returns false at the end; then Finish is due.
func (c *Checker) Step(ctx context.Context) (more bool, err error) {
	if c.at >= c.size {
		return false, nil
	}
	c.stale, c.broken = nil, nil
	p, err := c.read(ctx)
	if err != nil {
		return true, err
	}
	for i := p.from; i < p.to; i++ {
		if i >= c.head.Size {
			if err := c.nextHead(ctx, i); err != nil {
				return true, err
			}
		}
		if err := c.entry(ctx, i, p); err != nil {
			return true, err
		}
		if i+1 == c.head.Size {
			c.close(c.head)
		}
	}
	if err := c.checkTiles(ctx); err != nil {
		return true, err
	}
	c.at = p.to
	return c.at < c.size, nil
}

// Finish ends a Checker that has come to the end: it tells how long each run of
// findings was, and what the database finds in itself (thorough: by reading
// everything, which takes long).
func (c *Checker) Finish(ctx context.Context, thorough bool) error {
	c.roots.end(c, "root")
	c.names.end(c, "signature")
	if c.lost {
		c.report(Tile, "tree", "was not recomputed behind the leaf that is lost")
	}
	flaws, err := c.store.Flaws(ctx, thorough)
	for _, f := range flaws {
		c.report(Database, f.Object, f.What)
	}
	if err != nil {
		return c.unreadable(ctx, Database, "database", err)
	}
	return nil
}

func (c *Checker) report(kind, object, what string) {
	c.found(Finding{Kind: kind, Object: object, What: what})
}

func (c *Checker) differs(kind, object, what string, got, want any) {
	c.found(Finding{Kind: kind, Object: object, What: what, Got: fmt.Sprint(got), Want: fmt.Sprint(want)})
}

// unreadable makes a finding of an error that says something about what is
// stored, and returns one that does not.
func (c *Checker) unreadable(ctx context.Context, kind, object string, err error) error {
	if ctx.Err() != nil || errors.Is(err, ledger.ErrUnavailable) {
		return fmt.Errorf("check %s: %w", object, err)
	}
	c.report(kind, object, "cannot be read: "+err.Error())
	return nil
}

// page is what is stored of the entries [from, to).
type page struct {
	from, to uint64
	leaves   map[uint64]ledger.Leaf
	rows     map[uint64]ledger.Entry
	dossiers map[uint64]ledger.Dossier
	indexes  map[statement.ID]uint64
}

// read reads the next page. Where a page as a whole cannot be read, its entries
// are, one by one.
func (c *Checker) read(ctx context.Context) (*page, error) {
	p := &page{
		from: c.at, to: min(c.at+PageSize, c.size),
		leaves: map[uint64]ledger.Leaf{}, rows: map[uint64]ledger.Entry{}, dossiers: map[uint64]ledger.Dossier{},
	}
	err := c.each(ctx, p, Statement, func(from, to uint64) error {
		leaves, err := c.store.Statements(ctx, from, int(to-from), ledger.All)
		for _, l := range leaves {
			p.leaves[l.Index] = l
		}
		if n := len(leaves); err == nil && n > 0 && to == p.to {
			p.to = leaves[n-1].Index + 1 // a page of many bytes ends early
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	err = c.each(ctx, p, Index, func(from, to uint64) error {
		rows, err := c.store.Find(ctx, ledger.Query{Scope: ledger.All, Before: to, Limit: int(to - from)})
		for _, e := range rows {
			if e.Index >= from && e.Index < to {
				p.rows[e.Index] = e
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	err = c.each(ctx, p, Kept, func(from, to uint64) error {
		dossiers, err := c.store.Dossiers(ctx, from, int(to-from))
		for _, d := range dossiers {
			p.dossiers[d.Index] = d
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	ids := make([]statement.ID, 0, len(p.leaves))
	for _, l := range p.leaves {
		ids = append(ids, l.ID)
	}
	if p.indexes, err = c.store.Indexes(ctx, ids, ledger.All); err != nil {
		if err = c.unreadable(ctx, Database, "index of entry IDs", err); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// each reads a page with one call or, where that fails, with one for each entry.
func (c *Checker) each(ctx context.Context, p *page, kind string, read func(from, to uint64) error) error {
	if read(p.from, p.to) == nil {
		return nil
	}
	for i := p.from; i < p.to; i++ {
		if err := read(i, i+1); err != nil {
			if err = c.unreadable(ctx, kind, fmt.Sprintf("entry %d", i), err); err != nil {
				return err
			}
		}
	}
	return nil
}

// nextHead finds the head over entry i.
func (c *Checker) nextHead(ctx context.Context, i uint64) error {
	c.last = c.head
	if len(c.ahead) == 0 {
		// Without the head over an entry there is no going on; whoever scrubs must
		// learn that it is damage and no outage.
		object := fmt.Sprintf("heads above size %d", i)
		var err error
		if c.ahead, err = c.store.Heads(ctx, i, ledger.MaxPage); err == nil && len(c.ahead) == 0 {
			err = fmt.Errorf("%w: there are none, and the newest was of size %d", ledger.ErrCorrupt, c.size)
		}
		if err != nil {
			return cmp.Or(c.unreadable(ctx, Head, object, err), fmt.Errorf("check %s: %w", object, err))
		}
	}
	c.head, c.ahead = c.ahead[0], c.ahead[1:]
	h, object := c.head, headName(c.head)
	if h.PrevSize != c.last.Size {
		if h.PrevSize > c.last.Size {
			c.blind = min(h.PrevSize, h.Size)
		}
		c.differs(Head, object, "does not follow the head before it", fmt.Sprintf("prev_size %d", h.PrevSize), c.last.Size)
	}
	if h.Size == 1 {
		c.report(Head, object, "must not exist: leaves 0 and 1 are committed together")
	}
	if h.Time.Before(c.last.Time) {
		c.differs(Head, object, "is older than the head before it", h.Time, c.last.Time)
	}
	return nil
}

func headName(h ledger.Head) string { return fmt.Sprintf("head of size %d", h.Size) }

// entry checks entry i and lets its leaf grow the tree.
func (c *Checker) entry(ctx context.Context, i uint64, p *page) error {
	object := fmt.Sprintf("entry %d", i)
	leaf, there := p.leaves[i]
	if !there {
		c.report(Entry, object, "is missing, below a head of size "+fmt.Sprint(c.head.Size))
		return c.missing(ctx, i)
	}
	id := leaf.ID
	sum := statement.ID(sha256.Sum256(leaf.Canonical))
	sound := sum == id
	switch {
	case leaf.Canonical == nil:
		c.report(Statement, object, "the bytes of the statement are missing")
	case !sound:
		c.differs(Statement, object, "the bytes of the statement are not those of its entry ID", "bytes of "+sum.String(), id)
		// One of the two is wrong, and the tile knows which.
		if hash, err := c.hashInTile(ctx, i); err != nil {
			return err
		} else if bytes.Equal(hash, hasher.HashLeaf(sum[:])) {
			c.differs(Entry, object, "its ID is not that of the leaf in its tile", id, sum)
			id, sound = sum, true
		}
	}
	var s *statement.Statement
	if sound {
		var err error
		if s, err = statement.Parse(leaf.Canonical); err != nil {
			c.report(Statement, object, "is registered, but is no Signed Statement: "+err.Error())
		} else if !bytes.Equal(s.Canonical(), leaf.Canonical) {
			c.report(Statement, object, "is registered in bytes that are not the canonical ones")
			s = nil
		}
	}
	if at, ok := p.indexes[leaf.ID]; !ok || at != i {
		c.report(Database, object, "is not found by its entry ID "+leaf.ID.String())
	}
	if i == 0 {
		c.steer(i, s) // judges itself
	}
	if s != nil {
		c.checkIndex(i, s, p)
	}
	if i > 0 {
		c.steer(i, s)
	}
	return c.grow(hasher.HashLeaf(id[:]))
}

// missing goes on behind a leaf that is not there, if its tile remembers it.
func (c *Checker) missing(ctx context.Context, i uint64) error {
	c.steer(i, nil)
	hash, err := c.hashInTile(ctx, i)
	if err != nil {
		return err
	}
	if hash == nil {
		c.lost = true
		return nil
	}
	return c.grow(hash)
}

// hashInTile is the leaf hash of entry i in its full tile; nil: there is none.
func (c *Checker) hashInTile(ctx context.Context, i uint64) ([]byte, error) {
	tiles, err := c.store.Tiles(ctx, []ledger.TileID{{N: i / width}})
	if err != nil {
		return nil, c.unreadable(ctx, Tile, fmt.Sprintf("tile 0/%d", i/width), err)
	}
	if len(tiles) != 1 || len(tiles[0].Data) != width*sha256.Size {
		return nil, nil
	}
	return tiles[0].Data[i%width*sha256.Size:][:sha256.Size], nil
}

// grow adds a leaf to the tree.
func (c *Checker) grow(leaf []byte) error {
	if c.lost {
		return nil
	}
	return c.tree.Append(leaf, func(id compact.NodeID, hash []byte) {
		if id.Level%perLevel != 0 {
			return
		}
		level := id.Level / perLevel
		if level > 0 { // the root over the tile below, which is full with it
			c.tiles = append(c.tiles, ledger.Tile{
				TileID: ledger.TileID{Level: uint8(level - 1), N: id.Index}, Root: [32]byte(hash), Data: bytes.Join(c.open[level-1], nil),
			})
			c.open[level-1] = nil
		}
		c.open[level] = append(c.open[level], hash)
	})
}

// checkTiles compares the tiles that this page completed.
func (c *Checker) checkTiles(ctx context.Context) error {
	want := c.tiles
	c.tiles = nil
	if len(want) == 0 {
		return nil
	}
	ids := make([]ledger.TileID, len(want))
	for i, t := range want {
		ids[i] = t.TileID
	}
	stored, err := c.store.Tiles(ctx, ids)
	if err != nil {
		if err := c.unreadable(ctx, Tile, fmt.Sprintf("tiles from %d/%d on", ids[0].Level, ids[0].N), err); err != nil {
			return err
		}
	}
	for _, t := range want {
		object := fmt.Sprintf("tile %d/%d", t.Level, t.N)
		at := slices.IndexFunc(stored, func(s ledger.Tile) bool { return s.TileID == t.TileID })
		if at < 0 {
			c.report(Tile, object, "is missing")
			c.broken = append(c.broken, t)
			continue
		}
		got, sound := stored[at], true
		if len(got.Data) != len(t.Data) {
			c.differs(Tile, object, "has another length", len(got.Data), len(t.Data))
			sound = false
		}
		for i := 0; sound && i < width; i++ {
			if a, b := got.Data[i*sha256.Size:][:sha256.Size], t.Data[i*sha256.Size:][:sha256.Size]; !bytes.Equal(a, b) {
				c.differs(Tile, object, fmt.Sprintf("hash %d is not what the leaves give", i), fmt.Sprintf("%x", a), fmt.Sprintf("%x", b))
				sound = false
			}
		}
		if got.Root != t.Root {
			c.differs(Tile, object, "its root is not what the leaves give", fmt.Sprintf("%x", got.Root), fmt.Sprintf("%x", t.Root))
			sound = false
		}
		if !sound {
			c.broken = append(c.broken, t)
		}
	}
	return nil
}

// steer follows what entry i says about the log itself; s is nil when it cannot
// be read.
func (c *Checker) steer(i uint64, s *statement.Statement) {
	object := fmt.Sprintf("entry %d", i)
	var p *policy.Policy
	var err error
	switch {
	case s == nil:
		if i == 0 || c.head.Policy == i && i == c.head.Size-1 {
			c.next, c.nextIndex = nil, i
			c.report(Entry, object, "was the policy; index and deliveries of the entries it judged are not checked")
		}
		return
	case i == 0:
		p, err = policy.Bootstrap(s)
	case s.MediaType() == policy.MediaType:
		if i >= c.blind && i != c.head.Size-1 {
			c.report(Entry, object, fmt.Sprintf("is a policy inside a batch, which ends at size %d", c.head.Size))
		}
		var effective bool
		if p, effective, err = c.succeed(i, s); !effective && err == nil {
			return
		}
	case s.MediaType() == policy.ServiceMediaType:
		if err := c.announce(s); err != nil {
			c.report(Entry, object, "is no service statement: "+err.Error())
		}
		return
	case i == 1:
		c.report(Entry, object, "is no service statement")
		return
	default:
		return
	}
	if err != nil {
		c.report(Entry, object, "is no policy: "+err.Error())
	}
	c.next, c.nextIndex = p, i
	if p != nil {
		c.signed = p.Succession()
	}
	if i == 0 || i < c.blind {
		c.policy, c.policyIndex = c.next, c.nextIndex // which head it closed is not known
	}
}

// succeed reads the policy that s carries. It takes effect when as many operators
// as the policy in force asks for have signed the same one.
func (c *Checker) succeed(i uint64, s *statement.Statement) (p *policy.Policy, effective bool, err error) {
	if p, err = policy.FromStatement(s); err != nil {
		return nil, false, err
	}
	if c.policy == nil { // it cannot be told, so that the head over it has to be believed
		return p, i < c.blind || c.head.Policy == i, nil
	}
	signed, completed, wrong := c.signed.Add(s)
	if wrong != nil {
		c.report(Entry, fmt.Sprintf("entry %d", i), fmt.Sprintf("is a policy that does not replace the one in force, entry %d: %v", c.policyIndex, wrong))
		return p, true, nil
	}
	c.signed = signed
	return p, completed != nil, nil
}

// announce notes the keys that a service statement names.
func (c *Checker) announce(s *statement.Statement) error {
	var svc ledger.Service
	if err := json.Unmarshal(s.Payload, &svc); err != nil {
		return err
	}
	for _, b := range svc.ReceiptKeys {
		k, err := cose.ParseKey(b)
		if err != nil {
			return err
		}
		c.announced = append(c.announced, k.Public)
	}
	return nil
}

// close checks head h, which ends here.
func (c *Checker) close(h ledger.Head) {
	if h.PrevSize == 0 || h.PrevSize < c.blind {
		c.adopt() // leaf 1 announces the key that signs it
	}
	if !c.lost {
		root, err := c.tree.GetRootHash(nil)
		if err != nil {
			panic(err) // a range that starts at 0 has a root
		}
		c.roots.add(h.Size, !bytes.Equal(root, h.Root[:]), func() {
			c.differs(Head, headName(h), "its root is not what the leaves give", fmt.Sprintf("%x", h.Root), fmt.Sprintf("%x", root))
		}, func(r run) { r.end(c, "root") })
	}
	// The key that signed last is most likely the one that signs again.
	at := slices.IndexFunc(c.keys, func(k crypto.PublicKey) bool { return receipts.VerifyHead(h.SignedHead, k) == nil })
	c.names.add(h.Size, at < 0, func() {
		why := "it is signed by no key that the log announced before"
		if len(c.keys) > 0 {
			why += " (" + receipts.VerifyHead(h.SignedHead, c.keys[0]).Error() + ")"
		}
		c.report(Head, headName(h), why)
	}, func(r run) { r.end(c, "signature") })
	if at > 0 {
		c.keys[0], c.keys[at] = c.keys[at], c.keys[0]
	}
	c.adopt()
	if h.Policy != c.policyIndex {
		c.differs(Head, headName(h), "names another policy as in force", fmt.Sprintf("entry %d", h.Policy), fmt.Sprintf("entry %d", c.policyIndex))
	}
}

// adopt makes what a batch announced count for what follows.
func (c *Checker) adopt() {
	c.keys, c.announced = append(c.keys, c.announced...), nil
	c.policy, c.policyIndex = c.next, c.nextIndex
}

// add tells of the first of a run, and ends one that is over.
func (r *run) add(size uint64, wrong bool, tell func(), over func(run)) {
	if !wrong {
		over(*r)
		*r = run{}
		return
	}
	if r.n == 0 {
		r.from = size
		tell()
	}
	r.n++
	r.to = size
}

func (r run) end(c *Checker, what string) {
	if r.n > 1 {
		c.report(Head, fmt.Sprintf("heads behind size %d", r.from), fmt.Sprintf("the %s of %d more is wrong too, up to size %d", what, r.n-1, r.to))
	}
}
