package receipts

import (
	"bytes"
	"errors"
	"testing"

	gocose "github.com/veraison/go-cose"
)

// statementOf puts rest (unprotected header, payload, signature) after a
// protected header, all in hex.
func statementOf(t testing.TB, protected, rest string) []byte {
	return append(append(unhex(t, "d284"), encode(t, unhex(t, protected))...), unhex(t, rest)...)
}

// aStatement is canonical; unsorted labels and long heads inside its protected
// header must survive.
func aStatement(t testing.TB) []byte {
	return statementOf(t, "a4"+"044101"+"0126"+"18106178"+"0fa2016161026162", "a0"+"43010203"+"4102")
}

func TestATransparentStatementComesApartAsItWasPutTogether(t *testing.T) {
	one, two := logOf(t, 3).receipt(1), logOf(t, 9).receipt(1)
	leaf, ca := []byte("leaf certificate"), []byte("CA certificate")
	detached := statementOf(t, "a10126", "a0"+"f6"+"40")
	empty := statementOf(t, "a10126", "a0"+"40"+"40")
	for name, c := range map[string]struct {
		canonical []byte
		chain     [][]byte
		receipts  [][]byte
		header    string // of the unprotected map, up to the first value
	}{
		"one receipt":       {aStatement(t), nil, [][]byte{one}, "a119018a81"},
		"two receipts":      {aStatement(t), nil, [][]byte{two, one}, "a119018a82"},
		"one certificate":   {aStatement(t), [][]byte{leaf}, [][]byte{one}, "a2182150"},
		"a chain":           {aStatement(t), [][]byte{leaf, ca}, [][]byte{one}, "a218218250"},
		"detached payload":  {detached, nil, [][]byte{one}, "a119018a81"},
		"empty payload":     {empty, nil, [][]byte{one}, "a119018a81"},
		"a foreign receipt": {aStatement(t), nil, [][]byte{read(t, "scitt-cose-v1", "valid-ccf-vds2", "receipt.cose")}, "a119018a81"},
	} {
		b, err := BuildTransparent(c.canonical, c.chain, c.receipts...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		e, err := open(c.canonical, maxTransparent)
		if err != nil {
			t.Fatal(err)
		}
		at := bytes.Index(b, unhex(t, c.header))
		if want := 3 + len(e.protected); at != want {
			t.Errorf("%s: unprotected header %s at %d, want %d: %x", name, c.header, at, want, b)
		}
		canonical, receipts, err := SplitTransparent(b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !bytes.Equal(canonical, c.canonical) || !equalAll(receipts, c.receipts) {
			t.Errorf("%s: came apart as %x, %x", name, canonical, receipts)
		}
		again, err := BuildTransparent(c.canonical, c.chain, c.receipts...)
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%s: second time %x, %v", name, again, err)
		}
	}
}

func TestSplitDropsWhatElseIsUnprotectedAndShortensHeads(t *testing.T) {
	r := logOf(t, 1).receipt(0)
	b := unhex(t, "d284"+"5803a10126"+"a3"+"6178f5"+"182141aa"+"19018a81")
	b = append(b, encode(t, r)...)
	b = append(b, unhex(t, "590003010203"+"580102")...)
	canonical, receipts, err := SplitTransparent(b)
	if err != nil {
		t.Fatal(err)
	}
	if want := unhex(t, "d28443a10126a0430102034102"); !bytes.Equal(canonical, want) || !equalAll(receipts, [][]byte{r}) {
		t.Errorf("%x, %x; want %x", canonical, receipts, want)
	}
}

func TestWhatIsNoTransparentStatementIsRefused(t *testing.T) {
	good, err := BuildTransparent(aStatement(t), nil, logOf(t, 1).receipt(0))
	if err != nil {
		t.Fatal(err)
	}
	with := func(unprotected string) []byte { return statementOf(t, "a10126", unprotected+"4101"+"4102") }
	for name, b := range map[string][]byte{
		"nothing":               nil,
		"untagged":              good[1:],
		"wrong tag":             append([]byte{0xd1}, good[1:]...),
		"trailing byte":         append(bytes.Clone(good), 0),
		"cut off":               good[:len(good)-1],
		"no receipts":           aStatement(t),
		"receipts null":         with("a119018af6"),
		"receipts empty":        with("a119018a80"),
		"receipts a map":        with("a119018aa0"),
		"a bare receipt":        with("a119018a4101"),
		"a receipt not wrapped": with("a119018a8101"),
		"receipts twice":        with("a219018a81410119018a814101"),
		"receipts indefinite":   with("a119018a9f4101ff"),
		"receipts in both":      statementOf(t, "a119018a814101", "a119018a814101"+"4101"+"4102"),
		"receipts protected":    statementOf(t, "a119018a814101", "a0"+"4101"+"4102"),
		"alg in both":           with("a2012619018a814101"),
		"too long":              append(bytes.Clone(good), make([]byte, maxTransparent)...),
	} {
		if c, r, err := SplitTransparent(b); !errors.Is(err, ErrTransparent) || c != nil || r != nil {
			t.Errorf("%s: %x, %x, %v; want ErrTransparent", name, c, r, err)
		}
	}
}

func TestBuildRefusesWhatWouldBeNoTransparentStatement(t *testing.T) {
	r := logOf(t, 1).receipt(0)
	for name, c := range map[string]struct {
		canonical []byte
		chain     [][]byte
		receipts  [][]byte
	}{
		"nothing":                {nil, nil, [][]byte{r}},
		"no receipt":             {aStatement(t), nil, nil},
		"an empty receipt":       {aStatement(t), nil, [][]byte{r, {}}},
		"a receipt of rubbish":   {aStatement(t), nil, [][]byte{[]byte("rubbish")}},
		"an empty certificate":   {aStatement(t), [][]byte{{}}, [][]byte{r}},
		"unprotected content":    {statementOf(t, "a10126", "a1182141aa"+"4101"+"4102"), nil, [][]byte{r}},
		"a long head":            {unhex(t, "d2845803a10126"+"a0"+"4101"+"4102"), nil, [][]byte{r}},
		"a chain already there":  {statementOf(t, "a20126182141aa", "a0"+"4101"+"4102"), [][]byte{{1}}, [][]byte{r}},
		"receipts already there": {statementOf(t, "a2012619018a8141aa", "a0"+"4101"+"4102"), nil, [][]byte{r}},
		"too much":               {aStatement(t), [][]byte{make([]byte, maxUnprotected)}, [][]byte{r}},
	} {
		if b, err := BuildTransparent(c.canonical, c.chain, c.receipts...); !errors.Is(err, ErrTransparent) || b != nil {
			t.Errorf("%s: %x, %v; want ErrTransparent", name, b, err)
		}
	}
}

func FuzzSplitTransparent(f *testing.F) {
	r := logOf(f, 3).receipt(1)
	for _, chain := range [][][]byte{nil, {[]byte("leaf")}, {[]byte("leaf"), []byte("CA")}} {
		b, err := BuildTransparent(aStatement(f), chain, r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for _, name := range []string{"valid-eddsa", "valid-es256", "valid-ccf-vds2"} {
		b, err := BuildTransparent(read(f, "scitt-cose-v1", name, "statement.cose"), nil, read(f, "scitt-cose-v1", name, "receipt.cose"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		canonical, receipts, err := SplitTransparent(b)
		if err != nil {
			if !errors.Is(err, ErrTransparent) {
				t.Fatalf("error is not ErrTransparent: %v", err)
			}
			return
		}
		// No part is another than it was, says go-cose, where it reads them.
		var before, after gocose.Sign1Message
		if before.UnmarshalCBOR(b) == nil {
			if err := after.UnmarshalCBOR(canonical); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(before.Payload, after.Payload) || !bytes.Equal(before.Signature, after.Signature) || (before.Payload == nil) != (after.Payload == nil) {
				t.Fatalf("payload or signature changed:\n%x\n%x", b, canonical)
			}
		}
		x, err := open(b, maxTransparent)
		if err != nil {
			t.Fatal(err)
		}
		y, err := open(canonical, maxTransparent)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(x.protected, y.protected) || len(y.outside) != 0 {
			t.Fatalf("protected header changed:\n%x\n%x", b, canonical)
		}
		// Put together again it comes apart the same, if its receipts are receipts.
		again, err := BuildTransparent(canonical, nil, receipts...)
		if err != nil {
			return
		}
		c, r, err := SplitTransparent(again)
		if err != nil || !bytes.Equal(c, canonical) || !equalAll(r, receipts) {
			t.Fatalf("second time: %x, %x, %v", c, r, err)
		}
	})
}
