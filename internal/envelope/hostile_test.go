package envelope_test

import (
	"bytes"
	"crypto/elliptic"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/internal/envelope"
	. "github.com/scittd/scittd/internal/envelope/envelopetest"
)

// with replaces the first old of an envelope by new.
func with(t *testing.T, b []byte, old, new string) []byte {
	t.Helper()
	if !bytes.Contains(b, []byte(old)) {
		t.Fatalf("no %q in %.300s", old, b)
	}
	return bytes.Replace(b, []byte(old), []byte(new), 1)
}

func TestWhatIsNoEnvelopeIsRefused(t *testing.T) {
	key := newKey(t, elliptic.P256())
	s := Signer{Key: key, KeyID: "k"}
	dsse := DSSE(t, InToto(t, image), s)
	bundle := Bundle(t, InToto(t, image), s, nil)
	message := MessageBundle(t, []byte("artifact"), Signer{Key: key, Chain: chain[:1]}, nil)
	payload := base64.StdEncoding.EncodeToString(InToto(t, image))
	var many []Signer
	for range envelope.MaxSignatures + 1 {
		many = append(many, s)
	}
	long := make([][]byte, 9)
	for i := range long {
		long[i] = []byte("certificate")
	}
	for _, c := range []struct {
		name string
		b    []byte
		want string
	}{
		{"nothing", nil, "neither"},
		{"text", []byte("signed, me"), "neither"},
		{"an SBOM", []byte(`{"spdxVersion": "SPDX-2.3"}`), "neither"},
		{"more than 32 MiB", make([]byte, envelope.MaxSize+1), "at most 33554432"},
		{"cut", dsse[:len(dsse)-1], "not JSON"},
		{"two documents", append(bytes.Clone(dsse), dsse...), "not JSON"},
		{"not UTF-8", with(t, dsse, `"k"`, "\"\xff\""), "not JSON"},
		{"deeply nested", []byte(`{"a":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + "}"), "not JSON"},
		{"a member twice", with(t, dsse, `"payload"`, `"payload":"","payload"`), "is there twice"},
		{"a member twice, in capitals", with(t, dsse, `"payload"`, `"PAYLOAD":"","payload"`), "is there twice"},
		{"a member twice, with a long s", with(t, dsse, `"signatures"`, `"ſignatures":[],"signatures"`), "is there twice"},
		{"a member twice, escaped", with(t, dsse, `"payload"`, `"\u0070ayload":"","payload"`), "is there twice"},
		{"many members", []byte(`{"payloadType":0,"signatures":0` + strings.Repeat(`,"`, 1) + strings.Join(numbers(100), `":0,"`) + `":0}`), "more than 64 members"},

		{"another payload type", with(t, dsse, "vnd.in-toto+json", "vnd.other+json"), "want application/vnd.in-toto+json"},
		{"payload type is no text", with(t, dsse, `"application/vnd.in-toto+json"`, "7"), "payloadType: not a string"},
		{"payload is no base64", with(t, dsse, payload, "~~~~"), "payload: not base64"},
		{"payload is no text", with(t, dsse, `"`+payload+`"`, "7"), "payload: missing"},
		{"payload is no attestation", DSSE(t, []byte(`{}`), s), "no in-toto Statement"},
		{"payload is another envelope", DSSE(t, dsse, s), "no in-toto Statement"},
		{"payload with two subjects", DSSE(t, with(t, InToto(t, image), `"subject"`, `"subject":[],"subject"`), s), "payload: member \"subject\" is there twice"},
		{"no signature", DSSE(t, InToto(t, image)), "signatures: none"},
		{"many signatures", DSSE(t, InToto(t, image), many...), "more than 8 elements"},
		{"a signature without one", with(t, dsse, `"sig"`, `"gis"`), "sig: missing"},
		{"an empty signature", []byte(`{"payloadType":"application/vnd.in-toto+json","payload":"` + payload + `","signatures":[{"sig":""}]}`), "signature 0: empty"},
		{"a signature that is no object", with(t, dsse, `[{`, `[7,{`), "not an object"},
		{"a long key ID", with(t, dsse, `"k"`, `"`+strings.Repeat("k", envelope.MaxKeyID+1)+`"`), "key ID of 1025 bytes"},
		{"a private key for a certificate", with(t, dsse, `"keyid"`, `"cert":"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n","keyid"`), `PEM block "PRIVATE KEY"`},
		{"a long chain", DSSE(t, InToto(t, image), Signer{Key: key, Chain: long}), "9 certificates"},

		{"a bundle of another version", with(t, bundle, "v0.3", "v0.4"), "want application/vnd.dev.sigstore.bundle.v0.3+json"},
		{"a bundle with two contents", with(t, bundle, `"dsseEnvelope"`, `"messageSignature":{},"dsseEnvelope"`), "want one of dsseEnvelope and messageSignature"},
		{"a bundle with no content", with(t, bundle, `"dsseEnvelope"`, `"dssEnvelope"`), "want one of dsseEnvelope and messageSignature"},
		{"a bundle with a key and a certificate", with(t, bundle, `"publicKey"`, `"certificate":{"rawBytes":"AA=="},"publicKey"`), "want one of certificate"},
		{"a bundle without a signer", with(t, bundle, `"publicKey"`, `"pubKey"`), "want one of certificate"},
		{"a bundle with an empty chain", with(t, bundle, `"publicKey":{"hint":"k"}`, `"x509CertificateChain":{"certificates":[]}`), "x509CertificateChain: empty"},
		{"a bundle with a token for a response", with(t, bundle, `"publicKey"`, `"timestampVerificationData":{"rfc3161Timestamps":[{"signedTimestamp":"AAAA"}]},"publicKey"`), "time-stamp response"},
		{"a bundle with many time stamps", with(t, bundle, `"publicKey"`, `"timestampVerificationData":{"rfc3161Timestamps":[`+strings.Repeat("{},", 8)+`{}]},"publicKey"`), "more than 8 elements"},
		{"a digest of another kind", with(t, message, "SHA2_256", "SHA3_256"), "want SHA2_256"},
		{"a digest of another length", with(t, message, "SHA2_256", "SHA2_512"), "32 bytes of SHA2_512"},
	} {
		if e, err := envelope.Parse(c.b); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %+v, %v; want %q", c.name, e, err, c.want)
		}
	}
}

func numbers(n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprint(i))
	}
	return all
}

func TestACOSEMessageThatNotaryForbidsIsRefused(t *testing.T) {
	s := Signer{Key: newKey(t, elliptic.P256()), Chain: chain}
	header := func(change func([]Pair) []Pair) []byte {
		return Notary(t, NotaryPayload(t, image), s, change(NotaryHeader(at, at.Add(time.Hour))))
	}
	value := func(i int, v any) []byte {
		return header(func(h []Pair) []Pair { h[i].Value = v; return h })
	}
	good := Notary(t, NotaryPayload(t, image), s, NotaryHeader(at, time.Time{}))
	for _, c := range []struct {
		name string
		b    []byte
		want string
	}{
		{"cut", good[:len(good)-1], "signature: "},
		{"trailing byte", append(bytes.Clone(good), 0), "after the end"},
		{"no array", []byte{0xd2, 0x40}, "array of four"},
		{"array of three", []byte{0xd2, 0x83, 0x40, 0xa0, 0x40}, "array of four"},
		{"no payload", []byte{0xd2, 0x84, 0x41, 0xa0, 0xa0, 0xf6, 0x40}, "payload: "},
		{"EdDSA", value(0, -8), "alg (label 1)"},
		{"alg as text", value(0, "ES256"), "alg (label 1)"},
		{"crit empty", value(1, []string{}), "does not name io.cncf.notary.signingScheme"},
		{"crit without the expiry", value(1, []string{"io.cncf.notary.signingScheme"}), "does not name io.cncf.notary.expiry"},
		{"crit names more", value(1, []string{"io.cncf.notary.signingScheme", "io.cncf.notary.expiry", "other"}), "not understood"},
		{"content type and hash", header(func(h []Pair) []Pair { return append(h, Label(258, -16)) }), "want one of content type"},
		{"neither of them", header(func(h []Pair) []Pair { return append(h[:2:2], h[3:]...) }), "want one of content type"},
		{"digest of another length", Notary(t, image.Bytes(), s, hashed(NotaryHeader(at, time.Time{}), -44)), "payload is no digest"},
		{"digest by another algorithm", Notary(t, image.Bytes(), s, hashed(NotaryHeader(at, time.Time{}), -15)), "payload is no digest"},
		{"another content type", value(2, "application/json"), "content type"},
		{"a time of the other scheme", header(func(h []Pair) []Pair { h[3].Label = "io.cncf.notary.authenticSigningTime"; return h }), "not that of the signing scheme"},
		{"another scheme", value(4, "notary.pgp"), "signing scheme"},
		{"a time that is none", value(3, "noon"), "is no time"},
		{"an expiry before time began", value(5, -5), "is no time"},
		{"a label twice", header(func(h []Pair) []Pair { return append(h, h[3]) }), "is there twice"},
		{"a label that looks like another", header(func(h []Pair) []Pair { return append(h, Label("1", 1)) }), "looks like an integer"},
		{"many labels", header(func(h []Pair) []Pair {
			for i := range 64 {
				h = append(h, Label(100+i, 0))
			}
			return h
		}), "at most 64 are read"},
		{"a label in both headers", Notary(t, NotaryPayload(t, image), s, NotaryHeader(at, time.Time{}), Label(3, "text/plain")), "in both headers"},
		{"no chain", Notary(t, NotaryPayload(t, image), Signer{Key: s.Key}, NotaryHeader(at, time.Time{})), "x5chain (label 33) is missing"},
		{"a chain of text", Notary(t, NotaryPayload(t, image), Signer{Key: s.Key}, NotaryHeader(at, time.Time{}), Label(33, "leaf")), "x5chain (label 33) is no array"},
		{"a time stamp of text", Notary(t, NotaryPayload(t, image), s, NotaryHeader(at, time.Time{}), Label("io.cncf.notary.timestampSignature", "noon")), "timestampSignature"},
		{"payload of another kind", Notary(t, []byte("hello"), s, NotaryHeader(at, time.Time{})), "payload: not JSON"},
		{"payload about nothing", Notary(t, []byte(`{}`), s, NotaryHeader(at, time.Time{})), "targetArtifact: not an object"},
		{"payload with a bad digest", Notary(t, []byte(`{"targetArtifact":{"digest":"md5:00"}}`), s, NotaryHeader(at, time.Time{})), "payload: digest"},
	} {
		if e, err := envelope.Parse(c.b); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %+v, %v; want %q", c.name, e, err, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	key := newKey(f, elliptic.P256())
	s := Signer{Key: key, Chain: chain}
	seeds := [][]byte{
		DSSE(f, InToto(f, image, other), s, s), Bundle(f, InToto(f, image), s, nil), MessageBundle(f, []byte("artifact"), s, nil),
		Notary(f, NotaryPayload(f, image), s, NotaryHeader(at, at)),
	}
	for _, b := range seeds {
		f.Add(b)
		for i := 0; i < len(b); i += 31 {
			f.Add(b[:i])
			broken := bytes.Clone(b)
			broken[i] ^= 0x11
			f.Add(broken)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := envelope.Parse(b)
		if err != nil {
			return
		}
		if len(e.Signatures) == 0 {
			t.Error("an envelope without a signature")
		}
		// What verifies is about what was signed, whatever else was changed.
		for _, s := range e.Signatures {
			if s.Verify(key.Public()) != nil {
				continue
			}
			for _, d := range e.Artifacts {
				if d != image && d != other && d != digestOf("artifact") {
					t.Errorf("verified, but about %s", d)
				}
			}
		}
	})
}
