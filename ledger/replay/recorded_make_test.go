package replay_test

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/internal/envelope/envelopetest"
	"github.com/scittd/scittd/internal/timestamp/timestamptest"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

// actor is somebody who registers statements, and the rule that admits them.
type actor struct {
	rule      policy.Issuer
	key       crypto.Signer
	sign      statement.Template // what all its statements have
	change    func(i int, t *statement.Template)
	materials []policy.Material
}

// recorder makes a log in which every kind of decision is.
type recorder struct {
	*world
	evidence map[statement.Digest][]byte
	images   int
}

// record makes the log anew.
func record(t testing.TB, dir string) {
	w := newWorld(t)
	r := &recorder{world: w, evidence: map[statement.Digest][]byte{}}
	actors := append(append(r.pinned(), r.certified()...), r.named()...)
	r.policy(nil, actors)
	for i := range 9 {
		r.append(r.all(actors, i)...)
	}
	// The second policy: two operators sign those after it, and rules bind some.
	second := *w.operator
	second.Key = ledgertest.NewKey(t)
	ruled := r.ruled()
	r.policy(func(d *policy.Document) {
		d.Operators = append(d.Operators, policy.Operator{Key: policy.Key{Public: second.Key.Public()}})
		d.Threshold = 2
		d.Rules = []policy.Rule{{Name: "not-too-late", When: &policy.When{MediaTypes: []string{ledgertest.Report}}, MaxAge: policy.Duration(240 * time.Hour)}}
		d.Limits.MaxAge = policy.Duration(8760 * time.Hour)
		d.Visibility = policy.Private
	}, append(ruled, actors...))
	for i := range 12 {
		for _, a := range ruled {
			r.append(r.submission(a, i)) // the order counts
		}
	}
	for i := range 3 {
		r.append(r.all(actors, 100+i)...)
	}
	// A third: the first of two operators changes nothing yet.
	in := w.ledger.Policy()
	doc := in.Document
	doc.Visibility, doc.Operators = policy.Public, in.Operators
	for _, o := range []*ledgertest.Operator{w.operator, &second} {
		w.append(o.Policy(t, in.Entry, doc))
		r.append(r.submission(actors[0], 200+len(r.evidence)))
	}
	r.rotate()
	w.append(r.purge())
	r.append(r.all(actors, 300)...)
	h := readAll(t, w.db, w.ledger, ledger.All)
	h.evidence = r.evidence
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	h.save(t, dir, 100)
}

// policy publishes one that admits actors.
func (r *recorder) policy(change func(*policy.Document), actors []actor) {
	r.Helper()
	d := r.operator.Document()
	for _, a := range actors {
		d.Issuers = append(d.Issuers, a.rule)
	}
	if change != nil {
		change(&d)
	}
	r.world.append(r.operator.Policy(r, r.ledger.Policy().Entry, d))
}

// rotate announces a new receipt key, and signs with it from then on.
func (r *recorder) rotate() {
	r.Helper()
	next := ledgertest.NewKey(r)
	r.world.append(r.operator.Announcement(r, next.Public(), r.operator.Receipt.Public()))
	if err := r.ledger.Close(context.Background()); err != nil {
		r.Fatal(err)
	}
	r.operator.Receipt = next
	var err error
	if r.ledger, err = ledger.Open(r.Context(), r.db, ledger.Options{Issuer: r.operator.Issuer(r)}); err != nil {
		r.Fatal(err)
	}
}

// purge is an operator's word that evidence is gone.
func (r *recorder) purge() *statement.Statement {
	r.Helper()
	b, err := statement.Sign(statement.Template{
		Issuer: r.operator.URL, Subject: r.operator.URL + policy.PurgeSubject, ContentType: policy.PurgeMediaType, Payload: inToto(r, 1, 2),
	}, r.operator.Key)
	if err != nil {
		r.Fatal(err)
	}
	s, err := statement.Parse(b)
	if err != nil {
		r.Fatal(err)
	}
	return s
}

// append registers all at once, so that they share batches.
func (r *recorder) append(all ...ledger.Submission) {
	r.Helper()
	var done sync.WaitGroup
	for _, sub := range all {
		done.Go(func() {
			if _, err := r.ledger.Append(r.Context(), sub); err != nil {
				r.Errorf("%s: %v", sub.Statement.Issuer, err)
			}
		})
	}
	if done.Wait(); r.Failed() {
		r.FailNow()
	}
}

func (r *recorder) all(actors []actor, i int) (all []ledger.Submission) {
	for _, a := range actors {
		all = append(all, r.submission(a, i))
	}
	return all
}

// submission is the i-th statement of a, judged.
func (r *recorder) submission(a actor, i int) ledger.Submission {
	r.Helper()
	t := a.sign
	t.Issuer = a.rule.Iss
	if a.sign.Issuer != "" {
		t.Issuer = a.sign.Issuer
	}
	r.images++
	t.Subject = "pkg:oci/net-monitor@" + string(ledgertest.Image(r.images))
	t.ContentType, t.Payload = "application/json", fmt.Appendf(nil, `{"n":%d}`, i)
	if a.change != nil {
		a.change(i, &t)
	}
	b, err := statement.Sign(t, a.key)
	if err != nil {
		r.Fatalf("%s: %v", t.Issuer, err)
	}
	s, err := statement.Parse(b)
	if err != nil {
		r.Fatal(err)
	}
	if s.Detached() {
		digest := statement.SHA256(t.Payload)
		r.evidence[digest] = t.Payload
		if s, err = s.WithPayload(digest, t.Payload); err != nil {
			r.Fatal(err)
		}
	}
	p := r.ledger.Policy()
	materials := a.materials
	if digest, ok := p.NeedsEvidence(s); ok {
		materials = append(materials[:len(materials):len(materials)], policy.Material{Kind: policy.EvidenceDocument, Source: string(digest), Body: r.evidence[digest]})
	}
	d := p.Evaluate(s, time.Now(), materials...)
	if d.Refusal != nil {
		r.Fatalf("%s, statement %d: %v (%s)", t.Issuer, i, d.Refusal, d.Refusal.Rule)
	}
	return ledger.Submission{Statement: s, Decision: d, Materials: materials}
}

// pinned are known by a key: one for every algorithm, and what statements can be.
func (r *recorder) pinned() []actor {
	var all []actor
	for _, alg := range []cose.Algorithm{
		cose.ES256, cose.ES384, cose.ES512, cose.ESP256, cose.ESP384, cose.ESP512, cose.EdDSA, cose.Ed25519, cose.PS256, cose.PS384, cose.PS512,
	} {
		key := keyFor(r, alg)
		all = append(all, actor{rule: policy.Issuer{Iss: "https://" + alg.String() + ".example", Key: &policy.Key{Public: key.Public()}},
			key: key, sign: statement.Template{Alg: alg}})
	}
	like := func(name string, rule policy.Issuer, change func(i int, t *statement.Template)) {
		key := keyFor(r, cose.ES256)
		rule.Iss, rule.Key = "https://"+name+".example", &policy.Key{Public: key.Public()}
		all = append(all, actor{rule: rule, key: key, change: change})
	}
	like("kid", policy.Issuer{Kid: policy.KeyID("release-2026")}, func(_ int, t *statement.Template) { t.KeyID = []byte("release-2026") })
	like("named", policy.Issuer{Name: "release-issuers", MediaTypes: []string{"application/json"}}, nil)
	like("private", policy.Issuer{Visibility: policy.Private}, nil)
	like("envelope", policy.Issuer{}, func(i int, t *statement.Template) {
		sum := sha512.Sum384(t.Payload)
		t.HashAlg, t.Payload, t.Location = -43, sum[:], "https://files.example/report"
	})
	like("intoto", policy.Issuer{PredicateTypes: []string{"https://slsa.dev/provenance/v1"}}, func(i int, t *statement.Template) {
		t.ContentType, t.Subject, t.Payload = ledgertest.InToto, "pkg:oci/net-monitor", inToto(r, r.images, r.images+1)
	})
	like("detached", policy.Issuer{}, func(i int, t *statement.Template) { t.Detached, t.Payload = true, fmt.Appendf(nil, `{"large":%d}`, i) })
	like("times", policy.Issuer{}, func(i int, t *statement.Template) {
		now := time.Now().Truncate(time.Second)
		t.IssuedAt, t.NotBefore, t.Expires = now, now.Add(-time.Hour), now.Add(time.Hour)
	})
	return all
}

func inToto(t testing.TB, images ...int) []byte {
	subjects := []map[string]any{}
	for _, n := range images {
		subjects = append(subjects, map[string]any{"name": "net-monitor", "digest": map[string]string{"sha256": fmt.Sprintf("%x", ledgertest.Image(n).Bytes())}})
	}
	return asJSON(t, map[string]any{"_type": "https://in-toto.io/Statement/v1", "subject": subjects, "predicateType": "https://slsa.dev/provenance/v1", "predicate": map[string]any{}})
}

// certified are known by certificates.
func (r *recorder) certified() []actor {
	var all []actor
	root := newAuthority(r, "Wabbit Root", nil)
	below := newAuthority(r, "Wabbit Issuing", root)
	add := func(iss string, rule policy.Issuer, alg cose.Algorithm, leaf func(*x509.Certificate), sign statement.Template) {
		key := keyFor(r, alg)
		if rule.X509 != nil && rule.X509.Roots == nil {
			rule.X509.Roots = root.anchor()
		}
		if rule.Pattern == "" {
			rule.Iss = iss
		}
		sign.Issuer, sign.Chain = iss, below.leaf(key, leaf)
		all = append(all, actor{rule: rule, key: key, sign: sign})
	}
	const one, two, three, four, five = "https://one.example", "https://two.example", "https://three.example", "https://four.example", "https://five.example"
	unprotected := statement.Template{ChainUnprotected: true}
	add(one, policy.Issuer{X509: &policy.X509{}}, cose.ES256, uri(r, one), unprotected)
	add(two, policy.Issuer{X509: &policy.X509{}}, cose.ES384, uri(r, two), statement.Template{})
	add(three, policy.Issuer{X509: &policy.X509{SAN: "ci@wabbit.example", Subject: map[string]string{"O": "Wabbit"}}}, cose.PS256,
		func(c *x509.Certificate) { c.EmailAddresses = []string{"ci@wabbit.example"} }, unprotected)
	add(four, policy.Issuer{X509: &policy.X509{SAN: "runner.build.example", EKU: "emailProtection"}}, cose.EdDSA, func(c *x509.Certificate) {
		c.DNSNames, c.ExtKeyUsage = []string{"runner.build.example"}, []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}
	}, unprotected)
	add(five, policy.Issuer{X509: &policy.X509{CRLs: []policy.CRL{below.revoke(99)}, Intermediates: []policy.Root{{Certificate: below.Certificate}}}}, cose.ES256, uri(r, five), unprotected)
	add("https://line.partners.example", policy.Issuer{Pattern: `^https://[a-z]+\.partners\.example$`, X509: &policy.X509{}}, cose.ES256, uri(r, "https://line.partners.example"), unprotected)
	add("spiffe://wabbit.example/ci/release", policy.Issuer{X509: &policy.X509{EKU: "none"}}, cose.ES256, func(c *x509.Certificate) {
		uri(r, "spiffe://wabbit.example/ci/release")(c)
		c.ExtKeyUsage = nil
	}, unprotected)
	// The message leaves out what the policy has.
	const six = "https://six.example"
	add(six, policy.Issuer{X509: &policy.X509{Intermediates: []policy.Root{{Certificate: below.Certificate}}}}, cose.ES256, uri(r, six), unprotected)
	all[len(all)-1].sign.Chain = all[len(all)-1].sign.Chain[:1]

	const login, workflow = "https://login.example", "https://git.example/wabbit/net-monitor/.github/workflows/release.yml@refs/tags/v1"
	key, fulcio := keyFor(r, cose.ES256), newAuthority(r, "Login Root", nil)
	all = append(all, actor{
		rule: policy.Issuer{Iss: workflow, OIDC: &policy.OIDC{
			Issuer: login, Identity: "https://git.example/wabbit/net-monitor/.github/workflows/release.yml@refs/tags/*",
			TrustedRoot: policy.TrustedRoot{CertificateAuthorities: []policy.TrustedAuthority{{Chain: fulcio.anchor()}}},
		}},
		key: key, sign: statement.Template{Chain: fulcio.leaf(key, loggedIn(r, login, workflow)), ChainUnprotected: true},
	})

	// A certificate for minutes, long over: a time-stamp says when it was used.
	const nightly = "https://git.example/wabbit/nightly/.github/workflows/build.yml@refs/heads/main"
	brief, clock := newAuthority(r, "Brief Root", nil), timestamptest.New(r, time.Now(), nil)
	stamps := clock.Trusted()
	stamping := policy.TrustedAuthority{From: stamps.From, To: stamps.To}
	for _, c := range stamps.Chain {
		stamping.Chain = append(stamping.Chain, policy.Root{Certificate: c})
	}
	return append(all, actor{
		rule: policy.Issuer{Iss: nightly, OIDC: &policy.OIDC{Issuer: login, TrustedRoot: policy.TrustedRoot{
			CertificateAuthorities: []policy.TrustedAuthority{{Chain: brief.anchor()}}, TimestampAuthorities: []policy.TrustedAuthority{stamping},
		}}},
		key: key,
		change: func(_ int, t *statement.Template) {
			t.Timestamp = func(signature []byte) ([]byte, error) {
				return clock.Token(r, signature, time.Now().Add(-45*time.Minute)), nil
			}
		},
		sign: statement.Template{ChainUnprotected: true, Chain: brief.leaf(key, func(c *x509.Certificate) {
			loggedIn(r, login, nightly)(c)
			c.NotBefore, c.NotAfter = time.Now().Add(-50*time.Minute), time.Now().Add(-40*time.Minute)
		})},
	})
}

// named are known by identifiers that lead to keys, and by keys that are published.
func (r *recorder) named() []actor {
	var all []actor
	ed, p256 := keyFor(r, cose.EdDSA), keyFor(r, cose.ES256)
	did, name := didKey(ed)
	all = append(all, actor{rule: policy.Issuer{Iss: did, DID: &policy.DID{}}, key: ed, sign: statement.Template{KeyID: []byte(name)}})
	did = "did:jwk:" + base64.RawURLEncoding.EncodeToString(asJSON(r, jwk(r, p256, "")))
	all = append(all, actor{rule: policy.Issuer{Iss: did, DID: &policy.DID{}}, key: p256, sign: statement.Template{KeyID: []byte("#0")}})

	did = "did:web:web.example"
	document := asJSON(r, map[string]any{
		"@context": "https://www.w3.org/ns/did/v1", "id": did, "assertionMethod": []string{did + "#k1"},
		"verificationMethod": []any{map[string]any{"id": did + "#k1", "type": "JsonWebKey2020", "controller": did, "publicKeyJwk": jwk(r, p256, "")}},
	})
	all = append(all, actor{rule: policy.Issuer{Iss: did, DID: &policy.DID{}}, key: p256, sign: statement.Template{KeyID: []byte("#k1")},
		materials: []policy.Material{{Kind: policy.DIDDocument, Source: "https://web.example/.well-known/did.json", Body: document}}})

	set := asJSON(r, map[string]any{"keys": []any{jwk(r, keyFor(r, cose.ES256), "old"), jwk(r, p256, "new")}})
	all = append(all, actor{rule: policy.Issuer{Iss: "https://jwks.example", Keys: &policy.KeySet{URL: "https://jwks.example/jwks.json"}}, key: p256, sign: statement.Template{KeyID: []byte("new")},
		materials: []policy.Material{{Kind: policy.KeySetDocument, Source: "https://jwks.example/jwks.json", Body: set}}})
	cbor, err := cose.MarshalKeySet([]cose.Key{{Public: p256.Public(), ID: []byte("k2")}})
	if err != nil {
		r.Fatal(err)
	}
	all = append(all, actor{rule: policy.Issuer{Iss: "https://keys.example", Keys: &policy.KeySet{URL: "https://keys.example/keys.cbor"}}, key: p256, sign: statement.Template{KeyID: []byte("k2")},
		materials: []policy.Material{{Kind: policy.KeySetDocument, Source: "https://keys.example/keys.cbor", Body: cbor}}})

	ca := newAuthority(r, "DID Root", nil)
	key := keyFor(r, cose.ES256)
	all = append(all, actor{rule: policy.Issuer{Iss: didX509(ca), DID: &policy.DID{}}, key: key,
		sign: statement.Template{Chain: ca.leaf(key, func(*x509.Certificate) {}), ChainUnprotected: true}})

	// Whose evidence is an envelope, which somebody else has signed.
	other := keyFor(r, cose.ES256)
	all = append(all, actor{
		rule: policy.Issuer{Iss: "https://evidence.example", Key: &policy.Key{Public: p256.Public()}, MediaTypes: []string{dsse}, Evidence: &policy.Evidence{
			MediaTypes: []string{dsse}, Signers: []policy.Signer{{Key: &policy.Key{Public: other.Public()}}},
		}},
		key: p256,
		change: func(i int, t *statement.Template) {
			envelope := envelopetest.DSSE(r, envelopetest.InToto(r, ledgertest.Image(r.images)), envelopetest.Signer{Key: other})
			t.ContentType, t.Payload = dsse, envelope
			if i%2 == 0 {
				r.evidence[statement.SHA256(envelope)] = envelope
				sum := sha256.Sum256(envelope)
				t.HashAlg, t.Payload = -16, sum[:]
			}
		},
	})
	return all
}

const dsse = "application/vnd.dsse.envelope.v1+json"

// ruled are bound by rules of their own, some of which ask the log.
func (r *recorder) ruled() []actor {
	var all []actor
	add := func(name string, rule policy.Rule, change func(i int, t *statement.Template)) {
		key := keyFor(r, cose.ES256)
		all = append(all, actor{rule: policy.Issuer{Name: name, Iss: "https://" + name + ".example", Key: &policy.Key{Public: key.Public()}, Rules: []policy.Rule{rule}}, key: key, change: change})
	}
	add("claims", policy.Rule{Require: &policy.Require{Claims: []string{"build-id"}, Values: map[string]string{"stage": "release"}}}, func(i int, t *statement.Template) {
		t.Claims = map[any]any{"build-id": int64(i), "stage": "release"}
	})
	add("sequence", policy.Rule{Sequence: &policy.Sequence{Claim: "n"}}, func(i int, t *statement.Template) {
		t.Subject, t.Claims = fmt.Sprintf("runs/%d", i%3), map[any]any{"n": int64(1 + i/3)}
	})
	begin := time.Now().Add(-time.Hour).Truncate(time.Second)
	add("newest", policy.Rule{Newest: policy.NewestSubject}, func(i int, t *statement.Template) {
		t.Subject, t.IssuedAt = "runs/newest", begin.Add(time.Duration(i)*time.Minute)
	})
	add("unique", policy.Rule{Unique: policy.UniqueContent}, func(i int, t *statement.Template) { t.Subject = "runs/unique" })
	add("approval", policy.Rule{
		When: &policy.When{MediaTypes: []string{ledgertest.Report}}, Needs: []policy.Need{{MediaTypes: []string{ledgertest.SBOM}}},
	}, func(i int, t *statement.Template) {
		t.ContentType, t.IssuedAt = ledgertest.SBOM, time.Now().Truncate(time.Second)
		if i%2 == 1 { // what the one before has brought
			t.ContentType, t.Subject = ledgertest.Report, "pkg:oci/net-monitor@"+string(ledgertest.Image(r.images-len(all)))
		}
	})
	add("expression", policy.Rule{CEL: `subject.startsWith("pkg:oci/") && identity.kind == "key" && registrationTime > timestamp("2026-01-01T00:00:00Z")`}, nil)
	add("sealed", policy.Rule{Repositories: []string{"wabbit/*"}}, nil)
	return all
}
