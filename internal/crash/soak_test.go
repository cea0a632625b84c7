package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/scittd/scittd/client"
	"github.com/scittd/scittd/internal/testenv"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// soak is a world in which nothing is killed: every request has to be answered
// as if it were the only one, for as long as it lasts.
type soak struct {
	*world
	registry string
	services []*client.Client // one for each replica
	origin   string
	verifier note.Verifier // of checkpoints

	// A request holds the gate of its replica for reading, so that a replica is
	// restarted only when nobody waits for it.
	gates []sync.RWMutex
	busy  atomic.Int64 // answers that asked to come back later

	mu     sync.Mutex // guards what follows, and signed
	known  []*entry   // acknowledged
	images []string
	sizes  []uint64 // of checkpoints, in the order they were seen
	counts map[string]int
	failed int
}

// The second policy admits an issuer that the first, which the log begins with,
// does not know.
const (
	issuer   = "https://tests.wabbit.example"
	guest    = "https://guest.wabbit.example"
	stranger = "https://stranger.example"
)

var withGuest = strings.Replace(policy, "issuers:\n", "issuers:\n  - {iss: "+guest+", key: tester.pub}\n", 1)

// TestReplicasUnderMixedLoadAgreeOnEverything lets two replicas on one PostgreSQL
// and a registry do all they are for at once, while policies come and go, images
// are pushed, and the receipt key is changed. Every answer is held against what
// was answered before.
func TestReplicasUnderMixedLoadAgreeOnEverything(t *testing.T) {
	t.Parallel()
	s := newSoak(t)
	ctx, stop := context.WithTimeout(t.Context(), *soakFor)
	defer stop()
	begin := time.Now()
	var workers sync.WaitGroup
	defer workers.Wait()
	for i := range uint64(soakClients) {
		workers.Go(func() { s.work(ctx, rand.New(rand.NewPCG(*seed, 7<<32|i))) })
	}
	samples := s.conduct(ctx, begin)
	workers.Wait()
	loaded := time.Since(begin)

	s.proveAll()
	s.awaitPlacement()
	for _, image := range s.images {
		s.checkReferrers(image)
	}
	memory := s.memory(samples)
	begin = time.Now()
	f := s.finish()
	t.Logf("%s under load, %d answers (%.0f/s), %d asked to come back: %s", loaded.Round(time.Second), s.total(), float64(s.total())/loaded.Seconds(), s.busy.Load(), s.table())
	t.Logf("%d statements acknowledged, %d checkpoints of %d sizes, each consistent with the next; lost %d, duplicated %d, forked %d; every receipt read back and CheckLog in %s",
		f.Acknowledged, len(s.sizes), len(slices.Compact(slices.Sorted(slices.Values(s.sizes)))), f.Lost, f.Duplicated, f.Forked, time.Since(begin).Round(time.Second))
	t.Log(memory)
}

func newSoak(t *testing.T) *soak {
	t.Helper()
	registry, dsn := testenv.Registry(t), testenv.Database(t)
	s := &soak{
		world: newWorld(t, rand.New(rand.NewPCG(*seed, 6)), onPostgres(dsn), 2,
			"--database-url", dsn, "--registry-host", registry, "--registry-plain-http"),
		registry: registry, counts: map[string]int{},
	}
	s.gates = make([]sync.RWMutex, len(s.replicas))
	for _, r := range s.replicas {
		c, err := client.New(r.url, client.Options{Token: s.token, Transport: counting{r.http.Transport, &s.busy}})
		if err != nil {
			t.Fatal(err)
		}
		s.services = append(s.services, c)
	}
	facts, err := s.services[0].Service(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.origin = facts.Origin
	if s.verifier, err = note.NewVerifier(facts.CheckpointKeys[0]); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"token": s.token, "with-guest.yaml": withGuest} {
		if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.pushImage()
	return s
}

// counting notices answers that a patient client would not speak of.
type counting struct {
	http.RoundTripper
	busy *atomic.Int64
}

func (c counting) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := c.RoundTripper.RoundTrip(r)
	if err == nil && (resp.StatusCode == http.StatusServiceUnavailable || resp.StatusCode == http.StatusTooManyRequests) {
		c.busy.Add(1)
	}
	return resp, err
}

// work does one thing after the other, with a moment between.
func (s *soak) work(ctx context.Context, chance *rand.Rand) {
	weights := 0
	for _, c := range chores {
		weights += c.weight
	}
	for ctx.Err() == nil {
		n := chance.IntN(weights)
		c := chores[slices.IndexFunc(chores, func(c chore) bool { n -= c.weight; return n < 0 })]
		err := c.do(s, chance)
		s.mu.Lock()
		s.counts[c.name]++
		if err != nil {
			if s.failed++; s.failed <= 20 {
				s.t.Errorf("%s: %v", c.name, err)
			}
		}
		s.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(chance.IntN(40)) * time.Millisecond):
		}
	}
}

// conduct does what an operator does, until ctx ends, and measures the memory of
// the replicas meanwhile.
func (s *soak) conduct(ctx context.Context, begin time.Time) (samples [][]sample) {
	samples = make([][]sample, len(s.replicas))
	every := min(*soakFor/4, 20*time.Second)
	ticks := time.NewTicker(min(time.Second, every/4))
	defer ticks.Stop()
	published, rotated := 0, false
	for {
		select {
		case <-ctx.Done():
			return samples
		case <-ticks.C:
		}
		elapsed := time.Since(begin)
		if elapsed > time.Duration(published+1)*every {
			file := "with-guest.yaml"
			if published++; published%2 == 0 {
				file = "policy.yaml"
			}
			r := s.replicas[published%len(s.replicas)]
			s.run(shipped, "policy", "publish", file, "--dir", s.replicas[0].dir, "--service", r.url, "--token-file", "token")
			s.said++
			s.pushImage()
		}
		if !rotated && elapsed > *soakFor/3 {
			rotated = true
			s.rotate()
		}
		for i, r := range s.replicas {
			samples[i] = append(samples[i], sample{time.Since(begin), s.resident(r)})
		}
	}
}

// pushImage makes an image that claims are about from now on.
func (s *soak) pushImage() {
	s.t.Helper()
	image := s.push(s.registry, len(s.images)).String()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.images = append(s.images, image)
}

// rotate announces a new receipt key and restarts one replica after the other
// with it. The other goes on meanwhile, under the old key or the new one.
func (s *soak) rotate() {
	s.t.Helper()
	const file = "receipt-next.pem"
	s.run(shipped, "keys", "rotate", "--dir", s.replicas[0].dir, "--service", s.replicas[1].url, "--token-file", "token")
	s.said++
	s.journal.mu.Lock()
	s.journal.keys = append(receipts.KeySet{s.receiptKey(file)}, s.journal.keys...)
	s.journal.mu.Unlock()
	first := filepath.Join(s.replicas[0].dir, "keys", file)
	for i, r := range s.replicas {
		own := filepath.Join(r.dir, "keys", file)
		if i > 0 {
			s.run("cp", "-p", first, own)
		}
		s.gates[i].Lock()
		r.stop()
		r.flags = []string{"--keys-receipt", own}
		r.start("")
		s.gates[i].Unlock()
	}
}

// sample is how much memory a replica has at a time after the start.
type sample struct {
	at    time.Duration
	bytes int64
}

// resident is the resident memory of r.
func (s *soak) resident(r *replica) int64 {
	s.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", r.process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	fields := bytes.Fields(b)
	pages, err := strconv.ParseInt(string(fields[1]), 10, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// Memory counts as flat when the last quarter of a long soak needs little more
// than the quarter before: caches are bounded, but some of them go on filling
// for longer than that.
const (
	longSoak   = 2 * time.Minute
	flatFactor = 1.15
	flatBytes  = 8 << 20
)

// memory says what the replicas used, and judges it where it was long enough.
func (s *soak) memory(samples [][]sample) string {
	s.t.Helper()
	var text strings.Builder
	for i, all := range samples {
		quarter := func(n int) int64 {
			var b []int64
			for _, x := range all {
				if int(4*x.at / *soakFor) == n {
					b = append(b, x.bytes)
				}
			}
			if len(b) == 0 {
				return 0
			}
			slices.Sort(b)
			return b[len(b)/2]
		}
		fmt.Fprintf(&text, "memory of replica %d by quarter, restarted in the second:", i)
		for n := range 4 {
			fmt.Fprintf(&text, " %d", quarter(n)>>20)
		}
		text.WriteString(" MiB; ")
		if before, after := quarter(2), quarter(3); *soakFor >= longSoak && float64(after) > flatFactor*float64(before)+flatBytes {
			s.t.Errorf("replica %d grows: %d MiB in the third quarter, %d in the last", i, before>>20, after>>20)
		}
	}
	return strings.TrimSuffix(text.String(), "; ")
}

// checkReferrers: each claim about image is there once, as evidence and as
// transparency artifact.
func (s *soak) checkReferrers(image string) {
	s.t.Helper()
	claims := 0
	for _, e := range s.known {
		if e.image == image {
			claims++
		}
	}
	if claims == 0 {
		return
	}
	if n := s.listed(s.registry, image); n != 2*claims {
		s.t.Errorf("image %s has %d referrers, want those of %d claims, each once", image, n, claims)
	}
}

func (s *soak) total() (n int) {
	for _, c := range s.counts {
		n += c
	}
	return n
}

func (s *soak) table() string {
	var all []string
	for _, c := range chores {
		all = append(all, fmt.Sprintf("%s %d", c.name, s.counts[c.name]))
	}
	return strings.Join(all, ", ")
}

// at picks a replica and holds its gate until release.
func (s *soak) at(chance *rand.Rand) (i int, c *client.Client, release func()) {
	i = chance.IntN(len(s.replicas))
	if !s.gates[i].TryRLock() {
		i = (i + 1) % len(s.replicas) // that one is being restarted
		s.gates[i].RLock()
	}
	return i, s.services[i], s.gates[i].RUnlock
}

// compose signs a statement of one of the kinds there are, by iss.
func (s *soak) compose(chance *rand.Rand, iss string) (*entry, error) {
	s.mu.Lock()
	s.signed++
	n, image := s.signed, s.images[len(s.images)-1]
	s.mu.Unlock()
	t := statement.Template{
		Issuer: iss, Subject: fmt.Sprintf("https://tests.wabbit.example/runs/%d", n),
		ContentType: "application/json", Payload: fmt.Appendf(nil, `{"run": %d}`, n),
	}
	placed := ""
	switch kind := chance.IntN(100); {
	case kind < 2 && iss == issuer:
		placed, t.Subject = image, "pkg:oci/net-monitor@"+image
	case kind < 35:
		sum := statement.SHA256(t.Payload).Bytes()
		t.ContentType, t.HashAlg, t.Payload = "application/spdx+json", -16, sum
	case kind < 70:
		t.ContentType = "application/vnd.in-toto+json"
		t.Payload = fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://tests.wabbit.example/%d",`+
			`"predicate":{"run":%d},"subject":[{"name":"x","digest":{"sha256":"%x"}}]}`, n%5, n, statement.SHA256(fmt.Append(nil, n/3)).Bytes())
	}
	body, err := statement.Sign(t, s.key)
	if err != nil {
		return nil, err
	}
	parsed, err := statement.Parse(body)
	if err != nil {
		return nil, err
	}
	return &entry{id: parsed.ID(), body: body, image: placed}, nil
}

// acknowledge takes the first receipt of e.
func (s *soak) acknowledge(e *entry, receipt []byte) {
	s.journal.promised(e, receipt)
	s.journal.mu.Lock()
	s.journal.entries = append(s.journal.entries, e)
	s.journal.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known = append(s.known, e)
}

// some is an entry that was acknowledged, often one of the last.
func (s *soak) some(chance *rand.Rand) (*entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.known) == 0 {
		return nil, errNothing
	}
	if chance.IntN(2) == 0 {
		return s.known[max(0, len(s.known)-1-chance.IntN(50))], nil
	}
	return s.known[chance.IntN(len(s.known))], nil
}

// errNothing: the soak is too young for what was tried.
var errNothing = errors.New("nothing was acknowledged yet")
