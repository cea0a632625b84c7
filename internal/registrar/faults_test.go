package registrar_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scittd/scittd/internal/registrar"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/ledger/sqlite"
	"github.com/scittd/scittd/statement"
	"github.com/scittd/scittd/storage"
)

var pairs = flag.Int("pairs", 100, "pairs of faults to try, drawn by lot; 0: all there are")

// fault is what becomes of one call of many: it ends as by, and with crash the
// process dies in it.
type fault struct {
	call  int // 0: none
	by    ledgertest.Fault
	crash bool
}

func (f fault) String() string {
	if f.call == 0 {
		return "no fault"
	}
	text := fmt.Sprintf("call %d %s", f.call, f.by)
	if f.crash {
		text += ", then a crash"
	}
	return text
}

// faults of call n.
func faults(n int) []fault {
	return []fault{
		{n, ledgertest.NotApplied, false}, {n, ledgertest.NotApplied, true},
		{n, ledgertest.Applied, false}, {n, ledgertest.Applied, true},
	}
}

// fate decides over the calls of one process: everything it writes to the store
// and everything it says to the registry, in the order of coming.
type fate struct {
	mu    sync.Mutex
	fault fault
	calls []string
	dead  bool
}

func (f *fate) of(call string) ledgertest.Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dead {
		return ledgertest.NotApplied
	}
	f.calls = append(f.calls, call)
	if len(f.calls) != f.fault.call {
		return ledgertest.None
	}
	f.dead = f.fault.crash
	return f.fault.by
}

func (f *fate) isDead() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dead
}

// run lets do happen, or not, as fate has it.
func (f *fate) run(call string, do func() error) error {
	switch f.of(call) {
	case ledgertest.NotApplied:
		return ledgertest.ErrFault
	case ledgertest.Applied:
		return errors.Join(ledgertest.ErrFault, do())
	}
	return do()
}

// fated is a store all of whose writes may fail.
type fated struct {
	*sqlite.Store
	fate *fate
}

// Now is the bubble's time.
func (s fated) Now(context.Context) (time.Time, error) { return time.Now(), nil }

func (s fated) Commit(ctx context.Context, b *ledger.Batch) error {
	return s.fate.run("Commit", func() error { return s.Store.Commit(ctx, b) })
}

// Turn is one whose commit may fail.
func (s fated) Turn(ctx context.Context) (ledger.Turn, error) {
	t, err := s.Store.Turn(ctx)
	return fatedTurn{t, s.fate}, err
}

type fatedTurn struct {
	ledger.Turn
	fate *fate
}

func (t fatedTurn) Commit(ctx context.Context, b *ledger.Batch) error {
	return t.fate.run("Commit", func() error { return t.Turn.Commit(ctx, b) })
}

func (s fated) Settle(ctx context.Context, owner string, d ledger.Delivery) error {
	return s.fate.run("Settle", func() error { return s.Store.Settle(ctx, owner, d) })
}

func (s fated) Due(ctx context.Context, p ledger.Pickup, now time.Time) (due []ledger.Delivery, err error) {
	// What nobody hears of is leased all the same.
	err = s.fate.run("Due", func() error { due, err = s.Store.Due(ctx, p, now); return err })
	return due, err
}

func (s fated) Renew(ctx context.Context, owner string, at ledger.Place, now, until time.Time) (held bool, err error) {
	err = s.fate.run("Renew", func() error { held, err = s.Store.Renew(ctx, owner, at, now, until); return err })
	return held, err
}

func (s fated) Stage(ctx context.Context, digest statement.Digest, r io.Reader, limits ledger.StagingLimits) (size int64, err error) {
	err = s.fate.run("Stage", func() error { size, err = s.Store.Stage(ctx, digest, r, limits); return err })
	return size, err
}

// wire is a registry's server, each of whose answers may be lost, and each of
// whose requests. It keeps no connection: one that waits would stop the clock of
// a bubble.
type wire struct {
	server *httptest.Server
	to     atomic.Pointer[double]
	fate   atomic.Pointer[fate]
}

func newWire(t *testing.T) *wire {
	w := &wire{}
	w.server = httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		err := w.fate.Load().run(r.Method+" "+subjectOf(r), func() error {
			answer := httptest.NewRecorder()
			w.to.Load().ServeHTTP(answer, r)
			for name, values := range answer.Header() {
				rw.Header()[name] = values
			}
			if w.fate.Load().isDead() {
				return nil // and nobody to hear it
			}
			rw.WriteHeader(answer.Code)
			rw.Write(answer.Body.Bytes())
			return nil
		})
		if err != nil {
			panic(http.ErrAbortHandler)
		}
	}))
	w.server.Config.SetKeepAlivesEnabled(false)
	w.server.Start()
	t.Cleanup(w.server.Close)
	return w
}

// subjectOf is what a request is about: "blobs", "manifests", "referrers", or "list",
// the manifest under the referrers tag.
func subjectOf(r *http.Request) string {
	kind, ref, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"+repository+"/"), "/")
	if strings.HasPrefix(ref, "sha256-") {
		return "list"
	}
	return kind
}

// story is one claim with staged evidence on its way into log and registry, told
// again and again with different faults.
type story struct {
	*testing.T
	wire      *wire
	operator  *ledgertest.Operator
	publisher *ledgertest.Publisher
	genesis   []byte // the database of a new log
	image     statement.Digest
	dir       string

	evidence []byte
	claim    *statement.Statement
}

func newStory(t *testing.T) *story {
	s := &story{T: t, wire: newWire(t), operator: ledgertest.NewOperator(t),
		publisher: ledgertest.NewPublisher(t, "https://wabbit.example"), dir: memory(t), evidence: []byte("sbom")}
	file := filepath.Join(s.dir, "genesis.db")
	synctest.Test(t, func(t *testing.T) { // whose clock begins anew in each story
		store, err := sqlite.Open(t.Context(), file)
		if err != nil {
			t.Fatal(err)
		}
		s.operator.Init(t, ledgertest.Clocked(store, time.Now), s.publisher)
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
	})
	var err error
	if s.genesis, err = os.ReadFile(file); err != nil {
		t.Fatal(err)
	}
	s.image = statement.Digest(digestOf(imageManifest))
	s.claim = s.publisher.Claim(t, s.image, ledgertest.SBOM, s.evidence)
	return s
}

var imageManifest = []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",` +
	`"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + digestOf([]byte("{}")) + `","size":2},"layers":[]}`)

// memory is a folder that no disk slows down, where there is such a thing: what
// survives a power cut is another test's.
func memory(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "scittd-faults-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// tell runs one process for each fault and a last one without; what a process
// leaves undone, the next one finishes. It returns the calls of each, and checks
// log and registry in the end.
func (s *story) tell(all ...fault) (calls [][]string) {
	s.Helper()
	registry := newDouble(s.T)
	registry.blobs[digestOf([]byte("{}"))] = []byte("{}")
	registry.manifests[string(s.image)] = imageManifest
	s.wire.to.Store(registry)
	file := filepath.Join(s.dir, "ledger.db")
	if err := os.WriteFile(file, s.genesis, 0o600); err != nil {
		s.Fatal(err)
	}
	defer func() {
		for _, suffix := range []string{"", "-wal", "-shm", ".lock"} {
			os.Remove(file + suffix)
		}
	}()
	synctest.Test(s.T, func(t *testing.T) {
		var receipt []byte
		for _, f := range append(all, fault{}) {
			fate := &fate{fault: f}
			s.wire.fate.Store(fate)
			got := s.process(t, file, fate, f == fault{})
			if receipt != nil && got != nil && !bytes.Equal(receipt, got) {
				t.Errorf("%v: a second receipt", all)
			}
			if got != nil {
				receipt = got
			}
			calls = append(calls, fate.calls)
		}
		s.check(t, file, receipt)
	})
	manifests, list := registry.attached(string(s.image))
	if len(manifests) != 2 || len(list) != 2 {
		s.Errorf("%v: %d manifests refer to the image, its list has %d; want evidence and transparency artifact, once each", all, len(manifests), len(list))
	}
	if s.Failed() {
		s.Fatalf("%v:\n%s", all, calls)
	}
	return calls
}

// process opens everything, stages, registers and places, until it is done or
// dead, and closes what a crash would leave open. It returns the receipt it gave.
func (s *story) process(t *testing.T, file string, fate *fate, last bool) (receipt []byte) {
	t.Helper()
	disk, err := sqlite.Open(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	store := fated{disk, fate}
	l, err := ledger.Open(t.Context(), store, ledger.Options{Issuer: s.operator.Issuer(t), Registry: s.host()})
	if err != nil {
		t.Fatal(err)
	}
	remote, err := storage.OpenRemote(s.host(), storage.RemoteOptions{PlainHTTP: true, Credentials: anonymous})
	if err != nil {
		t.Fatal(err)
	}
	courier := registrar.NewCourier(l, store, func(string) (storage.Registry, error) { return remote, nil },
		registrar.CourierOptions{Owner: fmt.Sprint(time.Now())})
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { courier.Run(ctx) })
	defer func() {
		stop()
		running.Wait()
		remote.Close()
		if err := errors.Join(l.Close(context.Background()), disk.Close()); err != nil {
			t.Error(err)
		}
	}()

	r := registrar.New(l, registrar.Options{Registry: s.host(), Wake: courier.Wake})
	for try := 0; receipt == nil; try++ {
		if fate.isDead() || try == 10 {
			break
		}
		limits := ledger.StagingLimits{MaxSize: 1 << 20, Quota: 1 << 20, Keep: 24 * time.Hour}
		if _, err := store.Stage(t.Context(), statement.SHA256(s.evidence), bytes.NewReader(s.evidence), limits); err != nil {
			continue
		}
		if reg, err := r.Register(t.Context(), s.claim.Canonical(), ledger.Circumstances{Repository: repository, Caller: "test"}); err == nil {
			receipt = reg.Receipt
		}
	}
	if receipt == nil && last {
		t.Error("the claim is not registered in the end")
	}
	for deadline := time.Now().Add(time.Hour); receipt != nil && !s.settled(t, disk); {
		if fate.isDead() {
			break
		}
		if time.Now().After(deadline) {
			t.Error("the claim is not placed within an hour")
			break
		}
		time.Sleep(time.Second) // of the bubble's time
	}
	if fate.isDead() {
		return nil // nobody heard it
	}
	return receipt
}

func anonymous(context.Context, string) (storage.Credential, error) { return storage.Credential{}, nil }

func (s *story) host() string { return strings.TrimPrefix(s.wire.server.URL, "http://") }

func (s *story) settled(t *testing.T, store *sqlite.Store) bool {
	t.Helper()
	deliveries, err := store.Deliveries(t.Context(), s.claim.ID(), ledger.All)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range deliveries {
		if d.State == ledger.Refused {
			t.Fatalf("%s was refused: %s", d.Artifact, d.LastError)
		}
		if d.State == ledger.Queued {
			return false
		}
	}
	return len(deliveries) == 2
}

// check recomputes the log, which holds the claim once.
func (s *story) check(t *testing.T, file string, receipt []byte) {
	t.Helper()
	store, err := sqlite.Open(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if err := ledgertest.CheckLog(t.Context(), store, s.operator.Receipt.Public()); err != nil {
		t.Errorf("the log is not sound: %v", err)
	}
	reader, err := ledger.Open(t.Context(), store, ledger.Options{})
	if err != nil {
		t.Fatal(err)
	}
	head, err := reader.Head(t.Context())
	if err != nil || head.Size != 3 {
		t.Errorf("size %d, want 3: %v", head.Size, err)
	}
	kept, err := reader.Receipt(t.Context(), s.claim.ID(), ledger.Public)
	if err != nil || !bytes.Equal(kept, receipt) {
		t.Errorf("the receipt that was given is not the one that is kept: %v", err)
	}
}

// Every write of the way from upload to settled delivery, and every request to
// the registry, is broken four ways: it fails and was not done; it fails and was
// done; and the same with the process dying there.
func TestAnyFaultOnTheWayIsSurvived(t *testing.T) {
	t.Parallel()
	s := newStory(t)
	way := s.tell()[0]
	told := 0
	for n := range way {
		for _, f := range faults(n + 1) {
			s.tell(f)
			told++
		}
	}
	t.Logf("%d faults in %d calls: %s", told, len(way), strings.Join(way, ", "))
	for _, step := range []string{"Stage", "Commit", "Due", "Settle", "PUT blobs", "PUT manifests", "PUT list", "GET list"} {
		if !slices.Contains(way, step) {
			t.Errorf("%s is not on the way", step)
		}
	}
}

// The second fault hits the process that recovers from the first.
func TestAnyTwoFaultsOnTheWayAreSurvived(t *testing.T) {
	t.Parallel()
	s := newStory(t)
	var all [][2]fault
	way := s.tell()[0]
	for n := range way {
		for m := range way {
			for _, first := range faults(n + 1) {
				for _, second := range faults(m + 1) {
					all = append(all, [2]fault{first, second})
				}
			}
		}
	}
	rand.Shuffle(len(all), func(i, k int) { all[i], all[k] = all[k], all[i] })
	told := 0
	for _, p := range all {
		if told == *pairs && *pairs > 0 {
			break
		}
		if recovery := s.tell(p[0], p[1])[1]; len(recovery) >= p[1].call { // else it had less to do
			told++
		}
	}
	t.Logf("%d pairs of faults", told)
	if told == 0 {
		t.Error("no second fault was met")
	}
}
