package statement

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/internal/detcbor"
)

// The vectors in ../testdata/statements are made here, from the table below, so
// that each says why it is what it is. Other rooms send the same bytes over
// HTTP. After a change to the table:
//
//	go test ./statement -run TestVectors -update
//
// vectors.json is an array of {name, hex, code, title}. code is the problem code
// a service answers with, "" for a statement that is well formed; title is the
// problem's title. All of them name the issuer https://vectors.example and the
// key in issuer.pub, and every signature that can be right is right: a service
// whose policy pins that key registers the vectors without a code.
var update = flag.Bool("update", false, "write ../testdata/statements anew")

const vectorDir = "../testdata/statements"

type vector struct {
	Name  string `json:"name"`
	Hex   string `json:"hex"`
	Code  string `json:"code"`
	Title string `json:"title"`

	says string // part of the error, so that no vector fails for another reason
}

// Problem codes that reading and verifying a statement lead to.
const (
	codeMalformed      = "malformed-request"
	codeMissing        = "missing-header"
	codeDuplicate      = "duplicate-label"
	codeCrit           = "unknown-crit"
	codeAlgorithm      = "bad-algorithm"
	codeSignature      = "bad-signature"
	codePayloadMissing = "payload-missing"
)

var problems = map[string]struct {
	title    string
	sentinel error
}{
	"":                 {"", nil},
	codeMalformed:      {"Malformed request", ErrMalformed},
	codeMissing:        {"Malformed request", ErrMissingHeader},
	codeDuplicate:      {"Malformed request", ErrDuplicateLabel},
	codeCrit:           {"Malformed request", ErrUnknownCrit},
	codeAlgorithm:      {"Bad Signature Algorithm", ErrAlgorithm},
	codeSignature:      {"Bad Signature", ErrSignature},
	codePayloadMissing: {"Payload Missing", ErrPayloadMissing},
}

// vectorKey is a published key: everybody can sign for https://vectors.example.
var vectorKey = fixedKey("key of https://vectors.example")

func fixedKey(name string) *ecdsa.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), seed[:])
	if err != nil {
		panic(err)
	}
	return key
}

// pair is a label and its value; both may be a raw item.
type pair struct{ label, value any }

// pairs is a map in the order in which it is written, sorted or not.
type pairs []pair

func (p pairs) encode() []byte {
	b := detcbor.AppendHead(nil, detcbor.KindMap, uint64(len(p)))
	for _, e := range p {
		b = append(append(b, encode(e.label)...), encode(e.value)...)
	}
	return b
}

// with sets a label, at the end when it is new.
func (p pairs) with(name, value any) pairs {
	p = append(pairs(nil), p...)
	for i := range p {
		if p[i].label == name {
			p[i].value = value
			return p
		}
	}
	return append(p, pair{name, value})
}

func (p pairs) without(name any) pairs {
	var rest pairs
	for _, e := range p {
		if e.label != name {
			rest = append(rest, e)
		}
	}
	return rest
}

func encode(v any) []byte {
	switch v := v.(type) {
	case pairs:
		return v.encode()
	case rawItem:
		return []byte(v)
	}
	b, err := detcbor.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// rawItem is an encoded item. Being a string, it can be a label too.
type rawItem string

func item(hexes string) rawItem { return rawItem(unhex(hexes)) }

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

// nested is n arrays in one another.
func nested(n int) rawItem {
	return rawItem(strings.Repeat("\x81", n-1) + "\x80")
}

const (
	vectorIssuer  = "https://vectors.example"
	vectorSubject = "pkg:oci/net-monitor@sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
)

func goodClaims() pairs { return pairs{{1, vectorIssuer}, {2, vectorSubject}} }

func goodHeader() pairs {
	kid, err := cose.Thumbprint(vectorKey.Public())
	if err != nil {
		panic(err)
	}
	return pairs{{1, -7}, {3, "application/json"}, {4, kid[:]}, {15, goodClaims()}}
}

func envelopeHeader() pairs {
	return goodHeader().without(3).with(258, -16).with(259, "application/spdx+json").with(260, "https://files.example/sbom")
}

var goodPayload = []byte(`{"hello":"world"}`)

// draft is a message in the making. Its zero value is a good one.
type draft struct {
	header      any // pairs or []byte; nil: goodHeader
	unprotected any // pairs or raw item; nil: empty
	payload     []byte
	detached    bool
	signature   []byte // nil: the right one
}

func (d draft) protected() []byte {
	switch h := d.header.(type) {
	case nil:
		return goodHeader().encode()
	case []byte:
		return h
	case pairs:
		return h.encode()
	}
	panic("draft: header is neither pairs nor bytes")
}

func (d draft) bytes() []byte {
	protected, payload, signature := d.protected(), d.payload, d.signature
	if payload == nil {
		payload = goodPayload
	}
	if signature == nil {
		var err error
		if signature, err = cose.Sign(cose.ES256, vectorKey, protected, payload); err != nil {
			panic(err)
		}
	}
	b := detcbor.AppendBytes([]byte{0xd2, 0x84}, protected)
	if d.unprotected == nil {
		b = append(b, 0xa0)
	} else {
		b = append(b, encode(d.unprotected)...)
	}
	if d.detached {
		b = append(b, 0xf6)
	} else {
		b = detcbor.AppendBytes(b, payload)
	}
	return detcbor.AppendBytes(b, signature)
}

// wideHeads writes d with heads longer than needed on the three byte strings.
func (d draft) wideHeads() []byte {
	wide := func(b, s []byte) []byte { return append(append(b, 0x5a, 0, 0, byte(len(s)>>8), byte(len(s))), s...) }
	s, err := Parse(d.bytes())
	if err != nil {
		panic(err)
	}
	b := wide([]byte{0xd2, 0x84}, s.protected)
	return wide(wide(append(b, 0xa0), s.Payload), s.signature)
}

// flipped is d with one bit of its last byte, the signature's, turned.
func (d draft) flipped() []byte {
	b := d.bytes()
	b[len(b)-1] ^= 1
	return b
}

// leaf stands for a certificate: nobody parses it here.
var leaf = []byte("a certificate, as far as anybody looks at this point")

func leafHash() []byte { h := sha256.Sum256(leaf); return h[:] }

// unreadable are vectors that are no COSE_Sign1 of ours at all.
func unreadable() []vector {
	good := draft{}.bytes()
	protected := detcbor.AppendBytes(nil, goodHeader().encode())
	sig := detcbor.AppendBytes(nil, bytes.Repeat([]byte{7}, 64))
	join := func(parts ...[]byte) string { return hex.EncodeToString(bytes.Join(parts, nil)) }
	body := good[2:]
	bad := func(name, hexes, says string) vector {
		return vector{Name: name, Hex: hexes, Code: codeMalformed, says: says}
	}
	return []vector{
		bad("empty body", "", "empty"),
		bad("one byte", "d2", "array of 4"),
		bad("text instead of CBOR", hex.EncodeToString([]byte(`{"payload":"none"}`)), "begins with 0x7b"),
		bad("untagged", join([]byte{0x84}, body), "begins with 0x84"),
		bad("tag 98, COSE_Sign", join([]byte{0xd8, 98, 0x84}, body), "begins with 0xd8"),
		bad("tag 61, CWT, around it", join([]byte{0xd8, 61}, good), "begins with 0xd8"),
		bad("tag 55799, self-described, around it", join([]byte{0xd9, 0xd9, 0xf7}, good), "begins with 0xd9"),
		bad("tag 18 twice", join([]byte{0xd2}, good), "head 0x84"),
		bad("tag 18 with a long head", join([]byte{0xd8, 0x12, 0x84}, body), "begins with 0xd8"),
		bad("array of 4 with a long head", join([]byte{0xd2, 0x98, 0x04}, body), "head 0x84"),
		bad("array of indefinite length", join([]byte{0xd2, 0x9f}, body, []byte{0xff}), "head 0x84"),
		bad("array of 3", join([]byte{0xd2, 0x83}, protected, []byte{0xa0}, sig), "head 0x84"),
		bad("array of 5", join([]byte{0xd2, 0x85}, body, []byte{0xa0}), "head 0x84"),
		bad("a byte after the message", join(good, []byte{0}), "1 bytes after the end"),
		bad("the message twice", join(good, good), "after the end"),
		bad("last byte cut off", join(good[:len(good)-1]), "bytes are left"),
		bad("cut after the unprotected header", join([]byte{0xd2, 0x84}, protected, []byte{0xa0}), "input ends"),
		bad("protected header is a map, not a byte string", join([]byte{0xd2, 0x84}, goodHeader().encode(), []byte{0xa0, 0xf6}, sig), "a map where a byte string"),
		bad("protected header of indefinite length", join([]byte{0xd2, 0x84, 0x5f}, protected, []byte{0xff, 0xa0, 0xf6}, sig), "indefinite length"),
		bad("protected header in tag 24", join([]byte{0xd2, 0x84, 0xd8, 0x18}, protected, []byte{0xa0, 0xf6}, sig), "a tag where a byte string"),
		bad("protected header declares 2^63-1 bytes", "d2845b7fffffffffffffffa0", "only 1 bytes are left"),
		bad("protected header declares 2^64-1 bytes", "d2845bffffffffffffffffa0", "only 1 bytes are left"),
		bad("unprotected header declares 2^63-1 pairs", join([]byte{0xd2, 0x84}, protected, unhex("bb7fffffffffffffff0000")), "bytes are left"),
		bad("payload declares 2^63-1 bytes", join([]byte{0xd2, 0x84}, protected, unhex("a05b7fffffffffffffff00")), "bytes are left"),
		bad("array in the unprotected header declares 2^63-1 items", join([]byte{0xd2, 0x84}, protected, unhex("a118639b7fffffffffffffff00")), "bytes are left"),
		bad("unprotected header is an array", join([]byte{0xd2, 0x84}, protected, []byte{0x80, 0xf6}, sig), "an array, not a map"),
		bad("unprotected header is null", join([]byte{0xd2, 0x84}, protected, []byte{0xf6, 0xf6}, sig), "not a map"),
		bad("unprotected header of indefinite length", join([]byte{0xd2, 0x84}, protected, []byte{0xbf, 0xff, 0xf6}, sig), "indefinite length"),
		bad("payload is text", join([]byte{0xd2, 0x84}, protected, []byte{0xa0, 0x61, 'x'}, sig), "a text string where a byte string"),
		bad("payload is undefined", join([]byte{0xd2, 0x84}, protected, []byte{0xa0, 0xf7}, sig), "simple value"),
		bad("payload of indefinite length", join([]byte{0xd2, 0x84}, protected, unhex("a05f4101ff"), sig), "indefinite length"),
		bad("signature is null", join([]byte{0xd2, 0x84}, protected, unhex("a0f6f6")), "where a byte string"),
		bad("reserved additional information 28", join([]byte{0xd2, 0x84}, protected, unhex("a1011cf6"), sig), "reserved"),
	}
}

// headerFaults break one rule about the headers each.
func headerFaults() []vector {
	var list []vector
	bad := func(code, name, says string, d draft) {
		list = append(list, vector{Name: name, Hex: hex.EncodeToString(d.bytes()), Code: code, says: says})
	}
	header := func(code, name, says string, h any) { bad(code, name, says, draft{header: h}) }
	unprotected := func(code, name, says string, u any) { bad(code, name, says, draft{unprotected: u}) }
	claims := func(code, name, says string, c any) { header(code, name, says, goodHeader().with(15, c)) }
	good := goodHeader()

	// Encoding inside the headers.
	header(codeMalformed, "protected header is h''", "input ends", []byte{})
	header(codeMissing, "protected header is h'A0'", "alg (label 1)", pairs{})
	header(codeMalformed, "protected header holds an array", "an array where a map", []byte{0x80})
	header(codeMalformed, "protected header holds two maps", "after the end", append(good.encode(), 0xa0))
	header(codeMalformed, "protected map of indefinite length", "indefinite length", append(append([]byte{0xbf}, good.encode()[1:]...), 0xff))
	header(codeMalformed, "protected map with a long head", "head longer than needed", append([]byte{0xb8, byte(len(good))}, good.encode()[1:]...))
	header(codeMalformed, "label 1 written as 18 01", "head longer than needed", append(pairs{{item("1801"), -7}}, good[1:]...))
	header(codeMalformed, "alg -7 written as 38 06", "head longer than needed", good.with(1, item("3806")))
	header(codeMalformed, "claim 1 written as 18 01", "head longer than needed", good.with(15, pairs{{item("1801"), vectorIssuer}, {2, vectorSubject}}))
	header(codeMalformed, "indefinite text in the protected header", "indefinite length", good.with("x", item("7f6161ff")))
	header(codeMalformed, "tag 24 in the protected header", "tag 24", good.with("x", item("d8184100")))
	header(codeMalformed, "tag 2, a bignum, in the protected header", "tag 2 ", good.with("x", item("c249010000000000000000")))
	header(codeMalformed, "tag 1 outside the claims", "tag 1 ", good.with("x", item("c100")))
	header(codeMalformed, "undefined in the protected header", "simple value", good.with("x", item("f7")))
	header(codeMalformed, "simple value 99 in the protected header", "simple value", good.with("x", item("f863")))
	header(codeMalformed, "text that is not UTF-8 in the protected header", "UTF-8", good.with("x", item("62c328")))
	header(codeMalformed, "integer -2^64 in the protected header", "below -2^63", good.with("x", item("3bffffffffffffffff")))
	header(codeMalformed, "protected header 17 deep", "nested deeper", good.with("x", nested(16)))
	unprotected(codeMalformed, "unprotected header 17 deep", "nested deeper", pairs{{"x", nested(15)}})
	unprotected(codeMalformed, "unprotected label with a long head", "head longer than needed", pairs{{item("1863"), 0}, {item("1864"), 0}, {item("190001"), 0}})
	unprotected(codeMalformed, "tag in the unprotected header", "tag 32", pairs{{35, item("d8206178")}})

	// Labels.
	for _, l := range []struct{ name, hex, says string }{
		{"2^64-1", "1bffffffffffffffff", "64 bits"}, {"-2^64", "3bffffffffffffffff", "below -2^63"},
		{"NaN", "f97e00", "where an integer"}, {"false", "f4", "where an integer"}, {"null", "f6", "where an integer"},
		{"h'01'", "4101", "where an integer"}, {"[1]", "8101", "where an integer"}, {"the text 15", "623135", "looks like an integer"},
		{"the text -7", "622d37", "looks like an integer"},
	} {
		header(codeMalformed, "protected label is "+l.name, l.says, good.with(item(l.hex), 0))
	}
	unprotected(codeMalformed, "unprotected label is NaN", "keys are integers or strings", pairs{{item("f97e00"), 0}})
	header(codeMalformed, "key of a nested map is null", "keys are integers or strings", good.with("x", item("a1f600")))
	many := good
	for i := range MaxLabels {
		many = many.with(1000+i, 0)
	}
	header(codeMalformed, "68 protected labels", "at most 64", many)
	unprotected(codeMalformed, "65 unprotected labels", "at most 64", many.without(1).without(3).without(4).without(15).with("x", 0))

	// Repeated keys.
	header(codeDuplicate, "alg twice", "label 1 twice", append(good, pair{1, -7}))
	header(codeDuplicate, "text label twice", `label "x" twice`, append(good, pair{"x", 0}, pair{"x", 1}))
	claims(codeDuplicate, "iss twice", "duplicate map key 1", append(goodClaims(), pair{1, vectorIssuer}))
	claims(codeDuplicate, "repeated key inside a claim", "duplicate map key", goodClaims().with(8, item("a3626262006161006262620 0")))
	header(codeDuplicate, "repeated key five maps deep", "duplicate map key 0", good.with("x", item("a101a101a101a101a200000000")))
	unprotected(codeDuplicate, "unprotected label twice", "duplicate map key 99", pairs{{99, 0}, {99, 0}})
	unprotected(codeDuplicate, "repeated key inside an unprotected value", "duplicate map key", pairs{{99, item("a201000100")}})
	kid, _ := cose.Thumbprint(vectorKey.Public())
	unprotected(codeDuplicate, "alg in both headers, equal", "label 1 is in both", pairs{{1, -7}})
	unprotected(codeDuplicate, "alg in both headers, different", "label 1 is in both", pairs{{1, -35}})
	unprotected(codeDuplicate, "kid in both headers, equal", "label 4 is in both", pairs{{4, kid[:]}})
	unprotected(codeDuplicate, "kid in both headers, different", "label 4 is in both", pairs{{4, []byte("x")}})
	bad(codeDuplicate, "x5chain in both headers", "label 33 is in both", draft{header: good.with(33, leaf), unprotected: pairs{{33, leaf}}})
	bad(codeDuplicate, "text label in both headers", `label "x" is in both`, draft{header: good.with("x", 0), unprotected: pairs{{"x", 0}}})

	// crit and IV.
	header(codeMalformed, "crit is empty", "is empty", good.with(2, []any{}))
	header(codeMalformed, "crit is no array", "where an array", good.with(2, 1))
	header(codeMalformed, "crit names an absent label", "not in the protected header", good.with(2, []any{33}))
	header(codeMalformed, "crit holds a byte string", "where an integer", good.with(2, []any{[]byte{1}}))
	bad(codeMalformed, "crit names an unprotected label", "not in the protected header", draft{header: good.with(2, []any{33}), unprotected: pairs{{33, leaf}}})
	unprotected(codeMalformed, "crit is unprotected", "unprotected", pairs{{2, []any{1}}})
	header(codeCrit, "crit names a private label", "label -70000", good.with(-70000, 0).with(2, []any{-70000}))
	header(codeCrit, "crit names a text label", `label "x"`, good.with("x", 0).with(2, []any{"x"}))
	header(codeCrit, "crit names x5u", "label 35", good.with(35, "https://x.example").with(2, []any{15, 35}))
	bad(codeMalformed, "IV with Partial IV", "Partial IV", draft{header: good.with(5, []byte{1}), unprotected: pairs{{6, []byte{1}}}})

	// Algorithm.
	header(codeMissing, "no alg", "alg (label 1)", good.without(1))
	bad(codeMissing, "alg only unprotected", "alg (label 1)", draft{header: good.without(1), unprotected: pairs{{1, -7}}})
	header(codeAlgorithm, "alg is the text ES256", `"ES256"`, good.with(1, "ES256"))
	header(codeMalformed, "alg is a byte string", "not an integer", good.with(1, []byte{7}))
	header(codeMalformed, "alg is 2^64-1", "64 bits", good.with(1, item("1bffffffffffffffff")))
	for _, a := range []struct {
		name string
		alg  int
	}{
		{"ES256K", -47}, {"RS256", -257}, {"RS1", -65535}, {"HSS-LMS", -46}, {"HMAC 256/256", 5}, {"A128GCM", 1}, {"ML-DSA-44", -48}, {"0, reserved", 0},
	} {
		header(codeAlgorithm, "alg is "+a.name, "not one that is accepted", good.with(1, a.alg))
	}

	// Claims.
	header(codeMissing, "no CWT Claims", "label 15", good.without(15))
	bad(codeMissing, "CWT Claims only unprotected", "label 15", draft{header: good.without(15), unprotected: pairs{{15, goodClaims()}}})
	header(codeMalformed, "CWT Claims are an array", "an array where a map", good.with(15, []any{vectorIssuer, vectorSubject}))
	header(codeMalformed, "CWT Claims are an encoded map", "a byte string where a map", good.with(15, goodClaims().encode()))
	claims(codeMissing, "no iss", "iss (claim 1)", goodClaims().without(1))
	claims(codeMissing, "no sub", "sub (claim 2)", goodClaims().without(2))
	claims(codeMalformed, "iss is bytes", "where a text string", goodClaims().with(1, []byte(vectorIssuer)))
	claims(codeMalformed, "sub is null", "where a text string", goodClaims().with(2, nil))
	claims(codeMalformed, "iss is empty", "is empty", goodClaims().with(1, ""))
	claims(codeMalformed, "sub is empty", "is empty", goodClaims().with(2, ""))
	claims(codeMalformed, "iss of 8193 characters", "8193 characters", goodClaims().with(1, "https://"+strings.Repeat("x", 8185)))
	claims(codeMalformed, "sub of 2049 bytes", "2049 bytes", goodClaims().with(2, strings.Repeat("x", 2049)))
	claims(codeMalformed, "sub of 1025 two-byte characters", "2050 bytes", goodClaims().with(2, strings.Repeat("ü", 1025)))
	for _, c := range []struct{ name, text, says string }{
		{"NUL", "https://a\x00b", "control"}, {"CR LF", "https://a\r\nX: b", "control"}, {"ESC", "\x1b[31mred", "control"},
		{"U+0085", "a\u0085b", "control"}, {"a bidi override", "a\u202eb", "direction"}, {"a bidi isolate", "a\u2066b", "direction"},
		{"a line separator", "a\u2028b", "line separator"}, {"a leading space", " a", "space"}, {"a trailing no-break space", "a\u00a0", "space"},
	} {
		claims(codeMalformed, "iss with "+c.name, c.says, goodClaims().with(1, c.text))
		claims(codeMalformed, "sub with "+c.name, c.says, goodClaims().with(2, c.text))
	}
	claims(codeMalformed, "iss that is not UTF-8", "UTF-8", goodClaims().with(1, item("62c328")))
	claims(codeMalformed, "claim named by a byte string", "where an integer", goodClaims().with(item("4101"), 0))
	claims(codeMalformed, "claim named by the text 1", "looks like an integer", goodClaims().with("1", "https://other.example"))
	claims(codeMalformed, "tag 32 on iss", "tag 32", goodClaims().with(1, item("d8206178")))
	for _, v := range []struct {
		name  string
		value any
		says  string
	}{
		{"negative", -1, "1970"}, {"2^63", item("1b8000000000000000"), "1970"}, {"after the year 9999", 253402300800, "1970"},
		{"NaN", item("f97e00"), "1970"}, {"infinite", item("f97c00"), "1970"}, {"text", "2026-11-21T00:00:00Z", "not a number"},
		{"null", nil, "not a number"}, {"true", true, "not a number"}, {"a date in tag 0", item("c074323032362d31312d32315430303a30303a30305a"), "not a number"},
		{"doubly tagged", item("c1c100"), "tag 1 on a tag"}, {"an array in tag 1", item("c18100"), "tag 1 on an array"},
	} {
		claims(codeMalformed, "exp is "+v.name, v.says, goodClaims().with(4, v.value))
		claims(codeMalformed, "nbf is "+v.name, v.says, goodClaims().with(5, v.value))
		claims(codeMalformed, "iat is "+v.name, v.says, goodClaims().with(6, v.value))
	}
	claims(codeMalformed, "exp before nbf", "before nbf", goodClaims().with(4, 1000).with(5, 1001))

	// Key and certificates.
	header(codeMissing, "no kid, x5t or x5chain", "none of kid", good.without(4))
	bad(codeMissing, "kid only unprotected", "none of kid", draft{header: good.without(4), unprotected: pairs{{4, kid[:]}}})
	bad(codeMissing, "x5chain only unprotected", "none of kid", draft{header: good.without(4), unprotected: pairs{{33, leaf}}})
	header(codeMalformed, "kid is text", "where a byte string", good.with(4, "kid"))
	header(codeMalformed, "x5chain is an array of one", "array of 1", good.with(33, []any{leaf}))
	header(codeMalformed, "x5chain is an empty array", "array of 0", good.with(33, []any{}))
	header(codeMalformed, "x5chain is text", "where an array", good.with(33, "leaf"))
	header(codeMalformed, "x5chain with an empty certificate", "is empty", good.with(33, []any{leaf, []byte{}}))
	header(codeMalformed, "x5chain holds text", "where a byte string", good.with(33, []any{leaf, "ca"}))
	chain := make([]any, 9)
	for i := range chain {
		chain[i] = leaf
	}
	header(codeMalformed, "x5chain of 9 certificates", "9 certificates", good.with(33, chain))
	unprotected(codeMalformed, "unprotected x5chain of 9 certificates", "9 certificates", pairs{{33, chain}})
	bad(codeMalformed, "x5t names another leaf", "another certificate", draft{
		header: good.with(34, []any{-16, make([]byte, 32)}), unprotected: pairs{{33, leaf}}})
	header(codeMalformed, "x5t and x5chain in protected disagree", "another certificate", good.with(33, leaf).with(34, []any{-16, make([]byte, 32)}))
	header(codeMalformed, "x5t with SHA-1", "hash algorithm -14", good.with(34, []any{-14, make([]byte, 20)}))
	header(codeMalformed, "x5t cut short", "hash of 31 bytes", good.with(34, []any{-16, make([]byte, 31)}))
	header(codeMalformed, "x5t is a byte string", "where an array", good.with(34, leafHash()))
	header(codeMalformed, "x5t of three items", "array of 3", good.with(34, []any{-16, leafHash(), 0}))

	// Content type.
	for _, c := range []struct {
		name  string
		value any
		says  string
	}{
		{"negative", -1, "not a media type"}, {"bytes", []byte("text/plain"), "not a media type"}, {"without a slash", "json", "no media type"},
		{"with two slashes", "a/b/c", "no media type"}, {"without subtype", "application/", "no media type"}, {"empty", "", "no media type"},
		{"of 256 bytes", "application/" + strings.Repeat("x", 120) + "; p=" + strings.Repeat("y", 120), "256 bytes"}, {"with a subtype of 128 characters", "application/" + strings.Repeat("x", 128), "no media type"},
		{"with CR LF", "text/plain\r\nX: y", "no media type"}, {"with an edge space", "text/plain ", "no media type"},
		{"with a broken parameter", "text/plain; charset", "no media type"}, {"with a bidi override in a parameter", "text/plain; a=\"\u202e\"", "no media type"},
		{"true", true, "not a media type"},
	} {
		header(codeMalformed, "content type "+c.name, c.says, good.with(3, c.value))
	}
	header(codeMalformed, "typ is null", "typ (label 16)", good.with(16, nil))

	// Hash envelope.
	digest := leafHash()
	envelope := func(name, says string, h pairs, payload []byte) {
		bad(codeMalformed, name, says, draft{header: h, payload: payload})
	}
	envelope("hash envelope with label 3", "label 3", envelopeHeader().with(3, "application/json"), digest)
	bad(codeMalformed, "hash envelope with label 3 unprotected", "label 3", draft{header: envelopeHeader(), unprotected: pairs{{3, "application/json"}}, payload: digest})
	envelope("hash envelope with 31 bytes of SHA-256", "31 bytes is no digest", envelopeHeader(), digest[:31])
	envelope("hash envelope with 32 bytes of SHA-384", "32 bytes is no digest", envelopeHeader().with(258, -43), digest)
	envelope("hash envelope with SHA-1", "is -14", envelopeHeader().with(258, -14), digest[:20])
	envelope("hash envelope algorithm as text", "where an integer", envelopeHeader().with(258, "SHA-256"), digest)
	envelope("preimage type without a slash", "label 259", envelopeHeader().with(259, "spdx"), digest)
	envelope("payload location is bytes", "label 260", envelopeHeader().with(260, []byte("x")), digest)
	envelope("payload location with CR LF", "label 260", envelopeHeader().with(260, "https://a\r\n"), digest)
	envelope("payload location of 2049 bytes", "2049 bytes", envelopeHeader().with(260, strings.Repeat("x", 2049)), digest)
	unprotected(codeMalformed, "label 258 unprotected", "label 258", pairs{{258, -16}})
	unprotected(codeMalformed, "label 259 unprotected", "label 259", pairs{{259, "text/plain"}})
	unprotected(codeMalformed, "label 260 unprotected", "label 260", pairs{{260, "https://a"}})
	header(codeMalformed, "label 259 without 258", "without label 258", good.with(259, "text/plain"))

	// Receipts, payload, signature.
	unprotected(codeMalformed, "receipts are null", "label 394", pairs{{394, nil}})
	unprotected(codeMalformed, "receipts are an empty array", "empty array", pairs{{394, []any{}}})
	unprotected(codeMalformed, "receipts are not byte strings", "where a byte string", pairs{{394, []any{1}}})
	bad(codeMalformed, "payload is empty", "payload is empty", draft{payload: []byte{}})
	bad(codeMalformed, "signature is empty", "signature is empty", draft{signature: []byte{}})
	bad(codeMalformed, "signature of 63 bytes", "63 bytes", draft{signature: make([]byte, 63)})
	bad(codeMalformed, "signature of 65 bytes", "65 bytes", draft{signature: make([]byte, 65)})
	bad(codeMalformed, "ES384 signature of 64 bytes", "64 bytes", draft{header: good.with(1, -35), signature: make([]byte, 64)})
	return list
}

// unverified are well formed, and fail when the signature is checked.
func unverified() []vector {
	bad := func(code, name string, b []byte) vector {
		return vector{Name: name, Hex: hex.EncodeToString(b), Code: code}
	}
	with := func(alg int, size int) []byte {
		return draft{header: goodHeader().with(1, alg), signature: bytes.Repeat([]byte{1}, size)}.bytes()
	}
	return []vector{
		bad(codeSignature, "one bit of the signature flipped", draft{}.flipped()),
		bad(codeSignature, "signature of zeros", draft{signature: make([]byte, 64)}.bytes()),
		bad(codeSignature, "signature of ones", draft{signature: bytes.Repeat([]byte{0xff}, 64)}.bytes()),
		bad(codeSignature, "signature of another payload", draft{payload: []byte("{}"), signature: signatureOf(draft{})}.bytes()),
		bad(codeAlgorithm, "EdDSA with a P-256 key", with(-8, 64)),
		bad(codeAlgorithm, "ES384 with a P-256 key", with(-35, 96)),
		bad(codeAlgorithm, "PS256 with a P-256 key", with(-37, 256)),
		bad(codePayloadMissing, "payload is null", draft{detached: true}.bytes()),
	}
}

func signatureOf(d draft) []byte {
	s, err := Parse(d.bytes())
	if err != nil {
		panic(err)
	}
	return s.signature
}

// accepted are well formed and verify with the key in issuer.pub.
func accepted() []vector {
	good := func(name string, b []byte) vector { return vector{Name: name, Hex: hex.EncodeToString(b)} }
	header := func(name string, h pairs) vector { return good(name, draft{header: h}.bytes()) }
	claims := func(name string, c pairs) vector { return header(name, goodHeader().with(15, c)) }
	h := goodHeader()
	return []vector{
		good("plain statement", draft{}.bytes()),
		header("unsorted protected header", pairs{h[3], h[2], h[1], h[0]}),
		header("unsorted claims", h.with(15, pairs{{2, vectorSubject}, {1, vectorIssuer}})),
		header("protected header 16 deep", h.with("x", nested(15))),
		good("unprotected header 16 deep", draft{unprotected: pairs{{"x", nested(14)}}}.bytes()),
		good("long heads on the three byte strings", draft{}.wideHeads()),
		good("unprotected content of many kinds", draft{unprotected: pairs{{99, []any{1, "two", nil, true, 1.5}}, {"y", map[int]int{2: 1, 1: 2}}}}.bytes()),
		good("unprotected receipts", draft{unprotected: pairs{{394, []any{[]byte("one"), []byte("two")}}}}.bytes()),
		header("content type with parameters and capitals", h.with(3, "Application/JSON; charset=utf-8")),
		header("content-format 50", h.with(3, 50)),
		header("content-format nobody knows", h.with(3, 64999)),
		header("no content type", h.without(3)),
		header("typ", h.with(16, "application/scitt-statement+cose")),
		header("crit naming what is understood", h.with(2, []any{1, 3, 4, 15})),
		header("label 2^63-1 and -2^63", h.with(item("1b7fffffffffffffff"), 0).with(item("3b7fffffffffffffff"), 0)),
		header("value 2^64-1", h.with("x", item("1bffffffffffffffff"))),
		header("text label that only begins with a digit", h.with("15a", 0)),
		claims("iat in tag 1, iat a float", goodClaims().with(6, item("c11a65000000"))),
		claims("exp a float, nbf equal to it", goodClaims().with(4, 4102444800.5).with(5, 1000)),
		claims("private date claim in tag 0", goodClaims().with(-70001, item("c074323032362d31312d32315430303a30303a30305a"))),
		claims("text claims and cnf", goodClaims().with("svn", 1).with(8, map[int]any{3: []byte{1}})),
		claims("iss in another script", goodClaims().with(1, vectorIssuer).with(2, "ネット監視")),
		good("hash envelope", draft{header: envelopeHeader(), payload: leafHash()}.bytes()),
		good("hash envelope with a content-format", draft{header: envelopeHeader().with(259, 60), payload: leafHash()}.bytes()),
	}
}

func vectors() []vector {
	var all []vector
	for _, list := range [][]vector{unreadable(), headerFaults(), unverified(), accepted()} {
		all = append(all, list...)
	}
	for i := range all {
		all[i].Title = problems[all[i].Code].title
	}
	return all
}

func TestVectors(t *testing.T) {
	all := vectors()
	var text bytes.Buffer
	text.WriteString("[\n")
	for i, v := range all {
		line, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		text.Write(line)
		if i < len(all)-1 {
			text.WriteByte(',')
		}
		text.WriteByte('\n')
	}
	text.WriteString("]\n")
	pub, err := cose.MarshalPublicPEM(vectorKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]byte{"vectors.json": text.Bytes(), "issuer.pub": pub} {
		path := filepath.Join(vectorDir, name)
		if *update {
			if err := os.WriteFile(path, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what the table says (%v); run with -update", path, err)
		}
	}
}

func TestEveryVectorIsReadAsItsCodeSays(t *testing.T) {
	names := make(map[string]bool)
	for _, v := range vectors() {
		t.Run(v.Name, func(t *testing.T) {
			if names[v.Name] {
				t.Error("name is used twice")
			}
			names[v.Name] = true
			s, err := Parse(unhex(v.Hex))
			want := problems[v.Code].sentinel
			if err == nil {
				err = s.Verify(vectorKey.Public())
			}
			if !errors.Is(err, want) {
				t.Fatalf("got %v, want %v", err, want)
			}
			if err == nil {
				return
			}
			if n := sentinels(err); n != 1 {
				t.Errorf("%v wraps %d of the sentinels, want 1", err, n)
			}
			if !strings.Contains(err.Error(), v.says) {
				t.Errorf("error %q does not say %q", err, v.says)
			}
			if s != nil && v.Code != codeSignature && v.Code != codeAlgorithm && v.Code != codePayloadMissing {
				t.Error("was parsed, although its code is one of parsing")
			}
		})
	}
}

// sentinels counts the sentinels that err wraps.
func sentinels(err error) (n int) {
	for code, p := range problems {
		if code != "" && errors.Is(err, p.sentinel) {
			n++
		}
	}
	if errors.Is(err, ErrKey) { // no message is that wrong: the caller's key is
		n++
	}
	return n
}
