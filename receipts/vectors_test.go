package receipts

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/scittd/scittd/internal/cose"
)

func read(t testing.TB, path ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(append([]string{"testdata"}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readKey(t testing.TB, path ...string) crypto.PublicKey {
	t.Helper()
	k, err := cose.ParsePublic(read(t, path...))
	if err != nil {
		t.Fatal(err)
	}
	return k.Public
}

func TestTheVerdictsOfScittCoseV1(t *testing.T) {
	for name, want := range map[string]struct{ parse, receiptOnly, strict error }{
		"valid-eddsa":            {nil, nil, ErrClaims},
		"valid-es256":            {nil, nil, ErrClaims},
		"fail-bad-statement-sig": {nil, nil, ErrClaims}, // the fault is not the receipt's
		"fail-tampered-path":     {nil, ErrNotVerified, ErrClaims},
		"fail-unsupported-vds":   {ErrUnsupported, nil, nil},
		"valid-ccf-vds2":         {ErrUnsupported, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var expected struct {
				Entry string   `json:"leaf_entry"`
				Valid bool     `json:"receipt_valid"`
				Index *uint64  `json:"leaf_index"`
				Size  *uint64  `json:"tree_size"`
				Path  []string `json:"inclusion_path"`
				Root  *string  `json:"reconstructed_root"`
			}
			if err := json.Unmarshal(read(t, "scitt-cose-v1", name, "expected.json"), &expected); err != nil {
				t.Fatal(err)
			}
			r, err := Parse(read(t, "scitt-cose-v1", name, "receipt.cose"))
			if !errors.Is(err, want.parse) {
				t.Fatalf("Parse: %v, want %v", err, want.parse)
			}
			if want.parse != nil {
				return
			}
			if expected.Valid != (want.receiptOnly == nil) {
				t.Errorf("the set says receipt_valid = %v", expected.Valid)
			}
			entry := sha256.Sum256(read(t, "scitt-cose-v1", name, "statement.cose"))
			if hex.EncodeToString(entry[:]) != expected.Entry {
				t.Fatalf("entry %x, want %s", entry, expected.Entry)
			}
			p := r.Proofs[0]
			if len(r.Proofs) != 1 || p.LeafIndex != *expected.Index || p.TreeSize != *expected.Size || len(p.Path) != len(expected.Path) {
				t.Fatalf("proofs %v, want index %d of %d", r.Proofs, *expected.Index, *expected.Size)
			}
			for i := range p.Path {
				if hex.EncodeToString(p.Path[i]) != expected.Path[i] {
					t.Errorf("path element %d is %x, want %s", i, p.Path[i], expected.Path[i])
				}
			}
			if root, err := r.Root(entry[:]); err != nil || expected.Root != nil && hex.EncodeToString(root[:]) != *expected.Root {
				t.Errorf("root %x, %v; want %s", root, err, *expected.Root)
			}
			key := readKey(t, "scitt-cose-v1", name, "log-key.pub")
			if err := r.Verify(entry[:], key, COSEOnly); !errors.Is(err, want.receiptOnly) {
				t.Errorf("receipt only: %v, want %v", err, want.receiptOnly)
			}
			if err := r.Verify(entry[:], key, Strict); !errors.Is(err, want.strict) {
				t.Errorf("strict: %v, want %v", err, want.strict)
			}
			other := "valid-eddsa"
			if name == other {
				other = "valid-es256"
			}
			if err := r.Verify(entry[:], readKey(t, "scitt-cose-v1", other, "log-key.pub"), COSEOnly); !errors.Is(err, ErrNotVerified) {
				t.Errorf("another log's key: %v, want ErrNotVerified", err)
			}
		})
	}
}

func TestTheRootsOfTheCTReferenceTests(t *testing.T) {
	var basic struct {
		Merkle struct {
			Leaves []string `json:"leaf_inputs_hex"`
			Roots  []string `json:"root_of_first_n"`
		} `json:"rfc9162_merkle_roots"`
	}
	if err := json.Unmarshal(read(t, "../../testdata/basic.json"), &basic); err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(rfc6962.DefaultHasher.EmptyRoot()); got != basic.Merkle.Roots[0] {
		t.Errorf("empty tree: %s, want %s", got, basic.Merkle.Roots[0])
	}
	l := newLog(t)
	for n, leaf := range basic.Merkle.Leaves {
		l.add(unhex(t, leaf))
		size := uint64(n + 1)
		for index := range size {
			r, err := Parse(l.receipt(index))
			if err != nil {
				t.Fatal(err)
			}
			entry := unhex(t, basic.Merkle.Leaves[index])
			if root, err := r.Root(entry); err != nil || hex.EncodeToString(root[:]) != basic.Merkle.Roots[size] {
				t.Errorf("leaf %d of %d: root %x, %v; want %s", index, size, root, err, basic.Merkle.Roots[size])
			}
			if err := r.Verify(entry, serviceKey(t).Public(), Strict); err != nil {
				t.Errorf("leaf %d of %d: %v", index, size, err)
			}
		}
	}
}

func TestTheExamplesOfTheReceiptsDraft(t *testing.T) {
	var basic struct {
		Example map[string]string `json:"cose_receipts_examples"`
	}
	if err := json.Unmarshal(read(t, "../../testdata/basic.json"), &basic); err != nil {
		t.Fatal(err)
	}
	hash := func(name string) []byte { return unhex(t, basic.Example[name]) }

	r, err := Parse(read(t, "cose-receipts-examples", "inclusion-receipt.cbor"))
	if err != nil {
		t.Fatal(err)
	}
	if r.Alg != cose.ES256 || string(r.KeyID) != "test-key-1" || r.VDS != 1 || r.Issuer != "https://transparency-service.example.com" || r.Subject != "" {
		t.Errorf("headers: %+v", r)
	}
	p := r.Proofs[0]
	want := [][]byte{hash("leaf2_hash"), hash("node01"), hash("leaf4_hash")}
	if len(r.Proofs) != 1 || p.TreeSize != 5 || p.LeafIndex != 3 || !equalAll(p.Path, want) {
		t.Errorf("proofs %v, want index 3 of 5 by %x", r.Proofs, want)
	}
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, p.LeafIndex, p.TreeSize, hash("leaf3_hash"), p.Path, hash("root5")); err != nil {
		t.Error(err)
	}
	// It has iss, but no sub.
	if err := r.Verify(nil, serviceKey(t).Public(), Strict); !errors.Is(err, ErrClaims) {
		t.Errorf("strict: %v, want ErrClaims", err)
	}

	if err := r.Verify(nil, serviceKey(t).Public(), COSEOnly); !errors.Is(err, ErrNotVerified) {
		t.Errorf("with our key: %v, want ErrNotVerified", err)
	}

	b := read(t, "cose-receipts-examples", "consistency-receipt.cbor")
	if r, err = Parse(b); err != nil {
		t.Fatal(err)
	}
	if r.Alg != cose.ES256 || string(r.KeyID) != "test-key-1" || r.VDS != 1 || r.Issuer != "https://transparency-service.example.com" || r.Subject != "" {
		t.Errorf("headers: %+v", r)
	}
	if len(r.Proofs) != 0 || len(r.Consistency) != 1 || r.payload != nil {
		t.Fatalf("%d inclusion proofs, %d consistency proofs, payload %x", len(r.Proofs), len(r.Consistency), r.payload)
	}
	c := r.Consistency[0]
	if want := [][]byte{hash("leaf2_hash"), hash("leaf3_hash"), hash("node01"), hash("leaf4_hash")}; c.From != 3 || c.To != 5 || !equalAll(c.Path, want) {
		t.Errorf("consistency %v, want 3 to 5 by %x", c, want)
	}
	if root, err := c.root(hash("root3")); err != nil || !bytes.Equal(root, hash("root5")) {
		t.Errorf("root %x, %v; want %x", root, err, hash("root5"))
	}
	// Structure: what Mint writes under the same head is the same bytes.
	signed := SignedHead{Head: Head{Size: 5}, Protected: r.protected, Signature: r.signature}
	if again, err := MintConsistency(signed, 3, c.Path); err != nil || !bytes.Equal(again, b) {
		t.Errorf("minted again, %v:\n%x, want\n%x", err, again, b)
	}
	// Its key is not published.
	older := Roots{3: [32]byte(hash("root3"))}
	if _, err := r.VerifyConsistency(older, serviceKey(t).Public(), COSEOnly); !errors.Is(err, ErrNotVerified) {
		t.Errorf("with our key: %v, want ErrNotVerified", err)
	}
	if _, err := r.VerifyConsistency(older, serviceKey(t).Public(), Strict); !errors.Is(err, ErrClaims) {
		t.Errorf("strict: %v, want ErrClaims", err)
	}
}

func equalAll(a, b [][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}
