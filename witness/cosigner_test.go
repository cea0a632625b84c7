package witness_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/scittd/scittd/witness"
	"github.com/scittd/scittd/witness/witnesstest"
)

// world is a log, its witnesses and a Cosigner whose clock stands still.
type world struct {
	t         *testing.T
	log       *witnesstest.Log
	witnesses []*witnesstest.Witness
	policy    *witness.Policy
	cosigner  *witness.Cosigner
	now       time.Time
	lines     bytes.Buffer // of the operator's log
	file      string
}

func newWorld(t *testing.T, quorum, witnesses int) *world {
	t.Helper()
	w := &world{t: t, log: newLog(t, 10), now: time.Unix(1_700_000_000, 0)}
	for i := range witnesses {
		w.witnesses = append(w.witnesses, witnesstest.New(t, "witness.example/"+string(rune('a'+i)), w.log.Verifier))
	}
	var err error
	if w.policy, err = witness.ParsePolicy([]byte(witnesstest.Policy(quorum, w.witnesses...))); err != nil {
		t.Fatal(err)
	}
	w.restart()
	return w
}

func (w *world) restart() {
	w.t.Helper()
	var err error
	w.cosigner, err = witness.NewCosigner(w.log, w.log.Verifier, w.policy, witness.CosignerOptions{
		File: w.file, Clock: func() time.Time { return w.now }, Log: slog.New(slog.NewTextHandler(&w.lines, nil)),
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) round() { w.cosigner.Round(w.t.Context()) }

// pass lets the longest backoff pass.
func (w *world) pass() { w.now = w.now.Add(witness.MaxDelay) }

// shows checks the cosigned checkpoint: its size, that it has its quorum, and
// how many cosignatures it carries.
func (w *world) shows(size uint64, cosignatures int) {
	w.t.Helper()
	signed, err := w.cosigner.Checkpoint(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	if got := w.cosigner.Status().Size; got != size {
		w.t.Fatalf("shows size %d, want %d", got, size)
	}
	if size == 0 {
		if signed != nil {
			w.t.Fatalf("shows %q before there is a quorum", signed)
		}
		return
	}
	if _, err := w.policy.Open(signed, w.log.Verifier); err != nil {
		w.t.Fatalf("shows %q: %v", signed, err)
	}
	n, err := note.Open(signed, note.VerifierList(w.log.Verifier))
	if err != nil {
		w.t.Fatal(err)
	}
	if len(n.UnverifiedSigs) != cosignatures {
		w.t.Fatalf("shows %d cosignatures, want %d: %q", len(n.UnverifiedSigs), cosignatures, signed)
	}
}

// stands checks the state of a witness.
func (w *world) stands(i int, state string, size uint64) {
	w.t.Helper()
	if s := w.cosigner.Status().Witnesses[i]; s.State != state || s.Size != size {
		w.t.Fatalf("witness %s: %s, size %d (%v), want %s, size %d", s.Name, s.State, s.Size, s.Err, state, size)
	}
}

func unavailable(rw http.ResponseWriter, _ *http.Request) {
	rw.WriteHeader(http.StatusServiceUnavailable)
}

func TestCheckpointIsShownOnceTwoOfThreeHaveCosigned(t *testing.T) {
	w := newWorld(t, 2, 3)
	w.shows(0, 0)
	w.stands(0, witness.Unknown, 0)
	w.cosigner.Ask(t.Context())
	w.cosigner.Take()
	w.shows(0, 0)
	w.cosigner.Take()
	w.shows(10, 2)
	w.cosigner.Take()
	w.shows(10, 3)
	w.stands(2, witness.Cosigns, 10)
	w.round() // an idle log is left alone
	for i, remote := range w.witnesses {
		if remote.Asked() != 1 {
			t.Errorf("witness %d was asked %d times for one checkpoint", i, remote.Asked())
		}
	}
	w.log.Grow(7, "main")
	w.round()
	w.shows(17, 3)
}

func TestOutageOfTheQuorumHoldsTheCosignedCheckpointAndEndsByItself(t *testing.T) {
	w := newWorld(t, 2, 3)
	w.round()
	w.shows(10, 3)

	w.witnesses[0].Break(unavailable)
	w.log.Grow(1, "main")
	w.round()
	w.shows(11, 2)
	w.stands(0, witness.Failing, 10)

	w.witnesses[1].Break(unavailable)
	w.log.Grow(1, "main")
	w.round()
	w.shows(11, 2)
	asked := w.witnesses[0].Asked()
	w.round()
	if w.witnesses[0].Asked() != asked {
		t.Error("a failing witness is asked again at once")
	}
	w.log.Grow(1, "main")
	w.pass()
	w.round()
	if got := w.lines.String(); strings.Count(got, "no quorum of witnesses") != 1 || strings.Count(got, "does not cosign") != 2 {
		t.Errorf("an outage is worth a line each, not more:\n%s", got)
	}

	w.witnesses[0].Break(nil)
	w.witnesses[1].Break(nil)
	w.pass()
	w.round()
	w.shows(13, 3)
	w.stands(0, witness.Cosigns, 13)
	w.log.Grow(1, "main")
	w.round()
	if got := w.lines.String(); strings.Count(got, "quorum of witnesses again") != 1 {
		t.Errorf("the end of the outage is not reported:\n%s", got)
	}
}

func TestSlowWitnessHoldsNobodyAndJoinsAgain(t *testing.T) {
	w := newWorld(t, 2, 3)
	hold := make(chan struct{})
	w.witnesses[0].Break(func(rw http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		<-hold
		rw.WriteHeader(http.StatusServiceUnavailable)
	})
	for range 3 {
		w.cosigner.Ask(t.Context())
		w.cosigner.Take()
		w.cosigner.Take()
		w.log.Grow(1, "main")
	}
	w.shows(12, 2)
	if n := w.witnesses[0].Asked(); n != 1 {
		t.Errorf("a witness that has not answered was asked %d times", n)
	}
	w.witnesses[0].Break(nil)
	close(hold)
	w.cosigner.Take()
	w.pass()
	w.round()
	w.shows(13, 3)
}

func TestLateCosignatureIsAddedToTheCheckpointItIsFor(t *testing.T) {
	w := newWorld(t, 1, 2)
	release := func(i int) func() { // the next request waits until it is called
		gate, remote := make(chan struct{}), w.witnesses[i]
		remote.Break(func(rw http.ResponseWriter, r *http.Request) {
			<-gate
			remote.Break(nil)
			remote.ServeHTTP(rw, r)
		})
		return func() { close(gate) }
	}
	first := release(0)
	w.cosigner.Ask(t.Context())
	w.cosigner.Take()
	w.shows(10, 1)
	w.log.Grow(1, "main")
	second := release(1)
	w.cosigner.Ask(t.Context())
	first()
	w.cosigner.Take()
	w.shows(10, 2)
	second()
	w.cosigner.Take()
	w.shows(11, 1)
}

func TestRestartLosesNoCosignedCheckpoint(t *testing.T) {
	w := newWorld(t, 2, 2)
	w.file = filepath.Join(t.TempDir(), "witnessed.checkpoint")
	w.restart()
	w.round()
	w.shows(10, 2)

	w.restart() // with everybody away
	w.witnesses[0].Break(unavailable)
	w.log.Grow(1, "main")
	w.round()
	w.shows(10, 2)

	for _, damage := range []string{"", "garbage", "a\n1\nAAAA\n\n"} {
		if err := os.WriteFile(w.file, []byte(damage), 0o600); err != nil {
			t.Fatal(err)
		}
		w.restart()
		w.shows(0, 0)
	}
	plain := checkpointOf(t, w.log)
	if err := os.WriteFile(w.file, plain, 0o600); err != nil {
		t.Fatal(err)
	}
	w.restart()
	w.shows(0, 0) // never called cosigned, whoever wrote it

	w.witnesses[0].Break(nil)
	w.round() // without any memory the witnesses answer again
	w.shows(11, 2)
	left, err := filepath.Glob(filepath.Join(filepath.Dir(w.file), "*"))
	if err != nil || len(left) != 1 {
		t.Errorf("files %v, %v, want one", left, err)
	}
}

func TestRolledBackLogIsReportedOnceAndNotAskedAbout(t *testing.T) {
	w := newWorld(t, 2, 2)
	w.round()
	w.log.Rollback(6)
	w.restart()
	w.round()
	w.stands(0, witness.Failing, 10) // another replica might be ahead
	w.now = w.now.Add(2 * time.Second)
	w.round()
	w.stands(0, witness.Ahead, 10)
	w.stands(1, witness.Ahead, 10)
	w.shows(0, 0)
	asked := w.witnesses[0].Asked()
	for range 20 {
		w.now = w.now.Add(time.Second)
		w.round()
	}
	if n := w.witnesses[0].Asked(); n != asked {
		t.Errorf("asked %d more times within 20 seconds", n-asked)
	}
	if got := w.lines.String(); strings.Count(got, "level=ERROR") != 2 || !strings.Contains(got, "rolled back") {
		t.Errorf("one error for each witness expected:\n%s", got)
	}

	w.log.Grow(5, "another story")
	w.pass()
	w.round()
	w.stands(0, witness.Forked, 10)
	if got := w.lines.String(); strings.Count(got, "another history") != 2 {
		t.Errorf("the fork is not reported:\n%s", got)
	}
	if got := w.witnesses[0].Seen(origin); got != 10 {
		t.Errorf("witness has cosigned size %d of a forked log", got)
	}
	w.shows(0, 0)
}

func TestReplicaThatLagsIsNotTakenForARollback(t *testing.T) {
	w := newWorld(t, 1, 1)
	w.round()
	ahead, lagging := w.cosigner, w.log
	w.log.Grow(5, "main")
	ahead.Round(t.Context())
	lagging.Rollback(12) // what this replica has seen so far
	w.restart()
	w.round()
	w.stands(0, witness.Failing, 15)
	lagging.Grow(8, "main")
	w.now = w.now.Add(2 * time.Second)
	w.round()
	w.stands(0, witness.Cosigns, 20)
	if strings.Contains(w.lines.String(), "level=ERROR") {
		t.Errorf("reported:\n%s", w.lines.String())
	}
}

// slow is a replica whose checkpoint is older than what it could prove.
type slow struct {
	*witnesstest.Log
	checkpoint []byte
}

func (l slow) Checkpoint(context.Context) ([]byte, error) { return l.checkpoint, nil }

func TestReplicaThatIsOvertakenAgainAndAgainRaisesNoAlarm(t *testing.T) {
	w := newWorld(t, 1, 1)
	w.round()
	other := w.cosigner
	late := slow{Log: w.log}
	var lines bytes.Buffer
	overtaken, err := witness.NewCosigner(&late, w.log.Verifier, w.policy, witness.CosignerOptions{
		Clock: func() time.Time { return w.now }, Log: slog.New(slog.NewTextHandler(&lines, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		w.log.Grow(1, "main")
		if late.checkpoint, err = w.log.Checkpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.log.Grow(1, "main")
		other.Round(t.Context())
		overtaken.Round(t.Context())
		w.now = w.now.Add(time.Second)
	}
	if lines.Len() > 0 {
		t.Errorf("reported:\n%s", lines.String())
	}
	late.checkpoint, err = w.log.Checkpoint(t.Context())
	overtaken.Round(t.Context())
	if s := overtaken.Status(); err != nil || s.Size != 20 || s.Witnesses[0].State != witness.Cosigns {
		t.Errorf("once it comes first: %+v, %v; want its checkpoint of size 20 cosigned", s, err)
	}
}

func TestTwoReplicasShareTheirWitnesses(t *testing.T) {
	w := newWorld(t, 2, 3)
	one := w.cosigner
	w.restart()
	for range 5 {
		w.log.Grow(3, "main")
		one.Round(t.Context())
		w.round()
		w.shows(uint64(one.Status().Size), 3)
	}
	w.shows(25, 3)
}

func TestIdleLogIsCosignedAgainBeforeItsCosignaturesAreOld(t *testing.T) {
	w := newWorld(t, 1, 1)
	w.round()
	w.now = w.now.Add(9 * time.Minute)
	w.round()
	if n := w.witnesses[0].Asked(); n != 1 {
		t.Errorf("asked %d times in nine minutes", n)
	}
	w.now = w.now.Add(time.Minute)
	w.round()
	if n := w.witnesses[0].Asked(); n != 2 {
		t.Errorf("asked %d times in ten minutes", n)
	}
	w.shows(10, 1)
}

func TestWithoutRequiredCosignaturesTheNewestCheckpointIsNotHeldBack(t *testing.T) {
	w := newWorld(t, 0, 2)
	w.witnesses[0].Break(unavailable)
	for range 3 {
		w.log.Grow(1, "main")
		signed, err := w.cosigner.Checkpoint(t.Context())
		if plain := checkpointOf(t, w.log); err != nil || !bytes.Equal(signed, plain) {
			t.Fatalf("%q, %v, want %q", signed, err, plain)
		}
		w.round()
		signed, err = w.cosigner.Checkpoint(t.Context())
		if plain := checkpointOf(t, w.log); err != nil || !bytes.HasPrefix(signed, plain) || len(signed) == len(plain) {
			t.Fatalf("%q, %v, want %q and a cosignature", signed, err, plain)
		}
	}
}

func TestWitnessesThatCannotBeAskedMakeNoQuorum(t *testing.T) {
	l := newLog(t, 1)
	_, vkeys := keys(t, 1)
	p, err := witness.ParsePolicy([]byte("witness a " + vkeys[0] + "\nquorum a\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := witness.NewCosigner(l, l.Verifier, p, witness.CosignerOptions{}); err == nil || !strings.Contains(err.Error(), "quorum") {
		t.Errorf("NewCosigner: %v, want an error about the quorum", err)
	}
}

func TestRunCosignsAGrowingLogUntilItIsStopped(t *testing.T) {
	l := newLog(t, 1)
	a, b := witnesstest.New(t, "witness.example/a", l.Verifier), witnesstest.New(t, "witness.example/b", l.Verifier)
	p, err := witness.ParsePolicy([]byte(witnesstest.Policy(1, a, b)))
	if err != nil {
		t.Fatal(err)
	}
	c, err := witness.NewCosigner(l, l.Verifier, p, witness.CosignerOptions{Every: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); c.Run(ctx) }()
	for size := uint64(1); size <= 20; size++ {
		for c.Status().Size < size {
			runtime.Gosched()
		}
		l.Grow(1, "main")
	}
	b.Break(func(_ http.ResponseWriter, r *http.Request) { // hangs until Run gives up
		io.Copy(io.Discard, r.Body)
		stop()
		<-r.Context().Done()
	})
	l.Grow(1, "main")
	<-done
}

func TestBackoffDoublesWithJitterUpToItsLimit(t *testing.T) {
	for failures := 1; failures < 100; failures++ {
		limit := witness.MaxDelay
		if failures < 7 {
			limit = min(limit, time.Second<<(failures-1))
		}
		for range 100 {
			if d := witness.Backoff(failures); d <= 0 || d > limit {
				t.Fatalf("failure %d waits %s, want (0, %s]", failures, d, limit)
			}
		}
	}
}
