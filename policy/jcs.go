package policy

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf16"
)

// Parse reads the logged JSON form: exactly the bytes that JSON writes, so that
// one policy has one encoding. Members that are unknown, repeated or spelled in
// another case, other white space and trailing bytes are therefore all refused.
func Parse(b []byte) (*Policy, error) {
	d := Defaults()
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return nil, fmt.Errorf("read policy: %w", err)
	}
	p, err := New(d)
	if err != nil {
		return nil, fmt.Errorf("read policy: %w", err)
	}
	want, err := p.JSON()
	if err != nil {
		return nil, fmt.Errorf("read policy: %w", err)
	}
	if !bytes.Equal(b, want) {
		return nil, fmt.Errorf("read policy: not in its canonical form (RFC 8785) from byte %d on", commonPrefix(b, want))
	}
	return p, nil
}

// JSON writes the form that is logged. Parse(p.JSON()) is p, before it had an
// Entry.
func (p *Policy) JSON() ([]byte, error) {
	plain, err := json.Marshal(p.Document)
	if err != nil {
		return nil, fmt.Errorf("write policy: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(plain))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, fmt.Errorf("write policy: %w", err)
	}
	return appendCanonical(nil, v), nil
}

// appendCanonical writes v as RFC 8785 asks. Its numbers are the integers that
// encoding/json wrote, which the standard writes the same way up to 2^53;
// a policy has no others.
func appendCanonical(out []byte, v any) []byte {
	switch v := v.(type) {
	case map[string]any:
		// SPEC RFC 8785 §3.2.3: members are sorted by their names' UTF-16 code units.
		names := slices.SortedFunc(maps.Keys(v), func(a, b string) int {
			return cmp.Or(slices.Compare(utf16.Encode([]rune(a)), utf16.Encode([]rune(b))), cmp.Compare(a, b))
		})
		out = append(out, '{')
		for i, name := range names {
			if i > 0 {
				out = append(out, ',')
			}
			out = appendString(out, name)
			out = append(out, ':')
			out = appendCanonical(out, v[name])
		}
		return append(out, '}')
	case []any:
		out = append(out, '[')
		for i, e := range v {
			if i > 0 {
				out = append(out, ',')
			}
			out = appendCanonical(out, e)
		}
		return append(out, ']')
	case string:
		return appendString(out, v)
	case json.Number:
		return append(out, v...)
	case bool:
		return fmt.Append(out, v)
	default:
		return append(out, "null"...)
	}
}

// appendString: SPEC RFC 8785 §3.2.2.2: the two-character escapes where JSON
// has one, \u00xx for the other control characters, everything else as it is.
func appendString(out []byte, s string) []byte {
	const short = "\b\t\n\f\r\"\\"
	const letter = "btnfr\"\\"
	out = append(out, '"')
	for i := range len(s) {
		c := s[i]
		if j := strings.IndexByte(short, c); j >= 0 {
			out = append(out, '\\', letter[j])
		} else if c < 0x20 {
			out = fmt.Appendf(out, `\u%04x`, c)
		} else {
			out = append(out, c)
		}
	}
	return append(out, '"')
}

func commonPrefix(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
