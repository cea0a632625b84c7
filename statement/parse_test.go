package statement

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"math/big"
	"math/rand"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/internal/detcbor"
)

func mustParse(t testing.TB, b []byte) *Statement {
	t.Helper()
	s, err := Parse(b)
	if err != nil {
		t.Fatalf("%x: %v", b, err)
	}
	return s
}

func TestParseReadsEveryHeader(t *testing.T) {
	ca := []byte("the CA")
	h := goodHeader().
		with(15, goodClaims().with(4, 2000000000).with(5, item("c11a65000000")).with(6, 1700000000.5)).
		with(33, []any{leaf, ca}).with(34, []any{-16, leafHash()})
	s := mustParse(t, draft{header: h, unprotected: pairs{{394, []any{[]byte("r1"), []byte("r2")}}}}.bytes())
	for _, c := range []struct{ name, got, want any }{
		{"Alg", s.Alg, cose.ES256},
		{"Issuer", s.Issuer, vectorIssuer},
		{"Subject", s.Subject, vectorSubject},
		{"ContentType", s.ContentType, "application/json"},
		{"Expires", s.Expires, time.Unix(2000000000, 0).UTC()},
		{"NotBefore", s.NotBefore, time.Unix(0x65000000, 0).UTC()},
		{"IssuedAt", s.IssuedAt, time.Unix(1700000000, 5e8).UTC()},
		{"Payload", string(s.Payload), string(goodPayload)},
		{"Thumbprint.Alg", s.Thumbprint.Alg, int64(-16)},
		{"Thumbprint.Hash", string(s.Thumbprint.Hash), string(leafHash())},
		{"len(Chain)", len(s.Chain), 2},
		{"Chain", string(bytes.Join(s.Chain, []byte("|"))), string(leaf) + "|the CA"},
		{"ChainProtected", s.ChainProtected, true},
		{"Receipts", string(bytes.Join(s.Receipts, []byte("|"))), "r1|r2"},
		{"len(KeyID)", len(s.KeyID), 32},
		{"Detached", s.Detached(), false},
	} {
		if c.got != c.want {
			t.Errorf("%s = %v, want %v", c.name, c.got, c.want)
		}
	}
	if s.Envelope != nil {
		t.Errorf("Envelope = %+v", s.Envelope)
	}
}

func TestAbsentHeadersReadAsZero(t *testing.T) {
	s := mustParse(t, draft{header: goodHeader().without(3)}.bytes())
	if s.ContentType != "" || s.Chain != nil || s.ChainProtected || s.Thumbprint != nil || s.Receipts != nil ||
		!s.Expires.IsZero() || !s.NotBefore.IsZero() || !s.IssuedAt.IsZero() {
		t.Errorf("got %+v", s)
	}
	epoch := mustParse(t, draft{header: goodHeader().with(15, goodClaims().with(4, 0))}.bytes())
	if epoch.Expires.IsZero() || epoch.Expires.Unix() != 0 {
		t.Errorf("exp 0 is %v", epoch.Expires)
	}
}

func TestHashEnvelopesOfEveryAlgorithm(t *testing.T) {
	h384, h512 := sha512.Sum384(leaf), sha512.Sum512(leaf)
	for alg, digest := range map[int][]byte{-16: leafHash(), -43: h384[:], -44: h512[:]} {
		s := mustParse(t, draft{header: envelopeHeader().with(258, alg), payload: digest}.bytes())
		if e := s.Envelope; e.Alg != int64(alg) || e.ContentType != "application/spdx+json" || e.Location != "https://files.example/sbom" {
			t.Errorf("%d: %+v", alg, e)
		}
		if s.ContentType != "" {
			t.Errorf("%d: ContentType = %q", alg, s.ContentType)
		}
		// The same algorithms serve x5t.
		mustParse(t, draft{header: goodHeader().with(33, leaf).with(34, []any{alg, digest})}.bytes())
	}
}

func TestLimitsHoldAtTheEdge(t *testing.T) {
	big := func(n int) []byte { return bytes.Repeat([]byte{'x'}, n) }
	// fill makes a header of exactly n bytes by one filler value.
	fill := func(base pairs, n int) pairs {
		const label = -80000
		size := n - len(base.with(label, big(70000)).encode()) + 70000
		return base.with(label, big(size))
	}
	claim := func(n int, text string) pairs { return goodHeader().with(15, goodClaims().with(n, text)) }
	chain := func(n, size int) []any {
		list := make([]any, n)
		for i := range list {
			list[i] = big(size / n)
		}
		list[0] = big(size - (n-1)*(size/n))
		return list
	}
	labels := func(n int) pairs {
		var u pairs
		for i := range n {
			u = append(u, pair{1000 + i, 0})
		}
		return u
	}
	message := func(size int) draft {
		return draft{payload: big(size - len(draft{payload: big(70000)}.bytes()) + 70000)}
	}
	for _, c := range []struct {
		name string
		d    draft
		ok   bool
	}{
		{"message of 1 MiB", message(MaxSize), true},
		{"message of 1 MiB and a byte", message(MaxSize + 1), false},
		{"protected header of 128 KiB", draft{header: fill(goodHeader(), MaxProtected)}, true},
		{"protected header of 128 KiB and a byte", draft{header: fill(goodHeader(), MaxProtected+1)}, false},
		{"unprotected header of 256 KiB", draft{unprotected: fill(nil, MaxUnprotected)}, true},
		{"unprotected header of 256 KiB and a byte", draft{unprotected: fill(nil, MaxUnprotected+1)}, false},
		{"64 labels", draft{unprotected: labels(MaxLabels)}, true},
		{"65 labels", draft{unprotected: labels(MaxLabels + 1)}, false},
		{"iss of 8192 characters", draft{header: claim(1, strings.Repeat("x", MaxIssuer))}, true},
		{"iss of 8192 four-byte characters", draft{header: claim(1, strings.Repeat("🙂", MaxIssuer))}, true},
		{"iss of 8193 four-byte characters", draft{header: claim(1, strings.Repeat("🙂", MaxIssuer+1))}, false},
		{"sub of 2048 bytes", draft{header: claim(2, strings.Repeat("x", MaxSubject))}, true},
		{"sub of 2049 bytes", draft{header: claim(2, strings.Repeat("x", MaxSubject+1))}, false},
		{"content type of 255 bytes", draft{header: goodHeader().with(3, "a/"+strings.Repeat("x", 127)+"; p="+strings.Repeat("y", 122))}, true},
		{"chain of 8 certificates", draft{unprotected: pairs{{33, chain(MaxChain, 800)}}}, true},
		{"chain of 9 certificates", draft{unprotected: pairs{{33, chain(MaxChain+1, 900)}}}, false},
		{"chain of 100 certificates", draft{header: goodHeader().with(33, chain(100, 1000))}, false},
		{"chain of 1000 certificates", draft{header: goodHeader().with(33, chain(1000, 10000))}, false},
		{"chain of 64 KiB", draft{header: goodHeader().with(33, chain(3, MaxChainBytes))}, true},
		{"chain of 64 KiB and a byte", draft{header: goodHeader().with(33, chain(3, MaxChainBytes+1))}, false},
		{"exp in the last second of 9999", draft{header: goodHeader().with(15, goodClaims().with(4, maxTime))}, true},
	} {
		_, err := Parse(c.d.bytes())
		if c.ok && err != nil || !c.ok && !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want accepted %v", c.name, err, c.ok)
		}
	}
}

func TestCanonicalFormIsWhatWasSignedAndNothingElse(t *testing.T) {
	plain := draft{}
	want := plain.bytes()
	for name, b := range map[string][]byte{
		"as it is":            want,
		"long outer heads":    plain.wideHeads(),
		"unprotected content": draft{unprotected: pairs{{33, leaf}, {394, []any{[]byte("receipt")}}, {99, "x"}}}.bytes(),
	} {
		s := mustParse(t, b)
		if !bytes.Equal(s.Canonical(), want) {
			t.Errorf("%s: canonical form is %x, want %x", name, s.Canonical(), want)
		}
		if s.ID() != ID(sha256.Sum256(want)) {
			t.Errorf("%s: id is %s", name, s.ID())
		}
	}
	unsorted := goodHeader()
	unsorted[0], unsorted[3] = unsorted[3], unsorted[0]
	if s := mustParse(t, draft{header: unsorted}.bytes()); !bytes.Equal(s.Protected(), unsorted.encode()) || s.ID() == mustParse(t, want).ID() {
		t.Error("an unsorted protected header is not kept verbatim")
	}
	detached := mustParse(t, draft{detached: true}.bytes())
	if !bytes.Contains(detached.Canonical(), append(detcbor.AppendBytes(nil, detached.Protected()), 0xa0, 0xf6)) {
		t.Errorf("detached payload is not null in %x", detached.Canonical())
	}
	if s := mustParse(t, draft{payload: []byte("other")}.bytes()); s.ID() == mustParse(t, want).ID() {
		t.Error("two payloads, one id")
	}
}

func TestAStatementSharesNoMemoryWithItsSource(t *testing.T) {
	b := draft{header: goodHeader().with(33, leaf), unprotected: pairs{{394, []any{[]byte("receipt")}}}}.bytes()
	s := mustParse(t, b)
	id := s.ID()
	for i := range b {
		b[i] = 0xff
	}
	if err := s.Verify(vectorKey.Public()); err != nil {
		t.Error(err)
	}
	if string(s.Receipts[0]) != "receipt" || !bytes.Equal(s.Chain[0], leaf) || mustParse(t, s.Canonical()).ID() != id {
		t.Error("the statement changed with its source")
	}
}

func TestWithChainCarriesCollateral(t *testing.T) {
	s := mustParse(t, draft{header: goodHeader().with(34, []any{-16, leafHash()})}.bytes())
	chain := [][]byte{bytes.Clone(leaf), []byte("ca")}
	c, err := s.WithChain(chain)
	if err != nil {
		t.Fatal(err)
	}
	chain[0][0] ^= 1
	if s.Chain != nil || len(c.Chain) != 2 || !bytes.Equal(c.Chain[0], leaf) || c.ChainProtected || c.ID() != s.ID() {
		t.Errorf("got %+v", c)
	}
	if err := c.Verify(vectorKey.Public()); err != nil {
		t.Error(err)
	}
	if c.Evidence() != s.Evidence() || c.PredicateType() != s.PredicateType() {
		t.Error("a chain changes what the statement says")
	}
	for name, chain := range map[string][][]byte{
		"another leaf":         {[]byte("other")},
		"no certificate":       {},
		"an empty certificate": {leaf, nil},
		"nine certificates":    {leaf, leaf, leaf, leaf, leaf, leaf, leaf, leaf, leaf},
		"too many bytes":       {leaf, make([]byte, MaxChainBytes)},
	} {
		if _, err := s.WithChain(chain); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	own := mustParse(t, draft{header: goodHeader().with(33, leaf)}.bytes())
	if _, err := own.WithChain([][]byte{leaf}); !errors.Is(err, ErrDuplicateLabel) {
		t.Errorf("a second chain: %v", err)
	}
}

// A detached statement whose payload came by another way is the same message,
// and what is read of it is the same, but for the evidence.
func TestAPayloadThatCameByAnotherWay(t *testing.T) {
	s := mustParse(t, draft{detached: true}.bytes())
	if s.Verifiable() || s.Evidence() != "" {
		t.Errorf("without: verifiable %t, evidence %q", s.Verifiable(), s.Evidence())
	}
	sum384, sum512 := sha512.Sum384(goodPayload), sha512.Sum512(goodPayload)
	for _, digest := range []Digest{
		SHA256(goodPayload), Digest(fmt.Sprintf("sha384:%x", sum384)), Digest(fmt.Sprintf("sha512:%x", sum512)),
	} {
		whole, err := s.WithPayload(digest, goodPayload)
		if err != nil {
			t.Fatal(err)
		}
		if !whole.Verifiable() || !whole.Detached() || whole.Payload != nil || whole.Evidence() != digest || whole.ID() != s.ID() || !bytes.Equal(whole.Canonical(), s.Canonical()) {
			t.Errorf("%s: %+v", digest, whole)
		}
		if err := whole.Verify(vectorKey.Public()); err != nil {
			t.Error(err)
		}
		if err := whole.Verify(fixedKey("another").Public()); !errors.Is(err, ErrSignature) {
			t.Errorf("another key: %v", err)
		}
	}
	other, err := s.WithPayload(SHA256([]byte("{}")), []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Verify(vectorKey.Public()); !errors.Is(err, ErrSignature) {
		t.Errorf("another payload: %v", err)
	}
	known, err := s.WithEvidence(SHA256(goodPayload))
	if err != nil {
		t.Fatal(err)
	}
	if err := known.Verify(vectorKey.Public()); !errors.Is(err, ErrPayloadMissing) || known.Verifiable() || known.Evidence() != SHA256(goodPayload) {
		t.Errorf("only its digest: %v, verifiable %t, evidence %q", err, known.Verifiable(), known.Evidence())
	}

	attached := mustParse(t, draft{}.bytes())
	for name, err := range map[string]error{
		"a second payload":       second(attached.WithPayload(SHA256(goodPayload), goodPayload)),
		"a second digest":        second(attached.WithEvidence(SHA256(goodPayload))),
		"an empty payload":       second(s.WithPayload(SHA256(nil), nil)),
		"another digest":         second(s.WithPayload(SHA256(nil), goodPayload)),
		"no digest":              second(s.WithPayload("", goodPayload)),
		"no digest of something": second(s.WithEvidence("sha256:00")),
	} {
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second(_ *Statement, err error) error { return err }

func TestVerifyDetached(t *testing.T) {
	s := mustParse(t, draft{detached: true}.bytes())
	if !s.Detached() {
		t.Fatal("not detached")
	}
	if err := s.Verify(vectorKey.Public()); !errors.Is(err, ErrPayloadMissing) {
		t.Errorf("Verify: %v", err)
	}
	if err := s.VerifyDetached(vectorKey.Public(), goodPayload); err != nil {
		t.Error(err)
	}
	if err := s.VerifyDetached(vectorKey.Public(), []byte("{}")); !errors.Is(err, ErrSignature) {
		t.Errorf("another payload: %v", err)
	}
	if err := s.VerifyDetached(fixedKey("another").Public(), goodPayload); !errors.Is(err, ErrSignature) {
		t.Errorf("another key: %v", err)
	}
	for name, key := range map[string]crypto.PublicKey{"no key": nil, "a private key": vectorKey} {
		if err := s.VerifyDetached(key, goodPayload); !errors.Is(err, ErrKey) || sentinels(err) != 1 {
			t.Errorf("%s: %v, want ErrKey alone", name, err)
		}
	}
}

func TestRandomBytesAreMalformed(t *testing.T) {
	random := make([]byte, MaxSize)
	rand.New(rand.NewSource(1)).Read(random)
	copy(random, []byte{0xd2, 0x84})
	for _, n := range []int{MaxSize, 1000, 100, 10, 3} {
		if _, err := Parse(random[:n]); !errors.Is(err, ErrMalformed) {
			t.Errorf("%d random bytes: %v", n, err)
		}
	}
}

func TestEveryCutOfAStatementIsMalformed(t *testing.T) {
	b := draft{unprotected: pairs{{33, leaf}}}.bytes()
	for n := range b {
		if _, err := Parse(b[:n]); !errors.Is(err, ErrMalformed) {
			t.Errorf("first %d bytes: %v", n, err)
		}
	}
}

func TestRefusingCostsLittleMemory(t *testing.T) {
	for _, v := range vectors() {
		b := unhex(v.Hex)
		if strings.Contains(v.Name, "2^63-1") {
			b = append(b, make([]byte, 1000)...)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Parse(b)
		runtime.ReadMemStats(&after)
		if cost := after.TotalAlloc - before.TotalAlloc; cost > uint64(4*len(b)+64<<10) {
			t.Errorf("%s: %d bytes cost %d (%v)", v.Name, len(b), cost, err)
		}
	}
}

func TestErrorsAreShortAndPlain(t *testing.T) {
	for name, d := range map[string]draft{
		"long alg":   {header: goodHeader().with(1, strings.Repeat("A", 100000))},
		"long label": {header: goodHeader().with(2, []any{strings.Repeat("A", 50000)}).with(strings.Repeat("A", 50000), 0)},
		"long type":  {header: goodHeader().with(3, strings.Repeat("\u202e", 40))},
		"long iss":   {header: goodHeader().with(15, goodClaims().with(1, strings.Repeat("\x1b", 5000)))},
		"long key":   {header: goodHeader().with("m", map[string]int{}).with(15, goodClaims().with("k", rawItem("\xa2\x61k\x00\x61k\x00")))},
	} {
		_, err := Parse(d.bytes())
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		if text := err.Error(); len(text) > 600 || strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || c == 0x1b || c == 0x202e }) {
			t.Errorf("%s: %d bytes: %.200q", name, len(text), text)
		}
	}
}

func TestIDIsSixtyFourLowerCaseHexDigits(t *testing.T) {
	id := mustParse(t, draft{}.bytes()).ID()
	back, err := ParseID(id.String())
	if err != nil || back != id {
		t.Errorf("%v, %v", back, err)
	}
	text, err := id.MarshalText()
	if err != nil || string(text) != id.String() || len(text) != 64 {
		t.Errorf("%s, %v", text, err)
	}
	for _, s := range []string{"", "00", strings.ToUpper(id.String()), id.String() + "0", id.String()[1:], "g" + id.String()[1:], " " + id.String()[1:]} {
		if _, err := ParseID(s); s != id.String() && err == nil {
			t.Errorf("%q is an id", s)
		}
	}
	kept := id
	if err := kept.UnmarshalText([]byte("xx")); err == nil || kept != id {
		t.Error("a bad text changed the id")
	}
}

// ECDSA is malleable: whoever has one signature has a second one. The two are
// two statements, for the signature is part of what is registered.
func TestAnECDSATwinIsAnotherStatement(t *testing.T) {
	first := mustParse(t, draft{}.bytes())
	n := vectorKey.Params().N
	s := new(big.Int).SetBytes(first.signature[32:])
	twin := bytes.Clone(first.signature)
	new(big.Int).Sub(n, s).FillBytes(twin[32:])
	second := mustParse(t, draft{signature: twin}.bytes())
	if err := second.Verify(vectorKey.Public()); err != nil {
		t.Fatal(err)
	}
	if second.ID() == first.ID() {
		t.Error("twins share an id")
	}
}

func BenchmarkParse(b *testing.B) {
	for name, d := range map[string]draft{
		"kid":      {},
		"envelope": {header: envelopeHeader(), payload: leafHash()},
		"chain":    {header: goodHeader().with(33, []any{bytes.Repeat(leaf, 20), bytes.Repeat(leaf, 20)})},
	} {
		b.Run(name, func(b *testing.B) {
			msg := d.bytes()
			b.ReportAllocs()
			b.SetBytes(int64(len(msg)))
			for b.Loop() {
				if _, err := Parse(msg); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
