// Package did reads what issuers are known by besides certificates of a listed
// root: decentralised identifiers, and the key sets that they publish.
//
//	did:key, did:jwk   the key is in the identifier: Self
//	did:web            the key is in a document at a URL: WebURL, ParseDocument
//	did:x509           the key is in a certificate that fits: ParseX509, Match
//	JWKS, COSE Key Set ParseKeySet
//
// It promises that what strangers write costs bounded work and memory, that no
// key comes out which internal/cose refuses, and that a name leads to one key or
// to none: who has two under one name has none.
//
// It opens no connection, and knows no policy: whether an identifier is to be
// believed is not its question. One that holds its own key proves nothing but
// possession of that key.
package did

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/scittd/scittd/internal/cose"
)

// Bounds of what is read.
const (
	MaxDocument = 256 << 10 // bytes of a DID document or a key set
	MaxKeys     = 1000      // of either
	maxDepth    = 16        // of JSON
)

// ErrMalformed: it is not what it should be, by the rules of its own standard.
// Every error about a text is that, or one of internal/cose about a key.
var ErrMalformed = errors.New("malformed")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrMalformed, fmt.Errorf(format, args...))
}

// Named is a key with what may be written as kid to choose it.
type Named struct {
	cose.Key
	ID    string    // DID URL of the verification method; "" in a key set
	Until time.Time // from then on it is not to be used; zero: no such time is known
	names [][]byte  // all of them
}

// Keys are those of one issuer.
type Keys struct {
	usable   []Named
	unusable map[string]error // name -> why not
	first    error            // of those, in the order of the document
}

// ErrNotFound: no key of that name. It may be there later.
var ErrNotFound = errors.New("no such key")

// Find returns the key that kid names. ErrNotFound: none does; ErrMalformed or
// an error about the key: one does that cannot be used, or two do.
func (k *Keys) Find(kid []byte) (Named, error) {
	var found *Named
	for i, candidate := range k.usable {
		for _, name := range candidate.names {
			if !bytes.Equal(name, kid) {
				continue
			}
			if found != nil && !same(found.Public, candidate.Public) {
				return Named{}, malformed("two keys have that name")
			}
			if found == nil {
				found = &k.usable[i]
			}
		}
	}
	if found != nil {
		return *found, nil
	}
	if err, ok := k.unusable[string(kid)]; ok {
		return Named{}, err
	}
	return Named{}, ErrNotFound
}

// ByThumbprint returns the key with that RFC 9679 thumbprint, whatever its name. A
// key that is listed twice, perhaps with two ends, is named by neither.
func (k *Keys) ByThumbprint(kid []byte) (Named, bool) {
	if len(kid) != sha256.Size {
		return Named{}, false
	}
	var found []Named
	for _, candidate := range k.usable {
		if thumbprint, err := cose.Thumbprint(candidate.Public); err == nil && bytes.Equal(thumbprint[:], kid) {
			found = append(found, candidate)
		}
	}
	if len(found) != 1 {
		return Named{}, false
	}
	return found[0], true
}

// Len is how many keys can be used.
func (k *Keys) Len() int { return len(k.usable) }

// refuse keeps in mind why a key cannot be used.
func (k *Keys) refuse(err error, names ...[]byte) {
	if k.unusable == nil {
		k.unusable, k.first = map[string]error{}, err
	}
	for _, name := range names {
		k.unusable[string(name)] = err
	}
}

func same(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

// Method is the method of a DID: "web" of did:web:example.com; "" when it is none.
func Method(did string) string {
	rest, ok := strings.CutPrefix(did, "did:")
	if !ok {
		return ""
	}
	method, id, _ := strings.Cut(rest, ":")
	if id == "" {
		return ""
	}
	return method
}

// Self returns the key that a did:key or did:jwk holds.
//
// A Signed Statement names it by the DID URL of its verification method, by the
// fragment of that, with or without #, or by its RFC 9679 thumbprint.
func Self(did string) (Keys, error) {
	var key cose.Key
	var fragment string
	var err error
	switch id := did[strings.LastIndexByte(did, ':')+1:]; Method(did) {
	case "key":
		// SPEC did:key §3: multibase base58-btc of a multicodec key.
		fragment = id
		if did != "did:key:"+id || !strings.HasPrefix(id, "z") {
			return Keys{}, malformed("did:key: want did:key:z and base58")
		}
		key.Public, err = multikey(id)
	case "jwk":
		fragment = "0"
		var text []byte
		if text, err = decode64(id); err != nil || did != "did:jwk:"+id {
			return Keys{}, malformed("did:jwk: want did:jwk: and base64url")
		}
		key, err = parseJWKText(text)
	default:
		return Keys{}, malformed("neither did:key nor did:jwk")
	}
	if err != nil {
		return Keys{}, fmt.Errorf("did:%s: %w", Method(did), err)
	}
	named, err := method(did, did+"#"+fragment, key)
	return Keys{usable: []Named{named}}, err
}

// method makes a verification method of did ready to be found.
func method(did, id string, key cose.Key) (Named, error) {
	if err := cose.CheckKey(key.Public); err != nil {
		return Named{}, err
	}
	thumbprint, err := cose.Thumbprint(key.Public)
	if err != nil {
		return Named{}, err
	}
	fragment := strings.TrimPrefix(id, did+"#")
	key.ID = nil
	return Named{Key: key, ID: id, names: [][]byte{[]byte(id), []byte("#" + fragment), []byte(fragment), thumbprint[:]}}, nil
}

// quote shows a stranger's text, cut where it is long.
func quote(s string) string {
	const most = 100
	if len(s) > most {
		return fmt.Sprintf("%q…", strings.ToValidUTF8(s[:most], ""))
	}
	return fmt.Sprintf("%q", s)
}
