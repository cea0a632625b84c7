package statement

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/scittd/scittd/internal/detcbor"
)

func TestATimestampIsAskedForTheSignatureWithItsHead(t *testing.T) {
	var asked []byte
	tmpl := Template{Issuer: "https://wabbit.example", Subject: "a", Payload: []byte("x"), Timestamp: func(signature []byte) ([]byte, error) {
		asked = bytes.Clone(signature)
		return []byte("token"), nil
	}}
	key := fixedKey("signer")
	b, err := Sign(tmpl, key)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if string(s.Timestamp) != "token" || s.PayloadTimestamp != nil {
		t.Errorf("timestamps %q and %q", s.Timestamp, s.PayloadTimestamp)
	}
	// RFC 9921 §3.1.1: with its head, which for 64 bytes is 58 40.
	if want := append([]byte{0x58, 0x40}, s.signature...); !bytes.Equal(asked, want) || !bytes.Equal(s.SignatureField(), want) {
		t.Errorf("asked for %x, SignatureField %x, want %x", asked, s.SignatureField(), want)
	}
	// It is no part of the statement.
	tmpl.Timestamp = nil
	without, err := Sign(tmpl, key)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := Parse(without)
	if err != nil {
		t.Fatal(err)
	}
	if plain.ID() != s.ID() || !bytes.Equal(plain.Canonical(), s.Canonical()) {
		t.Error("a time-stamp changed the canonical bytes")
	}
	tmpl.Timestamp = func([]byte) ([]byte, error) { return nil, errors.New("closed today") }
	if _, err := Sign(tmpl, key); err == nil || !strings.Contains(err.Error(), "closed today") {
		t.Errorf("an authority that refuses: %v", err)
	}
}

func TestTimestampsStandInTheirOwnHeaders(t *testing.T) {
	token := []byte("token")
	for name, c := range map[string]struct {
		protected, unprotected map[int64]any
		says                   string
	}{
		"of the payload":                {map[int64]any{269: token}, nil, ""},
		"of the signature":              {nil, map[int64]any{270: token}, ""},
		"both":                          {map[int64]any{269: token}, map[int64]any{270: token}, ""},
		"of the payload, unprotected":   {nil, map[int64]any{269: token}, "269"},
		"of the signature, protected":   {map[int64]any{270: token}, nil, "270"},
		"of the payload, as text":       {map[int64]any{269: "token"}, nil, "269"},
		"of the signature, as a list":   {nil, map[int64]any{270: []any{token}}, "270"},
		"of the payload, empty":         {map[int64]any{269: []byte{}}, nil, "269"},
		"of the signature, empty":       {nil, map[int64]any{270: []byte{}}, "270"},
		"of the signature, as it may":   {nil, map[int64]any{270: make([]byte, MaxTimestamp)}, ""},
		"of the signature, too long":    {nil, map[int64]any{270: make([]byte, MaxTimestamp+1)}, "270"},
		"of the payload, too long":      {map[int64]any{269: make([]byte, MaxTimestamp+1)}, nil, "269"},
		"critical, which nobody checks": {map[int64]any{269: token, 2: []any{269}}, nil, "269"},
	} {
		p := map[int64]any{1: -7, 4: []byte("k"), 15: map[int64]any{1: "https://wabbit.example", 2: "a"}}
		for l, v := range c.protected {
			p[l] = v
		}
		s, err := Parse(encodeMessage(t, p, c.unprotected))
		if c.says != "" {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUnknownCrit) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if (s.PayloadTimestamp != nil) != (c.protected[269] != nil) || (s.Timestamp != nil) != (c.unprotected[270] != nil) {
			t.Errorf("%s: %d and %d bytes", name, len(s.PayloadTimestamp), len(s.Timestamp))
		}
	}
}

func encodeMessage(t *testing.T, protected, unprotected map[int64]any) []byte {
	t.Helper()
	if unprotected == nil {
		unprotected = map[int64]any{}
	}
	p, err := detcbor.Marshal(protected)
	if err != nil {
		t.Fatal(err)
	}
	u, err := detcbor.Marshal(unprotected)
	if err != nil {
		t.Fatal(err)
	}
	b := detcbor.AppendBytes([]byte{tagHead, arrayHead}, p)
	b = detcbor.AppendBytes(append(b, u...), []byte("x"))
	return detcbor.AppendBytes(b, make([]byte, 64))
}
