package replay_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/ledger/replay"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// BenchmarkReplay says how fast a downloaded log is replayed, against bare ES256
// verifications on the same cores: "of-bare" is the one rate over the other.
func BenchmarkReplay(b *testing.B) {
	for _, batch := range []int{1, 100} {
		b.Run(fmt.Sprintf("batches of %d", batch), func(b *testing.B) {
			const size = 8192
			f := longLog(b, size, batch)
			b.ResetTimer()
			for b.Loop() {
				bare := bareRate(b)
				begin := time.Now()
				if report, found := run(b, f, replay.Options{}); len(found) > 0 || report.Replayed != size {
					b.Fatalf("%+v, %v", report, found)
				}
				rate := float64(size) / time.Since(begin).Seconds()
				b.ReportMetric(rate/bare, "of-bare")
				b.ReportMetric(rate, "entries/s")
			}
		})
	}
}

// longLog is a folder with a log of claims by a pinned key.
func longLog(t testing.TB, size, batch int) *replay.Folder {
	o, wabbit := ledgertest.NewOperator(t), ledgertest.NewPublisher(t, "https://wabbit.example")
	genesis := o.Genesis(t, wabbit)
	p, err := policy.Bootstrap(genesis.Policy)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Truncate(time.Second)
	h := &held{}
	add := func(s *statement.Statement) {
		d := p.Evaluate(s, now)
		if d.Refusal != nil {
			t.Fatal(d.Refusal)
		}
		h.entries = append(h.entries, replay.Entry{Canonical: s.Canonical(), Decided: ledger.Decided{Entry: ledger.Entry{
			Index: uint64(len(h.entries)), ID: s.ID(), Policy: p.Entry, Rule: d.Rule, Identity: d.Identity, RegisteredAt: now, Artifacts: d.Artifacts,
		}}})
	}
	close := func() {
		prev := uint64(0)
		if len(h.heads) > 0 {
			prev = h.Size()
		}
		if size := uint64(len(h.entries)); size > prev {
			h.heads = append(h.heads, ledger.Head{PrevSize: prev, SignedHead: receipts.SignedHead{Head: receipts.Head{Size: size, Time: now}}})
		}
	}
	add(genesis.Policy)
	add(genesis.Service)
	close()
	for i := len(h.entries); i < size; i++ {
		add(wabbit.Claim(t, ledgertest.Image(i), ledgertest.SBOM, fmt.Appendf(nil, "sbom %d", i)))
		if i%batch == 0 {
			close()
		}
	}
	close()
	h.sign(t, o)
	dir := filepath.Join(t.TempDir(), "log")
	h.save(t, dir, 500)
	f, err := replay.OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// bareRate is how many ES256 signatures all cores verify in a second.
func bareRate(t testing.TB) float64 {
	key := ledgertest.NewKey(t)
	digest := sha256.Sum256([]byte("bare"))
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	const each = 4096
	var done sync.WaitGroup
	begin := time.Now()
	for range runtime.GOMAXPROCS(0) {
		done.Go(func() {
			for range each {
				if !ecdsa.VerifyASN1(&key.PublicKey, digest[:], signature) {
					t.Error("does not verify")
				}
			}
		})
	}
	done.Wait()
	return float64(each*runtime.GOMAXPROCS(0)) / time.Since(begin).Seconds()
}
