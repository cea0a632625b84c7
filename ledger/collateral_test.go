package ledger

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"reflect"
	"testing"

	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

func TestWhatADecisionUsedComesBackWhole(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b, err := statement.Sign(statement.Template{Issuer: "https://wabbit.example", Subject: "x", ContentType: "text/plain", Payload: []byte("x"), Detached: true}, key)
	if err != nil {
		t.Fatal(err)
	}
	s, err := statement.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if s, err = s.WithPayload(statement.SHA256([]byte("x")), []byte("x")); err != nil {
		t.Fatal(err)
	}
	evidence := policy.Material{Kind: policy.EvidenceDocument, Source: string(statement.SHA256([]byte("bundle"))), Body: []byte("bundle")}
	looked := []policy.Material{
		{Kind: policy.DIDDocument, Source: "https://wabbit.example/did.json", Body: []byte("{}")},
		{Kind: policy.KeySetDocument, Source: "https://wabbit.example/keys", Body: bytes.Repeat([]byte{0xff}, 300)},
		{Kind: policy.KeySetDocument, Source: "https://wabbit.example/more", Body: []byte{}},
	}
	kept, err := keep(s, policy.Decision{Materials: append(looked, evidence)})
	if err != nil {
		t.Fatal(err)
	}
	again, err := statement.Parse(s.Canonical())
	if err != nil {
		t.Fatal(err)
	}
	whole, materials, err := Whole(again, kept)
	if err != nil {
		t.Fatal(err)
	}
	evidence.Body = nil // of evidence the digest alone is kept
	if want := append(looked, evidence); !reflect.DeepEqual(materials, want) || whole.Evidence() != s.Evidence() {
		t.Errorf("materials %+v, want %+v; evidence %s", materials, want, whole.Evidence())
	}
	var sources []string
	for _, k := range kept {
		sources = append(sources, k.Source())
	}
	if want := []string{string(s.Evidence()), looked[0].Source, looked[1].Source, looked[2].Source, evidence.Source}; !reflect.DeepEqual(sources, want) {
		t.Errorf("sources %q, want %q", sources, want)
	}
	for _, damaged := range []Collateral{
		{Kind: policy.DIDDocument, Data: []byte("{}")}, {Kind: policy.KeySetDocument}, {Kind: ChainCollateral, Data: []byte{0xff}}, {Kind: PayloadCollateral, Data: []byte("x")},
	} {
		if _, _, err := Whole(again, []Collateral{damaged}); err == nil {
			t.Errorf("%s: damaged, and taken", damaged.Kind)
		}
		damaged.Source()
	}
}
