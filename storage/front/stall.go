package front

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// waits are how long things may stand still. While bytes move, a blob may take
// as long as it takes.
type waits struct {
	body time.Duration // between two reads of a body
	head time.Duration // for an answer to begin
}

// A registry may hash or copy a big blob before it answers.
var patience = waits{body: 2 * time.Minute, head: 5 * time.Minute}

// stall ends an exchange in which nothing moves any more, whoever stands still:
// client or registry, reading or writing.
type stall struct {
	waits   waits
	timer   *time.Timer
	control *http.ResponseController
	over    atomic.Bool // the exchange: its connection may be another's
	failed  atomic.Bool // the client's body did not come to its end
}

// watchStall begins to watch. It lifts the server's deadline on the request, which
// is for bodies of which somebody knows how long they may take.
func watchStall(w http.ResponseWriter, cancel context.CancelFunc, waits waits) *stall {
	v := &stall{waits: waits, control: http.NewResponseController(w)}
	// A ResponseWriter without deadlines has no client who could stand still.
	_ = v.control.SetReadDeadline(time.Time{})
	v.timer = time.AfterFunc(waits.head+waits.body, func() { // the transport gives up first, and says why
		if v.over.Load() {
			return
		}
		cancel()
		_ = v.control.SetReadDeadline(time.Unix(1, 0))
		_ = v.control.SetWriteDeadline(time.Unix(1, 0))
	})
	return v
}

func (v *stall) end() {
	v.over.Store(true)
	v.timer.Stop()
}

// moves: something came.
func (v *stall) moves() { v.timer.Reset(v.waits.body) }

type stallKey struct{}

func stallOf(r *http.Request) *stall {
	v, _ := r.Context().Value(stallKey{}).(*stall)
	return v
}

// movingBody tells of everything that comes.
type movingBody struct {
	io.ReadCloser
	stall   *stall
	request bool
}

func (b *movingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == nil:
		b.stall.moves()
	case b.request && errors.Is(err, io.EOF):
		b.stall.timer.Reset(b.stall.waits.head + b.stall.waits.body) // now the registry has to answer
	case b.request:
		b.stall.failed.Store(true)
	}
	return n, err
}
