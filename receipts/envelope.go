package receipts

import (
	"errors"
	"fmt"

	"github.com/scittd/scittd/internal/detcbor"
)

// Sizes that are read. A receipt of ours takes under 2.5 KiB in a log of 2^64.
const (
	maxReceipt     = 64 << 10
	maxProtected   = 128 << 10
	maxUnprotected = 256 << 10
	maxTransparent = 2 << 20
)

// The heads of a tagged COSE_Sign1, and null.
const (
	headTag   = 0xd2 // tag 18
	headArray = 0x84
	null      = 0xf6
)

// envelope is a COSE_Sign1 taken apart. Other services' messages need not be
// deterministic, so the protected bytes are kept as they came.
type envelope struct {
	protected []byte // content of the byte string
	payload   []byte // nil when detached
	signature []byte
	inside    header // of the protected bucket
	outside   header // of the unprotected bucket
}

// header is one bucket: labels (int64 or string) to values, still encoded.
type header map[any]detcbor.RawMessage

// open takes a message apart: tag 18 around an array of four, definite lengths,
// nothing after it, no label twice, also not across the buckets, and no key
// twice in any map of a header.
func open(b []byte, limit int) (envelope, error) {
	var e envelope
	if len(b) > limit {
		return e, fmt.Errorf("%d bytes, the limit is %d", len(b), limit)
	}
	// SPEC RFC 9942 §4.3, RFC 9943 §6.1: a tagged COSE_Sign1.
	if len(b) < 2 || b[0] != headTag || b[1] != headArray {
		return e, errors.New("not a COSE_Sign1 with tag 18")
	}
	var parts []detcbor.RawMessage
	if err := detcbor.Unmarshal(b[1:], &parts); err != nil {
		return e, err
	}
	var err error
	if e.protected, err = byteString(parts[0]); err != nil {
		return e, fmt.Errorf("protected header: %w", err)
	}
	if len(e.protected) > maxProtected || len(parts[1]) > maxUnprotected {
		return e, fmt.Errorf("header over the limit (%d bytes protected, %d unprotected)", maxProtected, maxUnprotected)
	}
	if len(e.protected) > 0 {
		if e.inside, err = readHeader(e.protected); err != nil {
			return e, fmt.Errorf("protected header: %w", err)
		}
	}
	if e.outside, err = readHeader(parts[1]); err != nil {
		return e, fmt.Errorf("unprotected header: %w", err)
	}
	// SPEC RFC 9052 §3: labels in the two buckets together MUST be unique.
	for label := range e.inside {
		if _, twice := e.outside[label]; twice {
			return e, fmt.Errorf("label %v is in both headers", label)
		}
	}
	if parts[2][0] != null {
		if e.payload, err = byteString(parts[2]); err != nil {
			return e, fmt.Errorf("payload: %w", err)
		}
	}
	if e.signature, err = byteString(parts[3]); err != nil {
		return e, fmt.Errorf("signature: %w", err)
	}
	return e, nil
}

// canonical is the message with an empty unprotected header and shortest heads.
func (e envelope) canonical() []byte { return e.with([]byte{0xa0}) }

// with is the message with another unprotected header, given encoded.
func (e envelope) with(unprotected []byte) []byte {
	const heads = 2 + 3*9
	b := make([]byte, 0, heads+len(e.protected)+len(unprotected)+len(e.payload)+len(e.signature))
	b = append(b, headTag, headArray)
	b = detcbor.AppendBytes(b, e.protected)
	b = append(b, unprotected...)
	if e.payload == nil {
		b = append(b, null)
	} else {
		b = detcbor.AppendBytes(b, e.payload)
	}
	return detcbor.AppendBytes(b, e.signature)
}

// readHeader reads one map of labels.
func readHeader(b []byte) (header, error) {
	// The decoder finds repeated keys in what it decodes and passes over raw
	// values, so everything is decoded once, for this alone.
	var all any
	if err := detcbor.Unmarshal(b, &all); err != nil {
		return nil, err
	}
	var h header
	if err := detcbor.Unmarshal(b, &h); err != nil || h == nil {
		return nil, errors.New("not a map of labels")
	}
	for label := range h {
		switch label.(type) {
		case int64, string: // SPEC RFC 9052 §1.5: label = int / tstr
		default:
			return nil, fmt.Errorf("label %v is neither integer nor text", label)
		}
	}
	return h, nil
}

func (h header) get(label int64) (detcbor.RawMessage, bool) {
	v, ok := h[label]
	return v, ok
}

// The decoder would take null and others for some of the following; they want
// exactly their type.

func integer(raw detcbor.RawMessage) (int64, error) {
	var n int64
	if raw[0]>>5 > 1 || detcbor.Unmarshal(raw, &n) != nil {
		return 0, errors.New("not an integer of 64 bits")
	}
	return n, nil
}

func byteString(raw detcbor.RawMessage) ([]byte, error) {
	var b []byte
	if raw[0]>>5 != 2 || detcbor.Unmarshal(raw, &b) != nil {
		return nil, errors.New("not a byte string")
	}
	if b == nil {
		b = []byte{}
	}
	return b, nil
}

func text(raw detcbor.RawMessage) (string, error) {
	var s string
	if raw[0]>>5 != 3 || detcbor.Unmarshal(raw, &s) != nil {
		return "", errors.New("not text")
	}
	return s, nil
}

func array(raw detcbor.RawMessage) ([]detcbor.RawMessage, error) {
	var a []detcbor.RawMessage
	if raw[0]>>5 != 4 || detcbor.Unmarshal(raw, &a) != nil {
		return nil, errors.New("not an array")
	}
	return a, nil
}

// byteStrings reads an array of at least one byte string.
func byteStrings(raw detcbor.RawMessage) ([][]byte, error) {
	a, err := array(raw)
	if err != nil {
		return nil, err
	}
	if len(a) == 0 {
		return nil, errors.New("an empty array")
	}
	out := make([][]byte, len(a))
	for i := range a {
		if out[i], err = byteString(a[i]); err != nil {
			return nil, fmt.Errorf("element %d: %w", i, err)
		}
	}
	return out, nil
}
