package client_test

import (
	"crypto/x509"
	"encoding/asn1"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/client"
	"github.com/scittd/scittd/statement"
)

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

const (
	wabbit  = "https://wabbit.example"
	scitt   = "https://scitt.example"
	another = "https://another.example"
)

// TestVerify has every verdict that there is.
func TestVerify(t *testing.T) {
	key, stranger := newKey(t), newKey(t)
	ours, unknown := newService(t, scitt), newService(t, another)
	impostor := newService(t, scitt) // our name, a key that is not pinned
	root := authority(t, "root", nil)
	intermediate := authority(t, "intermediate", &root)
	otherRoot := authority(t, "other root", nil)
	evidence := []byte(`{"spdxVersion":"SPDX-2.3"}`)

	pinned := func(t *testing.T, issuers ...client.TrustedIssuer) client.Trust {
		var trust client.Trust
		if err := trust.Pin(scitt, ours.keySet(), now); err != nil {
			t.Fatal(err)
		}
		for _, i := range issuers {
			if err := trust.TrustIssuer(i); err != nil {
				t.Fatal(err)
			}
		}
		return trust
	}
	byKey := client.TrustedIssuer{Issuer: wabbit, Key: publicPEM(t, key)}
	byRoots := client.TrustedIssuer{Issuer: wabbit, Roots: root.pem()}

	signed, id := claim(t, key, wabbit, evidence)
	receipt := ours.receipt(t, id, now.Add(-time.Hour))
	good := transparent(t, signed, receipt)
	// registered signs with a certificate below the intermediate and registers.
	registered := func(at time.Time, more ...func(*x509.Certificate)) []byte {
		l := leaf(t, intermediate, wabbit, more...)
		b, id := claim(t, l.key, wabbit, evidence, func(s *statement.Template) {
			s.Chain, s.ChainUnprotected = [][]byte{l.Raw, intermediate.Raw}, true
		})
		return transparent(t, b, ours.receipt(t, id, at))
	}
	// with signs something else under the key.
	with := func(more func(*statement.Template)) []byte {
		b, id := claim(t, key, wabbit, evidence, more)
		return transparent(t, b, ours.receipt(t, id, now.Add(-time.Hour)))
	}
	uri := func(s string) *url.URL { u, err := url.Parse(s); must(t, err); return u }
	bent := tampered(receipt)

	for _, c := range []struct {
		name    string
		input   []byte
		trust   []client.TrustedIssuer
		ask     func(*client.Verifier)
		failure string   // class; "": verified
		checks  []string // "STATUS name: part of the detail", all that matter
		open    string   // part of NotChecked
	}{
		{name: "valid by a pinned key", input: good, trust: []client.TrustedIssuer{byKey},
			checks: []string{"OK signature: ES256 by the pinned key of " + wabbit, "OK issuer: " + wabbit, "OK inclusion: leaf 1, tree 2 as the receipt says, registered 2026-11-21T11:00:00Z", "OK service key: " + scitt}},
		{name: "valid by the newer of two pinned keys", input: good, trust: []client.TrustedIssuer{{Issuer: wabbit, Key: publicPEM(t, stranger)}, byKey},
			checks: []string{"OK signature: by the pinned key"}},
		{name: "valid by a chain under a pinned root", input: registered(now), trust: []client.TrustedIssuer{byRoots},
			checks: []string{`OK signature: ES256 by certificate "a leaf"`, "OK certificates: valid at registration"}},
		{name: "valid without the issuer's key at hand", input: good,
			checks: []string{"SKIP signature: not at hand"}, open: "the issuer's signature"},
		{name: "valid by a chain without roots at hand", input: registered(now),
			checks: []string{"OK signature: by certificate"}, open: "the issuer's certificate path"},
		{name: "a certificate that expired after registration", input: registered(now.Add(-100*24*time.Hour), func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = now.Add(-120*24*time.Hour), now.Add(-90*24*time.Hour)
		}), trust: []client.TrustedIssuer{byRoots}, checks: []string{"OK certificates: valid at registration"}},
		{name: "a certificate that expired before registration", input: registered(now.Add(-time.Hour), func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = now.Add(-120*24*time.Hour), now.Add(-90*24*time.Hour)
		}), trust: []client.TrustedIssuer{byRoots}, failure: client.FailUntrusted, checks: []string{"FAIL certificates: expired"}},
		{name: "a chain to another root", input: registered(now), trust: []client.TrustedIssuer{{Issuer: wabbit, Roots: otherRoot.pem()}},
			failure: client.FailUntrusted, checks: []string{"OK signature: by certificate", "FAIL certificates: unknown authority"}},
		{name: "a chain under the second of two pinned roots", input: registered(now), trust: []client.TrustedIssuer{{Issuer: wabbit, Roots: otherRoot.pem()}, byRoots},
			checks: []string{"OK certificates: valid at registration"}},
		{name: "a certificate of another issuer under the same root", input: registered(now, func(c *x509.Certificate) { c.URIs[0] = uri(another) }),
			trust: []client.TrustedIssuer{byRoots}, failure: client.FailUntrusted, checks: []string{"FAIL certificates: do not include \"" + wabbit}},
		{name: "a name that is equal only after normalising", input: registered(now, func(c *x509.Certificate) { c.URIs[0] = &url.URL{Scheme: "HTTPS", Host: "wabbit.example"} }),
			trust: []client.TrustedIssuer{byRoots}, failure: client.FailUntrusted, checks: []string{"FAIL certificates: do not include"}},
		{name: "another name, as the trust file says", input: registered(now, func(c *x509.Certificate) { c.URIs, c.EmailAddresses = nil, []string{"ci@wabbit.example"} }),
			trust: []client.TrustedIssuer{{Issuer: wabbit, Roots: root.pem(), SAN: "ci@wabbit.example"}}, checks: []string{"OK certificates: valid"}},
		{name: "a DNS name, as the trust file says", input: registered(now, func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{"ci.wabbit.example"} }),
			trust: []client.TrustedIssuer{{Issuer: wabbit, Roots: root.pem(), SAN: "ci.wabbit.example"}}, checks: []string{"OK certificates: valid"}},
		{name: "without code signing", input: registered(now, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }),
			trust: []client.TrustedIssuer{byRoots}, failure: client.FailUntrusted, checks: []string{"FAIL certificates: does not list the extended key usage codeSigning"}},
		{name: "with any usage, which is not code signing", input: registered(now, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }),
			trust: []client.TrustedIssuer{byRoots}, failure: client.FailUntrusted, checks: []string{"FAIL certificates: does not list"}},
		{name: "another usage, as the trust file says", input: registered(now, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }),
			trust: []client.TrustedIssuer{{Issuer: wabbit, Roots: root.pem(), EKU: "clientAuth"}}, checks: []string{"OK certificates: valid"}},
		{name: "a usage by OID, as the trust file says", input: registered(now, func(c *x509.Certificate) {
			c.ExtKeyUsage, c.UnknownExtKeyUsage = nil, []asn1.ObjectIdentifier{{1, 3, 6, 1, 4, 1, 57264, 9}}
		}), trust: []client.TrustedIssuer{{Issuer: wabbit, Roots: root.pem(), EKU: "1.3.6.1.4.1.57264.9"}}, checks: []string{"OK certificates: valid"}},
		{name: "a leaf that is a CA", input: registered(now, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }),
			trust: []client.TrustedIssuer{byRoots}, failure: client.FailUntrusted, checks: []string{"FAIL certificates: is a CA"}},
		{name: "a leaf that may not sign", input: registered(now, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }),
			trust: []client.TrustedIssuer{byRoots}, failure: client.FailUntrusted, checks: []string{"FAIL certificates: does not allow signatures"}},
		{name: "a certificate where a key is pinned", input: registered(now), trust: []client.TrustedIssuer{byKey},
			failure: client.FailUntrusted, checks: []string{"FAIL certificates: not the pinned one"}},
		{name: "a key where roots are pinned", input: good, trust: []client.TrustedIssuer{byRoots},
			failure: client.FailUntrusted, checks: []string{"FAIL signature: not signed with what is pinned"}},
		{name: "another key than the pinned one", input: good, trust: []client.TrustedIssuer{{Issuer: wabbit, Key: publicPEM(t, stranger)}},
			failure: client.FailUntrusted, checks: []string{"FAIL signature: not signed with what is pinned", "OK inclusion: leaf 1"}},

		{name: "an issuer who was not asked for", input: good, trust: []client.TrustedIssuer{byKey},
			ask: func(v *client.Verifier) {
				v.Issuers = []client.IssuerRule{{Issuer: another}, {Prefix: "https://x.example"}}
			},
			failure: client.FailUntrusted, checks: []string{"FAIL issuer: not among those asked for", "OK signature: by the pinned key"}},
		{name: "nobody was asked for", input: good, ask: func(v *client.Verifier) { v.Issuers = nil },
			failure: client.FailUntrusted, checks: []string{"FAIL issuer: not among those asked for"}},
		{name: "by an issuer prefix", input: good, ask: func(v *client.Verifier) { v.Issuers = []client.IssuerRule{{Prefix: wabbit}} },
			checks: []string{"OK issuer: " + wabbit}},

		{name: "a service that is not pinned", input: transparent(t, signed, unknown.receipt(t, id, now)), trust: []client.TrustedIssuer{byKey},
			failure: client.FailUntrusted, checks: []string{`FAIL service key: the service "` + another, "OK signature: by the pinned key"}},
		{name: "a key of the service that is not pinned", input: transparent(t, signed, impostor.receipt(t, id, now)), trust: []client.TrustedIssuer{byKey},
			failure: client.FailUntrusted, checks: []string{"FAIL service key: of " + scitt}},
		{name: "no receipt", input: signed, trust: []client.TrustedIssuer{byKey},
			failure: client.FailInvalid, checks: []string{"FAIL inclusion: no receipt", "OK signature: by the pinned key"}},
		{name: "a bad receipt", input: transparent(t, signed, bent), trust: []client.TrustedIssuer{byKey},
			failure: client.FailInvalid, checks: []string{"FAIL inclusion: does not verify"}},
		{name: "a receipt of another statement", input: transparent(t, signed, ours.receipt(t, statement.ID{1}, now)), trust: []client.TrustedIssuer{byKey},
			failure: client.FailInvalid, checks: []string{"FAIL inclusion: does not verify"}},
		{name: "a bad and a stranger's receipt", input: transparent(t, signed, bent, unknown.receipt(t, id, now)), trust: []client.TrustedIssuer{byKey},
			failure: client.FailInvalid, checks: []string{"FAIL inclusion: does not verify", "FAIL service key: not pinned"}},
		{name: "bad receipts beside a good one", input: transparent(t, signed, bent, unknown.receipt(t, id, now), []byte("\xd2\x84\x40\xa0\xf6\x40"), receipt), trust: []client.TrustedIssuer{byKey},
			checks: []string{"OK inclusion: leaf 1", "SKIP inclusion: another receipt was not accepted", "SKIP service key: another receipt was not accepted"}},

		{name: "a tampered statement", input: transparent(t, tampered(signed), receipt), trust: []client.TrustedIssuer{byKey},
			failure: client.FailInvalid, checks: []string{"FAIL signature: does not verify", "FAIL inclusion: does not verify"}},
		{name: "a tampered statement without the key at hand", input: transparent(t, tampered(signed), receipt),
			failure: client.FailInvalid, checks: []string{"SKIP signature: not at hand", "FAIL inclusion: does not verify"}},
		{name: "no statement", input: []byte("junk"), failure: client.FailInvalid, checks: []string{"FAIL statement: malformed"}},
		{name: "a receipt instead of a statement", input: receipt, failure: client.FailInvalid, checks: []string{"FAIL inclusion: no receipt", "FAIL issuer: not among"}},

		{name: "the artifact that was asked for", input: good, ask: func(v *client.Verifier) { v.Artifact = image }, checks: []string{"OK artifact: " + string(image)}},
		{name: "another artifact", input: good, ask: func(v *client.Verifier) { v.Artifact = statement.SHA256([]byte("another")) },
			failure: client.FailInvalid, checks: []string{"FAIL artifact: do not name this artifact"}},
		{name: "an artifact that only sub names, beside an in-toto subject", input: with(func(s *statement.Template) {
			s.ContentType = "application/vnd.in-toto+json"
			s.Payload = []byte(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"` + strings.Repeat("a", 64) + `"}}],"predicateType":"x"}`)
		}), ask: func(v *client.Verifier) { v.Artifact = image }, checks: []string{"OK artifact: " + string(image)}},
		{name: "no artifact at all", input: with(func(s *statement.Template) { s.Subject = "urn:nothing" }), ask: func(v *client.Verifier) { v.Artifact = image },
			failure: client.FailInvalid, checks: []string{"FAIL artifact: do not name"}},

		{name: "the evidence that was signed", input: good, ask: func(v *client.Verifier) { v.Evidence = statement.SHA256(evidence) }, checks: []string{"OK evidence: sha256:"}},
		{name: "other evidence", input: good, ask: func(v *client.Verifier) { v.Evidence = statement.SHA256(nil) },
			failure: client.FailInvalid, checks: []string{"FAIL evidence: not what was signed"}},
		{name: "the evidence of a hash envelope", input: with(func(s *statement.Template) { s.HashAlg, s.Payload = -16, statement.SHA256(evidence).Bytes() }),
			ask: func(v *client.Verifier) { v.Evidence = statement.SHA256(evidence) }, checks: []string{"OK evidence: sha256:"}},
		{name: "no evidence at hand", input: good, open: "evidence bytes"},

		{name: "young enough", input: good, ask: func(v *client.Verifier) { v.MaxAge = time.Hour }, checks: []string{"OK age: registered 1h0m0s ago"}},
		{name: "too old", input: good, ask: func(v *client.Verifier) { v.MaxAge = time.Hour - time.Second },
			failure: client.FailUnmet, checks: []string{"FAIL age: registered 1h0m0s ago"}},
		{name: "not expired", input: with(func(s *statement.Template) { s.Expires = now.Add(time.Second) }), checks: []string{"OK validity: until 2026-11-21T12:00:01Z"}},
		{name: "expired", input: with(func(s *statement.Template) { s.Expires = now }),
			failure: client.FailUnmet, checks: []string{"FAIL validity: expired"}},
		{name: "not valid yet", input: with(func(s *statement.Template) { s.NotBefore = now.Add(time.Second) }),
			failure: client.FailUnmet, checks: []string{"FAIL validity: not valid yet"}},
		{name: "worst first: invalid before untrusted before unmet", input: good, ask: func(v *client.Verifier) {
			v.MaxAge, v.Issuers, v.Evidence = time.Second, nil, statement.SHA256(nil)
		}, failure: client.FailInvalid, checks: []string{"FAIL age: ", "FAIL issuer: ", "FAIL evidence: "}},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := client.Verifier{Trust: pinned(t, c.trust...), Issuers: []client.IssuerRule{{Issuer: wabbit}}, Now: now}
			if c.ask != nil {
				c.ask(&v)
			}
			got := v.Verify(c.input)
			if got.Failure() != c.failure || got.Verified != (c.failure == "") {
				t.Errorf("verified %t, failure %q, want failure %q", got.Verified, got.Failure(), c.failure)
			}
			for _, want := range c.checks {
				if !has(got, want) {
					t.Errorf("no check %q", want)
				}
			}
			if open := strings.Join(got.NotChecked, ", "); !strings.Contains(open, c.open) {
				t.Errorf("not checked %q, want %q", open, c.open)
			}
			if t.Failed() {
				t.Logf("%+v", got.Checks)
			}
		})
	}
}

// has finds "STATUS name: part of the detail" among the checks.
func has(v client.Verdict, want string) bool {
	head, part, _ := strings.Cut(want, ": ")
	for _, c := range v.Checks {
		if c.Status+" "+c.Name == head && strings.Contains(c.Detail, part) {
			return true
		}
	}
	return false
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestIssuersBelowAPrefixAreBelieved(t *testing.T) {
	key := newKey(t)
	for _, c := range []struct {
		prefix statement.IssuerPrefix
		iss    string
		want   bool
	}{
		{"https://good.example/", "https://good.example", true},
		{"https://good.example/", "https://good.example/team", true},
		{"https://good.example/", "https://good.example.evil", false},
		{"https://good.example/", "https://good.example@evil", false},
		{"did:web:good.example:", "did:web:good.example:team", true},
	} {
		signed, _ := claim(t, key, c.iss, []byte("x"))
		v := client.Verifier{Issuers: []client.IssuerRule{{Prefix: c.prefix}}, Now: now}.Verify(signed)
		if v.Passed("issuer") != c.want {
			t.Errorf("prefix %s matches %s: %t, want %t", c.prefix, c.iss, !c.want, c.want)
		}
	}
}
