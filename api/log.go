package api

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/ledger"
)

const (
	octetType = "application/octet-stream"
	noteType  = "text/plain; charset=utf-8"
)

// checkpoint shows the published checkpoint. Where witnesses are configured that
// is the newest with its quorum, and never one without: who relies on
// cosignatures would otherwise lose sight of the log in an outage of theirs.
// ?fresh is the newest there is, cosigned or not.
//
// SPEC C2SP tlog-tiles: text/plain; charset=utf-8, not cached beyond a few
// seconds.
func (a *API) checkpoint(w http.ResponseWriter, r *http.Request) error {
	newest, err := wantsFresh(r)
	if err != nil {
		return err
	}
	read := a.Ledger.Checkpoint
	if a.Witnesses != nil && !newest {
		read = a.Witnesses.Checkpoint
	}
	note, err := read(r.Context())
	if err != nil {
		return err
	}
	if note == nil {
		return &fault{code: "not-cosigned"}
	}
	w.Header().Set("Cache-Control", "max-age=5")
	if newest { // under the other's path
		w.Header().Set("Cache-Control", fresh(Caller{}))
	}
	send(w, http.StatusOK, noteType, note)
	return nil
}

// tile shows a Merkle tile or an entry bundle.
//
// SPEC C2SP tlog-tiles: application/octet-stream, immutable.
func (a *API) tile(w http.ResponseWriter, r *http.Request) error {
	path := strings.TrimPrefix(r.URL.EscapedPath(), "/log/tile/")
	t, err := parseTile(path)
	if err != nil {
		return err
	}
	var b []byte
	if t.entries {
		b, err = a.Ledger.EntryBundle(r.Context(), t.N, t.width)
	} else {
		b, err = a.Ledger.Tile(r.Context(), t.TileID, t.width)
	}
	if errors.Is(err, ledger.ErrNotFound) {
		return &fault{code: "not-found", detail: "The tree of no signed head has this tile at this width.", cause: err}
	}
	if err != nil {
		return err
	}
	sendImmutable(w, r, Caller{}, octetType, path, b)
	return nil
}

// tile is what a tile path names.
type tile struct {
	ledger.TileID
	entries bool // the bundle under a tile of level 0
	width   int
}

// parseTile reads <L>/<N>[.p/<W>] or entries/<N>[.p/<W>]. There is one path for
// each tile: whatever would be written differently is refused.
func parseTile(path string) (tile, error) {
	t, bad := tile{width: 256}, &fault{code: "bad-tile"}
	level, rest, _ := strings.Cut(path, "/")
	if t.entries = level == "entries"; !t.entries {
		n, ok := number(level)
		if !ok || n > 63 {
			return t, bad
		}
		t.Level = uint8(n)
	}
	if full, width, partial := strings.Cut(rest, ".p/"); partial {
		n, ok := number(width)
		if !ok || n < 1 || n > 255 {
			return t, bad
		}
		rest, t.width = full, int(n)
	}
	var err error
	t.N, err = strconv.ParseUint(strings.NewReplacer("x", "", "/", "").Replace(rest), 10, 64)
	if err != nil || ledger.TileNumber(t.N, 256) != rest {
		return t, bad
	}
	return t, nil
}

// number reads decimal digits without sign, spaces or leading zeros.
func number(s string) (uint64, bool) {
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil && strconv.FormatUint(n, 10) == s
}

// heads lists every signed head.
func (a *API) heads(w http.ResponseWriter, r *http.Request) error {
	after, limit := uint64(0), uint64(defaultPage)
	err := parseNumbers(r.URL.RawQuery,
		parameter{name: "after", value: &after}, parameter{name: "limit", value: &limit, min: 1, max: maxPage})
	if err != nil {
		return err
	}
	heads, err := a.Ledger.Heads(r.Context(), after, int(limit))
	if err != nil {
		return err
	}
	page := apitype.HeadList{Heads: make([]apitype.Head, 0, len(heads))}
	for _, h := range heads {
		page.Heads = append(page.Heads, apitype.Head{
			Size: h.Size, PrevSize: h.PrevSize, Root: h.Root[:], Protected: h.Protected, Signature: h.Signature,
			IssuedAt: h.Time.Unix(), Policy: h.Policy,
		})
	}
	if uint64(len(heads)) == limit {
		page.Next = heads[len(heads)-1].Size
		w.Header().Set("Link", fmt.Sprintf(`</log/heads?after=%d&limit=%d>; rel="next"`, page.Next, limit))
	}
	a.sendJSON(w, Caller{}, page)
	return nil
}

// consistency proves that the log has only grown between two signed heads. The
// answer never changes, but its query is all that tells it from others: a cache
// that ignores queries must ask again.
func (a *API) consistency(w http.ResponseWriter, r *http.Request) error {
	var from, to uint64
	err := parseNumbers(r.URL.RawQuery,
		parameter{name: "from", value: &from, min: 1, needed: true}, parameter{name: "to", value: &to, min: 1, needed: true})
	if err != nil {
		return err
	}
	if from >= to {
		return badFilter("from", "it is not smaller than to")
	}
	c, err := a.Ledger.Consistency(r.Context(), from, to)
	if errors.Is(err, ledger.ErrNotFound) {
		return &fault{
			code: "not-found", detail: fmt.Sprintf("The tree was not signed at size %d, or not at size %d.", from, to),
			hint: "take sizes that /log/heads lists", cause: err,
		}
	}
	if err != nil {
		return err
	}
	w.Header().Set("Vary", "Accept")
	w.Header().Set("Cache-Control", fresh(Caller{}))
	tag := fmt.Sprintf("%d-%d", from, to)
	if prefersJSON(r) {
		sendTagged(w, r, jsonType, tag+"-json", marshalJSON(apitype.Consistency{
			From: from, To: to, FromRoot: c.From.Root[:], ToRoot: c.To.Root[:], Hashes: c.Path,
		}))
		return nil
	}
	receipt, err := c.Receipt()
	if err != nil {
		return err
	}
	sendTagged(w, r, receiptTypeFor(r), tag, receipt)
	return nil
}

// prefersJSON: Accept lists JSON, and prefers it to the types of a receipt.
func prefersJSON(r *http.Request) bool {
	plain, _ := quality(r.Header, jsonType)
	general, _ := quality(r.Header, coseType)
	own, _ := quality(r.Header, receiptType)
	return plain > max(general, own)
}

// inclusion is the receipt of an entry under the signed head of a size, or
// under the newest one.
func (a *API) inclusion(w http.ResponseWriter, r *http.Request, c Caller) error {
	id, err := entryID(r)
	if err != nil {
		return err
	}
	var size uint64
	if err := parseNumbers(r.URL.RawQuery, parameter{name: "size", value: &size, min: 1}); err != nil {
		return err
	}
	if size == 0 {
		head, err := a.Ledger.Head(r.Context())
		if err != nil {
			return err
		}
		size = head.Size
	}
	receipt, err := a.Ledger.ReceiptAt(r.Context(), id, size, c.Scope())
	if err != nil {
		return err
	}
	w.Header().Set("Vary", "Accept")
	w.Header().Set("Cache-Control", fresh(c)) // for the query, as above
	sendTagged(w, r, receiptTypeFor(r), fmt.Sprintf("%s-%d", id, size), receipt)
	return nil
}

// statements reads the log out: for every leaf its index and the bytes of its
// statement, null where the caller may not see them.
func (a *API) statements(w http.ResponseWriter, r *http.Request, c Caller) error {
	from, limit := uint64(0), uint64(defaultPage)
	err := parseNumbers(r.URL.RawQuery,
		parameter{name: "from", value: &from}, parameter{name: "limit", value: &limit, min: 1, max: maxPage})
	if err != nil {
		return err
	}
	leaves, err := a.Ledger.Statements(r.Context(), from, int(limit), c.Scope())
	if err != nil {
		return err
	}
	var sequence []byte
	for _, leaf := range leaves {
		sequence = leaf.AppendCBOR(sequence)
	}
	if n := len(leaves); n > 0 {
		w.Header().Set("Link", fmt.Sprintf(`</v1/statements?from=%d&limit=%d>; rel="next"`, leaves[n-1].Index+1, limit))
	}
	w.Header().Set("Cache-Control", fresh(c))
	send(w, http.StatusOK, sequenceType, sequence)
	return nil
}

// parameter is a number in a query string.
type parameter struct {
	name     string
	value    *uint64 // keeps its default when the query does not name it
	min, max uint64  // max 0: as many as there are
	needed   bool
}

func (p parameter) read(given []string) error {
	n, ok := uint64(0), false
	if len(given) == 1 {
		n, ok = number(given[0])
	}
	switch {
	case ok && n >= p.min && (n <= p.max || p.max == 0):
		*p.value = n
		return nil
	case p.max == 0:
		return badFilter(p.name, "it is one whole number from %d on, without leading zeros", p.min)
	}
	return badFilter(p.name, "it is one whole number from %d to %d, without leading zeros", p.min, p.max)
}

// parseNumbers reads a query string of these parameters and no others.
func parseNumbers(raw string, parameters ...parameter) error {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return &fault{code: "bad-filter", detail: "The query string is not well formed.", cause: err}
	}
	var names []string
	for _, p := range parameters {
		names = append(names, p.name)
		if given, ok := values[p.name]; ok || p.needed {
			if err := p.read(given); err != nil {
				return err
			}
		}
		delete(values, p.name)
	}
	for _, name := range sortedNames(values) {
		return badFilter(name, "there is no such parameter; there is %s", strings.Join(names, " and "))
	}
	return nil
}
