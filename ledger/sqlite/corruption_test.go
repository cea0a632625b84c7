package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/fsck"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/ledger/sqlite"
)

// damages are changes of single rows, by table; CheckLog must notice each.
var damages = map[string][]string{
	"heads": {
		`UPDATE heads SET root = x'` + strings.Repeat("00", 32) + `' WHERE size = 2`,
		`UPDATE heads SET iat = iat + 1`,
		`UPDATE heads SET iat = iat - 1 WHERE size > 2`,
		`UPDATE heads SET signature = CAST(x'00' || substr(signature, 2) AS BLOB) WHERE size = 2`,
		`UPDATE heads SET protected = CAST(protected || x'00' AS BLOB) WHERE size = 2`,
		`UPDATE heads SET policy_index = 1 WHERE size = 2`,
		`UPDATE heads SET prev_size = 1 WHERE size = 2`,
		`UPDATE heads SET size = size + 1 WHERE size = (SELECT max(size) FROM heads)`,
		`UPDATE heads SET size = 1 WHERE size = 2`,
		`DELETE FROM heads WHERE size = 2`,
		`DELETE FROM heads WHERE size = (SELECT max(size) FROM heads)`,
		`DELETE FROM heads`,
	},
	"entries": {
		`UPDATE entries SET entry_id = x'` + strings.Repeat("01", 32) + `' WHERE "index" = 3`,
		`UPDATE entries SET entry_id = x'01' WHERE "index" = 3`,
		`UPDATE entries SET "index" = 9999 WHERE "index" = (SELECT max("index") FROM entries)`,
		`UPDATE entries SET issuer_id = 1 + issuer_id % 2 WHERE "index" = 3`,
		`UPDATE entries SET media_type_id = 1 + media_type_id % 2 WHERE "index" = 3`,
		`UPDATE entries SET predicate_type_id = 2 WHERE "index" = 3`,
		`UPDATE entries SET evidence = '' WHERE "index" = 3`,
		`UPDATE entries SET evidence = substr(evidence, 1, length(evidence) - 1) || iif(substr(evidence, -1) = '1', '2', '1') WHERE "index" = 3`,
		`UPDATE entries SET private = 1 WHERE "index" = 3`,
		`UPDATE entries SET private = 0`,
		`UPDATE entries SET registered_at = registered_at + 1 WHERE "index" = 3`,
		`DELETE FROM entries WHERE "index" = 3`,
	},
	"entry_subjects": {
		`UPDATE entry_subjects SET digest = substr(digest, 1, length(digest) - 1) || iif(substr(digest, -1) = '1', '2', '1') WHERE "index" = 3`,
		`UPDATE entry_subjects SET "index" = 4 WHERE "index" = 3`,
		`DELETE FROM entry_subjects WHERE "index" = 3`,
		`INSERT INTO entry_subjects SELECT digest, 0 FROM entry_subjects WHERE "index" = 3`,
	},
	"statements": {
		`UPDATE statements SET canonical = CAST(substr(canonical, 1, 100) || x'ff' || substr(canonical, 102) AS BLOB) WHERE "index" = 3`,
		`UPDATE statements SET canonical = CAST(canonical || x'00' AS BLOB) WHERE "index" = 3`,
		`UPDATE statements SET canonical = (SELECT canonical FROM statements WHERE "index" = 4) WHERE "index" = 3`,
		`UPDATE statements SET sub = sub || 'x' WHERE "index" = 3`,
		`DELETE FROM statements WHERE "index" = 3`,
	},
	"collateral": {
		`UPDATE collateral SET data = CAST(substr(data, 1, 50) || x'ff' || substr(data, 52) AS BLOB)`,
		`UPDATE collateral SET kind = 'hearsay'`,
		`DELETE FROM collateral`,
	},
	"entry_collateral": {
		`DELETE FROM entry_collateral`,
		`UPDATE entry_collateral SET "index" = 3`,
	},
	"audit": {
		`UPDATE audit SET rule = 'issuers[7].key' WHERE "index" = 3`,
		`UPDATE audit SET identity = replace(identity, 'wabbit', 'acme') WHERE "index" = 3`,
		`UPDATE audit SET identity = 'x' WHERE "index" = 3`,
		`UPDATE audit SET policy_index = 1 WHERE "index" = 3`,
		`UPDATE audit SET registry = '' WHERE "index" = 3`,
		`UPDATE audit SET registry = 'other.example' WHERE "index" = 3`,
		`UPDATE audit SET repository = 'team/x' WHERE "index" = 3`,
		`DELETE FROM audit WHERE "index" = 3`,
	},
	"tiles": {
		`UPDATE tiles SET root = x'` + strings.Repeat("00", 32) + `'`,
		`UPDATE tiles SET data = CAST(x'00' || substr(data, 2) AS BLOB)`,
		`UPDATE tiles SET n = 1`,
		`UPDATE tiles SET level = 1`,
		`INSERT INTO tiles SELECT level, n + 1, root, data FROM tiles`,
		`DELETE FROM tiles`,
	},
	"deliveries": {
		`UPDATE deliveries SET registry = 'other.example' WHERE "index" = 3`,
		`UPDATE deliveries SET repository = 'elsewhere' WHERE "index" = 3`,
		`UPDATE deliveries SET subject = (SELECT digest FROM entry_subjects WHERE "index" = 4) WHERE "index" = 3`,
		`UPDATE deliveries SET artifact = 'hearsay' WHERE "index" = 3 AND artifact = 'evidence'`,
		`UPDATE deliveries SET state = 'lost' WHERE "index" = 3`,
		`UPDATE deliveries SET state = 'done' WHERE "index" = 3`,
		`UPDATE deliveries SET manifest = 'sha256:00' WHERE "index" = 3`,
		`UPDATE deliveries SET tries = -1 WHERE "index" = 3`,
		`UPDATE deliveries SET "index" = 4, repository = 'elsewhere' WHERE "index" = 3`,
		`DELETE FROM deliveries WHERE "index" = 3 AND artifact = 'evidence'`,
		`DELETE FROM deliveries WHERE "index" = 3`,
		`INSERT INTO deliveries ("index", registry, repository, subject, artifact, state, tries, next_at, last_error, manifest)
			SELECT "index", registry, 'elsewhere', subject, artifact, state, tries, next_at, last_error, manifest
			FROM deliveries WHERE "index" = 3`,
	},
	"issuers":         {`UPDATE issuers SET text = text || 'x'`, `UPDATE issuers SET sha256 = randomblob(32)`, `DELETE FROM issuers WHERE id = 2`},
	"media_types":     {`UPDATE media_types SET text = text || 'x'`, `UPDATE media_types SET sha256 = randomblob(32)`, `DELETE FROM media_types WHERE id = 3`},
	"predicate_types": {`UPDATE predicate_types SET text = text || 'x' WHERE text <> ''`, `UPDATE predicate_types SET sha256 = randomblob(32)`, `DELETE FROM predicate_types`},
}

// Both checkers are held to the same list: the one of the tests, and the one that
// operators run. What follows from the statements is rebuilt by reindex, and both
// are content again.
func TestEveryDamagedRowIsNoticedAndTheIndexRebuilt(t *testing.T) {
	sound := soundLog(t, 32)
	if err := checkCopy(t, sound, ``); err != nil {
		t.Fatalf("undamaged: %v", err)
	}
	for table, changes := range damages {
		for _, change := range changes {
			err := onCopy(t, sound, change, func(s *sqlite.Store) error {
				if ledgertest.CheckLog(t.Context(), s) == nil {
					t.Errorf("%s: CheckLog does not notice: %s", table, change)
				}
				var found []fsck.Finding
				derived := true
				_, err := fsck.Check(t.Context(), s, func(f fsck.Finding) {
					found = append(found, f)
					derived = derived && (f.Kind == fsck.Index || f.Kind == fsck.Tile || f.Kind == fsck.Database)
				})
				if err != nil || len(found) == 0 {
					t.Errorf("%s: fsck finds %d, %v: %s", table, len(found), err, change)
				}
				for _, f := range found {
					if f.Object == "" || f.What == "" {
						t.Errorf("%s: a finding without object or reason: %+v", table, f)
					}
				}
				if !derived || unrepaired[change] {
					return nil
				}
				_, err = fsck.Reindex(t.Context(), s, func(fsck.Finding) {})
				if left := ledgertest.CheckLog(t.Context(), s); err != nil || left != nil {
					t.Errorf("%s: reindex: %v, then CheckLog: %v: %s", table, err, left, change)
				}
				return nil
			})
			if err != nil {
				t.Errorf("%s: %v", change, err)
			}
		}
	}
}

// unrepaired are damages beyond what follows from statements, although all that
// is found is about database rows: tiles and entries too many.
var unrepaired = map[string]bool{
	`UPDATE tiles SET n = 1`: true, `UPDATE tiles SET level = 1`: true,
	`INSERT INTO tiles SELECT level, n + 1, root, data FROM tiles`: true,
	`DELETE FROM heads WHERE size = (SELECT max(size) FROM heads)`: true, `DELETE FROM heads`: true,
}

func TestOpenRefusesADamagedLog(t *testing.T) {
	sound := soundLog(t, 1)
	for _, change := range []string{
		damages["heads"][0], damages["heads"][1], damages["heads"][3], damages["tiles"][0],
		`UPDATE heads SET root = x'` + strings.Repeat("00", 32) + `' WHERE size = (SELECT max(size) FROM heads)`,
		`UPDATE heads SET signature = CAST(x'00' || substr(signature, 2) AS BLOB) WHERE size = (SELECT max(size) FROM heads)`,
		`UPDATE entries SET entry_id = x'` + strings.Repeat("01", 32) + `' WHERE "index" = 280`,
		`UPDATE statements SET canonical = CAST(canonical || x'00' AS BLOB) WHERE "index" < 2`,
		`DELETE FROM statements WHERE "index" = 1`,
	} {
		err := onCopy(t, sound, change, func(s *sqlite.Store) error {
			l, err := ledger.Open(t.Context(), s, ledger.Options{})
			if err != nil {
				return err
			}
			// A damaged old head or tile does not show in the edge; what it
			// would make wrong is never served.
			defer l.Close(t.Context())
			found, err := l.Find(t.Context(), ledger.Query{Scope: ledger.All, Limit: ledger.MaxPage})
			for _, e := range found {
				if _, err := l.Receipt(t.Context(), e.ID, ledger.All); err != nil {
					return err
				}
			}
			return err
		})
		if err == nil {
			t.Errorf("opened, and every receipt served: %s", change)
		}
	}
}

// What an auditor is shown and caches for ever is held against what was signed.
func TestNothingDamagedIsShownToAnAuditor(t *testing.T) {
	sound := soundLog(t, 1)
	ask := map[string]func(*ledger.Ledger) error{
		"tile": func(l *ledger.Ledger) error {
			_, err := l.Tile(t.Context(), ledger.TileID{}, 256)
			return err
		},
		"bundle": func(l *ledger.Ledger) error {
			_, err := l.EntryBundle(t.Context(), 0, 256)
			return err
		},
		"statements": func(l *ledger.Ledger) error {
			_, err := l.Statements(t.Context(), 0, ledger.MaxPage, ledger.All)
			return err
		},
		"public statements": func(l *ledger.Ledger) error {
			_, err := l.Statements(t.Context(), 0, ledger.MaxPage, ledger.Public)
			return err
		},
		"growth": func(l *ledger.Ledger) error {
			_, err := l.Consistency(t.Context(), 101, 290)
			return err
		},
		"partial tile": func(l *ledger.Ledger) error {
			_, err := l.Tile(t.Context(), ledger.TileID{}, 101)
			return err
		},
	}
	for _, c := range []struct{ change, finds string }{
		{"", ""},
		{`UPDATE tiles SET data = CAST(substr(data, 1, 99) || x'00' || substr(data, 101) AS BLOB) WHERE level = 0`, "bundle growth tile"},
		{`UPDATE entries SET entry_id = x'` + strings.Repeat("01", 32) + `' WHERE "index" = 100`, "bundle partial tile public statements statements"},
		{`UPDATE statements SET canonical = CAST(canonical || x'00' AS BLOB) WHERE "index" = 100`, "public statements statements"},
		{`DELETE FROM statements WHERE "index" = 100`, "public statements statements"},
		{`DELETE FROM statements WHERE "index" = (SELECT "index" FROM entries WHERE private)`, "statements"},
		{`UPDATE heads SET root = x'` + strings.Repeat("00", 32) + `' WHERE size = 101`, "growth partial tile"},
		{`UPDATE heads SET signature = CAST(x'00' || substr(signature, 2) AS BLOB) WHERE size = 290`, "growth"},
	} {
		var found []string
		err := onCopy(t, sound, c.change, func(s *sqlite.Store) error {
			l, err := ledger.Open(t.Context(), s, ledger.Options{})
			if err != nil {
				return err
			}
			defer l.Close(t.Context())
			for name, ask := range ask {
				if err := ask(l); errors.Is(err, ledger.ErrCorrupt) {
					found = append(found, name)
				} else if err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
			}
			return nil
		})
		slices.Sort(found)
		if got := strings.Join(found, " "); err != nil || got != c.finds {
			t.Errorf("%s: found by %q, %v; want by %q", c.change, got, err, c.finds)
		}
	}
}

// soundLog makes a log with at least one row of every kind; so many of its claims
// at a time share heads.
func soundLog(t *testing.T, atOnce int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sound.db")
	s := open(t, path)
	operator := ledgertest.NewOperator(t)
	wabbit, acme := ledgertest.NewPublisher(t, "https://wabbit.example"), ledgertest.NewCertifiedPublisher(t, "https://acme.example")
	secret := ledgertest.NewPublisher(t, "https://secret.example")
	secret.Rule.Visibility = "private"
	operator.Init(t, s, wabbit, acme, secret)
	l, err := ledger.Open(t.Context(), s, ledger.Options{Issuer: operator.Issuer(t), Registry: "registry.example"})
	if err != nil {
		t.Fatal(err)
	}
	ledgertest.Append(t, l, wabbit.Provenance(t, "https://slsa.dev/provenance/v1", ledgertest.Image(500), ledgertest.Image(501)))
	for claims := range slices.Chunk(wabbit.Claims(t, 0, 300), atOnce) {
		var all sync.WaitGroup
		for _, c := range claims {
			all.Go(func() { ledgertest.Append(t, l, c) })
		}
		all.Wait()
	}
	ledgertest.Append(t, l, acme.Claim(t, ledgertest.Image(1), ledgertest.Report, []byte("acme")))
	ledgertest.Append(t, l, secret.Claim(t, ledgertest.Image(1), ledgertest.Report, []byte("secret")))
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func checkCopy(t *testing.T, sound, change string) error {
	t.Helper()
	return onCopy(t, sound, change, func(s *sqlite.Store) error { return ledgertest.CheckLog(t.Context(), s) })
}

// onCopy runs f on a copy of a log with one change, made behind its back.
func onCopy(t *testing.T, sound, change string, f func(*sqlite.Store) error) error {
	t.Helper()
	b, err := os.ReadFile(sound)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "copy.db")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if change != "" {
		raw(t, path, change)
	}
	s := open(t, path)
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	return f(s)
}

// raw runs SQL without any constraint but UNIQUE and NOT NULL.
func raw(t *testing.T, path string, change string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=foreign_keys(OFF)&_pragma=ignore_check_constraints(ON)")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	r, err := db.Exec(change)
	if err != nil {
		t.Fatalf("%s: %v", change, err)
	}
	if n, err := r.RowsAffected(); err != nil || n == 0 {
		t.Fatal(fmt.Errorf("%s: changes %d rows, %v", change, n, err))
	}
}

// headless has lost the heads that it had when somebody began to look.
type headless struct {
	*sqlite.Store
	err error
}

func (s headless) Heads(context.Context, uint64, int) ([]ledger.Head, error) { return nil, s.err }

func TestHeadsThatAreGoneWhileTheLogIsCheckedAreFoundAndNoOutage(t *testing.T) {
	s := fresh(t)(t).(*sqlite.Store)
	t.Cleanup(func() { s.Close() })
	ledgertest.NewOperator(t).Init(t, s, ledgertest.NewPublisher(t, "https://wabbit.example"))
	for _, c := range []struct {
		says, want error
		found      int
	}{
		{nil, ledger.ErrCorrupt, 1},
		{ledger.ErrCorrupt, ledger.ErrCorrupt, 1},
		{ledger.ErrUnavailable, ledger.ErrUnavailable, 0},
	} {
		var found []fsck.Finding
		_, err := fsck.Check(t.Context(), headless{s, c.says}, func(f fsck.Finding) { found = append(found, f) })
		if !errors.Is(err, c.want) || len(found) != c.found {
			t.Errorf("heads answer %v: %v and findings %v; want %v and %d", c.says, err, found, c.want, c.found)
		}
	}
}
