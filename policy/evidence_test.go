package policy

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/internal/envelope/envelopetest"
	"github.com/scittd/scittd/internal/timestamp/timestamptest"
	"github.com/scittd/scittd/statement"
)

const (
	dsseType   = "application/vnd.dsse.envelope.v1+json"
	bundleType = "application/vnd.dev.sigstore.bundle.v0.3+json"
	notaryType = "application/cose"

	accounts = "https://accounts.example"
	release  = "https://git.example/wabbit/app/release.yml"
)

var imageDigest = statement.Digest(image[strings.Index(image, "@")+1:])

// vouched is a rule of wabbit, whose evidence somebody else has to have signed.
func vouched(key crypto.Signer, signers ...Signer) Issuer {
	i := keyIssuer(wabbit, key)
	i.Evidence = &Evidence{MediaTypes: []string{dsseType, bundleType, notaryType}, Signers: signers}
	return i
}

// about is a statement of wabbit about an image with that evidence: attached,
// detached but at hand, and hashed.
func about(t testing.TB, key crypto.Signer, mediaType string, evidence []byte, edit ...func(*statement.Template)) map[string]*statement.Statement {
	t.Helper()
	with := func(form func(*statement.Template)) *statement.Statement {
		return sign(t, wabbit, key, append(edit, func(tmpl *statement.Template) {
			tmpl.ContentType, tmpl.Payload = mediaType, evidence
			form(tmpl)
		})...)
	}
	detached, err := with(func(tmpl *statement.Template) { tmpl.Detached = true }).WithPayload(statement.SHA256(evidence), evidence)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]*statement.Statement{
		"attached": with(func(*statement.Template) {}),
		"detached": detached,
		"hashed": with(func(tmpl *statement.Template) {
			sum := sha256.Sum256(evidence)
			tmpl.HashAlg, tmpl.Payload = -16, sum[:]
		}),
	}
}

func material(evidence []byte) Material {
	return Material{Kind: EvidenceDocument, Source: string(statement.SHA256(evidence)), Body: evidence}
}

// signedBy is an envelope signer with a certificate.
func signedBy(s signer) envelopetest.Signer {
	return envelopetest.Signer{Key: s.Signer, Chain: s.chain}
}

// loggedInAt makes a leaf what Fulcio makes.
func loggedInAt(t testing.TB, where string) func(*x509.Certificate) {
	t.Helper()
	der, err := asn1.MarshalWithParams(where, "utf8")
	if err != nil {
		t.Fatal(err)
	}
	return func(c *x509.Certificate) {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: fulcioOID(newIssuer), Value: der})
	}
}

// site is who signs envelopes in these tests, in every way that there is.
type site struct {
	key      envelopetest.Signer
	vendor   *ca
	fulcio   *ca
	clock    *timestamptest.Authority
	byKey    Signer
	byVendor Signer
	byLogin  Signer
}

func newSite(t testing.TB) *site {
	t.Helper()
	key := newKey(t)
	pinned := pub(key)
	s := &site{
		key:    envelopetest.Signer{Key: key, KeyID: "a hint"},
		vendor: newCA(t, "vendor"), fulcio: newCA(t, "fulcio"), clock: timestamptest.New(t, noon, nil),
		byKey: Signer{Key: &pinned},
	}
	s.byVendor = Signer{Iss: acme, X509: &X509{Roots: []Root{{s.vendor.cert}}}}
	s.byLogin = Signer{OIDC: &OIDC{
		Issuer: accounts, Identity: release,
		TrustedRoot: TrustedRoot{
			CertificateAuthorities: []TrustedAuthority{{Chain: []Root{{s.fulcio.cert}}}},
			TimestampAuthorities:   []TrustedAuthority{{Chain: []Root{{s.clock.Root}}}},
		},
	}}
	return s
}

// seen makes time-stamps for a bundle.
func (s *site) seen(t testing.TB, at time.Time) func([]byte) []byte {
	return func(sig []byte) []byte { return s.clock.Response(t, sig, at, nil) }
}

// brief is a leaf of fulcio that held for ten minutes before at.
func (s *site) brief(t testing.TB, at time.Time) signer {
	return s.fulcio.leaf(release, loggedInAt(t, accounts), func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = at.Add(-10*time.Minute), at
	})
}

// Whoever names the type says nothing about what it is.
func TestAnEnvelopeIsJudgedWhateverItIsCalled(t *testing.T) {
	key, site := newKey(t), newSite(t)
	attestation := envelopetest.InToto(t, imageDigest)
	p := inForce(t, vouched(key, site.byKey))
	stranger := envelopetest.Signer{Key: newKey(t)}
	strange := envelopetest.DSSE(t, attestation, stranger)
	notary := envelopetest.Notary(t, envelopetest.NotaryPayload(t, imageDigest), stranger, envelopetest.NotaryHeader(noon, time.Time{}))
	const inToto = "application/vnd.in-toto+json"
	for name, c := range map[string]struct {
		mediaType string
		evidence  []byte
		admitted  bool
	}{
		"DSSE as in-toto":                  {inToto, strange, false},
		"DSSE as text":                     {"text/plain", strange, false},
		"DSSE with names that differ":      {inToto, bytes.Replace(strange, []byte(`"payloadType"`), []byte(`"PayloadType"`), 1), false},
		"a bundle as JSON":                 {"application/json", envelopetest.Bundle(t, attestation, stranger, nil), false},
		"a Notary signature as bytes":      {"application/octet-stream", notary, false},
		"of a listed signer":               {inToto, envelopetest.DSSE(t, attestation, site.key), true},
		"the attestation without envelope": {inToto, attestation, true},
		"something else":                   {"text/plain", []byte("payloadType"), true},
	} {
		all := about(t, key, c.mediaType, c.evidence)
		for _, how := range []string{"attached", "detached"} {
			d := p.Evaluate(all[how], noon)
			switch {
			case c.admitted:
				admitted(t, d)
			case d.Refusal == nil:
				t.Errorf("%s, %s: admitted", name, how)
			case !strings.HasPrefix(d.Refusal.Rule, "issuers[0].evidence"):
				t.Errorf("%s, %s: refused by %s: %s", name, how, d.Refusal.Rule, d.Refusal.Reason)
			case name == "DSSE as in-toto" && (!strings.Contains(d.Refusal.Hint, `: key "hex:`) || strings.Contains(d.Refusal.Reason, wabbit)):
				t.Errorf("%s, %s: the refusal names the issuer and not the signers: %+v", name, how, d.Refusal)
			}
		}
	}
	if notes := p.Lint(); !slices.ContainsFunc(notes, func(n string) bool { return strings.HasPrefix(n, "issuers[0].evidence.mediaTypes: ") }) {
		t.Errorf("nothing is said about types that evidence does not list: %q", notes)
	}
}

func TestEvidenceIsAdmittedFromItsOwnSigner(t *testing.T) {
	key, site := newKey(t), newSite(t)
	attestation := envelopetest.InToto(t, imageDigest)
	notary := func(s envelopetest.Signer) []byte {
		return envelopetest.Notary(t, envelopetest.NotaryPayload(t, imageDigest), s, envelopetest.NotaryHeader(noon, time.Time{}))
	}
	leaf := site.vendor.leaf(acme)
	earlier := noon.Add(-3 * time.Hour)
	for _, c := range []struct {
		name      string
		mediaType string
		evidence  []byte
		kind      string
		found     string
		signers   []Signer
	}{
		{"DSSE by key", dsseType, envelopetest.DSSE(t, attestation, site.key), PinnedKey, "", []Signer{site.byKey}},
		{"DSSE by certificate", dsseType, envelopetest.DSSE(t, attestation, signedBy(leaf)), Certificate, acme, []Signer{site.byVendor}},
		{"DSSE by the second of two", dsseType, envelopetest.DSSE(t, attestation, envelopetest.Signer{Key: newKey(t)}, site.key), PinnedKey, "", []Signer{site.byVendor, site.byKey}},
		{"bundle by key", bundleType, envelopetest.Bundle(t, attestation, site.key, nil), PinnedKey, "", []Signer{site.byKey}},
		{"bundle by certificate", bundleType, envelopetest.Bundle(t, attestation, signedBy(leaf), nil), Certificate, acme, []Signer{site.byKey, site.byVendor}},
		{"bundle by login, now", bundleType, envelopetest.Bundle(t, attestation, signedBy(site.brief(t, noon.Add(time.Minute))), nil), ByOIDC, release, []Signer{site.byLogin}},
		{"bundle by login, earlier", bundleType, envelopetest.Bundle(t, attestation, signedBy(site.brief(t, earlier.Add(time.Minute))), site.seen(t, earlier)), ByOIDC, release, []Signer{site.byLogin}},
		{"Notary by certificate", notaryType, notary(signedBy(leaf)), Certificate, acme, []Signer{site.byVendor}},
		{"Notary by key", notaryType, notary(envelopetest.Signer{Key: site.key.Key, Chain: leaf.chain}), PinnedKey, "", []Signer{site.byVendor, site.byKey}},
	} {
		p := inForce(t, vouched(key, c.signers...))
		for how, s := range about(t, key, c.mediaType, c.evidence) {
			digest, needed := p.NeedsEvidence(s)
			if needed != (how == "hashed") || needed && digest != statement.SHA256(c.evidence) {
				t.Errorf("%s, %s: needs evidence %s, %v", c.name, how, digest, needed)
			}
			var with []Material
			if needed {
				with = []Material{material(c.evidence)}
			}
			d := p.Evaluate(s, noon, with...)
			admitted(t, d)
			if d.Rule != "issuers[0].key" || d.EvidenceSigner.Kind != c.kind || d.EvidenceSigner.Name != c.found || !reflect.DeepEqual(d.Materials, with) {
				t.Errorf("%s, %s: by %s, signed by %+v, with %d materials", c.name, how, d.Rule, d.EvidenceSigner, len(d.Materials))
			}
			// What was kept of it, a digest, is enough to check the record.
			kept := slices.Clone(with)
			for i := range kept {
				kept[i].Body = nil
			}
			r, err := p.Recorded(s, d.Rule, d.Identity, kept...)
			if err != nil || !reflect.DeepEqual(r.Materials, kept) {
				t.Errorf("%s, %s: recorded %+v, %v", c.name, how, r.Materials, err)
			}
		}
	}
}

func TestEvidenceOfAnotherSignerIsRefused(t *testing.T) {
	key, site := newKey(t), newSite(t)
	attestation := envelopetest.InToto(t, imageDigest)
	leaf := site.vendor.leaf(acme)
	stranger := envelopetest.Signer{Key: newKey(t), KeyID: "a hint"}
	good := envelopetest.DSSE(t, attestation, site.key)
	encoded := func(b []byte) []byte { return base64.StdEncoding.AppendEncode(nil, b) }
	exchanged := bytes.Replace(good, encoded(attestation), encoded(bytes.Replace(attestation, []byte("slsa"), []byte("alsa"), 1)), 1)
	expired := site.vendor.leaf(acme, func(c *x509.Certificate) { c.NotAfter = noon.Add(-time.Hour) })
	notary := func(expires time.Time) []byte {
		return envelopetest.Notary(t, envelopetest.NotaryPayload(t, imageDigest), signedBy(leaf), envelopetest.NotaryHeader(noon, expires))
	}
	tampered := bytes.Clone(notary(time.Time{}))
	copy(tampered[bytes.Index(tampered, []byte("16724")):], "16725")
	other := timestamptest.New(t, noon, nil)
	earlier := noon.Add(-3 * time.Hour)
	const signers = "issuers[0].evidence.signers"
	for _, c := range []struct {
		name      string
		mediaType string
		evidence  []byte
		signer    Signer
		code      string
		rule      string
	}{
		{"another key", dsseType, envelopetest.DSSE(t, attestation, stranger), site.byKey, CodeBadSignature, signers + "[0].key"},
		{"a key where a certificate belongs", dsseType, good, site.byVendor, CodeUnknownIssuerKey, signers + "[0].x509"},
		{"another name", dsseType, envelopetest.DSSE(t, attestation, signedBy(site.vendor.leaf(wabbit))), site.byVendor, CodeCertificateInvalid, signers + "[0].x509.san"},
		{"another root", bundleType, envelopetest.Bundle(t, attestation, signedBy(newCA(t, "stranger").leaf(acme)), nil), site.byVendor, CodeCertificateInvalid, signers + "[0].x509"},
		{"expired certificate", bundleType, envelopetest.Bundle(t, attestation, signedBy(expired), nil), site.byVendor, CodeCertificateInvalid, signers + "[0].x509"},
		{"key of another certificate", bundleType, envelopetest.Bundle(t, attestation, envelopetest.Signer{Key: newKey(t), Chain: leaf.chain}, nil), site.byVendor, CodeBadSignature, signers + "[0].x509"},
		{"logged in elsewhere", bundleType, envelopetest.Bundle(t, attestation, signedBy(site.fulcio.leaf(release, loggedInAt(t, "https://evil.example"))), nil), site.byLogin, CodeCertificateInvalid, signers + "[0].oidc.issuer"},
		{"expired, with no time-stamp", bundleType, envelopetest.Bundle(t, attestation, signedBy(site.brief(t, earlier)), nil), site.byLogin, CodeCertificateInvalid, signers + "[0].oidc"},
		{"time-stamp of a stranger", bundleType, envelopetest.Bundle(t, attestation, signedBy(site.brief(t, earlier.Add(time.Minute))), func(sig []byte) []byte { return other.Response(t, sig, earlier, nil) }), site.byLogin, CodeCertificateInvalid, signers + "[0].oidc.trustedRoot"},
		{"time-stamp of other bytes", bundleType, envelopetest.Bundle(t, attestation, signedBy(site.brief(t, earlier.Add(time.Minute))), func([]byte) []byte { return site.clock.Response(t, []byte("other"), earlier, nil) }), site.byLogin, CodeCertificateInvalid, signers + "[0].oidc.trustedRoot"},
		{"time-stamp from the future", bundleType, envelopetest.Bundle(t, attestation, signedBy(site.brief(t, noon.Add(2*time.Hour))), site.seen(t, noon.Add(time.Hour+time.Minute))), site.byLogin, CodeCertificateInvalid, signers + "[0].oidc.trustedRoot"},
		{"stamped when the certificate had expired", bundleType, envelopetest.Bundle(t, attestation, signedBy(site.brief(t, earlier)), site.seen(t, earlier.Add(time.Minute))), site.byLogin, CodeCertificateInvalid, signers + "[0].oidc"},

		{"exchanged payload", dsseType, exchanged, site.byKey, CodeBadSignature, signers + "[0].key"},
		{"tampered Notary payload", notaryType, tampered, site.byVendor, CodeBadSignature, signers + "[0].x509"},
		{"expired by its signer", notaryType, notary(noon), site.byVendor, CodeRejected, "issuers[0].evidence"},
		{"no envelope", dsseType, []byte(`{"bomFormat":"CycloneDX"}`), site.byKey, CodeRejected, "issuers[0].evidence"},
		{"nothing that is known", dsseType, []byte("signed, me"), site.byKey, CodeRejected, "issuers[0].evidence"},
		{"an envelope of another kind", bundleType, good, site.byKey, CodeRejected, "issuers[0].evidence.mediaTypes"},
		{"about nothing that has a digest", bundleType, envelopetest.Bundle(t, envelopetest.InToto(t), site.key, nil), site.byKey, CodeRejected, "issuers[0].evidence"},
		{"about another image", bundleType, envelopetest.Bundle(t, envelopetest.InToto(t, statement.SHA256(nil)), site.key, nil), site.byKey, CodeRejected, "issuers[0].evidence"},
	} {
		p := inForce(t, vouched(key, c.signer))
		for how, s := range about(t, key, c.mediaType, c.evidence) {
			d := p.Evaluate(s, noon, material(c.evidence))
			if d.Refusal == nil || d.Refusal.Code != c.code || d.Refusal.Rule != c.rule {
				t.Errorf("%s, %s: %+v; want %s by %s", c.name, how, d.Refusal, c.code, c.rule)
				continue
			}
			refused(t, d, c.code, c.rule)
		}
	}
}

func TestEvidenceThatIsNotHereIsAskedFor(t *testing.T) {
	key, site := newKey(t), newSite(t)
	evidence := envelopetest.DSSE(t, envelopetest.InToto(t, imageDigest), site.key)
	p := inForce(t, vouched(key, site.byKey))
	s := about(t, key, dsseType, evidence)["hashed"]
	d := p.Evaluate(s, noon)
	refused(t, d, CodePayloadMissing, "issuers[0].evidence")
	if want := "PUT /v1/evidence/" + string(statement.SHA256(evidence)); !strings.Contains(d.Refusal.Hint, want) {
		t.Errorf("hint %q does not say %s", d.Refusal.Hint, want)
	}
	// A purge leaves the digest, which proves nothing.
	kept := material(evidence)
	kept.Body = nil
	refused(t, p.Evaluate(s, noon, kept), CodePayloadMissing, "issuers[0].evidence")
	if _, err := p.Recorded(s, "issuers[0].key", d.Identity); err == nil {
		t.Error("a record without the digest of its evidence passes")
	}
	swapped := material(envelopetest.DSSE(t, envelopetest.InToto(t), site.key))
	swapped.Source = kept.Source
	refused(t, p.Evaluate(s, noon, swapped), CodeRejected, "issuers[0].evidence")
}

func TestEvidenceOfOtherMediaTypesIsNotLookedAt(t *testing.T) {
	key, site := newKey(t), newSite(t)
	p := inForce(t, vouched(key, site.byKey))
	for how, s := range about(t, key, sbom, []byte(`{"bomFormat":"CycloneDX"}`)) {
		if digest, needed := p.NeedsEvidence(s); needed {
			t.Errorf("%s: needs %s", how, digest)
		}
		d := p.Evaluate(s, noon)
		admitted(t, d)
		if d.EvidenceSigner != (Identity{}) {
			t.Errorf("%s: signed by %+v", how, d.EvidenceSigner)
		}
	}
}

func TestADecisionHoldsAsLongAsItsEvidenceDoes(t *testing.T) {
	key, site := newKey(t), newSite(t)
	leaf := site.vendor.leaf(acme, func(c *x509.Certificate) { c.NotAfter = noon.Add(time.Hour) })
	expires := noon.Add(10 * time.Minute)
	evidence := envelopetest.Notary(t, envelopetest.NotaryPayload(t, imageDigest), signedBy(leaf), envelopetest.NotaryHeader(noon, expires))
	p := inForce(t, vouched(key, site.byVendor))
	d := p.Evaluate(about(t, key, notaryType, evidence)["attached"], noon)
	admitted(t, d)
	if !d.NotAfter.Equal(expires.Add(-1)) || !d.NotBefore.Equal(leaf0(t, leaf).NotBefore) {
		t.Errorf("holds from %v to %v", d.NotBefore, d.NotAfter)
	}
	// A time-stamp makes it hold for good.
	then := noon.Add(-3 * time.Hour)
	stamped := envelopetest.Bundle(t, envelopetest.InToto(t, imageDigest), signedBy(site.brief(t, then.Add(time.Minute))), site.seen(t, then))
	d = inForce(t, vouched(key, site.byLogin)).Evaluate(about(t, key, bundleType, stamped)["attached"], noon)
	admitted(t, d)
	if !d.NotAfter.IsZero() || !d.NotBefore.Equal(then.Add(-maxAhead)) {
		t.Errorf("holds from %v to %v", d.NotBefore, d.NotAfter)
	}
}

func leaf0(t testing.TB, s signer) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(s.chain[0])
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestSignersOfEvidenceMayBeLookedUp(t *testing.T) {
	key := newKey(t)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	jwks := fmt.Appendf(nil, `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"ci","x":"%s"}]}`, base64.RawURLEncoding.EncodeToString(ed.Public().(ed25519.PublicKey)))
	const url = "https://ci.example/keys.json"
	p := inForce(t, vouched(key, Signer{Keys: &KeySet{URL: url}}))
	evidence := envelopetest.DSSE(t, envelopetest.InToto(t, imageDigest), envelopetest.Signer{Key: ed, KeyID: "ci"})
	s := about(t, key, dsseType, evidence)["hashed"]
	want := []Lookup{{KeySetDocument, url}}
	if got := p.Lookups(s); !reflect.DeepEqual(got, want) {
		t.Errorf("lookups %v, want %v", got, want)
	}
	if got := p.Lookups(sign(t, wabbit, key)); len(got) != 0 {
		t.Errorf("lookups %v for evidence of another type", got)
	}
	refused(t, p.Evaluate(s, noon, material(evidence)), CodeLookupFailed, "issuers[0].evidence.signers[0].keys")
	with := []Material{{Kind: KeySetDocument, Source: url, Body: jwks}, material(evidence)}
	d := p.Evaluate(s, noon, with...)
	admitted(t, d)
	if !reflect.DeepEqual(d.Materials, with) || d.EvidenceSigner.Kind != ByKeySet {
		t.Errorf("used %+v, signed by %+v", d.Materials, d.EvidenceSigner)
	}
	r, err := p.Recorded(s, d.Rule, d.Identity, with...)
	if err != nil || !reflect.DeepEqual(r.Materials, with) {
		t.Errorf("recorded %+v, %v", r.Materials, err)
	}
}

// What Sigstore's own tools have signed: a release of sigstore-js, by its workflow
// at GitHub, and an artifact by a bare key.
func TestBundlesThatSigstoreMadeAreAdmitted(t *testing.T) {
	const vectors = "../testdata/sigstore/"
	key := newKey(t)
	root, err := ParseTrustedRoot(fromFile(t, vectors+"public-good.trusted_root.json"))
	if err != nil {
		t.Fatal(err)
	}
	pinned, err := cose.ParsePublic(fromFile(t, vectors+"public-key-validity.pem"))
	if err != nil {
		t.Fatal(err)
	}
	workflow := Signer{OIDC: &OIDC{
		TrustedRoot: root, Issuer: "https://token.actions.githubusercontent.com",
		Identity: "https://github.com/sigstore/sigstore-js/.github/workflows/release.yml@refs/heads/*",
	}}
	const released = "sha512:46d4e2f74c4877316640000a6fdf8a8b59f1e0847667973e9859f774dd31b8f1e0937813b777fb66a2ac67d50540fe34640966eee9fc2ccca387082b4c85cd3c"
	for _, c := range []struct {
		name   string
		signer Signer
		sub    string
		at     time.Time
		code   string
	}{
		{"provenance", workflow, "sigstore@" + released, time.Date(2023, 8, 18, 16, 10, 0, 0, time.UTC), ""},
		{"provenance", workflow, "sigstore@" + released, time.Date(2023, 8, 18, 17, 0, 0, 0, time.UTC), CodeCertificateInvalid},
		{"provenance", workflow, image, time.Date(2023, 8, 18, 16, 10, 0, 0, time.UTC), CodeRejected},
		{"public-key-validity", Signer{Key: ptr(Key(pinned))}, "an artifact", noon, ""},
		{"provenance", Signer{Key: ptr(Key(pinned))}, "sigstore", noon, CodeBadSignature},
	} {
		i := vouched(key, c.signer)
		i.Evidence.MediaTypes = append(i.Evidence.MediaTypes, "application/vnd.dev.sigstore.bundle+json")
		evidence := fromFile(t, vectors+c.name+".sigstore.json")
		for how, s := range about(t, key, "application/vnd.dev.sigstore.bundle+json", evidence, subject(c.sub)) {
			d := inForce(t, i).Evaluate(s, c.at, material(evidence))
			if c.code == "" && d.Refusal != nil || c.code != "" && (d.Refusal == nil || d.Refusal.Code != c.code) {
				t.Errorf("%s at %v, %s: %+v; want %q", c.name, c.at, how, d.Refusal, c.code)
			}
		}
	}
}

func ptr[T any](v T) *T { return &v }

func TestAnExplanationNamesTheSignerOfEvidence(t *testing.T) {
	key, site := newKey(t), newSite(t)
	i := vouched(key, site.byVendor)
	i.Name = "releases"
	p := inForce(t, i)
	for name, by := range map[string]*ca{"": site.vendor, "releases.evidence.signers[0].x509": newCA(t, "stranger")} {
		evidence := envelopetest.DSSE(t, envelopetest.InToto(t, imageDigest), signedBy(by.leaf(acme)))
		d, steps := p.Explain(about(t, key, dsseType, evidence)["attached"], noon)
		at := slices.IndexFunc(steps, func(s Step) bool { return s.Rule == "releases.evidence" })
		switch {
		case at < 0:
			t.Errorf("no step about the evidence: %+v", steps)
		case name == "" && (d.Refusal != nil || steps[at].Outcome != Holds || !strings.Contains(steps[at].Input, acme)):
			t.Errorf("%+v, %+v", d.Refusal, steps[at])
		case name != "" && (d.Refusal == nil || d.Refusal.Rule != name || steps[at].Outcome != Refuses):
			t.Errorf("%+v, %+v; want refused by %s", d.Refusal, steps[at], name)
		}
	}
}

// While a root is replaced, the chain that does not lead to the other one is no
// reason: the evidence is.
func TestOfSeveralRulesTheOneThatLacksOnlyEvidenceSaysWhyNot(t *testing.T) {
	at, old, next := newSite(t), newCA(t, "old"), newCA(t, "next")
	current := caIssuer(wabbit, next)
	current.Evidence = &Evidence{MediaTypes: []string{dsseType}, Signers: []Signer{at.byKey}}
	p := inForce(t, caIssuer(wabbit, old), current)
	evidence := envelopetest.DSSE(t, envelopetest.InToto(t, imageDigest), at.key)
	s := about(t, next.leaf(wabbit), dsseType, evidence)["hashed"]
	refused(t, p.Evaluate(s, noon), CodePayloadMissing, "issuers[1].evidence")
	admitted(t, p.Evaluate(s, noon, material(evidence)))
	s = about(t, newCA(t, "strange").leaf(wabbit), dsseType, evidence)["hashed"]
	refused(t, p.Evaluate(s, noon), CodeCertificateInvalid, "issuers[0].x509")
}
