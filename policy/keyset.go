package policy

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/internal/did"
	"github.com/scittd/scittd/statement"
)

// KeySet says that the keys of an issuer are those of a JWK Set or COSE Key Set
// at a URL. They change without a policy, at its owner's word.
type KeySet struct {
	URL string `json:"url" yaml:"url"` // https
}

// published is the source `keys`.
type published struct {
	*rule
	want Lookup
	read *reading
}

func newPublished(r *rule) (source, error) {
	if err := checkLookupURL(r.Keys.URL); err != nil {
		return nil, &fieldError{r.path + ".keys.url", err}
	}
	return published{r, Lookup{KeySetDocument, r.Keys.URL}, &reading{}}, nil
}

func (k published) member() string                        { return "keys" }
func (k published) lookups(*statement.Statement) []Lookup { return []Lookup{k.want} }
func (k published) fits(s *statement.Statement) *Refusal  { return fitsByKid(k.rule, s) }
func (k published) parse(body []byte) (did.Keys, error)   { return did.ParseKeySet(body) }
func (k published) name(did.Named) string                 { return k.want.URL }
func (k published) resolve(s *statement.Statement, f *facts) (signatory, *Refusal) {
	return lookUp(s, f, k.rule, k.want, k.read, k)
}

func (k published) recorded(s *statement.Statement, f *facts) (signatory, error) {
	return lookedUp(k.resolve(s, f))
}

// lookedUp is the answer of recorded for a source that resolves without computing
// anything: whose key is chosen by name from a document.
func lookedUp(who signatory, refusal *Refusal) (signatory, error) {
	if refusal != nil {
		return who, refusal
	}
	return who, nil
}

// fitsByKid is for sources whose keys are chosen by kid.
func fitsByKid(r *rule, s *statement.Statement) *Refusal {
	if s.Thumbprint == nil && !s.ChainProtected {
		return nil
	}
	// SPEC RFC 9943 §5.1.1.1: where certificates are named, a path to a registered
	// root MUST be validated; the keys of such an issuer have none.
	return refuse(CodeUnknownIssuerKey, r.at(), "sign without x5t and x5chain, and name the key by kid",
		"issuer %s is known by keys, but the statement names a certificate", quote(s.Issuer))
}

// documentOfKeys is what a looked up source adds to how it is looked up.
type documentOfKeys interface {
	parse(body []byte) (did.Keys, error)
	name(did.Named) string // Identity.Name of a key of it
}

// lookUp finds the key that s names in what was brought for l.
func lookUp(s *statement.Statement, f *facts, r *rule, l Lookup, read *reading, doc documentOfKeys) (signatory, *Refusal) {
	m, ok := f.material(l)
	if !ok {
		return signatory{}, refuse(CodeLookupFailed, r.at(), "serve the issuer's keys there, and submit it again",
			"the keys of issuer %s were not found at %s", quote(s.Issuer), l.URL)
	}
	keys, err := read.of(m.Body, doc.parse)
	if err != nil {
		return signatory{}, refuse(CodeLookupFailed, r.at(), "correct what is served there, and submit it again",
			"what %s serves cannot be used for issuer %s: %s", l.URL, quote(s.Issuer), show(err))
	}
	key, refusal := choose(r, s, keys, "use one that is listed at "+l.URL)
	if refusal != nil {
		return signatory{}, refusal
	}
	end := key.Until
	if !end.IsZero() && !f.now.Before(end) {
		return signatory{}, refuse(CodeUnknownIssuerKey, r.at(), "use one that is listed at "+l.URL+" and has not ended",
			"kid %s of issuer %s ended at %s, and it is %s", quote(KeyID(s.KeyID).String()), quote(s.Issuer), stamp(end), stamp(f.now))
	}
	who, refusal := keyed(r, s, key, doc.name(key))
	who.materials = []Material{m}
	if !end.IsZero() {
		who.to = end.Add(-1)
	}
	return who, refusal
}

// choose finds the key that the kid of s names.
func choose(r *rule, s *statement.Statement, keys *did.Keys, hint string) (did.Named, *Refusal) {
	key, err := keys.Find(s.KeyID)
	if errors.Is(err, did.ErrNotFound) {
		// SPEC RFC 9679 §1: a thumbprint names one key, whatever its issuer calls it.
		if same, ok := keys.ByThumbprint(s.KeyID); ok {
			return same, nil
		}
	}
	switch kid := quote(KeyID(s.KeyID).String()); {
	case err == nil:
		return key, nil
	case errors.Is(err, did.ErrNotFound):
		return key, refuse(CodeUnknownIssuerKey, r.at(), hint, "kid %s is not among the keys of issuer %s", kid, quote(s.Issuer))
	default:
		return key, refuse(CodeUnknownIssuerKey, r.at(), "sign with another key", "kid %s of issuer %s cannot be used: %s", kid, quote(s.Issuer), show(err))
	}
}

// keyed is who signed with key.
func keyed(r *rule, s *statement.Statement, key did.Named, name string) (signatory, *Refusal) {
	// SPEC RFC 9052 §7.1, RFC 7517 §4.4: alg must fit the key, and be the key's own
	// if it has one.
	if key.Alg != 0 && key.Permits(s.Alg) != nil {
		return signatory{}, refuse(CodeBadAlgorithm, r.at(), "sign with "+key.Alg.String(), "algorithm %s, but the key is for %s only", s.Alg, key.Alg)
	}
	if refusal := checkAlgorithm(s.Alg, key.Public, r.at()); refusal != nil {
		return signatory{}, refusal
	}
	thumbprint, err := cose.Thumbprint(key.Public)
	if err != nil {
		return signatory{}, refuse(CodeUnknownIssuerKey, r.at(), "sign with another key", "%v", err)
	}
	return signatory{key: key.Public, identity: Identity{
		Kind: r.by.member(), Issuer: s.Issuer, Thumbprint: hex.EncodeToString(thumbprint[:]), Name: name,
	}}, nil
}

// reading remembers how the last document of a source was read: the same bytes
// mean the same keys. Most judgements in a row are about the same.
type reading struct{ last atomic.Pointer[readKeys] }

type readKeys struct {
	body []byte
	keys did.Keys
	err  error
}

func (r *reading) of(body []byte, parse func([]byte) (did.Keys, error)) (*did.Keys, error) {
	if last := r.last.Load(); last != nil && bytes.Equal(last.body, body) {
		return &last.keys, last.err
	}
	next := &readKeys{body: body}
	next.keys, next.err = parse(body)
	r.last.Store(next)
	return &next.keys, next.err
}

// maxLookupURL bounds the text of a URL.
const maxLookupURL = 2048

// checkLookupURL refuses what no service would ask anyway, when the policy is
// read: everything but https, and who is somebody there.
func checkLookupURL(text string) error {
	u, err := url.Parse(text)
	stray := strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' || r == '\\' })
	switch {
	case err != nil || stray || len(text) > maxLookupURL || u.Opaque != "" || u.Hostname() == "":
		return fmt.Errorf("%s is no URL with a host", quote(text))
	case u.Scheme != "https":
		return fmt.Errorf("%s is not https", quote(text))
	case u.User != nil:
		return fmt.Errorf("%s names a user", quote(text))
	case u.Fragment != "":
		return fmt.Errorf("%s has a fragment", quote(text))
	}
	return nil
}
