package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

// replayed is how many entries the log has at least that is replayed.
const replayed = 20_000

// replay downloads the log of this run with scittd audit and repeats every
// decision from the folder, by turns with bare ES256 verifications on all cores.
func (m *measurement) replay(ctx context.Context) (err error) {
	if lacks := min(replayed, m.large) - m.ours.sent; lacks > 0 {
		if _, err := m.bench.load(ctx, m.ours, shape{Clients: 16, Bulk: perRequest}, lacks, 0, 0); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp("", "scittd-bench-replay-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	folder := filepath.Join(dir, "log")
	begin := time.Now()
	first, err := m.audit(ctx, m.bench.url, "--dir", folder)
	if err != nil {
		return err
	}
	download := time.Since(begin)
	var rates, shares []float64
	for range m.repeats {
		bare, err := bareVerify()
		if err != nil {
			return err
		}
		begin := time.Now()
		again, err := m.audit(ctx, folder)
		if err != nil {
			return err
		}
		rate := float64(again.Replayed) / time.Since(begin).Seconds()
		rates, shares = append(rates, rate), append(shares, rate/bare)
	}
	m.printf("## Replay\n\n%d entries under %d heads, downloaded and replayed in %s, replayed from the folder at %.0f entries/s.\n\n",
		first.Size, first.Heads, download.Round(time.Millisecond), median(rates))
	m.atLeast("E1", median(shares), 0.5, 0.8, "decisions repeated a second by scittd audit --replay, a whole run of it, over bare ES256 verifications a second, on %d cores", runtime.NumCPU())
	return nil
}

// audited is what scittd audit prints.
type audited struct {
	Size, Heads, Replayed, Total uint64
}

func (m *measurement) audit(ctx context.Context, what string, more ...string) (a audited, err error) {
	cmd := exec.CommandContext(ctx, m.scittd, append([]string{"audit", "--format", "json", "--replay", what}, more...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return a, fmt.Errorf("scittd audit --replay %s: %w\n%s", what, err, out)
	}
	if err := json.Unmarshal(out, &a); err != nil {
		return a, err
	}
	if a.Replayed != a.Size || a.Total != 0 {
		return a, fmt.Errorf("scittd audit --replay %s: %d of %d decisions, %d deviations", what, a.Replayed, a.Size, a.Total)
	}
	return a, nil
}

// bareVerify is how many ES256 signatures all cores verify in a second.
func bareVerify() (float64, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return 0, err
	}
	digest := sha256.Sum256([]byte("bare"))
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		return 0, err
	}
	const each = 10_000
	cores := runtime.NumCPU()
	var all sync.WaitGroup
	bad := make([]bool, cores)
	begin := time.Now()
	for i := range cores {
		all.Go(func() {
			for range each {
				bad[i] = bad[i] || !ecdsa.VerifyASN1(&key.PublicKey, digest[:], signature)
			}
		})
	}
	all.Wait()
	for _, bad := range bad {
		if bad {
			return 0, errors.New("a bare signature does not verify")
		}
	}
	return float64(each*cores) / time.Since(begin).Seconds(), nil
}

// judging measures what policy and identity cost beside the signature of a
// statement: Policy.Evaluate, which verifies it too, over that verification alone,
// in turns on one thread, by its CPU clock.
func (m *measurement) judging(context.Context) error {
	m.printf("## Policy and identity\n\n| who signed | verification alone | whole decision |\n|---|---|---|\n")
	for _, of := range []struct {
		goal, who string
		most      float64
		make      func() (*judged, error)
	}{
		{"E2", "a pinned key", 1.25, pinnedKey},
		{"E3", "a cached chain of 3 certificates", 1.40, cachedChain},
	} {
		if !m.wants(strings.ToLower(of.goal)) {
			continue
		}
		j, err := of.make()
		if err != nil {
			return err
		}
		var bare, whole []time.Duration
		for range max(m.repeats, 3) {
			b, w, err := j.measure()
			if err != nil {
				return err
			}
			bare, whole = append(bare, b), append(whole, w)
		}
		b, w := median(bare), median(whole)
		m.printf("| %s | %.1f µs | %.1f µs |\n", of.who, float64(b)/1e3, float64(w)/1e3)
		m.atMost(of.goal, ratio(w, b), of.most, 1.10, "CPU of a whole decision over that of its signature's verification alone; %s, a policy of %d issuers", of.who, issuers)
	}
	m.printf("\n")
	return nil
}

// judged is a statement, who admits it, and the key that it was signed with.
type judged struct {
	policy    *policy.Policy
	statement *statement.Statement
	key       crypto.PublicKey
	now       time.Time
}

// measure takes turns, in short bursts: what else the machine does meets both.
func (j *judged) measure() (bare, whole time.Duration, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const bursts, each = 100, 20
	burst := func(f func() error) (time.Duration, error) {
		begin, err := threadCPU()
		for range each {
			err = errors.Join(err, f())
		}
		end, clock := threadCPU()
		return (end - begin) / each, errors.Join(err, clock)
	}
	var bares, wholes []time.Duration
	for range bursts {
		b, err := burst(func() error { return j.statement.Verify(j.key) })
		if err != nil {
			return 0, 0, err
		}
		w, err := burst(func() error {
			if refusal := j.policy.Evaluate(j.statement, j.now).Refusal; refusal != nil {
				return refusal
			}
			return nil
		})
		if err != nil {
			return 0, 0, err
		}
		bares, wholes = append(bares, b), append(wholes, w)
	}
	return median(bares), median(wholes), nil
}

// pinnedKey is the last of many issuers.
func pinnedKey() (*judged, error) {
	return newJudged(func(iss string, key *ecdsa.PrivateKey) (policy.Issuer, [][]byte, error) {
		return policy.Issuer{Iss: iss, Key: &policy.Key{Public: key.Public()}}, nil, nil
	})
}

// cachedChain speaks with a leaf, an intermediate and a root, which have been seen
// before.
func cachedChain() (*judged, error) {
	return newJudged(func(iss string, key *ecdsa.PrivateKey) (policy.Issuer, [][]byte, error) {
		name, err := url.Parse(iss)
		if err != nil {
			return policy.Issuer{}, nil, err
		}
		var chain [][]byte
		var above *x509.Certificate
		var signer *ecdsa.PrivateKey
		var root policy.Root
		for i, cn := range []string{"root", "issuing", "leaf"} {
			own := key
			c := &x509.Certificate{
				SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: cn}, BasicConstraintsValid: true,
				NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
				IsCA: true, KeyUsage: x509.KeyUsageCertSign,
			}
			if cn == "leaf" {
				c.IsCA, c.KeyUsage, c.URIs, c.ExtKeyUsage = false, x509.KeyUsageDigitalSignature, []*url.URL{name}, []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
			} else if own, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
				return policy.Issuer{}, nil, err
			}
			if above == nil {
				above, signer = c, own
			}
			der, err := x509.CreateCertificate(rand.Reader, c, above, own.Public(), signer)
			if err != nil {
				return policy.Issuer{}, nil, err
			}
			if above, err = x509.ParseCertificate(der); err != nil {
				return policy.Issuer{}, nil, err
			}
			if signer = own; i == 0 {
				root = policy.Root{Certificate: above}
			}
			chain = append([][]byte{der}, chain...)
		}
		return policy.Issuer{Iss: iss, X509: &policy.X509{Roots: []policy.Root{root}}}, chain, nil
	})
}

// newJudged signs a statement of the benchmark's size, about an image, with a
// policy that admits its issuer among many.
func newJudged(admit func(iss string, key *ecdsa.PrivateKey) (policy.Issuer, [][]byte, error)) (*judged, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	d := policy.Defaults()
	d.Operators = []policy.Operator{{Key: policy.Key{Public: key.Public()}}}
	for n := range issuers - 1 {
		d.Issuers = append(d.Issuers, policy.Issuer{Iss: issuerName(n), Key: &policy.Key{Public: key.Public()}})
	}
	iss := issuerName(issuers)
	rule, chain, err := admit(iss, key)
	if err != nil {
		return nil, err
	}
	d.Issuers = append(d.Issuers, rule)
	p, err := policy.New(d)
	if err != nil {
		return nil, err
	}
	payload := make([]byte, statementB)
	rand.Read(payload)
	signed, err := statement.Sign(statement.Template{
		Issuer: iss, Subject: fmt.Sprintf("pkg:oci/app@sha256:%x", sha256.Sum256(payload)), ContentType: "application/spdx+json",
		Payload: payload, Chain: chain, ChainUnprotected: chain != nil,
	}, key)
	if err != nil {
		return nil, err
	}
	s, err := statement.Parse(signed)
	if err != nil {
		return nil, err
	}
	return &judged{policy: p, statement: s, key: key.Public(), now: time.Now()}, nil
}
