package ledger

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

// submissions are n of them with payloads of so many bytes.
func submissions(t *testing.T, n, payload int) []Submission {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	all := make([]Submission, n)
	for i := range all {
		fill := make([]byte, payload)
		fill[0], fill[1], fill[2] = byte(i>>16), byte(i>>8), byte(i)
		signed, err := statement.Sign(statement.Template{
			Issuer: "https://wabbit.example", Subject: "load", ContentType: "application/octet-stream", Payload: fill,
		}, key)
		if err != nil {
			t.Fatal(err)
		}
		if all[i].Statement, err = statement.Parse(signed); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// clock is set by the test.
type clock struct{ now time.Time }

func (c *clock) wall() time.Time { return c.now }

// fill puts all and returns how many were taken; what is not taken must be
// refused as overload.
func fill(t *testing.T, q *queue, all []Submission) (taken int) {
	t.Helper()
	for _, sub := range all {
		switch _, err := q.put(sub); {
		case err == nil:
			taken++
		case !errors.Is(err, ErrOverloaded):
			t.Fatalf("put: %v, want ErrOverloaded", err)
		}
	}
	return taken
}

func TestQueueIsBoundedInEntries(t *testing.T) {
	q := newQueue(0, (&clock{}).wall)
	all := submissions(t, defaultQueue+5, 3)
	if n := fill(t, q, all); n != 4096 {
		t.Errorf("%d submissions were taken in, want 4096", n)
	}
	if err := q.room(); !errors.Is(err, ErrOverloaded) {
		t.Errorf("room in a full queue: %v", err)
	}
	if n := len(q.take()); n != maxBatch {
		t.Errorf("a batch of %d, want %d", n, maxBatch)
	}
	if n := fill(t, q, all); n != maxBatch {
		t.Errorf("%d places after a batch of %d was taken", n, maxBatch)
	}
	if waiting, _, refused := q.load(); waiting != defaultQueue || refused != 5+defaultQueue+5-maxBatch {
		t.Errorf("%d wait, %d were refused", waiting, refused)
	}
}

func TestWhatIsKeptBesideAStatementCountsAndEvidenceDoesNot(t *testing.T) {
	q := newQueue(0, (&clock{}).wall)
	all := submissions(t, 100, 100)
	for i := range all {
		all[i].Materials = []policy.Material{
			{Kind: policy.KeySetDocument, Source: "https://wabbit.example/jwks.json", Body: make([]byte, 256<<10)},
			{Kind: policy.EvidenceDocument, Source: "sha256:…", Body: make([]byte, 64<<10)},
		}
	}
	if n := fill(t, q, all); n != len(all) {
		t.Fatalf("%d submissions were taken in, want %d", n, len(all))
	}
	if n := len(q.take()); n != 63 {
		t.Errorf("a batch of %d submissions with 256 KiB each beside them, want 63 in 16 MiB", n)
	}
}

func TestQueueIsBoundedInBytes(t *testing.T) {
	q := newQueue(0, (&clock{}).wall)
	all := submissions(t, 80, 1<<20-400) // 1 MiB each, less their headers
	taken := fill(t, q, all)
	_, bytes, _ := q.load()
	if taken < 64 || taken > 65 || bytes < maxQueueBytes || bytes > maxQueueBytes+statement.MaxSize {
		t.Errorf("%d submissions of %d bytes were taken in, want 64 MiB of them and the one that fills it", taken, bytes)
	}
	batch := q.take()
	size := 0
	for _, w := range batch {
		size += len(w.Statement.Canonical())
	}
	if size > maxBatchBytes || len(batch) != 16 {
		t.Errorf("a batch of %d submissions and %d bytes, want at most %d", len(batch), size, maxBatchBytes)
	}
	if joined := q.join(batch[:15]); len(joined) != 16 {
		t.Errorf("a batch of 15 MiB grew to %d submissions, want 16", len(joined))
	}
	for n := len(q.take()); n > 0; {
		if waiting, _, _ := q.load(); waiting == 0 {
			break
		}
		n = len(q.take())
	}
	if waiting, bytes, _ := q.load(); waiting != 0 || bytes != 0 {
		t.Errorf("an empty queue counts %d submissions of %d bytes", waiting, bytes)
	}
}

func TestQueueRefusesWhileItsOldestWaitsTooLong(t *testing.T) {
	c := &clock{now: time.Unix(1_800_000_000, 0)}
	q := newQueue(0, c.wall)
	all := submissions(t, 5, 3)
	fill(t, q, all[:1])
	c.now = c.now.Add(maxWait)
	if n := fill(t, q, all[1:2]); n != 1 {
		t.Error("refused when the oldest had waited just as long as it may")
	}
	c.now = c.now.Add(time.Millisecond)
	if n := fill(t, q, all[2:3]); n != 0 {
		t.Error("taken in although the oldest waits too long")
	}
	q.take()
	if n := fill(t, q, all[3:]); n != 2 {
		t.Error("refused after what was old had been taken")
	}
}

func TestBatchIsJoinedByWhatQueuedMeanwhile(t *testing.T) {
	q := newQueue(0, (&clock{}).wall)
	all := submissions(t, maxBatch+10, 3)
	fill(t, q, all[:4])
	batch := q.take()
	if batch = q.join(batch); len(batch) != 4 {
		t.Fatalf("a batch of 4 was joined by nobody and has %d", len(batch))
	}
	fill(t, q, all[4:])
	if batch = q.join(batch); len(batch) != maxBatch {
		t.Fatalf("a batch of %d, want %d", len(batch), maxBatch)
	}
	for i, w := range batch {
		if w.Statement.ID() != all[i].Statement.ID() {
			t.Fatalf("place %d of the batch is not in the order of coming", i)
		}
	}
	if waiting, _, _ := q.load(); waiting != 10 {
		t.Errorf("%d wait, want 10", waiting)
	}
}
