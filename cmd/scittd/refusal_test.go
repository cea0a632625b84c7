package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/scittd/scittd/internal/testenv"
)

// sql changes a database behind the service's back.
func sql(t *testing.T, dsn, query string) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	if _, err := c.Exec(t.Context(), query); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// onDatabase is a site whose ledger is in the database at dsn.
func onDatabase(t *testing.T, dsn string) *site {
	s := newSite(t, deployment{parts: func(*testing.T) (string, []string) { return "", []string{"--database-url", dsn} }})
	s.keyPair("tester")
	return s
}

func TestPostgresThatCouldLosePromisesIsRefused(t *testing.T) {
	t.Parallel()
	server := testenv.StartPostgres(t)
	dsn := server.Database(t)
	s := onDatabase(t, dsn)
	s.init(crashPolicy)
	check := []string{"check", "--dir", "service"}
	serve := []string{"serve", "--dir", "service"}
	s.run("scittd", check...)
	for _, c := range []struct {
		setting  string
		managed  bool // database.durability managed allows it
		off, sql string
	}{
		{"fsync", true, "ALTER SYSTEM SET fsync = off", "ALTER SYSTEM RESET fsync"},
		{"full_page_writes", true, "ALTER SYSTEM SET full_page_writes = off", "ALTER SYSTEM RESET full_page_writes"},
		{"synchronous_commit", false, "ALTER ROLE scittd SET synchronous_commit = off", "ALTER ROLE scittd RESET synchronous_commit"},
	} {
		sql(t, dsn, c.off)
		reload(t, dsn, c.setting, "off")
		s.refused(1, []string{c.setting + " is off", "turn it on"}, "scittd", serve...)
		s.refused(1, []string{c.setting + " is off"}, "scittd", check...)
		if c.managed {
			out := s.run("scittd", append(check, "--database-durability", "managed")...)
			if !strings.Contains(out, "durability managed") {
				t.Errorf("check does not say whom it trusts:\n%s", out)
			}
		} else {
			s.refused(1, []string{c.setting + " is off"}, "scittd", append(serve, "--database-durability", "managed")...)
		}
		sql(t, dsn, c.sql)
		reload(t, dsn, c.setting, "on")
	}
	s.run("scittd", check...)
}

// reload makes the server read its settings, and waits until new sessions have
// that value.
func reload(t *testing.T, dsn, setting, want string) {
	t.Helper()
	sql(t, dsn, "SELECT pg_reload_conf()")
	got := ""
	for deadline := time.Now().Add(patience); got != want; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s = %s, want %s", setting, got, want)
		}
		c, err := pgx.Connect(t.Context(), dsn)
		if err != nil {
			t.Fatal(err)
		}
		err = c.QueryRow(t.Context(), "SELECT current_setting($1)", setting).Scan(&got)
		c.Close(t.Context())
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestSchemaThatIsNotOurVersionIsRefused(t *testing.T) {
	t.Parallel()
	dsn := testenv.Database(t)
	s := onDatabase(t, dsn)

	// The schema comes before the log: settings may come by flag alone.
	byFlag := []string{"--database-url", dsn}
	if out := s.run("scittd", append([]string{"migrate", "status"}, byFlag...)...); !strings.HasPrefix(out, "schema 0, binary ") {
		t.Errorf("status of an empty database: %s", out)
	}
	up := s.run("scittd", append([]string{"migrate", "up"}, byFlag...)...)
	if status := s.run("scittd", append([]string{"migrate", "status"}, byFlag...)...); status != up || strings.HasPrefix(up, "schema 0") {
		t.Errorf("status after up: %s, up said %s", status, up)
	}
	if again := s.run("scittd", append([]string{"migrate", "up"}, byFlag...)...); again != up {
		t.Errorf("up again: %s, want %s", again, up)
	}
	s.init(crashPolicy)
	s.run("scittd", "check", "--dir", "service")
	if out := s.run("scittd", "migrate", "status", "--dir", "service"); out != up {
		t.Errorf("status by --dir: %s, want %s", out, up)
	}

	sql(t, dsn, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, true)")
	for _, mode := range []string{"check", "auto"} {
		s.refused(1, []string{"version 9999", "newer", "run the newer scittd"}, "scittd", "serve", "--dir", "service", "--database-migrate", mode)
	}
	s.refused(1, []string{"newer"}, "scittd", "migrate", "up", "--dir", "service")
	sql(t, dsn, "DELETE FROM goose_db_version WHERE version_id > 0")
	s.refused(1, []string{"version 0", "scittd migrate up"}, "scittd", "serve", "--dir", "service", "--database-migrate", "check")
}

func TestDatabaseAndFolderBelongTogether(t *testing.T) {
	t.Parallel()
	dsn := testenv.Database(t)
	s := onDatabase(t, dsn)
	s.init(crashPolicy)
	second := []string{"init", "--dir", "second", "--url", s.url, "--policy", "policy.yaml", "--keys-operator", "service/keys/operator.pem"}

	// Another init on the same database.
	s.refused(2, []string{"holds another log", "empty database"}, "scittd", append(second, "--database-url", dsn)...)

	// A folder of a log whose database is a new one.
	empty := testenv.Database(t)
	s.run("scittd", "migrate", "up", "--database-url", empty)
	s.refused(2, []string{"not initialised", "scittd init"}, "scittd", "serve", "--dir", "service", "--database-url", empty)

	// A database that cannot be reached, and no registry to serve meanwhile: trying
	// again may help.
	s.refused(1, nil, "scittd", "serve", "--dir", "service", "--registry-off", "--database-url", "postgres://scittd@"+freeAddress(t)+"/none")

	// The URL with its password may be in a file, for its owner alone.
	s.write("url", dsn+"\n")
	both := []string{"check", "--dir", "service", "--database-url-file", s.path("url")}
	s.refused(2, []string{"url or url_file"}, "scittd", both...)
	s.write("service/scittd.yaml", strings.Replace(string(s.read("service/scittd.yaml")), fmt.Sprintf("url: %q", dsn), "url_file: ../url", 1))
	s.run("scittd", "check", "--dir", "service")
	s.run("chmod", "644", "url")
	s.refused(2, []string{"url is readable by others", "chmod 600"}, "scittd", "check", "--dir", "service")
}

func TestTokenWorksFromItsCreationToItsEnd(t *testing.T) {
	t.Parallel()
	for _, d := range []deployment{sqliteEmbedded, postgresDocker} {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			l, _ := newLoad(newSite(t, d))
			status := func(token string, r *registration) int {
				return l.ask(http.MethodPost, "/entries", token, r.body).status
			}
			claims := l.sign(5)
			if got := status("", claims[0]); got != http.StatusUnauthorized {
				t.Errorf("without a token: %d, want 401", got)
			}
			if got := status("scitt_invented", claims[0]); got != http.StatusUnauthorized {
				t.Errorf("with an invented token: %d, want 401", got)
			}
			if got := status(l.site.token("onlooker", "read"), claims[0]); got != http.StatusForbidden {
				t.Errorf("with a token that may only read: %d, want 403", got)
			}
			if got := status(l.token, claims[1]); got != http.StatusCreated {
				t.Errorf("with a valid token: %d, want 201", got)
			}

			id := ""
			for line := range strings.Lines(l.run("scittd", "token", "list", "--dir", "service")) {
				if strings.Contains(line, `"ci"`) {
					id, _, _ = strings.Cut(line, " ")
				}
			}
			l.run("scittd", "token", "revoke", id, "--dir", "service")
			if out := l.run("scittd", "token", "list", "--dir", "service"); !strings.Contains(out, "revoked") {
				t.Errorf("the list does not show the revocation:\n%s", out)
			}
			short := strings.TrimSpace(l.run("scittd", "token", "create", "short", "--scope", "publish", "--expires", "2s", "--dir", "service"))
			if got := status(short, claims[2]); got != http.StatusCreated && got != http.StatusUnauthorized {
				t.Errorf("with a short token: %d", got)
			}
			// A token that was just used is remembered for a second.
			for _, token := range []string{l.token, short} {
				got := 0
				for deadline := time.Now().Add(patience); got != http.StatusUnauthorized && time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
					got = status(token, claims[3])
				}
				if got != http.StatusUnauthorized {
					t.Errorf("with a token that is over: %d, want 401", got)
				}
			}
		})
	}
}
