package detcbor

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
)

// What Next returns of its own.
var (
	// ErrTooLong: an item has more bytes than are kept of one. It was passed
	// over, and the sequence goes on behind it.
	ErrTooLong = errors.New("item is too long")
	// ErrSequence: where the next item begins, and whether there is one, cannot
	// be told.
	ErrSequence = errors.New("no CBOR sequence")
)

// maxOpen is how many containers may stand in one another in an item of a
// sequence. It only bounds memory: what a Reader refuses begins far below.
const maxOpen = 1024

// endless is the count of a container that a break ends, indefinite the low
// five bits of a head that opens one, and of the break.
const (
	endless    = ^uint64(0)
	indefinite = 31
)

// Sequence splits a CBOR sequence (RFC 8742) into its items while it arrives.
//
// It reads no more of an item than where it ends, and accepts whatever has an
// end: an item that a Reader would refuse is passed on for its Reader to refuse,
// and harms none of the others. Only bytes that no item can begin or go on with,
// an input that ends inside an item, and nesting beyond all sense are its own
// errors. Memory is one item of the size it was made for, whatever lengths are
// declared.
type Sequence struct {
	in  *bufio.Reader
	max int
	off int64 // bytes taken from in
	err error // ends the sequence

	// Of the item in hand.
	item []byte
	long bool     // over max: the rest of its bytes are dropped
	open []uint64 // how many items each open container lacks, the innermost last
}

// NewSequence reads from r and keeps at most max bytes of one item.
func NewSequence(r io.Reader, max int) *Sequence {
	return &Sequence{in: bufio.NewReader(r), max: max}
}

// Next returns the next item, which is the caller's to keep. io.EOF: there is
// none. ErrTooLong: this one was passed over, and Next goes on behind it. Every
// other error is final: those of the reader, as they are, and ErrSequence with
// the byte and the reason.
func (s *Sequence) Next() ([]byte, error) {
	if s.err != nil {
		return nil, s.err
	}
	if _, err := s.in.Peek(1); err != nil {
		s.err = err
		return nil, err
	}
	start := s.off
	if err := s.read(); err != nil {
		s.item = nil
		if err == io.EOF {
			err = broken(s.off, "input ends inside the item that begins at byte %d", start)
		}
		s.err = err
		return nil, err
	}
	item := s.item
	s.item = nil
	if s.long {
		return nil, fmt.Errorf("byte %d: %w: %d bytes, of which at most %d are read", start, ErrTooLong, s.off-start, s.max)
	}
	return item, nil
}

// read takes one item. A container counts down what it lacks and is closed
// before its last item is opened, so that only what nests in earnest is counted.
func (s *Sequence) read() error {
	s.item, s.long, s.open = make([]byte, 0, min(s.max, 1<<10)), false, append(s.open[:0], 1)
	for len(s.open) > 0 {
		start := s.off
		h, err := s.head()
		if err != nil {
			return err
		}
		last := len(s.open) - 1
		if h.kind == KindSimple && h.info == indefinite {
			if s.open[last] != endless {
				return broken(start, "break outside of an indefinite length")
			}
			s.open = s.open[:last]
			continue
		}
		if s.open[last] != endless {
			if s.open[last]--; s.open[last] == 0 {
				s.open = s.open[:last]
			}
		}
		if err := s.enter(start, h); err != nil {
			return err
		}
	}
	return nil
}

// head reads one head as it stands, longer than needed or not.
func (s *Sequence) head() (head, error) {
	start := s.off
	first, err := s.byte()
	if err != nil {
		return head{}, err
	}
	h := head{kind: Kind(first >> 5), info: first & 31}
	switch {
	case h.info < 24:
		h.arg = uint64(h.info)
	case h.info == indefinite:
		h.arg = endless
		if h.kind == KindUint || h.kind == KindNegative || h.kind == KindTag {
			return head{}, broken(start, "indefinite length of %s", h.kind)
		}
	case h.info > 27:
		return head{}, broken(start, "reserved additional information %d", h.info)
	default:
		for range 1 << (h.info - 24) {
			b, err := s.byte()
			if err != nil {
				return head{}, err
			}
			h.arg = h.arg<<8 | uint64(b)
		}
	}
	return h, nil
}

// enter takes the content of a string, and opens a container.
func (s *Sequence) enter(start int64, h head) error {
	lacks := h.arg
	switch h.kind {
	case KindBytes, KindText:
		if h.info != indefinite { // else its chunks are items that a break ends
			return s.take(h.arg)
		}
	case KindArray, KindMap:
		if h.info != indefinite && h.arg > math.MaxInt64 {
			return broken(start, "%s of length %d", h.kind, h.arg)
		}
		if h.info != indefinite && h.kind == KindMap {
			lacks = 2 * h.arg
		}
	case KindTag:
		lacks = 1
	default:
		return nil
	}
	switch {
	case lacks == 0:
		return nil
	case len(s.open) == maxOpen:
		return broken(start, "nested deeper than %d", maxOpen)
	}
	s.open = append(s.open, lacks)
	return nil
}

func (s *Sequence) byte() (byte, error) {
	b, err := s.in.ReadByte()
	if err != nil {
		return 0, err
	}
	s.off++
	if s.room(1) {
		s.item = append(s.item, b)
	}
	return b, nil
}

// take reads n bytes of a string. Memory grows with what arrives.
func (s *Sequence) take(n uint64) error {
	const piece = 32 << 10
	for n > 0 {
		part := int(min(n, piece))
		var got int
		var err error
		if s.room(part) {
			end := len(s.item)
			s.item = append(s.item, make([]byte, part)...)
			got, err = io.ReadFull(s.in, s.item[end:])
		} else {
			got, err = s.in.Discard(part)
		}
		s.off += int64(got)
		n -= uint64(got)
		switch {
		case err == io.ErrUnexpectedEOF:
			return io.EOF
		case err != nil:
			return err
		}
	}
	return nil
}

// room says whether n more bytes of the item are kept. Once they are not, none is.
func (s *Sequence) room(n int) bool {
	if !s.long && len(s.item)+n > s.max {
		s.item, s.long = nil, true
	}
	return !s.long
}

func broken(off int64, format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrSequence, faultAt(off, format, args...))
}
