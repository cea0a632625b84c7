package detcbor

import (
	"encoding/hex"
	"testing"
)

func TestMarshalIsCoreDeterministic(t *testing.T) {
	for _, c := range []struct {
		v    any
		want string
	}{
		{map[any]any{"b": 1, "aa": 2, "a": 3, -1: 4, 10: 5, 100: 6, int64(1000): 7}, "a70a051864061903e8072004616103616201626161" + "02"},
		{1.5, "f93e00"},
		{[]byte(nil), "f6"},
		{uint64(1) << 40, "1b0000010000000000"},
		{Tag{Number: 18, Content: []any{}}, "d280"},
		{RawMessage{0x18, 0x01}, "1801"}, // the caller vouches for what is raw
	} {
		got, err := Marshal(c.v)
		if err != nil || hex.EncodeToString(got) != c.want {
			t.Errorf("%v: %x, %v; want %s", c.v, got, err, c.want)
		}
	}
}

func TestUnmarshalRefuses(t *testing.T) {
	for name, in := range map[string]string{
		"repeated key":        "a201000100",
		"indefinite array":    "9fff",
		"trailing byte":       "0000",
		"invalid UTF-8":       "61ff",
		"integer over 63 bit": "1bffffffffffffffff",
		"nothing":             "",
	} {
		var v any
		if err := Unmarshal(unhex(t, in), &v); err == nil {
			t.Errorf("%s: read as %v", name, v)
		}
	}
	var s struct {
		A int `cbor:"1,keyasint"`
	}
	if err := Unmarshal(unhex(t, "a201070208"), &s); err == nil {
		t.Error("a field nobody knows was accepted")
	}
	if err := Unmarshal(unhex(t, "a10107"), &s); err != nil || s.A != 7 {
		t.Error(s, err)
	}
}
