package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/fsck"
	"github.com/scittd/scittd/ledger/ledgertest"
)

// A CHECK holds for what is written through this server, not for what somebody
// who owns the database, or a disk, has made of it since.
func TestWhatNoCheckWouldAllowIsCalledDamageAndStopsNobody(t *testing.T) {
	dsn := migrated(t)
	s := open(t, dsn)
	operator, wabbit := ledgertest.NewOperator(t), ledgertest.NewPublisher(t, "https://wabbit.example")
	operator.Init(t, s, wabbit)
	l, err := ledger.Open(t.Context(), s, ledger.Options{Issuer: operator.Issuer(t), Registry: "registry.example"})
	if err != nil {
		t.Fatal(err)
	}
	claims := wabbit.Claims(t, 0, 260)
	for _, c := range claims {
		ledgertest.Append(t, l, c)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	db, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(context.Background())
	run := func(sql string) {
		t.Helper()
		if _, err := db.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	run(`DO $$ DECLARE c record; BEGIN
		FOR c IN SELECT conname, CASE WHEN conrelid <> 0 THEN 'TABLE ' || conrelid::regclass ELSE 'DOMAIN ' || contypid::regtype END AS of
			FROM pg_constraint WHERE contype = 'c' AND connamespace = current_schema::regnamespace
		LOOP EXECUTE format('ALTER %s DROP CONSTRAINT %I', c.of, c.conname); END LOOP; END $$`)

	target := claims[1].ID() // entry 3
	reads := map[string]func() error{
		"Head":       func() error { _, err := s.Head(t.Context()); return err },
		"HeadFor":    func() error { _, err := s.HeadFor(t.Context(), 3); return err },
		"Heads":      func() error { _, err := s.Heads(t.Context(), 0, 10); return err },
		"Tiles":      func() error { _, err := s.Tiles(t.Context(), []ledger.TileID{{}}); return err },
		"Roots":      func() error { _, err := s.Roots(t.Context(), 0, 0, 1); return err },
		"Leaves":     func() error { _, err := s.Leaves(t.Context(), 0, 10); return err },
		"Statements": func() error { _, err := s.Statements(t.Context(), 0, 10, ledger.All); return err },
		"Record":     func() error { _, err := s.Record(t.Context(), target, ledger.All); return err },
		"Find": func() error {
			_, err := s.Find(t.Context(), ledger.Query{Scope: ledger.All, Limit: ledger.MaxPage})
			return err
		},
		"Deliveries": func() error { _, err := s.Deliveries(t.Context(), target, ledger.All); return err },
		"Due": func() error {
			_, err := s.Due(t.Context(), ledger.Pickup{Owner: "me", Registry: "registry.example", Places: 10, Each: 10}, time.Now().Add(time.Hour))
			return err
		},
		"Dossiers": func() error { _, err := s.Dossiers(t.Context(), 0, 10); return err },
	}
	tables := []string{"heads", "tiles", "entries", "entry_subjects", "deliveries", "pieces"}
	restore := "" // in one transaction
	for _, table := range tables {
		run(`CREATE TABLE sound_` + table + ` AS TABLE ` + table)
		restore += `DELETE FROM ` + table + `; INSERT INTO ` + table + ` OVERRIDING SYSTEM VALUE SELECT * FROM sound_` + table + `; `
	}
	for _, d := range []struct {
		sql    string
		damage []string // reads that cannot do without what is damaged; others go on
		gone   []string // reads that do not find what they look for
		says   string   // fsck
	}{
		{`UPDATE heads SET root = '\x01' WHERE size = 4`, nil, nil, "head of size 4: its root is not what the leaves give"},
		{`UPDATE heads SET root = '' WHERE size = (SELECT max(size) FROM heads)`, nil, nil, "its root is not what the leaves give"},
		{`UPDATE heads SET root = root || '\x00' WHERE size = 4`, nil, nil, "head of size 4: its root is not what the leaves give"},
		{`UPDATE heads SET policy_index = -1 WHERE size = 4`, []string{"HeadFor", "Heads"}, nil, ""},
		{`UPDATE tiles SET root = '\x01'`, nil, nil, "tile 0/0: its root is not what the leaves give"},
		{`UPDATE tiles SET data = '\x01'`, nil, nil, "tile 0/0: "},
		{`UPDATE entries SET entry_id = '\x01' WHERE index = 3`, []string{"Leaves", "Statements", "Find", "Due"}, []string{"Record", "Deliveries"}, "the ID of entry 3 has 1 bytes"},
		{`UPDATE entries SET entry_id = '' WHERE index = 0`, []string{"Leaves", "Statements", "Find", "Record"}, nil, "the ID of entry 0 has 0 bytes"},
		{`UPDATE entries SET evidence = '\x01' WHERE index = 3`, []string{"Find", "Record"}, nil, "entry 3: "},
		{`UPDATE entry_subjects SET digest = '\x01' WHERE index = 3`, []string{"Find", "Record"}, nil, "entry 3: "},
		{`UPDATE deliveries SET subject = '\x01' WHERE index = 3`, []string{"Deliveries", "Due", "Dossiers"}, nil, "digest of 1 bytes"},
		{`UPDATE deliveries SET manifest = '\x01' WHERE index = 3`, []string{"Deliveries", "Due", "Dossiers"}, nil, "digest of 1 bytes"},
		{`UPDATE pieces SET cuts = '{1}' WHERE first = 3`, []string{"Find", "Record"}, nil, "entry 3: "},
		{`UPDATE pieces SET cuts = '{-5, 2147483647, -1, -1}' WHERE first = 3`, []string{"Find", "Record"}, nil, "entry 3: "},
		{`UPDATE pieces SET cuts = '{-2147483648, 1, -2147483648, 1}' WHERE first = 3`, nil, nil, "entry 3: "},
	} {
		run(d.sql)
		for name, read := range reads {
			want := error(nil)
			switch {
			case slices.Contains(d.damage, name):
				want = ledger.ErrCorrupt
			case slices.Contains(d.gone, name):
				want = ledger.ErrNotFound
			}
			if err := read(); !errors.Is(err, want) {
				t.Errorf("%s: %s: %v, want %v", d.sql, name, err, want)
			}
		}
		var told strings.Builder
		if _, err := fsck.Check(t.Context(), s, func(f fsck.Finding) { fmt.Fprintln(&told, f) }); err != nil {
			fmt.Fprintln(&told, err)
		}
		if !strings.Contains(told.String(), d.says) {
			t.Errorf("%s: fsck does not say %q:\n%s", d.sql, d.says, &told)
		}
		run(restore)
	}
	if err := ledgertest.CheckLog(t.Context(), s); err != nil {
		t.Fatalf("restored: %v", err)
	}
}
