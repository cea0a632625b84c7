package policy

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"time"

	"github.com/scittd/scittd/statement"
)

// source is how the key behind a statement is found. An Issuer has exactly one:
// the member of the document that it is made from.
type source interface {
	// member is its name in the document: "key", "x509".
	member() string
	// fits says whether s names its key in the way this source knows, by what can
	// be compared without computing; nil, or why not.
	fits(s *statement.Statement) *Refusal
	// lookups are the documents that resolve will want for s.
	lookups(s *statement.Statement) []Lookup
	// resolve finds who signed. All but the signature itself is checked.
	resolve(s *statement.Statement, f *facts) (signatory, *Refusal)
	// recorded is what resolve would say of who signed, as far as that can be
	// told without computing: no path is validated, no document judged.
	recorded(s *statement.Statement, f *facts) (signatory, error)
}

// facts are what a judgement depends on besides the statement and the policy.
type facts struct {
	now       time.Time
	materials []Material
	chains    *chainCache
}

// material finds what a lookup brought.
func (f *facts) material(l Lookup) (Material, bool) {
	for _, d := range f.materials {
		if d.Kind == l.Kind && d.Source == l.URL {
			return d, true
		}
	}
	return Material{}, false
}

// signatory is who signed, ready to verify with.
type signatory struct {
	key         crypto.PublicKey
	identity    Identity
	from, to    time.Time         // when this holds; zero is open
	chain       [][]byte          // unprotected certificates of s that were used
	materials   []Material        // that were used
	certificate *x509.Certificate // of the leaf; nil where there is none
}

// newSource makes the source of the issuer at r.path ready.
func newSource(r *rule) (by source, err error) {
	switch {
	case r.Key != nil:
		r.key, err = pin(r.path, *r.Key, r.Kid)
		return pinnedKey{r.key}, err
	default:
		r.certs, err = newAuthority(r.path, r.Issuer)
		return certified{r}, err
	}
}

// pinnedKey is the source `key`.
type pinnedKey struct{ *pinned }

func (k pinnedKey) member() string                        { return "key" }
func (k pinnedKey) lookups(*statement.Statement) []Lookup { return nil }

func (k pinnedKey) fits(s *statement.Statement) *Refusal {
	switch {
	case s.Thumbprint != nil || s.ChainProtected:
		// SPEC RFC 9943 §5.1.1.1: where certificates are named, a path to a
		// registered root MUST be validated; a pinned key is none.
		return refuse(CodeUnknownIssuerKey, k.path+".key", "sign without x5t and x5chain, with kid "+quote(KeyID(k.kid).String()),
			"issuer %s is known by a pinned key, but the statement names a certificate", quote(s.Issuer))
	case !k.names(s.KeyID):
		return refuse(CodeUnknownIssuerKey, k.path+".kid", "sign with the key whose kid is "+quote(KeyID(k.kid).String()),
			"kid %s is not known for issuer %s", quote(KeyID(s.KeyID).String()), quote(s.Issuer))
	}
	return nil
}

func (k pinnedKey) resolve(s *statement.Statement, _ *facts) (signatory, *Refusal) {
	return signatory{key: k.key.Public, identity: k.identity(PinnedKey, s.Issuer)}, k.checkAlgorithm(s.Alg)
}

func (k pinnedKey) recorded(s *statement.Statement, _ *facts) (signatory, error) {
	return signatory{identity: k.identity(PinnedKey, s.Issuer)}, nil
}

// certified is the source `x509`.
type certified struct{ *rule }

func (c certified) member() string                        { return "x509" }
func (c certified) lookups(*statement.Statement) []Lookup { return nil }

func (c certified) fits(s *statement.Statement) *Refusal {
	if s.Thumbprint == nil && !s.ChainProtected {
		return refuse(CodeUnknownIssuerKey, c.path+".x509", "put x5chain, or x5t with the chain unprotected, into the header",
			"issuer %s is known by certificates, but the protected header names none", quote(s.Issuer))
	}
	return nil
}

func (c certified) resolve(s *statement.Statement, f *facts) (signatory, *Refusal) {
	l, refusal := c.certificate(s, f.now, f.chains)
	if refusal != nil {
		return signatory{}, refusal
	}
	who := signatory{key: l.key, identity: l.identity(s.Issuer), from: l.from, to: l.to}
	if !s.ChainProtected {
		who.chain = s.Chain[:l.used:l.used]
	}
	return who, nil
}

func (c certified) recorded(s *statement.Statement, _ *facts) (signatory, error) {
	if len(s.Chain) == 0 {
		return signatory{}, errors.New("the certificates that it judged are not kept")
	}
	leaf := sha256.Sum256(s.Chain[0])
	who := signatory{identity: Identity{Kind: Certificate, Issuer: s.Issuer, Thumbprint: hex.EncodeToString(leaf[:])}}
	if !s.ChainProtected {
		who.chain = s.Chain
	}
	return who, nil
}
