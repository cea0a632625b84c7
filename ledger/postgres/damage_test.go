package postgres_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/fsck"
	"github.com/scittd/scittd/ledger/ledgertest"
)

// damage is a change behind the store's back, what fsck says of it (a part of
// the first finding that has it), and whether reindex mends it.
type damage struct {
	table, sql, says string
	rebuilt          bool
}

var damages = []damage{
	{"heads", `UPDATE heads SET root = set_byte(root, 0, get_byte(root, 0) # 1) WHERE size = 2`, "head of size 2: its root is not what the leaves give", false},
	{"heads", `UPDATE heads SET signature = set_byte(signature, 9, get_byte(signature, 9) # 1) WHERE size = 2`, "head of size 2: it is signed by no key", false},
	{"heads", `UPDATE heads SET policy_index = 1 WHERE size = 2`, "head of size 2: names another policy", false},
	{"heads", `DELETE FROM heads WHERE size = 2`, "does not follow the head before it", false},
	{"heads", `DELETE FROM heads WHERE size = (SELECT max(size) FROM heads)`, "lies beyond the newest head", false},
	{"heads", `TRUNCATE heads`, "lies beyond the newest head, of size 0", false},
	{"entries", `UPDATE entries SET entry_id = set_byte(entry_id, 5, get_byte(entry_id, 5) # 64) WHERE index = 3`, "entry 3: its ID is not that of the leaf in its tile", false},
	{"entries", `UPDATE entries SET issuer_id = (SELECT max(id) FROM issuers) WHERE index = 3`, "entry 3: issuer in the index", true},
	{"entries", `UPDATE entries SET issuer_id = 9999 WHERE index = 3`, "entry 3: ", true},
	{"entries", `UPDATE entries SET media_type_id = NULL WHERE index = 3`, "entry 3: media type in the index", true},
	{"entries", `UPDATE entries SET evidence = NULL WHERE index = 3`, "entry 3: evidence in the index", true},
	{"entries", `UPDATE entries SET private = true WHERE index = 3`, "entry 3: visibility in the index", true},
	{"entries", `UPDATE entries SET registered_at = registered_at + interval '1 s' WHERE index = 3`, "entry 3: registration time in the index", true},
	{"entries", `DELETE FROM entries WHERE index = 3`, "entry 3: is missing", false},
	{"entries", `TRUNCATE entries`, "entry 0: is missing", false},
	{"entry_subjects", `DELETE FROM entry_subjects WHERE index = 3`, "entry 3: list of subjects in the index", true},
	{"entry_subjects", `INSERT INTO entry_subjects (digest, index) SELECT digest, 0 FROM entry_subjects WHERE index = 3`, "entry 0: list of subjects", true},
	{"entry_subjects", `INSERT INTO entry_subjects (digest, index) SELECT digest, 9999 FROM entry_subjects WHERE index = 3`, "entry_subjects row of entry 9999: lies beyond", false},
	{"entry_subjects", `TRUNCATE entry_subjects`, "entry 2: list of subjects", true},
	{"pieces", `UPDATE pieces SET rest = set_byte(rest, 40, get_byte(rest, 40) # 4) WHERE first = 2`, "entry 2: the bytes of the statement are not those of its entry ID", false},
	{"pieces", `DELETE FROM pieces WHERE first = 2`, "entry 2: the bytes of the statement are missing", false},
	{"pieces", `TRUNCATE pieces`, "entry 0: the bytes of the statement are missing", false},
	{"tiles", `UPDATE tiles SET data = set_byte(data, 3200, get_byte(data, 3200) # 128)`, "tile 0/0: hash 100 is not what the leaves give", true},
	{"tiles", `UPDATE tiles SET root = set_byte(root, 1, get_byte(root, 1) # 2)`, "tile 0/0: its root is not what the leaves give", true},
	{"tiles", `TRUNCATE tiles`, "tile 0/0: is missing", true},
	{"tiles", `UPDATE tiles SET n = 1`, "tile 0/0: is missing", false},
	{"collateral", `UPDATE collateral SET data = set_byte(data, 50, get_byte(data, 50) # 1)`, "its collateral is damaged", false},
	{"collateral", `TRUNCATE collateral`, "its collateral is damaged", false},
	{"entry_collateral", `TRUNCATE entry_collateral`, "are not kept", false},
	{"audit", `UPDATE audit SET rule = 'issuers[7].key' WHERE index = 2`, "entry 3: rule in the index", true},
	{"audit", `UPDATE audit SET identity_issuer = 'https://acme.example' WHERE index = 2`, "entry 3: identity in the index", true},
	{"audit", `UPDATE audit SET policy_index = 1 WHERE index = 2`, "entry 3: policy in the index", true},
	{"audit", `UPDATE audit SET repository = 'team/x' WHERE index = 2`, "entry 3: delivery transparency of registry.example/team/x", false},
	{"audit", `DELETE FROM audit WHERE index = 2`, "entry 3: has no audit row", false},
	{"entries", `UPDATE entries SET audited = (SELECT max(index) FROM entries) WHERE index = 3`, "entry 3: identity in the index", true},
	{"entries", `UPDATE entries SET audited = 9999 WHERE index = 3`, "entry 3: has no audit row", false},
	{"deliveries", `DELETE FROM deliveries WHERE index = 3`, "entry 3: delivery evidence of registry.example/wabbit/net-monitor", false},
	{"deliveries", `UPDATE deliveries SET repository = 'elsewhere' WHERE index = 3`, "is none that it asked for", false},
	{"issuers", `UPDATE issuers SET text = text || 'x'`, "issuer in the index", true},
	{"issuers", `UPDATE issuers SET sha256 = sha256(sha256)`, "the hash that its text is found by is not that of the text", true},
	{"media_types", `TRUNCATE media_types`, "entry 0: ", true},
	{"predicate_types", `UPDATE predicate_types SET text = text || 'x'`, "predicate type in the index", true},
}

func TestFsckFindsEveryDamageAndReindexRebuildsTheIndex(t *testing.T) {
	dsn := migrated(t)
	s := open(t, dsn)
	operator := ledgertest.NewOperator(t)
	wabbit, acme := ledgertest.NewPublisher(t, "https://wabbit.example"), ledgertest.NewCertifiedPublisher(t, "https://acme.example")
	operator.Init(t, s, wabbit, acme)
	l, err := ledger.Open(t.Context(), s, ledger.Options{Issuer: operator.Issuer(t), Registry: "registry.example"})
	if err != nil {
		t.Fatal(err)
	}
	ledgertest.Append(t, l, wabbit.Provenance(t, "https://slsa.dev/provenance/v1", ledgertest.Image(500), ledgertest.Image(501)))
	for claims := range slices.Chunk(wabbit.Claims(t, 0, 270), 45) {
		var all sync.WaitGroup
		for _, c := range claims {
			all.Go(func() { ledgertest.Append(t, l, c) })
		}
		all.Wait()
	}
	ledgertest.Append(t, l, acme.Claim(t, ledgertest.Image(1), ledgertest.Report, []byte("acme")))
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := ledgertest.CheckLog(t.Context(), s); err != nil {
		t.Fatalf("undamaged: %v", err)
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
	tables := []string{"heads", "entries", "entry_subjects", "pieces", "tiles", "collateral", "entry_collateral", "audit", "deliveries", "issuers", "media_types", "predicate_types"}
	restore := "" // in one transaction
	for _, table := range tables {
		run(`CREATE TABLE sound_` + table + ` AS TABLE ` + table)
		restore += `DELETE FROM ` + table + `; INSERT INTO ` + table + ` OVERRIDING SYSTEM VALUE SELECT * FROM sound_` + table + `; `
	}
	for _, d := range damages {
		run(d.sql)
		told := false
		if _, err := fsck.Check(t.Context(), s, func(f fsck.Finding) { told = told || strings.Contains(f.String(), d.says) }); err != nil {
			t.Errorf("%s: %v", d.sql, err)
		}
		if !told {
			t.Errorf("%s: fsck does not say %q", d.sql, d.says)
		}
		_, err := fsck.Reindex(t.Context(), s, func(fsck.Finding) {})
		left := 0
		if _, look := fsck.Check(t.Context(), s, func(fsck.Finding) { left++ }); look != nil || d.rebuilt != (left == 0) || d.rebuilt && err != nil {
			t.Errorf("%s: reindex: %v, then %d findings, %v; rebuilt should be %v", d.sql, err, left, look, d.rebuilt)
		}
		run(restore)
	}
	if err := ledgertest.CheckLog(t.Context(), s); err != nil {
		t.Fatalf("restored: %v", err)
	}
}
