package cose

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"

	"github.com/scittd/scittd/internal/detcbor"
)

// Key is a public COSE_Key (RFC 9052 §7).
type Key struct {
	ID     []byte    // kid; nil when absent
	Alg    Algorithm // 0 when absent
	Public crypto.PublicKey
}

// Sizes that are read. A key of RSA 4096 takes some 530 bytes.
const (
	maxKeySize    = 8 << 10
	maxKeySetSize = 1 << 20
)

// Labels and values of RFC 9052 §7.1, RFC 9053 §7 and RFC 8230 §4.
const (
	labelKty    = 1
	labelKid    = 2
	labelAlg    = 3
	labelKeyOps = 4

	ktyOKP = 1
	ktyEC2 = 2
	ktyRSA = 3

	crvEd25519 = 6
	opVerify   = 2
)

// params is a COSE_Key as it stands, its values still encoded.
type params map[any]detcbor.RawMessage

// ParseKey reads one COSE_Key map: EC2 on P-256, P-384 or P-521 (a compressed
// point too), OKP on Ed25519, or RSA. Members it does not know are ignored; a
// key that holds private members, that may not verify, or that CheckKey refuses
// is ErrKey, an alg that does not fit is ErrAlgorithm.
func ParseKey(b []byte) (Key, error) {
	if len(b) > maxKeySize {
		return Key{}, fmt.Errorf("%w: COSE_Key of %d bytes, the limit is %d", ErrKey, len(b), maxKeySize)
	}
	var p params
	if err := detcbor.Unmarshal(b, &p); err != nil {
		return Key{}, fmt.Errorf("%w: COSE_Key: %w", ErrKey, err)
	}
	if p == nil {
		return Key{}, fmt.Errorf("%w: COSE_Key is not a map", ErrKey)
	}
	for label := range p {
		switch label.(type) {
		case int64, string:
		default:
			return Key{}, fmt.Errorf("%w: COSE_Key label %v is neither integer nor text", ErrKey, label)
		}
	}
	var k Key
	var err error
	if k.Public, err = p.public(); err != nil {
		return Key{}, fmt.Errorf("%w: COSE_Key: %w", ErrKey, err)
	}
	if err := CheckKey(k.Public); err != nil {
		return Key{}, err
	}
	if p.has(labelKid) {
		if k.ID, err = p.bytes("kid", labelKid); err != nil {
			return Key{}, fmt.Errorf("%w: COSE_Key: %w", ErrKey, err)
		}
		if len(k.ID) == 0 {
			return Key{}, fmt.Errorf("%w: COSE_Key: kid is empty", ErrKey)
		}
	}
	// SPEC RFC 9052 §7.1: alg restricts the algorithm that the key is used with.
	if p.has(labelAlg) {
		alg, err := p.int("alg", labelAlg)
		if err != nil {
			return Key{}, fmt.Errorf("%w: COSE_Key: %w", ErrAlgorithm, err)
		}
		k.Alg = Algorithm(alg)
		if err := k.Alg.Check(k.Public); err != nil {
			return Key{}, err
		}
	}
	// SPEC RFC 9052 §7.1: key_ops restricts the operations of the key.
	if p.has(labelKeyOps) {
		if err := p.mayVerify(); err != nil {
			return Key{}, fmt.Errorf("%w: COSE_Key: %w", ErrKey, err)
		}
	}
	return k, nil
}

// Permits reports whether k may verify signatures of a: a fits the key, and is
// what the key's own alg says, when it says so.
func (k Key) Permits(a Algorithm) error {
	if k.Alg != 0 && !k.Alg.same(a) {
		return fmt.Errorf("%w: %s, and the key is for %s alone", ErrAlgorithm, a, k.Alg)
	}
	return a.Check(k.Public)
}

func (p params) public() (crypto.PublicKey, error) {
	kty, err := p.int("kty", labelKty)
	if err != nil {
		return nil, err
	}
	switch kty {
	case ktyEC2:
		return p.ec2()
	case ktyOKP:
		return p.okp()
	case ktyRSA:
		return p.rsa()
	}
	return nil, fmt.Errorf("kty %d is none of OKP, EC2, RSA", kty)
}

// SPEC RFC 9053 §7.1.1: crv, x and y must be present, x and y at the full width
// of the field; y may be a bool, the sign bit.
func (p params) ec2() (crypto.PublicKey, error) {
	if p.has(-4) {
		return nil, errPrivate
	}
	id, err := p.int("crv", -1)
	if err != nil {
		return nil, err
	}
	for _, c := range curves {
		if c.id != id {
			continue
		}
		x, err := p.coordinate("x", -2, c)
		if err != nil {
			return nil, err
		}
		if sign := p[int64(-3)]; bytes.Equal(sign, cborFalse) || bytes.Equal(sign, cborTrue) {
			return decompress(c, x, bytes.Equal(sign, cborTrue))
		}
		y, err := p.coordinate("y", -3, c)
		if err != nil {
			return nil, err
		}
		return point(c, x, y)
	}
	return nil, fmt.Errorf("curve %d is none of P-256, P-384, P-521", id)
}

func (p params) coordinate(name string, label int64, c curve) ([]byte, error) {
	b, err := p.bytes(name, label)
	if err == nil && len(b) != c.bytes {
		err = fmt.Errorf("%s of %d bytes, want %d for %s", name, len(b), c.bytes, c.Params().Name)
	}
	return b, err
}

func point(c curve, x, y []byte) (crypto.PublicKey, error) {
	pub, err := ecdsa.ParseUncompressedPublicKey(c.Curve, append(append([]byte{4}, x...), y...))
	if err != nil {
		return nil, fmt.Errorf("point is not on %s", c.Params().Name)
	}
	return pub, nil
}

func decompress(c curve, x []byte, odd bool) (crypto.PublicKey, error) {
	sign := byte(2)
	if odd {
		sign = 3
	}
	_, y := elliptic.UnmarshalCompressed(c.Curve, append([]byte{sign}, x...))
	if y == nil {
		return nil, fmt.Errorf("no point of %s has this x", c.Params().Name)
	}
	return point(c, x, y.FillBytes(make([]byte, c.bytes)))
}

// SPEC RFC 9053 §7.2: crv and x must be present.
func (p params) okp() (crypto.PublicKey, error) {
	if p.has(-4) {
		return nil, errPrivate
	}
	crv, err := p.int("crv", -1)
	if err != nil {
		return nil, err
	}
	if crv != crvEd25519 {
		return nil, fmt.Errorf("curve %d is not Ed25519", crv)
	}
	x, err := p.bytes("x", -2)
	return ed25519.PublicKey(x), err
}

// SPEC RFC 8230 §4: n and e without leading zero octets.
func (p params) rsa() (crypto.PublicKey, error) {
	for label := int64(-12); label <= -3; label++ {
		if p.has(label) {
			return nil, errPrivate
		}
	}
	n, err := p.bytes("n", -1)
	if err != nil {
		return nil, err
	}
	e, err := p.bytes("e", -2)
	if err != nil {
		return nil, err
	}
	if len(n) == 0 || n[0] == 0 || len(e) == 0 || e[0] == 0 {
		return nil, errors.New("n or e is empty or has leading zeros")
	}
	if len(e) > 4 {
		return nil, fmt.Errorf("e of %d bytes, the limit is 4", len(e))
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}, nil
}

var (
	cborFalse = []byte{0xf4}
	cborTrue  = []byte{0xf5}
)

var errPrivate = errors.New("holds a private key where a public one belongs")

func (p params) mayVerify() error {
	var ops []any
	if err := detcbor.Unmarshal(p[int64(labelKeyOps)], &ops); err != nil {
		return fmt.Errorf("key_ops: %w", err)
	}
	for _, op := range ops {
		if op == int64(opVerify) {
			return nil
		}
	}
	return errors.New("key_ops does not allow to verify")
}

func (p params) has(label int64) bool {
	_, ok := p[label]
	return ok
}

// int and bytes want exactly their CBOR type: the decoder alone would take
// null, floats and arrays of numbers for some of them.
func (p params) int(name string, label int64) (int64, error) {
	raw, ok := p[label]
	if !ok {
		return 0, fmt.Errorf("%s is missing", name)
	}
	var n int64
	if raw[0]>>5 > 1 || detcbor.Unmarshal(raw, &n) != nil {
		return 0, fmt.Errorf("%s is not an integer", name)
	}
	return n, nil
}

func (p params) bytes(name string, label int64) ([]byte, error) {
	raw, ok := p[label]
	if !ok {
		return nil, fmt.Errorf("%s is missing", name)
	}
	var b []byte
	if raw[0]>>5 != 2 || detcbor.Unmarshal(raw, &b) != nil {
		return nil, fmt.Errorf("%s is not a byte string", name)
	}
	return b, nil
}

// Marshal writes k as a deterministic COSE_Key map.
func (k Key) Marshal() ([]byte, error) {
	m, err := required(k.Public)
	if err != nil {
		return nil, err
	}
	if k.ID != nil {
		m[labelKid] = k.ID
	}
	if k.Alg != 0 {
		if err := k.Alg.Check(k.Public); err != nil {
			return nil, err
		}
		m[labelAlg] = int64(k.Alg)
	}
	return detcbor.Marshal(m)
}

// Thumbprint is the SHA-256 COSE Key Thumbprint: over the required members
// alone, encoded deterministically, y never compressed. Source: RFC 9679 §3.
func Thumbprint(pub crypto.PublicKey) ([32]byte, error) {
	m, err := required(pub)
	if err != nil {
		return [32]byte{}, err
	}
	b, err := detcbor.Marshal(m)
	if err != nil {
		return [32]byte{}, err
	}
	return sha256.Sum256(b), nil
}

// required holds the members that RFC 9679 §4 calls required for the key type.
func required(pub crypto.PublicKey) (map[int64]any, error) {
	if err := CheckKey(pub); err != nil {
		return nil, err
	}
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		c, _ := curveOf(pub.Curve)
		b, err := pub.Bytes() // 04 ‖ x ‖ y
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrKey, err)
		}
		return map[int64]any{labelKty: ktyEC2, -1: c.id, -2: b[1 : 1+c.bytes], -3: b[1+c.bytes:]}, nil
	case ed25519.PublicKey:
		return map[int64]any{labelKty: ktyOKP, -1: crvEd25519, -2: []byte(pub)}, nil
	case *rsa.PublicKey:
		return map[int64]any{labelKty: ktyRSA, -1: pub.N.Bytes(), -2: big.NewInt(int64(pub.E)).Bytes()}, nil
	}
	return nil, fmt.Errorf("%w: %s", ErrKey, kind(pub))
}

// ParseKeySet reads a COSE_KeySet.
//
// SPEC RFC 9052 §7: the array must have at least one element; each is processed
// on its own, and one that cannot be used is skipped. A set in which nothing
// can be used is ErrKey.
func ParseKeySet(b []byte) ([]Key, error) {
	if len(b) > maxKeySetSize {
		return nil, fmt.Errorf("%w: COSE_KeySet of %d bytes, the limit is %d", ErrKey, len(b), maxKeySetSize)
	}
	var elements []detcbor.RawMessage
	if err := detcbor.Unmarshal(b, &elements); err != nil {
		return nil, fmt.Errorf("%w: COSE_KeySet: %w", ErrKey, err)
	}
	if len(elements) == 0 {
		return nil, fmt.Errorf("%w: COSE_KeySet without a key", ErrKey)
	}
	var keys []Key
	var first error
	for _, e := range elements {
		k, err := ParseKey(e)
		if err == nil {
			keys = append(keys, k)
		} else if first == nil {
			first = err
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("no key of %d in the COSE_KeySet can be used: %w", len(elements), first)
	}
	return keys, nil
}

// MarshalKeySet writes keys, of which there must be one, in their order.
func MarshalKeySet(keys []Key) ([]byte, error) {
	if len(keys) == 0 {
		return nil, fmt.Errorf("%w: COSE_KeySet without a key", ErrKey)
	}
	set := make([]detcbor.RawMessage, len(keys))
	for i, k := range keys {
		b, err := k.Marshal()
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", i, err)
		}
		set[i] = bytes.Clone(b)
	}
	return detcbor.Marshal(set)
}
