package receipts

import (
	"bytes"
	"errors"
	"maps"
	"math"
	"strings"
	"testing"
	"time"

	gocose "github.com/veraison/go-cose"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/internal/detcbor"
)

func encode(t testing.TB, v any) []byte {
	t.Helper()
	b, err := detcbor.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

type m = map[any]any

// draft is a receipt in the making: what the tests change before it is signed
// for entry 0 of a log of one, whose root is the leaf hash.
type draft struct {
	protected   m
	raw         []byte // instead of protected
	unprotected any
	payload     any
	alg         cose.Algorithm // what is signed with, whatever protected says
	root        *[32]byte      // what is signed; nil: the root of the log of one
}

func newDraft(t testing.TB) draft {
	return draft{
		protected: m{1: -7, 4: newIssuer(t).KeyID(), 395: 1, 15: m{1: service, 2: origin, 6: registered.Unix()}},
		unprotected: m{396: m{-1: [][]byte{
			encode(t, []any{1, 0, [][]byte{}}),
		}}},
		alg: cose.ES256,
	}
}

// onlyRoot is the root of the log whose one entry is entryOf(0).
func onlyRoot(t testing.TB) []byte {
	root := logOf(t, 1).head().Root
	return root[:]
}

func (d draft) bytes(t testing.TB) []byte {
	t.Helper()
	protected := d.raw
	if protected == nil {
		protected = encode(t, d.protected)
	}
	root := onlyRoot(t)
	if d.root != nil {
		root = d.root[:]
	}
	sig, err := cose.Sign(d.alg, serviceKey(t), protected, root)
	if err != nil {
		t.Fatal(err)
	}
	return encode(t, detcbor.Tag{Number: 18, Content: []any{protected, d.unprotected, d.payload, sig}})
}

func (d draft) set(label, value any) draft {
	d.protected = maps.Clone(d.protected)
	d.protected[label] = value
	return d
}

func (d draft) without(label any) draft {
	d.protected = maps.Clone(d.protected)
	delete(d.protected, label)
	return d
}

func TestADraftOfTheTestsIsAReceipt(t *testing.T) {
	r, err := Parse(newDraft(t).bytes(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Verify(entryOf(0), serviceKey(t).Public(), Strict); err != nil {
		t.Error(err)
	}
	if r.Issuer != service || r.Subject != origin || !r.IssuedAt.Equal(registered) || !bytes.Equal(r.KeyID, newIssuer(t).KeyID()) {
		t.Errorf("%+v", r)
	}
}

func TestHostileReceiptsAreRefused(t *testing.T) {
	d := newDraft(t)
	good := d.bytes(t)
	only := func(v any) []byte { d := d; d.unprotected = v; return d.bytes(t) }
	proofs := func(v any) []byte { return only(m{396: v}) }
	inclusion := func(v ...any) []byte { return proofs(m{-1: [][]byte{encode(t, v)}}) }
	outside := func(d draft, more m) []byte {
		all := maps.Clone(d.unprotected.(m))
		maps.Copy(all, more)
		d.unprotected = all
		return d.bytes(t)
	}
	raw := func(b string) []byte { d := d; d.raw = unhex(t, b); return d.bytes(t) }
	claims := func(v any) []byte { return d.set(15, v).bytes(t) }
	attached := func(v any) []byte { d := d; d.payload = v; return d.bytes(t) }
	body := good[2:]
	deep := detcbor.RawMessage(append(bytes.Repeat([]byte{0x81}, 20), 0x01))

	for name, c := range map[string]struct {
		b    []byte
		want error
	}{
		"nothing":            {nil, ErrMalformed},
		"one byte":           {good[:1], ErrMalformed},
		"untagged":           {good[1:], ErrMalformed},
		"tag 98":             {append([]byte{0xd8, 98}, good[1:]...), ErrMalformed},
		"tag 61 outside":     {append([]byte{0xd8, 61}, good...), ErrMalformed},
		"long tag head":      {append([]byte{0xd8, 0x12}, good[1:]...), ErrMalformed},
		"long array head":    {append([]byte{0xd2, 0x98, 4}, body...), ErrMalformed},
		"indefinite array":   {append(append([]byte{0xd2, 0x9f}, body...), 0xff), ErrMalformed},
		"array of three":     {append([]byte{0xd2, 0x83}, body...), ErrMalformed},
		"array of five":      {append(append([]byte{0xd2, 0x85}, body...), 0), ErrMalformed},
		"trailing byte":      {append(bytes.Clone(good), 0), ErrMalformed},
		"cut off":            {good[:len(good)-1], ErrMalformed},
		"too long":           {append(bytes.Clone(good), make([]byte, maxReceipt)...), ErrMalformed},
		"length of 2^63-1":   {unhex(t, "d2845b7fffffffffffffff"), ErrMalformed},
		"signature is null":  {append(bytes.Clone(good[:len(good)-66]), 0xf6), ErrMalformed},
		"protected is a map": {append([]byte{0xd2, 0x84}, encode(t, d.protected)...), ErrMalformed},

		"protected empty":          {raw(""), ErrMalformed},
		"protected h'a0'":          {raw("a0"), ErrMalformed},
		"protected an array":       {raw("80"), ErrMalformed},
		"protected null":           {raw("f6"), ErrMalformed},
		"protected indefinite":     {raw("bf0126ff"), ErrMalformed},
		"protected with a tail":    {raw("a2012619018b0100"), ErrMalformed},
		"vds twice":                {raw("a3012619018b0119018b01"), ErrMalformed},
		"vds twice, one long":      {raw("a3012619018b011a0000018b01"), ErrMalformed},
		"a label of bytes":         {raw("a3012619018b01410101"), ErrMalformed},
		"a label of null":          {raw("a3012619018b01f601"), ErrMalformed},
		"a label of 2^64-1":        {raw("a3012619018b011bffffffffffffffff01"), ErrMalformed},
		"a label that is an array": {raw("a3012619018b018001"), ErrMalformed},
		"bad UTF-8":                {raw("a3012619018b016161" + "61ff"), ErrMalformed},
		"nested 20 deep":           {d.set(99, deep).bytes(t), ErrMalformed},
		"nested key twice":         {d.set(99, detcbor.RawMessage{0xa2, 1, 1, 1, 2}).bytes(t), ErrMalformed},

		"alg absent":              {d.without(1).bytes(t), ErrMalformed},
		"alg text":                {d.set(1, "ES256").bytes(t), ErrMalformed},
		"alg only unprotected":    {outside(d.without(1), m{1: -7}), ErrMalformed},
		"vds absent":              {d.without(395).bytes(t), ErrMalformed},
		"vds only unprotected":    {outside(d.without(395), m{395: 1}), ErrMalformed},
		"vds in both":             {outside(d, m{395: 1}), ErrMalformed},
		"kid in both":             {outside(d, m{4: newIssuer(t).KeyID()}), ErrMalformed},
		"vds text":                {d.set(395, "1").bytes(t), ErrMalformed},
		"vds null":                {d.set(395, nil).bytes(t), ErrMalformed},
		"vds 0":                   {d.set(395, 0).bytes(t), ErrUnsupported},
		"vds 2, a CCF log":        {d.set(395, 2).bytes(t), ErrUnsupported},
		"vds 3, an MMR log":       {d.set(395, 3).bytes(t), ErrUnsupported},
		"vds -222":                {d.set(395, -222).bytes(t), ErrUnsupported},
		"labels of old drafts":    {d.without(395).set(-111, 1).bytes(t), ErrMalformed},
		"proofs in protected":     {d.set(396, m{}).bytes(t), ErrMalformed},
		"kid text":                {d.set(4, "kid").bytes(t), ErrMalformed},
		"kid text, unprotected":   {outside(d.without(4), m{4: "kid"}), ErrMalformed},
		"crit unprotected":        {outside(d, m{2: []int{1}}), ErrMalformed},
		"crit empty":              {d.set(2, []int{}).bytes(t), ErrMalformed},
		"crit no array":           {d.set(2, 1).bytes(t), ErrMalformed},
		"crit names bytes":        {d.set(2, []any{[]byte{1}}).bytes(t), ErrMalformed},
		"crit names an array":     {d.set(2, []any{[]any{1}}).bytes(t), ErrMalformed},
		"crit names an absent":    {d.set(2, []int{99}).bytes(t), ErrMalformed},
		"crit names a strange":    {d.set(2, []int{99}).set(99, 1).bytes(t), ErrUnsupported},
		"claims are bytes":        {claims([]byte{}), ErrMalformed},
		"claims are null":         {claims(nil), ErrMalformed},
		"claims with iss twice":   {claims(detcbor.RawMessage(unhex(t, "a2016161016162"))), ErrMalformed},
		"iss is bytes":            {claims(m{1: []byte("x")}), ErrMalformed},
		"sub is null":             {claims(m{2: nil}), ErrMalformed},
		"iat is text":             {claims(m{6: "now"}), ErrMalformed},
		"iat is negative":         {claims(m{6: -1}), ErrMalformed},
		"iat is 2^63-1":           {claims(m{6: math.MaxInt64}), ErrMalformed},
		"iat is NaN":              {claims(m{6: math.NaN()}), ErrMalformed},
		"iat is infinite":         {claims(m{6: math.Inf(1)}), ErrMalformed},
		"iat is true":             {claims(m{6: true}), ErrMalformed},
		"iat is null":             {claims(m{6: nil}), ErrMalformed},
		"iat is undefined":        {claims(m{6: detcbor.RawMessage{0xf7}}), ErrMalformed},
		"attached text":           {attached("root"), ErrMalformed},
		"attached empty":          {attached([]byte{}), ErrMalformed},
		"attached 31 bytes":       {attached(make([]byte, 31)), ErrMalformed},
		"unprotected is an array": {only([]any{}), ErrMalformed},
		"unprotected is null":     {only(nil), ErrMalformed},

		"no proofs":                 {only(m{}), ErrMalformed},
		"proofs are an array":       {proofs([]any{}), ErrMalformed},
		"proofs are empty":          {proofs(m{}), ErrMalformed},
		"proofs under text":         {proofs(m{"inclusion": 1}), ErrUnsupported},
		"an unregistered proof":     {proofs(m{-1: [][]byte{encode(t, []any{1, 0, []any{}})}, -3: 1}), ErrUnsupported},
		"consistency of nothing":    {proofs(m{-2: [][]byte{{0x80}}}), ErrMalformed},
		"consistency, one bad":      {proofs(m{-1: [][]byte{encode(t, []any{1, 0, []any{}})}, -2: [][]byte{{0x80}}}), ErrMalformed},
		"consistency, none":         {proofs(m{-2: []any{}}), ErrMalformed},
		"a bare consistency proof":  {proofs(m{-2: encode(t, []any{1, 1, []any{}})}), ErrMalformed},
		"consistency from -1":       {proofs(m{-2: [][]byte{encode(t, []any{-1, 1, []any{}})}}), ErrMalformed},
		"consistency over 65":       {proofs(m{-2: [][]byte{encode(t, []any{1, 2, bytes65()})}}), ErrMalformed},
		"a bare proof":              {proofs(m{-1: encode(t, []any{1, 0, []any{}})}), ErrMalformed},
		"inclusion, none":           {proofs(m{-1: []any{}}), ErrMalformed},
		"inclusion, null":           {proofs(m{-1: nil}), ErrMalformed},
		"a proof not in bytes":      {proofs(m{-1: []any{[]any{1, 0, []any{}}}}), ErrMalformed},
		"an empty proof":            {proofs(m{-1: [][]byte{{}}}), ErrMalformed},
		"a proof that is a map":     {proofs(m{-1: [][]byte{{0xa0}}}), ErrMalformed},
		"a proof with a tail":       {proofs(m{-1: [][]byte{append(encode(t, []any{1, 0, []any{}}), 0)}}), ErrMalformed},
		"a proof of two":            {inclusion(1, 0), ErrMalformed},
		"a proof of four":           {inclusion(1, 0, []any{}, 0), ErrMalformed},
		"a size of text":            {inclusion("1", 0, []any{}), ErrMalformed},
		"a negative index":          {inclusion(1, -1, []any{}), ErrMalformed},
		"an index of float":         {inclusion(1, 0.0, []any{}), ErrMalformed},
		"an index of null":          {inclusion(1, nil, []any{}), ErrMalformed},
		"a path of null":            {inclusion(1, 0, nil), ErrMalformed},
		"a path of text":            {inclusion(2, 0, []any{strings.Repeat("x", 32)}), ErrMalformed},
		"a path element of 31":      {inclusion(2, 0, [][]byte{make([]byte, 31)}), ErrMalformed},
		"a path element of numbers": {inclusion(2, 0, []any{make([]int, 32)}), ErrMalformed},
		"a path of 65":              {inclusion(2, 0, bytes65()), ErrMalformed},
	} {
		if _, err := Parse(c.b); !errors.Is(err, c.want) || errors.Is(err, ErrMalformed) == errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: %v, want %v\n%x", name, err, c.want, c.b)
		}
	}
}

func bytes65() [][]byte {
	path := make([][]byte, 65)
	for i := range path {
		path[i] = make([]byte, 32)
	}
	return path
}

// What other services may do differently from ours and still be right.
func TestUnusualReceiptsAreRead(t *testing.T) {
	d := newDraft(t)
	vdp := d.unprotected.(m)[396]
	unsorted := d
	unsorted.raw = append(unhex(t, "a4"+"19018b01"+"0126"+"0441aa"+"0f"), encode(t, d.protected[15])...)
	long := d
	long.raw = append(unhex(t, "a4"+"0126"+"0441aa"+"19018b1801"+"0f"), encode(t, d.protected[15])...)
	more := d
	more.unprotected = m{396: vdp, "ccf.v1": m{"txid": "2.19"}, 3: "text/plain"}
	attached := d
	attached.payload = onlyRoot(t)
	twice := d
	p := vdp.(m)[-1].([][]byte)[0]
	twice.unprotected = m{396: m{-1: [][]byte{p, p}}}
	for name, d := range map[string]draft{
		"unsorted protected":   unsorted,
		"long heads":           long,
		"unknown headers":      more,
		"typ":                  d.set(16, "application/scitt-receipt+cose"),
		"attached root":        attached,
		"the same proof twice": twice,
		"crit understood":      d.set(2, []int{1, 4, 15, 395}),
		"iat tagged":           d.set(15, m{1: service, 2: origin, 6: detcbor.Tag{Number: 1, Content: registered.Unix()}}),
		"iat float":            d.set(15, m{1: service, 2: origin, 6: float64(registered.Unix())}),
		"more claims":          d.set(15, m{1: service, 2: origin, 6: registered.Unix(), 4: 1 << 40, "x": nil}),
		"x5t for kid":          d.without(4).set(34, []any{-16, make([]byte, 32)}),
		"x5chain for kid":      d.without(4).set(33, []byte("certificate")),
		"ESP256":               d.set(1, -9),
	} {
		r, err := Parse(d.bytes(t))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := r.Verify(entryOf(0), serviceKey(t).Public(), Strict); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !r.IssuedAt.Equal(registered) {
			t.Errorf("%s: issued at %s, want %s", name, r.IssuedAt, registered)
		}
	}
}

func TestAKidThatIsNotProtectedIsOnlyAHint(t *testing.T) {
	d := newDraft(t).without(4)
	d.unprotected = m{4: []byte("hint"), 396: d.unprotected.(m)[396]}
	r, err := Parse(d.bytes(t))
	if err != nil {
		t.Fatal(err)
	}
	if string(r.KeyID) != "hint" {
		t.Errorf("kid = %q", r.KeyID)
	}
	if err := r.Verify(entryOf(0), serviceKey(t).Public(), COSEOnly); err != nil {
		t.Error(err)
	}
	if err := r.Verify(entryOf(0), serviceKey(t).Public(), Strict); !errors.Is(err, ErrClaims) {
		t.Errorf("strict: %v, want ErrClaims", err)
	}
}

func TestAReceiptKeepsItsBytes(t *testing.T) {
	b := logOf(t, 5).receipt(3)
	want := bytes.Clone(b)
	r, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	clear(b) // the caller's buffer is the caller's
	if !bytes.Equal(r.Bytes(), want) {
		t.Error("Bytes is not what was parsed")
	}
	if err := r.Verify(entryOf(3), serviceKey(t).Public(), Strict); err != nil {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"valid-eddsa", "valid-es256", "fail-tampered-path", "fail-unsupported-vds", "valid-ccf-vds2"} {
		f.Add(read(f, "scitt-cose-v1", name, "receipt.cose"))
	}
	f.Add(read(f, "cose-receipts-examples", "inclusion-receipt.cbor"))
	f.Add(read(f, "cose-receipts-examples", "consistency-receipt.cbor"))
	f.Add(logOf(f, 1).receipt(0))
	f.Add(logOf(f, 100).receipt(66))
	f.Add(logOf(f, 100).consistency(66))
	key, entry := serviceKey(f).Public(), entryOf(1000) // never logged
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Parse(b)
		if err != nil {
			if errors.Is(err, ErrMalformed) == errors.Is(err, ErrUnsupported) {
				t.Fatalf("error is not exactly one of ErrMalformed, ErrUnsupported: %v", err)
			}
			return
		}
		if !bytes.Equal(r.Bytes(), b) || len(r.Proofs)+len(r.Consistency) == 0 || r.VDS != 1 {
			t.Fatalf("accepted as %+v", r)
		}
		for _, mode := range []Mode{Strict, COSEOnly} {
			if r.Verify(entry, key, mode) == nil {
				t.Fatal("verifies for an entry that was never logged")
			}
			older := Roots{}
			for _, p := range r.Consistency {
				older[p.From] = [32]byte(entry)
			}
			if root, err := r.VerifyConsistency(older, key, mode); err == nil {
				t.Fatalf("verifies from roots that never were, to %x", root)
			}
		}
		// A second opinion on where the parts are. go-cose refuses more, such as
		// content types of a strange form.
		var msg gocose.Sign1Message
		if msg.UnmarshalCBOR(b) != nil {
			return
		}
		protected, err := detcbor.Marshal(r.protected)
		if err != nil {
			t.Fatal(err)
		}
		var theirs []byte
		if err := detcbor.Unmarshal(detcbor.RawMessage(msg.Headers.RawProtected), &theirs); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(theirs, r.protected) || !bytes.Equal(msg.Signature, r.signature) || !bytes.Equal(msg.Payload, r.payload) {
			t.Fatalf("go-cose reads other parts: protected %x, ours %x", theirs, protected)
		}
	})
}

func TestTimesAreUTC(t *testing.T) {
	r, err := Parse(newDraft(t).set(15, m{6: 1.5}).bytes(t))
	if err != nil {
		t.Fatal(err)
	}
	if want := time.Unix(1, 5e8).UTC(); r.IssuedAt != want {
		t.Errorf("issued at %v, want %v", r.IssuedAt, want)
	}
}
