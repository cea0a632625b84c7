package statement

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/hex"
	"encoding/json"
	"errors"

	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/scittd/scittd/internal/cose"
)

// Messages that others made: testdata/scitt-cose-v1 is the published vector set
// of action-state-group/scitt-cose, ../testdata/basic.json has RFC 8152 C.2.1.

func readFile(t testing.TB, path ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestForeignStatementsAreReadLenientlyAndRefusedStrictly(t *testing.T) {
	const dir = "testdata/scitt-cose-v1"
	for name, refusal := range map[string]string{
		"valid-es256":            "none of kid",
		"valid-eddsa":            "none of kid",
		"fail-tampered-path":     "none of kid",
		"fail-unsupported-vds":   "none of kid",
		"fail-bad-statement-sig": "none of kid",
		"valid-ccf-vds2":         "sub (claim 2)",
	} {
		t.Run(name, func(t *testing.T) {
			var want struct {
				ProtectedHeader struct {
					Statement struct {
						AlgCode     int64   `json:"alg_code"`
						ContentType string  `json:"content_type"`
						Issuer      string  `json:"issuer"`
						Subject     *string `json:"subject"`
					} `json:"statement"`
				} `json:"protected_header"`
				LeafEntry string `json:"leaf_entry"`
				Valid     bool   `json:"statement_signature_valid"`
			}
			if err := json.Unmarshal(readFile(t, dir, name, "expected.json"), &want); err != nil {
				t.Fatal(err)
			}
			msg := readFile(t, dir, name, "statement.cose")
			key, err := cose.ParsePublic(readFile(t, dir, name, "issuer-key.pub"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Parse(msg); !errors.Is(err, ErrMissingHeader) || !strings.Contains(err.Error(), refusal) {
				t.Errorf("Parse: %v, want a missing header: %s", err, refusal)
			}
			s, err := ParseCOSE(msg)
			if err != nil {
				t.Fatal(err)
			}
			h := want.ProtectedHeader.Statement
			subject := ""
			if h.Subject != nil {
				subject = *h.Subject
			}
			if int64(s.Alg) != h.AlgCode || s.ContentType != h.ContentType || s.Issuer != h.Issuer || s.Subject != subject {
				t.Errorf("got %v %q %q %q, want %+v", s.Alg, s.ContentType, s.Issuer, s.Subject, h)
			}
			if payload := readFile(t, dir, name, "payload.bin"); !bytes.Equal(s.Payload, payload) {
				t.Errorf("payload is %q, want %q", s.Payload, payload)
			}
			// Their leaf rule is ours, and their messages are canonical already.
			if want.LeafEntry != "" && s.ID().String() != want.LeafEntry {
				t.Errorf("id is %s, want %s", s.ID(), want.LeafEntry)
			}
			if !bytes.Equal(s.Canonical(), msg) {
				t.Error("canonical form differs from the message")
			}
			if err := s.Verify(key.Public); (err == nil) != want.Valid {
				t.Errorf("Verify: %v, want valid %v", err, want.Valid)
			} else if err != nil && !errors.Is(err, ErrSignature) {
				t.Errorf("Verify: %v, want ErrSignature", err)
			}
		})
	}
}

func TestParseCOSEReadsTheExampleOfRFC8152(t *testing.T) {
	var file struct {
		Example struct {
			Message string `json:"message_hex"`
			Sig     string `json:"sig_structure_hex"`
			Key     struct {
				X string `json:"x_hex"`
				Y string `json:"y_hex"`
			} `json:"key"`
		} `json:"cose_sign1_rfc8152_c2_1"`
	}
	if err := json.Unmarshal(readFile(t, "../testdata/basic.json"), &file); err != nil {
		t.Fatal(err)
	}
	e := file.Example
	s, err := ParseCOSE(unhex(e.Message))
	if err != nil {
		t.Fatal(err)
	}
	if string(s.KeyID) != "11" || s.Alg != cose.ES256 || s.Issuer != "" || string(s.Payload) != "This is the content." {
		t.Errorf("got %+v", s)
	}
	if got := hex.EncodeToString(cose.SigStructure(s.Protected(), s.Payload)); got != e.Sig {
		t.Errorf("Sig_structure is %s, want %s", got, e.Sig)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, unhex(e.Key.X), unhex(e.Key.Y)))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(key); err != nil {
		t.Error(err)
	}
	if _, err := Parse(unhex(e.Message)); !errors.Is(err, ErrMissingHeader) {
		t.Errorf("Parse: %v, want a missing header", err)
	}
}

func TestParseCOSEAcceptsWhatOnlyRFC9943Forbids(t *testing.T) {
	for name, h := range map[string]pairs{
		"nothing but alg":        {{1, -7}},
		"alg as text":            {{1, "ES256"}},
		"an unknown alg":         {{1, -47}},
		"x5u in its tag":         {{1, -7}, {35, item("d8206178")}},
		"iss that is no text":    goodHeader().with(15, pairs{{1, 5}}),
		"a date that is no date": goodHeader().with(15, pairs{{1, "i"}, {4, "tomorrow"}}),
		"a content type of old":  goodHeader().with(3, "json"),
	} {
		if _, err := ParseCOSE((draft{header: h}).bytes()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, h := range []pairs{{{1, "ES256"}}, {{1, -47}}, {}} {
		s, err := ParseCOSE((draft{header: h}).bytes())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Verify(vectorKey.Public()); !errors.Is(err, ErrAlgorithm) {
			t.Errorf("alg of %v: Verify says %v", h, err)
		}
	}
	s, err := ParseCOSE((draft{header: []byte{}}).bytes())
	if err != nil || len(s.Protected()) != 0 {
		t.Errorf("an empty protected header: %v", err)
	}
}

func TestParseCOSEKeepsTheRulesOfCOSE(t *testing.T) {
	for name, c := range map[string]struct {
		draft draft
		want  error
	}{
		"label in both headers": {draft{unprotected: pairs{{1, -7}}}, ErrDuplicateLabel},
		"label twice":           {draft{header: append(goodHeader(), pair{1, -7})}, ErrDuplicateLabel},
		"unknown crit":          {draft{header: goodHeader().with("x", 0).with(2, []any{"x"})}, ErrUnknownCrit},
		"unprotected crit":      {draft{unprotected: pairs{{2, []any{1}}}}, ErrMalformed},
		"x5chain of one":        {draft{unprotected: pairs{{33, []any{leaf}}}}, ErrMalformed},
	} {
		if _, err := ParseCOSE(c.draft.bytes()); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}
