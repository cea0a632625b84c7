package receipts

import (
	"bytes"
	"errors"
	"maps"
	"math"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/scittd/scittd/internal/cose"
)

// TestConsistencyAgreesWithTlog compares paths and verdicts with an
// implementation that shares no code with ours, for every pair of sizes.
func TestConsistencyAgreesWithTlog(t *testing.T) {
	const sizes = 70
	issuer := newIssuer(t)
	ours := newLog(t)
	var theirs []tlog.Hash
	stored := tlog.HashReaderFunc(func(at []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(at))
		for i, n := range at {
			out[i] = theirs[n]
		}
		return out, nil
	})
	older := Roots{}
	for to := uint64(1); to <= sizes; to++ {
		entry := entryOf(to - 1)
		ours.add(entry)
		more, err := tlog.StoredHashes(int64(to-1), entry, stored)
		if err != nil {
			t.Fatal(err)
		}
		theirs = append(theirs, more...)
		h, err := issuer.Sign(ours.head())
		if err != nil {
			t.Fatal(err)
		}
		for from := uint64(1); from < to; from++ {
			b, err := MintConsistency(h, from, ours.growth(from, to))
			if err != nil {
				t.Fatalf("mint %d to %d: %v", from, to, err)
			}
			r, err := Parse(b)
			if err != nil {
				t.Fatalf("parse %d to %d: %v", from, to, err)
			}
			want, err := tlog.ProveTree(int64(to), int64(from), stored)
			if err != nil {
				t.Fatal(err)
			}
			got := r.Consistency[0]
			if got.From != from || got.To != to || !samePath(got.Path, want) {
				t.Fatalf("proof %d to %d is %v, tlog says %v", from, to, got, want)
			}
			root, err := r.VerifyConsistency(Roots{from: older[from]}, issuer.Public(), Strict)
			if err != nil || root != h.Root {
				t.Fatalf("verify %d to %d: root %x, %v; want %x", from, to, root, err, h.Root)
			}
			wrong := older[from]
			wrong[31] ^= 1
			if _, err := r.VerifyConsistency(Roots{from: wrong}, issuer.Public(), Strict); !errors.Is(err, ErrNotVerified) {
				t.Fatalf("verify %d to %d from another root: %v, want ErrNotVerified", from, to, err)
			}
		}
		older[to] = h.Root
	}
}

// consistencyOf is a consistency receipt from 3 to 7 as a draft.
func consistencyOf(t *testing.T) (d draft, older Roots, newer Head) {
	l := logOf(t, 7)
	old := logOf(t, 3).head()
	d = newDraft(t)
	d.root = &newer.Root
	newer = l.head()
	d.unprotected = m{396: m{-2: [][]byte{encode(t, []any{3, 7, l.growth(3, 7)})}}}
	return d, Roots{3: old.Root}, newer
}

func TestAConsistencyReceiptMayCarryItsRoot(t *testing.T) {
	d, older, newer := consistencyOf(t)
	key := serviceKey(t).Public()
	d.payload = newer.Root[:]
	r, err := Parse(d.bytes(t))
	if err != nil {
		t.Fatal(err)
	}
	if root, err := r.VerifyConsistency(older, key, Strict); err != nil || root != newer.Root {
		t.Errorf("attached: %x, %v", root, err)
	}
	d.payload = bytes.Repeat([]byte{1}, 32)
	if r, err = Parse(d.bytes(t)); err != nil { // signed over the true root
		t.Fatal(err)
	}
	if root, err := r.VerifyConsistency(older, key, Strict); !errors.Is(err, ErrNotVerified) || root != [32]byte{} {
		t.Errorf("another root attached: %x, %v; want ErrNotVerified", root, err)
	}
}

func TestProofsOfOneReceiptMustAgree(t *testing.T) {
	d, older, _ := consistencyOf(t)
	key := serviceKey(t).Public()
	l := logOf(t, 7)
	growth := func(from, to uint64) []byte { return encode(t, []any{from, to, l.growth(from, to)}) }
	inclusion := func(i, size uint64) []byte { return encode(t, []any{size, i, l.path(i, size)}) }
	older[4], older[5], older[7] = logOf(t, 4).head().Root, logOf(t, 5).head().Root, l.head().Root
	for name, c := range map[string]struct {
		proofs          m
		included, grown error
		without         uint64 // of older
	}{
		"two beginnings":            {m{-2: [][]byte{growth(3, 7), growth(4, 7)}}, ErrPath, nil, 0},
		"one beginning is unknown":  {m{-2: [][]byte{growth(3, 7), growth(4, 7)}}, ErrPath, ErrPath, 4},
		"two ends":                  {m{-2: [][]byte{growth(3, 7), growth(4, 6)}}, ErrPath, ErrPath, 0},
		"from itself":               {m{-2: [][]byte{encode(t, []any{7, 7, []any{}})}}, ErrPath, nil, 0},
		"true, then from a liar":    {m{-2: [][]byte{growth(3, 7), encode(t, []any{5, 7, l.growth(3, 7)})}}, ErrPath, ErrNotVerified, 0},
		"inclusion beside it":       {m{-1: [][]byte{inclusion(2, 7)}, -2: [][]byte{growth(3, 7)}}, nil, nil, 0},
		"inclusion elsewhere":       {m{-1: [][]byte{inclusion(2, 6)}, -2: [][]byte{growth(3, 7)}}, ErrPath, ErrPath, 0},
		"a false inclusion with it": {m{-1: [][]byte{inclusion(3, 7)}, -2: [][]byte{growth(3, 7)}}, ErrNotVerified, nil, 0},
		"a false growth with it":    {m{-1: [][]byte{inclusion(2, 7)}, -2: [][]byte{encode(t, []any{3, 7, logOf(t, 8).growth(3, 7)[:3]})}}, nil, ErrPath, 0},
		"inclusion alone":           {m{-1: [][]byte{inclusion(2, 7)}}, nil, ErrPath, 0},
		"backwards":                 {m{-2: [][]byte{encode(t, []any{7, 3, l.growth(3, 7)})}}, ErrPath, ErrPath, 0},
		"from nothing":              {m{-2: [][]byte{encode(t, []any{0, 7, []any{}})}}, ErrPath, ErrPath, 0},
		"without a path":            {m{-2: [][]byte{encode(t, []any{3, 7, []any{}})}}, ErrPath, ErrPath, 0},
		"a power without a path":    {m{-2: [][]byte{encode(t, []any{4, 7, []any{}})}}, ErrPath, ErrPath, 0},
		"a path too long":           {m{-2: [][]byte{encode(t, []any{3, 7, append(l.growth(3, 7), entryOf(1))})}}, ErrPath, ErrPath, 0},
		"a path from itself":        {m{-2: [][]byte{encode(t, []any{7, 7, l.growth(3, 7)})}}, ErrPath, ErrPath, 0},
		"the largest sizes":         {m{-2: [][]byte{encode(t, []any{uint64(1<<64 - 2), uint64(1<<64 - 1), bytes65()[:64]})}}, ErrPath, ErrPath, 0},
	} {
		d.unprotected = m{396: c.proofs}
		r, err := Parse(d.bytes(t))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := r.Verify(entryOf(2), key, Strict); !errors.Is(err, c.included) {
			t.Errorf("%s: inclusion: %v, want %v", name, err, c.included)
		}
		known := maps.Clone(older)
		delete(known, c.without)
		root, err := r.VerifyConsistency(known, key, Strict)
		if !errors.Is(err, c.grown) || (root == l.head().Root) != (c.grown == nil) {
			t.Errorf("%s: consistency: root %x, %v, want %v", name, root, err, c.grown)
		}
	}
}

func TestStrictModeAsksTheSameOfConsistency(t *testing.T) {
	d, older, _ := consistencyOf(t)
	for name, d := range map[string]draft{"no claims": d.without(15), "no sub": d.set(15, m{1: service}), "no kid": d.without(4)} {
		r, err := Parse(d.bytes(t))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.VerifyConsistency(older, serviceKey(t).Public(), Strict); !errors.Is(err, ErrClaims) {
			t.Errorf("%s: strict: %v, want ErrClaims", name, err)
		}
		if _, err := r.VerifyConsistency(older, serviceKey(t).Public(), COSEOnly); err != nil {
			t.Errorf("%s: receipt only: %v", name, err)
		}
	}
}

// As with inclusion, only the two sizes are not signed.
func TestNoFlippedBitOfConsistencyIsAccepted(t *testing.T) {
	key := serviceKey(t).Public()
	for _, at := range []struct{ from, to uint64 }{{1, 2}, {2, 3}, {3, 5}, {4, 7}, {6, 8}, {66, 100}} {
		good := logOf(t, at.to).consistency(at.from)
		root := logOf(t, at.from).head().Root
		want, err := Parse(good)
		if err != nil {
			t.Fatal(err)
		}
		for bit := range len(root) * 8 {
			older := Roots{at.from: [32]byte(flip(root[:], bit))}
			if _, err := want.VerifyConsistency(older, key, Strict); !errors.Is(err, ErrNotVerified) {
				t.Fatalf("%d to %d: root with bit %d flipped: %v, want ErrNotVerified", at.from, at.to, bit, err)
			}
		}
		elsewhere := 0
		for bit := range len(good) * 8 {
			bad := flip(good, bit)
			r, err := Parse(bad)
			if err != nil || len(r.Consistency) == 0 {
				continue
			}
			p := r.Consistency[0]
			if _, err := r.VerifyConsistency(Roots{p.From: root}, key, Strict); err != nil {
				continue
			}
			signed := SignedHead{Head: Head{Size: p.To}, Protected: want.protected, Signature: want.signature}
			same, err := MintConsistency(signed, p.From, want.Consistency[0].Path)
			if err != nil || !bytes.Equal(same, bad) || p.From == at.from && p.To == at.to {
				t.Fatalf("%d to %d: accepted with bit %d flipped: %x", at.from, at.to, bit, bad)
			}
			elsewhere++
		}
		if elsewhere > 8 {
			t.Errorf("%d to %d: %d flipped bits are accepted", at.from, at.to, elsewhere)
		}
	}
}

func TestMintRefusesConsistencyThatNobodyCanRead(t *testing.T) {
	l := logOf(t, 3)
	h, err := newIssuer(t).Sign(l.head())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		from uint64
		path [][]byte
	}{
		"from nothing":  {0, l.growth(1, 3)},
		"from itself":   {3, nil},
		"backwards":     {4, l.growth(1, 3)},
		"no path":       {1, nil},
		"short element": {1, [][]byte{make([]byte, 31)}},
		"65 elements":   {1, bytes65()},
	} {
		if b, err := MintConsistency(h, c.from, c.path); !errors.Is(err, ErrPath) || b != nil {
			t.Errorf("%s: %x, %v; want ErrPath", name, b, err)
		}
	}
}

func TestAKeySetVerifiesConsistency(t *testing.T) {
	l := logOf(t, 5)
	r, err := Parse(l.consistency(3))
	if err != nil {
		t.Fatal(err)
	}
	older := Roots{3: logOf(t, 3).head().Root}
	ours := cose.Key{ID: newIssuer(t).KeyID(), Public: serviceKey(t).Public()}
	if root, err := (KeySet{ours}).VerifyConsistency(r, older, Strict); err != nil || root != l.head().Root {
		t.Errorf("root %x, %v", root, err)
	}
	if _, err := (KeySet{}).VerifyConsistency(r, older, Strict); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("without the key: %v, want ErrUnknownKey", err)
	}
	ours.Alg = cose.ES384
	if _, err := (KeySet{ours}).VerifyConsistency(r, older, Strict); !errors.Is(err, ErrNotVerified) {
		t.Errorf("with a key for ES384: %v, want ErrNotVerified", err)
	}
}

// FuzzConsistencyRoot: whatever newer root follows from a path here follows from
// it in x/mod's eyes too.
func FuzzConsistencyRoot(f *testing.F) {
	l := logOf(f, 300)
	for _, from := range []uint64{1, 3, 4, 128, 255, 256, 299} {
		root := logOf(f, from).head().Root
		f.Add(from, uint64(300), root[:], bytes.Join(l.growth(from, 300), nil))
	}
	f.Add(uint64(7), uint64(7), make([]byte, 32), []byte{})
	f.Fuzz(func(t *testing.T, from, to uint64, old, path []byte) {
		if len(old) != 32 || len(path)%32 != 0 || len(path) > maxPath*32 {
			return
		}
		p := Consistency{From: from, To: to}
		var theirs tlog.TreeProof
		for ; len(path) > 0; path = path[32:] {
			p.Path, theirs = append(p.Path, path[:32]), append(theirs, tlog.Hash(path[:32]))
		}
		root, err := p.root(old)
		if err != nil || to > math.MaxInt64 {
			return
		}
		if err := tlog.CheckTree(theirs, int64(to), tlog.Hash(root), int64(from), tlog.Hash(old)); err != nil {
			t.Fatalf("from %d to %d, path %x leads to %x; x/mod: %v", from, to, p.Path, root, err)
		}
	})
}
