package main

import (
	db "database/sql"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/scittd/scittd/internal/memory"
	"github.com/scittd/scittd/internal/testenv"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/fsck"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/witness/witnesstest"
)

var sqliteAlone = deployment{"SQLite and no registry", func(*testing.T) (string, []string) { return "", []string{"--registry-off"} }}

// withLog is a site with an initialised log, and a token for its publisher.
func withLog(t *testing.T, d deployment) (s *site, token string) {
	t.Helper()
	s = newSite(t, d)
	s.keyPair("tester")
	s.init(crashPolicy)
	return s, s.token("ci", "publish")
}

// grow registers claims with a running server.
func (s *site) grow(token string, from, n int) {
	s.t.Helper()
	_, bodies := s.claims(from, n)
	for _, body := range bodies {
		s.register(token, body)
	}
}

// lite changes the ledger's file behind the service's back.
func (s *site) lite(change string) {
	s.t.Helper()
	file, err := db.Open("sqlite", "file:"+s.path("service/ledger.db")+"?_pragma=busy_timeout(5000)&_pragma=ignore_check_constraints(ON)")
	if err != nil {
		s.t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.Exec(change); err != nil {
		s.t.Fatalf("%s: %v", change, err)
	}
}

// copyFile copies a file of the site.
func (s *site) copyFile(from, to string) {
	s.t.Helper()
	if err := os.WriteFile(s.path(to), s.read(from), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func TestAnOldCopyOfTheLedgerIsRefused(t *testing.T) {
	t.Parallel()
	s, token := withLog(t, sqliteAlone)
	running := s.serve()
	s.grow(token, 0, 3)
	running.stop()
	s.copyFile("service/ledger.db", "old.db")
	running = s.serve()
	s.grow(token, 3, 2)
	checkpoint := s.get("/log/checkpoint", "")
	running.stop()
	s.write("kept.checkpoint", string(checkpoint))
	s.run("scittd", "log", "verify", "--dir", "service", "--against", "kept.checkpoint")

	s.copyFile("service/ledger.db", "new.db")
	s.copyFile("old.db", "service/ledger.db")
	says := []string{"the log was rolled back or rewritten", "head.json remembers size 7 (root ", "the database ends at size 5 (root ", "2 entries are missing", "\nTry:   restore a newer backup"}
	s.refused(15, says, "scittd", "serve", "--dir", "service")
	s.refused(15, says, "scittd", "check", "--dir", "service")
	s.run("scittd", "log", "fsck", "--dir", "service") // it is a sound log, only not all of it
	code, out, _ := s.exit("scittd", "log", "verify", "--dir", "service", "--against", "kept.checkpoint")
	if code != 15 || !strings.Contains(out, "checkpoint of size 7: the log was rolled back: it ends at size 5, 2 entries are missing") {
		t.Errorf("verify of the old copy: exit %d\n%s", code, out)
	}

	// Other entries in the place of those that were lost: the same size, another root.
	memory := string(s.read("service/keys/head.json"))
	if err := os.Remove(s.path("service/keys/head.json")); err != nil {
		t.Fatal(err)
	}
	running = s.serve() // an empty disk, and nobody else to ask
	s.grow(token, 10, 2)
	running.stop()
	s.write("service/keys/head.json", memory)
	s.refused(15, []string{"remembers size 7 (root ", "the database has root "}, "scittd", "serve", "--dir", "service")
	code, out, _ = s.exit("scittd", "log", "verify", "--dir", "service", "--against", "kept.checkpoint")
	if code != 15 || !strings.Contains(out, "checkpoint of size 7: the log was rewritten: it has another root there: stored ") {
		t.Errorf("verify of the other history: exit %d\n%s", code, out)
	}

	s.copyFile("new.db", "service/ledger.db")
	running = s.serve()
	s.grow(token, 5, 1)
	running.stop()
	s.write("service/keys/head.json", "{")
	s.refused(1, []string{"head.json: it holds no head"}, "scittd", "serve", "--dir", "service")
}

func TestARegistryRemembersForAReplicaWithAnEmptyDisk(t *testing.T) {
	t.Parallel()
	dsn, registry := testenv.Database(t), testenv.Registry(t)
	repository := registry + "/team/" + strconv.Itoa(os.Getpid()) + "-memory"
	s, token := withLog(t, deployment{parts: func(*testing.T) (string, []string) {
		return "", []string{"--database-url", dsn, "--registry-host", registry, "--registry-plain-http", "--memory-repository", repository}
	}})
	running := s.serve()
	s.grow(token, 0, 3)
	running.stop() // which writes what is left
	s.serve().stop()

	sql(t, dsn, `DELETE FROM heads WHERE size = 5; DELETE FROM entries WHERE index = 4; DELETE FROM entry_subjects WHERE index = 4;
		DELETE FROM audit WHERE index = 4`)
	s.refused(15, []string{"registry " + repository + ":scitt-log remembers size 5 (root ", "the database ends at size 4", "1 entries are missing"},
		"scittd", "serve", "--dir", "service")

	away := []string{"serve", "--dir", "service", "--memory-repository", "127.0.0.1:1/team/memory"}
	s.refused(1, []string{"no external memory of the log could be asked", "127.0.0.1:1/team/memory:scitt-log", "\nTry:   again"}, "scittd", away...)
	s.write("service/head.json", "")
	s.refused(1, []string{"head.json: it holds no head"}, "scittd", append(away, "--memory-file", "service/head.json")...)
	s.refused(2, []string{"memory.repository", "is not host/name"}, "scittd", "serve", "--dir", "service", "--memory-repository", "memory")
	s.refused(2, []string{"memory.sync: there is no memory.file"}, "scittd", "serve", "--dir", "service", "--memory-sync")
}

func TestAFileThatAnotherReplicaRemembersInIsRefused(t *testing.T) {
	t.Parallel()
	dsn := testenv.Database(t)
	s, token := withLog(t, deployment{parts: func(*testing.T) (string, []string) {
		return "", []string{"--database-url", dsn, "--registry-off", "--memory-file", "service/head.json"}
	}})
	running := s.serve()
	s.grow(token, 0, 1)
	second := []string{"serve", "--dir", "service", "--listen", "127.0.0.1:0"}
	s.refused(2, []string{"memory.file: file ", "service/head.json: another process remembers in it\nTry:   give every replica a file of its own"}, "scittd", second...)
	s.run("scittd", "check", "--dir", "service") // reads it
	running.kill()
	s.serve().stop()
}

func TestAWitnessRemembersForAReplicaWithAnEmptyDisk(t *testing.T) {
	t.Parallel()
	s, token := withLog(t, sqliteAlone)
	_, log := s.logKey()
	w := witnesstest.New(t, "witness.example/1", log)
	serve := []string{"serve", "--dir", "service", "--log-witnesses", s.write("witnesses", witnesstest.Policy(1, w))}
	running := s.serve(serve[3:]...)
	s.copyFile("service/ledger.db", "old.db")
	s.grow(token, 0, 3)
	running.await("to be cosigned", func() bool {
		a := s.ask(http.MethodGet, "/log/checkpoint", "", nil) // asking lets it look for growth
		return a.status == http.StatusOK && w.Seen(log.Name()) == 5
	})
	running.stop()
	empty := func() {
		t.Helper()
		if err := os.Remove(s.path("service/keys/head.json")); err != nil {
			t.Fatal(err)
		}
	}
	empty()
	s.serve(serve[3:]...).stop() // it hears that this is all

	empty()
	s.copyFile("service/ledger.db", "new.db")
	s.copyFile("old.db", "service/ledger.db")
	s.refused(15, []string{"witness w1 remembers size 5", "the database ends at size 2", "3 entries are missing"}, "scittd", serve...)

	s.copyFile("new.db", "service/ledger.db")
	w.Break(away)
	s.refused(1, []string{"no external memory of the log could be asked", "of witness w1 none answers", "\nTry:   again"}, "scittd", serve...)
}

func TestInSyncModeNothingIsAcknowledgedThatTheFileDoesNotKnow(t *testing.T) {
	t.Parallel()
	s, token := withLog(t, sqliteAlone)
	running := s.serve("--memory-sync")
	var kept struct{ Size uint64 }
	for i := range 5 {
		s.grow(token, i, 1)
		if err := json.Unmarshal(s.read("service/keys/head.json"), &kept); err != nil || kept.Size != uint64(3+i) {
			t.Fatalf("after entry %d the file remembers size %d, %v", 2+i, kept.Size, err)
		}
	}
	running.kill()
	s.serve("--memory-sync").stop()
}

func TestALogThatGoesBackWhileItIsServedIsNotContinued(t *testing.T) {
	t.Parallel()
	dsn := testenv.Database(t)
	s, token := withLog(t, deployment{parts: func(*testing.T) (string, []string) {
		return "", []string{"--database-url", dsn, "--registry-off", "--scrub-every", "0"}
	}})
	running := s.serve()
	ids, _ := s.claims(0, 1)
	s.grow(token, 0, 3)
	receipt := s.get("/entries/"+ids[0].String(), "")

	// As by a failover to a standby that lagged.
	sql(t, dsn, `DELETE FROM heads WHERE size = 5; DELETE FROM entries WHERE index = 4; DELETE FROM entry_subjects WHERE index = 4;
		DELETE FROM pieces WHERE first = 4; DELETE FROM audit WHERE index = 4`)
	running.await("to see that", func() bool {
		return s.ask(http.MethodGet, "/readyz/write", "", nil).status == http.StatusServiceUnavailable
	})
	_, bodies := s.claims(3, 1)
	a := s.ask(http.MethodPost, "/entries", token, bodies[0])
	if a.status != http.StatusServiceUnavailable || !strings.Contains(string(a.body), "Log Damaged") {
		t.Errorf("registered on: %d\n%s", a.status, a.body)
	}
	if again := s.get("/entries/"+ids[0].String(), ""); string(again) != string(receipt) {
		t.Error("another receipt of an entry that is there")
	}
	if says := "the log is not what it was: that of size 4 does not continue the one of size 5"; !strings.Contains(s.tail(), says) {
		t.Errorf("%q is not in the service's log:\n%s", says, s.tail())
	}
	running.stop()
	s.serve().stop() // nothing is remembered outside: what is there is the log
}

func TestTheScrubberStopsTheSigningOnDamageAndReindexMendsTheIndex(t *testing.T) {
	t.Parallel()
	s, token := withLog(t, sqliteAlone)
	running := s.serve("--scrub-every", "10ms")
	s.grow(token, 0, 5)
	ids, bodies := s.claims(0, 1)
	receipt := s.get("/entries/"+ids[0].String(), "")

	s.lite(`UPDATE entries SET private = 1, evidence = '' WHERE "index" = 4`)
	running.await("to find the damage", func() bool {
		return s.ask(http.MethodGet, "/readyz/write", "", nil).status == http.StatusServiceUnavailable
	})
	for _, path := range []string{"/readyz/write", "/entries"} {
		method, body := http.MethodGet, []byte(nil)
		if path == "/entries" {
			method, body = http.MethodPost, bodies[0]
		}
		a := s.ask(method, path, token, body)
		if a.status != http.StatusServiceUnavailable || !strings.Contains(string(a.body), "Log Damaged") {
			t.Errorf("%s %s: %d\n%s", method, path, a.status, a.body)
		}
	}
	if again := s.get("/entries/"+ids[0].String(), ""); string(again) != string(receipt) {
		t.Error("another receipt of a sound entry")
	}
	if a := s.ask(http.MethodGet, "/healthz", "", nil); a.status != http.StatusOK {
		t.Errorf("/healthz: %d", a.status)
	}
	for _, text := range []string{"the log is damaged", `object="entry 4"`, "visibility in the index", "recomputed=public"} {
		if !strings.Contains(s.tail(), text) {
			t.Errorf("%q is not in the service's log:\n%s", text, s.tail())
		}
	}
	// Beside the service, which holds the file: looking is fine, writing is not.
	s.refused(15, []string{"log damaged: 1 index rows, 0 tiles", "\nTry:   scittd log reindex --write"}, "scittd", "log", "reindex", "--dir", "service")
	s.refused(1, []string{"another process holds it: stop that one first"}, "scittd", "log", "reindex", "--dir", "service", "--write")
	running.stop()

	code, out, _ := s.exit("scittd", "log", "fsck", "--dir", "service", "--format", "json")
	var report struct {
		Size     uint64
		Total    int
		Findings []fsck.Finding
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil || code != 15 || report.Size != 7 || report.Total != 2 {
		t.Fatalf("fsck: exit %d, %v\n%s", code, err, out)
	}
	if f := report.Findings[1]; f.Kind != fsck.Index || f.Object != "entry 4" || f.Got != "private" || f.Want != "public" {
		t.Errorf("fsck says %+v", f)
	}
	s.run("scittd", "log", "reindex", "--dir", "service", "--write")
	if out := s.run("scittd", "log", "reindex", "--dir", "service"); !strings.HasPrefix(out, "OK       7 entries: index and tiles are identical") {
		t.Errorf("reindex after reindex:\n%s", out)
	}
	s.run("scittd", "log", "fsck", "--dir", "service")
	running = s.serve("--scrub-every", "10ms")
	s.grow(token, 10, 1)

	// What the log itself lost, no reindex brings back.
	s.lite(`UPDATE statements SET canonical = CAST(canonical || x'00' AS BLOB) WHERE "index" = 5`)
	running.await("to find the damage", func() bool {
		return s.ask(http.MethodGet, "/readyz/write", "", nil).status == http.StatusServiceUnavailable
	})
	running.stop()
	s.refused(15, []string{"the log itself is damaged", "comes back from a backup"}, "scittd", "log", "reindex", "--dir", "service", "--write")
	code, out, _ = s.exit("scittd", "log", "fsck", "--dir", "service")
	if code != 15 || !strings.Contains(out, "DAMAGED  entry 5: the bytes of the statement are not those of its entry ID: stored bytes of ") {
		t.Errorf("fsck: exit %d\n%s", code, out)
	}
}

func TestTheLogsCommandsWorkBesideAServiceOnPostgres(t *testing.T) {
	t.Parallel()
	dsn := testenv.Database(t)
	s, token := withLog(t, deployment{parts: func(*testing.T) (string, []string) {
		return "", []string{"--database-url", dsn, "--registry-off"}
	}})
	running := s.serve()
	s.grow(token, 0, 4)
	s.run("scittd", "log", "fsck", "--dir", "service")
	s.run("scittd", "log", "verify", "--dir", "service")
	if out := s.run("scittd", "log", "stats", "--dir", "service"); !strings.HasPrefix(out, "size    6\n") || !strings.Contains(out, "entry_subjects") {
		t.Errorf("stats:\n%s", out)
	}
	sql(t, dsn, `UPDATE audit SET rule = 'issuers[3].key' WHERE index = 2`) // which speaks for all of them
	s.refused(15, []string{"log damaged: 4 findings in a log of size 6"}, "scittd", "log", "fsck", "--dir", "service")
	s.refused(15, []string{"4 index rows"}, "scittd", "log", "reindex", "--dir", "service")
	s.run("scittd", "log", "reindex", "--dir", "service", "--write")
	s.run("scittd", "log", "fsck", "--dir", "service")
	s.grow(token, 10, 1)
	running.stop()
	s.refused(2, []string{"--format", "none of text, json"}, "scittd", "log", "stats", "--dir", "service", "--format", "xml")
}

func TestNothingIsRememberedBeforeTheMemoriesHaveBeenAsked(t *testing.T) {
	t.Parallel()
	file := &memory.File{Path: filepath.Join(t.TempDir(), "head.json")}
	o := &outside{file: file}
	o.guard = memory.NewGuard(o, memory.Options{File: file, Sync: true})
	h := ledger.Head{SignedHead: receipts.SignedHead{Head: receipts.Head{Size: 5, Root: [32]byte{1}}}}
	for _, o.checked = range []bool{false, true} {
		if err := o.remember(t.Context(), h); err != nil {
			t.Fatal(err)
		}
		if r, err := file.Last(t.Context()); (err == nil) != o.checked || o.checked && r.Size != 5 {
			t.Errorf("checked %v: the file remembers %+v, %v", o.checked, r, err)
		}
	}
}
