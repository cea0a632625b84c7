//lint:file-ignore SA1019 keys that are on no curve can only be made from raw coordinates

package cose

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"maps"
	"math/big"
	"strings"
	"testing"

	"github.com/scittd/scittd/internal/detcbor"
)

func encode(t testing.TB, v any) []byte {
	t.Helper()
	b, err := detcbor.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// order8 is one of the eight points of small order; its double has order 4.
const order8 = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"

func TestEd25519PointsOfSmallOrderAreRefusedInEveryEncoding(t *testing.T) {
	ys := map[string]string{
		"0":                  strings.Repeat("00", 32),
		"1":                  "01" + strings.Repeat("00", 31),
		"order 8":            order8,
		"minus order 8":      "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"-1":                 "ec" + strings.Repeat("ff", 30) + "7f",
		"0, second form":     "ed" + strings.Repeat("ff", 30) + "7f",
		"1, second form":     "ee" + strings.Repeat("ff", 30) + "7f",
		"2^255-1":            strings.Repeat("ff", 31) + "7f",
		"2, no such point":   "02" + strings.Repeat("00", 31),
		"31 bytes":           strings.Repeat("11", 31),
		"33 bytes":           strings.Repeat("11", 33),
		"no bytes":           "",
		"7, no such point":   "07" + strings.Repeat("00", 31),
		"p+3, a second form": "f0" + strings.Repeat("ff", 30) + "7f",
	}
	for name, y := range ys {
		for _, sign := range []byte{0, 0x80} {
			k := unhex(t, y)
			if len(k) == 32 {
				k[31] |= sign
			}
			if err := CheckKey(ed25519.PublicKey(k)); !errors.Is(err, ErrKey) {
				t.Errorf("y = %s, sign %x: %v, want ErrKey", name, sign, err)
			}
		}
	}
}

func TestEd25519KeysThatGoMakesAreOnTheCurve(t *testing.T) {
	for i := range 200 {
		seed := bytes.Repeat([]byte{byte(i)}, ed25519.SeedSize)
		if err := CheckKey(ed25519.NewKeyFromSeed(seed).Public()); err != nil {
			t.Errorf("seed %d: %v", i, err)
		}
	}
}

func TestWeakKeysAreRefused(t *testing.T) {
	odd := func(bits uint) *big.Int {
		n := new(big.Int).Lsh(big.NewInt(1), bits-1)
		return n.SetBit(n, 0, 1)
	}
	good := keys()["P-256"].Public().(*ecdsa.PublicKey)
	x, y := coordinates(t, good)
	for name, pub := range map[string]crypto.PublicKey{
		"RSA 1024":        &rsa.PublicKey{N: odd(1024), E: 65537},
		"RSA 2047":        &rsa.PublicKey{N: odd(2047), E: 65537},
		"RSA 4097":        &rsa.PublicKey{N: odd(4097), E: 65537},
		"RSA 16384":       &rsa.PublicKey{N: odd(16384), E: 65537},
		"RSA even":        &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 2047), E: 65537},
		"RSA negative":    &rsa.PublicKey{N: new(big.Int).Neg(odd(2048)), E: 65537},
		"RSA e=1":         &rsa.PublicKey{N: odd(2048), E: 1},
		"RSA e=2":         &rsa.PublicKey{N: odd(2048), E: 2},
		"RSA empty":       &rsa.PublicKey{},
		"RSA nil":         (*rsa.PublicKey)(nil),
		"P-224":           &ecdsa.PublicKey{Curve: elliptic.P224(), X: big.NewInt(1), Y: big.NewInt(1)},
		"no curve":        &ecdsa.PublicKey{X: big.NewInt(1), Y: big.NewInt(1)},
		"off the curve":   &ecdsa.PublicKey{Curve: elliptic.P256(), X: x, Y: new(big.Int).Xor(y, big.NewInt(1))},
		"infinity":        &ecdsa.PublicKey{Curve: elliptic.P256(), X: new(big.Int), Y: new(big.Int)},
		"wrong curve":     &ecdsa.PublicKey{Curve: elliptic.P384(), X: x, Y: y},
		"x plus p":        &ecdsa.PublicKey{Curve: elliptic.P256(), X: new(big.Int).Add(x, elliptic.P256().Params().P), Y: y},
		"EC nil":          (*ecdsa.PublicKey)(nil),
		"a private key":   keys()["P-256"],
		"nothing":         nil,
		"symmetric bytes": []byte("secret"),
	} {
		if err := CheckKey(pub); !errors.Is(err, ErrKey) {
			t.Errorf("%s: CheckKey: %v, want ErrKey", name, err)
		}
		if _, err := Thumbprint(pub); !errors.Is(err, ErrKey) {
			t.Errorf("%s: Thumbprint: %v, want ErrKey", name, err)
		}
		for _, a := range all {
			if err := Verify(a.alg, pub, nil, nil, make([]byte, a.size)); !errors.Is(err, ErrKey) {
				t.Errorf("%s: Verify with %s: %v, want ErrKey", name, a.alg, err)
			}
		}
	}
}

func coordinates(t testing.TB, pub *ecdsa.PublicKey) (x, y *big.Int) {
	t.Helper()
	b, err := pub.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	n := len(b) / 2
	return new(big.Int).SetBytes(b[1 : 1+n]), new(big.Int).SetBytes(b[1+n:])
}

func TestTheThumbprintOfRFC9679(t *testing.T) {
	v := vectors(t).Thumbprint
	k, err := ParseKey(unhex(t, v.Input))
	if err != nil {
		t.Fatal(err)
	}
	got, err := Thumbprint(k.Public)
	if err != nil {
		t.Fatal(err)
	}
	if hex.EncodeToString(got[:]) != v.SHA256 {
		t.Errorf("thumbprint = %x, want %s", got, v.SHA256)
	}
	if b, err := k.Marshal(); err != nil || hex.EncodeToString(b) != v.Input {
		t.Errorf("without kid and alg, Marshal = %x, %v; want the thumbprint's input", b, err)
	}
	k.ID, k.Alg = []byte("kid"), ESP256
	if again, err := Thumbprint(k.Public); err != nil || again != got {
		t.Errorf("kid and alg change the thumbprint to %x, %v", again, err)
	}
}

func TestKeysSurviveARoundTrip(t *testing.T) {
	for _, x := range all {
		want := Key{ID: []byte("kid of " + x.name), Alg: x.alg, Public: keys()[x.kind].Public()}
		b, err := want.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseKey(b)
		if err != nil {
			t.Fatalf("%s: %v", x.name, err)
		}
		if !bytes.Equal(got.ID, want.ID) || got.Alg != want.Alg || !equal(got.Public, want.Public) {
			t.Errorf("%s: got %v, want %v", x.name, got, want)
		}
		if again, _ := got.Marshal(); !bytes.Equal(again, b) {
			t.Errorf("%s: second Marshal differs", x.name)
		}
	}
}

func equal(a, b crypto.PublicKey) bool {
	e, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && e.Equal(b)
}

func TestACompressedPointIsTheSameKey(t *testing.T) {
	for _, kind := range []string{"P-256", "P-384", "P-521"} {
		pub := keys()[kind].Public().(*ecdsa.PublicKey)
		m, err := required(pub)
		if err != nil {
			t.Fatal(err)
		}
		_, y := coordinates(t, pub)
		m[-3] = y.Bit(0) == 1
		k, err := ParseKey(encode(t, m))
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		if !equal(k.Public, pub) {
			t.Errorf("%s: another key came out", kind)
		}
		m[-3] = y.Bit(0) == 0
		if k, err := ParseKey(encode(t, m)); err != nil || equal(k.Public, pub) {
			t.Errorf("%s: the other sign gives the same key, or %v", kind, err)
		}
	}
}

// hostile is a COSE_Key that must be refused: base, changed.
type hostile struct {
	name string
	base string
	set  map[int64]any // nil value: remove the member
	want error
}

var hostiles = []hostile{
	{"kty missing", "P-256", map[int64]any{1: nil}, ErrKey},
	{"kty symmetric", "P-256", map[int64]any{1: 4}, ErrKey},
	{"kty text", "P-256", map[int64]any{1: "EC2"}, ErrKey},
	{"kty tagged", "P-256", map[int64]any{1: detcbor.Tag{Number: 1, Content: 2}}, ErrKey},
	{"kty float", "P-256", map[int64]any{1: 2.0}, ErrKey},
	{"curve missing", "P-256", map[int64]any{-1: nil}, ErrKey},
	{"curve of another width", "P-256", map[int64]any{-1: 2}, ErrKey},
	{"secp256k1", "P-256", map[int64]any{-1: 8}, ErrKey},
	{"curve beyond 64 bits", "P-256", map[int64]any{-1: uint64(1 << 63)}, ErrKey},
	{"x missing", "P-256", map[int64]any{-2: nil}, ErrKey},
	{"x short", "P-256", map[int64]any{-2: make([]byte, 31)}, ErrKey},
	{"x with a leading zero", "P-256", map[int64]any{-2: make([]byte, 33)}, ErrKey},
	{"x is text", "P-256", map[int64]any{-2: strings.Repeat("x", 32)}, ErrKey},
	{"x is an array", "P-256", map[int64]any{-2: make([]int, 32)}, ErrKey},
	{"y missing", "P-256", map[int64]any{-3: nil}, ErrKey},
	{"y off the curve", "P-256", map[int64]any{-3: bytes.Repeat([]byte{1}, 32)}, ErrKey},
	{"y null", "P-256", map[int64]any{-3: detcbor.RawMessage{0xf6}}, ErrKey},
	{"x of no point, y a sign", "P-256", map[int64]any{-2: bytes.Repeat([]byte{0xff}, 32), -3: true}, ErrKey},
	{"infinity", "P-256", map[int64]any{-2: make([]byte, 32), -3: make([]byte, 32)}, ErrKey},
	{"P-521 off the curve", "P-521", map[int64]any{-3: make([]byte, 66)}, ErrKey},
	{"private scalar", "P-256", map[int64]any{-4: make([]byte, 32)}, ErrKey},
	{"kid text", "P-256", map[int64]any{2: "kid"}, ErrKey},
	{"kid empty", "P-256", map[int64]any{2: []byte{}}, ErrKey},
	{"alg of another curve", "P-256", map[int64]any{3: -35}, ErrAlgorithm},
	{"alg of another kind", "P-256", map[int64]any{3: -8}, ErrAlgorithm},
	{"alg for key agreement", "P-256", map[int64]any{3: -25}, ErrAlgorithm},
	{"alg zero", "P-256", map[int64]any{3: 0}, ErrAlgorithm},
	{"alg text", "P-256", map[int64]any{3: "ES256"}, ErrAlgorithm},
	{"key_ops sign only", "P-256", map[int64]any{4: []int{1}}, ErrKey},
	{"key_ops empty", "P-256", map[int64]any{4: []int{}}, ErrKey},
	{"key_ops text", "P-256", map[int64]any{4: "verify"}, ErrKey},
	{"X25519", "Ed25519", map[int64]any{-1: 4}, ErrKey},
	{"Ed448", "Ed25519", map[int64]any{-1: 7}, ErrKey},
	{"Ed25519 small order", "Ed25519", map[int64]any{-2: make([]byte, 32)}, ErrKey},
	{"Ed25519 short", "Ed25519", map[int64]any{-2: make([]byte, 31)}, ErrKey},
	{"Ed25519 private", "Ed25519", map[int64]any{-4: make([]byte, 32)}, ErrKey},
	{"Ed25519 with ES256", "Ed25519", map[int64]any{3: -7}, ErrAlgorithm},
	{"RSA n with leading zero", "RSA", map[int64]any{-1: append([]byte{0}, bytes.Repeat([]byte{0xff}, 256)...)}, ErrKey},
	{"RSA 1024", "RSA", map[int64]any{-1: bytes.Repeat([]byte{0xff}, 128)}, ErrKey},
	{"RSA 16384", "RSA", map[int64]any{-1: bytes.Repeat([]byte{0xff}, 2048)}, ErrKey},
	{"RSA n empty", "RSA", map[int64]any{-1: []byte{}}, ErrKey},
	{"RSA e = 1", "RSA", map[int64]any{-2: []byte{1}}, ErrKey},
	{"RSA e of five bytes", "RSA", map[int64]any{-2: []byte{1, 0, 0, 0, 1}}, ErrKey},
	{"RSA e beyond 31 bits", "RSA", map[int64]any{-2: []byte{0xff, 0, 0, 1}}, ErrKey},
	{"RSA private exponent", "RSA", map[int64]any{-3: []byte{5}}, ErrKey},
	{"RSA other primes", "RSA", map[int64]any{-9: []any{}}, ErrKey},
	{"RSA with ES256", "RSA", map[int64]any{3: -7}, ErrAlgorithm},
}

func (h hostile) bytes(t testing.TB) []byte {
	t.Helper()
	m, err := required(keys()[h.base].Public())
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(m, h.set)
	maps.DeleteFunc(m, func(_ int64, v any) bool { return v == nil })
	return encode(t, m)
}

func TestHostileKeysAreRefused(t *testing.T) {
	for _, h := range hostiles {
		if k, err := ParseKey(h.bytes(t)); !errors.Is(err, h.want) {
			t.Errorf("%s: %v, %v; want %v", h.name, k, err, h.want)
		}
	}
	for name, b := range map[string]string{
		"nothing":               "",
		"null":                  "f6",
		"empty map":             "a0",
		"an array":              "80",
		"bytes":                 "4101",
		"indefinite map":        "bf0102ff",
		"a repeated label":      "a201020102",
		"a label of bytes":      "a2410101" + "0102",
		"a label of null":       "a2f6010102",
		"trailing byte":         "a1010200",
		"cut off":               "a40102",
		"length of 2^63-1":      "a101" + "5b7fffffffffffffff",
		"map of 2^32-1 entries": "baffffffff",
	} {
		if k, err := ParseKey(unhex(t, b)); !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v, %v; want ErrKey", name, k, err)
		}
	}
	long := encode(t, map[int64]any{1: 1, -1: 6, -2: make([]byte, 32), 99: make([]byte, maxKeySize)})
	if _, err := ParseKey(long); !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), "limit") {
		t.Errorf("a long key: %v, want ErrKey that names the limit", err)
	}
}

func TestAKeyMayCarryMembersWeDoNotKnow(t *testing.T) {
	m, err := required(keys()["P-256"].Public())
	if err != nil {
		t.Fatal(err)
	}
	m[4] = []any{1, "wrap key", 2}
	m[5] = []byte("base IV")
	m[-70000] = "private use"
	if _, err := ParseKey(encode(t, m)); err != nil {
		t.Error(err)
	}
}

func TestAKeysAlgRestrictsWhatItVerifies(t *testing.T) {
	pub := keys()["P-256"].Public()
	rsa := keys()["RSA"].Public()
	for _, c := range []struct {
		key  Key
		alg  Algorithm
		want error
	}{
		{Key{Public: pub}, ES256, nil},
		{Key{Public: pub}, ESP256, nil},
		{Key{Public: pub}, ES384, ErrAlgorithm},
		{Key{Public: pub, Alg: ES256}, ESP256, nil}, // one computation, two ids
		{Key{Public: pub, Alg: ESP256}, ES256, nil},
		{Key{Public: rsa}, PS512, nil},
		{Key{Public: rsa, Alg: PS256}, PS256, nil},
		{Key{Public: rsa, Alg: PS256}, PS512, ErrAlgorithm},
		{Key{}, ES256, ErrKey},
	} {
		if err := c.key.Permits(c.alg); !errors.Is(err, c.want) {
			t.Errorf("key for %s, message says %s: %v, want %v", c.key.Alg, c.alg, err, c.want)
		}
	}
}

func TestAKeySetSkipsWhatItCannotUse(t *testing.T) {
	var raw []detcbor.RawMessage
	var want []Key
	add := func(kind string) {
		k := Key{ID: []byte(kind), Public: keys()[kind].Public()}
		b, err := k.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		raw, want = append(raw, b), append(want, k)
	}
	add("Ed25519")
	for _, h := range hostiles {
		raw = append(raw, h.bytes(t))
	}
	mlDSA := encode(t, map[int64]any{1: 7, 3: -48, -1: make([]byte, 1312)})
	raw = append(raw, unhex(t, "f6"), unhex(t, "01"), mlDSA)
	add("P-256")
	got, err := ParseKeySet(encode(t, raw))
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) {
		t.Fatalf("%d keys, want %d", len(got), len(want))
	}
	for i := range want {
		if !bytes.Equal(got[i].ID, want[i].ID) || !equal(got[i].Public, want[i].Public) {
			t.Errorf("key %d is %q, want %q", i, got[i].ID, want[i].ID)
		}
	}
	b, err := MarshalKeySet(got)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := ParseKeySet(b); err != nil || len(again) != len(want) {
		t.Errorf("own set: %d keys, %v", len(again), err)
	}
}

func TestAKeySetWithoutAUsableKeyIsRefused(t *testing.T) {
	for name, b := range map[string][]byte{
		"nothing":       nil,
		"null":          {0xf6},
		"empty":         {0x80},
		"a single key":  hostile{base: "P-256"}.bytes(t),
		"indefinite":    {0x9f, 0xff},
		"trailing":      {0x80, 0x00},
		"one of no use": encode(t, []any{map[int64]any{1: 4}}),
		"too long":      encode(t, []any{make([]byte, maxKeySetSize)}),
	} {
		if k, err := ParseKeySet(b); !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v, %v; want ErrKey", name, k, err)
		}
	}
	if _, err := MarshalKeySet(nil); !errors.Is(err, ErrKey) {
		t.Errorf("marshal none: %v, want ErrKey", err)
	}
	if _, err := MarshalKeySet([]Key{{}}); !errors.Is(err, ErrKey) {
		t.Errorf("marshal an empty key: %v, want ErrKey", err)
	}
	if _, err := (Key{Public: keys()["RSA"].Public(), Alg: ES256}).Marshal(); !errors.Is(err, ErrAlgorithm) {
		t.Errorf("marshal with a wrong alg: %v, want ErrAlgorithm", err)
	}
}

func FuzzParseKey(f *testing.F) {
	for _, x := range all {
		b, err := Key{ID: []byte("kid"), Alg: x.alg, Public: keys()[x.kind].Public()}.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for _, h := range hostiles {
		f.Add(h.bytes(f))
	}
	f.Add(unhex(f, vectors(f).Thumbprint.Input))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := ParseKey(b)
		if err != nil {
			if errors.Is(err, ErrKey) == errors.Is(err, ErrAlgorithm) {
				t.Fatalf("error is not exactly one of ErrKey, ErrAlgorithm: %v", err)
			}
			return
		}
		// What is accepted is sound, and has one form.
		if err := CheckKey(k.Public); err != nil {
			t.Fatal(err)
		}
		canonical, err := k.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseKey(canonical)
		if err != nil {
			t.Fatal(err)
		}
		if !equal(again.Public, k.Public) || !bytes.Equal(again.ID, k.ID) || again.Alg != k.Alg {
			t.Fatalf("%x became another key after Marshal: %x", b, canonical)
		}
	})
}
