package ledgertest

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

func appendOne(w *world) {
	w.init()
	l := w.ledger(w.store, w.options())
	s := w.wabbit.Claim(w, Image(1), SBOM, []byte("sbom"))
	r := Append(w, l, s)
	w.verify(s, r)
	if !r.New || r.Entry.Index != 2 {
		w.Errorf("new %v, index %d", r.New, r.Entry.Index)
	}
	w.check()
	got, err := l.Receipt(w.ctx, s.ID(), ledger.Public)
	if err != nil || !bytes.Equal(got, r.Receipt) {
		w.Errorf("receipt read later differs: %v", err)
	}
	e, err := l.Entry(w.ctx, s.ID(), ledger.Public)
	if err != nil || !reflect.DeepEqual(e, r.Entry) {
		w.Errorf("entry read later\n%+v, %v; answered\n%+v", e, err, r.Entry)
	}
	if l.Pending(s.ID()) {
		w.Error("pending after its answer")
	}
	if _, err := l.Receipt(w.ctx, statement.ID{1}, ledger.All); !errors.Is(err, ledger.ErrNotFound) {
		w.Errorf("receipt of nothing: %v", err)
	}
}

func sameBytes(w *world) {
	w.init()
	s := w.acme.Claim(w, Image(1), SBOM, []byte("sbom"))
	l := w.ledger(w.store, w.options())
	first := Append(w, l, s)
	Append(w, l, w.wabbit.Claim(w, Image(2), SBOM, []byte("another")))
	for i := range 3 {
		r := Append(w, l, s)
		if r.New || !bytes.Equal(r.Receipt, first.Receipt) || !reflect.DeepEqual(r.Entry, first.Entry) {
			w.Errorf("time %d: new %v, entry %d, same receipt %v", i, r.New, r.Entry.Index, bytes.Equal(r.Receipt, first.Receipt))
		}
		w.check()
		w.close(l)
		w.reopen()
		l = w.ledger(w.store, w.options())
	}
	if size := w.size(); size != 4 {
		w.Errorf("size %d, want 4", size)
	}
}

func acrossTiles(w *world) {
	w.init()
	l := w.ledger(w.store, w.options())
	all := w.wabbit.Claims(w, 0, 300)
	// One by one up to and over the border of the first tile, where a batch
	// of one completes it, then the rest at once.
	for n := 0; n < 251; n += 50 {
		w.appendAll(l, all[n:min(n+50, 251)])
	}
	for _, s := range all[251:258] {
		w.verify(s, Append(w, l, s))
		w.check()
	}
	w.appendAll(l, all[258:])
	w.check()
	w.close(l)
	w.reopen()
	l = w.ledger(w.store, w.options())
	w.verify(all[0], Append(w, l, all[0]))
	s := w.wabbit.Claim(w, Image(1), SBOM, []byte("one more"))
	w.verify(s, Append(w, l, s))
	w.check()
}

func secondOpinion(w *world) {
	w.init()
	all := w.wabbit.Claims(w, 0, 520)
	for at, sizes := 0, []int{3, 4, 7, 8, 100, 255, 256, 257, 300, 511, 512, 513, 520}; len(sizes) > 0; sizes = sizes[1:] {
		w.commit(all[at : sizes[0]-2]...)
		at = sizes[0] - 2
	}
	l := w.ledger(w.store, w.options())
	leaves, err := w.store.Leaves(w.ctx, 0, 520)
	if err != nil {
		w.Fatal(err)
	}
	var stored []tlog.Hash
	read := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		var got []tlog.Hash
		for _, i := range indexes {
			got = append(got, stored[i])
		}
		return got, nil
	})
	for i, id := range leaves {
		more, err := tlog.StoredHashes(int64(i), id[:], read)
		if err != nil {
			w.Fatal(err)
		}
		stored = append(stored, more...)
	}
	for at := uint64(0); at < 520; {
		h, err := w.store.HeadFor(w.ctx, at)
		if err != nil {
			w.Fatal(err)
		}
		at = h.Size
		root, err := tlog.TreeHash(int64(h.Size), read)
		if err != nil || root != tlog.Hash(h.Root) {
			w.Fatalf("size %d: root %x, tlog has %v, %v", h.Size, h.Root, root, err)
		}
		for i := range h.Size {
			if h.Size > 300 && i%17 != 0 && i%256 > 2 && h.Size-i > 2 {
				continue // the borders of tiles and tree, and some between
			}
			w.compareProof(l, h, i, leaves[i])
		}
	}
	if _, err := l.ReceiptAt(w.ctx, leaves[0], 9, ledger.All); !errors.Is(err, ledger.ErrNotFound) {
		w.Errorf("receipt at a size without head: %v", err)
	}
	if _, err := l.ReceiptAt(w.ctx, leaves[7], 7, ledger.All); !errors.Is(err, ledger.ErrNotFound) {
		w.Errorf("receipt in a tree without the entry: %v", err)
	}
}

// compareProof has tlog check the path in a receipt.
func (w *world) compareProof(l *ledger.Ledger, h ledger.Head, index uint64, id statement.ID) {
	w.Helper()
	b, err := l.ReceiptAt(w.ctx, id, h.Size, ledger.All)
	if err != nil {
		w.Fatalf("receipt of %d in %d: %v", index, h.Size, err)
	}
	r, err := receipts.Parse(b)
	if err != nil || len(r.Proofs) != 1 || r.Proofs[0].TreeSize != h.Size || r.Proofs[0].LeafIndex != index {
		w.Fatalf("receipt of %d in %d: %+v, %v", index, h.Size, r, err)
	}
	var path tlog.RecordProof
	for _, hash := range r.Proofs[0].Path {
		path = append(path, tlog.Hash(hash))
	}
	if err := tlog.CheckRecord(path, int64(h.Size), tlog.Hash(h.Root), int64(index), tlog.RecordHash(id[:])); err != nil {
		w.Fatalf("path of %d in %d: %v", index, h.Size, err)
	}
}

func artifactLimit(w *world) {
	w.init()
	l := w.ledger(w.store, w.options())
	var images []statement.Digest
	for i := range 300 {
		images = append(images, Image(i))
	}
	Append(w, l, w.wabbit.Provenance(w, "https://slsa.dev/provenance/v1", images[:256]...))
	for _, n := range []int{257, 300} {
		_, err := l.Append(w.ctx, Submission(l, w.wabbit.Provenance(w, "https://slsa.dev/provenance/v1", images[:n]...)))
		refusal(w.T, err)
	}
	for i, image := range images {
		found, err := l.Find(w.ctx, ledger.Query{Artifacts: []statement.Digest{image}, Limit: 5})
		if err != nil || (len(found) == 1) != (i < 256) {
			w.Fatalf("artifact %d finds %v, %v", i, indexes(found), err)
		}
	}
	w.check()
}

func deliveriesFixed(w *world) {
	w.init()
	l := w.ledger(w.store, w.options())
	labelled := func(s *statement.Statement) []string {
		w.Helper()
		d, err := l.Deliveries(w.ctx, s.ID(), ledger.All)
		if err != nil {
			w.Fatal(err)
		}
		got := []string{}
		for _, d := range d {
			got = append(got, d.Registry+"/"+d.Repository+" "+d.Artifact)
		}
		return got
	}
	at := func(sub string) *statement.Statement {
		return w.wabbit.Sign(w, statement.Template{Subject: sub, ContentType: SBOM, Payload: []byte(sub)})
	}
	both := func(repository string) []string {
		return []string{registry + "/" + repository + " evidence", registry + "/" + repository + " transparency"}
	}
	for _, c := range []struct {
		sub, named string
		want       []string
	}{
		{"pkg:oci/net-monitor@" + string(Image(1)), "", both("wabbit/net-monitor")},
		{"pkg:oci/net-monitor@" + string(Image(1)), "team/x", both("team/x")},
		{registry + "/wabbit/here@" + string(Image(1)), "", both("wabbit/here")},
		{"elsewhere.example/wabbit/here@" + string(Image(1)), "", []string{}},
		{"no image at all", "team/x", []string{}},
	} {
		s := at(c.sub)
		sub := Submission(l, s)
		sub.Repository = c.named
		_, err := l.Append(w.ctx, sub)
		if err != nil {
			w.Fatalf("%s into %q: %v", c.sub, c.named, err)
		}
		if c.named == "team/x" && strings.HasPrefix(c.sub, "pkg:oci") {
			// The same bytes again: a resubmission adds no delivery.
			c.want = both("wabbit/net-monitor")
		}
		if got := labelled(s); !slices.Equal(got, c.want) {
			w.Errorf("%s into %q: %v, want %v", c.sub, c.named, got, c.want)
		}
	}
	named := at("pkg:oci/net-monitor@" + string(Image(2)))
	sub := Submission(l, named)
	sub.Repository = "team/x"
	if _, err := l.Append(w.ctx, sub); err != nil {
		w.Fatal(err)
	}
	if got := labelled(named); !slices.Equal(got, both("team/x")) {
		w.Errorf("named by the path: %v", got)
	}
	mismatch := Submission(l, at(registry+"/wabbit/here@"+string(Image(3))))
	mismatch.Repository = "wabbit/there"
	_, err := l.Append(w.ctx, mismatch)
	if r := refusal(w.T, err); r.Code != policy.CodeRepositoryMismatch {
		w.Errorf("mismatch is refused as %s", r.Code)
	}
	w.check()

	w.close(l)
	l = w.ledger(w.store, ledger.Options{Issuer: w.operator.Issuer(w)})
	nowhere := at("pkg:oci/net-monitor@" + string(Image(4)))
	Append(w, l, nowhere)
	if got := labelled(nowhere); len(got) > 0 {
		w.Errorf("without a registry: %v", got)
	}
	w.check()
}

func transparent(w *world) {
	w.init()
	l := w.ledger(w.store, w.options())
	for _, s := range []*statement.Statement{
		w.wabbit.Claim(w, Image(1), SBOM, []byte("x")), w.acme.Claim(w, Image(1), SBOM, []byte("y")),
	} {
		r := Append(w, l, s)
		b, err := l.Transparent(w.ctx, s.ID(), ledger.Public)
		if err != nil {
			w.Fatal(err)
		}
		canonical, found, err := receipts.SplitTransparent(b)
		if err != nil || !bytes.Equal(canonical, s.Canonical()) || len(found) != 1 || !bytes.Equal(found[0], r.Receipt) {
			w.Errorf("transparent statement of %s: %d receipts, %v", s.Issuer, len(found), err)
		}
		parsed, err := statement.Parse(b)
		if err != nil || parsed.ID() != s.ID() {
			w.Fatalf("transparent statement of %s: %v", s.Issuer, err)
		}
		if d := l.Policy().Evaluate(parsed, time.Now()); d.Refusal != nil {
			w.Errorf("transparent statement of %s does not stand alone: %v", s.Issuer, d.Refusal)
		}
		if again, err := l.Transparent(w.ctx, s.ID(), ledger.Public); err != nil || !bytes.Equal(again, b) {
			w.Errorf("transparent statement of %s differs the second time: %v", s.Issuer, err)
		}
	}
}

func replicas(w *world) {
	w.init()
	a, b := w.ledger(w.store, w.options()), w.ledger(w.store, w.options())
	s := w.wabbit.Claim(w, Image(1), SBOM, []byte("x"))
	first := Append(w, a, s)
	if r := Append(w, b, s); r.New || !bytes.Equal(r.Receipt, first.Receipt) {
		w.Error("the other replica answers another receipt")
	}
	all := w.wabbit.Claims(w, 0, 200)
	var done sync.WaitGroup
	for i, s := range all {
		for k, l := range []*ledger.Ledger{a, b} {
			if i%3 == 0 || i%2 == k { // a third goes to both
				done.Go(func() {
					if _, err := l.Append(w.ctx, Submission(l, s)); err != nil {
						w.Errorf("statement %d at replica %d: %v", i, k, err)
					}
				})
			}
		}
	}
	done.Wait()
	if size := w.size(); size != 203 {
		w.Errorf("size %d, want 203", size)
	}
	w.check()

	// One replica learns of the other's policy by losing the swap.
	Append(w, a, w.operator.Policy(w, a.Policy().Entry, w.operator.Document(w.acme)))
	late := w.wabbit.Claim(w, Image(2), SBOM, []byte("late"))
	_, err := b.Append(w.ctx, Submission(b, late))
	refusal(w.T, err)
	if b.Policy().Entry != a.Policy().Entry {
		w.Error("the replicas differ about the policy in force")
	}
	w.check()
}
