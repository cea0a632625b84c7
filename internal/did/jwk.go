package did

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"

	"github.com/scittd/scittd/internal/cose"
)

// members are those of a JSON object, still as text: names are compared as they
// stand, which encoding/json would not do for a struct.
type members map[string]json.RawMessage

// text returns a member that must be a string where it is there.
func (m members) text(name string) (string, error) {
	raw, ok := m[name]
	if !ok {
		return "", nil
	}
	var s string
	if len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		return "", malformed("%s is not a string", name)
	}
	return s, nil
}

// bytes returns a member that must be there, in base64url.
func (m members) bytes(name string) ([]byte, error) {
	s, err := m.text(name)
	if err != nil {
		return nil, err
	}
	if s == "" {
		return nil, malformed("%s is missing", name)
	}
	b, err := decode64(s)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return b, nil
}

// algorithms are the names of JOSE (RFC 7518 §3.1, RFC 8037, RFC 9864) for what
// can be verified here.
var algorithms = map[string]cose.Algorithm{
	"ES256": cose.ES256, "ES384": cose.ES384, "ES512": cose.ES512,
	"PS256": cose.PS256, "PS384": cose.PS384, "PS512": cose.PS512,
	"EdDSA": cose.EdDSA, "Ed25519": cose.Ed25519,
}

// JWK curves, and the width of a coordinate.
var jwkCurves = map[string]struct {
	elliptic.Curve
	width int
}{"P-256": {elliptic.P256(), 32}, "P-384": {elliptic.P384(), 48}, "P-521": {elliptic.P521(), 66}}

func parseJWKText(text []byte) (cose.Key, error) {
	m, err := object(text)
	if err != nil {
		return cose.Key{}, err
	}
	return parseJWK(m)
}

// parseJWK reads a public key (RFC 7517 §4).
func parseJWK(m members) (k cose.Key, err error) {
	// SPEC RFC 7518 §6: d, k and the factors are the private members. Whoever
	// publishes them has no secret left.
	for _, secret := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"} {
		if _, ok := m[secret]; ok {
			return k, fmt.Errorf("%w: holds a private key where a public one belongs", cose.ErrKey)
		}
	}
	if k.Public, err = m.public(); err != nil {
		return k, err
	}
	if err := cose.CheckKey(k.Public); err != nil {
		return k, err
	}
	kid, err := m.text("kid")
	if err != nil {
		return k, err
	}
	if kid != "" {
		k.ID = []byte(kid)
	}
	// SPEC RFC 7517 §4.2, §4.3: use and key_ops restrict what the key is for.
	if use, err := m.text("use"); err != nil || use != "" && use != "sig" {
		return k, malformed("use is %s, not sig", quote(use))
	}
	if raw, ok := m["key_ops"]; ok {
		var ops []string
		if json.Unmarshal(raw, &ops) != nil || !slices.Contains(ops, "verify") {
			return k, malformed("key_ops does not allow to verify")
		}
	}
	// SPEC RFC 7517 §4.4: alg restricts the algorithm that the key is used with.
	alg, err := m.text("alg")
	if err != nil || alg == "" {
		return k, err
	}
	known, ok := algorithms[alg]
	if !ok {
		return k, malformed("alg %s is not supported", quote(alg))
	}
	k.Alg = known
	return k, k.Alg.Check(k.Public)
}

func (m members) public() (crypto.PublicKey, error) {
	kty, err := m.text("kty")
	if err != nil {
		return nil, err
	}
	crv, err := m.text("crv")
	if err != nil {
		return nil, err
	}
	switch {
	case kty == "EC" && jwkCurves[crv].Curve != nil:
		return m.point(jwkCurves[crv].Curve, jwkCurves[crv].width)
	case kty == "OKP" && crv == "Ed25519":
		x, err := m.bytes("x")
		return ed25519.PublicKey(x), err
	case kty == "RSA":
		return m.rsa()
	}
	return nil, malformed("key of kty %s and crv %s", quote(kty), quote(crv))
}

// SPEC RFC 7518 §6.2.1: coordinates have the full width of the field.
func (m members) point(curve elliptic.Curve, width int) (crypto.PublicKey, error) {
	x, err := m.bytes("x")
	if err != nil {
		return nil, err
	}
	y, err := m.bytes("y")
	if err != nil {
		return nil, err
	}
	if len(x) != width || len(y) != width {
		return nil, malformed("coordinates of %d and %d bytes, want %d for %s", len(x), len(y), width, curve.Params().Name)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(curve, append(append([]byte{4}, x...), y...))
	if err != nil {
		return nil, fmt.Errorf("%w: point is not on %s", cose.ErrKey, curve.Params().Name)
	}
	return key, nil
}

// SPEC RFC 7518 §6.3.1: n and e as Base64urlUInt, without leading zeros.
func (m members) rsa() (crypto.PublicKey, error) {
	n, err := m.bytes("n")
	if err != nil {
		return nil, err
	}
	e, err := m.bytes("e")
	if err != nil {
		return nil, err
	}
	if n[0] == 0 || e[0] == 0 || len(e) > 4 {
		return nil, malformed("n or e has leading zeros, or e more than 4 bytes")
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}, nil
}
