package compat

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// listen starts a proxy: carry takes over each connection until it ends. The
// proxy is gone when the test ends.
func listen(t testing.TB, carry func(client, server net.Conn)) net.Addr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer client.Close()
				server, err := theEngine.dial()
				if err != nil {
					return
				}
				defer server.Close()
				carry(client, server)
			})
		}
	})
	t.Cleanup(func() { // after the stores, which end their connections
		l.Close()
		all.Wait()
	})
	return l.Addr()
}

// distant is a proxy that makes every round trip longer. It keeps what is under
// way, so it takes no bandwidth away.
func distant(t testing.TB, roundTrip time.Duration) net.Addr {
	return listen(t, func(client, server net.Conn) {
		var both sync.WaitGroup
		both.Go(func() { delay(client, server, roundTrip/2) })
		delay(server, client, roundTrip/2)
		both.Wait()
	})
}

// delay copies until to or from ends, and then ends both.
func delay(to, from net.Conn, by time.Duration) {
	type chunk struct {
		due  time.Time
		data []byte
	}
	way := make(chan chunk, 1<<12)
	var arrival sync.WaitGroup
	arrival.Go(func() {
		defer to.Close()
		for c := range way {
			time.Sleep(time.Until(c.due))
			if _, err := to.Write(c.data); err != nil {
				break
			}
		}
		from.Close()
		for range way { // so that the reader below can see it
		}
	})
	for {
		buf := make([]byte, 1<<16)
		n, err := from.Read(buf)
		if n > 0 {
			way <- chunk{time.Now().Add(by), buf[:n]}
		}
		if err != nil {
			break
		}
	}
	close(way)
	arrival.Wait()
}

// frame is one message of the PostgreSQL protocol.
type frame struct {
	kind byte // 0: the first message of a client, which has none
	body []byte
}

func read(r io.Reader, first bool) (frame, error) {
	head := make([]byte, 5)
	if first {
		head = head[1:]
	}
	if _, err := io.ReadFull(r, head); err != nil {
		return frame{}, err
	}
	var f frame
	if !first {
		f.kind, head = head[0], head[1:]
	}
	length := binary.BigEndian.Uint32(head)
	if length < 4 || length > 1<<30 {
		return frame{}, io.ErrUnexpectedEOF
	}
	f.body = make([]byte, length-4)
	_, err := io.ReadFull(r, f.body)
	return f, err
}

func (f frame) append(b []byte) []byte {
	if f.kind != 0 {
		b = append(b, f.kind)
	}
	return append(binary.BigEndian.AppendUint32(b, uint32(len(f.body)+4)), f.body...)
}

// sql is the text that f carries, "" when it carries none.
func (f frame) sql() string {
	switch f.kind {
	case 'Q':
		return string(bytes.TrimSuffix(f.body, []byte{0}))
	case 'P':
		_, rest, _ := bytes.Cut(f.body, []byte{0})
		text, _, _ := bytes.Cut(rest, []byte{0})
		return string(text)
	}
	return ""
}

// exchange is all that a client sends before it waits for an answer.
type exchange []frame

func (e exchange) bytes() []byte {
	var b []byte
	for _, f := range e {
		b = f.append(b)
	}
	return b
}

// exchanges calls send with all that client says, exchange by exchange.
func exchanges(client io.Reader, send func(exchange) error) {
	var e exchange
	for first := true; ; {
		f, err := read(client, first)
		if err != nil {
			return
		}
		e = append(e, f)
		switch first = false; f.kind {
		case 'P', 'B', 'D', 'E', 'C': // an answer comes after Sync, or on Flush
			continue
		}
		if send(e) != nil {
			return
		}
		e = nil
	}
}

// cutter is a proxy that leaves in doubt what became of a commit: a part of it
// reaches the server before the connection breaks, or all does and the answer
// is lost, or the answer is "result unknown", as engines spread over machines
// may say.
type cutter struct {
	mu     sync.Mutex
	chance *rand.Rand
	left   int // cuts to be made

	lost, broken, unknown atomic.Int64
}

// doubt is what happens to a commit.
type doubt int32

const (
	answered doubt = iota
	lost
	broken
	unknown
)

func (c *cutter) next() doubt {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left == 0 || c.chance.IntN(2) == 0 {
		return answered
	}
	c.left--
	return lost + doubt(c.chance.IntN(3))
}

// part is how many of n bytes reach the server.
func (c *cutter) part(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.chance.IntN(n)
}

func (c *cutter) carry(client, server net.Conn) {
	var now atomic.Int32 // the doubt of the commit under way
	var both sync.WaitGroup
	both.Go(func() {
		defer client.Close()
		for {
			f, err := read(server, false)
			if err != nil {
				return
			}
			if d := doubt(now.Load()); d == answered {
				if _, err := client.Write(f.append(nil)); err != nil {
					return
				}
			} else if f.kind == 'Z' { // done, whatever came of it
				if d == lost {
					return
				}
				now.Store(int32(answered))
				if _, err := client.Write(f.append(refusal("40003").append(nil))); err != nil {
					return
				}
			}
		}
	})
	commits := map[string]bool{} // prepared statements that insert a head
	exchanges(client, func(e exchange) error {
		commit := false
		for _, f := range e {
			name, _, _ := bytes.Cut(f.body, []byte{0})
			if f.kind == 'P' && strings.Contains(f.sql(), "INSERT INTO heads") {
				commits[string(name)] = true
			}
			if f.kind == 'B' {
				_, rest, _ := bytes.Cut(f.body, []byte{0})
				name, _, _ := bytes.Cut(rest, []byte{0})
				commit = commit || commits[string(name)]
			}
		}
		message := e.bytes()
		if commit {
			switch d := c.next(); d {
			case lost:
				c.lost.Add(1)
				now.Store(int32(d))
			case unknown:
				c.unknown.Add(1)
				now.Store(int32(d))
			case broken:
				c.broken.Add(1)
				server.Write(message[:c.part(len(message))])
				return io.ErrClosedPipe
			}
		}
		_, err := server.Write(message)
		return err
	})
	if doubt(now.Load()) != lost {
		server.Close()
	}
	both.Wait()
}

// refuser is a proxy that lets transactions fail with 40001. It has the server
// itself give them up, at a statement that it slips in, so that whatever else
// the server says afterwards is true.
type refuser struct {
	mu     sync.Mutex
	chance *rand.Rand
	share  float64 // of exchanges

	ends      map[string]bool // prepared statements that are COMMIT
	forbidden map[string]int  // of withoutThese, what was sent

	statements, commits atomic.Int64 // refused
}

// withoutThese is what the portable profile does without, as it would be sent.
var withoutThese = []string{"advisory_", "set storage", "toast_", "plpgsql", "do $", "read committed", "repeatable read"}

// slip is what no engine can parse. Its error is turned into another.
const slip = "injected_40001"

func newRefuser(share float64) *refuser {
	return &refuser{chance: rand.New(rand.NewPCG(1, 2)), share: share, ends: map[string]bool{}, forbidden: map[string]int{}}
}

// place says before which of n messages e shall fail; -1: it shall not.
func (r *refuser) place(e exchange) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range e {
		text := strings.ToLower(f.sql())
		if f.kind == 'P' && text == "commit" {
			name, _, _ := bytes.Cut(f.body, []byte{0})
			r.ends[string(name)] = true
		}
		for _, word := range withoutThese {
			if strings.Contains(text, word) {
				r.forbidden[word]++
			}
		}
	}
	// What runs nothing, such as preparing a statement, has no reason to fail.
	runs := slices.ContainsFunc(e, func(f frame) bool { return f.kind == 'E' || f.kind == 'Q' })
	last := e[len(e)-1]
	if !runs || last.kind == 'H' || strings.EqualFold(last.sql(), "rollback") || r.chance.Float64() >= r.share {
		return -1
	}
	// Behind a COMMIT nothing fails any more: the last place is before it.
	end := len(e)
	for i, f := range e {
		_, rest, _ := bytes.Cut(f.body, []byte{0})
		if name, _, _ := bytes.Cut(rest, []byte{0}); f.kind == 'B' && r.ends[string(name)] {
			end = i + 1
			break
		}
	}
	if r.chance.IntN(2) == 0 {
		return end - 1
	}
	return r.chance.IntN(end)
}

func (r *refuser) carry(client, server net.Conn) {
	var commit atomic.Bool // the next "done" is that of the ROLLBACK in place of a COMMIT
	var both sync.WaitGroup
	both.Go(func() {
		defer client.Close()
		for {
			f, err := read(server, false)
			if err != nil {
				return
			}
			slipped := f.kind == 'E' && bytes.Contains(f.body, []byte(slip))
			if slipped || f.kind == 'C' && commit.Swap(false) {
				f = refusal("40001")
			}
			if _, err := client.Write(f.append(nil)); err != nil {
				return
			}
		}
	})
	exchanges(client, func(e exchange) error {
		at := r.place(e)
		switch {
		case at < 0:
		case e[at].kind == 'Q' && strings.EqualFold(e[at].sql(), "commit"):
			r.commits.Add(1)
			commit.Store(true)
			e[at].body = []byte("ROLLBACK\x00")
		case e[at].kind == 'Q':
			r.statements.Add(1)
			e[at].body = []byte(slip + "\x00")
		default:
			if at == len(e)-1 {
				r.commits.Add(1) // Sync ends an implicit transaction
			} else {
				r.statements.Add(1)
			}
			parse := frame{'P', []byte("\x00" + slip + "\x00\x00\x00")}
			e = append(append(append(exchange{}, e[:at]...), parse), e[at:]...)
		}
		_, err := server.Write(e.bytes())
		return err
	})
	server.Close()
	both.Wait()
}

// refusal is an error of the class "transaction rollback".
func refusal(code string) frame {
	b, err := (&pgproto3.ErrorResponse{
		Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: code, Message: "injected by the proxy",
	}).Encode(nil)
	if err != nil {
		panic(err) // a constant
	}
	return frame{b[0], b[5:]}
}
