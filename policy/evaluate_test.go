package policy

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/statement"
)

func kid(b []byte) func(*statement.Template) {
	return func(tmpl *statement.Template) { tmpl.KeyID = b }
}

func TestAPinnedKeyIsAdmitted(t *testing.T) {
	key := newKey(t)
	p := inForce(t, keyIssuer(wabbit, key))
	d := p.Evaluate(sign(t, wabbit, key), noon)
	want := Decision{
		Policy:    p.Entry,
		Rule:      "issuers[0].key",
		Identity:  Identity{Kind: PinnedKey, Issuer: wabbit, Thumbprint: hex.EncodeToString(thumbprint(t, key))},
		Artifacts: []statement.Digest{"sha256:b6c7e21200000000000000000000000000000000000000000000000000000001"},
	}
	if !reflect.DeepEqual(d, want) {
		t.Errorf("got  %+v\nwant %+v", d, want)
	}
}

func TestOnlyTheDiagonalOfIssKeyAndKidIsAdmitted(t *testing.T) {
	const n = 3
	var isses []string
	var keys []crypto.Signer
	var issuers []Issuer
	for i := range n {
		isses = append(isses, fmt.Sprintf("https://vendor-%d.example", i))
		keys = append(keys, newKey(t))
		issuers = append(issuers, keyIssuer(isses[i], keys[i]))
	}
	p := inForce(t, issuers...)
	for iss := range n {
		for key := range n {
			for k := range n {
				d := p.Evaluate(sign(t, isses[iss], keys[key], kid(thumbprint(t, keys[k]))), noon)
				switch {
				case iss == key && key == k:
					admitted(t, d)
				case iss != k:
					refused(t, d, CodeUnknownIssuerKey, fmt.Sprintf("issuers[%d].kid", iss))
				default:
					refused(t, d, CodeBadSignature, fmt.Sprintf("issuers[%d].key", iss))
				}
			}
		}
	}
}

func TestIssuersCompareAsExactStrings(t *testing.T) {
	key := newKey(t)
	p := inForce(t, keyIssuer(wabbit, key))
	for _, iss := range []string{
		"https://WABBIT.example", "HTTPS://wabbit.example", "https://wabbit.example/", "https://wabbit.example:443", "https://wabbit%2eexample",
		"https://wabbit.example.", "http://wabbit.example", "wabbit.example", "https://wabbit.example.evil.example", "https://wabbit.exampl",
	} {
		refused(t, p.Evaluate(sign(t, iss, key), noon), CodeUnknownIssuerKey, "issuers")
	}
}

func TestUnknownKeysAreRefusedWithTheKidThatIsKnown(t *testing.T) {
	key, stranger := newKey(t), newKey(t)
	i := keyIssuer(wabbit, key)
	i.Kid = KeyID("release-2026")
	p := inForce(t, i)
	admitted(t, p.Evaluate(sign(t, wabbit, key, kid([]byte("release-2026"))), noon))
	for _, s := range []*statement.Statement{
		sign(t, wabbit, stranger), sign(t, wabbit, key), sign(t, wabbit, key, kid([]byte("release-2025"))), sign(t, wabbit, key, kid([]byte{0})),
	} {
		d := p.Evaluate(s, noon)
		refused(t, d, CodeUnknownIssuerKey, "issuers[0].kid")
		if !strings.Contains(d.Refusal.Hint, "release-2026") {
			t.Errorf("hint %q does not say which kid is known", d.Refusal.Hint)
		}
	}
}

func TestAlgorithmsMustFitTheKey(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsa2048, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	keys := []crypto.Signer{newKey(t), p384, ed, rsa2048}
	algs := [][]cose.Algorithm{{cose.ES256, cose.ESP256}, {cose.ES384, cose.ESP384}, {cose.EdDSA, cose.Ed25519}, {cose.PS256, cose.PS384, cose.PS512}}
	for i, pinned := range keys {
		p := inForce(t, keyIssuer(wabbit, pinned))
		for j, signing := range keys {
			for _, alg := range algs[j] {
				s := sign(t, wabbit, signing, kid(thumbprint(t, pinned)), func(tmpl *statement.Template) { tmpl.Alg = alg })
				if i == j {
					admitted(t, p.Evaluate(s, noon))
				} else {
					refused(t, p.Evaluate(s, noon), CodeBadAlgorithm, "issuers[0].key")
				}
			}
		}
	}
}

func TestAFlippedBitOfTheSignatureIsRefused(t *testing.T) {
	key := newKey(t)
	p := inForce(t, keyIssuer(wabbit, key))
	good := sign(t, wabbit, key).Canonical()
	for i := 1; i <= 64; i++ {
		bad := bytes.Clone(good)
		bad[len(bad)-i] ^= 1
		refused(t, p.Evaluate(parse(t, bad), noon), CodeBadSignature, "issuers[0].key")
	}
}

func TestAPayloadThatWasExchangedIsRefused(t *testing.T) {
	key := newKey(t)
	p := inForce(t, keyIssuer(wabbit, key))
	bad := bytes.Replace(sign(t, wabbit, key).Canonical(), []byte("CycloneDX"), []byte("cycloneDX"), 1)
	refused(t, p.Evaluate(parse(t, bad), noon), CodeBadSignature, "issuers[0].key")
}

func TestMediaTypesAreListedPerIssuer(t *testing.T) {
	w, a := newKey(t), newKey(t)
	wi, ai := keyIssuer(wabbit, w), keyIssuer(acme, a)
	wi.MediaTypes = []string{"application/spdx+json", sbom}
	ai.MediaTypes = []string{"application/sarif+json"}
	p := inForce(t, wi, ai)
	envelope := func(of string) func(*statement.Template) {
		return func(tmpl *statement.Template) {
			tmpl.ContentType, tmpl.HashAlg, tmpl.Payload = of, -16, make([]byte, 32)
		}
	}
	admitted(t, p.Evaluate(sign(t, wabbit, w), noon))
	admitted(t, p.Evaluate(sign(t, wabbit, w, mediaType("Application/SPDX+JSON; version=2.3")), noon))
	admitted(t, p.Evaluate(sign(t, wabbit, w, envelope(sbom)), noon))
	refused(t, p.Evaluate(sign(t, wabbit, w, envelope("application/sarif+json")), noon), CodeRejected, "issuers[0].mediaTypes")
	refused(t, p.Evaluate(sign(t, wabbit, w, mediaType("application/sarif+json")), noon), CodeRejected, "issuers[0].mediaTypes")
	refused(t, p.Evaluate(sign(t, wabbit, w, mediaType("")), noon), CodeRejected, "issuers[0].mediaTypes")
	d := p.Evaluate(sign(t, acme, a), noon)
	refused(t, d, CodeRejected, "issuers[1].mediaTypes")
	if !strings.Contains(d.Refusal.Reason, sbom) || !strings.Contains(d.Refusal.Hint, "application/sarif+json") {
		t.Errorf("refusal %q, %q names neither what was found nor what would do", d.Refusal.Reason, d.Refusal.Hint)
	}
}

func TestAnIssuerMayHaveSeveralRules(t *testing.T) {
	old, next := newKey(t), newKey(t)
	secret := keyIssuer(wabbit, old)
	secret.MediaTypes, secret.Visibility = []string{"application/sarif+json"}, Private
	public := keyIssuer(wabbit, old)
	public.MediaTypes = []string{sbom}
	p := inForce(t, secret, public, keyIssuer(wabbit, next))
	for _, c := range []struct {
		key     crypto.Signer
		of      string
		rule    string
		private bool
	}{
		{old, "application/sarif+json", "issuers[0].key", true},
		{old, sbom, "issuers[1].key", false},
		{next, sbom, "issuers[2].key", false},
		{next, "application/json", "issuers[2].key", false},
	} {
		d := p.Evaluate(sign(t, wabbit, c.key, mediaType(c.of)), noon)
		admitted(t, d)
		if d.Rule != c.rule || d.Private != c.private {
			t.Errorf("%s: rule %s, private %t; want %s, %t", c.of, d.Rule, d.Private, c.rule, c.private)
		}
	}
	refused(t, p.Evaluate(sign(t, wabbit, old, mediaType("application/json")), noon), CodeUnknownIssuerKey, "issuers[2].kid")
}

func TestVisibilityComesFromThePolicy(t *testing.T) {
	key := newKey(t)
	for _, c := range []struct {
		global, issuer Visibility
		want           bool
	}{{Public, "", false}, {Private, "", true}, {Public, Private, true}, {Private, Public, false}} {
		o := newOperator(t)
		i := keyIssuer(wabbit, key)
		i.Visibility = c.issuer
		doc := o.document(i)
		doc.Visibility = c.global
		d := bootstrap(t, o.publish(doc)).Evaluate(sign(t, wabbit, key), noon)
		admitted(t, d)
		if d.Private != c.want {
			t.Errorf("%s, %q: private is %t", c.global, c.issuer, d.Private)
		}
	}
}

func TestDeniedIssuersAreRefusedWhateverElseIsSaid(t *testing.T) {
	key := newKey(t)
	o := newOperator(t)
	doc := o.document(keyIssuer(wabbit, key), keyIssuer(acme, key))
	doc.Deny = []string{"https://formerly.example", wabbit}
	p := bootstrap(t, o.publish(doc))
	refused(t, p.Evaluate(sign(t, wabbit, key), noon), CodeRejected, "deny[1]")
	refused(t, p.Evaluate(sign(t, "https://formerly.example", key), noon), CodeRejected, "deny[0]")
	admitted(t, p.Evaluate(sign(t, acme, key), noon))
}

func TestADetachedPayloadIsRefusedWithTheWayOut(t *testing.T) {
	key := newKey(t)
	p := inForce(t, keyIssuer(wabbit, key))
	detached := func(tmpl *statement.Template) { tmpl.Detached = true }
	for _, s := range []*statement.Statement{sign(t, wabbit, key, detached), sign(t, acme, key, detached), sign(t, service, key, detached, mediaType(MediaType))} {
		d := p.Evaluate(s, noon)
		refused(t, d, CodePayloadMissing, "payload")
		if !strings.Contains(d.Refusal.Hint, "hash envelope") {
			t.Errorf("hint %q does not name the hash envelope", d.Refusal.Hint)
		}
		if !strings.Contains(d.Refusal.Hint, "/v1/evidence/") {
			t.Errorf("hint %q does not name staging", d.Refusal.Hint)
		}
	}
}

func TestADetachedPayloadAtHandIsVerified(t *testing.T) {
	key := newKey(t)
	p := inForce(t, keyIssuer(wabbit, key))
	s := sign(t, wabbit, key, func(tmpl *statement.Template) { tmpl.Detached, tmpl.Payload = true, []byte("sbom") })
	with := func(payload string) *statement.Statement {
		whole, err := s.WithPayload(statement.SHA256([]byte(payload)), []byte(payload))
		if err != nil {
			t.Fatal(err)
		}
		return whole
	}
	d := p.Evaluate(with("sbom"), noon)
	admitted(t, d)
	refused(t, p.Evaluate(with("another sbom"), noon), CodeBadSignature, d.Rule)

	// The record of the decision is all that is left without the payload.
	known, err := s.WithEvidence(statement.SHA256([]byte("sbom")))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := p.Recorded(known, d.Rule, d.Identity); err != nil || !slices.Equal(got.Artifacts, d.Artifacts) {
		t.Errorf("recorded: %+v, %v", got, err)
	}
	refused(t, p.Evaluate(known, noon), CodePayloadMissing, "payload")
}

func TestTimeClaimsBoundTheDecision(t *testing.T) {
	key := newKey(t)
	o := newOperator(t)
	doc := o.document(keyIssuer(wabbit, key))
	doc.Limits.MaxAge = Duration(time.Hour)
	p := bootstrap(t, o.publish(doc))
	at := func(d time.Duration) time.Time { return noon.Add(d) }
	type edit = func(*statement.Template)
	exp := func(d time.Duration) edit { return func(tmpl *statement.Template) { tmpl.Expires = at(d) } }
	nbf := func(d time.Duration) edit { return func(tmpl *statement.Template) { tmpl.NotBefore = at(d) } }
	iat := func(d time.Duration) edit { return func(tmpl *statement.Template) { tmpl.IssuedAt = at(d) } }
	for _, c := range []struct {
		edits    []edit
		rule     string // "" admitted
		from, to time.Time
	}{
		{nil, "", time.Time{}, time.Time{}},
		{[]edit{exp(time.Second)}, "", time.Time{}, at(time.Second - 1)},
		{[]edit{exp(0)}, "exp", time.Time{}, time.Time{}},
		{[]edit{exp(-time.Hour)}, "exp", time.Time{}, time.Time{}},
		{[]edit{nbf(0)}, "", noon, time.Time{}},
		{[]edit{nbf(time.Second)}, "nbf", time.Time{}, time.Time{}},
		{[]edit{iat(time.Minute)}, "", noon, at(time.Hour + time.Minute)},
		{[]edit{iat(61 * time.Second)}, "iat", time.Time{}, time.Time{}},
		{[]edit{iat(200 * 365 * 24 * time.Hour)}, "iat", time.Time{}, time.Time{}},
		{[]edit{iat(-time.Hour)}, "", at(-time.Hour - time.Minute), noon},
		{[]edit{iat(-time.Hour - time.Second)}, "limits.maxAge", time.Time{}, time.Time{}},
		{[]edit{iat(-time.Minute), nbf(-time.Second), exp(time.Minute)}, "", at(-time.Second), at(time.Minute - 1)},
	} {
		s := sign(t, wabbit, key, c.edits...)
		d := p.Evaluate(s, noon)
		if c.rule != "" {
			refused(t, d, CodeRejected, c.rule)
			continue
		}
		admitted(t, d)
		if !d.NotBefore.Equal(c.from) || !d.NotAfter.Equal(c.to) {
			t.Errorf("window %v to %v, want %v to %v", d.NotBefore, d.NotAfter, c.from, c.to)
		}
		// The window is neither too wide nor too narrow.
		for _, edge := range []struct {
			at   time.Time
			want bool
		}{{d.NotBefore, true}, {d.NotBefore.Add(-1), false}, {d.NotAfter, true}, {d.NotAfter.Add(1), false}} {
			if edge.at.Year() < 1000 {
				continue // that end is open
			}
			again := p.Evaluate(s, edge.at)
			if admits := again.Refusal == nil; admits != edge.want {
				t.Errorf("at %v, window %v to %v: admitted is %t", edge.at, d.NotBefore, d.NotAfter, admits)
			}
		}
	}
}

func TestArtifactsAreThoseOfTheExtractorsInOrder(t *testing.T) {
	key := newKey(t)
	const other = "1111111111111111111111111111111111111111111111111111111111111111"
	provenance := func(subjects string) func(*statement.Template) {
		return func(tmpl *statement.Template) {
			tmpl.ContentType = "application/vnd.in-toto+json"
			tmpl.Payload = []byte(`{"_type":"https://in-toto.io/Statement/v1","subject":[` + subjects + `],"predicateType":"https://slsa.dev/provenance/v1","predicate":{}}`)
		}
	}
	one := func(hex string) string { return `{"name":"a","digest":{"sha256":"` + hex + `"}}` }
	evaluate := func(edit func(*Document), s *statement.Statement) Decision {
		o := newOperator(t)
		doc := o.document(keyIssuer(wabbit, key))
		edit(&doc)
		return bootstrap(t, o.publish(doc)).Evaluate(s, noon)
	}
	order := func(e ...statement.Extractor) func(*Document) { return func(d *Document) { d.Subjects = e } }
	both := sign(t, wabbit, key, provenance(one(other)))
	for _, c := range []struct {
		order []statement.Extractor
		want  string
	}{
		{[]statement.Extractor{statement.ExtractInToto, statement.ExtractSubject}, "sha256:" + other},
		{[]statement.Extractor{statement.ExtractSubject, statement.ExtractInToto}, image[len("pkg:oci/net-monitor@"):]},
	} {
		d := evaluate(order(c.order...), both)
		if admitted(t, d); len(d.Artifacts) != 1 || string(d.Artifacts[0]) != c.want {
			t.Errorf("%v found %v, want %s", c.order, d.Artifacts, c.want)
		}
	}
	if d := evaluate(order(), both); d.Refusal != nil || len(d.Artifacts) != 0 {
		t.Errorf("no extractor found %+v", d)
	}

	many := func(n int) *statement.Statement {
		var list []string
		for i := range n {
			list = append(list, one(fmt.Sprintf("%064x", i)))
		}
		return sign(t, wabbit, key, provenance(strings.Join(list, ",")))
	}
	keep := func(*Document) {}
	if d := evaluate(keep, many(256)); d.Refusal != nil || len(d.Artifacts) != 256 {
		t.Errorf("256 artifacts: %v, %d found", d.Refusal, len(d.Artifacts))
	}
	refused(t, evaluate(keep, many(257)), CodeRejected, "subjects")
}

func TestAPolicyMayAskForASubject(t *testing.T) {
	key := newKey(t)
	o := newOperator(t)
	doc := o.document(keyIssuer(wabbit, key))
	doc.RequireSubject = true
	strict, lax := bootstrap(t, o.publish(doc)), inForce(t, keyIssuer(wabbit, key))
	admitted(t, strict.Evaluate(sign(t, wabbit, key), noon))
	digest := image[strings.Index(image, "sha256:"):]
	for _, sub := range []string{"net-monitor", digest[:len(digest)-1], strings.ToUpper(digest), "sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709", "sha256:"} {
		s := sign(t, wabbit, key, subject(sub))
		refused(t, strict.Evaluate(s, noon), CodeSubjectMissing, "requireSubject")
		admitted(t, lax.Evaluate(s, noon))
	}
}

// With a bad signature, whatever else is wrong is found first: a stranger pays
// nobody's signature checks.
func TestCheapChecksComeBeforeTheSignature(t *testing.T) {
	key := newKey(t)
	o := newOperator(t)
	i := keyIssuer(wabbit, key)
	i.MediaTypes = []string{sbom}
	doc := o.document(i)
	doc.Deny, doc.RequireSubject = []string{acme}, true
	p := bootstrap(t, o.publish(doc))
	broken := func(iss string, edit ...func(*statement.Template)) Decision {
		b := bytes.Clone(sign(t, iss, key, edit...).Canonical())
		b[len(b)-1] ^= 1
		return p.Evaluate(parse(t, b), noon)
	}
	refused(t, broken(acme), CodeRejected, "deny[0]")
	refused(t, broken("https://stranger.example"), CodeUnknownIssuerKey, "issuers")
	refused(t, broken(wabbit, mediaType("text/plain")), CodeRejected, "issuers[0].mediaTypes")
	refused(t, broken(wabbit, kid([]byte("x"))), CodeUnknownIssuerKey, "issuers[0].kid")
	refused(t, broken(wabbit, func(tmpl *statement.Template) { tmpl.Expires = noon }), CodeRejected, "exp")
	refused(t, broken(wabbit, subject("x")), CodeSubjectMissing, "requireSubject")
	refused(t, broken(service, mediaType(MediaType)), CodeRejected, "operators")
	refused(t, broken(wabbit), CodeBadSignature, "issuers[0].key")
}

func TestEvaluateRepeatsItselfAndCanBeReplayed(t *testing.T) {
	key, root := newKey(t), newCA(t, "root")
	mid := root.intermediate("mid")
	pattern := caIssuer("", root)
	pattern.Pattern = `^https://[a-z]+\.partners\.example$`
	p := inForce(t, keyIssuer(wabbit, key), caIssuer(acme, root), pattern)
	logged, err := p.JSON()
	if err != nil {
		t.Fatal(err)
	}
	iat := func(tmpl *statement.Template) { tmpl.IssuedAt, tmpl.Expires = noon, noon.Add(time.Minute) }
	for _, s := range []*statement.Statement{
		sign(t, wabbit, key, iat),
		sign(t, wabbit, newKey(t)),
		sign(t, acme, mid.leaf(acme)),
		sign(t, acme, mid.leaf(acme), unprotected, iat),
		sign(t, "https://one.partners.example", root.leaf("https://one.partners.example"), unprotected),
		sign(t, acme, mid.leaf(wabbit), unprotected),
	} {
		first := p.Evaluate(s, noon)
		if again := p.Evaluate(s, noon); !reflect.DeepEqual(again, first) {
			t.Errorf("first  %+v\nsecond %+v", first, again)
		}
		// Later, in another process: only what was kept, and the same time.
		kept := parse(t, s.Canonical())
		if first.Chain != nil {
			if kept, err = kept.WithChain(first.Chain); err != nil {
				t.Fatal(err)
			}
		} else if !s.ChainProtected && s.Chain != nil && first.Refusal == nil {
			t.Errorf("no chain was kept of %+v", first)
		}
		if first.Refusal != nil {
			continue // never an entry, so nothing to replay
		}
		cold, err := Parse(logged)
		if err != nil {
			t.Fatal(err)
		}
		cold.Entry, cold.Service = p.Entry, p.Service
		if replayed := cold.Evaluate(kept, noon); !reflect.DeepEqual(replayed, first) {
			t.Errorf("first    %+v\nreplayed %+v", first, replayed)
		}
	}
}

func TestOnePolicyServesManyAtOnce(t *testing.T) {
	root, key := newCA(t, "root"), newKey(t)
	p := inForce(t, caIssuer(acme, root), keyIssuer(wabbit, key))
	statements := []*statement.Statement{sign(t, acme, root.leaf(acme)), sign(t, wabbit, key), sign(t, acme, root.leaf(acme), unprotected)}
	var group sync.WaitGroup
	for i := range 32 {
		group.Go(func() { admitted(t, p.Evaluate(statements[i%len(statements)], noon)) })
	}
	group.Wait()
}

func TestHostileTextIsQuotedAndCutInRefusals(t *testing.T) {
	p := inForce(t, keyIssuer(wabbit, newKey(t)))
	key := newKey(t)
	for _, s := range []*statement.Statement{
		sign(t, strings.Repeat("é", 8192), key),
		sign(t, `https://x"; DROP TABLE entries; --`, key),
		sign(t, wabbit, key, kid(bytes.Repeat([]byte{0x1b}, 4096))),
	} {
		d := p.Evaluate(s, noon)
		refused(t, d, CodeUnknownIssuerKey, d.Rule)
		if len(d.Refusal.Reason) > 600 {
			t.Errorf("reason of %d bytes", len(d.Refusal.Reason))
		}
	}
}

func TestAPolicyThatWasNotReadAdmitsNothing(t *testing.T) {
	key := newKey(t)
	refused(t, (&Policy{}).Evaluate(sign(t, wabbit, key), noon), CodeUnknownIssuerKey, "issuers")
	refused(t, (&Policy{}).Evaluate(sign(t, wabbit, key, mediaType(MediaType)), noon), CodeRejected, "operators")
}
