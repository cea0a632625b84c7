package did_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/internal/did"
)

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// base58 writes what the package reads, by another way: one byte after the other.
func base58(b []byte) string {
	const digits = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
	n, out := new(big.Int).SetBytes(b), []byte{}
	for rest := new(big.Int); n.Sign() > 0; {
		n.DivMod(n, big.NewInt(58), rest)
		out = append(out, digits[rest.Int64()])
	}
	for i := 0; i < len(b) && b[i] == 0; i++ {
		out = append(out, '1')
	}
	slices.Reverse(out)
	return string(out)
}

// sample is a key with the codec of did:key, its raw form and its JWK.
type sample struct {
	public crypto.PublicKey
	codec  []byte
	raw    []byte
	jwk    map[string]any
}

// samples are made once: RSA keys take their time.
var samples = sync.OnceValue(func() map[string]sample {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	all := map[string]sample{}
	ed := ed25519.NewKeyFromSeed(make([]byte, 32)).Public().(ed25519.PublicKey)
	all["Ed25519"] = sample{ed, []byte{0xed, 1}, ed, map[string]any{"kty": "OKP", "crv": "Ed25519", "x": b64(ed)}}
	for i, c := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		key, err := ecdsa.GenerateKey(c, rand.Reader)
		must(err)
		b, err := key.PublicKey.Bytes()
		must(err)
		n := len(b) / 2
		sign := 2 + b[len(b)-1]&1
		all[c.Params().Name] = sample{&key.PublicKey, []byte{0x80 + byte(i), 0x24}, append([]byte{sign}, b[1:1+n]...),
			map[string]any{"kty": "EC", "crv": c.Params().Name, "x": b64(b[1 : 1+n]), "y": b64(b[1+n:])}}
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(err)
	all["RSA"] = sample{&key.PublicKey, []byte{0x85, 0x24}, x509.MarshalPKCS1PublicKey(&key.PublicKey),
		map[string]any{"kty": "RSA", "n": b64(key.N.Bytes()), "e": "AQAB"}}
	return all
})

var weak = sync.OnceValue(func() *rsa.PublicKey {
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		panic(err)
	}
	return &key.PublicKey
})

func text(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func equal(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

func TestPublishedIdentifiersHoldTheirPublishedKeys(t *testing.T) {
	for _, c := range []struct{ did, jwk, kid string }{
		// did:key specification, test vectors; the first is the key of 32 zero bytes.
		{"did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp", `{"kty":"OKP","crv":"Ed25519","x":"O2onvM62pC1io6jQKm8Nc2UyFXcd4kOmOsBIoYtZ2ik"}`, "z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp"},
		{"did:key:zDnaerDaTF5BXEavCrfRZEk316dpbLsfPDZ3WJ5hRTPFU2169", `{"kty":"EC","crv":"P-256","x":"fyNYMN0976ci7xqiSdag3buk-ZCwgXU4kz9XNkBlNUI","y":"hW2ojTNfH7Jbi8--CJUo3OCbH3y5n91g-IMA9MLMbTU"}`, "zDnaerDaTF5BXEavCrfRZEk316dpbLsfPDZ3WJ5hRTPFU2169"},
		// did:jwk specification, example 1.
		{"did:jwk:eyJjcnYiOiJQLTI1NiIsImt0eSI6IkVDIiwieCI6ImFjYklRaXVNczNpOF91c3pFakoydHBUdFJNNEVVM3l6OTFQSDZDZEgyVjAiLCJ5IjoiX0tjeUxqOXZXTXB0bm1LdG00NkdxRHo4d2Y3NEk1TEtncmwyR3pIM25TRSJ9",
			`{"kty":"EC","crv":"P-256","x":"acbIQiuMs3i8_uszEjJ2tpTtRM4EU3yz91PH6CdH2V0","y":"_KcyLj9vWMptnmKtm46GqDz8wf74I5LKgrl2GzH3nSE"}`, "0"},
	} {
		keys, err := did.Self(c.did)
		if err != nil {
			t.Errorf("%s: %v", c.did, err)
			continue
		}
		want, err := did.Self("did:jwk:" + b64([]byte(c.jwk)))
		if err != nil {
			t.Fatal(err)
		}
		same, err := want.Find([]byte("0"))
		if err != nil {
			t.Fatal(err)
		}
		thumbprint, err := cose.Thumbprint(same.Public)
		if err != nil {
			t.Fatal(err)
		}
		for _, kid := range []string{c.did + "#" + c.kid, "#" + c.kid, c.kid, string(thumbprint[:])} {
			if got, err := keys.Find([]byte(kid)); err != nil || !equal(got.Public, same.Public) || got.ID != c.did+"#"+c.kid {
				t.Errorf("%s: kid %q: %v, %v", c.did, kid, got, err)
			}
		}
		for _, kid := range []string{"", c.did, "#", "1", c.did + "#1"} {
			if got, err := keys.Find([]byte(kid)); !errors.Is(err, did.ErrNotFound) {
				t.Errorf("%s: kid %q: %v, %v; want ErrNotFound", c.did, kid, got, err)
			}
		}
	}
}

func TestEveryKindOfKeyIsReadFromItsIdentifier(t *testing.T) {
	for name, s := range samples() {
		for _, id := range []string{
			"did:key:z" + base58(append(slices.Clone(s.codec), s.raw...)),
			"did:jwk:" + b64([]byte(text(t, s.jwk))),
		} {
			keys, err := did.Self(id)
			if err != nil {
				t.Errorf("%s: %s: %v", name, id, err)
				continue
			}
			fragment := "0"
			if did.Method(id) == "key" {
				fragment = strings.TrimPrefix(id, "did:key:")
			}
			if got, err := keys.Find([]byte("#" + fragment)); err != nil || !equal(got.Public, s.public) {
				t.Errorf("%s: %v, %v", name, got, err)
			}
		}
	}
}

func TestIdentifiersWithoutAUsableKeyAreRefused(t *testing.T) {
	all := samples()
	key := func(codec []byte, raw []byte) string {
		return "did:key:z" + base58(append(slices.Clone(codec), raw...))
	}
	jwk := func(change func(map[string]any), of string) string {
		m := map[string]any{}
		for k, v := range all[of].jwk {
			m[k] = v
		}
		change(m)
		return "did:jwk:" + b64([]byte(text(t, m)))
	}
	set := func(name string, v any) func(map[string]any) { return func(m map[string]any) { m[name] = v } }
	weak := weak()
	off := slices.Clone(all["P-256"].raw)
	for x, _ := elliptic.UnmarshalCompressed(elliptic.P256(), off); x != nil; x, _ = elliptic.UnmarshalCompressed(elliptic.P256(), off) {
		off[len(off)-1]++
	}
	order1 := append([]byte{1}, make([]byte, 31)...)
	for name, c := range map[string]struct {
		did  string
		want error
	}{
		"nothing":                    {"", did.ErrMalformed},
		"no method":                  {"did:", did.ErrMalformed},
		"another method":             {"did:web:example.com", did.ErrMalformed},
		"no key":                     {"did:key:", did.ErrMalformed},
		"not multibase":              {"did:key:abc", did.ErrMalformed},
		"base64 where base58 is due": {"did:key:u" + b64(append([]byte{0xed, 1}, order1...)), did.ErrMalformed},
		"no base58":                  {"did:key:z0OIl", did.ErrMalformed},
		"no codec":                   {"did:key:z", did.ErrMalformed},
		"secp256k1":                  {"did:key:zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme", did.ErrMalformed},
		"X25519":                     {"did:key:z6LSeu9HkTHSfLLeUs2nnzUSNedgDUevfNQgQjQC23ZCit6F", did.ErrMalformed},
		"a fragment":                 {"did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp#x", did.ErrMalformed},
		"a version":                  {"did:key:1.1:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp", did.ErrMalformed},
		"a megabyte":                 {"did:key:z" + strings.Repeat("z", 1<<20), did.ErrMalformed},
		"short Ed25519":              {key([]byte{0xed, 1}, order1[:31]), cose.ErrKey},
		"Ed25519 of small order":     {key([]byte{0xed, 1}, order1), cose.ErrKey},
		"off the curve":              {key([]byte{0x80, 0x24}, off), did.ErrMalformed},
		"uncompressed point":         {key([]byte{0x80, 0x24}, append([]byte{4}, make([]byte, 64)...)), did.ErrMalformed},
		"another curve's point":      {key([]byte{0x81, 0x24}, all["P-256"].raw), did.ErrMalformed},
		"RSA 1024":                   {key([]byte{0x85, 0x24}, x509.MarshalPKCS1PublicKey(weak)), cose.ErrKey},
		"broken RSA":                 {key([]byte{0x85, 0x24}, []byte("xx")), did.ErrMalformed},
		"a long varint":              {key([]byte{0xed, 0x81, 0}, all["Ed25519"].raw), did.ErrMalformed},

		"JWK: no base64":         {"did:jwk:***", did.ErrMalformed},
		"JWK: padding":           {"did:jwk:e30=", did.ErrMalformed},
		"JWK: no JSON":           {"did:jwk:" + b64([]byte("x")), did.ErrMalformed},
		"JWK: a list":            {"did:jwk:" + b64([]byte("[]")), did.ErrMalformed},
		"JWK: null":              {"did:jwk:" + b64([]byte("null")), did.ErrMalformed},
		"JWK: nothing in it":     {"did:jwk:" + b64([]byte("{}")), did.ErrMalformed},
		"JWK: two of them":       {"did:jwk:" + b64([]byte(text(t, all["P-256"].jwk)+"{}")), did.ErrMalformed},
		"JWK: a name twice":      {"did:jwk:" + b64([]byte(`{"kty":"OKP","crv":"Ed25519","x":"AA","x":"`+b64(all["Ed25519"].raw)+`"}`)), did.ErrMalformed},
		"JWK: no UTF-8":          {"did:jwk:" + b64([]byte("{\"kty\":\"\xff\"}")), did.ErrMalformed},
		"JWK: nested 20 deep":    {"did:jwk:" + b64([]byte(`{"kty":`+strings.Repeat("[", 20)+strings.Repeat("]", 20)+`}`)), did.ErrMalformed},
		"JWK: names in capitals": {"did:jwk:" + b64([]byte(strings.ToUpper(`{"kty":`)+text(t, all["P-256"].jwk)[len(`{"crv":`):])), did.ErrMalformed},
		"JWK: a private key":     {jwk(set("d", "AAAA"), "P-256"), cose.ErrKey},
		"JWK: symmetric":         {"did:jwk:" + b64([]byte(`{"kty":"oct","k":"AAAA"}`)), cose.ErrKey},
		"JWK: for encryption":    {jwk(set("use", "enc"), "P-256"), did.ErrMalformed},
		"JWK: to sign only":      {jwk(set("key_ops", []string{"sign"}), "P-256"), did.ErrMalformed},
		"JWK: RS256":             {jwk(set("alg", "RS256"), "RSA"), did.ErrMalformed},
		"JWK: none":              {jwk(set("alg", "none"), "P-256"), did.ErrMalformed},
		"JWK: conflicting alg":   {jwk(set("alg", "ES384"), "P-256"), cose.ErrAlgorithm},
		"JWK: alg of another":    {jwk(set("alg", "EdDSA"), "RSA"), cose.ErrAlgorithm},
		"JWK: number as x":       {jwk(set("x", 7), "P-256"), did.ErrMalformed},
		"JWK: short x":           {jwk(set("x", "AAAA"), "P-256"), did.ErrMalformed},
		"JWK: off the curve":     {jwk(set("y", b64(make([]byte, 32))), "P-256"), cose.ErrKey},
		"JWK: other curve":       {jwk(set("crv", "P-384"), "P-256"), did.ErrMalformed},
		"JWK: secp256k1":         {jwk(set("crv", "secp256k1"), "P-256"), did.ErrMalformed},
		"JWK: small order":       {jwk(set("x", b64(order1)), "Ed25519"), cose.ErrKey},
		"JWK: RSA 1024":          {jwk(set("n", b64(weak.N.Bytes())), "RSA"), cose.ErrKey},
		"JWK: RSA e = 1":         {jwk(set("e", "AQ"), "RSA"), cose.ErrKey},
		"JWK: RSA e of 5 bytes":  {jwk(set("e", "AQAAAAE"), "RSA"), did.ErrMalformed},
		"JWK: RSA leading zero":  {jwk(set("n", b64(append([]byte{0}, weak.N.Bytes()...))), "RSA"), did.ErrMalformed},
	} {
		if keys, err := did.Self(c.did); !errors.Is(err, c.want) {
			t.Errorf("%s: %d keys, %v; want %v", name, keys.Len(), err, c.want)
		}
	}
}
