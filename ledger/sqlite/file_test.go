package sqlite_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/ledger/sqlite"
)

func TestASecondOpenIsRefusedUntilTheFirstIsClosed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	first := open(t, path)
	if s, err := sqlite.Open(t.Context(), path); err == nil {
		t.Errorf("opened twice: %v", s.Close())
	} else if !strings.Contains(err.Error(), "another process") {
		t.Errorf("refused, but not understandably: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := open(t, path).Close(); err != nil {
		t.Fatal(err)
	}
}

// The lock is the process's: it must hold another one back, and die with its
// holder. The test runs itself as the other process.
func TestASecondProcessIsRefused(t *testing.T) {
	if path := os.Getenv("SCITTD_TEST_OPEN"); path != "" {
		if s, err := sqlite.Open(t.Context(), path); err == nil {
			t.Fatalf("opened beside its owner: %v", s.Close())
		}
		return
	}
	path := filepath.Join(t.TempDir(), "ledger.db")
	s := open(t, path)
	defer s.Close()
	cmd := exec.Command(os.Args[0], "-test.run=^TestASecondProcessIsRefused$", "-test.v")
	cmd.Env = append(os.Environ(), "SCITTD_TEST_OPEN="+path)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestASecondProcessIsRefused") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestBesideAServerTokensAreKeptAndNothingIsCommitted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	if s, err := sqlite.OpenBeside(t.Context(), path); err == nil {
		t.Fatalf("made a file: %v", s.Close())
	}
	server := open(t, path)
	defer server.Close()
	beside, err := sqlite.OpenBeside(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer beside.Close()
	token := ledger.Token{ID: "a", Hash: [32]byte{1}, Scopes: []string{"read"}, Created: time.Unix(1, 0), Expires: time.Unix(2, 0)}
	if err := beside.AddToken(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	if _, err := server.FindToken(t.Context(), token.Hash); err != nil {
		t.Errorf("the server does not see the token: %v", err)
	}
	operator := ledgertest.NewOperator(t)
	if err := ledger.Init(t.Context(), beside, operator.Issuer(t), operator.Genesis(t), nil); err == nil {
		t.Error("a log was made beside its owner")
	}
	operator.Init(t, server)
	if err := ledgertest.CheckLog(t.Context(), beside); err != nil {
		t.Error(err)
	}
}

func TestASchemaOfTheFutureIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	if err := open(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	raw(t, path, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (99999, 1)`)
	if s, err := sqlite.Open(t.Context(), path); err == nil {
		t.Fatalf("opened: %v", s.Close())
	} else if !strings.Contains(err.Error(), "newer") {
		t.Errorf("refused, but not understandably: %v", err)
	}
}

func TestAFullDiskIsUnavailableAndLeavesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	s := open(t, path)
	operator, wabbit := ledgertest.NewOperator(t), ledgertest.NewPublisher(t, "https://wabbit.example")
	operator.Init(t, s, wabbit)
	l, err := ledger.Open(t.Context(), s, ledger.Options{Issuer: operator.Issuer(t)})
	if err != nil {
		t.Fatal(err)
	}
	sqlite.LimitPages(t, s, 1) // the file may not grow any more
	big := wabbit.Provenance(t, "https://predicate.example/"+strings.Repeat("x", 200_000), ledgertest.Image(1))
	if _, err := l.Append(t.Context(), ledgertest.Submission(l, big)); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("on a full disk: %v, want ErrUnavailable", err)
	}
	sqlite.LimitPages(t, s, 1<<30)
	ledgertest.Append(t, l, big)
	if err := ledgertest.CheckLog(t.Context(), s); err != nil {
		t.Error(err)
	}
	if err := errors.Join(l.Close(t.Context()), s.Close()); err != nil {
		t.Error(err)
	}
}

func TestAFileThatIsNoDatabaseIsCorrupt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	if err := os.WriteFile(path, []byte(strings.Repeat("this is no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := sqlite.Open(t.Context(), path); err == nil {
		t.Fatalf("opened: %v", s.Close())
	} else if !errors.Is(err, ledger.ErrCorrupt) {
		t.Errorf("got %v, want ErrCorrupt", err)
	}
}
