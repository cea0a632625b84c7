package statement

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"

	"github.com/scittd/scittd/internal/detcbor"
)

// readChain reads COSE_X509.
func readChain(raw detcbor.RawMessage) ([][]byte, error) {
	const name = "x5chain (label 33)"
	r := detcbor.NewReader(raw)
	if kind, _ := r.Kind(); kind == detcbor.KindBytes {
		der, err := r.Bytes()
		if err != nil {
			return nil, encoding(name, err)
		}
		chain := [][]byte{der}
		return chain, checkChain(chain)
	}
	n, err := r.Array()
	if err != nil {
		return nil, encoding(name, err)
	}
	// SPEC RFC 9360 §2: one certificate is a byte string; an array has two or more.
	if n < 2 {
		return nil, malformed("%s is an array of %d; one certificate is a plain byte string", name, n)
	}
	if n > MaxChain {
		return nil, tooLong(n)
	}
	chain := make([][]byte, n)
	for i := range chain {
		if chain[i], err = r.Bytes(); err != nil {
			return nil, encoding(name, err)
		}
	}
	return chain, checkChain(chain)
}

// checkChain applies the caps, before anybody parses a certificate.
func checkChain(chain [][]byte) error {
	switch {
	case len(chain) == 0:
		return malformed("x5chain has no certificates")
	case len(chain) > MaxChain:
		return tooLong(len(chain))
	}
	size := 0
	for i, der := range chain {
		if len(der) == 0 {
			return malformed("x5chain: certificate %d is empty", i)
		}
		size += len(der)
	}
	if size > MaxChainBytes {
		return malformed("x5chain has %d bytes; at most %d are read", size, MaxChainBytes)
	}
	return nil
}

func tooLong(n int) error {
	return malformed("x5chain has %d certificates; at most %d are read", n, MaxChain)
}

// readThumbprint reads COSE_CertHash.
func readThumbprint(raw detcbor.RawMessage) (*CertHash, error) {
	const name = "x5t (label 34)"
	r := detcbor.NewReader(raw)
	n, err := r.Array()
	if err != nil {
		return nil, encoding(name, err)
	}
	if n != 2 {
		return nil, malformed("%s is an array of %d, not of algorithm and hash", name, n)
	}
	var t CertHash
	if t.Alg, err = r.Int(); err != nil {
		return nil, encoding(name, err)
	}
	if t.Hash, err = r.Bytes(); err != nil {
		return nil, encoding(name, err)
	}
	size := hashSize(t.Alg)
	if size == 0 {
		return nil, malformed("%s uses hash algorithm %d; accepted are -16, -43, -44", name, t.Alg)
	}
	if len(t.Hash) != size {
		return nil, malformed("%s has a hash of %d bytes; algorithm %d makes %d", name, len(t.Hash), t.Alg, size)
	}
	return &t, nil
}

// checkThumbprint compares x5t with the leaf that came along, if both are there.
func (s *Statement) checkThumbprint() error {
	if s.Thumbprint == nil || len(s.Chain) == 0 {
		return nil
	}
	// SPEC RFC 9943 §6: the leaf of an x5chain MUST be the certificate x5t names.
	if !bytes.Equal(certHash(s.Thumbprint.Alg, s.Chain[0]), s.Thumbprint.Hash) {
		return malformed("x5t (label 34) names another certificate than the leaf of x5chain (label 33)")
	}
	return nil
}

// certHash hashes a certificate with an algorithm that hashSize knows.
func certHash(alg int64, der []byte) []byte {
	switch alg {
	case hashSHA384:
		h := sha512.Sum384(der)
		return h[:]
	case hashSHA512:
		h := sha512.Sum512(der)
		return h[:]
	}
	h := sha256.Sum256(der)
	return h[:]
}
