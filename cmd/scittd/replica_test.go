package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/pflag"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/internal/testenv"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

var postgresAlone = deployment{"PostgreSQL and no registry", func(t *testing.T) (string, []string) {
	return "", []string{"--database-url", testenv.Database(t), "--registry-off"}
}}

// beside is a further process of the service that s initialised.
func (s *site) beside() *site {
	s.t.Helper()
	r := *s
	r.listen = freeAddress(s.t)
	r.url = "http://" + r.listen
	return &r
}

// claims are n statements of the publisher whose key is tester.pem.
func (s *site) claims(from, n int) (ids []statement.ID, bodies [][]byte) {
	s.t.Helper()
	key, err := cose.ParsePrivatePEM(s.read("tester.pem"))
	if err != nil {
		s.t.Fatal(err)
	}
	for i := from; i < from+n; i++ {
		body, err := statement.Sign(statement.Template{
			Issuer: "https://tests.wabbit.example", Subject: fmt.Sprintf("https://tests.wabbit.example/runs/%d", i),
			ContentType: "application/json", Payload: fmt.Appendf(nil, `{"run": %d}`, i),
		}, key)
		if err != nil {
			s.t.Fatal(err)
		}
		stmt, err := statement.Parse(body)
		if err != nil {
			s.t.Fatal(err)
		}
		ids, bodies = append(ids, stmt.ID()), append(bodies, body)
	}
	return ids, bodies
}

// register posts a statement until it is answered 201.
func (s *site) register(token string, body []byte) []byte {
	for {
		a, err := s.do(context.Background(), http.MethodPost, "/entries", token, body)
		if err == nil && a.status == http.StatusServiceUnavailable {
			continue
		}
		if err != nil || a.status != http.StatusCreated {
			s.t.Errorf("POST %s/entries: %d %v\n%s", s.url, a.status, err, a.body)
			return nil
		}
		return a.body
	}
}

func TestReplicasMakeOneLogAlsoWhileOneThatHoldsItIsStopped(t *testing.T) {
	t.Parallel()
	const replicas, clients, shared, statements = 3, 24, 20, 1200
	s := newSite(t, postgresAlone)
	s.keyPair("tester")
	s.init(crashPolicy)
	token := s.token("ci", "publish")
	dsn := s.settings[1]
	var sites []*site
	var servers []*server
	var ops []string
	for i := range replicas {
		r := s.beside()
		ops = append(ops, freeAddress(t))
		sites = append(sites, r)
		servers = append(servers, r.serve(append(unlimited, "--listen", r.listen, "--ops-listen", ops[i],
			"--database-url", fmt.Sprintf("%s&application_name=replica%d", dsn, i))...))
	}
	ids, bodies := s.claims(0, statements)

	// The same bytes go to all at once.
	receipt := make([][]byte, statements)
	for n := range shared {
		got := make([][]byte, replicas)
		var all sync.WaitGroup
		for i, r := range sites {
			all.Go(func() { got[i] = r.register(token, bodies[n]) })
		}
		all.Wait()
		for i := range got {
			if !bytes.Equal(got[i], got[0]) {
				t.Errorf("replicas %d and 0 answer entry %s with different receipts", i, ids[n])
			}
		}
		receipt[n] = got[0]
	}

	// Everything else goes to one, by clients that each keep to theirs.
	var next, live, last, longest atomic.Int64 // live: answers of replicas 1 and 2; the others: microseconds
	next.Store(shared)
	var load sync.WaitGroup
	for client := range clients {
		load.Go(func() {
			at := client % replicas
			for n := int(next.Add(1) - 1); n < statements; n = int(next.Add(1) - 1) {
				receipt[n] = sites[at].register(token, bodies[n])
				if at == 0 {
					continue
				}
				now := time.Now().UnixMicro()
				if before := last.Swap(now); before > 0 && now-before > longest.Load() {
					longest.Store(now - before)
				}
				live.Add(1)
			}
		})
	}

	// Replica 0 is stopped at a moment at which it has the newest head locked: all
	// others wait, and nothing is on its way that would let them go on.
	watch, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close(context.Background())
	holds := func() (held bool) {
		err := watch.QueryRow(t.Context(), `
			SELECT count(*) FILTER (WHERE application_name = 'replica0' AND state = 'idle in transaction') = 1
			   AND count(*) FILTER (WHERE application_name <> 'replica0' AND wait_event_type = 'Lock') = $1
			FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'replica_'`, replicas-1).Scan(&held)
		if err != nil {
			t.Fatal(err)
		}
		return held
	}
	signal := func(what syscall.Signal) {
		if err := servers[0].process.Signal(what); err != nil {
			t.Fatal(err)
		}
	}
	caught := false
	for !caught && next.Load() < statements*3/4 {
		signal(syscall.SIGSTOP)
		longest.Store(0)
		time.Sleep(50 * time.Millisecond)
		if caught = holds(); caught {
			time.Sleep(150 * time.Millisecond)
			caught = holds()
		}
		if !caught {
			signal(syscall.SIGCONT)
			time.Sleep(time.Millisecond)
		}
	}
	if !caught {
		t.Error("replica 0 was never stopped with the head locked: nothing was tested")
	}
	for from, deadline := live.Load(), time.Now().Add(patience); caught && live.Load() < from+200 && next.Load() < statements; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Error("the others wait for a stopped replica")
			break
		}
	}
	stall := time.Duration(longest.Load()) * time.Microsecond
	signal(syscall.SIGCONT)
	load.Wait()
	t.Logf("the others waited %v for the stopped one", stall)
	if caught && (stall > 5*time.Second || stall < 500*time.Millisecond) {
		t.Errorf("the others waited %v for a stopped replica, want about 2 s", stall)
	}

	for i, r := range sites {
		for n, id := range ids {
			if n%50 == 0 && !bytes.Equal(r.get("/v1/entries/"+id.String()+"/receipt", ""), receipt[n]) {
				t.Errorf("replica %d: the receipt of %s is not the one that was answered", i, id)
			}
		}
		committed, discarded := r.figure(ops[i], "scittd_batches_committed_total"), r.figure(ops[i], "scittd_batches_discarded_total")
		t.Logf("replica %d: %d batches committed, %d discarded, %d turns", i, committed, discarded, r.figure(ops[i], "scittd_turns_total"))
		if committed == 0 || discarded > 3 {
			t.Errorf("replica %d: %d batches committed, %d discarded", i, committed, discarded)
		}
	}
	for _, v := range servers {
		v.stop()
	}
	s.sound(statements)
}

// figure reads one from the operations listener.
func (s *site) figure(ops, name string) int {
	s.t.Helper()
	o := *s
	o.url = "http://" + ops
	for line := range strings.Lines(string(o.get("/metrics", ""))) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+" "); ok {
			n, err := strconv.Atoi(value)
			if err != nil {
				s.t.Fatal(err)
			}
			return n
		}
	}
	s.t.Fatalf("no figure %s", name)
	return 0
}

// sound opens the store of a service that has ended: a log of so many claims.
func (s *site) sound(claims int) {
	s.t.Helper()
	c, err := loadConfig(s.path("service/scittd.yaml"), func(string) string { return "" }, &pflag.FlagSet{})
	if err != nil {
		s.t.Fatal(err)
	}
	db, err := openDatabase(s.t.Context(), c)
	if err != nil {
		s.t.Fatal(err)
	}
	defer db.Close()
	if err := ledgertest.CheckLog(s.t.Context(), db); err != nil {
		s.t.Errorf("the log is not sound: %v", err)
	}
	if head, err := db.Head(s.t.Context()); err != nil || head.Size != uint64(claims)+2 {
		s.t.Errorf("the log has size %d, want %d: %v", head.Size, claims+2, err)
	}
}

func TestAReadOnlyReplicaServesReceiptsWithoutAKeyAndAcrossARotation(t *testing.T) {
	t.Parallel()
	for _, d := range []deployment{sqliteEmbedded, postgresAlone} {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, d)
			s.keyPair("tester")
			s.init(crashPolicy)
			token := s.token("ci", "publish")
			writer := s.serve()
			ids, bodies := s.claims(0, 3)
			first := s.register(token, bodies[0])

			// The reader's folder has a configuration and nothing else.
			s.write("reader/scittd.yaml", string(s.read("service/scittd.yaml")))
			r := s.beside()
			flags := []string{"--dir", "reader", "--listen", r.listen, "--read-only"}
			if d.name == sqliteEmbedded.name {
				flags = append(flags, "--data-dir", s.path("service"), "--keys-receipt", "/nonexistent", "--keys-checkpoint", "/nonexistent")
			}
			reader := r.serve(flags...)
			if got := r.get("/entries/"+ids[0].String(), ""); !bytes.Equal(got, first) {
				t.Error("the reader mints another receipt than the writer answered")
			}
			for _, write := range []answer{
				r.ask(http.MethodPost, "/entries", token, bodies[1]),
				r.ask(http.MethodPost, "/v1/entries:batch", token, bodies[1]),
				r.ask(http.MethodPut, "/v1/evidence/sha256:"+strings.Repeat("0", 64), token, []byte("x")),
				r.ask(http.MethodGet, "/readyz/write", "", nil),
			} {
				if write.status != http.StatusServiceUnavailable || write.header.Get("Retry-After") == "" || !bytes.Contains(write.body, []byte("Read Only")) {
					t.Errorf("a write at the reader: %d, Retry-After %q\n%s", write.status, write.header.Get("Retry-After"), write.body)
				}
			}

			// Another key is announced, and used after a restart.
			if out := s.run("scittd", "keys", "list", "--dir", "service"); strings.Count(out, "\n") != 2 || !strings.Contains(out, "  current  ") {
				t.Errorf("keys list:\n%s", out)
			}
			out := s.run("scittd", "keys", "rotate", "--dir", "service", "--token-file", "ci.token")
			if !strings.Contains(out, "receipt-next.pem") {
				t.Errorf("keys rotate:\n%s", out)
			}
			s.refused(2, []string{"is announced already"}, "scittd", "keys", "rotate", "--dir", "service", "--token-file", "ci.token")
			var keys receipts.KeySet
			reader.await("to see the key that was announced", func() bool {
				var err error
				if keys, err = receipts.ParseKeySet(r.get("/.well-known/scitt-keys", "")); err != nil {
					t.Fatal(err)
				}
				return len(keys) == 2
			})
			still := s.register(token, bodies[1])
			if list := s.run("scittd", "keys", "list", "--dir", "service"); !strings.Contains(list, "announced") || !strings.Contains(list, "  current  ") {
				t.Errorf("keys list before the new key signs:\n%s", list)
			}
			writer.stop()
			writer = s.serve("--keys-receipt", s.path("service/keys/receipt-next.pem"))
			last := s.register(token, bodies[2])
			if list := s.run("scittd", "keys", "list", "--dir", "service"); !strings.Contains(list, "  current  ") || !strings.Contains(list, "  retired  ") {
				t.Errorf("keys list after the rotation:\n%s", list)
			}
			for name, at := range map[string]*site{"writer": s, "reader": r} {
				for i, want := range [][]byte{first, still, last} {
					path := "/entries/" + ids[i].String()
					batch, fresh := at.get(path, ""), at.ask(http.MethodGet, path+"?fresh", "", nil)
					if !bytes.Equal(batch, want) {
						t.Errorf("%s: the batch's receipt of claim %d is not the one that was answered", name, i)
					}
					if also := at.get("/v1"+path+"/receipt?fresh=true", ""); !bytes.Equal(also, fresh.body) {
						t.Errorf("%s: two fresh receipts of claim %d differ while the log stood still", name, i)
					}
					if c := fresh.header.Get("Cache-Control"); c != "no-cache" {
						t.Errorf("%s: a fresh receipt is cached: %q", name, c)
					}
					wantKey := keys[1].ID
					if i == 2 {
						wantKey = keys[0].ID
					}
					verifyUnder(t, keys, ids[i], batch, wantKey)
					verifyUnder(t, keys, ids[i], fresh.body, keys[0].ID)
				}
				if a := at.ask(http.MethodGet, "/entries/"+ids[0].String()+"?fresh=perhaps", "", nil); a.status != http.StatusBadRequest {
					t.Errorf("%s: fresh=perhaps: %d, want 400", name, a.status)
				}
			}

			// A policy is seen too.
			s.write("next.yaml", strings.Replace(crashPolicy, "visibility: public", "visibility: private", 1))
			s.run("scittd", "policy", "publish", "next.yaml", "--dir", "service", "--token-file", "ci.token")
			var want apitype.Service
			s.getJSON("/v1/service", "", &want)
			reader.await("to see the policy that was published", func() bool {
				var p apitype.Policy
				r.getJSON("/v1/policy", "", &p)
				return p.Entry == want.PolicyEntry
			})
			reader.stop()
			writer.stop()
			s.sound(5)
		})
	}
}

func verifyUnder(t *testing.T, keys receipts.KeySet, id statement.ID, receipt, key []byte) {
	t.Helper()
	r, err := receipts.Parse(receipt)
	if err != nil {
		t.Fatal(err)
	}
	if err := keys.Verify(r, id[:], receipts.Strict); err != nil {
		t.Errorf("receipt of %s: %v", id, err)
	}
	if !bytes.Equal(r.KeyID, key) {
		t.Errorf("receipt of %s is under key %x, want %x", id, r.KeyID, key)
	}
}

func TestAReaderOfAnotherLogIsRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t, sqliteEmbedded)
	s.keyPair("tester")
	s.init(crashPolicy)
	s.refused(2, []string{"but the log was made by"}, "scittd", "serve", "--dir", "service", "--read-only", "--origin", "other.example/log", "--listen", freeAddress(t))
	if err := os.Remove(s.path("service/ledger.db")); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := s.exit("scittd", "serve", "--dir", "service", "--read-only", "--listen", freeAddress(t))
	if code == 0 || !strings.Contains(stderr, "ledger.db") {
		t.Errorf("a reader without a log: exit %d\n%s", code, stderr)
	}
	if _, err := os.Stat(s.path("service/ledger.db")); err == nil {
		t.Error("a reader made a log")
	}
}
