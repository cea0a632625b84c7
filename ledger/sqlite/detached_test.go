package sqlite_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/fsck"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/ledger/sqlite"
	"github.com/scittd/scittd/statement"
)

// The payload of a detached statement is not in the log, and may be nowhere any
// more: that is no damage. What is kept of it is checked like everything else.
func TestFsckKnowsWhatIsKeptOfADetachedPayload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	s := open(t, path)
	operator, wabbit, acme := ledgertest.NewOperator(t), ledgertest.NewPublisher(t, "https://wabbit.example"), ledgertest.NewCertifiedPublisher(t, "https://acme.example")
	operator.Init(t, s, wabbit, acme)
	l, err := ledger.Open(t.Context(), s, ledger.Options{Issuer: operator.Issuer(t), Registry: "registry.example"})
	if err != nil {
		t.Fatal(err)
	}
	payload := []byte("an SBOM")
	for _, p := range []*ledgertest.Publisher{wabbit, acme} {
		signed := p.Sign(t, statement.Template{Subject: "net-monitor", ContentType: ledgertest.SBOM, Payload: payload, Detached: true})
		whole, err := signed.WithPayload(statement.SHA256(payload), payload)
		if err != nil {
			t.Fatal(err)
		}
		sub := ledgertest.Submission(l, whole)
		sub.Repository, sub.Image = "wabbit/app", ledgertest.Image(1)
		if _, err := l.Append(t.Context(), sub); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	for _, c := range []struct{ change, says string }{
		{``, ""},
		{`DELETE FROM entry_collateral WHERE "index" = 2`, "the digest of its payload, which is detached, is not kept"},
		{`UPDATE collateral SET data = CAST('sha256:00' AS BLOB) WHERE kind = 'payload'`, "its collateral is damaged"},
		{`UPDATE collateral SET kind = 'rumour' WHERE kind = 'payload'`, `kind "rumour" is none there is`},
		{`UPDATE entry_collateral SET collateral_id = (SELECT id FROM collateral WHERE kind = 'payload') WHERE "index" = 3 AND position = 0`, "more than one"},
		{`UPDATE entries SET evidence = 'sha256:' || hex(zeroblob(32)) WHERE "index" = 2`, "evidence in the index"},
		{`UPDATE audit SET image = '` + string(ledgertest.Image(2)) + `' WHERE "index" = 2`, "delivery"},
		{`UPDATE audit SET image = '' WHERE "index" = 3`, "delivery"},
	} {
		err := onCopy(t, path, c.change, func(s *sqlite.Store) error {
			var found []string
			tally, err := fsck.Check(t.Context(), s, func(f fsck.Finding) { found = append(found, f.String()) })
			if err != nil || tally != (fsck.Tally{Size: 4, Detached: 2}) {
				t.Errorf("%s: %+v, %v", c.change, tally, err)
			}
			if (c.says == "") != (len(found) == 0) || !strings.Contains(strings.Join(found, "\n"), c.says) {
				t.Errorf("%s: %q; want %q", c.change, found, c.says)
			}
			if sound := ledgertest.CheckLog(t.Context(), s) == nil; sound != (c.says == "") {
				t.Errorf("%s: CheckLog says that the log is sound: %t", c.change, sound)
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s: %v", c.change, err)
		}
	}
	err = onCopy(t, path, `UPDATE entries SET evidence = 'sha256:' || hex(zeroblob(32)) WHERE "index" = 2`, func(s *sqlite.Store) error {
		if d, err := fsck.Reindex(t.Context(), s, func(fsck.Finding) {}); err != nil || d.Entries != 1 {
			t.Errorf("reindex: %+v, %v", d, err)
		}
		return ledgertest.CheckLog(t.Context(), s)
	})
	if err != nil {
		t.Error(err)
	}
}
