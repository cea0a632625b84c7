package embedded

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// Error is a refusal in the words of the distribution specification. Anything
// else that a method returns is a failure of the registry itself.
type Error struct {
	Status  int    // as HTTP counts
	Code    string // "BLOB_UNKNOWN", ...
	Message string
	Detail  map[string]string // for programs; may be nil

	RetryAfter time.Duration // when to try again; 0: unsaid
}

func (e *Error) Error() string { return e.Message }

// busy refuses what may be tried again in a while.
func busy(format string, args ...any) *Error {
	e := refuse(429, "TOOMANYREQUESTS", format, args...)
	e.RetryAfter = 10 * time.Second
	return e
}

func refuse(status int, code, format string, args ...any) *Error {
	return &Error{Status: status, Code: code, Message: fmt.Sprintf(format, args...)}
}

// SPEC distribution-spec 1.1, "Pulling manifests": the grammar of <name> and of
// a tag. Clients limit host and name together to 255 characters.
var (
	nameGrammar = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagGrammar  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

const maxName = 255

func checkName(name string) error {
	if len(name) > maxName {
		return refuse(400, "NAME_INVALID", "repository name has %d characters, at most %d are allowed", len(name), maxName)
	}
	if !nameGrammar.MatchString(name) {
		return refuse(400, "NAME_INVALID", "%q is not a repository name", name)
	}
	return nil
}

func checkTag(tag string) error {
	if !tagGrammar.MatchString(tag) {
		return manifestInvalid("%q is not a tag", clip(tag))
	}
	return nil
}

// digest is a checked "sha256:<64 hex>" or "sha512:<128 hex>".
type digest string

func parseDigest(s string) (digest, error) {
	algorithm, encoded, _ := strings.Cut(s, ":")
	known := algorithm == "sha256" && len(encoded) == 64 || algorithm == "sha512" && len(encoded) == 128
	if !known || strings.Trim(encoded, "0123456789abcdef") != "" {
		return "", refuse(400, "DIGEST_INVALID", "%q is not a sha256 or sha512 digest", clip(s))
	}
	return digest(s), nil
}

// digestOf is the digest of body by the algorithm of like.
func digestOf(body []byte, like digest) digest {
	h := like.hash()
	h.Write(body)
	return like.with(h)
}

func (d digest) algorithm() string { return string(d[:6]) }
func (d digest) encoded() string   { return string(d[7:]) }

func (d digest) hash() hash.Hash {
	if d.algorithm() == "sha512" {
		return sha512.New()
	}
	return sha256.New()
}

// with is the digest h has come to, h being of d's algorithm.
func (d digest) with(h hash.Hash) digest {
	return digest(d.algorithm() + ":" + hex.EncodeToString(h.Sum(nil)))
}

func (d digest) path() string {
	return filepath.Join("blobs", d.algorithm(), d.encoded()[:2], d.encoded())
}

// SPEC distribution-spec 1.1, "Referrers Tag Schema": algorithm and at most 64
// characters of the digest.
func (d digest) referrersTag() string {
	return d.algorithm() + "-" + d.encoded()[:64]
}

// clip keeps what a caller sent from filling a message.
func clip(s string) string {
	if len(s) > 200 {
		return s[:200] + "…"
	}
	return s
}
