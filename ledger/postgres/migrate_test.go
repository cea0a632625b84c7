package postgres_test

import (
	"fmt"
	"io/fs"
	"reflect"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/scittd/scittd/internal/testenv"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/ledger/postgres"
	"github.com/scittd/scittd/migrations"
	"github.com/scittd/scittd/statement"
)

// A log is made under the newest schema, its rows are put into tables of the
// first one, in a schema beside it, and those are migrated.
func TestALogOfTheFirstSchemaReadsTheSameAfterMigration(t *testing.T) {
	dsn := testenv.Database(t)
	exec(t, dsn, `CREATE SCHEMA new; CREATE SCHEMA old`)
	newest, oldest := dsn+"&search_path=new", dsn+"&search_path=old"
	if err := postgres.Migrate(t.Context(), newest); err != nil {
		t.Fatal(err)
	}
	s := open(t, newest)
	operator, wabbit, acme := ledgertest.NewOperator(t), ledgertest.NewPublisher(t, "https://wabbit.example"), ledgertest.NewCertifiedPublisher(t, "https://acme.example")
	operator.Init(t, s, wabbit, acme)
	l, err := ledger.Open(t.Context(), s, ledger.Options{Issuer: operator.Issuer(t), Registry: "registry.example"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close(t.Context())
	for n := range 40 {
		ledgertest.Append(t, l, wabbit.Claim(t, ledgertest.Image(n), ledgertest.SBOM, fmt.Append(nil, n)))
		ledgertest.Append(t, l, acme.Sign(t, statement.Template{Subject: fmt.Sprint("large ", n), ContentType: "text/plain", Payload: make([]byte, 1+700*n)}))
	}

	atFirst(t, oldest)
	c, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	ids, err := s.Leaves(t.Context(), 0, 1000)
	if err != nil || len(ids) != 82 {
		t.Fatalf("%d leaves, %v", len(ids), err)
	}
	want := map[statement.ID]ledger.Record{}
	for _, id := range ids {
		r, err := s.Record(t.Context(), id, ledger.All)
		if err != nil {
			t.Fatal(err)
		}
		want[id] = r
		if _, err := c.Exec(t.Context(), `INSERT INTO old.statements (index, sub, canonical) VALUES ($1, $2, $3)`, r.Index, r.Subject, r.Canonical); err != nil {
			t.Fatal(err)
		}
	}
	for _, table := range strings.Fields(`issuers media_types predicate_types entries entry_subjects tiles heads
		collateral entry_collateral audit deliveries`) {
		var columns string // later schemas have more
		err := c.QueryRow(t.Context(), `SELECT string_agg(quote_ident(column_name), ', ') FROM information_schema.columns
			WHERE table_schema = 'old' AND table_name = $1`, table).Scan(&columns)
		if err != nil {
			t.Fatal(err)
		}
		rows := `new.` + table
		if table == "audit" { // each entry had a row of its own
			rows = `(SELECT (jsonb_populate_record(a, jsonb_build_object('index', e.index))).*
				FROM new.entries e JOIN new.audit a ON a.index = coalesce(e.audited, e.index)) AS each`
		}
		exec(t, dsn, `INSERT INTO old.`+table+` (`+columns+`) OVERRIDING SYSTEM VALUE SELECT `+columns+` FROM `+rows)
	}

	if err := postgres.Migrate(t.Context(), oldest); err != nil {
		t.Fatal(err)
	}
	migrated := open(t, oldest)
	if err := ledgertest.CheckLog(t.Context(), migrated, operator.Receipt.Public()); err != nil {
		t.Errorf("log is not sound: %v", err)
	}
	for id, want := range want {
		want.Identity.Name = "" // was not kept at first
		if got, err := migrated.Record(t.Context(), id, ledger.All); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("entry %d was\n%+v and is now\n%+v, %v", want.Index, want, got, err)
		}
	}
}

// atFirst makes the schema of migration 00001.
func atFirst(t *testing.T, dsn string) {
	t.Helper()
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	files, err := fs.Sub(migrations.FS, "postgres")
	if err != nil {
		t.Fatal(err)
	}
	p, err := goose.NewProvider(goose.DialectPostgres, stdlib.OpenDB(*config), files)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := p.UpTo(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
}
