package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/scittd/scittd/internal/testenv"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/ledger/postgres"
	"github.com/scittd/scittd/statement"
)

// service is a ledger over a store, as cmd/scittd puts them together.
type service struct {
	*ledger.Ledger
	store     *postgres.Store
	operator  *ledgertest.Operator
	publisher *ledgertest.Publisher
}

// serve initialises a log in the database that direct leads to, and opens it
// through via.
func serve(t *testing.T, direct, via string) *service {
	t.Helper()
	s := &service{operator: ledgertest.NewOperator(t), publisher: ledgertest.NewPublisher(t, "https://wabbit.example")}
	s.operator.Init(t, open(t, direct), s.publisher)
	s.store = open(t, via)
	l, err := ledger.Open(t.Context(), s.store, ledger.Options{Issuer: s.operator.Issuer(t), Registry: "registry.example"})
	if err != nil {
		t.Fatal(err)
	}
	s.Ledger = l
	t.Cleanup(func() {
		if err := l.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *service) check(t *testing.T) {
	t.Helper()
	if err := ledgertest.CheckLog(t.Context(), s.store, s.operator.Receipt.Public()); err != nil {
		t.Fatalf("CheckLog: %v", err)
	}
}

// wire is a TCP proxy in front of the database that can break the connections
// commits go through at chosen moments.
type wire struct {
	listener net.Listener
	server   string
	all      sync.WaitGroup

	cut  atomic.Pointer[func() *cut] // asked for every message of such a connection; nil: let it through
	cuts atomic.Int64                // made so far
}

// cut says how much of a message reaches the server or, when all of it does, how
// much of the answer reaches the client. Then both connections end.
type cut struct {
	sent     func(message []byte) []byte
	answered func(answer []byte) []byte // instead
}

func newWire(t *testing.T, server string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{listener: l, server: server}
	w.all.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			w.all.Go(func() { w.carry(client) })
		}
	})
	t.Cleanup(func() { // after the stores, which end their connections
		l.Close()
		w.all.Wait()
	})
	return w
}

// cutNext cuts one message.
func (w *wire) cutNext(c cut) {
	once := sync.OnceValue(func() *cut { return &c })
	var done atomic.Bool
	next := func() *cut {
		if done.Swap(true) {
			return nil
		}
		return once()
	}
	w.cut.Store(&next)
}

// ready begins the server's last message of an exchange, ReadyForQuery, which is
// readySize long and ends with the state of the transaction.
var ready = []byte{'Z', 0, 0, 0, 5}

const readySize = 6

func (w *wire) carry(client net.Conn) {
	server, err := net.Dial("tcp", w.server)
	if err != nil {
		client.Close()
		return
	}
	var answered atomic.Pointer[func([]byte) []byte] // how much of an answer is to be given; nil: all
	end := func() { client.Close(); server.Close() }
	w.all.Go(func() {
		defer end()
		buf := make([]byte, 1<<20)
		var answer []byte
		for {
			n, err := server.Read(buf)
			if err != nil {
				return
			}
			if part := answered.Load(); part != nil {
				answer = append(answer, buf[:n]...)
				if at := len(answer) - readySize; at >= 0 && bytes.HasPrefix(answer[at:], ready) {
					client.Write((*part)(answer))
					w.cuts.Add(1)
					return
				}
				continue
			}
			if _, err := client.Write(buf[:n]); err != nil {
				return
			}
		}
	})
	commits := false
	buf := make([]byte, 1<<20)
	for {
		n, err := client.Read(buf)
		if err != nil {
			break
		}
		message := buf[:n]
		if !commits {
			// The first message of a commit is left alone: it prepares the
			// statements that come after it.
			commits = bytes.Contains(message, []byte("INSERT INTO heads"))
		} else if next := w.cut.Load(); next != nil {
			if c := (*next)(); c != nil && c.answered != nil {
				answered.Store(&c.answered)
			} else if c != nil {
				server.Write(c.sent(message))
				w.cuts.Add(1)
				break
			}
		}
		if _, err := server.Write(message); err != nil {
			break
		}
	}
	if answered.Load() == nil {
		end()
	}
}

func TestACommitCutOffIsAnsweredNormally(t *testing.T) {
	direct := migrated(t)
	address := strings.SplitAfter(strings.SplitN(direct, "/test", 2)[0], "@")[1]
	w := newWire(t, address)
	s := serve(t, direct, strings.Replace(direct, address, w.listener.Addr().String(), 1))
	ledgertest.Append(t, s.Ledger, s.publisher.Claims(t, 0, 1)[0])

	for i, tc := range []struct {
		name string
		cut  cut
	}{
		{"before the first byte", cut{sent: func(m []byte) []byte { return nil }}},
		{"after the first byte", cut{sent: func(m []byte) []byte { return m[:1] }}},
		{"half way", cut{sent: func(m []byte) []byte { return m[:len(m)/2] }}},
		{"before the last byte", cut{sent: func(m []byte) []byte { return m[:len(m)-1] }}},
		{"after the last byte", cut{sent: func(m []byte) []byte { return m }}},
		{"between commit and answer", cut{answered: func([]byte) []byte { return nil }}},
	} {
		before := size(t, s.store)
		w.cutNext(tc.cut)
		claims := s.publisher.Claims(t, 10*(i+1), 2)
		got := ledgertest.Append(t, s.Ledger, claims[0])
		if w.cuts.Load() != int64(i+1) {
			t.Fatalf("%s: the commit was not cut off", tc.name)
		}
		if got.Entry.ID != claims[0].ID() || got.Entry.Index != before {
			t.Errorf("%s: registered %s at %d, want %s at %d", tc.name, got.Entry.ID, got.Entry.Index, claims[0].ID(), before)
		}
		again := ledgertest.Append(t, s.Ledger, claims[0])
		if again.New || !bytes.Equal(again.Receipt, got.Receipt) {
			t.Errorf("%s: a resubmission got another receipt", tc.name)
		}
		// A first commit on a new connection is never cut.
		ledgertest.Append(t, s.Ledger, claims[1])
		s.check(t)
	}
}

// TestNothingAcknowledgedIsLostWhenTheServerIsKilled kills the postmaster under
// load, again and again, and holds the log against what clients were told.
func TestNothingAcknowledgedIsLostWhenTheServerIsKilled(t *testing.T) {
	const (
		kills   = 5
		clients = 8
		between = 50 // acknowledgements from one kill to the next, at least
	)
	pg := testenv.StartPostgres(t)
	dsn := pg.Database(t)
	if err := postgres.Migrate(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	s := serve(t, dsn, dsn)

	ctx, stop := context.WithCancel(t.Context())
	var mu sync.Mutex
	acknowledged, fails := map[statement.ID]ledger.Registered{}, 0
	acks := make(chan struct{}, 1<<16)
	var load sync.WaitGroup
	for client := range clients {
		load.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				stmt := s.publisher.Claim(t, ledgertest.Image(client<<20+n), ledgertest.SBOM, fmt.Append(nil, client, n))
				for ctx.Err() == nil {
					r, err := s.Append(ctx, ledgertest.Submission(s.Ledger, stmt))
					if err == nil {
						mu.Lock()
						acknowledged[stmt.ID()] = r
						mu.Unlock()
						acks <- struct{}{}
						break
					}
					if ctx.Err() == nil && !errors.Is(err, ledger.ErrUnavailable) {
						t.Errorf("append while the server comes and goes: %v, want ErrUnavailable", err)
						return
					}
					mu.Lock()
					fails++
					mu.Unlock()
					time.Sleep(20 * time.Millisecond) // a client's Retry-After
				}
			}
		})
	}
	wait := func() {
		for range between {
			select {
			case <-acks:
			case <-time.After(time.Minute):
				t.Fatal("no registration for a minute")
			}
		}
	}
	for range kills {
		wait()
		pg.Kill(t)
		for len(acks) > 0 { // of before the kill
			<-acks
		}
		pg.Start(t)
	}
	wait()
	stop()
	load.Wait()

	s.check(t)
	for id, r := range acknowledged {
		receipt, err := s.Receipt(t.Context(), id, ledger.All)
		if err != nil {
			t.Fatalf("acknowledged at index %d: %v", r.Entry.Index, err)
		}
		if !bytes.Equal(receipt, r.Receipt) {
			t.Fatalf("index %d has another receipt than was given out", r.Entry.Index)
		}
	}
	t.Logf("%d kills, %d acknowledged, %d refused meanwhile, %d entries", kills, len(acknowledged), fails, size(t, s.store))
}
