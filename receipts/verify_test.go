package receipts

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"testing"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/internal/detcbor"
)

func TestStrictModeAsksForWhatRFC9943Asks(t *testing.T) {
	d := newDraft(t)
	for name, d := range map[string]draft{
		"no claims":   d.without(15),
		"no iss":      d.set(15, m{2: origin}),
		"iss empty":   d.set(15, m{1: "", 2: origin}),
		"no sub":      d.set(15, m{1: service}),
		"sub empty":   d.set(15, m{1: service, 2: ""}),
		"no kid":      d.without(4),
		"kid empty":   d.set(4, []byte{}),
		"claims text": d.set(15, m{"iss": service, "sub": origin}),
	} {
		r, err := Parse(d.bytes(t))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := r.Verify(entryOf(0), serviceKey(t).Public(), Strict); !errors.Is(err, ErrClaims) {
			t.Errorf("%s: strict: %v, want ErrClaims", name, err)
		}
		if err := r.Verify(entryOf(0), serviceKey(t).Public(), Mode(7)); !errors.Is(err, ErrClaims) {
			t.Errorf("%s: an unknown mode: %v, want the strict one", name, err)
		}
		if err := r.Verify(entryOf(0), serviceKey(t).Public(), COSEOnly); err != nil {
			t.Errorf("%s: receipt only: %v", name, err)
		}
	}
}

func TestClaimsInTheUnprotectedHeaderDoNotCount(t *testing.T) {
	d := newDraft(t).without(15)
	d.unprotected = m{396: d.unprotected.(m)[396], 15: m{1: service, 2: origin}}
	r, err := Parse(d.bytes(t))
	if err != nil {
		t.Fatal(err)
	}
	if r.Issuer != "" || r.Subject != "" {
		t.Errorf("iss %q, sub %q", r.Issuer, r.Subject)
	}
	if err := r.Verify(entryOf(0), serviceKey(t).Public(), Strict); !errors.Is(err, ErrClaims) {
		t.Errorf("%v, want ErrClaims", err)
	}
}

func TestAProofThatDoesNotFitItsTreeIsRefused(t *testing.T) {
	path := logOf(t, 8).path(2, 8)
	for name, p := range map[string]Inclusion{
		"index beyond the tree":   {TreeSize: 8, LeafIndex: 8, Path: path},
		"empty tree":              {TreeSize: 0, LeafIndex: 0, Path: nil},
		"path too short":          {TreeSize: 8, LeafIndex: 2, Path: path[:2]},
		"path too long":           {TreeSize: 8, LeafIndex: 2, Path: append(path[:3:3], path[0])},
		"empty path, two leaves":  {TreeSize: 2, LeafIndex: 0, Path: nil},
		"path in a tree of one":   {TreeSize: 1, LeafIndex: 0, Path: path[:1]},
		"another size's path":     {TreeSize: 16, LeafIndex: 2, Path: path},
		"largest tree, no path":   {TreeSize: 1<<64 - 1, LeafIndex: 1<<64 - 2, Path: nil},
		"index of a smaller tree": {TreeSize: 8, LeafIndex: 1 << 63, Path: path},
	} {
		r := mintRaw(t, logOf(t, 8).head(), p)
		if err := r.Verify(entryOf(2), serviceKey(t).Public(), Strict); !errors.Is(err, ErrPath) {
			t.Errorf("%s: %v, want ErrPath", name, err)
		}
	}
	if err := new(Receipt).Verify(nil, nil, COSEOnly); !errors.Is(err, ErrPath) {
		t.Errorf("a receipt without proofs: %v, want ErrPath", err)
	}
}

// mintRaw signs h and puts proofs beside it that Mint would not write.
func mintRaw(t testing.TB, h Head, proofs ...Inclusion) *Receipt {
	t.Helper()
	s, err := newIssuer(t).Sign(h)
	if err != nil {
		t.Fatal(err)
	}
	var encoded [][]byte
	for _, p := range proofs {
		if p.Path == nil {
			p.Path = [][]byte{}
		}
		encoded = append(encoded, encode(t, []any{p.TreeSize, p.LeafIndex, p.Path}))
	}
	b := envelope{protected: s.Protected, signature: s.Signature}.with(encode(t, m{396: m{-1: encoded}}))
	r, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestSeveralProofsMustLeadToOneRoot(t *testing.T) {
	l := newLog(t, entryOf(0), entryOf(1), entryOf(0), entryOf(3), entryOf(4))
	proofOf := func(i, size uint64) Inclusion { return Inclusion{TreeSize: size, LeafIndex: i, Path: l.path(i, size)} }
	key := serviceKey(t).Public()

	// The same entry stands at 0 and at 2: two true proofs.
	r := mintRaw(t, l.head(), proofOf(0, 5), proofOf(2, 5))
	if err := r.Verify(entryOf(0), key, Strict); err != nil {
		t.Errorf("two places of one entry: %v", err)
	}
	for name, r := range map[string]*Receipt{
		"true, then false":      mintRaw(t, l.head(), proofOf(0, 5), proofOf(1, 5)),
		"false, then true":      mintRaw(t, l.head(), proofOf(1, 5), proofOf(0, 5)),
		"true, then older":      mintRaw(t, l.head(), proofOf(0, 5), proofOf(0, 4)),
		"true, then ill-fitted": mintRaw(t, l.head(), proofOf(0, 5), Inclusion{TreeSize: 5, LeafIndex: 9}),
	} {
		if err := r.Verify(entryOf(0), key, Strict); !errors.Is(err, ErrPath) {
			t.Errorf("%s: %v, want ErrPath", name, err)
		}
	}
}

func TestAnAttachedRootMustBeTheComputedOne(t *testing.T) {
	d := newDraft(t)
	d.payload = bytes.Repeat([]byte{1}, 32)
	r, err := Parse(d.bytes(t)) // signed over the true root
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Verify(entryOf(0), serviceKey(t).Public(), Strict); !errors.Is(err, ErrNotVerified) {
		t.Errorf("%v, want ErrNotVerified", err)
	}
}

func TestTheAlgorithmMustFitTheKey(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Parse(newDraft(t).bytes(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		key  crypto.PublicKey
		want error
	}{
		"P-384":         {p384.Public(), cose.ErrAlgorithm},
		"Ed25519":       {ed, cose.ErrAlgorithm},
		"RSA":           {rsaKey.Public(), cose.ErrAlgorithm},
		"none":          {nil, cose.ErrKey},
		"a private key": {serviceKey(t), cose.ErrKey},
	} {
		if err := r.Verify(entryOf(0), c.key, Strict); !errors.Is(err, ErrNotVerified) || !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want ErrNotVerified and %v", name, err, c.want)
		}
	}
	for _, alg := range []int64{-257, -35, -8, 5, 0} {
		r, err := Parse(newDraft(t).set(1, alg).bytes(t))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Verify(entryOf(0), serviceKey(t).Public(), Strict); !errors.Is(err, cose.ErrAlgorithm) {
			t.Errorf("alg %d with a P-256 key: %v, want ErrAlgorithm", alg, err)
		}
	}
}

// TestNoFlippedBitIsAccepted flips every single bit of entry and receipt. The
// one thing that is not signed is where in which tree the entry stands, as far
// as the path is folded the same way: RFC 9162 binds tree_size and leaf_index
// no further. So what is still accepted must be, byte for byte, the receipt
// that Mint writes for that other place, and all that Verify vouches for must
// be unchanged.
func TestNoFlippedBitIsAccepted(t *testing.T) {
	key := serviceKey(t).Public()
	for _, at := range []struct{ index, size uint64 }{{0, 1}, {1, 2}, {0, 3}, {2, 3}, {3, 5}, {4, 6}, {5, 8}, {66, 100}} {
		l := logOf(t, at.size)
		good, entry := l.receipt(at.index), entryOf(at.index)
		want, err := Parse(good)
		if err != nil {
			t.Fatal(err)
		}
		if err := want.Verify(entry, key, Strict); err != nil {
			t.Fatal(err)
		}
		for bit := range len(entry) * 8 {
			if err := want.Verify(flip(entry, bit), key, Strict); !errors.Is(err, ErrNotVerified) {
				t.Fatalf("%d of %d: entry with bit %d flipped: %v, want ErrNotVerified", at.index, at.size, bit, err)
			}
		}
		elsewhere := 0
		for bit := range len(good) * 8 {
			bad := flip(good, bit)
			r, err := Parse(bad)
			if err != nil || r.Verify(entry, key, Strict) != nil {
				continue
			}
			p := r.Proofs[0]
			signed := SignedHead{Head: Head{Size: p.TreeSize}, Protected: want.protected, Signature: want.signature}
			same, err := Mint(signed, p.LeafIndex, want.Proofs[0].Path)
			if err != nil || !bytes.Equal(same, bad) || p.TreeSize == at.size && p.LeafIndex == at.index {
				t.Fatalf("%d of %d: accepted with bit %d flipped: %x", at.index, at.size, bit, bad)
			}
			if r.Alg != want.Alg || !bytes.Equal(r.KeyID, want.KeyID) || r.Issuer != want.Issuer || r.Subject != want.Subject || !r.IssuedAt.Equal(want.IssuedAt) {
				t.Fatalf("%d of %d: bit %d changes what is vouched for: %+v", at.index, at.size, bit, r)
			}
			elsewhere++
		}
		// Few bits can do that: those of two small integers.
		if elsewhere > 8 {
			t.Errorf("%d of %d: %d flipped bits are accepted", at.index, at.size, elsewhere)
		}
	}
}

func flip(b []byte, bit int) []byte {
	b = bytes.Clone(b)
	b[bit/8] ^= 1 << (bit % 8)
	return b
}

func TestAKeySetFindsTheReceiptsKey(t *testing.T) {
	issuer := newIssuer(t)
	retired, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ours := cose.Key{ID: issuer.KeyID(), Alg: cose.ES256, Public: issuer.Public()}
	old := cose.Key{ID: []byte("old"), Public: retired.Public()}
	r, err := Parse(logOf(t, 3).receipt(1))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		set  KeySet
		want error
	}{
		"current":            {KeySet{ours, old}, nil},
		"retired":            {KeySet{old, ours}, nil},
		"without kid":        {KeySet{old, {Public: issuer.Public()}}, nil},
		"absent":             {KeySet{old}, ErrUnknownKey},
		"empty":              {nil, ErrUnknownKey},
		"kid of another key": {KeySet{{ID: issuer.KeyID(), Public: retired.Public()}}, ErrNotVerified},
		"for ES384 only":     {KeySet{{ID: issuer.KeyID(), Alg: cose.ES384, Public: issuer.Public()}}, ErrNotVerified},
	} {
		if err := c.set.Verify(r, entryOf(1), Strict); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if len(c.set) == 0 || c.set[0].Alg == cose.ES384 {
			continue
		}
		b, err := c.set.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseKeySet(b)
		if err != nil {
			t.Fatal(err)
		}
		if err := again.Verify(r, entryOf(1), Strict); !errors.Is(err, c.want) {
			t.Errorf("%s, after a round trip: %v, want %v", name, err, c.want)
		}
	}
	if k, ok := (KeySet{{Public: issuer.Public()}}).Find(nil); ok {
		t.Errorf("no kid finds %v", k)
	}
	if _, err := ParseKeySet(encode(t, []detcbor.RawMessage{})); !errors.Is(err, cose.ErrKey) {
		t.Errorf("an empty set: %v, want ErrKey", err)
	}
}
