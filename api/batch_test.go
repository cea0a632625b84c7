package api_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/scittd/scittd/api"
	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/internal/detcbor"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

const batchPath = "/v1/entries:batch"

const (
	maxItems = 1000
	maxBatch = 16 << 20
)

// batch sends items one behind the other.
func (s *server) batch(items [][]byte, header ...string) answer {
	s.t.Helper()
	return s.batchBody(bytes.NewReader(bytes.Join(items, nil)), header...)
}

func (s *server) batchBody(body io.Reader, header ...string) answer {
	s.t.Helper()
	return s.send(request{"POST", batchPath, append(slices.Clone(header), "Content-Type: application/cbor-seq"), body})
}

// item is one of a batch's answer.
type item struct {
	status  int
	content []byte // receipt, or nothing
	problem apitype.Problem
}

// items reads the answer of a batch, and checks what holds for all of them.
func (s *server) items(a answer) []item {
	s.t.Helper()
	if a.status != 200 || a.header.Get("Content-Type") != "application/cbor-seq" {
		s.t.Fatalf("batch: %d %s\n%s", a.status, a.header.Get("Content-Type"), a.body)
	}
	if a.header.Get("Cache-Control") != "no-store" || a.header.Get("Content-Length") != strconv.Itoa(len(a.body)) {
		s.t.Errorf("batch: %v", a.header)
	}
	var all []item
	for sequence := detcbor.NewSequence(bytes.NewReader(a.body), len(a.body)); ; {
		raw, err := sequence.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			s.t.Fatalf("the answer is no sequence: %v", err)
		}
		r := detcbor.NewReader(raw)
		size, err1 := r.Array()
		n, err2 := r.Int()
		status, err3 := r.Int()
		content, err4 := r.Bytes()
		if err := errors.Join(err1, err2, err3, err4, r.End()); err != nil || size != 3 || int(n) != len(all) {
			s.t.Fatalf("item %d of the answer: %v, %x", len(all), err, raw)
		}
		i := item{status: int(status), content: content}
		if status >= 400 {
			i.problem = concise(s.t, content)
			i.content = nil
			if p := i.problem; p.Title == "" || p.Detail == "" || p.Type != publicURL+"/problems/"+p.Code {
				s.t.Errorf("item %d: problem lacks something: %+v", n, p)
			}
		}
		all = append(all, i)
	}
}

// outcomes are the codes of items, or their statuses where there is no problem.
func outcomes(items []item) []string {
	var all []string
	for _, i := range items {
		if i.problem.Code != "" {
			all = append(all, fmt.Sprint(i.status, " ", i.problem.Code))
		} else {
			all = append(all, strconv.Itoa(i.status))
		}
	}
	return all
}

// registered checks that i is the registration of s.
func (w *world) registered(i item, s *statement.Statement) {
	w.t.Helper()
	if i.status != 201 {
		w.t.Fatalf("item: %d %+v", i.status, i.problem)
	}
	w.verify(i.content, s.ID())
}

// text is a CBOR item that only a registrar of tests takes for a statement.
func text(s string) []byte {
	return append(detcbor.AppendHead(nil, detcbor.KindText, uint64(len(s))), s...)
}

// judging registers everything but what begins with "bad".
func judging() registering {
	return func(_ context.Context, body []byte, _ ledger.Circumstances) (ledger.Registered, error) {
		if bytes.Contains(body, []byte("bad")) {
			return ledger.Registered{}, &policy.Refusal{Code: "rejected", Rule: "tests", Reason: "it is bad"}
		}
		return ledger.Registered{Entry: ledger.Entry{ID: idOf(body), Index: 7}, Receipt: []byte("receipt of " + string(body)), New: true}, nil
	}
}

func TestBatchRequestAndAnswerOnTheWire(t *testing.T) {
	// Two COSE_Sign1-shaped items, of which the second is refused.
	s := open(t, judging())
	a := s.batchBody(strings.NewReader("\x64good\x63bad"))
	if got := a.header.Get("Content-Type"); a.status != 200 || got != "application/cbor-seq" {
		t.Fatalf("%d %s", a.status, got)
	}
	first := "83" + "00" + "18c9" + "50" + hex.EncodeToString([]byte("receipt of \x64good")) // [0, 201, receipt]
	second := "83" + "01" + "190190" + "58"                                                  // [1, 400, problem]
	got := hex.EncodeToString(a.body)
	if !strings.HasPrefix(got, first+second) {
		t.Errorf("answer %s\nwant   %s...", got, first+second)
	}
	items := s.items(a)
	if p := items[1].problem; p.Title != "Rejected" || p.Detail != "it is bad" || p.Rule != "tests" {
		t.Errorf("problem %+v", p)
	}

	a = s.batchBody(strings.NewReader("\x64good\x63bad"), "Accept: application/json")
	want := `{"items":[` +
		`{"n":0,"status":201,"id":"` + idOf([]byte("\x64good")).String() + `","leafIndex":7},` +
		`{"n":1,"status":400,"problem":{"type":"https://scitt.example/problems/rejected","title":"Rejected","status":400,` +
		`"detail":"it is bad","code":"rejected","rule":"tests"}}]}`
	if a.status != 200 || a.header.Get("Content-Type") != "application/json" || strings.TrimSpace(string(a.body)) != want {
		t.Errorf("%d %s\n%s\nwant\n%s", a.status, a.header.Get("Content-Type"), a.body, want)
	}
}

func TestBatchAnswersJSONWhenAsked(t *testing.T) {
	s := open(t, judging())
	for _, c := range []struct {
		accept, want string
	}{
		{"", "application/cbor-seq"},
		{"*/*", "application/cbor-seq"},
		{"application/cbor-seq", "application/cbor-seq"},
		{"application/json", "application/json"},
		{"Application/JSON;q=0.9, text/html", "application/json"},
		{"application/json;q=0.5, application/cbor-seq", "application/cbor-seq"},
		{"application/json, application/cbor-seq;q=0.5", "application/json"},
		{"application/json;q=0", "application/cbor-seq"},
		{"text/html", "application/cbor-seq"},
	} {
		var header []string
		if c.accept != "" {
			header = []string{"Accept: " + c.accept}
		}
		if a := s.batch([][]byte{text("good")}, header...); a.status != 200 || a.header.Get("Content-Type") != c.want {
			t.Errorf("Accept %q: %d %s, want %s", c.accept, a.status, a.header.Get("Content-Type"), c.want)
		}
	}
}

func TestBatchMustBeAnnouncedAsASequence(t *testing.T) {
	s := open(t, judging())
	for _, c := range []struct {
		status int
		header []string
	}{
		{200, []string{"Content-Type: application/cbor-seq"}},
		{200, []string{"Content-Type: Application/CBOR-Seq; note=x"}},
		{415, nil},
		{415, []string{"Content-Type: application/cbor"}},
		{415, []string{"Content-Type: application/cose"}},
		{415, []string{"Content-Type: application/cbor-seq", "Content-Type: application/cbor-seq"}},
		{415, []string{"Content-Type: application/cbor-seq, application/cbor-seq"}},
		{415, []string{"Content-Type: application/cbor-seq", "Content-Encoding: gzip"}},
		{415, []string{"Content-Type: application/cbor-seq", "Content-Encoding: identity"}},
	} {
		a := s.send(request{"POST", batchPath, c.header, bytes.NewReader(text("good"))})
		if a.status != c.status {
			t.Errorf("%q: %d, want %d: %s", c.header, a.status, c.status, a.body)
		}
		if c.status != 415 {
			continue
		}
		a.refused(t, 415, "unsupported-media-type")
		if accept := a.header.Get("Accept"); !slices.Contains(c.header, "Content-Encoding: gzip") &&
			!slices.Contains(c.header, "Content-Encoding: identity") && accept != "application/cbor-seq" {
			t.Errorf("%q: 415 lists %q", c.header, accept)
		}
	}
	s.send(request{method: "GET", path: batchPath}).refused(t, 405, "method-not-allowed")
}

func TestBadItemsHarmNoOthersAndBrokenBodiesEndTheAnswer(t *testing.T) {
	w := newWorld(t)
	claims := w.wabbit.Claims(t, 0, 4)
	good := func(n int) []byte { return claims[n].Canonical() }
	stranger := ledgertest.NewPublisher(t, "https://mallory.example").Claim(t, ledgertest.Image(1), ledgertest.SBOM, []byte("x"))
	forged := bytes.Clone(good(3))
	forged[len(forged)-1] ^= 1
	long := append(detcbor.AppendHead(nil, detcbor.KindBytes, statement.MaxSize), make([]byte, statement.MaxSize)...)
	indefinite := slices.Concat([]byte{0xd2, 0x9f}, good(3)[2:], []byte{0xff})

	const mr, tl = "400 malformed-request", "413 too-large"
	for _, c := range []struct {
		name string
		body [][]byte
		want []string
	}{
		{"half invalid", [][]byte{good(0), stranger.Canonical(), good(1), forged, {0xd2, 0x84, 0, 0, 0, 0}, good(2)},
			[]string{"201", "400 unknown-issuer-key", "201", "400 bad-signature", mr, "201"}},
		{"whole CBOR items that are no statements", [][]byte{{0x00}, good(0), {0xf6}, {0x80}, {0x60}, good(1)}, []string{mr, "201", mr, mr, mr, "201"}},
		{"an untagged statement, and a tag too many", [][]byte{good(0)[1:], append([]byte{0xd9, 0xd9, 0xf7}, good(0)...), good(1)}, []string{mr, mr, "201"}},
		{"a statement of indefinite length", [][]byte{indefinite, good(0)}, []string{mr, "201"}},
		{"an item over the limit", [][]byte{good(0), long, good(1)}, []string{"201", tl, "201"}},
		{"cut in the last item", [][]byte{good(0), good(1)[:100]}, []string{"201", mr}},
		{"cut in the first item", [][]byte{good(0)[:100]}, []string{mr}},
		{"bytes between items that begin none", [][]byte{good(0), {0xff}, good(1)}, []string{"201", mr}},
		{"an item that declares 2^63-1 bytes", [][]byte{good(0), {0xd2, 0x84, 0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, good(1)}, []string{"201", mr}},
		{"text", [][]byte{[]byte("<html>")}, []string{mr}},
		{"newlines between the items", [][]byte{good(0), []byte("\n"), good(1), []byte("\n")}, []string{"201", mr, "201", mr}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := w.batch(c.body, w.publisher)
			items := w.items(a)
			if got := outcomes(items); !slices.Equal(got, c.want) {
				t.Fatalf("answered %v, want %v", got, c.want)
			}
			for n, i := range items {
				if i.status == 201 {
					s, err := statement.Parse(c.body[n])
					if err != nil {
						t.Fatal(err)
					}
					w.registered(i, s)
				}
			}
		})
	}
	p := w.items(w.batch([][]byte{long}, w.publisher))[0].problem
	if p.Detail != "The statement exceeds the limit of 1048576 bytes." || !strings.Contains(p.Hint, "hash envelope") {
		t.Errorf("detail %q, hint %q", p.Detail, p.Hint)
	}
	if got, want := w.size(), uint64(2+3); got != want { // init's two, and claims 0 to 2
		t.Errorf("the tree has %d entries, want %d", got, want)
	}
	p = w.items(w.batch([][]byte{good(0), good(1)[:100]}, w.publisher))[1].problem
	if want := fmt.Sprintf("byte %d: input ends inside the item that begins at byte %d", len(good(0))+100, len(good(0))); !strings.Contains(p.Detail, want) || p.Hint == "" {
		t.Errorf("detail %q, hint %q; want %q", p.Detail, p.Hint, want)
	}
}

func TestBatchWithoutAnItemIsRefused(t *testing.T) {
	s := open(t, judging())
	p := s.batchBody(nil).refused(t, 400, "malformed-request")
	if !strings.Contains(p.Detail, "empty") {
		t.Errorf("detail %q", p.Detail)
	}
	s.batchBody(io.MultiReader()).refused(t, 400, "malformed-request") // chunked
}

func TestBatchTakesAThousandItemsAndNotOneMore(t *testing.T) {
	var got atomic.Int64
	s := open(t, func(_ context.Context, body []byte, _ ledger.Circumstances) (ledger.Registered, error) {
		got.Add(1)
		return ledger.Registered{Entry: ledger.Entry{ID: idOf(body)}, Receipt: []byte("receipt"), New: true}, nil
	})
	many := make([][]byte, maxItems+50)
	for i := range many {
		many[i] = text(strconv.Itoa(i))
	}
	items := s.items(s.batch(many[:maxItems]))
	if len(items) != maxItems || items[maxItems-1].status != 201 || got.Load() != maxItems {
		t.Fatalf("%d items: %d answers, the last %d; %d registered", maxItems, len(items), items[len(items)-1].status, got.Load())
	}
	for _, size := range []int{maxItems + 1, maxItems + 50} {
		got.Store(0)
		a := s.batch(many[:size])
		items := s.items(a)
		last := items[len(items)-1]
		if len(items) != maxItems+1 || last.status != 413 || last.problem.Code != "too-large" || !strings.Contains(last.problem.Detail, "1000 statements") || got.Load() != maxItems {
			t.Errorf("%d items: %d answers, the last %d %q; %d registered", size, len(items), last.status, last.problem.Detail, got.Load())
		}
	}
}

func TestBatchTakesSixteenMebibytesAndNotOneMore(t *testing.T) {
	var got atomic.Int64
	s := open(t, func(_ context.Context, body []byte, _ ledger.Circumstances) (ledger.Registered, error) {
		got.Add(int64(len(body)))
		return ledger.Registered{Entry: ledger.Entry{ID: idOf(body)}, Receipt: []byte("receipt"), New: true}, nil
	})
	const whole = 1 << 20
	item := append(detcbor.AppendHead(nil, detcbor.KindBytes, whole-5), make([]byte, whole-5)...)
	full := bytes.Repeat(item, maxBatch/whole)
	if len(full) != maxBatch {
		t.Fatalf("the batch has %d bytes", len(full))
	}
	for name, body := range map[string]io.Reader{"announced": bytes.NewReader(full), "chunked": io.MultiReader(bytes.NewReader(full))} {
		got.Store(0)
		if items := s.items(s.batchBody(body)); len(items) != 16 || got.Load() != maxBatch {
			t.Errorf("%s: %v, %d bytes registered", name, outcomes(items), got.Load())
		}
	}

	// One more, announced: nothing is read.
	got.Store(0)
	p := s.batchBody(bytes.NewReader(append(full, 0))).refused(t, 413, "too-large")
	if !strings.Contains(p.Detail, strconv.Itoa(maxBatch)) || p.Hint == "" || got.Load() != 0 {
		t.Errorf("detail %q, hint %q, %d bytes registered", p.Detail, p.Hint, got.Load())
	}
	r, rec := httptest.NewRequest("POST", batchPath, unread{t}), httptest.NewRecorder()
	r.Header.Set("Content-Type", "application/cbor-seq")
	r.ContentLength = maxBatch + 1
	s.api.ServeHTTP(rec, r)
	answer{rec.Code, rec.Header(), rec.Body.Bytes()}.refused(t, 413, "too-large")

	// One more, or endlessly more, as it comes: what came before stands.
	for name, more := range map[string]io.Reader{
		"one byte": strings.NewReader("\x00"), "an endless item": io.MultiReader(strings.NewReader("\x5b\x7f\xff\xff\xff\xff\xff\xff\xff"), zeros{}),
	} {
		got.Store(0)
		items := s.items(s.batchBody(io.MultiReader(bytes.NewReader(full), more)))
		if len(items) != 17 || items[15].status != 201 || items[16].problem.Code != "too-large" || got.Load() != maxBatch {
			t.Errorf("%s: %v, %d bytes registered", name, outcomes(items), got.Load())
		}
	}
	items := s.items(s.batchBody(io.MultiReader(strings.NewReader("\x5b\x7f\xff\xff\xff\xff\xff\xff\xff"), zeros{})))
	if got := outcomes(items); !slices.Equal(got, []string{"413 too-large"}) {
		t.Errorf("nothing but an endless item: %v", got)
	}
}

func TestDuplicatesInABatchGetOneEntryAndOneReceipt(t *testing.T) {
	w := newWorld(t)
	public := w.wabbit.Claim(t, ledgertest.Image(1), ledgertest.SBOM, []byte("sbom"))
	private := w.vault.Claim(t, ledgertest.Image(2), ledgertest.SBOM, []byte("secret"))
	certified := w.certified.Claim(t, ledgertest.Image(3), ledgertest.SBOM, []byte("chained"))
	before := w.size()
	kinds := []*statement.Statement{public, private, certified}
	var batch [][]byte
	for range 20 {
		batch = append(batch, public.Canonical(), private.Canonical(), encode(t, w.certified, certified))
	}
	receipts := make([][]byte, len(kinds))
	for range 2 { // the second time all of it is known
		for n, i := range w.items(w.batch(batch, w.publisher)) {
			w.registered(i, kinds[n%3])
			if receipts[n%3] == nil {
				receipts[n%3] = i.content
			}
			if !bytes.Equal(i.content, receipts[n%3]) {
				t.Errorf("item %d: another receipt than its duplicates'", n)
			}
		}
	}
	for n, s := range kinds {
		if a := w.register(batch[n], w.publisher); !bytes.Equal(w.admitted(a, s), receipts[n]) {
			t.Errorf("statement %d alone: another receipt than in the batch", n)
		}
	}
	if w.size() != before+3 {
		t.Errorf("%d entries for 3 statements", w.size()-before)
	}
	// Who may not read does not see what it registered, in a batch or not.
	if a := w.get("/v1/entries/" + private.ID().String()); a.status != 404 {
		t.Errorf("the private entry: %d", a.status)
	}
}

func TestAThousandStatementsAtOnceShareGroupCommits(t *testing.T) {
	w := newWorld(t)
	claims := w.wabbit.Claims(t, 0, maxItems)
	batch := make([][]byte, len(claims))
	for i, s := range claims {
		batch[i] = s.Canonical()
	}
	var got apitype.Batch
	a := w.batch(batch, w.publisher, "Accept: application/json")
	if err := json.Unmarshal(a.body, &got); err != nil || len(got.Items) != maxItems {
		t.Fatalf("%d %v, %d items", a.status, err, len(got.Items))
	}
	seen := map[uint64]bool{}
	for n, i := range got.Items {
		if i.N != n || i.Status != 201 || i.EntryID != claims[n].ID().String() || i.Index == nil || i.Problem != nil {
			t.Fatalf("item %d: %+v", n, i)
		}
		if seen[*i.Index] {
			t.Errorf("item %d: leaf %d was given twice", n, *i.Index)
		}
		seen[*i.Index] = true
	}
	if got, want := w.size(), uint64(2+maxItems); got != want {
		t.Errorf("the tree has %d entries, want %d", got, want)
	}
	heads := 0
	for after := uint64(0); ; heads++ {
		h, err := w.store.HeadFor(context.Background(), after)
		if err != nil {
			break
		}
		after = h.Size
	}
	t.Logf("%d statements in %d commits", maxItems, heads-1)
	if heads > maxItems/4 {
		t.Errorf("%d statements took %d commits", maxItems, heads-1)
	}
	// CheckLog runs at the end of every world.
}

func TestItemsOfABatchAreRegisteredInParallel(t *testing.T) {
	const together = 100
	var inside sync.WaitGroup
	inside.Add(together)
	s := open(t, func(_ context.Context, body []byte, _ ledger.Circumstances) (ledger.Registered, error) {
		inside.Done()
		inside.Wait() // each waits for all
		return ledger.Registered{Entry: ledger.Entry{ID: idOf(body)}, Receipt: body, New: true}, nil
	})
	var batch [][]byte
	for i := range together {
		batch = append(batch, text(strconv.Itoa(i)))
	}
	for n, i := range s.items(s.batch(batch)) {
		if i.status != 201 || !bytes.Equal(i.content, batch[n]) {
			t.Errorf("item %d: %d %q", n, i.status, i.content)
		}
	}
}

func TestItemsAreRegisteredWhileTheRestIsStillToCome(t *testing.T) {
	done := make(chan struct{})
	s := open(t, func(_ context.Context, body []byte, _ ledger.Circumstances) (ledger.Registered, error) {
		if bytes.Contains(body, []byte("first")) {
			close(done)
		}
		return ledger.Registered{Entry: ledger.Entry{ID: idOf(body)}, Receipt: body, New: true}, nil
	})
	r, w := io.Pipe()
	go func() {
		w.Write(text("first"))
		<-done // it is registered before its successor is sent
		w.Write(text("second"))
		w.Close()
	}()
	if got := outcomes(s.items(s.batchBody(r))); !slices.Equal(got, []string{"201", "201"}) {
		t.Error(got)
	}
}

func TestBatchItemsBeyondTheRoomWaitForIt(t *testing.T) {
	// Statements of 1 MiB: 32 of them have room, whoever sends them.
	const whole = 1 << 20
	item := append(detcbor.AppendHead(nil, detcbor.KindBytes, whole-5), make([]byte, whole-5)...)
	const room = 32
	var inside, arrived atomic.Int64
	full := make(chan struct{})
	s := open(t, func(_ context.Context, body []byte, _ ledger.Circumstances) (ledger.Registered, error) {
		if now := inside.Add(1); now > room {
			t.Errorf("%d MiB of statements are under way at once, want at most %d", now, room)
		}
		defer inside.Add(-1)
		if arrived.Add(1) == room {
			close(full)
		}
		<-full // nobody leaves before the room was full once
		return ledger.Registered{Entry: ledger.Entry{ID: idOf(body)}, Receipt: []byte("receipt"), New: true}, nil
	})
	var senders sync.WaitGroup
	for range 6 {
		senders.Go(func() {
			a := s.batchBody(bytes.NewReader(bytes.Repeat(item, 16)))
			for a.status == 503 { // too many wait for room already
				a = s.batchBody(bytes.NewReader(bytes.Repeat(item, 16)))
			}
			if got := s.items(a); len(got) != 16 || got[15].status != 201 {
				t.Errorf("%v", outcomes(got))
			}
		})
	}
	senders.Wait()
}

func TestBatchesLeaveHalfOfTheServiceToOthers(t *testing.T) {
	inside, leave := make(chan struct{}, 2), make(chan struct{})
	s := serve(t, api.Config{
		Ledger: &fixedLedger{receipt: []byte("r")}, OpenWrites: true, Limits: api.Limits{InFlight: 4},
		Registrar: registering(func(context.Context, []byte, ledger.Circumstances) (ledger.Registered, error) {
			inside <- struct{}{}
			<-leave
			return ledger.Registered{}, nil
		}),
	})
	var waiting sync.WaitGroup
	for i := range 2 {
		waiting.Go(func() { s.items(s.batch([][]byte{text(strconv.Itoa(i))})) })
	}
	<-inside
	<-inside
	begin := time.Now()
	a := s.batch([][]byte{text("third")})
	a.refused(t, 503, "overloaded")
	if took := time.Since(begin); a.header.Get("Retry-After") == "" || took > time.Second {
		t.Errorf("a third batch: Retry-After %q after %s", a.header.Get("Retry-After"), took)
	}
	if a := s.get(somePath); a.status != 200 {
		t.Errorf("a read beside two batches: %d", a.status)
	}
	close(leave)
	waiting.Wait()
}

// Two batches fill the room, and a third waits for it: the fourth is told so at
// once, and is let in when they are through.
func TestABatchIsTurnedAwayWhileACrowdWaitsForRoom(t *testing.T) {
	const whole = 1 << 20
	item := append(detcbor.AppendHead(nil, detcbor.KindBytes, whole-5), make([]byte, whole-5)...)
	leave := make(chan struct{})
	s := open(t, func(_ context.Context, body []byte, _ ledger.Circumstances) (ledger.Registered, error) {
		<-leave
		return ledger.Registered{Entry: ledger.Entry{ID: idOf(body)}, Receipt: []byte("receipt"), New: true}, nil
	})
	var senders sync.WaitGroup
	for range 3 {
		senders.Go(func() {
			if got := s.items(s.batchBody(bytes.NewReader(bytes.Repeat(item, 16)))); len(got) != 16 || got[15].status != 201 {
				t.Errorf("a batch that was let in: %v", outcomes(got))
			}
		})
	}
	for api.Crowd(s.api) == 0 {
		runtime.Gosched()
	}
	a := s.batch([][]byte{text("late")})
	a.refused(t, 503, "overloaded")
	if a.header.Get("Retry-After") == "" {
		t.Error("503 without Retry-After")
	}
	close(leave)
	senders.Wait()
	if a := s.batch([][]byte{text("late")}); a.status != 200 {
		t.Errorf("once there is room: %d", a.status)
	}
}

func TestEachItemOfABatchCountsAgainstItsCallersRate(t *testing.T) {
	w, store := newWatch(), &tokenStore{}
	publisher := store.add(w, "p", "publish")
	s := serve(t, api.Config{
		Ledger: &fixedLedger{receipt: []byte("r")}, Registrar: judging(), Tokens: store, Clock: w.now,
		Limits: api.Limits{AddressRate: 1000, AddressBurst: 1000, CallerRate: 50, CallerBurst: 200},
	})
	one := func() answer { return s.register(text("good"), bearer(publisher)) }
	if a := one(); a.status != 201 { // makes the token known
		t.Fatal(a.status)
	}
	w.pass(time.Minute)
	var batch [][]byte
	for i := range 500 {
		batch = append(batch, text(fmt.Sprint([]string{"good", "bad"}[i%2], i)))
	}
	// It is not broken off, but what is over the burst is owed: 300 at 50/s,
	// and one for whoever comes next.
	items := s.items(s.batch(batch, bearer(publisher)))
	if len(items) != 500 || items[498].status != 201 || items[499].status != 400 {
		t.Fatalf("%d items, at the end %v", len(items), outcomes(items[498:]))
	}
	for _, c := range []struct {
		pass   time.Duration
		status int
		after  string
	}{{0, 429, "7"}, {5 * time.Second, 429, "2"}, {1100 * time.Millisecond, 201, ""}} {
		w.pass(c.pass)
		if a := one(); a.status != c.status || a.header.Get("Retry-After") != c.after {
			t.Errorf("%s later: %d, Retry-After %q, want %d, %q", c.pass, a.status, a.header.Get("Retry-After"), c.status, c.after)
		}
	}
}

func TestItemsWhoseOutcomeIsNotKnownInTimeArePending(t *testing.T) {
	publisher := ledgertest.NewPublisher(t, "https://a.example")
	quick, slow := publisher.Claim(t, ledgertest.Image(1), ledgertest.SBOM, []byte("1")), publisher.Claim(t, ledgertest.Image(2), ledgertest.SBOM, []byte("2"))
	s := serve(t, api.Config{
		Ledger: &fixedLedger{}, OpenWrites: true, RegisterWait: 20 * time.Millisecond,
		Registrar: registering(func(ctx context.Context, body []byte, _ ledger.Circumstances) (ledger.Registered, error) {
			if bytes.Equal(body, slow.Canonical()) {
				<-ctx.Done()
				return ledger.Registered{}, fmt.Errorf("append: %w", ctx.Err())
			}
			return ledger.Registered{Entry: ledger.Entry{ID: quick.ID(), Index: 3}, Receipt: []byte("receipt"), New: true}, nil
		}),
	})
	batch := [][]byte{slow.Canonical(), quick.Canonical()}
	a := s.batch(batch)
	items := s.items(a)
	if items[0].status != 202 || len(items[0].content) != 0 || items[1].status != 201 || a.header.Get("Retry-After") != "1" {
		t.Errorf("%v, Retry-After %q", outcomes(items), a.header.Get("Retry-After"))
	}
	a = s.batch(batch, "Accept: application/json")
	if want := `{"n":0,"status":202,"id":"` + slow.ID().String() + `"},`; !strings.Contains(string(a.body), want) {
		t.Errorf("%s\nwant %s", a.body, want)
	}
}

func TestFailuresOfOursInABatchStayInsideAndSayWhenToRetry(t *testing.T) {
	var log lines
	s := serve(t, api.Config{
		Ledger: &fixedLedger{}, OpenWrites: true, Log: log.logger(),
		Registrar: registering(func(_ context.Context, body []byte, _ ledger.Circumstances) (ledger.Registered, error) {
			switch {
			case bytes.Contains(body, []byte("panic")):
				panic("the wrong lever")
			case bytes.Contains(body, []byte("busy")):
				return ledger.Registered{}, fmt.Errorf("append: %w", ledger.ErrOverloaded)
			case bytes.Contains(body, []byte("clock")):
				return ledger.Registered{}, fmt.Errorf("append: %w", ledger.ErrClock)
			case bytes.Contains(body, []byte("fire")):
				return ledger.Registered{}, errors.New("disk on fire")
			}
			return ledger.Registered{Entry: ledger.Entry{ID: idOf(body)}, Receipt: []byte("receipt"), New: true}, nil
		}),
	})
	a := s.batch([][]byte{text("good"), text("panic"), text("busy"), text("fire"), text("clock"), text("good too")})
	items := s.items(a)
	want := []string{"201", "500 internal", "503 overloaded", "500 internal", "503 clock-untrusted", "201"}
	if got := outcomes(items); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := a.header.Get("Retry-After"); got != "60" { // the longest
		t.Errorf("Retry-After %q", got)
	}
	if body := string(a.body); strings.Contains(body, "lever") || strings.Contains(body, "disk") {
		t.Errorf("an internal error shows: %q", body)
	}
	if items[2].problem.TraceID != "" {
		t.Error("no room is a failure")
	}
	for _, n := range []int{1, 3, 4} {
		if id := items[n].problem.TraceID; id == "" || !strings.Contains(log.String(), "trace="+id) {
			t.Errorf("item %d: trace %q does not lead to the log", n, id)
		}
	}
	if !strings.Contains(log.String(), "lever") || !strings.Contains(log.String(), "disk on fire") {
		t.Errorf("the log does not say what happened:\n%s", log.String())
	}
}

func TestBatchThatStopsComingIsAnsweredAsFarAsItCame(t *testing.T) {
	s := open(t, judging())
	r := httptest.NewRequest("POST", batchPath, stuck{bytes.NewReader(append(text("good"), "\x69half"...))})
	r.Header.Set("Content-Type", "application/cbor-seq")
	w := &timed{ResponseRecorder: httptest.NewRecorder()}
	s.api.ServeHTTP(w, r)
	if got := outcomes(s.items(answer{w.Code, w.Header(), w.Body.Bytes()})); !slices.Equal(got, []string{"201", "408 request-timeout"}) {
		t.Error(got)
	}
	if w.Header().Get("Connection") != "close" {
		t.Error("the connection stays open for the rest")
	}
	// Reading and writing are timed anew when the body has ended, so that the
	// time it took is nobody's loss.
	if w.writes[len(w.writes)-1] != 90*time.Second || w.reads[len(w.reads)-1] != 60*time.Second {
		t.Errorf("reads within %v, writes within %v", w.reads, w.writes)
	}
}

func TestABatchEndsWhenItsClientLeaves(t *testing.T) {
	gone, leave := context.WithCancel(t.Context())
	var log lines
	a := api.New(api.Config{
		Ledger: &fixedLedger{}, OpenWrites: true, Log: log.logger(), PublicURL: publicURL,
		Registrar: registering(func(ctx context.Context, body []byte, _ ledger.Circumstances) (ledger.Registered, error) {
			leave()
			<-ctx.Done()
			return ledger.Registered{}, ctx.Err()
		}),
	})
	r := httptest.NewRequest("POST", batchPath, bytes.NewReader(bytes.Join([][]byte{text("one"), text("two")}, nil))).WithContext(gone)
	r.Header.Set("Content-Type", "application/cbor-seq")
	rec := httptest.NewRecorder()
	a.ServeHTTP(rec, r)
	answer{rec.Code, rec.Header(), rec.Body.Bytes()}.refused(t, http.StatusRequestTimeout, "request-timeout")
	if strings.Contains(log.String(), "trace=") {
		t.Errorf("a client who left is logged as a failure: %s", log.String())
	}
}

func TestTheRegistryExtensionHasNoBatch(t *testing.T) {
	mount := serveExtension(t, open(t, judging()).api)
	for _, path := range []string{"entries/batch", "entries:batch", "entries/register:batch"} {
		a := mount.send(request{"POST", "/v2/wabbit/app/_scitt/" + path, []string{"Content-Type: application/cbor-seq"}, bytes.NewReader(text("good"))})
		a.refused(t, 404, "not-found")
	}
}
