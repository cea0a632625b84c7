package policy

import (
	"crypto"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/statement"
)

const setURL = "https://wabbit.example/jwks.json"

func keysIssuer(iss, url string) Issuer { return Issuer{Iss: iss, Keys: &KeySet{URL: url}} }

// jwk is the public key of a P-256 key, with more members.
func jwk(t testing.TB, key crypto.Signer, more ...string) map[string]any {
	t.Helper()
	b, err := key.Public().(*ecdsa.PublicKey).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]any{"kty": "EC", "crv": "P-256",
		"x": base64.RawURLEncoding.EncodeToString(b[1:33]), "y": base64.RawURLEncoding.EncodeToString(b[33:])}
	for i := 0; i+1 < len(more); i += 2 {
		m[more[i]] = more[i+1]
	}
	return m
}

func asJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func jwks(t testing.TB, keys ...map[string]any) Material {
	t.Helper()
	return Material{KeySetDocument, setURL, asJSON(t, map[string]any{"keys": append([]map[string]any{}, keys...)})}
}

func TestAKeyThatTheIssuerPublishesIsAdmitted(t *testing.T) {
	key, other := newKey(t), newKey(t)
	binary, err := cose.MarshalKeySet([]cose.Key{{ID: []byte("k1"), Public: key.Public()}, {Public: other.Public()}})
	if err != nil {
		t.Fatal(err)
	}
	p := inForce(t, keysIssuer(wabbit, setURL))
	for form, set := range map[string]Material{
		"JWKS":         jwks(t, jwk(t, key, "kid", "k1", "alg", "ES256"), jwk(t, other)),
		"COSE Key Set": {KeySetDocument, setURL, binary},
	} {
		for name, s := range map[string]*statement.Statement{
			"by kid":        sign(t, wabbit, key, kid([]byte("k1"))),
			"by thumbprint": sign(t, wabbit, other),
			"by thumbprint, though listed under another name": sign(t, wabbit, key),
		} {
			if got, want := p.Lookups(s), []Lookup{{KeySetDocument, setURL}}; !reflect.DeepEqual(got, want) {
				t.Errorf("%s, %s: lookups %v, want %v", form, name, got, want)
			}
			elsewhere := Material{KeySetDocument, "https://evil.example/jwks.json", []byte("{}")}
			d := p.Evaluate(s, noon, elsewhere, set)
			admitted(t, d)
			if d.Rule != "issuers[0].keys" || d.Identity.Kind != ByKeySet || d.Identity.Name != setURL || d.Identity.Issuer != wabbit {
				t.Errorf("%s, %s: %+v", form, name, d)
			}
			// What was used is kept, and nothing else; with it the record holds.
			if !reflect.DeepEqual(d.Materials, []Material{set}) {
				t.Errorf("%s, %s: materials %v", form, name, d.Materials)
			}
			want := d
			want.NotBefore, want.NotAfter = time.Time{}, time.Time{}
			if got, err := p.Recorded(s, d.Rule, d.Identity, d.Materials...); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s, %s: recorded %+v, %v; want %+v", form, name, got, err, want)
			}
			if _, err := p.Recorded(s, d.Rule, d.Identity); err == nil {
				t.Errorf("%s, %s: the record holds without the key set", form, name)
			}
		}
	}
}

func TestNothingIsLookedUpThatTheIssuerDoesNotNeed(t *testing.T) {
	key, root := newKey(t), newCA(t, "root")
	listed := keysIssuer(wabbit, setURL)
	listed.MediaTypes = []string{sbom}
	denied := keysIssuer("https://denied.example", "https://denied.example/jwks.json")
	pinned := keyIssuer(acme, key)
	o := newOperator(t)
	d := o.document(listed, denied, pinned)
	p := bootstrap(t, o.publish(d))
	for name, s := range map[string]*statement.Statement{
		"a stranger":              sign(t, "https://stranger.example", key),
		"almost the issuer":       sign(t, wabbit+"/", key),
		"a type it may not":       sign(t, wabbit, key, mediaType("application/json")),
		"a certificate":           sign(t, wabbit, root.leaf(wabbit)),
		"somebody's pinned key":   sign(t, acme, key),
		"no payload to verify":    sign(t, wabbit, key, func(tmpl *statement.Template) { tmpl.Detached = true }),
		"what is for an operator": sign(t, service, key, mediaType(MediaType), subject(service+"/policy")),
	} {
		if got := p.Lookups(s); len(got) != 0 {
			t.Errorf("%s: lookups %v, want none", name, got)
		}
	}
}

func TestKeysThatTheSetDoesNotGiveAreRefused(t *testing.T) {
	key, other := newKey(t), newKey(t)
	p := inForce(t, keysIssuer(wabbit, setURL))
	named := kid([]byte("k1"))
	good := sign(t, wabbit, key, named)
	for name, c := range map[string]struct {
		s    *statement.Statement
		with []Material
		code string
		text string // of the reason
	}{
		"no document":         {good, nil, CodeLookupFailed, "not found at " + setURL},
		"another document":    {good, []Material{{DIDDocument, setURL, jwks(t, jwk(t, key, "kid", "k1")).Body}}, CodeLookupFailed, "not found"},
		"HTML":                {good, []Material{{KeySetDocument, setURL, []byte("<html>")}}, CodeLookupFailed, "neither a JSON object nor"},
		"no keys":             {good, []Material{jwks(t)}, CodeLookupFailed, "has no key"},
		"another kid":         {good, []Material{jwks(t, jwk(t, key, "kid", "k2"))}, CodeUnknownIssuerKey, `kid "k1" is not among`},
		"double kid":          {good, []Material{jwks(t, jwk(t, key, "kid", "k1"), jwk(t, other, "kid", "k1"))}, CodeLookupFailed, "twice"},
		"conflicting alg":     {good, []Material{jwks(t, jwk(t, key, "kid", "k1", "alg", "EdDSA"))}, CodeLookupFailed, "mismatched algorithm"},
		"for encryption":      {good, []Material{jwks(t, jwk(t, key, "kid", "k1", "use", "enc"), jwk(t, other))}, CodeUnknownIssuerKey, `use is "enc"`},
		"another key":         {good, []Material{jwks(t, jwk(t, other, "kid", "k1"))}, CodeBadSignature, "does not verify"},
		"a kid that is none":  {sign(t, wabbit, key, kid([]byte{0xff, 0})), []Material{jwks(t, jwk(t, key, "kid", "k1"))}, CodeUnknownIssuerKey, "hex:ff00"},
		"x5chain beside":      {sign(t, wabbit, newCA(t, "root").leafFor(key, wabbit)), []Material{jwks(t, jwk(t, key))}, CodeUnknownIssuerKey, "names a certificate"},
		"10,000 keys":         {good, []Material{{KeySetDocument, setURL, []byte(`{"keys":[` + strings.Repeat("{},", 9999) + `{}]}`)}}, CodeLookupFailed, "10000 elements"},
		"50 MB":               {good, []Material{{KeySetDocument, setURL, make([]byte, 50<<20)}}, CodeLookupFailed, "limit"},
		"control characters":  {good, []Material{{KeySetDocument, setURL, []byte("\x1b[2J{}")}}, CodeLookupFailed, "neither"},
		"a private key in it": {good, []Material{jwks(t, jwk(t, key, "kid", "k1", "d", "AAAA"), jwk(t, other))}, CodeUnknownIssuerKey, "private key"},
	} {
		t.Run(name, func(t *testing.T) {
			d := p.Evaluate(c.s, noon, c.with...)
			refused(t, d, c.code, "issuers[0].keys")
			if d.Refusal != nil && !strings.Contains(d.Refusal.Reason, c.text) {
				t.Errorf("reason %q does not say %q", d.Refusal.Reason, c.text)
			}
		})
	}
}

func TestAKeyOfOneIssuerIsNoOtherIssuers(t *testing.T) {
	// Both publish a key under the same kid, and one of them the other's key, too.
	key, other := newKey(t), newKey(t)
	const acmeURL = "https://acme.example/jwks.json"
	p := inForce(t, keysIssuer(wabbit, setURL), keysIssuer(acme, acmeURL))
	sets := []Material{
		jwks(t, jwk(t, key, "kid", "k1")),
		{KeySetDocument, acmeURL, asJSON(t, map[string]any{"keys": []any{jwk(t, other, "kid", "k1")}})},
	}
	for _, c := range []struct {
		iss string
		by  crypto.Signer
		ok  bool
	}{{wabbit, key, true}, {acme, other, true}, {wabbit, other, false}, {acme, key, false}} {
		d := p.Evaluate(sign(t, c.iss, c.by, kid([]byte("k1"))), noon, sets...)
		if (d.Refusal == nil) != c.ok {
			t.Errorf("%s: %+v, want admitted: %v", c.iss, d, c.ok)
		}
	}
}

func TestADocumentThatChangesIsReadAnew(t *testing.T) {
	old, next := newKey(t), newKey(t)
	p := inForce(t, keysIssuer(wabbit, setURL))
	before, after := jwks(t, jwk(t, old)), jwks(t, jwk(t, next))
	for range 3 {
		admitted(t, p.Evaluate(sign(t, wabbit, old), noon, before))
		refused(t, p.Evaluate(sign(t, wabbit, old), noon, after), CodeUnknownIssuerKey, "issuers[0].keys")
		admitted(t, p.Evaluate(sign(t, wabbit, next), noon, after))
		refused(t, p.Evaluate(sign(t, wabbit, next), noon, before), CodeUnknownIssuerKey, "issuers[0].keys")
	}
}

func TestURLsThatNoPolicyMayName(t *testing.T) {
	o := newOperator(t)
	for _, url := range []string{
		"", "jwks.json", "http://wabbit.example/jwks.json", "file:///etc/passwd", "https://", "https:///jwks.json", "https:wabbit.example", "https://user@wabbit.example/", "https://u:p@wabbit.example/",
		"https://wabbit.example/#x", "https://wabbit.example/ x", "https://wabbit.example/\n", " https://wabbit.example/", "https://wabbit.example/" + strings.Repeat("a", 2048), "https://[::1/",
	} {
		if _, err := New(o.document(keysIssuer(wabbit, url))); err == nil || !strings.Contains(err.Error(), "issuers[0].keys.url: ") {
			t.Errorf("%q: %v, want an error about issuers[0].keys.url", url, err)
		}
	}
}
