package replay

import (
	"errors"
	"fmt"
	"time"

	"github.com/scittd/scittd/internal/detcbor"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// Statement items are [index, bytes or null], as ledger.Leaf writes them.
func readStatement(item []byte) (index uint64, canonical []byte, err error) {
	r := reader{Reader: detcbor.NewReader(item)}
	if n := r.array(); n != 2 {
		r.fail("an array of %d, not of index and bytes", n)
	}
	index = r.uint()
	if !r.Null() {
		canonical = r.bytes()
	}
	return index, canonical, r.end()
}

// pair is [index, bytes], for receipts.
func appendPair(dst []byte, index uint64, b []byte) []byte {
	return ledger.Leaf{Index: index, Canonical: b}.AppendCBOR(dst)
}

// Head items are [size, previous size, root, iat, policy index, protected,
// signature].
type wireHead struct {
	_         struct{} `cbor:",toarray"`
	Size      uint64
	PrevSize  uint64
	Root      []byte
	IssuedAt  int64
	Policy    uint64
	Protected []byte
	Signature []byte
}

func appendHead(dst []byte, h ledger.Head) ([]byte, error) {
	b, err := detcbor.Marshal(wireHead{
		Size: h.Size, PrevSize: h.PrevSize, Root: h.Root[:], IssuedAt: h.Time.Unix(), Policy: h.Policy, Protected: h.Protected, Signature: h.Signature,
	})
	return append(dst, b...), err
}

func readHead(item []byte) (ledger.Head, error) {
	var w wireHead
	if err := detcbor.Unmarshal(item, &w); err != nil {
		return ledger.Head{}, err
	}
	if len(w.Root) != 32 {
		return ledger.Head{}, fmt.Errorf("a root of %d bytes", len(w.Root))
	}
	return ledger.Head{
		SignedHead: receipts.SignedHead{
			Head:      receipts.Head{Size: w.Size, Root: [32]byte(w.Root), Time: time.Unix(w.IssuedAt, 0).UTC()},
			Protected: w.Protected, Signature: w.Signature,
		},
		PrevSize: w.PrevSize, Policy: w.Policy,
	}, nil
}

// decisions reads what ledger.AppendDecided writes, item by item and page by page.
type decisions struct {
	next       uint64              // index of the next entry
	collateral []ledger.Collateral // of the page at hand, by number
	size       int                 // bytes of it
}

// maxCollateral bounds the collateral of one page: many times what a service sends.
const maxCollateral = 64 << 20

// read takes one item; false: it was collateral.
func (d *decisions) read(item []byte) (ledger.Decided, bool, error) {
	r := reader{Reader: detcbor.NewReader(item)}
	n := r.array()
	first := r.uint()
	if n == 3 {
		if first == 0 {
			d.collateral, d.size = nil, 0 // another page
		}
		c := ledger.Collateral{Kind: r.text(), Data: r.bytes()}
		if d.size += len(c.Data); first != uint64(len(d.collateral)) || d.size > maxCollateral {
			r.fail("collateral %d of %d bytes stands behind %d others", first, d.size, len(d.collateral))
		}
		d.collateral = append(d.collateral, c)
		return ledger.Decided{}, false, r.end()
	}
	e := ledger.Decided{Hidden: n == 2}
	e.Index, e.ID = first, r.id()
	switch {
	case r.err == nil && e.Index != d.next:
		r.fail("the decision about entry %d stands where that about %d belongs", e.Index, d.next)
	case n == 9:
		e.Policy, e.Rule = r.id(), r.text()
		e.Identity = readIdentity(r.raw())
		if e.Identity.Kind == "" {
			r.fail("no identity")
		}
		e.RegisteredAt = time.Unix(int64(r.uint()), 0).UTC()
		list := r.list()
		for range list.left {
			e.Artifacts = append(e.Artifacts, statement.Digest(list.text()))
		}
		e.Private = r.bool()
		numbers := r.list()
		for range numbers.left {
			number := numbers.uint()
			if numbers.err != nil || number >= uint64(len(d.collateral)) {
				r.fail("collateral %d was not there before", number)
				break
			}
			e.Collateral = append(e.Collateral, d.collateral[number])
		}
		r.err = errors.Join(r.err, list.err, numbers.err)
	case n != 2:
		r.fail("an array of %d is no decision", n)
	}
	d.next++
	return e, true, r.end()
}

func readIdentity(raw []byte) policy.Identity {
	r := reader{Reader: detcbor.NewReader(raw)}
	if r.array() != 3 {
		return policy.Identity{}
	}
	id := policy.Identity{Kind: r.text(), Thumbprint: r.text(), Name: r.text()}
	if r.end() != nil {
		return policy.Identity{}
	}
	return id
}

// reader reads an item whose parts are known. The first error stays.
type reader struct {
	*detcbor.Reader
	left int
	err  error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

// keep notes an error behind the others.
func (r *reader) keep(err error) {
	if r.err == nil {
		r.err = err
	}
}

func (r *reader) array() int {
	n, err := r.Array()
	r.keep(err)
	return n
}

func (r *reader) uint() uint64 {
	n, err := r.Int()
	if r.keep(err); n < 0 {
		r.fail("%d is below zero", n)
	}
	return uint64(n)
}

func (r *reader) text() string {
	s, err := r.Text()
	r.keep(err)
	return s
}

func (r *reader) bytes() []byte {
	b, err := r.Bytes()
	r.keep(err)
	return b
}

func (r *reader) raw() []byte {
	b, err := r.Raw()
	r.keep(err)
	return b
}

func (r *reader) id() (id statement.ID) {
	b := r.bytes()
	if r.err == nil && len(b) != len(id) {
		r.fail("an ID of %d bytes", len(b))
	}
	copy(id[:], b)
	return id
}

func (r *reader) bool() bool {
	const no, yes = 0xf4, 0xf5
	b := r.raw()
	if r.err == nil && (len(b) != 1 || b[0] != no && b[0] != yes) {
		r.fail("neither true nor false")
		return false
	}
	return r.err == nil && b[0] == yes
}

// maxListed bounds a list in a decision: more than an entry can have artifacts.
const maxListed = 1024

// list opens an array inside of the item.
func (r *reader) list() *reader {
	inner := &reader{Reader: detcbor.NewReader(r.raw())}
	if r.err == nil {
		inner.left = inner.array()
	}
	if inner.left > maxListed {
		r.fail("a list of %d", inner.left)
		inner.left = 0
	}
	return inner
}

func (r *reader) end() error {
	if r.err == nil {
		r.err = r.End()
	}
	return r.err
}
