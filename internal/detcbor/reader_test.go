package detcbor

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"pgregory.net/rapid"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestScanAcceptsOneStrictItem(t *testing.T) {
	for _, in := range []string{
		"00", "17", "1818", "18ff", "190100", "1a00010000", "1b0000000100000000", "1bffffffffffffffff",
		"20", "3b7fffffffffffffff", "40", "4101", "60", "63e282ac", "80", "83010203", "a0",
		"a2010203 04",             // ascending keys
		"a3 03 00 01 00 02 00",    // any order
		"a3 616101 4161 02 00 03", // text "a", bytes "a" and 0 are three keys
		"f4", "f5", "f6", "f93c00", "f97e00", "fa47c35000", "fb3ff199999999999a",
		"a101a101a101a10100",
	} {
		if err := Scan(unhex(t, in)); err != nil {
			t.Errorf("%s: %v", in, err)
		}
	}
}

func TestScanRefuses(t *testing.T) {
	for _, c := range []struct{ in, says string }{
		{"", "input ends"},
		{"0000", "after the end"},
		{"18", "inside a head"},
		{"1a0000", "inside a head"},
		{"1817", "longer than needed"},
		{"1900ff", "longer than needed"},
		{"1a0000ffff", "longer than needed"},
		{"1b00000000ffffffff", "longer than needed"},
		{"5801 00", "longer than needed"},
		{"9801 00", "longer than needed"},
		{"b800", "longer than needed"},
		{"d800 00", "longer than needed"},
		{"1c", "reserved"}, {"5d", "reserved"}, {"9e", "reserved"},
		{"5fff", "indefinite"}, {"7fff", "indefinite"}, {"9fff", "indefinite"}, {"bfff", "indefinite"}, {"ff", "indefinite"},
		{"3b8000000000000000", "below -2^63"},
		{"4201", "only 1 bytes"},
		{"8201", "only 1 bytes"}, // the count alone betrays it
		{"820102ff", "after the end"},
		{"a201", "only 1 bytes"},
		{"a10102a0", "after the end"},
		{"61ff", "UTF-8"},
		{"62c328", "UTF-8"},
		{"f7", "simple"}, {"e0", "simple"}, {"f3", "simple"}, {"f820", "simple"}, {"f814", "simple"},
		{"a1f400", "keys are"}, {"a1f600", "keys are"}, {"a1f97e0000", "keys are"}, {"a18000", "keys are"}, {"a1a000", "keys are"}, {"a1c00000", "keys are"},
		{"c000", "tag 0 on"},
		{"d81840", "tag 24 on"},
		{"81c2 40", "tag 2 on"},
		{"c0", "input ends"},
	} {
		err := Scan(unhex(t, c.in))
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, want an error that says %q", c.in, err, c.says)
		}
		if errors.Is(err, ErrDuplicateKey) {
			t.Errorf("%s: %v is about a repeated key", c.in, err)
		}
	}
}

func TestScanFindsRepeatedKeysAtAnyDepth(t *testing.T) {
	for _, c := range []struct{ in, key string }{
		{"a201000100", "1"},
		{"a3010002000100", "1"},
		{"a4020003000100 0300", "3"},
		{"a2 6161 00 6161 00", `"a"`},
		{"a3 6162 00 6161 00 6162 00", `"b"`},
		{"a2 4101 00 4101 00", "h'01'"},
		{"a2 38ff 00 38ff 00", "-256"},
		{"a2 1bffffffffffffffff 00 1bffffffffffffffff 00", "2^63"},
		{"81a101a101a201000100", "1"},
		{"a2 05a3010002000100 0400", "1"}, // inside an unsorted map
		{"a3 05a10100 0400 05a10100", "5"},
	} {
		err := Scan(unhex(t, c.in))
		if !errors.Is(err, ErrDuplicateKey) || !strings.Contains(err.Error(), c.key) {
			t.Errorf("%s: got %v, want a repeated key %s", c.in, err, c.key)
		}
	}
}

func TestNestingEndsAtMaxDepth(t *testing.T) {
	for name, open := range map[string]string{"arrays": "81", "maps": "a100", "tags": "c1"} {
		for depth, want := range map[int]bool{1: true, MaxDepth: true, MaxDepth + 1: false, 10000: false} {
			in := unhex(t, strings.Repeat(open, depth)+"00")
			r := NewReader(in)
			r.Tag = func(uint64, Kind) bool { return true }
			if _, err := r.Raw(); (err == nil) != want {
				t.Errorf("%d %s: %v", depth, name, err)
			}
			var v any
			if err := Unmarshal(in, &v); name == "arrays" && (err == nil) != want {
				t.Errorf("Unmarshal sees another depth than Reader: %d %s: %v", depth, name, err)
			}
		}
	}
	r := NewReader(unhex(t, strings.Repeat("81", MaxDepth+1)))
	for range MaxDepth {
		if _, err := r.Array(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Array(); err == nil {
		t.Error("Array opens more than MaxDepth")
	}
}

func TestReaderReadsWhatWasWritten(t *testing.T) {
	in, err := Marshal([]any{7, -8, []byte("bytes"), "text", nil, map[int]string{1: "x"}, []int{1, 2}})
	if err != nil {
		t.Fatal(err)
	}
	r := NewReader(in)
	n, err := r.Array()
	if n != 7 || err != nil {
		t.Fatal(n, err)
	}
	a, err1 := r.Int()
	b, err2 := r.Int()
	c, err3 := r.Bytes()
	d, err4 := r.Text()
	null := r.Null()
	m, err5 := r.Raw()
	count, err6 := r.Array()
	if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
		t.Fatal(err)
	}
	if a != 7 || b != -8 || string(c) != "bytes" || d != "text" || !null || hex.EncodeToString(m) != "a1016178" || count != 2 {
		t.Error(a, b, c, d, null, m, count)
	}
	if r.Null() {
		t.Error("1 was read as null")
	}
	if err := r.End(); err == nil {
		t.Error("End, although two items are left")
	}
}

func TestReaderRefusesTheWrongKind(t *testing.T) {
	text := unhex(t, "6161")
	for name, read := range map[string]func(*Reader) error{
		"Int":   func(r *Reader) error { _, err := r.Int(); return err },
		"Bytes": func(r *Reader) error { _, err := r.Bytes(); return err },
		"Array": func(r *Reader) error { _, err := r.Array(); return err },
		"Map":   func(r *Reader) error { _, err := r.Map(); return err },
	} {
		if err := read(NewReader(text)); err == nil || !strings.Contains(err.Error(), "a text string where") {
			t.Errorf("%s of a text: %v", name, err)
		}
		if err := read(NewReader(nil)); err == nil {
			t.Errorf("%s of nothing succeeds", name)
		}
	}
	for _, in := range []string{"1b8000000000000000", "1bffffffffffffffff", "3bffffffffffffffff"} {
		if n, err := NewReader(unhex(t, in)).Int(); err == nil {
			t.Errorf("%s was read as %d", in, n)
		}
	}
}

func TestOnlyLongBytesToleratesALongHead(t *testing.T) {
	for _, in := range []string{"580161", "59000161", "5a0000000161", "5b000000000000000161"} {
		if b, err := NewReader(unhex(t, in)).LongBytes(); err != nil || string(b) != "a" {
			t.Errorf("LongBytes of %s: %q, %v", in, b, err)
		}
		if _, err := NewReader(unhex(t, in)).Bytes(); err == nil {
			t.Errorf("Bytes accepts %s", in)
		}
	}
}

func TestResultsCannotReachIntoTheRestOfTheInput(t *testing.T) {
	in := unhex(t, "41614162")
	b, err := NewReader(in).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	_ = append(b, 'X')
	if hex.EncodeToString(in) != "41614162" {
		t.Errorf("appending to a result changed the input: %x", in)
	}
}

// A promise that costs 9 bytes must not cost the reader more.
func TestADeclaredLengthAllocatesNothing(t *testing.T) {
	for _, in := range []string{
		"5b7fffffffffffffff", "7b7fffffffffffffff", "9b7fffffffffffffff", "bb7fffffffffffffff", "bb3fffffffffffffff",
		"a1019b7fffffffffffffff", "5bffffffffffffffff", "9bffffffffffffffff", "bbffffffffffffffff",
	} {
		b := append(unhex(t, in), make([]byte, 64)...)
		if got := allocated(func() {
			if Scan(b) == nil {
				t.Errorf("%s was accepted", in)
			}
		}); got > 64<<10 {
			t.Errorf("%s costs %d bytes", in, got)
		}
	}
}

func TestAllocationStaysBelowFourTimesTheInput(t *testing.T) {
	const n = 30000
	unsorted := AppendHead(nil, KindMap, n)
	for i := n - 1; i >= 0; i-- {
		unsorted = append(AppendHead(unsorted, KindUint, uint64(i)), 0)
	}
	deep := []byte{0} // unsorted maps in one another, each with a repeated scan of its own
	for range MaxDepth - 1 {
		deep = append(append([]byte{0xa2, 2}, deep...), 1, 0)
	}
	for name, b := range map[string][]byte{"unsorted": unsorted, "deep": deep} {
		if got := allocated(func() {
			if err := Scan(b); err != nil {
				t.Error(name, err)
			}
		}); got > uint64(4*len(b)+64<<10) {
			t.Errorf("%s: %d bytes of input cost %d", name, len(b), got)
		}
	}
}

func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestAppendWritesShortestHeads(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")
		want, err := Marshal(b)
		if got := AppendBytes(nil, b); err != nil || !bytes.Equal(got, want) {
			t.Errorf("AppendBytes(%x) = %x, want %x", b, got, want)
		}
		n := rapid.Uint64().Draw(t, "n")
		want, err = Marshal(n)
		if got := AppendHead(nil, KindUint, n); err != nil || !bytes.Equal(got, want) {
			t.Errorf("AppendHead(%d) = %x, want %x", n, got, want)
		}
	})
	for _, n := range []uint64{0, 23, 24, 255, 256, 65535, 65536, math.MaxUint32, math.MaxUint32 + 1, math.MaxUint64} {
		want, err := Marshal(n)
		if got := AppendHead(nil, KindUint, n); err != nil || !bytes.Equal(got, want) {
			t.Errorf("AppendHead(%d) = %x, want %x", n, got, want)
		}
	}
}

func TestScanAcceptsWhateverMarshalWrites(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := drawValue(t, 4)
		b, err := Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := Scan(b); err != nil {
			t.Errorf("%x: %v", b, err)
		}
	})
}

func drawValue(t *rapid.T, depth int) any {
	kinds := 6
	if depth > 0 {
		kinds = 8
	}
	switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
	case 0:
		return rapid.Int64().Draw(t, "int")
	case 1:
		return rapid.Uint64().Draw(t, "uint")
	case 2:
		return rapid.SliceOfN(rapid.Byte(), 0, 30).Draw(t, "bytes")
	case 3:
		return strings.ToValidUTF8(rapid.String().Draw(t, "text"), "")
	case 4:
		return rapid.Bool().Draw(t, "bool")
	case 5:
		return rapid.Float64().Draw(t, "float")
	case 6:
		list := make([]any, rapid.IntRange(0, 4).Draw(t, "length"))
		for i := range list {
			list[i] = drawValue(t, depth-1)
		}
		return list
	}
	m := make(map[any]any)
	for range rapid.IntRange(0, 4).Draw(t, "pairs") {
		if rapid.Bool().Draw(t, "text key") {
			m[strings.ToValidUTF8(rapid.String().Draw(t, "key"), "")] = drawValue(t, depth-1)
		} else {
			m[rapid.Int64().Draw(t, "key")] = drawValue(t, depth-1)
		}
	}
	return m
}

// FuzzScan holds Scan against another decoder: what Scan accepts, fxamacker
// accepts; and Scan never costs more than a small multiple of its input.
func FuzzScan(f *testing.F) {
	raw, err := os.ReadFile("../../testdata/statements/vectors.json")
	if err != nil {
		f.Fatal(err)
	}
	var vectors []struct{ Hex string }
	if err := json.Unmarshal(raw, &vectors); err != nil {
		f.Fatal(err)
	}
	for _, v := range vectors {
		b := unhex(f, v.Hex)
		f.Add(b)
		if len(b) > 2 {
			f.Add(b[1:]) // without the tag it is an item Scan may accept
		}
	}
	f.Add(binary.BigEndian.AppendUint64([]byte{0x9b}, math.MaxInt64))
	second, err := cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		IndefLength:      cbor.IndefLengthForbidden,
		TagsMd:           cbor.TagsForbidden,
		MaxNestedLevels:  MaxDepth,
		MaxArrayElements: math.MaxInt32,
		MaxMapPairs:      math.MaxInt32,
		UTF8:             cbor.UTF8RejectInvalid,
		MapKeyByteString: cbor.MapKeyByteStringAllowed,
	}.DecMode()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		accepted := Scan(b) == nil
		var v any
		err := second.Unmarshal(b, &v)
		if accepted && err != nil {
			t.Fatalf("Scan accepts %x, fxamacker says %v", b, err)
		}
		if !accepted {
			return
		}
		if end := itemEnd(b, 0); end != len(b) {
			t.Fatalf("item of %d bytes ends at %d", len(b), end)
		}
		if again := fmt.Sprint(Scan(append(b[:len(b):len(b)], 0))); !strings.Contains(again, "after the end") {
			t.Fatalf("%x with a byte more: %s", b, again)
		}
	})
}
