package main

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/scittd/scittd/internal/detcbor"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// order is what the load generator is asked for, one JSON line on its input.
type order struct {
	URL, Token string
	Key        []byte // PKCS #8, signs for every issuer
	First      int    // number of the first statement
	Count      int
	Clients    int
	Bulk       int // statements of one request; 0: one, sent by itself
}

// outcome is its answer, one JSON line on its output.
type outcome struct {
	Elapsed  time.Duration // first request to last answer
	P50, P99 time.Duration // of a request
	Verify   time.Duration // CPU of one hot ES256 verification in the same window
	CPU      time.Duration // of the load generator itself
}

const (
	issuers    = 1000
	perSubject = 10
	mediaTypes = 8
	statementB = 2000 // bytes of one statement
	verified   = 64   // one receipt in so many is verified afterwards
)

func issuerName(n int) string { return fmt.Sprintf("https://issuer-%04d.example", n%issuers) }

// load signs its statements, says "ready", waits for a line, registers them all
// and answers. Anything but 201 voids the run.
func load(stdin io.Reader, stdout io.Writer) error {
	in := bufio.NewReader(stdin)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return err
	}
	var o order
	if err := json.Unmarshal(line, &o); err != nil {
		return err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(o.Key)
	if err != nil {
		return err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return fmt.Errorf("the issuers' key is a %T", parsed)
	}
	corpus, err := sign(key, o.First, o.Count)
	if err != nil {
		return err
	}
	client := &http.Client{
		Timeout:   time.Minute,
		Transport: &http.Transport{MaxIdleConnsPerHost: o.Clients, MaxConnsPerHost: o.Clients},
	}
	fmt.Fprintln(stdout, "ready")
	if _, err := in.ReadBytes('\n'); err != nil {
		return err
	}

	reference := startReference()
	begin := time.Now()
	latencies, answers, err := register(client, o, corpus)
	elapsed := time.Since(begin)
	verify, refErr := reference.stop()
	if err := errors.Join(err, refErr); err != nil {
		return err
	}
	self, err := cpu(os.Getpid())
	if err != nil {
		return err
	}
	if err := checkReceipts(client, o, corpus, answers); err != nil {
		return err
	}
	return json.NewEncoder(stdout).Encode(outcome{
		Elapsed: elapsed, P50: quantile(latencies, 0.50), P99: quantile(latencies, 0.99), Verify: verify, CPU: self,
	})
}

// sign makes the corpus on all cores.
func sign(key *ecdsa.PrivateKey, first, count int) ([][]byte, error) {
	corpus := make([][]byte, count)
	var next atomic.Int64
	var all sync.WaitGroup
	failed := make(chan error, runtime.GOMAXPROCS(0))
	for range cap(failed) {
		all.Go(func() {
			for i := int(next.Add(1) - 1); i < count; i = int(next.Add(1) - 1) {
				b, err := signOne(key, first+i)
				if err != nil {
					failed <- err
					return
				}
				corpus[i] = b
			}
		})
	}
	all.Wait()
	select {
	case err := <-failed:
		return nil, err
	default:
		return corpus, nil
	}
}

// signOne makes statement n: attached, of statementB bytes.
func signOne(key *ecdsa.PrivateKey, n int) ([]byte, error) {
	t := statement.Template{
		Issuer:      issuerName(n),
		Subject:     fmt.Sprintf("pkg:oci/image@sha256:%x", sha256.Sum256(fmt.Append(nil, "image ", n/perSubject))),
		ContentType: fmt.Sprintf("application/vnd.bench-%d+json", n%mediaTypes),
	}
	const overhead = 370 // headers and signature, within a few bytes
	t.Payload = fmt.Appendf(nil, `{"n":%d,"fill":"%s"}`, n, bytes.Repeat([]byte("x"), statementB-overhead))
	return statement.Sign(t, key)
}

// register sends the corpus with o.Clients requests in flight, and keeps every
// verified-th receipt.
func register(client *http.Client, o order, corpus [][]byte) ([]time.Duration, map[int][]byte, error) {
	var next atomic.Int64
	var all sync.WaitGroup
	size, send := 1, post
	if o.Bulk > 0 {
		size, send = o.Bulk, postBatch
	}
	latencies := make([]time.Duration, (len(corpus)+size-1)/size)
	answers, failed := map[int][]byte{}, make(chan error, o.Clients)
	var mu sync.Mutex // answers
	for range o.Clients {
		all.Go(func() {
			for n := int(next.Add(1) - 1); n < len(latencies); n = int(next.Add(1) - 1) {
				first := n * size
				begin := time.Now()
				receipts, err := send(client, o, corpus[first:min(first+size, len(corpus))])
				latencies[n] = time.Since(begin)
				if err != nil {
					failed <- err
					return
				}
				for i, receipt := range receipts {
					if (first+i)%verified == 0 {
						mu.Lock()
						answers[first+i] = receipt
						mu.Unlock()
					}
				}
			}
		})
	}
	all.Wait()
	select {
	case err := <-failed:
		return nil, nil, err
	default:
		return latencies, answers, nil
	}
}

// post registers one statement.
func post(client *http.Client, o order, signed [][]byte) (receipts [][]byte, err error) {
	receipt, err := request(client, o, "/entries", "application/cose", signed[0], http.StatusCreated)
	return [][]byte{receipt}, err
}

// postBatch registers several in one request.
func postBatch(client *http.Client, o order, signed [][]byte) (receipts [][]byte, err error) {
	const path = "/v1/entries:batch"
	answer, err := request(client, o, path, "application/cbor-seq", bytes.Join(signed, nil), http.StatusOK)
	if err != nil {
		return nil, err
	}
	for sequence := detcbor.NewSequence(bytes.NewReader(answer), len(answer)); ; {
		raw, err := sequence.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		var item struct {
			_       struct{} `cbor:",toarray"`
			N       int
			Status  int
			Content []byte
		}
		if err := detcbor.Unmarshal(raw, &item); err != nil {
			return nil, err
		}
		if item.N != len(receipts) || item.Status != http.StatusCreated {
			return nil, fmt.Errorf("POST %s: item %d: %d %q: the run is void", path, item.N, item.Status, item.Content)
		}
		receipts = append(receipts, item.Content)
	}
	if len(receipts) != len(signed) {
		return nil, fmt.Errorf("POST %s: %d receipts for %d statements: the run is void", path, len(receipts), len(signed))
	}
	return receipts, nil
}

func request(client *http.Client, o order, path, contentType string, body []byte, want int) ([]byte, error) {
	req, err := http.NewRequest(http.MethodPost, o.URL+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Authorization", "Bearer "+o.Token)
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != want {
		err = fmt.Errorf("POST %s: %s %q: the run is void", path, resp.Status, answer)
	}
	return answer, err
}

func checkReceipts(client *http.Client, o order, corpus [][]byte, answers map[int][]byte) error {
	resp, err := client.Get(o.URL + "/.well-known/scitt-keys")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	keys, err := receipts.ParseKeySet(b)
	if err != nil {
		return fmt.Errorf("scitt-keys: %w", err)
	}
	for i, receipt := range answers {
		s, err := statement.Parse(corpus[i])
		if err != nil {
			return err
		}
		r, err := receipts.Parse(receipt)
		if err != nil {
			return fmt.Errorf("receipt: %w", err)
		}
		id := s.ID()
		if err := keys.Verify(r, id[:], receipts.Strict); err != nil {
			return fmt.Errorf("receipt of %s: %w", id, err)
		}
	}
	return nil
}

// reference measures what an ES256 verification of the standard library costs
// while the load runs: in bursts on a thread of its own, by that thread's CPU
// clock, the first few of each burst dropped. A verification that finds its
// caches cold reads half as much again, and flatters every ratio made with it.
type reference struct {
	quit chan struct{}
	done chan struct{}
	seen []time.Duration
	err  error
}

const (
	burst  = 24
	warmUp = 8
	pause  = 250 * time.Millisecond
)

func startReference() *reference {
	r := &reference{quit: make(chan struct{}), done: make(chan struct{})}
	go r.run()
	return r
}

func (r *reference) run() {
	defer close(r.done)
	runtime.LockOSThread()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		r.err = err
		return
	}
	digest := sha256.Sum256([]byte("reference"))
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		r.err = err
		return
	}
	for {
		for i := range burst {
			begin, err := threadCPU()
			if err != nil {
				r.err = err
				return
			}
			if !ecdsa.VerifyASN1(&key.PublicKey, digest[:], signature) {
				r.err = errors.New("the reference signature does not verify")
				return
			}
			end, err := threadCPU()
			if err != nil {
				r.err = err
				return
			}
			if i >= warmUp {
				r.seen = append(r.seen, end-begin)
			}
		}
		select {
		case <-r.quit:
			return
		case <-time.After(pause):
		}
	}
}

func (r *reference) stop() (time.Duration, error) {
	close(r.quit)
	<-r.done
	if r.err != nil {
		return 0, r.err
	}
	return median(r.seen), nil
}
