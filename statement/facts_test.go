package statement

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

var (
	hexA   = strings.Repeat("a1", 32)
	hexB   = strings.Repeat("0b", 32)
	hex384 = strings.Repeat("c3", 48)
	hex512 = strings.Repeat("d5", 64)
)

func TestMediaTypeIsLowerCaseWithoutParameters(t *testing.T) {
	for _, c := range []struct {
		header pairs
		want   string
	}{
		{goodHeader(), "application/json"},
		{goodHeader().without(3), ""},
		{goodHeader().with(3, "Application/VND.CycloneDX+JSON; version=1.6"), "application/vnd.cyclonedx+json"},
		{goodHeader().with(3, "text/plain ;charset=utf-8"), "text/plain"},
		{goodHeader().with(3, 0), "text/plain"},
		{goodHeader().with(3, 18), "application/cose"},
		{goodHeader().with(3, 50), "application/json"},
		{goodHeader().with(3, 60), "application/cbor"},
		{goodHeader().with(3, 101), "application/cose-key"},
		{goodHeader().with(3, 102), "application/cose-key-set"},
		{goodHeader().with(3, 277), "application/scitt-statement+cose"},
		{goodHeader().with(3, 278), "application/scitt-receipt+cose"},
		{goodHeader().with(3, 64999), ""},
		{envelopeHeader(), "application/spdx+json"},
		{envelopeHeader().with(259, 50), "application/json"},
		{envelopeHeader().without(259), ""},
	} {
		payload := goodPayload
		if slices.ContainsFunc(c.header, func(p pair) bool { return p.label == 258 }) {
			payload = leafHash()
		}
		s := mustParse(t, draft{header: c.header, payload: payload}.bytes())
		if got := s.MediaType(); got != c.want {
			t.Errorf("MediaType = %q, want %q", got, c.want)
		}
	}
}

func TestEveryContentFormatIsAMediaType(t *testing.T) {
	for n, name := range contentFormats {
		if !isMediaType(name) {
			t.Errorf("content-format %d is %q", n, name)
		}
	}
}

func TestEvidenceIsTheDigestThatWasSigned(t *testing.T) {
	sum := sha256.Sum256(goodPayload)
	for name, c := range map[string]struct {
		d    draft
		want Digest
	}{
		"attached": {draft{}, Digest("sha256:" + hex.EncodeToString(sum[:]))},
		"detached": {draft{detached: true}, ""},
		"envelope": {draft{header: envelopeHeader(), payload: unhex(hexA)}, Digest("sha256:" + hexA)},
		"SHA-384":  {draft{header: envelopeHeader().with(258, -43), payload: unhex(hex384)}, Digest("sha384:" + hex384)},
		"SHA-512":  {draft{header: envelopeHeader().with(258, -44), payload: unhex(hex512)}, Digest("sha512:" + hex512)},
	} {
		if got := mustParse(t, c.d.bytes()).Evidence(); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

const predicate = "https://slsa.dev/provenance/v1"

// attestation is an in-toto Statement over the given digests, as JSON objects.
func attestation(digests ...string) string {
	subjects := make([]string, len(digests))
	for i, d := range digests {
		subjects[i] = `{"name":"n","digest":` + d + `}`
	}
	return `{"_type":"https://in-toto.io/Statement/v1","subject":[` + strings.Join(subjects, ",") + `],"predicateType":"` + predicate + `","predicate":{}}`
}

func dsse(payloadType, body string, encoding *base64.Encoding) string {
	b, err := json.Marshal(map[string]any{"payloadType": payloadType, "payload": encoding.EncodeToString([]byte(body)), "signatures": []any{}})
	if err != nil {
		panic(err)
	}
	return string(b)
}

func sha256Of(hexes string) string { return `{"sha256":"` + hexes + `"}` }

func TestInTotoPayloadsNameTheirArtifacts(t *testing.T) {
	both := []Digest{Digest("sha256:" + hexB), Digest("sha256:" + hexA)} // sorted
	const kind = "application/vnd.in-toto+json"
	for _, c := range []struct {
		name, payload string
		want          []Digest
		predicate     string
	}{
		{"plain", attestation(sha256Of(hexA), sha256Of(hexB)), both, predicate},
		{"v0.1, as others still write it", strings.Replace(attestation(sha256Of(hexA)), "/v1", "/v0.1", 1), both[1:], predicate},
		{"repeated subjects", attestation(sha256Of(hexB), sha256Of(hexA), sha256Of(hexB)), both, predicate},
		{"three algorithms", attestation(`{"sha256":"` + hexA + `","sha384":"` + hex384 + `","sha512":"` + hex512 + `"}`),
			[]Digest{Digest("sha256:" + hexA), Digest("sha384:" + hex384), Digest("sha512:" + hex512)}, predicate},
		{"DSSE", dsse(kind, attestation(sha256Of(hexA)), base64.StdEncoding), both[1:], predicate},
		{"DSSE in the other alphabet", dsse(kind, strings.Replace(attestation(sha256Of(hexA)), "{}", `"???>>>~~~ ???>>>~~~  ???"`, 1), base64.URLEncoding), both[1:], predicate},
		{"DSSE of a named predicate", dsse("application/vnd.in-toto.provenance+json", attestation(sha256Of(hexA)), base64.StdEncoding), both[1:], predicate},
		{"upper-case hex", attestation(sha256Of(strings.ToUpper(hexA))), nil, predicate},
		{"cut hex", attestation(sha256Of(hexA[1:])), nil, predicate},
		{"sha1", attestation(`{"sha1":"` + strings.Repeat("a", 40) + `"}`), nil, predicate},
		{"one good of three", attestation(sha256Of("xyz"), sha256Of(hexA), `{"sha256":7}`), both[1:], predicate},
		{"digest that is no object", attestation(`"sha256:` + hexA + `"`), nil, predicate},
		{"subject that is no list", strings.Replace(attestation(), "[]", `{"digest":`+sha256Of(hexA)+`}`, 1), nil, predicate},
		{"subject entry that is no object", strings.Replace(attestation(sha256Of(hexA)), "[", "[7,null,", 1), both[1:], predicate},
		{"no _type", strings.Replace(attestation(sha256Of(hexA)), "_type", "type", 1), nil, ""},
		{"another _type", strings.Replace(attestation(sha256Of(hexA)), "in-toto.io/Statement", "x.example/S", 1), nil, ""},
		{"members in capitals are others", strings.Replace(attestation(sha256Of(hexA)), `"subject"`, `"Subject"`, 1), nil, predicate},
		{"the last of two members counts", strings.Replace(attestation(sha256Of(hexA)), "{", `{"predicateType":"x",`, 1), both[1:], predicate},
		{"predicate type with a control character", strings.Replace(attestation(sha256Of(hexA)), predicate, `a\u0000b`, 1), both[1:], ""},
		{"predicate type too long", strings.Replace(attestation(sha256Of(hexA)), predicate, strings.Repeat("x", MaxPredicateType+1), 1), both[1:], ""},
		{"predicate type that is no text", strings.Replace(attestation(sha256Of(hexA)), `"`+predicate+`"`, "7", 1), both[1:], ""},
		{"DSSE of another kind", dsse("application/json", attestation(sha256Of(hexA)), base64.StdEncoding), nil, ""},
		{"DSSE with broken base64", `{"payloadType":"` + kind + `","payload":"!!"}`, nil, ""},
		{"DSSE in DSSE", dsse(kind, dsse(kind, attestation(sha256Of(hexA)), base64.StdEncoding), base64.StdEncoding), nil, ""},
		{"cut JSON", attestation(sha256Of(hexA))[:100], nil, ""},
		{"JSON with more behind it", attestation(sha256Of(hexA)) + "{}", nil, ""},
		{"array", "[]", nil, ""},
		{"null", "null", nil, ""},
		{"not JSON", "\x00\x01", nil, ""},
		{"JSON a million deep", strings.Repeat("[", 1000000), nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := mustParse(t, draft{payload: []byte(c.payload)}.bytes())
			got, err := s.Artifacts([]Extractor{ExtractInToto})
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("artifacts %v, %v; want %v", got, err, c.want)
			}
			if got := s.PredicateType(); got != c.predicate {
				t.Errorf("predicate type %q, want %q", got, c.predicate)
			}
		})
	}
}

func TestAStatementMadeByHandIsReadTheSameWay(t *testing.T) {
	s := &Statement{Payload: []byte(attestation(sha256Of(hexA)))}
	if got, err := s.Artifacts([]Extractor{ExtractInToto}); err != nil || len(got) != 1 || s.PredicateType() != predicate {
		t.Errorf("%v, %v, %q", got, err, s.PredicateType())
	}
}

func TestAHashEnvelopeHasNoInTotoPayload(t *testing.T) {
	s := mustParse(t, draft{header: envelopeHeader(), payload: leafHash()}.bytes())
	if got, err := s.Artifacts([]Extractor{ExtractInToto}); len(got) != 0 || err != nil || s.PredicateType() != "" {
		t.Errorf("%v, %v, %q", got, err, s.PredicateType())
	}
}

func TestTheFirstExtractorThatFindsAnythingWins(t *testing.T) {
	sub, _ := ParseDigest(vectorSubject[strings.Index(vectorSubject, "@")+1:])
	inPayload := Digest("sha256:" + hexA)
	both := mustParse(t, draft{payload: []byte(attestation(sha256Of(hexA)))}.bytes())
	only := mustParse(t, draft{}.bytes())
	for _, c := range []struct {
		s     *Statement
		order []Extractor
		want  []Digest
	}{
		{both, []Extractor{ExtractInToto, ExtractSubject}, []Digest{inPayload}},
		{both, []Extractor{ExtractSubject, ExtractInToto}, []Digest{sub}},
		{only, []Extractor{ExtractInToto, ExtractSubject}, []Digest{sub}},
		{only, []Extractor{ExtractInToto}, nil},
		{only, []Extractor{"unheard of", ExtractSubject}, []Digest{sub}},
		{only, nil, nil},
	} {
		if got, err := c.s.Artifacts(c.order); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, %v; want %v", c.order, got, err, c.want)
		}
	}
}

func TestAtMost256Artifacts(t *testing.T) {
	digests := make([]string, MaxArtifacts+1)
	for i := range digests {
		digests[i] = sha256Of(fmt.Sprintf("%064x", i))
	}
	full := mustParse(t, draft{payload: []byte(attestation(append(digests[:MaxArtifacts:MaxArtifacts], digests[0])...))}.bytes())
	if got, err := full.Artifacts([]Extractor{ExtractInToto}); err != nil || len(got) != MaxArtifacts {
		t.Errorf("%d artifacts, %v", len(got), err)
	}
	over := mustParse(t, draft{payload: []byte(attestation(digests...))}.bytes())
	if _, err := over.Artifacts([]Extractor{ExtractInToto, ExtractSubject}); !errors.Is(err, ErrTooManyArtifacts) {
		t.Errorf("257 artifacts: %v", err)
	}
	if got, err := over.Artifacts([]Extractor{ExtractSubject, ExtractInToto}); err != nil || len(got) != 1 {
		t.Errorf("sub before 257 artifacts: %v, %v", got, err)
	}
}

func TestCallersOwnTheArtifactsTheyGet(t *testing.T) {
	s := mustParse(t, draft{payload: []byte(attestation(sha256Of(hexA)))}.bytes())
	first, _ := s.Artifacts([]Extractor{ExtractInToto})
	first[0] = "changed"
	if again, _ := s.Artifacts([]Extractor{ExtractInToto}); again[0] == "changed" {
		t.Error("two callers share a slice")
	}
}

func TestSubNamesAnArtifactAndMaybeAPlace(t *testing.T) {
	d := "sha256:" + hexA
	encoded := "sha256%3A" + hexA
	place := func(host, repository string) Location { return Location{host, repository, Digest(d)} }
	for _, c := range []struct {
		sub  string
		want Location // zero: no artifact
	}{
		{d, place("", "")},
		{"sha512:" + hex512, Location{Digest: Digest("sha512:" + hex512)}},
		{"pkg:oci/net-monitor@" + d, place("", "")},
		{"pkg:oci/net-monitor@" + encoded, place("", "")},
		{"pkg:oci/net-monitor@sha256%3a" + hexA + "?arch=amd64&tag=v1#etc/config", place("", "")},
		{"pkg:oci/net-monitor@" + encoded + "?repository_url=ghcr.io/wabbit/net-monitor&arch=amd64", place("ghcr.io", "wabbit/net-monitor")},
		{"pkg:oci/net-monitor@" + d + "?arch=amd64&repository_url=localhost%3A5000%2Fwabbit%2Fnet-monitor", place("localhost:5000", "wabbit/net-monitor")},
		{"pkg:oci/net-monitor@" + d + "?repository_url=%zz", place("", "")},
		{"pkg:oci/net-monitor@" + d + "?repository_url=ghcr.io", place("", "")},
		{"pkg:oci/net-monitor@" + d + "?repository_url=https://ghcr.io/wabbit", place("", "")},
		{"oci://registry.example/wabbit/net-monitor@" + d, place("registry.example", "wabbit/net-monitor")},
		{"oci://registry.example:5000/net-monitor:v1@" + d, place("registry.example:5000", "net-monitor")},
		{"localhost:8080/wabbit/net-monitor@" + d, place("localhost:8080", "wabbit/net-monitor")},
		{"[::1]:8080/net-monitor:v1@" + d, place("[::1]:8080", "net-monitor")},

		{"pkg:oci/net-monitor", Location{}},
		{"pkg:oci/net-monitor@v1", Location{}},
		{"pkg:oci/@" + d, Location{}},
		{"pkg:oci/a/b@" + d, Location{}},
		{"pkg:oci/net-monitor@sha256%3", Location{}},
		{"pkg:docker/net-monitor@" + d, Location{}},
		{"sha256:" + strings.ToUpper(hexA), Location{}},
		{"sha256:" + hexA[2:], Location{}},
		{"sha1:" + hexA[:40], Location{}},
		{"md5:" + hexA[:32], Location{}},
		{"@" + d, Location{}},
		{"net-monitor@" + d, Location{}},
		{"oci://net-monitor@" + d, Location{}},
		{"registry.example/Upper@" + d, Location{}},
		{"registry.example/a//b@" + d, Location{}},
		{"registry.example/../b@" + d, Location{}},
		{"registry.example/a:" + strings.Repeat("t", 129) + "@" + d, Location{}},
		{"user@registry.example/a@" + d, Location{}},
		{"https://registry.example/a@" + d, Location{}},
		{"registry.example/a@" + d + "@" + d, Location{}},
		{"registry.example/a@" + encoded, Location{}},
		{"registry.example/" + strings.Repeat("a", 256) + "@" + d, Location{}},
		{"https://wabbit.example/policy", Location{}},
		{"net-monitor", Location{}},
	} {
		s := &Statement{Subject: c.sub}
		artifacts, err := s.Artifacts([]Extractor{ExtractSubject})
		if err != nil {
			t.Errorf("%s: %v", c.sub, err)
		}
		if c.want.Digest == "" && len(artifacts) != 0 || c.want.Digest != "" && !slices.Equal(artifacts, []Digest{c.want.Digest}) {
			t.Errorf("%s: artifacts %v, want %q", c.sub, artifacts, c.want.Digest)
		}
		want := c.want
		if want.Host == "" {
			want = Location{} // a digest without a place
		}
		if got, ok := s.Location(); ok != (want.Host != "") || got != want {
			t.Errorf("%s: location %+v, %v; want %+v", c.sub, got, ok, want)
		}
	}
}

func TestDigests(t *testing.T) {
	for _, c := range []struct {
		s    string
		ok   bool
		alg  string
		size int
	}{
		{"sha256:" + hexA, true, "sha256", 32},
		{"sha384:" + hex384, true, "sha384", 48},
		{"sha512:" + hex512, true, "sha512", 64},
		{"", false, "", 0}, {"sha256", false, "", 0}, {"sha256:", false, "", 0}, {":" + hexA, false, "", 0},
		{"sha256:" + hex512, false, "", 0}, {"sha512:" + hexA, false, "", 0}, {"SHA256:" + hexA, false, "", 0},
		{"sha256:" + hexA + " ", false, "", 0}, {"sha256:" + hexA + "\n", false, "", 0},
	} {
		d, err := ParseDigest(c.s)
		if (err == nil) != c.ok {
			t.Errorf("%q: %v", c.s, err)
			continue
		}
		if d.Algorithm() != c.alg || len(d.Bytes()) != c.size {
			t.Errorf("%q: %s, %d bytes", c.s, d.Algorithm(), len(d.Bytes()))
		}
		if c.ok {
			if back, err := DigestFromBytes(d.Bytes()); err != nil || back != d {
				t.Errorf("%q came back as %q, %v", c.s, back, err)
			}
		}
	}
	if _, err := DigestFromBytes(make([]byte, 20)); err == nil {
		t.Error("20 bytes are a digest")
	}
	if got := SHA256(nil); got != "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" {
		t.Error(got)
	}
}
