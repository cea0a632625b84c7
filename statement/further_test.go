package statement

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"reflect"
	"testing"
	"time"

	"github.com/scittd/scittd/internal/detcbor"
)

func TestClaimsHaveOneNameEach(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1_700_000_000, 0)
	b, err := Sign(Template{
		Issuer: "https://wabbit.example", Subject: "x", ContentType: "text/plain", Payload: []byte("p"), Expires: at,
		Claims: map[any]any{
			"exp": "not the registered one", "build": 7, "env": "prod", "good": true, "nothing": nil, "ratio": 1.5, "raw": []byte{1},
			3: "someone", -65537: "private", "when": detcbor.Tag{Number: 1, Content: 1_700_000_000},
			"far":   detcbor.Tag{Number: 0, Content: "9999-12-31T23:59:58.5Z"},
			"large": uint64(1) << 63,
			"deep":  map[any]any{1: "number", "1": "text", "list": []any{1, "a", map[any]any{"b": false}}},
		},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"iss": "https://wabbit.example", "sub": "x", "exp": at.Unix(), "aud": "someone", "-65537": "private",
		"build": int64(7), "env": "prod", "good": true, "nothing": nil, "ratio": 1.5, "raw": []byte{1}, "when": int64(1_700_000_000), "far": 253402300798.5, "large": nil,
		"deep": map[string]any{"1": "number", "list": []any{int64(1), "a", map[string]any{"b": false}}},
	}
	got := s.Claims()
	for name := range want {
		if !reflect.DeepEqual(got[name], want[name]) {
			t.Errorf("%s: got %#v, want %#v", name, got[name], want[name])
		}
	}
	if len(got) != len(want) {
		t.Errorf("got %d claims, want %d: %v", len(got), len(want), got)
	}
}
