package sqlite_test

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"errors"
	"flag"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// registered is what the model of a log knows of one entry.
type registered struct {
	statement *statement.Statement
	private   bool
	image     statement.Digest
	receipt   []byte // as it was given; nil for what the log says about itself
}

// machine is a ledger, and a slice that says what is in it.
type machine struct {
	t    *testing.T // of what must not fail
	file string

	operator              *ledgertest.Operator
	wabbit, secret, guest *ledgertest.Publisher

	now    time.Time
	store  ledgertest.Store
	faulty *ledgertest.Faulty
	ledger *ledger.Ledger

	entries []registered // by index
	invited bool         // the policy admits the guest
	made    int          // claims signed so far
}

// The images that claims are about: few, so that claims meet.
const images = 4

func newMachine(t *testing.T, dir string, genesis func(string) (*ledgertest.Operator, [3]*ledgertest.Publisher)) *machine {
	m := &machine{t: t, file: filepath.Join(dir, "ledger.db"), now: time.Now().Truncate(time.Second), invited: true}
	operator, publishers := genesis(m.file)
	own := *operator // whose key will be rotated
	m.operator, m.wabbit, m.secret, m.guest = &own, publishers[0], publishers[1], publishers[2]
	m.open()
	m.entries = make([]registered, 2)
	return m
}

func (m *machine) clock() time.Time { return m.now }

func (m *machine) open() {
	m.t.Helper()
	m.store = ledgertest.Clocked(open(m.t, m.file), m.clock)
	m.faulty = ledgertest.NewFaulty(m.t, m.store)
	since := m.now
	l, err := ledger.Open(m.t.Context(), m.faulty, ledger.Options{
		Issuer: m.operator.Issuer(m.t), Clock: m.clock, Steady: func() time.Duration { return m.now.Sub(since) },
	})
	if err != nil {
		m.t.Fatal(err)
	}
	m.ledger = l
}

func (m *machine) close() {
	m.t.Helper()
	if err := errors.Join(m.ledger.Close(context.Background()), m.store.Close()); err != nil {
		m.t.Fatal(err)
	}
}

// submit hands a statement in and compares the answer with the slice: what is
// known is answered with its receipt, what is admitted is next, the rest is
// refused.
func (m *machine) submit(t *rapid.T, e registered, admitted bool) {
	at := slices.IndexFunc(m.entries, func(known registered) bool {
		return known.statement != nil && known.statement.ID() == e.statement.ID()
	})
	got, err := m.ledger.Append(m.t.Context(), ledger.Submission{
		Statement: e.statement, Decision: m.ledger.Policy().Evaluate(e.statement, m.now), Caller: "model",
	})
	switch {
	case at >= 0 && (admitted || !m.entries[at].private): // an entry that is public keeps its answer
		if err != nil || got.New || got.Entry.Index != uint64(at) || !bytes.Equal(got.Receipt, m.entries[at].receipt) {
			t.Fatalf("again, entry %d: index %d, new %v, same receipt %v, %v", at, got.Entry.Index, got.New, bytes.Equal(got.Receipt, m.entries[at].receipt), err)
		}
	case !admitted:
		if refusal := (*policy.Refusal)(nil); !errors.As(err, &refusal) {
			t.Fatalf("a claim that the policy does not admit: %v, want a refusal", err)
		}
	case err != nil:
		t.Fatalf("a new claim: %v", err)
	default:
		if !got.New || got.Entry.Index != uint64(len(m.entries)) || got.Entry.Private != e.private {
			t.Fatalf("a new claim: index %d, want %d; new %v, private %v", got.Entry.Index, len(m.entries), got.New, got.Entry.Private)
		}
		m.verify(t, e.statement, got.Receipt)
		e.receipt = got.Receipt
		m.entries = append(m.entries, e)
	}
}

func (m *machine) verify(t *rapid.T, s *statement.Statement, receipt []byte) {
	id := s.ID()
	r, err := receipts.Parse(receipt)
	if err == nil {
		err = r.Verify(id[:], m.operator.Receipt.Public(), receipts.Strict)
	}
	if err != nil {
		t.Fatalf("receipt of %s: %v", id, err)
	}
}

// publisher draws one; the guest is admitted while the policy says so.
func (m *machine) publisher(t *rapid.T) (p *ledgertest.Publisher, private, admitted bool) {
	switch rapid.SampledFrom([]string{"wabbit", "secret", "guest"}).Draw(t, "publisher") {
	case "wabbit":
		return m.wabbit, false, true
	case "secret":
		return m.secret, true, true
	}
	return m.guest, false, m.invited
}

func (m *machine) claim(p *ledgertest.Publisher, private bool, image int) registered {
	m.made++
	digest := ledgertest.Image(image)
	return registered{p.Claim(m.t, digest, ledgertest.SBOM, fmt.Append(nil, m.made)), private, digest, nil}
}

// Submit registers something new.
func (m *machine) Submit(t *rapid.T) {
	p, private, admitted := m.publisher(t)
	m.submit(t, m.claim(p, private, rapid.IntRange(0, images-1).Draw(t, "image")), admitted)
}

// claims are what publishers registered.
func (m *machine) claims(t *rapid.T) registered {
	claims := slices.DeleteFunc(slices.Clone(m.entries), func(e registered) bool { return e.receipt == nil })
	if len(claims) == 0 {
		t.Skip("nothing is registered")
	}
	return claims[rapid.IntRange(0, len(claims)-1).Draw(t, "entry")]
}

// Dup submits something again.
func (m *machine) Dup(t *rapid.T) {
	e := m.claims(t)
	m.submit(t, e, m.invited || e.statement.Issuer != m.guest.Name)
}

// Twin submits the same words under another signature: another entry. Whoever
// has one ECDSA signature, (r, s), has (r, n-s) too.
func (m *machine) Twin(t *rapid.T) {
	e := m.claims(t)
	other := slices.Clone(e.statement.Canonical())
	half := other[len(other)-32:]
	new(big.Int).Sub(elliptic.P256().Params().N, new(big.Int).SetBytes(half)).FillBytes(half)
	twin, err := statement.Parse(other)
	if err != nil {
		t.Fatal(err)
	}
	m.submit(t, registered{twin, e.private, e.image, nil}, m.invited || e.statement.Issuer != m.guest.Name)
}

// StoreDown has the next commits fail, done or not, and submits all the same.
func (m *machine) StoreDown(t *rapid.T) {
	fault := rapid.SampledFrom([]ledgertest.Fault{ledgertest.NotApplied, ledgertest.Applied})
	m.faulty.FailCommits(rapid.SliceOfN(fault, 1, 2).Draw(t, "faults")...)
	m.submit(t, m.claim(m.wabbit, false, 0), true)
	m.faulty.FailCommits()
}

// Query asks by image and issuer, with and without the right to see everything.
func (m *machine) Query(t *rapid.T) {
	q := ledger.Query{Limit: ledger.MaxPage, Scope: rapid.SampledFrom([]ledger.Scope{ledger.Public, ledger.All}).Draw(t, "scope")}
	image := ledgertest.Image(rapid.IntRange(0, images).Draw(t, "image"))
	q.Artifacts = []statement.Digest{image}
	p, _, _ := m.publisher(t)
	if rapid.Bool().Draw(t, "by issuer") {
		q.Issuers = []string{p.Name}
	}
	var want []uint64
	for i := len(m.entries) - 1; i >= 0; i-- {
		e := m.entries[i]
		if e.receipt != nil && e.image == image && (q.Scope == ledger.All || !e.private) && (q.Issuers == nil || e.statement.Issuer == p.Name) {
			want = append(want, uint64(i))
		}
	}
	found, err := m.ledger.Find(m.t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	var got []uint64
	for _, e := range found {
		got = append(got, e.Index)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("%+v finds %v, want %v", q, got, want)
	}
}

// Restart closes everything and opens it again.
func (m *machine) Restart(t *rapid.T) {
	m.close()
	m.open()
}

// Tick lets time pass.
func (m *machine) Tick(t *rapid.T) {
	m.now = m.now.Add(time.Duration(rapid.IntRange(1, 3600).Draw(t, "seconds")) * time.Second)
}

// PolicyChange invites the guest, or does so no longer.
func (m *machine) PolicyChange(t *rapid.T) {
	publishers := []*ledgertest.Publisher{m.wabbit, m.secret}
	if m.invited = !m.invited; m.invited {
		publishers = append(publishers, m.guest)
	}
	m.own(t, m.operator.Policy(m.t, m.ledger.Policy().Entry, m.operator.Document(publishers...)))
}

// RotateKey announces another receipt key, which signs from the restart on.
func (m *machine) RotateKey(t *rapid.T) {
	next := ledgertest.NewKey(m.t)
	m.own(t, m.operator.Announcement(m.t, next.Public()))
	m.operator.Receipt = next
	m.Restart(t)
}

// own registers what the log says about itself.
func (m *machine) own(t *rapid.T, s *statement.Statement) {
	got := ledgertest.Append(m.t, m.ledger, s)
	if got.Entry.Index != uint64(len(m.entries)) {
		t.Fatalf("index %d, want %d", got.Entry.Index, len(m.entries))
	}
	m.entries = append(m.entries, registered{statement: s})
}

// Check holds after every step: the size, and the last receipt.
func (m *machine) Check(t *rapid.T) {
	head, err := m.ledger.Head(m.t.Context())
	if err != nil || head.Size != uint64(len(m.entries)) {
		t.Fatalf("size %d, want %d: %v", head.Size, len(m.entries), err)
	}
	if last := m.entries[len(m.entries)-1]; last.receipt != nil {
		again, err := m.ledger.Receipt(m.t.Context(), last.statement.ID(), ledger.All)
		if err != nil || !bytes.Equal(again, last.receipt) {
			t.Fatalf("receipt of entry %d: not the one that was given, %v", len(m.entries)-1, err)
		}
	}
}

// TestALedgerIsASlice compares a ledger with a slice over random histories: few,
// for each waits for the disk a hundred times; -rapid.checks says how many.
func TestALedgerIsASlice(t *testing.T) {
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue {
		if err := checks.Value.Set("20"); err != nil {
			t.Fatal(err)
		}
	}
	operator := ledgertest.NewOperator(t)
	publishers := [3]*ledgertest.Publisher{
		ledgertest.NewPublisher(t, "https://wabbit.example"), ledgertest.NewPublisher(t, "https://secret.example"), ledgertest.NewPublisher(t, "https://guest.example"),
	}
	publishers[1].Rule.Visibility = "private"
	first := filepath.Join(t.TempDir(), "genesis.db")
	store := open(t, first)
	operator.Init(t, store, publishers[:]...)
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	genesis, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}

	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			rt.Fatal(err)
		}
		m := newMachine(t, dir, func(file string) (*ledgertest.Operator, [3]*ledgertest.Publisher) {
			if err := os.WriteFile(file, genesis, 0o600); err != nil {
				rt.Fatal(err)
			}
			return operator, publishers
		})
		defer m.close()
		rt.Repeat(rapid.StateMachineActions(m))
		if err := ledgertest.CheckLog(t.Context(), m.store); err != nil {
			rt.Fatalf("the log is not sound: %v", err)
		}
		for i, e := range m.entries {
			if e.receipt == nil {
				continue
			}
			again, err := m.ledger.Receipt(t.Context(), e.statement.ID(), ledger.All)
			if err != nil || !bytes.Equal(again, e.receipt) {
				rt.Fatalf("receipt of entry %d: not the one that was given, %v", i, err)
			}
		}
	})
}
