package did

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/base64"
	"math/big"
	"strings"

	"github.com/scittd/scittd/internal/cose"
)

// maxMultikey bounds the text of a key: base58 is read in quadratic time, and RSA
// of 4096 bits takes some 720 characters.
const maxMultikey = 1024

// codec is a kind of public key in the multicodec table.
type codec struct {
	prefix []byte // varint
	parse  func([]byte) (crypto.PublicKey, error)
}

// SPEC did:key §3.1.3, Multikey (Controlled Identifiers v1.0 §2.2.2): the
// prefixes of the kinds of key that are read here, points compressed.
var codecs = []codec{
	{[]byte{0xed, 0x01}, func(b []byte) (crypto.PublicKey, error) { return ed25519.PublicKey(b), nil }},
	{[]byte{0x80, 0x24}, func(b []byte) (crypto.PublicKey, error) { return compressed(elliptic.P256(), b) }},
	{[]byte{0x81, 0x24}, func(b []byte) (crypto.PublicKey, error) { return compressed(elliptic.P384(), b) }},
	{[]byte{0x82, 0x24}, func(b []byte) (crypto.PublicKey, error) { return compressed(elliptic.P521(), b) }},
	{[]byte{0x85, 0x24}, func(b []byte) (crypto.PublicKey, error) {
		key, err := x509.ParsePKCS1PublicKey(b)
		if err != nil {
			return nil, malformed("RSA key: %v", err)
		}
		return key, nil
	}},
}

// multikey reads a key in multibase: base58-btc (z) or base64url (u).
func multikey(text string) (crypto.PublicKey, error) {
	if len(text) > maxMultikey {
		return nil, malformed("key of %d characters, the limit is %d", len(text), maxMultikey)
	}
	var b []byte
	var err error
	switch {
	case strings.HasPrefix(text, "z"):
		b, err = base58(text[1:])
	case strings.HasPrefix(text, "u"):
		b, err = decode64(text[1:])
	default:
		err = malformed("multibase %s begins with neither z nor u", quote(text))
	}
	if err != nil {
		return nil, err
	}
	for _, c := range codecs {
		if raw, ok := bytes.CutPrefix(b, c.prefix); ok {
			key, err := c.parse(raw)
			if err != nil {
				return nil, err
			}
			return key, cose.CheckKey(key)
		}
	}
	return nil, malformed("multicodec of the key is none of ed25519, p256, p384, p521, rsa")
}

func compressed(curve elliptic.Curve, b []byte) (crypto.PublicKey, error) {
	x, y := elliptic.UnmarshalCompressed(curve, b)
	if x == nil {
		return nil, malformed("not a compressed point of %s", curve.Params().Name)
	}
	width := (curve.Params().BitSize + 7) / 8
	point := append([]byte{4}, b[1:]...)
	return ecdsa.ParseUncompressedPublicKey(curve, append(point, y.FillBytes(make([]byte, width))...))
}

const alphabet58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

// base58 reads the alphabet of Bitcoin; a leading 1 is a zero byte.
func base58(text string) ([]byte, error) {
	n, radix := new(big.Int), big.NewInt(58)
	for i := range len(text) {
		digit := strings.IndexByte(alphabet58, text[i])
		if digit < 0 {
			return nil, malformed("%q is no digit of base58", text[i])
		}
		n.Add(n.Mul(n, radix), big.NewInt(int64(digit)))
	}
	zeros := len(text) - len(strings.TrimLeft(text, "1"))
	return append(make([]byte, zeros), n.Bytes()...), nil
}

// decode64 reads base64url without padding, in its one form.
func decode64(text string) ([]byte, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") {
		return nil, malformed("%s is not base64url", quote(text))
	}
	return b, nil
}
