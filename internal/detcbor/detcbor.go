// Package detcbor is the project's one CBOR mode. It writes core deterministic
// encoding (RFC 8949 §4.2.1) and reads strictly. It knows nothing of COSE.
//
// Marshal writes, and Unmarshal reads into Go values what is known to be small.
// A Reader walks what strangers send; it is stricter than Unmarshal, and tells
// apart what a Go value could not. A Sequence splits what strangers send in a
// row, without waiting for its end.
package detcbor

import (
	"github.com/fxamacker/cbor/v2"
)

// RawMessage is an encoded CBOR item, kept verbatim.
type RawMessage = cbor.RawMessage

// Tag is a tagged item, for Marshal and Unmarshal.
type Tag = cbor.Tag

// MaxDepth is how many arrays, maps and tags may stand in one another: the
// outermost is 1, and what they hold in the end counts nothing.
const MaxDepth = 16

var (
	encMode  = mustEnc()
	decMode  = mustDec()
	diagMode = mustDiag()
)

func mustEnc() cbor.EncMode {
	m, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		panic(err) // options are constants: a failure is a programming error
	}
	return m
}

func mustDec() cbor.DecMode {
	m, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsAllowed,
		MaxNestedLevels:   MaxDepth,
		IntDec:            cbor.IntDecConvertSignedOrFail,
		UTF8:              cbor.UTF8RejectInvalid,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
	}.DecMode()
	if err != nil {
		panic(err)
	}
	return m
}

func mustDiag() cbor.DiagMode {
	m, err := cbor.DiagOptions{ByteStringEmbeddedCBOR: true}.DiagMode()
	if err != nil {
		panic(err)
	}
	return m
}

// Diagnose shows one item, and CBOR inside of byte strings, in diagnostic
// notation (RFC 8949 §8).
func Diagnose(b []byte) (string, error) { return diagMode.Diagnose(b) }

// Marshal encodes v deterministically: shortest heads, definite lengths, map
// keys sorted bytewise by their encoding (RFC 8949 §4.2.1).
func Marshal(v any) ([]byte, error) { return encMode.Marshal(v) }

// Unmarshal decodes exactly one item. Indefinite lengths, repeated map keys,
// invalid UTF-8, nesting beyond MaxDepth, unknown struct fields and trailing
// bytes are errors; heads longer than needed and tags are not.
func Unmarshal(b []byte, v any) error { return decMode.Unmarshal(b, v) }
