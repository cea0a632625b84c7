package policy

import (
	"crypto"
	"crypto/x509"
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
	trace     *trace // of an explanation; else nil
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

// sources are the members of the document that say how an issuer is known.
func (i *Issuer) sources() []string {
	var there []string
	for _, m := range []struct {
		name string
		is   bool
	}{{"key", i.Key != nil}, {"x509", i.X509 != nil}, {"did", i.DID != nil}, {"keys", i.Keys != nil}, {"oidc", i.OIDC != nil}} {
		if m.is {
			there = append(there, m.name)
		}
	}
	return there
}

// newSource makes the source of the issuer at r.path ready.
func newSource(r *rule) (by source, err error) {
	switch {
	case r.Key != nil:
		r.key, err = pin(r.path, *r.Key, r.Kid)
		return pinnedKey{r.key}, err
	case r.DID != nil:
		return newDID(r)
	case r.Keys != nil:
		return newPublished(r)
	case r.OIDC != nil:
		o, err := newLogin(r.path, r.Issuer)
		return loggedIn{r, o}, err
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
