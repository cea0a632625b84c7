package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/ledger/postgres"
	"github.com/scittd/scittd/statement"
)

// TestOneWhoStopsInItsTurnDelaysOthersThreeSecondsAtMost stands in for a process
// that is stopped while it has the newest head locked.
func TestOneWhoStopsInItsTurnDelaysOthersThreeSecondsAtMost(t *testing.T) {
	for _, tc := range []struct {
		name string
		stop func(t *testing.T, dsn string)
	}{
		{"between two messages", func(t *testing.T, dsn string) {
			turn, err := open(t, dsn).Turn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(turn.Release)
		}},
		{"in the middle of a message", func(t *testing.T, dsn string) {
			c, err := pgx.Connect(t.Context(), dsn)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close(context.Background()) })
			// No Sync follows: to the server this client is busy, not idle.
			f := c.PgConn().Frontend()
			for _, sql := range []string{"BEGIN", "SELECT size FROM heads ORDER BY size DESC LIMIT 1 FOR UPDATE"} {
				f.SendParse(&pgproto3.Parse{Query: sql})
				f.SendBind(&pgproto3.Bind{})
				f.SendExecute(&pgproto3.Execute{})
			}
			f.Send(&pgproto3.Flush{})
			if err := f.Flush(); err != nil {
				t.Fatal(err)
			}
			for { // until it has the lock
				m, err := f.Receive()
				if err != nil {
					t.Fatal(err)
				}
				if done, ok := m.(*pgproto3.CommandComplete); ok && bytes.HasPrefix(done.CommandTag, []byte("SELECT")) {
					return
				}
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dsn := migrated(t)
			s := serve(t, dsn, dsn)
			tc.stop(t, dsn)
			begin := time.Now()
			ledgertest.Append(t, s.Ledger, s.publisher.Claims(t, 0, 1)[0])
			took := time.Since(begin)
			if took < time.Second/2 {
				t.Errorf("a registration beside a locked head took %v: it was not locked", took)
			}
			if took > 3*time.Second {
				t.Errorf("a registration beside a stopped process took %v", took)
			}
			ledgertest.Append(t, s.Ledger, s.publisher.Claims(t, 1, 1)[0])
			s.check(t)
		})
	}
}

// TestWhoWaitedLongForTheLockIsNotTakenForOneWhoStopped: behind a process that
// was stopped, all who get the lock have waited for it.
func TestWhoWaitedLongForTheLockIsNotTakenForOneWhoStopped(t *testing.T) {
	t.Parallel()
	dsn := migrated(t)
	s := serve(t, dsn, dsn)
	c, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	for _, sql := range []string{`BEGIN`, `SELECT pg_sleep(1.1)`, `SELECT size FROM heads ORDER BY size DESC LIMIT 1 FOR UPDATE`} {
		if _, err := c.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	postgres.WaitedInVain(t.Context(), s.store)
	if _, err := c.Exec(t.Context(), `COMMIT`); err != nil {
		t.Errorf("who has just got the lock is cut off: %v", err)
	}
}

// TestReplicasMakeOneLog has two and three ledgers with stores of their own, as
// processes have, grow one log at once.
func TestReplicasMakeOneLog(t *testing.T) {
	const callers, each = 24, 25
	for _, replicas := range []int{2, 3} {
		dsn := migrated(t)
		first := serve(t, dsn, dsn)
		ledgers := []*ledger.Ledger{first.Ledger}
		for len(ledgers) < replicas {
			l, err := ledger.Open(t.Context(), open(t, dsn), ledger.Options{Issuer: first.operator.Issuer(t), Registry: "registry.example"})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := l.Close(context.Background()); err != nil {
					t.Error(err)
				}
			})
			ledgers = append(ledgers, l)
		}
		forAll := first.publisher.Claims(t, 1000, each)
		var mu sync.Mutex
		answers := map[statement.ID]ledger.Registered{}
		var all sync.WaitGroup
		for caller := range callers {
			all.Go(func() {
				for n := range each {
					// Every fifth goes to all of them, by every caller.
					at, stmt := caller%replicas, first.publisher.Claim(t, ledgertest.Image(n), ledgertest.SBOM, []byte{byte(caller), byte(n)})
					if n%5 == 0 {
						at, stmt = (caller+n)%replicas, forAll[n]
					}
					r, err := ledgers[at].Append(t.Context(), ledgertest.Submission(ledgers[at], stmt))
					if err != nil {
						t.Errorf("replica %d: %v", at, err)
						return
					}
					mu.Lock()
					if have, ok := answers[stmt.ID()]; ok && !bytes.Equal(have.Receipt, r.Receipt) {
						t.Errorf("entry %d has two receipts", r.Entry.Index)
					}
					answers[stmt.ID()] = r
					mu.Unlock()
				}
			})
		}
		all.Wait()
		first.check(t)
		if got := size(t, first.store); got != uint64(2+len(answers)) || len(answers) != callers*each*4/5+each/5 {
			t.Errorf("%d replicas: a log of size %d for %d statements", replicas, got, len(answers))
		}
		var sum ledger.Stats
		for i, l := range ledgers {
			s := l.Stats()
			sum.Committed, sum.Discarded, sum.Turns = sum.Committed+s.Committed, sum.Discarded+s.Discarded, sum.Turns+s.Turns
			if s.Committed == 0 {
				t.Errorf("replica %d of %d committed nothing", i, replicas)
			}
			for id, r := range answers {
				if got, err := l.Receipt(t.Context(), id, ledger.All); err != nil || !bytes.Equal(got, r.Receipt) {
					t.Fatalf("replica %d: the receipt of entry %d differs from what was answered: %v", i, r.Entry.Index, err)
				}
			}
		}
		if sum.Discarded > uint64(2*replicas) {
			t.Errorf("%d replicas: %d batches discarded, %d committed", replicas, sum.Discarded, sum.Committed)
		}
		t.Logf("%d replicas: %d batches committed, %d discarded, %d turns", replicas, sum.Committed, sum.Discarded, sum.Turns)
	}
}

// TestACommitWaitsForATurn shows that the lock reaches those who commit without one.
func TestACommitWaitsForATurn(t *testing.T) {
	dsn := migrated(t)
	s := serve(t, dsn, dsn)
	other := open(t, dsn)
	turn, err := other.Turn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer turn.Release()
	done := make(chan error, 1)
	go func() {
		_, err := s.Append(context.Background(), ledgertest.Submission(s.Ledger, s.publisher.Claims(t, 0, 1)[0]))
		done <- err
	}()
	watch, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close(context.Background())
	for waiting := 0; waiting == 0; {
		if err := watch.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&waiting); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-done:
		t.Fatalf("a commit during another's turn ended: %v", err)
	default:
	}
	turn.Release()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := s.Stats(); got.Discarded != 0 {
		t.Errorf("%+v, want nothing discarded", got)
	}
	if _, err := other.Turn(cancelled(t)); err == nil || errors.Is(err, ledger.ErrEmpty) {
		t.Errorf("a turn without time: %v", err)
	}
	s.check(t)
}

func cancelled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}
