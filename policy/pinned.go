package policy

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/statement"
)

// pinned is a key that the document names, ready to verify with.
type pinned struct {
	path       string // "operators[0]", "issuers[1]"
	kid        []byte
	key        cose.Key
	thumbprint [32]byte // RFC 9679
}

// pin checks a key of the document, which stands at path.
func pin(path string, k Key, kid KeyID) (*pinned, error) {
	if k.Public == nil {
		return nil, wrong(path+".key", "missing")
	}
	if err := cose.CheckKey(k.Public); err != nil {
		return nil, &fieldError{path + ".key", err}
	}
	if k.Alg != 0 {
		if err := k.Alg.Check(k.Public); err != nil {
			return nil, &fieldError{path + ".key", err}
		}
	}
	thumbprint, err := cose.Thumbprint(k.Public)
	if err != nil {
		return nil, &fieldError{path + ".key", err}
	}
	name := []byte(kid)
	if name == nil {
		name = k.ID
	}
	if name == nil {
		name = thumbprint[:]
	}
	if len(name) == 0 {
		return nil, wrong(path+".kid", "empty")
	}
	return &pinned{path: path, kid: name, key: cose.Key(k), thumbprint: thumbprint}, nil
}

// names reports whether kid is that of k. It only selects: kid is a hint.
func (k *pinned) names(kid []byte) bool { return bytes.Equal(k.kid, kid) }

// checkAlgorithm: SPEC RFC 9052 §7.1: alg must fit the key, and be the key's own if it has one.
func (k *pinned) checkAlgorithm(alg cose.Algorithm) *Refusal {
	if k.key.Alg != 0 && k.key.Alg != alg {
		return refuse(CodeBadAlgorithm, k.path+".key", "sign with "+k.key.Alg.String(), "algorithm %s, but the key is for %s only", alg, k.key.Alg)
	}
	return checkAlgorithm(alg, k.key.Public, k.path+".key")
}

// verify checks the signature of s, and that alone.
func (k *pinned) verify(s *statement.Statement) *Refusal {
	if refusal := k.checkAlgorithm(s.Alg); refusal != nil {
		return refusal
	}
	return verify(s, k.key.Public, k.path+".key")
}

func (k *pinned) identity(kind, iss string) Identity {
	return Identity{Kind: kind, Issuer: iss, Thumbprint: hex.EncodeToString(k.thumbprint[:])}
}

func checkAlgorithm(alg cose.Algorithm, pub any, at string) *Refusal {
	err := alg.Check(pub)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, cose.ErrKey): // of a certificate; those of the document were checked
		return refuse(CodeCertificateInvalid, at, "sign with another key", "%v", err)
	}
	hint := "sign with an algorithm of the key's own kind"
	if fit, err := cose.DefaultAlgorithm(pub); err == nil {
		hint = fmt.Sprintf("sign with %s", fit)
	}
	return refuse(CodeBadAlgorithm, at, hint, "%v", err)
}

func verify(s *statement.Statement, pub any, at string) *Refusal {
	err := s.Verify(pub)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, statement.ErrAlgorithm):
		return refuse(CodeBadAlgorithm, at, "sign with an algorithm that fits the key", "%v", err)
	case errors.Is(err, statement.ErrPayloadMissing):
		return refusePayload()
	default:
		return refuse(CodeBadSignature, at, "sign the statement again with that key, and send the bytes as they were signed",
			"the signature does not verify with the key of iss %s", quote(s.Issuer))
	}
}
