package postgres_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/scittd/scittd/internal/testenv"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/postgres"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// migrated makes a database with the newest schema.
func migrated(t testing.TB) (dsn string) {
	t.Helper()
	dsn = testenv.Database(t)
	if err := postgres.Migrate(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	return dsn
}

// open opens dsn for the length of the test.
func open(t *testing.T, dsn string) *postgres.Store {
	t.Helper()
	s, err := postgres.Open(t.Context(), dsn, postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// exec changes a database behind the store's back.
func exec(t *testing.T, dsn, sql string) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	if _, err := c.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// batch makes a batch over size prev with one entry for each name; equal names
// are equal statements. What is signed in it is nonsense: a store does not look.
func batch(prev uint64, names ...string) *ledger.Batch {
	b := &ledger.Batch{Head: ledger.Head{
		PrevSize: prev,
		SignedHead: receipts.SignedHead{
			Head:      receipts.Head{Size: prev + uint64(len(names)), Time: start.Add(time.Duration(prev) * time.Second)},
			Protected: []byte("protected"), Signature: []byte("signature"),
		},
	}}
	for i, name := range names {
		e := ledger.NewEntry{Canonical: []byte(name)}
		e.Index, e.ID = prev+uint64(i), sha256.Sum256([]byte(name))
		e.Issuer, e.Subject, e.MediaType = "https://issuer.example/"+name[:1], "sub of "+name, "application/"+name[:1]
		e.Policy, e.RegisteredAt = sha256.Sum256([]byte("policy")), b.Head.Time
		e.Identity = policy.Identity{Kind: "key", Issuer: e.Issuer, Thumbprint: "00"}
		b.Entries = append(b.Entries, e)
	}
	return b
}

// genesis commits the policy that batch's entries are judged under.
func genesis(t *testing.T, s *postgres.Store) {
	t.Helper()
	commit(t, s, batch(0, "policy", "service"))
}

func commit(t *testing.T, s *postgres.Store, b *ledger.Batch) {
	t.Helper()
	if err := s.Commit(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

func size(t *testing.T, s *postgres.Store) uint64 {
	t.Helper()
	h, err := s.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return h.Size
}

func TestAFailedBatchLeavesNothingAndHarmsNoLaterOne(t *testing.T) {
	s := open(t, migrated(t))
	genesis(t, s)
	commit(t, s, batch(2, "a", "b"))

	unknownPolicy := batch(4, "x")
	unknownPolicy.Entries[0].Policy = statement.ID{1}
	oldTime := batch(4, "x")
	oldTime.Head.Time = start
	twice := batch(4, "x")
	d := ledger.Delivery{Registry: "r", Repository: "p", Subject: statement.SHA256(nil), Artifact: ledger.EvidenceArtifact}
	twice.Entries[0].Deliveries = []ledger.Delivery{d, d}
	nul := batch(4, "x")
	nul.Entries[0].Subject = "a\x00b"
	latin := batch(4, "x")
	latin.Entries[0].Caller = "caf\xe9"
	// Random text, for PostgreSQL compresses what it indexes.
	long := batch(4, "x")
	random := make([]byte, 9000)
	rand.Read(random)
	long.Entries[0].Deliveries = []ledger.Delivery{{Registry: "r", Repository: hex.EncodeToString(random), Subject: d.Subject, Artifact: d.Artifact}}
	gap := batch(4, "x")
	gap.Entries[0].Index = 5

	for _, tc := range []struct {
		name     string
		b        *ledger.Batch
		conflict bool
		unfit    bool
	}{
		{"an entry that exists", batch(4, "x", "a", "y"), false, true},
		{"a duplicate in the batch", batch(4, "x", "x"), false, true},
		{"a size that was followed already", batch(2, "x"), true, false},
		{"a size ahead of the log", batch(9, "x"), true, false},
		{"a second genesis", batch(0, "x"), true, false},
		{"a policy that is no entry", unknownPolicy, false, true},
		{"a time before the last head's", oldTime, false, true},
		{"one delivery twice", twice, false, true},
		{"a text that no index can hold", long, false, true},
		{"NUL in a text", nul, false, true},
		{"text that is not UTF-8", latin, false, true},
		{"an index that does not follow", gap, false, false},
	} {
		err := s.Commit(t.Context(), tc.b)
		if err == nil {
			t.Fatalf("%s: committed", tc.name)
		}
		if errors.Is(err, ledger.ErrConflict) != tc.conflict {
			t.Errorf("%s: %v; is ErrConflict: %v", tc.name, err, !tc.conflict)
		}
		if errors.Is(err, ledger.ErrUnfit) != tc.unfit {
			t.Errorf("%s: %v; is ErrUnfit: %v", tc.name, err, !tc.unfit)
		}
		if strings.Contains(err.Error(), "22021") {
			t.Errorf("%s reached the database: %v", tc.name, err)
		}
		if got := size(t, s); got != 4 {
			t.Fatalf("after %s: size %d, want 4", tc.name, got)
		}
		found, err := s.Indexes(t.Context(), []statement.ID{sha256.Sum256([]byte("x"))}, ledger.All)
		if err != nil || len(found) != 0 {
			t.Fatalf("after %s: found %v, %v", tc.name, found, err)
		}
	}
	commit(t, s, batch(4, "x", "y"))
	leaves, err := s.Leaves(t.Context(), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	if len(leaves) != 6 {
		t.Errorf("%d leaves, want 6 without a gap", len(leaves))
	}
}

func TestEmptyByteStringsAreNotNull(t *testing.T) {
	s := open(t, migrated(t))
	b := batch(0, "policy")
	b.Head.Protected, b.Head.Signature = nil, nil
	b.Entries[0].Canonical = nil
	b.Entries[0].Collateral = []ledger.Collateral{{Kind: "x5chain"}}
	commit(t, s, b)
	h, err := s.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(h.Protected) != 0 || len(h.Signature) != 0 {
		t.Errorf("head %+v", h)
	}
	r, err := s.Record(t.Context(), b.Entries[0].ID, ledger.All)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Canonical) != 0 || len(r.Collateral) != 1 {
		t.Errorf("record %+v", r)
	}
}

func TestARolledBackIdIsNotRemembered(t *testing.T) {
	s := open(t, migrated(t))
	genesis(t, s)
	// The batch with the new issuer fails; its id goes to the next new one.
	if err := s.Commit(t.Context(), batch(2, "new", "policy")); err == nil {
		t.Fatal("committed a duplicate")
	}
	commit(t, s, batch(2, "other"))
	commit(t, s, batch(3, "new"))
	for _, name := range []string{"other", "new"} {
		want := "https://issuer.example/" + name[:1]
		found, err := s.Find(t.Context(), ledger.Query{Issuers: []string{want}, Limit: 10})
		if err != nil || len(found) != 1 || found[0].Issuer != want || found[0].ID != sha256.Sum256([]byte(name)) {
			t.Errorf("issuer %s: found %+v, %v", want, found, err)
		}
	}
}

func TestAForeignMessageNeverFailsSettle(t *testing.T) {
	s := open(t, migrated(t))
	b := batch(0, "policy")
	b.Entries[0].Deliveries = []ledger.Delivery{{Registry: "r", Repository: "p", Subject: statement.SHA256(nil), Artifact: ledger.TransparencyArtifact}}
	commit(t, s, b)
	due, err := s.Due(t.Context(), ledger.Pickup{Owner: "o", Registry: "r", Lease: time.Minute, Places: 5, Each: 5}, start)
	if err != nil || len(due) != 1 {
		t.Fatalf("due: %v, %v", due, err)
	}
	due[0].LastError = "bad \x00 gateway \xff" + strings.Repeat("é", 5000)
	if err := s.Settle(t.Context(), "o", due[0]); err != nil {
		t.Fatal(err)
	}
	got, err := s.Deliveries(t.Context(), b.Entries[0].ID, ledger.All)
	if err != nil {
		t.Fatal(err)
	}
	if msg := got[0].LastError; !strings.HasPrefix(msg, "bad \uFFFD gateway \uFFFDéé") || len(msg) > 2100 {
		t.Errorf("last error is %d bytes: %.40q", len(msg), msg)
	}
}

// TestConcurrentCallersNeverShareASubject: the race that Due's two steps are for.
func TestConcurrentCallersNeverShareASubject(t *testing.T) {
	dsn := migrated(t)
	s := open(t, dsn)
	b := batch(0, "policy", "service")
	const groups = 30
	for i := range groups {
		subject := statement.SHA256([]byte{byte(i)})
		for e := range b.Entries {
			for _, artifact := range []string{ledger.EvidenceArtifact, ledger.TransparencyArtifact} {
				b.Entries[e].Deliveries = append(b.Entries[e].Deliveries,
					ledger.Delivery{Registry: "r", Repository: "p", Subject: subject, Artifact: artifact})
			}
		}
	}
	commit(t, s, b)

	type lease struct {
		owner string
		got   []ledger.Delivery
		err   error
	}
	leases := make(chan lease)
	const owners = 4
	for i := range owners {
		other := open(t, dsn)
		go func() {
			owner := fmt.Sprint("owner ", i)
			for {
				got, err := other.Due(context.Background(), ledger.Pickup{Owner: owner, Registry: "r", Lease: time.Minute, Places: 3, Each: 10}, start)
				leases <- lease{owner, got, err}
				if err != nil || len(got) == 0 {
					return
				}
			}
		}()
	}
	byGroup, total := map[statement.Digest]string{}, 0
	for ended := 0; ended < owners; {
		l := <-leases
		if l.err != nil {
			t.Fatal(l.err)
		}
		if len(l.got) == 0 {
			ended++
		}
		for _, d := range l.got {
			total++
			if other, taken := byGroup[d.Subject]; taken && other != l.owner {
				t.Fatalf("%s and %s both work on %s", other, l.owner, d.Subject)
			}
			byGroup[d.Subject] = l.owner
		}
	}
	// A caller may find everything locked for a moment and stop; what is left
	// over must still be there.
	for {
		got, err := s.Due(t.Context(), ledger.Pickup{Owner: "last", Registry: "r", Lease: time.Minute, Places: 30, Each: 100}, start)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) == 0 {
			break
		}
		total += len(got)
	}
	if want := groups * 4; total != want {
		t.Errorf("%d deliveries leased, want each of %d once", total, want)
	}
}
