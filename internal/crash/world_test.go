package crash

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/internal/failpoint"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/statement"
)

const (
	clients   = 12 // registrations under way at a time
	perRound  = 24 // new statements between two kills
	again     = 4  // acknowledged ones that are submitted once more meanwhile
	lookBacks = 8  // old receipts that are read after each kill

	soakClients = 6 // of a soak, each doing one thing at a time
)

// world is one log under load, with its journal.
type world struct {
	*site
	chance  *rand.Rand
	journal *journal
	open    func(ctx context.Context) (ledger.Store, error) // the store, once nobody serves it
	key     crypto.Signer                                   // the publisher's
	signed  int
	said    int // statements of the operator's that the log holds
}

func newWorld(t *testing.T, chance *rand.Rand, open func(*site) func(context.Context) (ledger.Store, error), replicas int, settings ...string) *world {
	t.Helper()
	w := &world{site: newSite(t, replicas, settings...), chance: chance}
	w.open = open(w.site)
	w.key = w.private(w.path("tester.pem"))
	w.said = 2 // policy and service come first
	w.journal = newJournal(w.receiptKey("receipt.pem"))
	return w
}

// receiptKey is the public half of a key of the first replica's.
func (w *world) receiptKey(file string) cose.Key {
	w.t.Helper()
	return cose.Key{Alg: cose.ES256, Public: w.private(filepath.Join(w.replicas[0].dir, "keys", file)).Public()}
}

func (w *world) private(file string) crypto.Signer {
	w.t.Helper()
	pem, err := os.ReadFile(file)
	if err != nil {
		w.t.Fatal(err)
	}
	key, err := cose.ParsePrivatePEM(pem)
	if err != nil {
		w.t.Fatal(err)
	}
	return key
}

// sign makes n statements, all different, about image if there is one.
func (w *world) sign(n int, image string) {
	w.t.Helper()
	for range n {
		w.signed++
		sub := fmt.Sprintf("https://tests.wabbit.example/runs/%d", w.signed)
		if image != "" {
			sub = "pkg:oci/net-monitor@" + image
		}
		body, err := statement.Sign(statement.Template{
			Issuer: "https://tests.wabbit.example", Subject: sub,
			ContentType: "application/json", Payload: fmt.Appendf(nil, `{"run": %d}`, w.signed),
		}, w.key)
		if err != nil {
			w.t.Fatal(err)
		}
		s, err := statement.Parse(body)
		if err != nil {
			w.t.Fatal(err)
		}
		w.journal.entries = append(w.journal.entries, &entry{id: s.ID(), image: image, body: body})
	}
}

// post is one statement on its way to one replica.
type post struct {
	*entry
	to *replica
}

// round is what is submitted until the next kill: what the last one left without
// a promise, new statements, and some that have one.
func (w *world) round() []post {
	w.sign(max(0, perRound-len(w.journal.open())), "")
	return w.posts()
}

func (w *world) posts() []post {
	entries := w.journal.open()
	if known := w.journal.acknowledged(); len(known) > 0 {
		for range again {
			entries = append(entries, known[w.chance.IntN(len(known))])
		}
	}
	var posts []post
	for _, e := range entries {
		posts = append(posts, post{e, w.replicas[w.chance.IntN(len(w.replicas))]})
	}
	w.chance.Shuffle(len(posts), func(i, k int) { posts[i], posts[k] = posts[k], posts[i] })
	return posts
}

// submit sends posts, clients at a time. An answer other than a promise, a broken
// connection or "later" is an error.
func (w *world) submit(posts []post, answered func()) {
	var sending sync.WaitGroup
	queue := make(chan post)
	for range clients {
		sending.Go(func() {
			for p := range queue {
				status, body, err := p.to.do(http.MethodPost, "/entries", p.body)
				switch {
				case err != nil, status == http.StatusServiceUnavailable, status == http.StatusAccepted:
				case status == http.StatusCreated:
					w.journal.promised(p.entry, body)
					answered()
				default:
					w.t.Errorf("entry %s: %d\n%s", p.id, status, body)
				}
			}
		})
	}
	for _, p := range posts {
		queue <- p
	}
	close(queue)
	sending.Wait()
}

// during sends posts, and strikes a moment after so many were answered, or when
// all are through; 0: only then.
func (w *world) during(posts []post, answers int, strike func()) {
	var count atomic.Int64
	reached, through := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(through)
		w.submit(posts, func() {
			if count.Add(1) == int64(answers) {
				close(reached)
			}
		})
	}()
	select {
	case <-reached:
		time.Sleep(time.Duration(w.chance.IntN(2_000)) * time.Microsecond) // the moment is chance, not order
	case <-through:
	}
	strike()
	<-through
	w.journal.figures.Unanswered += len(w.journal.open())
}

// lookBack reads receipts of entries that were acknowledged: each is the one
// that was given.
func (w *world) lookBack(entries []*entry) {
	w.t.Helper()
	for _, e := range entries {
		r := w.replicas[w.chance.IntN(len(w.replicas))]
		get := func() (int, []byte, error) { return r.do(http.MethodGet, "/v1/entries/"+e.id.String()+"/receipt", nil) }
		status, body, err := get()
		for deadline := time.Now().Add(patience); status == http.StatusServiceUnavailable && time.Now().Before(deadline); {
			time.Sleep(50 * time.Millisecond) // its connections went with the database
			status, body, err = get()
		}
		switch {
		case err != nil:
			w.t.Errorf("receipt of entry %s: %v", e.id, err)
		case status == http.StatusNotFound:
			w.journal.lost(e, "404")
		case status != http.StatusOK:
			w.t.Errorf("receipt of entry %s: %d\n%s", e.id, status, body)
		default:
			w.journal.promised(e, body)
		}
	}
}

// recent are the entries that were acknowledged last, and some older ones.
func (w *world) recent() []*entry {
	known := w.journal.acknowledged()
	last := known[max(0, len(known)-perRound):]
	if len(known) > 0 {
		for range lookBacks {
			last = append(slices.Clip(last), known[w.chance.IntN(len(known))])
		}
	}
	return last
}

// killService is a round that ends a replica after some answers; with fail, a
// SCITTD_FAILPOINT, while it stands still there or where it ends itself.
func (w *world) killService(r *replica, fail string) {
	w.t.Helper()
	if fail != "" {
		r.kill() // nothing is under way; a failpoint needs a new process
		r.start(fail)
	}
	if fail == "" || strings.Contains(fail, "=") {
		w.during(w.round(), 1+w.chance.IntN(perRound*3/4), r.kill)
	} else {
		w.during(w.round(), 0, func() {
			select {
			case <-r.exited: // clients may know a little before we do
				point, _, _ := strings.Cut(fail, ":")
				w.journal.figures.AtPoint[failpoint.Point(point)]++
			case <-time.After(100 * time.Millisecond): // it was not there so often
			}
			r.kill()
		})
	}
	w.journal.figures.Kills++
	r.start("")
	w.lookBack(w.recent())
}

// finish submits what is left until all is acknowledged, reads every receipt
// back, ends the service by a last kill, and audits the store.
func (w *world) finish() figures {
	w.t.Helper()
	for try := 0; len(w.journal.open()) > 0; try++ {
		if try == 10 {
			w.t.Fatalf("%d statements are not registered in the end", len(w.journal.open()))
		}
		w.submit(w.posts(), func() {})
	}
	w.lookBack(w.journal.acknowledged())
	for _, r := range w.replicas {
		r.kill()
	}
	w.audit()
	for _, finding := range w.journal.findings {
		w.t.Error(finding)
	}
	return w.journal.figures
}

// audit recomputes the log from the store, and compares it with the journal.
func (w *world) audit() {
	w.t.Helper()
	ctx := w.t.Context()
	store, err := w.open(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	defer store.Close()
	var trusted []crypto.PublicKey
	for _, k := range w.journal.keys {
		trusted = append(trusted, k.Public)
	}
	if err := ledgertest.CheckLog(ctx, store, trusted...); err != nil {
		w.t.Errorf("the log is not sound: %v", err)
	}
	j := w.journal
	for _, e := range j.acknowledged() {
		found, err := store.Indexes(ctx, []statement.ID{e.id}, ledger.All)
		if err != nil {
			w.t.Fatal(err)
		}
		if index, ok := found[e.id]; !ok {
			j.lost(e, "not in the store")
		} else if index != e.index {
			j.lost(e, fmt.Sprintf("at index %d in the store", index))
		}
	}
	// Every root that was ever given out is a head that is kept; CheckLog has
	// shown that the leaves lead to each of those.
	j.mu.Lock()
	defer j.mu.Unlock()
	for size := range j.roots {
		h, err := store.HeadFor(ctx, size-1)
		if err != nil && !errors.Is(err, ledger.ErrNotFound) {
			w.t.Fatal(err)
		}
		if err != nil || h.Size != size {
			j.find(&j.figures.Forked, "no head of size %d is kept, but it was given out", size)
			continue
		}
		j.root(size, h.Root)
	}
	head, err := store.Head(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	if want := uint64(len(j.entries) + w.said); head.Size > want {
		j.find(&j.figures.Duplicated, "the log has size %d, want %d", head.Size, want)
		j.figures.Duplicated += int(head.Size-want) - 1
	}
}
