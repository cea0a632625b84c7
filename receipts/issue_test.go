package receipts

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/scittd/scittd/internal/cose"
)

func TestAReceiptHasThePublishedForm(t *testing.T) {
	issuer := newIssuer(t)
	l := logOf(t, 3)
	h, err := issuer.Sign(l.head())
	if err != nil {
		t.Fatal(err)
	}
	got, err := Mint(h, 2, l.path(2, 3))
	if err != nil {
		t.Fatal(err)
	}
	var protected []byte
	add := func(parts ...[]byte) {
		for _, p := range parts {
			protected = append(protected, p...)
		}
	}
	add([]byte{0xa4, 0x01, 0x26, 0x04, 0x58, 32}, issuer.KeyID())
	add([]byte{0x0f, 0xa3, 0x01, 0x78, byte(len(service))}, []byte(service))
	add([]byte{0x02, 0x60 | byte(len(origin))}, []byte(origin))
	add([]byte{0x06, 0x1a}, binary.BigEndian.AppendUint32(nil, uint32(registered.Unix())))
	add([]byte{0x19, 0x01, 0x8b, 0x01})

	want := append([]byte{0xd2, 0x84, 0x58, byte(len(protected))}, protected...)
	want = append(want, 0xa1, 0x19, 0x01, 0x8c, 0xa1, 0x20, 0x81, 0x58, 4+34, 0x83, 3, 2, 0x81, 0x58, 32)
	want = append(want, l.path(2, 3)[0]...)
	want = append(want, 0xf6, 0x58, 64)
	want = append(want, h.Signature...)
	if !bytes.Equal(got, want) {
		t.Errorf("receipt\n%x, want\n%x", got, want)
	}
	thumb, err := cose.Thumbprint(issuer.Public())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(issuer.KeyID(), thumb[:]) || issuer.Service() != service || issuer.Origin() != origin {
		t.Errorf("issuer is %x of %s, %s", issuer.KeyID(), issuer.Service(), issuer.Origin())
	}
}

func TestAReceiptIsAPureFunctionOfHeadAndPath(t *testing.T) {
	l := logOf(t, 77)
	if a, b := l.receipt(40), l.receipt(40); !bytes.Equal(a, b) {
		t.Errorf("two receipts of one entry:\n%x\n%x", a, b)
	}
}

// bad is a key that fails in ways hardware does.
type bad struct {
	crypto.Signer
	sign func(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error)
}

func (b bad) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return b.sign(random, digest, opts)
}

func TestAnIssuerSignsWithAnyP256Signer(t *testing.T) {
	key := serviceKey(t)
	i, err := NewIssuer(bad{key, key.Sign}, service, origin)
	if err != nil {
		t.Fatal(err)
	}
	l := logOf(t, 4)
	h, err := i.Sign(l.head())
	if err != nil {
		t.Fatal(err)
	}
	if err := VerifyHead(h, key.Public()); err != nil {
		t.Error(err)
	}
}

func TestAWrongSignatureNeverLeavesTheIssuer(t *testing.T) {
	key := serviceKey(t)
	gone := errors.New("token removed")
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		key  bad
		want error
	}{
		"another digest": {bad{key, func(r io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
			return key.Sign(r, flip(digest, 7), o)
		}}, ErrNotVerified},
		"another key": {bad{key, other.Sign}, ErrNotVerified},
		"no signature": {bad{key, func(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
			return nil, gone
		}}, gone},
	} {
		i, err := NewIssuer(c.key, service, origin)
		if err != nil {
			t.Fatal(err)
		}
		h, err := i.Sign(logOf(t, 2).head())
		if !errors.Is(err, c.want) || h.Signature != nil {
			t.Errorf("%s: %x, %v; want nothing and %v", name, h.Signature, err, c.want)
		}
	}
}

func TestAnIssuerNeedsAP256KeyAndCleanNames(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		key             crypto.Signer
		service, origin string
	}{
		"no key":         {nil, service, origin},
		"P-384":          {p384, service, origin},
		"Ed25519":        {ed, service, origin},
		"no service":     {serviceKey(t), "", origin},
		"no origin":      {serviceKey(t), service, ""},
		"space":          {serviceKey(t), service + " ", origin},
		"control":        {serviceKey(t), service, "log\n"},
		"bidi override":  {serviceKey(t), service, "log\u202e"},
		"not UTF-8":      {serviceKey(t), "\xff", origin},
		"8,193 in total": {serviceKey(t), strings.Repeat("a", 8193), origin},
	} {
		if _, err := NewIssuer(c.key, c.service, c.origin); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestHeadsThatCannotBeSignedAreRefused(t *testing.T) {
	good := logOf(t, 2).head()
	for name, change := range map[string]func(*Head){
		"empty tree":     func(h *Head) { h.Size = 0 },
		"parts of a sec": func(h *Head) { h.Time = h.Time.Add(1) },
		"no time":        func(h *Head) { h.Time = time.Time{} },
		"before 1970":    func(h *Head) { h.Time = time.Unix(-1, 0) },
		"year 10000":     func(h *Head) { h.Time = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
	} {
		h := good
		change(&h)
		if s, err := newIssuer(t).Sign(h); err == nil || s.Signature != nil {
			t.Errorf("%s: signed", name)
		}
	}
}

func TestAStoredHeadThatWasTouchedIsFound(t *testing.T) {
	key := serviceKey(t).Public()
	good, err := newIssuer(t).Sign(logOf(t, 9).head())
	if err != nil {
		t.Fatal(err)
	}
	if err := VerifyHead(good, key); err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if err := VerifyHead(good, other.Public()); !errors.Is(err, ErrNotVerified) {
		t.Errorf("another key: %v, want ErrNotVerified", err)
	}
	for name, change := range map[string]func(*SignedHead){
		"root":         func(h *SignedHead) { h.Root[31] ^= 1 },
		"time":         func(h *SignedHead) { h.Time = h.Time.Add(time.Second) },
		"no time":      func(h *SignedHead) { h.Time = time.Time{} },
		"no protected": func(h *SignedHead) { h.Protected = nil },
		"no signature": func(h *SignedHead) { h.Signature = nil },
		"no iat":       func(h *SignedHead) { h.Protected = encode(t, m{1: -7, 4: []byte{1}, 395: 1, 15: m{1: "a", 2: "b"}}) },
		"no claims":    func(h *SignedHead) { h.Protected = encode(t, m{1: -7, 4: []byte{1}, 395: 1}) },
		"CCF":          func(h *SignedHead) { h.Protected = encode(t, m{1: -7, 395: 2}) },
	} {
		h := good
		change(&h)
		if VerifyHead(h, key) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for bit := range len(good.Protected) * 8 {
		h := good
		h.Protected = flip(good.Protected, bit)
		if VerifyHead(h, key) == nil {
			t.Errorf("protected bit %d: accepted", bit)
		}
	}
	for bit := range len(good.Signature) * 8 {
		h := good
		h.Signature = flip(good.Signature, bit)
		if err := VerifyHead(h, key); !errors.Is(err, ErrNotVerified) {
			t.Errorf("signature bit %d: %v, want ErrNotVerified", bit, err)
		}
	}
}

func TestTheOnlyEntryOfALogNeedsNoPath(t *testing.T) {
	h, err := newIssuer(t).Sign(logOf(t, 1).head())
	if err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string][][]byte{"nil": nil, "empty": {}} {
		b, err := Mint(h, 0, path)
		if err != nil {
			t.Fatal(err)
		}
		r, err := Parse(b)
		if err != nil {
			t.Errorf("%s path: %v", name, err)
		} else if err := r.Verify(entryOf(0), serviceKey(t).Public(), Strict); err != nil {
			t.Errorf("%s path: %v", name, err)
		}
	}
}

func TestMintRefusesWhatNoReceiptCanSay(t *testing.T) {
	h, err := newIssuer(t).Sign(logOf(t, 3).head())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		index uint64
		path  [][]byte
	}{
		"index is the size": {3, nil},
		"short element":     {0, [][]byte{make([]byte, 31)}},
		"nil element":       {0, [][]byte{nil}},
		"65 elements":       {0, bytes65()},
	} {
		if b, err := Mint(h, c.index, c.path); !errors.Is(err, ErrPath) || b != nil {
			t.Errorf("%s: %x, %v; want ErrPath", name, b, err)
		}
	}
}

func TestAnIssuerServesManyAtOnce(t *testing.T) {
	i := newIssuer(t)
	head := logOf(t, 5).head()
	want, err := i.Sign(head)
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if h, err := i.Sign(head); err != nil || !bytes.Equal(h.Signature, want.Signature) {
				t.Errorf("%x, %v; want %x", h.Signature, err, want.Signature)
			}
		})
	}
	group.Wait()
}

func BenchmarkMint(b *testing.B) {
	l := logOf(b, 1000)
	h, err := newIssuer(b).Sign(l.head())
	if err != nil {
		b.Fatal(err)
	}
	path := l.path(517, 1000)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Mint(h, 517, path); err != nil {
			b.Fatal(err)
		}
	}
}
