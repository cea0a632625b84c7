package statement

import (
	"crypto"
	"errors"
	"fmt"
	"time"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/internal/detcbor"
)

// Template says what to sign. Exactly one of the three forms:
//
//   - Payload set, HashAlg 0, Detached false: attached.
//   - HashAlg -16, -43 or -44: hash envelope; Payload is the digest, and
//     ContentType, the type of what was hashed, goes to label 259.
//   - Detached true: Payload is signed but left out of the message.
type Template struct {
	Issuer, Subject string
	ContentType     string // a media type; "" leaves the label out
	Payload         []byte
	HashAlg         int64
	Location        string // label 260, hash envelope only
	Detached        bool

	Alg              cose.Algorithm // 0: DefaultAlgorithm of the key
	KeyID            []byte         // nil without a chain: RFC 9679 thumbprint of the key
	Chain            [][]byte       // x5chain, DER, leaf first; a chain of one is written as bstr
	ChainUnprotected bool           // x5t protected, x5chain unprotected

	// Timestamp is asked for an RFC 3161 token of what it is given, the signature
	// as it stands in the message; the token goes to label 270. nil leaves it out.
	Timestamp func(signature []byte) (token []byte, err error)

	IssuedAt, NotBefore, Expires time.Time   // zero: absent; whole seconds are kept
	Claims                       map[any]any // further CWT claims, by int or string
}

// Sign makes a tagged COSE_Sign1. Same template and key, same bytes for ECDSA
// (RFC 6979) and EdDSA: time gets in only through the template. The result
// passes Parse, so a template that breaks a rule is refused with the error
// Parse would give.
func Sign(t Template, key crypto.Signer) ([]byte, error) {
	if t.HashAlg != 0 && t.Detached {
		return nil, errors.New("a hash envelope carries its digest, so it cannot be detached")
	}
	if len(t.Payload) == 0 {
		return nil, errors.New("no payload")
	}
	if t.HashAlg == 0 && t.Location != "" {
		return nil, errors.New("a payload location needs a hash envelope")
	}
	if t.Alg == 0 {
		var err error
		if t.Alg, err = cose.DefaultAlgorithm(key.Public()); err != nil {
			return nil, err
		}
	}
	protected, unprotected, err := t.headers(key.Public())
	if err != nil {
		return nil, err
	}
	signature, err := cose.Sign(t.Alg, key, protected, t.Payload)
	if err != nil {
		return nil, err
	}
	if t.Timestamp != nil {
		if unprotected[labelTimestamp], err = t.Timestamp(detcbor.AppendBytes(nil, signature)); err != nil {
			return nil, fmt.Errorf("time-stamp: %w", err)
		}
	}
	msg := []byte{tagHead, arrayHead}
	msg = detcbor.AppendBytes(msg, protected)
	around, err := detcbor.Marshal(unprotected)
	if err != nil {
		return nil, err
	}
	msg = append(msg, around...)
	if t.Detached {
		msg = append(msg, null)
	} else {
		msg = detcbor.AppendBytes(msg, t.Payload)
	}
	msg = detcbor.AppendBytes(msg, signature)
	if _, err := Parse(msg); err != nil {
		return nil, err
	}
	return msg, nil
}

// headers are the two buckets, the protected one encoded.
func (t *Template) headers(pub crypto.PublicKey) (protected []byte, unprotected map[int64]any, err error) {
	claims, err := t.claims()
	if err != nil {
		return nil, nil, err
	}
	p := map[int64]any{labelAlg: int64(t.Alg), labelClaims: claims}
	u := map[int64]any{}
	switch {
	case t.HashAlg != 0:
		p[labelHashAlg] = t.HashAlg
		set(p, labelPreimage, t.ContentType)
		set(p, labelLocation, t.Location)
	default:
		set(p, labelContentType, t.ContentType)
	}
	switch {
	case len(t.Chain) == 0:
	case t.ChainUnprotected:
		p[labelThumbprint] = []any{int64(hashSHA256), certHash(hashSHA256, t.Chain[0])}
		u[labelChain] = chainValue(t.Chain)
	default:
		p[labelChain] = chainValue(t.Chain)
	}
	switch {
	case t.KeyID != nil:
		p[labelKeyID] = t.KeyID
	case len(t.Chain) == 0:
		kid, err := cose.Thumbprint(pub)
		if err != nil {
			return nil, nil, err
		}
		p[labelKeyID] = kid[:]
	}
	protected, err = detcbor.Marshal(p)
	return protected, u, err
}

// claims are the CWT claims: the further ones and those with a field of their own.
func (t *Template) claims() (map[any]any, error) {
	claims := map[any]any{
		int64(claimIssuer):  t.Issuer,
		int64(claimSubject): t.Subject,
	}
	for n, at := range map[int64]time.Time{
		claimExpires: t.Expires, claimNotBefore: t.NotBefore, claimIssuedAt: t.IssuedAt,
	} {
		if !at.IsZero() {
			claims[n] = at.Unix()
		}
	}
	for name, value := range t.Claims {
		key, err := claimKey(name)
		if err != nil {
			return nil, err
		}
		switch key {
		case int64(claimIssuer), int64(claimSubject), int64(claimExpires), int64(claimNotBefore), int64(claimIssuedAt):
			return nil, fmt.Errorf("claim %v has a field of its own in the template", name)
		}
		claims[key] = value
	}
	return claims, nil
}

// claimKey brings the integer types of Go together, so that none of them can
// write a claim a second time.
func claimKey(name any) (any, error) {
	switch n := name.(type) {
	case string:
		return n, nil
	case int:
		return int64(n), nil
	case int64:
		return n, nil
	}
	return nil, fmt.Errorf("claim name %v is a %T, not an int, int64 or string", name, name)
}

func set(h map[int64]any, n int64, text string) {
	if text != "" {
		h[n] = text
	}
}

// chainValue is COSE_X509 (RFC 9360 §2): one certificate stands alone.
func chainValue(chain [][]byte) any {
	if len(chain) == 1 {
		return chain[0]
	}
	return chain
}
