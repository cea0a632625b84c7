package statement

import (
	"bytes"
	"testing"

	"github.com/fxamacker/cbor/v2"
)

// secondOpinion decodes with a general CBOR library what Parse reads by itself.
var secondOpinion = func() cbor.DecMode {
	m, err := cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		IndefLength:      cbor.IndefLengthForbidden,
		UTF8:             cbor.UTF8RejectInvalid,
		MaxNestedLevels:  16,
		MapKeyByteString: cbor.MapKeyByteStringAllowed,
	}.DecMode()
	if err != nil {
		panic(err)
	}
	return m
}()

// FuzzParse looks for a panic, for a message that Parse and another decoder read
// differently, and for a canonical form that is none.
func FuzzParse(f *testing.F) {
	for _, v := range vectors() {
		f.Add(unhex(v.Hex))
	}
	f.Add(unhex("d28440a0f640"))
	f.Fuzz(func(t *testing.T, b []byte) {
		lenient, lenientErr := ParseCOSE(b)
		s, err := Parse(b)
		if err != nil {
			if n := sentinels(err); n != 1 {
				t.Fatalf("%x: %v wraps %d sentinels", b, err, n)
			}
			return
		}
		if lenientErr != nil || lenient.ID() != s.ID() || lenient.Issuer != s.Issuer || lenient.Alg != s.Alg {
			t.Fatalf("%x: Parse accepts, ParseCOSE says %v", b, lenientErr)
		}
		compare(t, b, s)
		again, err := Parse(s.Canonical())
		if err != nil || again.ID() != s.ID() || !bytes.Equal(again.Canonical(), s.Canonical()) {
			t.Fatalf("%x: canonical form %x: %v", b, s.Canonical(), err)
		}
		s.MediaType()
		s.PredicateType()
		s.Evidence()
		s.Location()
		if artifacts, err := s.Artifacts([]Extractor{ExtractInToto, ExtractSubject}); err == nil {
			for _, d := range artifacts {
				if _, err := ParseDigest(string(d)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := s.Verify(vectorKey.Public()); err != nil && sentinels(err) != 1 {
			t.Fatalf("Verify: %v wraps %d sentinels", err, sentinels(err))
		}
	})
}

// compare reads b with another decoder and compares the fields.
func compare(t *testing.T, b []byte, s *Statement) {
	t.Helper()
	var tag cbor.RawTag
	var m struct {
		_           struct{} `cbor:",toarray"`
		Protected   []byte
		Unprotected map[any]cbor.RawMessage
		Payload     []byte
		Signature   []byte
	}
	if err := secondOpinion.Unmarshal(b, &tag); err != nil {
		t.Fatalf("%x: %v", b, err)
	}
	if err := secondOpinion.Unmarshal(tag.Content, &m); err != nil {
		t.Fatalf("%x: %v", b, err)
	}
	if tag.Number != 18 || !bytes.Equal(m.Protected, s.Protected()) || !bytes.Equal(m.Payload, s.Payload) ||
		(m.Payload == nil) != s.Detached() || !bytes.Equal(m.Signature, s.signature) {
		t.Fatalf("%x: read as %+v and %+v", b, m, s)
	}
	var h struct {
		Alg    int64  `cbor:"1,keyasint"`
		KeyID  []byte `cbor:"4,keyasint"`
		Type   any    `cbor:"3,keyasint"`
		Claims struct {
			Issuer  string `cbor:"1,keyasint"`
			Subject string `cbor:"2,keyasint"`
		} `cbor:"15,keyasint"`
		HashAlg int64 `cbor:"258,keyasint"`
	}
	if err := secondOpinion.Unmarshal(m.Protected, &h); err != nil {
		t.Fatalf("%x: %v", b, err)
	}
	if h.Alg != int64(s.Alg) || !bytes.Equal(h.KeyID, s.KeyID) || h.Claims.Issuer != s.Issuer || h.Claims.Subject != s.Subject {
		t.Fatalf("%x: read as %+v and %+v", b, h, s)
	}
	if text, ok := h.Type.(string); ok && text != s.ContentType {
		t.Fatalf("%x: content type %q and %q", b, text, s.ContentType)
	}
	if (h.HashAlg != 0) != (s.Envelope != nil) || s.Envelope != nil && s.Envelope.Alg != h.HashAlg {
		t.Fatalf("%x: hash envelope %d and %+v", b, h.HashAlg, s.Envelope)
	}
	// Every value outside of the claims, which may hold dates in tags, decodes.
	var all map[any]cbor.RawMessage
	if err := secondOpinion.Unmarshal(m.Protected, &all); err != nil {
		t.Fatalf("%x: %v", b, err)
	}
	for _, values := range []map[any]cbor.RawMessage{all, m.Unprotected} {
		for l, raw := range values {
			var v any
			if err := secondOpinion.Unmarshal(raw, &v); err != nil && l != int64(labelClaims) {
				t.Fatalf("%x: label %v: %v", b, l, err)
			}
		}
	}
}
