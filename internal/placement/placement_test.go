package placement_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/scittd/scittd/internal/placement"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
	"github.com/scittd/scittd/storage"
)

const image = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

var registered = time.Date(2026, 11, 21, 12, 0, 0, 0, time.FixedZone("east", 3600))

func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	return must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
}

// signed is a statement by https://wabbit.example.
func signed(t *testing.T, c statement.Template) *statement.Statement {
	t.Helper()
	c.Issuer, c.Subject, c.ContentType = "https://wabbit.example", image, "Application/Vnd.In-Toto+JSON; charset=utf-8"
	raw := must[[]byte](t)(statement.Sign(c, newKey(t)))
	return must[*statement.Statement](t)(statement.Parse(raw))
}

// receipt is that of s alone in a log.
func receipt(t *testing.T, s *statement.Statement) []byte {
	t.Helper()
	issuer := must[*receipts.Issuer](t)(receipts.NewIssuer(newKey(t), "https://scitt.example", "scitt.example/log"))
	id := s.ID()
	head := must[receipts.SignedHead](t)(issuer.Sign(receipts.Head{Size: 1, Root: [32]byte(rfc6962.DefaultHasher.HashLeaf(id[:])), Time: registered}))
	return must[[]byte](t)(receipts.Mint(head, 0, nil))
}

func TestAnArtifactIsAFunctionOfStatementAndReceipt(t *testing.T) {
	payload := `{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"` + image[7:] + `"}}],"predicateType":"https://slsa.dev/provenance/v1","predicate":{}}`
	s := signed(t, statement.Template{Payload: []byte(payload)})
	r := receipt(t, s)
	transparent := must[[]byte](t)(receipts.BuildTransparent(s.Canonical(), nil, r))
	got := must[storage.Transparency](t)(placement.Transparency(transparent, r))
	want := storage.Transparency{
		Transparent: transparent, Receipt: r,
		Entry: s.ID().String(), Issuer: "https://wabbit.example",
		MediaType: "application/vnd.in-toto+json", PredicateType: "https://slsa.dev/provenance/v1",
		Evidence: string(statement.SHA256([]byte(payload))), Log: "scitt.example/log", Created: "2026-11-21T11:00:00Z",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("\ngot  %+v\nwant %+v", got, want)
	}
}

func TestAnArtifactOfBytesThatDoNotBelongTogetherIsRefused(t *testing.T) {
	s := signed(t, statement.Template{Payload: []byte("x")})
	r, other := receipt(t, s), receipt(t, s)
	transparent := must[[]byte](t)(receipts.BuildTransparent(s.Canonical(), nil, r))
	for _, c := range []struct {
		name                 string
		transparent, receipt []byte
		says                 string
	}{
		{"another receipt", transparent, other, "carries another receipt"},
		{"no receipt", transparent, nil, "carries another receipt"},
		{"a statement without receipts", s.Canonical(), r, "carries another receipt"},
		{"no statement", r[:10], r, "transparent statement: "},
	} {
		if _, err := placement.Transparency(c.transparent, c.receipt); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", c.name, err, c.says)
		}
	}
}

func TestEvidenceIsThePayloadOrSomebodyElseHasIt(t *testing.T) {
	attached := placement.Evidence(signed(t, statement.Template{Payload: []byte("an SBOM")}))
	digest := statement.SHA256([]byte("an SBOM"))
	for range 2 { // as often as it is called
		rc, size, err := attached.Open()
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(rc)
		if err != nil || string(content) != "an SBOM" || size != 7 {
			t.Errorf("%q of %d bytes, %v", content, size, err)
		}
	}
	hashed := placement.Evidence(signed(t, statement.Template{HashAlg: -16, Payload: digest.Bytes()}))
	if hashed.Open != nil {
		t.Error("evidence of a hash envelope can be opened")
	}
	for _, e := range []storage.Evidence{attached, hashed} {
		if e.Digest != string(digest) || e.MediaType != "application/vnd.in-toto+json" {
			t.Errorf("%s of type %s", e.Digest, e.MediaType)
		}
	}
}
