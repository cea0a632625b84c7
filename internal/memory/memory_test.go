package memory

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/receipts"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// database is a log with a head for every second size, whose roots are those of
// its history.
type database struct {
	issuer  *receipts.Issuer
	history string
	size    uint64
	broken  error // of Grew
}

func newDatabase(t *testing.T, history string, size uint64) *database {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := receipts.NewIssuer(key, "https://scitt.example", "scitt.example/log")
	if err != nil {
		t.Fatal(err)
	}
	return &database{issuer: issuer, history: history, size: size}
}

func (d *database) head(t testing.TB, size uint64) receipts.SignedHead {
	t.Helper()
	h, err := d.issuer.Sign(receipts.Head{Size: size, Root: d.root(size), Time: time.Unix(1_800_000_000, 0)})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func (d *database) root(size uint64) [32]byte {
	return sha256.Sum256(fmt.Appendf(nil, "%s %d", d.history, size))
}

func (d *database) Newest(context.Context) (receipts.Head, error) {
	return receipts.Head{Size: d.size, Root: d.root(d.size)}, nil
}

func (d *database) At(_ context.Context, size uint64) (receipts.Head, bool, error) {
	return receipts.Head{Size: size, Root: d.root(size)}, size%2 == 0 && size <= d.size, nil
}

func (d *database) Grew(_ context.Context, from, to uint64) error {
	if from >= to || to > d.size {
		return fmt.Errorf("asked for growth from %d to %d at size %d", from, to, d.size)
	}
	return d.broken
}

func (d *database) Keys() receipts.KeySet {
	return receipts.KeySet{cose.Key{Public: d.issuer.Public()}}
}

// shelf is a place in memory.
type shelf struct {
	mu    sync.Mutex
	kept  []byte
	fails error
	puts  int
}

func (s *shelf) Name() string { return "registry r.example/team:scitt-log" }

func (s *shelf) Get(context.Context) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails == nil && s.kept == nil {
		return nil, ErrNothing
	}
	return s.kept, s.fails
}

func (s *shelf) Put(_ context.Context, b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails != nil {
		return s.fails
	}
	s.kept = b
	s.puts++
	return nil
}

// told is somebody else's memory.
type told struct {
	r   Remembered
	err error
}

func (told) Name() string { return "witness w.example" }

func (w told) Last(context.Context) (Remembered, error) { return w.r, w.err }

func TestTheLogIsHeldAgainstEveryMemory(t *testing.T) {
	d := newDatabase(t, "true", 10)
	other, twisted := newDatabase(t, "true", 10), &database{issuer: d.issuer, history: "false"}
	torn := &database{issuer: d.issuer, history: "true", size: 10, broken: errors.New("tile 0/0 does not give its root")}
	away := told{err: errors.New("connection refused")}
	root8 := d.root(8)
	for _, c := range []struct {
		name   string
		log    *database
		file   any // nil: no file; "": one that is not there; a head; or text
		others []Memory
		want   error
		texts  []string
	}{
		{"nobody remembers anything", d, nil, nil, nil, nil},
		{"a first start", d, "", nil, nil, nil},
		{"a first start, and the registry is empty", d, "", []Memory{told{err: ErrNothing}}, nil, nil},
		{"the file has the newest head", d, d.head(t, 10), nil, nil, nil},
		{"the file is behind", d, d.head(t, 8), nil, nil, nil},
		{"a witness tells a size it has", d, "", []Memory{told{r: Remembered{Size: 9}}}, nil, nil},
		{"a witness tells size and root", d, "", []Memory{told{r: Remembered{Size: 8, Root: root8[:]}}}, nil, nil},

		{"the database is behind the file", d, d.head(t, 12), nil, ErrRollback,
			[]string{"remembers size 12 (root ", "the database ends at size 10 (root ", "2 entries are missing"}},
		{"the database is behind a witness", d, d.head(t, 10), []Memory{told{r: Remembered{Size: 11}}}, ErrRollback,
			[]string{"witness w.example remembers size 11", "1 entries are missing"}},
		{"the root is another", d, twisted.head(t, 8), nil, ErrRollback, []string{"remembers size 8 (root ", "the database has root "}},
		{"the head is gone", d, d.head(t, 7), nil, ErrRollback, []string{"remembers a head of size 7", "has none of that size"}},
		{"the growth cannot be proven", torn, d.head(t, 8), nil, ErrRollback, []string{"cannot prove that it continues it: tile 0/0"}},
		{"the file is another log's", d, other.head(t, 8), nil, ErrRollback, []string{"signed by no key of this log"}},
		{"a witness knows another root", d, d.head(t, 8), []Memory{told{err: fmt.Errorf("%w: forked", ErrRollback)}}, ErrRollback, []string{"ask witness w.example"}},
		{"one vetoes although others agree", d, d.head(t, 8), []Memory{told{r: Remembered{Size: 8}}, told{r: Remembered{Size: 12}}}, ErrRollback, nil},
		{"the file holds nonsense", d, "{", nil, errAny, []string{"it holds no head"}},
		{"the file is empty", d, " ", nil, errAny, []string{"it holds no head"}},

		{"the registry is away, but the disk remembers", d, d.head(t, 10), []Memory{away}, nil, nil},
		{"an empty disk, and the registry is away", d, "", []Memory{away}, ErrUnheard, []string{"this disk remembers nothing", "witness w.example"}},
		{"no disk, and the registry is away", d, nil, []Memory{away}, ErrUnheard, nil},
		{"an empty disk, and one of two is heard", d, "", []Memory{away, told{r: Remembered{Size: 8}}}, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var file *File
			if c.file != nil {
				file = &File{Path: filepath.Join(t.TempDir(), "head.json")}
			}
			switch v := c.file.(type) {
			case receipts.SignedHead:
				if err := file.Keep(t.Context(), v); err != nil {
					t.Fatal(err)
				}
			case string:
				if v != "" {
					if err := os.WriteFile(file.Path, []byte(v), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			err := Check(t.Context(), c.log, file, c.others, func(Memory, error) {})
			if c.want == errAny && err != nil && !errors.Is(err, ErrNothing) {
				c.want = err
			}
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			for _, text := range c.texts {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("%q is missing in: %v", text, err)
				}
			}
		})
	}
}

// errAny stands for any error but ErrNothing.
var errAny = errors.New("any")

func TestAFileKeepsTheLastHeadOrTheOneBefore(t *testing.T) {
	d := newDatabase(t, "true", 10)
	folder := t.TempDir()
	f := &File{Path: filepath.Join(folder, "head.json")}
	for _, size := range []uint64{2, 4, 6} {
		if err := f.Keep(t.Context(), d.head(t, size)); err != nil {
			t.Fatal(err)
		}
		r, err := f.Last(t.Context())
		if err != nil || r.Size != size || r.Signed.Head != d.head(t, size).Head && !r.Signed.Time.Equal(d.head(t, size).Time) {
			t.Fatalf("%+v, %v; want the head of size %d", r, err, size)
		}
	}
	left, err := os.ReadDir(folder)
	if err != nil || len(left) != 1 {
		t.Errorf("%v, %v; want the file alone", left, err)
	}
	gone := &File{Path: filepath.Join(folder, "missing", "head.json")}
	if err := gone.Keep(t.Context(), d.head(t, 8)); err == nil || !strings.Contains(err.Error(), "remember size 8") {
		t.Errorf("kept in a folder that is not there: %v", err)
	}
}

func TestAFileIsHeldByOneProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "head.json")
	one, other := &File{Path: path}, &File{Path: path} // a lock is of who opened it, so that one process is enough
	if err := one.Hold(); err != nil {
		t.Fatal(err)
	}
	db := newDatabase(t, "a", 10)
	if err := one.Keep(t.Context(), db.head(t, 4)); err != nil { // which replaces the file
		t.Fatal(err)
	}
	if err := other.Hold(); !errors.Is(err, ErrShared) || !strings.Contains(err.Error(), path) {
		t.Errorf("held twice: %v, want ErrShared and the path", err)
	}
	if last, err := other.Last(t.Context()); err != nil || last.Size != 4 {
		t.Errorf("read by another: size %d, %v", last.Size, err)
	}
	if err := errors.Join(one.Release(), one.Release()); err != nil {
		t.Error(err)
	}
	if err := errors.Join(other.Hold(), other.Release()); err != nil {
		t.Errorf("held after its release: %v", err)
	}
}

func TestInSyncModeRememberReturnsOnceTheFileHasIt(t *testing.T) {
	d := newDatabase(t, "true", 10)
	folder := filepath.Join(t.TempDir(), "volume")
	g := NewGuard(d, Options{File: &File{Path: filepath.Join(folder, "head.json")}, Sync: true, Log: slog.New(slog.DiscardHandler)})
	if err := g.Remember(t.Context(), d.head(t, 8)); err == nil {
		t.Fatal("remembered on a volume that is not there")
	}
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, size := range []uint64{8, 10, 8} { // an older one changes nothing
		if err := g.Remember(t.Context(), d.head(t, size)); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := g.o.File.Last(t.Context()); err != nil || r.Size != 10 {
		t.Errorf("%+v, %v; want size 10", r, err)
	}
}

// running runs g until stop, which writes what is left.
func running(t *testing.T, g *Guard) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.Run(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

func TestWhatIsCommittedDuringAWriteGoesIntoTheNext(t *testing.T) {
	d := newDatabase(t, "true", 1000)
	s := &shelf{}
	file := &File{Path: filepath.Join(t.TempDir(), "head.json")}
	g := NewGuard(d, Options{File: file, Shelf: s, Pace: time.Hour, Log: slog.New(slog.DiscardHandler)})
	stop := running(t, g)
	for size := uint64(2); size <= 1000; size += 2 {
		if err := g.Remember(t.Context(), d.head(t, size)); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	if s.puts > 2 {
		t.Errorf("%d writes within one pace", s.puts)
	}
	for _, m := range []Memory{file, Shelved{s}} {
		if r, err := m.Last(t.Context()); err != nil || r.Size != 1000 {
			t.Errorf("%s: %+v, %v; want size 1000", m.Name(), r, err)
		}
	}
	if lag := g.Lag(); lag != 0 {
		t.Errorf("lag %d after all was written", lag)
	}
}

func TestASharedMemoryIsReadBeforeItIsWritten(t *testing.T) {
	d := newDatabase(t, "true", 20)
	twisted := &database{issuer: d.issuer, history: "false"}
	for _, c := range []struct {
		name  string
		there receipts.SignedHead
		want  uint64 // size that is there at last
		veto  string
	}{
		{"nothing", receipts.SignedHead{}, 10, ""},
		{"an older head", d.head(t, 8), 10, ""},
		{"a later head of another replica", d.head(t, 20), 20, ""},
		{"a later head that the database has lost", d.head(t, 22), 22, "2 entries are missing"},
		{"another history", twisted.head(t, 8), 8, "the database has root"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &shelf{}
			if c.there.Size > 0 {
				s.kept = encode(c.there)
			}
			var vetoes []error
			g := NewGuard(d, Options{Shelf: s, Veto: func(err error) { vetoes = append(vetoes, err) }, Log: slog.New(slog.DiscardHandler)})
			stop := running(t, g)
			if err := g.Remember(t.Context(), d.head(t, 10)); err != nil {
				t.Fatal(err)
			}
			stop()
			if r, err := (Shelved{s}).Last(t.Context()); err != nil || r.Size != c.want {
				t.Errorf("%+v, %v; want size %d", r, err, c.want)
			}
			switch {
			case c.veto == "" && len(vetoes) > 0:
				t.Errorf("vetoed: %v", vetoes)
			case c.veto != "" && (len(vetoes) != 1 || !errors.Is(vetoes[0], ErrRollback) || !strings.Contains(vetoes[0].Error(), c.veto)):
				t.Errorf("vetoes %v, want one with %q", vetoes, c.veto)
			}
		})
	}
}

func TestAnOutageIsToldOnceAndDelaysNothing(t *testing.T) {
	d := newDatabase(t, "true", 20)
	s := &shelf{fails: errors.New("connection refused")}
	var lines bytes.Buffer
	g := NewGuard(d, Options{Shelf: s, Pace: time.Nanosecond, Log: slog.New(slog.NewTextHandler(&lines, nil))})
	for size := uint64(2); size <= 20; size += 2 {
		if err := g.Remember(t.Context(), d.head(t, size)); err != nil {
			t.Fatal(err)
		}
	}
	if lag := g.Lag(); lag != 20 {
		t.Errorf("lag %d, want 20", lag)
	}
	running(t, g)()
	if n := strings.Count(lines.String(), "external memory not written"); n < 1 || n > 2 {
		t.Errorf("%d lines:\n%s", n, &lines)
	}
	if s.fails = nil; s.kept != nil {
		t.Error("something was written during the outage")
	}
}
