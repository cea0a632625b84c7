package statement

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"strings"
)

// Digest is an OCI digest: "sha256:<64 lower-case hex>", "sha384:<96>" or
// "sha512:<128>". A Digest that this package returns is well formed or "".
type Digest string

// digestLen is the number of hex digits per algorithm.
var digestLen = map[string]int{
	"sha256": 2 * sha256.Size,
	"sha384": 2 * sha512.Size384,
	"sha512": 2 * sha512.Size,
}

// ParseDigest reads an OCI digest of one of the three algorithms.
func ParseDigest(s string) (Digest, error) {
	alg, digits, _ := strings.Cut(s, ":")
	n, ok := digestLen[alg]
	if !ok {
		return "", fmt.Errorf("digest %s is not of the form sha256:…, sha384:… or sha512:…", quote(s))
	}
	if !isHex(digits, n) {
		return "", fmt.Errorf("digest %s does not have %d lower-case hex digits", quote(s), n)
	}
	return Digest(s), nil
}

// DigestFromBytes takes a raw digest; its length says the algorithm.
func DigestFromBytes(b []byte) (Digest, error) {
	switch len(b) {
	case sha256.Size:
		return Digest("sha256:" + hex.EncodeToString(b)), nil
	case sha512.Size384:
		return Digest("sha384:" + hex.EncodeToString(b)), nil
	case sha512.Size:
		return Digest("sha512:" + hex.EncodeToString(b)), nil
	}
	return "", fmt.Errorf("digest of %d bytes; SHA-256 has 32, SHA-384 48, SHA-512 64", len(b))
}

// SHA256 is the digest of b.
func SHA256(b []byte) Digest {
	sum := sha256.Sum256(b)
	return Digest("sha256:" + hex.EncodeToString(sum[:]))
}

// of is the digest of b by d's algorithm; "" for a d that has none.
func (d Digest) of(b []byte) Digest {
	switch d.Algorithm() {
	case "sha256":
		return SHA256(b)
	case "sha384":
		sum := sha512.Sum384(b)
		return Digest("sha384:" + hex.EncodeToString(sum[:]))
	case "sha512":
		sum := sha512.Sum512(b)
		return Digest("sha512:" + hex.EncodeToString(sum[:]))
	}
	return ""
}

// Matches says whether d is the digest of b.
func (d Digest) Matches(b []byte) bool { return d != "" && d.of(b) == d }

// Algorithm is "sha256", "sha384" or "sha512"; "" for the empty Digest.
func (d Digest) Algorithm() string {
	alg, _, _ := strings.Cut(string(d), ":")
	return alg
}

// Bytes is the raw digest; nil for a Digest that is not well formed.
func (d Digest) Bytes() []byte {
	_, digits, _ := strings.Cut(string(d), ":")
	b, err := hex.DecodeString(digits)
	if err != nil || len(b) == 0 {
		return nil
	}
	return b
}

// isHex says whether s is n lower-case hex digits.
func isHex(s string, n int) bool {
	if len(s) != n {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
