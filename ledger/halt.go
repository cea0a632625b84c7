package ledger

import (
	"errors"
	"fmt"
	"sync/atomic"
)

// ErrHalted: the log was found damaged, or not what it was, and is not continued
// by this process.
var ErrHalted = errors.New("the log is damaged and not continued")

// halt is why nothing is signed any more; nil: nothing speaks against it. It is
// set once and stays.
type halt struct{ why atomic.Pointer[error] }

func (h *halt) set(why error) {
	err := fmt.Errorf("%w: %w", ErrHalted, why)
	h.why.CompareAndSwap(nil, &err)
}

func (h *halt) err() error {
	if why := h.why.Load(); why != nil {
		return *why
	}
	return nil
}

// Halt stops this process from signing, for good: what is not committed yet is
// refused with ErrHalted and why, no checkpoint is made any more, and Ready says
// so. Reads go on, for what they return is held against what was signed. Only a
// new process, which looks at the log anew, may go on; the first reason stays.
func (l *Ledger) Halt(why error) { l.halt.set(why) }

// Halted returns ErrHalted with the reason, or nil.
func (l *Ledger) Halted() error { return l.halt.err() }
