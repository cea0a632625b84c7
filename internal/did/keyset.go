package did

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/internal/detcbor"
)

// ParseKeySet reads a JWK Set (RFC 7517 §5) or a COSE Key Set (RFC 9052 §7),
// whichever it is. A key is found by its kid, or without one by its RFC 9679
// thumbprint.
//
// SPEC RFC 7517 §5, RFC 9052 §7: a key that cannot be used is ignored. A set is
// refused as a whole when it contradicts itself: two keys under one kid, or an
// algorithm that is not the key's.
func ParseKeySet(b []byte) (Keys, error) {
	if len(b) > MaxDocument {
		return Keys{}, malformed("key set of %d bytes, the limit is %d", len(b), MaxDocument)
	}
	var keys Keys
	var err error
	if text := bytes.TrimLeft(b, " \t\r\n"); len(text) > 0 && text[0] == '{' {
		err = keys.addJWKS(b)
	} else {
		err = keys.addCOSE(b)
	}
	if err != nil {
		return Keys{}, fmt.Errorf("key set: %w", err)
	}
	if keys.Len() == 0 {
		if keys.first != nil {
			return Keys{}, fmt.Errorf("key set: no key of it can be used: %w", keys.first)
		}
		return Keys{}, malformed("key set: it has no key")
	}
	return keys, nil
}

func (k *Keys) addJWKS(b []byte) error {
	set, err := object(b)
	if err != nil {
		return err
	}
	if set["keys"] == nil {
		return malformed("keys is missing")
	}
	elements, err := set.list("keys", MaxKeys)
	if err != nil {
		return err
	}
	for i, e := range elements {
		var m members
		if json.Unmarshal(e, &m) != nil || m == nil {
			return malformed("keys[%d] is no object", i)
		}
		key, err := parseJWK(m)
		kid, _ := m.text("kid")
		if err := k.add(key, err, []byte(kid)); err != nil {
			return fmt.Errorf("keys[%d]: %w", i, err)
		}
	}
	return nil
}

func (k *Keys) addCOSE(b []byte) error {
	r := detcbor.NewReader(b)
	n, err := r.Array()
	if err != nil {
		return malformed("neither a JSON object nor a CBOR array")
	}
	if n > MaxKeys {
		return malformed("it has %d keys, the limit is %d", n, MaxKeys)
	}
	for i := range n {
		item, err := r.Raw()
		if err != nil {
			return malformed("element %d: %v", i, err)
		}
		var kid []byte
		key, err := cose.ParseKey(item)
		if err != nil {
			var alg cose.Algorithm
			if kid, alg = keyHead(item); errors.Is(err, cose.ErrAlgorithm) && !alg.Supported() {
				err = malformed("alg %d is not supported", int64(alg))
			}
		}
		if err := k.add(key, err, kid); err != nil {
			return fmt.Errorf("element %d: %w", i, err)
		}
	}
	if err := r.End(); err != nil {
		return malformed("%v", err)
	}
	return nil
}

// keyHead reads kid and alg of a COSE_Key that cannot be used.
func keyHead(item []byte) (kid []byte, alg cose.Algorithm) {
	var m map[any]detcbor.RawMessage
	if detcbor.Unmarshal(item, &m) != nil {
		return nil, 0
	}
	if raw := m[int64(2)]; detcbor.Unmarshal(raw, &kid) != nil {
		kid = nil
	}
	if raw := m[int64(3)]; detcbor.Unmarshal(raw, &alg) != nil {
		alg = 0
	}
	return kid, alg
}

// add takes in a key, or what is wrong with it.
func (k *Keys) add(key cose.Key, err error, kid []byte) error {
	switch {
	case errors.Is(err, cose.ErrAlgorithm):
		return err
	case err != nil:
		k.refuse(err, kid)
		return nil
	}
	name := key.ID
	if name == nil {
		thumbprint, err := cose.Thumbprint(key.Public)
		if err != nil {
			return err
		}
		name = thumbprint[:]
	}
	for _, other := range k.usable {
		if bytes.Equal(other.names[0], name) {
			if same(other.Public, key.Public) && other.Alg == key.Alg {
				return nil
			}
			return malformed("kid %s is there twice", quote(string(name)))
		}
	}
	k.usable = append(k.usable, Named{Key: key, names: [][]byte{name}})
	return nil
}
