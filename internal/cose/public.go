package cose

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"fmt"
	"math/big"
	"slices"
)

// Moduli outside these bounds are refused: the lower is RFC 8230 §6.1, the
// upper keeps one verification cheap.
const (
	MinRSABits = 2048
	MaxRSABits = 4096
)

// CheckKey refuses keys nobody should trust: RSA outside MinRSABits..MaxRSABits
// or with an even or tiny exponent, points off the curve or at infinity, other
// curves than P-256/384/521, and Ed25519 points that are no points, are written
// in a second form, or have small order (every message has a signature under
// those that verifies).
func CheckKey(pub crypto.PublicKey) error {
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		if pub == nil {
			break
		}
		if _, ok := curveOf(pub.Curve); !ok {
			return fmt.Errorf("%w: elliptic curve is none of P-256, P-384, P-521", ErrKey)
		}
		if _, err := pub.Bytes(); err != nil {
			return fmt.Errorf("%w: point is not on %s", ErrKey, pub.Curve.Params().Name)
		}
		return nil
	case ed25519.PublicKey:
		return checkEd25519(pub)
	case *rsa.PublicKey:
		if pub == nil || pub.N == nil {
			break
		}
		if n := pub.N.BitLen(); pub.N.Sign() <= 0 || n < MinRSABits || n > MaxRSABits {
			return fmt.Errorf("%w: RSA modulus of %d bits, want %d to %d", ErrKey, n, MinRSABits, MaxRSABits)
		}
		if pub.N.Bit(0) == 0 || pub.E < 3 || pub.E%2 == 0 || pub.E > 1<<31-1 {
			return fmt.Errorf("%w: RSA modulus or exponent is even or out of range", ErrKey)
		}
		return nil
	}
	return fmt.Errorf("%w: %s", ErrKey, kind(pub))
}

// kind names a key for messages: "P-256", "Ed25519", "RSA".
func kind(pub crypto.PublicKey) string {
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		if pub != nil && pub.Curve != nil {
			return pub.Curve.Params().Name
		}
	case ed25519.PublicKey:
		return "Ed25519"
	case *rsa.PublicKey:
		return "RSA"
	}
	return fmt.Sprintf("%T", pub)
}

// curve is an elliptic curve with its COSE identifier and coordinate width.
type curve struct {
	elliptic.Curve
	id    int64
	bytes int
}

// SPEC RFC 9053 §7.1: the curves of kty EC2.
var curves = []curve{
	{elliptic.P256(), 1, 32},
	{elliptic.P384(), 2, 48},
	{elliptic.P521(), 3, 66},
}

func curveOf(c elliptic.Curve) (curve, bool) {
	i := slices.IndexFunc(curves, func(k curve) bool { return k.Curve == c })
	if i < 0 {
		return curve{}, false
	}
	return curves[i], true
}

// Constants of edwards25519 (RFC 8032 §5.1): the field's prime, the curve's d,
// and one of the two y coordinates of its points of order 8 (the other is -y):
// their double has y = 0, which makes 2y² = 1 - dy⁴.
var (
	fieldP  = new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	curveD  = decimal("37095705934669439343138083508754565189542113879843219016388785533085940283555")
	order8Y = decimal("2707385501144840649318225287225658788936804267575313519463743609750303402022")
)

func decimal(s string) *big.Int {
	n, ok := new(big.Int).SetString(s, 10)
	if !ok {
		panic("cose: bad constant " + s)
	}
	return n
}

// checkEd25519 looks at the y coordinate alone: the eight points of small order
// have y of 0 (order 4), 1 and -1 (orders 1 and 2), ±order8Y (order 8), and no
// other point has.
func checkEd25519(pub ed25519.PublicKey) error {
	if len(pub) != ed25519.PublicKeySize {
		return fmt.Errorf("%w: Ed25519 key of %d bytes, want %d", ErrKey, len(pub), ed25519.PublicKeySize)
	}
	le := bytes.Clone(pub)
	le[31] &= 0x7f // the sign of x
	slices.Reverse(le)
	y := new(big.Int).SetBytes(le)
	if y.Cmp(fieldP) >= 0 {
		return fmt.Errorf("%w: Ed25519 point is not in its one canonical form", ErrKey)
	}
	one := big.NewInt(1)
	minusY := new(big.Int).Sub(fieldP, y)
	for _, small := range []*big.Int{one, order8Y} {
		if y.Sign() == 0 || y.Cmp(small) == 0 || minusY.Cmp(small) == 0 {
			return fmt.Errorf("%w: Ed25519 point of small order", ErrKey)
		}
	}
	// On the curve, x² = (y²-1) / (dy²+1): there is an x if the quotient, and so
	// the product, is a square.
	yy := new(big.Int).Mul(y, y)
	v := new(big.Int).Mul(curveD, yy)
	v.Add(v, one)
	u := yy.Sub(yy, one)
	if big.Jacobi(u.Mul(u, v).Mod(u, fieldP), fieldP) != 1 {
		return fmt.Errorf("%w: not a point of Ed25519", ErrKey)
	}
	return nil
}
