package did_test

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/internal/did"
)

// TestTheVectorsOfTheSpecification runs all of them: microsoft/did-x509,
// test-vectors.json. They do not check validity periods, so the time is one at
// which every certificate of the chain was valid.
func TestTheVectorsOfTheSpecification(t *testing.T) {
	b, err := os.ReadFile("testdata/did-x509.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		ID    string
		Input struct {
			DID   string
			Chain []string
		}
		Output struct {
			Error    string
			Document struct {
				ID                 string
				VerificationMethod []struct{ PublicKeyJwk map[string]any }
				AssertionMethod    []string
			}
		}
	}
	if err := json.Unmarshal(b, &vectors); err != nil {
		t.Fatal(err)
	}
	accepted := 0
	for _, v := range vectors {
		var chain []*x509.Certificate
		var at time.Time
		for _, text := range v.Input.Chain {
			der, err := base64.RawURLEncoding.DecodeString(text)
			if err != nil {
				t.Fatal(err)
			}
			c, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatalf("%s: %v", v.ID, err)
			}
			chain = append(chain, c)
			if c.NotBefore.After(at) {
				at = c.NotBefore
			}
		}
		d, err := did.ParseX509(v.Input.DID)
		if err == nil {
			err = validate(chain, at)
		}
		if err == nil {
			err = d.Match(chain)
		}
		if v.Output.Error != "" {
			if err == nil {
				t.Errorf("%s was accepted; want: %s", v.ID, v.Output.Error)
			}
			continue
		}
		accepted++
		if err != nil {
			t.Errorf("%s: %v", v.ID, err)
			continue
		}
		leaf, doc := chain[0], v.Output.Document
		if d.String() != doc.ID {
			t.Errorf("%s: id %s, want %s", v.ID, d, doc.ID)
		}
		want, err := did.Self("did:jwk:" + b64([]byte(text(t, doc.VerificationMethod[0].PublicKeyJwk))))
		if err != nil {
			t.Fatalf("%s: %v", v.ID, err)
		}
		if key, err := want.Find([]byte("0")); err != nil || !equal(leaf.PublicKey, key.Public) {
			t.Errorf("%s: another key than the document's", v.ID)
		}
		if signs := leaf.KeyUsage == 0 || leaf.KeyUsage&x509.KeyUsageDigitalSignature != 0; signs != (len(doc.AssertionMethod) > 0) {
			t.Errorf("%s: may sign: %v, assertionMethod: %v", v.ID, signs, doc.AssertionMethod)
		}
	}
	if len(vectors) != 58 || accepted != 24 {
		t.Errorf("%d vectors, %d of them accepted", len(vectors), accepted)
	}
}

// validate is what Match leaves to its caller.
func validate(chain []*x509.Certificate, at time.Time) error {
	opts := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}
	last := len(chain) - 1
	opts.Roots.AddCert(chain[last])
	for _, c := range chain[1:max(1, last)] {
		opts.Intermediates.AddCert(c)
	}
	paths, err := chain[0].Verify(opts)
	if err == nil && !slices.ContainsFunc(paths, func(p []*x509.Certificate) bool { return slices.EqualFunc(p, chain, (*x509.Certificate).Equal) }) {
		err = errors.New("not in order")
	}
	return err
}

func TestIdentifiersThatAreNoDIDX509(t *testing.T) {
	const good = "did:x509:0:sha256:wB-YrYI1eo_9-9izSw6aviwkdLz4O7-kgrK_VzU4_OA"
	if _, err := did.ParseX509(good + "::subject:CN:a"); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		"", "did:x509", "did:x509:", "did:x509:0", "did:x509:0:sha256", "did:x509:0:sha256:", "did:x509:1" + good[len("did:x509:0"):] + "::subject:CN:a",
		good, good + "::", good + "::subject", good + "::subject:", good + "::subject:CN", good + "::subject:CN:", good + "::subject::CN:a",
		good + "::subject:CN:a:CN:b", good + "::subject:CN:a:2.5.4.3:b", good + "::subject:cn:a", good + "::subject:CN:a b", good + "::subject:CN:a%2", good + "::subject:CN:a%zz", good + "::subject:CN:ä",
		good + "::san:ip:127.0.0.1", good + "::san:email", good + "::san:email:a:b", good + "::eku:codeSigning", good + "::eku:1.2:1.3", good + "::eku:1..2",
		good + "::fulcio-issuer:a:b", good + "::Subject:CN:a", good + ":::subject:CN:a", good + "::subject:CN:a::", good + "::subject:CN:a/x", good + "::subject:CN:a?x=y",
		strings.Replace(good, "sha256", "md5", 1) + "::subject:CN:a", strings.Replace(good, "sha256", "sha512", 1) + "::subject:CN:a",
		good + "=::subject:CN:a", good[:len(good)-1] + "::subject:CN:a", good[:len(good)-1] + "B::subject:CN:a",
	} {
		if d, err := did.ParseX509(text); err == nil {
			t.Errorf("%s was taken for %v", text, d)
		}
	}
}

func FuzzParseX509(f *testing.F) {
	f.Add("did:x509:0:sha256:wB-YrYI1eo_9-9izSw6aviwkdLz4O7-kgrK_VzU4_OA::subject:CN:a::san:uri:https%3A%2F%2Fexample.com::eku:1.2.3::fulcio-issuer:b#0")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := did.ParseX509(text)
		if err != nil {
			return
		}
		if again, err := did.ParseX509(d.String()); err != nil || again.String() != d.String() {
			t.Errorf("%q reads as %q, and that as %v, %v", text, d, again, err)
		}
	})
}
