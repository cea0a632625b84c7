package main

import (
	"bufio"
	"bytes"
	"crypto"
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

	"golang.org/x/mod/sumdb/note"

	"github.com/scittd/scittd/internal/detcbor"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// order is what the load generator is asked for, one JSON line on its input.
type order struct {
	URL, Token string
	Verifier   string // note key of a peer, whose receipt is a checkpoint; "": receipts are COSE
	Key        []byte // PKCS #8, signs for every issuer but one
	Key384     []byte // for that one
	First      int    // number of the first statement
	Count      int    // as many are signed beforehand
	Warm       int    // of them, registered before the window begins
	Length     time.Duration
	Clients    int
	Bulk       int     // statements of one request; 0: one, sent by itself
	Rate       float64 // statements a second, whatever becomes of them; 0: each client waits for its answer
	Fault      fault   // what every faultyth statement is; "": nothing
}

// outcome is its answer, one JSON line on its output.
type outcome struct {
	Elapsed  time.Duration // first request to last answer
	Done     int           // statements registered in the window
	Refused  int           // 503 or given up; with a Rate only, else that voids the run
	P50, P99 time.Duration // of a request that is no fault; with a Rate from the time it was due
	Verify   time.Duration // CPU of one hot ES256 verification in the same window
	CPU      time.Duration // of the load generator itself
}

// fault is what may be wrong with a statement, or costly.
type fault string

const (
	duplicate   fault = "duplicates"
	forged      fault = "forged"
	es384       fault = "ES384"
	forgedES384 fault = "forged ES384"
)

var faults = []fault{duplicate, forged, es384, forgedES384}

const (
	issuers    = 1000
	perSubject = 10
	mediaTypes = 8
	statementB = 2000 // bytes of one statement
	verified   = 64   // one receipt in so many is verified afterwards
	faulty     = 10   // one statement in so many, where faults are asked for

	// giveUp is how late a request may be sent, or its answer come, before it
	// counts as refused: a service that far behind is past its capacity.
	giveUp = 3 * time.Second
)

func issuerName(n int) string    { return fmt.Sprintf("https://issuer-%04d.example", n%issuers) }
func mediaTypeName(n int) string { return fmt.Sprintf("application/vnd.bench-%d+json", n%mediaTypes) }
func image(n int) [32]byte       { return sha256.Sum256(fmt.Append(nil, "image ", n/perSubject)) }

// issuer384 signs with ES384.
const issuer384 = "https://issuer-es384.example"

// item is one statement to be sent.
type item struct {
	signed []byte
	fault  bool
	want   int // the status that is its due
}

// load signs its statements and says "ready"; told to go on, warms up and says
// "warm"; told to go on, loads the service and answers. An answer that is not
// the one expected voids the run.
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
	corpus, err := sign(o)
	if err != nil {
		return err
	}
	service := newWires(o.URL, o.Token)
	proceed := func(state string) error {
		fmt.Fprintln(stdout, state)
		_, err := in.ReadBytes('\n')
		return err
	}
	if err := proceed("ready"); err != nil {
		return err
	}
	warm := o
	warm.Rate, warm.Length = 0, 0
	if o.Rate > 0 {
		warm.Clients = min(o.Clients, 256)
	}
	if _, err := register(service, warm, corpus[:o.Warm], 0); err != nil {
		return err
	}
	if err := proceed("warm"); err != nil {
		return err
	}

	before, err := cpu(os.Getpid())
	if err != nil {
		return err
	}
	reference := startReference()
	begin := time.Now()
	got, err := register(service, o, corpus, o.Warm)
	elapsed := time.Since(begin)
	verify, refErr := reference.stop()
	if err := errors.Join(err, refErr); err != nil {
		return err
	}
	after, err := cpu(os.Getpid())
	if err != nil {
		return err
	}
	if len(got.latencies) == 0 {
		return errors.New("nothing was registered in the window")
	}
	if err := checkReceipts(o, corpus, got.answers); err != nil {
		return err
	}
	return json.NewEncoder(stdout).Encode(outcome{
		Elapsed: elapsed, Done: got.done, Refused: got.refused,
		P50: quantile(got.latencies, 0.50), P99: quantile(got.latencies, 0.99), Verify: verify, CPU: after - before,
	})
}

// sign makes the corpus on all cores.
func sign(o order) ([]item, error) {
	var keys [2]crypto.Signer
	for i, der := range [][]byte{o.Key, o.Key384} {
		parsed, err := x509.ParsePKCS8PrivateKey(der)
		if err != nil {
			return nil, err
		}
		key, ok := parsed.(crypto.Signer)
		if !ok {
			return nil, fmt.Errorf("an issuer's key is a %T", parsed)
		}
		keys[i] = key
	}
	corpus := make([]item, o.Count)
	errs := make([]error, runtime.GOMAXPROCS(0))
	var next atomic.Int64
	var all sync.WaitGroup
	for worker := range errs {
		all.Go(func() {
			for i := int(next.Add(1) - 1); i < o.Count && errs[worker] == nil; i = int(next.Add(1) - 1) {
				f := o.Fault
				if i < o.Warm || i%faulty != 0 {
					f = ""
				}
				corpus[i], errs[worker] = signOne(keys, o.First+i, f)
			}
		})
	}
	all.Wait()
	for i := range corpus {
		if corpus[i].fault && o.Fault == duplicate {
			corpus[i].signed = corpus[i%o.Warm].signed
		}
	}
	return corpus, errors.Join(errs...)
}

// signOne makes statement n: attached, of statementB bytes.
func signOne(keys [2]crypto.Signer, n int, f fault) (item, error) {
	t := statement.Template{
		Issuer: issuerName(n), Subject: fmt.Sprintf("pkg:oci/image@sha256:%x", image(n)), ContentType: mediaTypeName(n),
	}
	key := keys[0]
	if f == es384 || f == forgedES384 {
		t.Issuer, key = issuer384, keys[1]
	}
	const overhead = 370 // headers and signature, within a few bytes
	t.Payload = fmt.Appendf(nil, `{"n":%d,"fill":"%s"}`, n, bytes.Repeat([]byte("x"), statementB-overhead))
	signed, err := statement.Sign(t, key)
	i := item{signed: signed, fault: f != "", want: http.StatusCreated}
	if f == forged || f == forgedES384 {
		signed[len(signed)-1] ^= 1 // the signature's last byte
		i.want = http.StatusBadRequest
	}
	return i, err
}

// registered is what a worker, or all of them, have seen.
type registered struct {
	latencies     []time.Duration // of requests without faults
	answers       map[int][]byte  // every verified-th receipt, by place in the corpus
	done, refused int
}

// register sends corpus[from:] with o.Clients requests in flight at most. It
// ends after o.Length, if that is set.
func register(service *wires, o order, corpus []item, from int) (registered, error) {
	size, send := 1, post
	if o.Bulk > 0 {
		size, send = o.Bulk, postBatch
	}
	begin := time.Now()
	var next atomic.Int64
	worker := func() (got registered, _ error) {
		got.answers = map[int][]byte{}
		for {
			first := from + int(next.Add(1)-1)*size
			if first >= len(corpus) {
				return got, nil
			}
			due := time.Now()
			if o.Rate > 0 {
				due = begin.Add(time.Duration(float64(first-from) / o.Rate * float64(time.Second)))
			}
			if o.Length > 0 && due.Sub(begin) >= o.Length {
				return got, nil
			}
			time.Sleep(time.Until(due))
			if time.Since(due) > giveUp {
				got.refused += size
				got.latencies = append(got.latencies, time.Since(due))
				continue
			}
			items := corpus[first:min(first+size, len(corpus))]
			receipts, err := send(service, items)
			took := time.Since(due)
			switch {
			case o.Rate > 0 && errors.Is(err, errOverloaded):
				got.refused += len(items)
				took = giveUp
			case err != nil:
				return got, err
			default:
				got.done += len(items)
			}
			if !items[0].fault {
				got.latencies = append(got.latencies, took)
			}
			for i, receipt := range receipts {
				if (first+i)%verified == 0 && items[i].want == http.StatusCreated {
					got.answers[first+i] = receipt
				}
			}
		}
	}

	all := registered{answers: map[int][]byte{}}
	var errs []error
	var mu sync.Mutex // guards all and errs
	var working sync.WaitGroup
	for range o.Clients {
		working.Go(func() {
			got, err := worker()
			mu.Lock()
			defer mu.Unlock()
			all.latencies = append(all.latencies, got.latencies...)
			all.done, all.refused = all.done+got.done, all.refused+got.refused
			for i, receipt := range got.answers {
				all.answers[i] = receipt
			}
			if err != nil && len(errs) < 3 {
				errs = append(errs, err)
			}
		})
	}
	working.Wait()
	return all, errors.Join(errs...)
}

// errOverloaded: the service says that it has more than it can take.
var errOverloaded = errors.New("overloaded")

// post registers one statement.
func post(service *wires, items []item) (receipts [][]byte, err error) {
	receipt, err := request(service, "/entries", "application/cose", items[0].want, items[0].signed)
	return [][]byte{receipt}, err
}

// postBatch registers several in one request.
func postBatch(service *wires, items []item) (receipts [][]byte, err error) {
	const path = "/v1/entries:batch"
	body := make([][]byte, len(items))
	for i := range items {
		body[i] = items[i].signed
	}
	answer, err := request(service, path, "application/cbor-seq", http.StatusOK, body...)
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
		var got struct {
			_       struct{} `cbor:",toarray"`
			N       int
			Status  int
			Content []byte
		}
		if err := detcbor.Unmarshal(raw, &got); err != nil {
			return nil, err
		}
		if got.N != len(receipts) || got.Status != http.StatusCreated {
			return nil, fmt.Errorf("POST %s: item %d: %d %q: the run is void", path, got.N, got.Status, got.Content)
		}
		receipts = append(receipts, got.Content)
	}
	if len(receipts) != len(items) {
		return nil, fmt.Errorf("POST %s: %d receipts for %d statements: the run is void", path, len(receipts), len(items))
	}
	return receipts, nil
}

func request(service *wires, path, contentType string, want int, body ...[]byte) ([]byte, error) {
	status, answer, err := service.exchange(http.MethodPost, path, contentType, body...)
	switch {
	case err != nil:
		return nil, fmt.Errorf("POST %s: %w", path, err)
	case status == want:
		return answer, nil
	case status == http.StatusServiceUnavailable, status == http.StatusAccepted:
		return nil, fmt.Errorf("POST %s: %w: %d %q: the run is void", path, errOverloaded, status, answer)
	}
	return nil, fmt.Errorf("POST %s: %d %q: the run is void", path, status, answer)
}

// checkReceipts verifies answers by their place in the corpus.
func checkReceipts(o order, corpus []item, answers map[int][]byte) error {
	if o.Verifier != "" {
		return checkCheckpoints(o.Verifier, answers)
	}
	resp, err := http.Get(o.URL + "/.well-known/scitt-keys")
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
		s, err := statement.Parse(corpus[i].signed)
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

func checkCheckpoints(verifier string, answers map[int][]byte) error {
	v, err := note.NewVerifier(verifier)
	if err != nil {
		return err
	}
	for _, checkpoint := range answers {
		if _, err := note.Open(checkpoint, note.VerifierList(v)); err != nil {
			return fmt.Errorf("checkpoint: %w", err)
		}
	}
	return nil
}
