package detcbor

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"
)

// ErrDuplicateKey is wrapped by every error about a map that repeats a key.
var ErrDuplicateKey = errors.New("duplicate map key")

// Kind is the major type of an item (RFC 8949 §3.1).
type Kind byte

const (
	KindUint Kind = iota
	KindNegative
	KindBytes
	KindText
	KindArray
	KindMap
	KindTag
	KindSimple // false, true, null and floats
)

func (k Kind) String() string {
	return [...]string{"an unsigned integer", "a negative integer", "a byte string", "a text string",
		"an array", "a map", "a tag", "a simple value or float"}[k&7]
}

// The simple values a Reader knows (RFC 8949 §3.3), as they stand in a head.
const (
	simpleFalse = 20
	simpleNull  = 22
	simpleByte  = 24
	null        = 0xf6
)

// Reader walks CBOR that nobody vouches for. It copies nothing, allocates
// nothing that the input did not pay for, and refuses what an attacker could
// use to make two readers disagree: indefinite lengths, heads longer than
// needed, repeated keys in any map, keys other than integers and strings,
// undefined and unassigned simple values, invalid UTF-8, nesting beyond
// MaxDepth, and tags that nobody asked for.
//
// A declared length is compared with what is left before anything else happens.
// Array and Map open a container for good: read one container per Reader, and
// give each nested one (Raw) a Reader of its own. The zero Reader is empty.
type Reader struct {
	// Tag says which tags may appear on what kind of content; nil means none.
	Tag func(number uint64, content Kind) bool

	buf  []byte
	off  int
	open int // containers opened by Array and Map
}

// NewReader reads from b, which must not change meanwhile.
func NewReader(b []byte) *Reader { return &Reader{buf: b} }

// Scan checks that b is exactly one item that a Reader without tags accepts.
func Scan(b []byte) error {
	r := NewReader(b)
	if _, err := r.Raw(); err != nil {
		return err
	}
	return r.End()
}

// Kind looks at the next item without reading it.
func (r *Reader) Kind() (Kind, error) {
	if r.off >= len(r.buf) {
		return 0, r.fault("input ends where an item should begin")
	}
	return Kind(r.buf[r.off] >> 5), nil
}

// Int reads an integer that fits 64 bits with a sign.
func (r *Reader) Int() (int64, error) {
	start := r.off
	h, err := r.head(false)
	switch {
	case err != nil:
		return 0, err
	case h.kind != KindUint && h.kind != KindNegative:
		return 0, wrongKind(start, h.kind, "an integer")
	case h.arg > math.MaxInt64:
		return 0, faultAt(start, "integer does not fit 64 bits with a sign")
	case h.kind == KindNegative:
		return -1 - int64(h.arg), nil
	}
	return int64(h.arg), nil
}

// Bytes reads a byte string. The result is a part of the input.
func (r *Reader) Bytes() ([]byte, error) { return r.str(KindBytes, false) }

// LongBytes is Bytes that tolerates a head longer than needed, for the one
// place where a rewritten form makes such a head harmless.
func (r *Reader) LongBytes() ([]byte, error) { return r.str(KindBytes, true) }

// Text reads a text string, which is valid UTF-8.
func (r *Reader) Text() (string, error) {
	b, err := r.str(KindText, false)
	return string(b), err
}

// Array opens an array and says how many items follow.
func (r *Reader) Array() (int, error) { return r.container(KindArray) }

// Map opens a map and says how many pairs follow. The caller reads the keys and
// looks for repeated ones; Raw does so by itself for the maps it passes over.
func (r *Reader) Map() (int, error) { return r.container(KindMap) }

// Null reads a null, if that is what comes next.
func (r *Reader) Null() bool {
	if r.off < len(r.buf) && r.buf[r.off] == null {
		r.off++
		return true
	}
	return false
}

// Raw checks the next item to its last byte and returns it as it stands.
func (r *Reader) Raw() (RawMessage, error) {
	start := r.off
	if err := r.skip(r.open); err != nil {
		return nil, err
	}
	return RawMessage(r.buf[start:r.off:r.off]), nil
}

// End refuses bytes after the last item.
func (r *Reader) End() error {
	if r.off != len(r.buf) {
		return r.fault("%d bytes after the end", len(r.buf)-r.off)
	}
	return nil
}

func (r *Reader) str(want Kind, long bool) ([]byte, error) {
	start := r.off
	h, err := r.head(long)
	if err != nil {
		return nil, err
	}
	if h.kind != want {
		return nil, wrongKind(start, h.kind, want.String())
	}
	return r.content(h)
}

func (r *Reader) container(want Kind) (int, error) {
	start := r.off
	h, err := r.head(false)
	if err != nil {
		return 0, err
	}
	if h.kind != want {
		return 0, wrongKind(start, h.kind, want.String())
	}
	if r.open++; r.open > MaxDepth {
		return 0, tooDeep(start)
	}
	return int(h.arg), nil
}

// head is the first part of an item: what it is and its count, length or value.
type head struct {
	kind Kind
	info byte // the low five bits: tells a float from a simple value
	arg  uint64
}

// head reads one head. The argument of a string or container is never more than
// what is left can hold, so callers may count up to it.
func (r *Reader) head(long bool) (head, error) {
	start := r.off
	if start >= len(r.buf) {
		return head{}, r.fault("input ends where an item should begin")
	}
	first := r.buf[start]
	h := head{kind: Kind(first >> 5), info: first & 31}
	r.off++
	switch {
	case h.info < 24:
		h.arg = uint64(h.info)
	case h.info == 31:
		return head{}, faultAt(start, "indefinite length")
	case h.info > 27:
		return head{}, faultAt(start, "reserved additional information %d", h.info)
	default:
		size := 1 << (h.info - 24)
		if len(r.buf)-r.off < size {
			return head{}, faultAt(start, "input ends inside a head")
		}
		var wide [8]byte
		copy(wide[8-size:], r.buf[r.off:])
		h.arg = binary.BigEndian.Uint64(wide[:])
		r.off += size
		if h.kind != KindSimple && !long && h.arg < leastArg(h.info) {
			return head{}, faultAt(start, "head longer than needed")
		}
	}
	return h, r.checkArg(start, h)
}

// leastArg is the smallest argument that needs a head of this size.
func leastArg(info byte) uint64 {
	return [...]uint64{24, 1 << 8, 1 << 16, 1 << 32}[info-24]
}

func (r *Reader) checkArg(start int, h head) error {
	left := uint64(len(r.buf) - r.off)
	switch h.kind {
	case KindNegative:
		if h.arg > math.MaxInt64 {
			return faultAt(start, "integer below -2^63")
		}
	case KindBytes, KindText, KindArray:
		if h.arg > left {
			return faultAt(start, "%s of length %d, but only %d bytes are left", h.kind, h.arg, left)
		}
	case KindMap:
		if h.arg > left/2 {
			return faultAt(start, "a map of %d pairs, but only %d bytes are left", h.arg, left)
		}
	case KindSimple:
		if h.info <= simpleByte && (h.info < simpleFalse || h.info > simpleNull) {
			return faultAt(start, "simple value other than false, true and null")
		}
	}
	return nil
}

// content takes the bytes that belong to the head of a string.
func (r *Reader) content(h head) ([]byte, error) {
	start := r.off
	r.off += int(h.arg)
	b := r.buf[start:r.off:r.off]
	if h.kind == KindText && !utf8.Valid(b) {
		return nil, faultAt(start, "text is not valid UTF-8")
	}
	return b, nil
}

// skip checks one item that stands inside depth containers.
func (r *Reader) skip(depth int) error {
	start := r.off
	h, err := r.head(false)
	if err != nil {
		return err
	}
	if h.kind == KindArray || h.kind == KindMap || h.kind == KindTag {
		if depth++; depth > MaxDepth {
			return tooDeep(start)
		}
	}
	switch h.kind {
	case KindBytes, KindText:
		_, err = r.content(h)
		return err
	case KindArray:
		for range h.arg {
			if err := r.skip(depth); err != nil {
				return err
			}
		}
	case KindMap:
		return r.skipPairs(int(h.arg), depth)
	case KindTag:
		content, err := r.Kind()
		if err != nil {
			return err
		}
		if r.Tag == nil || !r.Tag(h.arg, content) {
			return faultAt(start, "tag %d on %s is not allowed here", h.arg, content)
		}
		return r.skip(depth)
	}
	return nil
}

// skipPairs checks the pairs of a map. Shortest heads make equal keys equal
// bytes. Ascending keys, the usual case, cannot repeat and cost no memory.
func (r *Reader) skipPairs(n, depth int) error {
	begin := r.off
	var last []byte
	ascending := true
	for range n {
		start := r.off
		if kind, err := r.Kind(); err != nil {
			return err
		} else if kind > KindText {
			return faultAt(start, "map key is %s; keys are integers or strings", kind)
		}
		if err := r.skip(depth); err != nil {
			return err
		}
		key := r.buf[start:r.off]
		switch order := bytes.Compare(last, key); {
		case order == 0:
			return duplicate(start, key)
		case order > 0:
			ascending = false
		}
		last = key
		if err := r.skip(depth); err != nil {
			return err
		}
	}
	if ascending {
		return nil
	}
	return r.findRepeat(begin, n)
}

// findRepeat sorts the keys of the n pairs at begin, which are known to be well
// formed: so n is what really is there, and not what somebody claimed.
func (r *Reader) findRepeat(begin, n int) error {
	type span struct{ start, end uint32 }
	if uint64(len(r.buf)) > math.MaxUint32 {
		return faultAt(begin, "unsorted map in more than 4 GiB of input")
	}
	keys := make([]span, 0, n)
	for off := begin; len(keys) < n; {
		end := itemEnd(r.buf, off)
		keys = append(keys, span{uint32(off), uint32(end)})
		off = itemEnd(r.buf, end)
	}
	key := func(s span) []byte { return r.buf[s.start:s.end] }
	slices.SortFunc(keys, func(a, b span) int { return bytes.Compare(key(a), key(b)) })
	for i := 1; i < len(keys); i++ {
		if bytes.Equal(key(keys[i-1]), key(keys[i])) {
			return duplicate(int(max(keys[i-1].start, keys[i].start)), key(keys[i]))
		}
	}
	return nil
}

// itemEnd says where the well-formed item at off ends.
func itemEnd(b []byte, off int) int {
	r := Reader{buf: b, off: off}
	for pending := uint64(1); pending > 0; pending-- {
		h, err := r.head(false)
		if err != nil {
			panic(err) // skip has accepted these very bytes
		}
		switch h.kind {
		case KindBytes, KindText:
			r.off += int(h.arg)
		case KindArray:
			pending += h.arg
		case KindMap:
			pending += 2 * h.arg
		case KindTag:
			pending++
		}
	}
	return r.off
}

func (r *Reader) fault(format string, args ...any) error { return faultAt(r.off, format, args...) }

func faultAt[N int | int64](off N, format string, args ...any) error {
	return fmt.Errorf("byte %d: %s", off, fmt.Sprintf(format, args...))
}

func tooDeep(off int) error { return faultAt(off, "nested deeper than %d", MaxDepth) }

func wrongKind(off int, got Kind, want string) error {
	return faultAt(off, "%s where %s should be", got, want)
}

func duplicate(off int, key []byte) error {
	return fmt.Errorf("byte %d: %w %s", off, ErrDuplicateKey, show(key))
}

// show prints a key for people: short, and with nothing in it that acts.
func show(key []byte) string {
	r := NewReader(key)
	switch kind, _ := r.Kind(); kind {
	case KindText:
		s, _ := r.Text()
		return strconv.QuoteToASCII(s[:min(len(s), 64)])
	case KindBytes:
		b, _ := r.Bytes()
		return fmt.Sprintf("h'%x'", b[:min(len(b), 32)])
	}
	n, err := r.Int()
	if err != nil {
		return "2^63 or above"
	}
	return strconv.FormatInt(n, 10)
}
