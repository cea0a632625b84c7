package detcbor

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/fxamacker/cbor/v2"
)

// split reads the whole sequence: its items in hex, "long" for those that were
// passed over, and the error at its end.
func split(r io.Reader, max int) (items []string, end error) {
	s := NewSequence(r, max)
	for {
		item, err := s.Next()
		switch {
		case errors.Is(err, ErrTooLong):
			items = append(items, "long")
		case err != nil:
			_, again := s.Next()
			if again != err {
				return items, fmt.Errorf("Next said %w, and then %w", err, again)
			}
			return items, err
		default:
			items = append(items, hex.EncodeToString(item))
		}
	}
}

func TestSequenceSplitsWhateverHasAnEnd(t *testing.T) {
	for _, c := range []struct{ name, items string }{
		{"nothing", ""},
		{"one of each kind", "00 20 4161 6161 8101 a10102 c001 f6 fb7ff0000000000000"},
		{"statements", "d2844401020304a0f64100 d28443a10126a0f64100"},
		{"empty strings and containers", "40 60 80 a0"},
		{"heads longer than needed", "1800 5900014d 9a0000000100 db000000000000001200"},
		{"the greatest integers", "1bffffffffffffffff 3bffffffffffffffff dbffffffffffffffff00"},
		{"a float of ones", "fbffffffffffffffff 00"},
		{"indefinite lengths", "5f41614162ff 7f6161ff 9f01ff bf0102ff 9f9f9fffffff 00"},
		{"an indefinite array with a definite one inside", "9f8201f6ff d29f4100a0f64100ff"},
		{"what no Reader accepts: repeated keys, undefined, bad text", "a201010102 f7 61ff f800"},
		{"nested in its last element, ever deeper", strings.Repeat("81", 5000) + "00 01"},
		{"nested in its first element, up to the limit", strings.Repeat("82", 1023) + "00" + strings.Repeat("01", 1023) + " 02"},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw := unhex(t, strings.ReplaceAll(c.items, " ", ""))
			for name, r := range map[string]io.Reader{
				"whole": bytes.NewReader(raw), "byte for byte": iotest.OneByteReader(bytes.NewReader(raw)),
			} {
				got, err := split(r, 1<<20)
				if want := strings.Fields(c.items); err != io.EOF || !slices.Equal(got, want) {
					t.Errorf("%s: %v, %v; want %v", name, got, err, want)
				}
			}
		})
	}
}

func TestSequenceEndsWhereNoItemCanGoOn(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"a break by itself", "ff", "byte 1: break outside of an indefinite length"},
		{"a break in a definite array", "8201ff", "byte 3: break outside"},
		{"reserved head", "1c", "byte 1: reserved additional information 28"},
		{"reserved head inside", "81fe", "byte 2: reserved additional information 30"},
		{"an integer of indefinite length", "1f", "byte 1: indefinite length of an unsigned integer"},
		{"a tag of indefinite length", "df00", "byte 1: indefinite length of a tag"},
		{"cut in a head", "19", "byte 2: input ends inside the item that begins at byte 1"},
		{"cut in a string", "43ab", "byte 3: input ends inside the item that begins at byte 1"},
		{"cut in an array", "82f6", "byte 3: input ends inside the item that begins at byte 1"},
		{"cut in an indefinite array", "9ff6", "byte 3: input ends inside the item that begins at byte 1"},
		{"a string of 2^64-1 bytes", "5bffffffffffffffff00", "byte 11: input ends inside"},
		{"an array of 2^64-1 items", "9bffffffffffffffff00ff", "byte 1: an array of length 18446744073709551615"},
		{"a map of 2^63 pairs", "bb800000000000000000", "byte 1: a map of length 9223372036854775808"},
		{"an array of 2^63-1 items", "9b7fffffffffffffff00", "byte 11: input ends inside"},
		{"nested beyond the limit", strings.Repeat("82", 1025), "byte 1025: nested deeper than 1024"},
	} {
		t.Run(c.name, func(t *testing.T) {
			// What stands before is passed on.
			got, err := split(bytes.NewReader(unhex(t, "05"+c.in)), 1<<20)
			if len(got) != 1 || got[0] != "05" || !errors.Is(err, ErrSequence) || !strings.HasPrefix(err.Error(), "no CBOR sequence: "+c.want) {
				t.Errorf("%v, %v; want one item, then %q", got, err, c.want)
			}
		})
	}
}

func TestSequenceHandsOnTheReadersError(t *testing.T) {
	torn := errors.New("torn")
	for _, in := range []string{"", "00", "00 43ab", "00 82f6"} {
		raw := unhex(t, strings.ReplaceAll(in, " ", ""))
		_, err := split(io.MultiReader(bytes.NewReader(raw), iotest.ErrReader(torn)), 100)
		if !errors.Is(err, torn) || errors.Is(err, ErrSequence) {
			t.Errorf("behind %q: %v, want %v", in, err, torn)
		}
	}
}

func TestSequencePassesOverWhatIsTooLong(t *testing.T) {
	fits, tooLong := "4862626262626262ff", "496262626262626262ff"
	for _, c := range []struct {
		in   []string
		want []string
	}{
		{[]string{fits}, []string{fits}},
		{[]string{tooLong, "00"}, []string{"long", "00"}},
		{[]string{"00", tooLong, fits, tooLong, "01"}, []string{"00", "long", fits, "long", "01"}},
		{[]string{"89" + strings.Repeat("00", 9), "02"}, []string{"long", "02"}}, // many small pieces
		{[]string{"8a" + "4130" + tooLong + strings.Repeat("00", 8), "03"}, []string{"long", "03"}},
	} {
		got, err := split(bytes.NewReader(unhex(t, strings.Join(c.in, ""))), 9)
		if err != io.EOF || !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, %v; want %v", c.in, got, err, c.want)
		}
	}
	s := NewSequence(bytes.NewReader(unhex(t, "00"+tooLong)), 9)
	s.Next()
	if _, err := s.Next(); err == nil || err.Error() != "byte 1: item is too long: 10 bytes, of which at most 9 are read" {
		t.Errorf("too long: %v", err)
	}
}

func TestSequenceAllocatesForWhatArrivedAlone(t *testing.T) {
	for name, in := range map[string]string{
		"a string of 2^62 bytes": "5b4000000000000000", "an array of 2^62 items": "9b4000000000000000",
		"a map of 2^61 pairs": "bb2000000000000000", "a string of 2^62 bytes in an item of few": "825b4000000000000000",
	} {
		raw := unhex(t, in)
		const runs = 100
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range runs {
			if _, err := split(bytes.NewReader(raw), 1<<20); err == nil {
				t.Errorf("%s: no error", name)
			}
		}
		runtime.ReadMemStats(&after)
		if each := (after.TotalAlloc - before.TotalAlloc) / runs; each > piecesAppended*64<<10 {
			t.Errorf("%s: %d bytes allocated for %d", name, each, len(raw))
		}
	}
}

// FuzzSequence compares with fxamacker/cbor, which reads one item at a time from
// a buffer that holds everything.
func FuzzSequence(f *testing.F) {
	for _, seed := range []string{"", "00", "d2844401020304a0f64100", "9f01ff00", "5f4161ff", "1c", "ff", "8201", "bf01ff", "5f6161ff"} {
		raw, err := hex.DecodeString(seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	mode, err := cbor.DecOptions{MaxNestedLevels: 256, MaxArrayElements: 1 << 30, MaxMapPairs: 1 << 30}.DecMode()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		items, end := split(bytes.NewReader(raw), len(raw)+1)
		joined := unhex(t, strings.Join(items, ""))
		if !bytes.HasPrefix(raw, joined) || end == io.EOF && len(joined) != len(raw) {
			t.Fatalf("%x was split into %v", raw, items)
		}
		// Whatever the other finds well-formed, we split at the same place.
		rest, n := raw, 0
		for len(rest) > 0 {
			var item cbor.RawMessage
			after, err := mode.UnmarshalFirst(rest, &item)
			if err != nil {
				break
			}
			if n >= len(items) || items[n] != hex.EncodeToString(rest[:len(rest)-len(after)]) {
				t.Fatalf("%x: item %d ends elsewhere than %x: %v, %v", raw, n, rest[:len(rest)-len(after)], items, end)
			}
			rest, n = after, n+1
		}
	})
}
