package did_test

import (
	"crypto/ecdsa"
	"errors"
	"strings"
	"testing"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/internal/detcbor"
	"github.com/scittd/scittd/internal/did"
)

func TestADIDWebIsTheURLOfADocument(t *testing.T) {
	for id, want := range map[string]string{
		// did:web specification §2.5.2 and its examples.
		"did:web:w3c-ccg.github.io":            "https://w3c-ccg.github.io/.well-known/did.json",
		"did:web:w3c-ccg.github.io:user:alice": "https://w3c-ccg.github.io/user/alice/did.json",
		"did:web:example.com%3A3000":           "https://example.com:3000/.well-known/did.json",
		"did:web:example.com%3A3000:user:a":    "https://example.com:3000/user/a/did.json",
		"did:web:example.com:a%20b":            "https://example.com/a%20b/did.json",
		"did:web:localhost%3A8443":             "https://localhost:8443/.well-known/did.json", // for who fetches to refuse
	} {
		if got, err := did.WebURL(id); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", id, got, err, want)
		}
	}
	for _, id := range []string{
		"", "did:web", "did:web:", "did:key:zabc", "did:web::a", "did:web:example.com:", "did:web:example.com::a", "did:web:example.com:a:", "did:web:Example.com",
		"did:web:example.com%3a3000", "did:web:example.com%3A", "did:web:example.com%3A0", "did:web:example.com%3A99999", "did:web:example.com%3A080", "did:web:example.com%3A80%3A80",
		"did:web:example.com%2Fx", "did:web:user@example.com", "did:web:user%40example.com", "did:web:127.0.0.1", "did:web:127.1", "did:web:0x7f000001", "did:web:[::1]", "did:web:%5B::1%5D",
		"did:web:example.com:..", "did:web:example.com:.", "did:web:example.com:%2E%2E", "did:web:example.com:a%2Fb", "did:web:example.com:a%5Cb", "did:web:example.com:a%00", "did:web:example.com:a/b", "did:web:example.com:a?b", "did:web:example.com:a#b",
		"did:web:example.com#key-1", "did:web:example.com/x", "did:web:exämple.com", "did:web:example.com:ä", "did:web:-example.com", "did:web:example.com.", "did:web:" + strings.Repeat("a", 64) + ".com", "did:web:" + strings.Repeat("a.", 127) + "com",
	} {
		if got, err := did.WebURL(id); !errors.Is(err, did.ErrMalformed) {
			t.Errorf("%q: %s, %v; want ErrMalformed", id, got, err)
		}
	}
}

const web = "did:web:example.com"

// doc is a DID document with one method, changed by change.
func doc(t testing.TB, change func(d, method map[string]any)) []byte {
	t.Helper()
	method := map[string]any{"id": web + "#key-1", "type": "JsonWebKey", "controller": web, "publicKeyJwk": samples()["Ed25519"].jwk}
	d := map[string]any{"@context": "https://www.w3.org/ns/did/v1", "id": web, "verificationMethod": []any{method}, "assertionMethod": []any{web + "#key-1"}}
	if change != nil {
		change(d, method)
	}
	return []byte(text(t, d))
}

func TestADocumentGivesTheKeysThatMaySign(t *testing.T) {
	all := samples()
	for name, s := range all {
		for form, change := range map[string]func(d, m map[string]any){
			"JWK": func(_, m map[string]any) { m["publicKeyJwk"] = s.jwk },
			"z": func(_, m map[string]any) {
				delete(m, "publicKeyJwk")
				m["publicKeyMultibase"] = "z" + base58(append(append([]byte{}, s.codec...), s.raw...))
			},
			"u": func(_, m map[string]any) {
				delete(m, "publicKeyJwk")
				m["publicKeyMultibase"] = "u" + b64(append(append([]byte{}, s.codec...), s.raw...))
			},
			"inside": func(d, m map[string]any) {
				m["publicKeyJwk"] = s.jwk
				delete(d, "verificationMethod")
				d["assertionMethod"] = []any{m}
			},
			"relative": func(d, m map[string]any) {
				m["publicKeyJwk"], m["id"] = s.jwk, "#key-1"
				d["assertionMethod"] = []any{"#key-1", "did:web:other.example#key-1"}
			},
		} {
			keys, err := did.ParseDocument(web, doc(t, change))
			if err != nil {
				t.Errorf("%s, %s: %v", name, form, err)
				continue
			}
			for _, kid := range []string{web + "#key-1", "#key-1", "key-1"} {
				if got, err := keys.Find([]byte(kid)); err != nil || !equal(got.Public, s.public) || got.ID != web+"#key-1" {
					t.Errorf("%s, %s, kid %s: %v, %v", name, form, kid, got, err)
				}
			}
			if got, err := keys.Find([]byte("key-2")); !errors.Is(err, did.ErrNotFound) {
				t.Errorf("%s: kid key-2: %v, %v; want ErrNotFound", name, got, err)
			}
		}
	}
}

func TestAMethodThatMayNotSignIsNotFoundAndSaysWhy(t *testing.T) {
	for name, change := range map[string]func(d, other map[string]any){
		"for authentication only": func(d, _ map[string]any) { d["authentication"] = []any{"#other"} },
		"somebody else's": func(d, o map[string]any) {
			o["controller"] = "did:web:evil.example"
			d["assertionMethod"] = []any{"#key-1", "#other"}
		},
		"without a key": func(d, o map[string]any) { delete(o, "publicKeyJwk"); d["assertionMethod"] = []any{"#key-1", "#other"} },
		"of two keys": func(d, o map[string]any) {
			o["publicKeyMultibase"] = "z1"
			d["assertionMethod"] = []any{"#key-1", "#other"}
		},
		"weak": func(d, o map[string]any) {
			o["publicKeyJwk"] = map[string]any{"kty": "OKP", "crv": "Ed25519", "x": b64(make([]byte, 32))}
			d["assertionMethod"] = []any{"#key-1", "#other"}
		},
		"of no readable end": func(d, o map[string]any) {
			o["expires"] = "tomorrow"
			d["assertionMethod"] = []any{"#key-1", "#other"}
		},
		"on a curve nobody knows": func(d, o map[string]any) {
			o["publicKeyJwk"] = map[string]any{"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"}
			d["assertionMethod"] = []any{"#key-1", "#other"}
		},
	} {
		keys, err := did.ParseDocument(web, doc(t, func(d, m map[string]any) {
			other := map[string]any{"id": web + "#other", "controller": web, "publicKeyJwk": samples()["P-256"].jwk}
			d["verificationMethod"] = []any{m, other}
			change(d, other)
		}))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, err := keys.Find([]byte("#other")); err == nil || errors.Is(err, did.ErrNotFound) {
			t.Errorf("%s: %v, %v; want the reason", name, got, err)
		}
		if _, err := keys.Find([]byte("#key-1")); err != nil {
			t.Errorf("%s: the other key: %v", name, err)
		}
	}
}

func TestDocumentsThatAreRefused(t *testing.T) {
	for name, body := range map[string][]byte{
		"nothing":               nil,
		"HTML":                  []byte("<html>"),
		"a list":                []byte("[]"),
		"a name twice":          []byte(`{"id":"` + web + `","id":"` + web + `"}`),
		"something behind it":   append(doc(t, nil), '{', '}'),
		"cut":                   doc(t, nil)[:100],
		"of 50 MB":              append(doc(t, nil), make([]byte, 50<<20)...),
		"another's id":          doc(t, func(d, _ map[string]any) { d["id"] = "did:web:evil.example" }),
		"id with a fragment":    doc(t, func(d, _ map[string]any) { d["id"] = web + "#key-1" }),
		"id in capitals":        doc(t, func(d, _ map[string]any) { d["id"] = "did:web:Example.com" }),
		"no id":                 doc(t, func(d, _ map[string]any) { delete(d, "id") }),
		"no assertionMethod":    doc(t, func(d, _ map[string]any) { delete(d, "assertionMethod") }),
		"assertionMethod empty": doc(t, func(d, _ map[string]any) { d["assertionMethod"] = []any{} }),
		"assertionMethod text":  doc(t, func(d, _ map[string]any) { d["assertionMethod"] = "#key-1" }),
		"assertionMethod of nobody": doc(t, func(d, _ map[string]any) {
			d["assertionMethod"] = []any{"#key-9"}
		}),
		"only others' methods":     doc(t, func(d, _ map[string]any) { d["assertionMethod"] = []any{"did:web:evil.example#key-1"} }),
		"a method of another DID":  doc(t, func(_, m map[string]any) { m["id"] = "did:web:evil.example#key-1" }),
		"a method without id":      doc(t, func(_, m map[string]any) { delete(m, "id") }),
		"a method that is no one":  doc(t, func(d, _ map[string]any) { d["verificationMethod"] = []any{"#key-1"} }),
		"one method twice":         doc(t, func(d, m map[string]any) { d["verificationMethod"] = []any{m, m} }),
		"one method inside again":  doc(t, func(d, m map[string]any) { d["assertionMethod"] = []any{m} }),
		"10,000 methods":           []byte(`{"id":"` + web + `","verificationMethod":[` + strings.Repeat("{},", 9999) + `{}]}`),
		"10,000 assertion methods": []byte(`{"id":"` + web + `","assertionMethod":[` + strings.Repeat(`"#a",`, 9999) + `"#a"]}`),
		"only a weak key": doc(t, func(_, m map[string]any) {
			m["publicKeyJwk"] = map[string]any{"kty": "OKP", "crv": "Ed25519", "x": b64(make([]byte, 32))}
		}),
	} {
		if keys, err := did.ParseDocument(web, body); !errors.Is(err, did.ErrMalformed) {
			t.Errorf("%s: %d keys, %v; want ErrMalformed", name, keys.Len(), err)
		}
	}
	// What two methods share is no name for either.
	keys, err := did.ParseDocument(web, doc(t, func(d, m map[string]any) {
		other := map[string]any{"id": web + "##key-1", "controller": web, "publicKeyJwk": samples()["P-256"].jwk}
		d["verificationMethod"], d["assertionMethod"] = []any{m, other}, []any{"#key-1", web + "##key-1"}
	}))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := keys.Find([]byte("#key-1")); !errors.Is(err, did.ErrMalformed) {
		t.Errorf("a kid of two methods: %v, %v; want ErrMalformed", got, err)
	}
}

func jwks(t testing.TB, keys ...map[string]any) []byte {
	return []byte(text(t, map[string]any{"keys": keys}))
}

func with(m map[string]any, more map[string]any) map[string]any {
	c := map[string]any{}
	for _, from := range []map[string]any{m, more} {
		for k, v := range from {
			c[k] = v
		}
	}
	return c
}

func TestAKeySetIsReadInBothForms(t *testing.T) {
	all := samples()
	var jwk []map[string]any
	var set []cose.Key
	for name, s := range all {
		jwk = append(jwk, with(s.jwk, map[string]any{"kid": name, "use": "sig"}))
		set = append(set, cose.Key{ID: []byte(name), Public: s.public})
	}
	binary, err := cose.MarshalKeySet(set)
	if err != nil {
		t.Fatal(err)
	}
	for form, b := range map[string][]byte{"JWKS": jwks(t, jwk...), "COSE Key Set": binary, "JWKS after white space": append([]byte("\n\t "), jwks(t, jwk...)...)} {
		keys, err := did.ParseKeySet(b)
		if err != nil || keys.Len() != len(all) {
			t.Errorf("%s: %d keys, %v", form, keys.Len(), err)
			continue
		}
		for name, s := range all {
			if got, err := keys.Find([]byte(name)); err != nil || !equal(got.Public, s.public) {
				t.Errorf("%s: %s: %v, %v", form, name, got, err)
			}
		}
		if got, err := keys.Find([]byte("nobody")); !errors.Is(err, did.ErrNotFound) {
			t.Errorf("%s: nobody: %v, %v; want ErrNotFound", form, got, err)
		}
	}
}

func TestAKeyWithoutKidIsFoundByItsThumbprint(t *testing.T) {
	s := samples()["P-256"]
	thumbprint, err := cose.Thumbprint(s.public)
	if err != nil {
		t.Fatal(err)
	}
	binary, err := cose.MarshalKeySet([]cose.Key{{Public: s.public}})
	if err != nil {
		t.Fatal(err)
	}
	for form, b := range map[string][]byte{"JWKS": jwks(t, s.jwk), "COSE Key Set": binary} {
		keys, err := did.ParseKeySet(b)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := keys.Find(thumbprint[:]); err != nil || !equal(got.Public, s.public) {
			t.Errorf("%s: %v, %v", form, got, err)
		}
		if got, err := keys.Find(nil); !errors.Is(err, did.ErrNotFound) {
			t.Errorf("%s without kid: %v, %v", form, got, err)
		}
	}
}

func TestAKeyThatCannotBeUsedIsIgnoredUnlessItIsTheOne(t *testing.T) {
	all := samples()
	good := with(all["Ed25519"].jwk, map[string]any{"kid": "good"})
	for name, bad := range map[string]map[string]any{
		"RSA 1024":       weakRSA(),
		"RS256":          with(all["RSA"].jwk, map[string]any{"alg": "RS256"}),
		"for encryption": with(all["P-256"].jwk, map[string]any{"use": "enc"}),
		"symmetric":      {"kty": "oct", "k": "AAAA"},
		"post-quantum":   {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA"},
		"private":        with(all["P-256"].jwk, map[string]any{"d": "AAAA"}),
	} {
		keys, err := did.ParseKeySet(jwks(t, with(bad, map[string]any{"kid": "bad"}), good))
		if err != nil || keys.Len() != 1 {
			t.Errorf("%s: %d keys, %v", name, keys.Len(), err)
			continue
		}
		if _, err := keys.Find([]byte("good")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got, err := keys.Find([]byte("bad")); err == nil || errors.Is(err, did.ErrNotFound) {
			t.Errorf("%s: %v, %v; want the reason", name, got, err)
		}
	}
	// Where none can be used, it is always the first that says why.
	none := jwks(t, with(weakRSA(), map[string]any{"kid": "a"}), with(all["P-256"].jwk, map[string]any{"kid": "b", "use": "enc"}))
	for range 50 {
		if _, err := did.ParseKeySet(none); err == nil || !strings.Contains(err.Error(), "RSA") {
			t.Fatalf("%v; want what is wrong with the first key", err)
		}
	}
	unsupported := raw(t, []any{map[int]any{1: 3, 2: []byte("bad"), 3: -257, -1: make([]byte, 256), -2: []byte{1, 0, 1}}, coseKey("good", 0)})
	if keys, err := did.ParseKeySet(unsupported); err != nil || keys.Len() != 1 {
		t.Errorf("COSE key for RS256: %d keys, %v", keys.Len(), err)
	}
}

func weakRSA() map[string]any {
	return map[string]any{"kty": "RSA", "n": b64(weak().N.Bytes()), "e": "AQAB"}
}

func raw(t testing.TB, v any) []byte {
	t.Helper()
	b, err := detcbor.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// coseKey is a P-256 key with any alg, also one that is not its own; 0: none.
func coseKey(kid string, alg int) map[int]any {
	point, err := samples()["P-256"].public.(*ecdsa.PublicKey).Bytes()
	if err != nil {
		panic(err)
	}
	m := map[int]any{1: 2, 2: []byte(kid), -1: 1, -2: point[1:33], -3: point[33:]}
	if alg != 0 {
		m[3] = alg
	}
	return m
}

func TestKeySetsThatAreRefusedAsAWhole(t *testing.T) {
	all := samples()
	a, b := all["P-256"], all["Ed25519"]
	kid := func(s sample, kid string, more map[string]any) map[string]any {
		return with(with(s.jwk, map[string]any{"kid": kid}), more)
	}
	for name, c := range map[string]struct {
		set  []byte
		want error
	}{
		"nothing":               {nil, did.ErrMalformed},
		"no set":                {[]byte("x"), did.ErrMalformed},
		"HTML":                  {[]byte("<html>"), did.ErrMalformed},
		"keys missing":          {[]byte("{}"), did.ErrMalformed},
		"keys null":             {[]byte(`{"keys":null}`), did.ErrMalformed},
		"keys in capitals":      {[]byte(`{"KEYS":[]}`), did.ErrMalformed},
		"keys twice":            {[]byte(`{"keys":[],"keys":[]}`), did.ErrMalformed},
		"no key":                {jwks(t), did.ErrMalformed},
		"a key that is none":    {[]byte(`{"keys":[7]}`), did.ErrMalformed},
		"10,000 keys":           {[]byte(`{"keys":[` + strings.Repeat("{},", 9999) + `{}]}`), did.ErrMalformed},
		"50 MB":                 {append(jwks(t, kid(a, "a", nil)), make([]byte, 50<<20)...), did.ErrMalformed},
		"double kid":            {jwks(t, kid(a, "k", nil), kid(b, "k", nil)), did.ErrMalformed},
		"one key, two algs":     {jwks(t, kid(a, "k", nil), kid(a, "k", map[string]any{"alg": "ES256"})), did.ErrMalformed},
		"conflicting alg":       {jwks(t, kid(b, "b", nil), kid(a, "a", map[string]any{"alg": "EdDSA"})), cose.ErrAlgorithm},
		"only a weak key":       {jwks(t, weakRSA()), cose.ErrKey},
		"CBOR: no key":          {raw(t, []any{}), did.ErrMalformed},
		"CBOR: a map":           {raw(t, map[int]any{1: 2}), did.ErrMalformed},
		"CBOR: more behind it":  {append(raw(t, []any{coseKey("a", 0)}), 0), did.ErrMalformed},
		"CBOR: cut":             {raw(t, []any{coseKey("a", 0)})[:40], did.ErrMalformed},
		"CBOR: a lie about it":  {[]byte{0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, did.ErrMalformed},
		"CBOR: 10,000 keys":     {append([]byte{0x99, 0x27, 0x10}, make([]byte, 10000)...), did.ErrMalformed},
		"CBOR: double kid":      {raw(t, []any{coseKey("k", 0), map[int]any{1: 1, 2: []byte("k"), -1: 6, -2: b.raw}}), did.ErrMalformed},
		"CBOR: conflicting alg": {raw(t, []any{coseKey("a", -8)}), cose.ErrAlgorithm},
		"CBOR: numbers":         {raw(t, []any{1, 2, 3}), cose.ErrKey},
	} {
		if keys, err := did.ParseKeySet(c.set); !errors.Is(err, c.want) {
			t.Errorf("%s: %d keys, %v; want %v", name, keys.Len(), err, c.want)
		}
	}
	// The same key listed twice contradicts nothing.
	if keys, err := did.ParseKeySet(jwks(t, kid(a, "k", nil), kid(a, "k", nil))); err != nil || keys.Len() != 1 {
		t.Errorf("one key twice: %d keys, %v", keys.Len(), err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(doc(f, nil))
	f.Add(jwks(f, samples()["P-256"].jwk))
	f.Add(raw(f, []any{map[int]any{1: 1, 2: []byte("k"), -1: 6, -2: samples()["Ed25519"].raw}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, parse := range []func([]byte) (did.Keys, error){did.ParseKeySet, func(b []byte) (did.Keys, error) { return did.ParseDocument(web, b) }} {
			if keys, err := parse(b); (err == nil) != (keys.Len() > 0) {
				t.Errorf("%d keys, %v", keys.Len(), err)
			}
		}
		did.Self(string(b))
		did.WebURL(string(b))
	})
}
