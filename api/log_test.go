package api_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/scittd/scittd/api"
	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/internal/detcbor"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// growTo registers claims, many at once, until the tree has that size, and so a
// head of it.
func (w *world) growTo(size uint64) {
	w.t.Helper()
	var done sync.WaitGroup
	for n := w.size(); n < size; n++ {
		done.Go(func() {
			s := w.wabbit.Claim(w.t, ledgertest.Image(int(n)), ledgertest.SBOM, fmt.Appendf(nil, "sbom %d", n))
			if _, err := w.ledger.Append(w.t.Context(), ledgertest.Submission(w.ledger, s)); err != nil {
				w.t.Errorf("append %d: %v", n, err)
			}
		})
	}
	done.Wait()
	if got := w.size(); got != size {
		w.t.Fatalf("size %d, want %d", got, size)
	}
}

// checkpoint reads the published checkpoint with the key that the log announced.
func (w *world) checkpoint() tlog.Tree {
	w.t.Helper()
	a := w.get("/log/checkpoint")
	if a.status != 200 || a.header.Get("Content-Type") != "text/plain; charset=utf-8" || a.header.Get("Cache-Control") != "max-age=5" {
		w.t.Fatalf("checkpoint: %d, %v", a.status, a.header)
	}
	verifier, err := note.NewVerifier(read[apitype.Service](w, "/v1/service").CheckpointKeys[0])
	if err != nil {
		w.t.Fatal(err)
	}
	n, err := note.Open(a.body, note.VerifierList(verifier))
	if err != nil {
		w.t.Fatalf("checkpoint: %v\n%s", err, a.body)
	}
	lines := strings.Split(n.Text, "\n")
	if len(lines) != 4 || lines[0] != "scitt.example/log" || lines[3] != "" {
		w.t.Fatalf("checkpoint is not of three lines:\n%s", n.Text)
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		w.t.Fatal(err)
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil {
		w.t.Fatal(err)
	}
	return tlog.Tree{N: size, Hash: tlog.Hash(root)}
}

// tiles is how x/mod's tlog reads the log: its paths name the height, C2SP's do
// not.
type tiles struct {
	*world
	seen map[string][]byte
}

func (r tiles) Height() int { return 8 }

func (r tiles) SaveTiles([]tlog.Tile, [][]byte) {}

func (r tiles) ReadTiles(asked []tlog.Tile) (data [][]byte, err error) {
	for _, t := range asked {
		b, err := r.read(strings.Replace(t.Path(), "tile/8/", "/log/tile/", 1), t.W*tlog.HashSize)
		if err != nil {
			return nil, err
		}
		data = append(data, b)
	}
	return data, nil
}

func (r tiles) read(path string, length int) ([]byte, error) {
	if b, ok := r.seen[path]; ok {
		return b, nil
	}
	a := r.get(path)
	switch {
	case a.status != 200 || len(a.body) != length:
		return nil, fmt.Errorf("%s: %d, %d bytes, want %d", path, a.status, len(a.body), length)
	case a.header.Get("Content-Type") != "application/octet-stream":
		return nil, fmt.Errorf("%s: Content-Type %q", path, a.header.Get("Content-Type"))
	case a.header.Get("Cache-Control") != "public, max-age=31536000, immutable":
		return nil, fmt.Errorf("%s: Cache-Control %q", path, a.header.Get("Cache-Control"))
	}
	r.seen[path] = a.body
	return a.body, nil
}

// entries reads the bundles of a tree.
func (r tiles) entries(size int64) (ids [][]byte) {
	r.t.Helper()
	for n := int64(0); n*256 < size; n++ {
		width := int(min(size-n*256, 256))
		path := strings.Replace(tlog.Tile{H: 8, L: 0, N: n, W: width}.Path(), "tile/8/0/", "/log/tile/entries/", 1)
		b, err := r.read(path, width*34)
		if err != nil {
			r.t.Fatal(err)
		}
		for ; len(b) > 0; b = b[34:] {
			if b[0] != 0 || b[1] != 32 {
				r.t.Fatalf("%s: an entry of length %x", path, b[:2])
			}
			ids = append(ids, b[2:34])
		}
	}
	return ids
}

// TestTheTilesProveEveryEntryToXMod reads checkpoint, tiles and entry bundles
// the way the Go checksum database's client does, which shares no code with us.
// Tests of tiles at the second level's border are ledger's, who needs no HTTP.
func TestTheTilesProveEveryEntryToXMod(t *testing.T) {
	w := newWorld(t)
	for _, size := range []uint64{2, 255, 256, 257, 2600} {
		w.growTo(size)
		tree := w.checkpoint()
		if tree.N != int64(size) {
			t.Fatalf("checkpoint of size %d, want %d", tree.N, size)
		}
		r := tiles{w, map[string][]byte{}}
		hashes := tlog.TileHashReader(tree, r)
		ids := r.entries(tree.N)
		if len(ids) != int(size) {
			t.Fatalf("%d entries, want %d", len(ids), size)
		}
		for i, id := range ids {
			leaf := tlog.RecordHash(id)
			path, err := tlog.ProveRecord(tree.N, int64(i), hashes)
			if err != nil {
				t.Fatalf("entry %d of %d: %v", i, size, err)
			}
			if err := tlog.CheckRecord(path, tree.N, tree.Hash, int64(i), leaf); err != nil {
				t.Fatalf("entry %d of %d: %v", i, size, err)
			}
			if i%100 != 0 && i != len(ids)-1 {
				continue
			}
			// The receipt at this size is the same path.
			a := w.get(fmt.Sprintf("/log/inclusion/%x?size=%d", id, size), w.reader)
			got, err := receipts.Parse(a.body)
			if err != nil {
				t.Fatalf("inclusion of %d in %d: %d, %v", i, size, a.status, err)
			}
			if p := got.Proofs[0]; p.LeafIndex != uint64(i) || p.TreeSize != size || !samePath(p.Path, path) {
				t.Errorf("inclusion of %d in %d: %v, want %v", i, size, p, path)
			}
			w.verify(a.body, statement.ID(id))
		}
		if size == 2 {
			w.claim(w.vault, 1) // a private entry is a leaf like any other
		}
	}
}

func samePath(a [][]byte, b []tlog.Hash) bool {
	return slices.EqualFunc(a, b, func(a []byte, b tlog.Hash) bool { return bytes.Equal(a, b[:]) })
}

func TestGrowthIsProvenBetweenAnyTwoSignedHeads(t *testing.T) {
	w := newWorld(t)
	random := rand.New(rand.NewPCG(1, 2))
	for w.size() < 300 {
		w.growTo(min(w.size()+1+random.Uint64N(20), 300))
	}
	keys, err := receipts.ParseKeySet(w.get("/.well-known/scitt-keys").body)
	if err != nil {
		t.Fatal(err)
	}

	// Every head, in pages of seven.
	var heads []apitype.Head
	for path := "/log/heads?limit=7"; path != ""; {
		page := read[apitype.HeadList](w, path)
		heads = append(heads, page.Heads...)
		if path = ""; page.Next > 0 {
			path = fmt.Sprintf("/log/heads?limit=7&after=%d", page.Next)
		}
	}
	last := uint64(0)
	for _, h := range heads {
		if h.PrevSize != last {
			t.Fatalf("head of size %d follows %d, want %d", h.Size, h.PrevSize, last)
		}
		last = h.Size
		signed := receipts.SignedHead{Head: receipts.Head{Size: h.Size, Root: [32]byte(h.Root), Time: time.Unix(h.IssuedAt, 0)}, Protected: h.Protected, Signature: h.Signature}
		if err := receipts.VerifyHead(signed, keys[0].Public); err != nil {
			t.Errorf("head of size %d: %v", h.Size, err)
		}
	}
	if last != 300 || len(heads) < 15 {
		t.Fatalf("%d heads up to size %d", len(heads), last)
	}

	newest := tlog.TileHashReader(w.checkpoint(), tiles{w, map[string][]byte{}})
	for i, from := range heads {
		for _, to := range heads[i+1:] {
			path := fmt.Sprintf("/log/consistency?from=%d&to=%d", from.Size, to.Size)
			r, err := receipts.Parse(w.get(path).body)
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			root, err := keys.VerifyConsistency(r, receipts.Roots{from.Size: [32]byte(from.Root)}, receipts.Strict)
			if err != nil || !bytes.Equal(root[:], to.Root) {
				t.Fatalf("%s leads to %x, %v; want %x", path, root, err, to.Root)
			}
			hashes := read[apitype.Consistency](w, path, "Accept: application/json")
			if !slices.EqualFunc(hashes.Hashes, r.Consistency[0].Path, bytes.Equal) || hashes.From != from.Size || hashes.To != to.Size ||
				!bytes.Equal(hashes.FromRoot, from.Root) || !bytes.Equal(hashes.ToRoot, to.Root) {
				t.Fatalf("%s as JSON is another proof: %+v", path, hashes)
			}
			theirs, err := tlog.ProveTree(int64(to.Size), int64(from.Size), newest)
			if err != nil || !samePath(hashes.Hashes, theirs) {
				t.Fatalf("%s: %x, tlog has %v, %v", path, hashes.Hashes, theirs, err)
			}
		}
	}
}

func TestAPartialTileIsThereForEverySignedSizeAndNoOther(t *testing.T) {
	w := newWorld(t)
	sizes := []uint64{2, 5, 100, 255, 256, 257, 300, 513}
	for _, size := range sizes[1:] {
		w.growTo(size)
	}
	for _, c := range []struct {
		path string
		has  func(n, width uint64) bool
	}{
		{"0", func(n, width uint64) bool { return slices.Contains(heads(w), n*256+width) }},
		{"entries", func(n, width uint64) bool { return slices.Contains(heads(w), n*256+width) }},
		{"1", func(n, width uint64) bool {
			return slices.ContainsFunc(heads(w), func(size uint64) bool { return size/256 == n*256+width })
		}},
	} {
		for n := range uint64(4) {
			for _, width := range []uint64{1, 2, 3, 4, 5, 43, 44, 45, 99, 100, 101, 254, 255, 256} {
				path, want := fmt.Sprintf("/log/tile/%s/%03d.p/%d", c.path, n, width), c.has(n, width)
				if width == 256 {
					path, want = fmt.Sprintf("/log/tile/%s/%03d", c.path, n), c.path != "1" && n < 2
				}
				a := w.get(path)
				if !want {
					a.refused(t, 404, "not-found")
					continue
				}
				if a.status != 200 || a.header.Get("Cache-Control") != "public, max-age=31536000, immutable" {
					t.Errorf("%s: %d, Cache-Control %q", path, a.status, a.header.Get("Cache-Control"))
				}
			}
		}
	}
}

// heads are the sizes that were signed.
func heads(w *world) (sizes []uint64) {
	for _, h := range read[apitype.HeadList](w, "/log/heads?limit=500").Heads {
		sizes = append(sizes, h.Size)
	}
	return sizes
}

func TestWhatItsPathNamesIsCachedForEver(t *testing.T) {
	w := newWorld(t)
	s, _ := w.claim(w.wabbit, 1)
	w.growTo(300)
	const immutable = "public, max-age=31536000, immutable"
	for _, c := range []struct{ path, accept, kind, cache string }{
		{"/log/checkpoint", "", "text/plain; charset=utf-8", "max-age=5"},
		{"/log/checkpoint?fresh", "", "text/plain; charset=utf-8", "no-cache"},
		{"/log/tile/0/000", "", "application/octet-stream", immutable},
		{"/log/tile/0/001.p/44", "", "application/octet-stream", immutable},
		{"/log/tile/entries/000", "", "application/octet-stream", immutable},
		{"/log/heads", "", "application/json", "no-cache"},
		{"/log/consistency?from=2&to=300", "", "application/cose", "no-cache"},
		{"/log/consistency?from=2&to=300", "application/json;q=0.5, application/cose", "application/cose", "no-cache"},
		{"/log/consistency?to=300&from=2", "application/scitt-receipt+cose", "application/scitt-receipt+cose", "no-cache"},
		{"/log/consistency?from=2&to=300", "application/json, application/cose;q=0.5", "application/json", "no-cache"},
		{"/log/inclusion/" + s.ID().String() + "?size=300", "", "application/cose", "no-cache"},
		{"/log/inclusion/" + s.ID().String(), "application/scitt-receipt+cose", "application/scitt-receipt+cose", "no-cache"},
		{"/v1/statements", "", "application/cbor-seq", "no-cache"},
		{"/v1/decisions", "", "application/cbor-seq", "no-cache"},
	} {
		header := []string{}
		if c.accept != "" {
			header = append(header, "Accept: "+c.accept)
		}
		a := w.get(c.path, header...)
		if a.status != 200 || a.header.Get("Content-Type") != c.kind || a.header.Get("Cache-Control") != c.cache {
			t.Errorf("%s, Accept %q: %d, %s, %q; want %s, %q", c.path, c.accept, a.status, a.header.Get("Content-Type"), a.header.Get("Cache-Control"), c.kind, c.cache)
		}
		if strings.HasPrefix(c.path, "/log/consistency") || strings.HasPrefix(c.path, "/log/inclusion") {
			if a.header.Get("Vary") != "Accept" {
				t.Errorf("%s: Vary %q", c.path, a.header.Get("Vary"))
			}
		}
		if c.cache != immutable && a.header.Get("Vary") == "" {
			continue
		}
		tag := a.header.Get("ETag")
		if again := w.get(c.path, append(header, "If-None-Match: "+tag)...); tag == "" || again.status != http.StatusNotModified {
			t.Errorf("%s, again with ETag %s: %d", c.path, tag, again.status)
		}
	}
	// A fresh receipt is under the newest head.
	r, err := receipts.Parse(w.get("/log/inclusion/" + s.ID().String()).body)
	if err != nil || r.Proofs[0].TreeSize != 300 {
		t.Errorf("fresh receipt: %+v, %v", r, err)
	}
}

func TestHostilePathsIntoTheLogAreRefused(t *testing.T) {
	w := newWorld(t)
	w.growTo(300)
	unknown := hex.EncodeToString(bytes.Repeat([]byte{7}, 32))
	for _, c := range []struct {
		status      int
		code        string
		kind, paths string
	}{
		{400, "bad-tile", cborProblem, `
			/log/tile/ /log/tile/0 /log/tile/0/ /log/tile//000 /log/tile/x/000 /log/tile/entries /log/tile/entries/ /log/tile/data/000
			/log/tile/0/0 /log/tile/0/00 /log/tile/0/0000 /log/tile/0/1000 /log/tile/0/001000 /log/tile/0/x000/000 /log/tile/0/x000/001
			/log/tile/0/000/001 /log/tile/0/x001/x000 /log/tile/0/x001/00 /log/tile/0/X001/000 /log/tile/0/x001/000/
			/log/tile/0/x001 /log/tile/0/xx1/000 /log/tile/0/x01/0000 /log/tile/0/x0010/00 /log/tile/0/x001//000
			/log/tile/00/000 /log/tile/+0/000 /log/tile/-1/000 /log/tile/64/000 /log/tile/256/000 /log/tile/1e1/000
			/log/tile/8/0/000 /log/tile/0/-01 /log/tile/0/+01 /log/tile/0/1_0 /log/tile/0/0x1
			/log/tile/0/000.p /log/tile/0/000.p/ /log/tile/0/000.p/0 /log/tile/0/000.p/00 /log/tile/0/000.p/01 /log/tile/0/000.p/256
			/log/tile/0/000.p/1000000000000000000000 /log/tile/0/000.p/-1 /log/tile/0/000.p/1/ /log/tile/0/000.p/1.p/1 /log/tile/0/000/p/1
			/log/tile/0/.p/1 /log/tile/0.p/1 /log/tile/0/000.P/44 /log/tile/0/%300 /log/tile/0/000%2Ep/44 /log/tile/0%2F000
			/log/tile/0/%20000 /log/tile/0/000%00 /log/tile/0/٠٠٠ /log/tile/../heads /log/tile/0/../0/000
			/log/tile/0/x018/x446/x744/x073/x709/x551/616 /log/tile/entries/x018/x446/x744/x073/x709/x551/616
			/log/tile/0/` + strings.Repeat("x001/", 1000) + `000`},
		{404, "not-found", cborProblem, `
			/log/tile/0/002 /log/tile/0/001 /log/tile/0/001.p/45 /log/tile/0/001.p/255 /log/tile/0/000.p/1 /log/tile/0/x001/000
			/log/tile/1/000 /log/tile/1/000.p/2 /log/tile/2/000.p/1 /log/tile/7/000 /log/tile/8/000 /log/tile/63/000.p/255
			/log/tile/0/x018/x446/x744/x073/x709/x551/615 /log/tile/0/x018/x446/x744/x073/x709/x551/615.p/255
			/log/tile/7/x018/x446/x744/x073/x709/x551/615 /log/tile/1/x036/x028/x797/x018/x963/967
			/log/tile/entries/001 /log/tile/entries/002.p/1 /log/tile/entries/x018/x446/x744/x073/x709/x551/615
			/log/tile/0/x036/x028/x797/x018/x963/967 /log/tile/0/x036/x028/x797/x018/x963/968 /log/tile/0/x144/x115/x188/x075/x855/871
			/log/consistency?from=2&to=301 /log/consistency?from=1&to=300 /log/consistency?from=1&to=2
			/log/consistency?from=2&to=18446744073709551615 /log/consistency?from=9223372036854775807&to=9223372036854775808
			/log/inclusion/` + unknown + ` /log/inclusion/` + unknown + `?size=300 /log/inclusion/` + w.ledger.Policy().Entry.String() + `?size=1
			/log/inclusion/` + w.ledger.Policy().Entry.String() + `?size=18446744073709551615`},
		{400, "bad-filter", cborProblem, `
			/log/consistency /log/consistency?from=2 /log/consistency?to=2 /log/consistency?from=300&to=2 /log/consistency?from=2&to=2
			/log/consistency?from=0&to=2 /log/consistency?from=02&to=300 /log/consistency?from=-2&to=300 /log/consistency?from=+2&to=300
			/log/consistency?from=2&to=18446744073709551616 /log/consistency?from=2&from=2&to=300 /log/consistency?from=2&to=300&x=1
			/log/consistency?from=2;to=300 /log/consistency?from=%zz&to=300 /log/consistency?from=&to=300 /log/consistency?from=2.0&to=300
			/log/heads?after=-1 /log/heads?limit=0 /log/heads?limit=501 /log/heads?limit= /log/heads?before=3 /log/heads?after=1&after=2
			/log/inclusion/` + unknown + `?size=0 /log/inclusion/` + unknown + `?size=x /log/inclusion/` + unknown + `?fresh`},
		{400, "bad-filter", jsonProblem, `
			/v1/statements?from=-1 /v1/statements?limit=0 /v1/statements?limit=501 /v1/statements?from=01 /v1/statements?to=5
			/v1/statements?from=18446744073709551616 /v1/statements?limit=5&limit=5
			/v1/decisions?from=-1 /v1/decisions?limit=0 /v1/decisions?limit=501 /v1/decisions?to=5`},
		{400, "invalid-locator", cborProblem, `/log/inclusion/zz?size=300 /log/inclusion/` + unknown[1:] + ` /log/inclusion/%00`},
	} {
		for _, path := range strings.Fields(c.paths) {
			a := w.get(path)
			p := a.problem(t)
			if a.status != c.status || p.Code != c.code || a.header.Get("Content-Type") != c.kind {
				t.Errorf("%.80s: %d %s (%s), want %d %s", path, a.status, p.Code, p.Detail, c.status, c.code)
			}
		}
	}
	// Beyond the end there is nothing, which is no error.
	for path, want := range map[string]string{
		"/log/heads?after=300": `{"heads":[]}` + "\n", "/log/heads?after=18446744073709551615": `{"heads":[]}` + "\n",
		"/v1/statements?from=300": "", "/v1/statements?from=18446744073709551615&limit=500": "",
		"/v1/decisions?from=300": "", "/v1/decisions?from=18446744073709551615&limit=500": "",
	} {
		if a := w.get(path); a.status != 200 || string(a.body) != want || a.header.Get("Link") != "" {
			t.Errorf("%s: %d %q, Link %q", path, a.status, a.body, a.header.Get("Link"))
		}
	}
}

func TestTheWholeLogIsReadOutInPages(t *testing.T) {
	w := newWorld(t)
	secret, _ := w.claim(w.vault, 1)
	w.growTo(20)
	for _, c := range []struct {
		header []string
		hidden []uint64
	}{{nil, []uint64{2}}, {[]string{w.publisher}, []uint64{2}}, {[]string{w.reader}, nil}} {
		next := uint64(0)
		for path := "/v1/statements?limit=6"; next < 20; {
			a := w.get(path, c.header...)
			if a.status != 200 || a.header.Get("Content-Type") != "application/cbor-seq" {
				t.Fatalf("%s: %d %s", path, a.status, a.header.Get("Content-Type"))
			}
			for _, item := range sequence(t, a.body) {
				if item.Index != next {
					t.Fatalf("%s: leaf %d, want %d", path, item.Index, next)
				}
				if slices.Contains(c.hidden, next) {
					if item.Canonical != nil {
						t.Errorf("leaf %d is shown", next)
					}
				} else if _, err := statement.Parse(item.Canonical); err != nil {
					t.Errorf("leaf %d: %v", next, err)
				}
				next++
			}
			path = strings.TrimSuffix(strings.TrimPrefix(a.header.Get("Link"), "<"), `>; rel="next"`)
		}
	}
	// Its id is no secret: the bundle has it, as it must to prove the others.
	id := secret.ID()
	if a := w.get("/log/tile/entries/000.p/20"); !bytes.Contains(a.body, id[:]) {
		t.Error("the bundle lacks a private entry")
	}
}

// leafOf is an item of /v1/statements.
type leafOf struct {
	_         struct{} `cbor:",toarray"`
	Index     uint64
	Canonical []byte
}

func sequence(t *testing.T, b []byte) (items []leafOf) {
	t.Helper()
	r := detcbor.NewReader(b)
	for r.End() != nil {
		raw, err := r.Raw()
		if err != nil {
			t.Fatal(err)
		}
		var item leafOf
		if err := detcbor.Unmarshal(raw, &item); err != nil {
			t.Fatal(err)
		}
		items = append(items, item)
	}
	return items
}

func TestAProcessWithoutTheCheckpointKeyServesTheRest(t *testing.T) {
	w := newWorld(t)
	w.growTo(300)
	reader, err := ledger.Open(t.Context(), w.store, ledger.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, api.Config{Ledger: reader, Registrar: failing(errors.New("unused"))})
	p := s.get("/log/checkpoint").refused(t, 503, "read-only")
	if p.TraceID == "" {
		t.Error("no trace id")
	}
	for _, path := range []string{"/log/tile/0/000", "/log/tile/entries/001.p/44", "/log/consistency?from=2&to=300", "/log/heads"} {
		if a, b := s.get(path), w.get(path); a.status != 200 || !bytes.Equal(a.body, b.body) {
			t.Errorf("%s: %d, and not what a process with the keys answers", path, a.status)
		}
	}
}

// FuzzTilePath compares with x/mod's reader of such paths, which names the height
// of the tile too, counts no further than 63 bits and calls bundles data.
func FuzzTilePath(f *testing.F) {
	for _, path := range []string{
		"0/000", "entries/000.p/2", "1/x001/x234/067", "63/999.p/255", "0/x000/001", "0/1000", "0/000.p/256", "data/000", "0/x018/x446/x744/x073/x709/x551/615",
	} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		id, entries, width, err := api.ParseTile(path)
		if err == nil && id.N > 1<<63-1 {
			return
		}
		theirs, theirErr := tlog.ParseTilePath("tile/8/" + strings.Replace(path, "entries/", "data/", 1))
		switch {
		case strings.HasPrefix(path, "data/"):
			theirErr = errors.New("entries are not called so here")
		case theirErr == nil && theirs.L > 63:
			theirErr = errors.New("x/mod has no highest level")
		}
		if (err == nil) != (theirErr == nil) {
			t.Fatalf("%q: %v, x/mod says %v", path, err, theirErr)
		}
		if err != nil {
			return
		}
		level := int(id.Level)
		if entries {
			level = -1
		}
		if want := (tlog.Tile{H: 8, L: level, N: int64(id.N), W: width}); theirs != want {
			t.Fatalf("%q: %+v, x/mod reads %+v", path, want, theirs)
		}
	})
}
