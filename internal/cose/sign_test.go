package cose

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"os"
	"sync"
	"testing"

	gocose "github.com/veraison/go-cose"
)

// all is every algorithm with the kind of key it is for.
var all = []struct {
	alg  Algorithm
	name string
	kind string
	size int // of a signature
}{
	{ES256, "ES256", "P-256", 64},
	{ESP256, "ESP256", "P-256", 64},
	{ES384, "ES384", "P-384", 96},
	{ESP384, "ESP384", "P-384", 96},
	{ES512, "ES512", "P-521", 132},
	{ESP512, "ESP512", "P-521", 132},
	{EdDSA, "EdDSA", "Ed25519", 64},
	{Ed25519, "Ed25519", "Ed25519", 64},
	{PS256, "PS256", "RSA", 256},
	{PS384, "PS384", "RSA", 256},
	{PS512, "PS512", "RSA", 256},
}

// keys has one private key of each kind, made once: RSA keys are slow to make.
var keys = sync.OnceValue(func() map[string]crypto.Signer {
	m := map[string]crypto.Signer{}
	for _, c := range curves {
		k, err := ecdsa.GenerateKey(c.Curve, rand.Reader)
		if err != nil {
			panic(err)
		}
		m[c.Params().Name] = k
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	m["Ed25519"] = ed
	if m["RSA"], err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		panic(err)
	}
	return m
})

func testKey(t testing.TB, a Algorithm) crypto.Signer {
	t.Helper()
	for _, x := range all {
		if x.alg == a {
			return keys()[x.kind]
		}
	}
	t.Fatalf("no key for %s", a)
	return nil
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

type ecKey struct {
	Kty int64  `json:"kty"`
	Crv int64  `json:"crv"`
	X   string `json:"x_hex"`
	Y   string `json:"y_hex"`
}

// basic is the part of ../../testdata/basic.json that this package can check.
type basic struct {
	Sign1 struct {
		Message string `json:"message_hex"`
		Alg     int64  `json:"alg"`
		Sig     string `json:"sig_structure_hex"`
		Key     ecKey  `json:"key"`
	} `json:"cose_sign1_rfc8152_c2_1"`
	Thumbprint struct {
		Key    ecKey  `json:"key"`
		Input  string `json:"thumbprint_input_hex"`
		SHA256 string `json:"sha256_hex"`
	} `json:"cose_key_thumbprint_rfc9679"`
}

func vectors(t testing.TB) basic {
	t.Helper()
	b, err := os.ReadFile("../../testdata/basic.json")
	if err != nil {
		t.Fatal(err)
	}
	var v basic
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestTheMessageOfRFC8152VerifiesWithItsKey(t *testing.T) {
	v := vectors(t).Sign1
	k, err := ParseKey(encode(t, map[any]any{1: v.Key.Kty, -1: v.Key.Crv, -2: unhex(t, v.Key.X), -3: unhex(t, v.Key.Y), 3: v.Alg}))
	if err != nil {
		t.Fatal(err)
	}
	var m gocose.Sign1Message
	if err := m.UnmarshalCBOR(unhex(t, v.Message)); err != nil {
		t.Fatal(err)
	}
	protected := []byte{0xa1, 0x01, 0x26}
	if got := SigStructure(protected, m.Payload); hex.EncodeToString(got) != v.Sig {
		t.Errorf("Sig_structure = %x, want %s", got, v.Sig)
	}
	if err := k.Permits(Algorithm(v.Alg)); err != nil {
		t.Error(err)
	}
	if err := Verify(Algorithm(v.Alg), k.Public, protected, m.Payload, m.Signature); err != nil {
		t.Error(err)
	}
	if err := Verify(Algorithm(v.Alg), k.Public, protected, append(m.Payload, ' '), m.Signature); !errors.Is(err, ErrSignature) {
		t.Errorf("another payload: %v, want ErrSignature", err)
	}
}

func TestSigStructureEncodesEveryLengthAsCBORDoes(t *testing.T) {
	for _, n := range []int{0, 1, 23, 24, 255, 256, 65535, 65536, 1 << 20} {
		p := bytes.Repeat([]byte{7}, n)
		want := encode(t, []any{"Signature1", p, []byte{}, p})
		if got := SigStructure(p, p); !bytes.Equal(got, want) {
			t.Errorf("%d bytes: heads differ: %x..., want %x...", n, got[:min(len(got), 24)], want[:min(len(want), 24)])
		}
	}
}

func TestEveryAlgorithmSignsWhatItVerifies(t *testing.T) {
	protected, payload := []byte{0xa1, 1, 2}, []byte("payload")
	for _, x := range all {
		t.Run(x.name, func(t *testing.T) {
			if x.alg.String() != x.name || !x.alg.Supported() || x.alg.Weight() < 1 {
				t.Errorf("%d: String %q, Supported %v, Weight %d", x.alg, x.alg, x.alg.Supported(), x.alg.Weight())
			}
			key := keys()[x.kind]
			sig, err := Sign(x.alg, key, protected, payload)
			if err != nil {
				t.Fatal(err)
			}
			if len(sig) != x.size {
				t.Errorf("signature of %d bytes, want %d", len(sig), x.size)
			}
			if err := Verify(x.alg, key.Public(), protected, payload, sig); err != nil {
				t.Error(err)
			}
			for name, bad := range map[string][3][]byte{
				"other protected": {{0xa1, 1, 3}, payload, sig},
				"other payload":   {protected, []byte("payloaD"), sig},
				"bit flipped":     {protected, payload, flip(sig, 5)},
				"last bit":        {protected, payload, flip(sig, len(sig)*8-1)},
				"one byte short":  {protected, payload, sig[:len(sig)-1]},
				"one byte long":   {protected, payload, append(bytes.Clone(sig), 0)},
				"empty":           {protected, payload, nil},
				"zeros":           {protected, payload, make([]byte, len(sig))},
				"ones":            {protected, payload, bytes.Repeat([]byte{0xff}, len(sig))},
			} {
				if err := Verify(x.alg, key.Public(), bad[0], bad[1], bad[2]); !errors.Is(err, ErrSignature) {
					t.Errorf("%s: %v, want ErrSignature", name, err)
				}
			}
		})
	}
}

func flip(b []byte, bit int) []byte {
	b = bytes.Clone(b)
	b[bit/8] ^= 1 << (bit % 8)
	return b
}

func TestAnAlgorithmFitsOnlyItsOwnKindOfKey(t *testing.T) {
	for _, x := range all {
		for kind, key := range keys() {
			fits := kind == x.kind
			if err := x.alg.Check(key.Public()); fits != (err == nil) || !fits && !errors.Is(err, ErrAlgorithm) {
				t.Errorf("%s with %s: Check: %v", x.alg, kind, err)
			}
			if fits {
				continue
			}
			if _, err := Sign(x.alg, key, nil, nil); !errors.Is(err, ErrAlgorithm) {
				t.Errorf("%s with %s: Sign: %v, want ErrAlgorithm", x.alg, kind, err)
			}
			if err := Verify(x.alg, key.Public(), nil, nil, make([]byte, x.size)); !errors.Is(err, ErrAlgorithm) {
				t.Errorf("%s with %s: Verify: %v, want ErrAlgorithm", x.alg, kind, err)
			}
		}
	}
}

func TestAnAlgorithmOffTheListIsRefused(t *testing.T) {
	for _, a := range []Algorithm{0, -47, -257, -65535, -48, -53, 5, 1 << 62} {
		if a.Supported() || a.Weight() != 0 {
			t.Errorf("%d: Supported %v, Weight %d", a, a.Supported(), a.Weight())
		}
		for kind, key := range keys() {
			if err := Verify(a, key.Public(), nil, nil, make([]byte, 64)); !errors.Is(err, ErrAlgorithm) {
				t.Errorf("%d with %s: %v, want ErrAlgorithm", a, kind, err)
			}
		}
	}
	if got := Algorithm(-47).String(); got != "-47" {
		t.Errorf("ES256K is written %q, want its number", got)
	}
}

func TestDefaultAlgorithmIsTheOneVerifiersKnow(t *testing.T) {
	for kind, want := range map[string]Algorithm{"P-256": ES256, "P-384": ES384, "P-521": ES512, "Ed25519": EdDSA, "RSA": PS256} {
		if got, err := DefaultAlgorithm(keys()[kind].Public()); got != want || err != nil {
			t.Errorf("%s: %v, %v; want %v", kind, got, err, want)
		}
	}
	if _, err := DefaultAlgorithm(nil); !errors.Is(err, ErrKey) {
		t.Errorf("no key: %v, want ErrKey", err)
	}
}

// The key and the values k, r, s of RFC 6979 A.2.5 (P-256, SHA-256, "sample")
// cannot be fed through a Sig_structure; the deterministic signer is tried
// below it instead.
func TestECDSASignaturesFollowRFC6979(t *testing.T) {
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), unhex(t, "C9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721"))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := gocose.NewSigner(suites[ES256].engine, digestSigner{key, suites[ES256].hash})
	if err != nil {
		t.Fatal(err)
	}
	got, err := signer.Sign(nil, []byte("sample"))
	if err != nil {
		t.Fatal(err)
	}
	want := unhex(t, "EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716"+
		"F7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8")
	if !bytes.Equal(got, want) {
		t.Errorf("signature of \"sample\" = %x, want %x", got, want)
	}
}

func TestTheSameInputGivesTheSameBytesExceptForRSA(t *testing.T) {
	for _, x := range all {
		a, err := Sign(x.alg, keys()[x.kind], []byte("h"), []byte("p"))
		if err != nil {
			t.Fatal(err)
		}
		b, err := Sign(x.alg, keys()[x.kind], []byte("h"), []byte("p"))
		if err != nil {
			t.Fatal(err)
		}
		if same := bytes.Equal(a, b); same != (x.kind != "RSA") {
			t.Errorf("%s: same bytes twice: %v", x.alg, same)
		}
	}
}

// hardware is a key whose private half Go cannot see. Like PKCS #11 drivers it
// insists on randomness and on knowing the hash.
type hardware struct {
	t   *testing.T
	key crypto.Signer
	err error
}

func (h hardware) Public() crypto.PublicKey { return h.key.Public() }

func (h hardware) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if h.err != nil {
		return nil, h.err
	}
	if random == nil || opts == nil || opts.HashFunc() != 0 && opts.HashFunc().Size() != len(digest) {
		h.t.Errorf("called with random %v, opts %v for %d bytes", random, opts, len(digest))
	}
	return h.key.Sign(random, digest, opts)
}

func TestAKeyThatIsNotInMemorySigns(t *testing.T) {
	for _, x := range all {
		h := hardware{t: t, key: keys()[x.kind]}
		sig, err := Sign(x.alg, h, []byte("h"), []byte("p"))
		if err != nil {
			t.Fatal(err)
		}
		if err := Verify(x.alg, h.Public(), []byte("h"), []byte("p"), sig); err != nil {
			t.Error(err)
		}
	}
	gone := errors.New("token removed")
	if _, err := Sign(ES256, hardware{t: t, key: keys()["P-256"], err: gone}, nil, nil); !errors.Is(err, gone) {
		t.Errorf("failing token: %v, want its own error", err)
	}
	if _, err := Sign(ES256, nil, nil, nil); !errors.Is(err, ErrKey) {
		t.Errorf("no key: %v, want ErrKey", err)
	}
}

func TestAnEd25519SignatureWithSPlusLIsRefused(t *testing.T) {
	key := keys()["Ed25519"]
	sig, err := Sign(EdDSA, key, []byte("h"), []byte("p"))
	if err != nil {
		t.Fatal(err)
	}
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	s := new(big.Int).SetBytes(reversed(sig[32:]))
	twin := append(bytes.Clone(sig[:32]), reversed(s.Add(s, order).FillBytes(make([]byte, 32)))...)
	for _, a := range []Algorithm{EdDSA, Ed25519} {
		if err := Verify(a, key.Public(), []byte("h"), []byte("p"), twin); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v, want ErrSignature", a, err)
		}
	}
}

func reversed(b []byte) []byte {
	r := make([]byte, len(b))
	for i, c := range b {
		r[len(b)-1-i] = c
	}
	return r
}
