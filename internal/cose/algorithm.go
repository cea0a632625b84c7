package cose

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"fmt"
	"strconv"

	gocose "github.com/veraison/go-cose"
)

// Algorithm is a COSE algorithm identifier (IANA "COSE Algorithms").
type Algorithm int64

// The signature algorithms that are accepted. ESP256/384/512 and Ed25519 are the
// fully-specified forms of RFC 9864; the ES* ids are bound to their usual curve,
// and EdDSA to Ed25519.
const (
	ES256   Algorithm = -7
	ES384   Algorithm = -35
	ES512   Algorithm = -36
	ESP256  Algorithm = -9
	ESP384  Algorithm = -51
	ESP512  Algorithm = -52
	EdDSA   Algorithm = -8
	Ed25519 Algorithm = -19
	PS256   Algorithm = -37
	PS384   Algorithm = -38
	PS512   Algorithm = -39
)

// suite is what an algorithm stands for. go-cose does not know the
// fully-specified ids, so each names the engine that computes the same thing.
type suite struct {
	name   string
	engine gocose.Algorithm
	curve  elliptic.Curve // ECDSA only
	hash   crypto.Hash    // of the message; 0 for Ed25519, which hashes inside
	weight int
}

// The weights are measured, and rounded so that a scheduler can count in ES256s.
var suites = map[Algorithm]suite{
	ES256:   {"ES256", gocose.AlgorithmES256, elliptic.P256(), crypto.SHA256, 1},
	ES384:   {"ES384", gocose.AlgorithmES384, elliptic.P384(), crypto.SHA384, 8},
	ES512:   {"ES512", gocose.AlgorithmES512, elliptic.P521(), crypto.SHA512, 32},
	ESP256:  {"ESP256", gocose.AlgorithmES256, elliptic.P256(), crypto.SHA256, 1},
	ESP384:  {"ESP384", gocose.AlgorithmES384, elliptic.P384(), crypto.SHA384, 8},
	ESP512:  {"ESP512", gocose.AlgorithmES512, elliptic.P521(), crypto.SHA512, 32},
	EdDSA:   {"EdDSA", gocose.AlgorithmEdDSA, nil, 0, 1},
	Ed25519: {"Ed25519", gocose.AlgorithmEdDSA, nil, 0, 1},
	PS256:   {"PS256", gocose.AlgorithmPS256, nil, crypto.SHA256, 2},
	PS384:   {"PS384", gocose.AlgorithmPS384, nil, crypto.SHA384, 2},
	PS512:   {"PS512", gocose.AlgorithmPS512, nil, crypto.SHA512, 2},
}

// String is the IANA name, or the bare number of an algorithm that is not supported.
func (a Algorithm) String() string {
	if s, ok := suites[a]; ok {
		return s.name
	}
	return strconv.FormatInt(int64(a), 10)
}

// Supported reports whether signatures of a can be verified here.
func (a Algorithm) Supported() bool {
	_, ok := suites[a]
	return ok
}

// Weight is the relative cost of one verification; ES256 is 1. An algorithm
// that is not supported costs nothing, for nothing is computed.
func (a Algorithm) Weight() int { return suites[a].weight }

// Check reports whether signatures of a by pub can be trusted to be what they
// say: ErrAlgorithm when a is unknown or belongs to another kind of key or
// another curve, ErrKey when the key itself is refused by CheckKey.
func (a Algorithm) Check(pub crypto.PublicKey) error {
	s, ok := suites[a]
	if !ok {
		return fmt.Errorf("%w: %s", ErrAlgorithm, a)
	}
	if err := CheckKey(pub); err != nil {
		return err
	}
	fits := false
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		// SPEC RFC 9864 §2.1: one algorithm, one curve. ES256 and its kin leave
		// the curve open; they are read as their fully-specified successors.
		fits = s.curve == pub.Curve
	case ed25519.PublicKey:
		fits = s.engine == gocose.AlgorithmEdDSA
	case *rsa.PublicKey:
		fits = s.curve == nil && s.engine != gocose.AlgorithmEdDSA
	}
	if !fits {
		return fmt.Errorf("%w: %s with %s key", ErrAlgorithm, a, kind(pub))
	}
	return nil
}

// DefaultAlgorithm is ES256/384/512 by curve, EdDSA for Ed25519, PS256 for RSA:
// the ids that most verifiers know today.
func DefaultAlgorithm(pub crypto.PublicKey) (Algorithm, error) {
	if err := CheckKey(pub); err != nil {
		return 0, err
	}
	for _, a := range []Algorithm{ES256, ES384, ES512, EdDSA, PS256} {
		if a.Check(pub) == nil {
			return a, nil
		}
	}
	return 0, fmt.Errorf("%w: none for %s key", ErrAlgorithm, kind(pub))
}

// same reports whether a and b are two ids of one computation (ES256, ESP256).
func (a Algorithm) same(b Algorithm) bool {
	return a == b || a.Supported() && b.Supported() && suites[a].engine == suites[b].engine
}
