package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/scittd/scittd/internal/envelope/envelopetest"
	"github.com/scittd/scittd/statement"
)

func TestTheUsualEvidenceIsRecognised(t *testing.T) {
	file := filepath.Join(t.TempDir(), "evidence")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	notation := envelopetest.Notary(t, envelopetest.NotaryPayload(t, statement.SHA256(nil)),
		envelopetest.Signer{Key: key, Chain: [][]byte{{1}}}, envelopetest.NotaryHeader(time.Now(), time.Time{}))
	for _, c := range []struct{ content, want string }{
		{`{"spdxVersion":"SPDX-2.3"}`, "application/spdx+json"},
		{`{"@context":"https://spdx.org/rdf/3.0.1/spdx-context.jsonld","@graph":[]}`, "application/spdx+json"},
		{`{"bomFormat":"CycloneDX","specVersion":"1.6","version":1}`, "application/vnd.cyclonedx+json"},
		{`{"_type":"https://in-toto.io/Statement/v1","subject":[]}`, "application/vnd.in-toto+json"},
		{`{"payloadType":"application/vnd.in-toto+json","payload":"","signatures":[]}`, "application/vnd.dsse.envelope.v1+json"},
		{`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{}}`, "application/vnd.dev.sigstore.bundle.v0.3+json"},
		{`{"mediaType":"application/vnd.dev.sigstore.bundle+json;version=0.1","verificationMaterial":{}}`, "application/vnd.dev.sigstore.bundle+json"},
		{string(notation), "application/cose"},
		{string(notation[:len(notation)-1]), ""},
		{`{"@context":"https://openvex.dev/ns/v0.2.0"}`, "application/vnd.openvex+json"},
		{`{"$schema":"https://json.schemastore.org/sarif-2.1.0.json","runs":[]}`, "application/sarif+json"},
		{`{"runs":[]}`, ""},
		{`{"_type":"https://other.example/Statement/v1"}`, ""},
		{`[1]`, ""},
		{`{"bomFormat":"CycloneDX"`, ""},
		{`<bom xmlns="http://cyclonedx.org/schema/bom/1.6"/>`, ""},
	} {
		if err := os.WriteFile(file, []byte(c.content), 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := sniff(file)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: %q, %v; want %q", c.content, got, err, c.want)
		}
	}
}
