package crash

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	formats "github.com/transparency-dev/formats/log"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/client"
	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// chore is one thing that a client of a soak does. It asks one replica or all of
// them, and its error is an answer that was not due.
type chore struct {
	name   string
	weight int
	do     func(*soak, *rand.Rand) error
}

var chores = []chore{
	{"singles", 30, (*soak).register},
	{"batches", 4, (*soak).registerBatch},
	{"duplicates", 6, (*soak).registerAgain},
	{"twins", 4, (*soak).registerTwins},
	{"guests", 4, (*soak).registerGuest},
	{"refusals", 4, (*soak).refuse},
	{"receipts", 8, (*soak).readReceipt},
	{"fresh receipts", 6, (*soak).readFresh},
	{"inclusions", 6, (*soak).readInclusion},
	{"transparent statements", 3, (*soak).readTransparent},
	{"queries", 12, (*soak).query},
	{"checkpoints", 5, (*soak).readCheckpoint},
	{"consistency", 5, (*soak).readConsistency},
	{"heads", 2, (*soak).readHeads},
	{"key sets", 1, (*soak).readKeys},
}

func (s *soak) register(chance *rand.Rand) error {
	_, c, release := s.at(chance)
	defer release()
	e, err := s.compose(chance, issuer)
	if err != nil {
		return err
	}
	reg, err := c.Register(s.t.Context(), e.body, "")
	if err != nil {
		return err
	}
	s.acknowledge(e, reg.Receipt)
	return nil
}

func (s *soak) registerAgain(chance *rand.Rand) error {
	e, err := s.some(chance)
	if err != nil {
		return s.register(chance)
	}
	_, c, release := s.at(chance)
	defer release()
	reg, err := c.Register(s.t.Context(), e.body, "")
	if err != nil {
		return err
	}
	s.journal.promised(e, reg.Receipt)
	return nil
}

// registerTwins sends the same new statement to every replica at once, to each
// of them twice.
func (s *soak) registerTwins(chance *rand.Rand) error {
	e, err := s.compose(chance, issuer)
	if err != nil {
		return err
	}
	const each = 2
	answers, errs := make([]client.Registration, each*len(s.services)), make([]error, each*len(s.services))
	var sending sync.WaitGroup
	for i := range answers {
		sending.Go(func() {
			at := i % len(s.services)
			s.gates[at].RLock()
			defer s.gates[at].RUnlock()
			answers[i], errs[i] = s.services[at].Register(s.t.Context(), e.body, "")
		})
	}
	sending.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	s.acknowledge(e, answers[0].Receipt)
	for _, a := range answers[1:] {
		s.journal.promised(e, a.Receipt)
	}
	return nil
}

// registerBatch sends new statements, one of them twice, an old one, one of an
// issuer nobody knows and one with a bad signature, in any order.
func (s *soak) registerBatch(chance *rand.Rand) error {
	_, c, release := s.at(chance)
	defer release()
	var batch []*entry
	fresh := map[*entry]bool{}
	for range 3 + chance.IntN(30) {
		e, err := s.compose(chance, issuer)
		if err != nil {
			return err
		}
		batch, fresh[e] = append(batch, e), true
	}
	batch = append(batch, batch[0])
	if e, err := s.some(chance); err == nil {
		batch = append(batch, e)
	}
	unknown, err := s.compose(chance, stranger)
	if err != nil {
		return err
	}
	forged, err := s.forge(chance)
	if err != nil {
		return err
	}
	batch = append(batch, unknown, forged)
	chance.Shuffle(len(batch), func(i, j int) { batch[i], batch[j] = batch[j], batch[i] })

	var errs []error
	bodies := func(yield func([]byte) bool) {
		for _, e := range batch {
			if !yield(e.body) {
				return
			}
		}
	}
	answered := 0
	c.RegisterAll(s.t.Context(), bodies, func(n int, reg client.Registration, err error) {
		answered++
		switch e := batch[n]; {
		case e == unknown || e == forged:
			if err = refused(err); err != nil {
				errs = append(errs, fmt.Errorf("item %d: %w", n, err))
			}
		case err != nil:
			errs = append(errs, fmt.Errorf("item %d: %w", n, err))
		case fresh[e]:
			delete(fresh, e)
			s.acknowledge(e, reg.Receipt)
		default:
			s.journal.promised(e, reg.Receipt)
		}
	})
	if answered != len(batch) {
		errs = append(errs, fmt.Errorf("%d of %d items are answered", answered, len(batch)))
	}
	return errors.Join(errs...)
}

// registerGuest registers what only every other policy admits. Whether that was
// in force is for CheckLog to say; what was refused must not be in the log.
func (s *soak) registerGuest(chance *rand.Rand) error {
	_, c, release := s.at(chance)
	defer release()
	e, err := s.compose(chance, guest)
	if err != nil {
		return err
	}
	reg, err := c.Register(s.t.Context(), e.body, "")
	if err != nil {
		return refused(err)
	}
	s.acknowledge(e, reg.Receipt)
	return nil
}

// refuse sends what no policy admits.
func (s *soak) refuse(chance *rand.Rand) error {
	_, c, release := s.at(chance)
	defer release()
	e, err := s.compose(chance, stranger)
	if chance.IntN(2) == 0 {
		e, err = s.forge(chance)
	}
	if err != nil {
		return err
	}
	_, err = c.Register(s.t.Context(), e.body, "")
	return refused(err)
}

// forge is a statement whose signature does not hold.
func (s *soak) forge(chance *rand.Rand) (*entry, error) {
	e, err := s.compose(chance, issuer)
	if err != nil {
		return nil, err
	}
	e.body[len(e.body)-1] ^= 1
	return e, nil
}

// refused turns a refusal into no error, and anything else into one.
func refused(err error) error {
	p := (*client.Problem)(nil)
	if err == nil {
		return errors.New("registered, want a refusal")
	}
	if !errors.As(err, &p) || p.Status != http.StatusBadRequest {
		return fmt.Errorf("want a refusal: %w", err)
	}
	return nil
}

func (s *soak) readReceipt(chance *rand.Rand) error {
	e, err := s.some(chance)
	if err != nil {
		return s.register(chance)
	}
	_, c, release := s.at(chance)
	defer release()
	receipt, err := c.Receipt(s.t.Context(), e.id)
	if err != nil {
		return err
	}
	s.journal.promised(e, receipt)
	return nil
}

func (s *soak) readFresh(chance *rand.Rand) error {
	e, err := s.some(chance)
	if err != nil {
		return s.register(chance)
	}
	_, c, release := s.at(chance)
	defer release()
	receipt, err := c.FreshReceipt(s.t.Context(), e.id)
	if err != nil {
		return err
	}
	return s.journal.proven(e, receipt, 0)
}

// readInclusion asks for a proof under a checkpoint that some replica showed.
func (s *soak) readInclusion(chance *rand.Rand) error {
	e, err := s.some(chance)
	size, ok := s.someSize(chance)
	if err != nil || !ok || size <= e.index {
		return s.readCheckpoint(chance)
	}
	_, c, release := s.at(chance)
	defer release()
	receipt, err := c.ReceiptAt(s.t.Context(), e.id, size)
	if err != nil {
		return err
	}
	return s.journal.proven(e, receipt, size)
}

// proven takes a receipt of e under another head than its batch's; size 0: any.
func (j *journal) proven(e *entry, receipt []byte, size uint64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	index, ok := j.proof(e, receipt)
	if !ok {
		return nil // and counted
	}
	r, err := receipts.Parse(receipt)
	if err != nil {
		return err
	}
	if got := r.Proofs[0].TreeSize; index != e.index || size != 0 && got != size {
		return fmt.Errorf("entry %s, index %d, size %d: the receipt is of index %d in size %d", e.id, e.index, size, index, got)
	}
	return nil
}

func (s *soak) readTransparent(chance *rand.Rand) error {
	e, err := s.some(chance)
	if err != nil {
		return s.register(chance)
	}
	_, c, release := s.at(chance)
	defer release()
	b, err := c.Transparent(s.t.Context(), e.id)
	if err != nil {
		return err
	}
	canonical, all, err := receipts.SplitTransparent(b)
	if err != nil || len(all) != 1 || !bytes.Equal(canonical, e.body) {
		return fmt.Errorf("entry %s: %d receipts, the bytes that were signed: %t, %v", e.id, len(all), bytes.Equal(canonical, e.body), err)
	}
	s.journal.promised(e, all[0])
	return nil
}

// filters ask for what an entry is found by, and say of an answer whether it
// fits. An entry that has nothing of the kind is not looked for.
var filters = []struct {
	name string
	ask  func(apitype.Entry, *client.Query) bool
	fits func(asked, got apitype.Entry) bool
}{
	{"time", func(apitype.Entry, *client.Query) bool { return true }, func(_, _ apitype.Entry) bool { return true }},
	{"subject", func(e apitype.Entry, q *client.Query) bool {
		for _, a := range e.Artifacts {
			q.Artifacts = append(q.Artifacts, statement.Digest(a))
		}
		return len(e.Artifacts) > 0
	}, func(asked, got apitype.Entry) bool {
		return slices.ContainsFunc(got.Artifacts, func(a string) bool { return slices.Contains(asked.Artifacts, a) })
	}},
	{"evidence", func(e apitype.Entry, q *client.Query) bool {
		q.Evidence = []statement.Digest{statement.Digest(e.Evidence.Digest)}
		return e.Evidence.Digest != ""
	}, func(asked, got apitype.Entry) bool { return got.Evidence == asked.Evidence }},
	{"issuer", func(e apitype.Entry, q *client.Query) bool { q.Issuers = []string{e.Issuer}; return true },
		func(asked, got apitype.Entry) bool { return got.Issuer == asked.Issuer }},
	{"issuer prefix", func(e apitype.Entry, q *client.Query) bool {
		q.IssuerPrefixes = []statement.IssuerPrefix{statement.IssuerPrefix(e.Issuer)}
		return true
	}, func(asked, got apitype.Entry) bool { return strings.HasPrefix(got.Issuer, asked.Issuer) }},
	{"media type", func(e apitype.Entry, q *client.Query) bool {
		q.MediaTypes = []string{e.MediaType}
		return e.MediaType != ""
	}, func(asked, got apitype.Entry) bool { return got.MediaType == asked.MediaType }},
	{"issuer and media type", func(e apitype.Entry, q *client.Query) bool {
		q.Issuers, q.MediaTypes = []string{e.Issuer}, []string{e.MediaType}
		return e.MediaType != ""
	}, func(asked, got apitype.Entry) bool {
		return got.Issuer == asked.Issuer && got.MediaType == asked.MediaType
	}},
	{"predicate type", func(e apitype.Entry, q *client.Query) bool {
		q.PredicateTypes = []string{e.PredicateType}
		return e.PredicateType != ""
	}, func(asked, got apitype.Entry) bool { return got.PredicateType == asked.PredicateType }},
}

// query looks an entry up, and then for it among those of the same second by
// each filter, page by page.
func (s *soak) query(chance *rand.Rand) error {
	known, err := s.some(chance)
	if err != nil {
		return s.register(chance)
	}
	_, c, release := s.at(chance)
	defer release()
	want, err := c.Entry(s.t.Context(), known.id)
	if err != nil {
		return err
	}
	if want.Index != known.index {
		return fmt.Errorf("entry %s is shown at index %d, but its receipt says %d", known.id, want.Index, known.index)
	}
	f := filters[chance.IntN(len(filters))]
	q := client.Query{Since: want.RegisteredAt, Until: want.RegisteredAt.Add(time.Second), Limit: 1 + chance.IntN(100)}
	if !f.ask(want, &q) {
		return nil
	}
	next := uint64(1) << 63
	for {
		page, err := c.Find(s.t.Context(), q)
		if err != nil {
			return fmt.Errorf("by %s: %w", f.name, err)
		}
		for _, got := range page.Entries {
			if got.Index >= next || !f.fits(want, got) || !got.RegisteredAt.Equal(want.RegisteredAt) {
				return fmt.Errorf("by %s of %+v: index %d below %d is %+v", f.name, want, got.Index, next, got)
			}
			if next = got.Index; got.EntryID == want.EntryID {
				return nil
			}
		}
		if page.Next == "" {
			return fmt.Errorf("entry %s is not found by %s", known.id, f.name)
		}
		q.Cursor = page.Next
	}
}

// readCheckpoint reads one, and through its tiles an entry that it covers: tlog
// believes a tile only when it leads to the checkpoint's root.
func (s *soak) readCheckpoint(chance *rand.Rand) error {
	i, c, release := s.at(chance)
	defer release()
	signed, err := c.Checkpoint(s.t.Context())
	if err != nil {
		return err
	}
	cp, _, _, err := formats.ParseCheckpoint(signed, s.origin, s.verifier)
	if err != nil {
		return err
	}
	s.journal.mu.Lock()
	s.journal.root(cp.Size, [32]byte(cp.Hash))
	s.journal.mu.Unlock()
	s.mu.Lock()
	s.sizes = append(s.sizes, cp.Size)
	s.mu.Unlock()

	e, err := s.some(chance)
	if err != nil || e.index >= cp.Size {
		return nil
	}
	tree := tlog.Tree{N: int64(cp.Size), Hash: tlog.Hash(cp.Hash)}
	hashes, err := tlog.TileHashReader(tree, tileReader{s.replicas[i]}).ReadHashes([]int64{tlog.StoredHashIndex(0, int64(e.index))})
	if err != nil {
		return err
	}
	if hashes[0] != tlog.RecordHash(e.id[:]) {
		return fmt.Errorf("leaf %d of the tiles is not that of entry %s", e.index, e.id)
	}
	width := min(256, cp.Size-e.index/256*256)
	path := strings.Replace(tlog.Tile{H: 8, N: int64(e.index / 256), W: int(width)}.Path(), "tile/8/0/", "/log/tile/entries/", 1)
	bundle, err := s.replicas[i].read(path)
	if err != nil {
		return err
	}
	const record = 2 + 32 // length and id
	at := int(e.index % 256 * record)
	if len(bundle) != int(width)*record || !bytes.Equal(bundle[at+2:at+record], e.id[:]) {
		return fmt.Errorf("%s: %d bytes, and entry %s is not at %d", path, len(bundle), e.id, at)
	}
	return nil
}

// tileReader is how x/mod's tlog reads the log: its paths name the height, C2SP's
// do not.
type tileReader struct{ *replica }

func (r tileReader) Height() int                     { return 8 }
func (r tileReader) SaveTiles([]tlog.Tile, [][]byte) {}

func (r tileReader) ReadTiles(asked []tlog.Tile) (data [][]byte, err error) {
	for _, t := range asked {
		b, err := r.read(strings.Replace(t.Path(), "tile/8/", "/log/tile/", 1))
		if err != nil {
			return nil, err
		}
		data = append(data, b)
	}
	return data, nil
}

// read gets what has to be there.
func (r *replica) read(path string) ([]byte, error) {
	status, b, err := r.do(http.MethodGet, path, nil)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%s: %d\n%s", path, status, b)
	}
	return b, err
}

// someSize is the size of a checkpoint that was seen.
func (s *soak) someSize(chance *rand.Rand) (uint64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sizes) == 0 {
		return 0, false
	}
	return s.sizes[chance.IntN(len(s.sizes))], true
}

// readConsistency has one checkpoint proven to continue another, whoever showed
// them.
func (s *soak) readConsistency(chance *rand.Rand) error {
	from, _ := s.someSize(chance)
	to, _ := s.someSize(chance)
	if from == to {
		return s.readCheckpoint(chance)
	}
	i, _, release := s.at(chance)
	defer release()
	return s.consistent(s.replicas[i], min(from, to), max(from, to))
}

func (s *soak) consistent(r *replica, from, to uint64) error {
	b, err := r.read(fmt.Sprintf("/log/consistency?from=%d&to=%d", from, to))
	if err != nil {
		return err
	}
	receipt, err := receipts.Parse(b)
	if err != nil {
		return err
	}
	s.journal.mu.Lock()
	defer s.journal.mu.Unlock()
	root, err := s.journal.keys.VerifyConsistency(receipt, receipts.Roots{from: s.journal.roots[from]}, receipts.Strict)
	if err != nil {
		return fmt.Errorf("from %d to %d: %w", from, to, err)
	}
	if receipt.Consistency[0].To != to {
		return fmt.Errorf("from %d to %d: proven for %d", from, to, receipt.Consistency[0].To)
	}
	s.journal.root(to, root)
	return nil
}

// proveAll has every checkpoint that was seen proven to continue the one before,
// by the replicas in turn.
func (s *soak) proveAll() {
	s.t.Helper()
	sizes := slices.Compact(slices.Sorted(slices.Values(s.sizes)))
	for i := range max(1, len(sizes)) - 1 {
		if err := s.consistent(s.replicas[i%len(s.replicas)], sizes[i], sizes[i+1]); err != nil {
			s.t.Error(err)
			return
		}
	}
}

// readHeads reads signed heads from some size on.
func (s *soak) readHeads(chance *rand.Rand) error {
	after, _ := s.someSize(chance)
	i, _, release := s.at(chance)
	defer release()
	b, err := s.replicas[i].read(fmt.Sprintf("/log/heads?after=%d&limit=20", after))
	if err != nil {
		return err
	}
	var page apitype.HeadList
	if err := json.Unmarshal(b, &page); err != nil {
		return err
	}
	s.journal.mu.Lock()
	defer s.journal.mu.Unlock()
	for _, h := range page.Heads {
		if h.PrevSize != after && after != 0 || h.Size <= h.PrevSize {
			return fmt.Errorf("after size %d: a head from %d to %d", after, h.PrevSize, h.Size)
		}
		s.journal.root(h.Size, [32]byte(h.Root))
		after = h.Size
	}
	return nil
}

// readKeys: what signed before is never taken back.
func (s *soak) readKeys(chance *rand.Rand) error {
	_, c, release := s.at(chance)
	defer release()
	s.journal.mu.Lock()
	trusted := s.journal.keys
	s.journal.mu.Unlock()
	served, err := c.Keys(s.t.Context())
	if err != nil {
		return err
	}
	for _, k := range trusted {
		if !slices.ContainsFunc(served, func(got cose.Key) bool { return k.Public.(*ecdsa.PublicKey).Equal(got.Public) }) {
			return fmt.Errorf("a key of the log's is not among the %d that are served", len(served))
		}
	}
	return nil
}
